//! One provider that we talk to: its description and its keys, kept fresh in the background.
//!
//! [`Remote::keep_fresh`] is the only one that asks. Everybody else reads what was good last, which stays good however long the
//! provider is away, and at most one request in [`Timing::cool_down`] makes it ask sooner: a key that nobody knows.

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

/// Why a description or keys are not new.
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
    /// A bounded word for logs and metrics.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Client(error) => error.kind(),
            Self::Metadata(_) | Self::Keys(_) | Self::NoKeySet => "not_understood",
            Self::Bearer(_) => "bearer_file",
        }
    }
}

/// What was asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum What {
    Metadata,
    Keys,
}

impl What {
    /// A bounded word for logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Metadata => "metadata",
            Self::Keys => "keys",
        }
    }
}

/// How often a provider is asked, and how long anybody waits for it.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Between two looks when all is well.
    pub every: Duration,
    /// After a failure, doubled with each further one up to `cool_down`.
    pub retry: Duration,
    /// After an unknown key made us ask, how long no other does.
    pub cool_down: Duration,
    /// How long a request with an unknown key waits for the answer.
    pub patience: Duration,
    /// How long one call may take.
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

/// How many requests wait at a time for keys that nobody knows yet.
const MAX_WAITING: usize = 256;
/// How long a probe waits for its answer: short, because the next one tells more about a provider that has come back.
const PROBE: Duration = Duration::from_secs(5);
/// A bearer token fits into a request head.
const MAX_BEARER_BYTES: u64 = 16 * 1024;

/// A provider or issuer.
#[derive(Debug)]
pub struct Remote {
    endpoint: Endpoint,
    client: Client,
    timing: Timing,
    metadata: ArcSwapOption<Metadata>,
    keys: ArcSwapOption<Keys>,
    /// Since it is known.
    since: Stopwatch,
    /// Since the keys came.
    fresh: Mutex<Option<Stopwatch>>,
    /// Since somebody made us ask, and the round that answers.
    asked: Mutex<Option<(Stopwatch, u64)>>,
    /// Wakes [`Remote::keep_fresh`].
    wanted: Notify,
    /// Rounds of asking that were begun.
    begun: AtomicU64,
    /// The last of them that ended.
    ended: watch::Sender<u64>,
    waiting: Semaphore,
    /// Whether the last round failed: said once, not every round.
    failing: AtomicBool,
}

impl Remote {
    /// A provider of which nothing is known yet; [`Remote::keep_fresh`] finds out.
    ///
    /// # Errors
    /// One of the endpoint's certificates is none.
    pub fn new(endpoint: &Endpoint, egress: &Egress) -> std::io::Result<Arc<Self>> {
        Self::with_timing(endpoint, egress, Timing::default())
    }

    /// As [`Remote::new`], in other steps.
    ///
    /// # Errors
    /// As [`Remote::new`].
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

    /// Where it is.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The client that trusts its certificates, for calls that somebody waits for.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The proxy on the way out that leads to it.
    #[must_use]
    pub fn proxy(&self) -> Option<&Proxy> {
        self.client.proxy_for(&self.endpoint.called_at().as_str().parse().ok()?)
    }

    /// Its description as it was good last; never waits.
    #[must_use]
    pub fn metadata(&self) -> Option<Arc<Metadata>> {
        self.metadata.load_full()
    }

    /// Its keys as they were good last; never waits.
    #[must_use]
    pub fn keys(&self) -> Option<Arc<Keys>> {
        self.keys.load_full()
    }

    /// How old its keys are.
    #[must_use]
    pub fn keys_age(&self) -> Option<Duration> {
        let fresh = *self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        fresh.map(Stopwatch::elapsed)
    }

    /// The keys among which the one that signed this token may be.
    ///
    /// When none fits, the provider may have new ones: it is asked, and the caller waits a moment. Until
    /// [`Timing::cool_down`] is over nobody else makes it ask; so however many tokens with made-up keys come, they cost one
    /// call, and whoever comes with a known key does not notice.
    ///
    /// # Errors
    /// [`Refusal::NoKeys`] when there were never any, [`Refusal::UnknownKey`] when none fits.
    pub async fn keys_for(&self, token: &Unverified<'_>) -> Result<Arc<Keys>, Refusal> {
        // Not for what no key could make good.
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

    /// Its description; when there was never one, it is asked for as an unknown key would, and the caller waits a moment.
    pub async fn description(&self) -> Option<Arc<Metadata>> {
        if let Some(metadata) = self.metadata() {
            return Some(metadata);
        }
        self.ask().await;
        self.metadata()
    }

    /// Makes sure that the provider is asked, unless it was lately, and waits for the answer as long as anybody may.
    async fn ask(&self) {
        let (since, round) = self.round_to_wait_for();
        // Whoever comes when the first has waited long enough does not wait at all.
        let left = self.timing.patience.saturating_sub(since.elapsed());
        let Ok(_permit) = self.waiting.try_acquire() else { return };
        let mut ended = self.ended.subscribe();
        let _ = tokio::time::timeout(left, ended.wait_for(|ended| *ended >= round)).await;
    }

    /// The round that answers, and since when it is waited for.
    fn round_to_wait_for(&self) -> (Stopwatch, u64) {
        // The first is under way unasked, and must not use up the one that a key rotated in soon after needs.
        if *self.ended.borrow() == 0 {
            return (self.since, 1);
        }
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let under_way = asked.filter(|(since, _)| since.elapsed() < self.timing.cool_down);
        *asked.insert(under_way.unwrap_or_else(|| {
            // The next round, not one that is under way: that may have read the keys before the new one was among them.
            let next = self.begun.load(Ordering::Acquire) + 1;
            self.wanted.notify_one();
            (Stopwatch::start(), next)
        }))
    }

    /// Asks the provider now and then, for ever. To be run once, by `app`; `told` hears of every call.
    pub async fn keep_fresh(&self, told: impl Fn(What, Result<(), &Error>)) {
        let mut pause = self.timing.retry;
        loop {
            let round = self.begun.fetch_add(1, Ordering::AcqRel) + 1;
            let outcome = self.refresh(&told).await;
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

    /// Asks for description and keys once. What cannot be had stays as it was.
    ///
    /// # Errors
    /// The first thing that could not be had.
    pub async fn refresh(&self, told: &impl Fn(What, Result<(), &Error>)) -> Result<(), Error> {
        let described = match &self.endpoint.jwks_url {
            // Keys are all that is wanted of it.
            Some(_) => Ok(()),
            None => {
                let described = self.describe(self.timing.call).await;
                told(What::Metadata, described.as_ref().copied());
                described
            }
        };
        let url = self.endpoint.jwks_url.clone();
        let url = url.or_else(|| self.metadata().and_then(|metadata| metadata.jwks.clone()));
        let Some(url) = url else {
            return described.and(Err(Error::NoKeySet));
        };
        let fetched = self.fetch_keys(&url).await;
        told(What::Keys, fetched.as_ref().copied());
        fetched.and(described)
    }

    /// Asks for the description once, to find out whether the provider answers.
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
            // Whoever asked while there were none asked for no rotated one.
            *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        *self.fresh.lock().unwrap_or_else(PoisonError::into_inner) = Some(Stopwatch::start());
        Ok(())
    }

    /// Read each time: Kubernetes writes a new one every hour.
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
