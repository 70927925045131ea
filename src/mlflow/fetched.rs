//! URLs in a model request whose content MLflow itself fetches.
//!
//! Providers without their own implementation in MLflow are called through LiteLLM, which downloads the images, files and audio
//! that a message refers to by URL, within MLflow's process (LiteLLM 1.110, `litellm_core_utils/prompt_templates/factory.py`).

use super::Json;
use super::provider::family;

/// Providers that MLflow has implemented itself since 3.9 (`_build_endpoint_config` of `mlflow/server/gateway_api.py`); MLflow
/// forwards URLs to them. Providers that MLflow has implemented only since 3.13 are excluded.
const NATIVE: [&str; 4] = ["anthropic", "gemini", "mistral", "openai"];

/// Returns true if MLflow itself can fetch the URLs in a request to a model of this provider.
#[must_use]
pub fn fetches(provider: &str) -> bool {
    !NATIVE.contains(&family(&provider.to_ascii_lowercase()))
}

/// Returns the URLs in the body of a model request that LiteLLM can fetch: every string that contains `://`, except text for
/// the model and descriptions of tools. Data URLs and Google's `gs://` URLs, which only Google reads, are excluded.
pub(super) fn urls(body: &Json<'_>) -> Vec<String> {
    let mut found = Vec::new();
    let mut take = |key: Option<&str>, text: &str| {
        let is_text = key.is_none_or(|key| TEXTS.contains(&key));
        if !is_text && text.contains("://") && !text.starts_with("data:") && !text.starts_with("gs://") {
            found.push(text.to_owned());
        }
    };
    // The arguments of tool calls by the model, and the results of the tools.
    let enter = |key: &str, is_object: bool| {
        let of_a_tool = matches!(key, "input" | "args" | "arguments" | "response") && is_object;
        !of_a_tool && !STRUCTURES.contains(&key)
    };
    body.each_string(&enter, &mut take);
    found
}

/// Members that contain text for the model, or a name. A list of strings counts as text, too.
const TEXTS: [&str; 20] = [
    "text",
    "content",
    "input",
    "prompt",
    "suffix",
    "system",
    "instructions",
    "arguments",
    "output",
    "thinking",
    "reasoning",
    "reasoning_content",
    "refusal",
    "query",
    "stop",
    "title",
    "name",
    "model",
    "user",
    "description",
];

/// Members that describe tools and response formats, or are labels. Their URLs identify schemas, or servers that the provider
/// calls.
const STRUCTURES: [&str; 12] = [
    "tools",
    "functions",
    "function",
    "mcp_servers",
    "response_format",
    "text_format",
    "metadata",
    "extra_metadata",
    "generationConfig",
    "generation_config",
    "output_config",
    "annotations",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mlflow::canonical;

    #[track_caller]
    fn found(body: &str) -> Vec<String> {
        let text = canonical(body.as_bytes()).expect("JSON");
        urls(&Json::open(&text).expect("few members"))
    }

    #[test]
    fn parts_of_messages_name_what_is_fetched() {
        for part in [
            r#"{"type":"image_url","image_url":{"url":"http://10.0.0.1/a"}}"#,
            r#"{"type":"image_url","image_url":"http://10.0.0.1/a"}"#,
            r#"{"type":"file","file":{"file_id":"http://10.0.0.1/a"}}"#,
            r#"{"type":"file","file":{"file_data":"http://10.0.0.1/a"}}"#,
            r#"{"type":"video_url","video_url":{"url":"http://10.0.0.1/a"}}"#,
            r#"{"type":"image","source":{"type":"url","url":"http://10.0.0.1/a"}}"#,
            r#"{"type":"tool_result","content":[{"type":"document","source":{"type":"url","url":"http://10.0.0.1/a"}}]}"#,
            r#"{"fileData":{"fileUri":"http://10.0.0.1/a"}}"#,
        ] {
            for body in [
                format!(r#"{{"messages":[{{"role":"user","content":[{part}]}}]}}"#),
                format!(r#"{{"input":[{{"role":"user","content":[{part}]}}]}}"#),
                format!(r#"{{"contents":[{{"parts":[{part}]}}]}}"#),
            ] {
                assert_eq!(found(&body), ["http://10.0.0.1/a"], "{body}");
            }
        }
        assert_eq!(found(r#"{"messages":[{"images":[{"u":" FILE://etc"}]}]}"#), [" FILE://etc"]);
    }

    #[test]
    fn text_tools_and_data_are_not_fetched() {
        for body in [
            r#"{"messages":[{"role":"user","content":"see http://10.0.0.1/a"}],"model":"http://x"}"#,
            r#"{"messages":[{"role":"user","content":[{"type":"text","text":"see http://10.0.0.1/a"}]}]}"#,
            r#"{"messages":[{"content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,AA"}}]}]}"#,
            r#"{"messages":[{"content":[{"type":"tool_use","input":{"url":"http://10.0.0.1/a"}}]}]}"#,
            r#"{"messages":[{"tool_calls":[{"function":{"name":"get","arguments":"{\"u\":\"http://10.0.0.1\"}"}}]}]}"#,
            r#"{"contents":[{"parts":[{"fileData":{"fileUri":"gs://bucket/a"}},{"text":"http://10.0.0.1/a"}]}]}"#,
            r#"{"tools":[{"parameters":{"$schema":"http://json-schema.org/draft-07/schema#"}}]}"#,
            r#"{"input":["http://10.0.0.1/a","b"]}"#,
        ] {
            assert_eq!(found(body), Vec::<String>::new(), "{body}");
        }
    }

    #[test]
    fn providers_that_mlflow_serves_itself_fetch_on_their_own() {
        for native in ["openai", "OpenAI", "azure", "anthropic", "gemini", "mistral"] {
            assert!(!fetches(native), "{native}");
        }
        for other in ["cohere_chat", "ollama_chat", "vertex_ai", "groq", "bedrock", "unknown", ""] {
            assert!(fetches(other), "{other}");
        }
    }
}
