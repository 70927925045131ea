//! Who may do what, seen from outside: what the client is told and what MLflow received.

use std::time::Duration;

use mlflow_auth_proxy::authz::{Mutation, Permission, ResourceKind, Selector, UserId};
use mlflow_auth_proxy::clock::{Clock, Stopwatch, Timestamp};
use mlflow_auth_proxy::config::UnknownFields;

use crate::harness::{PATIENCE, Proxy, Received, Recorder, actor, basic, get, pause, send_json};

const API: &str = "/api/2.0/mlflow";
const HIDDEN: &str = "11111111111111111111111111111111";
const ABSENT: &str = "22222222222222222222222222222222";

/// Experiment 1 holds run `HIDDEN`; models `shown` and `hidden`, prompt `asked`; the rest is not there.
fn mlflow() -> Recorder {
    Recorder::scripted(answer)
}

fn answer(request: &Received) -> Option<(u16, String)> {
    let absent = || Some((404, r#"{"error_code":"RESOURCE_DOES_NOT_EXIST","message":"no"}"#.to_owned()));
    let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
    match path.strip_prefix(API)? {
        "/runs/get" if query.contains(HIDDEN) => Some((
            200,
            format!(
                r#"{{"run":{{"info":{{"run_id":"{HIDDEN}","experiment_id":"1","artifact_uri":"s3://bucket/1/r"}}}}}}"#
            ),
        )),
        "/runs/get" => absent(),
        "/registered-models/get" => {
            let name = query.strip_prefix("name=").unwrap_or_default();
            let tags =
                if name == "asked" { r#","tags":[{"key":"mlflow.prompt.is_prompt","value":"True"}]"# } else { "" };
            match name {
                "shown" | "hidden" | "asked" => {
                    Some((200, format!(r#"{{"registered_model":{{"name":"{name}"{tags}}}}}"#)))
                }
                _ => absent(),
            }
        }
        "/experiments/set-experiment-tag" => Some((200, "{}".to_owned())),
        "/experiments/create" => Some((200, r#"{"experiment_id":"77"}"#.to_owned())),
        "/registered-models/create" => Some((200, r#"{"registered_model":{"name":"new"}}"#.to_owned())),
        _ => None,
    }
}

fn alice(proxy: &Proxy) -> String {
    proxy.user(
        "alice",
        &[
            (ResourceKind::Experiment, "5", Permission::Edit),
            (ResourceKind::RegisteredModel, "shown", Permission::Edit),
        ],
    )
}

/// Waits until the condition holds.
#[track_caller]
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let watch = Stopwatch::start();
    while !holds() {
        assert!(watch.elapsed() < PATIENCE, "{what}");
        pause(Duration::from_millis(20));
    }
}

#[test]
fn a_hidden_run_and_one_that_does_not_exist_look_the_same() {
    let (mlflow, authorization);
    mlflow = self::mlflow();
    let proxy = Proxy::before(mlflow.address);
    authorization = alice(&proxy);
    let ask = |run: &str| proxy.ask(get(&format!("{API}/runs/get?run_id={run}"), &authorization)).expect("an answer");
    let (hidden, absent) = (ask(HIDDEN), ask(ABSENT));
    assert_eq!((hidden.status, absent.status), (403, 403));
    assert_eq!(hidden.text().replace(HIDDEN, "R"), absent.text().replace(ABSENT, "R"));
    assert!(hidden.text().contains("Permission denied. "), "{}", hidden.text());
    // MLflow was asked where the run is, once each, and nothing more.
    let asked: Vec<String> = mlflow.take().into_iter().map(|request| request.target).collect();
    assert_eq!(asked, [format!("{API}/runs/get?run_id={HIDDEN}"), format!("{API}/runs/get?run_id={ABSENT}")]);
    // An administrator hears from MLflow itself.
    assert_eq!(proxy.ask(get(&format!("{API}/runs/get?run_id={ABSENT}"), &basic())).expect("an answer").status, 404);
}

#[test]
fn a_name_that_does_not_exist_is_not_found_and_a_hidden_one_is_forbidden() {
    let mlflow = mlflow();
    let proxy = Proxy::before(mlflow.address);
    let authorization = alice(&proxy);
    let status = |name: &str| {
        proxy.ask(get(&format!("{API}/registered-models/get?name={name}"), &authorization)).expect("an answer").status
    };
    assert_eq!([status("shown"), status("hidden"), status("absent")], [200, 403, 404]);
    // A grant on a model is none on a prompt of that name.
    let bob = proxy.user("bob", &[(ResourceKind::RegisteredModel, "asked", Permission::Manage)]);
    let prompt = proxy.ask(get(&format!("{API}/registered-models/get?name=asked"), &bob)).expect("an answer");
    assert_eq!(prompt.status, 403);
    assert!(prompt.text().contains("READ on prompt `asked`"), "{}", prompt.text());
}

#[test]
fn what_is_sent_is_the_canonical_form_of_what_was_authorised() {
    let mlflow = mlflow();
    let proxy = Proxy::before(mlflow.address);
    let authorization = alice(&proxy);
    let body = r#"{ "experimentId" : "5", "new_name":"caf\u00e9", "x": 1.50 }"#;
    let answer =
        proxy.ask(send_json("POST", &format!("{API}/experiments/update?experiment_id=1"), &authorization, body));
    assert_eq!(answer.expect("an answer").status, 200);
    let received = mlflow.wait_for(&format!("{API}/experiments/update"));
    assert_eq!(String::from_utf8_lossy(&received.body), r#"{"experiment_id":"5","new_name":"café"}"#);
    assert!(proxy.metrics().contains(r#"unknown_fields_total{operation="UpdateExperiment"} 1"#));
    for body in [
        r#"{"experiment_id":"5","experiment_id":"1"}"#,
        r#"{"experiment_id":"5","experimentId":"1"}"#,
        r#"{"[x]":1,"experiment_id":"5"}"#,
        r#"["5"]"#,
        r#""{\"experiment_id\":\"5\"}""#,
        r#"{"experiment_id":5}"#,
        r#"{"experiment_id":" 5"}"#,
    ] {
        mlflow.take();
        let answer = proxy.ask(send_json("POST", &format!("{API}/experiments/update"), &authorization, body));
        let answer = answer.expect("an answer");
        assert_eq!(answer.status, 400, "{body}");
        assert!(answer.text().contains("INVALID_PARAMETER_VALUE"), "{}", answer.text());
        assert!(mlflow.take().is_empty(), "{body} reached MLflow");
    }
}

/// protobuf's JSON parser in MLflow ends a name at NUL.
#[test]
fn a_name_with_more_behind_a_nul_is_no_field() {
    let mlflow = mlflow();
    let proxy = Proxy::before(mlflow.address);
    let authorization = alice(&proxy);
    for (path, body, sent) in [
        (
            "experiments/update",
            r#"{"experiment_id":"5","experiment_id\u0000":"1","new_name":"x"}"#,
            r#"{"experiment_id":"5","new_name":"x"}"#,
        ),
        (
            "experiments/update",
            r#"{"experiment_id\u0000x":"1","experiment_id":"5","new_name\u0000":"x"}"#,
            r#"{"experiment_id":"5"}"#,
        ),
        ("runs/search", r#"{"experiment_ids":["5"],"experiment_ids\u0000":["1"]}"#, r#"{"experiment_ids":["5"]}"#),
        ("runs/search", r#"{"experimentIds\u0000":["1"],"experimentIds":["5"]}"#, r#"{"experiment_ids":["5"]}"#),
    ] {
        mlflow.take();
        let answer = proxy.ask(send_json("POST", &format!("{API}/{path}"), &authorization, body));
        assert_eq!(answer.expect("an answer").status, 200, "{body}");
        let received = mlflow.wait_for(&format!("{API}/{path}"));
        assert_eq!(String::from_utf8_lossy(&received.body), sent, "{body}");
    }
}

#[test]
fn unknown_fields_are_refused_where_the_configuration_says_so() {
    let mlflow = mlflow();
    let proxy = Proxy::with(mlflow.address, |config| config.authz.unknown_fields = UnknownFields::Refuse);
    let authorization = alice(&proxy);
    let ask = |request: String| proxy.ask(request).expect("an answer");
    let update = |body: &str| ask(send_json("POST", &format!("{API}/experiments/update"), &authorization, body));
    assert_eq!(update(r#"{"experiment_id":"5","new_name":"y"}"#).status, 200);
    mlflow.take();
    let refused = update(r#"{"experiment_id":"5","new_title":"y"}"#);
    assert_eq!(refused.status, 400);
    assert!(refused.text().contains("INVALID_PARAMETER_VALUE") && refused.text().contains("'new_title'"));
    let refused = ask(get(&format!("{API}/experiments/get?experiment_id=5&experiment=5"), &authorization));
    assert_eq!(refused.status, 400);
    assert!(mlflow.take().is_empty());
}

#[test]
fn searches_are_narrowed_before_they_are_asked() {
    let mlflow = mlflow();
    let proxy = Proxy::before(mlflow.address);
    let authorization = alice(&proxy);
    let search = |ids: &str| {
        let body = format!(r#"{{"experiment_ids":[{ids}],"max_results":7}}"#);
        proxy.ask(send_json("POST", &format!("{API}/runs/search"), &authorization, &body)).expect("an answer")
    };
    assert_eq!(search(r#""1","5","9""#).status, 200);
    let received = mlflow.take();
    assert_eq!(received.len(), 1);
    assert_eq!(String::from_utf8_lossy(&received[0].body), r#"{"experiment_ids":["5"],"max_results":7}"#);
    let nothing = search(r#""1","9""#);
    assert_eq!((nothing.status, nothing.text().as_str()), (200, "{}"));
    assert!(mlflow.take().is_empty());
    assert_eq!(search(r#"5"#).status, 400);
}

#[test]
fn what_only_administrators_may_choose_is_refused() {
    let mlflow = mlflow();
    let proxy = Proxy::with(mlflow.address, |config| {
        config.authz.artifact_locations = vec!["s3://team/".to_owned()];
    });
    let authorization = alice(&proxy);
    let post = |path: &str, body: &str| {
        proxy.ask(send_json("POST", &format!("{API}/{path}"), &authorization, body)).expect("an answer").status
    };
    assert_eq!(post("experiments/create", r#"{"name":"a","artifact_location":"/etc"}"#), 403);
    assert_eq!(post("experiments/create", r#"{"name":"a","artifactLocation":"/etc"}"#), 403);
    assert_eq!(post("experiments/create", r#"{"name":"a","artifact_location":"s3://team/../other"}"#), 403);
    assert_eq!(post("experiments/create", r#"{"name":"a","artifact_location":"s3://teams/x"}"#), 403);
    let set_tag = "registered-models/set-tag";
    assert_eq!(post(set_tag, r#"{"name":"shown","key":"mlflow.prompt.is_prompt","value":"true"}"#), 403);
    let version = "model-versions/create";
    assert_eq!(post(version, r#"{"name":"shown","source":"s3://elsewhere/x"}"#), 403);
    assert_eq!(post(version, r#"{"name":"shown","source":"models:/hidden/1"}"#), 403);
    assert_eq!(post(version, r#"{"name":"shown","source":"mlflow-artifacts:/1/r/artifacts/m"}"#), 403);
    assert_eq!(post(version, &format!(r#"{{"name":"shown","source":"runs:/{HIDDEN}/m"}}"#)), 403);
    assert!(mlflow.take().iter().all(|request| request.method == "GET"), "only look-ups reached MLflow");
    assert_eq!(post("experiments/create", r#"{"name":"a","artifact_location":"s3://team/x"}"#), 200);
    assert_eq!(post(version, r#"{"name":"shown","source":"mlflow-artifacts:/5/r/artifacts/m"}"#), 200);
    assert_eq!(post(version, r#"{"name":"shown","source":"models:/shown/1"}"#), 200);
}

#[test]
fn a_source_inside_the_run_that_is_named_is_accepted() {
    let mlflow = mlflow();
    let proxy = Proxy::before(mlflow.address);
    let reader = proxy.user(
        "reader",
        &[
            (ResourceKind::Experiment, "1", Permission::Read),
            (ResourceKind::RegisteredModel, "shown", Permission::Edit),
        ],
    );
    let post = |source: &str| {
        let body = format!(r#"{{"name":"shown","source":"{source}","run_id":"{HIDDEN}"}}"#);
        proxy.ask(send_json("POST", &format!("{API}/model-versions/create"), &reader, &body)).expect("an answer").status
    };
    assert_eq!(post("s3://bucket/1/r/model"), 200);
    assert_eq!(post("s3://bucket/1/r"), 200);
    for outside in ["s3://bucket/1/r2", "s3://bucket/1/r/../r2", "s3://bucket/1/r/%2e%2e/r2", "s3://bucket", "/etc"] {
        assert_eq!(post(outside), 403, "{outside}");
    }
}

#[test]
fn the_creator_owns_before_the_answer_comes_even_when_nobody_waits_for_it() {
    let mlflow = Recorder::scripted(|request| {
        if request.target.ends_with("/experiments/create") {
            pause(Duration::from_millis(300));
        }
        answer(request)
    });
    let proxy = Proxy::before(mlflow.address);
    let authorization = alice(&proxy);
    let create = send_json("POST", &format!("{API}/experiments/create"), &authorization, r#"{"name":"mine"}"#);
    let mut client = proxy.connect();
    client.send(&create);
    mlflow.wait_for(&format!("{API}/experiments/create"));
    client.hang_up();
    let store = proxy.store();
    let owners = || {
        let mine = Selector::Exact("77".to_owned());
        proxy.block_on(store.grants_on(ResourceKind::Experiment, &mine)).expect("grants")
    };
    eventually("the creator owns it", || !owners().is_empty());
    assert_eq!(owners()[0].permission, Permission::Manage);
    assert!(proxy.block_on(store.intents()).expect("intents").is_empty());
    // And at once for whoever does wait.
    let bob = proxy.user("bob", &[]);
    let mine = get(&format!("{API}/experiments/get?experiment_id=77"), &bob);
    assert_eq!(proxy.ask(&mine).expect("an answer").status, 403);
    let create = send_json("POST", &format!("{API}/experiments/create"), &bob, r#"{"name":"mine too"}"#);
    assert_eq!(proxy.ask(create).expect("an answer").status, 200);
    assert_eq!(proxy.ask(&mine).expect("an answer").status, 200);
}

#[test]
fn nothing_that_needs_an_effect_is_forwarded_while_the_store_is_locked() {
    let mlflow = mlflow();
    let proxy = Proxy::before(mlflow.address);
    let authorization = alice(&proxy);
    let read = get(&format!("{API}/experiments/get?experiment_id=5"), &authorization);
    assert_eq!(proxy.ask(&read).expect("an answer").status, 200);
    mlflow.take();
    let lock = proxy.lock_store();
    let create = send_json("POST", &format!("{API}/experiments/create"), &authorization, r#"{"name":"mine"}"#);
    let answer = proxy.ask(create).expect("an answer");
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("TEMPORARILY_UNAVAILABLE"), "{}", answer.text());
    assert!(mlflow.take().is_empty(), "MLflow was asked");
    drop(lock);
    eventually("the store takes writes again", || {
        let create = send_json("POST", &format!("{API}/experiments/create"), &authorization, r#"{"name":"mine"}"#);
        proxy.ask(create).expect("an answer").status == 200
    });
}

#[test]
fn what_a_crash_left_without_owner_is_found_at_the_next_start() {
    let mlflow = Recorder::scripted(|request| {
        let born = "\"creation_time\":99999999999999,\"creation_timestamp\":99999999999999";
        let (path, query) = request.target.split_once('?')?;
        match (path.strip_prefix(API)?, query) {
            ("/experiments/get-by-name", "experiment_name=orphan") => {
                Some((200, format!(r#"{{"experiment":{{"experiment_id":"31",{born}}}}}"#)))
            }
            ("/experiments/get-by-name", _) => Some((404, "{}".to_owned())),
            ("/registered-models/get", "name=gone") => Some((404, "{}".to_owned())),
            _ => None,
        }
    });
    let directory = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite://{}", directory.path().join("proxy.db").display());
    let store_url = url.clone();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let store = runtime.block_on(async {
        // Since then, MLflow would have answered.
        let now = Clock::default().now();
        let clock = Clock::manual(Timestamp(now.0 - 10_000));
        let store = mlflow_auth_proxy::store::Store::open(&url, clock.clone()).await.expect("a store");
        let user = store.create_user(&actor(), "alice", None, true).await.expect("alice").id;
        for name in ["orphan", "never-made"] {
            let kind = ResourceKind::Experiment;
            store.begin(&Mutation::Create { kind, name: name.to_owned() }, user, &[]).await.expect("an intent");
        }
        let kind = ResourceKind::RegisteredModel;
        store.begin(&Mutation::Delete { kind, key: "gone".to_owned() }, UserId(1), &[]).await.expect("an intent");
        // This one may still wait in MLflow.
        clock.advance(Duration::from_secs(10));
        let kind = ResourceKind::Experiment;
        store.begin(&Mutation::Create { kind, name: "to-come".to_owned() }, user, &[]).await.expect("an intent");
        store
    });
    pause(Duration::from_millis(5));
    let _proxy = Proxy::with(mlflow.address, |config| config.store.url = store_url);
    let open = || runtime.block_on(store.intents()).expect("intents");
    eventually("every intent but one is settled", || open().len() == 1);
    assert_eq!(open()[0].mutation.names(), ["to-come"]);
    let grants = runtime.block_on(store.grants()).expect("grants");
    assert_eq!(grants.len(), 1);
    assert_eq!((grants[0].selector.to_string().as_str(), grants[0].permission), ("31", Permission::Manage));
}

#[test]
fn renaming_moves_the_grants_however_large_mlflows_answer_is() {
    let mlflow = Recorder::scripted(|request| {
        if request.target.ends_with("/registered-models/rename") {
            return Some((
                200,
                format!(r#"{{"registered_model":{{"description":"{}"}}}}"#, "x".repeat(20 * 1024 * 1024)),
            ));
        }
        answer(request)
    });
    let proxy = Proxy::before(mlflow.address);
    let owner = proxy.user("owner", &[(ResourceKind::RegisteredModel, "shown", Permission::Manage)]);
    let rename = r#"{"name":"shown","new_name":"elsewhere"}"#;
    proxy.ask(send_json("POST", &format!("{API}/registered-models/rename"), &owner, rename)).expect("an answer");
    let store = proxy.store();
    let names: Vec<String> =
        proxy.block_on(store.grants()).expect("grants").iter().map(|grant| grant.selector.to_string()).collect();
    assert_eq!(names, ["elsewhere"]);
}

#[test]
fn a_name_with_an_interrupted_change_is_settled_before_it_changes_hands() {
    let mlflow = Recorder::scripted(|request| {
        let path = request.target.strip_prefix(API)?;
        let model = |name: &str| Some((200, format!(r#"{{"registered_model":{{"name":"{name}"}}}}"#)));
        match path {
            "/registered-models/get?name=taken" => Some((404, "{}".to_owned())),
            "/registered-models/get?name=elsewhere" => model("elsewhere"),
            "/registered-models/create" => model("taken"),
            _ => None,
        }
    });
    let proxy = Proxy::before(mlflow.address);
    proxy.user("mallory", &[(ResourceKind::RegisteredModel, "taken", Permission::Manage)]);
    let bob = proxy.user("bob", &[]);
    let store = proxy.store();
    let (kind, from, to) = (ResourceKind::RegisteredModel, "taken".to_owned(), "elsewhere".to_owned());
    proxy.block_on(store.begin(&Mutation::Rename { kind, from, to }, UserId(1), &[])).expect("an intent");
    let create = send_json("POST", &format!("{API}/registered-models/create"), &bob, r#"{"name":"taken"}"#);
    assert_eq!(proxy.ask(create).expect("an answer").status, 200);
    let on = |name: &str| {
        let selector = Selector::Exact(name.to_owned());
        proxy.block_on(store.grants_on(kind, &selector)).expect("grants").len()
    };
    assert_eq!((on("taken"), on("elsewhere")), (1, 1), "the old owner's grant went where the old model went");
    assert!(proxy.block_on(store.intents()).expect("intents").is_empty());
}

/// 30 experiments, ids 0 to 29, paged by MLflow as MLflow does.
fn thirty() -> Recorder {
    Recorder::scripted(|request| {
        let (path, query) = request.target.split_once('?')?;
        if path != format!("{API}/experiments/search") {
            return None;
        }
        let field = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)).map(str::to_owned);
        let size: usize = field("max_results=").map_or(1000, |size| size.parse().expect("a number"));
        let start: usize = field("page_token=").map_or(0, |token| token.parse().expect("MLflow's own token"));
        let rows: Vec<String> =
            (start..30).take(size).map(|id| format!(r#"{{"experiment_id":"{id}","name":"e{id}"}}"#)).collect();
        let end = start + rows.len();
        let token = if end < 30 { format!(r#","next_page_token":"{end}""#) } else { String::new() };
        Some((200, format!(r#"{{"experiments":[{}]{token}}}"#, rows.join(","))))
    })
}

#[test]
fn filtered_pages_are_full_complete_and_say_when_they_end() {
    let mlflow = thirty();
    let proxy = Proxy::before(mlflow.address);
    let readable: Vec<String> = (0..30).filter(|id| id % 4 == 1).map(|id: u32| id.to_string()).collect();
    let grants: Vec<_> = readable.iter().map(|id| (ResourceKind::Experiment, id.as_str(), Permission::Read)).collect();
    let authorization = proxy.user("alice", &grants);
    for size in [1, 2, 3, 7, 8, 100] {
        let mut found: Vec<String> = Vec::new();
        let mut token = String::new();
        loop {
            let target = format!("{API}/experiments/search?max_results={size}{token}");
            let answer = proxy.ask(get(&target, &authorization)).expect("an answer");
            assert_eq!(answer.status, 200, "{}", answer.text());
            let page: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
            let rows = page["experiments"].as_array().cloned().unwrap_or_default();
            found.extend(rows.iter().map(|row| row["experiment_id"].as_str().expect("an id").to_owned()));
            let Some(next) = page["next_page_token"].as_str() else { break };
            assert_eq!(rows.len(), size, "a page with a successor is full");
            token = format!("&page_token={next}");
        }
        assert_eq!(found, readable, "pages of {size}");
    }
    // A token of ours tells nothing and opens for its owner only.
    let first = proxy.ask(get(&format!("{API}/experiments/search?max_results=2"), &authorization)).expect("an answer");
    let page: serde_json::Value = serde_json::from_slice(&first.body).expect("JSON");
    let token = page["next_page_token"].as_str().expect("a token");
    let bob = proxy.user("bob", &[(ResourceKind::Experiment, "3", Permission::Read)]);
    for (who, token) in [(&bob, token), (&authorization, "5"), (&authorization, "eyJvZmZzZXQiOiAyfQ==")] {
        let target = format!("{API}/experiments/search?max_results=2&page_token={token}");
        assert_eq!(proxy.ask(get(&target, who)).expect("an answer").status, 400, "{token}");
    }
    let nobody = proxy.user("nobody", &[]);
    mlflow.take();
    let nothing = proxy.ask(get(&format!("{API}/experiments/search?max_results=2"), &nobody)).expect("an answer");
    assert_eq!((nothing.status, nothing.text().as_str()), (200, "{}"));
    assert!(mlflow.take().is_empty(), "whoever may read nothing costs MLflow nothing");
}

#[test]
fn another_method_is_405_and_another_origin_is_403() {
    let mlflow = mlflow();
    let proxy = Proxy::before(mlflow.address);
    let authorization = alice(&proxy);
    let wrong = proxy.ask(send_json("DELETE", &format!("{API}/runs/get"), &authorization, "{}")).expect("an answer");
    assert_eq!((wrong.status, wrong.header("allow")), (405, Some("GET, HEAD")));
    let with_origin = |origin: &str| {
        let request =
            send_json("POST", &format!("{API}/experiments/update"), &authorization, r#"{"experiment_id":"5"}"#);
        let request = request.replacen("Host: proxy", &format!("Host: proxy\r\nOrigin: {origin}"), 1);
        proxy.ask(request).expect("an answer").status
    };
    assert_eq!(with_origin("http://proxy"), 200);
    assert_eq!(with_origin("https://evil.example"), 403);
    assert_eq!(with_origin("null"), 403);
    assert_eq!(with_origin("http://proxy.evil.example"), 403);
    assert_eq!(with_origin("http://proxy:9"), 403, "another port is another origin");
}

/// What is before a row that is too large is shown; then the list says what is wrong, instead of failing for ever.
#[test]
fn a_row_that_is_too_large_does_not_take_the_others_along() {
    let mlflow = Recorder::scripted(|request| {
        let query = request.target.strip_prefix("/api/2.0/mlflow/experiments/search?")?;
        let field = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name));
        let start: usize = field("page_token=").map_or(0, |token| token.parse().expect("MLflow's own token"));
        let size: usize = field("max_results=").map_or(1000, |size| size.parse().expect("a number"));
        let end = (start + size).min(6);
        let name = |id: usize| if id == 3 { "x".repeat(12 * 1024 * 1024) } else { id.to_string() };
        let rows = (start..end).map(|id| format!(r#"{{"experiment_id":"{id}","name":"{}"}}"#, name(id)));
        let rows = rows.collect::<Vec<_>>().join(",");
        let token = if end < 6 { format!(r#","next_page_token":"{end}""#) } else { String::new() };
        Some((200, format!(r#"{{"experiments":[{rows}]{token}}}"#)))
    });
    let proxy = Proxy::before(mlflow.address);
    let grants = ["0", "1", "2", "3", "4", "5"].map(|id| (ResourceKind::Experiment, id, Permission::Read));
    let reader = proxy.user("reader", &grants);
    let first = proxy.ask(get(&format!("{API}/experiments/search?max_results=5"), &reader)).expect("an answer");
    assert_eq!(first.status, 200, "{}", first.text());
    let page: serde_json::Value = serde_json::from_slice(&first.body).expect("JSON");
    let shown: Vec<&str> =
        page["experiments"].as_array().expect("rows").iter().filter_map(|row| row["experiment_id"].as_str()).collect();
    assert_eq!(shown, ["0", "1", "2"]);
    let token = page["next_page_token"].as_str().expect("a token");
    let target = format!("{API}/experiments/search?max_results=5&page_token={token}");
    let second = proxy.ask(get(&target, &reader)).expect("an answer");
    assert_eq!(second.status, 422, "{}", second.text());
    assert!(second.text().contains("larger than 10 MiB"), "{}", second.text());
}

/// A denied scorer, and an MLflow that finds it under other spellings, as databases that ignore case do.
#[test]
fn a_denied_scorer_is_neither_registered_anew_nor_reached_under_another_spelling() {
    const SCORERS: &str = "/api/3.0/mlflow/scorers";
    let mlflow = Recorder::scripted(|request| {
        let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
        let get = path.strip_suffix("/scorers/get").is_some();
        let name = if query.to_lowercase().contains("name=judge") { "Judge" } else { "other" };
        get.then(|| (200, format!(r#"{{"scorer":{{"scorer_name":"{name}","serialized_scorer":"{{}}"}}}}"#)))
    });
    let proxy = Proxy::before(mlflow.address);
    let grants = [
        (ResourceKind::Experiment, "5", Permission::Manage),
        (ResourceKind::Scorer, "5/Judge", Permission::Deny),
        // On every scorer: under another spelling, nothing but the name that MLflow has refuses it.
        (ResourceKind::Scorer, "*", Permission::Manage),
    ];
    let bob = proxy.user("bob", &grants);
    let written = r#"{\"builtin_scorer_class\":\"Safety\",\"builtin_scorer_pydantic_data\":{\"name\":\"x\"}}"#;
    for (name, refused) in [("Judge", true), ("JUDGE", true), ("other", false)] {
        let ask = |method: &str, path: &str, rest: &str| {
            let body = format!(r#"{{"experiment_id":"5"{rest}}}"#);
            let answer = proxy.ask(send_json(method, path, &bob, &body)).expect("an answer");
            assert_eq!(answer.status == 403, refused, "{method} {path} {name}: {} {}", answer.status, answer.text());
        };
        let named = format!(r#","name":"{name}""#);
        ask("POST", &format!("{SCORERS}/register"), &format!(r#"{named},"serialized_scorer":"{written}""#));
        ask("PUT", &format!("{SCORERS}/online-config"), &format!(r#"{named},"sample_rate":0"#));
        for path in ["get", "versions"] {
            let target = format!("{SCORERS}/{path}?experiment_id=5&name={name}");
            let answer = proxy.ask(get(&target, &bob)).expect("an answer");
            assert_eq!(answer.status == 403, refused, "{path} {name}: {}", answer.status);
        }
        // Last, because it drops the grants.
        ask("DELETE", &format!("{SCORERS}/delete"), &named);
    }
}

#[test]
fn a_schedule_names_its_model_without_a_second_provider() {
    let mlflow = mlflow();
    let proxy = Proxy::before(mlflow.address);
    let authorization = alice(&proxy);
    for (model, status) in [("gpt-5", 200), ("gateway:/theirs", 400), ("openai:/x", 400)] {
        let schedule = format!(r#"{{\"model\":{{\"provider\":\"openai\",\"model\":\"{model}\"}}}}"#);
        let body = format!(r#"{{"experiment_id":"5","key":"mlflow.issueDetection.schedule","value":"{schedule}"}}"#);
        let path = format!("{API}/experiments/set-experiment-tag");
        let answer = proxy.ask(send_json("POST", &path, &authorization, &body)).expect("an answer");
        assert_eq!(answer.status, status, "{model}: {}", answer.text());
    }
}
