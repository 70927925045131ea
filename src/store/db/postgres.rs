//! PostgreSQL: options, pools and transactions.
//!
//! A connection on which a statement was cut off, by a time limit or because its caller went away, is closed and not
//! reused: the server may be unreachable, and a connection that waits for it would keep its place in the pool.
//!
//! Behind PgBouncer in transaction mode, consecutive transactions run on any of the server's sessions. So every statement
//! runs in a transaction, which also sets the time limits; nothing is prepared for later; and `READ WRITE` refuses a
//! standby to which PgBouncer has moved on.

use std::sync::Arc;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgArguments, PgConnectOptions, PgConnection, PgPoolOptions, PgRow, PgSslMode};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgPool, Postgres, Row as _, SqlSafeStr as _, SqlStr};
use tokio::time::error::Elapsed;
use tokio::time::timeout;

use super::listen::Notifications;
use crate::config;
use crate::config::{PostgresUrl, SslMode};
use crate::crypto::reveal;
use crate::store::Error;

pub(super) type Result<T> = std::result::Result<T, sqlx::Error>;
type Statement = Query<'static, Postgres, PgArguments>;

/// Opens the database. Returns the pool for changes and the pool for reads: changes wait for each other, and reads must
/// not wait for them.
pub(in crate::store) async fn open(
    url: &PostgresUrl,
    config: &config::Store,
) -> std::result::Result<(super::Pool, super::Pool), Error> {
    let route = Route::of(config);
    let options = options(url, config, route);
    // A first connection, because the pool reports most causes only as a timeout.
    let first = timeout(config.acquire_timeout, async {
        let mut first = options.connect().await?;
        check(&mut first, route.limit(config)).await?;
        sqlx::raw_sql(begin(config)).execute(&mut first).await?;
        sqlx::raw_sql("ROLLBACK").execute(&mut first).await?;
        first.close().await
    });
    match first.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(Error::Open(explain(&error, "store.url"))),
        Err(_) => {
            let seconds = config.acquire_timeout.as_secs();
            return Err(Error::Open(format!("the server did not answer within {seconds} seconds")));
        }
    }
    let writers = (config.max_connections / 4).max(1);
    let notifications = Arc::new(match &config.listen_url {
        // A pooler that keeps sessions may be in between, and listening needs no limits.
        Some(url) => {
            Notifications { options: Some(self::options(url, config, Route::Pooled)), key: "store.listen_url" }
        }
        None => Notifications { options: (route == Route::Direct).then(|| options.clone()), key: "store.url" },
    });
    let pool = |connections| {
        let options = options.clone();
        super::Pool::Postgres(Pool::new(options, config, connections, Arc::clone(&notifications)))
    };
    Ok((pool(writers), pool(config.max_connections.saturating_sub(writers).max(1))))
}

/// The way to the server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Route {
    Direct,
    /// Through PgBouncer in transaction mode.
    Pooled,
}

impl Route {
    const fn of(config: &config::Store) -> Self {
        if config.pgbouncer { Self::Pooled } else { Self::Direct }
    }

    /// Returns the time limit of statements that a session has from its start.
    const fn limit(self, config: &config::Store) -> Option<Duration> {
        match self {
            Self::Direct => Some(config.statement_timeout),
            Self::Pooled => None,
        }
    }
}

fn options(url: &PostgresUrl, config: &config::Store, route: Route) -> PgConnectOptions {
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
    options = match route.limit(config) {
        Some(limit) => {
            let limit = limit.as_millis().to_string();
            options.options(TIMEOUTS.map(|name| (name, limit.as_str())))
        }
        // PgBouncer refuses parameters that it does not know, and keeps `application_name` apart for each client.
        None => options.extra_float_digits(None).statement_cache_capacity(0),
    };
    options.disable_statement_logging()
}

/// Limits of a session, in milliseconds.
const TIMEOUTS: [&str; 2] = ["statement_timeout", "idle_in_transaction_session_timeout"];

/// Returns the statements that begin a transaction.
fn begin(config: &config::Store) -> SqlStr {
    let mut text = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE".to_owned();
    if config.pgbouncer {
        let limit = config.statement_timeout.as_millis();
        text.extend(TIMEOUTS.map(|name| format!("; SET LOCAL {name} = {limit}")));
    }
    // INVARIANT: the text contains nothing but constants and a number.
    AssertSqlSafe(text).into_sql_str()
}

/// Returns the name by which `pg_stat_activity` shows this replica. PostgreSQL keeps 63 bytes.
fn application_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host: String = host.trim().chars().filter(char::is_ascii_graphic).take(40).collect();
    format!("mlflow-auth-proxy {host}")
}

/// Refuses a server that cannot be written, that stores text in another encoding than UTF-8, or that has not taken the
/// time limit of statements over.
pub(super) async fn check(connection: &mut PgConnection, limit: Option<Duration>) -> Result<()> {
    // Without parameters, a statement is sent as a whole, so a pooler cannot run its parts in different sessions.
    let row = sqlx::raw_sql(
        "SELECT pg_is_in_recovery(), current_setting('transaction_read_only') = 'on', current_setting('server_encoding'),
                (SELECT setting FROM pg_settings WHERE name = 'statement_timeout')",
    )
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
    if limit.is_some_and(|limit| row.try_get::<&str, _>(3).ok() != Some(&limit.as_millis().to_string())) {
        return Err(sqlx::Error::Configuration(POOLER.into()));
    }
    Ok(())
}

const POOLER: &str = "the server has not taken statement_timeout over, so a pooler is in between; if it is PgBouncer, set \
                      store.pgbouncer";
const READ_ONLY: &str = "the server is a standby or read-only; the store needs the primary server";

/// Returns the cause with the next step. `key` contains the URL.
pub(super) fn explain(error: &sqlx::Error, key: &str) -> String {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    let said = error.to_string();
    match code.as_deref() {
        Some("08P01") if said.contains("startup parameter") => {
            format!("{error}; if this is PgBouncer, set store.pgbouncer")
        }
        Some("08P01") if said.contains("statement pooling") => {
            format!("{error}; set PgBouncer's pool_mode to transaction")
        }
        Some("28P01" | "28000") => {
            format!("{error}; check the user in {key}, store.password and the server's pg_hba.conf")
        }
        Some("3D000") => format!("{error}; create it: `createdb --owner USER --encoding UTF8 NAME`"),
        Some("42501") => format!("{error}; the user needs CONNECT on the database"),
        _ => match error {
            sqlx::Error::Configuration(cause) => cause.to_string(),
            sqlx::Error::Tls(cause) => format!("TLS: {cause}; check sslmode and sslrootcert in {key}"),
            // rustls reports it while it reads.
            sqlx::Error::Io(cause) if is_of_the_certificate(cause) => {
                format!("TLS: {cause}; check sslrootcert in {key}, and that its host is a name in the certificate")
            }
            error => error.to_string(),
        },
    }
}

/// Returns true if an error of connecting stays until the configuration or the rights of the user change.
pub(super) fn is_mistake(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    match code.as_deref() {
        Some(code) => matches!(code, "28P01" | "28000" | "3D000" | "42501"),
        None => match error {
            sqlx::Error::Configuration(_) | sqlx::Error::Tls(_) => true,
            sqlx::Error::Io(cause) => is_of_the_certificate(cause),
            _ => false,
        },
    }
}

fn is_of_the_certificate(error: &std::io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    matches!(cause, Some(rustls::Error::InvalidCertificate(_)))
}

/// Connections to one server.
#[derive(Clone, Debug)]
pub(in crate::store) struct Pool {
    connections: PgPool,
    /// Limit of one statement, seen from here. The server's own limit ends the statement earlier if the server answers.
    limit: Duration,
    route: Route,
    /// The statements that begin a transaction.
    begin: SqlStr,
    pub(super) notifications: Arc<Notifications>,
}

impl Pool {
    fn new(
        options: PgConnectOptions,
        config: &config::Store,
        connections: u32,
        notifications: Arc<Notifications>,
    ) -> Self {
        let route = Route::of(config);
        let limit = route.limit(config);
        let connections = PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(config.acquire_timeout)
            .idle_timeout(IDLE)
            .max_lifetime(LIFETIME)
            .after_connect(move |connection, _| Box::pin(check(connection, limit)))
            .connect_lazy_with(options);
        Self { connections, limit: config.statement_timeout + MARGIN, route, begin: begin(config), notifications }
    }

    pub(super) async fn execute(&self, statement: Statement) -> Result<u64> {
        match self.route {
            Route::Direct => self.hold().await?.execute(statement).await,
            Route::Pooled => {
                let mut tx = self.begin().await?;
                let done = tx.execute(statement).await?;
                tx.commit().await?;
                Ok(done)
            }
        }
    }

    pub(super) async fn fetch_all(&self, statement: Statement) -> Result<Vec<PgRow>> {
        match self.route {
            Route::Direct => self.hold().await?.fetch_all(statement).await,
            Route::Pooled => {
                let mut tx = self.begin().await?;
                let rows = tx.fetch_all(statement).await?;
                tx.commit().await?;
                Ok(rows)
            }
        }
    }

    pub(super) async fn begin(&self) -> Result<Tx> {
        let mut held = self.hold().await?;
        held.script(self.begin.clone()).await?;
        Ok(Tx { held: Some(held), has_failed: false })
    }

    pub(super) async fn close(&self) {
        self.connections.close().await;
    }

    async fn hold(&self) -> Result<Held> {
        Ok(Held {
            connection: self.connections.acquire().await?,
            limit: self.limit,
            keeps_statements: self.route == Route::Direct,
            is_sound: true,
        })
    }
}

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
    /// True if statements are prepared once for each connection.
    keeps_statements: bool,
    is_sound: bool,
}

impl Held {
    async fn execute(&mut self, statement: Statement) -> Result<u64> {
        self.is_sound = false;
        let done =
            timeout(self.limit, statement.persistent(self.keeps_statements).execute(&mut *self.connection)).await;
        self.judge(done).map(|done| done.rows_affected())
    }

    async fn fetch_all(&mut self, statement: Statement) -> Result<Vec<PgRow>> {
        self.is_sound = false;
        let rows =
            timeout(self.limit, statement.persistent(self.keeps_statements).fetch_all(&mut *self.connection)).await;
        self.judge(rows)
    }

    async fn script(&mut self, text: impl sqlx::SqlSafeStr) -> Result<()> {
        self.is_sound = false;
        let done = timeout(self.limit, sqlx::raw_sql(text).execute(&mut *self.connection)).await;
        self.judge(done).map(drop)
    }

    /// Keeps the connection if the server answered, with rows or with an error that concerns the statement alone.
    fn judge<T>(&mut self, answer: std::result::Result<Result<T>, Elapsed>) -> Result<T> {
        let answer = answer.unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()));
        self.is_sound = match &answer {
            Ok(_) => true,
            // 25006: the server became read-only. 57P..: it is being stopped. Another server may answer next time. 08...:
            // PgBouncer has none.
            Err(sqlx::Error::Database(error)) => {
                error.code().is_none_or(|code| code != "25006" && !code.starts_with("57P") && !code.starts_with("08"))
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
