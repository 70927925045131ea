//! The statements that SQLite and PostgreSQL spell differently.

use super::{Pool, Tx, sql};

impl Pool {
    /// Returns the statement that reads the size of the database in bytes.
    pub(in crate::store) const fn size(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()",
            Self::Postgres(_) => "SELECT pg_database_size(current_database())",
        }
    }
}

impl Pool {
    /// Returns the statement that reads the time of the database, in Unix milliseconds.
    pub(in crate::store) const fn time(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "SELECT CAST(unixepoch('subsec') * 1000 AS INTEGER)",
            Self::Postgres(_) => "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint",
        }
    }
}

impl Tx {
    /// Returns the statement that reads the last ID that was given to a row of the table, whose name is its parameter.
    pub(in crate::store) const fn last_id(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "SELECT COALESCE((SELECT seq FROM sqlite_sequence WHERE name = $1), 0)",
            Self::Postgres(_) => {
                "SELECT COALESCE(pg_sequence_last_value(pg_get_serial_sequence($1, 'id')::regclass), 0)"
            }
        }
    }

    /// Sets the last ID that was given to a row of the table.
    pub(in crate::store) async fn set_last_id(&mut self, table: &'static str, id: i64) -> Result<(), sqlx::Error> {
        match self {
            Self::Sqlite(_) => {
                sql("DELETE FROM sqlite_sequence WHERE name = $1").bind(table).execute(&mut *self).await?;
                let set = sql("INSERT INTO sqlite_sequence (name, seq) VALUES ($1, $2)");
                set.bind(table).bind(id).execute(self).await.map(drop)
            }
            Self::Postgres(_) => {
                let set = sql("SELECT setval(pg_get_serial_sequence($1, 'id')::regclass, $2)");
                set.bind(table).bind(id).fetch_all(self).await.map(drop)
            }
        }
    }

    /// Returns the statement that creates the table of applied migrations, as sqlx defines it.
    pub(super) const fn migrations_table(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => {
                "CREATE TABLE IF NOT EXISTS _sqlx_migrations (
                     version BIGINT PRIMARY KEY, description TEXT NOT NULL,
                     installed_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
                     success BOOLEAN NOT NULL, checksum BLOB NOT NULL, execution_time BIGINT NOT NULL)"
            }
            Self::Postgres(_) => {
                "CREATE TABLE IF NOT EXISTS _sqlx_migrations (
                     version BIGINT PRIMARY KEY, description TEXT NOT NULL,
                     installed_on TIMESTAMPTZ NOT NULL DEFAULT now(),
                     success BOOLEAN NOT NULL, checksum BYTEA NOT NULL, execution_time BIGINT NOT NULL)"
            }
        }
    }
}
