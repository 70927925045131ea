//! What every answer carries, and how HEAD is answered.

use mlflow_auth_proxy::authz::{Permission, ResourceKind};

use crate::browser::World;
use crate::harness::{Answer, Proxy, Recorder, basic, get, send_json};

const FILE: &str = "/api/2.0/mlflow-artifacts/artifacts/1/r/artifacts/f.txt";
const RUN: &str = "0123456789abcdef0123456789abcdef";

/// The answer's head, after which the connection answers further requests.
#[track_caller]
fn head_of(proxy: &Proxy, target: &str, headers: &str) -> Answer {
    let mut client = proxy.connect();
    client.send(format!("HEAD {target} HTTP/1.1\r\nHost: proxy\r\n{headers}\r\n"));
    let answer = client.head().unwrap_or_else(|| panic!("no answer to HEAD {target}"));
    client.send(get("/health", &basic()));
    let next = client.answer().unwrap_or_else(|| panic!("HEAD {target} spoiled the connection"));
    assert_eq!(next.status, 200, "after HEAD {target}: {}", next.text());
    answer
}

#[test]
fn head_is_answered_as_get_without_a_body() {
    let recorder = Recorder::start();
    let proxy = Proxy::before(recorder.address);
    let authorization = format!("Authorization: {}\r\n", basic());
    for target in [
        FILE,
        "/version",
        "/",
        "/static-files/main.js",
        "/api/2.0/mlflow/experiments/get?experiment_id=1",
        &format!("/get-artifact?run_id={RUN}&path=f.txt"),
        "/model-versions/get-artifact?name=m&version=1&path=f.txt",
        &format!("/ajax-api/2.0/mlflow/logged-models/m-{RUN}/artifacts/files?artifact_file_path=f.txt"),
    ] {
        let answer = head_of(&proxy, target, &authorization);
        assert_eq!(answer.status, 200, "{target}");
        assert_eq!(answer.header("content-length"), Some("7"), "{target}");
        let sent = recorder.take();
        let sent = sent.iter().find(|request| request.target == target);
        assert_eq!(sent.map(|request| request.method.as_str()), (target != "/version").then_some("HEAD"), "{target}");
    }
}

#[test]
fn head_of_what_is_not_allowed_is_refused_as_get_is() {
    let recorder = Recorder::start();
    let proxy = Proxy::before(recorder.address);
    let stranger = proxy.stranger("stranger");
    for (target, headers, status) in [
        (FILE, stranger.as_str(), 403),
        (FILE, "", 401),
        ("/some/new/route", stranger.as_str(), 403),
        ("/api/2.0/mlflow/runs/create", stranger.as_str(), 405),
        ("/auth/nosuch", stranger.as_str(), 404),
    ] {
        let answer = head_of(&proxy, target, headers);
        assert_eq!(answer.status, status, "{target}");
        assert!(answer.header("content-length").is_some_and(|length| length != "0"), "{target}: {answer:?}");
    }
    assert!(recorder.take().iter().all(|request| request.target == "/health"));
}

/// The length of the whole list would tell how much of it is hidden.
#[test]
fn head_of_a_list_speaks_of_the_filtered_list() {
    let recorder = Recorder::scripted(|request| {
        let one = |id: u32| format!(r#"{{"experiment_id":"{id}","name":"e{id}","lifecycle_stage":"active"}}"#);
        let all: Vec<_> = (1..20).map(one).collect();
        let body = format!(r#"{{"experiments":[{}]}}"#, all.join(","));
        request.target.contains("experiments/search").then_some((200, body))
    });
    let proxy = Proxy::before(recorder.address);
    let reader = proxy.user("reader", &[(ResourceKind::Experiment, "1", Permission::Read)]);
    let target = "/api/2.0/mlflow/experiments/search?max_results=100";
    let whole = proxy.ask(get(target, &reader)).expect("an answer");
    assert!(whole.status == 200 && whole.text().contains("\"e1\"") && !whole.text().contains("\"e2\""), "{whole:?}");
    let head = head_of(&proxy, target, &format!("Authorization: {reader}\r\n"));
    assert_eq!(head.header("content-length"), Some(whole.body.len().to_string().as_str()));
}

#[test]
fn head_of_our_own_pages_is_answered_and_ends_no_sign_in() {
    let world = World::start();
    let host = "Host: mlflow.example.com\r\n";
    let status = |method: &str, target: &str| {
        let mut client = world.proxy.connect();
        client.send(format!("{method} {target} HTTP/1.1\r\n{host}\r\n"));
        let head = client.head().expect("an answer");
        (head.status, head.header("allow").map(str::to_owned))
    };
    for target in ["/auth/login", "/auth/logout", "/auth/signed-out", "/auth/static/style.css"] {
        assert_eq!(status("HEAD", target), (200, None), "{target}");
    }
    for (method, target, allow) in [
        ("HEAD", "/auth/callback/keycloak?state=x&code=y", "GET"),
        ("HEAD", "/auth/backchannel-logout", "POST"),
        ("GET", "/auth/backchannel-logout", "POST"),
        ("DELETE", "/auth/login", "GET, HEAD"),
        ("DELETE", "/auth/logout", "GET, HEAD, POST"),
        ("POST", "/auth/signed-out", "GET, HEAD"),
        ("POST", "/auth/static/style.css", "GET, HEAD"),
    ] {
        assert_eq!(status(method, target), (405, Some(allow.to_owned())), "{method} {target}");
    }
}

/// Nobody else gets an answer that was made for one caller, whatever caches stand between.
#[test]
fn only_public_answers_may_be_shared() {
    let recorder = Recorder::start();
    let proxy = Proxy::before(recorder.address);
    let stranger = proxy.user("stranger", &[]);
    let tagged = "/api/2.0/mlflow-artifacts/artifacts/1/r/artifacts/tagged";
    for (request, status, caching) in [
        (get("/api/2.0/mlflow/experiments/get?experiment_id=1", &basic()), 200, "private, no-store"),
        (send_json("POST", "/api/2.0/mlflow/runs/search", &basic(), "{}"), 200, "private, no-store"),
        (send_json("POST", "/api/2.0/mlflow/experiments/search", &stranger, "{}"), 200, "private, no-store"),
        (get(FILE, &basic()), 200, "private, no-store"),
        (get(tagged, &basic()), 200, "private, no-cache"),
        (get(tagged, &stranger), 403, "private, no-store"),
        (get("/version", &basic()), 200, "private, no-store"),
        (get("/version", "Basic wrong"), 401, "private, no-store"),
        (get("/auth/account", &basic()), 200, "private, no-store"),
        (get("/auth/api/v1/me", &basic()), 200, "private, no-store"),
        (get("/auth/nosuch", &basic()), 404, "private, no-store"),
        (get("/auth/login", &basic()), 404, "private, no-store"),
        (get("/some/new/route", &stranger), 403, "private, no-store"),
        (get("//static-files/tagged", &basic()), 400, "private, no-store"),
        ("GET /version HTTP/1.1\r\n\r\n".to_owned(), 400, "private, no-store"),
        ("GET /ver sion HTTP/1.1\r\nHost: proxy\r\n\r\n".to_owned(), 400, "private, no-store"),
        (get("/static-files/tagged", &basic()), 200, "public, max-age=600"),
        (get("/static-files/tagged", "none"), 200, "public, max-age=600"),
    ] {
        let answer = proxy.ask(&request).expect("an answer");
        assert_eq!(answer.status, status, "{request:?}: {}", answer.text());
        let values: Vec<_> = answer.headers.iter().filter(|(name, _)| name == "cache-control").collect();
        assert_eq!(values.len(), 1, "{request:?}: {values:?}");
        assert_eq!(answer.header("cache-control"), Some(caching), "{request:?}");
        let vary: Vec<_> =
            answer.headers.iter().filter(|(name, _)| name == "vary").map(|(_, value)| value.as_str()).collect();
        assert_eq!(vary.contains(&"Authorization, Cookie"), caching.ends_with("no-cache"), "{request:?}: {vary:?}");
    }
    let nowhere = Proxy::before(([127, 0, 0, 1], 1).into());
    for target in ["/version", "/static-files/main.js"] {
        let answer = nowhere.ask(get(target, &basic())).expect("an answer");
        assert_eq!((answer.status, answer.header("cache-control")), (502, Some("private, no-store")), "{target}");
    }
}

const BROWSER: &str = "Accept: text/html,application/xhtml+xml,*/*;q=0.8\r\nSec-Fetch-Mode: navigate\r\n";

/// Whoever opens an address in a browser finds a page and a way home, without configuration keys.
#[test]
fn a_browser_gets_a_page_where_a_program_gets_json() {
    let recorder = Recorder::start();
    let proxy = Proxy::before(recorder.address);
    let stranger = proxy.stranger("stranger");
    let ask = |line: &str, headers: &str| {
        proxy.ask(format!("{line} HTTP/1.1\r\nHost: proxy\r\nContent-Length: 0\r\n{headers}\r\n")).expect("an answer")
    };
    for (line, status, words) in [
        ("GET /nopage", 403, "There is no page at this address."),
        ("GET /signup", 403, "Permission denied."),
        ("GET /auth/nosuch", 404, "There is no page at this address."),
        ("GET /auth/account/tokens", 405, "There is no page at this address."),
        ("GET /auth/login", 404, "There is no page at this address."),
        ("GET //x", 400, "There is no page at this address."),
        ("GET /x/../y", 400, "There is no page at this address."),
        ("POST /version", 405, "There is no page at this address."),
        ("GET /metrics", 403, "turned off"),
        ("GET /get-artifact?path=x&run_id=0123456789abcdef0123456789abcdef", 403, "Permission denied."),
        ("GET /version?a=%ff", 400, "The server cannot process this request."),
        ("POST /auth/account/tokens", 403, "Permission denied."),
    ] {
        let page = ask(line, &format!("{BROWSER}{stranger}"));
        assert_eq!(page.status, status, "{line}: {}", page.text());
        assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"), "{line}");
        assert!(page.header("content-security-policy").is_some(), "{line}");
        let text = page.text();
        assert!(text.contains(words), "{line}: {text}");
        assert!(text.contains("href=\"/\""), "{line}: {text}");
        for key in ["authz.", "authn.", "server.", "upstream.", "error_code"] {
            assert!(!text.contains(key), "{line}: {text}");
        }
        let json = ask(line, &stranger);
        assert_eq!((json.status, json.header("content-type")), (status, Some("application/json")), "{line}");
        assert_eq!(json.header("allow"), page.header("allow"), "{line}");
        for script in ["Sec-Fetch-Mode: cors\r\nAccept: text/html\r\n", "X-Requested-With: XMLHttpRequest\r\nAccept: text/html\r\n"] {
            let json = ask(line, &format!("{script}{stranger}"));
            assert_eq!((json.status, json.header("content-type")), (status, Some("application/json")), "{line}");
        }
    }
    let api = ask("GET /api/2.0/mlflow/nothing", &format!("{BROWSER}{stranger}"));
    assert_eq!((api.status, api.header("content-type")), (403, Some("application/json")));
    let question = ask("GET /", BROWSER);
    assert_eq!((question.status, question.header("content-type")), (401, Some("text/html; charset=utf-8")));
    assert!(question.header("www-authenticate").is_some() && question.text().contains("not signed in"));
}

/// The page under a name that is not served leads to the one that is.
#[test]
fn an_unknown_host_is_shown_the_way() {
    let world = World::start();
    let request = format!("GET / HTTP/1.1\r\nHost: other.example.com\r\n{BROWSER}\r\n");
    let page = world.proxy.ask(request).expect("an answer");
    assert_eq!(page.status, 421);
    assert!(page.text().contains("href=\"https://mlflow.example.com/\""), "{}", page.text());
}

/// What is no host is no host, and probes are not read through another site's name.
#[test]
fn a_host_is_a_name_or_an_address_with_a_port() {
    let recorder = Recorder::start();
    let proxy = Proxy::before(recorder.address);
    for (host, status) in [
        ("localhost", 200),
        ("localhost:8080", 200),
        ("127.0.0.1:65535", 200),
        ("[::1]", 200),
        ("[::1]:8080", 200),
        ("mlflow_proxy.example.com.:1", 200),
        ("localhost:abc", 400),
        ("localhost:999999", 400),
        ("localhost:65536", 400),
        ("localhost:0", 400),
        ("localhost:-1", 400),
        ("localhost:+1", 400),
        ("localhost:", 400),
        ("localhost:80:80", 400),
        (":8080", 400),
        ("::1", 400),
        ("[::1", 400),
        ("[::1]x", 400),
        ("[::1]:", 400),
        ("[::1%25eth0]", 400),
        ("[localhost]", 400),
        ("]", 400),
        ("%", 400),
        ("a%2eb", 400),
        ("a..b", 400),
        (".", 400),
        (".a", 400),
        ("a~b", 400),
        (&"a".repeat(256), 400),
    ] {
        let answer = proxy.ask(format!("GET /health HTTP/1.1\r\nHost: {host}\r\n\r\n")).expect("an answer");
        assert_eq!(answer.status, status, "{host}: {}", answer.text());
    }
    let named = Proxy::with(recorder.address, |config| config.admin.allowed_hosts = vec!["probes.example.com".to_owned()]);
    for (head, status) in [
        ("GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:9090", 200),
        ("GET /livez HTTP/1.1\r\nHost: [::1]:9090", 200),
        ("GET /livez HTTP/1.1\r\nHost: localhost:9090", 200),
        ("GET /livez HTTP/1.1\r\nHost: proxy", 200),
        ("GET /livez HTTP/1.1\r\nHost: Probes.Example.com:9090", 200),
        ("GET /livez HTTP/1.0", 200),
        ("GET /metrics HTTP/1.1\r\nHost: evil.example.com", 421),
        ("GET /metrics HTTP/1.1\r\nHost: 127.0.0.1.evil.example.com:9090", 421),
        ("GET /metrics HTTP/1.1\r\nHost: localhost:abc", 421),
        ("GET /metrics HTTP/1.1\r\nHost: localhost\r\nHost: evil.example.com", 421),
        ("GET http://evil.example.com/metrics HTTP/1.1\r\nHost: localhost", 421),
        ("GET /metrics HTTP/1.1", 421),
    ] {
        let answer = named.ask_admin(format!("{head}\r\n\r\n")).expect("an answer");
        assert_eq!(answer.status, status, "{head}: {}", answer.text());
        assert_eq!(answer.header("cache-control"), Some("private, no-store"), "{head}");
    }
}
