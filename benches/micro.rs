//! The pure core, piece by piece: classify, canonicalise, decide. Everything here runs once per request or more often.
//!
//! `cargo bench --bench micro`; one group alone: `cargo bench --bench micro -- decide`.

#![allow(clippy::unwrap_used, reason = "a benchmark whose input is wrong has nothing to measure")]

use std::fmt::Write as _;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use http::Method;
use http::uri::PathAndQuery;
use mlflow_auth_proxy::authz::{
    DefaultPermission, Grant, Identity, Limits, Permission, Requirement, Resource, ResourceKind, Scheme, Selector,
    Subject, TokenId, UserId, Visibility, authorize,
};
use mlflow_auth_proxy::http::{CanonicalPath, Query};
use mlflow_auth_proxy::mlflow::{Found, Input, Json, Table, Unknown, canonical, locate};

mod credentials;
#[allow(dead_code, clippy::indexing_slicing, reason = "shared with the tests, which use the rest and may stop")]
#[path = "../tests/it/provider.rs"]
mod provider;

/// The proxy's own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let criterion =
        Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    let mut criterion = criterion.configure_from_args();
    classify(&mut criterion);
    canonicalise(&mut criterion);
    decide(&mut criterion);
    credentials::recognise(&mut criterion);
    criterion.final_summary();
}

/// Method and path to a row of the table, and the ids that the row asks for.
fn classify(criterion: &mut Criterion) {
    let table = Table::built_in().unwrap();
    let headers = http::HeaderMap::new();
    let mut group = criterion.benchmark_group("classify");
    for (name, method, path) in [
        ("first row", Method::GET, "/api/2.0/mlflow/experiments/get"),
        ("twin for the web UI", Method::POST, "/ajax-api/2.0/mlflow/runs/search"),
        ("parameter", Method::GET, "/api/2.0/mlflow/logged-models/m-0123456789abcdef0123456789abcdef"),
        ("rest of the path", Method::GET, "/api/2.0/mlflow-artifacts/artifacts/1/0123456789abcdef/artifacts/a/b/c.bin"),
        ("unlisted", Method::POST, "/api/3.0/mlflow/something/new"),
    ] {
        group.bench_function(name, |bencher| bencher.iter(|| table.find(black_box(&method), black_box(path))));
    }
    let path = "/api/2.0/mlflow/experiments/get";
    group.bench_function("locate a query id", |bencher| {
        bencher.iter(|| {
            let Found::Operation { operation, params } = table.find(&Method::GET, black_box(path)) else { return None };
            let mut query = Query::parse(black_box("experiment_id=12")).unwrap();
            table.rebuild(operation, &mut query, None, &mut Unknown::default()).unwrap();
            Some(
                locate(operation, &mut Input { params: &params, headers: &headers, query: &mut query, body: None })
                    .unwrap(),
            )
        });
    });
    let batch = log_batch(100);
    group.bench_function("locate in a batch of 100 metrics", |bencher| {
        bencher.iter(|| {
            let path = "/api/2.0/mlflow/runs/log-batch";
            let Found::Operation { operation, params } = table.find(&Method::POST, path) else { return None };
            let (mut query, body) = (Query::default(), Some(black_box(batch.as_bytes())));
            let text = table.rebuild(operation, &mut query, body, &mut Unknown::default()).unwrap().unwrap();
            let mut body = Json::open(&text).unwrap();
            Some(
                locate(
                    operation,
                    &mut Input { params: &params, headers: &headers, query: &mut query, body: Some(&mut body) },
                )
                .unwrap(),
            )
        });
    });
    group.finish();
}

/// The one accepted spelling of paths, queries and JSON, and back to bytes.
fn canonicalise(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("canonicalise");
    for (name, target) in [
        ("plain path", "/api/2.0/mlflow/experiments/get"),
        ("path with escapes", "/api/2.0/mlflow-artifacts/artifacts/1/run/artifacts/my%20model%20%C3%A9/weights.bin"),
    ] {
        let target: PathAndQuery = target.parse().unwrap();
        group.bench_function(name, |bencher| {
            bencher.iter(|| CanonicalPath::parse(black_box(&target)).unwrap().encoded().len());
        });
    }
    for (name, query) in [
        ("query of one", "experiment_id=12"),
        ("query with escapes", "run_id=0123456789abcdef&metric_key=val%2Floss+%C3%A9&max_results=25000&page_token="),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| Query::parse(black_box(query)).unwrap().encoded());
        });
    }
    for (name, body) in [
        (
            "JSON of one metric",
            r#"{"run_id":"0123456789abcdef","key":"loss","value":0.25,"timestamp":1763700000000,"step":7}"#.to_owned(),
        ),
        ("JSON of 1,000 metrics", log_batch(1_000)),
    ] {
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| canonical(black_box(body.as_bytes())).unwrap());
        });
    }
    group.finish();
}

/// Grants in, a permit or a reason out; and the question that lists ask once per request.
fn decide(criterion: &mut Criterion) {
    let policy = DefaultPermission(Permission::NoPermissions);
    let mut group = criterion.benchmark_group("decide");
    for grants in [1, 100, 10_000] {
        let reader = reader_of(grants);
        let read = [read_on((grants / 2).to_string())];
        let absent = [read_on("999999".to_owned())];
        group.bench_function(format!("allowed, {grants} grants"), |bencher| {
            bencher.iter(|| authorize(black_box(&reader), policy, black_box(&read)).is_ok());
        });
        group.bench_function(format!("denied, {grants} grants"), |bencher| {
            bencher.iter(|| authorize(black_box(&reader), policy, black_box(&absent)).is_err());
        });
    }
    let reader = reader_of(100);
    group.bench_function("what a list may show, 100 grants", |bencher| {
        bencher.iter(|| Visibility::of(black_box(&reader), policy, ResourceKind::Experiment));
    });
    group.finish();
}

fn read_on(experiment: String) -> Requirement {
    Requirement::level(Permission::Read, Resource::new(ResourceKind::Experiment, experiment))
}

fn reader_of(experiments: u32) -> Identity {
    let subject = Subject::User(UserId(2));
    let grants = (0..experiments).map(|id| Grant {
        subject: subject.clone(),
        kind: ResourceKind::Experiment,
        selector: Selector::Exact(id.to_string()),
        permission: Permission::Read,
    });
    Identity {
        user: UserId(2),
        name: Arc::from("reader"),
        admin: false,
        scheme: Scheme::Token(TokenId(1)),
        groups: Arc::default(),
        limits: Limits::default(),
        grants: Arc::new(grants.collect()),
        shadow: None,
    }
}

fn log_batch(metrics: usize) -> String {
    let mut body = r#"{"run_id":"0123456789abcdef0123456789abcdef","metrics":["#.to_owned();
    for step in 0..metrics {
        let comma = if step > 0 { "," } else { "" };
        write!(body, r#"{comma}{{"key":"loss","value":0.{step},"timestamp":1763700000000,"step":{step}}}"#).unwrap();
    }
    body + r#"],"params":[],"tags":[]}"#
}
