//! The strict edge, over raw sockets: what is refused never reaches MLflow, and what reaches it is exactly what we mean.
//!
//! Numbers like T33 are those of `docs/attacks.md`. In requests, `{auth}` is the administrator's `Authorization` line.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use mlflow_auth_proxy::clock::Stopwatch;
use mlflow_auth_proxy::config;

use crate::harness::{Answer, EVENTS, HUGE, Proxy, Received, Recorder, basic, pause};

/// A request that any administrator may make.
const GOOD: &str = "GET /api/2.0/mlflow/experiments/get?experiment_id=1 HTTP/1.1\r\nHost: proxy\r\n{auth}\r\n";
const GOOD_TARGET: &str = "/api/2.0/mlflow/experiments/get?experiment_id=1";

fn raw(request: &str) -> Vec<u8> {
    request.replace("{auth}", &format!("Authorization: {}\r\n", basic())).into_bytes()
}

/// A GET of this target.
fn get(target: &str) -> Vec<u8> {
    raw(&format!("GET {target} HTTP/1.1\r\nHost: proxy\r\n{{auth}}\r\n"))
}

/// The good request with further header lines.
fn with(headers: &str) -> Vec<u8> {
    raw(&GOOD.replace("{auth}", &format!("{{auth}}{headers}")))
}

/// A JSON request with this framing and body.
fn post(headers: &str, body: &str) -> Vec<u8> {
    raw(&format!(
        "POST /api/2.0/mlflow/experiments/search HTTP/1.1\r\nHost: proxy\r\n{{auth}}\
         Content-Type: application/json\r\n{headers}\r\n{body}"
    ))
}

fn file(name: &str) -> String {
    format!("/api/2.0/mlflow-artifacts/artifacts/1/r/artifacts/{name}")
}

struct Edge {
    recorder: Recorder,
    proxy: Proxy,
}

impl Edge {
    fn start() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut config::Config)) -> Self {
        let recorder = Recorder::start();
        let proxy = Proxy::with(recorder.address, change);
        Self { recorder, proxy }
    }

    /// Refused with this status, in MLflow's shape, and nobody else heard of it.
    #[track_caller]
    fn refuses(&self, status: u16, request: impl AsRef<[u8]>) -> Answer {
        let request = request.as_ref();
        let shown = String::from_utf8_lossy(request.get(..300).unwrap_or(request)).into_owned();
        let answer = self.proxy.ask(request).unwrap_or_else(|| panic!("no answer to {shown:?}"));
        assert_eq!(answer.status, status, "{shown:?}: {}", answer.text());
        assert!(answer.text().contains("\"error_code\"") || shown.starts_with("HEAD"), "{shown:?}: {}", answer.text());
        let received = self.recorder.take();
        assert!(received.is_empty(), "{shown:?} reached MLflow as {received:?}");
        answer
    }

    /// Refused, and nothing behind it on the connection is looked at.
    #[track_caller]
    fn refuses_and_closes(&self, status: u16, request: impl AsRef<[u8]>) {
        let mut bytes = request.as_ref().to_vec();
        bytes.extend(get("/api/2.0/mlflow/experiments/get?experiment_id=666"));
        let answer = self.refuses(status, &bytes);
        let shown = String::from_utf8_lossy(bytes.get(..300).unwrap_or(&bytes)).into_owned();
        assert_eq!(answer.header("connection"), Some("close"), "{shown:?}");
        let mut client = self.proxy.connect();
        client.send(&bytes);
        client.answer();
        assert!(client.is_closed(), "{shown:?}: the connection stays open");
        assert!(self.recorder.take().is_empty(), "{shown:?}");
    }

    /// Answered 200 after exactly one request to MLflow, which is returned.
    #[track_caller]
    fn passes(&self, request: impl AsRef<[u8]>) -> Received {
        let shown = String::from_utf8_lossy(request.as_ref()).into_owned();
        let answer = self.proxy.ask(request).unwrap_or_else(|| panic!("no answer to {shown:?}"));
        assert_eq!(answer.status, 200, "{shown:?}: {}", answer.text());
        let mut received = self.recorder.take();
        assert_eq!(received.len(), 1, "{shown:?}: {received:?}");
        received.remove(0)
    }

    /// It is alive.
    #[track_caller]
    fn is_well(&self) {
        self.passes(raw(GOOD));
    }
}

/// T33: requests whose end two servers could see in different places.
#[test]
fn ambiguous_framing_is_refused_and_ends_the_connection() {
    let edge = Edge::start();
    for (headers, body) in [
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding: identity, chunked\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding: \"chunked\"\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding: gzip\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding:\x0bchunked\r\n", "0\r\n\r\n"),
        ("X: y\r\n Transfer-Encoding: chunked\r\n", ""),
        ("Content-Length: 2\r\nContent-Length: 3\r\n", "{} "),
        ("Content-Length: 2, 3\r\n", "{} "),
        ("Content-Length: 2, 2\r\n", "{}"),
        ("Content-Length: +2\r\n", "{}"),
        ("Content-Length: -2\r\n", "{}"),
        ("Content-Length: 0x2\r\n", "{}"),
        ("Content-Length: 2 2\r\n", "{}"),
        ("Content-Length:\r\n", "{}"),
        ("Content-Length: 99999999999999999999\r\n", "{}"),
        ("Content\0-Length: 2\r\n", "{}"),
        ("X: a\0b\r\n", ""),
        ("X: a\rb\r\n", ""),
        (": empty\r\n", ""),
        ("X: y\nContent-Length: 2\r\n", "{}"),
        ("Content-Length: 2\n", "{}"),
    ] {
        edge.refuses_and_closes(400, post(headers, body));
    }
    edge.refuses_and_closes(400, raw(&GOOD.replace("\r\n", "\n")));
    edge.refuses_and_closes(
        400,
        raw("POST /api/2.0/mlflow/experiments/search HTTP/1.0\r\nHost: proxy\r\n{auth}\
             Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    );
    edge.refuses_and_closes(400, raw("GET /a b HTTP/1.1\r\nHost: proxy\r\n{auth}\r\n"));
    edge.refuses_and_closes(400, raw("GET / HTTP/9.9\r\nHost: proxy\r\n{auth}\r\n"));
    edge.refuses_and_closes(400, "\x16\x03\x01\x02\x00\x01\x00\x01\x7c\x03\x03");
    edge.is_well();
}

/// T33: well-framed requests of every kind arrive, one by one, also when they come all at once.
#[test]
fn clear_framing_passes_in_pipelines_too() {
    let edge = Edge::start();
    let received = edge.passes(post("Content-Length: 17\r\n", "{\"max_results\":5}"));
    assert_eq!(received.all("content-length").len(), 1, "{received:?}");
    assert!(received.all("transfer-encoding").is_empty(), "Flask sees no chunked body: {received:?}");
    let chunked =
        post("Transfer-Encoding: chunked\r\n", "11;ext=1\r\n{\"max_results\":5}\r\n0\r\nTrailer-Field: x\r\n\r\n");
    let received = edge.passes(&chunked);
    assert_eq!(received.body, br#"{"max_results":5}"#);
    assert!(received.all("trailer-field").is_empty());

    let mut client = edge.proxy.connect();
    let mut pipeline = chunked;
    pipeline.extend(b"\r\n");
    pipeline.extend(raw(GOOD));
    pipeline.extend(post("Content-Length: 17\r\n", "{\"max_results\":5}"));
    for piece in pipeline.chunks(7) {
        client.send(piece);
    }
    for number in 0..3 {
        assert_eq!(client.answer().map(|answer| answer.status), Some(200), "answer {number}");
    }
    assert_eq!(edge.recorder.take().len(), 3);
}

/// T33: a body whose chunks are broken never turns into a request.
#[test]
fn broken_chunks_never_reach_mlflow() {
    let edge = Edge::start();
    for body in
        ["zz\r\n", "2\r\n{}X", "2\n{}\r\n0\r\n\r\n", "2;a\n\r\n{}\r\n0\r\n\r\n", "-1\r\n", "2\r\n{}\r\n0\r\nX: y\n\r\n"]
    {
        let mut bytes = post("Transfer-Encoding: chunked\r\n", body);
        bytes.extend(raw(GOOD));
        let mut client = edge.proxy.connect();
        client.send(&bytes);
        let answer = client.answer();
        assert!(answer.is_none_or(|answer| answer.status >= 400), "{body:?}");
        let received = edge.recorder.take();
        assert!(received.is_empty(), "{body:?} reached MLflow as {received:?}");
    }
    edge.is_well();
}

/// T14, T41: one Host, and it is a host.
#[test]
fn one_host_is_needed() {
    let edge = Edge::start();
    for request in [
        "GET /version HTTP/1.1\r\n\r\n",
        "GET /version HTTP/1.1\r\nHost: proxy\r\nHost: proxy\r\n\r\n",
        "GET /version HTTP/1.1\r\nHost: proxy\r\nHost: evil\r\n\r\n",
        "GET /version HTTP/1.1\r\nHost:\r\n\r\n",
        "GET /version HTTP/1.1\r\nHost: a@b\r\n\r\n",
        "GET /version HTTP/1.1\r\nHost: a/b\r\n\r\n",
        "GET /version HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET http://evil/version HTTP/1.1\r\nHost: proxy\r\n\r\n",
        "GET http://proxy/version HTTP/1.1\r\nHost: proxy\r\n\r\n",
        "GET //evil/version HTTP/1.1\r\nHost: proxy\r\n\r\n",
    ] {
        edge.refuses(400, request);
    }
    let named = Edge::with(|config| config.server.public_url = Some("https://mlflow.example.com".parse().unwrap()));
    named.refuses(421, raw(&GOOD.replace("Host: proxy", "Host: evil.example.com")));
    named.passes(raw(&GOOD.replace("Host: proxy", "Host: mlflow.example.com")));
}

/// T9, T36: methods that nobody needs.
#[test]
fn strange_methods_are_refused() {
    let edge = Edge::start();
    for method in ["TRACE", "get", "Get", "PROPFIND", "GETX", "LINK", "M-SEARCH"] {
        let request = raw(&GOOD.replace("GET ", &format!("{method} ")));
        edge.refuses(405, request);
    }
    edge.refuses_and_closes(405, raw("CONNECT mlflow:5000 HTTP/1.1\r\nHost: mlflow:5000\r\n{auth}\r\n"));
    edge.refuses_and_closes(405, raw("CONNECT / HTTP/1.1\r\nHost: proxy\r\n{auth}\r\n"));
    edge.refuses(400, raw("OPTIONS * HTTP/1.1\r\nHost: proxy\r\n{auth}\r\n"));
    edge.refuses(400, raw("GET * HTTP/1.1\r\nHost: proxy\r\n{auth}\r\n"));
    let answer = edge.proxy.ask(raw("GET relative HTTP/1.1\r\nHost: proxy\r\n{auth}\r\n"));
    assert!(answer.is_none_or(|answer| answer.status == 400));
    assert!(edge.recorder.take().is_empty());
    edge.is_well();
}

/// T1, T3, T14, T34: headers that mean something else to the next server.
#[test]
fn dangerous_headers_are_refused() {
    let edge = Edge::start();
    for headers in [
        "X_Forwarded_For: 127.0.0.1\r\n",
        "X.Forwarded_For: 127.0.0.1\r\n",
        "X_MLflow.Workspace: other\r\n",
        "Authorization_: x\r\nContent.Type: text/plain\r\n",
        "Content_Length: 3\r\n",
        "Connection: close, X-Forwarded-For\r\n",
        "Connection: authorization\r\n",
        "Connection: keep-alive, host\r\n",
        "Connection: close\r\nConnection: cookie\r\n",
        "Connection: close, \u{1}\r\n",
        "Connection: x y\r\n",
        "Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
        "Connection: upgrade\r\nUpgrade: h2c, websocket\r\n",
        "Content-Type: text/plain\r\nContent-Type: application/json\r\n",
        "Authorization: Bearer other\r\n",
        "X-MLFLOW-WORKSPACE: other\r\n",
    ] {
        edge.refuses(400, with(headers));
    }
    edge.refuses(400, raw("GET /version HTTP/1.1\r\nHost: proxy\r\nAuthorization: Basic \u{fc}\r\n\r\n"));
    // T35: what is pipelined behind an upgrade is not read.
    edge.refuses_and_closes(400, with("Connection: upgrade\r\nUpgrade: websocket\r\n"));
    for headers in [
        "Connection: keep-alive, te, upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
        "X-MLFLOW-WORKSPACE:\r\n",
        "Connection: close\r\n",
    ] {
        edge.passes(with(headers));
    }
    // Gateways and browsers add such lines; they go no further.
    for headers in [
        "X_Forwarded_User: admin\r\nX.Authenticated.User: admin\r\nRemote_User: admin\r\nX_Request.Id: 1\r\n",
        "Connection: keep-alive, X-Anything, proxy-connection\r\nX-Anything: 1\r\nProxy-Connection: close\r\n",
        "Connection: if-none-match\r\nIf-None-Match: x\r\nConnection: x-request-id\r\nX-Request-Id: 7\r\n",
    ] {
        let received = edge.passes(with(headers));
        let names: Vec<_> = received.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names.len(), 2, "{headers:?}: {received:?}");
        assert!(names.contains(&"host") && names.contains(&"x-forwarded-for"), "{headers:?}: {received:?}");
    }
}

/// T11, T12: one spelling per path.
#[test]
fn paths_with_two_readings_are_refused() {
    let edge = Edge::start();
    for target in [
        "/api/2.0/mlflow/experiments%2Fget?experiment_id=1",
        "/api/2.0/mlflow/experiments%2fget?experiment_id=1",
        "/api/2.0/mlflow/experiments%5Cget?experiment_id=1",
        "/api/2.0/mlflow/experiments/get%00?experiment_id=1",
        "/api/2.0/mlflow/experiments/get%0d%0a?experiment_id=1",
        "/version/%2e%2e/api/2.0/mlflow/experiments/get?experiment_id=1",
        "/version/%2E./api/2.0/mlflow/experiments/get?experiment_id=1",
        "/version/../api/2.0/mlflow/experiments/get?experiment_id=1",
        "/./version",
        "/version/.",
        "/version/..",
        "//version",
        "/api//2.0/mlflow/experiments/get?experiment_id=1",
        "/version/;a=b",
        "/api;x/2.0/mlflow/experiments/get?experiment_id=1",
        "/api\\2.0\\mlflow\\experiments\\get?experiment_id=1",
        "/api/2.0/mlflow/experiments/get%ff?experiment_id=1",
        "/api/2.0/mlflow/experiments/get%c0%ae?experiment_id=1",
        "/api/2.0/mlflow/experiments/g\u{e9}t?experiment_id=1",
        "/api/2.0/mlflow/experiments/get?experiment_id=1&experiment_id=2",
        "/api/2.0/mlflow/experiments/get?experiment_id=%ff",
        "/api/2.0/mlflow/experiments/get?experiment_id=1%00",
    ] {
        edge.refuses(400, get(target));
    }
    for (target, sent) in [
        (GOOD_TARGET, GOOD_TARGET),
        ("/api/2.0/mlflow/%65xperiments/get?experiment_id=1", GOOD_TARGET),
        ("/api/2.0/mlflow/experiments/get?experiment%5fid=%31", GOOD_TARGET),
        (&format!("{GOOD_TARGET}#fragment"), GOOD_TARGET),
        (&file("a%20b"), &file("a%20b")),
        (&file("%C3%A9"), &file("%C3%A9")),
    ] {
        assert_eq!(edge.passes(get(target)).target, sent, "{target}");
    }
}

/// Limits of the head.
#[test]
fn heads_have_limits() {
    let edge = Edge::start();
    edge.refuses_and_closes(431, with(&format!("X-Big: {}\r\n", "x".repeat(70_000))));
    edge.refuses_and_closes(431, with(&"X-Some: x\r\n".repeat(101)));
    edge.refuses_and_closes(431, get(&format!("/{}", "x".repeat(70_000))));
    edge.refuses_and_closes(431, "x".repeat(70_000));
    edge.passes(with(&format!("X-Big: {}\r\n", "x".repeat(20_000))));
    edge.passes(with(&"X-Some: x\r\n".repeat(90)));
}

/// A GET whose body someone might read.
#[test]
fn the_body_of_a_get_is_never_sent() {
    let edge = Edge::start();
    let body = r#"{"experiment_id":"2"}"#;
    // Where there is a query, MLflow reads that.
    for raw in [
        [with(&format!("Content-Length: {}\r\n", body.len())), body.into()].concat(),
        [with("Transfer-Encoding: chunked\r\n"), b"2\r\n{}\r\n0\r\n\r\n".to_vec()].concat(),
        with("Content-Length: 0\r\n"),
    ] {
        let received = edge.passes(raw);
        assert_eq!((received.target.as_str(), received.body.as_slice()), (GOOD_TARGET, &b""[..]));
        assert_eq!(received.all("content-length").len() + received.all("transfer-encoding").len(), 0);
        assert_eq!(received.all("content-type"), Vec::<&str>::new());
    }
}

/// T1, T2, T4: what MLflow sees of a client that tries everything.
#[test]
fn mlflow_sees_our_headers_and_no_others() {
    let edge = Edge::start();
    let received = edge.passes(with(
        "Cookie: session=1; mlflow-request-header-Authorization=x\r\nOrigin: http://proxy\r\nReferer: http://proxy/\r\n\
         Forwarded: for=6.6.6.6;host=evil\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 7.7.7.7\r\n\
         X-Forwarded-Host: evil\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Port: 1\r\nX-Forwarded-Prefix: /x\r\n\
         X-Forwarded-Uri: /x\r\nX-Forwarded-Method: POST\r\nX-Forwarded-User: admin\r\nX-Forwarded-Groups: admins\r\n\
         X-Forwarded-Email: a@b\r\nX-Real-IP: 6.6.6.6\r\nX-Original-URL: /x\r\nX-Rewrite-URL: /x\r\nX-Remote-User: a\r\n\
         X-Auth-Request-User: a\r\nRemote-User: a\r\nX-Envoy-Original-Path: /x\r\nProxy: http://evil\r\n\
         X-HTTP-Method-Override: DELETE\r\nTE: trailers\r\nProxy-Authorization: Basic x\r\nExpect: 100-continue\r\n\
         User-Agent: test\r\nAccept: application/json\r\nAccept-Encoding: gzip\r\nConnection: keep-alive\r\n",
    ));
    let mut headers = received.headers.clone();
    headers.sort();
    let expected = [
        ("accept", "application/json"),
        ("accept-encoding", "gzip"),
        ("host", &edge.recorder.address.to_string()),
        ("user-agent", "test"),
        ("x-forwarded-for", "127.0.0.1"),
    ];
    assert_eq!(headers, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert_eq!((received.method.as_str(), received.target.as_str()), ("GET", GOOD_TARGET));
}

/// T5, T6: whose address it is, when the proxies in front are known.
#[test]
fn a_trusted_proxy_tells_the_address_and_nothing_else() {
    let edge = Edge::with(|config| config.server.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()]);
    for (forwarded, expected) in [
        ("X-Forwarded-For: 6.6.6.6\r\n", "6.6.6.6"),
        ("X-Forwarded-For: 1.1.1.1, 6.6.6.6\r\n", "6.6.6.6"),
        ("X-Forwarded-For: 1.1.1.1\r\nX-Forwarded-For: 6.6.6.6, 127.0.0.9\r\n", "6.6.6.6"),
        ("X-Forwarded-For: [2001:db8::1]:443\r\n", "2001:db8::1"),
        ("X-Forwarded-For: 1.1.1.1, garbage\r\n", "127.0.0.1"),
        ("X-Forwarded-For:\r\n", "127.0.0.1"),
        ("X-Real-IP: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\n", "127.0.0.1"),
    ] {
        let received = edge.passes(with(forwarded));
        assert_eq!(received.all("x-forwarded-for"), [expected], "{forwarded:?}");
        assert_eq!(received.all("x-real-ip").len() + received.all("forwarded").len(), 0);
    }
}

/// T2, T8, T9: no credential, no MLflow, whatever else is said.
#[test]
fn nothing_but_a_credential_opens_the_door() {
    let edge = Edge::start();
    for request in [
        GOOD.replace("{auth}", ""),
        GOOD.replace("{auth}", "User-Agent: kube-probe/1.30\r\nX-Forwarded-User: admin\r\nCookie: session=admin\r\n"),
        GOOD.replace("{auth}", "Authorization: Basic YWRtaW46d3Jvbmc=\r\n"),
        GOOD.replace("{auth}", "Authorization: Basic !!!\r\n"),
        GOOD.replace("{auth}", "Authorization:\r\n"),
        GOOD.replace("{auth}", "Authorization: Negotiate x\r\n"),
        GOOD.replace("{auth}", "Authorization: Bearer x\r\n").replace("GET", "HEAD"),
        GOOD.replace("{auth}", "").replace("GET", "OPTIONS"),
        GOOD.replace("{auth}", "").replace("experiment_id=1", "x=/health"),
        "GET /healthy HTTP/1.1\r\nHost: proxy\r\n\r\n".to_owned(),
        "GET /health/x HTTP/1.1\r\nHost: proxy\r\n\r\n".to_owned(),
        "GET /no/such/route HTTP/1.1\r\nHost: proxy\r\n\r\n".to_owned(),
    ] {
        let answer = edge.proxy.ask(&request).expect("an answer");
        assert!(matches!(answer.status, 401 | 405), "{request:?}: {} {}", answer.status, answer.text());
        let received = edge.recorder.take();
        assert!(received.is_empty(), "{request:?} reached MLflow as {received:?}");
    }
}

/// Whoever leaves takes the call to MLflow along.
#[test]
fn a_client_that_hangs_up_cancels_the_call() {
    let edge = Edge::start();
    let mut client = edge.proxy.connect();
    client.send(get(&file("never")));
    edge.recorder.wait_for(&file("never"));
    client.hang_up();
    edge.recorder.wait_for_cancelled(1);
    let mut client = edge.proxy.connect();
    client.send(get(&file("huge")));
    assert_eq!(client.head().map(|head| head.status), Some(200));
    client.hang_up();
    edge.recorder.wait_for_cancelled(2);
    edge.recorder.take();
    edge.is_well();
}

/// Sixteen readers that read nothing of 64 MiB each cost little memory.
#[test]
fn slow_readers_do_not_grow_memory() {
    let edge = Edge::start();
    edge.is_well();
    let before = resident_bytes();
    let mut clients: Vec<_> = (0..16).map(|_| edge.proxy.connect()).collect();
    for client in &mut clients {
        client.send(get(&file("huge")));
    }
    for client in &mut clients {
        assert_eq!(client.head().map(|head| head.status), Some(200));
    }
    // Long enough for an unbounded proxy to swallow the gigabyte over loopback.
    pause(Duration::from_secs(2));
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 32 * 1024 * 1024, "grew by {} MiB", grown / 1024 / 1024);
    drop(clients);
    edge.recorder.wait_for_cancelled(16);
}

/// A whole large body arrives, so that the bound above is not one of never sending.
#[test]
fn a_large_body_arrives_whole() {
    let edge = Edge::start();
    let answer = edge.proxy.ask(get(&file("huge"))).expect("an answer");
    assert!(answer.status == 200 && answer.whole && answer.body.len() == HUGE, "{}", answer.body.len());
}

/// Events are passed on as they come.
#[test]
fn an_event_stream_is_not_held_back() {
    let edge = Edge::start();
    let watch = Stopwatch::start();
    let mut client = edge.proxy.connect();
    client.send(get(&file("events")));
    let head = client.head().expect("a head");
    assert_eq!(head.header("content-type"), Some("text/event-stream"));
    let first = client.chunk().expect("a first event");
    assert!(first.starts_with(b"data: "), "{first:?}");
    let all = Duration::from_millis(200 * EVENTS as u64);
    assert!(watch.elapsed() < all, "the first event came after {:?}", watch.elapsed());
}

/// An answer that breaks off is not made to look whole.
#[test]
fn a_body_that_breaks_off_is_seen_to() {
    let edge = Edge::start();
    // None: the break was noticed before the head had left.
    let answer = edge.proxy.ask(get(&file("half")));
    assert!(answer.is_none_or(|answer| answer.status == 200 && !answer.whole));
    edge.recorder.take();
    edge.is_well();
}

/// MLflow away, and nothing waits for it: 503 at once, in MLflow's shape.
#[test]
fn an_upstream_that_is_down_is_a_503() {
    // Bound, never listening on: connecting is refused as long as nobody else gets the port.
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
    let address: SocketAddr = nobody.local_addr().unwrap();
    drop(nobody);
    let proxy = Proxy::before(address);
    let watch = Stopwatch::start();
    let answer = proxy.ask(raw(GOOD)).expect("an answer");
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert!(answer.text().contains("\"error_code\""), "{}", answer.text());
    assert!(watch.elapsed() < Duration::from_secs(3));
}

/// Slowloris: a head that never ends, and a client that never speaks.
#[test]
fn a_head_that_never_ends_is_cut_off() {
    let edge = Edge::with(|config| config.server.head_timeout = Duration::from_millis(300));
    let mut drip = edge.proxy.connect();
    drip.send("GET /version HTTP/1.1\r\nHost: pro");
    assert_eq!(drip.answer().map(|answer| answer.status), Some(408));
    assert!(drip.is_closed());
    assert!(edge.proxy.connect().is_closed(), "silence");
    assert!(edge.recorder.take().is_empty());
}

/// T43: a route that the table does not know is 403 for people, whatever the method.
#[test]
fn an_unknown_route_is_refused() {
    let edge = Edge::start();
    let stranger = edge.proxy.stranger("stranger");
    for request in [
        "GET /api/4.0/mlflow/anything/new HTTP/1.1\r\nHost: proxy\r\n{auth}\r\n",
        "POST /api/4.0/mlflow/anything/new HTTP/1.1\r\nHost: proxy\r\n{auth}Content-Length: 0\r\n\r\n",
        "DELETE /graphql/x HTTP/1.1\r\nHost: proxy\r\n{auth}\r\n",
        "GET /API/2.0/mlflow/experiments/get?experiment_id=1 HTTP/1.1\r\nHost: proxy\r\n{auth}\r\n",
        "OPTIONS /api/4.0/mlflow/anything/new HTTP/1.1\r\nHost: proxy\r\n{auth}\r\n",
    ] {
        edge.refuses(403, request.replace("{auth}", &stranger));
    }
    edge.refuses(403, GOOD.replace("{auth}", &stranger));
}

/// What is not in the table is refused, to administrators too.
#[test]
fn unlisted_routes_are_refused() {
    let edge = Edge::start();
    edge.refuses(403, get("/some/new/route"));
}

/// Where the configuration lets administrators through, such a request is forwarded in its canonical form only.
#[test]
fn unlisted_routes_are_forwarded_canonically() {
    let edge = Edge::with(|config| config.authz.unlisted_routes_for_admins = true);
    assert_eq!(edge.passes(get("/some/new%20route?b=%32&a")).target, "/some/new%20route?b=2&a=");
    edge.refuses(400, get("/some/../route"));
}

/// Random and mutated bytes: nothing panics, and the proxy goes on working.
#[test]
fn noise_does_no_harm() {
    let edge = Edge::with(|config| config.server.head_timeout = Duration::from_millis(500));
    let seeds = [
        raw(GOOD),
        post("Content-Length: 17\r\n", "{\"max_results\":5}"),
        post("Transfer-Encoding: chunked\r\n", "11\r\n{\"max_results\":5}\r\n0\r\n\r\n"),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec(),
    ];
    let mut random = Random(0x5eed);
    for round in 0..3000 {
        let mut client = edge.proxy.connect();
        client.send(random.noise(&seeds));
        if round % 50 == 0 {
            client.answer();
        }
        client.hang_up();
    }
    // Whatever arrived was whole: no request line or header of ours was bent.
    for received in edge.recorder.take() {
        assert!(received.target.starts_with('/') && received.all("host").len() == 1, "{received:?}");
        assert!(received.all("authorization").is_empty() && received.all("x-forwarded-for").len() == 1, "{received:?}");
    }
    pause(Duration::from_millis(200));
    edge.recorder.take();
    edge.is_well();
}

/// SplitMix64: the same noise every time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next()).unwrap_or_default() % limit.max(1)
    }

    fn byte(&mut self) -> u8 {
        // Bytes that mean something are likelier.
        const MEANINGFUL: &[u8] = b"\r\n :/%;,?\0\\.\t0\xff";
        if self.below(2) == 0 { MEANINGFUL[self.below(MEANINGFUL.len())] } else { self.next().to_le_bytes()[0] }
    }

    fn noise(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        if self.below(10) == 0 {
            return (0..self.below(400)).map(|_| self.byte()).collect();
        }
        let mut bytes = seeds[self.below(seeds.len())].clone();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            match self.below(4) {
                0 => bytes[at] = self.byte(),
                1 => bytes.insert(at, self.byte()),
                2 => drop(bytes.remove(at)),
                _ => {
                    let piece = bytes[at..(at + 20).min(bytes.len())].to_vec();
                    bytes.splice(at..at, piece);
                }
            }
        }
        bytes
    }
}

fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}
