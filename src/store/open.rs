//! Opens the store: the connections of its database, and the migrations.

use std::sync::Arc;
use std::time::Duration;

use super::changes::Followers;
use super::db::{self, migrations, sql};
use super::leftover::{self, Use};
use super::{Error, Result, Store};
use crate::clock::Clock;
use crate::config::{self, StoreUrl};
use crate::crypto;

impl Store {
    /// Opens the database at `url` with default settings, and migrates its tables. See [`Store::connect`].
    ///
    /// # Errors
    /// [`Error::Open`] when the URL is not supported, or the database cannot be opened, created or migrated.
    pub async fn open(url: &str, clock: Clock) -> Result<Self> {
        let config = config::Store::at(url).map_err(|why| bad_url(&why))?;
        Self::connect(&config, clock).await
    }

    /// Opens the database and migrates its tables. An SQLite file is created when absent, with mode 0600.
    ///
    /// # Errors
    /// [`Error::Open`] when the database cannot be opened, created or migrated.
    pub async fn connect(config: &config::Store, clock: Clock) -> Result<Self> {
        let mut attempt = 1;
        loop {
            match Self::connect_once(config, clock.clone()).await {
                // Switching to WAL fails at once while another process does the same: the busy timeout does not apply
                // to it.
                Err(Error::Open(why)) if attempt < OPEN_ATTEMPTS && why.contains("database is locked") => attempt += 1,
                opened => return opened,
            }
            tokio::time::sleep(OPEN_PAUSE).await;
        }
    }

    async fn connect_once(config: &config::Store, clock: Clock) -> Result<Self> {
        let (writer, readers, used) = match StoreUrl::parse(&config.url).map_err(|why| bad_url(&why))? {
            StoreUrl::Sqlite(url) => db::sqlite::open(&url).await?,
            StoreUrl::Postgres(url) => {
                let (writer, readers) = db::postgres::open(&url, config).await?;
                (writer, readers, Use::Open)
            }
        };
        let store = Self::over(writer, readers, clock);
        store.migrate(used).await?;
        store.follow_clock().await?;
        Ok(store)
    }

    pub(super) fn over(writer: db::Pool, readers: db::Pool, clock: Clock) -> Self {
        Self {
            writer,
            readers,
            clock,
            followers: Followers::default(),
            replica: crypto::random_text().into(),
            own_lease: Arc::default(),
        }
    }

    /// Migrates the tables in one transaction that holds a lock from its start, so that processes that open a new
    /// database together take turns.
    pub(super) async fn migrate(&self, used: Use) -> Result<()> {
        if used == Use::Unopened {
            // A leftover log is applied now, so that the next log starts from the current state.
            sql("PRAGMA wal_checkpoint(TRUNCATE)").execute(&self.writer).await.map_err(Error::open)?;
        }
        let mut tx = self.writer.begin().await.map_err(Error::open)?;
        migrations::run(&mut tx, &migrations::STEPS).await?;
        for name in ["page_tokens", "sessions"] {
            sql("INSERT INTO sealing_keys (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING")
                .bind(name)
                .bind(crypto::random::<32>().to_vec())
                .execute(&mut tx)
                .await
                .map_err(Error::open)?;
        }
        if matches!(tx, db::Tx::Sqlite(_)) {
            sql("INSERT INTO meta (name, value) VALUES ('writes', $1) ON CONFLICT (name) DO NOTHING")
                .bind(leftover::FIRST)
                .execute(&mut tx)
                .await
                .map_err(Error::open)?;
        }
        if used == Use::Unopened {
            // From here on, the count in the log differs from the count in the main file, which a copied backup
            // contains.
            let raise = sql("UPDATE meta SET value = value + 1 WHERE name = 'writes'");
            raise.execute(&mut tx).await.map_err(Error::open)?;
        }
        tx.commit().await.map_err(Error::open)
    }
}

/// Describes a fault of the URL without the URL, which could contain a password.
fn bad_url(why: &str) -> Error {
    Error::Open(format!("the URL of the store {why}"))
}

const OPEN_ATTEMPTS: u32 = 10;
const OPEN_PAUSE: Duration = Duration::from_millis(100);
