//! The audit log: who did what to what. Rows are only ever added.

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::{Actor, AuditEntry, Change, Result, Store, next_id};
use crate::authz::TokenId;
use crate::clock::Timestamp;

impl Store {
    /// Adds entries that are not part of a change: denials.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`]; then none was added.
    pub async fn audit(&self, entries: &[AuditEntry]) -> Result<()> {
        let mut change = self.begin_change().await?;
        for entry in entries {
            insert(&mut change, entry).await?;
        }
        change.commit().await?;
        Ok(())
    }

    /// The newest `limit` entries, newest first.
    ///
    /// # Errors
    /// [`super::Error::Unavailable`]
    pub async fn audit_log(&self, limit: u32) -> Result<Vec<AuditEntry>> {
        let newest = "SELECT at, actor, token_id, address, action, target, detail FROM audit ORDER BY id DESC LIMIT $1";
        let rows = sqlx::query(newest).bind(i64::from(limit)).fetch_all(&self.read).await?;
        rows.iter().map(entry).collect()
    }

    /// An entry of now.
    pub(super) fn entry(&self, actor: &Actor, action: &str, target: String, detail: impl Into<String>) -> AuditEntry {
        AuditEntry {
            at: self.clock.now(),
            actor: actor.clone(),
            action: action.to_owned(),
            target,
            detail: detail.into(),
        }
    }
}

pub(super) async fn insert(change: &mut Change, entry: &AuditEntry) -> Result<()> {
    let id = next_id(change).await?;
    let insert = "INSERT INTO audit (id, at, actor, token_id, address, action, target, detail) \
                  VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
    sqlx::query(insert)
        .bind(id)
        .bind(entry.at.0)
        .bind(&entry.actor.name)
        .bind(entry.actor.token.map(|token| token.0))
        .bind(entry.actor.address.map(|address| address.to_string()))
        .bind(&entry.action)
        .bind(&entry.target)
        .bind(&entry.detail)
        .execute(&mut **change)
        .await?;
    Ok(())
}

fn entry(row: &SqliteRow) -> Result<AuditEntry> {
    let address: Option<String> = row.try_get("address")?;
    Ok(AuditEntry {
        at: Timestamp(row.try_get("at")?),
        actor: Actor {
            name: row.try_get("actor")?,
            token: row.try_get::<Option<i64>, _>("token_id")?.map(TokenId),
            address: address.and_then(|address| address.parse().ok()),
        },
        action: row.try_get("action")?,
        target: row.try_get("target")?,
        detail: row.try_get("detail")?,
    })
}
