//! `Authorization` says one thing or nothing: what was read, written again, is read the same.
#![no_main]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use libfuzzer_sys::fuzz_target;
use mlflow_auth_proxy::authn::{RawCredentials, Reason};
use mlflow_auth_proxy::crypto::{self, AccessToken, reveal};

/// Nobody outside `authn` reads credentials, so it is not the library's to give.
#[path = "../../src/authn/credential.rs"]
mod credential;

use credential::Credential;

fuzz_target!(|input: &[u8]| {
    check(input);
    // So that the fuzzer need not learn base64.
    check(format!("Basic {}", STANDARD.encode(input)).as_bytes());
});

fn check(value: &[u8]) {
    let Ok(credential) = Credential::read(RawCredentials::authorization(value)) else { return };
    let said = str::from_utf8(value).expect("what is read is text");
    let (scheme, written) = written(&credential);
    assert!(said.get(..scheme.len()).is_some_and(|said| said.eq_ignore_ascii_case(scheme)), "{said:?}");
    assert_eq!(said.get(scheme.len()..).map(|rest| rest.trim_start_matches(' ')), Some(&*written));
    let rewritten = format!("{scheme} {written}");
    let again = Credential::read(RawCredentials::authorization(rewritten.as_bytes()));
    assert_eq!(again.as_ref().map(self::written), Ok((scheme, written)));
}

/// The scheme, and what stands behind it.
fn written(credential: &Credential<'_>) -> (&'static str, String) {
    match credential {
        Credential::Password { name, password } => {
            let password = reveal(password);
            assert!(!name.contains(':') && !AccessToken::looks_like(password), "{name:?} {password:?}");
            ("Basic", STANDARD.encode(format!("{name}:{password}")))
        }
        Credential::Token { owner: Some(owner), token } => {
            ("Basic", STANDARD.encode(format!("{owner}:{}", token.reveal())))
        }
        Credential::Token { owner: None, token } => ("Bearer", token.reveal().to_owned()),
        Credential::Jwt(token) => {
            assert!(token.split('.').count() == 3 && !AccessToken::looks_like(token), "{token:?}");
            ("Bearer", (*token).to_owned())
        }
        Credential::Session(secret) => panic!("{secret:?} came in a cookie"),
    }
}
