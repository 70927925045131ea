//! The composition root: builds every part of the proxy from a [`Config`] and runs the parts until shutdown.
//!
//! The shutdown order matters; see [`Running::drain`].

mod certificate;
mod followed;
mod identity;
mod looks;
mod policies;

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::{self, PublicAddress};
use crate::authn::Authn;
use crate::authz::Policy;
use crate::budget::Budget;
use crate::clock::{Clock, Timestamp};
use crate::config::Config;
use crate::crypto::{Sealer, random_password};
use crate::directory_sync::DirectorySync;
use crate::effects::Effects;
use crate::filter::Lists;
use crate::mlflow::Table;
use crate::oidc::{Providers, Remote};
use crate::pipeline::{Bodies, Proxy};
use crate::resolve::Resolver;
use crate::server::admin::{Check, Health};
use crate::server::{self, tls};
use crate::session_refresh::SessionRefresh;
use crate::store::{Actor, Store};
use crate::telemetry::access::Writer;
use crate::telemetry::{AccessLog, AuditQueue, Metrics, Telemetry};
use crate::upstream::{Holds, Upstream, impatiently};
use crate::web::{SignIn, Web};

use followed::Followed;
pub use policies::{read_policies, warnings};

/// A proxy that is running in this process.
#[derive(Debug)]
pub struct Running {
    /// Bound address of the client listener, with the actual port if the configuration has port 0.
    pub address: SocketAddr,
    /// Bound address of the listener for probes and metrics.
    pub admin: SocketAddr,
    /// Password of the first administrator if this start generated one. It is shown once and never logged.
    pub first_password: Option<SecretString>,
    draining: Arc<AtomicBool>,
    drain_delay: Duration,
    /// Stops accepting connections; open connections finish their requests.
    stop: CancellationToken,
    /// Stops timers and probes, at the end of the shutdown.
    stop_last: CancellationToken,
    serving: TaskTracker,
    effects: TaskTracker,
    auditing: TaskTracker,
    /// Session refreshes in progress.
    renewing: TaskTracker,
    /// Holds requests while MLflow is unreachable.
    holding: Upstream,
    audit: AuditQueue,
    access: Option<Writer>,
    store: Arc<Store>,
}

/// Interval between checks of the store for changes that other processes made.
const REFRESH: Duration = Duration::from_millis(500);
/// Interval between attempts to finish interrupted effects.
const RECONCILE: Duration = Duration::from_secs(60);
/// Interval between measurements of the store's size.
const MEASURE: Duration = Duration::from_secs(30);
/// Minimum age of an effect before it counts as interrupted; a younger one can still be in progress.
const SETTLED_AFTER_MS: i64 = 300_000;
/// Time limit for effects in progress after the last connection was closed.
const EFFECTS_DRAIN: Duration = Duration::from_secs(30);

/// Opens the store, creates the first administrator, binds both listeners and starts serving.
///
/// # Errors
/// The store cannot be opened, an address cannot be bound, a certificate cannot be read.
#[expect(clippy::too_many_lines, reason = "one list of the parts and tasks of a process")]
pub async fn start(mut config: Config) -> anyhow::Result<Running> {
    if let Some(warning) = server::descriptors::fit(&mut config, server::descriptors::raise()) {
        tracing::warn!("{warning}");
    }
    let read = policies::read(&config).await?;
    let policies = Arc::new(read.policies);
    let clock = Clock::default();
    let table = Arc::new(Table::built_in()?);
    let names = table.operations().iter().map(|operation| operation.name);
    let metrics = Arc::new(Metrics::new(names.chain(["none", "Own", "Unlisted"]))?);
    let store = Store::open(&config.store.url, clock.clone()).await;
    let store = Arc::new(store.with_context(|| format!("store.url: `{}` cannot be opened", config.store.url))?);
    let first_password =
        bootstrap(&config, &store, &clock).await.context("the first administrator could not be made")?;
    identity::reapply_group_rules(&config, &store)
        .await
        .context("people could not be compared with the configuration")?;
    let remotes = identity::remotes(&config)?;
    let authn = Authn::new(&config.authn, Arc::clone(&store), clock.clone()).with_policies(policies);
    let authn = authn.with_trusted_issuers(remotes.trusted(&config));
    let authn = Arc::new(authn.with_session_idle_timeout(config.session.idle_timeout));
    let keys = identity::session_keys(&config, &store).await?;
    let known = config.providers.iter().zip(remotes.providers.iter().cloned());
    let providers = Providers::new(known, config.pages_url().as_ref(), keys, &clock);
    let providers = Arc::new(providers.context("oidc.providers")?);
    let holds = Holds { waiting: metrics.upstream_holding.clone(), ended: metrics.upstream_holds.clone() };
    let upstream = Upstream::holding(&config.upstream, holds).context("upstream.url")?;
    let resolver = Arc::new(Resolver::new(upstream.clone(), Arc::clone(&metrics)));
    let policy = Policy { default_permission: config.authz.default_permission };
    let (serving, effects_tracker, auditing) = (TaskTracker::new(), TaskTracker::new(), TaskTracker::new());

    let audit = AuditQueue::start(Arc::clone(&store), Arc::clone(&metrics), &auditing);
    let (access, writer) = access_log(&config, &metrics)?;
    let telemetry = Telemetry {
        metrics: Arc::clone(&metrics),
        access,
        audit: audit.clone(),
        clock: clock.clone(),
        user_names: config.log.user_names,
        named: std::sync::Mutex::default(),
    };
    let effects = Effects::new(
        Arc::clone(&store),
        Arc::clone(&authn),
        // Effects run while the names that change are locked, so their requests to MLflow must not be held.
        upstream.at_once(),
        Arc::clone(&resolver),
        policy,
        effects_tracker.clone(),
    );
    let proxy = Arc::new(Proxy {
        server: config.server.clone(),
        policy,
        authz: config.authz.clone(),
        static_prefix: config.upstream.static_prefix.clone(),
        table: Arc::clone(&table),
        authn: Arc::clone(&authn),
        resolver: Arc::clone(&resolver),
        upstream: upstream.clone(),
        lists: Lists::new(upstream.clone(), Arc::clone(&resolver), Sealer::new(&store.sealing_key().await?)),
        effects: effects.clone(),
        web: Web::new(
            api::Context {
                store: Arc::clone(&store),
                authn: Arc::clone(&authn),
                config: config.authn.clone(),
                policy,
                table,
                address: PublicAddress {
                    url: config.server.public_url.clone(),
                    static_prefix: config.upstream.static_prefix.clone(),
                },
                clock: clock.clone(),
                resolver: Arc::clone(&resolver),
            },
            SignIn {
                providers: Arc::clone(&providers),
                session: config.session.clone(),
                password_form: config.authn.password_form,
                home: format!("{}/", config.upstream.static_prefix),
            },
        )?,
        telemetry: Arc::new(telemetry),
        bodies: Bodies::new(&config.server, metrics.inspection_reserved.clone()),
        answers: Arc::new(Budget::new(config.server.inspection_budget_bytes, metrics.answers_reserved.clone())),
        background: TaskTracker::new(),
    });

    let (listener, address) = bind("server.listen", config.server.listen).await?;
    let (probes, admin) = bind("admin.listen", config.admin.listen).await?;
    let acceptor = config.server.tls.as_ref().map(tls::Acceptor::load).transpose()?;
    let (stop, stop_last) = (CancellationToken::new(), CancellationToken::new());
    let draining = Arc::new(AtomicBool::new(false));

    let handler = {
        let proxy = Arc::clone(&proxy);
        move |request, peer, edge| {
            let proxy = Arc::clone(&proxy);
            // Boxed, because hyper reserves space for the handler's future in every connection, including idle ones.
            Box::pin(async move { proxy.handle(request, peer, edge).await })
        }
    };
    let certificate = acceptor.clone();
    serving.spawn(server::serve(&config.server, listener, acceptor, handler, Arc::clone(&metrics), stop.clone()));
    let sessions = Arc::new(SessionRefresh::new(
        Arc::clone(&store),
        Arc::clone(&authn),
        Arc::clone(&providers),
        config.session.clone(),
        clock.clone(),
        Arc::clone(&metrics),
    ));
    let (behind, seen) = (upstream.clone(), Arc::clone(&metrics));
    let holding = upstream.clone();
    let followed = Arc::new(Followed::default());
    let follow_policies = policies::follow(read.files, Arc::clone(&authn), Arc::clone(&metrics), Arc::clone(&followed));
    let asked = remotes.all();
    let telling = Arc::clone(&metrics);
    let probe = Arc::new(Probe {
        draining: Arc::clone(&draining),
        store: Arc::clone(&store),
        upstream,
        metrics,
        remotes: asked,
        followed: Arc::clone(&followed),
    });
    let timers = TaskTracker::new();
    server::admin::start(probes, probe, config.admin.allowed_hosts, stop_last.clone()).context("admin.listen")?;
    timers.spawn(stop_last.clone().run_until_cancelled_owned(refresh(authn)));
    for follow in follow_policies {
        timers.spawn(stop_last.clone().run_until_cancelled_owned(follow));
    }
    if let Some(acceptor) = certificate {
        let follow = certificate::follow(acceptor, Arc::clone(&telling), followed);
        timers.spawn(stop_last.clone().run_until_cancelled_owned(follow));
    }
    timers.spawn(stop.clone().run_until_cancelled_owned(Arc::clone(&sessions).refresh_for_ever()));
    timers.spawn(stop_last.clone().run_until_cancelled_owned(Arc::clone(&sessions).sweep_for_ever()));
    let directory = DirectorySync::new(Arc::clone(&store), providers, clock.clone(), Arc::clone(&telling));
    for sync in Arc::new(directory).tasks() {
        timers.spawn(stop.clone().run_until_cancelled_owned(sync));
    }
    timers.spawn(stop_last.clone().run_until_cancelled_owned(impatiently(reconcile(effects, clock))));
    timers.spawn(stop_last.clone().run_until_cancelled_owned(watch_version(behind, seen)));
    timers.spawn(stop_last.clone().run_until_cancelled_owned(impatiently(watch_locations(resolver))));
    timers.spawn(stop_last.clone().run_until_cancelled_owned(watch_size(Arc::clone(&store), Arc::clone(&telling))));
    for (name, remote) in remotes.all() {
        timers.spawn(stop_last.clone().run_until_cancelled_owned(identity::keep_fresh(
            name,
            remote,
            Arc::clone(&telling),
        )));
    }

    Ok(Running {
        address,
        admin,
        first_password,
        draining,
        drain_delay: config.server.drain_delay,
        stop,
        stop_last,
        serving,
        effects: effects_tracker,
        auditing,
        renewing: sessions.in_progress().clone(),
        holding,
        audit,
        access: writer,
        store,
    })
}

impl Running {
    /// Shuts the proxy down in this order: report unready, wait for `drain_delay`, refuse new connections, finish
    /// requests in progress (with a time limit), finish effects, write the audit log, stop probes and timers.
    pub async fn drain(self) {
        self.draining.store(true, Ordering::SeqCst);
        tokio::time::sleep(self.drain_delay).await;
        self.stop.cancel();
        // A held request would otherwise wait for MLflow during the whole drain timeout.
        self.holding.stop_holding();
        self.serving.close();
        self.serving.wait().await;
        // Requests start effects, so this tracker is closed only after the last request has ended.
        self.effects.close();
        if tokio::time::timeout(EFFECTS_DRAIN, self.effects.wait()).await.is_err() {
            tracing::error!(
                left = self.effects.len(),
                "effects were unfinished; they will be settled at the next start"
            );
        }
        // A refresh token is often valid only once. A refresh that is cut off has consumed it without storing its
        // successor.
        self.renewing.close();
        if tokio::time::timeout(EFFECTS_DRAIN, self.renewing.wait()).await.is_err() {
            tracing::warn!("refreshes of sessions were unfinished");
        }
        self.audit.close();
        self.auditing.close();
        self.auditing.wait().await;
        self.stop_last.cancel();
        if let Some(access) = self.access {
            access.finish();
        }
        self.store.close().await;
    }
}

/// Polls the version of MLflow and logs each change.
async fn watch_version(upstream: Upstream, metrics: Arc<Metrics>) {
    let mut last = None;
    loop {
        let seen = upstream.learn_version().await.ok();
        if seen.is_some() && seen != last {
            if let Some(version) = seen {
                metrics.upstream_is(&version.to_string());
                if version.is_known() {
                    tracing::info!(%version, "MLflow {version} is behind us");
                } else {
                    tracing::warn!(%version, "MLflow {version} is not among the versions this proxy was made for (2.10 to 3.18)");
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

const LOCATIONS_EVERY: Duration = Duration::from_secs(20);
const VERSION_EVERY: Duration = Duration::from_secs(60);
/// Shorter than the regular interval, because MLflow takes some seconds to start.
const VERSION_RETRY: Duration = Duration::from_secs(2);

async fn bind(key: &str, address: SocketAddr) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await.with_context(|| format!("{key}: cannot listen on {address}"))?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

fn access_log(config: &Config, metrics: &Arc<Metrics>) -> anyhow::Result<(AccessLog, Option<Writer>)> {
    if !config.log.access {
        return Ok((AccessLog::off(Arc::clone(metrics)), None));
    }
    let (log, writer) = AccessLog::start(config.log.format, Arc::clone(metrics), std::io::stdout())?;
    Ok((log, Some(writer)))
}

/// Creates the first administrator in an empty store. Returns the password if it was generated here.
async fn bootstrap(config: &Config, store: &Store, clock: &Clock) -> anyhow::Result<Option<SecretString>> {
    if !store.users().await?.is_empty() {
        return Ok(None);
    }
    let given = config.bootstrap.admin_password.clone();
    let password = given.clone().unwrap_or_else(random_password);
    let authn = Authn::new(&config.authn, Arc::new(store.clone()), clock.clone());
    let hash = authn.hash_password(password.clone()).await?;
    let actor = Actor { name: "bootstrap".to_owned(), token: None, address: None };
    store.create_user(&actor, &config.bootstrap.admin_username, Some(&hash), true).await?;
    Ok(if given.is_none() { Some(password) } else { None })
}

/// Measures the store periodically, because it grows with its audit log.
async fn watch_size(store: Arc<Store>, metrics: Arc<Metrics>) {
    let mut ticks = tokio::time::interval(MEASURE);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // An unreachable store is reported by `/readyz`.
        if let Ok(size) = store.size().await {
            metrics.audit_rows.set(size.audit_rows);
            metrics.store_bytes.set(size.bytes);
        }
    }
}

async fn refresh(authn: Arc<Authn>) {
    let mut ticks = tokio::time::interval(REFRESH);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        authn.follow_store().await;
    }
}

/// Finishes effects that a crash or an unwritable store interrupted, such as the owner grant of a new resource. Also
/// drops grants on earlier resources whose IDs or names MLflow has reused. Runs at start and then every minute.
async fn reconcile(effects: Effects, clock: Clock) {
    let mut ticks = tokio::time::interval(RECONCILE);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // In the first round every stored effect is from an earlier process, so none can still be in progress.
    let mut before = clock.now();
    let mut undated = 0;
    loop {
        ticks.tick().await;
        match effects.drop_reissued(&mut undated).await {
            Ok(0) => {}
            Ok(dropped) => {
                tracing::warn!(
                    dropped,
                    "MLflow made resources anew under earlier IDs or names; dropped the earlier grants"
                );
            }
            Err(error) => tracing::warn!(%error, "could not ask MLflow for new resources; trying again in a minute"),
        }
        match effects.reconcile(before).await {
            Ok(settled) => {
                if settled > 0 {
                    tracing::warn!(settled, "effects that had been interrupted were settled");
                }
                before = Timestamp(clock.now().0.saturating_sub(SETTLED_AFTER_MS));
            }
            Err(error) => {
                tracing::warn!(%error, "interrupted effects could not be settled yet; trying again in a minute")
            }
        }
    }
}

/// State that the probes and the metrics endpoint report.
struct Probe {
    draining: Arc<AtomicBool>,
    store: Arc<Store>,
    upstream: Upstream,
    metrics: Arc<Metrics>,
    remotes: Vec<(String, Arc<Remote>)>,
    followed: Arc<Followed>,
}

impl Health for Probe {
    fn checks(&self) -> Pin<Box<dyn Future<Output = Vec<Check>> + Send + '_>> {
        Box::pin(async {
            let draining = self.draining.load(Ordering::SeqCst).then(|| "the proxy is shutting down".to_owned());
            let store = self.store.check().await.err().map(|error| error.to_string());
            let upstream = self.upstream.check().await.err().map(|error| error.to_string());
            let mut checks =
                vec![Check::of("draining", draining), Check::of("store", store), Check::of("upstream", upstream)];
            checks.extend(self.followed.checks());
            checks
        })
    }

    fn metrics(&self) -> String {
        for (name, remote) in &self.remotes {
            self.metrics.oidc_keys_are(name, remote.keys_age());
        }
        self.metrics.render()
    }
}
