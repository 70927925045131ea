//! A token is believed only as it was signed, and then says what was asked of it; none passes as two kinds.
//!
//! A line with a header and then claims, which are signed; the same text also stands for a token, and for changes in one.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use mlflow_auth_proxy::config::{Issuer, Provider};
use mlflow_auth_proxy::oidc::token::{
    Nonce, Refusal, Unverified, Verified, verify, verify_access_token, verify_id_token, verify_logout_token,
};
use mlflow_auth_proxy_fuzz::{
    CLIENT, ISSUER, KEYS, LEEWAY_SECONDS, NONCE, NOW, NOW_SECONDS, altered, issuer, provider, signed, token,
};
use serde_json::{Value, json};

static ISSUED: LazyLock<Issuer> = LazyLock::new(issuer);
static PROVIDER: LazyLock<Provider> = LazyLock::new(provider);
/// A good bearer.
static GOOD: LazyLock<String> = LazyLock::new(|| {
    token("JWT", &json!({ "iss": ISSUER, "aud": CLIENT, "sub": "f3a1", "typ": "Bearer", "exp": NOW_SECONDS + 60 }))
});

fuzz_target!(|input: &[u8]| {
    let other = altered(&GOOD, input);
    assert_eq!(bearer(&other).is_ok(), other == *GOOD, "{other}");
    let Ok(text) = str::from_utf8(input) else { return };
    assert!(kinds(text).iter().all(Option::is_none), "nobody signed it");
    let (header, claims) = text.split_once('\n').unwrap_or_default();
    let signed = signed(header, claims);
    let kinds = kinds(&signed);
    // The access token that comes beside an ID token is none of the three that must not be taken for one another.
    assert!(kinds.iter().filter(|kind| kind.is_some()).count() <= 1, "{kinds:?}");
    for said in kinds.iter().flatten() {
        check(header, claims, said);
    }
});

fn bearer(token: &str) -> Result<Verified, Refusal> {
    verify(Unverified::parse(token)?, &ISSUED, &KEYS, NOW)
}

/// What the token says as a bearer, as an ID token and as a logout token.
fn kinds(token: &str) -> [Option<Value>; 3] {
    let parse = || Unverified::parse(token).ok();
    if let Some(token) = parse() {
        // For its own sake: it must not panic.
        let _ = verify_access_token(token, &PROVIDER, &KEYS, NOW);
    }
    let id = |token| verify_id_token(token, &PROVIDER, &KEYS, Nonce::Must(NONCE), NOW).ok();
    let logout = |token: Unverified<'_>| verify_logout_token(&token, &PROVIDER, &KEYS, NOW).ok();
    [
        bearer(token).ok().map(|verified| json!({ "sub": verified.subject })),
        parse().and_then(id).map(|verified| json!({ "sub": verified.subject, "nonce": NONCE })),
        parse().and_then(logout).map(|logout| json!({ "jti": logout.jti })),
    ]
}

/// Measured by the texts themselves, without what the library made of them.
fn check(header: &str, claims: &str, said: &Value) {
    let read = |text| serde_json::from_str::<Value>(text).expect("what is believed is JSON");
    let (header, claims) = (read(header), read(claims));
    assert_eq!(header["alg"], "EdDSA");
    assert!(["crit", "b64", "zip", "enc"].iter().all(|name| header.get(name).is_none()), "{header}");
    assert_eq!(claims["iss"], ISSUER);
    let is_ours = |audience: &Value| *audience == CLIENT;
    assert!(is_ours(&claims["aud"]) || claims["aud"].as_array().is_some_and(|all| all.iter().any(is_ours)), "{claims}");
    let now = NOW_SECONDS as f64;
    assert!(claims["exp"].as_f64().is_some_and(|exp| exp + LEEWAY_SECONDS > now), "{claims}");
    for name in ["nbf", "iat"] {
        let begins = claims.get(name).map(|at| at.as_f64().expect("a time"));
        assert!(begins.is_none_or(|begins| begins <= now + LEEWAY_SECONDS), "{claims}");
    }
    for (name, value) in said.as_object().expect("members") {
        assert_eq!(claims[name], *value, "{name}");
    }
}
