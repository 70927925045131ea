//! Opens the database: creates the file, builds the two pools and runs the migrations.
//!
//! There is one writer, because SQLite allows only one, and queueing for a connection here is fairer than SQLite's
//! lock. There are several readers, which WAL never blocks.

use std::fs::{self, OpenOptions, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::str::FromStr as _;
use std::time::Duration;

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions as _, SqlSafeStr as _, SqlitePool};

use super::leftover::{self, Use};
use super::{Error, Result, Store};
use crate::clock::Clock;
use crate::crypto;

impl Store {
    /// Opens `sqlite://path` (created when absent, mode 0600) or `sqlite::memory:`, and migrates its tables.
    ///
    /// # Errors
    /// [`Error::Open`] when the URL is not supported, or the file cannot be opened, created or migrated.
    pub async fn open(url: &str, clock: Clock) -> Result<Self> {
        let mut attempt = 1;
        loop {
            match Self::open_once(url, clock.clone()).await {
                // Switching to WAL fails at once while another process does the same: the busy timeout does not apply
                // to it.
                Err(Error::Open(why)) if attempt < OPEN_ATTEMPTS && why.contains("database is locked") => attempt += 1,
                opened => return opened,
            }
            tokio::time::sleep(OPEN_PAUSE).await;
        }
    }

    async fn open_once(url: &str, clock: Clock) -> Result<Self> {
        let options = options(url)?;
        let mut used = Use::Somebody;
        let (writer, readers) = if url == MEMORY {
            // An in-memory database exists only in its connection, so both pools share one that is kept open.
            let only = pool(options, 1).await?;
            (only.clone(), only)
        } else {
            make_file(options.get_filename())?;
            keep_private(options.get_filename())?;
            used = leftover::check(options.get_filename()).await?;
            let writing = options.clone().journal_mode(SqliteJournalMode::Wal).synchronous(SqliteSynchronous::Full);
            let writer = pool(writing, 1).await?;
            (writer, pool(options.pragma("query_only", "ON"), READERS).await?)
        };
        let store = Self { writer, readers, clock };
        store.migrate(used).await.map_err(|error| Error::Open(error.to_string()))?;
        Ok(store)
    }

    /// Migrates the tables in one transaction that holds the write lock from its start, so that two processes that
    /// open a new file take turns.
    async fn migrate(&self, used: Use) -> std::result::Result<(), sqlx::Error> {
        if used == Use::Nobody {
            // A leftover log is applied now, so that the next log starts from the current state.
            sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&self.writer).await?;
        }
        let mut tx = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        migrator().run_direct(None, &mut *tx, false).await?;
        for name in ["page_tokens", "sessions"] {
            sqlx::query("INSERT INTO sealing_keys (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING")
                .bind(name)
                .bind(crypto::random::<32>().to_vec())
                .execute(&mut *tx)
                .await?;
        }
        sqlx::query("INSERT INTO meta (name, value) VALUES ('writes', $1) ON CONFLICT (name) DO NOTHING")
            .bind(leftover::FIRST)
            .execute(&mut *tx)
            .await?;
        if used == Use::Nobody {
            // From here on, the count in the log differs from the count in the main file, which a copied backup
            // contains.
            sqlx::query("UPDATE meta SET value = value + 1 WHERE name = 'writes'").execute(&mut *tx).await?;
        }
        tx.commit().await
    }
}

const MEMORY: &str = "sqlite::memory:";
const READERS: u32 = 4;
const OPEN_ATTEMPTS: u32 = 10;
const OPEN_PAUSE: Duration = Duration::from_millis(100);
/// Time that a statement waits for SQLite's lock while another process holds it.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);
/// Time that a request waits for a connection: twice [`BUSY_TIMEOUT`], for two writers that wait for the lock.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(4);

fn options(url: &str) -> Result<SqliteConnectOptions> {
    let known = url == MEMORY || url.strip_prefix("sqlite://").is_some_and(|path| !path.is_empty());
    // Parameters could disable properties that the store relies on (`mode=ro`, `mode=memory`, `immutable`).
    if !known || url.contains(['?', '#']) {
        return Err(Error::Open(format!("`{url}` is not `sqlite://path` or `{MEMORY}`")));
    }
    let options = SqliteConnectOptions::from_str(url).map_err(|error| Error::Open(error.to_string()))?;
    Ok(options.foreign_keys(true).busy_timeout(BUSY_TIMEOUT).disable_statement_logging())
}

async fn pool(options: SqliteConnectOptions, connections: u32) -> Result<SqlitePool> {
    SqlitePoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        .connect_with(options)
        .await
        .map_err(|error| Error::Open(error.to_string()))
}

/// Creates the file with mode 0600 before SQLite opens it. SQLite gives the `-wal` and `-shm` files the same mode.
fn make_file(path: &Path) -> Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(Error::Open(format!("`{}`: {error}", path.display()))),
    }
}

/// Removes the access rights of group and others from the database and its companion files, which a copy or a volume
/// can have added.
///
/// # Errors
/// [`Error::Open`] when others have access and the process is not allowed to remove it.
fn keep_private(path: &Path) -> Result<()> {
    for file in ["", "-wal", "-shm"].map(|end| leftover::beside(path, end)) {
        let Ok(mode) = fs::metadata(&file).map(|file| file.mode() & 0o777) else { continue };
        if mode & 0o077 == 0 {
            continue;
        }
        let name = file.display();
        match fs::set_permissions(&file, Permissions::from_mode(mode & 0o700)) {
            Ok(()) => {
                tracing::warn!("`{name}` was accessible to others (mode {mode:03o}); it is its owner's alone now")
            }
            // This process itself may depend on the group rights, if another user owns the file.
            Err(_) if mode & 0o007 == 0 => {
                tracing::warn!("`{name}` is accessible to its group (mode {mode:03o}), which cannot be changed");
            }
            Err(error) => {
                return Err(Error::Open(format!(
                    "`{name}` is accessible to everybody (mode {mode:03o}), which cannot be changed: {error}; its owner \
                     should run `chmod 600`"
                )));
            }
        }
    }
    Ok(())
}

fn migrator() -> Migrator {
    let migrations = [
        (1, "ground", include_str!("../../migrations/sqlite/0001_ground.sql")),
        (2, "roles", include_str!("../../migrations/sqlite/0002_roles.sql")),
        (3, "people", include_str!("../../migrations/sqlite/0003_people.sql")),
        (4, "reserved names", include_str!("../../migrations/sqlite/0004_reserved_names.sql")),
        (5, "audit count", include_str!("../../migrations/sqlite/0005_audit_count.sql")),
        (6, "thing created", include_str!("../../migrations/sqlite/0006_thing_created.sql")),
    ];
    let migrations = migrations.map(|(number, name, text)| {
        Migration::new(number, name.into(), MigrationType::Simple, text.into_sql_str(), false)
    });
    Migrator::with_migrations(migrations.into())
}
