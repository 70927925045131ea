//! A change to the store: its statements, its audit row, the new revision and what it affects are committed together or
//! not at all.
//!
//! A [`Change`] to rows is committed with an audit entry. [`Change::commit_unaudited`] is only for announcements, which
//! change no rows. Dropping a [`Change`], for example because the request was cancelled, rolls it back.

use super::audit::{self, Actor, AuditEntry};
use super::changes::{self, Followers, Scope, Scopes};
use super::db::{Tx, sql};
use super::{Error, Result, Store};
use crate::clock::Timestamp;

/// An open write transaction.
pub(super) struct Change {
    tx: Tx,
    /// Time of the change, for all of its rows.
    pub(super) at: Timestamp,
    revision: i64,
    scopes: Scopes,
    followers: Followers,
}

impl Store {
    /// Starts a change.
    pub(super) async fn change(&self) -> Result<Change> {
        let mut tx = self.writer.begin().await?;
        // The first statement locks this row, so that changes are serialised on any database.
        let raise = sql("UPDATE meta SET value = value + 1 WHERE name IN ('revision', 'writes') RETURNING name, value");
        let mut revision = None;
        for row in raise.fetch_all(&mut tx).await? {
            if row.try_get::<&str>("name")? == "revision" {
                revision = Some(row.try_get("value")?);
            }
        }
        let revision = revision.ok_or_else(|| Error::Corrupt("there is no revision".to_owned()))?;
        let (scopes, followers) = (Scopes::default(), self.followers.clone());
        Ok(Change { tx, at: self.now(), revision, scopes, followers })
    }
}

impl Change {
    /// Returns the transaction in which the statements of the change run.
    pub(super) const fn on(&mut self) -> &mut Tx {
        &mut self.tx
    }

    /// Records what the change affects. A change that never calls this affects everything.
    pub(super) fn affects(&mut self, scopes: impl IntoIterator<Item = Scope>) {
        self.scopes.add(scopes);
    }

    /// Commits the change together with its row in the audit log.
    pub(super) async fn commit(mut self, actor: &Actor, action: &str, target: String, detail: String) -> Result<()> {
        let entry =
            AuditEntry { at: self.at, actor: actor.clone(), action: action.to_owned(), target, detail, count: 1 };
        audit::write(self.on(), &entry).await?;
        self.commit_unaudited().await
    }

    /// Commits a change that changes nothing in the store but the revision.
    pub(super) async fn commit_unaudited(mut self) -> Result<()> {
        let scopes = std::mem::take(&mut self.scopes).into_list();
        let write = sql("INSERT INTO changes (revision, scopes) VALUES ($1, $2)");
        write.bind(self.revision).bind(changes::write(&scopes)).execute(&mut self.tx).await?;
        if self.revision % SWEEP_EVERY == 0 {
            let sweep = sql("DELETE FROM changes WHERE revision <= $1");
            sweep.bind(self.revision - changes::KEPT).execute(&mut self.tx).await?;
        }
        // Dropped in any case: an error or a request that went away does not mean that the commit did not happen.
        let _tell = Tell { followers: self.followers, scopes };
        Ok(self.tx.commit().await?)
    }
}

/// Interval, in changes, at which old scopes are deleted.
const SWEEP_EVERY: i64 = 256;

/// Tells the caches of this process when it is dropped.
struct Tell {
    followers: Followers,
    scopes: Vec<Scope>,
}

impl Drop for Tell {
    fn drop(&mut self) {
        self.followers.tell(&self.scopes);
    }
}
