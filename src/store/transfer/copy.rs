//! Copies all rows of one store into another, empty one.
//!
//! The source is read in one snapshot and the target is written in one transaction, so that a copy is there as a whole
//! or not at all. Both have the same schema: [`Store::connect`] has migrated them.

use std::path::Path;
use std::time::Duration;

use super::super::audit::{self, Actor, AuditEntry};
use super::super::db::{self, Argument, Row, Tx, migrations, sql};
use super::super::{self as store, Store, leftover};
use super::tables::{Kind, TABLES, Table};
use super::{Error, Progress, Result, Side};
use crate::clock::Clock;
use crate::config::{self, StoreUrl};
use crate::crypto;

/// Number of rows that were copied, by table.
pub type Copied = Vec<(&'static str, u64)>;

/// Entry in the target's audit log about the copy.
#[derive(Clone, Debug)]
pub struct Note {
    pub actor: Actor,
    pub action: &'static str,
    pub detail: String,
}

/// Users of the source besides this process.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Others {
    /// The source stays in use.
    Welcome,
    Refused,
}

/// Returns true if both URLs name one database. Two URLs of one PostgreSQL database that are spelled differently are
/// detected by the locks of [`copy`].
#[must_use]
pub fn are_the_same(one: &config::Store, other: &config::Store) -> bool {
    let file = |config: &config::Store| std::fs::canonicalize(file_of(&config.url)?).ok();
    one.url == other.url || file(one).is_some_and(|one| file(other) == Some(one))
}

/// Opens a store that is copied, so that no other process uses it: an SQLite file is locked until the store is closed,
/// a database of PostgreSQL by [`copy`].
///
/// # Errors
/// [`Error::InUse`] when another process has the file open, and those of [`Store::connect`].
pub async fn connect_alone(config: &config::Store, side: Side, clock: Clock) -> Result<Store> {
    let file = match StoreUrl::parse(&config.url) {
        Ok(StoreUrl::Sqlite(_)) => file_of(&config.url),
        Ok(StoreUrl::Postgres(_)) | Err(_) => None,
    };
    if file.is_none() {
        return Ok(Store::connect(config, clock).await?);
    }
    let opened = async {
        let (only, used) = db::sqlite::open_alone(&config.url).await?;
        let store = Store::over(only.clone(), only, clock);
        store.migrate(used).await?;
        Ok(store)
    };
    opened.await.map_err(|error| match error {
        store::Error::Open(why) if why.contains("database is locked") => {
            let why = "another process has the file open; stop the proxy and every command that uses it".to_owned();
            Error::InUse { side, why }
        }
        other => other.into(),
    })
}

/// Copies all rows of `source` into `target`, and compares their numbers. Refuses a store on which a process serves.
///
/// # Errors
/// [`Error::InUse`], [`Error::NotEmpty`], [`Error::NoAccounts`], [`Error::OtherSchema`]; [`Error::Nul`] and [`Error::Unreadable`] for a row that
/// cannot be copied; [`Error::Count`] when rows are missing in the end.
pub async fn copy(
    source: &Store,
    target: &Store,
    note: &Note,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<Copied> {
    copy_with(source, target, Some(note), Others::Refused, progress).await
}

pub(super) async fn copy_with(
    source: &Store,
    target: &Store,
    note: Option<&Note>,
    others: Others,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<Copied> {
    let mut from = source.readers.begin_snapshot().await?;
    if others == Others::Refused {
        alone(source, Side::Source, &mut from).await?;
    }
    let mut to = target.writer.begin().await?;
    alone(target, Side::Target, &mut to).await?;
    for (side, tx) in [(Side::Source, &mut from), (Side::Target, &mut to)] {
        let found = migrations::version(tx).await?;
        if found != migrations::NEWEST {
            return Err(Error::OtherSchema { side, found, known: migrations::NEWEST });
        }
    }
    clear(&mut to).await?;
    let copied = fill(&mut from, &mut to, progress).await?;
    if let Some(Note { actor, action, detail }) = note {
        let (actor, action) = (actor.clone(), (*action).to_owned());
        let rows: u64 = copied.iter().map(|(_, rows)| rows).sum();
        let detail = format!("{detail}: {rows} rows");
        let entry = AuditEntry { at: target.now(), actor, action, target: "store".to_owned(), detail, count: 1 };
        audit::write(&mut to, &entry).await?;
    }
    to.commit().await.map_err(Error::Target)?;
    Ok(copied)
}

/// Refuses a store that others serve on or open now, and keeps them from opening it until the transaction ends.
async fn alone(store: &Store, side: Side, tx: &mut Tx) -> Result<()> {
    let mut attempt = 1;
    while !migrations::try_lock(tx).await? {
        if attempt == ATTEMPTS {
            let why = "it is the other store of this copy, or another process copies or opens it".to_owned();
            return Err(Error::InUse { side, why });
        }
        attempt += 1;
        tokio::time::sleep(PAUSE).await;
        if side == Side::Source {
            // A snapshot is of the time of its first statement, before the other process ended.
            *tx = store.readers.begin_snapshot().await?;
        }
    }
    let serving = sql("SELECT COUNT(*) FROM leases WHERE name LIKE 'replica:%' AND until > $1");
    let serving: i64 = serving.bind(store.now().0).scalar(tx).await?;
    if serving > 0 {
        let why = format!("{serving} processes serve on it; stop them, and wait 15 seconds after one that was killed");
        return Err(Error::InUse { side, why });
    }
    Ok(())
}

/// Checks that the target is empty, and removes the rows that every store has.
async fn clear(to: &mut Tx) -> Result<()> {
    // Locks the row that every change locks first, so that none comes in between.
    sql("UPDATE meta SET value = value + 1 WHERE name = 'revision'").execute(&mut *to).await.map_err(Error::Target)?;
    let mut found = Vec::new();
    for table in TABLES.iter().filter(|table| !table.is_never_empty) {
        let count = table.count(to).await?;
        if count > 0 {
            found.push(format!("{count} rows in {}", table.name));
        }
    }
    if !found.is_empty() {
        return Err(Error::NotEmpty(found.join(", ")));
    }
    for table in TABLES.iter().filter(|table| table.is_never_empty) {
        let delete = sql(format!("DELETE FROM {} WHERE {}", table.name, table.condition()));
        delete.execute(&mut *to).await.map_err(Error::Target)?;
    }
    // They are of earlier revisions of this database.
    sql("DELETE FROM changes").execute(&mut *to).await.map_err(Error::Target)?;
    if matches!(to, Tx::Sqlite(_)) {
        // A log of the file that this one replaces must not count as its own; see `leftover`.
        let [a, b, c, d] = crypto::random();
        let writes = leftover::FIRST + i64::from(u32::from_be_bytes([a, b, c, d]));
        let set = sql("UPDATE meta SET value = $1 WHERE name = 'writes'").bind(writes);
        set.execute(to).await.map_err(Error::Target)?;
    }
    Ok(())
}

async fn fill(from: &mut Tx, to: &mut Tx, progress: &mut (dyn FnMut(Progress) + Send)) -> Result<Copied> {
    let mut copied = Vec::with_capacity(TABLES.len());
    for table in &TABLES {
        copied.push((table.name, table.count(from).await?));
    }
    if copied.contains(&("users", 0)) {
        return Err(Error::NoAccounts);
    }
    let all = copied.iter().map(|(_, count)| count).sum();
    let mut done = 0;
    for (table, (_, here)) in TABLES.iter().zip(&copied) {
        let mut after = None;
        loop {
            progress(Progress { table: table.name, done, all });
            let page = table.page(from, after).await?;
            let Some(last) = page.last() else { break };
            insert(table, &page, to).await?;
            done += page.len() as u64;
            after = Some(table.key_of(last)?);
        }
        let there = table.count(to).await?;
        if there != *here {
            return Err(Error::Count { table: table.name, here: *here, there });
        }
        if table.is_numbered() {
            // IDs of rows that were deleted are not given again either.
            let last: i64 = sql(from.last_id()).bind(table.name).scalar(&mut *from).await?;
            if last > 0 {
                to.set_last_id(table.name, last).await.map_err(Error::Target)?;
            }
        }
    }
    Ok(copied)
}

async fn insert(table: &Table, page: &[Row], to: &mut Tx) -> Result<()> {
    let width = table.columns.len();
    let places = |row: usize| (1..=width).map(move |column| format!("${}", row * width + column));
    let rows = (0..page.len()).map(|row| format!("({})", places(row).collect::<Vec<_>>().join(", ")));
    let rows = rows.collect::<Vec<_>>().join(", ");
    let mut insert = sql(format!("INSERT INTO {} ({}) VALUES {rows}", table.name, table.column_names()));
    for row in page {
        for (column, kind) in table.columns {
            insert = insert.bind(value(table, row, column, *kind, to)?);
        }
    }
    insert.with_nul().execute(to).await.map(drop).map_err(Error::Target)
}

fn value(table: &Table, row: &Row, column: &'static str, kind: Kind, to: &Tx) -> Result<Argument> {
    let place = || table.place(row);
    let value = kind.value(row, column);
    let value = value.map_err(|cause| Error::Unreadable { place: place(), cause: cause.to_string() })?;
    match (&value, to) {
        (Argument::Text(Some(text)), Tx::Postgres(_)) if text.contains('\0') => {
            let remedy = table.without_nul(row, column);
            Err(Error::Nul { place: place(), column, remedy })
        }
        (Argument::Text(_) | Argument::Int(_) | Argument::Bytes(_) | Argument::Bool(_), _) => Ok(value),
    }
}

/// Number of attempts to lock a database, which others that open it lock for a moment.
const ATTEMPTS: u32 = 10;
const PAUSE: Duration = Duration::from_millis(200);

/// Returns the path of a store that is a file.
fn file_of(url: &str) -> Option<&Path> {
    url.strip_prefix("sqlite://").map(Path::new)
}
