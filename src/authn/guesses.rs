//! How often somebody may be wrong: per address and per account name.
//!
//! A guess is reserved before it is checked, so parallel guesses cannot exceed a limit; those that would are made to
//! wait until the ones under way are settled, so parallel logins with right passwords are not refused either.

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

/// Counts failures.
#[derive(Debug)]
pub(super) struct Guesses {
    addresses: Cache<IpAddr, Arc<Counter>>,
    accounts: Cache<[u8; 32], Arc<Counter>>,
    limits: Arc<Limits>,
}

#[derive(Debug)]
struct Limits {
    per_address: u32,
    per_account: u32,
    window: Duration,
    clock: Clock,
    /// Until when some address is over its limit.
    blocked_until: AtomicI64,
}

impl Guesses {
    /// Addresses and accounts that are watched. The least recently seen is forgotten first: a new one is always watched.
    const MAX_WATCHED: u64 = 100_000;

    pub(super) fn new(config: &config::Authn, clock: Clock) -> Self {
        let limits = Limits {
            per_address: config.guesses_per_address,
            per_account: config.guesses_per_account,
            window: config.guess_window,
            clock,
            blocked_until: AtomicI64::new(i64::MIN),
        };
        Self {
            addresses: watched(config.guess_window),
            accounts: watched(config.guess_window),
            limits: Arc::new(limits),
        }
    }

    /// Whether any address is over its limit now.
    pub(super) fn somebody_is_blocked(&self, now: Timestamp) -> bool {
        now.0 < self.limits.blocked_until.load(Ordering::Relaxed)
    }

    /// Refuses an address that is over its limit.
    pub(super) fn check_address(&self, address: IpAddr) -> Result<(), Error> {
        let Some(counter) = self.addresses.get(&network(address)) else { return Ok(()) };
        match counter.lock().admission(self.limits.per_address, &self.limits) {
            Admission::Granted | Admission::Wait => Ok(()),
            Admission::Refused(retry_after) => Err(Error::TooManyAttempts { retry_after }),
        }
    }

    /// Counts a failure that needed no reservation, because checking it was cheap.
    pub(super) fn count(&self, address: IpAddr) -> Result<(), Error> {
        self.check_address(address)?;
        self.limits.address_failed(&self.address(address));
        Ok(())
    }

    /// Reserves a guess, waiting for others under way where that decides.
    pub(super) async fn begin(&self, address: IpAddr, account: [u8; 32]) -> Result<Guess, Error> {
        let (by_address, by_account) = (self.address(address), self.accounts.get_with(account, Arc::default));
        // In this order always, so nobody waits in a circle.
        let address = reserve(by_address, self.limits.per_address, &self.limits).await?;
        let account = reserve(by_account, self.limits.per_account, &self.limits).await?;
        Ok(Guess { address, account, limits: Arc::clone(&self.limits) })
    }

    fn address(&self, address: IpAddr) -> Arc<Counter> {
        self.addresses.get_with(network(address), Arc::default)
    }
}

/// A guess under way. Dropped unsettled, it was never made.
#[derive(Debug)]
pub(super) struct Guess {
    address: Reservation,
    account: Reservation,
    limits: Arc<Limits>,
}

impl Guess {
    /// Clears the account's failures, not the address's: one's own password must not pay for guessing at others'.
    pub(super) fn was_right(self) {
        self.account.0.lock().failures = 0;
    }

    pub(super) fn was_wrong(self) {
        self.limits.address_failed(&self.address.0);
        self.account.0.lock().fail(&self.limits);
    }
}

impl Limits {
    fn address_failed(&self, counter: &Counter) {
        let mut tally = counter.lock();
        tally.fail(self);
        if tally.failures >= self.per_address {
            self.blocked_until.fetch_max(tally.since.plus(self.window).0, Ordering::Relaxed);
        }
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
}

#[derive(Debug, Default)]
struct Tally {
    /// The first failure of the window.
    since: Timestamp,
    failures: u32,
    under_way: u32,
}

enum Admission {
    Granted,
    /// The guesses under way decide.
    Wait,
    Refused(Duration),
}

impl Tally {
    fn admission(&mut self, limit: u32, limits: &Limits) -> Admission {
        self.roll(limits);
        if self.failures >= limit {
            let passed = limits.clock.now().since(self.since);
            let left = limits.window.saturating_sub(passed);
            return Admission::Refused(left.max(Duration::from_secs(1)));
        }
        if self.failures.saturating_add(self.under_way) >= limit { Admission::Wait } else { Admission::Granted }
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

async fn reserve(counter: Arc<Counter>, limit: u32, limits: &Limits) -> Result<Reservation, Error> {
    loop {
        // Listening starts before looking, so that nothing settles unheard in between.
        let settled = counter.settled.notified();
        tokio::pin!(settled);
        settled.as_mut().enable();
        {
            let mut tally = counter.lock();
            match tally.admission(limit, limits) {
                Admission::Granted => {
                    tally.under_way = tally.under_way.saturating_add(1);
                    return Ok(Reservation(Arc::clone(&counter)));
                }
                Admission::Refused(retry_after) => return Err(Error::TooManyAttempts { retry_after }),
                Admission::Wait => {}
            }
        }
        settled.await;
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
