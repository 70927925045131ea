use http::Method;
use proptest::prelude::*;

use super::*;
use crate::authz::Permission;
use crate::http::{PathError, Query};

fn table() -> Table {
    Table::built_in().expect("the table this program is built with")
}

#[track_caller]
fn operation<'t>(table: &'t Table, method: &Method, path: &str) -> &'t Operation {
    match table.find(method, path) {
        Found::Operation { operation, .. } => operation,
        other => panic!("{method} {path}: {other:?}"),
    }
}

#[test]
fn every_route_and_its_twin_is_found() {
    let table = table();
    for (method, path, name) in [
        (Method::GET, "/api/2.0/mlflow/runs/get", "GetRun"),
        (Method::GET, "/ajax-api/2.0/mlflow/runs/get", "GetRun"),
        (Method::POST, "/api/2.0/mlflow/logged-models/search", "SearchLoggedModels"),
        (Method::GET, "/api/2.0/mlflow/logged-models/m-1", "GetLoggedModel"),
        (Method::PUT, "/api/2.0/mlflow-artifacts/artifacts/1/a/b.txt", "ProxyUploadArtifact"),
        (Method::GET, "/api/2.0/mlflow-artifacts/artifacts", "ProxyListArtifacts"),
        (Method::GET, "/", "Page"),
        (Method::GET, "/static-files/static/js/main.js", "StaticFile"),
    ] {
        assert_eq!(operation(&table, &method, path).name, name, "{path}");
    }
    for path in ["/api/2.0/mlflow/runs/get/", "/api/2.0/mlflow/Runs/get", "/graphql/", "/api/2.0/mlflow"] {
        assert!(matches!(table.find(&Method::GET, path), Found::Unlisted), "{path}");
    }
    assert!(matches!(table.find(&Method::DELETE, "/api/2.0/mlflow/runs/get"), Found::OtherMethods(_)));
}

/// The policy as people review it: one line per route, changed only on purpose.
#[test]
fn the_route_table_is_what_was_reviewed() {
    let text: Vec<String> = table()
        .operations()
        .iter()
        .map(|o| {
            let needs: Vec<String> = o.needs.iter().map(need).collect();
            format!("{:<28} {}", o.name, needs.join(" + "))
        })
        .collect();
    insta::assert_snapshot!(text.join("\n"));
}

fn need(need: &Need) -> String {
    match need {
        Need::Public => "public".to_owned(),
        Need::SignedIn => "signed in".to_owned(),
        Need::Admin => "administrator".to_owned(),
        Need::Blocked(feature) => format!("closed: {}", feature.as_str()),
        Need::Create(kind) => format!("may create {kind}"),
        Need::NotDenied(tier) => format!("{tier} not denied"),
        Need::Tier(permission, tier) => format!("{permission} where {tier} is granted"),
        Need::Level { permission, thing, field } => {
            let optional = if field.optional { ", if given" } else { "" };
            let step = |step: &Step| step.names.join("|") + if step.each { "[]" } else { "" };
            let steps: Vec<String> = field.steps.iter().map(step).collect();
            let with = field.with.as_ref().map(|with| format!("+{with}")).unwrap_or_default();
            format!("{permission} on {thing:?} {}{with}{optional}", steps.join("."))
        }
    }
}

#[test]
fn a_table_with_a_mistake_does_not_load() {
    for row in [
        r#"name = "A"
           route = "GET /a"
           needs = []"#,
        r#"name = "A"
           route = "GET /a"
           needs = ["READ experiment id"]"#,
        r#"name = "A"
           route = "GET /a"
           needs = ["DENY experiment query.id"]"#,
        r#"name = "A"
           route = "GET /a"
           needs = ["READ experiments query.id"]"#,
        r#"name = "A"
           route = "/a"
           needs = ["PUBLIC"]"#,
        r#"name = "A"
           route = "GET /a"
           needs = ["PUBLIC"]
           then = "own everything""#,
        r#"name = "A"
           route = "GET /a"
           needs = ["PUBLIC"]
           typo = 1"#,
    ] {
        assert!(Table::parse(&format!("[[operation]]\n{row}"), "[operation.A]").is_err(), "{row}");
    }
}

fn locate_in(method: &Method, path: &str, query: &str, body: &str) -> Result<Vec<Located>, LocateError> {
    let table = table();
    let Found::Operation { operation, params } = table.find(method, path) else { panic!("{path} is in the table") };
    let mut query = Query::parse(query).expect("a query");
    let body = (!body.is_empty()).then_some(body.as_bytes());
    let text = table.rebuild(operation, &mut query, body, &mut Unknown::default())?;
    let mut json = text.as_deref().map(Json::open).transpose()?;
    let headers = http::HeaderMap::new();
    let mut input = Input { params: &params, headers: &headers, query: &mut query, body: json.as_mut() };
    let found = locate(operation, &mut input)?;
    if let Some(missing) = found.missing {
        return Err(LocateError::Missing(missing));
    }
    let mut located = found.located;
    for demand in demands(operation, &located.clone(), input.body.as_deref_mut())? {
        if let Demand::Located(one) = demand {
            located.push(one);
        }
    }
    Ok(located)
}

#[track_caller]
fn ids(method: &Method, path: &str, query: &str, body: &str, expected: &[(Permission, Thing, &str)]) {
    let located = locate_in(method, path, query, body).expect("locatable");
    let found: Vec<_> = located.iter().map(|l| (l.permission, l.thing, l.id.as_str())).collect();
    assert_eq!(found, expected, "{path}");
}

#[test]
fn every_id_a_request_names_is_found() {
    use Permission::{Edit, Manage, Read};
    use Thing::{Artifact, Experiment, LoggedModel, Model, Run, VersionOf};
    const API: &str = "/api/2.0/mlflow";
    let at = |rest: &str| format!("{API}/{rest}");
    ids(&Method::GET, &at("experiments/get"), "experiment_id=12", "", &[(Read, Experiment, "12")]);
    ids(&Method::POST, &at("runs/log-metric"), "", r#"{"run_uuid":"r1"}"#, &[(Edit, Run, "r1")]);
    ids(&Method::POST, &at("runs/log-metric"), "", r#"{"runId":"r1"}"#, &[(Edit, Run, "r1")]);
    ids(&Method::POST, &at("runs/log-metric"), "", r#"{"run_id":"r1","run_uuid":"r1"}"#, &[(Edit, Run, "r1")]);
    ids(
        &Method::POST,
        &at("runs/log-batch"),
        "",
        r#"{"run_id":"r1","metrics":[{"key":"a","model_id":"m-1"},{"key":"b","modelId":"m-2"},{"key":"c","model_id":""}]}"#,
        &[(Edit, Run, "r1"), (Edit, LoggedModel, "m-1"), (Edit, LoggedModel, "m-2")],
    );
    ids(
        &Method::GET,
        "/ajax-api/2.0/mlflow/metrics/get-history-bulk",
        "run_id=a&run_id=b&metric_key=k",
        "",
        &[(Read, Run, "a"), (Read, Run, "b")],
    );
    ids(&Method::DELETE, &at("logged-models/m-9"), "", "", &[(Manage, LoggedModel, "m-9")]);
    ids(
        &Method::GET,
        "/api/2.0/mlflow-artifacts/artifacts/7/r/artifacts/a%2520b",
        "",
        "",
        &[(Read, Artifact, "7/r/artifacts/a b")],
    );
    ids(
        &Method::POST,
        &at("model-versions/create"),
        "",
        r#"{"name":"n","source":"models:/other/3","run_id":"r"}"#,
        &[(Edit, VersionOf, "n"), (Read, Run, "r"), (Read, Model, "other")],
    );
    for (source, thing, id) in [
        ("models:/m-abc", LoggedModel, "m-abc"),
        ("Models:/m-abc", LoggedModel, "m-abc"),
        ("models:/x@champion", Model, "x"),
        ("models:/a@b/1", Model, "a@b"),
        ("models:/a@b@c", Model, "a@b"),
        ("models:/any-id", LoggedModel, "any-id"),
        ("runs:/r7/model", Run, "r7"),
        ("mlflow-artifacts:/3/r/artifacts/m", Artifact, "3/r/artifacts/m"),
        ("mlflow-artifacts:///3/r", Artifact, "3/r"),
    ] {
        let body = format!(r#"{{"name":"n","source":"{source}"}}"#);
        ids(&Method::POST, &at("model-versions/create"), "", &body, &[(Edit, VersionOf, "n"), (Read, thing, id)]);
    }
}

#[test]
fn what_could_be_read_in_two_ways_is_refused_in_mlflows_words() {
    let refused = |method: &Method, path: &str, query: &str, body: &str| {
        locate_in(method, path, query, body).expect_err("refused").to_string()
    };
    const METRIC: &str = "/api/2.0/mlflow/runs/log-metric";
    let missing = refused(&Method::POST, METRIC, "", "{}");
    assert!(missing.starts_with("Missing value for required parameter 'run_id'."), "{missing}");
    assert!(refused(&Method::POST, METRIC, "", r#"{"run_id":null}"#).starts_with("Missing value"));
    assert!(refused(&Method::POST, METRIC, "", r#"{"run_id":""}"#).starts_with("Missing value"));
    let wrong = refused(&Method::POST, METRIC, "", r#"{"run_id":31}"#);
    assert!(wrong.starts_with("Invalid value 31 for parameter 'run_id' supplied"), "{wrong}");
    for body in [
        r#"{"run_id":"a","run_uuid":"b"}"#,
        r#"{"run_id":"a","runId":"a"}"#,
        r#"{"run_id":["a"]}"#,
        r#"{"run_id":"a/../b"}"#,
        r#"{"run_id":"a","model_id":7}"#,
    ] {
        refused(&Method::POST, METRIC, "", body);
    }
    const GET: &str = "/api/2.0/mlflow/experiments/get";
    for id in ["01", "%201", "1%20", "%2B1", "-0", "0_0", "1.0", "", "%D9%A1", "%EF%BC%91", "12345678901234567890"] {
        refused(&Method::GET, GET, &format!("experiment_id={id}"), "");
    }
    refused(&Method::GET, GET, "experiment_id=1&experiment_id=2", "");
    refused(&Method::GET, GET, "experimentId=1", "");
    refused(&Method::PATCH, "/api/2.0/mlflow/logged-models/m-1", "", r#"{"model_id":"m-2"}"#);
    refused(&Method::PATCH, "/api/2.0/mlflow/logged-models/m-1", "", r#"{"modelId":"m-2"}"#);
    refused(&Method::POST, "/api/2.0/mlflow/runs/log-batch", "", r#"{"run_id":"a","metrics":{"model_id":"x"}}"#);
    refused(&Method::POST, "/ajax-api/2.0/mlflow/upload-artifact", "run_id=a&run_uuid=b", "");
}

#[test]
fn a_source_that_mlflow_would_read_otherwise_is_refused() {
    for source in [
        "models://host/secret/1",
        "models:///secret/1",
        "models:/sec\\tret@champion",
        "models:/secret\\n/1",
        "models:/secret?q/1",
        "models:/ secret/1",
        "models:/secret /1",
        "models:/a/b/c",
        "models:/",
        "models:secret/1",
        "models:/sec%72et/1",
        "runs://host/r/model",
        "runs:/r\\t2/model",
        "mlflow-artifacts:/1/a/../../2/b",
        "mlflow-artifacts:/1/a?b",
        "mlflow-artifacts://ho\\tst/1/a",
    ] {
        let body = format!(r#"{{"name":"n","source":"{source}"}}"#);
        let found = locate_in(&Method::POST, "/api/2.0/mlflow/model-versions/create", "", &body);
        assert!(found.is_err(), "{source}: {found:?}");
    }
}

#[test]
fn a_thing_counts_once_and_there_is_an_end_to_them() {
    let batch = |models: &mut dyn Iterator<Item = String>| {
        let metrics: Vec<String> = models.map(|model| format!(r#"{{"model_id":"{model}"}}"#)).collect();
        let body = format!(r#"{{"run_id":"r","metrics":[{}]}}"#, metrics.join(","));
        locate_in(&Method::POST, "/api/2.0/mlflow/runs/log-batch", "", &body)
    };
    assert_eq!(batch(&mut (0..5000).map(|_| "m-1".to_owned())).expect("locatable").len(), 2);
    assert_eq!(batch(&mut (0..5000).map(|n| format!("m-{n}"))), Err(LocateError::TooMany(1000)));
}

#[test]
fn a_thing_that_is_named_again_and_again_counts_once() {
    let names = (0..900).chain(std::iter::repeat_n(899, 100_000));
    let metrics: Vec<String> = names.map(|n| format!(r#"{{"model_id":"m-{n:030}"}}"#)).collect();
    let body = format!(r#"{{"run_id":"r","metrics":[{}]}}"#, metrics.join(","));
    let mut body = Json::open(&body).expect("JSON");
    let (table, headers, mut query) = (table(), http::HeaderMap::new(), Query::default());
    let operation = operation(&table, &Method::POST, "/api/2.0/mlflow/runs/log-batch");
    let mut input = Input { params: &[], headers: &headers, query: &mut query, body: Some(&mut body) };
    assert_eq!(locate(operation, &mut input).expect("locatable").located.len(), 901);
}

#[test]
fn artifact_paths_are_read_until_nothing_changes() {
    let experiment = |text: &str| ArtifactPath::parse(text).map(|path| path.experiment().map(str::to_owned));
    assert_eq!(experiment("5/run/artifacts/x"), Ok(Some("5".to_owned())));
    assert_eq!(experiment("5"), Ok(Some("5".to_owned())));
    assert_eq!(experiment("%35/x"), Ok(Some("5".to_owned())));
    assert_eq!(experiment("%2535/x"), Ok(Some("5".to_owned())));
    assert_eq!(experiment("05/x"), Ok(None));
    assert_eq!(experiment("team/x"), Ok(None));
    assert_eq!(experiment("workspaces/w/5/x"), Ok(None));
    for text in ["./5/x", "%2e/5/x", "%252e/5/x", "5/../6/x", "5/%2e%2e/6", "5/%252e%252e/6"] {
        assert_eq!(experiment(text), Err(PathError::DotSegment), "{text}");
    }
    assert_eq!(experiment("5//x"), Err(PathError::EmptySegment));
    assert_eq!(experiment("%2f5/x"), Err(PathError::NotAbsolute));
    assert_eq!(experiment(""), Err(PathError::NotAbsolute));
    assert_eq!(experiment("5/a%23b"), Err(PathError::ForbiddenCharacter));
    assert_eq!(experiment("5/a%0ab"), Err(PathError::ForbiddenCharacter));
    for text in [" 5/x", "%095/x", "%205/x", "file:x", "F+1.x-:/5/x", "Team%3Ax"] {
        assert_eq!(experiment(text), Err(PathError::ForbiddenCharacter), "{text}");
    }
    assert_eq!(experiment(&format!("5/%{}41", "25".repeat(20))), Err(PathError::EncodedTwice));
}

#[test]
fn files_of_skills_are_the_skills() {
    let skill =
        |text: &str| ArtifactPath::parse(text).map(|path| (path.skill().map(str::to_owned), path.is_of_skills()));
    let of = |key: &str| Ok((Some(key.to_owned()), true));
    assert_eq!(skill("skills/review"), of("review"));
    assert_eq!(skill("skills/review/0123/SKILL.md"), of("review"));
    assert_eq!(skill("skills/@acme/review/"), of("@acme/review"));
    assert_eq!(skill("skills/%40acme/review/0123"), of("@acme/review"));
    for none in ["skills", "skills/", "skills/@acme", "skills/@acme/", "Skills/review", "skills/Review", "skills/@/a/b"]
    {
        assert_eq!(skill(none), Ok((None, true)), "{none}");
    }
    for none in ["skillset/review", "1/skills/review", "workspaces/default/skills/review"] {
        assert_eq!(skill(none), Ok((None, false)), "{none}");
    }
    assert_eq!(skill("skills/./review"), Err(PathError::DotSegment));
    assert_eq!(skill("skills/review/../other"), Err(PathError::DotSegment));
}

#[test]
fn a_batch_of_skills_names_each() {
    let named = |text: &str| {
        let mut body = Json::open(text).expect("JSON");
        new_skills(&mut body)
    };
    assert_eq!(
        named(r#"{"organization":"acme","skills":[{"name":"a"},{"name":"b-c"}]}"#),
        Ok(vec!["@acme/a".to_owned(), "@acme/b-c".to_owned()])
    );
    assert_eq!(named(r#"{"skills":[{"name":"a"}]}"#), Ok(vec!["a".to_owned()]));
    for wrong in [
        r#"{"skills":[{"name":"@acme/a"}]}"#,
        r#"{"skills":[{"name":"A"}]}"#,
        r#"{"skills":[{}]}"#,
        r#"{"skills":[1]}"#,
        r#"{"skills":{"name":"a"}}"#,
        r#"{"organization":1,"skills":[{"name":"a"}]}"#,
        r#"{"organization":"a/b","skills":[{"name":"a"}]}"#,
    ] {
        assert!(matches!(named(wrong), Err(LocateError::Invalid { .. })), "{wrong}");
    }
    assert_eq!(named(r#"{"skills":[]}"#), Err(LocateError::Missing("skills".to_owned())));
    let many = vec![r#"{"name":"a"}"#; 501].join(",");
    assert_eq!(named(&format!(r#"{{"skills":[{many}]}}"#)), Err(LocateError::TooMany(500)));
}

#[test]
fn skills_are_found_with_and_without_an_organization() {
    let table = table();
    for (method, path, id) in [
        ("GET", "/api/3.0/mlflow/skills/review", Ok("review")),
        ("GET", "/ajax-api/3.0/mlflow/skills/review/versions/1", Ok("review")),
        ("GET", "/api/3.0/mlflow/skills/@acme/review", Ok("@acme/review")),
        // As in MLflow, a skill called `versions`.
        ("GET", "/api/3.0/mlflow/skills/@acme/versions", Ok("@acme/versions")),
        ("DELETE", "/api/3.0/mlflow/skills/@acme/review/tags/a/b", Ok("@acme/review")),
        ("GET", "/api/3.0/mlflow/skills/@acme", Err(())),
        ("GET", "/api/3.0/mlflow/skills/Review", Err(())),
        ("GET", "/api/3.0/mlflow/skills/@acme@b/review", Err(())),
    ] {
        let method: Method = method.parse().expect("a method");
        let Found::Operation { operation, params } = table.find(&method, path) else { panic!("{path} is not found") };
        let (headers, mut query) = (http::HeaderMap::new(), Query::default());
        let mut input = Input { params: &params, headers: &headers, query: &mut query, body: None };
        let found = locate(operation, &mut input).map(|found| found.located.into_iter().map(|one| one.id).next());
        assert_eq!(found.map_err(drop), id.map(|id| Some(id.to_owned())), "{path}");
    }
    assert!(matches!(table.find(&Method::POST, "/api/3.0/mlflow/skills/@acme/review"), Found::OtherMethods(_)));
}

#[test]
fn names_of_artifacts_are_read_as_mlflow_reads_them() {
    // The second text is what `mlflow.utils.uri._decode` of MLflow 3.17.2 makes of the first.
    for (text, read) in [
        ("5/a;b", "5/a;b"),
        ("5/a;", "5/a"),
        ("5/a;;", "5/a;;"),
        ("5/a;/b", "5/a;/b"),
        ("5/a?", "5/a"),
        ("5/a?b", "5/a?b"),
        ("5/a??", "5/a??"),
        ("5/a;?b", "5/a?b"),
        ("5/a?b;", "5/a?b;"),
        ("5/a%3B", "5/a"),
        ("5/a\\b", "5/a\\b"),
        ("5/a%5cb", "5/a\\b"),
        ("5/a\tb\rc", "5/abc"),
        ("5/a%09b", "5/ab"),
        ("5/a%00b", "5/a\0b"),
        ("5/a%", "5/a%"),
        ("5/a%zz%25zz", "5/a%zz%zz"),
        ("5/100%fat", "5/100\u{fffd}t"),
        ("5/a%e2%28%a1", "5/a\u{fffd}(\u{fffd}"),
        ("5/a:b", "5/a:b"),
        ("5/%2541", "5/A"),
        ("5/..a/b..", "5/..a/b.."),
        ("5/ a/b ", "5/ a/b "),
    ] {
        let found = ArtifactPath::parse(text).map(|path| path.as_str().to_owned());
        assert_eq!(found, Ok(read.to_owned()), "{text:?}");
        assert_eq!(ArtifactPath::parse(read).map(|path| path.as_str().to_owned()), Ok(read.to_owned()), "{read:?}");
    }
}

#[test]
fn files_of_a_model_are_those_of_one_folder_of_a_run_or_of_a_logged_model() {
    use super::ModelFiles;
    let run = "0123456789abcdef0123456789abcdef";
    let at = |below: &str| ModelFiles::at(below).map(|files| files.id().to_owned());
    for below in
        [format!("{run}/artifacts/model"), format!("{run}/artifacts/model/MLmodel"), format!("{run}/artifacts/m")]
    {
        assert_eq!(at(&below).as_deref(), Some(run), "{below}");
    }
    assert_eq!(at("models/m-1/artifacts").as_deref(), Some("m-1"));
    assert_eq!(at("models/m-1/artifacts/MLmodel").as_deref(), Some("m-1"));
    for below in ["", run, &format!("{run}/artifacts"), "models", "models/m-1", "models/m-1/x", "traces/t/artifacts/x"]
    {
        assert_eq!(at(below), None, "{below}");
    }
}

#[test]
fn json_that_parsers_disagree_on_is_refused() {
    let refused = |text: &[u8]| canonical(text).expect_err("refused");
    assert!(matches!(refused(br#"{"a":1,"a":2}"#), JsonError::DuplicateKey(_)));
    assert!(matches!(refused(br#"{"a":{"b":1,"\u0062":2}}"#), JsonError::DuplicateKey(_)));
    assert!(matches!(refused(br#"{"[x]":1}"#), JsonError::BracketKey(_)));
    assert!(matches!(refused(b"\xef\xbb\xbf{}"), JsonError::Syntax(_)));
    assert!(matches!(refused(b"{\0}\0"), JsonError::Syntax(_)));
    assert!(matches!(refused(b"\xff{}"), JsonError::NotUtf8));
    for text in ["[]", "\"{}\"", "1", "null"] {
        assert!(matches!(refused(text.as_bytes()), JsonError::NotAnObject), "{text}");
    }
    for text in [
        "",
        "{",
        "{\"a\":1,}",
        "{'a':1}",
        "{\"a\":NaN}",
        "{\"a\":Infinity}",
        "{\"a\":01}",
        "{} x",
        "{\"a\":\"\\ud800\"}",
    ] {
        assert!(matches!(refused(text.as_bytes()), JsonError::Syntax(_)), "{text}");
    }
    let deep = format!("{{\"a\":{}1{}}}", "[".repeat(100), "]".repeat(100));
    assert_eq!(refused(deep.as_bytes()), JsonError::TooDeep);
}

#[test]
fn numbers_keep_their_text() {
    let text = r#"{"a":1.10,"b":123456789012345678901234567890,"c":-0,"d":1E400,"e":[true,false,null],"f":"\u00e9\n"}"#;
    assert_eq!(canonical(text.as_bytes()).expect("JSON"), text.replace("\\u00e9", "é"));
}

proptest! {
    /// Canonical text parses to the same value and is its own canonical text.
    #[test]
    fn canonical_json_is_stable(value in arbitrary_json()) {
        let text = serde_json::json!({ "v": value }).to_string();
        let written = canonical(text.as_bytes()).expect("JSON");
        prop_assert_eq!(&canonical(written.as_bytes()).expect("canonical"), &written);
        let mut opened = Json::open(&written).expect("an object");
        prop_assert_eq!(&opened.to_text(), &written);
        open_all(&mut opened);
        prop_assert_eq!(&opened.to_text(), &written);
        let before: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let after: serde_json::Value = serde_json::from_str(&written).expect("JSON");
        prop_assert_eq!(before, after);
    }

    #[test]
    fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let _ = canonical(&bytes);
    }

    /// Two readers of one text: this one, and serde_json's, which knows no rule about keys.
    #[test]
    fn what_is_read_is_what_serde_reads(text in r#"\{("([a-c]|\\u006[1-3]|\\n|\\ud83d\\ude00|é){0,2}": ?(-?[0-9.e]{1,4}|"x*\\?"|\[\]|\{\}|\[1, ?"]"\]),? ?){0,3}\}"#) {
        let ours = canonical(text.as_bytes());
        let theirs = serde_json::from_str::<serde_json::Value>(&text);
        match ours {
            Ok(ours) => prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&ours).ok(), theirs.ok()),
            Err(JsonError::Syntax(_)) => prop_assert!(theirs.is_err()),
            Err(error) => prop_assert!(matches!(error, JsonError::DuplicateKey(_)), "{error}"),
        }
    }

    #[test]
    fn no_path_makes_the_table_panic(path in "/[ -~é]{0,60}") {
        let table = Table::built_in().expect("built in");
        let _ = table.find(&Method::GET, &path);
    }
}

fn open_all(json: &mut Json<'_>) {
    json.open_closed().expect("few members");
    match json {
        Json::Object(members) => members.iter_mut().for_each(|(_, value)| open_all(value)),
        Json::Array(list) => {
            let each = |item: &mut Json<'_>| {
                open_all(item);
                Ok::<_, JsonError>(Keep::Yes)
            };
            list.rewrite(each, &[]).expect("the same list");
        }
        Json::Scalar(_) | Json::String(_) | Json::Closed(_) => {}
    }
}

fn arbitrary_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        "[^\\[].{0,8}".prop_map(serde_json::Value::String),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            proptest::collection::hash_map("[a-z]{1,4}", inner, 0..4)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

#[test]
fn a_question_in_words_is_what_a_request_would_meet() {
    let table = table();
    let run = Question::parse(&table, "DeleteRun", "experiment:12").expect("a question");
    let resource = crate::authz::Resource::new(crate::authz::ResourceKind::Experiment, "12");
    let tier = Some(crate::authz::ResourceKind::Run);
    let needed = crate::authz::Requirement::Level { permission: Permission::Manage, resource, tier };
    assert_eq!((run.requirements, run.also), (vec![needed], Vec::<String>::new()));
    let version = Question::parse(&table, "CreateModelVersion", "prompt:p").expect("a question");
    let versions = Some(crate::authz::ResourceKind::PromptVersion);
    let needed = version.requirements.first();
    assert!(matches!(needed, Some(crate::authz::Requirement::Level { tier, .. }) if *tier == versions), "{needed:?}");
    assert_eq!(version.also.len(), 2, "a run and a logged model: {:?}", version.also);
    for (operation, resource, said) in [
        ("EDIT", "experiment", "is not a resource"),
        ("EDIT", "experiments:1", "is not a resource"),
        ("DENY", "experiment:1", "neither a permission"),
        ("deleterun", "experiment:1", "did you mean DeleteRun?"),
        ("DeleteRun", "registered_model:m", "needs MANAGE on the experiment that `run_id` names"),
    ] {
        let error = Question::parse(&table, operation, resource).expect_err(operation).to_string();
        assert!(error.contains(said), "{error}");
    }
}
