//! Signing in with a browser: what must match before a provider is asked, and what people and attackers then see.

use serde_json::json;
use url::Url;

use crate::browser::{ATTEMPT, HOST, PUBLIC, SESSION, World, begun, configured, endpoint, query};
use crate::harness::{ADMIN, PASSWORD};
use crate::provider::{FakeProvider, OTHER_RSA, RSA};

#[test]
fn signing_in_ends_where_it_was_wanted_with_a_session() {
    let world = World::start();
    let mut browser = world.browser();
    let sent = browser.open("/?workspace=default");
    assert_eq!((sent.status, sent.header("location")), (302, Some("/auth/login?return_to=%2F%3Fworkspace%3Ddefault")));
    let page = browser.open("/auth/login?return_to=%2F%3Fworkspace%3Ddefault");
    assert_eq!(page.status, 200);
    assert!(page.text().contains("Company ") && !page.text().contains("<account>"), "{}", page.text());

    let begun = browser.begin("/?workspace=default#/experiments/1");
    let said: Vec<(String, String)> = begun.at.query_pairs().into_owned().collect();
    let said = |name: &str| {
        said.iter().filter(|(found, _)| found == name).map(|(_, value)| value.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(said("response_type"), ["code"]);
    assert_eq!(said("client_id"), ["mlflow"]);
    assert_eq!(said("redirect_uri"), ["https://mlflow.example.com/auth/callback/keycloak"]);
    assert_eq!(said("code_challenge_method"), ["S256"]);
    assert_eq!(said("code_challenge")[0].len(), 43);
    assert_eq!(said("scope"), ["openid email profile"]);

    world.grants(&world.claims(&begun.nonce));
    let answer = browser.callback(&world.right(&begun.state));
    assert_eq!((answer.status, answer.header("location")), (303, Some("/?workspace=default#/experiments/1")));
    assert_eq!(browser.attempts(), 0, "its cookie is gone");
    assert_eq!(browser.name().as_deref(), Some("alice@example.com"));

    let asked = world.provider.requests("/realms/test/token");
    assert_eq!(asked.len(), 1);
    assert!(asked[0].body.contains("code=code-1") && asked[0].body.contains("code_verifier="), "{}", asked[0].body);
    assert!(asked[0].head.to_lowercase().contains("authorization: basic "), "{}", asked[0].head);
    let session = world.sessions_of("alice@example.com").remove(0);
    assert_eq!((session.provider.as_deref(), session.sid.as_deref()), (Some("keycloak"), Some("sid-1")));
    assert!(session.tokens.starts_with("store.") && !session.tokens.contains("refresh-1"), "{}", session.tokens);
}

#[test]
fn what_mlflow_gets_from_a_browser_has_no_cookie_and_no_credential() {
    let world = World::start();
    let mut browser = world.signed_in();
    world.recorder.take();
    assert_eq!(browser.open("/").status, 200);
    let received = world.recorder.take();
    assert_eq!(received.len(), 1);
    assert!(received[0].all("cookie").is_empty() && received[0].all("authorization").is_empty(), "{received:?}");
}

#[test]
fn without_a_right_state_nothing_is_asked_of_the_provider() {
    let world = World::start();
    let mut browser = world.browser();
    let begun = browser.begin("/");
    world.grants(&world.claims(&begun.nonce));
    let iss = world.provider.issuer();
    let state = begun.state.as_str();
    let other = if state.ends_with('A') { 'Q' } else { 'A' };
    let altered = format!("{}{other}", &state[..state.len() - 1]);
    for (what, pairs) in [
        ("missing", vec![("code", "c"), ("iss", &iss)]),
        ("empty", vec![("code", "c"), ("iss", &iss), ("state", "")]),
        ("wrong", vec![("code", "c"), ("iss", &iss), ("state", "x")]),
        ("altered", vec![("code", "c"), ("iss", &iss), ("state", &altered)]),
        ("twice", vec![("code", "c"), ("iss", &iss), ("state", state), ("state", state)]),
        ("two codes", vec![("code", "c"), ("code", "d"), ("iss", &iss), ("state", state)]),
        ("two issuers", vec![("code", "c"), ("iss", &iss), ("iss", &iss), ("state", state)]),
    ] {
        let answer = browser.callback(&query(&pairs));
        assert_eq!(answer.status, 400, "{what}");
        assert!(!browser.jar.contains_key(SESSION), "{what}");
    }
    // Another browser's: it begins anew there, with a state of its own.
    let mut other = world.browser();
    let answer = other.callback(&world.right(state));
    assert_eq!((answer.status, other.attempts()), (302, 1));
    assert_ne!(crate::browser::begun(&answer).state, begun.state);
    assert_eq!(world.token_requests(), 0);
    assert_eq!(browser.callback(&world.right(state)).status, 303, "none of this used the right one up");
}

#[test]
fn a_code_is_redeemed_once_however_often_the_address_is_opened() {
    let world = World::start();
    let mut browser = world.browser();
    let begun = browser.begin("/#/models");
    world.grants(&world.claims(&begun.nonce));
    let before = browser.clone();
    assert_eq!(browser.callback(&world.right(&begun.state)).status, 303);
    let again = browser.callback(&world.right(&begun.state));
    assert_eq!((again.status, again.header("location")), (303, Some("/#/models")), "who is signed in goes on");
    let mut thief = before;
    assert_eq!(thief.callback(&world.right(&begun.state)).status, 302, "with the cookie of before: begins anew");
    assert!(!thief.is_signed_in());
    assert_eq!(world.token_requests(), 1);
}

#[test]
fn a_browser_that_keeps_no_cookies_is_not_sent_around_for_ever() {
    let world = World::start();
    let mut state = world.browser().begin("/").state;
    for _ in 0..3 {
        let answer = world.browser().callback(&world.right(&state));
        assert_eq!(answer.status, 302);
        state = begun(&answer).state;
    }
    let answer = world.browser().callback(&world.right(&state));
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("cookies"), "{}", answer.text());
    assert_eq!(world.token_requests(), 0);
}

#[test]
fn another_providers_answer_is_refused() {
    let other = FakeProvider::start(&[&OTHER_RSA]);
    let also = endpoint(&other.issuer());
    let world = World::with(|config| config.providers.push(configured("other", also)));
    let mut browser = world.browser();
    let begun = browser.begin("/");
    world.grants(&world.claims(&begun.nonce));
    let with = |iss: &[(&str, &str)]| query(&[&[("code", "c"), ("state", begun.state.as_str())], iss].concat());
    assert_eq!(browser.callback(&with(&[("iss", &other.issuer())])).status, 400);
    assert_eq!(browser.callback(&with(&[])).status, 400, "it announces that it sends `iss`");
    let mixed = browser.open(&format!("/auth/callback/other?{}", with(&[("iss", &other.issuer())])));
    assert_eq!(mixed.status, 400, "a state of one provider at another's callback");
    assert_eq!(browser.open(&format!("/auth/callback/nobody?{}", world.right(&begun.state))).status, 404);
    assert_eq!(world.token_requests() + other.requests("/realms/test/token").len(), 0);
}

#[test]
fn an_id_token_that_is_not_for_this_sign_in_signs_nobody_in() {
    let world = World::start();
    let changes: [(&str, serde_json::Value); 7] = [
        ("nonce", json!("another")),
        ("nonce", json!(null)),
        ("aud", json!("grafana")),
        ("iss", json!("https://evil.example")),
        ("exp", json!(1)),
        ("typ", json!("Bearer")),
        ("azp", json!("grafana")),
    ];
    for (claim, value) in changes {
        let mut browser = world.browser();
        let begun = browser.begin("/");
        let mut claims = world.claims(&begun.nonce);
        claims[claim] = value.clone();
        world.grants(&claims);
        let answer = browser.callback(&world.right(&begun.state));
        // A nonce of another sign-in comes with another's code; the rest is the provider's fault.
        assert_eq!(answer.status, if claim == "nonce" { 400 } else { 502 }, "{claim}: {value}");
        assert!(!browser.jar.contains_key(SESSION), "{claim}: {value}");
    }
    let mut browser = world.browser();
    let begun = browser.begin("/");
    let mut answer = crate::browser::granted(&world.claims(&begun.nonce), "r", 300);
    answer["id_token"] = json!(OTHER_RSA.token("RS256", &world.claims(&begun.nonce)));
    world.answers(move |_| (200, answer.clone()));
    assert_eq!(browser.callback(&world.right(&begun.state)).status, 502, "another's signature");
}

#[test]
fn a_planted_session_is_never_taken_over_and_the_one_before_ends() {
    let world = World::start();
    let mut browser = world.browser();
    let planted = "A".repeat(43);
    browser.jar.insert(SESSION.to_owned(), planted.clone());
    let begun = browser.begin("/");
    world.grants(&world.claims(&begun.nonce));
    assert_eq!(browser.callback(&world.right(&begun.state)).status, 303);
    assert_ne!(browser.jar[SESSION], planted);
    let mut before = browser.clone();
    assert!(before.is_signed_in());
    let begun = browser.begin("/");
    world.grants(&world.claims(&begun.nonce));
    assert_eq!(browser.callback(&world.right(&begun.state)).status, 303);
    assert!(browser.is_signed_in() && !before.is_signed_in());
    assert_eq!(world.sessions_of("alice@example.com").len(), 1);
}

#[test]
fn twenty_tabs_at_once_all_finish_and_cookies_stay_few() {
    let world = World::start();
    let mut browser = world.browser();
    let tabs: Vec<_> = (0..20).map(|tab| browser.begin(&format!("/#/experiments/{tab}"))).collect();
    assert!(browser.attempts() <= 5, "{}", browser.attempts());
    for (tab, begun) in tabs.iter().enumerate() {
        world.grants(&world.claims(&begun.nonce));
        let mut answer = browser.callback(&world.right(&begun.state));
        // One whose cookie had to go begins anew by itself; the provider knows the person by now.
        while answer.status == 302 {
            let again = crate::browser::begun(&answer);
            world.grants(&world.claims(&again.nonce));
            answer = browser.callback(&world.right(&again.state));
        }
        let expected = format!("/#/experiments/{tab}");
        assert_eq!((answer.status, answer.header("location")), (303, Some(expected.as_str())));
    }
    assert!(browser.is_signed_in());
}

#[test]
fn no_link_makes_a_sign_in_end_elsewhere() {
    let world = World::start();
    let mut browser = world.browser();
    for link in [
        "//evil.example",
        "https://evil.example",
        "/\\evil.example",
        "/%09/evil.example",
        "/a/..//evil.example",
        "javascript:alert(1)",
    ] {
        let begun = browser.begin(link);
        world.grants(&world.claims(&begun.nonce));
        let answer = browser.callback(&world.right(&begun.state));
        assert_eq!((answer.status, answer.header("location")), (303, Some("/")), "{link}");
        let link = query(&[("return_to", link)]);
        assert_eq!(browser.open(&format!("/auth/login?{link}")).header("location"), Some("/"), "signed in already");
    }
}

#[test]
fn what_a_provider_says_in_the_address_is_not_shown() {
    let world = World::start();
    for error in
        ["access_denied", "<script>alert(1)</script>", "call 0800-EVIL", "login_required", "temporarily_unavailable"]
    {
        let mut browser = world.browser();
        let begun = browser.begin("/");
        let said = [
            ("error", error),
            ("error_description", "Call 0800-EVIL <b>now</b>"),
            ("state", &begun.state),
            ("iss", &world.provider.issuer()),
        ];
        let answer = browser.callback(&query(&said));
        let status = if error == "temporarily_unavailable" { 503 } else { 403 };
        assert_eq!(answer.status, status, "{error}");
        assert!(!answer.text().contains("EVIL") && !answer.text().contains("alert(1)"), "{}", answer.text());
        assert!(answer.header("content-security-policy").unwrap().contains("default-src 'none'"));
        assert_eq!(browser.attempts(), 0);
    }
    assert_eq!(world.token_requests(), 0);
}

#[test]
fn who_is_in_no_allowed_group_learns_which_are_and_gets_nothing() {
    let world = World::start();
    let mut browser = world.browser();
    let begun = browser.begin("/");
    let mut claims = world.claims(&begun.nonce);
    claims["groups"] = json!(["/sales"]);
    world.grants(&claims);
    let answer = browser.callback(&world.right(&begun.state));
    assert_eq!(answer.status, 403);
    for told in ["<code>/ml</code> or a group below it", "/sales", "alice@example.com", "Use another account"] {
        assert!(answer.text().contains(told), "{told}: {}", answer.text());
    }
    assert!(!answer.text().contains("id_token_hint"));
    assert!(!browser.jar.contains_key(SESSION));
    let store = world.proxy.store();
    assert!(world.proxy.block_on(store.user_by_name("alice@example.com")).unwrap().is_none(), "no account was made");
    crate::browser::eventually("the audit log tells", || {
        let log = world.proxy.block_on(store.audit_log(10)).unwrap();
        log.iter().any(|row| row.action == "login.failed" && row.actor.name == "alice@example.com")
    });
}

#[test]
fn a_name_that_somebody_else_has_is_refused() {
    let world = World::start();
    world.proxy.user("alice@example.com", &[]);
    let mut browser = world.browser();
    let begun = browser.begin("/");
    world.grants(&world.claims(&begun.nonce));
    let answer = browser.callback(&world.right(&begun.state));
    assert_eq!(answer.status, 409, "{}", answer.text());
    assert!(!browser.jar.contains_key(SESSION));
}

#[test]
fn groups_that_only_the_access_token_has_count() {
    let world = World::with(|config| {
        let claim = "realm_access.roles".to_owned();
        config.providers[0].claims.groups.push(config_group(claim));
        config.providers[0].claims.allowed = vec!["ml-user".to_owned()];
    });
    let mut browser = world.browser();
    let begun = browser.begin("/");
    let mut access = world.claims(&begun.nonce);
    access["typ"] = json!("Bearer");
    access["realm_access"] = json!({ "roles": ["ml-user"] });
    access.as_object_mut().unwrap().remove("nonce");
    let mut answer = crate::browser::granted(&world.claims(&begun.nonce), "r", 300);
    // Signed by somebody else it counts for nothing.
    answer["access_token"] = json!(OTHER_RSA.token("RS256", &access));
    let forged = answer.clone();
    world.answers(move |_| (200, forged.clone()));
    assert_eq!(browser.callback(&world.right(&begun.state)).status, 403);

    let begun = browser.begin("/");
    answer["id_token"] = json!(RSA.token("RS256", &world.claims(&begun.nonce)));
    answer["access_token"] = json!(RSA.token("RS256", &access));
    world.answers(move |_| (200, answer.clone()));
    assert_eq!(browser.callback(&world.right(&begun.state)).status, 303);
}

fn config_group(claim: String) -> mlflow_auth_proxy::config::GroupSource {
    mlflow_auth_proxy::config::GroupSource { claim, prefix: String::new() }
}

#[test]
fn only_somebody_at_a_browser_is_sent_to_sign_in() {
    let world = World::start();
    let mut browser = world.browser();
    browser.jar.insert(SESSION.to_owned(), "A".repeat(43));
    let dead = browser.open("/");
    assert_eq!((dead.status, dead.header("location")), (302, Some("/auth/login?return_to=%2F")));
    let script =
        browser.send("GET", "/ajax-api/2.0/mlflow/experiments/get?experiment_id=1", "Sec-Fetch-Mode: cors\r\n", "");
    assert_eq!((script.status, script.header("www-authenticate")), (401, None));
    let api = browser.open("/api/2.0/mlflow/experiments/get?experiment_id=1");
    assert_eq!(api.status, 401);
    browser.jar.clear();
    let program = browser.send("GET", "/", "Accept: */*\r\n", "");
    assert_eq!((program.status, program.header("www-authenticate")), (401, Some("Basic realm=\"mlflow\"")));
    let wrong = browser.send("GET", "/", "Accept: text/html\r\nAuthorization: Basic eDp5\r\n", "");
    assert_eq!((wrong.status, wrong.header("www-authenticate")), (401, Some("Basic realm=\"mlflow\"")));
    for target in ["/auth/login?provider=keycloak", "/auth/login", "/auth/callback/keycloak?code=c&state=s"] {
        for header in
            ["Sec-Fetch-Mode: cors\r\n", "Sec-Fetch-Mode: no-cors\r\n", "X-Requested-With: XMLHttpRequest\r\n"]
        {
            assert_eq!(browser.send("GET", target, header, "").status, 401, "{target} {header}");
        }
    }
}

#[test]
fn the_hosts_name_never_decides_where_a_provider_answers() {
    let world = World::start();
    let mut browser = world.browser();
    browser.begin("/");
    let raw = "GET /auth/login?provider=keycloak HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-Host: evil.example\r\n\r\n";
    let answer = world.proxy.ask(raw).unwrap();
    let at = Url::parse(answer.header("location").unwrap()).unwrap();
    let redirect = at.query_pairs().find(|(name, _)| name == "redirect_uri").unwrap().1.into_owned();
    assert_eq!(redirect, "https://mlflow.example.com/auth/callback/keycloak");
}

#[test]
fn a_password_signs_in_where_the_form_is_on() {
    let world = World::with(|config| config.authn.password_form = true);
    let mut browser = world.browser();
    assert!(browser.open("/auth/login").text().contains("name=\"password\""));
    let wrong = query(&[("username", ADMIN), ("password", "guess"), ("return_to", "/#/models")]);
    let answer = browser.submit("/auth/login", &wrong);
    assert_eq!((answer.status, answer.header("www-authenticate")), (401, None));
    let right = query(&[("username", ADMIN), ("password", PASSWORD), ("return_to", "/#/models")]);
    let cross = "Content-Type: application/x-www-form-urlencoded\r\nOrigin: https://evil.example\r\n";
    assert_eq!(browser.send("POST", "/auth/login", cross, &right).status, 403, "another site's form");
    assert!(!browser.jar.contains_key(SESSION));
    let answer = browser.submit("/auth/login", &right);
    assert_eq!((answer.status, answer.header("location")), (303, Some("/#/models")));
    assert_eq!(browser.name().as_deref(), Some(ADMIN));

    let mut elsewhere = browser.clone();
    let body =
        format!(r#"{{"username":"{ADMIN}","password":"another fine password","current_password":"{PASSWORD}"}}"#);
    let json = format!("Content-Type: application/json\r\nOrigin: {PUBLIC}\r\n");
    let changed = browser.send("PATCH", "/api/2.0/mlflow/users/update-password", &json, &body);
    assert_eq!(changed.status, 200, "{}", changed.text());
    assert!(!elsewhere.is_signed_in(), "sessions of the old password end");

    let off = World::start();
    assert_eq!(off.browser().submit("/auth/login", &right).status, 405);
}

#[test]
fn another_sites_page_changes_nothing_with_a_session() {
    let world = World::start();
    let mut browser = world.signed_in();
    let json = "Content-Type: application/json\r\n";
    for target in [
        "/ajax-api/2.0/mlflow/experiments/create",
        "/api/2.0/mlflow/experiments/create",
        "/auth/api/v1/tokens",
        "/auth/logout",
    ] {
        for site in [
            "Origin: https://evil.example\r\n".to_owned(),
            "Origin: null\r\n".to_owned(),
            format!("Origin: http://{HOST}\r\n"),
            format!("Origin: https://{HOST}:8443\r\n"),
            format!("Origin: {PUBLIC}.evil.example\r\n"),
            "Sec-Fetch-Site: cross-site\r\n".to_owned(),
            "Sec-Fetch-Site: same-site\r\n".to_owned(),
            format!("Origin: {PUBLIC}\r\nSec-Fetch-Site: same-site\r\n"),
        ] {
            let answer = browser.send("POST", target, &format!("{json}{site}"), r#"{"name":"x"}"#);
            assert_eq!(answer.status, 403, "{target} {site}");
        }
    }
    assert!(world.recorder.take().iter().all(|received| received.method == "GET"));
    assert!(browser.is_signed_in());
    let ours = format!("{json}Origin: {PUBLIC}\r\nSec-Fetch-Site: same-origin\r\n");
    let answer = browser.send("POST", "/ajax-api/2.0/mlflow/experiments/search", &ours, r#"{"max_results":1}"#);
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[test]
fn a_provider_that_is_away_is_said_so_and_nothing_breaks() {
    let provider = FakeProvider::start(&[]);
    let issuer = provider.issuer();
    drop(provider);
    let world = World::with(|config| config.providers = vec![configured("keycloak", endpoint(&issuer))]);
    let mut browser = world.browser();
    let answer = browser.open("/auth/login?provider=keycloak");
    assert_eq!(answer.status, 503);
    assert!(!browser.jar.keys().any(|name| name.starts_with(ATTEMPT)));
}

#[test]
fn what_a_provider_refuses_because_of_the_request_is_no_trouble_of_the_providers() {
    let refused = |error: &str| json!({ "error": error, "error_description": "Call 0800-EVIL" });
    for (status, answer, shown) in [
        (400, refused("invalid_grant"), 400),
        (400, refused("invalid_request"), 400),
        (400, json!({ "error": "invalid_grant", "error_description": "User disabled" }), 403),
        (401, refused("invalid_client"), 502),
        (500, refused("invalid_grant"), 503),
    ] {
        let world = World::start();
        let mut browser = world.browser();
        let begun = browser.begin("/");
        let said = answer.clone();
        world.answers(move |_| (status, said.clone()));
        let page = browser.callback(&world.right(&begun.state));
        assert_eq!(page.status, shown, "{status} {answer}");
        assert!(!page.text().contains("EVIL") && page.text().contains("/auth/login"), "{}", page.text());
        assert!(!browser.is_signed_in());
    }
    // A code of another browser's sign-in, at a provider that does not check PKCE.
    let world = World::start();
    let mut browser = world.browser();
    let begun = browser.begin("/");
    world.grants(&world.claims("the nonce of another"));
    assert_eq!(browser.callback(&world.right(&begun.state)).status, 400);
}

#[test]
fn an_unverified_address_is_explained_to_its_owner() {
    let world = World::start();
    let mut browser = world.browser();
    let begun = browser.begin("/");
    let mut claims = world.claims(&begun.nonce);
    claims["email_verified"] = json!(false);
    world.grants(&claims);
    let page = browser.callback(&world.right(&begun.state));
    assert_eq!(page.status, 403);
    assert!(page.text().contains("Verify it there") && !page.text().contains("whose log"), "{}", page.text());
}

#[test]
fn an_access_token_for_another_application_adds_no_groups() {
    for (claims, is_ours) in [
        (json!({ "aud": "account", "azp": "mlflow" }), true),
        (json!({ "aud": "account", "client_id": "mlflow" }), true),
        (json!({ "aud": ["account", "mlflow"] }), true),
        (json!({ "aud": "account" }), false),
        (json!({}), false),
        (json!({ "aud": "mlflow", "azp": "grafana" }), false),
        (json!({ "aud": "mlflow", "client_id": "grafana" }), false),
        (json!({ "aud": "mlflow", "azp": 7 }), false),
    ] {
        let world = World::with(|config| {
            config.providers[0].claims.groups = ["groups", "roles"]
                .map(|claim| mlflow_auth_proxy::config::GroupSource { claim: claim.to_owned(), prefix: String::new() })
                .to_vec();
        });
        let mut browser = world.browser();
        let begun = browser.begin("/");
        let id_claims = world.claims(&begun.nonce);
        let mut access = claims.as_object().unwrap().clone();
        for name in ["iss", "exp", "iat", "sub"] {
            access.insert(name.to_owned(), id_claims[name].clone());
        }
        access.insert("roles".to_owned(), json!(["/ml/admins"]));
        let mut answer = crate::browser::granted(&id_claims, "refresh-1", 300);
        answer["access_token"] = json!(RSA.token("RS256", &serde_json::Value::Object(access)));
        world.provider.answer(crate::browser::TOKEN, crate::provider::Answer::Json(answer));
        assert_eq!(browser.callback(&world.right(&begun.state)).status, 303, "{claims}");
        let me = browser.send("GET", "/auth/api/v1/me", "Sec-Fetch-Mode: cors\r\n", "");
        assert_eq!(me.text().contains("/ml/admins"), is_ours, "{claims}: {}", me.text());
    }
}
