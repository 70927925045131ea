//! Facts about the server of PostgreSQL, and about the two databases beside each other.

use std::collections::BTreeSet;

use sqlx::{Connection as _, PgConnection};

use super::*;
use crate::config;
use crate::store::db::migrations;

/// Every column of every table: table, name, type, whether it takes NULL, place in the primary key.
pub(in crate::store) async fn columns(store: &Store) -> BTreeSet<(String, String, String, bool, bool)> {
    let sqlite =
        "SELECT m.name AS tab, c.name AS col, lower(c.type) AS kind, c.\"notnull\" = 0 AND c.pk = 0 AS nullable,
                         c.pk > 0 AS key
                  FROM sqlite_master m, pragma_table_xinfo(m.name) c
                  WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%'";
    let postgres = "SELECT c.table_name::text AS tab, c.column_name::text AS col, c.data_type::text AS kind,
                           c.is_nullable = 'YES' AS nullable, EXISTS (
                               SELECT 1 FROM information_schema.key_column_usage k
                               JOIN information_schema.table_constraints t ON t.constraint_name = k.constraint_name
                               WHERE t.constraint_type = 'PRIMARY KEY' AND k.table_name = c.table_name
                                 AND k.column_name = c.column_name) AS key
                    FROM information_schema.columns c WHERE c.table_schema = 'public'";
    let text = if matches!(store.readers, Pool::Sqlite(_)) { sqlite } else { postgres };
    let rows = sql(text).fetch_all(&store.readers).await.unwrap();
    let read = rows.iter().map(|row| {
        let kind: String = row.try_get("kind").unwrap();
        let kind = match kind.as_str() {
            "integer" | "bigint" => "int",
            "blob" | "bytea" => "bytes",
            other => other,
        };
        let text = |column| row.try_get::<String>(column).unwrap();
        (text("tab"), text("col"), kind.to_owned(), row.try_get("nullable").unwrap(), row.try_get("key").unwrap())
    });
    read.filter(|(table, ..)| table != "_sqlx_migrations").collect()
}

/// Every unique constraint and index, as its table and its columns.
async fn indexes(store: &Store) -> BTreeSet<(String, String, bool)> {
    let sqlite = "SELECT m.name AS tab, group_concat(c.name, ',') AS cols, i.\"unique\" = 1 AS uniq
                  FROM sqlite_master m, pragma_index_list(m.name) i, pragma_index_info(i.name) c
                  WHERE m.type = 'table' GROUP BY m.name, i.name";
    let postgres = "SELECT t.relname::text AS tab, string_agg(a.attname::text, ',' ORDER BY k.place) AS cols,
                           i.indisunique AS uniq
                    FROM pg_index i JOIN pg_class t ON t.oid = i.indrelid JOIN pg_namespace n ON n.oid = t.relnamespace
                    CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k (number, place)
                    JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = k.number
                    WHERE n.nspname = 'public' GROUP BY t.relname, i.indexrelid, i.indisunique";
    let text = if matches!(store.readers, Pool::Sqlite(_)) { sqlite } else { postgres };
    let rows = sql(text).fetch_all(&store.readers).await.unwrap();
    let read = rows.iter().map(|row| {
        let text = |column| row.try_get::<String>(column).unwrap();
        (text("tab"), text("cols"), row.try_get("uniq").unwrap())
    });
    // An integer primary key of SQLite is the row itself and has no index.
    read.filter(|(table, columns, _)| table != "_sqlx_migrations" && columns != "id").collect()
}

/// Every foreign key: table, column, the table it refers to, and what happens when the row there is deleted.
async fn foreign_keys(store: &Store) -> BTreeSet<[String; 4]> {
    let sqlite = "SELECT m.name AS tab, f.\"from\" AS col, f.\"table\" AS target, f.on_delete AS rule
                  FROM sqlite_master m, pragma_foreign_key_list(m.name) f WHERE m.type = 'table'";
    let postgres = "SELECT c.table_name::text AS tab, c.column_name::text AS col, u.table_name::text AS target,
                           r.delete_rule::text AS rule
                    FROM information_schema.referential_constraints r
                    JOIN information_schema.key_column_usage c USING (constraint_schema, constraint_name)
                    JOIN information_schema.constraint_column_usage u USING (constraint_schema, constraint_name)";
    let text = if matches!(store.readers, Pool::Sqlite(_)) { sqlite } else { postgres };
    let rows = sql(text).fetch_all(&store.readers).await.unwrap();
    rows.iter().map(|row| ["tab", "col", "target", "rule"].map(|column| row.try_get(column).unwrap())).collect()
}

#[tokio::test]
async fn both_databases_have_the_same_tables_columns_indexes_and_foreign_keys() {
    let ((sqlite, _), (postgres, _)) = (sqlite().await, postgres().await);
    assert_eq!(columns(&sqlite).await, columns(&postgres).await);
    assert_eq!(indexes(&sqlite).await, indexes(&postgres).await);
    assert_eq!(foreign_keys(&sqlite).await, foreign_keys(&postgres).await);
    assert!(foreign_keys(&sqlite).await.contains(&["grants", "role_id", "roles", "CASCADE"].map(str::to_owned)));
    let collations = sql("SELECT table_name::text || '.' || column_name::text FROM information_schema.columns
                          WHERE table_schema = 'public' AND data_type = 'text' AND collation_name IS DISTINCT FROM 'C'
                            AND table_name <> '_sqlx_migrations'");
    let collations: Vec<String> = collations.scalars(&postgres.readers).await.unwrap();
    assert!(collations.is_empty(), "these columns are compared by locale: {collations:?}");
}

/// Runs a statement as the superuser in the database at `url`.
async fn administer(url: &str, text: String) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(text)).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

fn name_of(url: &str) -> &str {
    url.rsplit('/').next().unwrap()
}

#[tokio::test]
async fn a_server_that_cannot_be_written_is_refused() {
    let url = server::database().await;
    let store = Store::open(&url, Clock::default()).await.unwrap();
    let name = name_of(&url);
    administer(&url, format!("ALTER DATABASE {name} SET default_transaction_read_only = on")).await;
    let refused = Store::open(&url, Clock::default()).await;
    assert!(matches!(&refused, Err(Error::Open(why)) if why.contains("read-only")), "{refused:?}");
    // A connection from before is used as long as it can write.
    user(&store, "alice").await;
}

#[tokio::test]
async fn each_mistake_is_named_with_the_next_step_and_without_the_password() {
    let url = server::database().await;
    let base = url.replace("postgres@", "scram@");
    administer(&url, "DROP ROLE IF EXISTS scram; CREATE ROLE scram LOGIN PASSWORD 'right'".to_owned()).await;
    administer(&url, format!("REVOKE CONNECT ON DATABASE {} FROM PUBLIC", name_of(&url))).await;
    let with = |url: &str, password: &str| config::Store {
        password: Some(password.to_owned().into()),
        ..config::Store::at(url).unwrap()
    };
    let missing = format!("{}/nowhere", server::server());
    let nobody_listens = "postgres://u@127.0.0.1:1/d".to_owned();
    let no_tls = format!("{base}?sslmode=verify-full");
    for (config, why) in [
        (with(&base, "hunter2"), "store.password"),
        (with(&base, "right"), "CONNECT"),
        (with(&missing, "hunter2"), "createdb"),
        (with(&no_tls, "hunter2"), "sslmode"),
        (with(&nobody_listens, "hunter2"), "refused"),
    ] {
        let Err(Error::Open(text)) = Store::connect(&config, Clock::default()).await else { panic!("{}", config.url) };
        assert!(text.contains(why) && !text.contains("hunter2"), "{text}");
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}

#[tokio::test]
async fn five_processes_open_a_new_database_together() {
    let url = server::database().await;
    let open = || Store::open(&url, Clock::default());
    let (a, b, c, d, e) = tokio::join!(open(), open(), open(), open(), open());
    let mut keys = BTreeSet::new();
    for store in [a, b, c, d, e] {
        keys.insert(store.unwrap().sealing_key().await.unwrap());
    }
    assert_eq!(keys.len(), 1);
}

#[tokio::test]
async fn five_processes_migrate_a_database_together_and_one_of_the_release_before_serves_on() {
    let later = "ALTER TABLE users ADD COLUMN later BIGINT";
    let mut steps = migrations::STEPS.to_vec();
    let newer = steps.last().unwrap().0 + 1;
    steps.push((newer, "later", later, Some(later)));
    let directory = tempfile::TempDir::new().unwrap();
    for url in [server::database().await, format!("sqlite://{}/auth.db", directory.path().display())] {
        let older = Store::open(&url, Clock::default()).await.unwrap();
        let migrate = async || {
            let store = Store::open(&url, Clock::default()).await.unwrap();
            let mut tx = store.writer.begin().await.unwrap();
            migrations::run(&mut tx, &steps).await.unwrap();
            tx.commit().await.unwrap();
        };
        tokio::join!(migrate(), migrate(), migrate(), migrate(), migrate());
        let applied = sql("SELECT count(*) FROM _sqlx_migrations WHERE version = $1").bind(newer);
        assert_eq!(applied.scalar::<i64>(&older.readers).await.unwrap(), 1);
        user(&older, "alice").await;
        user(&Store::open(&url, Clock::default()).await.unwrap(), "bob").await;
    }
}

#[tokio::test]
async fn a_session_is_leased_to_one_of_two_processes() {
    let url = server::database().await;
    let clock = Clock::manual(START);
    let one = Store::open(&url, clock.clone()).await.unwrap();
    let two = Store::open(&url, clock.clone()).await.unwrap();
    let alice = user(&one, "alice").await;
    for number in 0..40_u8 {
        let new = NewSession {
            hash: crate::crypto::TokenHash([number; 32]),
            user: alice.id,
            provider: Some("kc".to_owned()),
            issuer: None,
            subject: None,
            sid: None,
            tokens: String::new(),
            expires: START.plus(DAY),
            refresh_at: Some(START),
            address: String::new(),
            agent: String::new(),
        };
        one.create_session(&actor(), &new, 100).await.unwrap();
    }
    clock.advance(Duration::from_secs(1));
    let mut leased = Vec::new();
    for _ in 0..40 {
        let lease = |store: Store| async move { store.lease_due_sessions(Whose::AllBut(&[]), START, 60_000, 1).await };
        let (a, b) = tokio::join!(lease(one.clone()), lease(two.clone()));
        leased.extend(a.unwrap().into_iter().chain(b.unwrap()).map(|lease| lease.session.id));
    }
    let distinct: BTreeSet<_> = leased.iter().copied().collect();
    assert_eq!((leased.len(), distinct.len()), (40, 40));
}

#[tokio::test]
async fn a_statement_that_was_cut_off_leaves_no_connection_that_waits() {
    let config = config::Store {
        max_connections: 2,
        statement_timeout: Duration::from_secs(1),
        ..config::Store::at(&server::database().await).unwrap()
    };
    let store = Store::connect(&config, Clock::default()).await.unwrap();
    for _ in 0..3 {
        let sleep = sql("SELECT pg_sleep(30)::text").fetch_all(&store.readers);
        tokio::select! { biased; _ = sleep => panic!("it sleeps"), () = tokio::time::sleep(Duration::from_millis(50)) => {} }
    }
    store.revision().await.unwrap();
    let cancelled = sql("SELECT pg_sleep(30)::text").fetch_all(&store.readers).await;
    assert!(cancelled.is_err(), "the server ends a statement after a second");
    store.revision().await.unwrap();
    // A change that is given up in the middle is rolled back, and another can begin.
    drop(store.change().await.unwrap());
    user(&store, "alice").await;
}

#[tokio::test]
async fn with_pgbouncer_no_state_stays_in_a_session() {
    let config = config::Store {
        pgbouncer: true,
        max_connections: 2,
        statement_timeout: Duration::from_secs(1),
        ..config::Store::at(&server::database().await).unwrap()
    };
    let store = Store::connect(&config, Clock::default()).await.unwrap();
    let alice = user(&store, "alice").await;
    assert_eq!(store.user(alice.id).await.unwrap().unwrap().name, "alice");
    for pool in [&store.readers, &store.writer] {
        let limit: String = sql("SELECT current_setting('statement_timeout')").scalar(pool).await.unwrap();
        assert_eq!(limit, "1s");
        let kept: i64 = sql("SELECT count(*) FROM pg_prepared_statements").scalar(pool).await.unwrap();
        assert_eq!(kept, 0);
    }
    let cancelled = sql("SELECT pg_sleep(30)::text").fetch_all(&store.readers).await;
    assert!(matches!(&cancelled, Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("57014")));
    assert!(!store.check_listening().await.unwrap());
}

#[tokio::test]
async fn notifications_come_from_the_database_of_the_store_or_are_refused() {
    let url = server::database().await;
    let direct = |url: &str| match config::StoreUrl::parse(url) {
        Ok(config::StoreUrl::Postgres(url)) => Some(url),
        other => panic!("{other:?}"),
    };
    let with = |listen: &str| config::Store { listen_url: direct(listen), ..config::Store::at(&url).unwrap() };
    let store = Store::connect(&with(&url), Clock::default()).await.unwrap();
    assert!(store.check_listening().await.unwrap());
    for (listen, why) in
        [(server::database().await, "did not arrive"), (format!("{}/nowhere", server::server()), "createdb")]
    {
        let store = Store::connect(&with(&listen), Clock::default()).await.unwrap();
        let refused = store.check_listening().await;
        assert!(
            matches!(&refused, Err(Error::Open(said)) if said.contains(why) && said.starts_with("store.listen_url")),
            "{refused:?}"
        );
    }
    let store = Store::connect(&with("postgres://u@127.0.0.1:1/d"), Clock::default()).await.unwrap();
    assert!(matches!(store.check_listening().await, Err(Error::Unavailable(_))), "it may answer later");
}

#[tokio::test]
async fn a_newer_schema_is_used_if_it_is_compatible_and_refused_by_the_release_if_not() {
    let directory = tempfile::TempDir::new().unwrap();
    for url in [server::database().await, format!("sqlite://{}/auth.db", directory.path().display())] {
        let store = Store::open(&url, Clock::default()).await.unwrap();
        let newer = sql("INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
                         VALUES (99, 'later', $1, $2, 0)");
        newer.bind(true).bind(vec![0]).execute(&store.writer).await.unwrap();
        sql("ALTER TABLE users ADD COLUMN later BIGINT").execute(&store.writer).await.unwrap();
        let older = Store::open(&url, Clock::default()).await.unwrap();
        user(&older, "alice").await;
        sql("UPDATE compatibility SET oldest = 99, release = '9.9.0'").execute(&store.writer).await.unwrap();
        let refused = Store::open(&url, Clock::default()).await;
        assert!(
            matches!(&refused, Err(Error::Open(why)) if why.contains("install mlflow-auth-proxy 9.9.0")),
            "{refused:?}"
        );
    }
}

#[tokio::test]
async fn a_commit_wakes_other_processes_also_after_their_connection_was_lost() {
    let url = server::database().await;
    let (one, two) =
        (Store::open(&url, Clock::default()).await.unwrap(), Store::open(&url, Clock::default()).await.unwrap());
    let (wake, connections) = (tokio::sync::Notify::new(), tokio::sync::watch::Sender::new(0));
    let listening = two.listen(&wake, |connected| connections.send_modify(|count| *count += u32::from(connected)));
    let acting = async {
        connections.subscribe().wait_for(|count| *count == 1).await.unwrap();
        wake.notified().await;
        user(&one, "alice").await;
        wake.notified().await;
        let name = name_of(&url);
        let end = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}' AND query LIKE 'LISTEN%'"
        );
        administer(&url, end).await;
        connections.subscribe().wait_for(|count| *count == 2).await.unwrap();
        wake.notified().await;
        user(&one, "bob").await;
        wake.notified().await;
    };
    tokio::select! { () = listening => panic!("it never ends"), () = acting => {} }
    let rows = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'mlflow-auth-proxy %'
                AND datname = current_database()";
    assert!(sql(rows).scalar::<i64>(&one.readers).await.unwrap() >= 3);
}

#[tokio::test]
async fn a_right_belongs_to_one_process_until_it_is_gone() {
    let url = server::database().await;
    let clock = Clock::manual(START);
    let one = Store::open(&url, clock.clone()).await.unwrap();
    let two = Store::open(&url, clock.clone()).await.unwrap();
    assert!(one.hold("turn:a").await.unwrap());
    assert!(one.hold("turn:a").await.unwrap(), "it is held already");
    assert!(!two.hold("turn:a").await.unwrap());
    assert!(two.hold("turn:b").await.unwrap());
    two.release("turn:a").await.unwrap();
    assert!(!two.hold("turn:a").await.unwrap(), "only its holder releases it");
    one.release("turn:a").await.unwrap();
    assert!(two.hold("turn:a").await.unwrap());
    // `two` does not renew its existence.
    clock.advance(Duration::from_secs(10));
    one.keep_alive().await.unwrap();
    assert!(!one.hold("turn:a").await.unwrap());
    clock.advance(Duration::from_secs(6));
    assert!(one.hold("turn:a").await.unwrap());
    assert!(!two.hold("turn:a").await.unwrap(), "another one has it since");
    one.sweep_leases().await.unwrap();
    // `two` was cut off: it treats no process as gone before it has renewed its lease for a while.
    clock.advance(Duration::from_secs(16));
    assert!(!two.hold("turn:a").await.unwrap());
    one.keep_alive().await.unwrap();
    one.end_serving().await.unwrap();
    assert!(two.hold("turn:a").await.unwrap());
    assert!(one.use_once("login", "s", START.plus(DAY)).await.unwrap());
    assert!(!two.use_once("login", "s", START.plus(DAY)).await.unwrap());
    assert!(two.use_once("other", "s", START.plus(DAY)).await.unwrap());
    clock.advance(DAY);
    two.sweep_leases().await.unwrap();
    assert!(one.use_once("login", "s", START.plus(DAY)).await.unwrap());
}

#[tokio::test]
async fn an_intent_is_its_processes_own_until_that_is_gone_and_is_finished_once() {
    let url = server::database().await;
    let clock = Clock::manual(START);
    let one = Store::open(&url, clock.clone()).await.unwrap();
    let two = Store::open(&url, clock.clone()).await.unwrap();
    let (alice, bob) = (user(&one, "alice").await, user(&one, "bob").await);
    let kind = ResourceKind::RegisteredModel;
    let create = Mutation::Create { kind, name: "m".to_owned() };
    let holder = async |store: &Store| store.intents().await.unwrap()[0].holder;
    let intent = one.begin(&create, alice.id, &[]).await.unwrap();
    assert_eq!((holder(&one).await, holder(&two).await), (Holder::Own, Holder::Other));
    clock.advance(Duration::from_secs(16));
    two.keep_alive().await.unwrap();
    assert_eq!(holder(&two).await, Holder::Other, "both were cut off, and `one` may be about to come back");
    for _ in 0..4 {
        clock.advance(Duration::from_secs(4));
        two.keep_alive().await.unwrap();
    }
    assert_eq!(holder(&two).await, Holder::Gone);
    // It was settled elsewhere, and the name has another owner since: the late process changes nothing.
    two.abandon(intent).await.unwrap();
    let again = two.begin(&create, bob.id, &[]).await.unwrap();
    two.finish_create(&actor(), again, kind, "m", bob.id, &[]).await.unwrap();
    let owned = two.grants().await.unwrap();
    let late = [
        one.finish_create(&actor(), intent, kind, "m", alice.id, &[]).await,
        one.finish_create(&actor(), intent, kind, "without owner", alice.id, &[]).await,
        one.finish_drop(&actor(), intent, kind, "m").await,
        one.finish_rename(&actor(), intent, kind, "m", "n").await,
    ];
    assert!(late.iter().all(|late| matches!(late, Err(Error::TakenOver))), "{late:?}");
    assert_eq!(two.grants().await.unwrap(), owned);
    sql("INSERT INTO intents (effect, kind, subject, created) VALUES ('drop', 'prompt', 'p', 0)")
        .execute(&one.writer)
        .await
        .unwrap();
    assert_eq!(holder(&one).await, Holder::Unknown, "of a version that did not record itself");
}

#[tokio::test]
async fn a_right_is_released_that_was_being_taken_when_its_request_went_away() {
    let url = server::database().await;
    let clock = Clock::manual(START);
    let one = Store::open(&url, clock.clone()).await.unwrap();
    one.keep_alive().await.unwrap();
    // As a `hold` whose commit is under way.
    let mut tx = one.writer.begin().await.unwrap();
    let take = sql("INSERT INTO leases (name, holder, until) VALUES ('turn:a', $1, 9)").bind(&*one.replica);
    take.execute(&mut tx).await.unwrap();
    let releasing = one.release("turn:a");
    tokio::pin!(releasing);
    let waited = tokio::time::timeout(Duration::from_millis(200), releasing.as_mut()).await;
    assert!(waited.is_err(), "it waits");
    tx.commit().await.unwrap();
    releasing.await.unwrap();
    let left = sql("SELECT count(*) FROM leases WHERE name = 'turn:a'");
    assert_eq!(left.scalar::<i64>(&one.readers).await.unwrap(), 0);
}

#[tokio::test]
async fn a_process_that_lost_a_right_begins_nothing_under_it() {
    let url = server::database().await;
    let clock = Clock::manual(START);
    let one = Store::open(&url, clock.clone()).await.unwrap();
    let two = Store::open(&url, clock.clone()).await.unwrap();
    let alice = user(&one, "alice").await;
    let create = Mutation::Create { kind: ResourceKind::RegisteredModel, name: "m".to_owned() };
    let turns = ["turn:m".to_owned()];
    assert!(one.hold("turn:m").await.unwrap());
    assert!(two.is_held_elsewhere("turn:m").await.unwrap() && !one.is_held_elsewhere("turn:m").await.unwrap());
    one.begin(&create, alice.id, &turns).await.unwrap();
    // `one` is paused, and `two` takes over.
    for _ in 0..9 {
        clock.advance(Duration::from_secs(4));
        two.keep_alive().await.unwrap();
    }
    assert!(!two.is_held_elsewhere("turn:m").await.unwrap());
    assert!(two.hold("turn:m").await.unwrap());
    assert!(matches!(one.begin(&create, alice.id, &turns).await, Err(Error::TakenOver)));
    two.begin(&create, alice.id, &turns).await.unwrap();
    assert_eq!(one.intents().await.unwrap().len(), 2);
}
