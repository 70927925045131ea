//! URLs in a request to a model whose content MLflow itself fetches.
//!
//! Providers without code of their own in MLflow go through LiteLLM, which downloads images, files and audio that a message
//! names by URL, in MLflow's process (LiteLLM 1.110, `litellm_core_utils/prompt_templates/factory.py`).

use super::Json;
use super::provider::family;

/// Providers that MLflow serves itself since 3.9 (`_build_endpoint_config` of `mlflow/server/gateway_api.py`); those that
/// it serves itself only since 3.13 are not among them. It passes URLs on to these.
const NATIVE: [&str; 4] = ["anthropic", "gemini", "mistral", "openai"];

/// Returns true if MLflow may itself fetch what a request to a model of this provider names by URL.
#[must_use]
pub fn fetches(provider: &str) -> bool {
    !NATIVE.contains(&family(&provider.to_ascii_lowercase()))
}

/// Returns the URLs in the body of a request to a model that LiteLLM may fetch: every string that holds `://`, but text for
/// the model and descriptions of tools. Data URLs and Google's `gs://`, which only Google reads, are not among them.
pub(super) fn urls(body: &Json<'_>) -> Vec<String> {
    let mut found = Vec::new();
    let mut take = |key: Option<&str>, text: &str| {
        let is_text = key.is_none_or(|key| TEXTS.contains(&key));
        if !is_text && text.contains("://") && !text.starts_with("data:") && !text.starts_with("gs://") {
            found.push(text.to_owned());
        }
    };
    // What a model said that a tool is to be called with, and what the tool answered.
    let enter = |key: &str, is_object: bool| {
        let of_a_tool = matches!(key, "input" | "args" | "arguments" | "response") && is_object;
        !of_a_tool && !STRUCTURES.contains(&key)
    };
    body.each_string(&enter, &mut take);
    found
}

/// Members that hold text for the model, or a name. A list of strings is text, too.
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

/// Members that describe tools and answers, or are labels; their URLs are names of schemas and of servers that the provider
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
