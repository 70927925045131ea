//! What a browser, or somebody who is not one, may bring back.

use http::{HeaderValue, header};

use super::*;

fn attempts(clock: &Clock) -> Attempts {
    Attempts::new(std::sync::Arc::new(KeyRing::of("k", &[7; 32])), clock.clone())
}

fn jar<'a>(cookies: impl IntoIterator<Item = &'a (String, String)>) -> HeaderMap {
    let line: Vec<_> = cookies.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut headers = HeaderMap::new();
    headers.insert(header::COOKIE, HeaderValue::try_from(line.join("; ")).unwrap());
    headers
}

fn home() -> ReturnPath {
    ReturnPath::parse("/#/experiments/1").unwrap()
}

#[test]
fn a_state_is_right_once_and_only_where_it_began() {
    let clock = Clock::manual(Timestamp(1_700_000_000_000));
    let attempts = attempts(&clock);
    let begun = attempts.begin("keycloak", &home(), 0, &HeaderMap::new());
    let other = attempts.begin("keycloak", &home(), 0, &HeaderMap::new());
    let state = attempts.read(&begun.state).unwrap();
    assert_eq!((state.provider.as_str(), state.return_to("/").as_str()), ("keycloak", "/#/experiments/1"));
    let stale = |headers: &HeaderMap| matches!(attempts.take(&begun.state, &state, headers), Returned::Stale);
    assert!(stale(&HeaderMap::new()), "no cookie");
    assert!(stale(&jar([&other.cookie])), "another attempt's cookie");
    assert!(stale(&jar([&(begun.cookie.0.clone(), other.cookie.1.clone())])), "another attempt's under this name");
    assert!(stale(&jar([&(begun.cookie.0.clone(), begun.state.clone())])), "a state is no cookie");
    assert!(stale(&jar([&begun.cookie, &begun.cookie])), "two of the same name");
    assert!(attempts.read(&begun.cookie.1).is_none(), "a cookie is no state");
    assert!(matches!(
        attempts.take(&begun.state, &state, &jar([&other.cookie, &begun.cookie])),
        Returned::Right(attempt) if attempt.nonce == begun.attempt.nonce
    ));
    assert!(stale(&jar([&begun.cookie])), "used");
}

#[test]
fn a_state_ends_after_ten_minutes() {
    let clock = Clock::manual(Timestamp(1_700_000_000_000));
    let attempts = attempts(&clock);
    let begun = attempts.begin("keycloak", &home(), 0, &HeaderMap::new());
    clock.advance(LIFETIME);
    let state = attempts.read(&begun.state).unwrap();
    assert!(matches!(attempts.take(&begun.state, &state, &jar([&begun.cookie])), Returned::Stale));
}

#[test]
fn no_altered_state_is_ours() {
    let attempts = attempts(&Clock::default());
    let begun = attempts.begin("keycloak", &home(), 0, &HeaderMap::new());
    for at in 0..begun.state.len() {
        let mut altered = begun.state.clone().into_bytes();
        altered[at] = if altered[at] == b'A' { b'B' } else { b'A' };
        assert!(attempts.read(&String::from_utf8(altered).unwrap()).is_none(), "{at}");
    }
}

#[test]
fn a_browser_keeps_five_attempts_and_nothing_that_is_over() {
    let clock = Clock::manual(Timestamp(1_700_000_000_000));
    let attempts = attempts(&clock);
    let mut cookies: Vec<(String, String)> = vec![(format!("{COOKIE_PREFIX}forged"), "x".to_owned())];
    for _ in 0..20 {
        clock.advance(Duration::from_secs(1));
        let begun = attempts.begin("keycloak", &home(), 0, &jar(&cookies));
        cookies.retain(|(name, _)| !begun.expired.contains(name));
        cookies.push(begun.cookie);
        assert!(cookies.len() <= MAX_PER_BROWSER, "{}", cookies.len());
    }
    assert_eq!(cookies.len(), MAX_PER_BROWSER);
    clock.advance(LIFETIME);
    let begun = attempts.begin("keycloak", &home(), 0, &jar(&cookies));
    assert_eq!(begun.expired.len(), MAX_PER_BROWSER);
}
