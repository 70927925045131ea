//! The database: users, roles, access tokens, grants, sessions, intents of unfinished mutations, and the audit log.
//!
//! On SQLite or PostgreSQL, with one text of SQL; see [`db`]. Each change and its audit row are one transaction, which
//! also raises [`Store::revision`] so that caches, in this process or another, are refreshed.

use std::sync::Arc;

use crate::clock::Clock;

use db::{Pool, sql};

mod audit;
mod audit_retention;
mod audit_search;
mod change;
mod changes;
mod db;
mod effects;
mod grants;
mod guesses;
mod leases;
mod leftover;
mod open;
mod people;
mod reissued;
mod reserved;
mod roles;
mod rows;
mod sessions;
mod standing;
mod tokens;
pub mod transfer;
mod users;

pub use audit::{Actor, AuditEntry, AuditId};
pub use audit_retention::{AuditDeletion, AuditPlace};
pub use audit_search::{AuditFilter, AuditOutcome};
pub use changes::{Changes, Follower, Scope};
pub use effects::{Holder, Intent};
pub use grants::GrantRow;
pub use guesses::{GuessKey, GuessTallies, GuessTally};
pub use people::{Occasion, Person, Seen};
pub use reissued::Undated;
pub use reserved::ReservedName;
pub use roles::{Assignment, Role};
pub use sessions::{Lease, NewSession, Session, Whose};
pub use standing::Standing;
pub use tokens::{NewToken, Token};
pub use users::{AccessTokens, User};

/// The database, behind two pools: one writer, several readers.
///
/// Every method can return [`Error::Unavailable`] (locked, full or missing database) or [`Error::Corrupt`]. The `#
/// Errors` section of a method lists only further ones.
#[derive(Clone, Debug)]
pub struct Store {
    writer: Pool,
    readers: Pool,
    clock: Clock,
    followers: changes::Followers,
    /// Identifies this process among those on the same store.
    replica: Arc<str>,
    own_lease: Arc<leases::OwnLease>,
}

impl Store {
    /// Checks for `/readyz` that the database can be read and written.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when a read or write fails or does not finish within a few seconds.
    pub async fn check(&self) -> Result<()> {
        // Only a real write detects a full disk.
        sql(
            "UPDATE meta SET value = CASE name WHEN 'checked' THEN $1 ELSE value + 1 END WHERE name IN ('checked', 'writes')",
        )
        .bind(self.now().0)
            .execute(&self.writer)
            .await?;
        self.revision().await.map(drop)
    }

    /// Returns the revision, which every change raises in whichever process it happens.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn revision(&self) -> Result<i64> {
        let revision = sql("SELECT value FROM meta WHERE name = 'revision'");
        Ok(revision.scalar(&self.readers).await?)
    }

    /// Returns the size of the database.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn size(&self) -> Result<Size> {
        let bytes = sql(self.readers.size()).scalar(&self.readers).await?;
        let audit_rows = sql("SELECT COALESCE(MAX(id) - MIN(id) + 1, 0) FROM audit");
        let audit_rows = audit_rows.scalar(&self.readers).await?;
        let overdue = sql("SELECT COUNT(*) FROM intents WHERE created < $1").bind(self.now().0 - OVERDUE_AFTER_MS);
        Ok(Size { bytes, audit_rows, overdue_intents: overdue.scalar(&self.readers).await? })
    }

    /// Returns the key that seals page tokens: 32 random bytes, created once per database.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn sealing_key(&self) -> Result<[u8; 32]> {
        self.key("page_tokens").await
    }

    /// Returns the key that seals the providers' tokens in sessions, for a configuration without a key of its own.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn session_key(&self) -> Result<[u8; 32]> {
        self.key("sessions").await
    }

    async fn key(&self, name: &str) -> Result<[u8; 32]> {
        let key = sql("SELECT value FROM sealing_keys WHERE name = $1").bind(name);
        rows::key_of(key.scalar(&self.readers).await?)
    }

    /// Records the last uses, as pairs of ID and time, in rows for which `later` holds.
    async fn touch(&self, table: &'static str, later: &'static str, used: &[(i64, i64)]) -> Result<()> {
        for used in used.chunks(TOUCHED_AT_ONCE) {
            let places = (0..used.len()).map(|pair| format!("(${}, ${})", pair * 2 + 1, pair * 2 + 2));
            let places = places.collect::<Vec<_>>().join(", ");
            // Both databases name the columns of VALUES `column1` and `column2`.
            let touch = sql(format!(
                "UPDATE {table} SET last_used = used.column2 FROM (VALUES {places}) AS used
                 WHERE {table}.id = used.column1 AND ({later})"
            ));
            let touch = used.iter().fold(touch, |touch, (id, at)| touch.bind(*id).bind(*at));
            touch.execute(&self.writer).await?;
        }
        Ok(())
    }

    /// Closes all connections after the statements in progress are finished.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// Number of last uses that one statement records.
const TOUCHED_AT_ONCE: usize = 200;

/// Size of the database, and of tables that grow when something is wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Size {
    /// Size of the main file, without the write-ahead log.
    pub bytes: i64,
    /// Number of rows in the audit log, computed from its first and last ID.
    pub audit_rows: i64,
    /// Number of recorded effects, of all processes, that should be finished by now.
    pub overdue_intents: i64,
}

/// Age of an effect after which it is overdue. Interrupted ones are settled within half a minute while MLflow and the store
/// answer.
const OVERDUE_AFTER_MS: i64 = 300_000;

/// An operation of the store that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("`{0}` already exists")]
    Exists(String),
    #[error("`{0}` was not found")]
    NotFound(String),
    #[error("`{0}` is the last administrator")]
    LastAdmin(String),
    /// The name belongs to another user: an account with a password, or a user of another issuer or subject.
    #[error("somebody else is already called `{0}`")]
    NameTaken(String),
    /// The new name can be mistaken for the name of another account.
    #[error("`{name}` looks like the user name `{other}`")]
    LooksLike { name: String, other: String },
    /// The name belonged to an account that was deleted or renamed.
    #[error(
        "the name `{0}` is reserved for the account that had it; an administrator can release it: mlflow-auth-proxy user release"
    )]
    Reserved(String),
    #[error("the store cannot be opened: {0}")]
    Open(String),
    #[error("the store does not answer: {0}")]
    Unavailable(#[source] sqlx::Error),
    #[error("the text contains NUL, which the store cannot hold")]
    Nul,
    /// Databases cannot index longer ones.
    #[error("a name or pattern of {0} bytes is too long for permissions; {MAX_KEY} are allowed")]
    TooLong(usize),
    /// Another process took the change over, because this one was cut off, and has completed or dropped it.
    #[error("another process completed or dropped the change")]
    TakenOver,
    #[error("the store holds a row that cannot be read: {0}")]
    Corrupt(String),
}

/// Maximum size in bytes of the key or pattern in a grant.
pub(super) const MAX_KEY: usize = 1024;

/// Refuses a key or pattern that cannot be in a grant.
fn check_key(key: &str) -> Result<()> {
    if key.len() > MAX_KEY { Err(Error::TooLong(key.len())) } else { Ok(()) }
}

impl Error {
    /// The error of a caller that waited for another one, which the store did not answer.
    pub(crate) const fn no_answer() -> Self {
        Self::Unavailable(sqlx::Error::PoolTimedOut)
    }

    #[expect(clippy::needless_pass_by_value, reason = "the argument of `map_err`")]
    fn open(error: sqlx::Error) -> Self {
        Self::Open(error.to_string())
    }
}

/// A result of the store.
pub type Result<T> = std::result::Result<T, Error>;

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::ColumnIndexOutOfBounds { .. }
            | sqlx::Error::ColumnNotFound(_)
            | sqlx::Error::Decode(_)
            | sqlx::Error::RowNotFound
            | sqlx::Error::TypeNotFound { .. } => Self::Corrupt(error.to_string()),
            sqlx::Error::Encode(_) => Self::Nul,
            other => Self::Unavailable(other),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
