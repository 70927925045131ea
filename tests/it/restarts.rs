//! An MLflow that goes away and comes back: which requests wait for it, what they are told, and that none is sent twice.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mlflow_auth_proxy::authz::{Limits, Permission, ResourceKind};
use mlflow_auth_proxy::clock::{Clock, Stopwatch};
use mlflow_auth_proxy::config::Config;
use mlflow_auth_proxy::crypto::{AccessToken, SessionSecret};
use mlflow_auth_proxy::store::{NewSession, NewToken};

use crate::harness::{Answer, Client, PATIENCE, Proxy, Recorder, actor, basic, get, pause, send_json};

/// A loopback address of this test alone, where nothing listens yet.
fn nobody() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let [low, high] = std::process::id().to_le_bytes()[..2] else { panic!("a process ID has four bytes") };
    let own = u8::try_from(NEXT.fetch_add(1, Ordering::SeqCst)).unwrap();
    SocketAddr::from((Ipv4Addr::new(127, 100 + own, high, low), 5999))
}

fn holding(config: &mut Config) {
    config.upstream.hold = Duration::from_secs(8);
    // One user has an eighth of them.
    config.upstream.hold_max_requests = 512;
    config.upstream.response_timeout = Duration::from_secs(20);
}

/// A proxy whose MLflow is away, and known to be away: the proxy asks for its version at once.
fn without_mlflow(address: SocketAddr, change: impl FnOnce(&mut Config)) -> Proxy {
    let proxy = Proxy::with(address, |config| {
        holding(config);
        change(config);
    });
    // The password is checked here, so that requests wait for nothing but MLflow.
    assert_eq!(proxy.ask(get("/api/2.0/mlflow/users/current", &basic())).map(|answer| answer.status), Some(200));
    proxy
}

/// A request of its own, and its answer later.
fn begin(proxy: &Proxy, raw: impl AsRef<[u8]>) -> Client {
    let mut client = proxy.connect();
    client.send(raw);
    client
}

fn create_run(user_agent: &str) -> String {
    let body = r#"{"experiment_id":"1"}"#;
    send_json("POST", "/api/2.0/mlflow/runs/create", &basic(), body)
        .replace("Host: proxy\r\n", &format!("Host: proxy\r\nUser-Agent: {user_agent}\r\n"))
}

fn wait_for_metric(proxy: &Proxy, line: &str) {
    let watch = Stopwatch::start();
    while !proxy.metrics().contains(line) {
        assert!(watch.elapsed() < PATIENCE, "{line} never came: {}", holds(proxy));
        pause(Duration::from_millis(10));
    }
}

fn holds(proxy: &Proxy) -> String {
    let metrics = proxy.metrics();
    metrics.lines().filter(|line| line.contains("upstream_hold")).collect::<Vec<_>>().join("\n")
}

fn waiting(proxy: &Proxy, count: usize) {
    wait_for_metric(proxy, &format!("mlflow_auth_proxy_upstream_holding {count}\n"));
}

fn ended(proxy: &Proxy, outcome: &str, count: usize) {
    wait_for_metric(proxy, &format!("mlflow_auth_proxy_upstream_holds_total{{outcome=\"{outcome}\"}} {count}\n"));
}

fn retry_after(answer: &Answer) -> u64 {
    answer.header("retry-after").expect("Retry-After").parse().expect("seconds")
}

#[test]
fn requests_wait_for_mlflow_and_are_sent_once() {
    let address = nobody();
    let proxy = without_mlflow(address, |_| {});
    let upload = format!(
        "PUT /api/2.0/mlflow-artifacts/artifacts/1/0123456789abcdef0123456789abcdef/artifacts/a HTTP/1.1\r\n\
         Host: proxy\r\nAuthorization: {}\r\nContent-Length: 6\r\n\r\nabc",
        basic()
    );
    let mut clients = vec![
        begin(&proxy, get("/api/2.0/mlflow/experiments/get?experiment_id=1", &basic())),
        begin(&proxy, create_run("mlflow-python-client/3.18.0")),
        begin(&proxy, create_run("curl/8")),
        begin(&proxy, send_json("POST", "/api/2.0/mlflow/experiments/create", &basic(), r#"{"name":"e"}"#)),
        // The rest of the body comes while the request waits.
        begin(&proxy, upload),
    ];
    waiting(&proxy, clients.len());
    clients[4].send("def");
    wait_for_metric(&proxy, "mlflow_auth_proxy_upstream_answers 0\n");
    let mlflow = Recorder::at(address);
    for client in &mut clients {
        let answer = client.answer().expect("an answer");
        // The fake's answer to a creation holds no ID.
        assert!(matches!(answer.status, 200 | 502), "{} {}", answer.status, answer.text());
    }
    ended(&proxy, "released", 5);
    let received = mlflow.take();
    let mut sent: Vec<_> = received.iter().filter(|one| one.target != "/api/2.0/mlflow/experiments/get").collect();
    sent.sort_by_key(|one| one.target.clone());
    let targets: Vec<_> = sent.iter().map(|one| one.target.rsplit('/').next().unwrap()).collect();
    let count = |wanted: &str| targets.iter().filter(|target| **target == wanted).count();
    assert_eq!((count("create"), count("a"), count("get?experiment_id=1")), (3, 1, 1), "{targets:?}");
    let uploaded = received.iter().find(|one| one.method == "PUT").expect("the upload");
    assert_eq!(uploaded.body, b"abcdef");
    waiting(&proxy, 0);
    wait_for_metric(&proxy, "mlflow_auth_proxy_upstream_answers 1\n");
}

#[test]
fn what_was_never_sent_is_answered_so_that_the_client_sends_it_again() {
    let proxy = without_mlflow(nobody(), |config| config.upstream.hold = Duration::from_millis(300));
    let read = |agent: &str| {
        get("/api/2.0/mlflow/runs/get?run_id=1", &basic()).replace("Host", &format!("User-Agent: {agent}\r\nHost"))
    };
    let cases = [
        (create_run("mlflow-python-client/2.22.5"), 503),
        (create_run("mlflow-python-client/3.17.2"), 503),
        (create_run("mlflow-python-client/3.18.0"), 429),
        (create_run("mlflow-python-client/3.19.0.dev0"), 429),
        (create_run("mlflow-python-client/4.0.0rc1 plugin/1.0"), 429),
        (create_run("plugin/1.0 mlflow-python-client/3.18.0"), 429),
        (create_run("mlflow-python-client/unknown"), 503),
        (create_run("Mozilla/5.0"), 503),
        (read("mlflow-python-client/3.18.0"), 503),
        (read("mlflow-python-client/2.22.5"), 503),
    ];
    let clients: Vec<_> = cases.iter().map(|(raw, _)| begin(&proxy, raw)).collect();
    for (mut client, (raw, status)) in clients.into_iter().zip(&cases) {
        let answer = client.answer().expect("an answer");
        assert_eq!(answer.status, *status, "{raw}");
        assert!((1..=30).contains(&retry_after(&answer)));
        assert!(answer.text().contains("\"TEMPORARILY_UNAVAILABLE\""), "{}", answer.text());
    }
    ended(&proxy, "expired", cases.len());
    waiting(&proxy, 0);
}

/// What the store holds after a creation that was never sent is what it held before.
#[test]
fn a_creation_that_was_never_sent_leaves_nothing_behind() {
    let address = nobody();
    let proxy = without_mlflow(address, |config| config.upstream.hold = Duration::from_millis(200));
    let raw = send_json("POST", "/api/2.0/mlflow/experiments/create", &basic(), r#"{"name":"e"}"#);
    assert_eq!(proxy.ask(raw).map(|answer| answer.status), Some(503));
    let store = proxy.store();
    assert!(proxy.block_on(store.intents()).expect("the store").is_empty());
    proxy.block_on(store.close());
}

#[test]
fn no_more_wait_than_there_is_room_for() {
    let proxy = without_mlflow(nobody(), |config| config.upstream.hold_max_requests = 2);
    let waits: Vec<_> = (0..2).map(|_| begin(&proxy, create_run("curl/8"))).collect();
    waiting(&proxy, 2);
    let watch = Stopwatch::start();
    let answer = proxy.ask(create_run("curl/8")).expect("an answer");
    assert_eq!((answer.status, retry_after(&answer)), (503, 5));
    assert!(watch.elapsed() < Duration::from_secs(4), "at once");
    ended(&proxy, "no_room", 1);
    for client in waits {
        client.hang_up();
    }
    waiting(&proxy, 0);
}

#[test]
fn the_bodies_that_wait_are_bounded() {
    let proxy = without_mlflow(nobody(), |config| config.upstream.hold_max_bytes = 4 * 4096);
    let body = format!(r#"{{"experiment_id":"1","run_name":"{}"}}"#, "x".repeat(3000));
    let raw = send_json("POST", "/api/2.0/mlflow/runs/create", &basic(), &body);
    let first = begin(&proxy, &raw);
    waiting(&proxy, 1);
    assert_eq!(proxy.ask(&raw).map(|answer| answer.status), Some(503));
    ended(&proxy, "no_share", 1);
    // A small one still fits.
    let small = begin(&proxy, get("/api/2.0/mlflow/experiments/get?experiment_id=1", &basic()));
    waiting(&proxy, 2);
    first.hang_up();
    small.hang_up();
    waiting(&proxy, 0);
}

/// One user who fills their share, without any permission on what they ask for, keeps no other user from waiting.
#[test]
fn one_user_does_not_take_all_places() {
    let address = nobody();
    let proxy = without_mlflow(address, |config| config.upstream.hold_max_requests = 64);
    let mallory = proxy.user("mallory", &[]);
    let ask = get("/api/2.0/mlflow/experiments/get?experiment_id=1", &mallory);
    let taken: Vec<_> = (0..8).map(|_| begin(&proxy, &ask)).collect();
    waiting(&proxy, 8);
    let refused = proxy.ask(&ask).expect("an answer");
    assert_eq!((refused.status, retry_after(&refused)), (503, 5));
    ended(&proxy, "no_share", 1);
    let mut owner = begin(&proxy, create_run("curl/8"));
    waiting(&proxy, 9);
    let _mlflow = Recorder::at(address);
    assert_eq!(owner.answer().map(|answer| answer.status), Some(200));
    for mut client in taken {
        assert_eq!(client.answer().map(|answer| answer.status), Some(403));
    }
}

/// Waits until the credential is refused: other processes' changes are seen within half a second.
fn until_refused(proxy: &Proxy, raw: &str) {
    let watch = Stopwatch::start();
    while proxy.ask(raw).map(|answer| answer.status) != Some(401) {
        assert!(watch.elapsed() < PATIENCE, "still accepted: {raw}");
        pause(Duration::from_millis(20));
    }
}

#[test]
fn a_request_that_waited_is_decided_with_the_rights_of_now() {
    let address = nobody();
    let proxy = without_mlflow(address, |_| {});
    let edit = [(ResourceKind::Experiment, "1", Permission::Edit)];
    let create = |authorization: &str| {
        send_json("POST", "/api/2.0/mlflow/runs/create", authorization, r#"{"experiment_id":"1"}"#)
    };
    let current = |authorization: &str| get("/api/2.0/mlflow/users/current", authorization);
    let (carol, dave, erin) = (proxy.user("carol", &edit), proxy.user("dave", &edit), proxy.user("erin", &edit));
    let store = proxy.store();
    let in_a_day = Clock::default().now().plus(Duration::from_hours(24));
    let (token, secret) = (AccessToken::generate(), SessionSecret::generate());
    let (token_id, session_id, dave_id) = proxy.block_on(async {
        let id = async |name| store.user_by_name(name).await.expect("the store").expect("the user").id;
        let limits = Limits::default();
        let new =
            NewToken { user: id("erin").await, name: "t", hash: token.hash(), limits: &limits, expires: in_a_day };
        let token = store.create_token(&actor(), new).await.expect("a token");
        let session = NewSession {
            hash: secret.hash(),
            user: id("erin").await,
            provider: None,
            issuer: None,
            subject: None,
            sid: None,
            tokens: String::new(),
            expires: in_a_day,
            refresh_at: None,
            address: "127.0.0.1".to_owned(),
            agent: String::new(),
        };
        let session = store.create_session(&actor(), &session, 50).await.expect("a session");
        (token.id, session.id, id("dave").await)
    });
    let bearer = format!("Bearer {}", token.reveal());
    let cookie = |target: &str| {
        let cookie = secret.reveal();
        format!("GET {target} HTTP/1.1\r\nHost: proxy\r\nCookie: __Host-mlflow-session={cookie}\r\n\r\n")
    };
    for authorization in [&carol, &dave, &erin, &bearer] {
        assert_eq!(proxy.ask(current(authorization)).map(|answer| answer.status), Some(200));
    }
    let held = [
        (create(&carol), 403),
        (create(&dave), 401),
        (create(&bearer), 401),
        (cookie("/api/2.0/mlflow/experiments/get?experiment_id=1"), 401),
        (create(&erin), 200),
    ];
    let clients: Vec<_> = held.iter().map(|(raw, _)| begin(&proxy, raw)).collect();
    waiting(&proxy, held.len());
    let revoke = r#"{"username":"carol","resource_type":"experiment","resource_id":"1"}"#;
    let revoked = proxy.ask(send_json("POST", "/api/3.0/mlflow/users/permissions/revoke", &basic(), revoke));
    assert_eq!(revoked.map(|answer| answer.status), Some(200));
    proxy.block_on(async {
        store.delete_user(&actor(), dave_id).await.expect("deleted");
        store.revoke_token(&actor(), token_id).await.expect("revoked");
        store.end_session(&actor(), session_id, "test").await.expect("ended");
        store.close().await;
    });
    until_refused(&proxy, &current(&dave));
    until_refused(&proxy, &current(&bearer));
    until_refused(&proxy, &cookie("/api/2.0/mlflow/users/current"));
    let mlflow = Recorder::at(address);
    for (mut client, (raw, status)) in clients.into_iter().zip(&held) {
        let answer = client.answer().expect("an answer");
        assert_eq!(answer.status, *status, "{raw} {}", answer.text());
    }
    let received = mlflow.take();
    let sent: Vec<_> = received.iter().map(|one| one.target.as_str()).filter(|target| *target != "/version").collect();
    assert_eq!(sent, ["/api/2.0/mlflow/runs/create"], "{received:?}");
}

/// An MLflow that answers each connection once, until it is stopped.
struct Stoppable {
    address: SocketAddr,
    stopped: Arc<std::sync::atomic::AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Stoppable {
    fn at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let stopped: Arc<std::sync::atomic::AtomicBool> = Arc::default();
        let until = Arc::clone(&stopped);
        let thread = std::thread::spawn(move || {
            for tcp in listener.incoming() {
                if until.load(Ordering::SeqCst) {
                    return;
                }
                let seen = Mutex::default();
                serve(tcp.unwrap(), 0, &seen, &|_, _| Reply::ThenClose);
            }
        });
        Self { address, stopped, thread: Some(thread) }
    }

    fn stop(mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
        self.thread.take().unwrap().join().unwrap();
    }
}

/// The request that finds MLflow away was decided before it waited.
#[test]
fn a_request_that_found_mlflow_away_is_sent_only_with_the_rights_of_now() {
    for revoked in [true, false] {
        let address = nobody();
        let mlflow = Stoppable::at(address);
        let proxy = without_mlflow(address, |_| {});
        let carol = proxy.user("carol", &[(ResourceKind::Experiment, "1", Permission::Edit)]);
        let create = send_json("POST", "/api/2.0/mlflow/runs/create", &carol, r#"{"experiment_id":"1"}"#);
        assert_eq!(proxy.ask(&create).map(|answer| answer.status), Some(200));
        mlflow.stop();
        let mut client = begin(&proxy, &create);
        waiting(&proxy, 1);
        if revoked {
            let revoke = r#"{"username":"carol","resource_type":"experiment","resource_id":"1"}"#;
            let path = "/api/3.0/mlflow/users/permissions/revoke";
            let answer = proxy.ask(send_json("POST", path, &basic(), revoke)).expect("an answer");
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
        let mlflow = Recorder::at(address);
        let answer = client.answer().expect("an answer");
        let sent = mlflow.take().iter().filter(|one| one.target.ends_with("/runs/create")).count();
        if revoked {
            assert_eq!((answer.status, retry_after(&answer), sent), (503, 1, 0), "{}", answer.text());
            assert_eq!(proxy.ask(&create).map(|answer| answer.status), Some(403));
        } else {
            assert_eq!((answer.status, sent), (200, 1), "{}", answer.text());
        }
    }
}

#[test]
fn an_upload_that_finds_mlflow_away_waits_with_its_body_unread() {
    let address = nobody();
    let mlflow = Stoppable::at(address);
    let proxy = without_mlflow(address, |_| {});
    mlflow.stop();
    let upload = format!(
        "PUT /api/2.0/mlflow-artifacts/artifacts/1/0123456789abcdef0123456789abcdef/artifacts/a HTTP/1.1\r\n\
         Host: proxy\r\nAuthorization: {}\r\nContent-Length: 6\r\n\r\nabc",
        basic()
    );
    let mut client = begin(&proxy, upload);
    waiting(&proxy, 1);
    client.send("def");
    let mlflow = Recorder::at(address);
    assert_eq!(client.answer().map(|answer| answer.status), Some(200));
    let received = mlflow.take();
    let uploads: Vec<_> = received.iter().filter(|one| one.method == "PUT").map(|one| one.body.as_slice()).collect();
    assert_eq!(uploads, [b"abcdef"]);
}

/// A client that left does not get its run created after all.
#[test]
fn a_client_that_leaves_waits_no_more_and_nothing_is_sent_for_it() {
    let address = nobody();
    let proxy = without_mlflow(address, |_| {});
    let gone: Vec<_> = (0..3).map(|_| begin(&proxy, create_run("curl/8"))).collect();
    let mut stays = begin(&proxy, get("/api/2.0/mlflow/experiments/get?experiment_id=1", &basic()));
    waiting(&proxy, 4);
    for client in gone {
        client.hang_up();
    }
    ended(&proxy, "abandoned", 3);
    waiting(&proxy, 1);
    let mlflow = Recorder::at(address);
    assert_eq!(stays.answer().map(|answer| answer.status), Some(200));
    assert!(mlflow.take().iter().all(|one| one.method == "GET"));
}

#[test]
fn a_proxy_that_stops_lets_its_requests_go() {
    let mut proxy = without_mlflow(nobody(), |config| {
        config.upstream.hold = Duration::from_secs(60);
        config.upstream.response_timeout = Duration::from_secs(600);
        config.server.drain_timeout = Duration::from_secs(30);
    });
    let mut waits = begin(&proxy, create_run("mlflow-python-client/3.18.0"));
    waiting(&proxy, 1);
    let watch = Stopwatch::start();
    proxy.drain();
    assert!(watch.elapsed() < PATIENCE);
    assert_eq!(waits.answer().map(|answer| answer.status), Some(429));
}

/// Files and probes need no credentials, so they must not take the places of requests that have some.
#[test]
fn public_requests_do_not_wait() {
    let proxy = without_mlflow(nobody(), |_| {});
    let watch = Stopwatch::start();
    for target in ["/health", "/static-files/a.js", "/"] {
        let answer = proxy.ask(format!("GET {target} HTTP/1.1\r\nHost: proxy\r\n\r\n")).expect("an answer");
        assert_ne!(answer.status, 200, "{target}");
    }
    assert_eq!(
        proxy.ask(get("/api/2.0/mlflow/runs/get?run_id=1", "Basic bm86bm8=")).map(|answer| answer.status),
        Some(401)
    );
    assert!(watch.elapsed() < Duration::from_secs(5));
    assert!(proxy.metrics().contains("upstream_holding 0"));
}

/// One probe at a time, and the first connections of an MLflow that is not ready yet get nothing but probes.
#[test]
fn waiting_requests_share_one_probe() {
    const UNREADY: usize = 3;
    let address = nobody();
    let proxy = without_mlflow(address, |_| {});
    let mut clients: Vec<_> = (0..40).map(|_| begin(&proxy, create_run("curl/8"))).collect();
    waiting(&proxy, 40);
    let mlflow = Raw::at(address, |number, _| if number < UNREADY { Reply::Close } else { Reply::Whole });
    for client in &mut clients {
        assert_eq!(client.answer().map(|answer| answer.status), Some(200));
    }
    let seen = mlflow.seen();
    let asks_health = |one: &String| one.starts_with("GET /health ") || one.starts_with("GET /version ");
    assert!(seen.iter().take(UNREADY).all(asks_health), "{:?}", &seen[..UNREADY]);
    // The proxy's own question for the version may come in between; nobody else probes.
    let probes = seen.iter().filter(|one| asks_health(one)).count();
    assert!(probes <= UNREADY + 3, "{probes} probes");
    assert_eq!(seen.iter().filter(|one| one.starts_with("POST ")).count(), 40);
}

/// The heart of the matter: whatever of a request may have arrived, it is 502 and not sent again.
#[test]
fn what_may_have_arrived_is_never_sent_twice() {
    let replies = [
        Reply::AfterOneByte,
        Reply::AfterHead,
        Reply::Close,
        Reply::Part("HTTP/1.1 200 OK\r\ncontent-le"),
        Reply::Part("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nab"),
    ];
    for reply in replies {
        let address = nobody();
        let mlflow = Raw::at(address, move |_, head| if head.starts_with("POST") { reply } else { Reply::Whole });
        let proxy = without_mlflow(address, |_| {});
        let body = format!(r#"{{"experiment_id":"1","run_name":"{}"}}"#, "x".repeat(20_000));
        let raw = send_json("POST", "/api/2.0/mlflow/runs/create", &basic(), &body)
            .replace("Host", "User-Agent: mlflow-python-client/3.18.0\r\nHost");
        let answer = proxy.ask(raw).expect("an answer");
        assert_eq!(answer.status, 502, "{reply:?} {}", answer.text());
        assert_eq!(answer.header("retry-after"), None, "{reply:?}");
        pause(Duration::from_millis(300));
        let sent = mlflow.seen().iter().filter(|one| one.starts_with('P')).count();
        assert_eq!(sent, 1, "{reply:?}");
    }
}

/// A pooled connection that MLflow closes: whether that is noticed before or after the request is written, at most one copy
/// of it arrives. Repeated, because the two race.
#[test]
fn a_pooled_connection_that_closes_costs_no_second_copy() {
    let address = nobody();
    let mlflow =
        Raw::at(address, |_, head| if head.contains("runs/get?run_id=last") { Reply::ThenClose } else { Reply::Whole });
    let proxy = without_mlflow(address, |_| {});
    let mut refused = 0;
    for number in 0..60 {
        let warm = get("/api/2.0/mlflow/runs/get?run_id=last", &basic());
        assert_eq!(proxy.ask(warm).map(|answer| answer.status), Some(200));
        let name = format!("run-{number}-");
        let body = format!(r#"{{"experiment_id":"1","run_name":"{name}"}}"#);
        let status =
            proxy.ask(send_json("POST", "/api/2.0/mlflow/runs/create", &basic(), &body)).expect("an answer").status;
        let copies = mlflow.seen().iter().filter(|one| one.contains(&name)).count();
        match status {
            200 => assert_eq!(copies, 1, "{name}"),
            502 => {
                assert!(copies <= 1, "{name}");
                refused += 1;
            }
            other => panic!("{name}: {other}"),
        }
    }
    assert!(refused < 60, "no request got through");
}

/// uvicorn answers some uploads before it has read them, and resets the connection when the rest arrives. Whether it has read
/// what was sent, the proxy cannot tell.
#[test]
fn a_connection_that_carried_an_upload_carries_nothing_else() {
    for upload in [Reply::Early, Reply::Whole] {
        let address = nobody();
        let requests: Arc<Mutex<Vec<(usize, String)>>> = Arc::default();
        let noting = Arc::clone(&requests);
        let _mlflow = Raw::at(address, move |number, head| {
            if let Some((line, _)) = head.split_once("\r\n") {
                noting.lock().unwrap().push((number, line.to_owned()));
            }
            if head.starts_with("PUT ") { upload } else { Reply::Whole }
        });
        let proxy = without_mlflow(address, |_| {});
        for size in [6, 100_000] {
            let body = "x".repeat(size);
            let target = "/api/2.0/mlflow-artifacts/artifacts/1/0123456789abcdef0123456789abcdef/artifacts/a";
            let put = send_json("PUT", target, &basic(), &body);
            let status = proxy.ask(put).map(|answer| answer.status);
            assert_eq!(status, Some(if matches!(upload, Reply::Early) { 500 } else { 200 }));
            for _ in 0..3 {
                let read = get("/api/2.0/mlflow/runs/get?run_id=1", &basic());
                assert_eq!(proxy.ask(read).map(|answer| answer.status), Some(200));
                assert_eq!(proxy.ask(create_run("curl/8")).map(|answer| answer.status), Some(200));
            }
        }
        let requests = requests.lock().unwrap();
        let uploads: Vec<_> = requests.iter().filter(|(_, line)| line.starts_with("PUT ")).collect();
        assert_eq!(uploads.len(), 2);
        for (number, _) in uploads {
            assert_eq!(requests.iter().filter(|(other, _)| other == number).count(), 1, "{upload:?} {requests:?}");
        }
        let others = requests.iter().filter(|(_, line)| line.contains("/runs/")).map(|(number, _)| number);
        let others: std::collections::BTreeSet<_> = others.collect();
        assert!(others.len() < 6, "other connections are kept: {requests:?}");
    }
}

#[test]
fn a_read_whose_connection_breaks_at_once_is_sent_once_more() {
    for (method, breaks, status) in [("GET", 1, 200), ("HEAD", 1, 200), ("GET", usize::MAX, 502)] {
        let address = nobody();
        let broken = std::sync::atomic::AtomicUsize::new(0);
        let mlflow = Raw::at(address, move |_, head| {
            let breaks = head.contains("run_id=lost") && broken.fetch_add(1, Ordering::SeqCst) < breaks;
            if breaks { Reply::Close } else { Reply::Whole }
        });
        let proxy = without_mlflow(address, |_| {});
        let read = get("/api/2.0/mlflow/artifacts/list?run_id=lost", &basic());
        let read = read.replacen("GET", method, 1);
        let head = {
            let mut client = proxy.connect();
            client.send(read);
            client.head().expect("an answer")
        };
        assert_eq!(head.status, status, "{method}");
        let sent = mlflow.seen().iter().filter(|one| one.contains("artifacts/list")).count();
        assert_eq!(sent, 2, "{method} {status}");
    }
}

/// MLflow 2.x has a few workers, and each of them reads one upload at a time.
#[test]
fn an_upload_that_arrives_too_slowly_is_ended() {
    let mlflow = Recorder::start();
    let proxy = Proxy::with(mlflow.address, |config| config.server.head_timeout = Duration::from_secs(1));
    let put = format!(
        "PUT /api/2.0/mlflow-artifacts/artifacts/1/0123456789abcdef0123456789abcdef/artifacts/a HTTP/1.1\r\n\
         Host: proxy\r\nAuthorization: {}\r\nContent-Length: 100000\r\n\r\nab",
        basic()
    );
    let mut client = begin(&proxy, put);
    let mut drops = client.again();
    let over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let until = Arc::clone(&over);
    let drip = std::thread::spawn(move || {
        while !until.load(Ordering::SeqCst) {
            drops.send("x");
            pause(Duration::from_millis(100));
        }
    });
    let answer = client.answer();
    over.store(true, Ordering::SeqCst);
    drip.join().unwrap();
    let answer = answer.expect("an answer");
    assert_eq!((answer.status, answer.header("connection")), (408, Some("close")), "{}", answer.text());
    wait_for_metric(&proxy, "mlflow_auth_proxy_body_refusals_total{reason=\"body_too_slow\"} 1\n");
}

/// A client's fault is not counted as MLflow's.
#[test]
fn a_malformed_upload_is_the_clients_fault() {
    let mlflow = Recorder::start();
    let proxy = Proxy::before(mlflow.address);
    let put = format!(
        "PUT /api/2.0/mlflow-artifacts/artifacts/1/0123456789abcdef0123456789abcdef/artifacts/a HTTP/1.1\r\n\
         Host: proxy\r\nAuthorization: {}\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\nzz\r\n",
        basic()
    );
    let answer = begin(&proxy, put).answer().expect("an answer");
    assert_eq!(answer.status, 400, "{}", answer.text());
    wait_for_metric(&proxy, "mlflow_auth_proxy_body_refusals_total{reason=\"body_broken\"} 1\n");
    wait_for_metric(&proxy, "mlflow_auth_proxy_upstream_errors_total{kind=\"broken\"} 0\n");
}

/// The time that MLflow takes to read is not the client's.
#[test]
fn an_upload_that_mlflow_reads_slowly_is_not_ended() {
    let address = nobody();
    let _mlflow = Raw::at(address, |_, head| if head.starts_with("PUT ") { Reply::Late } else { Reply::Whole });
    let proxy = without_mlflow(address, |config| {
        config.server.head_timeout = Duration::from_secs(1);
        config.server.min_body_bytes_per_second = 1024 * 1024 * 1024;
    });
    let target = "/api/2.0/mlflow-artifacts/artifacts/1/0123456789abcdef0123456789abcdef/artifacts/a";
    let put = send_json("PUT", target, &basic(), &"x".repeat(32 * 1024 * 1024));
    assert_eq!(proxy.ask(put).map(|answer| answer.status), Some(200));
}

/// How a connection of [`Raw`] goes on after a request's head.
#[derive(Clone, Copy, Debug)]
enum Reply {
    /// Reads the body, answers 200 and goes on.
    Whole,
    /// Reads the body, answers 200 and closes.
    ThenClose,
    /// Answers 500, then reads the body and goes on.
    Early,
    /// Waits for two seconds, then goes on as `Whole`.
    Late,
    /// Reads the body and closes.
    Close,
    /// Closes after the first byte, with the rest unread.
    AfterOneByte,
    /// Closes after the head, with the body unread.
    AfterHead,
    /// Reads the body, writes this and closes.
    Part(&'static str),
}

/// A server that closes connections where a test wants it to. Remembers what began to arrive, by request.
struct Raw {
    seen: Arc<Mutex<Vec<String>>>,
}

impl Raw {
    /// `reply`: by the connection's number and the request's head; for its first byte, by that alone.
    fn at(address: SocketAddr, reply: impl Fn(usize, &str) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let (noting, reply) = (Arc::clone(&seen), Arc::new(reply));
        std::thread::spawn(move || {
            for (number, tcp) in listener.incoming().enumerate() {
                let (Ok(tcp), noting, reply) = (tcp, Arc::clone(&noting), Arc::clone(&reply)) else { return };
                std::thread::spawn(move || serve(tcp, number, &noting, &*reply));
            }
        });
        Self { seen }
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

fn serve(
    mut tcp: TcpStream,
    number: usize,
    seen: &Mutex<Vec<String>>,
    reply: &dyn Fn(usize, &str) -> Reply,
) -> Option<()> {
    loop {
        let mut text = one_byte(&mut tcp)?;
        let place = {
            let mut seen = seen.lock().unwrap();
            seen.push(text.clone());
            seen.len() - 1
        };
        if text == "P" && matches!(reply(number, "POST"), Reply::AfterOneByte) {
            return None;
        }
        while !text.ends_with("\r\n\r\n") {
            text.push_str(&one_byte(&mut tcp)?);
        }
        let how = reply(number, &text);
        if matches!(how, Reply::AfterHead) {
            return None;
        }
        if matches!(how, Reply::Early) {
            tcp.write_all(b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 2\r\n\r\n{}").ok()?;
        }
        if matches!(how, Reply::Late) {
            pause(Duration::from_secs(2));
        }
        let length = text
            .to_ascii_lowercase()
            .split_once("content-length: ")
            .map_or(0, |(_, rest)| rest.split("\r\n").next().unwrap().parse().unwrap());
        let mut body = vec![0; length];
        tcp.read_exact(&mut body).ok()?;
        text.push_str(&String::from_utf8_lossy(&body));
        seen.lock().unwrap()[place] = text;
        match how {
            Reply::Early => {}
            Reply::Whole | Reply::Late => tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").ok()?,
            Reply::ThenClose => {
                tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").ok()?;
                return None;
            }
            Reply::Part(part) => {
                tcp.write_all(part.as_bytes()).ok()?;
                return None;
            }
            Reply::Close | Reply::AfterOneByte | Reply::AfterHead => return None,
        }
    }
}

fn one_byte(tcp: &mut TcpStream) -> Option<String> {
    let mut byte = [0];
    tcp.read_exact(&mut byte).ok()?;
    Some(char::from(byte[0]).to_string())
}
