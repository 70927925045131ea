//! Secrets and model definitions of MLflow's AI gateway: the addresses and the identity that MLflow uses for them.
//!
//! Sources: `mlflow/server/gateway_api.py` (`_build_endpoint_config`), `mlflow/gateway/providers/`, `mlflow/gateway/config.py`
//! and `mlflow/utils/providers.py`, 3.9 to 3.18. Providers without their own implementation are called through LiteLLM, which
//! accepts every key of `auth_config` and `secret_value` as an argument; therefore users are free to set only known keys.

use super::address::looks_like_address;
use super::json::canonical;
use super::locate::{member, shown, text_field};
use super::rules::{Connection, Demand};
use super::{Json, LocateError};

/// A stored secret, as returned by `gateway/secrets/get`: the keys of `secret_value`, without the values.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct StoredSecret {
    pub provider: Option<String>,
    pub auth_config: Vec<(String, String)>,
    pub secret_keys: Vec<String>,
}

/// A model of an endpoint: its provider, and its name at the provider.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Model {
    pub provider: String,
    pub name: String,
}

/// Returns the demands of a secret that is created or changed.
pub(super) fn of_secret(body: &mut Json<'_>) -> Result<Vec<Demand>, LocateError> {
    let mut demands = Vec::new();
    let auth_config = entries(body, "auth_config")?;
    if let Some(id) = text_field(body, "secret_id")? {
        let secret_keys = entries(body, "secret_value")?.into_iter().map(|(key, _)| key).collect();
        demands.push(Connection::SecretChange { id, auth_config: auth_config.clone(), secret_keys }.into());
    }
    for (key, value) in &auth_config {
        match key.as_str() {
            _ if value.is_empty() => {}
            "api_base" => demands.push(Connection::Address(value.clone()).into()),
            "aws_region_name" | "vertex_location" if !is_label(value) => {
                return Err(malformed(key, value, "a region: lower-case letters, digits and `-`"));
            }
            "vertex_project" if !is_project(value) => return Err(malformed(key, value, "the ID of a project")),
            "auth_mode" if !OWN_CREDENTIALS.contains(&value.as_str()) => demands.push(SERVER_IDENTITY),
            "aws_role_name" => demands.push(SERVER_IDENTITY),
            known if AUTH_CONFIG.contains(&known) => {}
            _ => {
                demands.push(Demand::Privileged("set this key of a secret's auth_config"));
                if looks_like_address(value) {
                    demands.push(Connection::Address(value.clone()).into());
                }
            }
        }
    }
    for (key, value) in entries(body, "secret_value")? {
        match key.as_str() {
            // MLflow returns only the keys of a stored secret, so an empty value would look like a credential.
            _ if value.is_empty() => return Err(malformed(&key, "", "left out, or not empty")),
            // MLflow 3.9 accepts the name of an environment variable or a file instead of the key.
            "api_key" if value.starts_with(['$', '/', '~', '.']) => {
                return Err(malformed(&key, "***", "the key itself, not the name of a variable or a file"));
            }
            "vertex_credentials" => demands.extend(service_account(&value)?),
            known if SECRET_VALUE.contains(&known) => {}
            _ => {
                demands.push(Demand::Privileged("set this key of a secret's value"));
                if looks_like_address(&value) {
                    demands.push(Connection::Address(value).into());
                }
            }
        }
    }
    demands.dedup();
    Ok(demands)
}

/// Returns the demands of a model definition that is created or changed.
pub(super) fn of_definition(body: &mut Json<'_>) -> Result<Vec<Demand>, LocateError> {
    let definition = text_field(body, "model_definition_id")?;
    let provider = text_field(body, "provider")?.filter(|provider| !provider.is_empty());
    let name = text_field(body, "model_name")?.filter(|name| !name.is_empty());
    let secret = text_field(body, "secret_id")?.filter(|secret| !secret.is_empty());
    if let Some(provider) = &provider
        && !is_word(provider)
    {
        return Err(malformed("provider", provider, "a provider's name: letters, digits, `.`, `-` and `_`"));
    }
    let mut demands = Vec::new();
    if let Some(name) = name.as_ref().filter(|name| looks_like_address(name)) {
        demands.push(Connection::Address(name.clone()).into());
    }
    if provider.is_some() || secret.is_some() {
        demands.push(Connection::Definition { definition, provider, secret }.into());
    }
    Ok(demands)
}

impl Model {
    /// Parses `PROVIDER:/NAME` (`mlflow/metrics/genai/model_utils.py`, `_parse_model_uri`).
    pub(super) fn of_uri(uri: &str) -> Option<Self> {
        let (provider, name) = uri.split_once(":/")?;
        Some(Self { provider: provider.to_owned(), name: name.trim_start_matches('/').to_owned() })
    }
}

/// The tag of a prompt version that specifies its model (`mlflow/prompt/constants.py`).
pub const PROMPT_MODEL_TAG: &str = "_mlflow_prompt_model_config";

/// Parses the model in the value of [`PROMPT_MODEL_TAG`]; returns `None` if it specifies no provider.
///
/// # Errors
///
/// Parsers could interpret the JSON differently, so MLflow could read a model that was not checked.
pub fn prompt_model(written: &str) -> Result<Option<Model>, LocateError> {
    #[derive(serde::Deserialize)]
    struct Config {
        provider: Option<String>,
        model_name: Option<String>,
    }
    let unreadable =
        || malformed(PROMPT_MODEL_TAG, "***", "JSON with `provider` and `model_name`, each at most once and a string");
    let config: Config = serde_json::from_str(written).map_err(|_| unreadable())?;
    let Some(provider) = config.provider else { return Ok(None) };
    if !is_word(&provider) {
        return Err(malformed("provider", &provider, "a provider's name: letters, digits, `.`, `-` and `_`"));
    }
    Ok(Some(Model { provider, name: config.model_name.unwrap_or_default() }))
}

impl StoredSecret {
    /// Returns every address that MLflow connects to for `model` with this secret, including the provider's default. The
    /// addresses of a provider that is not [known](privilege_of) cannot be determined.
    #[must_use]
    pub fn addresses(&self, model: &Model) -> Vec<String> {
        let mut addresses = Vec::new();
        for (key, value) in &self.auth_config {
            match key.as_str() {
                "api_base" if value.trim().is_empty() => {}
                "api_base" => addresses.push(value.clone()),
                // An invalid region becomes part of the host.
                "aws_region_name" | "vertex_location" if !value.is_empty() && !is_label(value) => {
                    addresses.push(value.clone())
                }
                _ if looks_like_address(value) => addresses.push(value.clone()),
                _ => {}
            }
        }
        if looks_like_address(&model.name) {
            addresses.push(model.name.clone());
        }
        let set = |key: &str| {
            let value = self.auth_config.iter().find(|(known, _)| known == key);
            value.map(|(_, value)| value.trim()).filter(|value| !value.is_empty())
        };
        if set("api_base").is_none() {
            addresses.extend(match family(&model.provider.to_ascii_lowercase()) {
                "bedrock" => {
                    // An invalid region was added as an address above.
                    let region = set("aws_region_name").filter(|region| is_label(region));
                    region.map(|region| format!("https://bedrock-runtime.{region}.amazonaws.com"))
                }
                "vertex_ai" => Some(match set("vertex_location") {
                    None | Some("global") => "https://aiplatform.googleapis.com".to_owned(),
                    Some(region @ ("eu" | "us")) => format!("https://aiplatform.{region}.rep.googleapis.com"),
                    Some(region) => format!("https://{region}-aiplatform.googleapis.com"),
                }),
                provider => default_address(provider).map(str::to_owned),
            });
        }
        addresses
    }

    /// Returns the secret after a change. MLflow replaces each of the two parts as a whole, and keeps one that is empty in the
    /// request.
    #[must_use]
    pub fn changed(&self, auth_config: Vec<(String, String)>, secret_keys: Vec<String>) -> Self {
        let kept = self.clone();
        Self {
            provider: kept.provider,
            auth_config: if auth_config.is_empty() { kept.auth_config } else { auth_config },
            secret_keys: if secret_keys.is_empty() { kept.secret_keys } else { secret_keys },
        }
    }

    /// Returns the privileged action that this secret requires with this provider, if any. Only administrators are allowed to
    /// do it.
    #[must_use]
    pub fn privilege(&self, provider: &str) -> Option<&'static str> {
        let has = |key: &str| self.secret_keys.iter().any(|known| known == key);
        let set = |key: &str| self.auth_config.iter().any(|(known, value)| known == key && !value.is_empty());
        let mode = self.auth_config.iter().find(|(key, _)| key == "auth_mode").map(|(_, mode)| mode.as_str());
        // MLflow uses the identity of its own server for every unknown mode.
        let own = match (family(provider), mode) {
            ("bedrock", None | Some("api_key")) => has("api_key"),
            ("bedrock", Some("access_keys")) => has("aws_access_key_id") && has("aws_secret_access_key"),
            ("vertex_ai", None | Some("service_account_json")) => has("vertex_credentials"),
            ("databricks", None | Some("pat_token")) => set("api_base") && has("api_key"),
            ("databricks", Some("oauth_m2m")) => set("api_base") && set("client_id") && has("client_secret"),
            ("bedrock" | "vertex_ai" | "databricks", Some(_)) => false,
            (other, _) if is_ambient(other) => false,
            (other, _) if !is_known(other) => return Some(UNKNOWN_PROVIDER),
            // Without a key, LiteLLM uses the key of the server.
            (other, None | Some("api_key")) => has("api_key") || is_self_hosted(other),
            (_, Some(_)) => false,
        };
        if !own {
            return Some(AS_SERVER);
        }
        let fits = self.provider.as_deref().is_none_or(|its| its.is_empty() || family(its) == family(provider));
        if fits { None } else { Some("use a secret with a provider that it was not made for") }
    }
}

/// Returns the canonical name of a provider, by MLflow's aliases (`mlflow/utils/provider_filter.py`).
pub(super) fn family(provider: &str) -> &str {
    match provider {
        "amazon-bedrock" => "bedrock",
        "databricks-model-serving" => "databricks",
        // `openai` with `api_type` is Azure OpenAI.
        "azure" => "openai",
        other => other,
    }
}

/// Returns true if a provider is called with the cloud identity of MLflow's own server unless other credentials are given.
#[must_use]
pub(super) fn is_ambient(provider: &str) -> bool {
    let provider = provider.to_ascii_lowercase();
    ["bedrock", "amazon-bedrock", "sagemaker", "vertex", "databricks", "endpoints", "watsonx", "oci", "sap"]
        .iter()
        .any(|ambient| provider.starts_with(ambient))
}

/// Returns the privileged action that a provider requires when it is called without a secret, if any. Only administrators are
/// allowed to do it.
#[must_use]
pub fn privilege_of(provider: &str) -> Option<&'static str> {
    if is_ambient(provider) {
        Some(AS_SERVER)
    } else if is_known(&provider.to_ascii_lowercase()) {
        None
    } else {
        Some(UNKNOWN_PROVIDER)
    }
}

/// Returns true if the proxy can determine the addresses that MLflow connects to for a provider.
fn is_known(provider: &str) -> bool {
    // They have no default address: MLflow refuses them without `api_base`.
    let without_default = ["azure", "mlflow-model-serving", "huggingface-text-generation-inference"];
    default_address(provider).is_some() || without_default.contains(&provider)
}

/// Returns the address, in lower case, that MLflow or LiteLLM uses for a provider if a secret has none.
fn default_address(provider: &str) -> Option<&'static str> {
    let known = PUBLIC.iter().chain(&SELF_HOSTED).find(|(known, _)| *known == provider);
    known.map(|(_, address)| *address)
}

fn is_self_hosted(provider: &str) -> bool {
    SELF_HOSTED.iter().any(|(known, _)| provider.eq_ignore_ascii_case(known))
}

pub(super) const AS_SERVER: &str = "let MLflow use its own server's cloud identity";
const UNKNOWN_PROVIDER: &str = "use a model provider that this proxy does not know";
const SERVER_IDENTITY: Demand = Demand::Privileged(AS_SERVER);

/// Authentication modes in which a secret contains its own credentials.
const OWN_CREDENTIALS: [&str; 5] = ["api_key", "access_keys", "service_account_json", "pat_token", "oauth_m2m"];

/// Further keys of `auth_config` that MLflow's pages offer. None of them is part of an address.
const AUTH_CONFIG: [&str; 14] = [
    "auth_mode",
    "aws_region_name",
    "vertex_location",
    "vertex_project",
    "api_version",
    "api_type",
    "deployment_name",
    "organization",
    "version",
    "aws_session_name",
    "vertex_anthropic_betas",
    "client_id",
    "tenant_id",
    "portkey_provider",
];

/// Keys of `secret_value` that MLflow's pages offer.
const SECRET_VALUE: [&str; 7] = [
    "api_key",
    "aws_access_key_id",
    "aws_secret_access_key",
    "aws_session_token",
    "client_secret",
    "portkey_config",
    "provider_api_key",
];

/// Providers with one public address (`mlflow/gateway/providers`, LiteLLM 1.110).
const PUBLIC: [(&str, &str); 28] = [
    ("ai21_chat", "https://api.ai21.com"),
    ("ai21labs", "https://api.ai21.com"),
    ("anthropic", "https://api.anthropic.com"),
    ("cerebras", "https://api.cerebras.ai"),
    ("codestral", "https://codestral.mistral.ai"),
    ("cohere", "https://api.cohere.ai"),
    ("cohere_chat", "https://api.cohere.com"),
    ("deepinfra", "https://api.deepinfra.com"),
    ("deepseek", "https://api.deepseek.com"),
    ("fireworks_ai", "https://api.fireworks.ai"),
    ("gemini", "https://generativelanguage.googleapis.com"),
    ("groq", "https://api.groq.com"),
    ("huggingface", "https://router.huggingface.co"),
    ("mistral", "https://api.mistral.ai"),
    ("mosaicml", "https://models.hosted-on.mosaicml.hosting"),
    ("nvidia_nim", "https://integrate.api.nvidia.com"),
    ("openai", "https://api.openai.com"),
    ("openrouter", "https://openrouter.ai"),
    ("palm", "https://generativelanguage.googleapis.com"),
    ("perplexity", "https://api.perplexity.ai"),
    ("portkey", "https://api.portkey.ai"),
    ("sambanova", "https://api.sambanova.ai"),
    ("text-completion-openai", "https://api.openai.com"),
    ("together_ai", "https://api.together.ai"),
    ("togetherai", "https://api.together.xyz"),
    ("typesafe", "https://api.typesafe.ai"),
    ("voyage", "https://api.voyageai.com"),
    ("xai", "https://api.x.ai"),
];

/// Providers that run next to MLflow.
const SELF_HOSTED: [(&str, &str); 17] = [
    ("langflow", "http://localhost:7860"),
    ("ollama", "http://localhost:11434"),
    ("ollama_chat", "http://localhost:11434"),
    ("lm_studio", "http://localhost:1234"),
    ("llamafile", "http://127.0.0.1:8080"),
    ("vllm", "http://localhost:8000"),
    ("hosted_vllm", "http://localhost:8000"),
    ("xinference", "http://127.0.0.1:9997"),
    ("litellm_proxy", "http://localhost:4000"),
    ("docker_model_runner", "http://localhost:22088"),
    ("lemonade", "http://localhost:8000"),
    ("oobabooga", "http://localhost:5000"),
    ("triton", "http://localhost:8000"),
    ("langgraph", "http://localhost:2024"),
    ("ramalama", "http://localhost:8080"),
    ("infinity", "http://localhost:7997"),
    ("petals", "http://localhost:5000"),
];

/// Returns the demands of a Google service account. Its key file contains the address of the token service.
fn service_account(written: &str) -> Result<Vec<Demand>, LocateError> {
    let wrong = || malformed("vertex_credentials", "***", "the JSON of a Google service account");
    let written = canonical(written.as_bytes()).map_err(|_| wrong())?;
    let account = Json::open(&written)?;
    let text = |name: &str| match account.get(name) {
        None => Ok(None),
        Some(Json::String(text)) => Ok(Some(text.as_ref())),
        Some(_) => Err(wrong()),
    };
    // Other types specify programs to run and further addresses.
    if text("type")?.is_some_and(|kind| kind != "service_account")
        || text("universe_domain")?.is_some_and(|domain| domain != "googleapis.com")
    {
        return Err(wrong());
    }
    Ok(text("token_uri")?.map(|address| Connection::Address(address.to_owned()).into()).into_iter().collect())
}

/// Returns the entries of a map of strings; empty if absent.
fn entries(body: &mut Json<'_>, name: &str) -> Result<Vec<(String, String)>, LocateError> {
    let Some(Json::Object(members)) = member(body, name)? else { return Ok(Vec::new()) };
    let text = |value: &Json<'_>| match value {
        Json::String(text) => text.clone().into_owned(),
        other @ (Json::Scalar(_) | Json::Array(_) | Json::Object(_) | Json::Closed(_)) => other.to_text(),
    };
    Ok(members.iter().map(|(key, value)| (key.clone().into_owned(), text(value))).collect())
}

fn malformed(name: &str, value: &str, expected: &'static str) -> LocateError {
    LocateError::Invalid { name: name.to_owned(), value: shown(&format!("'{value}'")), expected }
}

/// Returns true for a valid label of a host name.
fn is_label(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len()) && text.bytes().all(plain)
}

fn is_project(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b":.-".contains(&byte);
    (1..=128).contains(&text.len()) && text.bytes().all(plain) && !text.contains("..")
}

/// Returns true for a valid provider name.
pub(super) fn is_word(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=64).contains(&text.len()) && text.bytes().all(plain) && !text.starts_with('.') && !text.contains("..")
}

#[cfg(test)]
mod tests;
