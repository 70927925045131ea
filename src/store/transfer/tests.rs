//! Facts about copies, backups and checks. Each is tested from and to both databases.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;

use tempfile::TempDir;

use super::super::tests::server;
use super::super::tests::servers::columns;
use super::super::tests::{DAY, START, actor, grant, postgres, sqlite, token, user};
use super::super::{NewSession, db};
use super::tables::{GENERATED, Kind, OTHERS, TABLES};
use super::*;
use crate::authz::{Mutation, Permission, ResourceKind, Subject};
use crate::clock::Clock;
use crate::config;
use crate::store::db::{Argument, sql};
use crate::store::{Actor, Store};

const fn quiet(_: Progress) {}

fn note() -> Note {
    let actor = Actor { name: "command-line".to_owned(), token: None, address: None };
    Note { actor, action: "store.copy", detail: "from a test".to_owned() }
}

/// Every row of every table that is copied, but for the entry about the copy.
async fn rows(store: &Store) -> Vec<String> {
    let mut tx = store.readers.begin_snapshot().await.unwrap();
    let mut all = Vec::new();
    for table in &TABLES {
        for row in table.page(&mut tx, None).await.unwrap() {
            let values = table.columns.iter().map(|(name, kind)| kind.value(&row, name).unwrap());
            all.push(format!("{}: {:?}", table.name, values.collect::<Vec<Argument>>()));
        }
    }
    all.retain(|row| !row.contains("store.copy"));
    all
}

/// Puts something into every table.
async fn populate(store: &Store) {
    let alice = store.create_user(&actor(), "alice", None, true).await.unwrap();
    let bob = user(store, "bob").await;
    token(store, alice.id, "ci").await.unwrap();
    let read = grant(Subject::User(alice.id), ResourceKind::Experiment, "7", Permission::Read);
    store.create_grant(&actor(), &read).await.unwrap();
    let role = store.create_role(&actor(), "default", "analysts", None).await.unwrap().id;
    store.assign_role(&actor(), alice.id, role).await.unwrap();
    store.begin(&Mutation::Delete { kind: ResourceKind::Prompt, key: "p".to_owned() }, alice.id, &[]).await.unwrap();
    let new = NewSession {
        hash: crate::crypto::TokenHash([7; 32]),
        user: alice.id,
        provider: None,
        issuer: None,
        subject: None,
        sid: None,
        tokens: "sealed".to_owned(),
        expires: START.plus(DAY),
        refresh_at: None,
        address: "192.0.2.1".to_owned(),
        agent: "\u{e9}t\u{e9} \u{1f642}".to_owned(),
    };
    store.create_session(&actor(), &new, 100).await.unwrap();
    assert!(store.use_once("login", "state", START.plus(DAY)).await.unwrap());
    sql("INSERT INTO logout_tokens (issuer, jti, expires) VALUES ('i', 'j', 1), ('i', 'k', 2)")
        .execute(&store.writer)
        .await
        .unwrap();
    // Leaves a reserved name, and the highest ID unused.
    store.delete_user(&actor(), bob.id).await.unwrap();
    // The intent began its existence as a process that serves.
    store.end_serving().await.unwrap();
}

/// A new, empty store of each database, and the URL under which others open it.
async fn empty(directory: &TempDir) -> [(Store, String); 2] {
    let file = format!("sqlite://{}", directory.path().join("target.db").display());
    let database = server::database().await;
    let clock = Clock::manual(START);
    let target = config::Store::at(&file).unwrap();
    let alone = connect_alone(&target, Side::Target, clock.clone()).await.unwrap();
    [(alone, file), (Store::open(&database, clock).await.unwrap(), database)]
}

async fn both() -> [Store; 2] {
    [sqlite().await.0, postgres().await.0]
}

#[tokio::test]
async fn every_column_of_both_schemas_is_in_the_list() {
    for store in both().await {
        let schema = columns(&store).await.into_iter();
        let schema: BTreeSet<_> = schema
            .filter(|(table, column, ..)| {
                !OTHERS.contains(&table.as_str()) && !GENERATED.contains(&(table.as_str(), column.as_str()))
            })
            .map(|(table, column, kind, _, is_key)| (table, column, kind, is_key))
            .collect();
        let word = |kind| match kind {
            Kind::Int => "int",
            Kind::Text => "text",
            Kind::Bytes => "bytes",
            Kind::Bool => "boolean",
        };
        let listed = TABLES.iter().flat_map(|table| {
            table.columns.iter().map(move |(column, kind)| {
                (table.name.to_owned(), (*column).to_owned(), word(*kind).to_owned(), table.key.contains(column))
            })
        });
        assert_eq!(listed.collect::<BTreeSet<_>>(), schema);
    }
}

#[tokio::test]
async fn a_copy_has_every_row_and_gives_no_id_again() {
    for source in both().await {
        populate(&source).await;
        let directory = TempDir::new().unwrap();
        for (target, _) in empty(&directory).await {
            let copied = copy(&source, &target, &note(), &mut quiet).await.unwrap();
            assert!(copied.iter().all(|(_, rows)| *rows > 0), "{copied:?}");
            assert_eq!(rows(&target).await, rows(&source).await);
            assert_eq!(target.sealing_key().await.unwrap(), source.sealing_key().await.unwrap());
            assert_eq!(target.audit_log(1).await.unwrap()[0].action, "store.copy");
            // Bob had ID 2.
            assert_eq!(user(&target, "carol").await.id.0, 3);
            assert_eq!(inspect(&target, &mut quiet).await.unwrap().faults, []);
            let again = copy(&source, &target, &note(), &mut quiet).await;
            assert!(matches!(&again, Err(Error::NotEmpty(what)) if what.contains("2 rows in users")), "{again:?}");
        }
    }
}

#[tokio::test]
async fn a_large_table_is_copied_page_by_page() {
    let (source, _) = sqlite().await;
    user(&source, "alice").await;
    let many = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1201)
                INSERT INTO used_once (kind, id, expires) SELECT 'k' || (i % 3), 'id' || i, i FROM n";
    sql(many).execute(&source.writer).await.unwrap();
    let directory = TempDir::new().unwrap();
    for (target, _) in empty(&directory).await {
        let mut seen = Vec::new();
        copy(&source, &target, &note(), &mut |progress| seen.push(progress)).await.unwrap();
        let count: i64 = sql("SELECT COUNT(*) FROM used_once").scalar(&target.readers).await.unwrap();
        assert_eq!(count, 1201);
        assert!(
            seen.iter().all(|it| it.done <= it.all) && seen.iter().any(|it| it.table == "used_once" && it.done > 900)
        );
    }
}

#[tokio::test]
async fn a_store_in_use_is_neither_copied_nor_written() {
    let directory = TempDir::new().unwrap();
    let [(file, url), (database, database_url)] = empty(&directory).await;
    let source = sqlite().await.0;
    populate(&source).await;
    let second = connect_alone(&config::Store::at(&url).unwrap(), Side::Target, Clock::manual(START)).await;
    assert!(matches!(&second, Err(Error::InUse { side: Side::Target, .. })), "{second:?}");
    file.close().await;
    let serving = Store::open(&url, Clock::manual(START)).await.unwrap();
    let second = connect_alone(&config::Store::at(&url).unwrap(), Side::Source, Clock::manual(START)).await;
    assert!(matches!(&second, Err(Error::InUse { side: Side::Source, .. })), "{second:?}");
    serving.close().await;

    let serving = Store::open(&database_url, Clock::manual(START)).await.unwrap();
    serving.keep_alive().await.unwrap();
    let refused = copy(&source, &database, &note(), &mut quiet).await;
    assert!(matches!(&refused, Err(Error::InUse { side: Side::Target, .. })), "{refused:?}");
    let refused = copy(&database, &source, &note(), &mut quiet).await;
    assert!(matches!(&refused, Err(Error::InUse { side: Side::Source, .. })), "{refused:?}");
    serving.end_serving().await.unwrap();
    let itself = copy(&database, &serving, &note(), &mut quiet).await;
    assert!(
        matches!(&itself, Err(Error::InUse { side: Side::Target, why }) if why.contains("other store")),
        "{itself:?}"
    );
    copy(&source, &database, &note(), &mut quiet).await.unwrap();
}

#[tokio::test]
async fn a_text_with_nul_is_named_and_nothing_is_copied() {
    let source = sqlite().await.0;
    populate(&source).await;
    let put = sql("UPDATE audit SET detail = 'a' || char(0) || 'b' WHERE id = 2");
    put.execute(&source.writer).await.unwrap();
    let directory = TempDir::new().unwrap();
    let [(file, _), (database, _)] = empty(&directory).await;
    let refused = copy(&source, &database, &note(), &mut quiet).await;
    let Err(Error::Nul { place, column, remedy }) = refused else { panic!("{refused:?}") };
    assert_eq!((place.as_str(), column), ("audit: id 2", "detail"));
    let users: i64 = sql("SELECT COUNT(*) FROM users").scalar(&database.readers).await.unwrap();
    assert_eq!(users, 0);
    copy(&source, &file, &note(), &mut quiet).await.unwrap();
    assert_eq!(rows(&file).await, rows(&source).await);
    let faults = inspect(&source, &mut quiet).await.unwrap().faults;
    assert!(faults.len() == 1 && faults[0].place == place && faults[0].fault.contains("NUL"), "{faults:?}");
    sql(remedy).execute(&source.writer).await.unwrap();
    copy(&source, &database, &note(), &mut quiet).await.unwrap();
    let detail: String = sql("SELECT detail FROM audit WHERE id = 2").scalar(&database.readers).await.unwrap();
    assert_eq!(detail, "a");
}

#[tokio::test]
async fn an_unreadable_row_and_another_schema_are_named() {
    let source = sqlite().await.0;
    populate(&source).await;
    let directory = TempDir::new().unwrap();
    let [(file, _), (database, _)] = empty(&directory).await;
    sql("INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (99, 'later', TRUE, $1, 0)")
    .bind(vec![0])
    .execute(&database.writer)
    .await
    .unwrap();
    let refused = copy(&source, &database, &note(), &mut quiet).await;
    assert!(matches!(&refused, Err(Error::OtherSchema { side: Side::Target, found: 99, .. })), "{refused:?}");
    sql("UPDATE tokens SET expires = 'soon'").execute(&source.writer).await.unwrap();
    let refused = copy(&source, &file, &note(), &mut quiet).await;
    assert!(matches!(&refused, Err(Error::Unreadable { place, .. }) if place == "tokens: id 1"), "{refused:?}");
}

#[tokio::test]
async fn a_backup_of_a_store_in_use_is_restored_into_either_database() {
    for source in both().await {
        populate(&source).await;
        source.keep_alive().await.unwrap();
        let before = rows(&source).await;
        let directory = TempDir::new().unwrap();
        let file = directory.path().join("backup.db");
        write_backup(&source, &file, false, &mut quiet).await.unwrap();
        let names: Vec<_> = std::fs::read_dir(directory.path()).unwrap().map(|it| it.unwrap().file_name()).collect();
        assert_eq!(names, ["backup.db"]);
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let again = write_backup(&source, &file, false, &mut quiet).await;
        assert!(matches!(again, Err(Error::Exists(_))), "{again:?}");
        write_backup(&source, &file, true, &mut quiet).await.unwrap();
        user(&source, "later").await;
        let bytes = std::fs::read(&file).unwrap();
        let targets = TempDir::new().unwrap();
        for (target, _) in empty(&targets).await {
            let backup = open_backup(&file, Clock::manual(START)).await.unwrap();
            assert_eq!(inspect(&backup, &mut quiet).await.unwrap().faults, []);
            copy(&backup, &target, &note(), &mut quiet).await.unwrap();
            backup.close().await;
            assert_eq!(rows(&target).await, before);
        }
        assert_eq!(std::fs::read(&file).unwrap(), bytes, "a backup is only read");
    }
}

#[tokio::test]
async fn a_backup_never_takes_the_place_of_a_store_in_use() {
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name);
    let store = Store::open(&format!("sqlite://{}", path("store.db").display()), Clock::manual(START)).await.unwrap();
    populate(&store).await;
    std::os::unix::fs::symlink("nowhere", path("link")).unwrap();
    std::fs::create_dir(path("folder")).unwrap();
    for name in ["store.db", "store.db-wal", "store.db-shm", "link", "folder"] {
        let refused = write_backup(&store, &path(name), false, &mut quiet).await;
        assert!(matches!(refused, Err(Error::Exists(_))), "{name}: {refused:?}");
        let refused = write_backup(&store, &path(name), true, &mut quiet).await;
        assert!(
            matches!(&refused, Err(Error::BadBackup(why)) if why.contains("choose another name")),
            "{name}: {refused:?}"
        );
    }
    user(&store, "later").await;
}

#[tokio::test]
async fn a_store_without_accounts_is_taken_for_a_wrong_url() {
    for source in both().await {
        let directory = TempDir::new().unwrap();
        let refused = write_backup(&source, &directory.path().join("b.db"), false, &mut quiet).await;
        assert!(matches!(refused, Err(Error::NoAccounts)), "{refused:?}");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}

#[tokio::test]
async fn a_failed_backup_leaves_no_file() {
    let source = sqlite().await.0;
    user(&source, "alice").await;
    sql("UPDATE sealing_keys SET value = 'text'").execute(&source.writer).await.unwrap();
    sql("UPDATE meta SET value = 'text' WHERE name = 'revision'").execute(&source.writer).await.unwrap();
    let directory = TempDir::new().unwrap();
    let failed = write_backup(&source, &directory.path().join("b.db"), false, &mut quiet).await;
    assert!(matches!(&failed, Err(Error::Unreadable { .. })), "{failed:?}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    let missing = write_backup(&source, &directory.path().join("no/b.db"), false, &mut quiet).await;
    assert!(missing.unwrap_err().to_string().contains("No such file"));
}

#[tokio::test]
async fn a_file_that_is_no_usable_backup_is_refused_with_the_next_step() {
    let source = sqlite().await.0;
    populate(&source).await;
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name);
    let good = path("good.db");
    write_backup(&source, &good, false, &mut quiet).await.unwrap();
    let bytes = std::fs::read(&good).unwrap();
    std::fs::write(path("text"), "not a database").unwrap();
    std::fs::write(path("short"), &bytes[..bytes.len() / 2]).unwrap();
    let mut broken = bytes.clone();
    broken[4096..4196].fill(0xff);
    std::fs::write(path("broken"), broken).unwrap();
    std::fs::write(path("live"), &bytes).unwrap();
    std::fs::write(path("live-wal"), "newest changes").unwrap();
    let (other, newer) = (db::sqlite::open_new(&path("other")).await.unwrap(), path("newer"));
    sql("CREATE TABLE meta (x TEXT)").execute(&other).await.unwrap();
    other.close().await;
    std::fs::write(&newer, &bytes).unwrap();
    let writing = Store::open(&format!("sqlite://{}", newer.display()), Clock::default()).await.unwrap();
    sql("UPDATE _sqlx_migrations SET version = 99 WHERE version = 7").execute(&writing.writer).await.unwrap();
    writing.close().await;
    for (name, why) in [
        ("missing", "No such file"),
        ("text", "store backup"),
        ("short", "is damaged"),
        ("broken", "is damaged"),
        ("live", "store copy"),
        ("other", "another program's"),
        ("newer", "has schema 99"),
        (".", "is not a file"),
    ] {
        let refused = open_backup(&path(name), Clock::default()).await.map(drop).unwrap_err().to_string();
        assert!(refused.contains(why), "{name}: {refused}");
    }
}

#[tokio::test]
async fn a_backup_of_an_earlier_release_is_migrated_without_being_changed() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("old 1%.db");
    let only = db::sqlite::open_new(&file).await.unwrap();
    let mut tx = only.begin().await.unwrap();
    tx.script(include_str!("../../../migrations/sqlite/0001_ground.sql")).await.unwrap();
    tx.script(
        "CREATE TABLE _sqlx_migrations (version BIGINT PRIMARY KEY, description TEXT NOT NULL,
             installed_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, success BOOLEAN NOT NULL,
             checksum BLOB NOT NULL, execution_time BIGINT NOT NULL);
         INSERT INTO users (id, name, admin, created) VALUES (41, 'old', TRUE, 1), (42, 'gone', TRUE, 1);
         DELETE FROM users WHERE id = 42;
         PRAGMA writable_schema = ON;
         UPDATE sqlite_master SET sql = sql || '; CREATE TABLE planted (x)' WHERE name = 'meta';",
    )
    .await
    .unwrap();
    let ground = db::migrations::checksum(1).unwrap();
    sql("INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (1, 'ground', TRUE, $1, 0)")
    .bind(ground)
    .execute(&mut tx)
    .await
    .unwrap();
    tx.commit().await.unwrap();
    only.close().await;
    let bytes = std::fs::read(&file).unwrap();
    let targets = TempDir::new().unwrap();
    for (target, _) in empty(&targets).await {
        let backup = open_backup(&file, Clock::manual(START)).await.unwrap();
        let planted: i64 =
            sql("SELECT COUNT(*) FROM sqlite_master WHERE name = 'planted'").scalar(&backup.readers).await.unwrap();
        assert_eq!(planted, 0, "no statement of the file is run");
        copy(&backup, &target, &note(), &mut quiet).await.unwrap();
        backup.close().await;
        assert!(target.user_by_name("old").await.unwrap().is_some_and(|user| user.admin));
        assert_eq!(user(&target, "new").await.id.0, 43);
    }
    assert_eq!(std::fs::read(&file).unwrap(), bytes);
}

#[tokio::test]
async fn faults_are_found_on_either_database() {
    for store in both().await {
        populate(&store).await;
        assert_eq!(inspect(&store, &mut quiet).await.unwrap().faults, []);
        let run = async |text: &'static str| sql(text).execute(&store.writer).await.unwrap();
        let is_sqlite = matches!(store.writer, db::Pool::Sqlite(_));
        let orphans = "INSERT INTO grants (subject_kind, subject, kind, form, selector, permission)
             VALUES ('user', '99', 'experiment', 'exact', '1', 'READ'), ('role', '98', 'experiment', 'exact', '1', 'READ')";
        assert!(sql(orphans).execute(&store.writer).await.is_err(), "a grant needs its user or role");
        if is_sqlite {
            run("PRAGMA foreign_keys = OFF").await;
            run(orphans).await;
        }
        run("INSERT INTO grants (subject_kind, subject, kind, form, selector, permission)
             VALUES ('group', 'g', 'experiment', 'exact', '1', 'SOMETIMES')")
        .await;
        run("UPDATE tokens SET scopes = 'nothing'").await;
        run("DELETE FROM sealing_keys WHERE name = 'sessions'").await;
        run("INSERT INTO roles (id, workspace, name) VALUES (77, 'default', 'by-hand')").await;
        let found = inspect(&store, &mut quiet).await.unwrap();
        let places: Vec<&str> = found.faults.iter().map(|fault| fault.place.as_str()).collect();
        // PostgreSQL refuses orphans; SQLite follows a row that brings its own ID.
        let first = if is_sqlite { &["grants: id 2", "grants: id 3"][..] } else { &["roles"] };
        let expected = [first, &["tokens: id 1", "grants: id 4", "sealing_keys: name \"sessions\""]].concat();
        assert_eq!(places, expected, "{:?}", found.faults);
        assert_eq!((found.schema, found.more), (7, 0));
    }
}

#[tokio::test]
async fn a_reference_without_its_row_is_found_in_a_file() {
    let store = sqlite().await.0;
    populate(&store).await;
    sql("PRAGMA foreign_keys = OFF").execute(&store.writer).await.unwrap();
    sql("UPDATE tokens SET user_id = 99").execute(&store.writer).await.unwrap();
    let faults = inspect(&store, &mut quiet).await.unwrap().faults;
    assert!(faults.len() == 1 && faults[0].place == "tokens: id 1" && faults[0].fault.contains("users"), "{faults:?}");
}
