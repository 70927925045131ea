//! A provider that is away, slow, wrong or attacked through us, and what everybody else notices of it: nothing.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde_json::json;
use tokio::task::JoinSet;

use super::*;
use crate::oidc::fake::{Answer, CERTS, FakeProvider, METADATA, OTHER_RSA, RSA, Signer};

const QUICK: Timing = Timing {
    every: Duration::from_secs(3600),
    retry: Duration::from_millis(20),
    cool_down: Duration::from_secs(3600),
    patience: Duration::from_millis(500),
    call: Duration::from_millis(300),
};

fn endpoint(provider: &FakeProvider) -> Endpoint {
    Endpoint {
        issuer: provider.issuer(),
        discovery_url: provider.url(METADATA).parse().unwrap(),
        internal_url: None,
        jwks_url: None,
        ca: Vec::new(),
        bearer_file: None,
        algorithms: vec![Algorithm::RS256],
    }
}

/// A remote that is kept fresh until dropped.
struct World {
    remote: Arc<Remote>,
    background: JoinSet<()>,
}

impl World {
    fn start(endpoint: &Endpoint, timing: Timing) -> Self {
        let remote = Remote::with_timing(endpoint, &Egress::default(), timing).unwrap();
        let mut background = JoinSet::new();
        let kept = Arc::clone(&remote);
        background.spawn(async move { kept.keep_fresh(|_, _| {}).await });
        Self { remote, background }
    }

    /// As [`World::start`], with the provider's keys there already.
    async fn warm(provider: &FakeProvider) -> Self {
        let world = Self::start(&endpoint(provider), QUICK);
        world.until(|remote| remote.keys().is_some()).await;
        world
    }

    async fn until(&self, done: impl Fn(&Remote) -> bool) {
        let wait = async {
            while !done(&self.remote) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), wait).await.expect("it happens");
    }

    async fn ask(&self, signer: &Signer) -> Result<(), Refusal> {
        self.ask_for(&signer.kid).await
    }

    async fn ask_for(&self, kid: &str) -> Result<(), Refusal> {
        // Which key it needs is said before anybody looks at the signature.
        let header = URL_SAFE_NO_PAD.encode(json!({ "alg": "RS256", "kid": kid }).to_string());
        let token = format!("{header}.e30.AA");
        self.remote.keys_for(&Unverified::parse(&token).unwrap()).await.map(drop)
    }
}

#[tokio::test]
async fn the_first_keys_come_without_anybody_asking() {
    let provider = FakeProvider::start(&[&RSA]);
    let mut world = World::warm(&provider).await;
    assert_eq!(world.ask(&RSA).await, Ok(()));
    assert_eq!(world.remote.metadata().unwrap().issuer, provider.issuer());
    assert!(world.remote.keys_age().is_some());
    assert_eq!(provider.requests(CERTS).len(), 1);
    world.background.abort_all();
}

#[tokio::test]
async fn a_rotated_key_works_within_the_first_request_that_brings_it() {
    let provider = FakeProvider::start(&[&RSA]);
    let world = World::warm(&provider).await;
    provider.publish(&[&RSA, &OTHER_RSA]);
    assert_eq!(world.ask(&OTHER_RSA).await, Ok(()));
    assert_eq!(provider.requests(CERTS).len(), 2);
}

#[tokio::test]
async fn a_key_that_is_rotated_in_right_after_the_start_works_too() {
    let provider = FakeProvider::start(&[&RSA]);
    let world = World::start(&endpoint(&provider), QUICK);
    assert_eq!(world.ask(&RSA).await, Ok(()), "waits for the first keys");
    provider.publish(&[&OTHER_RSA]);
    assert_eq!(world.ask(&OTHER_RSA).await, Ok(()));
    assert_eq!(provider.requests(CERTS).len(), 2);
}

#[tokio::test]
async fn many_requests_with_a_rotated_key_cost_one_call_and_all_succeed() {
    let provider = FakeProvider::start(&[&RSA]);
    let world = World::warm(&provider).await;
    provider.publish(&[&OTHER_RSA]);
    let world = Arc::new(world);
    let mut asking = JoinSet::new();
    for _ in 0..100 {
        let world = Arc::clone(&world);
        asking.spawn(async move { world.ask(&OTHER_RSA).await });
    }
    assert!(asking.join_all().await.iter().all(Result::is_ok));
    assert_eq!(provider.requests(CERTS).len(), 2);
    assert_eq!(world.ask(&RSA).await, Err(Refusal::UnknownKey), "the key that was withdrawn");
}

#[tokio::test]
async fn ten_thousand_made_up_keys_cost_one_call_and_nobody_waits_for_them() {
    let provider = FakeProvider::start(&[&RSA]);
    // Whoever waits, waits for this long; everybody else is told apart from them by half of it.
    let wait = Duration::from_secs(2);
    let world = World::start(&endpoint(&provider), Timing { patience: wait, call: wait, ..QUICK });
    world.until(|remote| remote.keys().is_some()).await;
    let world = Arc::new(world);
    provider.answer(CERTS, Answer::Hang);
    let watch = Stopwatch::start();
    let slowest = Arc::new(Mutex::new(Duration::ZERO));
    let mut asking = JoinSet::new();
    for batch in 0..100 {
        let (world, slowest) = (Arc::clone(&world), Arc::clone(&slowest));
        asking.spawn(async move {
            for number in 0..100 {
                assert_eq!(world.ask_for(&format!("made-up-{batch}-{number}")).await, Err(Refusal::UnknownKey));
                let known = Stopwatch::start();
                assert_eq!(world.ask(&RSA).await, Ok(()));
                let mut slowest = slowest.lock().unwrap();
                *slowest = known.elapsed().max(*slowest);
            }
        });
    }
    asking.join_all().await;
    assert!(provider.requests(CERTS).len() <= 3, "the first, the flood's, one retry while it failed");
    assert!(*slowest.lock().unwrap() < wait / 2, "a known key never waits: {slowest:?}");
    // The first hundred wait for the one call; nobody after them.
    assert!(watch.elapsed() < Duration::from_secs(30));
    let late = Stopwatch::start();
    assert_eq!(world.ask_for("made-up").await, Err(Refusal::UnknownKey));
    assert!(late.elapsed() < wait / 2);
}

#[tokio::test]
async fn after_the_cool_down_one_more_call_is_made() {
    let provider = FakeProvider::start(&[&RSA]);
    let timing = Timing { cool_down: Duration::from_millis(200), ..QUICK };
    let world = World::start(&endpoint(&provider), timing);
    world.until(|remote| remote.keys().is_some()).await;
    for _ in 0..3 {
        assert_eq!(world.ask(&OTHER_RSA).await, Err(Refusal::UnknownKey));
    }
    assert_eq!(provider.requests(CERTS).len(), 2);
    provider.publish(&[&OTHER_RSA]);
    world.until(|_| world.remote.asked.lock().unwrap().unwrap().0.elapsed() > timing.cool_down).await;
    assert_eq!(world.ask(&OTHER_RSA).await, Ok(()));
    assert_eq!(provider.requests(CERTS).len(), 3);
}

#[tokio::test]
async fn a_token_that_no_key_could_make_good_makes_nobody_ask() {
    let provider = FakeProvider::start(&[&RSA]);
    let world = World::warm(&provider).await;
    let token = Signer::p256("new").token("ES256", &json!({}));
    let refusal = world.remote.keys_for(&Unverified::parse(&token).unwrap()).await.map(drop);
    assert_eq!(refusal, Err(Refusal::Algorithm));
    assert_eq!(provider.requests(CERTS).len(), 1);
}

/// However the provider fails, the keys that were good stay good, and it costs bounded time and memory.
#[tokio::test]
async fn what_was_good_stays_good_while_the_provider_fails() {
    let provider = FakeProvider::start(&[&RSA]);
    let world = World::warm(&provider).await;
    let metadata = world.remote.metadata().unwrap();
    let evil = FakeProvider::start(&[&OTHER_RSA]);
    let mut another_issuer = provider.description();
    another_issuer["issuer"] = json!("https://evil.example");
    another_issuer["jwks_uri"] = json!(evil.url(CERTS));
    let mut unsafe_keys = provider.description();
    unsafe_keys["jwks_uri"] = json!("http://keys.example.com/x");
    for (path, answer) in [
        (CERTS, Answer::Status(500)),
        (CERTS, Answer::Status(204)),
        (CERTS, Answer::Redirect(evil.url(CERTS))),
        (CERTS, Answer::Text("<html>".to_owned())),
        (CERTS, Answer::Text(String::new())),
        (CERTS, Answer::Json(json!({ "keys": [] }))),
        (CERTS, Answer::Json(json!({ "keys": [{ "kty": "oct", "k": "AA", "kid": "rsa-1" }] }))),
        (CERTS, Answer::Json(json!({ "keys": vec![OTHER_RSA.jwk(); 101] }))),
        (CERTS, Answer::Huge),
        (CERTS, Answer::Hang),
        (CERTS, Answer::Trickle),
        (METADATA, Answer::Status(404)),
        (METADATA, Answer::Json(another_issuer)),
        (METADATA, Answer::Json(unsafe_keys)),
        (METADATA, Answer::Json(json!([]))),
        (METADATA, Answer::Redirect(evil.url(METADATA))),
        (METADATA, Answer::Hang),
        (METADATA, Answer::Huge),
    ] {
        provider.answer(METADATA, Answer::Json(provider.description()));
        provider.publish(&[&RSA]);
        provider.answer(path, answer);
        let watch = Stopwatch::start();
        assert!(world.remote.refresh(&|_, _| {}).await.is_err());
        assert!(watch.elapsed() < QUICK.call * 4, "it ends in time");
        assert_eq!(world.ask(&RSA).await, Ok(()));
        assert_eq!(world.remote.metadata().unwrap(), metadata);
        assert_ne!(world.ask(&OTHER_RSA).await, Ok(()));
    }
    assert!(evil.requests(CERTS).is_empty() && evil.requests(METADATA).is_empty());
}

#[tokio::test]
async fn a_provider_that_starts_late_is_found_soon_and_is_said_to_be_missing_until_then() {
    let provider = FakeProvider::start(&[&RSA]);
    provider.answer(METADATA, Answer::Status(503));
    let world = World::start(&endpoint(&provider), QUICK);
    assert_eq!(world.ask(&RSA).await, Err(Refusal::NoKeys));
    assert!(world.remote.description().await.is_none());
    provider.answer(METADATA, Answer::Json(provider.description()));
    world.until(|remote| remote.keys().is_some()).await;
    assert_eq!(world.ask(&RSA).await, Ok(()));
}

#[tokio::test]
async fn a_slow_provider_holds_up_no_other() {
    let (slow, quick) = (FakeProvider::start(&[&RSA]), FakeProvider::start(&[&OTHER_RSA]));
    slow.answer(METADATA, Answer::Hang);
    let (slow, quick) = (World::start(&endpoint(&slow), QUICK), World::warm(&quick).await);
    let watch = Stopwatch::start();
    let (first, second) = tokio::join!(slow.ask(&RSA), async {
        let outcome = quick.ask(&OTHER_RSA).await;
        (outcome, watch.elapsed())
    });
    assert_eq!((first, second.0), (Err(Refusal::NoKeys), Ok(())));
    assert!(second.1 < Duration::from_millis(200));
}

#[tokio::test]
async fn every_call_is_told_with_a_bounded_word() {
    let provider = FakeProvider::start(&[&RSA]);
    let remote = Remote::with_timing(&endpoint(&provider), &Egress::default(), QUICK).unwrap();
    let told = Mutex::new(Vec::new());
    let tell = |what: What, outcome: Result<(), &Error>| {
        told.lock().unwrap().push((what.as_str(), outcome.err().map_or("ok", Error::kind)));
    };
    remote.refresh(&tell).await.unwrap();
    provider.answer(CERTS, Answer::Hang);
    remote.refresh(&tell).await.unwrap_err();
    provider.answer(METADATA, Answer::Status(500));
    remote.refresh(&tell).await.unwrap_err();
    let expected = [
        ("metadata", "ok"),
        ("keys", "ok"),
        ("metadata", "ok"),
        ("keys", "timeout"),
        ("metadata", "status"),
        ("keys", "timeout"),
    ];
    assert_eq!(*told.lock().unwrap(), expected);
}

#[tokio::test]
async fn keys_behind_a_bearer_are_asked_for_with_the_one_that_is_in_the_file_now() {
    let provider = FakeProvider::start(&[&RSA]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let endpoint = Endpoint {
        jwks_url: Some(provider.url(CERTS).parse().unwrap()),
        bearer_file: Some(path.clone()),
        ..endpoint(&provider)
    };
    let remote = Remote::with_timing(&endpoint, &Egress::default(), QUICK).unwrap();
    assert!(matches!(remote.refresh(&|_, _| {}).await, Err(Error::Bearer(_))));
    for token in ["first", "second"] {
        std::fs::write(&path, format!("{token}\n")).unwrap();
        remote.refresh(&|_, _| {}).await.unwrap();
        let head = provider.requests(CERTS).last().unwrap().head.to_lowercase();
        assert!(head.contains(&format!("authorization: bearer {token}\r\n")), "{head}");
    }
    assert!(provider.requests(METADATA).is_empty(), "with jwks_url nobody asks for a description");
}

#[tokio::test]
async fn nothing_is_asked_over_plain_http_of_another_machine() {
    let provider = FakeProvider::start(&[]);
    let client = Client::new(&endpoint(&provider), &Egress::default()).unwrap();
    for url in ["http://keycloak.example.com/x", "http://10.0.0.1/x", "http://localhost.example.com/"] {
        let outcome = client.get(&url.parse().unwrap(), "*/*", None, QUICK.call).await;
        assert!(matches!(outcome, Err(client::Error::Unsafe(_))), "{url}");
    }
}
