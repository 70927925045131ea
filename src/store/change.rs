//! One change: it is made, written down and announced together, or not at all.
//!
//! The only way to commit a [`Change`] is to say who did what, so no change can lack its audit row. Dropping one, also
//! because the request was cancelled, undoes it.

use sqlx::{Sqlite, SqliteConnection, Transaction};

use super::audit::{self, Actor, AuditEntry};
use super::{Result, Store};
use crate::clock::Timestamp;

/// A change under way.
pub(super) struct Change {
    tx: Transaction<'static, Sqlite>,
    /// When it happens.
    pub(super) at: Timestamp,
}

impl Store {
    /// Starts a change.
    pub(super) async fn change(&self) -> Result<Change> {
        // IMMEDIATE: a transaction that reads first and then wants to write would fail at once when another process wrote.
        let mut tx = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        // First, because it locks the row: on any database, changes happen one after the other.
        sqlx::query("UPDATE meta SET value = value + 1 WHERE name IN ('revision', 'writes')").execute(&mut *tx).await?;
        Ok(Change { tx, at: self.clock.now() })
    }
}

impl Change {
    /// Where its statements run.
    pub(super) fn on(&mut self) -> &mut SqliteConnection {
        &mut self.tx
    }

    /// Makes it last, together with its row in the audit log.
    pub(super) async fn commit(mut self, actor: &Actor, action: &str, target: String, detail: String) -> Result<()> {
        let entry =
            AuditEntry { at: self.at, actor: actor.clone(), action: action.to_owned(), target, detail, count: 1 };
        audit::write(self.on(), &entry).await?;
        Ok(self.tx.commit().await?)
    }
}
