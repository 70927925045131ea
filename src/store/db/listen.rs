//! Notifications of changes: a connection that listens, on the way of the store or on a direct one.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::postgres::{self, Pool, Result};
use crate::crypto;
use crate::store::Error;

/// The way on which notifications are received.
#[derive(Clone, Debug)]
pub(super) struct Notifications {
    /// `None` if there is none: PgBouncer in transaction mode passes no notifications on.
    pub(super) options: Option<PgConnectOptions>,
    pub(super) key: &'static str,
}

impl Pool {
    /// Wakes `wake` at every notification of a change, and when notifications may have been missed. Reports to
    /// `connected` whether notifications are received. Never returns.
    pub(in crate::store) async fn listen(&self, wake: &Notify, connected: impl Fn(bool) + Send + Sync) {
        if self.notifications.options.is_none() {
            connected(false);
            tracing::info!(
                "store.pgbouncer is set without store.listen_url: the store is asked for changes twice a second"
            );
            return std::future::pending().await;
        }
        let mut is_reported = false;
        loop {
            let received = |receives| {
                connected(receives);
                if receives && std::mem::take(&mut is_reported) {
                    tracing::info!("notifications of changes are received again");
                }
            };
            let Err(error) = self.listen_once(wake, received).await else { continue };
            connected(false);
            if std::mem::replace(&mut is_reported, true) {
                tracing::debug!(%error, "notifications of changes are not received");
            } else {
                let key = self.notifications.key;
                tracing::warn!(%error, key, "notifications of changes are not received; the store is asked twice a second");
            }
            tokio::time::sleep(RECONNECT).await;
        }
    }

    /// Checks that a notification arrives. Returns false if none are received by configuration.
    ///
    /// # Errors
    /// [`Error::Open`] when the configuration has to change, [`Error::Unavailable`] when the server does not answer.
    pub(in crate::store) async fn check_listening(&self) -> std::result::Result<bool, Error> {
        if self.notifications.options.is_none() {
            return Ok(false);
        }
        match self.listener().await {
            Ok(_) => Ok(true),
            Err(error) if postgres::is_mistake(&error) => {
                let key = self.notifications.key;
                Err(Error::Open(format!("{key}: {}", postgres::explain(&error, key))))
            }
            Err(error) => Err(Error::Unavailable(error)),
        }
    }

    async fn listen_once(&self, wake: &Notify, mut connected: impl FnMut(bool)) -> Result<()> {
        let mut listener = self.listener().await?;
        connected(true);
        loop {
            // Also at first: changes since the last connection were not announced.
            wake.notify_one();
            match timeout(PING_EVERY, listener.try_recv()).await {
                Ok(received) => {
                    if received?.is_none() {
                        return Err(lost());
                    }
                }
                // Nothing tells an idle connection that the server is gone.
                Err(_) => answered(sqlx::raw_sql("SELECT 1").execute(&mut listener)).await.map(drop)?,
            }
        }
    }

    /// Listens, and receives a first notification that is sent on the way of the store. Without it, a pooler in between
    /// or another database could keep all of them away unnoticed.
    async fn listener(&self) -> Result<PgListener> {
        let options = self.notifications.options.clone().ok_or(sqlx::Error::PoolClosed)?;
        // A first connection, because the pool reports most causes only as a timeout.
        answered(async {
            let mut first = options.connect().await?;
            postgres::check(&mut first, None).await?;
            first.close().await
        })
        .await?;
        let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(CONNECT).connect_lazy_with(options);
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.eager_reconnect(false);
        // PostgreSQL accepts 63 bytes.
        let probe = format!("{CHANNEL}_{}", crypto::random_text());
        answered(listener.listen(&probe)).await?;
        match self.fetch_all(sqlx::query("SELECT pg_notify($1, '')::text").bind(probe.clone())).await {
            Ok(_) => {}
            // A pooler let this statement run in the session that listens.
            Err(sqlx::Error::Protocol(_)) => return Err(sqlx::Error::Configuration(NOT_ARRIVED.into())),
            Err(error) => return Err(error),
        }
        match timeout(CONNECT, arrival(&mut listener, &probe)).await {
            Ok(arrived) => arrived?,
            Err(_) => return Err(sqlx::Error::Configuration(NOT_ARRIVED.into())),
        }
        // Only now: behind a pooler, the session that listens would be that of other statements next.
        answered(listener.unlisten(&probe)).await?;
        answered(listener.listen(CHANNEL)).await?;
        Ok(listener)
    }
}

/// Waits for a notification in this channel.
async fn arrival(listener: &mut PgListener, channel: &str) -> Result<()> {
    while let Some(notification) = listener.try_recv().await? {
        if notification.channel() == channel {
            return Ok(());
        }
    }
    Err(lost())
}

fn lost() -> sqlx::Error {
    std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()
}

/// Fails if the server does not answer in time.
async fn answered<T>(answer: impl Future<Output = Result<T>>) -> Result<T> {
    let timed_out = |_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into());
    timeout(CONNECT, answer).await.unwrap_or_else(timed_out)
}

const NOT_ARRIVED: &str = "a notification that was sent through store.url did not arrive: name the same database, \
                           without a pooler in transaction mode in between";
/// The channel on which the database announces changes; see the trigger in the migrations.
const CHANNEL: &str = "mlflow_auth_proxy";
/// Limit of connecting, of the first notification, and of the answer to a ping.
const CONNECT: Duration = Duration::from_secs(5);
/// Pause before listening again.
const RECONNECT: Duration = Duration::from_secs(1);
/// Time without a notification after which the connection is tested.
const PING_EVERY: Duration = Duration::from_secs(10);
