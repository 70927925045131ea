//! A state or cookie that we did not seal is never taken, whoever brings it; what we sealed is taken once.
#![no_main]

use std::sync::{Arc, LazyLock};

use cookie::Cookie;
use http::{HeaderMap, HeaderValue, header};
use libfuzzer_sys::fuzz_target;
use mlflow_auth_proxy::clock::Clock;
use mlflow_auth_proxy::crypto::{KeyRing, random};
use mlflow_auth_proxy::http::{Keep, ReturnPath, all_cookies, only_cookie, set_cookie};
use mlflow_auth_proxy::oidc::{Attempts, Begun, Returned, attempt_cookie};
use mlflow_auth_proxy_fuzz::{NOW, altered};

static ATTEMPTS: LazyLock<Attempts> = LazyLock::new(attempts);
/// Nothing is ever sealed with this key. The fuzzer sees what the texts below are compared with, and repeats them.
static UNUSED: LazyLock<Attempts> = LazyLock::new(attempts);

fn attempts() -> Attempts {
    Attempts::new(Arc::new(KeyRing::of("k", &random())), Clock::manual(NOW))
}

fuzz_target!(|input: &[u8]| {
    strangers(input);
    ours(input);
});

/// The first line is a state, the others are lines of cookies.
fn strangers(input: &[u8]) {
    let mut lines = input.split(|byte| *byte == b'\n');
    let state = lines.next().map(String::from_utf8_lossy).unwrap_or_default();
    assert!(UNUSED.read(&state).is_none(), "{state:?} was never sealed");
    let mut headers = HeaderMap::new();
    for line in lines.take(64) {
        let Ok(line) = HeaderValue::from_bytes(line) else { continue };
        headers.append(header::COOKIE, line);
    }
    let begun = begin(&headers);
    for name in &begun.expired {
        assert!(all_cookies(&headers).any(|(other, _)| other == name), "{name:?}");
        let line = set_cookie(name, "", Keep::No).expect("it can be deleted");
        let deleted = Cookie::parse(line.to_str().expect("text")).expect("a cookie");
        assert_eq!((deleted.name(), deleted.value(), deleted.path()), (name.as_str(), "", Some("/")));
        assert!(deleted.domain().is_none() && deleted.max_age().is_some_and(|age| age.is_zero()));
    }
    let state = ATTEMPTS.read(&begun.state).expect("our own");
    assert!(matches!(ATTEMPTS.take(&begun.state, &state, &headers), Returned::Stale), "its cookie is not there");
}

/// The same bytes say what somebody changes in a state and in a cookie.
fn ours(input: &[u8]) {
    let begun = begin(&HeaderMap::new());
    let state = ATTEMPTS.read(&begun.state).expect("our own");
    let (name, value) = &begun.cookie;
    assert_eq!(*name, attempt_cookie(&begun.state));

    let other = altered(&begun.state, input);
    assert!(other == begun.state || ATTEMPTS.read(&other).is_none(), "{other:?} for {:?}", begun.state);
    let changed = jar(name, &altered(value, input));
    // Spaces around it do not count, nor what stands behind a semicolon.
    let other = only_cookie(&changed, name);
    if other != Some(value) {
        let taken = ATTEMPTS.take(&begun.state, &state, &changed);
        assert!(matches!(taken, Returned::Stale), "{other:?} for {value:?}");
    }

    let line = set_cookie(name, value, Keep::Seconds(600)).expect("it can be set");
    let kept = Cookie::parse(line.to_str().expect("text")).expect("a cookie");
    let headers = jar(kept.name(), kept.value());
    assert!(matches!(ATTEMPTS.take(&begun.state, &state, &headers), Returned::Right(_)));
    assert!(matches!(ATTEMPTS.take(&begun.state, &state, &headers), Returned::Stale), "it is used");
}

fn begin(headers: &HeaderMap) -> Begun {
    let home = ReturnPath::parse("/#/experiments/1").expect("a path");
    ATTEMPTS.begin("keycloak", &home, 0, headers)
}

fn jar(name: &str, value: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.extend(HeaderValue::from_str(&format!("{name}={value}")).map(|line| (header::COOKIE, line)));
    headers
}
