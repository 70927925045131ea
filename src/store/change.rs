//! A change to the store: its statements, its audit row and the new revision are committed together or not at all.
//!
//! A [`Change`] can only be committed together with an audit entry, so no change can lack one. Dropping a [`Change`],
//! for example because the request was cancelled, rolls it back.

use super::audit::{self, Actor, AuditEntry};
use super::db::{Tx, sql};
use super::{Result, Store};
use crate::clock::Timestamp;

/// An open write transaction.
pub(super) struct Change {
    tx: Tx,
    /// Time of the change, for all of its rows.
    pub(super) at: Timestamp,
}

impl Store {
    /// Starts a change.
    pub(super) async fn change(&self) -> Result<Change> {
        let mut tx = self.writer.begin().await?;
        // The first statement locks this row, so that changes are serialised on any database.
        sql("UPDATE meta SET value = value + 1 WHERE name IN ('revision', 'writes')").execute(&mut tx).await?;
        Ok(Change { tx, at: self.clock.now() })
    }
}

impl Change {
    /// Returns the transaction in which the statements of the change run.
    pub(super) const fn on(&mut self) -> &mut Tx {
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
