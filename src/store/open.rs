//! Opening a database: its file, its two pools, its tables.
//!
//! One writer, because SQLite has one anyway and queueing here is fairer than its lock; several readers, which WAL
//! never makes wait.

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
    /// Opens `sqlite://path` (made when absent, mode 0600) or `sqlite::memory:`, and brings its tables up to date.
    ///
    /// # Errors
    /// [`Error::Open`] when the URL means no database we can use, or the file cannot be opened, made or brought up to date.
    pub async fn open(url: &str, clock: Clock) -> Result<Self> {
        let mut attempt = 1;
        loop {
            match Self::open_once(url, clock.clone()).await {
                // Turning WAL on does not wait for another process that does the same, whatever the busy timeout says.
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
            // It lives in its connection: one for all, kept for ever.
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

    /// In one transaction with the write lock held from its start: two processes that open a new file take turns.
    async fn migrate(&self, used: Use) -> std::result::Result<(), sqlx::Error> {
        if used == Use::Nobody {
            // A log that was left is applied for good, so that the next one begins with the present state.
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
            // From here on, what a backup reads through the log differs from the main file.
            sqlx::query("UPDATE meta SET value = value + 1 WHERE name = 'writes'").execute(&mut *tx).await?;
        }
        tx.commit().await
    }
}

const MEMORY: &str = "sqlite::memory:";
const READERS: u32 = 4;
const OPEN_ATTEMPTS: u32 = 10;
const OPEN_PAUSE: Duration = Duration::from_millis(100);
/// How long another process may hold SQLite's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a request waits for a connection: two writers stuck behind the lock, and no more.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(4);

fn options(url: &str) -> Result<SqliteConnectOptions> {
    let known = url == MEMORY || url.strip_prefix("sqlite://").is_some_and(|path| !path.is_empty());
    // Parameters could turn off what we rely on (`mode=ro`, `mode=memory`, `immutable`).
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

/// Makes the file before SQLite does, so that it is nobody else's to read. Its WAL takes over the mode.
fn make_file(path: &Path) -> Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(Error::Open(format!("`{}`: {error}", path.display()))),
    }
}

/// Takes the rights of everybody but the owner off the database and its companions; a copy or a volume may have brought them.
///
/// # Errors
/// [`Error::Open`] when others may read or write it and the process is not allowed to change that.
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
            // Group rights alone may be how this process itself reaches a file of another owner.
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
