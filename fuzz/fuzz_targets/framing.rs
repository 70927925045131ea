//! Every request that hyper understands begins where the inspector vetted a head, and has the body that it saw.
#![no_main]

use std::convert::Infallible;
use std::ops::Range;
use std::sync::{LazyLock, Mutex};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use libfuzzer_sys::fuzz_target;
use mlflow_auth_proxy::server::EdgeRefusal;
use tokio::runtime::{Builder, Runtime};

/// Nobody outside `server` looks below hyper, so these are not the library's to give.
#[path = "../../src/server/chunked.rs"]
mod chunked;
#[path = "../../src/server/inspect.rs"]
mod inspect;

use inspect::{Inspector, Then};

const MAX_HEAD: usize = 8192;
const MAX_HEADERS: usize = 100;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Builder::new_current_thread().build().expect("a runtime"));

fuzz_target!(|input: &[u8]| {
    let vetted = inspect(input, 1);
    for size in [7, input.len().max(1)] {
        let other = inspect(input, size);
        assert_eq!((other.passed, other.count), (vetted.passed, vetted.count), "in pieces of {size}");
    }
    let passed = &input[..vetted.passed];
    let understood = understood(passed);
    assert!(understood.len() <= vetted.heads.len(), "{understood:?}");
    let ends = vetted.heads.iter().skip(1).map(|head| head.start).chain([passed.len()]);
    for ((request, head), end) in understood.iter().zip(&vetted.heads).zip(ends) {
        check(request, &passed[head.clone()], &passed[head.end..end]);
    }
});

/// What passed the inspector.
struct Vetted {
    passed: usize,
    count: u64,
    /// Where heads are; known when bytes came one by one.
    heads: Vec<Range<usize>>,
}

/// Offers again what did not pass, as the guard does.
fn inspect(stream: &[u8], size: usize) -> Vetted {
    let mut inspector = Inspector::new(MAX_HEAD, MAX_HEADERS);
    let (mut passed, mut heads) = (0, Vec::new());
    for end in (0..stream.len()).step_by(size).map(|start| (start + size).min(stream.len())) {
        let count = inspector.heads();
        let seen = inspector.inspect(&stream[passed..end]);
        assert!(passed + seen.pass <= end);
        if inspector.heads() > count {
            heads.push(passed..passed + seen.pass);
        }
        passed += seen.pass;
        if seen.then != Then::Go {
            break;
        }
    }
    assert!(inspector.in_body() || heads.len() as u64 <= inspector.heads());
    Vetted { passed, count: inspector.heads(), heads }
}

/// A request as hyper understood it.
#[derive(Debug)]
struct Understood {
    method: String,
    target: String,
    sized: bool,
    /// `None` when it did not come to its end.
    body: Option<Bytes>,
}

fn understood(stream: &[u8]) -> Vec<Understood> {
    let requests = Mutex::new(Vec::new());
    let service = service_fn(|request: Request<Incoming>| async {
        let (head, body) = request.into_parts();
        let body = body.collect().await.ok().map(http_body_util::Collected::to_bytes);
        requests.lock().expect("nobody panicked").push(Understood {
            method: head.method.to_string(),
            target: head.uri.to_string(),
            sized: !head.headers.contains_key("transfer-encoding"),
            body,
        });
        Ok::<_, Infallible>(http::Response::new(Empty::<Bytes>::new()))
    });
    let io = TokioIo::new(tokio::io::join(stream, tokio::io::sink()));
    let mut builder = http1::Builder::new();
    // It may refuse what was vetted: then it serves less.
    let _ = RUNTIME.block_on(builder.half_close(true).serve_connection(io, service));
    requests.into_inner().expect("nobody panicked")
}

fn check(request: &Understood, head: &[u8], body: &[u8]) {
    let line = head.trim_ascii_start().split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split(' ');
    assert_eq!(words.next(), Some(request.method.as_str()), "{line:?}");
    let target = words.next().unwrap_or_default();
    // A fragment is dropped, and an absolute target may be spelt anew.
    let target = target.split('#').next().unwrap_or_default();
    assert!(!target.starts_with('/') || target == request.target, "{line:?} {request:?}");
    match &request.body {
        Some(understood) if request.sized => assert_eq!(understood, body, "{line:?}"),
        Some(understood) => assert!(understood.len() < body.len(), "{line:?}"),
        None => {}
    }
}
