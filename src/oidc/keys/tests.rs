//! Which keys of a provider are used.

use serde_json::json;

use super::*;
use crate::oidc::fake::{RSA as SIGNER, Signer};

const ALL: [Algorithm; 5] = [Algorithm::RS256, Algorithm::PS256, Algorithm::ES256, Algorithm::ES384, Algorithm::EdDSA];

fn parse(keys: &Value) -> Result<Keys, KeysError> {
    Keys::parse(json!({ "keys": keys }).to_string().as_bytes(), &ALL)
}

/// How many of one key with these changes are used.
#[track_caller]
fn check(changes: &Value, used: usize) {
    let mut key = SIGNER.jwk();
    for (name, value) in changes.as_object().unwrap() {
        key[name] = value.clone();
    }
    let others = Signer::p256("other").jwk();
    assert_eq!(parse(&json!([key, others])).unwrap().len(), used + 1, "{changes}");
}

#[test]
fn only_keys_for_signatures_are_used() {
    check(&json!({}), 1);
    check(&json!({ "use": "enc" }), 0);
    check(&json!({ "use": null }), 1);
    check(&json!({ "key_ops": ["verify"] }), 1);
    check(&json!({ "key_ops": ["encrypt"] }), 0);
    check(&json!({ "key_ops": [] }), 0);
    check(&json!({ "alg": "RS256" }), 1);
    check(&json!({ "alg": "RSA-OAEP" }), 0);
    check(&json!({ "alg": "HS256" }), 0);
    check(&json!({ "alg": "RS512" }), 0);
    check(&json!({ "alg": 1 }), 0);
}

#[test]
fn weak_private_and_shared_keys_are_not_used() {
    check(&json!({ "d": "AQAB" }), 0);
    check(&json!({ "kty": "oct", "k": "c2VjcmV0" }), 0);
    check(&json!({ "n": URL_SAFE_NO_PAD.encode([0xff; 128]) }), 0);
    check(&json!({ "n": URL_SAFE_NO_PAD.encode([0xff; 2048]) }), 0);
    let mut padded = vec![0; 200];
    padded.extend([0xff; 128]);
    check(&json!({ "n": URL_SAFE_NO_PAD.encode(padded) }), 0);
    check(&json!({ "e": "AQ" }), 0);
    check(&json!({ "e": "Ag" }), 0);
    check(&json!({ "n": "not base64!" }), 0);
    check(&json!({ "kty": "EC", "crv": "P-256", "x": "AA", "y": "AA" }), 0);
    check(&json!({ "kty": "EC", "crv": "secp256k1" }), 0);
    let (far, out) = (URL_SAFE_NO_PAD.encode([7; 32]), URL_SAFE_NO_PAD.encode([0xff; 32]));
    check(&json!({ "kty": "EC", "crv": "P-256", "x": far, "y": far }), 0);
    check(&json!({ "kty": "EC", "crv": "P-256", "x": out, "y": out }), 0);
    for bytes in [0, 31, 33, 44] {
        check(&json!({ "kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode(vec![9; bytes]) }), 0);
    }
    // RFC 8037 knows the bare key; what certificates hold is the same behind a prefix (RFC 8410).
    let prefix = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
    let bare = URL_SAFE_NO_PAD.decode(Signer::ed25519("ed").jwk()["x"].as_str().unwrap()).unwrap();
    let wrapped = [prefix.as_slice(), &bare].concat();
    check(&json!({ "kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode(bare) }), 1);
    check(&json!({ "kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode(wrapped) }), 0);
    // The same number, however many zeros it begins with.
    check(&json!({ "e": "AAEAAQ" }), 1);
    check(&json!({ "e": "AAE" }), 0);
    check(&json!({ "kty": 5 }), 0);
}

#[test]
fn a_key_with_an_algorithm_of_its_own_is_for_no_other() {
    let mut key = SIGNER.jwk();
    key["alg"] = json!("PS256");
    let keys = parse(&json!([key])).unwrap();
    assert_eq!(keys.fitting(Some("rsa-1"), Algorithm::PS256).count(), 1);
    assert_eq!(keys.fitting(Some("rsa-1"), Algorithm::RS256).count(), 0);
    assert_eq!(keys.fitting(Some("rsa-1"), Algorithm::ES256).count(), 0);
    assert_eq!(keys.fitting(Some("rsa-2"), Algorithm::PS256).count(), 0);
}

#[test]
fn a_set_that_is_none_or_too_large_or_useless_is_refused() {
    for text in ["", "{}", "[]", "null", "{\"keys\":null}", "{\"keys\":{}}", "<html>"] {
        assert!(matches!(Keys::parse(text.as_bytes(), &ALL), Err(KeysError::NotUnderstood(_))), "{text}");
    }
    assert!(matches!(parse(&json!([])), Err(KeysError::NoneUsable)));
    assert!(matches!(parse(&json!([{ "kty": "oct", "k": "AA" }, 5, null])), Err(KeysError::NoneUsable)));
    assert!(matches!(parse(&json!(vec![SIGNER.jwk(); 101])), Err(KeysError::TooMany(101))));
}
