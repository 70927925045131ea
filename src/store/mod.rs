//! What we remember: users, roles, access tokens, grants, intents of unfinished effects, audit.
//!
//! SQLite through sqlx; every statement is one text that PostgreSQL accepts too. Each change and its audit row are one
//! transaction, which also raises [`Store::revision`] so that caches, in this process or another, notice.

use sqlx::SqlitePool;

use crate::clock::Clock;

mod audit;
mod change;
mod effects;
mod grants;
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
mod users;

pub use audit::{Actor, AuditEntry, AuditId};
pub use effects::Intent;
pub use grants::GrantRow;
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
/// Every method may answer [`Error::Unavailable`] (locked, full, gone) or [`Error::Corrupt`]; its doc names the others.
#[derive(Clone, Debug)]
pub struct Store {
    writer: SqlitePool,
    readers: SqlitePool,
    clock: Clock,
}

impl Store {
    /// Whether the database answers and takes writes; what `/readyz` asks.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when it does not, within a few seconds.
    pub async fn check(&self) -> Result<()> {
        // A full disk shows only when something is really written.
        sqlx::query(
            "UPDATE meta SET value = CASE name WHEN 'checked' THEN $1 ELSE value + 1 END WHERE name IN ('checked', 'writes')",
        )
        .bind(self.clock.now().0)
            .execute(&self.writer)
            .await?;
        self.revision().await.map(drop)
    }

    /// A number that every change raises, in whichever process it happened.
    ///
    /// # Errors
    /// As every method.
    pub async fn revision(&self) -> Result<i64> {
        let revision = sqlx::query_scalar("SELECT value FROM meta WHERE name = 'revision'");
        Ok(revision.fetch_one(&self.readers).await?)
    }

    /// How large the database is.
    ///
    /// # Errors
    /// As every method.
    pub async fn size(&self) -> Result<Size> {
        let (bytes, audit_rows) = sqlx::query_as(
            "SELECT (SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()),
                    (SELECT COALESCE(MAX(id) - MIN(id) + 1, 0) FROM audit)",
        )
        .fetch_one(&self.readers)
        .await?;
        Ok(Size { bytes, audit_rows })
    }

    /// 32 random bytes made once per database, for sealing page tokens.
    ///
    /// # Errors
    /// As every method.
    pub async fn sealing_key(&self) -> Result<[u8; 32]> {
        self.key("page_tokens").await
    }

    /// The same, for the providers' tokens of sessions, where the configuration has no key for them.
    ///
    /// # Errors
    /// As every method.
    pub async fn session_key(&self) -> Result<[u8; 32]> {
        self.key("sessions").await
    }

    async fn key(&self, name: &str) -> Result<[u8; 32]> {
        let key: Vec<u8> = sqlx::query_scalar("SELECT value FROM sealing_keys WHERE name = $1")
            .bind(name)
            .fetch_one(&self.readers)
            .await?;
        key.try_into().map_err(|_| Error::Corrupt("the sealing key has not 32 bytes".to_owned()))
    }

    /// Ends all connections; what is under way is finished first.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// The size of the database.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Size {
    /// Of the file, without the write-ahead log.
    pub bytes: i64,
    /// Rows of the audit log, by its first and last number.
    pub audit_rows: i64,
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
    /// Somebody else is called this: an account with a password, or a person of another issuer or subject.
    #[error("somebody else is already called `{0}`")]
    NameTaken(String),
    /// The new name can be taken for an account's.
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
    #[error("the store holds a row that cannot be read: {0}")]
    Corrupt(String),
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
            other => Self::Unavailable(other),
        }
    }
}

#[cfg(test)]
mod tests;
