//! Whatever a body says of its author, and however it spells it, another parser finds nobody in it but the caller.
//!
//! The first letter chooses the operation's kind of author, the rest is the body.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use mlflow_auth_proxy::http::Query;
use mlflow_auth_proxy::mlflow::{Author, Json, Table, Unknown, sign};
use mlflow_auth_proxy_fuzz::camel;
use serde_json::Value;

static TABLE: LazyLock<Table> = LazyLock::new(|| Table::built_in().expect("the table this program is built with"));

const CALLER: &str = "ada";
const AUTHORS: [Author; 15] = [
    Author::Run,
    Author::PromptlabRun,
    Author::Tags,
    Author::Tag,
    Author::CreatedBy,
    Author::UpdatedBy,
    Author::CompletedBy,
    Author::Assessment,
    Author::Trace,
    Author::TraceV2,
    Author::TraceV2End,
    Author::Dataset,
    Author::DatasetTags,
    Author::DatasetRecords,
    Author::LastUpdatedBy,
];

fuzz_target!(|input: &[u8]| {
    let Some((letter, body)) = input.split_first() else { return };
    let Some(author) = AUTHORS.get(usize::from(letter.wrapping_sub(b'a'))) else { return };
    let operation = TABLE.operations().iter().find(|row| row.author == Some(*author)).expect("a row with this author");
    let rebuilt = TABLE.rebuild(operation, &mut Query::default(), Some(body), &mut Unknown::default());
    let Ok(Some(text)) = rebuilt else { return };
    let Ok(mut json) = Json::open(&text) else { return };
    if sign(*author, &mut json, CALLER).is_err() {
        return;
    }
    let sent = json.to_bytes();
    sign(*author, &mut json, CALLER).expect("what was signed can be signed");
    assert_eq!(json.to_bytes(), sent, "signing twice changes nothing");
    // It refuses numbers that it cannot hold.
    if let Ok(sent) = serde_json::from_slice(&sent) {
        check(*author, &sent);
    }
});

fn check(author: Author, sent: &Value) {
    match author {
        Author::Run => {
            assert_eq!(field(sent, "user_id"), Some(CALLER));
            assert!(is_signed(list(sent, "tags")), "{sent}");
        }
        Author::PromptlabRun => {
            assert_eq!(field(sent, "user_id"), Some(CALLER));
            assert!(is_only_the_callers(list(sent, "tags")), "{sent}");
        }
        Author::Tags => assert!(is_only_the_callers(list(sent, "tags")), "{sent}"),
        Author::Tag => assert!(is_only_the_callers(vec![(text(&sent["key"]), text(&sent["value"]))]), "{sent}"),
        Author::CreatedBy => assert_eq!(field(sent, "created_by"), Some(CALLER)),
        Author::UpdatedBy => assert_eq!(field(sent, "updated_by"), Some(CALLER)),
        Author::LastUpdatedBy => assert_eq!(field(sent, "last_updated_by"), Some(CALLER)),
        Author::CompletedBy => assert!(field(sent, "completed_by").is_none_or(|by| by == CALLER), "{sent}"),
        Author::Assessment => check_assessment(&sent["assessment"]),
        Author::Trace => check_trace(sent),
        Author::TraceV2 => {
            assert!(is_only_the_callers(list(sent, "tags")), "{sent}");
            assert!(is_signed(list(sent, "request_metadata")), "{sent}");
        }
        Author::TraceV2End => {
            assert!(is_only_the_callers(list(sent, "tags")), "{sent}");
            assert!(is_only_the_callers(list(sent, "request_metadata")), "{sent}");
        }
        Author::Dataset => assert!(written(sent, "tags").is_none_or(|tags| is_signed(map(&tags))), "{sent}"),
        Author::DatasetTags => {
            assert!(written(sent, "tags").is_none_or(|tags| is_only_the_callers(map(&tags))), "{sent}");
        }
        Author::DatasetRecords => {
            for record in written(sent, "records").iter().filter_map(Value::as_array).flatten() {
                assert!(is_signed(map(&record["tags"])), "{sent}");
            }
        }
    }
}

fn check_assessment(assessment: &Value) {
    let Some(source) = assessment["source"].as_object() else { return };
    let kind = source.get("source_type").unwrap_or(&Value::Null);
    let is_machine = matches!(kind.as_str(), Some("LLM_JUDGE" | "CODE")) || matches!(kind.as_i64(), Some(2 | 3));
    assert!(is_machine || source["source_id"] == CALLER, "{assessment}");
    assert!(!source.contains_key("sourceId") && !source.contains_key("sourceType"), "{assessment}");
}

fn check_trace(sent: &Value) {
    let info = &sent["trace"]["trace_info"];
    assert!(sent["trace"].get("traceInfo").is_none() && info.get("traceMetadata").is_none(), "{sent}");
    if info.is_object() {
        assert!(is_signed(map(&info["trace_metadata"])), "{sent}");
        assert!(is_only_the_callers(map(&info["tags"])), "{sent}");
        info["assessments"].as_array().into_iter().flatten().for_each(check_assessment);
    }
}

/// A field that is spelt as it is in MLflow, and no other way.
fn field<'v>(sent: &'v Value, name: &str) -> Option<&'v str> {
    assert!(sent.get(camel(name)).is_none(), "{sent}");
    sent.get(name).map(|value| value.as_str().expect("a name"))
}

type Tags = Vec<(String, String)>;

/// Tags as a list of objects.
fn list(sent: &Value, name: &str) -> Tags {
    sent[name].as_array().into_iter().flatten().map(|tag| (text(&tag["key"]), text(&tag["value"]))).collect()
}

/// Tags as an object.
fn map(tags: &Value) -> Tags {
    tags.as_object().into_iter().flatten().map(|(key, value)| (key.clone(), text(value))).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// A field that holds JSON as a text; `None` also when there is a number in it that this parser cannot hold.
fn written(sent: &Value, name: &str) -> Option<Value> {
    sent[name].as_str().and_then(|text| serde_json::from_str(text).ok())
}

/// Some databases compare keys without case and without spaces at the end.
fn is(key: &str, name: &str) -> bool {
    key.trim_end().eq_ignore_ascii_case(name)
}

/// One author is left.
fn is_signed(tags: Tags) -> bool {
    tags.iter().filter(|(key, _)| is(key, "mlflow.user")).count() == 1 && is_only_the_callers(tags)
}

fn is_only_the_callers(tags: Tags) -> bool {
    let says = |key: &str| is(key, "mlflow.user") || is(key, "mlflow.auth.username");
    tags.iter().all(|(key, value)| value == CALLER || !says(key))
}
