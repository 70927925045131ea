//! No key set makes a signature good that was made for another message, or turns a shared secret into a key.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use mlflow_auth_proxy::config::Issuer;
use mlflow_auth_proxy::oidc::Keys;
use mlflow_auth_proxy::oidc::token::{Unverified, verify};
use mlflow_auth_proxy_fuzz::{CLIENT, ISSUER, NOW, NOW_SECONDS, issuer, signed};
use serde_json::json;

static ISSUED: LazyLock<Issuer> = LazyLock::new(issuer);
/// For every algorithm one whose signature is of another message.
static FORGED: LazyLock<Vec<String>> = LazyLock::new(|| {
    let claims = json!({ "iss": ISSUER, "aud": CLIENT, "sub": "f3a1", "exp": NOW_SECONDS + 60 }).to_string();
    let forged = |alg| {
        let token = signed(&json!({ "alg": alg }).to_string(), &claims);
        let (message, _) = token.rsplit_once('.').expect("three parts");
        let other = signed("{}", &claims);
        let (_, signature) = other.rsplit_once('.').expect("three parts");
        format!("{message}.{signature}")
    };
    ["RS256", "PS256", "ES256", "ES384", "EdDSA", "HS256", "HS512"].map(forged).to_vec()
});

fuzz_target!(|input: &[u8]| {
    let Ok(keys) = Keys::parse(input, &ISSUED.endpoint.algorithms) else { return };
    assert!((1..=100).contains(&keys.len()) && !keys.is_empty());
    for algorithm in ["HS256", "HS384", "HS512"] {
        assert_eq!(keys.fitting(None, algorithm.parse().expect("an algorithm")).count(), 0, "{keys:?}");
    }
    for token in &*FORGED {
        let token = Unverified::parse(token).expect("a token");
        assert!(keys.fitting(None, token.algorithm()).count() <= 1, "a guess is one key");
        assert!(verify(token, &ISSUED, &keys, NOW).is_err(), "{keys:?}");
    }
});
