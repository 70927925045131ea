//! Reads the audit log from its oldest end, and deletes entries there.

use super::audit::{self, Actor, AuditEntry, AuditId};
use super::db::sql;
use super::{Result, Store, rows};
use crate::clock::Timestamp;

/// A place in the order of time, between two entries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct AuditPlace(Timestamp, AuditId);

impl AuditPlace {
    /// The place before the first entry of this time.
    #[must_use]
    pub const fn before(at: Timestamp) -> Self {
        Self(at, AuditId(i64::MIN))
    }

    /// The place after an entry.
    #[must_use]
    pub const fn after(id: AuditId, entry: &AuditEntry) -> Self {
        Self(entry.at, id)
    }
}

/// A deletion of old entries in several transactions, which has one entry of its own.
#[derive(Clone, Debug)]
pub struct AuditDeletion {
    /// Entries before this time are deleted.
    pub before: Timestamp,
    pub deleted: u64,
    /// Text for the entry about the deletion, such as the place of an export.
    pub remark: String,
    entry: Option<AuditId>,
}

impl AuditDeletion {
    /// Begins a deletion of the entries before this time.
    #[must_use]
    pub const fn of(before: Timestamp, remark: String) -> Self {
        Self { before, deleted: 0, remark, entry: None }
    }
}

impl Store {
    /// Returns the next entries after a place and before a time, oldest first; none at the end.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn audit_page(&self, after: AuditPlace, until: Timestamp) -> Result<Vec<(AuditId, AuditEntry)>> {
        let page = sql(format!(
            "SELECT id, at, actor, token, address, action, target, detail, count FROM audit
             WHERE (at, id) > ($1, $2) AND at < $3 ORDER BY at, id LIMIT {PAGE}"
        ));
        let page = page.bind(after.0.0).bind(after.1.0).bind(until.0).fetch_all(&self.readers).await?;
        page.iter().map(|row| Ok((AuditId(row.try_get("id")?), rows::audit_entry(row)?))).collect()
    }

    /// Deletes entries, and records in the same transaction how many the deletion has deleted. Does not raise the
    /// revision.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn delete_audit(&self, ids: &[AuditId], deletion: &mut AuditDeletion) -> Result<()> {
        let mut tx = self.writer.begin().await?;
        let mut deleted = deletion.deleted;
        for ids in ids.chunks(PAGE) {
            let places = (1..=ids.len()).map(|place| format!("${place}")).collect::<Vec<_>>().join(", ");
            let delete = sql(format!("DELETE FROM audit WHERE id IN ({places})"));
            deleted += ids.iter().fold(delete, |delete, id| delete.bind(id.0)).execute(&mut tx).await?;
        }
        let detail = format!("{deleted} entries from before {}{}", deletion.before.rfc3339(), deletion.remark);
        let id = match deletion.entry {
            None => {
                let (action, target) = ("audit.delete".to_owned(), "audit".to_owned());
                let entry = AuditEntry { at: self.now(), actor: Actor::proxy(), action, target, detail, count: 1 };
                audit::write(&mut tx, &entry).await?
            }
            Some(id) => {
                let update = sql("UPDATE audit SET detail = $1 WHERE id = $2");
                update.bind(detail).bind(id.0).execute(&mut tx).await?;
                id
            }
        };
        tx.commit().await?;
        (deletion.deleted, deletion.entry) = (deleted, Some(id));
        Ok(())
    }
}

/// Number of entries that are read or deleted at once.
const PAGE: usize = 1000;
