//! The load: as little HTTP/1.1 client as it takes, so that the proxy is what is measured.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use bytes::BytesMut;
use mlflow_auth_proxy::clock::Stopwatch;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_rustls::TlsConnector;

pub(crate) const GET: &str = "/api/2.0/mlflow/experiments/get?experiment_id=1";
const DOWNLOAD: &str = "/api/2.0/mlflow-artifacts/artifacts/1/run/artifacts/big.bin";
const UPLOAD: &str = "/api/2.0/mlflow-artifacts/artifacts/2/run/artifacts/big.bin";
pub(crate) const BIG: usize = 64 * 1024 * 1024;
const PIECE: usize = 256 * 1024;

/// Where requests go, and as whom.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) authorization: Option<String>,
    pub(crate) cookie: Option<String>,
    pub(crate) tls: Option<TlsConnector>,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.address.fmt(f)
    }
}

/// What a slot of many small requests came to.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) seconds: f64,
    /// From sending a request to the last byte of its answer, sorted.
    pub(crate) latencies: Vec<Duration>,
}

impl Load {
    pub(crate) fn quantile(&self, q: f64) -> Duration {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an index between 0 and the length"
        )]
        let index = (self.latencies.len().saturating_sub(1) as f64 * q).round() as usize;
        self.latencies.get(index).copied().unwrap_or_default()
    }
}

impl Target {
    pub(crate) fn new(address: SocketAddr, tls: Option<TlsConnector>) -> Self {
        Self { address, authorization: None, cookie: None, tls }
    }

    pub(crate) async fn connect(&self) -> anyhow::Result<Connection> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let stream: Box<dyn Stream> = match &self.tls {
            None => Box::new(stream),
            Some(tls) => Box::new(tls.connect(ServerName::try_from("127.0.0.1")?, stream).await?),
        };
        let host = format!("Host: {}\r\n", self.address);
        let authorization = self.authorization.as_ref().map(|value| format!("Authorization: {value}\r\n"));
        let cookie = self.cookie.as_ref().map(|value| format!("Cookie: {value}\r\n"));
        let headers = host + &authorization.unwrap_or_default() + &cookie.unwrap_or_default();
        Ok(Connection { stream, received: BytesMut::new(), headers })
    }

    /// The whole answer, head and body, to a request that is written out here; the connection ends with it.
    pub(crate) async fn say(&self, method: &str, path: &str, headers: &str, body: &str) -> anyhow::Result<String> {
        let mut connection = self.connect().await?;
        let length = body.len();
        let more = format!("Connection: close\r\nContent-Length: {length}\r\n{headers}");
        let request = connection.head(method, path, &more) + body;
        connection.stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        connection.stream.read_to_end(&mut answer).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// One small request for each of these `Authorization` values, spread over `connections` and over time.
    pub(crate) async fn each(
        &self,
        connections: usize,
        per_second: u32,
        authorizations: &[String],
    ) -> anyhow::Result<()> {
        let mut tasks = JoinSet::new();
        let begin = Instant::now();
        for turn in 0..connections {
            let mut connection = self.connect().await?;
            let mine = authorizations.iter().enumerate().skip(turn).step_by(connections);
            let requests: Vec<_> = mine
                .map(|(index, value)| {
                    let at = begin + Duration::from_secs(1) * u32::try_from(index).unwrap_or(u32::MAX) / per_second;
                    (at, connection.head("GET", GET, &format!("Authorization: {value}\r\n")))
                })
                .collect();
            tasks.spawn(async move {
                for (at, request) in requests {
                    sleep_until(at).await;
                    connection.exchange(request.as_bytes()).await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(done) = tasks.join_next().await {
            done??;
        }
        Ok(())
    }

    /// `connections` ask again as soon as they are answered: how much fits through.
    pub(crate) async fn saturate(&self, connections: usize, duration: Duration) -> anyhow::Result<Load> {
        self.many(connections, |_| None, duration).await
    }

    /// `per_second` requests, spread over `connections`: what one request waits while the machine is not full.
    pub(crate) async fn pace(&self, connections: u32, per_second: u32, duration: Duration) -> anyhow::Result<Load> {
        let interval = Duration::from_secs(1) * connections / per_second;
        let first = |index| interval * u32::try_from(index).unwrap_or(0) / connections;
        self.many(connections as usize, |index| Some((first(index), interval)), duration).await
    }

    async fn many(
        &self,
        connections: usize,
        pace: impl Fn(usize) -> Option<(Duration, Duration)>,
        duration: Duration,
    ) -> anyhow::Result<Load> {
        let mut tasks = JoinSet::new();
        let mut opened = Vec::with_capacity(connections);
        for _ in 0..connections {
            opened.push(self.connect().await?);
        }
        let begin = Stopwatch::start();
        for (index, connection) in opened.into_iter().enumerate() {
            tasks.spawn(connection.ask_until(begin, duration, pace(index)));
        }
        let mut latencies = Vec::new();
        while let Some(done) = tasks.join_next().await {
            latencies.append(&mut done??);
        }
        let seconds = begin.elapsed().as_secs_f64();
        latencies.sort_unstable();
        Ok(Load { seconds, latencies })
    }

    /// That many connections, each used once and then left alone.
    pub(crate) async fn idle(&self, connections: usize) -> anyhow::Result<Vec<Connection>> {
        let mut idle = Vec::with_capacity(connections);
        let mut opening = JoinSet::new();
        for _ in 0..connections {
            if opening.len() == 16 {
                idle.push(opening.join_next().await.context("sixteen are opening")???);
            }
            let target = self.clone();
            opening.spawn(async move {
                let mut connection = target.connect().await?;
                let request = connection.head("GET", GET, "");
                connection.exchange(request.as_bytes()).await?;
                anyhow::Ok(connection)
            });
        }
        while let Some(opened) = opening.join_next().await {
            idle.push(opened??);
        }
        Ok(idle)
    }

    /// Readers of 64 MiB that take 16 KiB now and then, until told to stop by dropping the set.
    pub(crate) async fn slow_readers(&self, readers: usize) -> anyhow::Result<JoinSet<anyhow::Result<()>>> {
        let mut tasks = JoinSet::new();
        for _ in 0..readers {
            let mut connection = self.connect().await?;
            tasks.spawn(async move {
                let request = connection.head("GET", DOWNLOAD, "");
                connection.stream.write_all(request.as_bytes()).await?;
                let mut scratch = vec![0; 16 * 1024];
                while connection.stream.read(&mut scratch).await? > 0 {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                anyhow::bail!("a slow reader was cut off")
            });
        }
        Ok(tasks)
    }
}

/// One kept-alive connection.
pub(crate) struct Connection {
    stream: Box<dyn Stream>,
    received: BytesMut,
    headers: String,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

impl Connection {
    fn head(&self, method: &str, path: &str, more: &str) -> String {
        format!("{method} {path} HTTP/1.1\r\n{}Accept: */*\r\nUser-Agent: bench\r\n{more}\r\n", self.headers)
    }

    async fn ask_until(
        mut self,
        begin: Stopwatch,
        duration: Duration,
        pace: Option<(Duration, Duration)>,
    ) -> anyhow::Result<Vec<Duration>> {
        let request = self.head("GET", GET, "");
        let mut latencies = Vec::with_capacity(16 * 1024);
        let mut next = pace.map(|(first, interval)| (Instant::now() + first, interval));
        while begin.elapsed() < duration {
            if let Some((at, interval)) = &mut next {
                sleep_until(*at).await;
                *at += *interval;
            }
            let sent = Stopwatch::start();
            self.exchange(request.as_bytes()).await?;
            latencies.push(sent.elapsed());
        }
        Ok(latencies)
    }

    /// Sends a request and reads its answer, which must be 200.
    async fn exchange(&mut self, request: &[u8]) -> anyhow::Result<()> {
        self.stream.write_all(request).await?;
        let (status, length) = self.answer_head().await?;
        let have = length.min(self.received.len());
        let text = String::from_utf8_lossy(self.received.get(..have).unwrap_or_default());
        anyhow::ensure!(status == 200, "answered {status}: {text}");
        self.discard(length).await
    }

    pub(crate) async fn download(&mut self) -> anyhow::Result<()> {
        let request = self.head("GET", DOWNLOAD, "");
        self.stream.write_all(request.as_bytes()).await?;
        let (status, length) = self.answer_head().await?;
        anyhow::ensure!(status == 200 && length == BIG, "answered {status} with {length} bytes");
        self.discard(length).await
    }

    pub(crate) async fn upload(&mut self) -> anyhow::Result<()> {
        let more = format!("Content-Type: application/octet-stream\r\nContent-Length: {BIG}\r\n");
        let request = self.head("PUT", UPLOAD, &more);
        self.stream.write_all(request.as_bytes()).await?;
        let piece = vec![b'u'; PIECE];
        for _ in 0..BIG / PIECE {
            self.stream.write_all(&piece).await?;
        }
        self.stream.flush().await?;
        let (status, length) = self.answer_head().await?;
        anyhow::ensure!(status == 200, "answered {status}");
        self.discard(length).await
    }

    pub(crate) async fn post(mut self, path: &str, body: &str) -> anyhow::Result<(u16, Vec<u8>)> {
        let more = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        let request = self.head("POST", path, &more) + body;
        self.stream.write_all(request.as_bytes()).await?;
        let (status, length) = self.answer_head().await?;
        while self.received.len() < length {
            anyhow::ensure!(self.stream.read_buf(&mut self.received).await? > 0, "the answer broke off");
        }
        Ok((status, self.received.split_to(length).to_vec()))
    }

    /// Status and Content-Length of the next answer.
    async fn answer_head(&mut self) -> anyhow::Result<(u16, usize)> {
        loop {
            let mut headers = [httparse::EMPTY_HEADER; 32];
            let mut head = httparse::Response::new(&mut headers);
            if let httparse::Status::Complete(end) = head.parse(&self.received)? {
                let length = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
                let length = length.context("an answer without Content-Length")?;
                let found = (head.code.context("status")?, std::str::from_utf8(length.value)?.parse()?);
                let _head = self.received.split_to(end);
                return Ok(found);
            }
            self.received.reserve(4 * 1024);
            anyhow::ensure!(self.stream.read_buf(&mut self.received).await? > 0, "the connection was closed");
        }
    }

    async fn discard(&mut self, length: usize) -> anyhow::Result<()> {
        let have = length.min(self.received.len());
        let _seen = self.received.split_to(have);
        let mut left = length - have;
        if left == 0 {
            return Ok(());
        }
        let mut scratch = vec![0; left.min(PIECE)];
        while left > 0 {
            let room = scratch.len().min(left);
            let read = self.stream.read(scratch.get_mut(..room).unwrap_or_default()).await?;
            anyhow::ensure!(read > 0, "the answer broke off");
            left -= read;
        }
        Ok(())
    }
}
