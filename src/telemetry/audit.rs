//! Queue of denials for the audit log: batched, bounded, and without delay for requests.
//!
//! Changes are audited by the store itself, in the transaction of the change. Repetitions of a denial within one
//! minute share a row with a count, so that a client that is refused in a loop cannot fill the disk.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub mod export;
mod fold;
mod retention;

use self::fold::Fold;
pub use self::retention::Retention;
use super::Metrics;
use crate::store::{self, AuditEntry, AuditId, Store};

/// Destination of audit entries.
pub trait Sink: Send + Sync + 'static {
    /// Writes a batch, and new counts for rows of earlier batches, in one transaction. Returns the row IDs of the
    /// batch.
    fn write(
        &self,
        entries: &[AuditEntry],
        counts: &[(AuditId, i64)],
    ) -> impl Future<Output = store::Result<Vec<AuditId>>> + Send;
}

impl Sink for Store {
    async fn write(&self, entries: &[AuditEntry], counts: &[(AuditId, i64)]) -> store::Result<Vec<AuditId>> {
        self.audit(entries, counts).await
    }
}

/// Sender of audit entries. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AuditQueue {
    entries: mpsc::Sender<AuditEntry>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
}

impl AuditQueue {
    /// Starts the writing task on `tracker`.
    pub fn start<S: Sink>(sink: Arc<S>, metrics: Arc<Metrics>, tracker: &TaskTracker) -> Self {
        let (entries, waiting) = mpsc::channel(MAX_WAITING);
        let stop = CancellationToken::new();
        tracker.spawn(write(sink, waiting, Arc::clone(&metrics), stop.clone()));
        Self { entries, metrics, stop }
    }

    /// Queues an entry. When the queue is full, the entry is only counted and logged.
    pub fn record(&self, entry: AuditEntry) {
        if let Err(mpsc::error::TrySendError::Full(entry) | mpsc::error::TrySendError::Closed(entry)) =
            self.entries.try_send(entry)
        {
            self.metrics.audit_entries_dropped.inc();
            tell(&entry); // the entry is not lost for the log
        }
    }

    /// Stops accepting entries. The task writes the waiting ones and ends; wait for the tracker afterwards.
    pub fn close(&self) {
        self.stop.cancel();
    }
}

async fn write<S: Sink>(
    sink: Arc<S>,
    mut waiting: mpsc::Receiver<AuditEntry>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let (mut batch, mut fold) = (Vec::new(), Fold::default());
    let mut ticks = tokio::time::interval(WRITE_COUNTS);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut is_over = false;
    while !is_over {
        let mut counts = Vec::new();
        tokio::select! {
            // The tick is first, so that a steady stream of entries cannot delay the counts.
            biased;
            _ = ticks.tick() => counts = fold.counts(),
            count = waiting.recv_many(&mut batch, BATCH) => is_over = count == 0,
            () = stop.cancelled(), if !waiting.is_closed() => {
                // From now on, `recv_many` returns the remaining entries and then 0.
                waiting.close();
                continue;
            }
        }
        let new: Vec<AuditEntry> = batch.drain(..).filter_map(|entry| fold.add(entry)).collect();
        if is_over {
            counts = fold.counts();
        }
        if new.is_empty() && counts.is_empty() {
            continue;
        }
        new.iter().for_each(tell);
        match sink.write(&new, &counts).await {
            Ok(rows) => fold.written(&rows),
            Err(error) => {
                fold.written(&[]);
                metrics.audit_entries_dropped.inc_by(new.len() as u64);
                tracing::error!(%error, entries = new.len(), "denials could not be written to the audit log");
            }
        }
    }
}

fn tell(entry: &AuditEntry) {
    tracing::info!(
        target: "audit",
        actor = %entry.actor.name,
        address = entry.actor.address.map(tracing::field::display),
        action = %entry.action,
        on = %entry.target,
        detail = %entry.detail,
        "{}", entry.action,
    );
}

/// Maximum number of waiting entries.
const MAX_WAITING: usize = 4096;
/// Entries per transaction.
const BATCH: usize = 64;
/// Interval at which the counts of repeated denials are written.
const WRITE_COUNTS: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
