//! Cookies are the same however they are spread over lines, and another parser reads them the same.
#![no_main]

use cookie::Cookie;
use http::{HeaderMap, HeaderValue, header};
use libfuzzer_sys::fuzz_target;
use mlflow_auth_proxy::authn::SESSION_COOKIE;
use mlflow_auth_proxy::crypto::SessionSecret;
use mlflow_auth_proxy::http::{all_cookies, only_cookie};

fuzz_target!(|input: &[u8]| {
    let mut headers = HeaderMap::new();
    for line in input.split(|byte| *byte == b'\n').take(64) {
        let Ok(line) = HeaderValue::from_bytes(line) else { continue };
        headers.append(header::COOKIE, line);
    }
    let found: Vec<(&str, &str)> = all_cookies(&headers).collect();
    for (name, value) in found.iter().take(16) {
        assert!(!name.contains([';', '=']) && !value.contains(';'), "{name:?} {value:?}");
        let is_only = found.iter().filter(|(other, _)| other == name).count() == 1;
        assert_eq!(only_cookie(&headers, name), is_only.then_some(*value), "{name:?}");
    }

    // A line that is not text is passed over as a whole.
    let texts: Vec<&str> = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok()).collect();
    let joined = texts.join("; ");
    let theirs: Vec<_> = Cookie::split_parse(&joined).flatten().collect();
    let named = found.iter().filter(|(name, _)| !name.is_empty()).copied();
    assert!(named.eq(theirs.iter().map(|cookie| cookie.name_value())), "{theirs:?}");
    let mut one = HeaderMap::new();
    one.insert(header::COOKIE, HeaderValue::from_str(&joined).expect("lines of text are text"));
    assert!(all_cookies(&one).eq(found.iter().copied()));

    if let Some(secret) = only_cookie(&headers, SESSION_COOKIE).and_then(SessionSecret::parse) {
        assert_eq!(SessionSecret::parse(secret.reveal()).map(|again| again.hash()), Some(secret.hash()));
    }
});
