//! What every answer carries, and how HEAD is answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mlflow_auth_proxy::authz::{Permission, ResourceKind};

use crate::browser::{SESSION, World, eventually};
use crate::harness::{Answer, Proxy, Recorder, basic, get, pause, send_json};

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
    // Look-ups are GET: where the artifacts of the experiment lie.
    let sent = recorder.take();
    assert!(sent.iter().all(|request| request.method == "GET" && request.target != FILE), "{sent:?}");
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
        ("DELETE", "/auth/login", "GET,HEAD"),
        ("DELETE", "/auth/logout", "GET,HEAD,POST"),
        ("POST", "/auth/signed-out", "GET,HEAD"),
        ("POST", "/auth/static/style.css", "GET,HEAD"),
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
        assert_eq!((answer.status, answer.header("cache-control")), (503, Some("private, no-store")), "{target}");
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
        for key in ["authz.", "authn.", "server.allowed", "upstream.", "error_code"] {
            assert!(!text.contains(key), "{line}: {text}");
        }
        let json = ask(line, &stranger);
        assert_eq!((json.status, json.header("content-type")), (status, Some("application/json")), "{line}");
        assert_eq!(json.header("allow"), page.header("allow"), "{line}");
        for script in [
            "Sec-Fetch-Mode: cors\r\nAccept: text/html\r\n",
            "X-Requested-With: XMLHttpRequest\r\nAccept: text/html\r\n",
        ] {
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
    let named =
        Proxy::with(recorder.address, |config| config.admin.allowed_hosts = vec!["probes.example.com".to_owned()]);
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

const APP: &str = "https://app.example.com";

/// Pages of listed origins call MLflow's API with what their scripts bring, and with a session only where that is said.
#[test]
fn listed_origins_may_call_and_no_others() {
    let configured = |credentials: bool| {
        World::with(|config| {
            config.server.cors =
                mlflow_auth_proxy::config::Cors { origins: vec![http::HeaderValue::from_static(APP)], credentials };
        })
    };
    let search = "/api/2.0/mlflow/experiments/search";
    let ask = |world: &World, method: &str, target: &str, headers: &str| {
        let site = "Host: mlflow.example.com\r\nSec-Fetch-Site: same-site\r\nContent-Length: 2\r\n\
                    Content-Type: application/json\r\n";
        let site = if method == "POST" { site } else { "Host: mlflow.example.com\r\nSec-Fetch-Site: same-site\r\n" };
        let body = if method == "POST" { "{}" } else { "" };
        world.proxy.ask(format!("{method} {target} HTTP/1.1\r\n{site}{headers}\r\n{body}")).expect("an answer")
    };
    let names = ["access-control-allow-origin", "access-control-allow-credentials", "vary"];
    let seen = |answer: &Answer| names.map(|name| answer.header(name).unwrap_or_default().to_owned());
    let world = configured(false);
    let basic = format!("Authorization: {}\r\n", basic());
    let session = session_of(&world);
    let (app, evil) = (format!("Origin: {APP}\r\n"), "Origin: https://evil.example.com\r\n");

    let asks = "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization,x-odd\r\n";
    let preflight = ask(&world, "OPTIONS", search, &format!("{app}{asks}"));
    assert_eq!((preflight.status, seen(&preflight)), (204, [APP, "", "Origin"].map(str::to_owned)));
    assert_eq!(preflight.header("access-control-allow-headers"), Some("authorization, x-odd"));
    assert_eq!(preflight.header("access-control-allow-methods"), Some("GET, HEAD, POST, PUT, PATCH, DELETE"));
    for (origin, target) in [(evil, search), (app.as_str(), "/auth/api/v1/tokens"), (&app, "/auth/login")] {
        let refused = ask(&world, "OPTIONS", target, &format!("{origin}{asks}"));
        assert!(refused.status >= 400 && seen(&refused)[0].is_empty(), "{origin} {target}: {refused:?}");
    }
    for origin in
        ["Origin: null\r\n", "Origin: https://app.example.com:444\r\n", "Origin: http://app.example.com\r\n", evil]
    {
        let refused = ask(&world, "POST", search, &format!("{origin}{basic}"));
        assert_eq!((refused.status, seen(&refused)), (403, ["", "", "Origin"].map(str::to_owned)), "{origin}");
    }
    let allowed = ask(&world, "POST", search, &format!("{app}{basic}"));
    assert_eq!((allowed.status, seen(&allowed)), (200, [APP, "", "Origin"].map(str::to_owned)));
    // The page reads refusals, too, and does not act with the session of the user.
    for method in ["GET", "POST"] {
        let unknown = ask(&world, method, search, &format!("{app}{session}"));
        assert_eq!((unknown.status, seen(&unknown)), (401, [APP, "", "Origin"].map(str::to_owned)), "{method}");
    }
    for target in ["/auth/account/tokens", "/auth/logout"] {
        let refused = ask(&world, "POST", target, &format!("{app}{session}"));
        assert_eq!((refused.status, seen(&refused)[0].as_str()), (403, ""), "{target}");
    }
    for (method, target) in [("POST", "/%61uth/api/v1/tokens"), ("POST", "/auth%2Flogin"), ("GET", "/%61uth/account")] {
        let refused = ask(&world, method, target, &format!("{app}{basic}"));
        assert!(matches!(refused.status, 400 | 403), "{target}: {}", refused.text());
    }
    let own = ask(&world, "GET", search, &session);
    assert_eq!((own.status, seen(&own)), (200, ["", "", "Origin"].map(str::to_owned)));

    let world = configured(true);
    let session = session_of(&world);
    let allowed = ask(&world, "POST", search, &format!("{app}{session}"));
    assert_eq!((allowed.status, seen(&allowed)), (200, [APP, "true", "Origin"].map(str::to_owned)));
    let refused = ask(&world, "POST", search, &format!("{evil}{session}"));
    assert_eq!((refused.status, seen(&refused)[0].as_str()), (403, ""));
    let refused = ask(&world, "POST", "/auth/account/tokens", &format!("{app}{session}"));
    assert_eq!((refused.status, seen(&refused)[0].as_str()), (403, ""));
}

fn session_of(world: &World) -> String {
    format!("Cookie: {SESSION}={}\r\n", world.signed_in().jar[SESSION])
}

/// With MLflow's `--static-prefix`, a proxy in front may pass on nothing but what is below it.
#[test]
fn below_a_static_prefix_everything_of_ours_is_there() {
    let world = World::with(|config| config.upstream.static_prefix = "/mlflow".to_owned());
    let ask = |line: &str, headers: &str| {
        let request = format!("{line} HTTP/1.1\r\nHost: mlflow.example.com\r\nContent-Length: 0\r\n{headers}\r\n");
        world.proxy.ask(request).expect("an answer")
    };
    let basic = format!("Authorization: {}\r\n", basic());
    for (line, home) in [
        ("GET /", "/mlflow/"),
        ("GET /mlflow", "/mlflow/"),
        ("GET /mlflow?a=b&c", "/mlflow/?a=b&c"),
        ("GET /?workspace=x", "/mlflow/?workspace=x"),
    ] {
        let moved = ask(line, "");
        assert_eq!((moved.status, moved.header("location")), (302, Some(home)), "{line}");
    }
    for line in [
        "POST /",
        "POST /mlflow",
        "GET /mlflowx",
        "GET /mlflowx/",
        "GET /version",
        "GET /signup",
        "GET /api/2.0/mlflow/users/list",
    ] {
        assert_eq!(ask(line, &basic).status, 404, "{line}");
    }
    for line in [
        "GET /mlflow/",
        "GET /mlflow/version",
        "GET /mlflow/api/2.0/mlflow/users/get?username=admin",
        "GET /mlflow/ajax-api/2.0/mlflow/users/current",
        "GET /mlflow/api/3.0/mlflow/users/permissions/list?username=admin",
        "GET /mlflow/api/3.0/mlflow/roles/list",
        "GET /mlflow/auth/api/v1/me",
        "GET /mlflow/auth/account",
        "GET /mlflow/auth/static/style.css",
        "GET /mlflow/%61uth/login",
        "GET /auth/account",
    ] {
        let answer = ask(line, &basic);
        assert_eq!(answer.status, 200, "{line}: {}", answer.text());
        assert!(
            !answer.text().contains("=\"/auth/") && !answer.text().contains("href=\"/\""),
            "{line}: {}",
            answer.text()
        );
    }
    let to = ask("GET /mlflow/?x=1", BROWSER);
    assert_eq!((to.status, to.header("location")), (302, Some("/mlflow/auth/login?return_to=%2Fmlflow%2F%3Fx%3D1")));
    let page = ask("GET /mlflow/nopage", &format!("{BROWSER}{basic}"));
    assert!(page.status == 403 && page.text().contains("href=\"/mlflow/\""), "{}", page.text());
    let script = ask("GET /mlflow/ajax-api/2.0/mlflow/users/current", "");
    assert_eq!((script.status, script.header("www-authenticate")), (401, None), "no question pops up over the page");

    let begin = || ask("GET /mlflow/auth/login?provider=keycloak&return_to=%2Fmlflow%2F%23%2Fmodels", BROWSER);
    let mut login = begin();
    eventually("the provider is known", || {
        if login.status == 503 {
            login = begin();
        }
        login.status != 503
    });
    let at = url::Url::parse(login.header("location").expect("the provider's address")).unwrap();
    let said =
        |name: &str| at.query_pairs().find(|(found, _)| found == name).map(|(_, value)| value.into_owned()).unwrap();
    assert_eq!(said("redirect_uri"), "https://mlflow.example.com/mlflow/auth/callback/keycloak");
    world.grants(&world.claims(&said("nonce")));
    let cookie = login.header("set-cookie").and_then(|line| line.split(';').next()).expect("an attempt").to_owned();
    let callback = format!("GET /mlflow/auth/callback/keycloak?{}", world.right(&said("state")));
    let back = ask(&callback, &format!("{BROWSER}Cookie: {cookie}\r\n"));
    assert_eq!((back.status, back.header("location")), (303, Some("/mlflow/#/models")), "{}", back.text());
    let session = back.headers.iter().find(|(name, value)| name == "set-cookie" && value.starts_with(SESSION));
    let session = session.and_then(|(_, line)| line.split(';').next()).expect("a session");
    let session = format!("Cookie: {session}\r\n");
    assert_eq!(ask("GET /mlflow/auth/account", &session).status, 200);
    let out = ask("POST /mlflow/auth/logout", &session);
    let there = out.header("location").expect("an address");
    assert!(
        there.contains("post_logout_redirect_uri=https%3A%2F%2Fmlflow.example.com%2Fmlflow%2Fauth%2Fsigned-out"),
        "{there}"
    );
    let again = ask("GET /mlflow/auth/login?return_to=%2Fmlflow%2Fauth%2Flogout", BROWSER);
    assert!(
        again.text().contains("return_to=%2Fmlflow%2F&") || again.text().contains("return_to=%2Fmlflow%2F\""),
        "{}",
        again.text()
    );
}

/// Answers that a client does not read stay in memory, and count until it is gone.
#[test]
fn answers_that_wait_to_be_read_are_counted() {
    const LIST: usize = 100 * 1024;
    const CREATED: usize = 900 * 1024;
    let mlflow = Recorder::scripted(|request| {
        let text = |size: usize| "x".repeat(size);
        let path = request.target.split('?').next().unwrap_or_default();
        match path.strip_prefix("/api/2.0/mlflow")? {
            "/experiments/search" => {
                let row = format!(r#"{{"experiment_id":"1","name":"{}","lifecycle_stage":"active"}}"#, text(LIST));
                Some((200, format!(r#"{{"experiments":[{row}]}}"#)))
            }
            "/registered-models/create" => {
                Some((200, format!(r#"{{"registered_model":{{"name":"new","description":"{}"}}}}"#, text(CREATED))))
            }
            _ => None,
        }
    });
    let proxy = Proxy::before(mlflow.address);
    let reader = proxy.user("reader", &[(ResourceKind::Experiment, "1", Permission::Read)]);
    let reserved = || {
        let metrics = proxy.metrics();
        let line = metrics.lines().find(|line| line.starts_with("mlflow_auth_proxy_answers_reserved_bytes"));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<usize>().ok()).expect("a number")
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let send = |method: &str, target: &str, body: &'static str| {
        runtime.block_on(async {
            let tcp = tokio::net::TcpStream::connect(proxy.address).await.expect("a connection");
            let (mut sender, connection) =
                hyper::client::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new())
                    .initial_stream_window_size(0)
                    .handshake::<_, http_body_util::Full<bytes::Bytes>>(hyper_util::rt::TokioIo::new(tcp))
                    .await
                    .expect("HTTP/2");
            let tasks = tokio_util::task::TaskTracker::new();
            tasks.spawn(connection);
            let request = http::Request::builder()
                .method(method)
                .uri(format!("http://proxy/api/2.0/mlflow{target}"))
                .header("authorization", &reader)
                .header("content-type", "application/json")
                .body(http_body_util::Full::from(body))
                .expect("a request");
            let response = sender.send_request(request).await.expect("an answer");
            assert_eq!(response.status(), 200, "{target}");
            (sender, response)
        })
    };
    let list = send("GET", "/experiments/search?max_results=5", "");
    assert!(reserved() >= LIST, "{}", reserved());
    let created = send("POST", "/registered-models/create", r#"{"name":"new"}"#);
    assert!(reserved() >= LIST + CREATED, "{}", reserved());
    drop((list, created));
    eventually("what was not sent is given back", || reserved() == 0);
}

/// Answers that a user does not read occupy MLflow's connections, of which each user has some.
#[test]
fn one_user_has_a_number_of_requests_under_way() {
    let stuck = Arc::new(AtomicBool::new(true));
    let until = Arc::clone(&stuck);
    let mlflow = Recorder::scripted(move |request| {
        while !request.target.ends_with("=2") && until.load(Ordering::SeqCst) {
            pause(Duration::from_millis(10));
        }
        Some((200, r#"{"experiment":{"experiment_id":"1"}}"#.to_owned()))
    });
    let proxy = Proxy::with(mlflow.address, |config| config.upstream.max_requests_per_user = 2);
    let of = |name: &str| {
        let grants = ["1", "2", "3"].map(|key| (ResourceKind::Experiment, key, Permission::Read));
        proxy.user(name, &grants)
    };
    let (alice, bob) = (of("alice"), of("bob"));
    let quick = "/api/2.0/mlflow/experiments/get?experiment_id=2";
    let mut waiting = Vec::new();
    for slow in ["1", "3"].map(|id| format!("/api/2.0/mlflow/experiments/get?experiment_id={id}")) {
        let mut client = proxy.connect();
        client.send(get(&slow, &alice));
        mlflow.wait_for(&slow);
        waiting.push(client);
    }
    let third = proxy.ask(get(quick, &alice)).expect("an answer");
    assert_eq!((third.status, third.header("retry-after")), (429, Some("1")), "{}", third.text());
    assert_eq!(proxy.ask(get("/auth/api/v1/me", &alice)).expect("an answer").status, 200, "the proxy's own API");
    assert_eq!(proxy.ask(get(quick, &bob)).expect("an answer").status, 200);
    stuck.store(false, Ordering::SeqCst);
    for client in &mut waiting {
        assert_eq!(client.answer().expect("an answer").status, 200);
    }
    eventually("their places are free", || proxy.ask(get(quick, &alice)).expect("an answer").status == 200);
}
