//! Starts serving, and the tasks that run in the background until the shutdown.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::build::Parts;
use super::followed::Followed;
use super::identity::Remotes;
use super::probe::Probe;
use super::{Running, certificate, identity, policies};
use crate::authn::Authn;
use crate::clock::{Clock, Timestamp};
use crate::config::Config;
use crate::directory_sync::DirectorySync;
use crate::effects::Effects;
use crate::resolve::Resolver;
use crate::server::{self, tls};
use crate::session_refresh::SessionRefresh;
use crate::store::{Scope, Store};
use crate::telemetry::{Metrics, Retention};
use crate::upstream::{self, Upstream, impatiently};

/// Interval between checks of the store for changes that other processes made.
const FOLLOW_STORE_EVERY: Duration = Duration::from_millis(500);
/// Interval between attempts to finish interrupted effects.
const RECONCILE_EVERY: Duration = Duration::from_secs(10);
/// Number of these intervals between questions to MLflow about reused IDs and names: one minute.
const REISSUED_EVERY_ROUNDS: u32 = 6;
/// Minimum age of an effect before it counts as interrupted; a younger one can still be in progress.
const SETTLED_AFTER_MS: i64 = 300_000;
/// Interval between measurements of the store's size.
const MEASURE_EVERY: Duration = Duration::from_secs(30);
/// Interval between look-ups of the artifact locations of new experiments.
const LOCATIONS_EVERY: Duration = Duration::from_secs(20);
const VERSION_EVERY: Duration = Duration::from_secs(60);
/// Shorter than the regular interval, because MLflow takes some seconds to start.
const VERSION_RETRY: Duration = Duration::from_secs(2);

/// Bound addresses and loaded certificates, on which nothing is served yet.
pub(super) struct Listeners {
    clients: (TcpListener, SocketAddr),
    admin: (TcpListener, SocketAddr),
    acceptor: Option<tls::Acceptor>,
}

impl Listeners {
    pub(super) async fn bind(config: &Config) -> anyhow::Result<Self> {
        let clients = bind("server.listen", config.server.listen).await?;
        let admin = bind("admin.listen", config.admin.listen).await?;
        Ok(Self { clients, admin, acceptor: config.server.tls.as_ref().map(tls::Acceptor::load).transpose()? })
    }
}

async fn bind(key: &str, address: SocketAddr) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await.with_context(|| format!("{key}: cannot listen on {address}"))?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// The signals for the two phases of a shutdown.
#[derive(Clone, Debug, Default)]
pub(super) struct Stop {
    /// Stops accepting connections and starting refreshes; open connections finish their requests.
    pub(super) accepting: CancellationToken,
    /// Stops timers and probes, at the end of the shutdown.
    pub(super) timers: CancellationToken,
}

/// Starts serving, and every task in the background.
pub(super) fn spawn(parts: Parts, listeners: Listeners, config: &Config) -> anyhow::Result<Running> {
    let (stop, draining) = (Stop::default(), Arc::new(AtomicBool::new(false)));
    let Listeners { clients: (listener, address), admin: (probes, admin), acceptor } = listeners;
    let serving = serve(&parts, config, listener, acceptor.clone(), &stop);
    let followed = Arc::new(Followed::default());
    let sessions = Arc::new(SessionRefresh::new(
        Arc::clone(&parts.store),
        Arc::clone(&parts.authn),
        Arc::clone(&parts.providers),
        config.session.clone(),
        parts.clock.clone(),
        Arc::clone(&parts.metrics),
    ));
    let probe = Probe {
        draining: Arc::clone(&draining),
        store: Arc::clone(&parts.store),
        upstream: parts.upstream.clone(),
        metrics: Arc::clone(&parts.metrics),
        remotes: parts.remotes.all(),
        sessions: Arc::clone(&sessions),
        followed: Arc::clone(&followed),
    };
    server::admin::start(probes, Arc::new(probe), config.admin.allowed_hosts.clone(), stop.timers.clone())
        .context("admin.listen")?;
    let background = Background { tasks: TaskTracker::new(), stop: stop.clone() };
    background.follow_files(parts.policy_files, acceptor, &parts.authn, &parts.metrics, &followed);
    let directory = DirectorySync::new(
        Arc::clone(&parts.store),
        Arc::clone(&parts.providers),
        parts.clock.clone(),
        Arc::clone(&parts.metrics),
    );
    background.ask_providers(&parts.remotes, &sessions, directory, &parts.metrics);
    background.share_store(&parts.store, parts.authn, &parts.resolver, &parts.metrics);
    // `impatiently`: background tasks repeat at intervals of their own, so they do not take the places of waiting
    // requests.
    background.until_the_end(impatiently(reconcile(parts.effects, Arc::clone(&parts.store), parts.clock.clone())));
    background.until_the_end(watch_version(parts.upstream.clone(), Arc::clone(&parts.metrics)));
    background.until_the_end(impatiently(watch_locations(parts.resolver)));
    let audit =
        Retention::new(&config.audit, Arc::clone(&parts.store), parts.clock.clone(), Arc::clone(&parts.metrics));
    if let Some(audit) = audit {
        background.until_the_end(audit.run_for_ever());
    }
    background.until_the_end(watch_size(Arc::clone(&parts.store), parts.metrics));
    Ok(Running {
        address,
        admin,
        first_password: parts.first_password,
        draining,
        drain_delay: config.server.drain_delay,
        stop,
        serving,
        effects: parts.effects_tasks,
        auditing: parts.logs.audit_tasks,
        refreshing: sessions.in_progress().clone(),
        holding: parts.upstream,
        audit: parts.logs.audit,
        access: parts.logs.access,
        store: parts.store,
    })
}

/// Starts serving clients. Returns the tracker of all connections.
fn serve(
    parts: &Parts,
    config: &Config,
    listener: TcpListener,
    acceptor: Option<tls::Acceptor>,
    stop: &Stop,
) -> TaskTracker {
    let proxy = Arc::clone(&parts.proxy);
    let handler = move |request, peer, edge| {
        let proxy = Arc::clone(&proxy);
        // Boxed, because hyper reserves space for the handler's future in every connection, including idle ones.
        Box::pin(async move { proxy.handle(request, peer, edge).await })
    };
    let (metrics, stop) = (Arc::clone(&parts.metrics), stop.accepting.clone());
    let serving = TaskTracker::new();
    serving.spawn(server::serve(&config.server, listener, acceptor, handler, metrics, stop));
    serving
}

/// Starts tasks that run until the shutdown.
struct Background {
    tasks: TaskTracker,
    stop: Stop,
}

impl Background {
    /// Starts the tasks that serve a store which other processes may change and use.
    fn share_store(&self, store: &Arc<Store>, authn: Arc<Authn>, resolver: &Arc<Resolver>, metrics: &Arc<Metrics>) {
        let announced = Arc::new(Notify::new());
        self.until_the_end(listen(Arc::clone(store), Arc::clone(&announced), Arc::clone(metrics)));
        self.until_the_end(write_last_uses(Arc::clone(&authn)));
        self.until_the_end(follow_store(authn, Arc::clone(resolver), announced, Arc::clone(metrics)));
        self.until_the_end(keep_alive(Arc::clone(store)));
    }

    /// Runs a task until the proxy stops accepting connections.
    fn while_accepting(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(self.stop.accepting.clone().run_until_cancelled_owned(task));
    }

    /// Runs a task until all requests and effects have ended.
    fn until_the_end(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(self.stop.timers.clone().run_until_cancelled_owned(task));
    }

    fn follow_files(
        &self,
        policies: Vec<policies::File>,
        acceptor: Option<tls::Acceptor>,
        authn: &Arc<Authn>,
        metrics: &Arc<Metrics>,
        followed: &Arc<Followed>,
    ) {
        for follow in policies::follow(policies, Arc::clone(authn), Arc::clone(metrics), Arc::clone(followed)) {
            self.until_the_end(follow);
        }
        if let Some(acceptor) = acceptor {
            self.until_the_end(certificate::follow(acceptor, Arc::clone(metrics), Arc::clone(followed)));
        }
    }

    /// Keeps keys, sessions and users in step with their identity providers.
    fn ask_providers(
        &self,
        remotes: &Remotes,
        sessions: &Arc<SessionRefresh>,
        directory: DirectorySync,
        metrics: &Arc<Metrics>,
    ) {
        for (name, remote) in remotes.all() {
            self.until_the_end(identity::keep_fresh(name, remote, Arc::clone(metrics)));
        }
        self.while_accepting(Arc::clone(sessions).refresh_for_ever());
        self.until_the_end(Arc::clone(sessions).sweep_for_ever());
        for sync in Arc::new(directory).tasks() {
            self.while_accepting(sync);
        }
    }
}

/// Invalidates what other processes change: at once where the store announces changes, otherwise twice a second.
async fn follow_store(authn: Arc<Authn>, resolver: Arc<Resolver>, announced: Arc<Notify>, metrics: Arc<Metrics>) {
    let mut ticks = interval(FOLLOW_STORE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = announced.notified() => {}
        }
        let changes = authn.follow_store().await;
        metrics.store_answers.set(i64::from(!authn.is_cut_off()));
        metrics.store_changes.inc_by(changes.len() as u64);
        for scope in changes {
            match scope {
                Scope::Experiment(id) => {
                    resolver.forget_experiment(&id).await;
                    resolver.forget_locations();
                }
                Scope::Name(name) => resolver.forget_name(&name).await,
                Scope::Everything => {
                    resolver.forget_names();
                    resolver.forget_locations();
                }
                Scope::User(_) | Scope::Group(_) | Scope::Role(_) | Scope::Guesses => {}
            }
        }
    }
}

/// Writes the last uses of tokens and sessions. Not in the task that follows changes, which must not wait for writes.
async fn write_last_uses(authn: Arc<Authn>) {
    let mut ticks = interval(FOLLOW_STORE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = authn.write_last_uses().await {
            tracing::debug!(%error, "the last uses of tokens and sessions could not be written yet");
        }
    }
}

/// Listens for changes that the store announces.
async fn listen(store: Arc<Store>, announced: Arc<Notify>, metrics: Arc<Metrics>) {
    store.listen(&announced, |connected| metrics.store_listens(connected)).await;
}

/// Keeps what this process holds in the store its own.
async fn keep_alive(store: Arc<Store>) {
    let mut ticks = interval(Store::ALIVE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = store.keep_alive().await {
            tracing::debug!(%error, "the lease of this process could not be renewed");
        }
    }
}

/// Finishes effects that a crash or an unwritable store interrupted, such as the owner grant of a new resource, here or in
/// a process that is gone. Also drops grants on earlier resources whose IDs or names MLflow has reused, in one process.
async fn reconcile(effects: Effects, store: Arc<Store>, clock: Clock) {
    let mut ticks = interval(RECONCILE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // In the first round, every intent of this process is from an earlier one (SQLite; on PostgreSQL it has none).
    let mut before = clock.now();
    let (mut undated, mut rounds) = (0, 0_u32);
    loop {
        ticks.tick().await;
        if rounds.is_multiple_of(REISSUED_EVERY_ROUNDS) && store.hold("reissued").await.unwrap_or(false) {
            match effects.drop_reissued(&mut undated).await {
                Ok(0) => {}
                Ok(dropped) => {
                    tracing::warn!(
                        dropped,
                        "MLflow created resources again under earlier IDs or names; their earlier grants were deleted"
                    );
                }
                Err(error) => {
                    tracing::warn!(%error, "could not ask MLflow for new resources; trying again in a minute");
                }
            }
        }
        rounds = rounds.wrapping_add(1);
        match effects.reconcile(before).await {
            Ok(settled) => {
                if settled > 0 {
                    tracing::warn!(settled, "effects that had been interrupted were settled");
                }
                before = Timestamp(clock.now().0.saturating_sub(SETTLED_AFTER_MS));
            }
            Err(error) => {
                tracing::warn!(%error, "interrupted effects could not be settled yet; trying again soon")
            }
        }
    }
}

/// Polls the version of MLflow and logs each change.
async fn watch_version(upstream: Upstream, metrics: Arc<Metrics>) {
    let mut last = None;
    loop {
        let answer = upstream.learn_version().await;
        let answers = matches!(answer, Ok(_) | Err(upstream::Error::NotUnderstood));
        metrics.upstream_answers.set(i64::from(answers));
        let seen = answer.ok();
        if seen.is_some() && seen != last {
            if let Some(version) = seen {
                metrics.upstream_is(&version.to_string());
                if version.is_known() {
                    tracing::info!(%version, "MLflow {version} is behind the proxy");
                } else {
                    tracing::warn!(%version, "MLflow {version} is not among the versions that this proxy supports (2.10 to 3.18)");
                }
            }
            last = seen;
        }
        tokio::time::sleep(if seen.is_some() { VERSION_EVERY } else { VERSION_RETRY }).await;
    }
}

/// Polls MLflow for the artifact locations of new experiments, so that artifact requests find them in memory.
async fn watch_locations(resolver: Arc<Resolver>) {
    loop {
        tokio::time::sleep(LOCATIONS_EVERY).await;
        if let Err(error) = resolver.refresh_locations().await {
            tracing::debug!(%error, "the locations of experiments cannot be read now");
        }
    }
}

/// Measures the store periodically, because it grows with its audit log.
async fn watch_size(store: Arc<Store>, metrics: Arc<Metrics>) {
    let mut ticks = interval(MEASURE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // An unreachable store is reported by `/readyz`.
        if let Ok(size) = store.size().await {
            metrics.audit_rows.set(size.audit_rows);
            metrics.store_bytes.set(size.bytes);
            metrics.effects_overdue.set(size.overdue_intents);
        }
    }
}
