//! Limits of wrong passwords: per address, per account and address, and per account.
//!
//! The first two close: an address that guesses is refused until the window is over. The third one only slows down, because
//! any caller can make it be reached, and no caller may lock an owner out: beyond it, addresses that the account does not know have
//! one guess per [`PACE`]th of the window among them. Addresses from which the right password came lately, or that have a
//! session of the account, are not slowed.
//!
//! A guess is reserved before it is checked, so parallel guesses cannot exceed a limit; those that would are made to
//! wait until the ones under way are settled, so parallel logins with right passwords are not refused either.
//!
//! A guess that ends without a hash is counted nowhere. So that it tells nothing either, a password that was right before must
//! not be answered from memory where a wrong one would be refused, or made to wait, without a hash: see
//! [`Guesses::may_remember`].

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

/// Counts failures.
#[derive(Debug)]
pub(super) struct Guesses {
    addresses: Cache<IpAddr, Arc<Counter>>,
    /// By account and address.
    pairs: Cache<Pair, Arc<Counter>>,
    accounts: Cache<CacheKey, Arc<Counter>>,
    /// Where the right password of an account came from.
    known: Cache<Pair, ()>,
    limits: Arc<Limits>,
}

#[derive(Debug)]
struct Limits {
    per_address: u32,
    per_account: u32,
    window: Duration,
    clock: Clock,
    /// Until when a wrong password may be refused without a hash, at some address or some account.
    guarded_until: AtomicI64,
}

/// An account and the network that guesses its password.
type Pair = (CacheKey, IpAddr);

/// How a caller stands with an account before the password is checked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Standing {
    Stranger,
    /// Signed in already, or at an address that the account knows.
    Known,
}

/// Guesses of strangers per window at an account that is slowed down.
const PACE: u32 = 100;
/// How long an address stays known after the right password came from it.
const KNOWN_FOR: Duration = Duration::from_hours(7 * 24);

impl Guesses {
    /// Addresses and accounts that are watched. The least recently seen is forgotten first: a new one is always watched.
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

    /// Returns whether a limit was reached lately, or a guess ended without a hash: then a password is answered from memory only
    /// where [`Guesses::may_remember`] allows it.
    pub(super) fn is_guarded(&self, now: Timestamp) -> bool {
        now.0 < self.limits.guarded_until.load(Ordering::Relaxed)
    }

    /// Returns whether an account's right password may be answered from memory at this address: the account knows the address, and
    /// since then none of its guesses at the account ended, or was made to wait, without a hash. Everywhere else the right
    /// password takes the way of a wrong one, so that refusing both tells nothing.
    pub(super) fn may_remember(&self, address: IpAddr, account: CacheKey) -> bool {
        if !self.is_guarded(self.limits.clock.now()) {
            return true;
        }
        let pair = (account, network(address));
        let is_proven = || self.pairs.get(&pair).is_none_or(|counter| !counter.lock().unproven);
        self.known.contains_key(&pair) && is_proven()
    }

    /// Refuses an address that is over its limit.
    pub(super) fn check_address(&self, address: IpAddr) -> Result<(), Error> {
        self.limits.check(self.addresses.get(&network(address)), self.limits.per_address)
    }

    /// Refuses an address that is over its limit for this account.
    pub(super) fn check_account(&self, address: IpAddr, account: CacheKey) -> Result<(), Error> {
        self.limits.check(self.pairs.get(&(account, network(address))), self.limits.per_account)
    }

    /// Counts a failure that needed no reservation, because checking it was cheap.
    pub(super) fn count(&self, address: IpAddr) -> Result<(), Error> {
        self.check_address(address)?;
        self.limits.failed(&self.address(address), self.limits.per_address);
        Ok(())
    }

    /// Whether strangers are slowed down at this account, so that it matters how a caller stands.
    pub(super) fn is_slowed(&self, account: CacheKey) -> bool {
        self.accounts.get(&account).is_some_and(|counter| {
            let mut tally = counter.lock();
            tally.roll(&self.limits);
            tally.failures >= self.limits.per_account
        })
    }

    /// Whether the account's right password came from this address lately.
    pub(super) fn is_known(&self, address: IpAddr, account: CacheKey) -> bool {
        self.known.contains_key(&(account, network(address)))
    }

    /// Reserves a guess, waiting for others under way where that decides.
    pub(super) async fn begin(&self, address: IpAddr, account: CacheKey, standing: Standing) -> Result<Guess, Error> {
        let pair = (account, network(address));
        let (by_address, by_pair) = (self.address(address), self.pairs.get_with(pair, Arc::default));
        let by_account = self.accounts.get_with(account, Arc::default);
        let proof = Proof { pair: Arc::clone(&by_pair), limits: Arc::clone(&self.limits), is_settled: false };
        // In this order always, so nobody waits in a circle.
        let address = proof.reserve(by_address, self.limits.per_address, Beyond::Close).await?;
        let at_account = proof.reserve(by_pair, self.limits.per_account, Beyond::Close).await?;
        let paced = match standing {
            Standing::Known => None,
            Standing::Stranger => {
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

/// A guess under way. Dropped unsettled, it is counted nowhere, and its address has to prove the right password anew.
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
    /// Clears this address's failures at the account, not the address's own: one's own password must not pay for guessing at
    /// others'. The account stays slowed down for strangers.
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

/// Notes at its pair when a guess ends, or is made to wait, without a hash.
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
    /// Notes that this guess may tell nothing: until the right password is hashed, it is not answered from memory either.
    fn is_missing(&self) {
        self.limits.guard_until(self.limits.clock.now().plus(self.limits.window));
        self.pair.lock().unproven = true;
    }

    async fn reserve(&self, counter: Arc<Counter>, limit: u32, beyond: Beyond) -> Result<Reservation, Error> {
        loop {
            // Listening starts before looking, so that nothing settles unheard in between.
            let settled = counter.settled.notified();
            tokio::pin!(settled);
            settled.as_mut().enable();
            let admission = counter.reserve(limit, beyond, &self.limits);
            match admission {
                Admission::Granted => return Ok(Reservation(Arc::clone(&counter))),
                Admission::Refused(retry_after) => return Err(Error::TooManyAttempts { retry_after }),
                // Now and not at the end: a right password answered meanwhile would tell itself from those that wait.
                Admission::Wait => self.is_missing(),
            }
            settled.await;
        }
    }
}

impl Limits {
    /// Refuses where `limit` was reached.
    fn check(&self, counter: Option<Arc<Counter>>, limit: u32) -> Result<(), Error> {
        match counter.map(|counter| counter.lock().admission(limit, Beyond::Close, self)) {
            None | Some(Admission::Granted | Admission::Wait) => Ok(()),
            Some(Admission::Refused(retry_after)) => Err(Error::TooManyAttempts { retry_after }),
        }
    }

    /// Counts a failure.
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
    /// The first failure of the window.
    since: Timestamp,
    failures: u32,
    under_way: u32,
    /// When the next guess is granted, where this only slows down.
    next: Timestamp,
    /// For a pair: a guess ended or waited without a hash since the right password was hashed.
    unproven: bool,
}

/// What happens beyond a limit.
#[derive(Clone, Copy, Debug)]
enum Beyond {
    /// Nothing is granted until the window is over.
    Close,
    /// One guess in this time is.
    Slow(Duration),
}

enum Admission {
    Granted,
    /// The guesses under way decide.
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
        // A clock that was set back must not make the account wait for longer than one pace.
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

    /// Begins a new window when this one is over, or when the clock was set back before it.
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

/// Who counts as one: an IPv4 address, or the /64 that a single IPv6 subscriber has.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
    }
}

fn watched<K: std::hash::Hash + Eq + Send + Sync + 'static>(window: Duration) -> Cache<K, Arc<Counter>> {
    Cache::builder()
        .max_capacity(Guesses::MAX_WATCHED)
        .eviction_policy(EvictionPolicy::lru())
        .time_to_idle(window)
        .build()
}
