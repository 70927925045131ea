//! A logout token is what OpenID Connect Back-Channel Logout 1.0 says, letter by letter, or logs nobody out.
//!
//! The input is its claims, or changes in a good one.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use mlflow_auth_proxy::config::Provider;
use mlflow_auth_proxy::oidc::Logout;
use mlflow_auth_proxy::oidc::token::{Refusal, Unverified, verify_logout_token};
use mlflow_auth_proxy_fuzz::{CLIENT, ISSUER, KEYS, NOW, NOW_SECONDS, altered, provider, signed, token};
use serde_json::{Value, json};

static PROVIDER: LazyLock<Provider> = LazyLock::new(provider);
const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";
/// After this long no token logs anybody out, whatever it says of itself.
const LONGEST_SECONDS: i64 = 600;

static GOOD: LazyLock<String> = LazyLock::new(|| {
    let claims = json!({
        "iss": ISSUER, "aud": CLIENT, "sub": "f3a1", "sid": "s-1", "typ": "Logout", "jti": "j-9",
        "iat": NOW_SECONDS, "exp": NOW_SECONDS + 120, "events": { EVENT: {} },
    });
    token("logout+jwt", &claims)
});

fuzz_target!(|input: &[u8]| {
    let other = altered(&GOOD, input);
    assert_eq!(read(&other).is_ok(), other == *GOOD, "{other}");
    let Ok(text) = str::from_utf8(input) else { return };
    if let Ok(logout) = read(&signed(r#"{"alg":"EdDSA","kid":"fuzz","typ":"logout+jwt"}"#, text)) {
        check(&serde_json::from_str(text).expect("what is believed is JSON"), &logout);
    }
});

fn read(token: &str) -> Result<Logout, Refusal> {
    verify_logout_token(&Unverified::parse(token)?, &PROVIDER, &KEYS, NOW)
}

fn check(claims: &Value, logout: &Logout) {
    assert_eq!(claims["iss"], ISSUER);
    assert!(claims["events"][EVENT].is_object() && claims.get("nonce").is_none(), "{claims}");
    let text = |name| claims.get(name).and_then(Value::as_str);
    assert_eq!(logout.subject.as_deref(), text("sub"));
    assert_eq!(logout.sid.as_deref(), text("sid"));
    assert!(logout.subject.is_some() || logout.sid.is_some(), "{claims}");
    assert_eq!(text("jti"), Some(logout.jti.as_str()));
    for id in [logout.subject.as_deref(), logout.sid.as_deref(), Some(&logout.jti)].into_iter().flatten() {
        assert!((1..=255).contains(&id.len()) && !id.contains(char::is_control), "{id:?}");
    }
    let until = logout.expires.0 - NOW.0;
    // It may be from the near future, by another clock.
    assert!((0..=(LONGEST_SECONDS + 30) * 1000).contains(&until), "{until}");
    let alone = claims["aud"] == CLIENT || claims["aud"] == json!([CLIENT]);
    assert!(alone || claims["azp"] == CLIENT, "{claims}");
}
