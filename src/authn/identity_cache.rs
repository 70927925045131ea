//! Cache of identities, and the times at which their tokens and sessions were last used.
//!
//! Invalidation is one increment: an entry records the epoch in which its loading began and is valid only in that
//! epoch. An identity that was being loaded during an invalidation is therefore never found, however late it is
//! inserted.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use moka::sync::Cache;

use crate::authz::{Identity, Scheme, SessionId, TokenId};
use crate::clock::Timestamp;
use crate::crypto::CacheKey;

/// The epoch in which the loading of an identity began.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Epoch(u64);

/// The cache of identities, and the uses that are not yet written to the store.
#[derive(Debug)]
pub(super) struct IdentityCache {
    entries: Cache<CacheKey, Arc<Entry>>,
    epoch: AtomicU64,
    used: Mutex<HashMap<Used, Timestamp>>,
    /// Minimum time between two recorded uses of a session.
    note_sessions_every: Duration,
}

/// A credential whose last use is recorded.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Used {
    Token(TokenId),
    Session(SessionId),
}

#[derive(Debug)]
struct Entry {
    identity: Arc<Identity>,
    until: Timestamp,
    epoch: Epoch,
    /// Time at which the use of its token or session was last recorded, in Unix milliseconds.
    noted: AtomicI64,
}

impl IdentityCache {
    /// Minimum time between two recorded uses of a token.
    const NOTE_EVERY: Duration = Duration::from_mins(1);
    /// Maximum number of uses that wait to be written. Further uses are not recorded.
    const MAX_USED: usize = 10_000;

    pub(super) fn new(entries: u64, ttl: Duration) -> Self {
        Self {
            // The wall clock may be set back. The cache's own clock cannot.
            entries: Cache::builder().max_capacity(entries).time_to_live(ttl).build(),
            epoch: AtomicU64::new(0),
            used: Mutex::default(),
            note_sessions_every: Self::NOTE_EVERY,
        }
    }

    /// Sets the interval of recording sessions to an eighth of `idle` at most, so that a session in use does not expire
    /// as idle much too early.
    pub(super) fn sessions_idle_after(&mut self, idle: Duration) {
        self.note_sessions_every = Self::NOTE_EVERY.min(idle / 8);
    }

    /// Returns the current epoch. Must be called before anything that becomes part of the identity is read.
    pub(super) fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::Acquire))
    }

    pub(super) fn get(&self, cache_key: &CacheKey, now: Timestamp) -> Option<Arc<Identity>> {
        self.get_with_expiry(cache_key, now).map(|(identity, _)| identity)
    }

    /// Returns a valid identity together with the time until which it is valid.
    pub(super) fn get_with_expiry(&self, cache_key: &CacheKey, now: Timestamp) -> Option<(Arc<Identity>, Timestamp)> {
        let entry = self.entries.get(cache_key)?;
        if entry.epoch != self.epoch() || entry.until <= now {
            return None;
        }
        self.note_use(&entry, now);
        Some((Arc::clone(&entry.identity), entry.until))
    }

    pub(super) fn insert(
        &self,
        cache_key: CacheKey,
        started: Epoch,
        identity: Arc<Identity>,
        until: Timestamp,
        last_used: Option<Timestamp>,
        now: Timestamp,
    ) {
        let noted = AtomicI64::new(last_used.unwrap_or(Timestamp(i64::MIN)).0);
        let entry = Arc::new(Entry { identity, until, epoch: started, noted });
        self.note_use(&entry, now);
        self.entries.insert(cache_key, entry);
    }

    pub(super) fn forget_all(&self) {
        // INVARIANT: the epoch changes first. Emptying the cache afterwards only frees memory.
        self.epoch.fetch_add(1, Ordering::AcqRel);
        self.entries.invalidate_all();
    }

    /// Returns the uses recorded since the last call and clears them.
    pub(super) fn take_used(&self) -> Vec<(Used, Timestamp)> {
        std::mem::take(&mut *self.used.lock().unwrap_or_else(PoisonError::into_inner)).into_iter().collect()
    }

    /// Puts back uses that could not be written, for the next attempt.
    pub(super) fn give_back_used(&self, used: impl IntoIterator<Item = (Used, Timestamp)>) {
        for (what, at) in used {
            self.note(what, at);
        }
    }

    fn note_use(&self, entry: &Entry, now: Timestamp) {
        let (what, every) = match entry.identity.scheme {
            Scheme::Token(token) => (Used::Token(token), Self::NOTE_EVERY),
            Scheme::Session(session) => (Used::Session(session), self.note_sessions_every),
            Scheme::Password | Scheme::Jwt => return,
        };
        let noted = entry.noted.load(Ordering::Relaxed);
        if now.since(Timestamp(noted)) < every {
            return;
        }
        // Of several requests at the same time, only one records the use.
        if entry.noted.compare_exchange(noted, now.0, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.note(what, now);
        }
    }

    fn note(&self, what: Used, at: Timestamp) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.len() < Self::MAX_USED || used.contains_key(&what) {
            used.entry(what).and_modify(|latest| *latest = at.max(*latest)).or_insert(at);
        }
    }
}
