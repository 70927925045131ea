//! Sessions over time: refreshed behind everybody's back, kept through trouble, ended by a refusal.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mlflow_auth_proxy::clock::Stopwatch;
use serde_json::{Value, json};

use crate::browser::{PUBLIC, SESSION, TOKEN, World, configured, endpoint, eventually, granted};
use crate::harness::{PATIENCE, pause};
use crate::provider::{self, RSA};

/// Somebody signed in with tokens that end in three seconds, so a refresh is due within one.
fn restless(world: &World) -> crate::browser::Browser<'_> {
    world.signed_in_for(3)
}

fn refused(error: &str) -> Value {
    json!({ "error": error, "error_description": "Call 0800-EVIL" })
}

#[test]
fn a_refresh_happens_once_however_many_replicas_there_are_and_tokens_rotate() {
    let world = World::start();
    let mut browser = restless(&world);
    let issuer = world.provider.issuer();
    let replicas: Vec<_> = (0..2)
        .map(|_| {
            world.proxy.beside(world.recorder.address, |config| {
                config.server.public_url = Some(PUBLIC.parse().unwrap());
                config.providers = vec![configured("keycloak", endpoint(&issuer))];
            })
        })
        .collect();
    // As Keycloak does it: each refresh token works once, and what comes again kills everything.
    let next = Arc::new(AtomicUsize::new(1));
    let dead = Arc::new(AtomicUsize::new(0));
    let (expected, killed) = (Arc::clone(&next), Arc::clone(&dead));
    let claims = world.claims("none");
    world.answers(move |request| {
        let number = expected.load(Ordering::SeqCst);
        if request.body.contains("grant_type=refresh_token")
            && request.body.contains(&format!("refresh_token=refresh-{number}"))
        {
            expected.store(number + 1, Ordering::SeqCst);
            let mut claims = claims.clone();
            claims.as_object_mut().unwrap().remove("nonce");
            return (200, granted(&claims, &format!("refresh-{}", number + 1), 3));
        }
        killed.fetch_add(1, Ordering::SeqCst);
        (400, refused("invalid_grant"))
    });
    eventually("five rounds", || next.load(Ordering::SeqCst) > 5);
    assert_eq!(dead.load(Ordering::SeqCst), 0, "no token was ever used twice");
    assert!(browser.is_signed_in());
    assert!(browser.at(&replicas[0]).is_signed_in() && browser.at(&replicas[1]).is_signed_in());
}

#[test]
fn while_a_provider_hangs_sessions_answer_within_a_second() {
    let world = World::start();
    let mut browser = restless(&world);
    let before = world.token_requests();
    world.provider.answer(TOKEN, provider::Answer::Hang);
    eventually("the refresh hangs", || world.token_requests() > before);
    let mut took = [Duration::ZERO; 21];
    for took in &mut took {
        let watch = Stopwatch::start();
        assert!(browser.is_signed_in());
        *took = watch.elapsed();
    }
    took.sort();
    // A busy machine may hold up one of them; who waits for the provider waits ten seconds.
    assert!(took[10] < Duration::from_secs(1) && took[20] < Duration::from_secs(5), "{took:?}");
    // No second try while the first may still be carried out.
    pause(Duration::from_secs(3));
    assert_eq!(world.token_requests(), before + 1);
    assert_eq!(world.sessions_of("alice@example.com").len(), 1);
}

#[test]
fn a_provider_in_trouble_and_a_fault_of_ours_keep_the_session() {
    let body = || json!({ "error": "invalid_grant" });
    for (status, answer) in [
        (401, refused("unauthorized_client")),
        (401, refused("invalid_client")),
        (400, refused("unsupported_grant_type")),
        // A firewall in between says so, too.
        (403, refused("access_denied")),
        (500, body()),
        (503, body()),
        (429, body()),
        (200, json!({ "no": "token" })),
    ] {
        let world = World::start();
        let mut browser = restless(&world);
        let before = world.token_requests();
        let said = answer.clone();
        world.answers(move |_| (status, said.clone()));
        eventually("a refresh fails", || world.token_requests() > before);
        let failed = || world.sessions_of("alice@example.com").iter().any(|session| session.failures == 1);
        eventually("the failure is counted", failed);
        assert!(browser.is_signed_in(), "{status} {answer}");
    }
}

#[test]
fn a_provider_that_answers_again_is_asked_again() {
    let world = World::start();
    let mut browser = restless(&world);
    world.answers(|_| (401, refused("invalid_client")));
    eventually("a refresh fails", || world.sessions_of("alice@example.com").iter().any(|it| it.failures > 0));
    let mut claims = world.claims("none");
    claims["groups"] = json!(["/ml/team-b"]);
    world.grants(&claims);
    eventually("a refresh succeeds", || {
        let me = browser.send("GET", "/auth/api/v1/me", "Sec-Fetch-Mode: cors\r\n", "");
        me.text().contains("/ml/team-b") || world.sessions_of("alice@example.com").iter().any(|it| it.failures == 0)
    });
    assert!(browser.is_signed_in());
}

#[test]
fn a_refusal_ends_the_session() {
    for code in ["invalid_grant", "consent_required", "interaction_required"] {
        let world = World::start();
        let mut browser = restless(&world);
        world.answers(move |_| (400, refused(code)));
        eventually("the session is over", || !browser.is_signed_in());
        assert!(world.sessions_of("alice@example.com").is_empty());
        let again = browser.open("/");
        assert_eq!(again.status, 302, "{code}: on to sign in again");
    }
}

#[test]
fn who_left_the_allowed_groups_is_out_at_the_next_refresh() {
    let world = World::start();
    let mut browser = restless(&world);
    let mut claims = world.claims("none");
    claims["groups"] = json!(["/sales"]);
    world.grants(&claims);
    eventually("the session is over", || !browser.is_signed_in());
    let store = world.proxy.store();
    let user = world.proxy.block_on(store.user_by_name("alice@example.com")).unwrap().unwrap();
    assert!(!user.person.unwrap().allowed, "so access tokens stop as well");
}

#[test]
fn rules_that_were_tightened_count_from_the_start_on() {
    let world = World::start();
    let mut browser = world.signed_in();
    let stricter = |allowed: &str| {
        let mut provider = configured("keycloak", endpoint(&world.provider.issuer()));
        provider.claims.allowed = vec![allowed.to_owned()];
        world.proxy.beside(world.recorder.address, |config| {
            config.server.public_url = Some(PUBLIC.parse().unwrap());
            config.providers = vec![provider];
        })
    };
    assert!(browser.at(&stricter("/ml/*")).is_signed_in(), "the same in other words");
    let replica = stricter("/ml/team-b");
    assert!(!browser.at(&replica).is_signed_in());
    eventually("the other one follows", || !browser.is_signed_in());
}

#[test]
fn groups_are_those_of_the_last_refresh() {
    let world = World::start();
    let mut browser = restless(&world);
    let mut claims = world.claims("none");
    claims["groups"] = json!(["/ml/admins"]);
    world.grants(&claims);
    eventually("an administrator by now", || {
        let me = browser.send("GET", "/auth/api/v1/me", "Sec-Fetch-Mode: cors\r\n", "");
        serde_json::from_slice::<Value>(&me.body).unwrap()["is_admin"] == json!(true)
    });
}

#[test]
fn a_refreshed_token_of_somebody_else_ends_the_session() {
    let world = World::start();
    let mut browser = restless(&world);
    let mut claims = world.claims("none");
    claims["sub"] = json!("subject-2");
    world.grants(&claims);
    eventually("the session is over", || !browser.is_signed_in());
}

#[test]
fn a_session_outlives_its_tokens_many_times() {
    let world = World::start();
    let mut browser = restless(&world);
    let claims = world.claims("none");
    let now = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&now);
    world.answers(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        // No new refresh token: this provider does not rotate.
        (200, json!({ "token_type": "Bearer", "access_token": "a", "expires_in": 3, "id_token": RSA.token("RS256", &claims) }))
    });
    eventually("four rounds", || now.load(Ordering::SeqCst) >= 4);
    assert!(browser.is_signed_in());
}

#[test]
fn a_session_that_nobody_uses_ends_and_one_in_use_does_not() {
    let short = Duration::from_secs(2);
    let world = World::with(|config| config.session.idle_timeout = short);
    let (mut used, mut idle) = (world.signed_in(), world.signed_in());
    let watch = Stopwatch::start();
    while watch.elapsed() < short * 2 {
        assert!(used.is_signed_in(), "after {:?}", watch.elapsed());
        pause(Duration::from_millis(200));
    }
    assert!(!idle.is_signed_in());
}

#[test]
fn a_session_ends_at_its_end_however_much_it_is_used() {
    let world = World::with(|config| config.session.lifetime = Duration::from_secs(2));
    let mut browser = world.signed_in();
    let watch = Stopwatch::start();
    while browser.is_signed_in() {
        assert!(watch.elapsed() < PATIENCE);
        pause(Duration::from_millis(100));
    }
    assert!(watch.elapsed() > Duration::from_millis(1500), "{:?}", watch.elapsed());
}

#[test]
fn a_cookie_that_is_almost_right_is_nobodys() {
    let world = World::start();
    let browser = world.signed_in();
    let right = browser.jar[SESSION].clone();
    for at in 0..right.len() {
        let mut altered = right.clone().into_bytes();
        altered[at] = if altered[at] == b'A' { b'B' } else { b'A' };
        let mut other = browser.clone();
        other.jar.insert(SESSION.to_owned(), String::from_utf8(altered).unwrap());
        assert!(!other.is_signed_in(), "{at}");
    }
    for wrong in [String::new(), right[1..].to_owned(), format!("{right}A"), format!("{right}=")] {
        let mut other = browser.clone();
        other.jar.insert(SESSION.to_owned(), wrong.clone());
        assert!(!other.is_signed_in(), "{wrong}");
    }
    let mut twice = world.browser();
    let both = format!("Cookie: {SESSION}={right}; {SESSION}={right}\r\nSec-Fetch-Mode: cors\r\n");
    assert_eq!(twice.send("GET", "/auth/api/v1/me", &both, "").status, 401, "two are as good as none");
}

/// Makes an access token in this browser; its `Authorization` line.
fn access_token(browser: &mut crate::browser::Browser<'_>) -> String {
    let headers = format!("Content-Type: application/json\r\nOrigin: {PUBLIC}\r\n");
    let made = browser.send("POST", "/auth/api/v1/tokens", &headers, r#"{"name":"ci","expires_in_days":1}"#);
    assert_eq!(made.status, 201, "{}", made.text());
    let made: Value = serde_json::from_slice(&made.body).unwrap();
    format!("Authorization: Bearer {}\r\n", made["token"].as_str().unwrap())
}

fn status_with(world: &World, credential: &str) -> u16 {
    world.browser().send("GET", "/auth/api/v1/me", credential, "").status
}

#[test]
fn a_refresh_that_is_refused_because_the_user_is_disabled_stops_their_tokens_and_other_sessions() {
    for (description, stops) in [("User disabled", true), ("Unknown user", true), ("Session not active", false)] {
        let world = World::start();
        let mut other = world.signed_in();
        let mut browser = restless(&world);
        let bearer = access_token(&mut browser);
        assert_eq!(status_with(&world, &bearer), 200);
        world.answers(move |_| (400, json!({ "error": "invalid_grant", "error_description": description })));
        eventually("the session is over", || !browser.is_signed_in());
        eventually("it is written down", || world.sessions_of("alice@example.com").len() == usize::from(!stops));
        assert_eq!(status_with(&world, &bearer), if stops { 401 } else { 200 }, "{description}");
        assert_eq!(other.is_signed_in(), !stops, "{description}");
        world.signed_in();
        assert_eq!(status_with(&world, &bearer), 200, "a sign-in says that they are back");
    }
}

#[test]
fn a_signed_out_users_tokens_stay_suspended_while_another_session_is_refreshed() {
    let world = World::with(|config| config.providers[0].logout_suspends_tokens = true);
    let mut browser = restless(&world);
    let bearer = access_token(&mut browser);
    let (store, actor) = (world.proxy.store(), crate::harness::actor());
    world.proxy.block_on(async {
        let user = store.user_by_name("alice@example.com").await.unwrap().unwrap();
        store.suspend(&actor, user.id, "the identity provider signed the user out").await.unwrap();
    });
    eventually("the token rests", || status_with(&world, &bearer) == 401);
    let (before, mut claims) = (world.token_requests(), world.claims("none"));
    claims["groups"] = json!(["/ml/team-a", "/ml/team-b"]);
    world.provider.answer(TOKEN, provider::Answer::Json(granted(&claims, "refresh-1", 3)));
    eventually("three refreshes", || world.token_requests() >= before + 3);
    eventually("the new groups are known", || {
        browser.send("GET", "/auth/api/v1/me", "Sec-Fetch-Mode: cors\r\n", "").text().contains("/ml/team-b")
    });
    assert_eq!(status_with(&world, &bearer), 401);
    world.signed_in();
    assert_eq!(status_with(&world, &bearer), 200);
}

const USERINFO: &str = "/realms/test/userinfo";

fn without_id_token(world: &World) {
    let answer =
        json!({ "token_type": "Bearer", "access_token": "opaque", "expires_in": 3, "refresh_token": "refresh-1" });
    world.provider.answer(TOKEN, provider::Answer::Json(answer));
}

#[test]
fn groups_follow_userinfo_where_a_refresh_brings_no_id_token() {
    let world = World::start();
    let mut browser = restless(&world);
    let said = |subject: &str, groups: Value| provider::Answer::Json(json!({ "sub": subject, "groups": groups }));
    world.provider.answer(USERINFO, said("subject-1", json!(["/ml/team-b"])));
    without_id_token(&world);
    eventually("the new group counts", || {
        browser.send("GET", "/auth/api/v1/me", "Sec-Fetch-Mode: cors\r\n", "").text().contains("/ml/team-b")
    });
    assert_eq!(browser.name().as_deref(), Some("alice@example.com"), "userinfo need not tell the name");
    let asked = world.provider.requests(USERINFO);
    assert!(asked[0].head.to_lowercase().contains("authorization: bearer opaque"), "{}", asked[0].head);
    world.provider.answer(USERINFO, said("subject-1", json!(["/sales"])));
    eventually("who left all allowed groups is out", || !browser.is_signed_in());

    let world = World::start();
    let mut browser = restless(&world);
    world.provider.answer(USERINFO, said("subject-2", json!(["/ml/admins"])));
    without_id_token(&world);
    eventually("another's answer ends the session", || !browser.is_signed_in());
}

#[test]
fn a_session_ends_when_its_provider_answers_and_does_not_tell_groups_for_too_long() {
    let short = Duration::from_secs(4);
    for answer in [provider::Answer::Status(403), provider::Answer::Json(json!({ "sub": "subject-1" }))] {
        let world = World::with(|config| config.session.unconfirmed = short);
        let watch = Stopwatch::start();
        let mut browser = restless(&world);
        world.provider.answer(USERINFO, answer);
        without_id_token(&world);
        eventually("it is over", || !browser.is_signed_in());
        assert!(watch.elapsed() > short, "{:?}", watch.elapsed());
    }
    // A provider without refresh tokens says nothing ever again.
    let world = World::with(|config| config.session.unconfirmed = Duration::from_mins(5));
    let mut browser = world.browser();
    let begun = browser.begin("/");
    let mut answer = granted(&world.claims(&begun.nonce), "none", 300);
    answer.as_object_mut().unwrap().remove("refresh_token");
    world.provider.answer(TOKEN, provider::Answer::Json(answer));
    assert_eq!(browser.callback(&world.right(&begun.state)).status, 303);
    let session = world.sessions_of("alice@example.com").remove(0);
    let lasts = session.expires.since(session.created);
    assert!(lasts <= Duration::from_mins(5) && lasts > Duration::from_mins(4), "{lasts:?}");
}

#[test]
fn after_an_outage_every_session_is_refreshed_at_once_and_during_it_hardly_any_is_tried() {
    let world = World::start();
    let mut browsers: Vec<_> = (0..20).map(|_| restless(&world)).collect();
    let claims = world.claims("none");
    world.provider.answer(provider::METADATA, provider::Answer::Status(503));
    world.answers(|_| (503, json!({ "error": "temporarily_unavailable" })));
    let failing = || world.sessions_of("alice@example.com").iter().filter(|session| session.failures > 0).count();
    eventually("a refresh fails", || failing() > 0);
    // What was under way ends.
    pause(Duration::from_secs(2));
    let before = world.token_requests();
    pause(Duration::from_secs(6));
    assert_eq!(world.token_requests(), before, "the back-off is the provider's");
    let paused = |value: &str| {
        let metrics = world.proxy.metrics();
        let mut lines = metrics.lines().filter(|line| line.starts_with("mlflow_auth_proxy_session_refreshes_paused{"));
        lines.any(|line| line.ends_with(value))
    };
    assert!(paused(" 1"));
    world.provider.answer(provider::METADATA, provider::Answer::Json(world.provider.description()));
    world.provider.answer(TOKEN, provider::Answer::Json(granted(&claims, "refresh-1", 300)));
    let now = mlflow_auth_proxy::clock::Clock::default().now();
    let due = || {
        let sessions = world.sessions_of("alice@example.com");
        sessions.iter().filter(|session| session.failures > 0 || session.refresh_at.is_some_and(|at| at <= now)).count()
    };
    eventually("all are refreshed", || due() == 0);
    assert!(paused(" 0"));
    assert!(browsers.iter_mut().all(crate::browser::Browser::is_signed_in));
}

#[test]
fn a_user_has_so_many_sessions_and_a_further_one_ends_the_least_used() {
    let world = World::with(|config| config.session.max_per_user = 3);
    let mut browsers: Vec<_> = (0..5).map(|_| world.signed_in()).collect();
    assert_eq!(world.sessions_of("alice@example.com").len(), 3);
    let signed_in: Vec<bool> = browsers.iter_mut().map(crate::browser::Browser::is_signed_in).collect();
    assert_eq!(signed_in, [false, false, true, true, true]);
}
