use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;
use crate::http::Query;
use crate::mlflow::{Operation, Table, Unknown};

/// The body as an operation with this author has it: rebuilt from its known fields, then signed.
#[track_caller]
fn signed(author: Author, body: &str) -> Result<String, String> {
    static TABLE: LazyLock<Table> = LazyLock::new(|| Table::built_in().expect("the built-in table"));
    let of_runs = match author {
        Author::Tag => Some("SetTag"),
        Author::Tags => Some("LogBatch"),
        _ => None,
    };
    let is_it = |one: &&Operation| one.author == Some(author) && of_runs.is_none_or(|name| one.name == name);
    let operation = TABLE.operations().iter().find(is_it).expect("a row with this author");
    let rebuilt = TABLE.rebuild(operation, &mut Query::default(), Some(body.as_bytes()), &mut Unknown::default());
    let text = rebuilt.map_err(|error| error.to_string())?.expect("a body");
    let mut json = Json::open(&text).expect("few members");
    sign(author, &mut json, "ada").map_err(|error| error.to_string())?;
    Ok(String::from_utf8(json.to_bytes()).expect("text"))
}

#[track_caller]
fn check(author: Author, rows: &[(&str, &str)]) {
    for (before, after) in rows {
        assert_eq!(signed(author, before).as_deref(), Ok(*after), "{before}");
    }
}

const OURS: &str = r#"{"key":"mlflow.user","value":"ada"}"#;

#[test]
fn a_new_run_is_the_callers() {
    check(
        Author::Run,
        &[
            ("{}", &format!(r#"{{"user_id":"ada","tags":[{OURS}]}}"#)),
            (r#"{"userId":"eve","tags":null}"#, &format!(r#"{{"user_id":"ada","tags":[{OURS}]}}"#)),
            (
                r#"{"user_id":"eve","tags":[{"key":"mlflow.user","value":"eve"},{"key":"a","value":"b"},{"key":"mlflow.user"}]}"#,
                &format!(r#"{{"user_id":"ada","tags":[{{"key":"a","value":"b"}},{OURS}]}}"#),
            ),
            (
                r#"{"user_id":"","tags":[{"key":"MLflow.User ","value":"eve"},{"key":"mlflow.users","value":"x"},{}]}"#,
                &format!(r#"{{"user_id":"ada","tags":[{{"key":"mlflow.users","value":"x"}},{{}},{OURS}]}}"#),
            ),
        ],
    );
}

#[test]
fn a_run_of_the_prompt_lab_is_the_callers_without_a_tag_that_mlflow_cannot_read() {
    check(
        Author::PromptlabRun,
        &[
            ("{}", r#"{"user_id":"ada"}"#),
            (r#"{"user_id":"eve","tags":[]}"#, r#"{"user_id":"ada","tags":[]}"#),
            (r#"{"tags":[{"key":"mlflow.user","value":"eve"}]}"#, &format!(r#"{{"tags":[{OURS}],"user_id":"ada"}}"#)),
        ],
    );
}

#[test]
fn a_tag_that_names_an_author_names_the_caller() {
    check(
        Author::Tags,
        &[
            ("{}", "{}"),
            (r#"{"tags":[{"key":"a","value":"mlflow.user"}]}"#, r#"{"tags":[{"key":"a","value":"mlflow.user"}]}"#),
            (r#"{"tags":[{"value":"eve","key":"mlflow\u002euser"}]}"#, &format!(r#"{{"tags":[{OURS}]}}"#)),
        ],
    );
    check(
        Author::Tag,
        &[
            (
                r#"{"run_id":"r","key":"mlflow.user","value":"eve"}"#,
                r#"{"run_id":"r","key":"mlflow.user","value":"ada"}"#,
            ),
            (r#"{"key":"MLFLOW.USER"}"#, OURS),
            (r#"{"key":"a","value":"eve"}"#, r#"{"key":"a","value":"eve"}"#),
            (r#"{"key":"mlflow.auth.username","value":"eve"}"#, r#"{"key":"mlflow.auth.username","value":"ada"}"#),
            (r#"{"key":"mlflow.auth.userid","value":"1"}"#, r#"{"key":"mlflow.auth.userId","value":""}"#),
            ("{}", "{}"),
        ],
    );
}

#[test]
fn fields_that_only_name_an_author_are_set() {
    check(
        Author::CreatedBy,
        &[("{}", r#"{"created_by":"ada"}"#), (r#"{"createdBy":"eve"}"#, r#"{"created_by":"ada"}"#)],
    );
    check(Author::UpdatedBy, &[(r#"{"a":1,"updated_by":null}"#, r#"{"updated_by":"ada"}"#)]);
    check(
        Author::CompletedBy,
        &[
            (r#"{"status":"COMPLETE"}"#, r#"{"status":"COMPLETE","completed_by":"ada"}"#),
            (r#"{"status":3,"completedBy":"eve"}"#, r#"{"status":"DECLINED","completed_by":"ada"}"#),
            (r#"{"status":"PENDING","completedBy":"eve"}"#, r#"{"status":"PENDING"}"#),
            (r#"{"status":1,"completed_by":"eve"}"#, r#"{"status":"PENDING"}"#),
            (r#"{"completed_by":"eve"}"#, "{}"),
        ],
    );
}

#[test]
fn a_persons_assessment_is_the_callers_and_a_judges_is_not() {
    let of = |source: &str| format!(r#"{{"assessment":{{"source":{source}}}}}"#);
    for (before, after) in [
        (r#"{"source_type":"HUMAN","source_id":"eve"}"#, r#"{"source_type":"HUMAN","source_id":"ada"}"#),
        (r#"{"sourceType":"HUMAN","sourceId":"eve"}"#, r#"{"source_id":"ada","source_type":"HUMAN"}"#),
        (r#"{"source_type":1,"source_id":"eve"}"#, r#"{"source_type":"HUMAN","source_id":"ada"}"#),
        (r#"{"source_id":"eve"}"#, r#"{"source_id":"ada"}"#),
        (r#"{"source_type":"LLM_JUDGE","source_id":"gpt"}"#, r#"{"source_type":"LLM_JUDGE","source_id":"gpt"}"#),
        (r#"{"source_type":3,"sourceId":"a.py"}"#, r#"{"source_type":"CODE","source_id":"a.py"}"#),
    ] {
        let sorted = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("JSON");
        let found = signed(Author::Assessment, &of(before)).expect("signed");
        assert_eq!(sorted(&found), sorted(&of(after)), "{before}");
    }
    check(Author::Assessment, &[("{}", "{}"), (r#"{"assessment":{}}"#, r#"{"assessment":{}}"#)]);
}

#[test]
fn a_traces_maker_is_the_caller_and_its_applications_user_stays() {
    check(
        Author::Trace,
        &[
            (r#"{"trace":{"trace_info":{}}}"#, r#"{"trace":{"trace_info":{"trace_metadata":{"mlflow.user":"ada"}}}}"#),
            (
                r#"{"trace":{"traceInfo":{"traceMetadata":{"mlflow.trace.user":"kim","mlflow.user":"eve"},"tags":{"mlflow.user":"eve"}}}}"#,
                r#"{"trace":{"trace_info":{"trace_metadata":{"mlflow.trace.user":"kim","mlflow.user":"ada"},"tags":{"mlflow.user":"ada"}}}}"#,
            ),
            (
                r#"{"trace":{"trace_info":{"trace_metadata":{"mlflow.auth.userId":"1","mlflow.auth.username":"eve"}}}}"#,
                r#"{"trace":{"trace_info":{"trace_metadata":{"mlflow.auth.username":"ada","mlflow.user":"ada"}}}}"#,
            ),
            // The budgets of the AI gateway add up what has these.
            (
                r#"{"trace":{"trace_info":{"trace_metadata":{"mlflow.gateway.endpointId":"e","MLflow.Gateway.caller ":"x","mlflow.gateways":"y"}}}}"#,
                r#"{"trace":{"trace_info":{"trace_metadata":{"mlflow.gateways":"y","mlflow.user":"ada"}}}}"#,
            ),
            (
                r#"{"trace":{"trace_info":{"trace_metadata":{},"assessments":[{"source":{"source_type":"HUMAN","source_id":"eve"}}]}}}"#,
                r#"{"trace":{"trace_info":{"trace_metadata":{"mlflow.user":"ada"},"assessments":[{"source":{"source_type":"HUMAN","source_id":"ada"}}]}}}"#,
            ),
        ],
    );
    check(
        Author::TraceV2,
        &[
            ("{}", &format!(r#"{{"request_metadata":[{OURS}]}}"#)),
            (
                r#"{"tags":[{"key":"mlflow.user","value":"eve"}],"requestMetadata":[]}"#,
                &format!(r#"{{"tags":[{OURS}],"request_metadata":[{OURS}]}}"#),
            ),
        ],
    );
    check(
        Author::TraceV2End,
        &[
            ("{}", "{}"),
            (
                r#"{"request_metadata":[{"key":"mlflow.user","value":"eve"}]}"#,
                &format!(r#"{{"request_metadata":[{OURS}]}}"#),
            ),
        ],
    );
}

#[test]
fn an_author_inside_a_written_object_is_found() {
    let ours = r#"{"tags":"{\"mlflow.user\":\"ada\"}"}"#;
    check(
        Author::Dataset,
        &[
            ("{}", ours),
            (r#"{"tags":""}"#, ours),
            (r#"{"tags":"{\"mlflow.\\u0075ser\":\"eve\"}"}"#, ours),
            (r#"{"tags":"{\"n\":1.50}"}"#, r#"{"tags":"{\"n\":1.50,\"mlflow.user\":\"ada\"}"}"#),
        ],
    );
    check(
        Author::DatasetTags,
        &[("{}", "{}"), (r#"{"tags":"{ }"}"#, r#"{"tags":"{}"}"#), (r#"{"tags":"{\"mlflow.user\":\"eve\"}"}"#, ours)],
    );
    check(
        Author::DatasetRecords,
        &[
            ("{}", "{}"),
            (
                r#"{"records":"[{\"inputs\":{},\"tags\":{\"mlflow.user\":\"eve\"}},{\"tags\":null},{}]"}"#,
                concat!(
                    r#"{"records":"[{\"inputs\":{},\"tags\":{\"mlflow.user\":\"ada\"}},"#,
                    r#"{\"tags\":{\"mlflow.user\":\"ada\"}},{\"tags\":{\"mlflow.user\":\"ada\"}}]"}"#
                ),
            ),
            (
                r#"{"records":"[{\"source\":{\"source_type\":\"HUMAN\",\"source_data\":{\"user_name\":\"eve\",\"x\":1}},\"tags\":{}}]"}"#,
                concat!(
                    r#"{"records":"[{\"source\":{\"source_type\":\"HUMAN\",\"source_data\":{\"user_name\":\"ada\",\"x\":1}},"#,
                    r#"\"tags\":{\"mlflow.user\":\"ada\"}}]"}"#
                ),
            ),
        ],
    );
}

#[test]
fn an_author_that_could_be_read_in_two_ways_is_refused() {
    for (author, body) in [
        (Author::Run, r#"{"user_id":"a","userId":"b"}"#),
        (Author::Run, r#"{"tags":{}}"#),
        (Author::Run, r#"{"user_id":7}"#),
        (Author::Run, r#"{"tags":["mlflow.user"]}"#),
        (Author::Assessment, r#"{"assessment":{"source":{"source_type":"1","source_id":"eve"}}}"#),
        (Author::Assessment, r#"{"assessment":{"source":{"source_type":2.0,"source_id":"eve"}}}"#),
        (Author::Run, r#"{"tags":[{"key":["mlflow.user"],"value":"eve"}]}"#),
        (Author::Tag, r#"{"key":["mlflow.user"]}"#),
        (Author::Assessment, r#"{"assessment":{"source":"HUMAN"}}"#),
        (Author::Assessment, r#"{"assessment":{"source":{"source_type":2,"source_id":"a","sourceId":"b"}}}"#),
        (Author::Trace, r#"{"trace":{"trace_info":{},"traceInfo":{}}}"#),
        (Author::Trace, r#"{"trace":{"trace_info":{"trace_metadata":[]}}}"#),
        (Author::Dataset, r#"{"tags":{"mlflow.user":"eve"}}"#),
        (Author::Dataset, r#"{"tags":"{\"a\":1,\"a\":2}"}"#),
        (Author::Dataset, r#"{"tags":"[]"}"#),
        (Author::Dataset, r#"{"tags":"{}, \"v2\":{}"}"#),
        (Author::Dataset, r#"{"tags":"{}} {"}"#),
        (Author::Dataset, r#"{"tags":"{\"a\":NaN}"}"#),
        (Author::DatasetRecords, r#"{"records":"[1]"}"#),
        (Author::DatasetRecords, r#"{"records":"{}"}"#),
    ] {
        assert!(signed(author, body).is_err(), "{author:?} {body}");
    }
}

#[test]
fn the_tables_words_are_kebab_case() {
    for (word, author) in
        [("run", Author::Run), ("created-by", Author::CreatedBy), ("trace-v2-end", Author::TraceV2End)]
    {
        let text = format!("\"{word}\"");
        assert_eq!(serde_json::from_str::<Author>(&text).ok(), Some(author), "{word}");
    }
}

proptest! {
    /// Whatever a client writes among the tags, one author is left: the caller.
    #[test]
    fn nobody_else_is_left(keys in proptest::collection::vec("(mlflow|MLFLOW)\\.(user|User|trace)[ ]{0,2}|[a-z]{1,3}", 0..6)) {
        let tags: Vec<String> = keys.iter().map(|key| format!(r#"{{"key":"{key}","value":"eve"}}"#)).collect();
        let found = signed(Author::Run, &format!(r#"{{"tags":[{}]}}"#, tags.join(","))).expect("signed");
        let found: serde_json::Value = serde_json::from_str(&found).expect("JSON");
        let authors: Vec<_> = found["tags"].as_array().expect("tags").iter()
            .filter(|tag| tag["key"].as_str().is_some_and(|key| key.to_lowercase().trim() == "mlflow.user"))
            .collect();
        prop_assert_eq!(authors.len(), 1);
        prop_assert_eq!(authors[0]["value"].as_str(), Some("ada"));
    }
}
