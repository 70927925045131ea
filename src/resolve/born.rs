//! Existence, creation time and stored name of resources. Never cached.

use std::ops::ControlFlow;
use std::time::Duration;

use serde::Deserialize;

use super::paged::Page;
use super::{Error, Resolver};
use crate::authz::{Resource, ResourceKind, Selector, scorer_key, skill_key};
use crate::http::Query;
use crate::mlflow::answers::{
    EndpointAnswer, ExperimentAnswer, ExperimentId, ModelAnswer, RegisteredModel, ScorerAnswer,
};
use crate::mlflow::{PROMPT_TAG, lookups};

impl Resolver {
    /// Returns the resource with this kind and name, and its creation time in MLflow (Unix ms; 0 if MLflow does not return it);
    /// `None` if it does not exist.
    ///
    /// # Errors
    ///
    /// MLflow could not be asked.
    pub async fn born(&self, kind: ResourceKind, name: &str) -> Result<Option<(Resource, i64)>, Error> {
        let at = |key: &str, born: i64| Some((Resource::new(kind, key), born));
        Ok(match kind {
            ResourceKind::Experiment => {
                let target = lookups::experiment_by_name(name);
                let found = self.find::<ExperimentAnswer>(target).await?.map(|answer| answer.experiment);
                found.and_then(|found| at(&found.experiment_id, found.creation_time))
            }
            ResourceKind::RegisteredModel | ResourceKind::Prompt => {
                let target = lookups::registered_model(name);
                let found = self.find::<ModelAnswer>(target).await?.map(|answer| answer.registered_model);
                found.map(|found| {
                    let born = found.creation_timestamp;
                    (found.resource(), born)
                })
            }
            ResourceKind::GatewayEndpoint => {
                let target = lookups::endpoint_by_name(name);
                let found = self.find::<EndpointAnswer>(target).await?.map(|answer| answer.endpoint);
                found.and_then(|found| at(&found.endpoint_id, found.created_at))
            }
            ResourceKind::GatewaySecret => {
                let all = self.find::<Secrets>(lookups::SECRETS.to_owned()).await?;
                let found = all.unwrap_or_default().secrets.into_iter().find(|secret| secret.secret_name == name);
                found.and_then(|found| at(&found.secret_id, found.created_at))
            }
            ResourceKind::GatewayModelDefinition => {
                let all = lookups::MODEL_DEFINITIONS.to_owned();
                let all = self.find::<Definitions>(all).await?.unwrap_or_default().model_definitions;
                let found = all.into_iter().find(|definition| definition.name == name);
                found.and_then(|found| at(&found.model_definition_id, found.created_at))
            }
            ResourceKind::McpServer | ResourceKind::Skill => {
                let found = self.named(kind, name).await?;
                found.and_then(|found| at(name, found.creation_timestamp.unwrap_or_default()))
            }
            ResourceKind::Scorer => self.is_there(kind, name).await?.then(|| (Resource::new(kind, name), 0)),
            // Resources of these kinds cannot be found by name.
            ResourceKind::Run
            | ResourceKind::Trace
            | ResourceKind::Assessment
            | ResourceKind::LoggedModel
            | ResourceKind::ReviewQueue
            | ResourceKind::RegisteredModelVersion
            | ResourceKind::PromptVersion
            | ResourceKind::ScorerVersion
            | ResourceKind::McpServerVersion
            | ResourceKind::Job
            | ResourceKind::Workspace => None,
        })
    }

    /// Returns the time at which MLflow created the resource with the grant key `key` (Unix ms); for a scorer, that of its
    /// experiment. Returns `None` if the resource does not exist or MLflow does not return the time.
    ///
    /// # Errors
    ///
    /// MLflow could not be asked.
    pub async fn created(&self, kind: ResourceKind, key: &str) -> Result<Option<i64>, Error> {
        let created = match kind {
            ResourceKind::RegisteredModel | ResourceKind::Prompt => {
                let found = self.find::<ModelAnswer>(lookups::registered_model(key)).await?;
                // A database that ignores case can return another resource than the one in the grant.
                found
                    .map(|answer| answer.registered_model)
                    .filter(|found| found.name == key)
                    .map(|it| it.creation_timestamp)
            }
            ResourceKind::Experiment | ResourceKind::Scorer => {
                let (experiment, _) = key.split_once('/').unwrap_or((key, ""));
                let target = lookups::experiment(experiment);
                self.find::<ExperimentAnswer>(target).await?.map(|answer| answer.experiment.creation_time)
            }
            ResourceKind::McpServer | ResourceKind::Skill => {
                let found = self.named(kind, key).await?.filter(|found| found.key() == key);
                found.and_then(|found| found.creation_timestamp)
            }
            _ => None,
        };
        Ok(created.filter(|created| *created > 0))
    }

    /// Returns the experiments, the registered models and prompts, the MCP servers, or the skills that MLflow created at or after
    /// `since` (Unix ms).
    /// Includes models that were changed since then, because MLflow sorts models by their last change only.
    ///
    /// # Errors
    ///
    /// MLflow could not be asked.
    pub async fn newest(&self, kind: ResourceKind, since: i64) -> Result<Vec<Dated>, Error> {
        let mut found = Vec::new();
        if let Some(path) = lookups::list_of(kind) {
            self.named_since(path, since, &mut found).await?;
        } else if kind == ResourceKind::Experiment {
            let dated = |row: ExperimentId| Dated {
                key: row.experiment_id,
                created: row.creation_time,
                position: row.creation_time,
            };
            self.experiments_since(since, |experiment| found.push(dated(experiment))).await?;
        } else {
            let prompts = format!("tags.`{PROMPT_TAG}` = 'true'");
            // MLflow 2.21 and later excludes prompts unless the filter includes them.
            for filter in [None, Some(prompts.as_str())] {
                let mut query = Query::default();
                query.set("order_by", Some("last_updated_timestamp DESC"));
                query.set("filter", filter);
                let path = lookups::REGISTERED_MODELS;
                let take = |page: Models| {
                    let is_older = |row: &RegisteredModel| row.last_updated_timestamp < since;
                    let is_last = page.registered_models.last().is_none_or(is_older);
                    let newer = page.registered_models.into_iter().filter(|row| !is_older(row));
                    found.extend(newer.map(|row| Dated {
                        key: row.name,
                        created: row.creation_timestamp,
                        position: row.last_updated_timestamp,
                    }));
                    if is_last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                };
                self.each_page(path, query, take).await?;
            }
        }
        // Without a creation time, a new resource cannot be distinguished from an earlier one.
        found.retain(|one| one.created > 0);
        Ok(found)
    }

    /// Returns the key under which MLflow stores the resource that a request refers to as `key`. Databases may ignore case and
    /// trailing spaces. A resource that does not exist keeps the key of the request.
    ///
    /// # Errors
    ///
    /// MLflow could not be asked.
    pub async fn stored_key(&self, kind: ResourceKind, key: String) -> Result<String, Error> {
        let stored = match kind {
            ResourceKind::RegisteredModel | ResourceKind::Prompt => {
                let found = self.find::<ModelAnswer>(lookups::registered_model(&key)).await?;
                found.map(|answer| answer.registered_model.name)
            }
            ResourceKind::McpServer => self.named(kind, &key).await?.and_then(|server| server.name),
            ResourceKind::Scorer => {
                let (experiment, _) = key.split_once('/').unwrap_or((&key, ""));
                let found = self.find::<ScorerAnswer>(lookups::scorer_of_key(&key)).await?;
                found.and_then(|answer| answer.scorer.scorer_name).map(|name| scorer_key(experiment, &name))
            }
            // Their keys are IDs that MLflow chose.
            _ => None,
        };
        Ok(stored.unwrap_or(key))
    }

    /// Returns true if a selector identifies one resource that MLflow does not have, or has as another kind. Returns false for
    /// patterns, for kinds that cannot be looked up, and if MLflow does not respond in time.
    pub async fn lacks(&self, kind: ResourceKind, selector: &Selector) -> bool {
        let Selector::Exact(key) = selector else { return false };
        let found = async {
            match kind {
                ResourceKind::RegisteredModel | ResourceKind::Prompt => match self.model(key).await {
                    Ok(found) => Ok(found.kind == kind),
                    Err(Error::NoSuchName(_)) => Ok(false),
                    Err(error) => Err(error),
                },
                ResourceKind::Experiment
                | ResourceKind::GatewaySecret
                | ResourceKind::GatewayEndpoint
                | ResourceKind::GatewayModelDefinition => self.is_there(kind, key).await,
                ResourceKind::McpServer
                | ResourceKind::Skill
                | ResourceKind::Scorer
                | ResourceKind::Run
                | ResourceKind::Trace
                | ResourceKind::Assessment
                | ResourceKind::LoggedModel
                | ResourceKind::ReviewQueue
                | ResourceKind::RegisteredModelVersion
                | ResourceKind::PromptVersion
                | ResourceKind::ScorerVersion
                | ResourceKind::McpServerVersion
                | ResourceKind::Job
                | ResourceKind::Workspace => Ok(true),
            }
        };
        matches!(tokio::time::timeout(PATIENCE, found).await, Ok(Ok(false)))
    }

    /// Returns true if the resource with the grant key `key` exists.
    ///
    /// # Errors
    ///
    /// MLflow could not be asked.
    pub async fn is_there(&self, kind: ResourceKind, key: &str) -> Result<bool, Error> {
        let target = match kind {
            ResourceKind::Experiment => lookups::experiment(key),
            ResourceKind::RegisteredModel | ResourceKind::Prompt => lookups::registered_model(key),
            ResourceKind::GatewaySecret => lookups::secret(key),
            ResourceKind::GatewayEndpoint => lookups::endpoint(key),
            ResourceKind::GatewayModelDefinition => lookups::model_definition(key),
            ResourceKind::McpServer | ResourceKind::Skill => match lookups::by_path(kind, key) {
                Some(target) => target,
                None => return Ok(false),
            },
            ResourceKind::Scorer => lookups::scorer_of_key(key),
            ResourceKind::Run
            | ResourceKind::Trace
            | ResourceKind::Assessment
            | ResourceKind::LoggedModel
            | ResourceKind::ReviewQueue
            | ResourceKind::RegisteredModelVersion
            | ResourceKind::PromptVersion
            | ResourceKind::ScorerVersion
            | ResourceKind::McpServerVersion
            | ResourceKind::Job
            | ResourceKind::Workspace => return Ok(false),
        };
        Ok(self.upstream.lookup(target).await.map_err(super::failed)?.is_some())
    }
}

impl Resolver {
    /// Returns the MCP server or skill with this name.
    async fn named(&self, kind: ResourceKind, key: &str) -> Result<Option<Named>, Error> {
        match lookups::by_path(kind, key) {
            Some(target) => self.find::<Named>(target).await,
            None => Ok(None),
        }
    }

    /// Collects the MCP servers or skills of a list that MLflow created at or after `since` (Unix ms).
    async fn named_since(&self, path: &str, since: i64, found: &mut Vec<Dated>) -> Result<(), Error> {
        let exists = self.find::<serde::de::IgnoredAny>(format!("{path}?max_results=1")).await?.is_some();
        if !exists {
            return Ok(()); // MLflow is older than these lists.
        }
        let mut query = Query::default();
        query.set("order_by", Some("created_at DESC"));
        let take = |page: Registry| {
            let is_older = |row: &Named| row.creation_timestamp.is_some_and(|created| created < since);
            let is_last = page.rows.last().is_none_or(is_older);
            let newer = page.rows.into_iter().filter(|row| !is_older(row));
            found.extend(newer.map(|row| {
                let created = row.creation_timestamp.unwrap_or_default();
                Dated { key: row.key(), created, position: created }
            }));
            if is_last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        self.each_page(path, query, take).await
    }
}

/// Maximum time that a command or a request waits for the check that the resource in its grant exists.
const PATIENCE: Duration = Duration::from_secs(2);

/// A resource and its creation time.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Dated {
    pub key: String,
    /// Unix ms.
    pub created: i64,
    /// The time by which MLflow sorts the list (Unix ms).
    pub position: i64,
}

#[derive(Deserialize)]
struct Models {
    #[serde(default)]
    registered_models: Vec<RegisteredModel>,
    next_page_token: Option<String>,
}

impl Page for Models {
    fn next_page_token(&mut self) -> Option<String> {
        self.next_page_token.take()
    }
}

/// An MCP server or a skill.
#[derive(Deserialize)]
struct Named {
    name: Option<String>,
    /// Of a skill; empty without one.
    #[serde(default)]
    organization: String,
    /// Unix ms.
    creation_timestamp: Option<i64>,
}

impl Named {
    /// Returns its key in grants.
    fn key(&self) -> String {
        skill_key(&self.organization, self.name.as_deref().unwrap_or_default())
    }
}

#[derive(Deserialize)]
struct Registry {
    #[serde(alias = "mcp_servers", alias = "skills")]
    rows: Vec<Named>,
    next_page_token: Option<String>,
}

impl Page for Registry {
    fn next_page_token(&mut self) -> Option<String> {
        self.next_page_token.take()
    }
}

#[derive(Default, Deserialize)]
pub(super) struct Secrets {
    #[serde(default)]
    pub(super) secrets: Vec<Secret>,
}

#[derive(Deserialize)]
pub(super) struct Secret {
    pub(super) secret_id: String,
    pub(super) secret_name: String,
    #[serde(default)]
    created_at: i64,
}

#[derive(Default, Deserialize)]
pub(super) struct Definitions {
    #[serde(default)]
    pub(super) model_definitions: Vec<Definition>,
}

#[derive(Deserialize)]
pub(super) struct Definition {
    pub(super) model_definition_id: String,
    pub(super) name: String,
    #[serde(default)]
    created_at: i64,
}
