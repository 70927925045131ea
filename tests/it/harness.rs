//! A proxy in this process, an MLflow that only records, and a client that sends raw bytes.
//!
//! Fakes and clients use blocking sockets on threads of their own, so that nothing of theirs hides in the proxy's
//! runtime.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use base64::Engine as _;
use mlflow_auth_proxy::app::{self, Running};
use mlflow_auth_proxy::authz::{Grant, Limits, Permission, ResourceKind, Selector, Subject};
use mlflow_auth_proxy::clock::{Clock, Stopwatch};
use mlflow_auth_proxy::config;
use mlflow_auth_proxy::crypto::{AccessToken, PasswordHash};
use mlflow_auth_proxy::mlflow::Table;
use mlflow_auth_proxy::store::{Actor, NewToken, Store};

pub(crate) const ADMIN: &str = "admin";
pub(crate) const PASSWORD: &str = "correct horse battery staple";
/// No exchange of these tests takes longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// The proxy, with a runtime of its own and a store that goes with it.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    running: Option<Running>,
    runtime: tokio::runtime::Runtime,
    store: tempfile::TempDir,
}

impl Proxy {
    pub(crate) fn before(upstream: SocketAddr) -> Self {
        Self::with(upstream, |_| {})
    }

    /// Lets a test change the configuration first.
    pub(crate) fn with(upstream: SocketAddr, change: impl FnOnce(&mut config::Config)) -> Self {
        Self::with_table(upstream, Table::built_in().unwrap(), change)
    }

    /// The same with another table of routes.
    pub(crate) fn with_table(upstream: SocketAddr, table: Table, change: impl FnOnce(&mut config::Config)) -> Self {
        let store = tempfile::tempdir().unwrap();
        let mut config = configuration(upstream, &store);
        change(&mut config);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build().unwrap();
        let running = runtime.block_on(app::start_with(config, table)).expect("the proxy starts");
        Self { address: running.address, running: Some(running), runtime, store }
    }

    /// A new user without any grant, and a token of theirs as an `Authorization` line.
    pub(crate) fn stranger(&self, name: &str) -> String {
        let url = store_url(&self.store);
        let token = AccessToken::generate();
        self.runtime.block_on(async {
            let clock = Clock::default();
            let store = Store::open(&url, clock.clone()).await.unwrap();
            let actor = Actor { name: "test".to_owned(), token: None, address: None };
            let user = store.create_user(&actor, name, None, false).await.unwrap();
            let expires = clock.now().plus(Duration::from_secs(3600));
            let limits = Limits::default();
            let new = NewToken { user: user.id, name: "test", hash: token.hash(), limits: &limits, expires };
            store.create_token(&actor, new).await.unwrap();
        });
        format!("Authorization: Bearer {}\r\n", token.reveal())
    }

    pub(crate) fn connect(&self) -> Client {
        let tcp = TcpStream::connect(self.address).unwrap();
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        tcp.set_write_timeout(Some(PATIENCE)).unwrap();
        tcp.set_nodelay(true).unwrap();
        Client { tcp, buffer: Vec::new() }
    }

    /// One request on a connection of its own.
    pub(crate) fn ask(&self, raw: impl AsRef<[u8]>) -> Option<Answer> {
        let mut client = self.connect();
        client.send(raw);
        client.answer()
    }
}

impl Proxy {
    /// A second handle on the proxy's store, as another process would have.
    pub(crate) fn store(&self) -> Store {
        let url = format!("sqlite://{}", self.store.path().join("proxy.db").display());
        self.runtime.block_on(Store::open(&url, Clock::default())).expect("the store opens twice")
    }

    /// Another proxy on this one's store, as a second replica.
    pub(crate) fn beside(&self, upstream: SocketAddr, change: impl FnOnce(&mut config::Config)) -> Self {
        let url = store_url(&self.store);
        Self::with(upstream, |config| {
            change(config);
            config.store.url = url;
        })
    }

    /// Holds the store's write lock until dropped, as a stuck process would.
    pub(crate) fn lock_store(&self) -> StoreLock {
        let path = self.store.path().join("proxy.db");
        let program = "import sqlite3, sys\nc = sqlite3.connect(sys.argv[1], isolation_level=None)\n\
                       c.execute('BEGIN IMMEDIATE')\nprint('locked', flush=True)\nsys.stdin.read()";
        let mut child = std::process::Command::new("python3")
            .args(["-c", program])
            .arg(path)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("python3 is there");
        let mut line = [0; 7];
        child.stdout.as_mut().expect("its output").read_exact(&mut line).expect("the lock is held");
        StoreLock(child)
    }

    /// What Prometheus would read.
    pub(crate) fn metrics(&self) -> String {
        self.probe("/metrics").text()
    }

    /// The answer of the admin listener.
    pub(crate) fn probe(&self, path: &str) -> Answer {
        self.ask_admin(format!("GET {path} HTTP/1.1\r\nHost: probes\r\n\r\n")).expect("an answer")
    }

    /// One request to the listener for probes.
    pub(crate) fn ask_admin(&self, raw: impl AsRef<[u8]>) -> Option<Answer> {
        let tcp = TcpStream::connect(self.running.as_ref().expect("it runs").admin).unwrap();
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut client = Client { tcp, buffer: Vec::new() };
        client.send(raw);
        client.answer()
    }

    /// Keeps every thread that answers requests busy until dropped.
    pub(crate) fn occupy(&self) -> Busy {
        let busy = Busy(Arc::default());
        for _ in 0..WORKERS {
            let shared = Arc::clone(&busy.0);
            self.runtime.spawn(async move {
                let (state, changed) = &*shared;
                let mut state = state.lock().unwrap();
                state.0 += 1;
                changed.notify_all();
                drop(changed.wait_while(state, |(_, over)| !*over).unwrap());
            });
        }
        let (state, changed) = &*busy.0;
        let (state, late) =
            changed.wait_timeout_while(state.lock().unwrap(), PATIENCE, |(count, _)| *count < WORKERS).unwrap();
        assert!(!late.timed_out(), "{} of {WORKERS} threads are busy", state.0);
        drop(state);
        busy
    }

    /// Stops the proxy as a signal does.
    pub(crate) fn drain(&mut self) {
        let running = self.running.take().expect("it runs");
        self.runtime.block_on(running.drain());
    }

    pub(crate) fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Makes a user with these grants and returns their `Authorization` value.
    pub(crate) fn user(&self, name: &str, grants: &[(ResourceKind, &str, Permission)]) -> String {
        let store = self.store();
        let password = "another fine password";
        let actor = actor();
        self.runtime.block_on(async {
            let hash = PasswordHash::make(&password.to_owned().into());
            let user = store.create_user(&actor, name, Some(&hash), false).await.expect("a user");
            for (kind, key, permission) in grants {
                let selector = Selector::parse(*kind, key).expect("a selector");
                let subject = Subject::User(user.id);
                let grant = Grant { subject, kind: *kind, selector, permission: *permission };
                store.create_grant(&actor, &grant).await.expect("a grant");
            }
            store.close().await;
        });
        authorization(name, password)
    }
}

/// Threads that do nothing else: how many, and whether that is over.
pub(crate) struct Busy(Arc<(Mutex<(usize, bool)>, Condvar)>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.0.lock().unwrap().1 = true;
        self.0.1.notify_all();
    }
}

/// Threads of the proxy's runtime.
const WORKERS: usize = 2;

/// Another process that holds the store's write lock.
pub(crate) struct StoreLock(std::process::Child);

impl Drop for StoreLock {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn actor() -> Actor {
    Actor { name: "test".to_owned(), token: None, address: None }
}

pub(crate) fn authorization(name: &str, password: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{name}:{password}")))
}

/// A GET as a program sends it.
pub(crate) fn get(target: &str, authorization: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: proxy\r\nAuthorization: {authorization}\r\n\r\n")
}

/// A request with a JSON body.
pub(crate) fn send_json(method: &str, target: &str, authorization: &str, body: &str) -> String {
    format!(
        "{method} {target} HTTP/1.1\r\nHost: proxy\r\nAuthorization: {authorization}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            let _ = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, running.drain()).await });
        }
    }
}

/// The defaults, with ports of the system's choice, short times, and no limit on guesses that tests could reach.
fn configuration(upstream: SocketAddr, store: &tempfile::TempDir) -> config::Config {
    let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let defaults = config::defaults().unwrap();
    config::Config {
        server: config::Server {
            listen: anywhere,
            max_connections: 1000,
            max_connections_per_address: 1000,
            max_head_bytes: 32 * 1024,
            max_body_bytes: 1024 * 1024,
            head_timeout: Duration::from_secs(5),
            body_timeout: Duration::from_secs(30),
            tls_handshake_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(60),
            drain_delay: Duration::ZERO,
            drain_timeout: Duration::from_secs(1),
            ..defaults.server
        },
        admin: config::Admin { listen: anywhere, ..defaults.admin },
        upstream: config::Upstream {
            url: url::Url::parse(&format!("http://{upstream}")).unwrap(),
            connect_timeout: Duration::from_secs(2),
            response_timeout: Duration::from_secs(5),
            pool_idle_timeout: Duration::from_secs(2),
            hold: Duration::ZERO,
            hold_max_requests: 16,
            hold_max_bytes: 1024 * 1024,
            ..defaults.upstream
        },
        store: config::Store::at(&store_url(store)).expect("the store has a URL"),
        bootstrap: config::Bootstrap {
            admin_username: ADMIN.to_owned(),
            admin_password: Some(PASSWORD.to_owned().into()),
        },
        authn: config::Authn {
            guesses_per_address: 100_000,
            guesses_per_account: 100_000,
            guess_window: Duration::from_secs(60),
            person_max_age: None,
            ..defaults.authn
        },
        log: config::Log { level: "warn".to_owned(), format: config::LogFormat::Text, access: false, ..defaults.log },
        ..defaults
    }
}

fn store_url(store: &tempfile::TempDir) -> String {
    format!("sqlite://{}", store.path().join("proxy.db").display())
}

/// The administrator's `Authorization` value.
pub(crate) fn basic() -> String {
    authorization(ADMIN, PASSWORD)
}

/// A client that sends what it is told.
pub(crate) struct Client {
    tcp: TcpStream,
    buffer: Vec<u8>,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Whether the body came to the end it announced.
    pub(crate) whole: bool,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Client {
    /// Sends, as far as the other side lets us: it may have closed already.
    pub(crate) fn send(&mut self, raw: impl AsRef<[u8]>) {
        let _ = self.tcp.write_all(raw.as_ref());
    }

    /// A second handle on the same connection, to send while the other one waits for an answer.
    pub(crate) fn again(&self) -> Self {
        Self { tcp: self.tcp.try_clone().unwrap(), buffer: Vec::new() }
    }

    /// The next answer; `None` when the connection ends or stays silent.
    pub(crate) fn answer(&mut self) -> Option<Answer> {
        let mut answer = self.head()?;
        let chunked = answer.header("transfer-encoding") == Some("chunked");
        let length = answer.header("content-length").and_then(|length| length.parse().ok());
        if chunked {
            answer.whole = self.read_chunks(&mut answer.body);
        } else {
            let length: usize = length.unwrap_or_default();
            while self.buffer.len() < length && self.fill() {}
            let have = length.min(self.buffer.len());
            answer.whole = have == length;
            answer.body = self.buffer.drain(..have).collect();
        }
        Some(answer)
    }

    /// The next answer's head only; its body stays to be read.
    pub(crate) fn head(&mut self) -> Option<Answer> {
        loop {
            let mut headers = [httparse::EMPTY_HEADER; 64];
            let mut response = httparse::Response::new(&mut headers);
            if let Ok(httparse::Status::Complete(length)) = response.parse(&self.buffer) {
                let status = response.code.unwrap();
                let pair = |header: &httparse::Header<'_>| {
                    (header.name.to_ascii_lowercase(), String::from_utf8_lossy(header.value).into_owned())
                };
                let headers = response.headers.iter().map(pair).collect();
                self.buffer.drain(..length);
                return Some(Answer { status, headers, body: Vec::new(), whole: true });
            }
            if !self.fill() {
                return None;
            }
        }
    }

    /// The next chunk of a chunked body; empty at its end.
    pub(crate) fn chunk(&mut self) -> Option<Vec<u8>> {
        let line = self.line()?;
        let size = usize::from_str_radix(line.trim(), 16).ok()?;
        while self.buffer.len() < size + 2 {
            if !self.fill() {
                return None;
            }
        }
        let chunk = self.buffer.drain(..size).collect();
        self.buffer.drain(..2);
        Some(chunk)
    }

    fn read_chunks(&mut self, body: &mut Vec<u8>) -> bool {
        while let Some(chunk) = self.chunk() {
            if chunk.is_empty() {
                return true;
            }
            body.extend(chunk);
        }
        false
    }

    fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return String::from_utf8(line).ok();
            }
            if !self.fill() {
                return None;
            }
        }
    }

    /// Reads some more; false at the end, or after [`PATIENCE`].
    fn fill(&mut self) -> bool {
        let mut piece = [0; 16 * 1024];
        match self.tcp.read(&mut piece) {
            Ok(0) | Err(_) => false,
            Ok(count) => {
                self.buffer.extend_from_slice(&piece[..count]);
                true
            }
        }
    }

    /// Whether the other side closes without a further byte.
    pub(crate) fn is_closed(&mut self) -> bool {
        let mut byte = [0];
        match self.tcp.read(&mut byte) {
            Ok(0) => self.buffer.is_empty(),
            Ok(_) => false,
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        }
    }

    pub(crate) fn hang_up(self) {
        let _ = self.tcp.shutdown(Shutdown::Both);
    }
}

/// A request as the fake MLflow received it.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) method: String,
    pub(crate) target: String,
    /// Lower-case names, in order.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Received {
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(found, _)| found == name).map(|(_, value)| value.as_str()).collect()
    }

    /// What the proxy may ask on its own account: probes, and lists of what MLflow created since the last time.
    fn is_probe(&self) -> bool {
        let of_new_resources = ["order_by=experiment_id%20ASC", "order_by=last_updated_timestamp%20DESC"]
            .iter()
            .any(|order| self.target.contains(order));
        of_new_resources || matches!(self.target.as_str(), "/health" | "/version")
    }
}

/// An MLflow that answers anything and remembers it. The end of the path says how it answers.
pub(crate) struct Recorder {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

/// What a scripted MLflow answers to a request, status and JSON; `None`: as the [`Recorder`] always does.
type Script = Box<dyn Fn(&Received) -> Option<(u16, String)> + Send + Sync>;

struct Shared {
    script: Script,
    received: Mutex<Vec<Received>>,
    /// Connections that ended while we were answering.
    cancelled: AtomicU64,
    change: Condvar,
}

impl Recorder {
    pub(crate) fn start() -> Self {
        Self::scripted(|_| None)
    }

    /// An MLflow that knows some answers.
    pub(crate) fn scripted(script: impl Fn(&Received) -> Option<(u16, String)> + Send + Sync + 'static) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").unwrap(), script)
    }

    /// An MLflow that comes up at an address that the proxy knows already.
    pub(crate) fn at(address: SocketAddr) -> Self {
        Self::on(TcpListener::bind(address).unwrap(), |_| None)
    }

    fn on(listener: TcpListener, script: impl Fn(&Received) -> Option<(u16, String)> + Send + Sync + 'static) -> Self {
        let address = listener.local_addr().unwrap();
        let (received, cancelled, change) = Default::default();
        let shared = Arc::new(Shared { script: Box::new(script), received, cancelled, change });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for tcp in listener.incoming() {
                let (Ok(tcp), shared) = (tcp, Arc::clone(&accepting)) else { return };
                std::thread::spawn(move || converse(tcp, &shared));
            }
        });
        Self { address, shared }
    }

    /// What arrived since the last call, probes left out.
    pub(crate) fn take(&self) -> Vec<Received> {
        let mut received = self.shared.received.lock().unwrap();
        std::mem::take(&mut *received).into_iter().filter(|request| !request.is_probe()).collect()
    }

    /// Waits until a request for this target arrived.
    pub(crate) fn wait_for(&self, target: &str) -> Received {
        let received = self.shared.received.lock().unwrap();
        let missing = |received: &mut Vec<Received>| !received.iter().any(|request| request.target == target);
        let (received, _) = self.shared.change.wait_timeout_while(received, PATIENCE, missing).unwrap();
        let found = received.iter().find(|request| request.target == target);
        found.unwrap_or_else(|| panic!("{target} never arrived; what did: {received:?}")).clone()
    }

    /// Waits until this many answers were cut off by the proxy.
    pub(crate) fn wait_for_cancelled(&self, count: u64) {
        let watch = Stopwatch::start();
        while self.shared.cancelled.load(Ordering::SeqCst) < count {
            assert!(watch.elapsed() < PATIENCE, "the upstream call goes on");
            pause(Duration::from_millis(10));
        }
    }
}

/// Rests without the banned `sleep`.
pub(crate) fn pause(duration: Duration) {
    let watch = Stopwatch::start();
    while let Some(left) = duration.checked_sub(watch.elapsed()).filter(|left| !left.is_zero()) {
        std::thread::park_timeout(left);
    }
}

fn converse(mut tcp: TcpStream, shared: &Shared) {
    let mut buffer = Vec::new();
    while let Some(request) = receive(&mut tcp, &mut buffer) {
        let target = request.target.clone();
        shared.received.lock().unwrap().push(request.clone());
        shared.change.notify_all();
        let scripted = (shared.script)(&request).map(|(status, body)| {
            let length = body.len();
            let head =
                format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n");
            tcp.write_all(format!("{head}{body}").as_bytes()).ok()
        });
        let replied = scripted.unwrap_or_else(|| {
            if request.method == "HEAD" { reply_to_head(&mut tcp) } else { reply(&mut tcp, &target) }
        });
        if replied.is_none() {
            shared.cancelled.fetch_add(1, Ordering::SeqCst);
            return;
        }
    }
}

fn receive(tcp: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Received> {
    let mut received = loop {
        let mut headers = [httparse::EMPTY_HEADER; 200];
        let mut request = httparse::Request::new(&mut headers);
        if let Ok(httparse::Status::Complete(length)) = request.parse(buffer) {
            let pair = |header: &httparse::Header<'_>| {
                (header.name.to_ascii_lowercase(), String::from_utf8_lossy(header.value).into_owned())
            };
            let received = Received {
                method: request.method.unwrap().to_owned(),
                target: request.path.unwrap().to_owned(),
                headers: request.headers.iter().map(pair).collect(),
                body: Vec::new(),
            };
            buffer.drain(..length);
            break received;
        }
        more(tcp, buffer)?;
    };
    if received.all("transfer-encoding") == ["chunked"] {
        // Recorded as it came: framing and all.
        while !(buffer.ends_with(b"0\r\n\r\n")) {
            more(tcp, buffer)?;
        }
        received.body = std::mem::take(buffer);
    } else if let Some(length) = received.all("content-length").first().and_then(|length| length.parse().ok()) {
        while buffer.len() < length {
            more(tcp, buffer)?;
        }
        received.body = buffer.drain(..length).collect();
    }
    Some(received)
}

fn more(tcp: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<()> {
    let mut piece = [0; 16 * 1024];
    let count = tcp.read(&mut piece).ok().filter(|&count| count > 0)?;
    buffer.extend_from_slice(&piece[..count]);
    Some(())
}

/// The head of an answer whose body would have seven bytes.
fn reply_to_head(tcp: &mut TcpStream) -> Option<()> {
    tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 7\r\n\r\n").ok()
}

/// How the fake answers; `None` when the proxy hung up meanwhile or we broke off on purpose.
fn reply(tcp: &mut TcpStream, target: &str) -> Option<()> {
    let stream = |length: usize| {
        format!("HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncontent-length: {length}\r\n\r\n")
    };
    let name = target.split('?').next().and_then(|path| path.rsplit('/').next()).unwrap_or_default();
    match name {
        "huge" => {
            tcp.write_all(stream(HUGE).as_bytes()).ok()?;
            let piece = vec![b'x'; 64 * 1024];
            for _ in 0..HUGE / piece.len() {
                tcp.write_all(&piece).ok()?;
            }
        }
        "half" => {
            tcp.write_all(stream(1000).as_bytes()).ok()?;
            tcp.write_all(&[b'x'; 500]).ok()?;
            return None;
        }
        "never" => {
            let mut byte = [0];
            let _ = tcp.read(&mut byte);
            return None;
        }
        "events" => {
            tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
                .ok()?;
            for _ in 0..EVENTS {
                tcp.write_all(b"9\r\ndata: 1\n\n\r\n").ok()?;
                pause(Duration::from_millis(200));
            }
            tcp.write_all(b"0\r\n\r\n").ok()?;
        }
        "tagged" => {
            let headers =
                "etag: \"1\"\r\ncache-control: public, max-age=600\r\nvary: Accept-Encoding\r\ncontent-length: 1";
            tcp.write_all(format!("HTTP/1.1 200 OK\r\n{headers}\r\n\r\nx").as_bytes()).ok()?;
        }
        _ => {
            let body = small(target);
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nserver: uvicorn\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            tcp.write_all(format!("{head}{body}").as_bytes()).ok()?;
        }
    }
    Some(())
}

/// Something that a look-up may understand.
fn small(target: &str) -> String {
    let objects = BTreeMap::from([
        ("runs/", r#"{"run":{"info":{"run_id":"0123456789abcdef0123456789abcdef","experiment_id":"1"}}}"#),
        (
            "experiments/",
            r#"{"experiment":{"experiment_id":"1","name":"e","artifact_location":"mlflow-artifacts:/1","lifecycle_stage":"active"}}"#,
        ),
    ]);
    let found = objects.iter().find(|(path, _)| target.contains(*path));
    found.map_or("{}", |(_, body)| body).to_owned()
}

pub(crate) const HUGE: usize = 64 * 1024 * 1024;
pub(crate) const EVENTS: usize = 5;
