//! Is it there, and since when? Asked when an effect was interrupted; never cached.

use serde::Deserialize;

use super::answers::{EndpointAnswer, ExperimentAnswer, ModelAnswer};
use super::{Error, Resolver, target};
use crate::authz::{Resource, ResourceKind};

impl Resolver {
    /// Which resource the thing of this kind and name is, and when it was created in MLflow (Unix ms; 0 when MLflow does
    /// not say); `None` when it is not there.
    ///
    /// # Errors
    /// MLflow could not be asked.
    pub async fn born(&self, kind: ResourceKind, name: &str) -> Result<Option<(Resource, i64)>, Error> {
        let at = |key: &str, born: i64| Some((Resource::new(kind, key), born));
        Ok(match kind {
            ResourceKind::Experiment => {
                let target = target("/api/2.0/mlflow/experiments/get-by-name", "experiment_name", name);
                let found = self.find::<ExperimentAnswer>(target).await?.map(|answer| answer.experiment);
                found.and_then(|found| at(&found.experiment_id, found.creation_time))
            }
            ResourceKind::RegisteredModel | ResourceKind::Prompt => {
                let target = target("/api/2.0/mlflow/registered-models/get", "name", name);
                let found = self.find::<ModelAnswer>(target).await?.map(|answer| answer.registered_model);
                found.map(|found| {
                    let born = found.creation_timestamp;
                    (found.resource(), born)
                })
            }
            ResourceKind::GatewayEndpoint => {
                let target = target("/api/3.0/mlflow/gateway/endpoints/get", "name", name);
                let found = self.find::<EndpointAnswer>(target).await?.map(|answer| answer.endpoint);
                found.and_then(|found| at(&found.endpoint_id, found.created_at))
            }
            ResourceKind::GatewaySecret => {
                let all = self.find::<Secrets>("/api/3.0/mlflow/gateway/secrets/list".to_owned()).await?;
                let found = all.unwrap_or_default().secrets.into_iter().find(|secret| secret.secret_name == name);
                found.and_then(|found| at(&found.secret_id, found.created_at))
            }
            ResourceKind::GatewayModelDefinition => {
                let all = "/api/3.0/mlflow/gateway/model-definitions/list".to_owned();
                let all = self.find::<Definitions>(all).await?.unwrap_or_default().model_definitions;
                let found = all.into_iter().find(|definition| definition.name == name);
                found.and_then(|found| at(&found.model_definition_id, found.created_at))
            }
            ResourceKind::Scorer | ResourceKind::McpServer => {
                self.is_there(kind, name).await?.then(|| (Resource::new(kind, name), 0))
            }
            // Nothing of these kinds is found by a name.
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

    /// Whether the thing that grants call `key` is there.
    ///
    /// # Errors
    /// MLflow could not be asked.
    pub async fn is_there(&self, kind: ResourceKind, key: &str) -> Result<bool, Error> {
        let target = match kind {
            ResourceKind::Experiment => target("/api/2.0/mlflow/experiments/get", "experiment_id", key),
            ResourceKind::RegisteredModel | ResourceKind::Prompt => {
                target("/api/2.0/mlflow/registered-models/get", "name", key)
            }
            ResourceKind::GatewaySecret => target("/api/3.0/mlflow/gateway/secrets/get", "secret_id", key),
            ResourceKind::GatewayEndpoint => target("/api/3.0/mlflow/gateway/endpoints/get", "endpoint_id", key),
            ResourceKind::GatewayModelDefinition => {
                target("/api/3.0/mlflow/gateway/model-definitions/get", "model_definition_id", key)
            }
            // INVARIANT: `locate` accepts two segments of letters, digits and `-_.~`.
            ResourceKind::McpServer => format!("/api/3.0/mlflow/mcp-servers/{key}"),
            ResourceKind::Scorer => {
                let (experiment, name) = key.split_once('/').unwrap_or((key, ""));
                // The name is percent-encoded in the key.
                format!("/api/3.0/mlflow/scorers/get?experiment_id={experiment}&name={name}")
            }
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

#[derive(Default, Deserialize)]
struct Secrets {
    #[serde(default)]
    secrets: Vec<Secret>,
}

#[derive(Deserialize)]
struct Secret {
    secret_id: String,
    secret_name: String,
    #[serde(default)]
    created_at: i64,
}

#[derive(Default, Deserialize)]
struct Definitions {
    #[serde(default)]
    model_definitions: Vec<Definition>,
}

#[derive(Deserialize)]
struct Definition {
    model_definition_id: String,
    name: String,
    #[serde(default)]
    created_at: i64,
}
