//! Requests that change the same thing wait for each other, and for nothing else: not for a client that sends slowly.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mlflow_auth_proxy::authz::{Permission, ResourceKind, Selector};

use crate::harness::{Client, Proxy, Received, Recorder, get, pause, send_json};

const API: &str = "/api/2.0/mlflow";
const SKILLS: &str = "/api/3.0/mlflow/skills";

/// An MLflow without skills, until one is created.
fn without_skills() -> Recorder {
    let there = AtomicBool::new(false);
    Recorder::scripted(move |request: &Received| {
        let path = request.target.split('?').next().unwrap_or_default();
        if path.starts_with(API) {
            return Some((200, r#"{"registered_model":{"name":"fraud"}}"#.to_owned()));
        }
        match (request.method.as_str(), path.strip_prefix(SKILLS)?) {
            ("GET", _) if there.load(Ordering::SeqCst) => Some((200, r#"{"name":"fraud"}"#.to_owned())),
            ("GET", _) => Some((404, "{}".to_owned())),
            ("POST", "") => {
                there.store(true, Ordering::SeqCst);
                Some((200, r#"{"name":"fraud","organization":"","latest_version":null}"#.to_owned()))
            }
            _ => Some((200, r#"{"name":"fraud","version":1}"#.to_owned())),
        }
    })
}

const PIECE: usize = 8 * 1024;

/// Begins to upload the first version of the skill `fraud`, in two pieces.
fn begin_upload(proxy: &Proxy, authorization: &str, chunked: bool) -> Client {
    let length =
        if chunked { "Transfer-Encoding: chunked".to_owned() } else { format!("Content-Length: {}", 2 * PIECE) };
    let mut client = proxy.connect();
    client.send(format!(
        "POST {SKILLS}/fraud/versions HTTP/1.1\r\nHost: proxy\r\nAuthorization: {authorization}\r\n\
         Content-Type: multipart/form-data; boundary=x\r\n{length}\r\n\r\n"
    ));
    send_piece(&mut client, chunked);
    client
}

fn send_piece(client: &mut Client, chunked: bool) {
    let piece = "x".repeat(PIECE);
    client.send(if chunked { format!("{PIECE:x}\r\n{piece}\r\n") } else { piece });
}

fn end_upload(client: &mut Client, chunked: bool) {
    send_piece(client, chunked);
    if chunked {
        client.send("0\r\n\r\n");
    }
}

#[test]
fn an_upload_keeps_no_name_while_it_is_under_way() {
    for chunked in [false, true] {
        let mlflow = without_skills();
        let proxy = Proxy::before(mlflow.address);
        let owner = proxy.user("owner", &[(ResourceKind::RegisteredModel, "fraud", Permission::Manage)]);
        let mallory = proxy.user("mallory", &[]);
        let mut upload = begin_upload(&proxy, &mallory, chunked);
        mlflow.wait_for(&format!("{SKILLS}/fraud"));
        let delete = send_json("DELETE", &format!("{API}/registered-models/delete"), &owner, r#"{"name":"fraud"}"#);
        assert_eq!(proxy.ask(delete).expect("a model is no skill").status, 200);
        let create = send_json("POST", SKILLS, &owner, r#"{"name":"fraud"}"#);
        assert_eq!(proxy.ask(create).expect("the name is free").status, 200);
        // The skill is another user's now.
        end_upload(&mut upload, chunked);
        let answer = upload.answer().expect("an answer");
        assert_eq!(answer.status, 409, "{}", answer.text());
        let uploaded = format!("{SKILLS}/fraud/versions");
        assert!(!mlflow.take().iter().any(|request| request.target == uploaded), "MLflow got the whole upload");
        let store = proxy.store();
        assert!(proxy.block_on(store.intents()).expect("intents").is_empty());
    }
}

#[test]
fn an_upload_that_makes_a_skill_gives_it_to_its_sender() {
    for chunked in [false, true] {
        let mlflow = without_skills();
        let proxy = Proxy::before(mlflow.address);
        let mallory = proxy.user("mallory", &[]);
        let mut upload = begin_upload(&proxy, &mallory, chunked);
        end_upload(&mut upload, chunked);
        assert_eq!(upload.answer().expect("an answer").status, 200);
        let sent = mlflow.wait_for(&format!("{SKILLS}/fraud/versions"));
        assert!(sent.body.len() >= 2 * PIECE, "the whole of it");
        let store = proxy.store();
        let on = proxy.block_on(store.grants_on(ResourceKind::Skill, &Selector::Exact("fraud".to_owned())));
        assert_eq!(on.expect("grants").len(), 1);
        assert!(proxy.block_on(store.intents()).expect("intents").is_empty());
    }
}

#[test]
fn a_turn_that_does_not_come_is_answered_before_mlflow_is_asked() {
    let stuck = Arc::new(AtomicBool::new(true));
    let until = Arc::clone(&stuck);
    let mlflow = Recorder::scripted(move |request| {
        while request.target.ends_with("/registered-models/create") && until.load(Ordering::SeqCst) {
            pause(Duration::from_millis(10));
        }
        None
    });
    let proxy = Proxy::with(mlflow.address, |config| config.upstream.response_timeout = Duration::from_secs(60));
    let alice = proxy.user("alice", &[]);
    let bob = proxy.user("bob", &[]);
    let target = format!("{API}/registered-models/create");
    let create = |who: &str| send_json("POST", &target, who, r#"{"name":"same"}"#);
    let mut first = proxy.connect();
    first.send(create(&alice));
    mlflow.wait_for(&target);
    let second = proxy.ask(create(&bob)).expect("an answer");
    assert_eq!((second.status, second.header("retry-after")), (503, Some("2")), "{}", second.text());
    stuck.store(false, Ordering::SeqCst);
    first.answer().expect("an answer");
    assert_eq!(mlflow.take().iter().filter(|request| request.target == target).count(), 1);
    assert_eq!(proxy.ask(get("/api/2.0/mlflow/experiments/get?experiment_id=1", &bob)).expect("one").status, 403);
}
