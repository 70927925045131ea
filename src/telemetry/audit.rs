//! Denials on their way to the audit log: batched, bounded, never in the request's way.
//!
//! Changes are audited by the store itself, in the change's own transaction.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Metrics;
use crate::store::{self, AuditEntry, Store};

/// Where audit entries end.
pub trait Sink: Send + Sync + 'static {
    /// Writes a batch, whole or not at all.
    fn write(&self, entries: &[AuditEntry]) -> impl Future<Output = store::Result<()>> + Send;
}

impl Sink for Store {
    async fn write(&self, entries: &[AuditEntry]) -> store::Result<()> {
        self.audit(entries).await
    }
}

/// The way in. Cheap to copy.
#[derive(Clone, Debug)]
pub struct AuditQueue {
    entries: mpsc::Sender<AuditEntry>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
}

impl AuditQueue {
    /// Starts the task that writes, on `tracker`.
    pub fn start<S: Sink>(sink: Arc<S>, metrics: Arc<Metrics>, tracker: &TaskTracker) -> Self {
        let (entries, waiting) = mpsc::channel(MAX_WAITING);
        let stop = CancellationToken::new();
        tracker.spawn(write(sink, waiting, Arc::clone(&metrics), stop.clone()));
        Self { entries, metrics, stop }
    }

    /// Hands over an entry; when the queue is full it is counted instead.
    pub fn record(&self, entry: AuditEntry) {
        if let Err(mpsc::error::TrySendError::Full(entry) | mpsc::error::TrySendError::Closed(entry)) =
            self.entries.try_send(entry)
        {
            self.metrics.audit_entries_dropped.inc();
            tell(&entry); // the log may still have it
        }
    }

    /// Takes nothing more, writes what waits, ends the task: wait for the tracker after this.
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
    let mut batch = Vec::new();
    loop {
        tokio::select! {
            biased;
            count = waiting.recv_many(&mut batch, BATCH) => if count == 0 { return },
            () = stop.cancelled(), if !waiting.is_closed() => {
                waiting.close();
                continue;
            }
        }
        batch.iter().for_each(tell);
        if let Err(error) = sink.write(&batch).await {
            metrics.audit_entries_dropped.inc_by(batch.len() as u64);
            tracing::error!(%error, entries = batch.len(), "denials could not be written to the audit log");
        }
        batch.clear();
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

/// Entries that wait.
const MAX_WAITING: usize = 4096;
/// Entries per transaction.
const BATCH: usize = 64;

#[cfg(test)]
mod tests;
