//! Limits on guessing: failures per address and per account, in a window that starts with the first.
//!
//! A place is taken before the check and given back when it was no failure, so parallel guesses cannot slip through.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use moka::sync::Cache;

use super::Error;
use crate::clock::{Clock, Timestamp};
use crate::config;

/// Counts failures.
#[derive(Debug)]
pub(super) struct Guesses {
    addresses: Cache<IpAddr, Arc<Window>>,
    accounts: Cache<String, Arc<Window>>,
    per_address: u32,
    per_account: u32,
    window: Duration,
    clock: Clock,
}

#[derive(Debug)]
struct Window {
    since: Timestamp,
    failures: AtomicU32,
}

/// One attempt that is under way. Dropped without [`Attempt::failed`]: it was none.
#[derive(Debug)]
#[must_use]
pub(super) struct Attempt {
    window: Arc<Window>,
    counts: bool,
}

/// Addresses and accounts remembered at most; beyond that the least used are forgotten.
const ENTRIES: u64 = 100_000;

impl Guesses {
    pub(super) fn new(config: &config::Authn, clock: Clock) -> Self {
        // Entries live a little longer than the window, so that our clock decides and not the cache's.
        let keep = config.guess_window.saturating_mul(2);
        Self {
            addresses: Cache::builder().max_capacity(ENTRIES).time_to_live(keep).build(),
            accounts: Cache::builder().max_capacity(ENTRIES).time_to_live(keep).build(),
            per_address: config.guesses_per_address,
            per_account: config.guesses_per_account,
            window: config.guess_window,
            clock,
        }
    }

    /// Takes a place for an attempt from an address; an IPv6 network of /64 is one.
    ///
    /// # Errors
    /// [`Error::TooManyAttempts`]
    pub(super) fn begin(&self, address: IpAddr) -> Result<Attempt, Error> {
        let address = match address.to_canonical() {
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
            v4 @ IpAddr::V4(_) => v4,
        };
        self.take(&self.addresses, address, self.per_address)
    }

    /// Takes a place for a password of an account, whether it exists or not.
    ///
    /// # Errors
    /// [`Error::TooManyAttempts`]
    pub(super) fn begin_account(&self, name: &str) -> Result<Attempt, Error> {
        self.take(&self.accounts, name.to_owned(), self.per_account)
    }

    fn take<K>(&self, windows: &Cache<K, Arc<Window>>, key: K, limit: u32) -> Result<Attempt, Error>
    where
        K: Clone + Eq + std::hash::Hash + Send + Sync + 'static,
    {
        let now = self.clock.now();
        let fresh = || Arc::new(Window { since: now, failures: AtomicU32::new(0) });
        let mut window = windows.get_with(key.clone(), fresh);
        if now.since(window.since) >= self.window {
            window = fresh();
            windows.insert(key, Arc::clone(&window));
        }
        let taken = window.failures.fetch_add(1, Ordering::SeqCst);
        let attempt = Attempt { window, counts: false };
        if taken < limit {
            return Ok(attempt);
        }
        Err(Error::TooManyAttempts { retry_after: self.window.saturating_sub(now.since(attempt.window.since)) })
    }
}

impl Attempt {
    /// It was a wrong guess: the place stays taken.
    pub(super) fn failed(mut self) {
        self.counts = true;
    }

    /// It was right: whoever knows the password may mistype it again.
    pub(super) fn succeeded(mut self) {
        self.counts = true;
        self.window.failures.store(0, Ordering::SeqCst);
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if !self.counts {
            let give_back = |taken: u32| Some(taken.saturating_sub(1));
            let _ = self.window.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, give_back);
        }
    }
}
