//! Finds the resource that an object belongs to: run -> experiment, trace -> experiment, name -> model or prompt.
//!
//! Looks in the cache first, then sends one fixed request to MLflow, which all concurrent callers share. If the look-up is
//! impossible, the result is an error, and the request is denied.

mod batch;
mod born;
mod gateway;
mod labels;
mod leftovers;
mod locations;
mod new_versions;
mod paged;
mod traces;
mod versions;

use std::sync::Arc;
use std::time::Duration;

use moka::future::Cache;
use serde::Deserialize;

use gateway::KnownEndpoint;
pub use labels::Labels;
use locations::Locations;
pub use new_versions::NewVersions;
pub use versions::ModelVersionKey;

use crate::authz::{Permission, Requirement, Resource, ResourceKind, scorer_key};
use crate::mlflow::answers::{
    DatasetAnswer, EndpointAnswer, ExperimentAnswer, GuardrailAnswer, InExperiment, IssueAnswer, JobAnswer,
    LabelSchemaAnswer, LoggedModel, LoggedModelAnswer, ModelAnswer, OnlineScorers, QueueAnswer, ReviewQueue, Run,
    RunAnswer, ScorerList,
};
use crate::mlflow::{ArtifactPath, Child, Located, Lookup, Thing, lookups};
use crate::telemetry::Metrics;
use crate::upstream::{self, Upstream};

/// The reason why a resource could not be found.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// MLflow has no resource with this name. Names are not confidential, because creating one reveals whether it exists.
    #[error("{0}")]
    NoSuchName(String),
    #[error(transparent)]
    Upstream(Arc<upstream::Error>),
}

/// Finds the resource behind IDs and names.
#[derive(Debug)]
pub struct Resolver {
    upstream: Upstream,
    metrics: Arc<Metrics>,
    /// Experiments of runs. Immutable in MLflow: a run never changes its experiment.
    runs: Cache<String, Home>,
    logged_models: Cache<String, Home>,
    /// Experiments of other objects. Short-lived, because before MLflow 3.18 a trace could move.
    others: Cache<(Child, String), Home>,
    /// Endpoints of the AI gateway, which are called by name and granted by ID.
    endpoints: Cache<String, Arc<KnownEndpoint>>,
    /// Models and prompts by name. Short-lived, because there can be other writers.
    names: Cache<String, Resource>,
    /// Prompts for which an optimization was started.
    optimized: Cache<String, ()>,
    /// Names of experiments, for globs. Short-lived, because other writers can rename them.
    experiments: Cache<String, Arc<str>>,
    /// Artifact locations of experiments.
    locations: Locations,
    /// The versions that refer to a run or logged model, and the locations of their files. Short-lived, because other writers
    /// can delete them.
    versions: Cache<String, Arc<[ModelVersionKey]>>,
    version_locations: Cache<ModelVersionKey, Option<Arc<ArtifactPath>>>,
    /// IDs that were not found, so that guessing IDs does not cause load on MLflow.
    absent: Cache<(Child, String), ()>,
}

/// The experiment of a run or logged model.
#[derive(Clone, Debug)]
struct Home {
    experiment: Arc<str>,
    artifacts: Arc<str>,
}

impl Home {
    fn of(experiment: String) -> Self {
        Self { experiment: experiment.into(), artifacts: Arc::default() }
    }
}

const ENTRIES: u64 = 1_000_000;
/// The ID of a deleted trace can be reused in another experiment, outside this proxy or through another replica.
const HOME_TTL: Duration = Duration::from_secs(5);
const NAME_TTL: Duration = Duration::from_secs(5);
/// Longer than jobs wait in MLflow's queue.
const OPTIMIZATION_TTL: Duration = Duration::from_secs(24 * 60 * 60);
const TITLE_TTL: Duration = Duration::from_secs(30);
/// Number of traces in one look-up.
const BATCH: usize = 100;
const ABSENT_TTL: Duration = Duration::from_secs(2);

impl Resolver {
    /// Creates a resolver with empty caches.
    #[must_use]
    pub fn new(upstream: Upstream, metrics: Arc<Metrics>) -> Self {
        Self {
            upstream,
            metrics,
            runs: Cache::new(ENTRIES),
            logged_models: Cache::new(ENTRIES),
            others: Cache::builder().max_capacity(ENTRIES).time_to_live(HOME_TTL).build(),
            endpoints: Cache::builder().max_capacity(100_000).time_to_live(NAME_TTL).build(),
            names: Cache::builder().max_capacity(100_000).time_to_live(NAME_TTL).build(),
            optimized: Cache::builder().max_capacity(100_000).time_to_live(OPTIMIZATION_TTL).build(),
            experiments: Cache::builder().max_capacity(100_000).time_to_live(TITLE_TTL).build(),
            locations: Locations::new(),
            versions: Cache::builder().max_capacity(10_000).time_to_live(NAME_TTL).build(),
            version_locations: Cache::builder().max_capacity(10_000).time_to_live(NAME_TTL).build(),
            absent: Cache::builder().max_capacity(100_000).time_to_live(ABSENT_TTL).build(),
        }
    }

    /// Returns the requirement of a located object if it can be determined without asking MLflow.
    #[must_use]
    pub fn at_hand(&self, located: &Located) -> Option<Requirement> {
        match located.requirement() {
            Ok(requirement) => Some(requirement),
            Err(Lookup::Artifact) => {
                let path = ArtifactPath::parse(&located.id).ok()?;
                self.locations.at_hand(located.permission, &path)
            }
            Err(_) => None,
        }
    }

    /// Returns the requirements of a located object: more than one if it belongs to several experiments.
    ///
    /// # Errors
    ///
    /// The name does not exist, or MLflow could not be asked.
    pub async fn requirements(&self, located: Located) -> Result<Vec<Requirement>, Error> {
        let lookup = match located.requirement() {
            Ok(requirement) => return Ok(vec![requirement]),
            Err(lookup) => lookup,
        };
        let Located { permission, id, .. } = located;
        let belonging = |noun, owner, tier, id| Requirement::Belonging { permission, noun, id, owner, tier };
        Ok(match lookup {
            Lookup::ExperimentName => vec![Requirement::level(permission, self.experiment_by_name(&id).await?)],
            Lookup::Model(owner) => vec![owner.level(permission, self.model(&id).await?)],
            Lookup::EndpointName => {
                let known = self.endpoint(&id).await?;
                let owner = known.map(|known| Resource::new(ResourceKind::GatewayEndpoint, &*known.id));
                vec![belonging("endpoint", owner, None, id)]
            }
            Lookup::Guardrail => {
                let target = lookups::guardrail(&id);
                let found = self.find::<GuardrailAnswer>(target).await?;
                let owner = found.map(|answer| answer.guardrail.scorer.resource());
                vec![belonging("guardrail", owner, None, id)]
            }
            Lookup::Artifact => match ArtifactPath::parse(&id) {
                Ok(path) => self.owner_of(permission, &path).await?,
                Err(_) => vec![Requirement::Privileged("use this artifact path")],
            },
            Lookup::Dataset => self.dataset(permission, id).await?,
            Lookup::NewVersion(kind) => self.new_versions(kind, &[id]).await?.requirements,
            Lookup::ReviewQueue | Lookup::ReviewQueueName => {
                let owner = self.queue(located.thing, &id).await?.map(|queue| queue.experiment());
                vec![belonging("review queue", owner, Some(ResourceKind::ReviewQueue), id)]
            }
            Lookup::OnlineScorer => self.online_scorer(permission, id).await?,
            Lookup::Child(child, tier) => {
                let home = self.home_of(child, &id).await?;
                vec![belonging(child.noun(), home.map(|home| experiment(&home)), tier, id)]
            }
        })
    }

    async fn home_of(&self, child: Child, id: &str) -> Result<Option<Home>, Error> {
        match child {
            Child::Run => self.run(id).await,
            Child::LoggedModel => self.logged_model(id).await,
            Child::Trace => self.trace(id).await,
            Child::Issue => self.issue(id).await,
            Child::LabelSchema => self.label_schema(id).await,
            Child::PromptJob => self.prompt_job(id).await,
        }
    }

    /// Returns true if a URI is inside the artifacts of the given run or logged model.
    ///
    /// # Errors
    ///
    /// MLflow could not be asked.
    pub async fn is_inside(&self, uri: &str, run: Option<&str>, model: Option<&str>) -> Result<bool, Error> {
        // Spellings that MLflow or a storage library could normalise to a place outside of the root.
        if uri.contains(['%', '\\', '?', '#']) || uri.split('/').any(|segment| segment == ".." || segment == ".") {
            return Ok(false);
        }
        let run = match run {
            Some(run) => self.run(run).await?,
            None => None,
        };
        let model = match model {
            Some(model) => self.logged_model(model).await?,
            None => None,
        };
        let inside = |home: &Home| {
            let root = home.artifacts.trim_end_matches('/');
            !root.is_empty() && uri.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        Ok(run.iter().chain(model.iter()).any(inside))
    }

    /// Caches a run's experiment from a response that was forwarded, so that the run's first metric requires no look-up.
    pub async fn learn_run(&self, create_run_answer: &[u8]) {
        if let Ok(answer) = serde_json::from_slice::<RunAnswer>(create_run_answer) {
            let id = answer.run.info.run_id.clone();
            self.runs.insert(id, answer.run.into()).await;
        }
    }

    /// Returns a review queue by its ID, or by `EXPERIMENT/NAME`. Never cached, because its members change.
    ///
    /// # Errors
    ///
    /// MLflow could not be asked.
    pub async fn queue(&self, thing: Thing, id: &str) -> Result<Option<ReviewQueue>, Error> {
        let target = match id.split_once('/') {
            Some((experiment, name)) if thing == Thing::ReviewQueueName => {
                lookups::review_queue_by_name(experiment, name)
            }
            Some(_) | None => lookups::review_queue(id),
        };
        Ok(self.find::<QueueAnswer>(target).await?.map(|answer| answer.review_queue))
    }

    /// Returns the experiment in which MLflow would record the traffic of an endpoint that specifies none. MLflow finds it by
    /// name, and creates it if it does not exist. Never cached.
    ///
    /// # Errors
    ///
    /// MLflow could not be asked.
    pub async fn usage_experiment(
        &self,
        name: Option<String>,
        endpoint: Option<&str>,
    ) -> Result<Option<Resource>, Error> {
        let known = match endpoint {
            Some(id) => {
                let target = lookups::endpoint(id);
                self.find::<EndpointAnswer>(target).await?.map(|answer| answer.endpoint)
            }
            None => None,
        };
        if known.as_ref().is_some_and(|known| !known.experiment_id.is_empty()) {
            return Ok(None);
        }
        let Some(name) = name.or_else(|| known.map(|known| known.name)) else { return Ok(None) };
        match self.experiment_by_name(&format!("gateway/{name}")).await {
            Ok(experiment) => Ok(Some(experiment)),
            Err(Error::NoSuchName(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Adds the name to an experiment. Experiments that do not exist, and resources of other kinds, stay unchanged.
    ///
    /// # Errors
    ///
    /// MLflow could not be asked.
    pub async fn name(&self, resource: &mut Resource) -> Result<(), Error> {
        if resource.kind != ResourceKind::Experiment || resource.name.is_some() {
            return Ok(());
        }
        if let Some(known) = self.experiments.get(&resource.key).await {
            self.metrics.resources.hits.inc();
            resource.name = Some(known);
            return Ok(());
        }
        self.metrics.resources.misses.inc();
        let found = self.experiments.try_get_with(resource.key.clone(), async {
            let target = lookups::experiment(&resource.key);
            let found = self.find::<ExperimentAnswer>(target).await.map_err(Some)?;
            found.and_then(|answer| answer.experiment.name).map(Arc::from).ok_or(None)
        });
        match found.await {
            Ok(name) => resource.name = Some(name),
            Err(error) => {
                if let Some(error) = Option::<Error>::clone(&error) {
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Removes the cached name of an experiment, because it was just renamed through the proxy.
    pub async fn forget_experiment(&self, id: &str) {
        self.experiments.invalidate(id).await;
    }

    /// Removes the cached resource of a name, because it was just created, deleted or renamed through the proxy.
    pub async fn forget_name(&self, name: &str) {
        self.names.invalidate(name).await;
    }

    /// Removes all cached names, because unknown changes were made through other processes.
    pub fn forget_names(&self) {
        self.experiments.invalidate_all();
        self.names.invalidate_all();
    }

    /// Returns the model or prompt with this name, under the name that MLflow returns.
    ///
    /// # Errors
    ///
    /// The name does not exist, or MLflow could not be asked.
    pub async fn model(&self, name: &str) -> Result<Resource, Error> {
        if let Some(known) = self.names.get(name).await {
            self.metrics.resources.hits.inc();
            return Ok(known);
        }
        self.metrics.resources.misses.inc();
        let found = self.names.try_get_with(name.to_owned(), async {
            let target = lookups::registered_model(name);
            match self.upstream.lookup(target).await.map_err(failed)? {
                Some(bytes) => parse::<ModelAnswer>(&bytes).map(|answer| answer.registered_model.resource()),
                None => Err(Error::NoSuchName(format!("Registered Model with name={name} not found"))),
            }
        });
        found.await.map_err(|error| Error::clone(&error))
    }

    async fn experiment_by_name(&self, name: &str) -> Result<Resource, Error> {
        // Names move between experiments, so they are never cached.
        let target = lookups::experiment_by_name(name);
        match self.upstream.lookup(target).await.map_err(failed)? {
            Some(bytes) => {
                let answer: ExperimentAnswer = parse(&bytes)?;
                let resource = Resource::new(ResourceKind::Experiment, answer.experiment.experiment_id);
                Ok(Resource { name: answer.experiment.name.map(Into::into), ..resource })
            }
            None => Err(Error::NoSuchName(format!("Could not find experiment with name '{name}'"))),
        }
    }

    async fn run(&self, id: &str) -> Result<Option<Home>, Error> {
        let ask = async || {
            let found = self.find::<RunAnswer>(lookups::run(id)).await?;
            Ok(found.map(|answer| answer.run.into()))
        };
        self.home(&self.runs, Child::Run, id, ask).await
    }

    async fn logged_model(&self, id: &str) -> Result<Option<Home>, Error> {
        let ask = async || {
            // INVARIANT: `locate` accepts letters, digits, `-` and `_` only, so the ID is one path segment.
            let found = self.find::<LoggedModelAnswer>(lookups::logged_model(id)).await?;
            Ok(found.map(|answer| answer.model.into()))
        };
        self.home(&self.logged_models, Child::LoggedModel, id, ask).await
    }

    async fn issue(&self, id: &str) -> Result<Option<Home>, Error> {
        let ask = async || {
            let found = self.find::<IssueAnswer>(lookups::issue(id)).await?;
            Ok(found.map(|answer| Home::of(answer.issue.experiment_id)))
        };
        self.other(Child::Issue, id, ask).await
    }

    async fn label_schema(&self, id: &str) -> Result<Option<Home>, Error> {
        let ask = async || {
            let target = lookups::label_schema(id);
            let found = self.find::<LabelSchemaAnswer>(target).await?;
            Ok(found.map(|answer| Home::of(answer.label_schema.experiment_id)))
        };
        self.other(Child::LabelSchema, id, ask).await
    }

    async fn prompt_job(&self, id: &str) -> Result<Option<Home>, Error> {
        let ask = async || {
            let found = self.find::<JobAnswer>(lookups::prompt_job(id)).await?;
            Ok(found.map(|answer| Home::of(answer.job.experiment_id)))
        };
        self.other(Child::PromptJob, id, ask).await
    }

    /// Returns the requirements of a configuration of online scoring. Clients request the configuration of every scorer, and
    /// MLflow omits those that do not exist. Never cached, because a configuration can be created at any time.
    async fn online_scorer(&self, permission: Permission, id: String) -> Result<Vec<Requirement>, Error> {
        let target = lookups::online_scorers(&id);
        let found = self.find::<OnlineScorers>(target).await?.unwrap_or_default().configs;
        let belonging = |config: InExperiment| {
            let owner = Some(Resource::new(ResourceKind::Experiment, config.experiment_id));
            Requirement::Belonging { permission, noun: "scorer", id: id.clone(), owner, tier: None }
        };
        Ok(found.into_iter().map(belonging).collect())
    }

    /// Returns the scorers whose configurations of online scoring have this ID. Never cached.
    ///
    /// # Errors
    ///
    /// MLflow could not be asked.
    pub async fn scorers_of(&self, id: &str) -> Result<Vec<Resource>, Error> {
        let configs = lookups::online_scorers(id);
        let configs = self.find::<OnlineScorers>(configs).await?.unwrap_or_default().configs;
        let mut scorers = Vec::new();
        for InExperiment { experiment_id } in configs {
            let all = lookups::scorers(&experiment_id);
            let all = self.find::<ScorerList>(all).await?.unwrap_or_default().scorers;
            let named = all.into_iter().filter(|scorer| scorer.scorer_id.as_deref() == Some(id));
            scorers
                .extend(named.map(|scorer| {
                    Resource::new(ResourceKind::Scorer, scorer_key(&experiment_id, &scorer.scorer_name))
                }));
        }
        Ok(scorers)
    }

    /// Returns the requirements of a dataset: all of its experiments must allow the access, and a dataset without an experiment
    /// has no owner. Never cached, because the experiments change.
    async fn dataset(&self, permission: Permission, id: String) -> Result<Vec<Requirement>, Error> {
        let target = lookups::experiments_of_dataset(&id);
        let found = self.find::<DatasetAnswer>(target).await?.unwrap_or_default().experiment_ids;
        let belonging =
            |owner| Requirement::Belonging { permission, noun: "dataset", id: id.clone(), owner, tier: None };
        if found.is_empty() {
            return Ok(vec![belonging(None)]);
        }
        Ok(found.into_iter().map(|id| belonging(Some(Resource::new(ResourceKind::Experiment, id)))).collect())
    }

    async fn other(
        &self,
        thing: Child,
        id: &str,
        ask: impl AsyncFnOnce() -> Result<Option<Home>, Error>,
    ) -> Result<Option<Home>, Error> {
        let key = (thing, id.to_owned());
        if let Some(known) = self.others.get(&key).await {
            self.metrics.resources.hits.inc();
            return Ok(Some(known));
        }
        self.metrics.resources.misses.inc();
        if self.absent.contains_key(&key) {
            return Ok(None);
        }
        let found = self.others.try_get_with(key.clone(), async { ask().await.map_err(Some)?.ok_or(None) }).await;
        self.or_absent(key, found).await
    }

    /// Sends one fixed request; returns `None` if the object does not exist.
    async fn find<T: for<'a> Deserialize<'a>>(&self, target: String) -> Result<Option<T>, Error> {
        let found = self.upstream.lookup(target).await.map_err(failed)?;
        found.map(|bytes| parse::<T>(&bytes)).transpose()
    }

    async fn home(
        &self,
        cache: &Cache<String, Home>,
        thing: Child,
        id: &str,
        ask: impl AsyncFnOnce() -> Result<Option<Home>, Error>,
    ) -> Result<Option<Home>, Error> {
        if let Some(known) = cache.get(id).await {
            self.metrics.resources.hits.inc();
            return Ok(Some(known));
        }
        self.metrics.resources.misses.inc();
        if self.absent.contains_key(&(thing, id.to_owned())) {
            return Ok(None);
        }
        let found = cache.try_get_with(id.to_owned(), async { ask().await.map_err(Some)?.ok_or(None) }).await;
        self.or_absent((thing, id.to_owned()), found).await
    }

    async fn or_absent(
        &self,
        key: (Child, String),
        found: Result<Home, Arc<Option<Error>>>,
    ) -> Result<Option<Home>, Error> {
        match found {
            Ok(home) => Ok(Some(home)),
            Err(error) => match Option::<Error>::clone(&error) {
                Some(error) => Err(error),
                None => {
                    self.absent.insert(key, ()).await;
                    Ok(None)
                }
            },
        }
    }
}

impl From<Run> for Home {
    fn from(run: Run) -> Self {
        Self { experiment: run.info.experiment_id.into(), artifacts: run.info.artifact_uri.into() }
    }
}

impl From<LoggedModel> for Home {
    fn from(model: LoggedModel) -> Self {
        Self { experiment: model.info.experiment_id.into(), artifacts: model.info.artifact_uri.into() }
    }
}

fn experiment(home: &Home) -> Resource {
    Resource::new(ResourceKind::Experiment, &*home.experiment)
}

/// Returns a name in the form in which databases that ignore case and trailing spaces compare it.
pub fn folded(name: &str) -> String {
    name.trim_end().to_lowercase()
}

fn failed(error: upstream::Error) -> Error {
    Error::Upstream(Arc::new(error))
}

impl From<upstream::Error> for Error {
    fn from(error: upstream::Error) -> Self {
        failed(error)
    }
}

fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|_| failed(upstream::Error::NotUnderstood))
}
