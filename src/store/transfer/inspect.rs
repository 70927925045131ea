//! Looks for faults in a store: damage, rows that cannot be read, and references that lead nowhere. Changes nothing.

use std::collections::BTreeSet;

use super::super::Store;
use super::super::db::{Argument, Row, Tx, migrations, sql};
use super::tables::{TABLES, Table};
use super::{Progress, Result};

/// One fault.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fault {
    /// The table and the row, or the part of the database.
    pub place: String,
    pub fault: String,
}

/// Result of an inspection.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Inspection {
    /// Number of the last migration that was applied.
    pub schema: i64,
    /// Rows that were read.
    pub rows: u64,
    /// The first faults.
    pub faults: Vec<Fault>,
    /// Number of further faults.
    pub more: u64,
}

impl Inspection {
    fn add(&mut self, place: impl Into<String>, fault: impl Into<String>) {
        if self.faults.len() < AT_MOST {
            self.faults.push(Fault { place: place.into(), fault: fault.into() });
        } else {
            self.more += 1;
        }
    }
}

/// Inspects a store, which others may use meanwhile.
///
/// # Errors
/// The database does not answer.
pub async fn inspect(store: &Store, progress: &mut (dyn FnMut(Progress) + Send)) -> Result<Inspection> {
    let mut tx = store.readers.begin_snapshot().await?;
    let mut found = Inspection { schema: migrations::version(&mut tx).await?, ..Inspection::default() };
    database(&mut tx, &mut found).await?;
    let mut all = 0;
    for table in &TABLES {
        all += table.count(&mut tx).await?;
    }
    let mut keys = BTreeSet::new();
    for table in &TABLES {
        let mut after = None;
        loop {
            progress(Progress { table: table.name, done: found.rows, all });
            let page = table.page(&mut tx, after).await?;
            let Some(last) = page.last() else { break };
            page.iter().for_each(|row| inspect_row(table, row, &mut keys, &mut found));
            found.rows += page.len() as u64;
            let Ok(key) = table.key_of(last) else {
                found.add(table.name, "the rows after it were not read");
                break;
            };
            after = Some(key);
        }
        if table.is_numbered() {
            numbers(table, &mut tx, &mut found).await?;
        }
    }
    for name in ["page_tokens", "sessions"] {
        if !keys.contains(name) {
            found.add(format!("sealing_keys: name {name:?}"), "the key is missing");
        }
    }
    Ok(found)
}

/// Collects what the database itself reports.
async fn database(tx: &mut Tx, found: &mut Inspection) -> Result<()> {
    match tx {
        Tx::Sqlite(_) => {
            for fault in sql("PRAGMA integrity_check").scalars::<String>(&mut *tx).await? {
                if fault != "ok" {
                    found.add("database", fault);
                }
            }
            for row in sql("PRAGMA foreign_key_check").fetch_all(&mut *tx).await? {
                let (table, id): (String, Option<i64>) = (row.try_get("table")?, row.try_get("rowid")?);
                let place = format!("{table}: id {}", id.unwrap_or_default());
                found.add(place, format!("refers to a row of {} that is missing", row.try_get::<String>("parent")?));
            }
        }
        Tx::Postgres(_) => {
            let unchecked = sql("SELECT conrelid::regclass::text || ': ' || conname::text FROM pg_constraint
                 WHERE NOT convalidated AND connamespace = current_schema()::regnamespace");
            for place in unchecked.scalars::<String>(&mut *tx).await? {
                found.add(place, "the constraint is not enforced for all rows");
            }
            let invalid =
                sql("SELECT i.indexrelid::regclass::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
                 WHERE NOT i.indisvalid AND c.relnamespace = current_schema()::regnamespace");
            for place in invalid.scalars::<String>(&mut *tx).await? {
                found.add(place, "the index is invalid; run REINDEX");
            }
        }
    }
    Ok(())
}

fn inspect_row(table: &Table, row: &Row, keys: &mut BTreeSet<String>, found: &mut Inspection) {
    for (column, kind) in table.columns {
        match kind.value(row, column) {
            Ok(Argument::Text(Some(text))) if text.contains('\0') => {
                found.add(table.place(row), format!("the column {column} contains NUL, which PostgreSQL cannot store"));
            }
            Ok(_) => {}
            Err(error) => return found.add(table.place(row), error.to_string()),
        }
    }
    if let Err(error) = (table.read)(row) {
        return found.add(table.place(row), error.to_string());
    }
    if table.name == "sealing_keys" {
        keys.extend(row.try_get::<String>("name"));
    }
}

/// Checks that the next row gets a new ID.
async fn numbers(table: &Table, tx: &mut Tx, found: &mut Inspection) -> Result<()> {
    let last: i64 = sql(tx.last_id()).bind(table.name).scalar(&mut *tx).await?;
    let highest = sql(format!("SELECT COALESCE(MAX(id), 0) FROM {}", table.name));
    let highest: i64 = highest.scalar(tx).await?;
    if highest > last {
        found.add(
            table.name,
            format!(
                "the highest ID is {highest}, but the last one that was given is {last}: new rows would get used IDs"
            ),
        );
    }
    Ok(())
}

/// Number of faults that are listed.
const AT_MOST: usize = 200;
