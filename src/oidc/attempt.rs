//! Sign-ins in progress: the values that the provider's answer must match, kept only in the browser that began the
//! sign-in.
//!
//! `state` carries, sealed, the page to return to. A separate cookie, named after the state, contains the values that
//! only this browser may have: the nonce and the PKCE verifier. Both expire after ten minutes, and a browser keeps a
//! limited number of them.

use std::time::Duration;

use http::HeaderMap;
use moka::sync::Cache;
use serde::{Deserialize, Serialize};

use crate::clock::{Clock, Timestamp};
use crate::crypto::{KeyRing, random_text, short_hash};
use crate::http::{ReturnPath, all_cookies};

/// Maximum time that a user may spend at the provider.
pub const LIFETIME: Duration = Duration::from_mins(10);
/// Maximum number of sign-in cookies that one browser keeps. Beyond it, the oldest are removed.
const MAX_PER_BROWSER: usize = 5;
/// Maximum number of automatic restarts of a sign-in whose state is stale, before an error is shown to the user.
const MAX_TRIES: u8 = 3;
const COOKIE_PREFIX: &str = "__Host-mlflow-login-";
/// Maximum number of used states that are remembered until they expire.
const MAX_SPENT: u64 = 100_000;

/// Creates sign-ins and verifies the states that return.
#[derive(Debug)]
pub struct Attempts {
    keys: std::sync::Arc<KeyRing>,
    clock: Clock,
    spent: Cache<String, ()>,
}

/// The sealed content of `state`. Only the proxy can create it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct State {
    id: String,
    /// The configured name of the provider.
    pub provider: String,
    return_to: String,
    at: i64,
    tries: u8,
}

impl State {
    /// Returns the identifier of the sign-in, and the time until which it can be completed.
    #[must_use]
    pub fn id(&self) -> (&str, Timestamp) {
        (&self.id, Timestamp(self.at).plus(LIFETIME))
    }
}

/// The sealed content of the cookie, available only to the browser that began the sign-in.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Attempt {
    id: String,
    pub nonce: String,
    pub verifier: String,
    at: i64,
}

/// A new sign-in.
#[derive(Debug)]
pub struct Begun {
    /// The sealed `state` for the provider.
    pub state: String,
    pub attempt: Attempt,
    /// Name and value of the cookie to be set.
    pub cookie: (String, String),
    /// Names of cookies to be removed, of expired sign-ins and of those beyond the maximum.
    pub expired: Vec<String>,
}

/// Result of verifying a returned state.
#[derive(Debug)]
pub enum Returned {
    /// This browser began the sign-in within the lifetime and returns the state for the first time.
    Right(Attempt),
    /// The state is expired, already used, or from a browser without the matching cookie.
    Stale,
}

impl Attempts {
    /// Creates the sign-ins sealed with `keys`.
    #[must_use]
    pub fn new(keys: std::sync::Arc<KeyRing>, clock: Clock) -> Self {
        Self { keys, clock, spent: Cache::builder().max_capacity(MAX_SPENT).time_to_live(LIFETIME).build() }
    }

    /// Begins a sign-in. `tries` is the number of earlier attempts whose state was stale.
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

    /// Opens a state. Returns `None` if the proxy did not create it.
    #[must_use]
    pub fn read(&self, state: &str) -> Option<State> {
        serde_json::from_slice(&self.keys.open(STATE, 0, state)?).ok()
    }

    /// Verifies that this browser began the sign-in, and marks the state as used.
    ///
    /// A state is accepted once. A second use is stale, because a provider that receives a code twice revokes the
    /// tokens that it issued for it.
    #[must_use]
    pub fn take(&self, sealed: &str, state: &State, headers: &HeaderMap) -> Returned {
        let name = cookie_name(sealed);
        let Some(cookie) = crate::http::only_cookie(headers, &name) else { return Returned::Stale };
        let Some(attempt) = self.attempt(cookie) else { return Returned::Stale };
        let right = attempt.id == state.id && self.is_fresh(state.at) && self.is_fresh(attempt.at);
        // Checked and recorded in one step: of two parallel uses of a state, one is stale.
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

    /// Returns the names of the cookies to be removed so that there is room for one more.
    fn expired(&self, headers: &HeaderMap) -> Vec<String> {
        let mut all: Vec<(i64, &str)> = all_cookies(headers)
            .filter(|(name, _)| name.starts_with(COOKIE_PREFIX))
            .map(|(name, value)| {
                let at = self.attempt(value).map_or(i64::MIN, |attempt| attempt.at);
                (if self.is_fresh(at) { at } else { i64::MIN }, name)
            })
            .collect();
        all.sort_unstable_by_key(|(at, _)| std::cmp::Reverse(*at));
        // One less than the maximum, because a cookie is about to be added.
        let keep = |(place, (at, _)): &(usize, &(i64, &str))| *place < MAX_PER_BROWSER - 1 && *at > i64::MIN;
        all.iter().enumerate().filter(|entry| !keep(entry)).map(|(_, (_, name))| (*name).to_owned()).collect()
    }

    fn seal(&self, purpose: &str, what: &impl Serialize) -> String {
        // The values contain only strings and numbers, so serialization does not fail. An empty text would not open
        // again.
        self.keys.seal(purpose, 0, &serde_json::to_vec(what).unwrap_or_default())
    }
}

impl State {
    /// Returns the page to return to after the sign-in, or `home` if it is invalid.
    #[must_use]
    pub fn return_to(&self, home: &str) -> ReturnPath {
        ReturnPath::parse_or(home, &self.return_to)
    }

    /// Returns the number of the next attempt, or `None` after the last one.
    #[must_use]
    pub fn next_try(&self) -> Option<u8> {
        (self.tries < MAX_TRIES).then(|| self.tries + 1)
    }
}

/// Returns the name of the cookie that belongs to a state.
#[must_use]
pub fn cookie_name(state: &str) -> String {
    format!("{COOKIE_PREFIX}{}", short_hash(state))
}

const STATE: &str = "login state";
const ATTEMPT: &str = "login attempt";

#[cfg(test)]
mod tests;
