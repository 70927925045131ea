//! Serialized scorers and judges: the endpoints of the AI gateway that they call, and the parameters of these calls.
//!
//! MLflow instantiates a scorer from this JSON in its own process and runs it with its own privileges
//! (`mlflow/genai/scorers/base.py`, `SerializedScorer`, 3.6 to 3.18). A judge's parameters are merged into the model request,
//! where some of them select another model, host or key. Therefore [`Judge::read`] rewrites the JSON and keeps only known
//! members.

use std::borrow::Cow;

use super::json::{Keep, canonical, each_string};
use super::locate::{each_text, invalid, member};
use super::provider::{AS_SERVER, Model, StoredSecret, is_ambient, is_word, privilege_of};
use super::{Json, JsonError, LocateError};

/// A serialized scorer, reduced to known members.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Judge {
    /// JSON that replaces the client's text.
    pub written: String,
    /// Names of the AI gateway endpoints that it calls.
    pub endpoints: Vec<String>,
    /// Addresses that MLflow connects to for models that are specified without an endpoint.
    pub addresses: Vec<String>,
    /// The privileged action that models specified without an endpoint require, if any. Only administrators are allowed to do
    /// it.
    pub privilege: Option<&'static str>,
    /// IDs of the traces that it takes examples from.
    pub traces: Vec<String>,
    /// Name of the scorer.
    pub name: Option<String>,
}

impl Judge {
    /// Parses a scorer in the string field `field`.
    ///
    /// # Errors
    ///
    /// The text is not a JSON object, the class is not a scorer, or a member has the wrong type.
    pub fn read(field: &str, written: &str) -> Result<Self, LocateError> {
        let unreadable = || invalid(field, &Json::String(Cow::Borrowed(written)), "a string that holds a JSON object");
        if written.len() > MAX_WRITTEN {
            return Err(invalid(field, &Json::String(Cow::Borrowed(written)), "at most 256 KiB long"));
        }
        let text = canonical(written.as_bytes()).map_err(|_| unreadable())?;
        let mut json = Json::open(&text)?;
        let mut judge = Self { name: json.text("name").map(str::to_owned), ..Self::default() };
        scorer(&mut json, &mut judge, 0)?;
        judge.written = json.to_text();
        judge.look_at_models();
        Ok(judge)
    }
}

/// Rebuilds the settings of an optimizer. Only known parameters of its model calls are kept.
pub(super) fn optimizer(field: &str, written: &str) -> Result<Judge, LocateError> {
    let unreadable = || invalid(field, &Json::String(Cow::Borrowed(written)), "a string that holds a JSON object");
    if written.len() > MAX_WRITTEN {
        return Err(invalid(field, &Json::String(Cow::Borrowed(written)), "at most 256 KiB long"));
    }
    let text = canonical(written.as_bytes()).map_err(|_| unreadable())?;
    let mut json = Json::open(&text)?;
    keep_parameters(&mut json, "lm_kwargs")?;
    match member(&mut json, "gepa_kwargs")? {
        None => {}
        Some(Json::Object(members)) => members.retain(|(key, _)| GEPA.contains(&key.as_ref())),
        Some(other) => return Err(invalid("gepa_kwargs", other, "an object")),
    }
    check_model(&json, "reflection_model")?;
    let mut optimizer = Judge { written: json.to_text(), ..Judge::default() };
    optimizer.look_at_models();
    Ok(optimizer)
}

fn scorer(json: &mut Json<'_>, judge: &mut Judge, depth: usize) -> Result<(), LocateError> {
    if depth > MAX_NESTING {
        return Err(invalid("serialized_scorer", json, "nested less deeply"));
    }
    keep(json, &SCORER)?;
    if let Some(odd) = json.get("name").filter(|name| !matches!(name, Json::String(_))) {
        return Err(invalid("name", odd, "a string"));
    }
    match json.get("builtin_scorer_class") {
        None => {}
        // MLflow up to 3.17 resolves any attribute of this name in a module, including functions that open connections, so
        // only the names of built-in scorers are accepted.
        Some(Json::String(class)) if CLASSES.contains(&class.as_ref()) => {}
        Some(other) => return Err(invalid("builtin_scorer_class", other, "the name of a built-in scorer")),
    }
    if let Some(data) = member(json, "builtin_scorer_pydantic_data")? {
        model_call(data, &BUILT_IN)?;
    }
    if let Some(data) = member(json, "instructions_judge_pydantic_data")? {
        model_call(data, &INSTRUCTIONS)?;
    }
    if let Some(data) = member(json, "third_party_scorer_data")? {
        third_party(data)?;
    }
    if let Some(data) = member(json, "memory_augmented_judge_data")? {
        memory_augmented(data, judge, depth)?;
    }
    if let Some(data) = member(json, "ensemble_scorer_data")? {
        ensemble(data, judge, depth)?;
    }
    Ok(())
}

fn third_party(data: &mut Json<'_>) -> Result<(), LocateError> {
    model_call(data, &THIRD_PARTY)?;
    match data.get("module") {
        None => {}
        Some(Json::String(module)) if is_third_party_module(module) => {}
        Some(other) => return Err(invalid("module", other, "a module of MLflow's third-party scorers")),
    }
    // MLflow 3.12 to 3.16 calls any attribute of this name in the module, including functions.
    for (name, is_class) in [("class", true), ("metric_name", false)] {
        match data.get(name) {
            None => {}
            Some(Json::String(text)) if is_identifier(text, is_class) => {}
            Some(other) => return Err(invalid(name, other, "the name of a scorer's class or metric")),
        }
    }
    let Some(arguments) = member(data, "kwargs")? else { return Ok(()) };
    if let Json::Object(members) = arguments {
        members.retain(|(key, _)| !CHOOSES_MODEL.contains(&key.as_ref()));
    }
    third_party_arguments(arguments)?;
    Ok(())
}

fn memory_augmented(data: &mut Json<'_>, judge: &mut Judge, depth: usize) -> Result<(), LocateError> {
    keep(data, &MEMORY)?;
    check_model(data, "reflection_lm")?;
    check_model(data, "embedding_model")?;
    each_text(data, "episodic_trace_ids", |id| {
        judge.traces.push(id.to_owned());
        Ok(())
    })?;
    match member(data, "base_judge")? {
        Some(base) => scorer(base, judge, depth + 1),
        None => Ok(()),
    }
}

fn ensemble(data: &mut Json<'_>, judge: &mut Judge, depth: usize) -> Result<(), LocateError> {
    keep(data, &ENSEMBLE)?;
    match member(data, "scorers")? {
        None => Ok(()),
        Some(Json::Array(scorers)) => scorers.rewrite(|inner| scorer(inner, judge, depth + 1).map(|()| Keep::Yes), &[]),
        Some(other) => Err(invalid("scorers", other, "a list of objects")),
    }
}

/// Reduces an object that calls a model to its known members.
fn model_call(data: &mut Json<'_>, known: &[&str]) -> Result<(), LocateError> {
    keep(data, known)?;
    keep_parameters(data, "inference_params")?;
    check_model(data, "model")
}

/// Removes all but the known members of an object.
fn keep(json: &mut Json<'_>, known: &[&str]) -> Result<(), LocateError> {
    let Json::Object(members) = json else { return Err(invalid("serialized_scorer", json, "an object")) };
    members.retain(|(key, _)| known.contains(&key.as_ref()));
    Ok(())
}

/// Keeps the parameters that shape a model's response. Others select the model that answers, or its host.
fn keep_parameters(json: &mut Json<'_>, name: &str) -> Result<(), LocateError> {
    match member(json, name)? {
        None => Ok(()),
        Some(Json::Object(members)) => {
            members.retain(|(key, _)| PARAMETERS.contains(&key.as_ref()));
            Ok(())
        }
        Some(other) => Err(invalid(name, other, "an object")),
    }
}

/// Reduces the arguments of a third-party class: nested settings of model calls keep their known parameters, and arguments that
/// select a host, a key or another model are removed.
fn third_party_arguments(json: &mut Json<'_>) -> Result<(), JsonError> {
    json.open_closed()?;
    match json {
        Json::Object(members) => {
            members.retain(|(key, _)| !steers(key));
            for (key, value) in members {
                value.open_closed()?;
                let settings = key.ends_with("_kwargs") || key.ends_with("_params");
                if settings && let Json::Object(members) = value {
                    members.retain(|(key, _)| PARAMETERS.contains(&key.as_ref()));
                }
                third_party_arguments(value)?;
            }
            Ok(())
        }
        Json::Array(items) => items.rewrite(|item| third_party_arguments(item).map(|()| Keep::Yes), &[]),
        Json::Scalar(_) | Json::String(_) | Json::Closed(_) => Ok(()),
    }
}

/// Checks a model of the form `PROVIDER:/NAME`. MLflow looks the provider up, partly as a path in its model catalog.
fn check_model(json: &Json<'_>, name: &str) -> Result<(), LocateError> {
    match json.get(name) {
        None => Ok(()),
        Some(Json::String(model)) => match model.split_once(":/") {
            Some((provider, _)) if !is_word(provider) => {
                Err(invalid(name, &Json::String(model.clone()), "PROVIDER:/MODEL"))
            }
            Some(_) | None => Ok(()),
        },
        Some(other) => Err(invalid(name, other, "a string")),
    }
}

impl Judge {
    /// Records the AI gateway endpoints that any text specifies as a model (`gateway:/NAME`), and the addresses and the
    /// identity that MLflow uses for the models in [`MODELS`].
    fn look_at_models(&mut self) {
        let written = std::mem::take(&mut self.written);
        each_string(&written, &|_, _| true, &mut |key, text| {
            let name = text.trim().split_once(":/").filter(|(provider, _)| provider.eq_ignore_ascii_case("gateway"));
            self.endpoints.extend(name.map(|(_, name)| name.trim_start_matches('/').to_owned()));
            let names_ambient =
                text.split_once(":/").is_some_and(|(provider, _)| is_word(provider) && is_ambient(provider));
            if names_ambient || key.is_some_and(|key| MODELS.contains(&key)) {
                // `databricks` without a model is a judge of its own.
                let model = Model::of_uri(text).unwrap_or_default();
                self.privilege = self.privilege.or_else(|| match model.provider.as_str() {
                    "" => is_ambient(text).then_some(AS_SERVER),
                    gateway if gateway.eq_ignore_ascii_case("gateway") => None,
                    provider => privilege_of(provider),
                });
                self.addresses.extend(StoredSecret::default().addresses(&model));
            }
        });
        self.written = written;
    }
}

/// Members that contain the URI of a model.
const MODELS: [&str; 4] = ["model", "reflection_lm", "embedding_model", "reflection_model"];

/// Returns true if an argument of LiteLLM or of a model client selects another host, key or model.
pub(super) fn steers(key: &str) -> bool {
    let key = key.trim().to_ascii_lowercase();
    const NAMES: [&str; 38] = [
        "api_base",
        "base_url",
        "api_key",
        "api_version",
        "api_type",
        "custom_llm_provider",
        "deployment_id",
        "fallbacks",
        "context_window_fallbacks",
        "context_window_fallback_dict",
        "model_list",
        "extra_headers",
        "headers",
        "default_headers",
        "proxy_url",
        "use_litellm_proxy",
        "use_in_pass_through",
        "client",
        "http_client",
        "organization",
        "tenant_id",
        "client_secret",
        "region_name",
        "url",
        "wx_url",
        "mock_response",
        "hf_model_name",
        "callbacks",
        "success_callback",
        "failure_callback",
        "logger_fn",
        "provider_specific_header",
        "ssl_verify",
        "shared_session",
        "extra_body",
        "extra_query",
        "credentials",
        "token",
    ];
    const PREFIXES: [&str; 9] =
        ["aws_", "azure_", "vertex_", "sagemaker_", "oci_", "langfuse_", "langsmith_", "watsonx_", "litellm_"];
    const SUFFIXES: [&str; 7] = ["_base", "_base_url", "_url", "_endpoint", "_host", "_credentials", "_api_key"];
    NAMES.contains(&key.as_str())
        || PREFIXES.iter().any(|prefix| key.starts_with(prefix))
        || SUFFIXES.iter().any(|suffix| key.ends_with(suffix))
}

const MAX_NESTING: usize = 8;

/// Maximum size of a serialized scorer, in bytes. Its parts are copied while it is rebuilt.
const MAX_WRITTEN: usize = 256 * 1024;

/// Known members of a serialized scorer.
const SCORER: [&str; 17] = [
    "name",
    "aggregations",
    "description",
    "is_session_level_scorer",
    "session_level",
    "timeout",
    "mlflow_version",
    "serialization_version",
    "builtin_scorer_class",
    "builtin_scorer_pydantic_data",
    "call_source",
    "call_signature",
    "original_func_name",
    "instructions_judge_pydantic_data",
    "memory_augmented_judge_data",
    "third_party_scorer_data",
    "ensemble_scorer_data",
];

/// Classes of MLflow's built-in scorers (`mlflow/genai/scorers/builtin_scorers.py`, 3.6 to 3.18).
pub(super) const CLASSES: [&str; 24] = [
    "Completeness",
    "ConversationCompleteness",
    "ConversationalGuidelines",
    "ConversationalRoleAdherence",
    "ConversationalSafety",
    "ConversationalToolCallEfficiency",
    "Correctness",
    "Equivalence",
    "ExpectationsGuidelines",
    "Fluency",
    "Guidelines",
    "KnowledgeRetention",
    "PIIDetection",
    "RegexMatch",
    "RelevanceToQuery",
    "ResponseLength",
    "RetrievalGroundedness",
    "RetrievalRelevance",
    "RetrievalSufficiency",
    "Safety",
    "Summarization",
    "ToolCallCorrectness",
    "ToolCallEfficiency",
    "UserFrustration",
];

/// Known fields of built-in scorers. Excluded are `extra_headers` and `last_turn_scorer`, which is a scorer of any class.
const BUILT_IN: [&str; 20] = [
    "name",
    "description",
    "aggregations",
    "timeout",
    "required_columns",
    "model",
    "model_api",
    "inference_params",
    "instructions",
    "guidelines",
    "session_level",
    "case_insensitive",
    "match_type",
    "pattern",
    "max_length",
    "min_length",
    "unit",
    "pii_types",
    "should_consider_ordering",
    "should_exact_match",
];

const INSTRUCTIONS: [&str; 6] =
    ["instructions", "model", "feedback_value_type", "generate_rationale_first", "inference_params", "model_api"];

const MEMORY: [&str; 7] = [
    "base_judge",
    "reflection_lm",
    "embedding_model",
    "embedding_dim",
    "retrieval_k",
    "semantic_memory",
    "episodic_trace_ids",
];

const THIRD_PARTY: [&str; 5] = ["module", "class", "metric_name", "model", "kwargs"];

/// Arguments of third-party classes that select a model, in addition to `model`.
const CHOOSES_MODEL: [&str; 8] =
    ["metric_name", "model_uri", "llm", "embeddings", "embedding_model", "provider", "evaluator_llm", "judge"];

/// Returns true if this module contains MLflow's third-party scorers (`THIRD_PARTY_SCORER_ALLOWED_MODULES`, 3.17).
fn is_third_party_module(module: &str) -> bool {
    let below = module.strip_prefix("mlflow.genai.scorers.");
    below.is_some_and(|below| {
        matches!(
            below,
            "deepeval"
                | "deepeval.scorers"
                | "deepeval.scorers.agentic_metrics"
                | "deepeval.scorers.conversational_metrics"
                | "deepeval.scorers.rag_metrics"
                | "deepeval.scorers.safety_metrics"
                | "phoenix"
                | "ragas"
                | "ragas.scorers"
                | "ragas.scorers.agentic_metrics"
                | "ragas.scorers.comparison_metrics"
                | "ragas.scorers.rag_metrics"
                | "trulens"
                | "trulens.scorers.agent_trace"
        )
    })
}

/// Returns true if this is a valid Python identifier, or class name if `is_class`.
fn is_identifier(text: &str, is_class: bool) -> bool {
    let first = |byte: u8| byte.is_ascii_uppercase() || !is_class && byte.is_ascii_lowercase();
    text.bytes().next().is_some_and(first) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

const ENSEMBLE: [&str; 2] = ["ensemble_fn", "scorers"];

/// Parameters that shape a model's response.
const PARAMETERS: [&str; 17] = [
    "temperature",
    "top_p",
    "top_k",
    "max_tokens",
    "max_completion_tokens",
    "stop",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "reasoning_effort",
    "verbosity",
    "parallel_tool_calls",
    "timeout",
    "drop_params",
];

/// Arguments of `gepa.optimize` that specify neither a model nor a location.
const GEPA: [&str; 12] = [
    "candidate_selection_strategy",
    "frontier_type",
    "skip_perfect_score",
    "perfect_score",
    "reflection_minibatch_size",
    "use_merge",
    "max_merge_invocations",
    "merge_val_overlap_floor",
    "module_selector",
    "seed",
    "cache_evaluation",
    "raise_on_exception",
];

#[cfg(test)]
mod tests;
