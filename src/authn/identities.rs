//! Identities seen lately, and when their tokens and sessions were last used.
//!
//! Forgetting is one increment: an entry carries the epoch in which its loading began, and is believed in that epoch
//! only. So an identity that was being loaded while it was forgotten can never be found, however late it is inserted.

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

/// The cache.
#[derive(Debug)]
pub(super) struct Identities {
    entries: Cache<CacheKey, Arc<Entry>>,
    epoch: AtomicU64,
    used: Mutex<HashMap<Used, Timestamp>>,
    /// How often a session's use is noted.
    note_sessions_every: Duration,
}

/// What the last use of is noted.
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
    /// When the use of its token or session was last noted.
    noted: AtomicI64,
}

impl Identities {
    /// How often a token's use is noted.
    const NOTE_EVERY: Duration = Duration::from_mins(1);
    /// How many uses wait to be written; beyond that they are not noted.
    const MAX_USED: usize = 10_000;

    pub(super) fn new(entries: u64, ttl: Duration) -> Self {
        Self {
            // The wall clock may be set back; the cache's own clock cannot.
            entries: Cache::builder().max_capacity(entries).time_to_live(ttl).build(),
            epoch: AtomicU64::new(0),
            used: Mutex::default(),
            note_sessions_every: Self::NOTE_EVERY,
        }
    }

    /// A session's use is noted often enough that it does not end much too early for being thought idle.
    pub(super) fn sessions_idle_after(&mut self, idle: Duration) {
        self.note_sessions_every = Self::NOTE_EVERY.min(idle / 8);
    }

    /// To be called before anything is read that ends up in the identity.
    pub(super) fn start(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::Acquire))
    }

    pub(super) fn get(&self, place: &CacheKey, now: Timestamp) -> Option<Arc<Identity>> {
        self.get_with_end(place, now).map(|(identity, _)| identity)
    }

    /// The same with the moment until which it is believed.
    pub(super) fn get_with_end(&self, place: &CacheKey, now: Timestamp) -> Option<(Arc<Identity>, Timestamp)> {
        let entry = self.entries.get(place)?;
        if entry.epoch != self.start() || entry.until <= now {
            return None;
        }
        self.note_use(&entry, now);
        Some((Arc::clone(&entry.identity), entry.until))
    }

    pub(super) fn insert(
        &self,
        place: CacheKey,
        started: Epoch,
        identity: Arc<Identity>,
        until: Timestamp,
        last_used: Option<Timestamp>,
        now: Timestamp,
    ) {
        let noted = AtomicI64::new(last_used.unwrap_or(Timestamp(i64::MIN)).0);
        let entry = Arc::new(Entry { identity, until, epoch: started, noted });
        self.note_use(&entry, now);
        self.entries.insert(place, entry);
    }

    pub(super) fn forget_all(&self) {
        // INVARIANT: the epoch moves first; emptying the cache only frees memory.
        self.epoch.fetch_add(1, Ordering::AcqRel);
        self.entries.invalidate_all();
    }

    /// The uses noted since the last call.
    pub(super) fn take_used(&self) -> Vec<(Used, Timestamp)> {
        std::mem::take(&mut *self.used.lock().unwrap_or_else(PoisonError::into_inner)).into_iter().collect()
    }

    /// Uses that could not be written, to be tried again.
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
        // Of several requests at this moment, one notes it.
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
