//! SQLite: the file, its options and its two pools.
//!
//! There is one writer, because SQLite allows only one, and queueing for a connection here is fairer than SQLite's
//! lock. There are several readers, which WAL never blocks.

use std::fs::{self, OpenOptions, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::str::FromStr as _;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteLockingMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, SqlitePool};

use super::Pool;
use crate::store::leftover::{self, Use};
use crate::store::{Error, Result};

/// Opens `sqlite://path` (created when absent, mode 0600) or `sqlite::memory:`, as `config::StoreUrl` accepts it. Returns the pool of the writer and that
/// of the readers.
pub(in crate::store) async fn open(url: &str) -> Result<(Pool, Pool, Use)> {
    let options = options(url)?;
    if url == MEMORY {
        // An in-memory database exists only in its connection, so both pools share one that is kept open.
        let only = Pool::Sqlite(pool(options, 1).await?);
        return Ok((only.clone(), only, Use::Open));
    }
    let used = prepare(&options).await?;
    let writing = writing(&options);
    let writer = lasting(writing, 1).await?;
    let readers = lasting(options.pragma("query_only", "ON"), READERS).await?;
    Ok((Pool::Sqlite(writer), Pool::Sqlite(readers), used))
}

/// Opens `sqlite://path` for this process alone: no other one can open it until it is closed.
pub(in crate::store) async fn open_alone(url: &str) -> Result<(Pool, Use)> {
    let options = options(url)?;
    let used = prepare(&options).await?;
    // Set before the first access, this mode locks the main file itself, which every other user of the file locks too.
    let only = pool(writing(&options).locking_mode(SqliteLockingMode::Exclusive), 1).await?;
    Ok((Pool::Sqlite(only), used))
}

/// Opens a new file, which no other process uses yet, without a log beside it. A crash leaves an unusable file.
pub(in crate::store) async fn open_new(path: &Path) -> Result<Pool> {
    make_file(path)?;
    let options = SqliteConnectOptions::new().filename(path).foreign_keys(true).disable_statement_logging();
    let options = options.journal_mode(SqliteJournalMode::Memory).synchronous(SqliteSynchronous::Off);
    Ok(Pool::Sqlite(pool(options.locking_mode(SqliteLockingMode::Exclusive), 1).await?))
}

/// Opens a file that is not changed, neither by this process nor by others. Files beside it are not looked at.
pub(in crate::store) async fn open_unchanged(path: &Path) -> Result<Pool> {
    let options = SqliteConnectOptions::new().filename(path).read_only(true).immutable(true);
    Ok(Pool::Sqlite(pool(options.disable_statement_logging(), 1).await?))
}

/// Opens an empty database that is gone when it is closed. Its file, if it needs one, has no name.
pub(in crate::store) async fn open_temporary() -> Result<Pool> {
    let options = SqliteConnectOptions::new().filename("").journal_mode(SqliteJournalMode::Memory).foreign_keys(false);
    Ok(Pool::Sqlite(pool(options.disable_statement_logging(), 1).await?))
}

async fn prepare(options: &SqliteConnectOptions) -> Result<Use> {
    make_file(options.get_filename())?;
    keep_private(options.get_filename())?;
    leftover::check(options.get_filename()).await
}

fn writing(options: &SqliteConnectOptions) -> SqliteConnectOptions {
    options.clone().journal_mode(SqliteJournalMode::Wal).synchronous(SqliteSynchronous::Full)
}

const MEMORY: &str = "sqlite::memory:";
const READERS: u32 = 4;
/// Time that a statement waits for SQLite's lock while another process holds it.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);
/// Time that a request waits for a connection: twice [`BUSY_TIMEOUT`], for two writers that wait for the lock.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(4);

fn options(url: &str) -> Result<SqliteConnectOptions> {
    let options = SqliteConnectOptions::from_str(url).map_err(|error| Error::Open(error.to_string()))?;
    Ok(options.foreign_keys(true).busy_timeout(BUSY_TIMEOUT).disable_statement_logging())
}

async fn pool(options: SqliteConnectOptions, connections: u32) -> Result<SqlitePool> {
    connect(settings(connections), options).await
}

/// Returns a pool that replaces a connection whose transaction cannot be ended.
///
/// On a full disk, SQLite rolls a transaction back by itself. sqlx then fails to do it and counts the transaction as open for ever, so
/// that no other can begin on the connection.
async fn lasting(options: SqliteConnectOptions, connections: u32) -> Result<SqlitePool> {
    let settings = settings(connections).before_acquire(|connection, _| {
        let usable = !connection.is_in_transaction();
        Box::pin(async move { Ok(usable) })
    });
    connect(settings, options).await
}

fn settings(connections: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
}

async fn connect(settings: SqlitePoolOptions, options: SqliteConnectOptions) -> Result<SqlitePool> {
    settings.connect_with(options).await.map_err(|error| Error::Open(error.to_string()))
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
                    "`{name}` is accessible to all users (mode {mode:03o}), which cannot be changed: {error}; its owner \
                     should run `chmod 600`"
                )));
            }
        }
    }
    Ok(())
}
