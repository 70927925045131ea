//! The tasks that keep what is known of people in step with their identity providers.

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

/// The identity providers that we talk to, each beside its configuration.
pub(super) struct Remotes {
    pub(super) providers: Vec<Arc<Remote>>,
    issuers: Vec<Arc<Remote>>,
    /// What metrics call them.
    names: Vec<String>,
}

/// One for each provider and issuer; connects to none.
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

    /// Whose bearer tokens are believed.
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

/// Keeps an identity provider's description and keys fresh. One that is away makes nobody unready: what was good stays.
pub(super) async fn keep_fresh(name: String, remote: Arc<Remote>, metrics: Arc<Metrics>) {
    let told = |what: oidc::What, outcome: Result<(), &oidc::Error>| {
        metrics.oidc_fetched(&name, what.as_str(), outcome.err().map_or("ok", oidc::Error::kind));
    };
    remote.keep_fresh(told).await;
}

/// Who is in no allowed group any more, or in no administrators', by what the configuration says now, is let go at once.
/// What it gives anew counts from the next sign-in or refresh, when the provider says that it is still so.
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

/// What the provider's tokens of sessions are sealed with.
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

/// Keeps sessions in step with the identity providers.
#[derive(Clone, Debug)]
pub(super) struct Sessions {
    pub(super) renewal: Renewal,
    pub(super) metrics: Arc<Metrics>,
    pub(super) renewing: TaskTracker,
}

impl Sessions {
    /// A silent provider holds up refreshes only, and this many at most.
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

    /// Until none is due, or for as long as one tick: after an outage thousands may be.
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
                // The trial at a provider that has just come back may be one more.
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

/// How often sessions that are due are looked for.
const RENEW: Duration = Duration::from_secs(1);
/// Refreshes at a time, of one process.
const RENEWALS: usize = 32;
/// How often sessions that are over are dropped.
const SWEEP: Duration = Duration::from_hours(1);

/// Goes through the lists of the providers that have one configured, each in its own time, for ever.
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
        // Said once, not every round.
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

/// The time to the next round: at least as long as this one took, so that a large realm is not asked all the time. Where
/// it is not configured and the service account has no rights, it is seldom asked again: Keycloak logs each refusal.
fn pause(config: &config::Sync, error: Option<&SyncError>, took: Duration) -> Duration {
    let every = config.every.saturating_sub(took).max(took);
    if config.by_default && error.is_some_and(SyncError::is_lack_of_rights) { every.max(RIGHTS_AGAIN) } else { every }
}

/// How often missing rights are looked for again.
const RIGHTS_AGAIN: Duration = Duration::from_mins(10);
