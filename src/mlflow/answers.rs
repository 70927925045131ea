//! MLflow's responses to the proxy's look-ups, limited to the fields that are read.
//!
//! Valid for MLflow 2.10 to 3.18. Fields that are not declared here can change without effect.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{PROMPT_TAG, StoredSecret};
use crate::authz::{Resource, ResourceKind, scorer_key};

#[derive(Deserialize)]
pub(crate) struct ExperimentAnswer {
    pub(crate) experiment: ExperimentId,
}

#[derive(Deserialize)]
pub(crate) struct ExperimentId {
    pub(crate) experiment_id: String,
    #[serde(default)]
    pub(crate) name: Option<String>,
    #[serde(default)]
    pub(crate) creation_time: i64,
    #[serde(default)]
    pub(crate) artifact_location: String,
}

#[derive(Deserialize)]
pub(crate) struct RunAnswer {
    pub(crate) run: Run,
}

#[derive(Deserialize)]
pub(crate) struct Run {
    pub(crate) info: RunInfo,
}

#[derive(Deserialize)]
pub(crate) struct RunInfo {
    pub(crate) run_id: String,
    pub(crate) experiment_id: String,
    #[serde(default)]
    pub(crate) artifact_uri: String,
}

#[derive(Deserialize)]
pub(crate) struct LoggedModelAnswer {
    pub(crate) model: LoggedModel,
}

#[derive(Deserialize)]
pub(crate) struct LoggedModel {
    pub(crate) info: LoggedModelInfo,
}

#[derive(Deserialize)]
pub(crate) struct LoggedModelInfo {
    pub(crate) experiment_id: String,
    #[serde(default)]
    pub(crate) artifact_uri: String,
}

#[derive(Deserialize)]
pub(crate) struct ModelAnswer {
    pub(crate) registered_model: RegisteredModel,
}

/// The fields of a registered model or prompt that matter for permissions.
#[derive(Debug, Deserialize)]
pub(crate) struct RegisteredModel {
    pub name: String,
    #[serde(default)]
    pub(crate) creation_timestamp: i64,
    #[serde(default)]
    pub(crate) last_updated_timestamp: i64,
    #[serde(default)]
    pub(crate) tags: Vec<Tag>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Tag {
    pub(crate) key: String,
    #[serde(default)]
    pub(crate) value: String,
}

impl RegisteredModel {
    /// Returns the resource. A prompt is a registered model with a tag that marks it (MLflow 3.17: case-insensitive, the last
    /// tag wins).
    #[must_use]
    pub(crate) fn resource(self) -> Resource {
        let tag = self.tags.iter().rev().find(|tag| tag.key == PROMPT_TAG);
        let prompt = tag.is_some_and(|tag| tag.value.eq_ignore_ascii_case("true"));
        Resource::new(if prompt { ResourceKind::Prompt } else { ResourceKind::RegisteredModel }, self.name)
    }
}

#[derive(Deserialize)]
pub(crate) struct TraceAnswer {
    pub(crate) trace: Trace,
}

#[derive(Deserialize)]
pub(crate) struct Trace {
    pub(crate) trace_info: TraceInfo,
}

/// The assessments of a trace, as returned by `GET traces/{id}`.
#[derive(Deserialize)]
pub(crate) struct AssessedTraceAnswer {
    pub(crate) trace: AssessedTrace,
}

#[derive(Deserialize)]
pub(crate) struct AssessedTrace {
    pub(crate) trace_info: AssessedTraceInfo,
}

#[derive(Deserialize)]
pub(crate) struct AssessedTraceInfo {
    #[serde(default)]
    pub(crate) assessments: Vec<AssessmentOfTrace>,
}

#[derive(Deserialize)]
pub(crate) struct AssessmentOfTrace {
    #[serde(default)]
    pub(crate) assessment_id: String,
}

#[derive(Deserialize)]
pub(crate) struct TraceBatch {
    #[serde(default)]
    pub(crate) trace_infos: Vec<TraceInfo>,
}

#[derive(Deserialize)]
pub(crate) struct TraceInfo {
    trace_id: String,
    trace_location: TraceLocation,
}

impl TraceInfo {
    /// Returns the IDs of the trace and its experiment; `None` for a trace that is in no experiment.
    pub(crate) fn in_experiment(self) -> Option<(String, String)> {
        Some((self.trace_id, self.trace_location.mlflow_experiment?.experiment_id))
    }
}

#[derive(Deserialize)]
struct TraceLocation {
    mlflow_experiment: Option<InExperiment>,
}

/// Any object of which only the experiment is read.
#[derive(Deserialize)]
pub(crate) struct InExperiment {
    pub(crate) experiment_id: String,
}

#[derive(Deserialize)]
pub(crate) struct TraceAnswerV2 {
    pub(crate) trace_info: InExperiment,
}

#[derive(Deserialize)]
pub(crate) struct IssueAnswer {
    pub(crate) issue: InExperiment,
}

#[derive(Deserialize)]
pub(crate) struct LabelSchemaAnswer {
    pub(crate) label_schema: InExperiment,
}

#[derive(Deserialize)]
pub(crate) struct JobAnswer {
    pub(crate) job: InExperiment,
}

#[derive(Default, Deserialize)]
pub(crate) struct OnlineScorers {
    #[serde(default)]
    pub(crate) configs: Vec<InExperiment>,
}

#[derive(Default, Deserialize)]
pub(crate) struct ScorerList {
    #[serde(default)]
    pub(crate) scorers: Vec<ListedScorer>,
}

#[derive(Deserialize)]
pub(crate) struct ListedScorer {
    pub(crate) scorer_id: Option<String>,
    pub(crate) scorer_name: String,
}

#[derive(Default, Deserialize)]
pub(crate) struct DatasetAnswer {
    #[serde(default)]
    pub(crate) experiment_ids: Vec<String>,
}

#[derive(Deserialize)]
pub(crate) struct QueueAnswer {
    pub(crate) review_queue: ReviewQueue,
}

/// The fields of a review queue that matter for permissions.
#[derive(Debug, Deserialize)]
pub struct ReviewQueue {
    experiment_id: String,
    /// User names of its members.
    #[serde(default)]
    pub users: Vec<String>,
    /// User name of its owner.
    #[serde(default)]
    pub created_by: String,
    #[serde(default)]
    pub queue_type: String,
}

impl ReviewQueue {
    /// Returns the experiment that the queue belongs to.
    #[must_use]
    pub fn experiment(&self) -> Resource {
        Resource::new(ResourceKind::Experiment, self.experiment_id.as_str())
    }
}

#[derive(Deserialize)]
pub(crate) struct EndpointAnswer {
    pub(crate) endpoint: Endpoint,
}

#[derive(Deserialize)]
pub(crate) struct Endpoint {
    pub(crate) endpoint_id: String,
    #[serde(default)]
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) experiment_id: String,
    #[serde(default)]
    pub(crate) created_at: i64,
    #[serde(default)]
    pub(crate) model_mappings: Vec<ModelMapping>,
}

#[derive(Deserialize)]
pub(crate) struct EndpointList {
    #[serde(default)]
    pub(crate) endpoints: Vec<Endpoint>,
}

#[derive(Deserialize)]
pub(crate) struct ModelDefinitionList {
    #[serde(default)]
    pub(crate) model_definitions: Vec<ModelDefinition>,
}

#[derive(Deserialize)]
pub(crate) struct SecretList {
    #[serde(default)]
    pub(crate) secrets: Vec<Secret>,
}

#[derive(Deserialize)]
pub(crate) struct ModelMapping {
    #[serde(default)]
    pub(crate) model_definition: Option<ModelDefinition>,
}

#[derive(Deserialize)]
pub(crate) struct ModelDefinitionAnswer {
    pub(crate) model_definition: ModelDefinition,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ModelDefinition {
    #[serde(default)]
    pub(crate) provider: String,
    #[serde(default)]
    pub(crate) model_name: String,
    #[serde(default)]
    pub(crate) secret_id: String,
}

#[derive(Deserialize)]
pub(crate) struct SecretAnswer {
    pub(crate) secret: Secret,
}

/// A secret of the AI gateway. MLflow never returns its values, only their keys in `masked_values`.
#[derive(Deserialize)]
pub(crate) struct Secret {
    #[serde(default)]
    pub(crate) secret_name: String,
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
pub(crate) struct ModelVersionAnswer {
    pub(crate) model_version: ModelVersion,
}

#[derive(Deserialize)]
pub(crate) struct ModelVersion {
    #[serde(default)]
    pub(crate) version: String,
    #[serde(default)]
    pub(crate) tags: Vec<Tag>,
}

#[derive(Deserialize)]
pub(crate) struct ScorerAnswer {
    pub(crate) scorer: StoredScorer,
}

#[derive(Deserialize)]
pub(crate) struct StoredScorer {
    pub(crate) scorer_name: Option<String>,
    #[serde(default)]
    pub(crate) serialized_scorer: String,
}

#[derive(Deserialize)]
pub(crate) struct GuardrailAnswer {
    pub(crate) guardrail: Guardrail,
}

#[derive(Deserialize)]
pub(crate) struct Guardrail {
    pub(crate) scorer: GuardrailScorer,
    /// The endpoint that rewrites the text that the guardrail found.
    #[serde(default)]
    pub(crate) action_endpoint_id: String,
}

#[derive(Deserialize)]
pub(crate) struct GuardrailScorer {
    /// MLflow returns a number here for scorers.
    experiment_id: serde_json::Value,
    scorer_name: String,
    #[serde(default)]
    pub(crate) serialized_scorer: String,
}

impl GuardrailScorer {
    pub(crate) fn resource(&self) -> Resource {
        let experiment = self.experiment_id.as_str().map_or_else(|| self.experiment_id.to_string(), str::to_owned);
        Resource::new(ResourceKind::Scorer, scorer_key(&experiment, &self.scorer_name))
    }
}

/// The response to the creation of a review queue.
#[derive(Deserialize)]
pub(crate) struct CreatedQueue {
    pub(crate) review_queue: NewQueue,
}

#[derive(Deserialize)]
pub(crate) struct NewQueue {
    pub(crate) queue_id: String,
    #[serde(default)]
    pub(crate) queue_type: String,
    #[serde(default)]
    pub(crate) created_by: String,
}
