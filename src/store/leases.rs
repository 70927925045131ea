//! Exclusive rights among the processes on one store.
//!
//! A serving process renews its own lease; its other rights are valid as long as that lease. During an outage of the
//! database no lease can be renewed, so a process treats others as gone only after it has renewed its own for
//! [`GONE_AFTER`] without a gap.
//! Times are those of the database; see [`Store::now`]. A store that is not shared has one process that serves, which
//! holds everything, and no rows are written.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::db::{Pool, Tx, migrations, sql};
use super::{Error, Result, Store};
use crate::clock::{Stopwatch, Timestamp, milliseconds};

/// Time after which a process that did not renew its lease counts as gone.
const GONE_AFTER: Duration = Duration::from_secs(15);
/// Difference in milliseconds up to which clocks count as equal.
const CLOCK_STEP_MS: i64 = 500;

impl Store {
    /// Interval at which a serving process must call [`Store::keep_alive`].
    pub const ALIVE_EVERY: Duration = Duration::from_secs(3);

    /// Returns true if other processes may serve on the same store.
    #[must_use]
    pub const fn is_shared(&self) -> bool {
        matches!(self.readers, Pool::Postgres(_))
    }

    /// Renews the lease of this process for the first time, so that others see it from the moment in which they can no
    /// longer lock the store for themselves.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn begin_serving(&self) -> Result<()> {
        if !self.is_shared() {
            return Ok(());
        }
        let mut tx = self.writer.begin().await?;
        migrations::lock(&mut tx).await?;
        self.renew(tx).await
    }

    /// Renews the lease of this process, and lets its clock follow that of the database.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn keep_alive(&self) -> Result<()> {
        if !self.is_shared() {
            return Ok(());
        }
        self.follow_clock().await?;
        self.renew(self.writer.begin().await?).await
    }

    async fn renew(&self, mut tx: Tx) -> Result<()> {
        let renewed = self.renew_lease(&mut tx).await?;
        tx.commit().await?;
        self.own_lease.renewed(renewed);
        Ok(())
    }

    /// Deletes the leases of this process, so that others take over at once.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn end_serving(&self) -> Result<()> {
        if !self.is_shared() {
            return Ok(());
        }
        let end = sql("DELETE FROM leases WHERE holder = $1");
        end.bind(&*self.replica).execute(&self.writer).await?;
        Ok(())
    }

    /// Takes an exclusive right, or confirms it. Returns false if another process that exists has it.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn hold(&self, name: &str) -> Result<bool> {
        if !self.is_shared() {
            return Ok(true);
        }
        let mut tx = self.writer.begin().await?;
        let renewed = self.renew_lease(&mut tx).await?;
        // Locks the row, so that the next statement sees what a process that held the lock has committed.
        let lock = sql("INSERT INTO leases (name, holder, until) VALUES ($1, $2, $3)
             ON CONFLICT (name) DO UPDATE SET until = excluded.until RETURNING holder");
        let holder: String = lock.bind(name).bind(&*self.replica).bind(i64::MAX).scalar(&mut tx).await?;
        let mut is_taken = *holder == *self.replica;
        if !is_taken {
            let take = sql("UPDATE leases SET holder = $1 WHERE name = $2 AND NOT EXISTS (
                 SELECT 1 FROM leases AS other WHERE other.name = 'replica:' || leases.holder AND other.until > $3)");
            is_taken = take.bind(&*self.replica).bind(name).bind(self.gone_before().0).execute(&mut tx).await? > 0;
        }
        tx.commit().await?;
        self.own_lease.renewed(renewed);
        Ok(is_taken)
    }

    /// Returns true if another process that exists has this right. Only reads, for those who wait.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn is_held_elsewhere(&self, name: &str) -> Result<bool> {
        let held = sql("SELECT 1 FROM leases WHERE name = $1 AND holder <> $2 AND EXISTS (
                 SELECT 1 FROM leases AS other WHERE other.name = 'replica:' || leases.holder AND other.until > $3)");
        let held = held.bind(name).bind(&*self.replica).bind(self.gone_before().0);
        Ok(held.fetch_optional(&self.readers).await?.is_some())
    }

    /// Locks rights that this process has until the transaction ends. Fails if another process has one by now.
    pub(super) async fn confirm(&self, tx: &mut Tx, names: &[String]) -> Result<()> {
        if !self.is_shared() {
            return Ok(());
        }
        for name in names {
            let lock = sql("UPDATE leases SET until = until WHERE name = $1 AND holder = $2");
            if lock.bind(name.as_str()).bind(&*self.replica).execute(&mut *tx).await? == 0 {
                return Err(Error::TakenOver);
            }
        }
        Ok(())
    }

    /// Gives an exclusive right up.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn release(&self, name: &str) -> Result<()> {
        if !self.is_shared() {
            return Ok(());
        }
        let mut tx = self.writer.begin().await?;
        // Waits for a `hold` that was cancelled while its commit was under way, whose row a deletion alone would not see.
        let wait = sql("INSERT INTO leases (name, holder, until) VALUES ($1, $2, $3)
             ON CONFLICT (name) DO UPDATE SET until = excluded.until");
        wait.bind(name).bind(&*self.replica).bind(i64::MAX).execute(&mut tx).await?;
        let release = sql("DELETE FROM leases WHERE name = $1 AND holder = $2");
        release.bind(name).bind(&*self.replica).execute(&mut tx).await?;
        Ok(tx.commit().await?)
    }

    /// Records the use of an identifier that is accepted once. Returns false if it was used before, in whichever
    /// process.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn use_once(&self, kind: &str, id: &str, expires: Timestamp) -> Result<bool> {
        let used = sql("INSERT INTO used_once (kind, id, expires) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING");
        Ok(used.bind(kind).bind(id).bind(expires.0).execute(&self.writer).await? > 0)
    }

    /// Deletes what has expired: identifiers that were used, processes that are gone, and counters of wrong passwords.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn sweep_leases(&self) -> Result<()> {
        sql("DELETE FROM used_once WHERE expires < $1").bind(self.now().0).execute(&self.writer).await?;
        sql("DELETE FROM leases WHERE until < $1").bind(self.gone_before().0).execute(&self.writer).await?;
        let left_behind = sql("DELETE FROM leases WHERE NOT EXISTS (
                 SELECT 1 FROM leases AS alive WHERE alive.name = 'replica:' || leases.holder)");
        left_behind.execute(&self.writer).await?;
        self.sweep_guesses().await
    }

    /// Returns the time, which on a shared store is that of the database.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Corrects the process's clock by its difference to the database's, except for the clocks of tests.
    pub(super) async fn follow_clock(&self) -> Result<()> {
        if !self.is_shared() || !self.clock.is_system() {
            return Ok(());
        }
        let (before, took) = (self.clock.now().0, Stopwatch::start());
        let there: i64 = sql(self.readers.time()).scalar(&self.readers).await?;
        // An answer that had to wait, for a connection for instance, says little.
        let took = milliseconds(took.elapsed());
        let ahead = there.saturating_sub(before.saturating_add(took / 2));
        if took <= CLOCK_STEP_MS / 2 && ahead.abs() >= CLOCK_STEP_MS {
            tracing::warn!(
                milliseconds = ahead,
                "the clock of the database differs from that of this process, which follows it from now on; check NTP on both"
            );
            self.clock.correct(ahead);
        }
        Ok(())
    }

    /// Renews the lease of this process within a transaction, and returns the time to note once that is committed.
    pub(super) async fn renew_lease(&self, tx: &mut Tx) -> Result<Timestamp> {
        let now = self.now();
        if self.is_shared() {
            let renew = sql("INSERT INTO leases (name, holder, until) VALUES ($1, $2, $3)
                 ON CONFLICT (name) DO UPDATE SET until = excluded.until");
            let until = now.plus(GONE_AFTER).0;
            renew.bind(format!("replica:{}", self.replica)).bind(&*self.replica).bind(until).execute(tx).await?;
        }
        Ok(now)
    }

    /// Returns the time before which the lease of another process must have ended for that process to count as gone.
    pub(super) fn gone_before(&self) -> Timestamp {
        self.own_lease.gone_before(self.now())
    }
}

/// Since when this process has renewed its lease without a gap, and when it last did.
#[derive(Debug, Default)]
pub(super) struct OwnLease(Mutex<Option<(Timestamp, Timestamp)>>);

impl OwnLease {
    /// Records a renewal at `now`, which is committed.
    pub(super) fn renewed(&self, now: Timestamp) {
        let mut span = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *span = match *span {
            Some((since, last)) if now.since(last) < GONE_AFTER => Some((since, now.max(last))),
            _ => Some((now, now)),
        };
    }

    fn gone_before(&self, now: Timestamp) -> Timestamp {
        match *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Some((since, last)) if now.since(since) >= GONE_AFTER && now.since(last) < GONE_AFTER => now,
            _ => Timestamp(i64::MIN),
        }
    }
}
