//! One text of SQL over two databases: SQLite and PostgreSQL.
//!
//! [`sql`] takes a statement in the language that both understand, with parameters `$1`, `$2`, ...; a [`Row`] is read by
//! column name. Whatever the databases spell differently is in [`dialect`].

use std::borrow::Cow;

use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{AssertSqlSafe, Decode, Postgres, Row as _, SqlSafeStr as _, SqlStr, Sqlite, SqlitePool, Transaction, Type};

pub(super) mod dialect;
mod listen;
pub(super) mod migrations;
pub(super) mod postgres;
pub(super) mod sqlite;

/// Connections to one database.
#[derive(Clone, Debug)]
pub(super) enum Pool {
    Sqlite(SqlitePool),
    Postgres(postgres::Pool),
}

impl Pool {
    /// Starts a transaction that writes.
    pub(super) async fn begin(&self) -> Result<Tx, sqlx::Error> {
        match self {
            // IMMEDIATE takes the write lock at once. A transaction that reads first and writes later fails with
            // SQLITE_BUSY, without waiting for the busy timeout, when another process has written in between.
            Self::Sqlite(pool) => Ok(Tx::Sqlite(pool.begin_with("BEGIN IMMEDIATE").await?)),
            Self::Postgres(pool) => Ok(Tx::Postgres(pool.begin().await?)),
        }
    }

    /// Starts a transaction that reads, and sees one state of the database whatever others change meanwhile.
    pub(super) async fn begin_snapshot(&self) -> Result<Tx, sqlx::Error> {
        match self {
            Self::Sqlite(pool) => Ok(Tx::Sqlite(pool.begin().await?)),
            Self::Postgres(pool) => {
                let mut tx = pool.begin().await?;
                tx.script("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY").await?;
                Ok(Tx::Postgres(tx))
            }
        }
    }

    /// Closes all connections after the statements in progress are finished.
    pub(super) async fn close(&self) {
        match self {
            Self::Sqlite(pool) => pool.close().await,
            Self::Postgres(pool) => pool.close().await,
        }
    }
}

/// An open transaction. Dropping it rolls it back.
#[derive(Debug)]
pub(super) enum Tx {
    Sqlite(Transaction<'static, Sqlite>),
    Postgres(postgres::Tx),
}

impl Tx {
    pub(super) async fn commit(self) -> Result<(), sqlx::Error> {
        match self {
            Self::Sqlite(tx) => tx.commit().await,
            Self::Postgres(tx) => tx.commit().await,
        }
    }

    /// Runs statements without parameters, such as those of a migration.
    pub(super) async fn script(&mut self, text: &'static str) -> Result<(), sqlx::Error> {
        match self {
            Self::Sqlite(tx) => sqlx::raw_sql(text).execute(&mut **tx).await.map(drop),
            Self::Postgres(tx) => tx.script(text).await,
        }
    }
}

/// The place where a statement runs: on a connection of a pool, or in a transaction.
#[derive(Debug)]
pub(super) enum On<'c> {
    Pool(&'c Pool),
    Tx(&'c mut Tx),
}

impl<'c> From<&'c Pool> for On<'c> {
    fn from(pool: &'c Pool) -> Self {
        Self::Pool(pool)
    }
}

impl<'c> From<&'c mut Tx> for On<'c> {
    fn from(tx: &'c mut Tx) -> Self {
        Self::Tx(tx)
    }
}

/// Returns a statement in the SQL that both databases understand. `text` must not contain values.
pub(super) fn sql(text: impl Into<Cow<'static, str>>) -> Sql {
    Sql { text: text.into(), arguments: Vec::new(), takes_nul: false }
}

/// A statement and its parameters.
#[derive(Debug)]
pub(super) struct Sql {
    text: Cow<'static, str>,
    arguments: Vec<Argument>,
    takes_nul: bool,
}

impl Sql {
    /// Accepts NUL in text, where the database can store it: rows of an earlier release are copied as they are.
    pub(super) const fn with_nul(mut self) -> Self {
        self.takes_nul = true;
        self
    }

    /// Sets the next parameter.
    pub(super) fn bind(mut self, value: impl Into<Argument>) -> Self {
        self.arguments.push(value.into());
        self
    }

    /// Runs the statement and returns the number of rows that it changed.
    pub(super) async fn execute<'c>(self, on: impl Into<On<'c>>) -> Result<u64, sqlx::Error> {
        self.check()?;
        match on.into() {
            On::Pool(Pool::Sqlite(pool)) => Ok(self.sqlite().execute(pool).await?.rows_affected()),
            On::Tx(Tx::Sqlite(tx)) => Ok(self.sqlite().execute(&mut **tx).await?.rows_affected()),
            On::Pool(Pool::Postgres(pool)) => pool.execute(self.postgres()).await,
            On::Tx(Tx::Postgres(tx)) => tx.execute(self.postgres()).await,
        }
    }

    /// Runs the statement and returns all rows.
    pub(super) async fn fetch_all<'c>(self, on: impl Into<On<'c>>) -> Result<Vec<Row>, sqlx::Error> {
        self.check()?;
        let (sqlite, postgres) = match on.into() {
            On::Pool(Pool::Sqlite(pool)) => (self.sqlite().fetch_all(pool).await?, Vec::new()),
            On::Tx(Tx::Sqlite(tx)) => (self.sqlite().fetch_all(&mut **tx).await?, Vec::new()),
            On::Pool(Pool::Postgres(pool)) => (Vec::new(), pool.fetch_all(self.postgres()).await?),
            On::Tx(Tx::Postgres(tx)) => (Vec::new(), tx.fetch_all(self.postgres()).await?),
        };
        Ok(sqlite.into_iter().map(Row::Sqlite).chain(postgres.into_iter().map(Row::Postgres)).collect())
    }

    /// Runs a statement that returns at most a few rows, and returns the first one.
    pub(super) async fn fetch_optional<'c>(self, on: impl Into<On<'c>>) -> Result<Option<Row>, sqlx::Error> {
        Ok(self.fetch_all(on).await?.into_iter().next())
    }

    /// Runs a statement that returns one row.
    pub(super) async fn fetch_one<'c>(self, on: impl Into<On<'c>>) -> Result<Row, sqlx::Error> {
        self.fetch_optional(on).await?.ok_or(sqlx::Error::RowNotFound)
    }

    /// Runs a statement that returns one row with one value.
    pub(super) async fn scalar<'c, T: Value>(self, on: impl Into<On<'c>>) -> Result<T, sqlx::Error> {
        self.fetch_one(on).await?.first()
    }

    /// Runs a statement that returns at most one row with one value.
    pub(super) async fn scalar_optional<'c, T: Value>(self, on: impl Into<On<'c>>) -> Result<Option<T>, sqlx::Error> {
        self.fetch_optional(on).await?.as_ref().map(Row::first).transpose()
    }

    /// Runs a statement that returns rows with one value each.
    pub(super) async fn scalars<'c, T: Value>(self, on: impl Into<On<'c>>) -> Result<Vec<T>, sqlx::Error> {
        self.fetch_all(on).await?.iter().map(Row::first).collect()
    }

    /// Refuses NUL in text, which PostgreSQL cannot store. Both databases behave alike.
    fn check(&self) -> Result<(), sqlx::Error> {
        let has_nul = |value: &Argument| matches!(value, Argument::Text(Some(text)) if text.contains('\0'));
        if !self.takes_nul && self.arguments.iter().any(has_nul) {
            Err(sqlx::Error::Encode("text with NUL".into()))
        } else {
            Ok(())
        }
    }

    fn text(&mut self) -> SqlStr {
        match std::mem::take(&mut self.text) {
            Cow::Borrowed(text) => text.into_sql_str(),
            // INVARIANT: the texts are put together from constants; see `sql`.
            Cow::Owned(text) => AssertSqlSafe(text).into_sql_str(),
        }
    }

    fn sqlite(mut self) -> Query<'static, Sqlite, SqliteArguments> {
        let query = sqlx::query(self.text());
        self.arguments.into_iter().fold(query, |query, argument| match argument {
            Argument::Int(value) => query.bind(value),
            Argument::Text(value) => query.bind(value),
            Argument::Bytes(value) => query.bind(value),
            Argument::Bool(value) => query.bind(value),
        })
    }

    fn postgres(mut self) -> Query<'static, Postgres, PgArguments> {
        let query = sqlx::query(self.text());
        self.arguments.into_iter().fold(query, |query, argument| match argument {
            Argument::Int(value) => query.bind(value),
            Argument::Text(value) => query.bind(value),
            Argument::Bytes(value) => query.bind(value),
            Argument::Bool(value) => query.bind(value),
        })
    }
}

/// The value of a parameter. `None` is NULL.
#[derive(Debug)]
pub(super) enum Argument {
    Int(Option<i64>),
    Text(Option<String>),
    Bytes(Vec<u8>),
    Bool(bool),
}

impl From<i64> for Argument {
    fn from(value: i64) -> Self {
        Self::Int(Some(value))
    }
}

impl From<u32> for Argument {
    fn from(value: u32) -> Self {
        Self::Int(Some(value.into()))
    }
}

impl From<Option<i64>> for Argument {
    fn from(value: Option<i64>) -> Self {
        Self::Int(value)
    }
}

impl From<&str> for Argument {
    fn from(value: &str) -> Self {
        Self::Text(Some(value.to_owned()))
    }
}

impl From<&String> for Argument {
    fn from(value: &String) -> Self {
        Self::Text(Some(value.clone()))
    }
}

impl From<String> for Argument {
    fn from(value: String) -> Self {
        Self::Text(Some(value))
    }
}

impl From<Option<String>> for Argument {
    fn from(value: Option<String>) -> Self {
        Self::Text(value)
    }
}

impl From<&Option<String>> for Argument {
    fn from(value: &Option<String>) -> Self {
        Self::Text(value.clone())
    }
}

impl From<Option<&String>> for Argument {
    fn from(value: Option<&String>) -> Self {
        Self::Text(value.cloned())
    }
}

impl From<Option<&str>> for Argument {
    fn from(value: Option<&str>) -> Self {
        Self::Text(value.map(str::to_owned))
    }
}

impl From<Vec<u8>> for Argument {
    fn from(value: Vec<u8>) -> Self {
        Self::Bytes(value)
    }
}

impl From<bool> for Argument {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

/// A row of either database.
pub(super) enum Row {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

impl Row {
    /// Reads the column with this name.
    pub(super) fn try_get<'r, T>(&'r self, column: &str) -> Result<T, sqlx::Error>
    where
        T: Decode<'r, Sqlite> + Type<Sqlite> + Decode<'r, Postgres> + Type<Postgres>,
    {
        match self {
            Self::Sqlite(row) => row.try_get(column),
            Self::Postgres(row) => row.try_get(column),
        }
    }

    pub(super) fn first<T: Value>(&self) -> Result<T, sqlx::Error> {
        match self {
            Self::Sqlite(row) => row.try_get(0),
            Self::Postgres(row) => row.try_get(0),
        }
    }
}

/// A type that both databases can return.
pub(super) trait Value:
    for<'r> Decode<'r, Sqlite> + Type<Sqlite> + for<'r> Decode<'r, Postgres> + Type<Postgres>
{
}

impl<T> Value for T where T: for<'r> Decode<'r, Sqlite> + Type<Sqlite> + for<'r> Decode<'r, Postgres> + Type<Postgres> {}
