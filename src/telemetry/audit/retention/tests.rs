use std::os::unix::fs::PermissionsExt as _;

use tempfile::TempDir;

use super::*;
use crate::store::tests::server;
use crate::store::{Actor, AuditEntry, AuditId};

const NOW: Timestamp = Timestamp(1_700_000_000_000);
const DAY: Duration = Duration::from_hours(24);

/// Writes entries that are two days old, and one of today.
async fn populate(store: &Store, old: usize) {
    let entry = |number: usize| AuditEntry {
        at: Timestamp(NOW.0 - 2 * 86_400_000 + i64::try_from(number).unwrap()),
        actor: Actor { name: "ann\u{202e}".to_owned(), token: None, address: Some("192.0.2.1".parse().unwrap()) },
        action: "request.denied".to_owned(),
        target: format!("experiment:{number}"),
        detail: "line\nbreak".to_owned(),
        count: 3,
    };
    let entries: Vec<_> = (0..old).map(entry).collect();
    store.audit(&entries, &[]).await.unwrap();
    store.audit(&[AuditEntry { at: NOW, ..entry(old) }], &[]).await.unwrap();
}

fn retention(store: &Store, export: Option<PathBuf>) -> (Retention, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::new([]).unwrap());
    let config = config::Audit { retention: Some(DAY), export_before_delete: export };
    let clock = Clock::manual(NOW);
    (Retention::new(&config, Arc::new(store.clone()), clock, Arc::clone(&metrics)).unwrap(), metrics)
}

async fn memory() -> Store {
    Store::open("sqlite::memory:", Clock::manual(NOW)).await.unwrap()
}

#[test]
fn without_a_limit_there_is_nothing_to_do() {
    assert!(config::defaults().unwrap().audit.retention == Some(365 * DAY));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let store = Arc::new(runtime.block_on(memory()));
    let config = config::Audit { retention: None, export_before_delete: None };
    assert!(Retention::new(&config, store, Clock::manual(NOW), Arc::new(Metrics::new([]).unwrap())).is_none());
}

#[tokio::test]
async fn old_entries_are_exported_and_deleted_in_pages_with_one_entry_about_it() {
    let store = memory().await;
    populate(&store, 2500).await;
    let folder = TempDir::new().unwrap();
    let (retention, metrics) = retention(&store, Some(folder.path().to_owned()));
    assert_eq!(retention.pass().await.unwrap(), 2500);
    assert_eq!(metrics.audit_entries_deleted.get(), 2500);
    let left = store.audit_log(10).await.unwrap();
    let actions: Vec<_> = left.iter().map(|entry| entry.action.as_str()).collect();
    assert_eq!(actions, ["audit.delete", "request.denied"]);
    let name = "audit-20231114T221320Z.jsonl";
    assert_eq!(left[0].detail, format!("2500 entries from before 2023-11-13T22:13:20Z, exported to {name}"));
    let file = folder.path().join(name);
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(&file).unwrap();
    let first = "{\"id\":1,\"at\":\"2023-11-12T22:13:20.000Z\",\"actor\":\"ann\\u202e\",\"token_id\":null,\
                 \"address\":\"192.0.2.1\",\"action\":\"request.denied\",\"target\":\"experiment:0\",\
                 \"detail\":\"line\\nbreak\",\"count\":3}";
    assert_eq!((text.lines().next().unwrap(), text.lines().count()), (first, 2500));
    assert_eq!(retention.pass().await.unwrap(), 0);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no file without entries");
    assert_eq!(store.audit_log(10).await.unwrap().len(), 2);
}

#[tokio::test]
async fn nothing_is_deleted_that_was_not_exported() {
    let store = memory().await;
    populate(&store, 3).await;
    let folder = TempDir::new().unwrap();
    let (missing, _) = retention(&store, Some(folder.path().join("missing")));
    assert!(missing.pass().await.unwrap_err().to_string().starts_with("audit.export_before_delete: No such file"));
    assert_eq!(store.audit_log(10).await.unwrap().len(), 4);
    // A file of the same second, as after a restart.
    let (again, _) = retention(&store, Some(folder.path().to_owned()));
    std::fs::write(folder.path().join(Export::name(NOW)), "earlier\n").unwrap();
    again.pass().await.unwrap_err();
    assert_eq!(store.audit_log(10).await.unwrap().len(), 4);
    assert_eq!(std::fs::read_to_string(folder.path().join(Export::name(NOW))).unwrap(), "earlier\n");
}

#[test]
fn a_page_that_does_not_fit_leaves_nothing_behind() {
    let folder = TempDir::new().unwrap();
    let mut full = Export {
        file: std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap(),
        path: folder.path().join("x"),
        length: 0,
    };
    std::fs::write(folder.path().join("x"), "").unwrap();
    let entry = AuditEntry {
        at: NOW,
        actor: Actor::proxy(),
        action: "a".to_owned(),
        target: String::new(),
        detail: String::new(),
        count: 1,
    };
    full.add(&vec![(AuditId(1), entry)]).unwrap_err();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn one_of_two_processes_deletes() {
    let url = server::database().await;
    let open = || Store::open(&url, Clock::manual(NOW));
    let (one, two) = (open().await.unwrap(), open().await.unwrap());
    populate(&one, 1500).await;
    let ((first, _), (second, _)) = (retention(&one, None), retention(&two, None));
    let (a, b) = tokio::join!(first.pass(), second.pass());
    let (a, b) = (a.unwrap(), b.unwrap());
    assert_eq!((a + b, a.min(b)), (1500, 0));
    let log = one.audit_log(10).await.unwrap();
    assert_eq!(log.iter().filter(|entry| entry.action == "audit.delete").count(), 1);
    // The other one takes over when the first one has ended.
    let ended = if a > 0 { &one } else { &two };
    ended.end_serving().await.unwrap();
    populate(&one, 10).await;
    let other = if a > 0 { &second } else { &first };
    assert_eq!(other.pass().await.unwrap(), 10);
}
