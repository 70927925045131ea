use std::sync::Mutex;

use super::*;
use crate::clock::Timestamp;
use crate::store::Actor;

/// Remembers batches; optionally refuses them.
#[derive(Default)]
struct Notebook {
    batches: Mutex<Vec<Vec<String>>>,
    broken: bool,
}

impl Sink for Notebook {
    async fn write(&self, entries: &[AuditEntry]) -> store::Result<()> {
        tokio::task::yield_now().await;
        if self.broken {
            return Err(store::Error::NotFound("disk".to_owned()));
        }
        self.batches.lock().unwrap().push(entries.iter().map(|entry| entry.target.clone()).collect());
        Ok(())
    }
}

fn entry(target: usize) -> AuditEntry {
    let actor = Actor { name: "alice".to_owned(), token: None, address: None };
    let (action, target) = ("request.denied".to_owned(), format!("experiment:{target}"));
    AuditEntry { at: Timestamp(0), actor, action, target, detail: String::new() }
}

async fn record(notebook: Arc<Notebook>, count: usize) -> Arc<Metrics> {
    let (metrics, tracker) = (Arc::new(Metrics::new([]).unwrap()), TaskTracker::new());
    let queue = AuditQueue::start(notebook, Arc::clone(&metrics), &tracker);
    for target in 0..count {
        queue.record(entry(target));
    }
    queue.close();
    tracker.close();
    tracker.wait().await;
    queue.record(entry(0));
    metrics
}

#[tokio::test]
async fn entries_are_batched_and_drained() {
    let notebook = Arc::new(Notebook::default());
    let metrics = record(Arc::clone(&notebook), 200).await;
    let batches = notebook.batches.lock().unwrap();
    assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), [64, 64, 64, 8]);
    let expected: Vec<_> = (0..200).map(|target| format!("experiment:{target}")).collect();
    assert_eq!(batches.concat(), expected);
    assert_eq!(metrics.audit_entries_dropped.get(), 1, "the one after the end");
}

#[tokio::test]
async fn what_does_not_fit_or_fails_is_counted() {
    let notebook = Arc::new(Notebook::default());
    let metrics = record(Arc::clone(&notebook), MAX_WAITING + 10).await;
    assert_eq!(metrics.audit_entries_dropped.get(), 11);
    let broken = Arc::new(Notebook { broken: true, ..Notebook::default() });
    assert_eq!(record(broken, 5).await.audit_entries_dropped.get(), 6);
}
