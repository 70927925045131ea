//! Turns: locks of names, within this process and among the processes on a shared store.
//!
//! A turn is never held while a client sends or reads: an upload takes it when its last piece has arrived
//! (`carry_out::upload_versions`). It is held while MLflow answers, which `upstream.response_timeout` bounds.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::authz::{Mutation, ResourceKind, UserId};
use crate::clock::Stopwatch;
use crate::crypto::short_hash;
use crate::resolve::folded;
use crate::store::{self, Store};

/// Key of a turn. Several turns are taken in this order, so that two requests cannot wait for each other.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) enum Key {
    /// The AI gateway's secrets and model definitions, see [`super::Effects::gateway_turn`].
    Gateway,
    /// Artifact locations that callers choose, see [`super::Effects::location_turn`].
    Location,
    /// A name among the kinds that share names; the kind is the first of them.
    Name(ResourceKind, String),
}

impl Key {
    pub(super) fn name(kind: ResourceKind, name: &str) -> Self {
        Self::Name(kind.sharing_names().first().copied().unwrap_or(kind), folded(name))
    }

    /// Returns the name of the lease of this turn.
    pub(super) fn lease(&self) -> String {
        match self {
            Self::Gateway => "turn:gateway".to_owned(),
            Self::Location => "turn:location".to_owned(),
            // A hash, because names can be longer than what databases index.
            Self::Name(kind, name) => format!("turn:{kind}:{}", short_hash(name)),
        }
    }

    /// Returns the keys of the names that a mutation changes.
    pub(super) fn of(mutation: &Mutation) -> BTreeSet<Self> {
        mutation.names().into_iter().map(|name| Self::name(mutation.kind(), name)).collect()
    }
}

/// Turns that are held until this is dropped.
#[derive(Debug)]
pub struct Turn {
    held: Vec<OwnedMutexGuard<()>>,
    shared: Option<Shared>,
}

impl Turn {
    /// Takes the turns among the processes on a shared store too, waiting for them if `patience` allows. Returns `None`
    /// if another process has one of them.
    pub(super) async fn among_processes(
        mut self,
        store: &Arc<Store>,
        tracker: &TaskTracker,
        keys: &BTreeSet<Key>,
        patience: Duration,
    ) -> store::Result<Option<Self>> {
        if !store.is_shared() {
            return Ok(Some(self));
        }
        let waiting = Stopwatch::start();
        for name in keys.iter().map(Key::lease) {
            let shared = Shared { store: Arc::clone(store), tracker: tracker.clone(), names: Vec::new() };
            // Before the lease is taken: if this request goes away while it waits for the store, it may have it.
            self.shared.get_or_insert(shared).names.push(name.clone());
            let mut pause = AGAIN;
            while store.is_held_elsewhere(&name).await? || !store.hold(&name).await? {
                if waiting.elapsed() >= patience {
                    return Ok(None);
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(AGAIN_AT_LATEST);
            }
        }
        Ok(Some(self))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(Shared { store, tracker, names }) = self.shared.take() else { return };
        // The turn in this process ends last: the next one takes the leases again, and this must not release those.
        let held = std::mem::take(&mut self.held);
        tracker.spawn(async move {
            for name in names {
                let mut is_reported = false;
                // Without a limit: other processes could never take it. When this process ends, its leases end too.
                while let Err(error) = store.release(&name).await {
                    if !std::mem::replace(&mut is_reported, true) {
                        tracing::warn!(%error, "a turn could not be released in the store yet; trying again");
                    }
                    tokio::time::sleep(RELEASE_PAUSE).await;
                }
            }
            drop(held);
        });
    }
}

/// The leases of a turn.
#[derive(Debug)]
struct Shared {
    store: Arc<Store>,
    tracker: TaskTracker,
    names: Vec<String>,
}

/// First pause before a lease of another process is looked at again; each further one is twice as long.
const AGAIN: Duration = Duration::from_millis(25);
const AGAIN_AT_LATEST: Duration = Duration::from_millis(400);
const RELEASE_PAUSE: Duration = Duration::from_secs(1);

/// Error: the turn did not come in time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Late;

/// Time that a request waits for its turn. MLflow answers most changes within a fraction of it.
pub(super) const WAIT: Duration = Duration::from_secs(5);

/// Turns that are held or waited for. An entry with a user is that user's place in the queue: only one request of each user waits
/// in the queue at a time, so that a user with many requests delays another user's request by one of them at most.
#[derive(Debug)]
pub(super) struct Turns {
    table: std::sync::Mutex<Table>,
    wait: Duration,
}

// `Weak`, because an entry is needed only while a request holds the lock or waits for it.
type Table = HashMap<(Key, Option<UserId>), Weak<Mutex<()>>>;

impl Default for Turns {
    fn default() -> Self {
        Self { table: std::sync::Mutex::default(), wait: WAIT }
    }
}

impl Turns {
    /// Waits for the turns of these keys.
    ///
    /// # Errors
    /// [`Late`]; then none is held.
    pub(super) async fn take(&self, user: UserId, keys: BTreeSet<Key>) -> Result<Turn, Late> {
        let wait = async {
            let mut held = Vec::with_capacity(2 * keys.len());
            // Lock order: keys in ascending order, and for each key the place of the user before the turn itself. Two
            // requests can therefore not wait for each other. At the time limit this future is dropped, which
            // releases all locks that it holds.
            for key in keys {
                let [place, turn] = [Some(user), None].map(|user| self.of(key.clone(), user));
                held.push(place.lock_owned().await);
                held.push(turn.lock_owned().await);
            }
            Turn { held, shared: None }
        };
        timeout(self.wait, wait).await.map_err(|_| Late)
    }

    /// Takes the turns if all are free; `None` otherwise.
    pub(super) fn try_take(&self, keys: BTreeSet<Key>) -> Option<Turn> {
        let held = keys.into_iter().map(|key| self.of(key, None).try_lock_owned().ok()).collect::<Option<_>>()?;
        Some(Turn { held, shared: None })
    }

    fn of(&self, key: Key, user: Option<UserId>) -> Arc<Mutex<()>> {
        let mut turns = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        // Unused entries are removed before the table grows.
        if turns.len() == turns.capacity() {
            turns.retain(|_, turn| turn.strong_count() > 0);
        }
        let key = (key, user);
        if let Some(known) = turns.get(&key).and_then(Weak::upgrade) {
            return known;
        }
        let turn = Arc::default();
        turns.insert(key, Arc::downgrade(&turn));
        turn
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const ALICE: UserId = UserId(1);
    const MALLORY: UserId = UserId(2);

    fn models(names: &[&str]) -> BTreeSet<Key> {
        names.iter().map(|name| Key::name(ResourceKind::RegisteredModel, name)).collect()
    }

    #[tokio::test]
    async fn a_name_is_taken_until_its_turn_ends() {
        let turns = Turns::default();
        let keys = models(&["b", "A", "a "]);
        assert_eq!(keys.len(), 2, "names that a database may not tell apart are one");
        let taken = turns.take(ALICE, keys).await.expect("they are free");
        assert!(turns.try_take(models(&["a"])).is_none());
        assert!(turns.try_take([Key::name(ResourceKind::Prompt, "a")].into()).is_none(), "prompts are models");
        assert!(turns.try_take(models(&["c"])).is_some());
        drop(taken);
        assert!(turns.try_take(models(&["a", "b"])).is_some());
        for number in 0..1000 {
            turns.take(ALICE, models(&[number.to_string().as_str()])).await.expect("it is free");
        }
        assert!(turns.table.lock().expect("a lock").len() < 100, "names that no task has are forgotten");
    }

    #[tokio::test]
    async fn kinds_that_do_not_share_names_do_not_wait_for_each_other() {
        let turns = Turns::default();
        let _taken = turns.take(MALLORY, [Key::name(ResourceKind::Skill, "fraud")].into()).await.expect("it is free");
        for kind in [ResourceKind::RegisteredModel, ResourceKind::Experiment, ResourceKind::GatewaySecret] {
            assert!(turns.try_take([Key::name(kind, "fraud")].into()).is_some(), "{kind}");
        }
        assert!(turns.try_take([Key::name(ResourceKind::Skill, "Fraud")].into()).is_none());
    }

    #[tokio::test]
    async fn a_turn_that_does_not_come_is_given_up() {
        let turns = Turns { wait: Duration::from_millis(20), ..Turns::default() };
        let taken = turns.take(MALLORY, models(&["b"])).await.expect("it is free");
        assert_eq!(turns.take(ALICE, models(&["a", "b"])).await.err(), Some(Late));
        assert!(turns.try_take(models(&["a"])).is_some(), "nothing is held by a request that gave up");
        drop(taken);
        turns.take(ALICE, models(&["a", "b"])).await.expect("they are free");
    }

    #[tokio::test]
    async fn many_requests_of_one_user_delay_another_user_by_one() {
        let turns = Arc::new(Turns::default());
        let served = Arc::new(std::sync::Mutex::new(Vec::new()));
        let queued = Arc::new(AtomicUsize::new(0));
        let mut tasks = tokio::task::JoinSet::new();
        for user in [MALLORY; 100].into_iter().chain([ALICE]) {
            let (turns, served, queued) = (Arc::clone(&turns), Arc::clone(&served), Arc::clone(&queued));
            tasks.spawn(async move {
                queued.fetch_add(1, Ordering::Relaxed);
                let Ok(_turn) = turns.take(user, models(&["a"])).await else { return };
                served.lock().expect("a list").push(user);
                // Until all of them have asked.
                while queued.load(Ordering::Relaxed) < 101 {
                    tokio::task::yield_now().await;
                }
            });
        }
        tasks.join_all().await;
        let served = served.lock().expect("a list");
        assert_eq!(served.get(..2), Some([MALLORY, ALICE].as_slice()), "{served:?}");
    }
}
