use std::convert::Infallible;
use std::sync::Mutex;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// Serves `stream`, which arrives in `pieces`; returns what hyper understood: method, path, body.
async fn understood(stream: &[u8], pieces: usize, guarded: Guarded) -> Vec<(String, String, Bytes)> {
    let (mut client, server) = tokio::io::duplex(64 * 1024);
    let requests = Mutex::new(Vec::new());
    let service = service_fn(|request: http::Request<Incoming>| async {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        requests.lock().unwrap().push((head.method.to_string(), head.uri.path().to_owned(), body));
        Ok::<_, Infallible>(http::Response::new(Full::new(Bytes::new())))
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(None).half_close(true);
    let talk = async {
        for piece in stream.chunks(stream.len().div_ceil(pieces).max(1)) {
            client.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        tokio::task::yield_now().await;
        client.shutdown().await.unwrap();
        let mut answers = Vec::new();
        let _ = client.read_to_end(&mut answers).await;
    };
    match guarded {
        Guarded::Yes => {
            let inspector = Inspector::new(8192, 100);
            let guard = Guard::new(server, Arc::new(Wire::default()), inspector, Duration::from_secs(5));
            let _ = tokio::join!(builder.serve_connection(TokioIo::new(guard), service), talk);
        }
        Guarded::No => {
            let _ = tokio::join!(builder.serve_connection(TokioIo::new(server), service), talk);
        }
    }
    requests.into_inner().unwrap()
}

#[derive(Clone, Copy)]
enum Guarded {
    Yes,
    No,
}

fn request() -> impl Strategy<Value = String> {
    let body = prop_oneof![
        Just(String::new()),
        "[a-z\r\n ]{0,40}".prop_map(|body| format!("Content-Length: {}\r\n\r\n{body}", body.len())),
        prop::collection::vec("[a-z\r\n]{1,20}", 0..4).prop_map(|chunks| {
            let chunks: String = chunks.iter().map(|chunk| format!("{:x};e=1\r\n{chunk}\r\n", chunk.len())).collect();
            format!("Transfer-Encoding: chunked\r\n\r\n{chunks}0\r\nX-T: 1\r\n\r\n")
        }),
    ];
    ("(GET|POST|DELETE)", "/[a-z]{0,30}", body).prop_map(|(method, path, body)| {
        let body = if body.is_empty() { "\r\n" } else { &body };
        format!("{method} {path} HTTP/1.1\r\nHost: a\r\n{body}")
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn hyper_understands_good_pipelines_as_it_does_alone(
        requests in prop::collection::vec(request(), 1..6),
        pieces in 1_usize..200,
    ) {
        let stream = requests.concat().into_bytes();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (with, without) = runtime.block_on(async {
            (understood(&stream, pieces, Guarded::Yes).await, understood(&stream, 1, Guarded::No).await)
        });
        prop_assert_eq!(with.len(), requests.len());
        prop_assert_eq!(with, without);
    }
}

#[tokio::test]
async fn nothing_behind_a_refused_head_is_understood() {
    let stream = "GET /good HTTP/1.1\r\nHost: a\r\n\r\nPOST /bad HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\
                  Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    for pieces in [1, 2, 7, stream.len()] {
        let requests = understood(stream.as_bytes(), pieces, Guarded::Yes).await;
        let paths: Vec<_> = requests.iter().map(|(method, path, _)| format!("{method} {path}")).collect();
        assert_eq!(paths, ["GET /good", "POST /"], "in {pieces} pieces");
    }
}
