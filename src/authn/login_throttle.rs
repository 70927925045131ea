//! Limits on wrong passwords: per address, per pair of account and address, and per account.
//!
//! The first two limits block: an address that guesses is refused until the window has passed. The third limit only
//! slows down, because any caller can reach it and no caller may lock an owner out. Beyond it, all addresses that are
//! unknown to the account share one guess per [`PACE`]th of the window. Addresses from which the right password was
//! sent recently, or that have a session of the account, are not slowed down.
//!
//! A guess is reserved before it is checked, so parallel guesses cannot exceed a limit. Guesses that would exceed it
//! wait until those in progress are settled, so parallel logins with the right password are not refused either.
//!
//! On a shared store, the counters of all processes are in the store as well; see [`shared`].
//!
//! A guess that ends without a hash is not counted. To prevent such guesses from revealing anything, a cached right
//! password must not be accepted where a wrong one would be refused, or would wait, without a hash; see
//! [`LoginThrottle::may_remember`].

use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use super::Error;
use crate::clock::{Clock, Timestamp};
use crate::config;
use crate::crypto::CacheKey;
use crate::store::{GuessTally, Store};

mod shared;
mod tally;

use shared::{Local, Shared, SharedGuess};
use tally::{Admission, Beyond, Moment};

/// Limits on wrong passwords, with the counters behind them.
#[derive(Debug)]
pub(super) struct LoginThrottle {
    addresses: Cache<IpAddr, Arc<Counter>>,
    /// Counters by account and address.
    pairs: Cache<Pair, Arc<Counter>>,
    accounts: Cache<CacheKey, Arc<Counter>>,
    /// Addresses from which the right password of an account was sent.
    known: Cache<Pair, ()>,
    limits: Arc<Limits>,
    /// The counters of all processes, on a shared store.
    shared: Option<Shared>,
}

/// An account that is guessed at, whether it exists or not.
#[derive(Clone, Copy, Debug)]
pub(super) struct Account<'n> {
    pub(super) key: CacheKey,
    pub(super) name: &'n str,
}

#[derive(Debug)]
struct Limits {
    per_address: u32,
    per_account: u32,
    window: Duration,
    clock: Clock,
    /// End of the period in which a wrong password may be refused without a hash, at some address or some account.
    guarded_until: AtomicI64,
}

/// An account and the network from which its password is guessed.
type Pair = (CacheKey, IpAddr);

/// Relation of a caller to an account before the password is checked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Familiarity {
    Unknown,
    /// Already signed in, or at an address known to the account.
    Known,
}

/// Number of guesses per window that unknown addresses share at an account that is slowed down.
const PACE: u32 = 100;
/// Period for which an address stays known after the right password was sent from it.
const KNOWN_FOR: Duration = Duration::from_hours(7 * 24);

impl LoginThrottle {
    /// Maximum number of watched addresses, pairs and accounts each. The least recently seen entry is evicted, so a new
    /// one is always watched.
    const MAX_WATCHED: u64 = 100_000;

    pub(super) fn new(config: &config::Authn, clock: Clock) -> Self {
        let limits = Limits {
            per_address: config.guesses_per_address,
            per_account: config.guesses_per_account,
            window: config.guess_window,
            clock,
            guarded_until: AtomicI64::new(i64::MIN),
        };
        Self {
            addresses: watched(config.guess_window),
            pairs: watched(config.guess_window),
            accounts: watched(config.guess_window),
            known: Cache::builder().max_capacity(Self::MAX_WATCHED).time_to_idle(KNOWN_FOR).build(),
            limits: Arc::new(limits),
            shared: None,
        }
    }

    /// Counts together with the other processes on this store. `key`: the secret of the store.
    pub(super) fn share(&mut self, store: Arc<Store>, key: &[u8; 32], tracker: TaskTracker) {
        self.shared = Some(Shared::new(store, key, tracker, Arc::clone(&self.limits)));
    }

    /// Starts the guarded period, because a limit was or may have been reached in another process.
    pub(super) fn guard(&self) {
        if self.shared.is_some() {
            // A process announces limits at most twice per window, so the next announcement comes before this ends.
            self.limits.guard_until(self.limits.clock.now().plus(self.limits.window * 3 / 2));
        }
    }

    /// Returns true if a limit was reached recently or a guess ended without a hash. A cached password is then accepted
    /// only where [`LoginThrottle::may_remember`] allows it.
    pub(super) fn is_guarded(&self, now: Timestamp) -> bool {
        now.0 < self.limits.guarded_until.load(Ordering::Relaxed)
    }

    /// Returns true if a cached right password may be accepted at this address without a hash.
    ///
    /// This requires that the address is known to the account and that, since then, none of its guesses at the account
    /// ended or waited without a hash. Everywhere else the right password takes the same path as a wrong one, so that a
    /// refusal reveals nothing.
    ///
    /// # Errors
    /// [`Error::TooManyAttempts`] if other processes refuse every password here.
    pub(super) async fn may_remember(&self, address: IpAddr, account: Account<'_>) -> Result<bool, Error> {
        if !self.is_guarded(self.limits.clock.now()) {
            return Ok(true);
        }
        let pair = (account.key, network(address));
        let is_proven = || self.pairs.get(&pair).is_none_or(|counter| !counter.lock().unproven);
        let is_known = self.known.contains_key(&pair);
        let Some(shared) = &self.shared else { return Ok(is_known && is_proven()) };
        match shared.memory(&shared.keys(pair.1, account.name)).await {
            Ok(memory) => Ok((is_known || memory.is_known) && memory.is_proven && is_proven()),
            // Without the store, wrong passwords are not checked, and each of them makes its address unproven here.
            Err(Error::Store(_)) => Ok(is_known && is_proven()),
            Err(error) => Err(error),
        }
    }

    /// Refuses an address that has reached its limit.
    pub(super) fn check_address(&self, address: IpAddr) -> Result<(), Error> {
        self.limits.check(self.addresses.get(&network(address)), self.limits.per_address)
    }

    /// Refuses an address that has reached its limit for this account.
    pub(super) fn check_account(&self, address: IpAddr, account: Account<'_>) -> Result<(), Error> {
        self.limits.check(self.pairs.get(&(account.key, network(address))), self.limits.per_account)
    }

    /// Counts a failure that needed no reservation because its check was cheap.
    pub(super) fn count(&self, address: IpAddr) -> Result<(), Error> {
        self.check_address(address)?;
        self.limits.failed(&self.address(address), self.limits.per_address);
        Ok(())
    }

    /// Returns true if unknown addresses are slowed down at this account, so that the caller's [`Familiarity`] matters.
    pub(super) async fn is_slowed(&self, address: IpAddr, account: Account<'_>) -> Result<bool, Error> {
        let is_slowed_here = self.accounts.get(&account.key).is_some_and(|counter| {
            let mut tally = counter.lock();
            tally.roll(self.limits.moment());
            // Also while guesses in progress decide: a known address does not wait for them.
            tally.failures.saturating_add(tally.under_way) >= self.limits.per_account
        });
        match &self.shared {
            Some(shared) if !is_slowed_here => shared.is_slowed(&shared.keys(network(address), account.name)).await,
            _ => Ok(is_slowed_here),
        }
    }

    /// Returns true if the account's right password was recently sent from this address.
    pub(super) async fn is_known(&self, address: IpAddr, account: Account<'_>) -> Result<bool, Error> {
        let pair = (account.key, network(address));
        match &self.shared {
            Some(shared) if !self.known.contains_key(&pair) => {
                shared.is_known(&shared.keys(pair.1, account.name)).await
            }
            _ => Ok(self.known.contains_key(&pair)),
        }
    }

    /// Starts a guess, before anything is looked up for it. If the returned value is dropped unsettled, the address must
    /// prove the right password again: how soon an answer comes tells as much as the answer.
    pub(super) fn start(&self, address: IpAddr, account: Account<'_>) -> Proof {
        let network = network(address);
        let pair = self.pairs.get_with((account.key, network), Arc::default);
        let shared = self.shared.as_ref().map(|shared| (shared.clone(), shared.keys(network, account.name)));
        let limits = Arc::clone(&self.limits);
        let counters = [self.address(address), Arc::clone(&pair), self.accounts.get_with(account.key, Arc::default)];
        let reach = [limits.per_address, limits.per_account, limits.per_account];
        let reached = std::array::from_fn(|which: usize| {
            counters.get(which).zip(reach.get(which)).is_some_and(|(counter, limit)| counter.start(&limits) >= *limit)
        });
        let started = counters.map(Started);
        let proof = Proof { pair, network, account: account.key, limits, shared, _started: started, is_settled: false };
        // As many guesses as a limit allows have begun and may still be looked up: a right password must not be
        // answered sooner than they are.
        match reached {
            [_, true, _] => proof.is_missing(),
            [true, false, _] | [_, false, true] => proof.guard(),
            [false, false, false] => {}
        }
        proof
    }

    /// Reserves a guess. Waits for guesses in progress if their outcome decides whether a limit is reached.
    pub(super) async fn begin(&self, proof: Proof, familiarity: Familiarity) -> Result<Guess, Error> {
        let by_address = self.addresses.get_with(proof.network, Arc::default);
        let account = self.accounts.get_with(proof.account, Arc::default);
        // Lock order: address, pair, account. All callers reserve in this order, so they cannot wait for each other in
        // a cycle.
        let address = proof.reserve(by_address, self.limits.per_address, Beyond::Close).await?;
        let at_account = proof.reserve(Arc::clone(&proof.pair), self.limits.per_account, Beyond::Close).await?;
        let paced = match familiarity {
            Familiarity::Known => None,
            Familiarity::Unknown => {
                let pace = Beyond::Slow(self.limits.window / PACE);
                Some(proof.reserve(Arc::clone(&account), self.limits.per_account, pace).await?)
            }
        };
        let local =
            Local { address: Arc::clone(&address.0), pair: Arc::clone(&at_account.0), account: Arc::clone(&account) };
        let shared = match &proof.shared {
            Some((shared, keys)) => Some(shared.reserve(*keys, familiarity, local).await?),
            None => None,
        };
        let (known, limits) = (self.known.clone(), Arc::clone(&self.limits));
        Ok(Guess { proof, address, at_account, account, _paced: paced, known, limits, shared })
    }

    fn address(&self, address: IpAddr) -> Arc<Counter> {
        self.addresses.get_with(network(address), Arc::default)
    }
}

/// A guess in progress. If it is dropped unsettled, it is not counted, and its address must prove the right password
/// again.
#[derive(Debug)]
pub(super) struct Guess {
    proof: Proof,
    address: Reservation,
    at_account: Reservation,
    account: Arc<Counter>,
    _paced: Option<Reservation>,
    known: Cache<Pair, ()>,
    limits: Arc<Limits>,
    shared: Option<SharedGuess>,
}

impl Guess {
    /// Records the outcome. The returned task must end before the caller is answered; it ends by itself if the caller
    /// disconnects.
    pub(super) fn settle(mut self, is_right: bool) -> Option<JoinHandle<()>> {
        let shared = self.shared.take();
        if is_right {
            self.was_right()
        } else {
            self.was_wrong()
        }
        shared.map(|shared| shared.settle(is_right))
    }

    /// Clears the failures of this address at the account.
    ///
    /// The address's own failures remain: otherwise a caller could reset them with their own password between guesses
    /// at other accounts. The account stays slowed down for unknown addresses.
    fn was_right(mut self) {
        self.proof.is_settled = true;
        let mut tally = self.at_account.0.lock();
        tally.failures = 0;
        tally.unproven = false;
        drop(tally);
        self.known.insert((self.proof.account, self.proof.network), ());
    }

    fn was_wrong(mut self) {
        self.proof.is_settled = true;
        self.limits.failed(&self.address.0, self.limits.per_address);
        self.limits.failed(&self.at_account.0, self.limits.per_account);
        self.limits.failed(&self.account, self.limits.per_account);
    }
}

/// Records at its pair that a guess ended, or waited, without a hash.
#[derive(Debug)]
pub(super) struct Proof {
    pair: Arc<Counter>,
    network: IpAddr,
    account: CacheKey,
    limits: Arc<Limits>,
    shared: Option<(Shared, shared::Keys)>,
    _started: [Started; 3],
    is_settled: bool,
}

/// Counts a guess that has started, until it is settled or given up.
#[derive(Debug)]
struct Started(Arc<Counter>);

impl Drop for Started {
    fn drop(&mut self) {
        self.0.started.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Proof {
    fn drop(&mut self) {
        if !self.is_settled {
            self.is_missing();
        }
    }
}

impl Proof {
    /// The right password was found in memory, where it may be used.
    pub(super) fn was_remembered(mut self) {
        self.is_settled = true;
    }

    /// Records that the guess has no hash yet. Until the right password is hashed, it is not accepted from the cache
    /// either.
    fn is_missing(&self) {
        self.limits.guard_until(self.limits.clock.now().plus(self.limits.window));
        let was_missing = std::mem::replace(&mut self.pair.lock().unproven, true);
        if let Some((shared, keys)) = &self.shared
            && !was_missing
        {
            shared.record_unchecked(Some(keys));
        }
    }

    /// Starts the guarded period here and in the other processes.
    fn guard(&self) {
        self.limits.guard_until(self.limits.clock.now().plus(self.limits.window));
        if let Some((shared, _)) = &self.shared {
            shared.record_unchecked(None);
        }
    }

    async fn reserve(&self, counter: Arc<Counter>, limit: u32, beyond: Beyond) -> Result<Reservation, Error> {
        loop {
            // The notification is enabled before the check, so that a guess that settles in between is not missed.
            let settled = counter.settled.notified();
            tokio::pin!(settled);
            settled.as_mut().enable();
            let admission = counter.reserve(limit, beyond, &self.limits);
            match admission {
                Admission::Granted => return Ok(Reservation(Arc::clone(&counter))),
                Admission::Refused(retry_after) => return Err(Error::TooManyAttempts { retry_after }),
                // Recorded now and not at the end: otherwise a right password sent meanwhile would be accepted at once
                // and thereby differ from the wrong ones, which wait.
                Admission::Wait => self.is_missing(),
            }
            settled.await;
        }
    }
}

impl Limits {
    fn moment(&self) -> Moment {
        Moment { now: self.clock.now(), window: self.window }
    }

    /// Refuses the attempt if `limit` has been reached.
    fn check(&self, counter: Option<Arc<Counter>>, limit: u32) -> Result<(), Error> {
        match counter.map(|counter| counter.lock().admission(limit, Beyond::Close, self.moment())) {
            None | Some(Admission::Granted | Admission::Wait) => Ok(()),
            Some(Admission::Refused(retry_after)) => Err(Error::TooManyAttempts { retry_after }),
        }
    }

    /// Counts a failure and starts the guarded period if the limit has been reached.
    fn failed(&self, counter: &Counter, limit: u32) {
        let mut tally = counter.lock();
        tally.fail(self.moment());
        if tally.failures >= limit {
            self.guard_until(tally.since.plus(self.window));
        }
    }

    /// Returns true if an address is refused.
    fn is_at_limit(&self, address: &Counter) -> bool {
        let admission = address.lock().admission(self.per_address, Beyond::Close, self.moment());
        matches!(admission, Admission::Refused(_))
    }

    fn guard_until(&self, moment: Timestamp) {
        self.guarded_until.fetch_max(moment.0, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
struct Counter {
    tally: Mutex<GuessTally>,
    /// Number of guesses that have started and are not settled.
    started: AtomicU32,
    settled: Notify,
}

impl Counter {
    fn lock(&self) -> MutexGuard<'_, GuessTally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a guess that starts. Returns the number of guesses that have failed or may still fail.
    fn start(&self, limits: &Limits) -> u32 {
        let started = self.started.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let mut tally = self.lock();
        tally.roll(limits.moment());
        tally.failures.saturating_add(started)
    }

    fn reserve(&self, limit: u32, beyond: Beyond, limits: &Limits) -> Admission {
        let mut tally = self.lock();
        let admission = tally.admission(limit, beyond, limits.moment());
        if matches!(admission, Admission::Granted) {
            tally.under_way = tally.under_way.saturating_add(1);
        }
        admission
    }

    /// Takes over the failures that were counted in the store, so that further guesses are refused here.
    fn adopt(&self, shared: &GuessTally) {
        let mut tally = self.lock();
        if shared.failures > tally.failures {
            (tally.failures, tally.since) = (shared.failures, shared.since);
        }
    }
}

#[derive(Debug)]
struct Reservation(Arc<Counter>);

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut tally = self.0.lock();
        tally.under_way = tally.under_way.saturating_sub(1);
        drop(tally);
        self.0.settled.notify_waiters();
    }
}

/// Returns the network that is counted as one caller: an IPv4 address, or the /64 prefix of a single IPv6 subscriber.
#[must_use]
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
    }
}

fn watched<K: std::hash::Hash + Eq + Send + Sync + 'static>(window: Duration) -> Cache<K, Arc<Counter>> {
    Cache::builder()
        .max_capacity(LoginThrottle::MAX_WATCHED)
        .eviction_policy(EvictionPolicy::lru())
        .time_to_idle(window)
        .build()
}

#[cfg(test)]
mod tests;
