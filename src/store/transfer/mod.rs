//! Moves, keeps and checks the whole content of a store: copies between databases, backups, and a search for faults.
//!
//! A backup is an SQLite file whichever database it was made of, so restoring is copying from that file.

mod backup;
mod copy;
mod inspect;
mod tables;

pub use backup::{open_backup, write_backup};
pub use copy::{Copied, Note, are_the_same, connect_alone, copy};
pub use inspect::{Fault, Inspection, inspect};

/// Progress of a long operation: the table at work, and the rows that are done and that there are in all tables.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Progress {
    pub table: &'static str,
    pub done: u64,
    pub all: u64,
}

/// One of the two stores of a copy.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Side {
    Source,
    Target,
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Source => "the source",
            Self::Target => "the target",
        })
    }
}

/// A transfer that failed. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Store(#[from] super::Error),
    #[error("the target cannot be written: {0}")]
    Target(sqlx::Error),
    #[error("{side} is in use: {why}")]
    InUse { side: Side, why: String },
    /// The tables that have rows, with their numbers.
    #[error(
        "the target is not empty: {0}. Use a new database or file; `serve` and `user create` already write to an empty one"
    )]
    NotEmpty(String),
    #[error("{side} has schema {found}, and this release copies schema {known}; use the release that migrated it")]
    OtherSchema { side: Side, found: i64, known: i64 },
    #[error(
        "{place}, column {column}: the text contains NUL, which PostgreSQL cannot store. Cut the text off there, in the source: {remedy}"
    )]
    Nul { place: String, column: &'static str, remedy: String },
    #[error("{place} cannot be read: {cause}")]
    Unreadable { place: String, cause: String },
    /// A new store, which a wrong URL names.
    #[error("the source has no accounts, as a new store; check its URL. Nothing was written")]
    NoAccounts,
    #[error("{table}: {there} of {here} rows arrived")]
    Count { table: &'static str, here: u64, there: u64 },
    #[error("{0}")]
    BadBackup(String),
    #[error("`{0}` exists; choose another name, or replace it with --overwrite")]
    Exists(String),
    #[error("`{file}`: {cause}")]
    File { file: String, cause: std::io::Error },
}

/// A result of a transfer.
pub type Result<T> = std::result::Result<T, Error>;

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

#[cfg(test)]
mod tests;
