//! PostgreSQL: options, pools and transactions.
//!
//! A connection on which a statement was cut off, by a time limit or because its caller went away, is closed and not
//! reused: the server may be unreachable, and a connection that waits for it would keep its place in the pool.

use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgArguments, PgConnectOptions, PgConnection, PgListener, PgPoolOptions, PgRow, PgSslMode};
use sqlx::query::Query;
use sqlx::{ConnectOptions as _, Connection as _, PgPool, Postgres, Row as _};
use tokio::sync::Notify;
use tokio::time::error::Elapsed;
use tokio::time::timeout;

use crate::config;
use crate::config::{PostgresUrl, SslMode};
use crate::crypto::reveal;
use crate::store::Error;

type Result<T> = std::result::Result<T, sqlx::Error>;
type Statement = Query<'static, Postgres, PgArguments>;

/// Opens the database. Returns the pool for changes and the pool for reads: changes wait for each other, and reads must
/// not wait for them.
pub(in crate::store) async fn open(
    url: &PostgresUrl,
    config: &config::Store,
) -> std::result::Result<(super::Pool, super::Pool), Error> {
    let options = options(url, config);
    // A first connection, because the pool reports most causes only as a timeout.
    let first = timeout(config.acquire_timeout, async {
        let mut first = options.connect().await?;
        check(&mut first).await?;
        first.close().await
    });
    match first.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(Error::Open(explain(&error))),
        Err(_) => {
            let seconds = config.acquire_timeout.as_secs();
            return Err(Error::Open(format!("the server did not answer within {seconds} seconds")));
        }
    }
    let writers = (config.max_connections / 4).max(1);
    let pool = |connections| super::Pool::Postgres(Pool::new(options.clone(), config, connections));
    Ok((pool(writers), pool(config.max_connections.saturating_sub(writers).max(1))))
}

fn options(url: &PostgresUrl, config: &config::Store) -> PgConnectOptions {
    let mode = match url.ssl_mode {
        SslMode::Disable => PgSslMode::Disable,
        SslMode::Prefer => PgSslMode::Prefer,
        SslMode::Require => PgSslMode::Require,
        SslMode::VerifyCa => PgSslMode::VerifyCa,
        SslMode::VerifyFull => PgSslMode::VerifyFull,
    };
    let password = config.password.as_ref().map_or("", reveal);
    // Every value is set here, because sqlx would otherwise read it from the environment (`PGPASSWORD`, ...).
    let mut options = PgConnectOptions::new_without_pgpass()
        .host(&url.host)
        .port(url.port)
        .username(&url.user)
        .password(password)
        .database(&url.database)
        .ssl_mode(mode)
        .application_name(&application_name());
    if let Some(directory) = &url.socket {
        options = options.socket(directory);
    }
    if let Some(file) = &url.ssl_root_cert {
        options = options.ssl_root_cert(file);
    }
    if let Some((cert, key)) = &url.ssl_client {
        options = options.ssl_client_cert(cert).ssl_client_key(key);
    }
    let limit = config.statement_timeout.as_millis().to_string();
    options
        .options([("statement_timeout", limit.as_str()), ("idle_in_transaction_session_timeout", limit.as_str())])
        .disable_statement_logging()
}

/// Returns the name by which `pg_stat_activity` shows this replica. PostgreSQL keeps 63 bytes.
fn application_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host: String = host.trim().chars().filter(char::is_ascii_graphic).take(40).collect();
    format!("mlflow-auth-proxy {host}")
}

/// Refuses a server that cannot be written, or that stores text in another encoding than UTF-8.
async fn check(connection: &mut PgConnection) -> Result<()> {
    let row = sqlx::query(
        "SELECT pg_is_in_recovery(), current_setting('transaction_read_only') = 'on', current_setting('server_encoding')",
    )
    .persistent(false)
    .fetch_one(connection)
    .await?;
    let (is_standby, is_read_only, encoding): (bool, bool, String) =
        (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    if is_standby || is_read_only {
        return Err(sqlx::Error::Configuration(READ_ONLY.into()));
    }
    if encoding != "UTF8" {
        return Err(sqlx::Error::Configuration(
            format!("the database's encoding is {encoding}; it must be UTF8").into(),
        ));
    }
    Ok(())
}

const READ_ONLY: &str = "the server is a standby or read-only; the store needs the primary server";

/// Returns the cause with the key to change.
fn explain(error: &sqlx::Error) -> String {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    match code.as_deref() {
        Some("28P01" | "28000") => {
            format!("{error}; check the user in store.url, store.password and the server's pg_hba.conf")
        }
        Some("3D000") => format!("{error}; create it: `createdb --owner USER --encoding UTF8 NAME`"),
        Some("42501") => format!("{error}; the user needs CONNECT on the database"),
        _ => match error {
            sqlx::Error::Configuration(cause) => cause.to_string(),
            sqlx::Error::Tls(cause) => format!("TLS: {cause}; check sslmode and sslrootcert in store.url"),
            error => error.to_string(),
        },
    }
}

/// Connections to one server.
#[derive(Clone, Debug)]
pub(in crate::store) struct Pool {
    connections: PgPool,
    /// Limit of one statement, seen from here. The server's own limit ends the statement earlier if the server answers.
    limit: Duration,
}

impl Pool {
    fn new(options: PgConnectOptions, config: &config::Store, connections: u32) -> Self {
        let connections = PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(config.acquire_timeout)
            .idle_timeout(IDLE)
            .max_lifetime(LIFETIME)
            .after_connect(|connection, _| Box::pin(check(connection)))
            .connect_lazy_with(options);
        Self { connections, limit: config.statement_timeout + MARGIN }
    }

    pub(super) async fn execute(&self, statement: Statement) -> Result<u64> {
        self.hold().await?.execute(statement).await
    }

    pub(super) async fn fetch_all(&self, statement: Statement) -> Result<Vec<PgRow>> {
        self.hold().await?.fetch_all(statement).await
    }

    pub(super) async fn begin(&self) -> Result<Tx> {
        let mut held = self.hold().await?;
        held.script("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE").await?;
        Ok(Tx { held: Some(held), has_failed: false })
    }

    pub(super) async fn close(&self) {
        self.connections.close().await;
    }

    /// Wakes `wake` at every notification of a change, and when notifications may have been missed. Reports to
    /// `connected` whether notifications are received. Never returns.
    pub(in crate::store) async fn listen(&self, wake: &Notify, connected: impl Fn(bool) + Send + Sync) {
        loop {
            let listened = self.listen_once(wake, &connected).await;
            connected(false);
            if let Err(error) = listened {
                tracing::debug!(%error, "notifications of changes are not received; the store is asked twice a second");
            }
            tokio::time::sleep(RECONNECT).await;
        }
    }

    async fn listen_once(&self, wake: &Notify, connected: &(impl Fn(bool) + Send + Sync)) -> Result<()> {
        let options = PgConnectOptions::clone(&self.connections.connect_options());
        let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(CONNECT);
        let pool = pool.after_connect(|connection, _| Box::pin(check(connection))).connect_lazy_with(options);
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.eager_reconnect(false);
        answered(listener.listen(CHANNEL)).await?;
        connected(true);
        loop {
            // Also at first: changes since the last connection were not announced.
            wake.notify_one();
            match timeout(PING_EVERY, listener.try_recv()).await {
                Ok(received) => {
                    if received?.is_none() {
                        return Ok(());
                    }
                }
                // Nothing tells an idle connection that the server is gone.
                Err(_) => answered(sqlx::raw_sql("SELECT 1").execute(&mut listener)).await.map(drop)?,
            }
        }
    }

    async fn hold(&self) -> Result<Held> {
        Ok(Held { connection: self.connections.acquire().await?, limit: self.limit, is_sound: true })
    }
}

/// Fails if the server does not answer in time.
async fn answered<T>(answer: impl Future<Output = Result<T>>) -> Result<T> {
    let timed_out = |_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into());
    timeout(CONNECT, answer).await.unwrap_or_else(timed_out)
}

/// The channel on which the database announces changes; see the trigger in the migrations.
const CHANNEL: &str = "mlflow_auth_proxy";
/// Limit of connecting, and of the answer to a ping.
const CONNECT: Duration = Duration::from_secs(5);
/// Pause before listening again.
const RECONNECT: Duration = Duration::from_secs(1);
/// Time without a notification after which the connection is tested.
const PING_EVERY: Duration = Duration::from_secs(10);
/// Time after which an unused connection is closed.
const IDLE: Duration = Duration::from_mins(5);
/// Time after which a connection is replaced, so that a changed address is found.
const LIFETIME: Duration = Duration::from_mins(30);
/// Time by which the limit here is longer than the server's.
const MARGIN: Duration = Duration::from_secs(1);
/// Limit of rolling back in the background.
const ROLLBACK: Duration = Duration::from_secs(2);

/// A connection that is closed instead of reused, unless its last statement was answered.
#[derive(Debug)]
struct Held {
    connection: PoolConnection<Postgres>,
    limit: Duration,
    is_sound: bool,
}

impl Held {
    async fn execute(&mut self, statement: Statement) -> Result<u64> {
        self.is_sound = false;
        let done = timeout(self.limit, statement.execute(&mut *self.connection)).await;
        self.judge(done).map(|done| done.rows_affected())
    }

    async fn fetch_all(&mut self, statement: Statement) -> Result<Vec<PgRow>> {
        self.is_sound = false;
        let rows = timeout(self.limit, statement.fetch_all(&mut *self.connection)).await;
        self.judge(rows)
    }

    async fn script(&mut self, text: &'static str) -> Result<()> {
        self.is_sound = false;
        let done = timeout(self.limit, sqlx::raw_sql(text).execute(&mut *self.connection)).await;
        self.judge(done).map(drop)
    }

    /// Keeps the connection if the server answered, with rows or with an error that concerns the statement alone.
    fn judge<T>(&mut self, answer: std::result::Result<Result<T>, Elapsed>) -> Result<T> {
        let answer = answer.unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()));
        self.is_sound = match &answer {
            Ok(_) => true,
            // 25006: the server became read-only. 57P..: it is being stopped. Another server may answer next time.
            Err(sqlx::Error::Database(error)) => {
                error.code().is_none_or(|code| code != "25006" && !code.starts_with("57P"))
            }
            Err(_) => false,
        };
        answer
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.is_sound {
            self.connection.close_on_drop();
        }
    }
}

/// An open transaction.
#[derive(Debug)]
pub(in crate::store) struct Tx {
    /// `None` after the commit.
    held: Option<Held>,
    has_failed: bool,
}

impl Tx {
    pub(super) async fn execute(&mut self, statement: Statement) -> Result<u64> {
        let done = self.held()?.execute(statement).await;
        self.has_failed |= done.is_err();
        done
    }

    pub(super) async fn fetch_all(&mut self, statement: Statement) -> Result<Vec<PgRow>> {
        let rows = self.held()?.fetch_all(statement).await;
        self.has_failed |= rows.is_err();
        rows
    }

    pub(super) async fn script(&mut self, text: &'static str) -> Result<()> {
        let done = self.held()?.script(text).await;
        self.has_failed |= done.is_err();
        done
    }

    pub(super) async fn commit(mut self) -> Result<()> {
        // PostgreSQL answers COMMIT without an error when a statement has failed, and rolls back.
        if self.has_failed {
            return Err(sqlx::Error::Protocol("a statement of the transaction failed".to_owned()));
        }
        self.held()?.script("COMMIT").await?;
        self.held = None;
        Ok(())
    }

    fn held(&mut self) -> Result<&mut Held> {
        self.held.as_mut().ok_or(sqlx::Error::PoolClosed)
    }
}

impl Drop for Tx {
    #[expect(clippy::disallowed_methods, reason = "the pool returns connections in tasks of its own as well")]
    fn drop(&mut self) {
        let Some(mut held) = self.held.take() else { return };
        // After a statement without an answer the connection is closed, which rolls back too.
        if !held.is_sound {
            return;
        }
        held.limit = ROLLBACK;
        tokio::spawn(async move { held.script("ROLLBACK").await });
    }
}
