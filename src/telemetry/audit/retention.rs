//! Deletes old entries of the audit log, after they were exported if that is configured.
//!
//! One process does it, in small transactions with pauses. A page of entries is deleted when it is on the disk, so that a
//! crash can repeat entries in a later file but cannot lose any.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::export::{Export, Page};
use crate::clock::{Clock, Timestamp, milliseconds};
use crate::config;
use crate::store::{self, AuditDeletion, AuditPlace, Store};
use crate::telemetry::Metrics;

/// Keeps the audit log from growing without bound.
#[derive(Debug)]
pub struct Retention {
    store: Arc<Store>,
    keep: Duration,
    export: Option<PathBuf>,
    clock: Clock,
    metrics: Arc<Metrics>,
}

/// The cause why entries are not deleted.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error("audit.export_before_delete: {0}")]
    Export(std::io::Error),
}

impl Retention {
    /// Creates the task; `None` if all entries are kept.
    #[must_use]
    pub fn new(config: &config::Audit, store: Arc<Store>, clock: Clock, metrics: Arc<Metrics>) -> Option<Self> {
        let export = config.export_before_delete.clone();
        Some(Self { store, keep: config.retention?, export, clock, metrics })
    }

    /// Deletes what is old enough, for ever.
    pub async fn run_for_ever(self) {
        tokio::time::sleep(FIRST).await;
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            match self.pass().await {
                Ok(0) => {}
                Ok(deleted) => tracing::info!(deleted, "{deleted} old entries of the audit log were deleted"),
                Err(error) => {
                    self.metrics.audit_deletions_failed.inc();
                    tracing::warn!(%error, "old entries of the audit log are kept; trying again in an hour");
                }
            }
        }
    }

    /// Deletes the entries that are old enough now, unless another process does. Returns their number.
    async fn pass(&self) -> Result<u64, Error> {
        let now = self.clock.now();
        let keep = milliseconds(self.keep);
        let before = Timestamp(now.0.saturating_sub(keep));
        let mut export = None;
        let remark = if self.export.is_some() { format!(", exported to {}", Export::name(now)) } else { String::new() };
        let mut deletion = AuditDeletion::of(before, remark);
        // Asked for every page: another process takes over when this one was cut off.
        while self.store.hold("audit").await? {
            let page = self.store.audit_page(AuditPlace::before(Timestamp(i64::MIN)), before).await?;
            if page.is_empty() {
                break;
            }
            let ids: Vec<_> = page.iter().map(|(id, _)| *id).collect();
            if let Some(folder) = &self.export {
                export = Some(written(export, folder.clone(), now, page).await.map_err(Error::Export)?);
            }
            self.store.delete_audit(&ids, &mut deletion).await?;
            self.metrics.audit_entries_deleted.inc_by(ids.len() as u64);
            tokio::time::sleep(PAUSE).await;
        }
        Ok(deletion.deleted)
    }
}

/// Writes a page into the export, which is created for the first one.
async fn written(export: Option<Export>, folder: PathBuf, at: Timestamp, page: Page) -> std::io::Result<Export> {
    let write = move || {
        let mut export = export.map_or_else(|| Export::create(&folder, at), Ok)?;
        export.add(&page)?;
        Ok(export)
    };
    tokio::task::spawn_blocking(write).await.map_err(std::io::Error::other)?
}

/// Time from the start to the first deletion.
const FIRST: Duration = Duration::from_secs(5);
const EVERY: Duration = Duration::from_hours(1);
/// Pause between two transactions, in which requests write.
const PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests;
