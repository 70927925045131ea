use std::collections::BTreeMap;
use std::sync::Mutex;

use super::*;
use crate::clock::Timestamp;
use crate::store::Actor;

/// Remembers batches; optionally refuses them.
#[derive(Default)]
struct Notebook {
    batches: Mutex<Vec<Vec<String>>>,
    counts: Mutex<Vec<(i64, i64)>>,
    broken: bool,
}

impl Sink for Notebook {
    async fn write(&self, entries: &[AuditEntry], counts: &[(AuditId, i64)]) -> store::Result<Vec<AuditId>> {
        tokio::task::yield_now().await;
        if self.broken {
            return Err(store::Error::NotFound("disk".to_owned()));
        }
        let mut batches = self.batches.lock().unwrap();
        let first = batches.concat().len();
        if !entries.is_empty() {
            batches.push(entries.iter().map(|entry| entry.target.clone()).collect());
        }
        self.counts.lock().unwrap().extend(counts.iter().map(|(row, count)| (row.0, *count)));
        Ok((first..first + entries.len()).map(|row| AuditId(row as i64)).collect())
    }
}

fn entry(target: usize) -> AuditEntry {
    let actor = Actor { name: format!("user-{}", target / 50), token: None, address: None };
    let (action, target) = ("request.denied".to_owned(), format!("experiment:{target}"));
    AuditEntry { at: Timestamp(0), actor, action, target, detail: String::new(), count: 1 }
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

#[tokio::test]
async fn a_refusal_that_comes_again_is_one_row_with_a_count() {
    let (notebook, tracker) = (Arc::new(Notebook::default()), TaskTracker::new());
    let queue = AuditQueue::start(Arc::clone(&notebook), Arc::new(Metrics::new([]).unwrap()), &tracker);
    for number in 0..3000 {
        queue.record(entry(number % 2));
    }
    queue.record(AuditEntry { at: Timestamp(60_000), ..entry(0) });
    queue.close();
    tracker.close();
    tracker.wait().await;
    assert_eq!(notebook.batches.lock().unwrap().concat(), ["experiment:0", "experiment:1", "experiment:0"]);
    // Later counts replace earlier ones.
    let counts: BTreeMap<i64, i64> = notebook.counts.lock().unwrap().iter().copied().collect();
    assert_eq!(counts, BTreeMap::from([(0, 1500), (1, 1500)]));
}
