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
//! A guess that ends without a hash is not counted. To prevent such guesses from revealing anything, a cached right
//! password must not be accepted where a wrong one would be refused, or would wait, without a hash; see
//! [`LoginThrottle::may_remember`].

use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tokio::sync::Notify;

use super::Error;
use crate::clock::{Clock, Timestamp};
use crate::config;
use crate::crypto::CacheKey;

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
    pub(super) fn may_remember(&self, address: IpAddr, account: CacheKey) -> bool {
        if !self.is_guarded(self.limits.clock.now()) {
            return true;
        }
        let pair = (account, network(address));
        let is_proven = || self.pairs.get(&pair).is_none_or(|counter| !counter.lock().unproven);
        self.known.contains_key(&pair) && is_proven()
    }

    /// Refuses an address that has reached its limit.
    pub(super) fn check_address(&self, address: IpAddr) -> Result<(), Error> {
        self.limits.check(self.addresses.get(&network(address)), self.limits.per_address)
    }

    /// Refuses an address that has reached its limit for this account.
    pub(super) fn check_account(&self, address: IpAddr, account: CacheKey) -> Result<(), Error> {
        self.limits.check(self.pairs.get(&(account, network(address))), self.limits.per_account)
    }

    /// Counts a failure that needed no reservation because its check was cheap.
    pub(super) fn count(&self, address: IpAddr) -> Result<(), Error> {
        self.check_address(address)?;
        self.limits.failed(&self.address(address), self.limits.per_address);
        Ok(())
    }

    /// Returns true if unknown addresses are slowed down at this account, so that the caller's [`Familiarity`] matters.
    pub(super) fn is_slowed(&self, account: CacheKey) -> bool {
        self.accounts.get(&account).is_some_and(|counter| {
            let mut tally = counter.lock();
            tally.roll(&self.limits);
            tally.failures >= self.limits.per_account
        })
    }

    /// Returns true if the account's right password was recently sent from this address.
    pub(super) fn is_known(&self, address: IpAddr, account: CacheKey) -> bool {
        self.known.contains_key(&(account, network(address)))
    }

    /// Reserves a guess. Waits for guesses in progress if their outcome decides whether a limit is reached.
    pub(super) async fn begin(
        &self,
        address: IpAddr,
        account: CacheKey,
        familiarity: Familiarity,
    ) -> Result<Guess, Error> {
        let pair = (account, network(address));
        let (by_address, by_pair) = (self.address(address), self.pairs.get_with(pair, Arc::default));
        let by_account = self.accounts.get_with(account, Arc::default);
        let proof = Proof { pair: Arc::clone(&by_pair), limits: Arc::clone(&self.limits), is_settled: false };
        // Lock order: address, pair, account. All callers reserve in this order, so they cannot wait for each other in
        // a cycle.
        let address = proof.reserve(by_address, self.limits.per_address, Beyond::Close).await?;
        let at_account = proof.reserve(by_pair, self.limits.per_account, Beyond::Close).await?;
        let paced = match familiarity {
            Familiarity::Known => None,
            Familiarity::Unknown => {
                let pace = Beyond::Slow(self.limits.window / PACE);
                Some(proof.reserve(Arc::clone(&by_account), self.limits.per_account, pace).await?)
            }
        };
        let (known, limits) = (self.known.clone(), Arc::clone(&self.limits));
        Ok(Guess { proof, address, at_account, account: by_account, _paced: paced, pair, known, limits })
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
    pair: Pair,
    known: Cache<Pair, ()>,
    limits: Arc<Limits>,
}

impl Guess {
    /// Clears the failures of this address at the account.
    ///
    /// The address's own failures remain: otherwise a caller could reset them with their own password between guesses
    /// at other accounts. The account stays slowed down for unknown addresses.
    pub(super) fn was_right(mut self) {
        self.proof.is_settled = true;
        let mut tally = self.at_account.0.lock();
        tally.failures = 0;
        tally.unproven = false;
        drop(tally);
        self.known.insert(self.pair, ());
    }

    pub(super) fn was_wrong(mut self) {
        self.proof.is_settled = true;
        self.limits.failed(&self.address.0, self.limits.per_address);
        self.limits.failed(&self.at_account.0, self.limits.per_account);
        self.limits.failed(&self.account, self.limits.per_account);
    }
}

/// Records at its pair that a guess ended, or waited, without a hash.
#[derive(Debug)]
struct Proof {
    pair: Arc<Counter>,
    limits: Arc<Limits>,
    is_settled: bool,
}

impl Drop for Proof {
    fn drop(&mut self) {
        if !self.is_settled {
            self.is_missing();
        }
    }
}

impl Proof {
    /// Records that the guess has no hash yet. Until the right password is hashed, it is not accepted from the cache
    /// either.
    fn is_missing(&self) {
        self.limits.guard_until(self.limits.clock.now().plus(self.limits.window));
        self.pair.lock().unproven = true;
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
    /// Refuses the attempt if `limit` has been reached.
    fn check(&self, counter: Option<Arc<Counter>>, limit: u32) -> Result<(), Error> {
        match counter.map(|counter| counter.lock().admission(limit, Beyond::Close, self)) {
            None | Some(Admission::Granted | Admission::Wait) => Ok(()),
            Some(Admission::Refused(retry_after)) => Err(Error::TooManyAttempts { retry_after }),
        }
    }

    /// Counts a failure and starts the guarded period if the limit has been reached.
    fn failed(&self, counter: &Counter, limit: u32) {
        let mut tally = counter.lock();
        tally.fail(self);
        if tally.failures >= limit {
            self.guard_until(tally.since.plus(self.window));
        }
    }

    fn guard_until(&self, moment: Timestamp) {
        self.guarded_until.fetch_max(moment.0, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
struct Counter {
    tally: Mutex<Tally>,
    settled: Notify,
}

impl Counter {
    fn lock(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reserve(&self, limit: u32, beyond: Beyond, limits: &Limits) -> Admission {
        let mut tally = self.lock();
        let admission = tally.admission(limit, beyond, limits);
        if matches!(admission, Admission::Granted) {
            tally.under_way = tally.under_way.saturating_add(1);
        }
        admission
    }
}

#[derive(Debug, Default)]
struct Tally {
    /// Time of the first failure in the window.
    since: Timestamp,
    failures: u32,
    under_way: u32,
    /// Time from which the next guess is granted, where the limit only slows down.
    next: Timestamp,
    /// For a pair: true if a guess ended or waited without a hash since the right password was last hashed.
    unproven: bool,
}

/// Behaviour beyond a limit.
#[derive(Clone, Copy, Debug)]
enum Beyond {
    /// Nothing is granted until the window has passed.
    Close,
    /// One guess is granted per this duration.
    Slow(Duration),
}

enum Admission {
    Granted,
    /// The guesses in progress decide.
    Wait,
    Refused(Duration),
}

impl Tally {
    fn admission(&mut self, limit: u32, beyond: Beyond, limits: &Limits) -> Admission {
        self.roll(limits);
        if self.failures >= limit {
            if let Beyond::Slow(pace) = beyond {
                return self.slowed(pace, limits.clock.now());
            }
            let passed = limits.clock.now().since(self.since);
            let left = limits.window.saturating_sub(passed);
            return Admission::Refused(left.max(Duration::from_secs(1)));
        }
        if self.failures.saturating_add(self.under_way) >= limit { Admission::Wait } else { Admission::Granted }
    }

    fn slowed(&mut self, pace: Duration, now: Timestamp) -> Admission {
        // If the clock was set back, the account must not wait for longer than one pace.
        let wait = self.next.since(now).min(pace);
        if !wait.is_zero() {
            return Admission::Refused(wait.max(Duration::from_secs(1)));
        }
        self.next = now.plus(pace);
        Admission::Granted
    }

    fn fail(&mut self, limits: &Limits) {
        self.roll(limits);
        if self.failures == 0 {
            self.since = limits.clock.now();
        }
        self.failures = self.failures.saturating_add(1);
    }

    /// Starts a new window if the current one has passed, or if the clock was set back to before its start.
    fn roll(&mut self, limits: &Limits) {
        let now = limits.clock.now();
        if now < self.since || now.since(self.since) >= limits.window {
            self.failures = 0;
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
