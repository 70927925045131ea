//! Signing out: by oneself, and by the provider.

use mlflow_auth_proxy::clock::Clock;
use serde_json::{Value, json};
use url::Url;

use crate::browser::{HOST, SESSION, World, query};
use crate::harness::Answer;
use crate::provider::{OTHER_RSA, RSA};

const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

#[test]
fn signing_out_ends_the_session_here_and_goes_on_to_the_provider() {
    let world = World::start();
    let mut browser = world.signed_in();
    let mut stolen = browser.clone();
    let asks = browser.open("/auth/logout");
    assert_eq!(asks.status, 200);
    assert!(asks.text().contains("<form"), "{}", asks.text());
    let policy = asks.header("content-security-policy").unwrap().to_owned();
    let provider = Url::parse(&world.provider.issuer()).unwrap().origin().ascii_serialization();
    assert!(policy.contains(&format!("form-action 'self' {provider};")), "{policy}");
    assert!(browser.is_signed_in(), "looking at the page ends nothing");

    let answer = browser.submit("/auth/logout", "x=y");
    assert_eq!(answer.status, 303);
    let there = Url::parse(answer.header("location").unwrap()).unwrap();
    assert!(there.as_str().starts_with(&world.provider.url("/realms/test/logout?")), "{there}");
    let said = |name: &str| there.query_pairs().find(|(found, _)| found == name).map(|(_, value)| value.into_owned());
    assert_eq!(said("client_id").as_deref(), Some("mlflow"));
    assert_eq!(said("post_logout_redirect_uri").as_deref(), Some("https://mlflow.example.com/auth/signed-out"));
    assert_eq!(said("id_token_hint").unwrap().split('.').count(), 3);
    assert!(said("state").is_some());
    assert!(!browser.jar.contains_key(SESSION));
    assert!(!stolen.is_signed_in(), "the old cookie is of no use");
    assert_eq!(browser.open("/auth/signed-out?state=x").status, 200);
    assert_eq!(browser.submit("/auth/logout", "x=y").header("location"), Some("/auth/signed-out"), "once more");
}

/// A logout token for the one who signed in.
fn logout(world: &World, jti: &str) -> Value {
    let now = Clock::default().now().0 / 1000;
    json!({
        "iss": world.provider.issuer(), "aud": "mlflow", "iat": now, "exp": now + 120, "jti": jti, "typ": "Logout",
        "sub": "subject-1", "sid": "sid-1", "events": { EVENT: {} },
    })
}

fn signed(claims: &Value) -> String {
    RSA.token_with(&json!({ "alg": "RS256", "kid": RSA.kid, "typ": "logout+jwt" }), claims)
}

/// As a provider sends it.
fn send(world: &World, token: &str) -> Answer {
    send_to(&world.proxy, &query(&[("logout_token", token)]))
}

fn send_to(proxy: &crate::harness::Proxy, form: &str) -> Answer {
    let length = form.len();
    let raw = format!(
        "POST /auth/backchannel-logout HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/x-www-form-urlencoded\r\n\
         Content-Length: {length}\r\n\r\n{form}"
    );
    proxy.ask(raw).unwrap()
}

#[test]
fn a_providers_logout_ends_every_session_of_its_own_at_once() {
    let world = World::start();
    let (mut one, mut two) = (world.signed_in(), world.signed_in());
    let replica = world.proxy.beside(world.recorder.address, |config| {
        config.server.public_url = Some(crate::browser::PUBLIC.parse().unwrap());
    });
    let mut elsewhere = one.at(&replica);
    assert!(elsewhere.is_signed_in());
    let answer = send(&world, &signed(&logout(&world, "jti-1")));
    assert_eq!((answer.status, answer.header("cache-control")), (200, Some("private, no-store")), "{}", answer.text());
    assert!(!one.is_signed_in() && !two.is_signed_in());
    crate::browser::eventually("the other replica follows", || !elsewhere.is_signed_in());
}

#[test]
fn a_logout_token_works_once() {
    let world = World::start();
    let token = signed(&logout(&world, "jti-1"));
    assert_eq!(send(&world, &token).status, 200, "also for who has no session here");
    let mut browser = world.signed_in();
    let again = send(&world, &token);
    assert_eq!((again.status, again.header("cache-control")), (400, Some("private, no-store")));
    assert!(browser.is_signed_in());
}

#[test]
fn a_token_that_is_no_logout_token_of_ours_ends_nothing() {
    let world = World::start();
    let mut browser = world.signed_in();
    let now = Clock::default().now().0 / 1000;
    let without = |name: &str| {
        let mut claims = logout(&world, &format!("without-{name}"));
        claims.as_object_mut().unwrap().remove(name);
        claims
    };
    let with = |name: &str, value: Value| {
        let mut claims = logout(&world, &format!("with-{name}"));
        claims[name] = value;
        claims
    };
    let mut nobody = without("sub");
    nobody.as_object_mut().unwrap().remove("sid");
    let cases = [
        without("iat"),
        without("jti"),
        without("exp"),
        without("aud"),
        without("iss"),
        without("events"),
        nobody,
        with("nonce", json!("n")),
        with("events", json!({ "http://schemas.openid.net/event/other": {} })),
        with("events", json!(EVENT)),
        with("aud", json!("grafana")),
        with("iss", json!("https://evil.example")),
        with("exp", json!(now - 120)),
        with("iat", json!(now + 3600)),
        with("iat", json!(now - 3600)),
        with("typ", json!("ID")),
        with("jti", json!(7)),
        with("sid", json!(["sid-1"])),
    ];
    for claims in &cases {
        assert_eq!(send(&world, &signed(claims)).status, 400, "{claims}");
    }
    let right = logout(&world, "right");
    for (what, token) in [
        ("shared secret", RSA.token("HS256", &right)),
        ("no signature", RSA.token_with(&json!({ "alg": "none" }), &right)),
        ("another's key", OTHER_RSA.token("RS256", &right)),
        ("its kid", OTHER_RSA.token_with(&json!({ "alg": "RS256", "kid": RSA.kid }), &right)),
        ("an ID token", RSA.token("RS256", &world.claims("n"))),
        ("an access token", RSA.token_with(&json!({ "alg": "RS256", "kid": RSA.kid, "typ": "at+jwt" }), &right)),
        ("no token", "x".to_owned()),
        ("large", "x".repeat(60_000)),
    ] {
        let answer = send(&world, &token);
        assert_eq!(answer.status, 400, "{what}");
        assert!(answer.text().contains("\"error\""), "{}", answer.text());
    }
    let token = signed(&right);
    let twice = query(&[("logout_token", &token), ("logout_token", &token)]);
    assert_eq!(send_to(&world.proxy, &twice).status, 400, "two tokens");
    assert_eq!(send_to(&world.proxy, &"x".repeat(70_000)).status, 413, "too much");
    let other = with("sid", json!("sid-of-another"));
    assert_eq!(send(&world, &signed(&other)).status, 200);
    let other = with("sub", json!("subject-2"));
    assert_eq!(send(&world, &signed(&other)).status, 200, "the sid of one and the subject of another name nobody");
    assert!(browser.is_signed_in());
    let mut all = logout(&world, "subject only");
    all.as_object_mut().unwrap().remove("sid");
    assert_eq!(send(&world, &signed(&all)).status, 200);
    assert!(!browser.is_signed_in());
}

#[test]
fn where_it_is_so_configured_a_logout_lets_access_tokens_rest_until_the_next_sign_in() {
    let world = World::with(|config| config.providers[0].logout_suspends_tokens = true);
    let mut browser = world.signed_in();
    let headers = format!("Content-Type: application/json\r\nOrigin: {}\r\n", crate::browser::PUBLIC);
    let made = browser.send("POST", "/auth/api/v1/tokens", &headers, r#"{"name":"ci","expires_in_days":1}"#);
    assert_eq!(made.status, 201, "{}", made.text());
    let made: Value = serde_json::from_slice(&made.body).unwrap();
    let bearer = format!("Authorization: Bearer {}\r\n", made["token"].as_str().unwrap());
    let works = || world.browser().send("GET", "/auth/api/v1/me", &bearer, "").status;
    assert_eq!(works(), 200);
    assert_eq!(send(&world, &signed(&logout(&world, "jti-1"))).status, 200);
    assert_eq!(works(), 401);
    world.signed_in();
    assert_eq!(works(), 200);
}
