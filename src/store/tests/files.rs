//! Facts about the files of SQLite.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use sqlx::{ConnectOptions as _, Connection as _};
use tempfile::TempDir;

use super::*;

async fn file(directory: &TempDir) -> Store {
    Store::open(&url(&directory.path().join("auth.db")), Clock::manual(START)).await.unwrap()
}

fn url(path: &Path) -> String {
    format!("sqlite://{}", path.display())
}

#[tokio::test]
async fn intents_sealing_key_and_revision_survive_a_restart() {
    let directory = TempDir::new().unwrap();
    let mutation = Mutation::Delete { kind: ResourceKind::Prompt, key: "summary".to_owned() };
    let (key, revision, intent) = {
        let store = file(&directory).await;
        user(&store, "alice").await;
        let intent = store.begin(&mutation, UserId(1), &[]).await.unwrap();
        let kept = (store.sealing_key().await.unwrap(), store.revision().await.unwrap(), intent);
        store.close().await;
        kept
    };
    let store = file(&directory).await;
    let left = store.intents().await.unwrap();
    assert_eq!((left[0].id, &left[0].mutation, left[0].created), (intent, &mutation, START));
    assert_eq!(store.sealing_key().await.unwrap(), key);
    assert_ne!(key, [0; 32]);
    assert_eq!(store.revision().await.unwrap(), revision);
    store.abandon(intent).await.unwrap();
    assert!(store.intents().await.unwrap().is_empty());
}

#[tokio::test]
async fn two_processes_on_one_file_see_each_others_changes() {
    let directory = TempDir::new().unwrap();
    let (one, two) = tokio::join!(file(&directory), file(&directory));
    assert_eq!(one.sealing_key().await.unwrap(), two.sealing_key().await.unwrap());
    let before = two.revision().await.unwrap();
    user(&one, "alice").await;
    assert_eq!(two.revision().await.unwrap(), before + 1);
    assert!(two.user_by_name("alice").await.unwrap().is_some());
    let actor = actor();
    let (a, b) = tokio::join!(one.create_user(&actor, "bob", None, false), two.create_user(&actor, "bob", None, false));
    assert!(a.is_ok() != b.is_ok(), "one of two wins a name");
}

#[tokio::test]
async fn the_file_and_its_log_are_for_nobody_else_to_read() {
    let directory = TempDir::new().unwrap();
    let store = file(&directory).await;
    user(&store, "alice").await;
    for name in ["auth.db", "auth.db-wal", "auth.db-shm"] {
        let mode = std::fs::metadata(directory.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[tokio::test]
async fn a_locked_database_is_unavailable_within_seconds_and_recovers() {
    let directory = TempDir::new().unwrap();
    let store = file(&directory).await;
    let alice = user(&store, "alice").await;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(directory.path().join("auth.db"));
    let mut other = options.connect().await.unwrap();
    let lock = other.begin_with("BEGIN EXCLUSIVE").await.unwrap();

    let stopwatch = Stopwatch::start();
    let (actor, mutation) = (actor(), Mutation::Delete { kind: ResourceKind::Prompt, key: "x".to_owned() });
    let (first, second, check) = tokio::join!(
        store.create_user(&actor, "bob", None, false),
        store.begin(&mutation, UserId(1), &[]),
        store.check()
    );
    assert!(matches!(first, Err(Error::Unavailable(_))), "{first:?}");
    assert!(matches!(second, Err(Error::Unavailable(_))), "{second:?}");
    assert!(matches!(check, Err(Error::Unavailable(_))), "{check:?}");
    assert!(stopwatch.elapsed() < Duration::from_secs(7), "{:?}", stopwatch.elapsed());
    assert!(store.user(alice.id).await.is_ok(), "reading goes on");

    lock.rollback().await.unwrap();
    store.check().await.unwrap();
    user(&store, "bob").await;
}

#[tokio::test]
async fn a_full_database_is_unavailable_and_recovers() {
    let directory = TempDir::new().unwrap();
    let store = file(&directory).await;
    let pages: i64 = sql("PRAGMA page_count").scalar(&store.writer).await.unwrap();
    let limit = |pages: i64| format!("PRAGMA max_page_count = {pages}");
    sql(limit(pages)).execute(&store.writer).await.unwrap();
    let big = "x".repeat(20_000);
    assert!(matches!(store.create_user(&actor(), &big, None, false).await, Err(Error::Unavailable(_))));
    sql(limit(1_000_000)).execute(&store.writer).await.unwrap();
    store.create_user(&actor(), &big, None, false).await.unwrap();
}

#[tokio::test]
async fn a_transaction_that_sqlite_itself_rolled_back_leaves_a_store_that_can_be_written() {
    let directory = TempDir::new().unwrap();
    let store = file(&directory).await;
    // As on a full disk, while the log is written.
    let full = "CREATE TEMP TRIGGER full BEFORE INSERT ON main.users BEGIN SELECT RAISE(ROLLBACK, 'full'); END";
    sql(full).execute(&store.writer).await.unwrap();
    assert!(store.create_user(&actor(), "alice", None, false).await.is_err());
    user(&store, "alice").await;
}

#[tokio::test]
async fn an_address_that_is_no_database_of_ours_is_refused() {
    let directory = TempDir::new().unwrap();
    let garbage = directory.path().join("garbage.db");
    std::fs::write(&garbage, "this is not a database, however long one looks at it".repeat(100)).unwrap();
    for url in [
        String::new(),
        "sqlite://".to_owned(),
        "sqlite://x.db?mode=memory".to_owned(),
        format!("sqlite://{}/missing/auth.db", directory.path().display()),
        url(&garbage),
        url(directory.path()),
    ] {
        let opened = Store::open(&url, Clock::default()).await;
        assert!(matches!(opened, Err(Error::Open(_))), "{url}: {opened:?}");
    }
}

#[tokio::test]
async fn each_database_in_memory_is_a_world_of_its_own() {
    let ((one, _), (two, _)) = (sqlite().await, sqlite().await);
    user(&one, "alice").await;
    assert!(two.user_by_name("alice").await.unwrap().is_none());
    assert_ne!(one.sealing_key().await.unwrap(), two.sealing_key().await.unwrap());
    one.check().await.unwrap();
}
