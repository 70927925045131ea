//! A request is carried out with the rights of that moment, not with those of the moment in which it began.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use mlflow_auth_proxy::authz::{Permission, ResourceKind, Selector, Subject};

use crate::browser::eventually;
use crate::harness::{Client, PATIENCE, Proxy, Received, Recorder, actor, get, pause, send_json};

const SKILLS: &str = "/api/3.0/mlflow/skills";
const RUN: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
/// The proxy decides and sends with an identity that is younger than a second.
const LONG: Duration = Duration::from_millis(1200);

/// Takes a user's grants away, as another process does.
fn revoke(proxy: &Proxy, name: &str) {
    let store = proxy.store();
    proxy.block_on(async {
        let user = store.user_by_name(name).await.expect("the store").expect("the user");
        for grant in store.grants_of(&Subject::User(user.id)).await.expect("grants") {
            store.delete_grant(&actor(), &grant.subject, grant.kind, &grant.selector).await.expect("a grant");
        }
    });
}

/// Waits until the proxy has seen the change.
fn wait_until_refused(proxy: &Proxy, target: &str, authorization: &str) {
    eventually("the change is seen", || proxy.ask(get(target, authorization)).expect("an answer").status == 403);
}

fn begin(proxy: &Proxy, method: &str, target: &str, authorization: &str, body: &str) -> (Client, String) {
    let whole = send_json(method, target, authorization, body);
    let (first, rest) = whole.split_at(whole.len() - body.len() / 2);
    let mut client = proxy.connect();
    client.send(first);
    (client, rest.to_owned())
}

/// An MLflow with the skill `fraud`; if it does not exist yet, another user creates it after the first look-up.
fn skills(exists: AtomicBool) -> Recorder {
    Recorder::scripted(move |request: &Received| {
        let path = request.target.split('?').next().unwrap_or_default();
        let existed = path.starts_with(SKILLS).then(|| exists.swap(true, Ordering::SeqCst))?;
        let told = if existed { (200, r#"{"name":"fraud","version":1}"#) } else { (404, "{}") };
        Some((told.0, told.1.to_owned()))
    })
}

#[test]
fn an_upload_is_completed_with_the_rights_of_its_end() {
    let mlflow = skills(AtomicBool::new(true));
    let proxy = Proxy::before(mlflow.address);
    let carol = proxy.user("carol", &[(ResourceKind::Skill, "fraud", Permission::Edit)]);
    let target = format!("{SKILLS}/fraud/versions");
    let body = "x".repeat(16 * 1024);
    let head = format!(
        "POST {target} HTTP/1.1\r\nHost: proxy\r\nAuthorization: {carol}\r\n\
         Content-Type: multipart/form-data; boundary=x\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let mut upload = proxy.connect();
    upload.send(head + &body[..8 * 1024]);
    mlflow.wait_for(&format!("{SKILLS}/fraud"));
    revoke(&proxy, "carol");
    pause(LONG);
    upload.send(&body[8 * 1024..]);
    let answer = upload.answer().expect("an answer");
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{}", answer.text());
    assert!(!mlflow.take().iter().any(|request| request.target == target), "MLflow got the whole upload");
}

/// An MLflow that answers look-ups of runs only when the returned flag is cleared.
fn slow_look_ups() -> (Recorder, Arc<AtomicBool>) {
    let stuck = Arc::new(AtomicBool::new(true));
    let until = Arc::clone(&stuck);
    let mlflow = Recorder::scripted(move |request| {
        if !request.target.contains("/runs/get") {
            return None;
        }
        while until.load(Ordering::SeqCst) {
            pause(Duration::from_millis(10));
        }
        Some((200, format!(r#"{{"run":{{"info":{{"run_id":"{RUN}","experiment_id":"1"}}}}}}"#)))
    });
    (mlflow, stuck)
}

#[test]
fn a_request_is_sent_with_the_rights_after_a_slow_look_up() {
    let (mlflow, stuck) = slow_look_ups();
    let proxy = Proxy::before(mlflow.address);
    let gina = proxy.user("gina", &[(ResourceKind::Experiment, "1", Permission::Edit)]);
    let target = "/api/2.0/mlflow/runs/set-tag";
    let body = format!(r#"{{"run_id":"{RUN}","key":"a","value":"b"}}"#);
    let mut client = proxy.connect();
    client.send(send_json("POST", target, &gina, &body));
    mlflow.wait_for(&format!("/api/2.0/mlflow/runs/get?run_id={RUN}"));
    revoke(&proxy, "gina");
    wait_until_refused(&proxy, "/api/2.0/mlflow/experiments/get?experiment_id=1", &gina);
    pause(LONG);
    stuck.store(false, Ordering::SeqCst);
    let answer = client.answer().expect("an answer");
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{}", answer.text());
    assert!(!mlflow.take().iter().any(|request| request.target == target), "MLflow got the request");
    assert_eq!(proxy.ask(send_json("POST", target, &gina, &body)).expect("an answer").status, 403);
}

#[test]
fn a_request_is_sent_although_its_user_got_more_rights_meanwhile() {
    let (mlflow, stuck) = slow_look_ups();
    let proxy = Proxy::before(mlflow.address);
    let hugo = proxy.user("hugo", &[(ResourceKind::Experiment, "1", Permission::Edit)]);
    let target = "/api/2.0/mlflow/runs/set-tag";
    let mut client = proxy.connect();
    client.send(send_json("POST", target, &hugo, &format!(r#"{{"run_id":"{RUN}","key":"a","value":"b"}}"#)));
    mlflow.wait_for(&format!("/api/2.0/mlflow/runs/get?run_id={RUN}"));
    // As when another request of the user creates an experiment.
    let store = proxy.store();
    proxy.block_on(async {
        let user = store.user_by_name("hugo").await.expect("the store").expect("the user").id;
        store.own(&actor(), ResourceKind::Experiment, "2", user).await.expect("a grant");
    });
    let own = "/api/2.0/mlflow/experiments/get?experiment_id=2";
    eventually("the change is seen", || proxy.ask(get(own, &hugo)).expect("an answer").status == 200);
    pause(LONG);
    stuck.store(false, Ordering::SeqCst);
    assert_eq!(client.answer().expect("an answer").status, 200);
    assert!(mlflow.take().iter().any(|request| request.target == target));
}

/// A list is filled from as many of MLflow's pages as it takes, each of which is a request.
#[test]
fn no_further_page_of_a_list_is_asked_for_with_earlier_rights() {
    let stuck = Arc::new(AtomicBool::new(true));
    let until = Arc::clone(&stuck);
    let mlflow = Recorder::scripted(move |request| {
        if !request.target.contains("/experiments/search") {
            return None;
        }
        if request.target.contains("page_token=") {
            return Some((200, r#"{"experiments":[{"experiment_id":"1","name":"one"}]}"#.to_owned()));
        }
        while until.load(Ordering::SeqCst) {
            pause(Duration::from_millis(10));
        }
        Some((200, r#"{"experiments":[{"experiment_id":"2","name":"two"}],"next_page_token":"1"}"#.to_owned()))
    });
    let proxy = Proxy::before(mlflow.address);
    let gina = proxy.user("gina", &[(ResourceKind::Experiment, "1", Permission::Read)]);
    let search = "/api/2.0/mlflow/experiments/search?max_results=1";
    let mut client = proxy.connect();
    client.send(get(search, &gina));
    mlflow.wait_for(search);
    revoke(&proxy, "gina");
    wait_until_refused(&proxy, "/api/2.0/mlflow/experiments/get?experiment_id=1", &gina);
    pause(LONG);
    stuck.store(false, Ordering::SeqCst);
    let answer = client.answer().expect("an answer");
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{}", answer.text());
    assert!(!mlflow.take().iter().any(|request| request.target.contains("page_token=")), "MLflow got the request");
}

#[test]
fn the_own_api_answers_with_the_rights_after_the_body() {
    let mlflow = Recorder::start();
    let proxy = Proxy::before(mlflow.address);
    let kim = proxy.user("kim", &[(ResourceKind::Experiment, "1", Permission::Manage)]);
    proxy.user("mallory", &[]);
    let target = "/api/3.0/mlflow/users/permissions/grant";
    let body = r#"{"username":"mallory","resource_type":"experiment","resource_id":"1","permission":"MANAGE"}"#;
    let (mut client, rest) = begin(&proxy, "POST", target, &kim, body);
    pause(LONG);
    revoke(&proxy, "kim");
    wait_until_refused(&proxy, "/api/2.0/mlflow/experiments/get?experiment_id=1", &kim);
    client.send(rest);
    let answer = client.answer().expect("an answer");
    assert_eq!(answer.status, 403, "{}", answer.text());
    let store = proxy.store();
    let on = proxy.block_on(store.grants_on(ResourceKind::Experiment, &Selector::Exact("1".to_owned())));
    assert!(on.expect("grants").is_empty());
}

/// The pieces of a body, whose end is told by a frame of its own.
struct Pieces(VecDeque<Frame<Bytes>>);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(Ok))
    }
}

/// The last bytes of an upload wait for the second decision, in whatever way the upload ends.
#[test]
fn the_last_bytes_of_an_upload_are_held_back_in_every_framing() {
    let data = |text: &'static str| Frame::data(Bytes::from_static(text.as_bytes()));
    let trailers = || Frame::trailers(http::HeaderMap::new());
    let uploads = [
        vec![data("first"), data("last")],
        vec![data("first"), data("last"), data("")],
        vec![data("first"), data("last"), data(""), data("")],
        vec![data("first"), data("last"), trailers()],
        vec![data("first"), data("last"), data(""), trailers()],
    ];
    for frames in uploads {
        let told = format!("{frames:?}");
        // The first decision finds that the name is free, the second one that it is another user's.
        let mlflow = skills(AtomicBool::new(false));
        let proxy = Proxy::before(mlflow.address);
        let mallory = proxy.user("mallory", &[]);
        let status = tokio::runtime::Runtime::new().expect("a runtime").block_on(async {
            let tcp = tokio::net::TcpStream::connect(proxy.address).await.expect("a connection");
            let (mut sender, connection) =
                hyper::client::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new())
                    .handshake::<_, Pieces>(hyper_util::rt::TokioIo::new(tcp))
                    .await
                    .expect("HTTP/2");
            tokio_util::task::TaskTracker::new().spawn(connection);
            let request = http::Request::builder()
                .method("POST")
                .uri(format!("http://proxy{SKILLS}/fraud/versions"))
                .header("authorization", &mallory)
                .header("content-type", "multipart/form-data; boundary=x")
                .header("content-length", "9")
                .body(Pieces(frames.into()))
                .expect("a request");
            tokio::time::timeout(PATIENCE, sender.send_request(request)).await.expect("in time").expect("one").status()
        });
        assert_eq!(status, 409, "{told}");
        let target = format!("{SKILLS}/fraud/versions");
        assert!(!mlflow.take().iter().any(|request| request.target == target), "MLflow got all of {told}");
    }
}
