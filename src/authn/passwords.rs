//! Checking passwords: a few at a time, each right one once.
//!
//! What is kept of a right password is an HMAC of name, stored hash and password under a key of this process, so a
//! changed password forgets itself.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use secrecy::SecretString;
use tokio::sync::Semaphore;

use super::Error;
use crate::config;
use crate::crypto::{PasswordHash, random_password};

/// The bounded pool of password hashing.
#[derive(Debug)]
pub(super) struct Passwords {
    running: Arc<Semaphore>,
    /// Those that run and those that wait.
    admitted: Arc<Semaphore>,
    verified: moka::sync::Cache<[u8; 32], ()>,
    under_way: moka::future::Cache<[u8; 32], bool>,
    decoy: Arc<OnceLock<PasswordHash>>,
}

impl Passwords {
    pub(super) fn new(config: &config::Authn) -> Self {
        Self {
            running: Arc::new(Semaphore::new(config.hash_concurrency)),
            admitted: Arc::new(Semaphore::new(config.hash_concurrency + config.hash_queue)),
            verified: moka::sync::Cache::builder().max_capacity(config.cache_entries).time_to_idle(KEPT).build(),
            under_way: moka::future::Cache::builder().max_capacity(config.cache_entries).time_to_live(SHARED).build(),
            decoy: Arc::default(),
        }
    }

    /// Whether this very password was right for this very stored hash lately.
    pub(super) fn is_verified(&self, key: &[u8; 32]) -> bool {
        self.verified.get(key).is_some()
    }

    /// Checks a password; several requests with one password check it once. Without a stored hash a decoy is checked.
    ///
    /// # Errors
    /// [`Error::Busy`]
    pub(super) async fn verify(
        &self,
        key: [u8; 32],
        stored: Option<PasswordHash>,
        password: SecretString,
    ) -> Result<bool, Error> {
        let known = stored.is_some();
        let decoy = Arc::clone(&self.decoy);
        let check = self.blocking(move || {
            let hash = stored.unwrap_or_else(|| decoy.get_or_init(|| PasswordHash::make(&random_password())).clone());
            hash.matches(&password)
        });
        let matches = self.under_way.try_get_with(key, check).await.map_err(|_| Error::Busy)? && known;
        if matches {
            self.verified.insert(key, ());
        }
        Ok(matches)
    }

    #[cfg(test)]
    pub(super) fn has_decoy(&self) -> bool {
        self.decoy.get().is_some()
    }

    /// Hashes a new password.
    ///
    /// # Errors
    /// [`Error::Busy`]
    pub(super) async fn hash(&self, password: SecretString) -> Result<PasswordHash, Error> {
        self.blocking(move || PasswordHash::make(&password)).await.map_err(|Full| Error::Busy)
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Full> {
        let admitted = Arc::clone(&self.admitted).try_acquire_owned().map_err(|_| Full)?;
        let running = Arc::clone(&self.running).acquire_owned().await.map_err(|_| Full)?;
        let work = tokio::task::spawn_blocking(move || {
            // Held by the work itself: a client that leaves does not free its place early.
            let _places = (admitted, running);
            work()
        });
        work.await.map_err(|_| Full)
    }
}

/// No place in the queue.
#[derive(Clone, Copy, Debug)]
struct Full;

/// A right password is remembered this long after its last use.
const KEPT: Duration = Duration::from_secs(3600);
/// An answer is shared with those who asked at the same time; wrong ones are asked anew after that.
const SHARED: Duration = Duration::from_secs(1);
