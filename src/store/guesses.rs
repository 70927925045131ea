//! Counters of wrong passwords that the processes on a shared store have in common.
//!
//! What a counter means, and when it starts anew, is decided by `authn::login_throttle`; here is where it is kept.

use super::db::{Row, Tx, sql};
use super::{Result, Store};
use crate::clock::Timestamp;

/// Identifies a counter: a keyed hash, because callers type passwords where names belong.
pub type GuessKey = [u8; 32];

/// One counter. All of it is zero for a counter that was never written.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct GuessTally {
    /// Time at which the window began.
    pub since: Timestamp,
    pub failures: u32,
    /// Number of guesses that were reserved and are not settled.
    pub under_way: u32,
    /// Time from which the next guess is granted, where the limit only slows down.
    pub next: Timestamp,
    /// True if a guess ended or waited without a hash since the right password was last hashed.
    pub unproven: bool,
    /// Time until which the address counts as known to the account.
    pub known_until: Timestamp,
    /// Time after which the counter has no effect and can be deleted.
    pub expires: Timestamp,
}

/// Counters that are locked until this is committed or dropped. All callers must lock the counters of an address, of
/// an address and account, and of an account in this order, so that they cannot wait for each other in a cycle.
#[derive(Debug)]
pub struct GuessTallies(Tx);

impl Store {
    /// Starts to change counters.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn lock_guesses(&self) -> Result<GuessTallies> {
        Ok(GuessTallies(self.writer.begin().await?))
    }

    /// Returns a counter.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn guesses(&self, key: &GuessKey) -> Result<GuessTally> {
        let found = sql(format!("SELECT {COLUMNS} FROM guesses WHERE key = $1"));
        let found = found.bind(key.to_vec()).fetch_optional(&self.readers).await?;
        found.as_ref().map_or_else(|| Ok(GuessTally::default()), tally)
    }

    /// Records at counters of an address and account that a guess ended without a hash. Only where the address is known to
    /// the account does that matter, so nothing is written for others.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn mark_unproven(&self, keys: &[GuessKey]) -> Result<()> {
        if keys.is_empty() {
            return Ok(());
        }
        let places = (2..keys.len() + 2).map(|place| format!("${place}")).collect::<Vec<_>>().join(", ");
        let mark = sql(format!("UPDATE guesses SET unproven = TRUE WHERE known_until > $1 AND key IN ({places})"));
        let mark = keys.iter().fold(mark.bind(self.now().0), |mark, key| mark.bind(key.to_vec()));
        mark.execute(&self.writer).await?;
        Ok(())
    }

    pub(super) async fn sweep_guesses(&self) -> Result<()> {
        sql("DELETE FROM guesses WHERE expires < $1").bind(self.now().0).execute(&self.writer).await?;
        Ok(())
    }
}

impl GuessTallies {
    /// Locks a counter and returns it.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn lock(&mut self, key: &GuessKey) -> Result<GuessTally> {
        // The update changes nothing and locks the row.
        let lock = sql(format!(
            "INSERT INTO guesses (key, since, failures, under_way, next, unproven, known_until, expires)
             VALUES ($1, 0, 0, 0, 0, FALSE, 0, 0) ON CONFLICT (key) DO UPDATE SET expires = guesses.expires
             RETURNING {COLUMNS}"
        ));
        tally(&lock.bind(key.to_vec()).fetch_one(&mut self.0).await?)
    }

    /// Changes a counter that is locked.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn write(&mut self, key: &GuessKey, tally: &GuessTally) -> Result<()> {
        let write = sql("UPDATE guesses SET since = $1, failures = $2, under_way = $3, next = $4, unproven = $5,
                 known_until = $6, expires = $7
             WHERE key = $8");
        let write = write.bind(tally.since.0).bind(i64::from(tally.failures)).bind(i64::from(tally.under_way));
        let write = write.bind(tally.next.0).bind(tally.unproven).bind(tally.known_until.0).bind(tally.expires.0);
        write.bind(key.to_vec()).execute(&mut self.0).await?;
        Ok(())
    }

    /// Commits what was written.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn commit(self) -> Result<()> {
        Ok(self.0.commit().await?)
    }
}

const COLUMNS: &str = "since, failures, under_way, next, unproven, known_until, expires";

fn tally(row: &Row) -> Result<GuessTally> {
    let time = |column| Ok::<_, super::Error>(Timestamp(row.try_get(column)?));
    let count = |column| Ok::<_, super::Error>(row.try_get::<i64>(column)?.try_into().unwrap_or(u32::MAX));
    Ok(GuessTally {
        since: time("since")?,
        failures: count("failures")?,
        under_way: count("under_way")?,
        next: time("next")?,
        unproven: row.try_get("unproven")?,
        known_until: time("known_until")?,
        expires: time("expires")?,
    })
}
