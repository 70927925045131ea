use super::{Schema, Unknown};
use crate::http::Query;
use crate::mlflow::Table;

const SMALL: &str = r#"
    [enum.View]
    ACTIVE = 1
    DELETED = 2

    [message.Tag]
    key = "key"
    value = "string"

    [message.Place]
    inner = "Tag"

    [message.Search]
    ids = "[string]"
    max_results = "int32"
    since = "int64"
    value = "double"
    weight = "float"
    is_live = "bool"
    view = "enum View"
    tags = "[Tag]"
    labels = "{string}"
    options = "struct"
    anything = "value"
    written = "json"
    at = "timestamp"
    took = "duration"
    mask = "fieldmask"
    one_place = "Place @place"
    other_place = "Place @place"

    [object.Plain]
    name = "string"
    flag = "bool|string"
    tags = "[Tag]"

    [object.Open]
    model = "string"
    "*" = "any"

    [operation.Search]
    query = "Search"
    body = "Search"

    [operation.Plain]
    body = "Plain"

    [operation.Open]
    body = "Open"

    [operation.Nothing]
"#;

fn rebuilt(operation: &str, body: &str) -> Result<(String, Vec<String>), String> {
    let schema = Schema::parse(SMALL).expect("a schema");
    let mut unknown = Unknown::default();
    let fields = schema.of(operation).expect("an operation");
    let text =
        schema.rebuild_body(fields.body, body.as_bytes(), &[], &mut unknown).map_err(|error| error.to_string())?;
    Ok((text, unknown.names().to_vec()))
}

#[track_caller]
fn kept(operation: &str, body: &str, expected: &str) {
    let (sent, _) = rebuilt(operation, body).expect(body);
    assert_eq!(sent, expected, "{body}");
    let (again, unknown) = rebuilt(operation, &sent).expect("what is sent is accepted");
    assert_eq!((again, unknown), (sent, vec![]), "{body}");
}

#[track_caller]
fn refused(operation: &str, body: &str, why: &str) {
    let error = rebuilt(operation, body).expect_err(body);
    assert!(error.contains(why), "{body}: {error}");
}

#[test]
fn fields_keep_one_spelling_and_unknown_ones_go() {
    kept("Search", r#"{"maxResults":5,"oneplace":1,"one_place":{}}"#, r#"{"max_results":5,"one_place":{}}"#);
    kept("Search", r#"{"ids":["1"],"ids\u0000":["2"],"ids ":["3"],"IDS":["4"]}"#, r#"{"ids":["1"]}"#);
    kept("Search", r#"{"onePlace":{"inner":{"key":"k","Key":"x"},"x":[1]}}"#, r#"{"one_place":{"inner":{"key":"k"}}}"#);
    kept(
        "Plain",
        r#"{"name":"n","flag":null,"tags":[{"key":"k"}],"Name":1}"#,
        r#"{"name":"n","flag":null,"tags":[{"key":"k"}]}"#,
    );
    kept(
        "Open",
        r#"{"model":"m","messages":[{"role":"user"}],"x":null}"#,
        r#"{"model":"m","messages":[{"role":"user"}],"x":null}"#,
    );
    kept("Nothing", r#"{"a":1}"#, "{}");
    let (_, unknown) = rebuilt("Search", r#"{"a":1,"b\u0000c":2,"tags":[{"a":1}]}"#).expect("kept");
    assert_eq!(unknown, ["a", "bc"]);
}

#[test]
fn null_is_an_absent_field_of_a_message_and_a_value_elsewhere() {
    kept("Search", r#"{"ids":null,"maxResults":null,"anything":null,"since":1}"#, r#"{"anything":null,"since":1}"#);
    kept("Plain", r#"{"name":null}"#, r#"{"name":null}"#);
    refused("Search", r#"{"ids":[null]}"#, "'ids'");
    refused("Search", r#"{"labels":{"a":null}}"#, "'labels'");
}

#[test]
fn a_field_is_given_once() {
    refused("Search", r#"{"max_results":1,"maxResults":1}"#, "more than once");
    refused("Search", r#"{"one_place":{},"otherPlace":{}}"#, "exclude each other");
    kept("Search", r#"{"one_place":null,"other_place":{}}"#, r#"{"other_place":{}}"#);
}

#[test]
fn values_are_of_their_fields_type() {
    for (good, sent) in [
        (r#""max_results":2147483647"#, r#""max_results":2147483647"#),
        (r#""max_results":"-5""#, r#""max_results":"-5""#),
        (r#""max_results":7.0"#, r#""max_results":7"#),
        (r#""value":1e3"#, r#""value":1e3"#),
        (r#""value":"NaN""#, r#""value":"NaN""#),
        (r#""view":"ACTIVE""#, r#""view":"ACTIVE""#),
        (r#""view":2"#, r#""view":"DELETED""#),
        (r#""at":"2026-01-31T23:59:59.123456789Z""#, r#""at":"2026-01-31T23:59:59.123456789Z""#),
        (r#""at":"2026-01-31T23:59:59+01:00""#, r#""at":"2026-01-31T23:59:59+01:00""#),
        (r#""took":"-0.5s""#, r#""took":"-0.5s""#),
        (r#""mask":"a,bC.d""#, r#""mask":"a,bC.d""#),
        (r#""options":{"a":[1,{"b":null}]}"#, r#""options":{"a":[1,{"b":null}]}"#),
        (r#""written":"no JSON""#, r#""written":"no JSON""#),
    ] {
        kept("Search", &format!("{{{good}}}"), &format!("{{{sent}}}"));
    }
    for bad in [
        r#""ids":"1""#,
        r#""ids":[1]"#,
        r#""ids":[["1"]]"#,
        r#""max_results":2147483648"#,
        r#""max_results":"+5""#,
        r#""max_results":" 5""#,
        r#""max_results":"5_0""#,
        r#""max_results":"05""#,
        r#""max_results":1.5"#,
        r#""max_results":true"#,
        r#""max_results":"٥""#,
        r#""since":9223372036854775808"#,
        r#""value":1e400"#,
        r#""value":"inf""#,
        r#""value":"1_0""#,
        r#""value":true"#,
        r#""is_live":1"#,
        r#""is_live":"true""#,
        r#""view":"active""#,
        r#""view":"ACTIVE\u0000""#,
        r#""view":"1""#,
        r#""view":3"#,
        r#""tags":{}"#,
        r#""tags":["a"]"#,
        r#""tags":[[]]"#,
        r#""labels":[]"#,
        r#""labels":{"a":1}"#,
        r#""labels":{"experiment_ids":"1"}"#,
        r#""options":[]"#,
        r#""options":{"a":1e999}"#,
        r#""weight":1e39"#,
        r#""at":"9999-12-31T23:59:59-01:00""#,
        r#""at":"0001-01-01T00:00:00+01:00""#,
        r#""at":"2026-01-31""#,
        r#""at":"2026-01-31T23:59:60Z""#,
        r#""at":"0000-01-31T23:59:59Z""#,
        r#""at":"2026-01-31T23:59:59.1234567890Z""#,
        r#""at":"2026-01-31t23:59:59z""#,
        r#""took":"1""#,
        r#""took":"1.s""#,
        r#""took":"999999999999s""#,
        r#""mask":"a_b""#,
        r#""one_place":[]"#,
        r#""written":{}"#,
    ] {
        assert!(rebuilt("Search", &format!("{{{bad}}}")).is_err(), "{bad}");
    }
    kept("Plain", r#"{"flag":"yes"}"#, r#"{"flag":"yes"}"#);
    refused("Plain", r#"{"flag":[]}"#, "'flag'");
}

#[test]
fn keys_of_free_forms_hold_no_control_characters() {
    for bad in [
        r#"{"tags":[{"key":"a\u0000b"}]}"#,
        r#"{"labels":{"a\n":"x"}}"#,
        r#"{"options":{"a":[{"b\u007f":1}]}}"#,
        r#"{"anything":{"\u0085":1}}"#,
        r#"{"written":" {\"a\": [{\"b\\u0000\": 1}]}"}"#,
    ] {
        refused("Search", bad, "control character");
    }
    refused("Open", r#"{"a\u0000":1}"#, "control character");
    refused("Open", r#"{"a":{"b\u0001":1}}"#, "control character");
    // Values may.
    kept("Search", r#"{"tags":[{"key":"a","value":"b\u0000"}]}"#, r#"{"tags":[{"key":"a","value":"b\u0000"}]}"#);
}

#[test]
fn parameters_of_a_query_are_rebuilt_too() {
    let schema = Schema::parse(SMALL).expect("a schema");
    let fields = schema.of("Search").expect("an operation");
    let rebuilt = |text: &str| {
        let (mut query, mut unknown) = (Query::parse(text).expect("a query"), Unknown::default());
        schema.rebuild_query(fields.query, &mut query, &mut unknown).map_err(|error| error.to_string())?;
        Ok::<_, String>((query.encoded(), unknown.names().to_vec()))
    };
    let sent = |text: &str| rebuilt(text).expect(text).0;
    assert_eq!(sent("ids=1&ids=2&max_results=5&view=ACTIVE"), "ids=1&ids=2&max_results=5&view=ACTIVE");
    assert_eq!(sent("view=2&is_live=True"), "view=DELETED&is_live=true");
    assert_eq!(
        rebuilt("maxResults=1&tags=x&labels=y&z=1"),
        Ok((String::new(), vec!["maxResults".into(), "tags".into(), "labels".into(), "z".into()]))
    );
    for bad in [
        "max_results=1&max_results=1",
        "max_results=",
        "max_results=+1",
        "max_results=1.0",
        "is_live=1",
        "view=x",
        "view=",
    ] {
        assert!(rebuilt(&bad.replace('+', "%2B")).is_err(), "{bad}");
    }
}

#[test]
fn a_schema_with_a_mistake_does_not_load() {
    for text in [
        "[operation.A]\nbody = \"Missing\"",
        "[message.A]\na = \"word\"\n[operation.A]",
        "[message.A]\na = \"enum Missing\"\n[operation.A]",
        "[message.A]\na_b = \"string\"\naB = \"string\"\n[operation.A]",
        "[message.A]\n[object.A]\n[operation.A]",
        "[operation.A]\npath = \"A\"",
        "[message.A]\na = \"string\"",
    ] {
        assert!(Schema::parse(text).is_err(), "{text}");
    }
}

#[test]
fn every_operation_of_the_table_has_known_fields_and_no_other_has() {
    let table = Table::built_in().expect("the built-in table");
    for (name, _) in table.schema().operations() {
        assert!(table.operations().iter().any(|operation| operation.name == name), "{name} is not in routes.toml");
    }
}
