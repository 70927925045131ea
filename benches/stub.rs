//! A stand-in for MLflow that costs next to nothing: answers of MLflow's shape and size, and no work behind them.
//!
//! Usage: `stub LISTEN`. It stops when its standard input closes, so it does not outlive whoever started it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::net::unix::pipe;
use tokio_util::task::TaskTracker;

/// What `big.bin` weighs.
const BIG: usize = 64 * 1024 * 1024;
const PIECE: usize = 256 * 1024;
const ARTIFACTS: &str = "/api/2.0/mlflow-artifacts/artifacts/";

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let [listen] =
        std::env::args().skip(1).collect::<Vec<_>>().try_into().map_err(|_| anyhow::anyhow!("stub LISTEN"))?;
    let listener = TcpListener::bind(listen.parse::<SocketAddr>()?).await?;
    tokio::select! {
        ended = serve(listener) => ended,
        () = stdin_closed() => Ok(()),
    }
}

async fn serve(listener: TcpListener) -> anyhow::Result<()> {
    let connections = TaskTracker::new();
    let ready = Ready { piece: Bytes::from(vec![b'm'; PIECE]), experiment: experiment("1").into() };
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let ready = ready.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| answer(request, ready.clone()));
            // A proxy that drops a connection is not our concern here.
            let _ =
                http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// What is asked thousands of times a second is made once.
#[derive(Clone)]
struct Ready {
    piece: Bytes,
    experiment: Bytes,
}

async fn answer(mut request: Request<Incoming>, ready: Ready) -> Result<Response<Answer>, Infallible> {
    while let Some(Ok(_swallowed)) = request.body_mut().frame().await {}
    let path = request.uri().path();
    let rest = path.strip_prefix("/api/2.0/mlflow/").or_else(|| path.strip_prefix("/ajax-api/2.0/mlflow/"));
    Ok(match (request.method(), rest.unwrap_or(path)) {
        (&Method::GET, "experiments/get") => match asked(&request, "experiment_id") {
            Some("1") | None => json(ready.experiment),
            Some(other) => json(experiment(other)),
        },
        (&Method::GET, "experiments/get-by-name") => json(ready.experiment),
        (_, "experiments/search") => json(r#"{"experiments":[]}"#),
        (&Method::GET, "runs/get") => json(run(asked(&request, "run_id").unwrap_or("0"))),
        (&Method::POST, "runs/search") => json(r#"{"runs":[]}"#),
        (&Method::POST, "runs/log-metric" | "runs/log-batch") => json("{}"),
        (&Method::GET, "registered-models/search") => json(r#"{"registered_models":[]}"#),
        (_, "/version") => text("3.17.2"),
        (_, "/health") => text("OK"),
        (&Method::GET, path) if path.starts_with(ARTIFACTS) => big(ready.piece),
        (&Method::PUT, path) if path.starts_with(ARTIFACTS) => json("{}"),
        _ => {
            let mut response = json(r#"{"error_code":"RESOURCE_DOES_NOT_EXIST","message":"not here"}"#);
            *response.status_mut() = StatusCode::NOT_FOUND;
            response
        }
    })
}

/// About 1 KiB, as MLflow writes it.
fn experiment(id: &str) -> String {
    let tags: Vec<_> = (0..10)
        .map(|n| serde_json::json!({ "key": format!("team.setting.{n}"), "value": format!("a value of usual length {n}") }))
        .collect();
    let experiment = serde_json::json!({
        "experiment_id": id, "name": "fraud detection", "artifact_location": format!("mlflow-artifacts:/{id}"),
        "lifecycle_stage": "active", "creation_time": 1_763_700_000_000_i64, "last_update_time": 1_763_700_000_000_i64, "tags": tags,
    });
    format!("{:#}", serde_json::json!({ "experiment": experiment }))
}

fn run(id: &str) -> String {
    let info = serde_json::json!({
        "run_id": id, "run_uuid": id, "experiment_id": "1", "run_name": "sedate-carp-12", "user_id": "alice",
        "status": "FINISHED", "start_time": 1_763_700_000_000_i64, "end_time": 1_763_700_060_000_i64,
        "artifact_uri": format!("mlflow-artifacts:/1/{id}/artifacts"), "lifecycle_stage": "active",
    });
    format!("{:#}", serde_json::json!({ "run": { "info": info, "data": { "tags": [], "params": [] } } }))
}

fn asked<'r>(request: &'r Request<Incoming>, name: &str) -> Option<&'r str> {
    let pairs = request.uri().query()?.split('&').filter_map(|pair| pair.split_once('='));
    pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value)
}

fn json(text: impl Into<Bytes>) -> Response<Answer> {
    let mut response = Response::new(Answer::small(text.into()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn text(text: &'static str) -> Response<Answer> {
    let mut response = Response::new(Answer::small(Bytes::from_static(text.as_bytes())));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    response
}

fn big(piece: Bytes) -> Response<Answer> {
    let mut response = Response::new(Answer { piece, left: BIG });
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment; filename=big.bin"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// The same piece again and again until `left` bytes are out.
struct Answer {
    piece: Bytes,
    left: usize,
}

impl Answer {
    fn small(bytes: Bytes) -> Self {
        Self { left: bytes.len(), piece: bytes }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let piece = self.piece.slice(..self.piece.len().min(self.left));
        self.left -= piece.len();
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left as u64)
    }
}

/// Waits for whoever started us to go away; for ever when standard input is no pipe.
async fn stdin_closed() {
    match pipe::OpenOptions::new().open_receiver("/dev/stdin") {
        Ok(mut stdin) => while !matches!(stdin.read(&mut [0; 64]).await, Ok(0) | Err(_)) {},
        Err(_) => std::future::pending().await,
    }
}
