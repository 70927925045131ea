//! The counters that all processes on a shared store have in common, so that a limit holds over all of them together.
//!
//! They follow the rule of the counters in memory, which a guess passes first. A guess is reserved here before it is
//! hashed, and its outcome is recorded before it is answered. A process that is killed in between leaves a guess in
//! progress, which counts until the window has passed.
//!
//! Other processes must stop accepting cached passwords (see [`super::LoginThrottle::may_remember`]). They are notified
//! before the first answer that reveals a limit.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use super::tally::{Admission, Beyond, Moment};
use super::{Counter, Familiarity, KNOWN_FOR, Limits, PACE};
use crate::authn::Error;
use crate::clock::{Stopwatch, Timestamp};
use crate::crypto::StoreKeys;
use crate::store::{self, GuessKey, GuessTallies, GuessTally, Scope, Store};

/// The counters of all processes.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    store: Arc<Store>,
    keys: Arc<StoreKeys>,
    limits: Arc<Limits>,
    unchecked: Arc<std::sync::Mutex<Unchecked>>,
    /// The tasks that record outcomes.
    tracker: TaskTracker,
    /// Time at which the other processes were last notified of a limit.
    told: Arc<Mutex<Option<Timestamp>>>,
}

/// Guesses that ended without a hash and are not recorded yet.
#[derive(Debug, Default)]
struct Unchecked {
    pairs: HashSet<GuessKey>,
    /// True while a task records them.
    is_recording: bool,
}

/// The keys of the counters of a guess.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keys {
    address: GuessKey,
    pair: GuessKey,
    account: GuessKey,
}

/// The counters in this process of the same guess.
#[derive(Clone, Debug)]
pub(super) struct Local {
    pub(super) address: Arc<Counter>,
    pub(super) pair: Arc<Counter>,
    pub(super) account: Arc<Counter>,
}

/// State of the counters for a cached password.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory {
    pub(super) is_known: bool,
    pub(super) is_proven: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Outcome {
    Right,
    Wrong,
    /// It ended without a hash.
    Unchecked,
}

/// The reason why a guess is not reserved.
enum Denied {
    /// The guesses in progress decide.
    Wait,
    Refused(Duration),
}

/// Time for which a guess waits for others in progress, in whichever process.
const PATIENCE: Duration = Duration::from_secs(5);
/// Maximum number of guesses without a hash that wait to be recorded. Further ones count only in this process.
const MAX_UNCHECKED: usize = 1000;
/// Pause before it looks again.
const AGAIN: Duration = Duration::from_millis(50);

impl Shared {
    pub(super) fn new(store: Arc<Store>, key: &[u8; 32], tracker: TaskTracker, limits: Arc<Limits>) -> Self {
        Self {
            store,
            keys: Arc::new(StoreKeys::new(key)),
            limits,
            unchecked: Arc::default(),
            tracker,
            told: Arc::default(),
        }
    }

    /// Returns the keys of the counters of an account and of the network that an address belongs to.
    pub(super) fn keys(&self, network: IpAddr, account: &str) -> Keys {
        let (network, account) = (network.to_string(), account.as_bytes());
        Keys {
            address: self.keys.key_of("guesses of an address", &[network.as_bytes()]),
            pair: self.keys.key_of("guesses at an account from an address", &[account, network.as_bytes()]),
            account: self.keys.key_of("guesses at an account", &[account]),
        }
    }

    /// Reserves a guess. Waits for guesses in progress if their outcome decides whether a limit is reached.
    pub(super) async fn reserve(
        &self,
        keys: Keys,
        familiarity: Familiarity,
        local: Local,
    ) -> Result<SharedGuess, Error> {
        let waiting = Stopwatch::start();
        loop {
            let (shared, counters) = (self.clone(), local.clone());
            // In a task: a client that disconnects while a reservation is committed must not leave it.
            let trying = self.tracker.spawn(async move { shared.try_reserve(keys, familiarity, &counters).await });
            let retry_after = match trying.await.map_err(|_| Error::Busy)?? {
                Ok(guess) => return Ok(guess),
                Err(Denied::Wait) if waiting.elapsed() < PATIENCE => None,
                Err(Denied::Wait) => Some(Duration::from_secs(1)),
                Err(Denied::Refused(retry_after)) => Some(retry_after),
            };
            self.record_once(&keys, &local).await?;
            self.tell_others().await?;
            if let Some(retry_after) = retry_after {
                return Err(Error::TooManyAttempts { retry_after });
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn try_reserve(
        &self,
        keys: Keys,
        familiarity: Familiarity,
        local: &Local,
    ) -> store::Result<Result<SharedGuess, Denied>> {
        let (limits, moment) = (&self.limits, self.moment());
        let slow = Beyond::Slow(limits.window / PACE);
        let counters = [
            (&keys.address, &local.address, limits.per_address, Beyond::Close),
            (&keys.pair, &local.pair, limits.per_account, Beyond::Close),
            (&keys.account, &local.account, limits.per_account, slow),
        ];
        let count = if familiarity == Familiarity::Known { 2 } else { 3 };
        let mut tallies = self.store.lock_guesses().await?;
        let mut granted = Vec::new();
        for (key, local, limit, beyond) in counters.into_iter().take(count) {
            let mut tally = tallies.lock(key).await?;
            tally.begin_window(moment);
            let denied = match tally.admission(limit, beyond, moment) {
                Admission::Granted => None,
                Admission::Wait => Some(Denied::Wait),
                Admission::Refused(retry_after) => Some(Denied::Refused(retry_after)),
            };
            if let Some(denied) = denied {
                local.adopt(&tally);
                return Ok(Err(denied));
            }
            tally.under_way = tally.under_way.saturating_add(1);
            granted.push((key, tally));
        }
        for (key, tally) in &mut granted {
            tallies.write_until_it_expires(key, tally, moment).await?;
        }
        tallies.commit().await?;
        let is_paced = familiarity == Familiarity::Unknown;
        Ok(Ok(SharedGuess { shared: self.clone(), keys, is_paced, is_settled: false }))
    }

    /// Records that a guess has no hash, unless it is recorded, or its address is refused everywhere: that writes nothing,
    /// however many names it tries.
    async fn record_once(&self, keys: &Keys, local: &Local) -> store::Result<()> {
        if self.limits.is_at_limit(&local.address) || std::mem::replace(&mut local.pair.lock().unproven, true) {
            return Ok(());
        }
        self.store.mark_unproven(&[keys.pair]).await
    }

    /// Records how a guess ended. `reserved`: the counters at which it was reserved.
    async fn settle(&self, keys: &Keys, reserved: &[GuessKey], outcome: Outcome) -> store::Result<()> {
        let (limits, moment) = (&self.limits, self.moment());
        let mut is_limit_reached = false;
        let mut tallies = self.store.lock_guesses().await?;
        let counters =
            [(keys.address, limits.per_address), (keys.pair, limits.per_account), (keys.account, limits.per_account)];
        for (key, limit) in counters {
            let (is_reserved, is_pair) = (reserved.contains(&key), key == keys.pair);
            if !(is_reserved || is_pair || outcome == Outcome::Wrong) {
                continue;
            }
            let mut tally = tallies.lock(&key).await?;
            tally.under_way = tally.under_way.saturating_sub(u32::from(is_reserved));
            match outcome {
                Outcome::Wrong => {
                    tally.fail(moment);
                    is_limit_reached |= tally.failures >= limit;
                }
                Outcome::Right if is_pair => {
                    tally.failures = 0;
                    tally.unproven = false;
                    tally.known_until = moment.now.plus(KNOWN_FOR);
                }
                Outcome::Unchecked if is_pair => tally.unproven = true,
                Outcome::Right | Outcome::Unchecked => {}
            }
            tallies.write_until_it_expires(&key, &mut tally, moment).await?;
        }
        tallies.commit().await?;
        if is_limit_reached { self.tell_others().await } else { Ok(()) }
    }

    /// Records in a task that a guess, which is not reserved, ended or waits without a hash, and tells other processes that a
    /// limit may be reached. One task does this for all of them, so that many hurried clients do not keep the store busy.
    pub(super) fn record_unchecked(&self, keys: Option<&Keys>) {
        if tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        {
            let mut unchecked = self.unchecked();
            if unchecked.pairs.len() < MAX_UNCHECKED {
                unchecked.pairs.extend(keys.map(|keys| keys.pair));
            }
            if std::mem::replace(&mut unchecked.is_recording, true) {
                return;
            }
        }
        let shared = self.clone();
        self.tracker.spawn(async move {
            loop {
                let pairs = std::mem::take(&mut shared.unchecked().pairs).into_iter().collect::<Vec<_>>();
                let recorded = shared.store.mark_unproven(&pairs).await;
                if let Err(error) = shared.tell_others().await.and(recorded) {
                    tracing::debug!(%error, "an unchecked password could not be recorded for other processes");
                }
                tokio::time::sleep(AGAIN).await;
                let mut unchecked = shared.unchecked();
                if unchecked.pairs.is_empty() {
                    unchecked.is_recording = false;
                    break;
                }
            }
        });
    }

    fn unchecked(&self) -> std::sync::MutexGuard<'_, Unchecked> {
        self.unchecked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells all processes that right passwords in their memory are not accepted everywhere.
    async fn tell_others(&self) -> store::Result<()> {
        let now = self.limits.clock.now();
        self.limits.guard_until(now.plus(self.limits.window));
        // Locked until it is done: no caller may answer before.
        let mut told = self.told.lock().await;
        if told.is_some_and(|told| told <= now && now.since(told) < self.limits.window / 2) {
            return Ok(());
        }
        self.store.announce(Scope::Guesses).await?;
        *told = Some(now);
        Ok(())
    }

    /// Returns the common state of an address and an account.
    ///
    /// # Errors
    /// [`Error::TooManyAttempts`] where every password is refused.
    pub(super) async fn memory(&self, keys: &Keys) -> Result<Memory, Error> {
        let moment = self.moment();
        let mut pair = self.tally(&keys.pair).await?;
        let mut address = self.tally(&keys.address).await?;
        let limits = [(&mut address, self.limits.per_address), (&mut pair, self.limits.per_account)];
        for (tally, limit) in limits {
            if let Admission::Refused(retry_after) = tally.admission(limit, Beyond::Close, moment) {
                return Err(Error::TooManyAttempts { retry_after });
            }
        }
        let is_proven = !pair.unproven && (pair.under_way == 0 || pair.has_ended(moment));
        Ok(Memory { is_known: moment.now < pair.known_until, is_proven })
    }

    /// Returns true if unknown addresses are slowed down at this account.
    pub(super) async fn is_slowed(&self, keys: &Keys) -> Result<bool, Error> {
        let mut account = self.tally(&keys.account).await?;
        account.begin_window(self.moment());
        Ok(account.failures.saturating_add(account.under_way) >= self.limits.per_account)
    }

    /// Returns true if the account's right password was recently sent from this address to any process.
    pub(super) async fn is_known(&self, keys: &Keys) -> Result<bool, Error> {
        Ok(self.moment().now < self.tally(&keys.pair).await?.known_until)
    }

    async fn tally(&self, key: &GuessKey) -> Result<GuessTally, Error> {
        Ok(self.store.guesses(key).await?)
    }

    fn moment(&self) -> Moment {
        Moment { now: self.store.now(), window: self.limits.window }
    }
}

impl GuessTally {
    /// Starts a new window if the current one has passed. What is still in progress then was left by a process that was
    /// killed, or is about to end.
    fn begin_window(&mut self, moment: Moment) {
        if self.has_ended(moment) {
            (self.failures, self.under_way) = (0, 0);
        }
        if self.failures == 0 && self.under_way == 0 {
            self.since = moment.now;
        }
    }
}

impl GuessTallies {
    async fn write_until_it_expires(
        &mut self,
        key: &GuessKey,
        tally: &mut GuessTally,
        moment: Moment,
    ) -> store::Result<()> {
        // `unproven` outlives a window in memory by one as well.
        tally.expires = tally.since.max(moment.now).plus(moment.window).max(tally.known_until);
        self.write(key, tally).await
    }
}

/// A guess that is reserved in the store.
#[derive(Debug)]
pub(super) struct SharedGuess {
    shared: Shared,
    keys: Keys,
    is_paced: bool,
    is_settled: bool,
}

impl SharedGuess {
    /// Records whether the password was right, even if the caller does not wait for the returned task.
    pub(super) fn settle(mut self, is_right: bool) -> JoinHandle<()> {
        self.is_settled = true;
        self.end(if is_right { Outcome::Right } else { Outcome::Wrong })
    }

    fn end(&self, outcome: Outcome) -> JoinHandle<()> {
        let (shared, keys, tracker) = (self.shared.clone(), self.keys, self.shared.tracker.clone());
        let reserved = [keys.address, keys.pair, keys.account];
        let count = if self.is_paced { 3 } else { 2 };
        tracker.spawn(async move {
            let reserved = reserved.get(..count).unwrap_or_default();
            if let Err(error) = shared.settle(&keys, reserved, outcome).await {
                // It stays in progress until the window has passed, which is no less strict.
                tracing::warn!(%error, "the outcome of a password could not be recorded for other processes");
            }
        })
    }
}

impl Drop for SharedGuess {
    fn drop(&mut self) {
        if !self.is_settled && tokio::runtime::Handle::try_current().is_ok() {
            drop(self.end(Outcome::Unchecked));
        }
    }
}

#[cfg(test)]
impl Shared {
    pub(super) fn is_recording(&self) -> bool {
        self.unchecked().is_recording
    }

    pub(super) async fn under_way(&self, keys: &Keys) -> u32 {
        self.store.guesses(&keys.account).await.unwrap().under_way
    }

    pub(super) async fn has_counter(&self, keys: &Keys) -> bool {
        self.store.guesses(&keys.pair).await.unwrap() != GuessTally::default()
    }
}
