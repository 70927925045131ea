use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use http::{StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::*;
use crate::http::{Body, Reply};

/// A server with a handler that answers with the method and path, until dropped.
struct Running {
    address: SocketAddr,
    stop: CancellationToken,
    tasks: TaskTracker,
    metrics: Arc<Metrics>,
    /// Set by a handler that was dropped before its end.
    cancelled: Arc<AtomicBool>,
    /// Requests that a handler has received.
    received: Arc<AtomicUsize>,
}

fn config() -> config::Server {
    config::Server {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        max_connections: 100,
        max_connections_per_address: 1000,
        max_head_bytes: 16 * 1024,
        body_timeout: Duration::from_secs(30),
        head_timeout: Duration::from_secs(5),
        tls_handshake_timeout: Duration::from_secs(5),
        idle_timeout: Duration::from_secs(30),
        drain_delay: Duration::ZERO,
        drain_timeout: Duration::from_secs(5),
        ..config::defaults().unwrap().server
    }
}

struct OnDrop(Arc<AtomicBool>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

async fn answer(
    request: http::Request<Incoming>,
    peer: Peer,
    refusal: Option<EdgeRefusal>,
    cancelled: Arc<AtomicBool>,
) -> Response {
    if let Some(refusal) = refusal {
        return refusal.reply().into_response();
    }
    match request.uri().path() {
        "/panic" => panic!("on request"),
        "/slow" => tokio::time::sleep(Duration::from_millis(300)).await,
        "/never" => {
            let _on_drop = OnDrop(cancelled);
            std::future::pending::<()>().await;
        }
        "/large" => return http::Response::new(Body::from(Bytes::from(vec![b'x'; LARGE_BYTES]))),
        "/body" => {
            return match request.into_body().collect().await {
                Ok(body) => http::Response::new(Body::from(body.to_bytes())),
                Err(_) => Reply::invalid("the body broke off").into_response(),
            };
        }
        _ => {}
    }
    let text = format!("{} {} tls={}", request.method(), request.uri().path(), peer.tls);
    http::Response::new(Body::from(Bytes::from(text)))
}

async fn start(config: config::Server) -> Running {
    let tls = config.tls.as_ref().map(|tls| tls::Acceptor::load(tls).unwrap());
    start_tls(config, tls).await
}

async fn start_tls(config: config::Server, tls: Option<tls::Acceptor>) -> Running {
    let listener = TcpListener::bind(config.listen).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, tasks, cancelled) = (CancellationToken::new(), TaskTracker::new(), Arc::<AtomicBool>::default());
    let metrics = Arc::new(Metrics::new([]).unwrap());
    let flag = Arc::clone(&cancelled);
    let received = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&received);
    let handler = move |request, peer, refusal| {
        count.fetch_add(1, Ordering::SeqCst);
        answer(request, peer, refusal, Arc::clone(&flag))
    };
    tasks.spawn(serve(&config, listener, tls, handler, Arc::clone(&metrics), stop.clone()));
    tasks.close();
    Running { address, stop, tasks, metrics, cancelled, received }
}

impl Running {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Waits until so many requests are with a handler or answered.
    async fn has_received(&self, count: usize) {
        while self.received.load(Ordering::SeqCst) < count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Sends bytes and reads to the end, which must come within ten seconds.
    async fn ask(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut tcp = self.connect().await;
        tcp.write_all(bytes.as_ref()).await.unwrap();
        read_to_end(tcp).await
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn read_to_end(mut tcp: TcpStream) -> String {
    let mut answer = Vec::new();
    timeout(Duration::from_secs(10), tcp.read_to_end(&mut answer)).await.expect("the connection ends").unwrap();
    String::from_utf8(answer).unwrap()
}

async fn read_some(tcp: &mut TcpStream) -> String {
    let mut answer = vec![0; 4096];
    let count = timeout(Duration::from_secs(10), tcp.read(&mut answer)).await.unwrap().unwrap();
    String::from_utf8_lossy(&answer[..count]).into_owned()
}

#[tokio::test]
async fn a_refused_head_gets_a_json_answer_and_the_end_of_the_connection() {
    let server = start(config()).await;
    for (head, status, sentence) in [
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
            "either",
        ),
        ("GET / HTTP/1.1\nHost: a\n\n", 400, "CR LF"),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 405, "tunnel"),
        (&format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(70_000)), 431, "too large"),
        (&format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(101)), 431, "too many headers"),
        ("\x16\x03\x01\x02", 400, "not valid"),
    ] {
        let answer = server.ask(format!("{head}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{head:.80} {answer}");
        assert!(answer.contains("connection: close\r\n"), "{answer}");
        assert!(answer.contains(sentence) && answer.contains("\"error_code\""), "{answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1 + usize::from(sentence.contains("not valid")), "{answer}");
    }
    assert!(server.metrics.render().contains("edge_refusals_total{reason=\"bare_line_feed\"} 1"));
}

#[tokio::test]
async fn requests_before_a_refused_one_are_answered() {
    let server = start(config()).await;
    let answer = server.ask("GET /a HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTTP/1.1\nHost: a\n\n").await;
    assert!(answer.contains("GET /a") && answer.contains("HTTP/1.1 400"), "{answer}");
}

#[tokio::test]
async fn a_refusal_can_be_read_by_a_client_that_goes_on_sending() {
    let server = start(config()).await;
    let mut tcp = server.connect().await;
    tcp.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4000000\r\n\r\n").await.unwrap();
    let (mut reader, mut writer) = tcp.split();
    let mut answer = String::new();
    let send = async {
        for _ in 0..100 {
            writer.write_all(&[b'x'; 40_000]).await?;
        }
        writer.shutdown().await
    };
    let (sent, read) = tokio::join!(send, reader.read_to_string(&mut answer));
    sent.expect("the server takes what it ignores");
    read.unwrap();
    assert!(answer.ends_with("POST / tls=false"), "{answer}");
}

#[tokio::test]
async fn a_broken_chunk_ends_the_body_early() {
    let server = start(config()).await;
    let head = "POST /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let answer = server.ask(format!("{head}3\r\nabc\r\nzz\r\nGET /smuggled HTTP/1.1\r\n\r\n")).await;
    assert!(!answer.contains("200 OK") && !answer.contains("smuggled"), "{answer}");
}

#[tokio::test]
async fn a_head_that_drips_is_answered_with_408_and_silence_with_silence() {
    let server = start(config::Server { head_timeout: Duration::from_millis(200), ..config() }).await;
    let answer = server.ask("GET / HTTP/1.1\r\nHost:").await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert_eq!(server.ask("").await, "");
    // A kept-alive connection may be quiet for longer than a head may take.
    let mut tcp = server.connect().await;
    for _ in 0..2 {
        tcp.write_all(b"GET /again HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        assert!(read_some(&mut tcp).await.ends_with("GET /again tls=false"));
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed_but_not_one_whose_answer_is_being_made() {
    let server = start(config::Server { idle_timeout: Duration::from_millis(100), ..config() }).await;
    let answer = server.ask("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(answer.ends_with("GET /slow tls=false"), "{answer}");
    let stalled = server.ask("POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc").await;
    assert_eq!(stalled, "", "a body that does not come is idleness");
}

#[tokio::test]
async fn a_panic_is_one_500_and_nothing_else() {
    let server = start(config()).await;
    let mut other = server.connect().await;
    let answer = server.ask("GET /panic HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 500 ") && answer.contains("INTERNAL_ERROR"), "{answer}");
    other.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    assert!(read_some(&mut other).await.starts_with("HTTP/1.1 200"));
    assert_eq!(server.metrics.panics.get(), 1);
}

#[tokio::test]
async fn a_client_that_leaves_cancels_its_request() {
    let server = start(config()).await;
    let mut tcp = server.connect().await;
    tcp.write_all(b"GET /never HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!server.cancelled.load(Ordering::SeqCst));
    drop(tcp);
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        if server.cancelled.load(Ordering::SeqCst) {
            return;
        }
    }
    panic!("the handler still waits");
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_and_counted() {
    let server = start(config::Server { max_connections: 1, ..config() }).await;
    let mut first = server.connect().await;
    first.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    assert!(read_some(&mut first).await.starts_with("HTTP/1.1 200"));
    first.write_all(b"GET /never HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    // A request under way is not cut off for another connection.
    server.has_received(2).await;
    let mut second = server.connect().await;
    let mut byte = [0];
    assert!(!matches!(second.read(&mut byte).await, Ok(1)));
    assert_eq!(server.metrics.connections_refused.get(), 1);
    assert_eq!(server.metrics.connections.get(), 1);
}

#[tokio::test]
async fn a_full_server_closes_what_is_idle_the_longest() {
    let server = start(config::Server { max_connections: 2, ..config() }).await;
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut tcp = server.connect().await;
        tcp.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        assert!(read_some(&mut tcp).await.starts_with("HTTP/1.1 200"));
        open.push(tcp);
    }
    let answer = server.ask("GET /third HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(answer.ends_with("GET /third tls=false"), "{answer}");
    let mut byte = [0];
    assert!(!matches!(open[0].read(&mut byte).await, Ok(1)), "the first was closed");
    open[1].write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    assert!(read_some(&mut open[1]).await.starts_with("HTTP/1.1 200"), "the second was not");
    assert_eq!((server.metrics.connections_evicted.get(), server.metrics.connections_refused.get()), (1, 0));
}

#[tokio::test]
async fn silent_connections_shut_nobody_out() {
    let server = start(config::Server { max_connections: 4, ..config() }).await;
    let silent: Vec<_> = several(8, &server).await;
    for _ in 0..8 {
        let answer = server.ask("GET /me HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
        assert!(answer.ends_with("GET /me tls=false"), "{answer}");
    }
    drop(silent);
}

#[tokio::test]
async fn an_address_has_a_limit_of_its_own() {
    let limits = config::Server { max_connections_per_address: 1, ..config() };
    let server = start(limits.clone()).await;
    let mut first = server.connect().await;
    first.write_all(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    server.has_received(1).await;
    let mut second = server.connect().await;
    let mut byte = [0];
    assert!(!matches!(second.read(&mut byte).await, Ok(1)), "the first is busy");
    assert!(read_some(&mut first).await.starts_with("HTTP/1.1 200"));
    let answer = server.ask("GET /next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(answer.ends_with("GET /next tls=false"), "the first is idle: {answer}");
    let trusted = config::Server { trusted_proxies: vec!["127.0.0.0/8".parse().unwrap()], ..limits };
    let server = start(trusted).await;
    let mut open = several(3, &server).await;
    for tcp in &mut open {
        tcp.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        assert!(read_some(tcp).await.starts_with("HTTP/1.1 200"));
    }
}

async fn several(count: usize, server: &Running) -> Vec<TcpStream> {
    let mut open = Vec::with_capacity(count);
    for _ in 0..count {
        open.push(server.connect().await);
    }
    open
}

#[tokio::test]
async fn a_drain_lets_requests_finish_and_closes_the_rest() {
    let server = start(config()).await;
    let mut idle = server.connect().await;
    idle.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    assert!(read_some(&mut idle).await.starts_with("HTTP/1.1 200"));
    let mut busy = server.connect().await;
    busy.write_all(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    server.stop.cancel();
    let (idle, busy) = tokio::join!(read_to_end(idle), read_to_end(busy));
    assert_eq!(idle, "");
    assert!(busy.ends_with("GET /slow tls=false"), "{busy}");
    timeout(Duration::from_secs(1), server.tasks.wait()).await.expect("serve returns");
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn a_drain_is_bounded() {
    let server = start(config::Server { drain_timeout: Duration::from_millis(100), ..config() }).await;
    let mut tcp = server.connect().await;
    tcp.write_all(b"GET /never HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    server.stop.cancel();
    timeout(Duration::from_secs(1), server.tasks.wait()).await.expect("serve returns");
    assert!(server.cancelled.load(Ordering::SeqCst));
}

#[tokio::test]
async fn http2_is_spoken_with_prior_knowledge() {
    let server = start(config()).await;
    let (status, text) = http2_get(server.connect().await, "http://a/two").await;
    assert_eq!((status, text.as_str()), (StatusCode::OK, "GET /two tls=false"));
}

#[tokio::test]
async fn both_protocols_are_spoken_over_tls() {
    let folder = tempfile::tempdir().unwrap();
    let tls = certificate(folder.path());
    let server = start(config::Server { tls: Some(tls.clone()), ..config() }).await;
    for (protocol, expected) in [(&b"h2"[..], "GET /s tls=true"), (b"http/1.1", "GET /s tls=true")] {
        let stream = tls_connect(&server, &tls, protocol).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(protocol));
        if protocol == b"h2" {
            assert_eq!(http2_get(stream, "https://localhost/s").await.1, expected);
        } else {
            let mut stream = stream;
            stream.write_all(b"GET /s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.ends_with(expected), "{answer}");
        }
    }
}

#[test]
fn tls_problems_name_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let good = certificate(folder.path());
    let empty = folder.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    let problem = |cert: &Path, key: &Path| {
        tls::Acceptor::load(&config::Tls { cert: cert.to_owned(), key: key.to_owned() }).unwrap_err().to_string()
    };
    let missing = folder.path().join("missing.pem");
    assert!(problem(&missing, &good.key).contains("missing.pem cannot be read"));
    assert!(problem(&empty, &good.key).contains("empty.pem contains no PEM certificate"));
    assert!(problem(&good.cert, &empty).contains("empty.pem cannot be read: it contains no PEM"));
    assert!(problem(&good.cert, Path::new("/dev/zero")).contains("/dev/zero cannot be read: it is not a regular file"));
    // As it comes out of an environment variable; a parser's own words would quote it.
    let key = std::fs::read_to_string(&good.key).unwrap();
    std::fs::write(&empty, key.replace('\n', "\\n")).unwrap();
    assert_eq!(problem(&good.cert, &empty), format!("{} cannot be read: it is not PEM", empty.display()));
    let other = tempfile::tempdir().unwrap();
    assert!(problem(&good.cert, &certificate(other.path()).key).contains("do not work together"));
}

#[tokio::test]
async fn a_renewed_certificate_is_served_to_whoever_comes_next_and_a_broken_one_to_nobody() {
    let (folder, next) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (files, renewed) = (certificate(folder.path()), certificate(next.path()));
    let first = config::Tls { cert: next.path().join("first.pem"), ..files.clone() };
    std::fs::copy(&files.cert, &first.cert).unwrap();
    let acceptor = tls::Acceptor::load(&files).unwrap();
    let server = start_tls(config(), Some(acceptor.clone())).await;
    let mut before = tls_connect(&server, &first, b"http/1.1").await;

    assert!(!acceptor.reload().await.unwrap(), "nothing is new");
    std::fs::copy(&renewed.cert, &files.cert).unwrap();
    assert!(acceptor.reload().await.unwrap_err().to_string().contains("do not work together"));
    tls_connect(&server, &first, b"http/1.1").await;
    std::fs::copy(&renewed.key, &files.key).unwrap();
    assert!(acceptor.reload().await.unwrap());
    tls_connect(&server, &renewed, b"http/1.1").await;

    std::fs::remove_file(&files.cert).unwrap();
    assert!(acceptor.reload().await.is_err());
    tls_connect(&server, &renewed, b"http/1.1").await;
    before.write_all(b"GET /s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    before.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "who was connected stays so: {answer}");
}

fn certificate(folder: &Path) -> config::Tls {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    config::Tls { cert, key }
}

async fn tls_connect(
    server: &Running,
    tls: &config::Tls,
    protocol: &[u8],
) -> tokio_rustls::client::TlsStream<TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&tls.cert).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    connector.connect(ServerName::try_from("localhost").unwrap(), server.connect().await).await.unwrap()
}

const LARGE_BYTES: usize = 200 * 1024;

/// A client that answers and sends pings all the time.
async fn http2_pinging(
    server: &Running,
    window: u32,
) -> (hyper::client::conn::http2::SendRequest<Empty<Bytes>>, tokio::task::JoinHandle<()>) {
    let executor = hyper_util::rt::TokioExecutor::new();
    let (sender, connection) = hyper::client::conn::http2::Builder::new(executor)
        .timer(TokioTimer::new())
        .initial_stream_window_size(window)
        .keep_alive_interval(Duration::from_millis(20))
        .keep_alive_while_idle(true)
        .handshake(TokioIo::new(server.connect().await))
        .await
        .unwrap();
    let ended = server.tasks.spawn(async move { drop(connection.await) });
    (sender, ended)
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_idle_although_it_answers_pings() {
    let server = start(config::Server { idle_timeout: Duration::from_millis(300), ..config() }).await;
    for window in [0, 1] {
        let (mut sender, ended) = http2_pinging(&server, window).await;
        let large = http::Request::get("http://a/large").body(Empty::<Bytes>::new()).unwrap();
        let response = sender.send_request(large).await.unwrap();
        timeout(Duration::from_secs(10), ended).await.expect("the connection ends").unwrap();
        drop(response);
    }
    // One without any request, too.
    let (_sender, ended) = http2_pinging(&server, 65_535).await;
    timeout(Duration::from_secs(10), ended).await.expect("the connection ends").unwrap();
}

#[tokio::test]
async fn a_client_that_reads_slowly_gets_all_of_its_answer() {
    let server = start(config::Server { idle_timeout: Duration::from_secs(1), ..config() }).await;
    let (mut sender, _ended) = http2_pinging(&server, 16 * 1024).await;
    let large = http::Request::get("http://a/large").body(Empty::<Bytes>::new()).unwrap();
    let response = sender.send_request(large).await.unwrap();
    assert_eq!(response.headers()[header::CONTENT_LENGTH], LARGE_BYTES.to_string());
    let (mut body, mut seen) = (response.into_body(), 0);
    while let Some(frame) = body.frame().await {
        seen += frame.expect("the connection lives").into_data().map_or(0, |data| data.len());
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    assert_eq!(seen, LARGE_BYTES);
}

async fn http2_get<T>(stream: T, uri: &str) -> (StatusCode, String)
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) = hyper::client::conn::http2::Builder::new(executor)
        .timer(TokioTimer::new())
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    let request = http::Request::get(uri).body(Empty::<Bytes>::new()).unwrap();
    let get = async move {
        let response = sender.send_request(request).await.unwrap();
        assert!(!response.headers().contains_key(header::CONNECTION));
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    };
    tokio::select! {
        answer = get => answer,
        ended = connection => panic!("the connection ended: {ended:?}"),
    }
}
