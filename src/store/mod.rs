//! What we remember: users, access tokens, grants, intents of unfinished effects, audit.
//!
//! SQLite through sqlx; every statement is one text that PostgreSQL accepts too. Each change and its audit row are one
//! transaction, which also raises [`Store::revision`] so that caches, in this process or another, notice.

use std::str::FromStr as _;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx::Row as _;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};

use crate::authz::{Limits, ResourceKind, TokenId, UserId};
use crate::clock::{Clock, Timestamp};
use crate::crypto::{PasswordHash, TokenHash};

mod audit;
mod effects;
mod grants;
mod tokens;
mod users;

#[cfg(test)]
mod tests;

/// Somebody with an account.
#[derive(Clone, Debug)]
pub struct User {
    pub id: UserId,
    pub name: String,
    pub admin: bool,
    /// `None`: this account has no password and signs in another way.
    pub password: Option<PasswordHash>,
    pub created: Timestamp,
}

/// An access token as the store knows it: everything but the secret.
#[derive(Clone, Debug)]
pub struct Token {
    pub id: TokenId,
    pub user: UserId,
    pub name: String,
    pub limits: Limits,
    pub created: Timestamp,
    pub expires: Timestamp,
    pub last_used: Option<Timestamp>,
    pub revoked: Option<Timestamp>,
}

/// What is needed to remember a new token.
#[derive(Debug)]
pub struct NewToken<'a> {
    pub user: UserId,
    pub name: &'a str,
    pub hash: TokenHash,
    pub limits: &'a Limits,
    pub expires: Timestamp,
}

/// Who changes something, for the audit.
#[derive(Clone, Debug)]
pub struct Actor {
    /// User name, or `command-line`, `bootstrap`, `proxy`.
    pub name: String,
    pub token: Option<TokenId>,
    pub address: Option<std::net::IpAddr>,
}

/// One row of the audit log.
#[derive(Clone, Debug)]
pub struct AuditEntry {
    pub at: Timestamp,
    pub actor: Actor,
    /// A bounded word, e.g. `user.create`, `grant.set`, `request.denied`.
    pub action: String,
    /// What it was done to, e.g. `user:alice`, `experiment:12`.
    pub target: String,
    /// A sentence without secrets.
    pub detail: String,
}

/// What we are about to do in MLflow that must be followed by a change here.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// The creator will get MANAGE on the thing of this kind that is being created under `name`.
    Create { kind: ResourceKind, name: String, user: UserId },
    /// Grants on it will be dropped.
    Drop { kind: ResourceKind, key: String },
    /// Grants on it will move.
    Rename { kind: ResourceKind, from: String, to: String },
}

/// A remembered [`Effect`] that is not finished.
#[derive(Clone, Debug)]
pub struct Intent {
    pub id: i64,
    pub effect: Effect,
    pub created: Timestamp,
}

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("`{0}` already exists")]
    Exists(String),
    #[error("`{0}` was not found")]
    NotFound(String),
    #[error("`{0}` is the last administrator")]
    LastAdmin(String),
    #[error("the store cannot be opened: {0}")]
    Open(String),
    #[error("the store does not answer: {0}")]
    Unavailable(#[source] sqlx::Error),
    #[error("the store holds a row that cannot be read: {0}")]
    Corrupt(String),
}

/// A result of the store.
pub type Result<T> = std::result::Result<T, Error>;

/// The database, behind two pools: one writer, several readers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    clock: Clock,
    read: SqlitePool,
    write: SqlitePool,
}

/// A statement waits this long for another process's lock before the answer is "unavailable".
const BUSY: Duration = Duration::from_secs(2);
/// Waiting for a pooled connection; a store that is this slow is not available.
const ACQUIRE: Duration = Duration::from_secs(3);
const READERS: u32 = 8;

impl Store {
    /// Opens `sqlite://path` (made when absent, readable by its owner only) or `sqlite::memory:`, and brings its tables
    /// up to date.
    ///
    /// # Errors
    /// Not a URL of a store we know, or the file cannot be opened, or a newer version wrote it.
    pub async fn open(url: &str, clock: Clock) -> Result<Self> {
        let failed = |error: &dyn std::fmt::Display| Error::Open(error.to_string());
        let options = SqliteConnectOptions::from_str(url).map_err(|error| failed(&error))?;
        let memory = url.contains(":memory:");
        let options = options.create_if_missing(true).busy_timeout(BUSY).foreign_keys(true);
        let options = if memory {
            options
        } else {
            private_file(options.get_filename()).map_err(|error| failed(&error))?;
            options.journal_mode(SqliteJournalMode::Wal).synchronous(SqliteSynchronous::Full)
        };
        let pool =
            |size: u32| SqlitePoolOptions::new().max_connections(size).min_connections(1).acquire_timeout(ACQUIRE);
        // A memory database lives and dies with its one connection.
        let forever = |pool: SqlitePoolOptions| if memory { pool.idle_timeout(None).max_lifetime(None) } else { pool };
        let write = forever(pool(1)).connect_with(options.clone()).await.map_err(|error| failed(&error))?;
        migrations().run(&write).await.map_err(|error| failed(&error))?;
        let read = if memory {
            write.clone()
        } else {
            pool(READERS).connect_with(options.read_only(true)).await.map_err(|error| failed(&error))?
        };
        Ok(Self { clock, read, write })
    }

    /// Waits for what is under way and closes the database.
    pub async fn close(&self) {
        self.read.close().await;
        self.write.close().await;
    }

    /// Whether the database answers and takes writes; what `/readyz` asks.
    ///
    /// # Errors
    /// [`Error::Unavailable`]
    pub async fn check(&self) -> Result<()> {
        let mut change = self.begin_change().await?;
        sqlx::query("UPDATE settings SET text = '' WHERE name = 'revision'").execute(&mut *change).await?;
        change.rollback().await?;
        Ok(())
    }

    /// A number that every change raises, in whichever process it happened.
    ///
    /// # Errors
    /// [`Error::Unavailable`]
    pub async fn revision(&self) -> Result<i64> {
        let row = sqlx::query("SELECT number FROM settings WHERE name = 'revision'").fetch_one(&self.read).await?;
        Ok(row.try_get("number")?)
    }

    /// 32 random bytes made once per database, for sealing page tokens.
    ///
    /// # Errors
    /// [`Error::Unavailable`]
    pub async fn sealing_key(&self) -> Result<[u8; 32]> {
        let made: [u8; 32] = crate::crypto::random();
        let hex: String = made.iter().map(|byte| format!("{byte:02x}")).collect();
        let insert =
            "INSERT INTO settings (name, number, text) VALUES ('sealing_key', 0, $1) ON CONFLICT (name) DO NOTHING";
        sqlx::query(insert).bind(hex).execute(&self.write).await?;
        let row = sqlx::query("SELECT text FROM settings WHERE name = 'sealing_key'").fetch_one(&self.write).await?;
        let hex: String = row.try_get("text")?;
        let corrupt = || Error::Corrupt("the sealing key".to_owned());
        let mut key = [0; 32];
        for (index, byte) in key.iter_mut().enumerate() {
            let digits = hex.get(2 * index..2 * index + 2).ok_or_else(corrupt)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| corrupt())?;
        }
        Ok(key)
    }

    /// Takes the write lock at once, so that a change never fails half-way for want of it.
    async fn begin_change(&self) -> Result<Change> {
        Ok(self.write.begin_with("BEGIN IMMEDIATE").await?)
    }
}

type Change = sqlx::Transaction<'static, sqlx::Sqlite>;

/// A number that no row of any table has.
async fn next_id(change: &mut Change) -> Result<i64> {
    let next = "UPDATE settings SET number = number + 1 WHERE name = 'next_id' RETURNING number";
    let row = sqlx::query(next).fetch_one(&mut **change).await?;
    Ok(row.try_get("number")?)
}

/// Ends a change: its audit row, the raised revision, and the change itself are one transaction.
async fn finish(mut change: Change, entry: AuditEntry) -> Result<()> {
    audit::insert(&mut change, &entry).await?;
    sqlx::query("UPDATE settings SET number = number + 1 WHERE name = 'revision'").execute(&mut *change).await?;
    change.commit().await?;
    Ok(())
}

/// The database holds hashes of secrets: nobody but its owner may read it.
fn private_file(path: &std::path::Path) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path).map(drop)
}

fn migrations() -> Migrator {
    let initial = Migration::new(
        1,
        "initial".into(),
        MigrationType::Simple,
        sqlx::SqlStr::from_static(include_str!("../../migrations/sqlite/0001_initial.sql")),
        false,
    );
    Migrator::with_migrations(vec![initial])
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::ColumnDecode { index, .. } => Self::Corrupt(format!("column {index}")),
            other => Self::Unavailable(other),
        }
    }
}

/// A unique index was hit: that is the caller's doing, not the database's.
fn exists(error: sqlx::Error, what: impl FnOnce() -> String) -> Error {
    let unique = error.as_database_error().is_some_and(sqlx::error::DatabaseError::is_unique_violation);
    if unique { Error::Exists(what()) } else { error.into() }
}
