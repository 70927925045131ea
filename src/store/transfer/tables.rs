//! The tables of the store and their columns, for what handles all of them alike: copies, backups and checks.
//!
//! A test compares the list with both schemas.

use super::super::db::{Argument, Row, sql};
use super::super::{Result, db, rows, sessions};
use Kind::{Bool, Bytes, Int, Text};

/// A table whose rows are copied.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) name: &'static str,
    /// The columns of the primary key, in its order.
    pub(super) key: &'static [&'static str],
    pub(super) columns: &'static [(&'static str, Kind)],
    /// True if every store has rows of its own here, which a copy replaces.
    pub(super) is_never_empty: bool,
    /// Reads a row as the store does when it uses it.
    pub(super) read: fn(&Row) -> Result<()>,
}

/// Type of a column.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Int,
    Text,
    Bytes,
    Bool,
}

/// All tables but `OTHERS`. Referenced tables come before those that refer to them.
pub(super) const TABLES: [Table; 13] = [
    Table { is_never_empty: true, ..table("meta", &["name"], &[("name", Text), ("value", Int)], |_| Ok(())) },
    Table {
        is_never_empty: true,
        ..table("sealing_keys", &["name"], &[("name", Text), ("value", Bytes)], |row| rows::sealing_key(row).map(drop))
    },
    table(
        "users",
        &["id"],
        &[
            ("id", Int),
            ("name", Text),
            ("password", Text),
            ("admin", Bool),
            ("created", Int),
            ("issuer", Text),
            ("subject", Text),
            ("groups", Text),
            ("group_admin", Bool),
            ("allowed", Bool),
            ("seen", Int),
            ("suspended", Int),
        ],
        |row| rows::user(row).map(drop),
    ),
    table("roles", &["id"], &[("id", Int), ("workspace", Text), ("name", Text), ("description", Text)], |row| {
        rows::role(row).map(drop)
    }),
    table("role_assignments", &["id"], &[("id", Int), ("user_id", Int), ("role_id", Int)], |row| {
        rows::assignment(row).map(drop)
    }),
    table(
        "tokens",
        &["id"],
        &[
            ("id", Int),
            ("user_id", Int),
            ("name", Text),
            ("hash", Bytes),
            ("scopes", Text),
            ("created", Int),
            ("expires", Int),
            ("last_used", Int),
            ("revoked", Int),
        ],
        |row| rows::token(row).map(drop),
    ),
    table(
        "grants",
        &["id"],
        &[
            ("id", Int),
            ("subject_kind", Text),
            ("subject", Text),
            ("kind", Text),
            ("form", Text),
            ("selector", Text),
            ("permission", Text),
            ("created", Int),
            ("thing_created", Int),
        ],
        |row| rows::grant(row).map(drop),
    ),
    table(
        "intents",
        &["id"],
        &[
            ("id", Int),
            ("effect", Text),
            ("kind", Text),
            ("subject", Text),
            ("new", Text),
            ("user_id", Int),
            ("created", Int),
            ("holder", Text),
        ],
        |row| rows::mutation(row).map(drop),
    ),
    table(
        "sessions",
        &["id"],
        &[
            ("id", Int),
            ("hash", Bytes),
            ("user_id", Int),
            ("provider", Text),
            ("issuer", Text),
            ("subject", Text),
            ("sid", Text),
            ("tokens", Text),
            ("created", Int),
            ("last_used", Int),
            ("expires", Int),
            ("refresh_at", Int),
            ("refresh_lease", Int),
            ("failures", Int),
            ("address", Text),
            ("agent", Text),
        ],
        |row| sessions::session(row).map(drop),
    ),
    table("logout_tokens", &["issuer", "jti"], &[("issuer", Text), ("jti", Text), ("expires", Int)], |_| Ok(())),
    table("reserved_names", &["name"], &[("name", Text), ("issuer", Text), ("subject", Text), ("since", Int)], |_| {
        Ok(())
    }),
    table("used_once", &["kind", "id"], &[("kind", Text), ("id", Text), ("expires", Int)], |_| Ok(())),
    table(
        "audit",
        &["id"],
        &[
            ("id", Int),
            ("at", Int),
            ("actor", Text),
            ("token", Int),
            ("address", Text),
            ("action", Text),
            ("target", Text),
            ("detail", Text),
            ("count", Int),
        ],
        |row| rows::audit_entry(row).map(drop),
    ),
];

/// The tables that are not copied: the schema's own, and what processes that serve tell each other, with their counters
/// of wrong passwords. A copy has none of these processes.
#[cfg(test)]
pub(super) const OTHERS: [&str; 5] = ["_sqlx_migrations", "compatibility", "leases", "changes", "guesses"];

/// Columns that the database computes from others.
#[cfg(test)]
pub(super) const GENERATED: [(&str, &str); 2] = [("grants", "user_id"), ("grants", "role_id")];

const fn table(
    name: &'static str,
    key: &'static [&'static str],
    columns: &'static [(&'static str, Kind)],
    read: fn(&Row) -> Result<()>,
) -> Table {
    Table { name, key, columns, is_never_empty: false, read }
}

impl Table {
    /// Returns true if the database numbers the rows.
    pub(super) fn is_numbered(&self) -> bool {
        self.key == ["id"]
    }

    /// Returns the number of rows that are copied.
    pub(super) async fn count(&self, on: &mut db::Tx) -> std::result::Result<u64, sqlx::Error> {
        let count: i64 =
            sql(format!("SELECT COUNT(*) FROM {} WHERE {}", self.name, self.condition())).scalar(on).await?;
        Ok(count.unsigned_abs())
    }

    /// Returns the next rows after the one with this key, in the order of the key.
    pub(super) async fn page(
        &self,
        on: &mut db::Tx,
        after: Option<Vec<Argument>>,
    ) -> std::result::Result<Vec<Row>, sqlx::Error> {
        let key = self.key.join(", ");
        let places = (1..=self.key.len()).map(|place| format!("${place}")).collect::<Vec<_>>().join(", ");
        let later = if after.is_some() { format!("({key}) > ({places})") } else { "1 = 1".to_owned() };
        let page = sql(format!(
            "SELECT {} FROM {} WHERE {later} AND {} ORDER BY {key} LIMIT {ROWS_AT_ONCE}",
            self.column_names(),
            self.name,
            self.condition()
        ));
        after.into_iter().flatten().fold(page.with_nul(), db::Sql::bind).fetch_all(on).await
    }

    /// Returns the values of the key's columns.
    pub(super) fn key_of(&self, row: &Row) -> std::result::Result<Vec<Argument>, sqlx::Error> {
        let keys = self.columns.iter().filter(|(name, _)| self.key.contains(name));
        keys.map(|(name, kind)| kind.value(row, name)).collect()
    }

    /// Returns the place of a row for users, such as `users: id 12`.
    pub(super) fn place(&self, row: &Row) -> String {
        let keys = self.columns.iter().filter(|(name, _)| self.key.contains(name));
        let parts = keys.map(|(name, kind)| match kind.value(row, name) {
            Ok(Argument::Int(Some(number))) => format!("{name} {number}"),
            Ok(Argument::Text(Some(text))) => format!("{name} {text:?}"),
            Ok(_) | Err(_) => format!("{name} unreadable"),
        });
        format!("{}: {}", self.name, parts.collect::<Vec<_>>().join(", "))
    }

    /// Returns the statement that cuts NUL and what follows off a text of the row, in an SQLite file.
    pub(super) fn without_nul(&self, row: &Row, column: &str) -> String {
        let keys = self.columns.iter().filter(|(name, _)| self.key.contains(name));
        let keys = keys.map(|(name, kind)| match kind.value(row, name) {
            Ok(Argument::Int(Some(number))) => format!("{name} = {number}"),
            // A key that contains NUL itself, or a quotation mark, is not put into a statement.
            Ok(Argument::Text(Some(text))) if !text.contains(['\0', '\'']) => format!("{name} = '{text}'"),
            Ok(_) | Err(_) => format!("instr({name}, char(0)) > 0"),
        });
        let keys = keys.collect::<Vec<_>>().join(" AND ");
        format!("UPDATE {} SET {column} = substr({column}, 1, instr({column}, char(0)) - 1) WHERE {keys}", self.name)
    }

    /// Returns the names of all columns, separated by commas.
    pub(super) fn column_names(&self) -> String {
        self.columns.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    }

    /// Selects the rows that are copied. The counter of [`super::super::leftover`] belongs to one file of SQLite.
    pub(super) fn condition(&self) -> &'static str {
        if self.name == "meta" { "name <> 'writes'" } else { "1 = 1" }
    }
}

impl Kind {
    /// Reads the column as the value of a parameter.
    pub(super) fn value(self, row: &Row, column: &str) -> std::result::Result<Argument, sqlx::Error> {
        Ok(match self {
            Int => Argument::Int(row.try_get(column)?),
            Text => Argument::Text(row.try_get(column)?),
            Bytes => Argument::Bytes(row.try_get(column)?),
            Bool => Argument::Bool(row.try_get(column)?),
        })
    }
}

/// Rows that are read and written at once. Their parameters are fewer than either database allows in a statement.
pub(super) const ROWS_AT_ONCE: usize = 500;
