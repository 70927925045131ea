//! Bodies that are read into memory: those of GET requests, slow ones, and the memory that all of them share.

use std::time::Duration;

use mlflow_auth_proxy::authz::{Permission, ResourceKind};
use mlflow_auth_proxy::clock::Stopwatch;

use crate::harness::{Answer, PATIENCE, Proxy, Recorder, basic, pause};

const API: &str = "/api/2.0/mlflow";

fn request(method: &str, target: &str, authorization: &str, headers: &str, body: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: proxy\r\nAuthorization: {authorization}\r\n{headers}\r\n{body}")
}

fn get_with(target: &str, authorization: &str, body: &str) -> String {
    request("GET", target, authorization, &format!("Content-Length: {}\r\n", body.len()), body)
}

#[test]
fn the_fields_of_a_gets_body_become_its_query() {
    let mlflow = Recorder::start();
    let proxy = Proxy::before(mlflow.address);
    let authorization = proxy.user("alice", &[(ResourceKind::Experiment, "5", Permission::Read)]);
    for (target, body, sent) in [
        ("experiments/get", r#"{"experiment_id":"5"}"#, "experiments/get?experiment_id=5"),
        ("experiments/get", r#"{"experimentId":"5","x":[1]}"#, "experiments/get?experiment_id=5"),
        // With a query, MLflow does not read the body.
        ("experiments/get?experiment_id=5", r#"{"experiment_id":"6"}"#, "experiments/get?experiment_id=5"),
        ("experiments/get?experiment_id=5", "no JSON", "experiments/get?experiment_id=5"),
    ] {
        let answer = proxy.ask(get_with(&format!("{API}/{target}"), &authorization, body)).expect("an answer");
        assert_eq!(answer.status, 200, "{body}: {}", answer.text());
        let received = mlflow.take();
        let targets: Vec<&str> = received.iter().map(|one| one.target.as_str()).collect();
        assert_eq!(targets, [format!("{API}/{sent}")], "{body}");
        assert!(received.iter().all(|one| one.body.is_empty() && one.all("content-length").is_empty()));
    }
    let lists = get_with(
        &format!("{API}/registered-models/search"),
        &basic(),
        r#"{"order_by":["name","a&b=c"],"max_results":5,"filter":null}"#,
    );
    assert_eq!(proxy.ask(lists).expect("an answer").status, 200);
    let targets: Vec<String> = mlflow.take().into_iter().map(|one| one.target).collect();
    assert_eq!(targets, [format!("{API}/registered-models/search?order_by=name&order_by=a%26b%3Dc&max_results=5")]);
}

#[test]
fn the_fields_of_a_gets_body_are_authorised_and_checked() {
    let mlflow = Recorder::start();
    let proxy = Proxy::before(mlflow.address);
    let authorization = proxy.user("alice", &[(ResourceKind::Experiment, "5", Permission::Read)]);
    let target = format!("{API}/experiments/get");
    for (body, status) in [
        (r#"{"experiment_id":"6"}"#.to_owned(), 403),
        (r#"{"experiment_id":"5","experimentId":"6"}"#.to_owned(), 400),
        (r#"{"experiment_id":"5","experiment_id":"6"}"#.to_owned(), 400),
        (r#"{"experiment_id":["5"]}"#.to_owned(), 400),
        (r#"{"experiment_id":"5\u0000"}"#.to_owned(), 400),
        (r#"["5"]"#.to_owned(), 400),
        (r#""{\"experiment_id\":\"5\"}""#.to_owned(), 400),
        (format!(r#"{{"experiment_id":"5","x":"{}"}}"#, "x".repeat(16 * 1024)), 413),
        ("{}".to_owned(), 400),
    ] {
        let answer = proxy.ask(get_with(&target, &authorization, &body)).expect("an answer");
        assert_eq!(answer.status, status, "{body:.80}: {}", answer.text());
    }
    let compressed = "Content-Length: 2\r\nContent-Encoding: gzip\r\n";
    let answer = proxy.ask(request("GET", &target, &authorization, compressed, "{}")).expect("an answer");
    assert_eq!(answer.status, 400);
    assert!(mlflow.take().is_empty());
}

/// Sends a body byte by byte until the proxy answers.
fn drip(proxy: &Proxy, head: &str, every: Duration) -> (Answer, bool, Duration) {
    let watch = Stopwatch::start();
    let mut client = proxy.connect();
    client.send(head);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let answer = std::thread::scope(|scope| {
        let mut sender = client.again();
        let stop = &stop;
        scope.spawn(move || {
            while !stop.load(std::sync::atomic::Ordering::SeqCst) && watch.elapsed() < PATIENCE {
                sender.send(" ");
                pause(every);
            }
        });
        let answer = client.answer().expect("an answer");
        stop.store(true, std::sync::atomic::Ordering::SeqCst);
        answer
    });
    (answer, client.is_closed(), watch.elapsed())
}

#[test]
fn a_body_that_drips_is_refused_wherever_bodies_are_read() {
    let mlflow = Recorder::start();
    let proxy = Proxy::with(mlflow.address, |config| {
        config.server.head_timeout = Duration::from_millis(300);
        config.authn.password_form = true;
    });
    let authorization = proxy.user("alice", &[(ResourceKind::Experiment, "5", Permission::Edit)]);
    let json = "Content-Type: application/json\r\n";
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    let spans = "Content-Type: application/x-protobuf\r\nX-MLflow-Experiment-Id: 5\r\n";
    let places = [
        ("POST", "/auth/login", form),
        ("POST", "/auth/backchannel-logout", form),
        ("POST", "/auth/api/v1/tokens", json),
        ("PATCH", "/api/2.0/mlflow/users/update-password", json),
        ("POST", "/api/2.0/mlflow/experiments/search", json),
        ("POST", "/api/2.0/mlflow/runs/log-batch", json),
        ("GET", "/api/2.0/mlflow/experiments/get", json),
        ("POST", "/graphql", json),
        ("POST", "/v1/traces", spans),
    ];
    std::thread::scope(|scope| {
        for (method, path, headers) in places {
            let (proxy, authorization) = (&proxy, &authorization);
            scope.spawn(move || {
                let head = request(method, path, authorization, &format!("{headers}Content-Length: 5000\r\n"), "");
                let (answer, closed, _) = drip(proxy, &head, Duration::from_millis(20));
                assert_eq!(answer.status, 408, "{method} {path}: {}", answer.text());
                assert_eq!(answer.header("connection"), Some("close"), "{method} {path}");
                assert!(closed, "{method} {path}");
            });
        }
    });
    assert!(mlflow.take().is_empty());
    let counted = format!("body_refusals_total{{reason=\"body_too_slow\"}} {}", places.len());
    assert!(proxy.metrics().contains(&counted), "{}", proxy.metrics());
}

#[test]
fn a_body_has_a_deadline_however_steadily_it_comes() {
    let mlflow = Recorder::start();
    let proxy = Proxy::with(mlflow.address, |config| {
        config.server.min_body_bytes_per_second = 1;
        config.server.body_timeout = Duration::from_millis(500);
    });
    let json = "Content-Type: application/json\r\nContent-Length: 5000\r\n";
    let head = request("POST", "/api/2.0/mlflow/experiments/search", &basic(), json, "");
    let (answer, closed, _) = drip(&proxy, &head, Duration::from_millis(10));
    assert_eq!((answer.status, closed), (408, true));
}

#[test]
fn an_upload_that_streams_may_take_its_time() {
    let mlflow = Recorder::start();
    let proxy = Proxy::with(mlflow.address, |config| {
        config.server.head_timeout = Duration::from_secs(3);
        config.server.body_timeout = Duration::from_millis(200);
        // It bounds MLflow's time, not the client's.
        config.upstream.response_timeout = Duration::from_secs(1);
    });
    let authorization = proxy.user("alice", &[(ResourceKind::Experiment, "5", Permission::Edit)]);
    let mut client = proxy.connect();
    let target = "/api/2.0/mlflow-artifacts/artifacts/5/r/artifacts/f";
    client.send(request("PUT", target, &authorization, "Content-Length: 8\r\n", ""));
    for _ in 0..8 {
        pause(Duration::from_millis(200));
        client.send("x");
    }
    assert_eq!(client.answer().expect("an answer").status, 200);
    assert_eq!(mlflow.wait_for(target).body, b"xxxxxxxx");
}

#[test]
fn somebody_who_could_not_be_allowed_is_refused_before_the_body_is_read() {
    let mlflow = Recorder::start();
    let proxy = Proxy::before(mlflow.address);
    let stranger = proxy.user("stranger", &[]);
    let reader = proxy.user("reader", &[(ResourceKind::Experiment, "5", Permission::Read)]);
    let editor = proxy.user("editor", &[(ResourceKind::Experiment, "5", Permission::Edit)]);
    let json = "Content-Type: application/json\r\nContent-Length: 500000\r\n";
    let head = |path: &str, authorization: &str| request("POST", path, authorization, json, "");
    for path in ["runs/log-batch", "runs/set-tag", "experiments/update", "experiments/delete"] {
        let answer = proxy.ask(head(&format!("{API}/{path}"), &stranger)).expect("an answer");
        assert_eq!(answer.status, 403, "{path}: {}", answer.text());
        assert!(answer.text().contains("Permission denied. "), "{path}: {}", answer.text());
    }
    assert_eq!(proxy.ask(head(&format!("{API}/experiments/update"), &reader)).expect("an answer").status, 403);
    // Who has some right is answered as ever, by what the body holds.
    let body = r#"{"experiment_id":"6","new_name":"n"}"#;
    let whole = |authorization: &str, body: &str| {
        let headers = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        proxy
            .ask(request("POST", &format!("{API}/experiments/update"), authorization, &headers, body))
            .expect("an answer")
    };
    assert!(whole(&editor, body).text().contains("EDIT on experiment `6`"), "{}", whole(&editor, body).text());
    assert_eq!(whole(&editor, "{}").status, 400);
    assert_eq!(whole(&editor, &body.replace('6', "5")).status, 200);
    // A search of what they may read stays a search that finds nothing.
    let search = request(
        "POST",
        &format!("{API}/runs/search"),
        &stranger,
        "Content-Type: application/json\r\nContent-Length: 24\r\n",
        r#"{"experiment_ids":["5"]}"#,
    );
    assert_eq!(proxy.ask(search).expect("an answer").text(), "{}");
}

#[test]
fn one_person_cannot_take_the_memory_of_all() {
    let mlflow = Recorder::start();
    let proxy = Proxy::with(mlflow.address, |config| config.server.inspection_budget_bytes = 6 * 1024 * 1024);
    let [alice, bob] =
        ["alice", "bob"].map(|name| proxy.user(name, &[(ResourceKind::Experiment, "1", Permission::Edit)]));
    let target = format!("{API}/runs/log-batch");
    let send = |authorization: &str, length: usize| {
        let headers = format!("Content-Type: application/json\r\nContent-Length: {length}\r\n");
        let (start, end) = (r#"{"run_id":"0123456789abcdef0123456789abcdef","x":""#, r#""}"#);
        let body = format!("{start}{}{end}", "x".repeat(length - start.len() - end.len()));
        assert_eq!(body.len(), length);
        (request("POST", &target, authorization, &headers, ""), body)
    };
    let (head, body) = send(&alice, 1024 * 1024);
    let mut first = proxy.connect();
    first.send(head);
    first.send(&body[..body.len() - 1]);
    let reserved = || {
        let metrics = proxy.metrics();
        let line = metrics.lines().find(|line| line.starts_with("mlflow_auth_proxy_inspection_reserved_bytes "));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).expect("a number")
    };
    let watch = Stopwatch::start();
    while reserved() < 3 * 1024 * 1024 {
        assert!(watch.elapsed() < PATIENCE, "the body is never read");
        pause(Duration::from_millis(10));
    }
    let (head, body_of_second) = send(&alice, 200_000);
    let answer = proxy.ask(head + &body_of_second).expect("an answer");
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("2")), "{}", answer.text());
    assert!(answer.text().contains("of your large requests"), "{}", answer.text());
    let (head, body_of_bob) = send(&bob, 200_000);
    assert_eq!(proxy.ask(head + &body_of_bob).expect("an answer").status, 200);
    first.send(&body[body.len() - 1..]);
    assert_eq!(first.answer().expect("an answer").status, 200);
    assert_eq!(reserved(), 0);
    assert!(proxy.metrics().contains(r#"body_refusals_total{reason="inspection_share"} 1"#), "{}", proxy.metrics());
}

#[test]
fn probes_are_answered_while_every_thread_is_busy() {
    let mlflow = Recorder::start();
    let proxy = Proxy::before(mlflow.address);
    assert_eq!(proxy.probe("/readyz").status, 200);
    let busy = proxy.occupy();
    assert_eq!(proxy.probe("/livez").status, 200);
    assert!(proxy.metrics().contains("mlflow_auth_proxy_connections "));
    assert_eq!(proxy.probe("/readyz").status, 503);
    drop(busy);
    assert_eq!(proxy.probe("/readyz").status, 200);
}
