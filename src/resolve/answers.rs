//! MLflow's answers to the fixed look-ups, as far as they are read.
//!
//! Shapes of MLflow 2.10 to 3.18; what is not named here may change.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::Home;
use crate::authz::{Resource, ResourceKind};
use crate::mlflow::{PROMPT_TAG, StoredSecret, scorer_key};

#[derive(Deserialize)]
pub(super) struct ExperimentAnswer {
    pub(super) experiment: ExperimentId,
}

#[derive(Deserialize)]
pub(super) struct ExperimentId {
    pub(super) experiment_id: String,
    #[serde(default)]
    pub(super) name: Option<String>,
    #[serde(default)]
    pub(super) creation_time: i64,
    #[serde(default)]
    pub(super) artifact_location: String,
}

#[derive(Deserialize)]
pub(super) struct RunAnswer {
    pub(super) run: Run,
}

#[derive(Deserialize)]
pub(super) struct Run {
    pub(super) info: RunInfo,
}

#[derive(Deserialize)]
pub(super) struct RunInfo {
    pub(super) run_id: String,
    pub(super) experiment_id: String,
    #[serde(default)]
    pub(super) artifact_uri: String,
}

impl From<Run> for Home {
    fn from(run: Run) -> Self {
        Self { experiment: run.info.experiment_id.into(), artifacts: run.info.artifact_uri.into() }
    }
}

#[derive(Deserialize)]
pub(super) struct LoggedModelAnswer {
    pub(super) model: LoggedModel,
}

#[derive(Deserialize)]
pub(super) struct LoggedModel {
    pub(super) info: LoggedModelInfo,
}

#[derive(Deserialize)]
pub(super) struct LoggedModelInfo {
    pub(super) experiment_id: String,
    #[serde(default)]
    pub(super) artifact_uri: String,
}

impl From<LoggedModel> for Home {
    fn from(model: LoggedModel) -> Self {
        Self { experiment: model.info.experiment_id.into(), artifacts: model.info.artifact_uri.into() }
    }
}

#[derive(Deserialize)]
pub(super) struct ModelAnswer {
    pub(super) registered_model: RegisteredModel,
}

/// A registered model or prompt, as far as permissions are concerned.
#[derive(Debug, Deserialize)]
pub struct RegisteredModel {
    pub name: String,
    #[serde(default)]
    pub(super) creation_timestamp: i64,
    #[serde(default)]
    pub(super) last_updated_timestamp: i64,
    #[serde(default)]
    pub(super) tags: Vec<Tag>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Tag {
    pub(super) key: String,
    #[serde(default)]
    pub(super) value: String,
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

#[derive(Deserialize)]
pub(super) struct TraceAnswer {
    pub(super) trace: Trace,
}

#[derive(Deserialize)]
pub(super) struct Trace {
    pub(super) trace_info: TraceInfo,
}

/// The assessments of a trace, as `GET traces/{id}` answers them.
#[derive(Deserialize)]
pub(super) struct AssessedTraceAnswer {
    pub(super) trace: AssessedTrace,
}

#[derive(Deserialize)]
pub(super) struct AssessedTrace {
    pub(super) trace_info: AssessedTraceInfo,
}

#[derive(Deserialize)]
pub(super) struct AssessedTraceInfo {
    #[serde(default)]
    pub(super) assessments: Vec<AssessmentOfTrace>,
}

#[derive(Deserialize)]
pub(super) struct AssessmentOfTrace {
    #[serde(default)]
    pub(super) assessment_id: String,
}

#[derive(Deserialize)]
pub(super) struct TraceBatch {
    #[serde(default)]
    pub(super) trace_infos: Vec<TraceInfo>,
}

#[derive(Deserialize)]
pub(super) struct TraceInfo {
    trace_id: String,
    trace_location: TraceLocation,
}

impl TraceInfo {
    /// Its id and where it is; `None` for traces that are in no experiment.
    pub(super) fn home(self) -> Option<(String, Home)> {
        Some((self.trace_id, Home::of(self.trace_location.mlflow_experiment?.experiment_id)))
    }
}

#[derive(Deserialize)]
struct TraceLocation {
    mlflow_experiment: Option<InExperiment>,
}

/// Anything of which only the experiment is read.
#[derive(Deserialize)]
pub(super) struct InExperiment {
    pub(super) experiment_id: String,
}

#[derive(Deserialize)]
pub(super) struct TraceAnswerV2 {
    pub(super) trace_info: InExperiment,
}

#[derive(Deserialize)]
pub(super) struct IssueAnswer {
    pub(super) issue: InExperiment,
}

#[derive(Deserialize)]
pub(super) struct LabelSchemaAnswer {
    pub(super) label_schema: InExperiment,
}

#[derive(Deserialize)]
pub(super) struct JobAnswer {
    pub(super) job: InExperiment,
}

#[derive(Default, Deserialize)]
pub(super) struct OnlineScorers {
    #[serde(default)]
    pub(super) configs: Vec<InExperiment>,
}

#[derive(Default, Deserialize)]
pub(super) struct ScorerList {
    #[serde(default)]
    pub(super) scorers: Vec<ListedScorer>,
}

#[derive(Deserialize)]
pub(super) struct ListedScorer {
    pub(super) scorer_id: Option<String>,
    pub(super) scorer_name: String,
}

#[derive(Default, Deserialize)]
pub(super) struct DatasetAnswer {
    #[serde(default)]
    pub(super) experiment_ids: Vec<String>,
}

#[derive(Deserialize)]
pub(super) struct QueueAnswer {
    pub(super) review_queue: Queue,
}

/// A review queue, as far as permissions are concerned.
#[derive(Debug, Deserialize)]
pub struct Queue {
    experiment_id: String,
    /// Who works on it.
    #[serde(default)]
    pub users: Vec<String>,
    /// Its owner.
    #[serde(default)]
    pub created_by: String,
    #[serde(default)]
    pub queue_type: String,
}

impl Queue {
    /// The experiment it belongs to.
    #[must_use]
    pub fn experiment(&self) -> Resource {
        Resource::new(ResourceKind::Experiment, self.experiment_id.as_str())
    }
}

#[derive(Deserialize)]
pub(super) struct EndpointAnswer {
    pub(super) endpoint: Endpoint,
}

#[derive(Deserialize)]
pub(super) struct Endpoint {
    pub(super) endpoint_id: String,
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    pub(super) experiment_id: String,
    #[serde(default)]
    pub(super) created_at: i64,
    #[serde(default)]
    pub(super) model_mappings: Vec<ModelMapping>,
}

#[derive(Deserialize)]
pub(super) struct EndpointList {
    #[serde(default)]
    pub(super) endpoints: Vec<Endpoint>,
}

#[derive(Deserialize)]
pub(super) struct ModelDefinitionList {
    #[serde(default)]
    pub(super) model_definitions: Vec<ModelDefinition>,
}

#[derive(Deserialize)]
pub(super) struct SecretList {
    #[serde(default)]
    pub(super) secrets: Vec<Secret>,
}

#[derive(Deserialize)]
pub(super) struct ModelMapping {
    #[serde(default)]
    pub(super) model_definition: Option<ModelDefinition>,
}

#[derive(Deserialize)]
pub(super) struct ModelDefinitionAnswer {
    pub(super) model_definition: ModelDefinition,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct ModelDefinition {
    #[serde(default)]
    pub(super) provider: String,
    #[serde(default)]
    pub(super) model_name: String,
    #[serde(default)]
    pub(super) secret_id: String,
}

#[derive(Deserialize)]
pub(super) struct SecretAnswer {
    pub(super) secret: Secret,
}

/// A secret of the AI gateway; its values are never shown, only their keys in `masked_values`.
#[derive(Deserialize)]
pub(super) struct Secret {
    #[serde(default)]
    pub(super) secret_name: String,
    #[serde(default)]
    provider: Option<String>,
    #[serde(default)]
    auth_config: BTreeMap<String, String>,
    #[serde(default)]
    masked_values: BTreeMap<String, serde::de::IgnoredAny>,
}

impl From<Secret> for StoredSecret {
    fn from(secret: Secret) -> Self {
        Self {
            provider: secret.provider,
            auth_config: secret.auth_config.into_iter().collect(),
            secret_keys: secret.masked_values.into_keys().collect(),
        }
    }
}

#[derive(Deserialize)]
pub(super) struct ModelVersionAnswer {
    pub(super) model_version: ModelVersion,
}

#[derive(Deserialize)]
pub(super) struct ModelVersion {
    #[serde(default)]
    pub(super) version: String,
    #[serde(default)]
    pub(super) tags: Vec<Tag>,
}

#[derive(Deserialize)]
pub(super) struct ScorerAnswer {
    pub(super) scorer: StoredScorer,
}

#[derive(Deserialize)]
pub(super) struct StoredScorer {
    pub(super) scorer_name: Option<String>,
    #[serde(default)]
    pub(super) serialized_scorer: String,
}

#[derive(Deserialize)]
pub(super) struct GuardrailAnswer {
    pub(super) guardrail: Guardrail,
}

#[derive(Deserialize)]
pub(super) struct Guardrail {
    pub(super) scorer: GuardrailScorer,
    /// The endpoint that rewrites what the guardrail found.
    #[serde(default)]
    pub(super) action_endpoint_id: String,
}

#[derive(Deserialize)]
pub(super) struct GuardrailScorer {
    /// A number in MLflow's answers about scorers.
    experiment_id: serde_json::Value,
    scorer_name: String,
    #[serde(default)]
    pub(super) serialized_scorer: String,
}

impl GuardrailScorer {
    pub(super) fn resource(&self) -> Resource {
        let experiment = self.experiment_id.as_str().map_or_else(|| self.experiment_id.to_string(), str::to_owned);
        Resource::new(ResourceKind::Scorer, scorer_key(&experiment, &self.scorer_name))
    }
}
