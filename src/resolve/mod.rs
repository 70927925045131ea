//! Which resource does a thing belong to? Run -> experiment, logged model -> experiment, name -> model or prompt.
//!
//! Cache first, then one fixed look-up in MLflow, shared by everyone who waits for it. When we cannot look, the answer
//! is an error, and an error is a no.

use std::sync::Arc;
use std::time::Duration;

use moka::future::Cache;
use serde::Deserialize;

use crate::authz::{Permission, Requirement, Resource, ResourceKind};
use crate::http::Query;
use crate::mlflow::{ArtifactPath, Located, PROMPT_TAG, Thing};
use crate::telemetry::Metrics;
use crate::upstream::{self, Upstream};

/// Why a thing could not be resolved.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// A name that MLflow does not know. Names are no secret: creating one tells.
    #[error("{0}")]
    NoSuchName(String),
    #[error(transparent)]
    Upstream(Arc<upstream::Error>),
}

/// Finds the resource behind ids and names.
#[derive(Debug)]
pub struct Resolver {
    upstream: Upstream,
    metrics: Arc<Metrics>,
    /// Immutable in MLflow: a run never changes its experiment.
    runs: Cache<String, Home>,
    logged_models: Cache<String, Home>,
    /// A name is a model or a prompt; short-lived, because other writers exist.
    names: Cache<String, Resource>,
    /// Ids that were not found, so that guessing does not load MLflow.
    absent: Cache<(Owned, String), ()>,
}

/// Where a run or logged model lives.
#[derive(Clone, Debug)]
struct Home {
    experiment: Arc<str>,
    artifacts: Arc<str>,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Owned {
    Run,
    LoggedModel,
}

const ENTRIES: u64 = 1_000_000;
const NAME_TTL: Duration = Duration::from_secs(5);
const ABSENT_TTL: Duration = Duration::from_secs(2);

impl Resolver {
    /// A resolver with empty caches.
    #[must_use]
    pub fn new(upstream: Upstream, metrics: Arc<Metrics>) -> Self {
        Self {
            upstream,
            metrics,
            runs: Cache::new(ENTRIES),
            logged_models: Cache::new(ENTRIES),
            names: Cache::builder().max_capacity(100_000).time_to_live(NAME_TTL).build(),
            absent: Cache::builder().max_capacity(100_000).time_to_live(ABSENT_TTL).build(),
        }
    }

    /// The requirement of a thing that names its resource itself; gives back what has to be looked up.
    ///
    /// # Errors
    /// The thing, untouched.
    pub fn at_hand(located: Located) -> Result<Requirement, Located> {
        match located.thing {
            Thing::Experiment => Ok(level(located.permission, Resource::new(ResourceKind::Experiment, located.id))),
            Thing::Artifact => {
                let path = ArtifactPath::parse(&located.id).ok();
                Ok(match path.as_ref().and_then(ArtifactPath::experiment) {
                    Some(experiment) => level(located.permission, Resource::new(ResourceKind::Experiment, experiment)),
                    None => Requirement::Privileged("use artifact paths that do not start with an experiment id"),
                })
            }
            Thing::ExperimentName | Thing::Model | Thing::Run | Thing::LoggedModel => Err(located),
        }
    }

    /// The requirement that a located thing comes to.
    ///
    /// # Errors
    /// A name that does not exist, or MLflow could not be asked.
    pub async fn requirement(&self, located: Located) -> Result<Requirement, Error> {
        let Located { permission, thing, id } = match Self::at_hand(located) {
            Ok(requirement) => return Ok(requirement),
            Err(located) => located,
        };
        Ok(match thing {
            // Answered above; were it not so, the answer is no.
            Thing::Experiment | Thing::Artifact => Requirement::Privileged("do this"),
            Thing::ExperimentName => level(permission, self.experiment_by_name(&id).await?),
            Thing::Model => level(permission, self.model(&id).await?),
            Thing::Run => {
                let owner = self.run(&id).await?.map(|home| experiment(&home));
                Requirement::Belonging { permission, noun: "run", id, owner, tier: Some(ResourceKind::Run) }
            }
            Thing::LoggedModel => {
                let owner = self.logged_model(&id).await?.map(|home| experiment(&home));
                Requirement::Belonging {
                    permission,
                    noun: "logged model",
                    id,
                    owner,
                    tier: Some(ResourceKind::LoggedModel),
                }
            }
        })
    }

    /// Whether a URI lies inside the artifacts of the run or logged model that goes with it.
    ///
    /// # Errors
    /// MLflow could not be asked.
    pub async fn is_inside(&self, uri: &str, run: Option<&str>, model: Option<&str>) -> Result<bool, Error> {
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

    /// Notes a run's experiment from an answer that passed through, so that its first metric needs no look-up.
    pub async fn learn_run(&self, create_run_answer: &[u8]) {
        if let Ok(answer) = serde_json::from_slice::<RunAnswer>(create_run_answer) {
            let id = answer.run.info.run_id.clone();
            self.runs.insert(id, answer.run.into()).await;
        }
    }

    /// Forgets what a name stands for, because it was just created, deleted or renamed through us.
    pub async fn forget_name(&self, name: &str) {
        self.names.invalidate(name).await;
    }

    /// The model or prompt of this name, under the name MLflow returns.
    ///
    /// # Errors
    /// No such name, or MLflow could not be asked.
    pub async fn model(&self, name: &str) -> Result<Resource, Error> {
        if let Some(known) = self.names.get(name).await {
            self.metrics.resources.hits.inc();
            return Ok(known);
        }
        self.metrics.resources.misses.inc();
        let found = self.names.try_get_with(name.to_owned(), async {
            let target = target("/api/2.0/mlflow/registered-models/get", "name", name);
            match self.upstream.lookup(target).await.map_err(failed)? {
                Some(bytes) => parse::<ModelAnswer>(&bytes).map(|answer| answer.registered_model.resource()),
                None => Err(Error::NoSuchName(format!("Registered Model with name={name} not found"))),
            }
        });
        found.await.map_err(|error| Error::clone(&error))
    }

    /// When the thing of this kind and name was created in MLflow (Unix ms), and which resource it is; `None` when it is
    /// not there. Never cached: asked when an effect was interrupted.
    ///
    /// # Errors
    /// MLflow could not be asked.
    pub async fn born(&self, kind: ResourceKind, name: &str) -> Result<Option<(Resource, i64)>, Error> {
        let path_and_field = match kind {
            ResourceKind::Experiment => ("/api/2.0/mlflow/experiments/get-by-name", "experiment_name"),
            _ => ("/api/2.0/mlflow/registered-models/get", "name"),
        };
        let Some(bytes) =
            self.upstream.lookup(target(path_and_field.0, path_and_field.1, name)).await.map_err(failed)?
        else {
            return Ok(None);
        };
        if kind == ResourceKind::Experiment {
            let found = parse::<ExperimentAnswer>(&bytes)?.experiment;
            return Ok(Some((Resource::new(kind, found.experiment_id), found.creation_time)));
        }
        let found = parse::<ModelAnswer>(&bytes)?.registered_model;
        let born = found.creation_timestamp;
        Ok(Some((found.resource(), born)))
    }

    async fn experiment_by_name(&self, name: &str) -> Result<Resource, Error> {
        // Names move between experiments: never cached.
        let target = target("/api/2.0/mlflow/experiments/get-by-name", "experiment_name", name);
        match self.upstream.lookup(target).await.map_err(failed)? {
            Some(bytes) => {
                let answer: ExperimentAnswer = parse(&bytes)?;
                Ok(Resource::new(ResourceKind::Experiment, answer.experiment.experiment_id))
            }
            None => Err(Error::NoSuchName(format!("Could not find experiment with name '{name}'"))),
        }
    }

    async fn run(&self, id: &str) -> Result<Option<Home>, Error> {
        let ask = async || {
            let target = target("/api/2.0/mlflow/runs/get", "run_id", id);
            let Some(bytes) = self.upstream.lookup(target).await.map_err(failed)? else { return Ok(None) };
            Ok(Some(parse::<RunAnswer>(&bytes)?.run.into()))
        };
        self.home(&self.runs, Owned::Run, id, ask).await
    }

    async fn logged_model(&self, id: &str) -> Result<Option<Home>, Error> {
        let ask = async || {
            // INVARIANT: `locate` accepts letters, digits, `-` and `_` only, so the id is one path segment.
            let target = format!("/api/2.0/mlflow/logged-models/{id}");
            let Some(bytes) = self.upstream.lookup(target).await.map_err(failed)? else { return Ok(None) };
            Ok(Some(parse::<LoggedModelAnswer>(&bytes)?.model.into()))
        };
        self.home(&self.logged_models, Owned::LoggedModel, id, ask).await
    }

    async fn home(
        &self,
        cache: &Cache<String, Home>,
        thing: Owned,
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
        match found {
            Ok(home) => Ok(Some(home)),
            Err(error) => match Option::<Error>::clone(&error) {
                Some(error) => Err(error),
                None => {
                    self.absent.insert((thing, id.to_owned()), ()).await;
                    Ok(None)
                }
            },
        }
    }
}

fn level(permission: Permission, resource: Resource) -> Requirement {
    Requirement::level(permission, resource)
}

fn experiment(home: &Home) -> Resource {
    Resource::new(ResourceKind::Experiment, &*home.experiment)
}

fn target(path: &str, name: &str, value: &str) -> String {
    let mut query = Query::default();
    query.set(name, Some(value));
    format!("{path}?{}", query.encoded())
}

fn failed(error: upstream::Error) -> Error {
    Error::Upstream(Arc::new(error))
}

fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|_| failed(upstream::Error::NotUnderstood))
}

#[derive(Deserialize)]
struct ExperimentAnswer {
    experiment: ExperimentId,
}

#[derive(Deserialize)]
struct ExperimentId {
    experiment_id: String,
    #[serde(default)]
    creation_time: i64,
}

#[derive(Deserialize)]
struct RunAnswer {
    run: Run,
}

#[derive(Deserialize)]
struct Run {
    info: RunInfo,
}

#[derive(Deserialize)]
struct RunInfo {
    run_id: String,
    experiment_id: String,
    #[serde(default)]
    artifact_uri: String,
}

impl From<Run> for Home {
    fn from(run: Run) -> Self {
        Self { experiment: run.info.experiment_id.into(), artifacts: run.info.artifact_uri.into() }
    }
}

#[derive(Deserialize)]
struct LoggedModelAnswer {
    model: LoggedModel,
}

#[derive(Deserialize)]
struct LoggedModel {
    info: LoggedModelInfo,
}

#[derive(Deserialize)]
struct LoggedModelInfo {
    experiment_id: String,
    #[serde(default)]
    artifact_uri: String,
}

impl From<LoggedModel> for Home {
    fn from(model: LoggedModel) -> Self {
        Self { experiment: model.info.experiment_id.into(), artifacts: model.info.artifact_uri.into() }
    }
}

#[derive(Deserialize)]
struct ModelAnswer {
    registered_model: RegisteredModel,
}

/// A registered model or prompt, as far as permissions are concerned.
#[derive(Debug, Deserialize)]
pub struct RegisteredModel {
    pub name: String,
    #[serde(default)]
    creation_timestamp: i64,
    #[serde(default)]
    tags: Vec<Tag>,
}

#[derive(Debug, Deserialize)]
struct Tag {
    key: String,
    #[serde(default)]
    value: String,
}

impl RegisteredModel {
    /// A prompt is a registered model whose tag says so (MLflow 3.17: case-insensitive, the last tag wins).
    #[must_use]
    pub fn resource(self) -> Resource {
        let tag = self.tags.iter().rev().find(|tag| tag.key == PROMPT_TAG);
        let prompt = tag.is_some_and(|tag| tag.value.eq_ignore_ascii_case("true"));
        Resource::new(if prompt { ResourceKind::Prompt } else { ResourceKind::RegisteredModel }, self.name)
    }
}
