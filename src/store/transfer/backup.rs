//! Backups: files of SQLite with the content of a store of either database.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::super::db::{self, Pool, migrations, sql};
use super::super::leftover::{self, Use};
use super::super::{self as store, Store};
use super::copy::{Others, copy_with};
use super::{Copied, Error, Progress, Result};
use crate::clock::Clock;
use crate::crypto;

/// Writes a backup of a store, which others may use and change meanwhile. It appears under its name as a whole or not at
/// all, with mode 0600. `replaces` allows it to take the place of an older file.
///
/// # Errors
/// [`Error::Exists`], [`Error::File`], and those of [`super::copy()`] about rows.
pub async fn write_backup(
    source: &Store,
    file: &Path,
    replaces: bool,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<Copied> {
    check_place(file, replaces)?;
    let partial = Partial::beside(file);
    let only = db::sqlite::open_new(&partial.0).await.map_err(|error| match error {
        store::Error::Open(why) => Error::BadBackup(format!("the backup cannot be written: {why}")),
        other => other.into(),
    })?;
    let backup = Store::over(only.clone(), only, source.clock.clone());
    backup.migrate(Use::Open).await?;
    let copied = copy_with(source, &backup, None, Others::Welcome, progress).await?;
    let faults: Vec<String> = sql("PRAGMA integrity_check(3)").scalars(&backup.readers).await?;
    backup.close().await;
    if faults != ["ok"] {
        return Err(Error::BadBackup(format!("the backup was written with faults: {}", faults.join(", "))));
    }
    check_place(file, replaces)?;
    let failed = |cause| Error::File { file: file.display().to_string(), cause };
    File::open(&partial.0).and_then(|it| it.sync_all()).map_err(failed)?;
    fs::rename(&partial.0, file).map_err(failed)?;
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|it| it.sync_all()).map_err(failed)?;
    Ok(copied)
}

/// Checks that a backup may get this name. It takes the place of nothing but a file that is no store in use.
fn check_place(file: &Path, replaces: bool) -> Result<()> {
    let name = file.display();
    let Ok(found) = fs::symlink_metadata(file) else { return Ok(()) };
    if !replaces {
        return Err(Error::Exists(name.to_string()));
    }
    let exists = |end: &&str| fs::symlink_metadata(leftover::beside(file, end)).is_ok();
    let is_of_store = |end: &&str| file.as_os_str().as_encoded_bytes().ends_with(end.as_bytes());
    if !found.is_file() || COMPANIONS.iter().any(|end| exists(end) || is_of_store(end)) {
        return Err(Error::BadBackup(format!(
            "`{name}` is not replaced: it is not a regular file, or belongs to a store that is in use; choose another name"
        )));
    }
    Ok(())
}

/// Endings of the files that SQLite keeps beside a database in use.
const COMPANIONS: [&str; 3] = ["-wal", "-shm", "-journal"];

/// An unfinished backup, which is removed unless it was renamed.
struct Partial(PathBuf);

impl Partial {
    fn beside(file: &Path) -> Self {
        let random: String = crypto::random_text().chars().filter(char::is_ascii_alphanumeric).take(8).collect();
        Self(leftover::beside(file, &format!(".{random}.partial")))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Opens a backup for reading, without changing it: an older schema is migrated in a temporary copy. A store's file is
/// accepted as well if nothing beside it belongs to it.
///
/// # Errors
/// [`Error::BadBackup`] when the file is not a backup, is damaged or has a newer schema.
pub async fn open_backup(file: &Path, clock: Clock) -> Result<Store> {
    let name = file.display();
    check_file(file)?;
    let damaged =
        |error: &dyn std::fmt::Display| Error::BadBackup(format!("`{name}` is damaged: {error}. Use another backup"));
    let readable = async {
        let only = db::sqlite::open_unchanged(file).await.map_err(|error| damaged(&error))?;
        let faults: Vec<String> =
            sql("PRAGMA integrity_check(3)").scalars(&only).await.map_err(|error| damaged(&error))?;
        if faults == ["ok"] { Ok(only) } else { Err(damaged(&faults.join(", "))) }
    };
    let only = readable.await?;
    let expected =
        sql("SELECT COUNT(*) FROM sqlite_master WHERE name IN ('_sqlx_migrations', 'meta', 'users', 'audit')");
    if expected.scalar::<i64>(&only).await? < 4 {
        return Err(Error::BadBackup(format!("`{name}` is another program's database, not a backup of a store")));
    }
    let mut tx = only.begin_snapshot().await?;
    let found = migrations::version(&mut tx).await?;
    if found > migrations::NEWEST {
        let release = sql("SELECT release FROM compatibility").scalar_optional(&mut tx).await?;
        let release: String = release.unwrap_or_else(|| "a newer one".to_owned());
        return Err(Error::BadBackup(format!(
            "`{name}` has schema {found}, newer than this release's {}; restore it with the release that wrote it \
             ({release} or later; this is {})",
            migrations::NEWEST,
            env!("CARGO_PKG_VERSION")
        )));
    }
    drop(tx);
    if found == migrations::NEWEST {
        return Ok(Store::over(only.clone(), only, clock));
    }
    only.close().await;
    let copy = migrated(file, found).await.map_err(|error| damaged(&error))?;
    let store = Store::over(copy.clone(), copy, clock);
    store.migrate(Use::Open).await?;
    Ok(store)
}

/// Checks what tells a backup from other files before SQLite reads it.
fn check_file(file: &Path) -> Result<()> {
    let name = file.display();
    let mut head = [0; 16];
    let failed = |cause| Error::File { file: name.to_string(), cause };
    if !fs::metadata(file).map_err(failed)?.is_file() {
        return Err(Error::BadBackup(format!("`{name}` is not a file")));
    }
    let is_sqlite = File::open(file).map_err(failed)?.read_exact(&mut head).is_ok() && head == *b"SQLite format 3\0";
    if !is_sqlite {
        return Err(Error::BadBackup(format!("`{name}` is not a backup; `mlflow-auth-proxy store backup` writes one")));
    }
    // Without its log, a store lacks its newest changes.
    for log in ["-wal", "-journal"].map(|end| leftover::beside(file, end)) {
        if fs::metadata(&log).is_ok_and(|log| log.len() > 0) {
            return Err(Error::BadBackup(format!(
                "`{name}` is the file of a store whose newest changes are in `{}`; use `store copy`, or make a backup \
                 of that store",
                log.display()
            )));
        }
    }
    Ok(())
}

/// Returns a temporary database with the rows of the file, in the tables of its schema `version`, for migrations.
///
/// INVARIANT: no text of the file is executed. Its definitions of tables could contain further statements.
async fn migrated(file: &Path, version: i64) -> Result<Pool> {
    let copy = db::sqlite::open_temporary().await?;
    sql("ATTACH $1 AS old").bind(format!("file:{}?immutable=1", escaped(file))).execute(&copy).await?;
    let mut tx = copy.begin().await?;
    let known: Vec<_> = migrations::STEPS.into_iter().filter(|step| step.0 <= version).collect();
    migrations::run(&mut tx, &known).await?;
    let tables = sql("SELECT name FROM main.sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'
             AND name <> '_sqlx_migrations'");
    for table in tables.scalars::<String>(&mut tx).await? {
        let columns = sql("SELECT name FROM pragma_table_info($1, 'main')").bind(table.as_str());
        let columns = columns.scalars::<String>(&mut tx).await?.join("\", \"");
        sql(format!("DELETE FROM main.{table}")).execute(&mut tx).await?;
        let copy = format!("INSERT INTO main.{table} (\"{columns}\") SELECT \"{columns}\" FROM old.{table}");
        sql(copy).execute(&mut tx).await?;
    }
    // The highest IDs that were given, also those of deleted rows.
    sql("DELETE FROM main.sqlite_sequence").execute(&mut tx).await?;
    let numbers = "INSERT INTO main.sqlite_sequence (name, seq) SELECT name, seq FROM old.sqlite_sequence";
    sql(numbers).execute(&mut tx).await?;
    tx.commit().await?;
    sql("DETACH old").execute(&copy).await?;
    Ok(copy)
}

/// Returns the path for a URI of SQLite.
fn escaped(file: &Path) -> String {
    percent_encoding::percent_encode(file.as_os_str().as_encoded_bytes(), percent_encoding::NON_ALPHANUMERIC)
        .to_string()
}
