//! The requests with which the proxy asks MLflow which resource an object belongs to and whether it exists.
//!
//! Each function returns the target of a GET: path and query. Routes of MLflow 2.10 to 3.18; older servers respond with 404 to
//! those that they lack.

use super::PromptAt;
use crate::authz::ResourceKind;
use crate::http::Query;

/// The target of a search of experiments. Accepts the same fields as the JSON body of a POST.
pub(crate) const EXPERIMENTS: &str = "/api/2.0/mlflow/experiments/search";
/// The target of a search of registered models and prompts.
pub(crate) const REGISTERED_MODELS: &str = "/api/2.0/mlflow/registered-models/search";
/// Looks up several traces at once (POST); 3.5 and later.
pub(crate) const TRACES: &str = "/api/3.0/mlflow/traces/batchGetInfos";
pub(crate) const ENDPOINTS: &str = "/api/3.0/mlflow/gateway/endpoints/list";
pub(crate) const SECRETS: &str = "/api/3.0/mlflow/gateway/secrets/list";
pub(crate) const SKILLS: &str = "/api/3.0/mlflow/skills";
pub(crate) const MCP_SERVERS: &str = "/api/3.0/mlflow/mcp-servers";
pub(crate) const MODEL_DEFINITIONS: &str = "/api/3.0/mlflow/gateway/model-definitions/list";

/// A change that the proxy makes on its own (POST).
pub(crate) const RENAME_EXPERIMENT: &str = "/api/2.0/mlflow/experiments/update";
pub(crate) const DELETE_EXPERIMENT: &str = "/api/2.0/mlflow/experiments/delete";
pub(crate) const CHANGE_REVIEW_QUEUE: &str = "/api/3.0/mlflow/review-queues/update";

pub(crate) fn experiment(id: &str) -> String {
    by("/api/2.0/mlflow/experiments/get", [("experiment_id", id)])
}

pub(crate) fn experiment_by_name(name: &str) -> String {
    by("/api/2.0/mlflow/experiments/get-by-name", [("experiment_name", name)])
}

pub(crate) fn run(id: &str) -> String {
    by("/api/2.0/mlflow/runs/get", [("run_id", id)])
}

pub(crate) fn logged_model(id: &str) -> String {
    format!("/api/2.0/mlflow/logged-models/{id}")
}

pub(crate) fn trace(id: &str) -> String {
    format!("/api/3.0/mlflow/traces/{id}")
}

/// Returns the route of MLflow 2.14 to 2.22.
pub(crate) fn trace_v2(id: &str) -> String {
    format!("/api/2.0/mlflow/traces/{id}/info")
}

pub(crate) fn issue(id: &str) -> String {
    format!("/api/3.0/mlflow/issues/{id}")
}

pub(crate) fn label_schema(id: &str) -> String {
    by("/api/3.0/mlflow/label-schemas/get", [("schema_id", id)])
}

pub(crate) fn prompt_job(id: &str) -> String {
    format!("/api/3.0/mlflow/prompt-optimization/jobs/{id}")
}

pub(crate) fn prompt_jobs(experiment: &str) -> String {
    by("/api/3.0/mlflow/prompt-optimization/jobs/search", [("experiment_id", experiment)])
}

/// Returns the experiments of a dataset.
pub(crate) fn experiments_of_dataset(id: &str) -> String {
    format!("/api/3.0/mlflow/datasets/{id}/experiment-ids")
}

pub(crate) fn datasets(experiment: &str) -> String {
    by("/api/3.0/mlflow/datasets/search", [("experiment_ids", experiment)])
}

/// Lists the files of the artifact proxy below a path.
pub(crate) fn artifacts(path: &str) -> String {
    by("/api/2.0/mlflow-artifacts/artifacts", [("path", path)])
}

pub(crate) fn registered_model(name: &str) -> String {
    by("/api/2.0/mlflow/registered-models/get", [("name", name)])
}

pub(crate) fn registered_models(query: &Query) -> String {
    with(REGISTERED_MODELS, query)
}

pub(crate) fn model_versions(query: &Query) -> String {
    with("/api/2.0/mlflow/model-versions/search", query)
}

/// Returns the location of a version's files.
pub(crate) fn download_uri(name: &str, version: &str) -> String {
    by("/api/2.0/mlflow/model-versions/get-download-uri", [("name", name), ("version", version)])
}

pub(crate) fn prompt_version(name: &str, at: &PromptAt) -> String {
    match at {
        PromptAt::Version(version) => by("/api/2.0/mlflow/model-versions/get", [("name", name), ("version", version)]),
        PromptAt::Alias(alias) => by("/api/2.0/mlflow/registered-models/alias", [("name", name), ("alias", alias)]),
    }
}

pub(crate) fn scorers(experiment: &str) -> String {
    by("/api/3.0/mlflow/scorers/list", [("experiment_id", experiment)])
}

pub(crate) fn scorer(query: &Query) -> String {
    with("/api/3.0/mlflow/scorers/get", query)
}

/// Returns the look-up of the scorer with the grant key `key`: `EXPERIMENT/NAME`, with the name percent-encoded.
pub(crate) fn scorer_of_key(key: &str) -> String {
    let (experiment, name) = key.split_once('/').unwrap_or((key, ""));
    format!("/api/3.0/mlflow/scorers/get?experiment_id={experiment}&name={name}")
}

/// Returns the configurations of online scoring of a scorer.
pub(crate) fn online_scorers(id: &str) -> String {
    by("/api/3.0/mlflow/scorers/online-configs", [("scorer_ids", id)])
}

pub(crate) fn review_queue(id: &str) -> String {
    by("/api/3.0/mlflow/review-queues/get", [("queue_id", id)])
}

pub(crate) fn review_queue_by_name(experiment: &str, name: &str) -> String {
    by("/api/3.0/mlflow/review-queues/get-by-name", [("experiment_id", experiment), ("name", name)])
}

pub(crate) fn endpoint(id: &str) -> String {
    by("/api/3.0/mlflow/gateway/endpoints/get", [("endpoint_id", id)])
}

pub(crate) fn endpoint_by_name(name: &str) -> String {
    by("/api/3.0/mlflow/gateway/endpoints/get", [("name", name)])
}

pub(crate) fn guardrail(id: &str) -> String {
    by("/api/3.0/mlflow/gateway/guardrails/get", [("guardrail_id", id)])
}

pub(crate) fn secret(id: &str) -> String {
    by("/api/3.0/mlflow/gateway/secrets/get", [("secret_id", id)])
}

pub(crate) fn model_definition(id: &str) -> String {
    by("/api/3.0/mlflow/gateway/model-definitions/get", [("model_definition_id", id)])
}

pub(crate) fn model_definitions(secret: &str) -> String {
    by(MODEL_DEFINITIONS, [("secret_id", secret)])
}

pub(crate) fn skills(query: &Query) -> String {
    with(SKILLS, query)
}

/// Returns the path of the list of MCP servers or skills; `None` for other kinds.
pub(crate) fn list_of(kind: ResourceKind) -> Option<&'static str> {
    if kind == ResourceKind::McpServer {
        Some(MCP_SERVERS)
    } else if kind == ResourceKind::Skill {
        Some(SKILLS)
    } else {
        None
    }
}

/// Returns the look-up of an MCP server or a skill. `None` for a key that none can have, and that could lead to another route.
pub(crate) fn by_path(kind: ResourceKind, key: &str) -> Option<String> {
    let list = if kind == ResourceKind::Skill { SKILLS } else { MCP_SERVERS };
    kind.has_key(key).then(|| format!("{list}/{key}"))
}

pub(crate) fn with(path: &str, query: &Query) -> String {
    format!("{path}?{}", query.encoded())
}

fn by<const N: usize>(path: &str, fields: [(&str, &str); N]) -> String {
    let mut query = Query::default();
    for (name, value) in fields {
        query.set(name, Some(value));
    }
    with(path, &query)
}
