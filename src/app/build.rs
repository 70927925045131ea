//! Builds the parts of a proxy from its configuration. No request is served and no timer runs yet.

use std::sync::Arc;

use anyhow::Context as _;
use secrecy::SecretString;
use tokio_util::task::TaskTracker;

use super::identity::{self, Remotes};
use super::policies::{self, File};
use crate::api::{self, PublicAddress};
use crate::authn::Authn;
use crate::authz::{DefaultPermission, Policies};
use crate::budget::Budget;
use crate::clock::Clock;
use crate::config::Config;
use crate::crypto::{Sealer, random_password};
use crate::effects::Effects;
use crate::filter::Lists;
use crate::mlflow::Table;
use crate::oidc::Providers;
use crate::pipeline::{Bodies, Places, Proxy};
use crate::resolve::Resolver;
use crate::store::{self, Actor, Store};
use crate::telemetry::access::Writer;
use crate::telemetry::{AccessLog, AuditQueue, Metrics, Telemetry};
use crate::upstream::{Holds, Upstream};
use crate::web::{SignIn, Web};

/// The parts of a proxy, connected with each other.
pub(super) struct Parts {
    pub(super) clock: Clock,
    pub(super) metrics: Arc<Metrics>,
    pub(super) store: Arc<Store>,
    /// Password of the first administrator if it was generated here.
    pub(super) first_password: Option<SecretString>,
    pub(super) policy_files: Vec<File>,
    pub(super) remotes: Remotes,
    pub(super) providers: Arc<Providers>,
    pub(super) authn: Arc<Authn>,
    pub(super) upstream: Upstream,
    pub(super) resolver: Arc<Resolver>,
    pub(super) effects: Effects,
    /// Effects in progress.
    pub(super) effects_tasks: TaskTracker,
    pub(super) logs: Logs,
    pub(super) proxy: Arc<Proxy>,
}

/// The logs of a proxy, and what writes them.
pub(super) struct Logs {
    pub(super) telemetry: Arc<Telemetry>,
    pub(super) audit: AuditQueue,
    pub(super) audit_tasks: TaskTracker,
    pub(super) access: Option<Writer>,
}

impl Parts {
    /// Opens the store, creates the first administrator and builds everything above the store.
    pub(super) async fn build(config: &Config, table: Table) -> anyhow::Result<Self> {
        let read = policies::read(config).await?;
        let clock = Clock::default();
        let table = Arc::new(table);
        let names = table.operations().iter().map(|operation| operation.name);
        let metrics = Arc::new(Metrics::new(names.chain(["none", "Own", "Unlisted"]))?);
        let store = open_store(config, &clock).await?;
        let first_password =
            bootstrap(config, &store, &clock).await.context("the first administrator could not be created")?;
        let reapplied = identity::reapply_group_rules(config, &store).await;
        reapplied.context("users could not be compared with the configuration")?;
        let remotes = identity::remotes(config)?;
        let effects_tasks = TaskTracker::new();
        let authn = authn(config, &store, &clock, &remotes, read.policies, &effects_tasks).await?;
        let providers = providers(config, &store, &clock, &remotes).await?;
        let holds = Holds { waiting: metrics.upstream_holding.clone(), ended: metrics.upstream_holds().clone() };
        let upstream = Upstream::holding(&config.upstream, holds).context("upstream.url")?;
        let resolver = Arc::new(Resolver::new(upstream.clone(), Arc::clone(&metrics)));
        let effects = Effects::new(
            Arc::clone(&store),
            Arc::clone(&authn),
            // Effects run while the names that change are locked, so their requests to MLflow must not be held.
            upstream.at_once(),
            Arc::clone(&resolver),
            default_permission(config),
            effects_tasks.clone(),
        );
        let logs = Logs::start(config, &store, &metrics, &clock)?;
        let context = api::Context {
            store: Arc::clone(&store),
            authn: Arc::clone(&authn),
            config: config.authn.clone(),
            default_permission: default_permission(config),
            table,
            address: PublicAddress {
                url: config.server.public_url.clone(),
                static_prefix: config.upstream.static_prefix.clone(),
            },
            clock: clock.clone(),
            resolver: Arc::clone(&resolver),
        };
        let proxy = proxy(config, context, &providers, &upstream, &effects, &logs).await?;
        Ok(Self {
            clock,
            metrics,
            store,
            first_password,
            policy_files: read.files,
            remotes,
            providers,
            authn,
            upstream,
            resolver,
            effects,
            effects_tasks,
            logs,
            proxy: Arc::new(proxy),
        })
    }
}

impl Logs {
    fn start(config: &Config, store: &Arc<Store>, metrics: &Arc<Metrics>, clock: &Clock) -> anyhow::Result<Self> {
        let audit_tasks = TaskTracker::new();
        let audit = AuditQueue::start(Arc::clone(store), Arc::clone(metrics), &audit_tasks);
        let (log, access) = access_log(config, metrics)?;
        let telemetry = Telemetry {
            metrics: Arc::clone(metrics),
            access: log,
            audit: audit.clone(),
            clock: clock.clone(),
            user_names: config.log.user_names,
            named: std::sync::Mutex::default(),
        };
        Ok(Self { telemetry: Arc::new(telemetry), audit, audit_tasks, access })
    }
}

fn access_log(config: &Config, metrics: &Arc<Metrics>) -> anyhow::Result<(AccessLog, Option<Writer>)> {
    if !config.log.access {
        return Ok((AccessLog::off(Arc::clone(metrics)), None));
    }
    let (log, writer) = AccessLog::start(config.log.format, Arc::clone(metrics), std::io::stdout())?;
    Ok((log, Some(writer)))
}

const fn default_permission(config: &Config) -> DefaultPermission {
    DefaultPermission(config.authz.default_permission)
}

async fn open_store(config: &Config, clock: &Clock) -> anyhow::Result<Arc<Store>> {
    let store = Store::connect(&config.store, clock.clone()).await;
    let store = store.with_context(|| format!("store.url: `{}` cannot be opened", config.store.url))?;
    store.begin_serving().await.context("store.url: the store cannot be written")?;
    match store.check_listening().await {
        // Until the server answers, the store is asked for changes at intervals.
        Ok(_) | Err(store::Error::Unavailable(_)) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(Arc::new(store))
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
    // Of several processes that start together on an empty store, one creates the account and shows its password.
    let first = store.create_first_user(&actor, &config.bootstrap.admin_username, &hash).await?;
    Ok(first.filter(|_| given.is_none()).map(|_| password))
}

async fn authn(
    config: &Config,
    store: &Arc<Store>,
    clock: &Clock,
    remotes: &Remotes,
    policies: Policies,
    tracker: &TaskTracker,
) -> anyhow::Result<Arc<Authn>> {
    let mut authn = Authn::new(&config.authn, Arc::clone(store), clock.clone());
    if store.is_shared() {
        authn = authn.with_shared_limits(&store.sealing_key().await?, tracker.clone());
    }
    let authn = authn.with_policies(Arc::new(policies)).with_trusted_issuers(remotes.trusted(config));
    let authn = authn.with_max_staleness(config.store.max_staleness);
    Ok(Arc::new(authn.with_session_idle_timeout(config.session.idle_timeout)))
}

async fn providers(config: &Config, store: &Store, clock: &Clock, remotes: &Remotes) -> anyhow::Result<Arc<Providers>> {
    let keys = identity::session_keys(config, store).await?;
    let configured = config.providers.iter().zip(remotes.providers.iter().cloned());
    let providers = Providers::new(configured, config.pages_url().as_ref(), keys, clock);
    Ok(Arc::new(providers.context("oidc.providers")?))
}

async fn proxy(
    config: &Config,
    context: api::Context,
    providers: &Arc<Providers>,
    upstream: &Upstream,
    effects: &Effects,
    logs: &Logs,
) -> anyhow::Result<Proxy> {
    let metrics = &logs.telemetry.metrics;
    let sealer = Sealer::new(&context.store.sealing_key().await?);
    Ok(Proxy {
        server: config.server.clone(),
        default_permission: context.default_permission,
        authz: config.authz.clone(),
        static_prefix: config.upstream.static_prefix.clone(),
        table: Arc::clone(&context.table),
        authn: Arc::clone(&context.authn),
        resolver: Arc::clone(&context.resolver),
        upstream: upstream.clone(),
        lists: Lists::new(upstream.clone(), Arc::clone(&context.resolver), sealer),
        effects: effects.clone(),
        telemetry: Arc::clone(&logs.telemetry),
        places: Places::new(config.upstream.max_requests_per_user),
        bodies: Bodies::new(&config.server, metrics.inspection_reserved.clone()),
        answers: Arc::new(Budget::new(config.server.inspection_budget_bytes, metrics.answers_reserved.clone())),
        background: TaskTracker::new(),
        web: Web::new(
            context,
            SignIn {
                providers: Arc::clone(providers),
                session: config.session.clone(),
                password_form: config.authn.password_form,
                home: format!("{}/", config.upstream.static_prefix),
            },
        )?,
    })
}
