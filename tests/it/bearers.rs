//! Bearer tokens of an identity provider, from outside: a whole proxy, a provider that misbehaves, and clients that do.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use mlflow_auth_proxy::clock::{Clock, Stopwatch};
use mlflow_auth_proxy::config::{Claims, Endpoint, GroupForm, GroupSource, Issuer, Preset};
use serde_json::{Value, json};

use crate::harness::{Proxy, Recorder, basic, get};
use crate::provider::{Answer, CERTS, FakeProvider, METADATA, OTHER_RSA, RSA};

const EXPERIMENT: &str = "/api/2.0/mlflow/experiments/get?experiment_id=5";

fn issuer(provider: &FakeProvider) -> Issuer {
    Issuer {
        name: "keycloak".to_owned(),
        endpoint: Endpoint {
            issuer: provider.issuer(),
            discovery_url: provider.url(METADATA).parse().unwrap(),
            internal_url: None,
            jwks_url: None,
            ca: Vec::new(),
            bearer_file: None,
            algorithms: vec!["RS256".parse().unwrap()],
        },
        audiences: vec!["mlflow".to_owned()],
        authorized_parties: Vec::new(),
        leeway: Duration::from_secs(30),
        claims: Claims {
            groups: vec![GroupSource { claim: "groups".to_owned(), prefix: String::new() }],
            form: GroupForm::Full,
            allowed: Vec::new(),
            admin: vec!["/admins".to_owned()],
            username: "email".to_owned(),
            verified_email: true,
            machine_names: Vec::new(),
        },
        preset: Preset::Standard,
        machines: Vec::new(),
    }
}

fn before(mlflow: &Recorder, providers: &[&FakeProvider]) -> Proxy {
    Proxy::with(mlflow.address, |config| config.issuers = providers.iter().map(|provider| issuer(provider)).collect())
}

fn claims(provider: &FakeProvider, groups: &[&str]) -> Value {
    let now = Clock::default().now().0 / 1000;
    json!({
        "iss": provider.issuer(), "aud": "mlflow", "sub": "f3a1", "typ": "Bearer", "iat": now, "exp": now + 3600,
        "email": "ann@example.com", "email_verified": true, "groups": groups,
    })
}

/// The status that a bearer is answered with.
fn status(proxy: &Proxy, token: &str) -> u16 {
    proxy.ask(get(EXPERIMENT, &format!("Bearer {token}"))).expect("an answer").status
}

#[test]
fn a_bearer_opens_what_its_owner_may_and_says_nothing_to_mlflow() {
    let (mlflow, provider) = (Recorder::scripted(|_| None), FakeProvider::start(&[&RSA]));
    let proxy = before(&mlflow, &[&provider]);
    let admin = RSA.token("RS256", &claims(&provider, &["/admins"]));
    assert_eq!(status(&proxy, &admin), 200);
    assert_eq!(status(&proxy, &RSA.token("RS256", &claims(&provider, &["/ml"]))), 403);
    let received = mlflow.take();
    assert!(!received.is_empty() && !format!("{received:?}").contains(&admin));
}

#[test]
fn whatever_is_wrong_with_a_bearer_the_answer_is_the_same() {
    let (mlflow, provider) = (Recorder::scripted(|_| None), FakeProvider::start(&[&RSA]));
    let proxy = before(&mlflow, &[&provider]);
    let good = claims(&provider, &["/admins"]);
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        RSA.token("RS256", &claims)
    };
    let mut bodies = std::collections::BTreeSet::new();
    for token in [
        RSA.token("HS256", &good),
        RSA.token("none", &good),
        OTHER_RSA.token("RS256", &good),
        with("aud", json!("grafana")),
        with("exp", json!(1_000_000_000)),
        with("iss", json!("https://evil.example")),
        with("typ", json!("ID")),
        with("typ", json!("Refresh")),
        with("typ", json!("Logout")),
        with("email_verified", json!(false)),
        with("sub", json!(null)),
        "a.b.c".to_owned(),
    ] {
        let answer = proxy.ask(get(EXPERIMENT, &format!("Bearer {token}"))).unwrap();
        assert_eq!(answer.status, 401, "{token}");
        bodies.insert(answer.text());
    }
    assert_eq!(bodies.len(), 1);
    assert!(mlflow.take().iter().all(|request| !request.target.contains("experiments")));
}

#[test]
fn the_key_of_one_issuer_signs_nothing_for_another_and_neither_takes_the_others_people() {
    let mlflow = Recorder::scripted(|_| None);
    let (one, other) = (FakeProvider::start(&[&RSA]), FakeProvider::start(&[&OTHER_RSA]));
    let proxy = before(&mlflow, &[&one, &other]);
    let header = |kid: &str| json!({ "alg": "RS256", "kid": kid });
    for kid in ["rsa-1", "rsa-2"] {
        assert_eq!(status(&proxy, &RSA.token_with(&header(kid), &claims(&other, &["/admins"]))), 401, "{kid}");
    }
    assert_eq!(status(&proxy, &RSA.token("RS256", &claims(&one, &["/admins"]))), 200);
    // The same subject and address at another provider is another person, and the name is taken.
    assert_eq!(status(&proxy, &OTHER_RSA.token("RS256", &claims(&other, &["/admins"]))), 401);
    let mut own = claims(&other, &["/admins"]);
    own["email"] = json!("ann@other.example.com");
    assert_eq!(status(&proxy, &OTHER_RSA.token("RS256", &own)), 200);
}

#[test]
fn a_key_that_was_rotated_in_works_at_once_in_a_running_proxy() {
    let (mlflow, provider) = (Recorder::scripted(|_| None), FakeProvider::start(&[&RSA]));
    let proxy = before(&mlflow, &[&provider]);
    assert_eq!(status(&proxy, &RSA.token("RS256", &claims(&provider, &["/admins"]))), 200);
    provider.publish(&[&OTHER_RSA]);
    assert_eq!(status(&proxy, &OTHER_RSA.token("RS256", &claims(&provider, &["/admins"]))), 200);
}

#[test]
fn a_provider_that_hangs_holds_up_nobody_else_and_its_own_people_are_told_to_come_back() {
    let mlflow = Recorder::scripted(|_| None);
    let (slow, quick) = (FakeProvider::start(&[&RSA]), FakeProvider::start(&[&OTHER_RSA]));
    slow.answer(METADATA, Answer::Hang);
    let proxy = before(&mlflow, &[&slow, &quick]);
    let stuck = thread::scope(|scope| {
        let stuck = scope.spawn(|| {
            let token = RSA.token("RS256", &claims(&slow, &["/admins"]));
            proxy.ask(get(EXPERIMENT, &format!("Bearer {token}"))).unwrap()
        });
        let watch = Stopwatch::start();
        assert_eq!(status(&proxy, &OTHER_RSA.token("RS256", &claims(&quick, &["/admins"]))), 200);
        assert_eq!(proxy.ask(get(EXPERIMENT, &basic())).unwrap().status, 200);
        assert!(watch.elapsed() < Duration::from_secs(2), "{:?}", watch.elapsed());
        stuck.join().unwrap()
    });
    assert_eq!((stuck.status, stuck.header("retry-after")), (503, Some("5")));
}

#[test]
fn ten_thousand_made_up_keys_cost_one_call_while_health_and_known_keys_stay_quick() {
    let (mlflow, provider) = (Recorder::scripted(|_| None), FakeProvider::start(&[&RSA]));
    let proxy = before(&mlflow, &[&provider]);
    let good = RSA.token("RS256", &claims(&provider, &["/admins"]));
    assert_eq!(status(&proxy, &good), 200);
    let fetched = provider.requests(CERTS).len();
    // The worst moment for it: the provider has just become slow.
    provider.answer(CERTS, Answer::Hang);
    let hanging = Stopwatch::start();
    let flooding = AtomicBool::new(true);
    let body = OTHER_RSA.token("RS256", &claims(&provider, &["/admins"]));
    let rest = body.split_once('.').unwrap().1;
    let mut quick = thread::scope(|scope| {
        let floods: Vec<_> = (0..8)
            .map(|flood| {
                let proxy = &proxy;
                scope.spawn(move || {
                    let mut client = proxy.connect();
                    for number in 0..1250 {
                        let header = json!({ "alg": "RS256", "kid": format!("{flood}-{number}") });
                        let token = format!("{}.{rest}", crate::provider::encode(header.to_string().as_bytes()));
                        client.send(get(EXPERIMENT, &format!("Bearer {token}")));
                        assert_eq!(client.answer().expect("an answer").status, 401);
                    }
                })
            })
            .collect();
        let watched = scope.spawn(|| {
            let (mut took, mut client) = (Vec::new(), proxy.connect());
            while flooding.load(Ordering::Relaxed) {
                for (request, expected) in
                    [(get("/health", &basic()), 200), (get(EXPERIMENT, &format!("Bearer {good}")), 200)]
                {
                    let watch = Stopwatch::start();
                    client.send(request);
                    assert_eq!(client.answer().expect("an answer").status, expected);
                    took.push(watch.elapsed());
                }
            }
            took
        });
        floods.into_iter().for_each(|flood| flood.join().unwrap());
        flooding.store(false, Ordering::Relaxed);
        watched.join().unwrap()
    });
    quick.sort();
    let p99 = quick[quick.len() * 99 / 100];
    // Whoever waits for the provider waits two seconds.
    assert!(p99 < Duration::from_millis(500), "p99 of {} requests: {p99:?}", quick.len());
    // The flood's one call, and retries of a call that failed, each a second or more after its own patience of ten.
    let retries = usize::try_from(hanging.elapsed().as_secs()).unwrap() / 11;
    assert!(provider.requests(CERTS).len() <= fetched + 1 + retries);
}

#[test]
fn metrics_say_how_the_provider_does() {
    let (mlflow, provider) = (Recorder::scripted(|_| None), FakeProvider::start(&[&RSA]));
    let proxy = before(&mlflow, &[&provider]);
    assert_eq!(status(&proxy, &RSA.token("RS256", &claims(&provider, &["/admins"]))), 200);
    assert_eq!(status(&proxy, "a.b.c"), 401);
    let text = proxy.metrics();
    for line in [
        r#"mlflow_auth_proxy_oidc_fetches_total{issuer="jwt.keycloak",outcome="ok",what="keys"} 1"#,
        r#"mlflow_auth_proxy_oidc_keys_age_seconds{issuer="jwt.keycloak"} 0"#,
        r#"mlflow_auth_proxy_authentication_failures_total{reason="jwt_malformed"} 1"#,
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
}
