//! What an attacker tries with tokens, what providers get wrong, and what must work.
#![expect(clippy::needless_pass_by_value, reason = "tables of `json!` read better")]

use jsonwebtoken::Algorithm;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::config::{Claims, ClientAuth, Endpoint, GroupForm, GroupSource, Preset};
use crate::oidc::fake::{OTHER_RSA, RSA, Signer};

const ISSUER: &str = "https://keycloak.example.com/realms/company";
const NOW: Timestamp = Timestamp(1_700_000_000_000);
const NOW_SECONDS: i64 = 1_700_000_000;

fn endpoint() -> Endpoint {
    Endpoint {
        issuer: ISSUER.to_owned(),
        discovery_url: format!("{ISSUER}/.well-known/openid-configuration").parse().unwrap(),
        internal_url: None,
        jwks_url: None,
        ca: Vec::new(),
        bearer_file: None,
        algorithms: vec![Algorithm::RS256, Algorithm::PS256, Algorithm::ES256, Algorithm::ES384, Algorithm::EdDSA],
    }
}

fn rules() -> Claims {
    Claims {
        groups: vec![GroupSource { claim: "groups".to_owned(), prefix: String::new() }],
        form: GroupForm::Full,
        allowed: Vec::new(),
        admin: Vec::new(),
        username: "email".to_owned(),
        verified_email: true,
        machine_names: Vec::new(),
    }
}

fn issuer() -> Issuer {
    Issuer {
        name: "keycloak".to_owned(),
        endpoint: endpoint(),
        audiences: vec!["mlflow".to_owned(), "mlflow-jobs".to_owned()],
        authorized_parties: Vec::new(),
        leeway: Duration::from_secs(30),
        claims: rules(),
        preset: Preset::Standard,
        machines: Vec::new(),
    }
}

fn provider() -> Provider {
    Provider {
        name: "keycloak".to_owned(),
        display_name: "Keycloak".to_owned(),
        client_id: "mlflow".to_owned(),
        client_secret: None,
        client_auth: ClientAuth::Basic,
        scopes: vec!["openid".to_owned()],
        endpoint: endpoint(),
        claims: rules(),
        logout_suspends_tokens: false,
        sync: None,
    }
}

fn keys(signers: &[&Signer]) -> Keys {
    let set = json!({ "keys": signers.iter().map(|signer| signer.jwk()).collect::<Vec<_>>() });
    Keys::parse(set.to_string().as_bytes(), &endpoint().algorithms).unwrap()
}

/// What Keycloak's access tokens say.
fn access() -> Value {
    json!({
        "iss": ISSUER, "aud": "mlflow", "azp": "notebooks", "sub": "f3a1", "typ": "Bearer", "sid": "s-1",
        "exp": NOW_SECONDS + 60, "iat": NOW_SECONDS, "jti": "j-1", "email": "ann@example.com", "email_verified": true,
    })
}

fn with(claims: Value, changes: Value) -> Value {
    let mut claims = claims;
    for (name, value) in changes.as_object().unwrap() {
        match value.as_str() {
            Some("absent") => claims.as_object_mut().unwrap().remove(name),
            _ => claims.as_object_mut().unwrap().insert(name.clone(), value.clone()),
        };
    }
    claims
}

fn bearer(token: &str) -> Result<Verified, Refusal> {
    verify(Unverified::parse(token)?, &issuer(), &keys(&[&RSA]), NOW)
}

/// What becomes of an access token with these changes.
#[track_caller]
fn check(changes: Value, expected: Result<(), Refusal>) {
    let token = RSA.token("RS256", &with(access(), changes.clone()));
    assert_eq!(bearer(&token).map(drop), expected, "{changes}");
}

#[test]
fn a_good_access_token_says_who_it_is_and_until_when() {
    let verified = bearer(&RSA.token("RS256", &access())).unwrap();
    assert_eq!(verified.subject, "f3a1");
    assert_eq!(verified.expires, NOW.plus(Duration::from_secs(90)), "with the leeway");
    assert_eq!(verified.issued, Some(NOW));
    assert_eq!(verified.claims["email"], "ann@example.com");
    assert!(keys(&[&RSA]).hold(&verified.key) && !keys(&[&OTHER_RSA]).hold(&verified.key));
}

#[test]
fn each_pinned_algorithm_works_with_a_key_of_its_family_and_no_other() {
    let signers = [Signer::p256("p256"), Signer::p384("p384"), Signer::ed25519("ed")];
    let set = keys(&[&RSA, &signers[0], &signers[1], &signers[2]]);
    let right =
        [(&*RSA, "RS256"), (&*RSA, "PS256"), (&signers[0], "ES256"), (&signers[1], "ES384"), (&signers[2], "EdDSA")];
    for (signer, alg) in right {
        let token = signer.token(alg, &access());
        assert!(verify(Unverified::parse(&token).unwrap(), &issuer(), &set, NOW).is_ok(), "{alg}");
        // The same signature under another algorithm's name.
        for other in ["RS256", "PS256", "ES256", "ES384", "EdDSA"].into_iter().filter(|other| *other != alg) {
            let header = json!({ "alg": other, "kid": signer.kid });
            let body = token.split('.').nth(1).unwrap();
            let forged =
                format!("{}.{body}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), token.split('.').nth(2).unwrap());
            let refusal = verify(Unverified::parse(&forged).unwrap(), &issuer(), &set, NOW).unwrap_err();
            assert!(matches!(refusal, Refusal::Signature | Refusal::UnknownKey), "{alg} as {other}: {refusal}");
        }
    }
}

#[test]
fn an_algorithm_that_is_not_pinned_is_refused_whatever_the_key() {
    for alg in
        ["RS384", "RS512", "PS384", "PS512", "HS256", "HS384", "HS512", "none", "None", "NONE", "rs256", "", "ES512"]
    {
        let refusal = bearer(&RSA.token(alg, &access())).unwrap_err();
        assert_eq!(refusal, Refusal::Algorithm, "{alg}");
    }
}

#[test]
fn the_public_key_as_the_shared_secret_of_hs256_signs_nothing() {
    let token = RSA.token("HS256", &access());
    assert_eq!(bearer(&token).unwrap_err(), Refusal::Algorithm);
    // Not even if somebody pinned it in spite of the configuration's checks: no key fits it.
    let mut careless = issuer();
    careless.endpoint.algorithms.push(Algorithm::HS256);
    let refusal = verify(Unverified::parse(&token).unwrap(), &careless, &keys(&[&RSA]), NOW).unwrap_err();
    assert_eq!(refusal, Refusal::UnknownKey);
}

#[test]
fn a_token_without_a_signature_is_refused() {
    let token = RSA.token("RS256", &access());
    let (message, _) = token.rsplit_once('.').unwrap();
    assert_eq!(bearer(&format!("{message}.")).unwrap_err(), Refusal::Signature);
    assert_eq!(bearer(message).unwrap_err(), Refusal::Malformed);
    for header in [json!({ "alg": "none" }), json!({ "alg": "none", "kid": "rsa-1" })] {
        let unsigned = RSA.token_with(&header, &access());
        assert_eq!(bearer(&format!("{}.", unsigned.rsplit_once('.').unwrap().0)).unwrap_err(), Refusal::Algorithm);
    }
}

#[test]
fn a_key_that_the_token_brings_along_is_not_looked_at() {
    let impostor = json!({
        "alg": "RS256", "kid": "rsa-1", "jwk": OTHER_RSA.jwk(), "jku": "https://evil.example/keys", "x5u": "https://evil.example",
    });
    assert_eq!(bearer(&OTHER_RSA.token_with(&impostor, &access())).unwrap_err(), Refusal::Signature);
    let unknown = OTHER_RSA.token_with(&json!({ "alg": "RS256", "kid": "rsa-2", "jwk": OTHER_RSA.jwk() }), &access());
    assert_eq!(bearer(&unknown).unwrap_err(), Refusal::UnknownKey);
    // The rightful key's tokens are not refused for having such members.
    let own = json!({ "alg": "RS256", "kid": "rsa-1", "jku": "https://keycloak.example.com/keys" });
    assert!(bearer(&RSA.token_with(&own, &access())).is_ok());
}

#[test]
fn a_header_that_changes_what_is_signed_or_must_be_understood_is_refused() {
    for (name, value) in [("crit", json!(["exp"])), ("crit", json!([])), ("b64", json!(false)), ("zip", json!("DEF"))] {
        let header = json!({ "alg": "RS256", "kid": "rsa-1", name: value });
        assert_eq!(bearer(&RSA.token_with(&header, &access())).unwrap_err(), Refusal::Header, "{name}");
    }
    for header in [
        json!({ "alg": 5 }),
        json!({ "alg": null }),
        json!({}),
        json!([]),
        json!("x"),
        json!({ "alg": "RS256", "kid": 1 }),
        json!({ "alg": "RS256", "typ": null }),
    ] {
        assert_eq!(bearer(&RSA.token_with(&header, &access())).unwrap_err(), Refusal::Malformed, "{header}");
    }
}

#[test]
fn a_token_without_a_kid_is_accepted_only_when_one_key_alone_fits() {
    let token = RSA.token_with(&json!({ "alg": "RS256" }), &access());
    let verify = |set| verify(Unverified::parse(&token).unwrap(), &issuer(), &set, NOW).map(drop);
    assert_eq!(verify(keys(&[&RSA, &Signer::p256("ec")])), Ok(()));
    assert_eq!(verify(keys(&[&RSA, &OTHER_RSA])), Err(Refusal::UnknownKey));
}

#[test]
fn each_registered_claim_must_be_there_and_of_its_type() {
    let wrong = [json!("absent"), json!(null), json!(true), json!([]), json!({}), json!("x")];
    for value in wrong.iter().chain(&[json!(-1), json!(1e300), json!((NOW_SECONDS + 60) * 1000), json!("1700000060")]) {
        check(json!({ "exp": value }), Err(Refusal::Expiry));
    }
    for value in wrong.iter().skip(1).chain(&[json!(-1), json!(NOW_SECONDS * 1000)]) {
        check(json!({ "nbf": value }), Err(Refusal::NotBefore));
        check(json!({ "iat": value }), Err(Refusal::IssuedAt));
    }
    for value in wrong.iter().chain(&[json!(1)]) {
        check(json!({ "iss": value }), Err(Refusal::Issuer));
    }
    for value in wrong.iter().chain(&[json!(1), json!(["mlflow", 1]), json!([["mlflow"]])]) {
        check(json!({ "aud": value }), Err(Refusal::Audience));
    }
    for value in
        [json!("absent"), json!(null), json!(true), json!([]), json!({}), json!(7), json!(""), json!("a\u{0}b")]
    {
        check(json!({ "sub": value }), Err(Refusal::Subject));
    }
    check(json!({ "sub": "x".repeat(256) }), Err(Refusal::Subject));
}

#[test]
fn the_issuer_is_compared_letter_for_letter() {
    for other in [format!("{ISSUER}/"), ISSUER.to_uppercase(), format!(" {ISSUER}"), "https://evil.example".to_owned()]
    {
        check(json!({ "iss": other }), Err(Refusal::Issuer));
    }
}

#[test]
fn a_token_made_for_another_application_is_refused() {
    check(json!({ "aud": "account" }), Err(Refusal::Audience));
    check(json!({ "aud": ["account", "grafana"] }), Err(Refusal::Audience));
    check(json!({ "aud": "mlflow2" }), Err(Refusal::Audience));
    check(json!({ "aud": "MLFLOW" }), Err(Refusal::Audience));
    check(json!({ "aud": ["account", "mlflow-jobs"] }), Ok(()));
}

#[test]
fn when_clients_are_listed_the_token_must_be_one_of_theirs() {
    let mut strict = issuer();
    strict.authorized_parties = vec!["ci".to_owned()];
    for (azp, expected) in [
        (json!("ci"), Ok(())),
        (json!("notebooks"), Err(Refusal::AuthorizedParty)),
        (json!("absent"), Err(Refusal::AuthorizedParty)),
        (json!(["ci"]), Err(Refusal::AuthorizedParty)),
        (json!(null), Err(Refusal::AuthorizedParty)),
    ] {
        let token = RSA.token("RS256", &with(access(), json!({ "azp": azp })));
        let outcome = verify(Unverified::parse(&token).unwrap(), &strict, &keys(&[&RSA]), NOW);
        assert_eq!(outcome.map(drop), expected, "{azp}");
    }
}

#[test]
fn times_are_checked_with_a_small_leeway() {
    check(json!({ "exp": NOW_SECONDS - 29 }), Ok(()));
    check(json!({ "exp": NOW_SECONDS - 30 }), Err(Refusal::Expired));
    check(json!({ "nbf": NOW_SECONDS + 30 }), Ok(()));
    check(json!({ "nbf": NOW_SECONDS + 31 }), Err(Refusal::NotBefore));
    check(json!({ "iat": NOW_SECONDS + 31 }), Err(Refusal::IssuedAt));
    check(json!({ "exp": NOW_SECONDS as f64 + 0.5, "iat": "absent" }), Ok(()));
}

#[test]
fn an_id_token_is_no_bearer() {
    check(json!({ "typ": "ID" }), Err(Refusal::Kind));
    check(json!({ "typ": "id" }), Err(Refusal::Kind));
    check(json!({ "typ": "absent", "nonce": "n" }), Err(Refusal::Kind));
    check(json!({ "typ": "absent", "nonce": null }), Err(Refusal::Kind));
    check(json!({ "typ": "absent", "at_hash": "h" }), Err(Refusal::Kind));
}

#[test]
fn a_refresh_or_offline_token_is_no_bearer() {
    check(json!({ "typ": "Refresh" }), Err(Refusal::Kind));
    check(json!({ "typ": "Offline" }), Err(Refusal::Kind));
}

#[test]
fn a_logout_token_is_no_bearer() {
    check(json!({ "typ": "Logout" }), Err(Refusal::Kind));
    check(json!({ "events": { LOGOUT_EVENT: {} }, "typ": "absent" }), Err(Refusal::Kind));
    check(json!({ "cnf": { "jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I" } }), Err(Refusal::Bound));
    let header = |typ: &str| json!({ "alg": "RS256", "kid": "rsa-1", "typ": typ });
    for typ in ["logout+jwt", "application/logout+jwt", "LOGOUT+JWT", "secevent+jwt", "dpop+jwt", "JOSE", ""] {
        assert_eq!(bearer(&RSA.token_with(&header(typ), &access())).unwrap_err(), Refusal::Kind, "{typ}");
    }
    for typ in ["JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt"] {
        assert!(bearer(&RSA.token_with(&header(typ), &access())).is_ok(), "{typ}");
    }
}

#[test]
fn large_and_broken_tokens_are_refused_before_anything_is_verified() {
    let parse = |text: &str| Unverified::parse(text).map(drop).unwrap_err();
    assert_eq!(parse(&"a".repeat(MAX_BYTES + 1)), Refusal::TooLarge);
    assert_eq!(parse(&format!("{}.e30.", URL_SAFE_NO_PAD.encode("x".repeat(MAX_HEADER_BYTES)))), Refusal::Malformed);
    for text in ["", ".", "..", "...", "a.b.c", "e30.e30.", "e30.e30.e30.e30", "{}.{}.{}"] {
        assert_eq!(parse(text), Refusal::Malformed, "{text}");
    }
    let nested = "[".repeat(5000);
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256"}"#);
    assert_eq!(
        parse(&format!("{header}.{}.", URL_SAFE_NO_PAD.encode(format!("{{\"a\":{nested}")))),
        Refusal::Malformed
    );
    // Padding and the other alphabet are other spellings of the same token.
    let good = RSA.token("RS256", &access());
    assert_eq!(bearer(&format!("{good}=")).unwrap_err(), Refusal::Signature);
}

#[test]
fn a_changed_token_is_refused() {
    let good = RSA.token("RS256", &access());
    let more = RSA.token("RS256", &with(access(), json!({ "groups": ["/admins"] })));
    let (good, more): (Vec<_>, Vec<_>) = (good.split('.').collect(), more.split('.').collect());
    assert_eq!(bearer(&[good[0], more[1], good[2]].join(".")).unwrap_err(), Refusal::Signature);
    assert_eq!(bearer(&[good[0], good[1], more[2]].join(".")).unwrap_err(), Refusal::Signature);
}

fn id() -> Value {
    with(access(), json!({ "typ": "ID", "azp": "mlflow", "nonce": "n-1", "at_hash": "h" }))
}

#[track_caller]
fn check_id(changes: Value, nonce: Nonce<'_>, expected: Result<(), Refusal>) {
    let token = RSA.token("RS256", &with(id(), changes.clone()));
    let token = Unverified::parse(&token).unwrap();
    let outcome = verify_id_token(token, &provider(), &keys(&[&RSA]), nonce, NOW);
    assert_eq!(outcome.map(drop), expected, "{changes}");
}

#[test]
fn an_id_token_must_be_for_this_client_and_this_log_in() {
    let must = Nonce::Must("n-1");
    check_id(json!({}), must, Ok(()));
    check_id(json!({ "nonce": "n-2" }), must, Err(Refusal::Nonce));
    check_id(json!({ "nonce": "absent" }), must, Err(Refusal::Nonce));
    check_id(json!({ "nonce": "absent" }), Nonce::Refreshed, Ok(()));
    check_id(json!({ "aud": "grafana" }), must, Err(Refusal::Audience));
    check_id(json!({ "aud": ["mlflow", "grafana"] }), must, Ok(()));
    check_id(json!({ "aud": ["mlflow", "grafana"], "azp": "grafana" }), must, Err(Refusal::AuthorizedParty));
    check_id(json!({ "aud": ["mlflow", "grafana"], "azp": "absent" }), must, Err(Refusal::AuthorizedParty));
    check_id(json!({ "azp": "absent" }), must, Ok(()));
    check_id(json!({ "azp": "grafana" }), must, Err(Refusal::AuthorizedParty));
    check_id(json!({ "typ": "Bearer" }), must, Err(Refusal::Kind));
    check_id(json!({ "typ": "Logout" }), must, Err(Refusal::Kind));
    check_id(json!({ "events": {} }), must, Err(Refusal::Kind));
    check_id(json!({ "iat": "absent" }), must, Err(Refusal::IssuedAt));
    check_id(json!({ "exp": NOW_SECONDS - 31 }), must, Err(Refusal::Expired));
    check_id(json!({ "iss": "https://evil.example" }), must, Err(Refusal::Issuer));
    check_id(json!({ "sub": "absent" }), must, Err(Refusal::Subject));
}

fn logout() -> Value {
    json!({
        "iss": ISSUER, "aud": "mlflow", "sub": "f3a1", "sid": "s-1", "typ": "Logout", "jti": "j-9",
        "iat": NOW_SECONDS, "exp": NOW_SECONDS + 120, "events": { LOGOUT_EVENT: {} },
    })
}

fn log_out(changes: Value) -> Result<Logout, Refusal> {
    let header = json!({ "alg": "RS256", "kid": "rsa-1", "typ": "logout+jwt" });
    let token = RSA.token_with(&header, &with(logout(), changes));
    verify_logout_token(&Unverified::parse(&token)?, &provider(), &keys(&[&RSA]), NOW)
}

#[test]
fn a_logout_token_says_whose_sessions_end() {
    let logout = log_out(json!({})).unwrap();
    assert_eq!((logout.subject.as_deref(), logout.sid.as_deref()), (Some("f3a1"), Some("s-1")));
    assert_eq!(logout.jti, "j-9");
    assert_eq!(logout.expires, NOW.plus(Duration::from_secs(150)));
    assert_eq!(log_out(json!({ "sub": "absent" })).unwrap().subject, None);
    assert_eq!(log_out(json!({ "sid": "absent" })).unwrap().sid, None);
}

#[test]
fn a_logout_token_must_be_what_the_specification_says() {
    for (changes, refusal) in [
        (json!({ "events": "absent" }), Refusal::Events),
        (json!({ "events": {} }), Refusal::Events),
        (json!({ "events": [LOGOUT_EVENT] }), Refusal::Events),
        (json!({ "events": { LOGOUT_EVENT: null } }), Refusal::Events),
        (json!({ "events": { LOGOUT_EVENT: "x" } }), Refusal::Events),
        (json!({ "nonce": "n" }), Refusal::Nonce),
        (json!({ "nonce": null }), Refusal::Nonce),
        (json!({ "iat": "absent" }), Refusal::IssuedAt),
        (json!({ "iat": NOW_SECONDS + 31 }), Refusal::IssuedAt),
        (json!({ "exp": "absent" }), Refusal::Expiry),
        (json!({ "exp": NOW_SECONDS - 31 }), Refusal::Expired),
        (json!({ "iat": NOW_SECONDS - 601, "exp": NOW_SECONDS + 1_000_000 }), Refusal::Expired),
        (json!({ "jti": "absent" }), Refusal::Jti),
        (json!({ "jti": 5 }), Refusal::Jti),
        (json!({ "jti": "" }), Refusal::Jti),
        (json!({ "sub": "absent", "sid": "absent" }), Refusal::Subject),
        (json!({ "sub": null }), Refusal::Subject),
        (json!({ "sid": 5 }), Refusal::Subject),
        (json!({ "aud": "grafana" }), Refusal::Audience),
        (json!({ "aud": ["mlflow", "grafana"] }), Refusal::AuthorizedParty),
        (json!({ "iss": "https://evil.example" }), Refusal::Issuer),
        (json!({ "typ": "ID" }), Refusal::Kind),
        (json!({ "typ": "Bearer" }), Refusal::Kind),
    ] {
        assert_eq!(log_out(changes.clone()).unwrap_err(), refusal, "{changes}");
    }
}

#[test]
fn an_id_token_or_access_token_logs_nobody_out() {
    for claims in [access(), id(), with(access(), json!({ "typ": "absent" }))] {
        let token = RSA.token("RS256", &claims);
        let token = Unverified::parse(&token).unwrap();
        assert!(verify_logout_token(&token, &provider(), &keys(&[&RSA]), NOW).is_err(), "{claims}");
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(".{0,6}", inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_text_makes_the_parser_panic(text in ".{0,200}", parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..5)) {
        let _ = Unverified::parse(&text);
        let encoded: Vec<String> = parts.iter().map(|part| URL_SAFE_NO_PAD.encode(part)).collect();
        let _ = Unverified::parse(&encoded.join("."));
    }

    #[test]
    fn no_header_and_no_claim_makes_the_verifier_panic(
        header in prop::collection::btree_map(prop_oneof!["alg", "kid", "typ", "crit", "x5c"], any_json(), 0..5),
        name in prop_oneof!["exp", "nbf", "iat", "iss", "aud", "azp", "sub", "typ", "events", "nonce", "jti", "sid"],
        value in any_json(),
    ) {
        let header = Value::Object(header.into_iter().collect());
        let odd = RSA.token_with(&header, &access());
        let _ = bearer(&odd);
        let token = Unverified { claims: with(access(), json!({ name: value })).as_object().unwrap().clone(), ..plain() };
        let _ = (token.times(&Expected { issuer: ISSUER, leeway: LEEWAY }, NOW), token.audiences(), for_client(&token, "mlflow"));
    }
}

#[test]
fn a_token_that_is_printed_is_no_token() {
    let token = RSA.token("RS256", &access());
    let shown = format!("{:?}", Unverified::parse(&token).unwrap());
    assert!(shown.contains("RS256"), "{shown}");
    assert!(token.split('.').all(|part| !shown.contains(part)), "{shown}");
}

fn plain() -> Unverified<'static> {
    Unverified { algorithm: Algorithm::RS256, kid: None, kind: None, claims: Map::new(), message: "", signature: "" }
}
