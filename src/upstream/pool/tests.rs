use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use super::*;

/// A server whose connections the test sees one by one.
struct Server {
    arrived: mpsc::Receiver<TcpStream>,
    pool: Arc<Pool>,
}

impl Server {
    async fn new(max_idle: usize, idle_timeout: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        let (arrives, arrived) = mpsc::channel(8);
        TaskTracker::new().spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                arrives.send(tcp).await.unwrap();
            }
        });
        let mut config = config::defaults().unwrap().upstream;
        (config.pool_max_idle, config.pool_idle_timeout) = (max_idle, idle_timeout);
        let pool = Arc::new(Pool::new(&config, Connector::Plain(HttpConnector::new()), server));
        Self { arrived, pool }
    }

    /// Starts a request whose answer is read to its end.
    fn ask(&self) -> tokio::task::JoinHandle<Result<(), Failure>> {
        let pool = Arc::clone(&self.pool);
        TaskTracker::new().spawn(async move {
            let answer = pool.request(request()).await?;
            answer.into_body().collect().await?;
            Ok(())
        })
    }

    async fn connection(&mut self) -> TcpStream {
        tokio::time::timeout(Duration::from_secs(10), self.arrived.recv()).await.expect("a connection").unwrap()
    }

    /// The connection of a request that was answered, kept for the next one.
    async fn kept(&mut self) -> TcpStream {
        let asked = self.ask();
        let mut tcp = self.connection().await;
        answer(&mut tcp).await;
        asked.await.unwrap().unwrap();
        self.ready(1).await;
        tcp
    }

    fn has_no_other(&mut self) -> bool {
        self.arrived.try_recv().is_err()
    }

    /// Waits until so many kept connections can be used.
    async fn ready(&self, count: usize) {
        while self.pool.kept().iter().filter(|kept| kept.sender.is_ready()).count() != count {
            tokio::task::yield_now().await;
        }
    }
}

fn request() -> Request<Body> {
    let mut request = Request::new(Body::Empty);
    *request.uri_mut() = "/a".parse().unwrap();
    request.headers_mut().insert(http::header::HOST, http::HeaderValue::from_static("mlflow"));
    request
}

async fn read_head(tcp: &mut TcpStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        assert_ne!(tcp.read_buf(&mut head).await.unwrap(), 0, "the connection was closed");
    }
}

async fn answer(tcp: &mut TcpStream) {
    read_head(tcp).await;
    tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
}

const LONG: Duration = Duration::from_hours(1);

#[tokio::test]
async fn requests_one_after_another_share_a_connection() {
    let mut server = Server::new(8, LONG).await;
    let mut tcp = server.kept().await;
    let second = server.ask();
    answer(&mut tcp).await;
    second.await.unwrap().unwrap();
    assert!(server.has_no_other());
}

#[tokio::test]
async fn a_connection_whose_answer_is_not_read_yet_is_not_used() {
    let mut server = Server::new(8, LONG).await;
    let first = server.ask();
    let mut one = server.connection().await;
    read_head(&mut one).await;
    one.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no").await.unwrap();
    while server.pool.kept().is_empty() {
        tokio::task::yield_now().await;
    }
    let second = server.ask();
    let mut other = server.connection().await;
    answer(&mut other).await;
    second.await.unwrap().unwrap();
    one.write_all(b"k").await.unwrap();
    first.await.unwrap().unwrap();
    server.ready(2).await;
}

#[tokio::test]
async fn a_kept_connection_that_closed_is_replaced_and_a_new_one_is_not() {
    let mut server = Server::new(8, LONG).await;
    let tcp = server.kept().await;
    drop(tcp);
    server.ready(0).await;
    let second = server.ask();
    let mut tcp = server.connection().await;
    answer(&mut tcp).await;
    second.await.unwrap().unwrap();
    // A connection that was just made and breaks after the request was sent.
    let mut server = Server::new(8, LONG).await;
    let third = server.ask();
    let mut tcp = server.connection().await;
    read_head(&mut tcp).await;
    drop(tcp);
    let failure = third.await.unwrap().unwrap_err();
    assert!(!failure.is_unsent() && !failure.is_connect(), "{failure}");
    assert!(server.has_no_other());
}

#[tokio::test]
async fn idle_connections_are_bounded_and_expire() {
    let mut server = Server::new(2, Duration::from_secs(2)).await;
    let asked: Vec<_> = (0..3).map(|_| server.ask()).collect();
    let mut all = Vec::new();
    for _ in 0..3 {
        let mut tcp = server.connection().await;
        read_head(&mut tcp).await;
        all.push(tcp);
    }
    // All heads arrive before any of the responses ends.
    for tcp in &mut all {
        tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no").await.unwrap();
    }
    while server.pool.kept().len() < 3 {
        tokio::task::yield_now().await;
    }
    for tcp in &mut all {
        tcp.write_all(b"k").await.unwrap();
    }
    for asked in asked {
        asked.await.unwrap().unwrap();
    }
    while server.pool.kept().len() > 2 {
        tokio::task::yield_now().await;
    }
    for tcp in &mut all {
        // One is surplus, the others expire.
        assert_eq!(tcp.read(&mut [0]).await.unwrap(), 0);
    }
    server.ready(0).await;
    assert!(server.has_no_other());
}

#[tokio::test]
async fn a_server_that_is_not_there_is_an_unsent_request() {
    let server = Server::new(8, LONG).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let away = format!("http://{}/", listener.local_addr().unwrap());
    drop(listener);
    let config = config::defaults().unwrap().upstream;
    let pool = Arc::new(Pool::new(&config, server.pool.connector.clone(), away.parse().unwrap()));
    let failure = pool.request(request()).await.unwrap_err();
    assert!(failure.is_unsent() && failure.is_connect());
    assert!(failure.to_string().contains("refused"), "{failure}");
}

#[tokio::test]
async fn a_connection_is_not_kept_after_a_response_that_must_have_no_body() {
    let mut server = Server::new(8, LONG).await;
    for status in ["204 No Content", "304 Not Modified"] {
        let asked = server.ask();
        let mut tcp = server.connection().await;
        read_head(&mut tcp).await;
        tcp.write_all(format!("HTTP/1.1 {status}\r\n\r\n").as_bytes()).await.unwrap();
        asked.await.unwrap().unwrap();
        assert_eq!(tcp.read(&mut [0]).await.unwrap(), 0);
    }
}
