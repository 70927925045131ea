//! The migrations of both databases.
//!
//! The table of applied migrations is that of sqlx, whose migrator cannot run inside a transaction of its caller and
//! refuses every newer schema. Here, a process also serves with a newer schema that is compatible with it: the table
//! `compatibility` contains the oldest schema that a process must know, and the release that has it.

use sqlx::SqlSafeStr as _;
use sqlx::migrate::{Migration, MigrationType};

use super::{Tx, sql};
use crate::store::{Error, Result};

/// Name of a migration, its text for SQLite and its text for PostgreSQL. A missing text is part of a later one.
pub(in crate::store) type Step = (i64, &'static str, &'static str, Option<&'static str>);

pub(in crate::store) const STEPS: [Step; 7] = [
    (1, "ground", include_str!("../../../migrations/sqlite/0001_ground.sql"), None),
    (2, "roles", include_str!("../../../migrations/sqlite/0002_roles.sql"), None),
    (3, "people", include_str!("../../../migrations/sqlite/0003_people.sql"), None),
    (4, "reserved names", include_str!("../../../migrations/sqlite/0004_reserved_names.sql"), None),
    (5, "audit count", include_str!("../../../migrations/sqlite/0005_audit_count.sql"), None),
    (6, "thing created", include_str!("../../../migrations/sqlite/0006_thing_created.sql"), None),
    (
        7,
        "replicas",
        include_str!("../../../migrations/sqlite/0007_replicas.sql"),
        Some(include_str!("../../../migrations/postgres/0007_replicas.sql")),
    ),
];

/// The schema that this process needs.
pub(in crate::store) const NEWEST: i64 = 7;

/// Runs the missing migrations in an open transaction.
///
/// # Errors
/// [`Error::Open`] when a migration fails, differs from the one that was applied, or the schema is newer and
/// incompatible.
pub(in crate::store) async fn run(tx: &mut Tx, steps: &[Step]) -> Result<()> {
    let newest = steps.last().map_or(0, |(version, ..)| *version);
    lock(tx).await.map_err(|error| match error.as_database_error().and_then(sqlx::error::DatabaseError::code) {
        // The time limit of statements.
        Some(code) if code == "57014" => {
            Error::Open("another process copies or migrates it; try again when that has finished".to_owned())
        }
        Some(_) | None => Error::open(error),
    })?;
    tx.script(tx.migrations_table()).await.map_err(Error::open)?;
    let rows = sql("SELECT version, checksum FROM _sqlx_migrations ORDER BY version");
    let mut applied = Vec::new();
    for row in rows.fetch_all(&mut *tx).await.map_err(Error::open)? {
        applied.push((
            row.try_get::<i64>("version").map_err(Error::open)?,
            row.try_get::<Vec<u8>>("checksum").map_err(Error::open)?,
        ));
    }
    if applied.last().is_some_and(|(version, _)| *version > newest) {
        return compatible(tx, newest).await;
    }
    for &(version, name, sqlite, postgres) in steps {
        let Some(text) = (if matches!(tx, Tx::Sqlite(_)) { Some(sqlite) } else { postgres }) else { continue };
        let step = Migration::new(version, name.into(), MigrationType::Simple, text.into_sql_str(), false);
        match applied.iter().find(|(applied, _)| *applied == version) {
            Some((_, checksum)) if checksum.as_slice() == &*step.checksum => {}
            Some(_) => {
                return Err(Error::Open(format!(
                    "migration {version} was applied in another form than this version has"
                )));
            }
            None => {
                tx.script(text).await.map_err(|error| Error::Open(format!("migration {version}: {error}")))?;
                sql("INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
                     VALUES ($1, $2, $3, $4, -1)")
                .bind(version)
                .bind(name)
                .bind(true)
                .bind(step.checksum.to_vec())
                .execute(&mut *tx)
                .await
                .map_err(Error::open)?;
            }
        }
    }
    Ok(())
}

/// Returns the number of the last migration that was applied.
pub(in crate::store) async fn version(tx: &mut Tx) -> Result<i64> {
    Ok(sql("SELECT COALESCE(MAX(version), 0) FROM _sqlx_migrations").scalar(tx).await?)
}

/// Keeps other processes from opening the database until the transaction ends. Returns false if another transaction
/// does the same. An SQLite database that this process has alone needs no lock.
pub(in crate::store) async fn try_lock(tx: &mut Tx) -> Result<bool> {
    match tx {
        Tx::Sqlite(_) => Ok(true),
        Tx::Postgres(_) => Ok(sql("SELECT pg_try_advisory_xact_lock($1)").bind(LOCK).scalar(tx).await?),
    }
}

/// Returns the checksum of a migration of SQLite.
#[cfg(test)]
pub(in crate::store) fn checksum(version: i64) -> Option<Vec<u8>> {
    let (_, name, sqlite, _) = STEPS.into_iter().find(|step| step.0 == version)?;
    let step = Migration::new(version, name.into(), MigrationType::Simple, sqlite.into_sql_str(), false);
    Some(step.checksum.to_vec())
}

/// Waits for other processes that migrate the same database. SQLite's transactions already exclude each other.
pub(in crate::store) async fn lock(tx: &mut Tx) -> std::result::Result<(), sqlx::Error> {
    if matches!(tx, Tx::Postgres(_)) {
        sql("SELECT pg_advisory_xact_lock($1)").bind(LOCK).fetch_all(tx).await?;
    }
    Ok(())
}

/// Checks that a process that needs the schema `newest` may use a newer one.
async fn compatible(tx: &mut Tx, newest: i64) -> Result<()> {
    let row = sql("SELECT oldest, release FROM compatibility").fetch_one(tx).await.map_err(Error::open)?;
    let (oldest, release): (i64, String) =
        (row.try_get("oldest").map_err(Error::open)?, row.try_get("release").map_err(Error::open)?);
    if oldest <= newest {
        return Ok(());
    }
    Err(Error::Open(format!(
        "the store was migrated by a newer version; install mlflow-auth-proxy {release} or later (this is {})",
        env!("CARGO_PKG_VERSION")
    )))
}

/// The key of the advisory lock: `mlflow-a` in ASCII.
const LOCK: i64 = 0x6d6c_666c_6f77_2d61;
