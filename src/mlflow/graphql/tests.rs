use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const RUN: &str = "0123456789abcdef0123456789abcdef";

fn parse_with(query: &str, variables: &Value, operation: Option<&str>) -> Result<Query, GraphqlError> {
    let body = json!({"query": query, "variables": variables, "operationName": operation});
    Query::parse(body.to_string().as_bytes())
}

fn parse(query: &str) -> Result<Query, GraphqlError> {
    parse_with(query, &Value::Null, None)
}

fn all(query: &Query) -> Vec<Verdict> {
    vec![Verdict::Keep; query.fields().len()]
}

/// The text of the query that is sent.
fn sent(query: &Query, verdicts: &[Verdict]) -> String {
    let body = query.rewrite(verdicts).expect("something to ask");
    let body: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(body.as_object().map(|members| members.len()), Some(1), "no variables, no operation name");
    body["query"].as_str().expect("text").to_owned()
}

#[track_caller]
fn check(query: &str, asks: &[(&str, Ask)], text: &str) {
    let read = parse(query).expect(query);
    let found: Vec<_> = read.fields().iter().map(|field| (field.key.as_str(), field.ask.clone())).collect();
    assert_eq!(found, asks, "{query}");
    assert_eq!(sent(&read, &all(&read)), text, "{query}");
}

fn run() -> Ask {
    Ask::Run(RUN.to_owned())
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn the_web_uis_queries_are_read() {
    let data = |field: &str| json!({"data": {field: RUN}});
    for (text, variables, ask) in [
        (include_str!("ui/GetRun.graphql"), data("runId"), run()),
        (
            include_str!("ui/SearchRuns.graphql"),
            json!({"data": {"experimentIds": ["1", "2"], "filter": "a = 'b'", "runViewType": "ACTIVE_ONLY", "maxResults": 5}}),
            Ask::Experiments(texts(&["1", "2"])),
        ),
        (
            include_str!("ui/GetMetricHistoryBulkInterval.graphql"),
            json!({"data": {"runIds": [RUN], "metricKey": "loss \"é\u{1F600}\n", "startStep": null, "maxResults": 320}}),
            Ask::Runs(texts(&[RUN])),
        ),
        (
            include_str!("ui/MlflowGetExperimentQuery.graphql"),
            json!({"input": {"experimentId": "7"}}),
            Ask::Experiment("7".to_owned()),
        ),
    ] {
        let read = parse_with(text, &variables, None).expect(text);
        assert_eq!(read.fields().iter().map(|field| &field.ask).collect::<Vec<_>>(), [&ask], "{text}");
        let query = sent(&read, &all(&read));
        assert!(!query.contains('$') && !query.contains('@'), "{query}");
        // What was written is read the same.
        let again = parse(&query).expect("our own text");
        assert_eq!(again.rewrite(&all(&again)), read.rewrite(&all(&read)));
    }
}

#[test]
fn every_way_to_say_it_is_put_into_one() {
    let one = format!("query{{mlflowGetRun(input:{{runId:\"{RUN}\" }} ){{run{{info{{runId }} }} }} }}");
    for query in [
        format!(r#"{{ mlflowGetRun(input: {{runId: "{RUN}"}}) {{ run {{ info {{ runId }} }} }} }}"#),
        format!(
            r#"query A($r: String = "{RUN}") {{ mlflowGetRun(input: {{runId: $r}}) {{ run {{ info {{ runId }} }} }} }}"#
        ),
        format!(
            r#"query A($i: MlflowGetRunInput = {{runId: "{RUN}", runUuid: null}}) {{ ...f }}
            fragment f on Query {{ mlflowGetRun(input: $i) {{ ...g }} }}
            fragment g on MlflowGetRunResponse {{ run {{ info {{ runId }} ... on MlflowRunExtension {{ info {{ runId }} }} }} }}"#
        ),
        format!(
            r#"query A($n: Boolean = false) {{ ... @skip(if: $n) {{ mlflowGetRun(input: {{runId: "{RUN}"}}) {{ run {{ info {{ runId }} }} }} }}
            a: mlflowGetExperiment(input: {{experimentId: "1"}}) @include(if: $n) {{ experiment {{ name }} }} }}"#
        ),
        format!(
            r#"{{ mlflowGetRun(input: {{runId: "\u0030{}"}}) {{ run {{ info {{ runId }} }} }} # a comment
            mlflowGetRun(input: {{runId: "{RUN}"}}) {{ run {{ info {{ runId }} }} }} }}"#,
            RUN.strip_prefix('0').expect("a zero")
        ),
    ] {
        check(&query, &[("mlflowGetRun", run())], &one);
    }
    check(
        "{ a: mlflowSearchRuns(input: {experimentIds: \"1\", runViewType: ALL, maxResults: 3}) { runs { info { runId } } } t: test(inputString: \"x\") { output } __typename }",
        &[("a", Ask::Experiments(texts(&["1"]))), ("t", Ask::Open), ("__typename", Ask::Open)],
        "query{a:mlflowSearchRuns(input:{experimentIds:[\"1\" ] maxResults:3 runViewType:ALL } ){runs{info{runId } } } t:test(inputString:\"x\" ){output } __typename }",
    );
    check(
        "{ __type(name: \"Query\") { fields(includeDeprecated: true) { name } } }",
        &[("__type", Ask::Open)],
        "query{__type(name:\"Query\" ){fields(includeDeprecated:true ){name } } }",
    );
    check(
        "mutation { mlflowSearchDatasets(input: {experimentIds: [\"1\"]}) { datasetSummaries @skip(if: true) { name } } }",
        &[("mlflowSearchDatasets", Ask::Experiments(texts(&["1"])))],
        "mutation{mlflowSearchDatasets(input:{experimentIds:[\"1\" ] } ){mlflowAuthProxy_typename:__typename } }",
    );
}

#[test]
fn the_operation_that_is_named_is_the_one_that_counts() {
    let text = r#"query A { mlflowGetExperiment(input: {experimentId: "1"}) { experiment { name } } }
                  query B { mlflowGetExperiment(input: {experimentId: "2"}) { experiment { name } } }"#;
    let read = parse_with(text, &Value::Null, Some("B")).expect("B");
    assert_eq!(read.fields()[0].ask, Ask::Experiment("2".to_owned()));
    for name in [None, Some("C"), Some("")] {
        assert_eq!(parse_with(text, &Value::Null, name).expect_err("unclear"), GraphqlError::Operation);
    }
}

#[test]
fn ids_that_cannot_be_name_nothing() {
    for arguments in [
        "",
        "(input: null)",
        "(input: {})",
        r#"(input: {runId: ""})"#,
        r#"(input: {runId: "a/b"})"#,
        r#"(input: {runId: "a", runUuid: "b"})"#,
    ] {
        let read = parse(&format!("{{ mlflowGetRun{arguments} {{ run {{ info {{ runId }} }} }} }}")).expect("read");
        assert_eq!(read.fields()[0].ask, Ask::Nothing, "{arguments}");
        assert_eq!(read.rewrite(&all(&read)), None, "{arguments}");
    }
    for query in [
        r#"{ mlflowGetExperiment(input: {experimentId: "01"}) { experiment { name } } }"#,
        r#"{ mlflowGetExperiment(input: {experimentId: " 1"}) { experiment { name } } }"#,
        r#"{ mlflowSearchRuns(input: {experimentIds: []}) { runs { info { runId } } } }"#,
        r#"{ mlflowSearchRuns(input: {experimentIds: ["1", "0x2"]}) { runs { info { runId } } } }"#,
        r#"{ mlflowGetMetricHistoryBulkInterval(input: {runIds: ["a", ""]}) { metrics { key } } }"#,
    ] {
        assert_eq!(parse(query).expect(query).fields()[0].ask, Ask::Nothing, "{query}");
    }
}

#[test]
fn what_is_not_known_is_refused() {
    let deep = format!("{{ test {}{}", "{ a ".repeat(11), "}".repeat(12));
    let wide = format!("{{ {} }}", (0..11).map(|n| format!("a{n}: test {{ output }}")).collect::<String>());
    let many = format!("{{ test {{ {} }} }}", "output ".repeat(1000));
    let bomb: String = (0..30).map(|n| format!("fragment f{n} on Query {{ ...f{} ...f{} }} ", n + 1, n + 1)).collect();
    let bomb = format!("{{ ...f0 }} {bomb} fragment f30 on Query {{ __typename }}");
    let nested = "{a".repeat(5000);
    for query in [
        "",
        "{",
        "{}",
        "{ mlflowDeleteEverything { x } }",
        "subscription { test { output } }",
        "{ ...f }",
        "{ ...f } fragment f on Query { ...f }",
        "{ ...f } fragment f on Query { ...g } fragment g on Query { ...f }",
        "{ ...f } fragment f on Query { test { output } } fragment f on Query { __typename }",
        "{ test @defer { output } }",
        "{ test @skip { output } }",
        "{ test @skip(if: 1) { output } }",
        "{ test @skip(if: $a) { output } }",
        "query A($a: Boolean!) { test @skip(if: $a) { output } }",
        "query A @live { test { output } }",
        "{ mlflowAuthProxy_name: test { output } }",
        "{ test(inputString: \"\"\"x\"\"\") { output } }",
        r#"{ a: mlflowGetRun(input: {runId: "a"}) { run { info { runId } } } a: mlflowGetRun(input: {runId: "b"}) { run { info { runId } } } }"#,
        r#"{ mlflowGetRun(input: {runId: 1}) { run { info { runId } } } }"#,
        r#"{ mlflowGetRun(input: {runId: ["a"]}) { run { info { runId } } } }"#,
        r#"{ mlflowGetRun(input: {run_id: "a"}) { run { info { runId } } } }"#,
        r#"{ mlflowGetRun(runId: "a") { run { info { runId } } } }"#,
        r#"{ mlflowGetRun(input: {runId: "a"}) { run(x: 1) { info { runId } } } }"#,
        r#"{ mlflowGetRun(input: {runId: "a"}) { run { secrets { value } } } }"#,
        r#"{ mlflowSearchRuns(input: {experimentIds: ["1", null]}) { runs { info { runId } } } }"#,
        &deep,
        &wide,
        &many,
        &bomb,
        &nested,
    ] {
        assert!(parse(query).is_err(), "{query}");
    }
    for body in [
        "[]",
        "{}",
        r#"{"query":1}"#,
        r#"{"query":"{ __typename }","variables":[]}"#,
        "{\"query\":\"{ __typename }\",\"operationName\":1}",
    ] {
        assert!(Query::parse(body.as_bytes()).is_err(), "{body}");
    }
    let odd = json!({"i": {"runId\" } ) { x }": "a"}});
    assert!(parse_with("query A($i: X) { mlflowGetRun(input: $i) { run { info { runId } } } }", &odd, None).is_err());
}

/// A variable stands in as many places as fit into a query: together their values must not take more than a body may.
#[test]
fn a_long_value_in_many_places_is_refused() {
    let long = json!({ "a": "x".repeat(100_000) });
    let fields = |places: usize| (0..places).map(|n| format!("f{n}(x: $a) ")).collect::<String>();
    for query in [
        format!("query A($a: String) {{ test(x: [{}]) {{ output }} }}", "$a ".repeat(20)),
        format!(
            "query A($a: String) {{ test(x: {{ {} }}) {{ output }} }}",
            fields(20).replace("(x: ", ": ").replace(')', "")
        ),
        format!("query A($a: String) {{ __schema {{ {} }} }}", fields(20)),
        format!("query A($a: String) {{ test(x: $a) @skip(if: [{}]) {{ output }} }}", "$a ".repeat(20)),
        format!(
            "{{ {} }} fragment f on Query {{ test(x: \"{}\") {{ output }} }}",
            "...f ".repeat(50),
            "x".repeat(50_000)
        ),
        format!(
            "query A($c: Int) {{ {} }} fragment f on Query {{ test(x: [{}]) }}",
            "...f ".repeat(400),
            "$c ".repeat(200)
        ),
        format!("query A($b: [Int] = [{}]) {{ test(x: [{}]) {{ output }} }}", "1 ".repeat(10_000), "$b ".repeat(500)),
    ] {
        let refused = parse_with(&query, &long, None).map(drop);
        assert_eq!(refused, Err(GraphqlError::TooMany("values")), "{query:.80}");
    }
    assert!(parse_with(&format!("query A($a: String) {{ __schema {{ {} }} }}", fields(5)), &long, None).is_ok());
}

/// Each is looked up among the others, and a fragment does so again wherever it stands.
#[test]
fn many_arguments_or_variables_are_refused() {
    let arguments: String = (0..11).map(|n| format!("a{n}: {n} ")).collect();
    let query = format!("{{ test({arguments}) {{ output }} }}");
    assert_eq!(parse(&query).map(drop), Err(GraphqlError::TooMany("arguments")));
    let variables: String = (0..101).map(|n| format!("$a{n}: Int ")).collect();
    let query = format!("query A({variables}) {{ __typename }}");
    assert_eq!(parse(&query).map(drop), Err(GraphqlError::TooMany("variables")));
}

#[test]
fn what_is_dropped_is_null_in_its_place() {
    let read = parse(
        r#"{ b: mlflowGetExperiment(input: {experimentId: "1"}) { experiment { name } }
             a: mlflowSearchRuns(input: {experimentIds: ["1", "2", "3"]}) { runs { info { runId } } }
             c: mlflowGetExperiment(input: {experimentId: "2"}) { experiment { name } } }"#,
    )
    .expect("read");
    let verdicts = [Verdict::Drop, Verdict::Experiments(texts(&["3", "9"])), Verdict::Keep];
    assert_eq!(
        sent(&read, &verdicts),
        "query{a:mlflowSearchRuns(input:{experimentIds:[\"3\" ] } ){runs{info{runId } } } \
         c:mlflowGetExperiment(input:{experimentId:\"2\" } ){experiment{name } } }"
    );
    let answer = br#"{"data": {"a": {"runs": []}, "c": {"experiment": {"name": "x"}}, "b": 1}, "errors": null}"#;
    let given = read.answer(&verdicts, Some(answer), |_| true).expect("answer");
    assert_eq!(
        String::from_utf8(given).expect("text"),
        r#"{"data":{"b":null,"a":{"runs": []},"c":{"experiment": {"name": "x"}}},"errors":null}"#
    );
    for verdicts in [&[][..], &[Verdict::Drop, Verdict::Experiments(texts(&["9"])), Verdict::Drop]] {
        assert_eq!(read.rewrite(verdicts), None);
        let given = read.answer(verdicts, None, |_| true).expect("answer");
        assert_eq!(given, br#"{"data":{"b":null,"a":null,"c":null},"errors":null}"#);
    }
    let failed = br#"{"data":null,"errors":["no"]}"#;
    assert_eq!(read.answer(&all(&read), Some(failed), |_| true), Ok(failed.to_vec()));
    for broken in [&b"{}"[..], b"", b"[]", b"<html>", br#"{"data":[]}"#] {
        assert_eq!(read.answer(&all(&read), Some(broken), |_| true), Err(GraphqlError::Answer));
    }
}

#[test]
fn versions_of_hidden_models_are_left_out_whatever_they_are_called() {
    let keep = |name: &str| name == "mine";
    for (query, text, answer, given) in [
        (
            "{ mlflowSearchModelVersions(input: {filter: \"x\"}) { v: modelVersions { version } nextPageToken } }"
                .to_owned(),
            "query{mlflowSearchModelVersions(input:{filter:\"x\" } ){v:modelVersions{version name } nextPageToken } }"
                .to_owned(),
            r#"{"data":{"mlflowSearchModelVersions":{"v":[{"name":"mine","version":"1"},{"name":"theirs","version":"2"},{"name":null,"version":"3"}],"nextPageToken":null}},"errors":null}"#,
            r#"{"data":{"mlflowSearchModelVersions":{"v":[{"version":"1"}],"nextPageToken":null}},"errors":null}"#,
        ),
        (
            format!(
                r#"{{ mlflowGetRun(input: {{runId: "{RUN}"}}) {{ r: run {{ a: modelVersions {{ name: version n: name }} modelVersions {{ name: source }} data {{ metrics {{ value }} }} }} }} }}"#
            ),
            format!(
                r#"query{{mlflowGetRun(input:{{runId:"{RUN}" }} ){{r:run{{a:modelVersions{{name:version n:name }} modelVersions{{name:source mlflowAuthProxy_name:name }} data{{metrics{{value }} }} }} }} }}"#
            ),
            r#"{"data":{"mlflowGetRun":{"r":{"a":[{"name":"mine","n":"theirs"},{"name":"7","n":"mine"}],"modelVersions":[{"name":"s3://a","mlflowAuthProxy_name":"theirs"},{"name":"s3://b","mlflowAuthProxy_name":"mine"}],"data":{"metrics":[{"value":1.10}]}}}},"errors":null}"#,
            r#"{"data":{"mlflowGetRun":{"r":{"a":[{"name":"7","n":"mine"}],"modelVersions":[{"name":"s3://b"}],"data":{"metrics":[{"value":1.10}]}}}},"errors":null}"#,
        ),
    ] {
        let read = parse(&query).expect("read");
        assert_eq!(sent(&read, &all(&read)), text);
        let found = read.answer(&all(&read), Some(answer.as_bytes()), keep).expect("answer");
        assert_eq!(String::from_utf8(found).expect("text"), given);
    }
    let read = parse("{ mlflowSearchModelVersions { modelVersions { version } } }").expect("read");
    assert_eq!(read.fields()[0].ask, Ask::Versions(String::new()));
    let nameless = br#"{"data":{"mlflowSearchModelVersions":{"modelVersions":[{"version":"1"}]}},"errors":null}"#;
    assert_eq!(read.answer(&all(&read), Some(nameless), keep), Err(GraphqlError::Answer));
}

proptest! {
    #[test]
    fn no_query_makes_it_panic(query in r#"[ -~éa\n]{0,60}"#) {
        let _ = parse(&query);
        let _ = parse(&format!("{{ test {query} }}"));
        let _ = parse(&format!("{{ mlflowGetRun(input: {{runId: {query}}}) {{ run {{ info {{ runId }} }} }} }}"));
    }

    /// Any text comes out of our query as it went in.
    #[test]
    fn texts_survive(text in any::<String>()) {
        let query = "query A($t: String) { test(inputString: $t) { output } }";
        let read = parse_with(query, &json!({"t": text}), None).expect("read");
        let again = parse(&sent(&read, &all(&read))).expect("our own text");
        prop_assert_eq!(again.rewrite(&all(&again)), read.rewrite(&all(&read)));
    }
}
