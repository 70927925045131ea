//! The audit log: actor, action, target and address of every change and every refused request.
//!
//! [`super::change`] writes the rows of changes. Events that change nothing, such as refused requests, are written by
//! [`Store::audit`].

use std::net::IpAddr;

use super::db::{Tx, sql};
use super::{AuditFilter, Result, Store};
use crate::authz::TokenId;
use crate::clock::Timestamp;

/// Principal that an audit entry is attributed to.
#[derive(Clone, Debug)]
pub struct Actor {
    /// User name, or `command-line`, `bootstrap`, `proxy`.
    pub name: String,
    pub token: Option<TokenId>,
    pub address: Option<IpAddr>,
}

impl Actor {
    /// Audit actor for changes that the proxy makes on its own.
    #[must_use]
    pub fn proxy() -> Self {
        Self { name: "proxy".to_owned(), token: None, address: None }
    }
}

/// One row of the audit log.
#[derive(Clone, Debug)]
pub struct AuditEntry {
    pub at: Timestamp,
    pub actor: Actor,
    /// A bounded word, e.g. `user.create`, `grant.set`, `request.denied`.
    pub action: String,
    /// Object of the action, e.g. `user:alice`, `experiment:12`.
    pub target: String,
    /// Details in plain text, without secrets.
    pub detail: String,
    /// Number of occurrences within one minute, including the first.
    pub count: i64,
}

/// Identifies a row of the audit log.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct AuditId(pub i64);

impl Store {
    /// Writes entries for events that changed nothing in the store, and new counts for earlier rows, in one
    /// transaction. Does not raise the revision. Returns the IDs of the new rows, in the order of `entries`.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn audit(&self, entries: &[AuditEntry], counts: &[(AuditId, i64)]) -> Result<Vec<AuditId>> {
        let mut tx = self.writer.begin().await?;
        let mut rows = Vec::with_capacity(entries.len());
        for entry in entries {
            rows.push(write(&mut tx, entry).await?);
        }
        for (row, count) in counts {
            let update = sql("UPDATE audit SET count = $1 WHERE id = $2");
            update.bind(*count).bind(row.0).execute(&mut tx).await?;
        }
        tx.commit().await?;
        Ok(rows)
    }

    /// Returns the newest `limit` entries, newest first.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn audit_log(&self, limit: u32) -> Result<Vec<AuditEntry>> {
        self.audit_search(&AuditFilter::default(), limit).await
    }
}

/// Writes one entry within an open transaction.
pub(super) async fn write(on: &mut Tx, entry: &AuditEntry) -> Result<AuditId> {
    let row = sql("INSERT INTO audit (at, actor, token, address, action, target, detail, count)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING id")
    .bind(entry.at.0)
    .bind(storable(&entry.actor.name))
    .bind(entry.actor.token.map(|token| token.0))
    .bind(entry.actor.address.map(|address| address.to_string()))
    .bind(storable(&entry.action))
    .bind(storable(&entry.target))
    .bind(storable(&entry.detail))
    .bind(entry.count)
    .scalar(on)
    .await?;
    Ok(AuditId(row))
}

/// Replaces NUL, which the store cannot hold. Targets of refused requests contain text of the client.
fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}
