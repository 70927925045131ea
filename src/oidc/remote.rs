//! One identity provider: its metadata and its keys, refreshed in the background.
//!
//! Only [`Remote::keep_fresh`] sends requests. All other code reads the last valid answers, which remain in use however
//! long the provider is unavailable. An unknown key triggers an early refresh at most once per [`Timing::cool_down`].

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use secrecy::SecretString;
use tokio::sync::{Notify, Semaphore, watch};

use super::client::{self, Client};
use super::discovery::{Metadata, MetadataError};
use super::keys::{Keys, KeysError};
use super::token::{Refusal, Unverified};
use crate::clock::Stopwatch;
use crate::config::{self, Egress, Endpoint, Proxy};

/// Reason for which metadata or keys were not refreshed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Client(#[from] client::Error),
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    #[error(transparent)]
    Keys(#[from] KeysError),
    #[error("its description names no `jwks_uri`")]
    NoKeySet,
    #[error("bearer_file cannot be read: {0}")]
    Bearer(#[source] std::io::Error),
}

impl Error {
    /// Returns a word from a bounded set, for logs and metrics.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Client(error) => error.kind(),
            Self::Metadata(_) | Self::Keys(_) | Self::NoKeySet => "not_understood",
            Self::Bearer(_) => "bearer_file",
        }
    }
}

/// The document that was requested.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum What {
    Metadata,
    Keys,
}

impl What {
    /// Returns a word from a bounded set, for logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Metadata => "metadata",
            Self::Keys => "keys",
        }
    }
}

/// Intervals of requests to a provider, and time limits of waiting for it.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Time between two refreshes if there is no failure.
    pub every: Duration,
    /// Time until the next attempt after a failure. Doubled with each further failure, up to `cool_down`.
    pub retry: Duration,
    /// Time after a refresh for an unknown key in which no other unknown key triggers one.
    pub cool_down: Duration,
    /// Maximum time that a request with an unknown key waits for the refresh.
    pub patience: Duration,
    /// Maximum duration of one call.
    pub call: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            every: Duration::from_mins(5),
            retry: Duration::from_secs(1),
            cool_down: Duration::from_secs(30),
            patience: Duration::from_secs(2),
            call: client::PATIENCE,
        }
    }
}

/// Maximum number of requests that wait at the same time for unknown keys.
const MAX_WAITING: usize = 256;
/// Time limit of a probe. Short, because the next probe shows sooner that a provider has recovered.
const PROBE: Duration = Duration::from_secs(5);
/// Maximum size of the bearer file. A bearer token must fit into a request head.
const MAX_BEARER_BYTES: u64 = 16 * 1024;

/// An identity provider, or an issuer of bearer tokens.
#[derive(Debug)]
pub struct Remote {
    endpoint: Endpoint,
    client: Client,
    timing: Timing,
    metadata: ArcSwapOption<Metadata>,
    keys: ArcSwapOption<Keys>,
    /// Time since this value was created.
    since: Stopwatch,
    /// Time since the keys were last fetched.
    fresh: Mutex<Option<Stopwatch>>,
    /// Time since a request last asked for a refresh, and the round that answers it.
    asked: Mutex<Option<(Stopwatch, u64)>>,
    /// Wakes [`Remote::keep_fresh`].
    wanted: Notify,
    /// Number of rounds that were begun.
    begun: AtomicU64,
    /// Number of the last round that ended.
    ended: watch::Sender<u64>,
    waiting: Semaphore,
    /// True if the last round failed. Used to log this once, not in every round.
    failing: AtomicBool,
}

impl Remote {
    /// Creates a provider without metadata and keys, which [`Remote::keep_fresh`] fetches.
    ///
    /// # Errors
    /// Returns an error if one of the endpoint's certificates is invalid.
    pub fn new(endpoint: &Endpoint, egress: &Egress) -> std::io::Result<Arc<Self>> {
        Self::with_timing(endpoint, egress, Timing::default())
    }

    /// Creates a provider like [`Remote::new`], with other intervals.
    ///
    /// # Errors
    /// Returns an error if one of the endpoint's certificates is invalid.
    pub fn with_timing(endpoint: &Endpoint, egress: &Egress, timing: Timing) -> std::io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            client: Client::new(endpoint, egress)?,
            endpoint: endpoint.clone(),
            timing,
            metadata: ArcSwapOption::empty(),
            keys: ArcSwapOption::empty(),
            since: Stopwatch::start(),
            fresh: Mutex::default(),
            asked: Mutex::default(),
            wanted: Notify::new(),
            begun: AtomicU64::new(0),
            ended: watch::Sender::new(0),
            waiting: Semaphore::new(MAX_WAITING),
            failing: AtomicBool::new(false),
        }))
    }

    /// Returns the configured endpoint.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Returns the client that trusts the endpoint's certificates, for calls on behalf of a waiting request.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Returns the outbound proxy that leads to the provider.
    #[must_use]
    pub fn proxy(&self) -> Option<&Proxy> {
        self.client.proxy_for(&self.endpoint.called_at().as_str().parse().ok()?)
    }

    /// Returns the last valid metadata. Never waits.
    #[must_use]
    pub fn metadata(&self) -> Option<Arc<Metadata>> {
        self.metadata.load_full()
    }

    /// Returns the last valid keys. Never waits.
    #[must_use]
    pub fn keys(&self) -> Option<Arc<Keys>> {
        self.keys.load_full()
    }

    /// Returns the age of the keys.
    #[must_use]
    pub fn keys_age(&self) -> Option<Duration> {
        let fresh = *self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        fresh.map(Stopwatch::elapsed)
    }

    /// Returns the keys, which include one that may have signed this token.
    ///
    /// If no key fits, the provider may have new ones: a refresh is triggered, and the caller waits briefly. No further
    /// refresh is triggered until [`Timing::cool_down`] has passed. Tokens with invented keys therefore cost at most
    /// one refresh in that time, regardless of their number, and tokens with known keys are not delayed.
    ///
    /// # Errors
    /// [`Refusal::Algorithm`] if the algorithm is not configured, [`Refusal::NoKeys`] if no keys have ever been
    /// fetched, [`Refusal::UnknownKey`] if none fits.
    pub async fn keys_for(&self, token: &Unverified<'_>) -> Result<Arc<Keys>, Refusal> {
        // No key could make this token valid, so it must not trigger a refresh.
        if !self.endpoint.algorithms.contains(&token.algorithm()) {
            return Err(Refusal::Algorithm);
        }
        let fitting = |keys: &Arc<Keys>| keys.fitting(token.kid(), token.algorithm()).next().is_some();
        if let Some(keys) = self.keys().filter(fitting) {
            return Ok(keys);
        }
        self.ask().await;
        let keys = self.keys().ok_or(Refusal::NoKeys)?;
        if fitting(&keys) { Ok(keys) } else { Err(Refusal::UnknownKey) }
    }

    /// Returns the metadata. If there is none yet, triggers a refresh like an unknown key does, and waits briefly.
    pub async fn description(&self) -> Option<Arc<Metadata>> {
        if let Some(metadata) = self.metadata() {
            return Some(metadata);
        }
        self.ask().await;
        self.metadata()
    }

    /// Triggers a refresh unless one was triggered within the cool-down, and waits for it at most [`Timing::patience`].
    async fn ask(&self) {
        let (since, round) = self.round_to_wait_for();
        // The patience counts from the first waiting request, so later ones wait for the rest of it, or not at all.
        let left = self.timing.patience.saturating_sub(since.elapsed());
        let Ok(_permit) = self.waiting.try_acquire() else { return };
        let mut ended = self.ended.subscribe();
        let _ = tokio::time::timeout(left, ended.wait_for(|ended| *ended >= round)).await;
    }

    /// Returns the round to wait for, and the time since it was requested.
    fn round_to_wait_for(&self) -> (Stopwatch, u64) {
        // The first round starts on its own. Waiting for it must not begin a cool-down, during which a newly rotated
        // key could not trigger a refresh.
        if *self.ended.borrow() == 0 {
            return (self.since, 1);
        }
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let under_way = asked.filter(|(since, _)| since.elapsed() < self.timing.cool_down);
        *asked.insert(under_way.unwrap_or_else(|| {
            // The next round, not one in progress, which may have read the keys before the new one was published.
            let next = self.begun.load(Ordering::Acquire) + 1;
            self.wanted.notify_one();
            (Stopwatch::start(), next)
        }))
    }

    /// Refreshes the provider's metadata and keys forever. Run once, by `app`. `on_result` is called after every request.
    pub async fn keep_fresh(&self, on_result: impl Fn(What, Result<(), &Error>)) {
        let mut pause = self.timing.retry;
        loop {
            let round = self.begun.fetch_add(1, Ordering::AcqRel) + 1;
            let outcome = self.refresh(&on_result).await;
            self.ended.send_replace(round);
            self.say(outcome.as_ref().err());
            let wait = match outcome {
                Ok(()) => {
                    pause = self.timing.retry;
                    self.timing.every
                }
                Err(_) => {
                    let wait = pause;
                    pause = pause.saturating_mul(2).min(self.timing.cool_down);
                    wait
                }
            };
            let _ = tokio::time::timeout(wait, self.wanted.notified()).await;
        }
    }

    /// Requests metadata and keys once. If a request fails, the previous value is kept.
    ///
    /// # Errors
    /// The first failure.
    pub async fn refresh(&self, on_result: &impl Fn(What, Result<(), &Error>)) -> Result<(), Error> {
        let described = match &self.endpoint.jwks_url {
            // With a configured `jwks_url`, only the keys are needed.
            Some(_) => Ok(()),
            None => {
                let described = self.describe(self.timing.call).await;
                on_result(What::Metadata, described.as_ref().copied());
                described
            }
        };
        let url = self.endpoint.jwks_url.clone();
        let url = url.or_else(|| self.metadata().and_then(|metadata| metadata.jwks.clone()));
        let Some(url) = url else {
            return described.and(Err(Error::NoKeySet));
        };
        let fetched = self.fetch_keys(&url).await;
        on_result(What::Keys, fetched.as_ref().copied());
        fetched.and(described)
    }

    /// Requests the metadata once, to find out if the provider answers.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn probe(&self) -> Result<(), Error> {
        self.describe(PROBE).await
    }

    async fn describe(&self, patience: Duration) -> Result<(), Error> {
        let url = self.endpoint.description_url();
        let json = self.client.get(&url, "application/json", self.bearer().await?.as_ref(), patience).await?;
        self.metadata.store(Some(Arc::new(Metadata::parse(&json, &self.endpoint)?)));
        Ok(())
    }

    async fn fetch_keys(&self, url: &url::Url) -> Result<(), Error> {
        let accept = "application/jwk-set+json, application/json";
        let json = self.client.get(url, accept, self.bearer().await?.as_ref(), self.timing.call).await?;
        let keys = Keys::parse(&json, &self.endpoint.algorithms)?;
        if self.keys.swap(Some(Arc::new(keys))).is_none() {
            // Earlier requests waited for the first keys, not for a rotated one. The cool-down must not delay a rotated
            // one.
            *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        *self.fresh.lock().unwrap_or_else(PoisonError::into_inner) = Some(Stopwatch::start());
        Ok(())
    }

    /// Reads the bearer token from its file before each request, because Kubernetes replaces it every hour.
    async fn bearer(&self) -> Result<Option<SecretString>, Error> {
        let Some(path) = &self.endpoint.bearer_file else { return Ok(None) };
        let text = config::read_regular_aside(path.clone(), MAX_BEARER_BYTES).await.map_err(Error::Bearer)?;
        Ok(Some(text.trim().into()))
    }

    fn say(&self, error: Option<&Error>) {
        let issuer = &self.endpoint.issuer;
        let failed_before = self.failing.swap(error.is_some(), Ordering::Relaxed);
        match error {
            Some(error) if !failed_before => {
                tracing::warn!(%issuer, %error, "the identity provider {issuer} cannot be used as it should: {error}");
            }
            None if failed_before => tracing::info!(%issuer, "the identity provider {issuer} answers again"),
            Some(_) | None => {}
        }
    }
}

#[cfg(test)]
mod tests;
