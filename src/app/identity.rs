//! Background tasks that keep accounts and sessions in step with their identity providers.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::authn::{DirectorySync, Renewal, Renewed, SyncError, Trusted};
use crate::clock::Stopwatch;
use crate::config::{self, Config};
use crate::crypto::KeyRing;
use crate::oidc::{self, Providers, Remote, claims};
use crate::store::{self, Actor, Lease, Seen, Store};
use crate::telemetry::Metrics;

/// The configured identity providers and issuers, each with its HTTP client.
pub(super) struct Remotes {
    pub(super) providers: Vec<Arc<Remote>>,
    issuers: Vec<Arc<Remote>>,
    /// Names for metrics: first the providers', then the issuers'.
    names: Vec<String>,
}

/// Creates a client for each provider and issuer, without connecting to any.
pub(super) fn remotes(config: &Config) -> anyhow::Result<Remotes> {
    let of = |key: &str, name: &str, endpoint| {
        let remote = Remote::new(endpoint, &config.egress);
        let remote = remote.with_context(|| format!("{key}.{name}: its certificates cannot be used"))?;
        if let Some(proxy) = remote.proxy() {
            let (issuer, variable, proxy) = (&endpoint.issuer, proxy.variable, &proxy.uri);
            tracing::info!(%issuer, %proxy, "the identity provider {issuer} is asked through the proxy {proxy} ({variable})");
        }
        anyhow::Ok(remote)
    };
    let providers = config.providers.iter().map(|it| of("oidc.providers", &it.name, &it.endpoint));
    let issuers = config.issuers.iter().map(|it| of("jwt.issuers", &it.name, &it.endpoint));
    let names = config.providers.iter().map(|it| format!("oidc.{}", it.name));
    let names = names.chain(config.issuers.iter().map(|it| format!("jwt.{}", it.name)));
    Ok(Remotes {
        names: names.collect(),
        providers: providers.collect::<anyhow::Result<_>>()?,
        issuers: issuers.collect::<anyhow::Result<_>>()?,
    })
}

impl Remotes {
    pub(super) fn all(&self) -> Vec<(String, Arc<Remote>)> {
        let remotes = self.providers.iter().chain(&self.issuers).cloned();
        self.names.iter().cloned().zip(remotes).collect()
    }

    /// Returns the issuers whose bearer tokens are accepted.
    pub(super) fn trusted(&self, config: &Config) -> Vec<Trusted> {
        let login = |issuer: &str| config.providers.iter().find(|provider| provider.endpoint.issuer == issuer);
        let issuers = config.issuers.iter().zip(&self.issuers);
        issuers
            .map(|(issuer, remote)| Trusted {
                issuer: issuer.clone(),
                remote: Arc::clone(remote),
                login: login(&issuer.endpoint.issuer).map(|provider| provider.claims.clone()),
            })
            .collect()
    }
}

/// Keeps the discovery document and keys of an identity provider fresh. An unreachable provider does not make the proxy
/// unready; the last valid documents stay in use.
pub(super) async fn keep_fresh(name: String, remote: Arc<Remote>, metrics: Arc<Metrics>) {
    let told = |what: oidc::What, outcome: Result<(), &oidc::Error>| {
        metrics.oidc_fetched(&name, what.as_str(), outcome.err().map_or("ok", oidc::Error::kind));
    };
    remote.keep_fresh(told).await;
}

/// Applies stricter group rules at start: users whose groups no longer admit them, or no longer make them
/// administrators, lose that right at once. Rights that the configuration adds take effect at the next sign-in or
/// refresh, when the provider confirms the groups.
pub(super) async fn tighten(config: &Config, store: &Store) -> store::Result<()> {
    let providers = config.providers.iter().map(|it| (&it.endpoint.issuer, &it.claims));
    let signs_in = |issuer: &str| config.providers.iter().any(|it| it.endpoint.issuer == issuer);
    let bearers = config.issuers.iter().map(|it| (&it.endpoint.issuer, &it.claims));
    let actor = Actor { name: "configuration".to_owned(), token: None, address: None };
    for (issuer, rules) in providers.chain(bearers.filter(|(issuer, _)| !signs_in(issuer))) {
        for user in store.people_of(issuer).await? {
            let Some(person) = &user.person else { continue };
            let now = claims::standing_in(rules, person.groups.clone());
            let seen = Seen {
                issuer,
                subject: &person.subject,
                name: &user.name,
                groups: &person.groups,
                admin: person.admin && now.admin,
                allowed: person.allowed && now.allowed,
                owns_plain_names: false,
            };
            store.follow(&actor, &user, seen, person.seen).await?;
        }
    }
    Ok(())
}

/// Returns the keys that seal the provider's tokens of sessions: the configured ones, or one from the store.
pub(super) async fn session_keys(config: &Config, store: &Store) -> anyhow::Result<Arc<KeyRing>> {
    let keys = config.session.keys.iter().map(|key| (key.id.as_str(), &key.secret));
    if let Some(ring) = KeyRing::parse(keys) {
        return Ok(Arc::new(ring));
    }
    if !config.providers.is_empty() {
        tracing::warn!(
            "session.keys is empty: the identity provider's tokens are sealed with a key that lies in the store beside them"
        );
    }
    Ok(Arc::new(KeyRing::of("store", &store.session_key().await?)))
}

/// Background work on the sessions of browsers.
#[derive(Clone, Debug)]
pub(super) struct Sessions {
    pub(super) renewal: Renewal,
    pub(super) metrics: Arc<Metrics>,
    pub(super) renewing: TaskTracker,
}

impl Sessions {
    /// Refreshes due sessions for ever, at most [`RENEWALS`] at a time. A provider that does not respond delays nothing
    /// else.
    pub(super) async fn keep_renewed(self) {
        let mut ticks = tokio::time::interval(RENEW);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let places = Arc::new(Semaphore::new(RENEWALS));
        loop {
            ticks.tick().await;
            for provider in self.renewal.probes_due() {
                let renewal = self.renewal.clone();
                self.renewing.spawn(async move { renewal.probe(&provider).await });
            }
            if let Err(error) = self.renew_due(&places).await {
                tracing::warn!(%error, "sessions that are due cannot be found");
            }
        }
    }

    /// Starts refreshes until no session is due, or for one tick at most: after an outage thousands can be due.
    async fn renew_due(&self, places: &Arc<Semaphore>) -> store::Result<()> {
        let begun = Stopwatch::start();
        while begun.elapsed() < RENEW {
            let Ok(Ok(first)) = tokio::time::timeout(RENEW, Arc::clone(places).acquire_owned()).await else { break };
            let others = std::iter::from_fn(|| Arc::clone(places).try_acquire_owned().ok());
            let mut held: Vec<_> = std::iter::once(first).chain(others).collect();
            let due = self.renewal.due(held.len()).await?;
            if due.is_empty() {
                break;
            }
            for lease in due {
                // `due` can return one lease more than asked for: the trial refresh at a provider that has just
                // recovered.
                let (sessions, place) = (self.clone(), held.pop());
                self.renewing.spawn(async move {
                    sessions.renew(lease).await;
                    drop(place);
                });
            }
        }
        Ok(())
    }

    async fn renew(self, lease: Lease) {
        let outcome = self.renewal.renew(lease).await.map(Renewed::as_str).unwrap_or_else(|error| {
            tracing::error!(%error, "a session was not refreshed: the store does not answer");
            "store"
        });
        self.metrics.session_refreshed(outcome);
    }

    pub(super) async fn keep_swept(self) {
        let mut ticks = tokio::time::interval(SWEEP);
        loop {
            ticks.tick().await;
            if let Err(error) = self.renewal.sweep().await {
                tracing::warn!(%error, "sessions that are over are still there");
            }
        }
    }
}

/// Interval between checks for sessions that are due.
const RENEW: Duration = Duration::from_secs(1);
/// Maximum number of refreshes in progress in one process.
const RENEWALS: usize = 32;
/// Interval between removals of expired sessions.
const SWEEP: Duration = Duration::from_hours(1);

/// Returns one future per provider with a configured sync, which reads the provider's list of users periodically.
pub(super) fn syncs(
    sync: &DirectorySync,
    providers: &Arc<Providers>,
    metrics: &Arc<Metrics>,
) -> impl Iterator<Item = impl Future<Output = ()> + Send + 'static> {
    let names =
        providers.iter().filter_map(|provider| Some((provider.config.name.clone(), provider.config.sync.clone()?)));
    let names: Vec<_> = names.collect();
    names
        .into_iter()
        .map(|(name, config)| keep_synced(sync.clone(), Arc::clone(providers), Arc::clone(metrics), name, config))
}

async fn keep_synced(
    sync: DirectorySync,
    providers: Arc<Providers>,
    metrics: Arc<Metrics>,
    name: String,
    config: config::Sync,
) {
    let Some(provider) = providers.get(&name) else { return };
    let mut failing = false;
    loop {
        let begun = Stopwatch::start();
        let outcome = sync.round(provider, &config.realm).await;
        metrics.directory_synced(&name, outcome.as_ref().err().map_or("ok", SyncError::kind));
        // Logged when the state changes, not in every round.
        match &outcome {
            Err(error) if !failing => {
                tracing::warn!(provider = %name, %error, "who was disabled at {name} is not known: {error}");
            }
            Ok(()) if failing => tracing::info!(provider = %name, "the list of people of {name} can be read again"),
            Ok(()) | Err(_) => {}
        }
        failing = outcome.is_err();
        tokio::time::sleep(pause(&config, outcome.as_ref().err(), begun.elapsed())).await;
    }
}

/// Returns the time until the next round. It is at least as long as the last round took, so that a large realm is not
/// queried continuously. If the sync is on by default and the service account lacks the rights, it is at least
/// [`RIGHTS_AGAIN`], because Keycloak logs each refusal.
fn pause(config: &config::Sync, error: Option<&SyncError>, took: Duration) -> Duration {
    let every = config.every.saturating_sub(took).max(took);
    if config.by_default && error.is_some_and(SyncError::is_lack_of_rights) { every.max(RIGHTS_AGAIN) } else { every }
}

/// Interval between attempts without the necessary rights.
const RIGHTS_AGAIN: Duration = Duration::from_mins(10);
