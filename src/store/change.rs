//! A change to the store: its statements, its audit row and the new revision are committed together or not at all.
//!
//! A [`Change`] can only be committed together with an audit entry, so no change can lack one. Dropping a [`Change`],
//! for example because the request was cancelled, rolls it back.

use sqlx::{Sqlite, SqliteConnection, Transaction};

use super::audit::{self, Actor, AuditEntry};
use super::{Result, Store};
use crate::clock::Timestamp;

/// An open write transaction.
pub(super) struct Change {
    tx: Transaction<'static, Sqlite>,
    /// Time of the change, for all of its rows.
    pub(super) at: Timestamp,
}

impl Store {
    /// Starts a change.
    pub(super) async fn change(&self) -> Result<Change> {
        // IMMEDIATE takes the write lock at once. A transaction that reads first and writes later fails with
        // SQLITE_BUSY, without waiting for the busy timeout, when another process has written in between.
        let mut tx = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        // The first statement locks this row, so that changes are serialised on any database.
        sqlx::query("UPDATE meta SET value = value + 1 WHERE name IN ('revision', 'writes')").execute(&mut *tx).await?;
        Ok(Change { tx, at: self.clock.now() })
    }
}

impl Change {
    /// Returns the connection on which the statements of the change run.
    pub(super) fn on(&mut self) -> &mut SqliteConnection {
        &mut self.tx
    }

    /// Commits the change together with its row in the audit log.
    pub(super) async fn commit(mut self, actor: &Actor, action: &str, target: String, detail: String) -> Result<()> {
        let entry =
            AuditEntry { at: self.at, actor: actor.clone(), action: action.to_owned(), target, detail, count: 1 };
        audit::write(self.on(), &entry).await?;
        Ok(self.tx.commit().await?)
    }
}
