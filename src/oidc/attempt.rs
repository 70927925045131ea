//! A sign-in under way: what the provider's answer must match, kept in the browser that began it and nowhere else.
//!
//! `state` carries, sealed, where to go afterwards; a cookie of its own, named after the state, holds what only this
//! browser may have: nonce and PKCE verifier. Both end after ten minutes, and a browser holds a handful of them.

use std::time::Duration;

use http::HeaderMap;
use moka::sync::Cache;
use serde::{Deserialize, Serialize};

use crate::clock::{Clock, Timestamp};
use crate::crypto::{KeyRing, random_text, short_hash};
use crate::http::{ReturnPath, all_cookies};

/// How long somebody may take at the provider.
pub const LIFETIME: Duration = Duration::from_mins(10);
/// Cookies of sign-ins under way that one browser keeps; of more, the oldest go.
const MAX_PER_BROWSER: usize = 5;
/// How often a sign-in starts over by itself when its cookie is gone, before somebody is asked to look.
const MAX_TRIES: u8 = 3;
const COOKIE_PREFIX: &str = "__Host-mlflow-login-";
/// States that were used, until they end by themselves.
const MAX_SPENT: u64 = 100_000;

/// Makes sign-ins and knows them again.
#[derive(Debug)]
pub struct Attempts {
    keys: std::sync::Arc<KeyRing>,
    clock: Clock,
    spent: Cache<String, ()>,
}

/// What `state` says; only we can have written it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct State {
    id: String,
    /// The configuration's name of the provider.
    pub provider: String,
    return_to: String,
    at: i64,
    tries: u8,
}

/// What only the browser that began may have.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Attempt {
    id: String,
    pub nonce: String,
    pub verifier: String,
    at: i64,
}

/// A sign-in that begins.
#[derive(Debug)]
pub struct Begun {
    /// For the provider.
    pub state: String,
    pub attempt: Attempt,
    /// Name and value of the cookie that comes with it.
    pub cookie: (String, String),
    /// Cookies that go: of sign-ins that are over, or too many.
    pub expired: Vec<String>,
}

/// What became of a state that somebody brought back.
#[derive(Debug)]
pub enum Returned {
    /// This browser began it, lately, and brings it back for the first time.
    Right(Attempt),
    /// Ours, but too old, used, or of a browser that does not have its cookie.
    Stale,
}

impl Attempts {
    /// Sealed with these keys.
    #[must_use]
    pub fn new(keys: std::sync::Arc<KeyRing>, clock: Clock) -> Self {
        Self { keys, clock, spent: Cache::builder().max_capacity(MAX_SPENT).time_to_live(LIFETIME).build() }
    }

    /// Begins one. `tries` counts those before it that got lost.
    #[must_use]
    pub fn begin(&self, provider: &str, return_to: &ReturnPath, tries: u8, headers: &HeaderMap) -> Begun {
        let (id, at) = (random_text(), self.clock.now().0);
        let state = State {
            id: id.clone(),
            provider: provider.to_owned(),
            return_to: return_to.as_str().to_owned(),
            at,
            tries,
        };
        let attempt = Attempt { id, nonce: random_text(), verifier: random_text(), at };
        let sealed = self.seal(STATE, &state);
        let cookie = (cookie_name(&sealed), self.seal(ATTEMPT, &attempt));
        Begun { cookie, attempt, state: sealed, expired: self.expired(headers) }
    }

    /// What a state says, when we wrote it.
    #[must_use]
    pub fn read(&self, state: &str) -> Option<State> {
        serde_json::from_slice(&self.keys.open(STATE, 0, state)?).ok()
    }

    /// Whether this browser began it. A state is right once: what comes again is stale, because a provider that sees a code
    /// twice ends what the first one began.
    #[must_use]
    pub fn take(&self, sealed: &str, state: &State, headers: &HeaderMap) -> Returned {
        let name = cookie_name(sealed);
        let Some(cookie) = crate::http::only_cookie(headers, &name) else { return Returned::Stale };
        let Some(attempt) = self.attempt(cookie) else { return Returned::Stale };
        let right = attempt.id == state.id && self.is_fresh(state.at) && self.is_fresh(attempt.at);
        if right && self.spent.entry(state.id.clone()).or_insert(()).is_fresh() {
            return Returned::Right(attempt);
        }
        Returned::Stale
    }

    fn attempt(&self, cookie: &str) -> Option<Attempt> {
        serde_json::from_slice(&self.keys.open(ATTEMPT, 0, cookie)?).ok()
    }

    fn is_fresh(&self, at: i64) -> bool {
        self.clock.now().since(Timestamp(at)) < LIFETIME
    }

    /// The names of cookies that make room for one more.
    fn expired(&self, headers: &HeaderMap) -> Vec<String> {
        let mut all: Vec<(i64, &str)> = all_cookies(headers)
            .filter(|(name, _)| name.starts_with(COOKIE_PREFIX))
            .map(|(name, value)| {
                let at = self.attempt(value).map_or(i64::MIN, |attempt| attempt.at);
                (if self.is_fresh(at) { at } else { i64::MIN }, name)
            })
            .collect();
        all.sort_unstable_by_key(|(at, _)| std::cmp::Reverse(*at));
        let keep = |(place, (at, _)): &(usize, &(i64, &str))| *place < MAX_PER_BROWSER - 1 && *at > i64::MIN;
        all.iter().enumerate().filter(|entry| !keep(entry)).map(|(_, (_, name))| (*name).to_owned()).collect()
    }

    fn seal(&self, purpose: &str, what: &impl Serialize) -> String {
        // Strings and numbers; what cannot be written would not open again.
        self.keys.seal(purpose, 0, &serde_json::to_vec(what).unwrap_or_default())
    }
}

impl State {
    /// Where to go afterwards.
    #[must_use]
    pub fn return_to(&self, home: &str) -> ReturnPath {
        ReturnPath::parse_or(home, &self.return_to)
    }

    /// The number of the try that follows this one, if one may.
    #[must_use]
    pub fn next_try(&self) -> Option<u8> {
        (self.tries < MAX_TRIES).then(|| self.tries + 1)
    }
}

/// The name of the cookie that belongs to a state.
#[must_use]
pub fn cookie_name(state: &str) -> String {
    format!("{COOKIE_PREFIX}{}", short_hash(state))
}

const STATE: &str = "login state";
const ATTEMPT: &str = "login attempt";

#[cfg(test)]
mod tests;
