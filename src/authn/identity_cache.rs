//! Cache of identities, and the times at which their tokens and sessions were last used.
//!
//! An entry records the epoch in which its loading began. A change raises the epoch and marks whose permissions it
//! affects with the new one; an entry is valid unless one of its marks is newer than its epoch. An identity that was
//! being loaded during a change is therefore never found, however late it is inserted. Marks are shared by hash: a
//! collision makes an identity be loaded once more, and never keeps one.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use moka::sync::Cache;

use crate::authz::{Identity, RoleId, Scheme, SessionId, TokenId, texts_of_groups};
use crate::clock::{Stopwatch, Timestamp, milliseconds};
use crate::crypto::CacheKey;
use crate::store::{Follower, Scope};

/// The epoch in which the loading of an identity began.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Epoch(u64);

/// The cache of identities, and the uses that are not yet written to the store.
#[derive(Debug)]
pub(super) struct IdentityCache {
    entries: Cache<CacheKey, Arc<Entry>>,
    epoch: AtomicU64,
    /// The epoch of the last change of each mark.
    changed: Box<[AtomicU64]>,
    /// The epoch of the last change that affects all identities.
    all_changed: AtomicU64,
    changing: Mutex<()>,
    /// Time (Unix ms) at which the store was last asked for changes.
    confirmed: AtomicI64,
    /// The same time on a monotonic clock.
    confirmed_since: Mutex<Stopwatch>,
    /// Milliseconds for which that suffices.
    stale_after: AtomicI64,
    /// True if more than `stale_after` has passed on the monotonic clock.
    is_cut_off: AtomicBool,
    used: Mutex<HashMap<Used, Timestamp>>,
    /// Minimum time in milliseconds between two recorded uses of a session.
    note_sessions_every: AtomicI64,
}

/// An identity, with the marks of everything in the store that it depends on.
#[derive(Clone, Debug)]
pub(super) struct Loaded {
    pub(super) identity: Arc<Identity>,
    marks: Arc<[u16]>,
}

impl Loaded {
    /// Creates the identity of a user who has these roles.
    pub(super) fn new(identity: Identity, roles: impl Iterator<Item = RoleId>) -> Self {
        let user = [Scope::User(identity.user)].into_iter();
        let groups = texts_of_groups(identity.groups.iter().map(AsRef::as_ref)).into_iter().map(Scope::Group);
        let marks = user.chain(roles.map(Scope::Role)).chain(groups).map(|scope| mark(&scope)).collect();
        Self { identity: Arc::new(identity), marks }
    }
}

/// Returns the mark of a user, a group or a role.
fn mark(scope: &Scope) -> u16 {
    let mut hasher = DefaultHasher::new();
    scope.hash(&mut hasher);
    let [low, high, ..] = hasher.finish().to_le_bytes();
    u16::from_le_bytes([low, high])
}

/// A credential whose last use is recorded.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Used {
    Token(TokenId),
    Session(SessionId),
}

#[derive(Debug)]
struct Entry {
    loaded: Loaded,
    until: Timestamp,
    epoch: Epoch,
    /// The last epoch in which the entry was found to be valid.
    checked: AtomicU64,
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
            changed: (0..=u16::MAX).map(|_| AtomicU64::new(0)).collect(),
            all_changed: AtomicU64::new(0),
            changing: Mutex::default(),
            confirmed: AtomicI64::new(0),
            confirmed_since: Mutex::new(Stopwatch::start()),
            stale_after: AtomicI64::new(i64::MAX),
            is_cut_off: AtomicBool::new(false),
            used: Mutex::default(),
            note_sessions_every: AtomicI64::new(milliseconds(Self::NOTE_EVERY)),
        }
    }

    /// Sets the interval of recording sessions to an eighth of `idle` at most, so that a session in use does not expire
    /// as idle much too early.
    pub(super) fn sessions_idle_after(&self, idle: Duration) {
        self.note_sessions_every.store(milliseconds(Self::NOTE_EVERY.min(idle / 8)), Ordering::Relaxed);
    }

    /// Sets the time after which nothing is found, while the store cannot be asked for changes.
    pub(super) fn stale_after(&self, limit: Duration) {
        self.stale_after.store(milliseconds(limit), Ordering::Relaxed);
    }

    /// Records that all changes before `asked` are known. `since`: the same moment.
    pub(super) fn confirm(&self, asked: Timestamp, since: Stopwatch) {
        *self.confirmed_since.lock().unwrap_or_else(PoisonError::into_inner) = since;
        self.confirmed.store(asked.0, Ordering::Release);
        self.is_cut_off.store(false, Ordering::Release);
    }

    /// Records that the store could not be asked.
    pub(super) fn not_confirmed(&self) {
        let since = *self.confirmed_since.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = u64::try_from(self.stale_after.load(Ordering::Relaxed)).unwrap_or(u64::MAX);
        self.is_cut_off.store(since.elapsed() > Duration::from_millis(limit), Ordering::Release);
    }

    fn is_stale(&self, now: Timestamp) -> bool {
        // A clock that was set back makes entries young again; the other one does not.
        let age = now.0.saturating_sub(self.confirmed.load(Ordering::Acquire));
        age > self.stale_after.load(Ordering::Relaxed) || self.is_cut_off.load(Ordering::Acquire)
    }

    /// Returns the current epoch. Must be called before anything that becomes part of the identity is read.
    pub(super) fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::Acquire))
    }

    pub(super) fn get(&self, cache_key: &CacheKey, now: Timestamp) -> Option<Arc<Identity>> {
        self.entry(cache_key, now).map(|entry| Arc::clone(&entry.loaded.identity))
    }

    /// Returns a valid identity together with the time until which it is valid.
    pub(super) fn get_with_expiry(&self, cache_key: &CacheKey, now: Timestamp) -> Option<(Loaded, Timestamp)> {
        self.entry(cache_key, now).map(|entry| (entry.loaded.clone(), entry.until))
    }

    fn entry(&self, cache_key: &CacheKey, now: Timestamp) -> Option<Arc<Entry>> {
        let entry = self.entries.get(cache_key)?;
        if entry.until <= now || self.is_stale(now) || !self.is_current(&entry) {
            return None;
        }
        self.note_use(&entry, now);
        Some(entry)
    }

    /// Returns true if nothing that the entry depends on has changed since its loading began. The marks are compared
    /// once in each epoch.
    fn is_current(&self, entry: &Entry) -> bool {
        let Epoch(now) = self.epoch();
        if entry.checked.load(Ordering::Relaxed) == now {
            return true;
        }
        let is_unchanged = |changed: &AtomicU64| changed.load(Ordering::Acquire) <= entry.epoch.0;
        let mut marks = entry.loaded.marks.iter();
        let is_current = is_unchanged(&self.all_changed)
            && marks.all(|mark| self.changed.get(usize::from(*mark)).is_some_and(is_unchanged));
        if is_current {
            entry.checked.store(now, Ordering::Relaxed);
        }
        is_current
    }

    pub(super) fn insert(
        &self,
        cache_key: CacheKey,
        started: Epoch,
        loaded: Loaded,
        until: Timestamp,
        last_used: Option<Timestamp>,
        now: Timestamp,
    ) {
        let noted = AtomicI64::new(last_used.unwrap_or(Timestamp(i64::MIN)).0);
        let checked = AtomicU64::new(started.0);
        let entry = Arc::new(Entry { loaded, until, epoch: started, checked, noted });
        self.note_use(&entry, now);
        self.entries.insert(cache_key, entry);
    }

    pub(super) fn forget_all(&self) {
        self.changed(&[Scope::Everything]);
        // Emptying the cache only frees memory.
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
        let (what, every) = match entry.loaded.identity.scheme {
            Scheme::Token(token) => (Used::Token(token), milliseconds(Self::NOTE_EVERY)),
            Scheme::Session(session) => (Used::Session(session), self.note_sessions_every.load(Ordering::Relaxed)),
            Scheme::Password | Scheme::Jwt => return,
        };
        let noted = entry.noted.load(Ordering::Relaxed);
        if now.0.saturating_sub(noted) < every {
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

impl Follower for IdentityCache {
    fn changed(&self, scopes: &[Scope]) {
        let _turn = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let next = self.epoch.load(Ordering::Acquire) + 1;
        for scope in scopes {
            match scope {
                Scope::User(_) | Scope::Group(_) | Scope::Role(_) => {
                    if let Some(changed) = self.changed.get(usize::from(mark(scope))) {
                        changed.store(next, Ordering::Release);
                    }
                }
                // The cache contains permissions, and no facts about MLflow's resources.
                Scope::Experiment(_) | Scope::Name(_) | Scope::Guesses => {}
                Scope::Everything => self.all_changed.store(next, Ordering::Release),
            }
        }
        // INVARIANT: marks are stored before the epoch, so a reader of the new epoch sees them.
        self.epoch.store(next, Ordering::Release);
    }
}
