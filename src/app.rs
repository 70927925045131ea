//! The composition root: builds every part of the proxy from a [`Config`] and runs the parts until shutdown.
//!
//! [`build`] creates the parts, [`tasks`] starts them. The shutdown order matters; see [`Running::drain`].

mod build;
mod certificate;
mod file_watch;
mod followed;
mod identity;
mod policies;
mod probe;
mod tasks;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use secrecy::SecretString;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::mlflow::Table;
use crate::server::descriptors;
use crate::store::Store;
use crate::telemetry::AuditQueue;
use crate::telemetry::access::Writer;
use crate::upstream::Upstream;

use build::Parts;
use tasks::{Listeners, Stop};

pub use policies::{read_policies, warnings};

/// A proxy that is running in this process.
#[derive(Debug)]
pub struct Running {
    /// Bound address of the client listener, with the actual port if the configuration has port 0.
    pub address: SocketAddr,
    /// Bound address of the listener for probes and metrics.
    pub admin: SocketAddr,
    /// Password of the first administrator if this start generated one. It is shown once and never logged.
    pub first_password: Option<SecretString>,
    draining: Arc<AtomicBool>,
    drain_delay: Duration,
    stop: Stop,
    serving: TaskTracker,
    effects: TaskTracker,
    auditing: TaskTracker,
    /// Session refreshes in progress.
    refreshing: TaskTracker,
    /// Holds requests while MLflow is unreachable.
    holding: Upstream,
    audit: AuditQueue,
    access: Option<Writer>,
    store: Arc<Store>,
}

/// Time limit for effects in progress after the last connection was closed.
const EFFECTS_DRAIN: Duration = Duration::from_secs(30);

/// Opens the store, creates the first administrator, binds both listeners and starts serving.
///
/// # Errors
/// The store cannot be opened, an address cannot be bound, a certificate cannot be read.
pub async fn start(config: Config) -> anyhow::Result<Running> {
    start_with(config, Table::built_in()?).await
}

/// Starts like [`start`], with this table of MLflow's routes instead of the built-in one.
///
/// # Errors
/// As [`start`].
pub async fn start_with(mut config: Config, table: Table) -> anyhow::Result<Running> {
    if let Some(warning) = descriptors::fit(&mut config, descriptors::raise()) {
        tracing::warn!("{warning}");
    }
    let parts = Parts::build(&config, table).await?;
    let listeners = Listeners::bind(&config).await?;
    tasks::spawn(parts, listeners, &config)
}

impl Running {
    /// Shuts the proxy down in this order: report unready, wait for `drain_delay`, refuse new connections, finish
    /// requests in progress (with a time limit), finish effects, write the audit log, stop probes and timers.
    pub async fn drain(self) {
        self.draining.store(true, Ordering::SeqCst);
        tokio::time::sleep(self.drain_delay).await;
        self.stop.accepting.cancel();
        // A held request would otherwise wait for MLflow during the whole drain timeout.
        self.holding.stop_holding();
        self.serving.close();
        self.serving.wait().await;
        // Requests start effects, so this tracker is closed only after the last request has ended.
        self.effects.close();
        if tokio::time::timeout(EFFECTS_DRAIN, self.effects.wait()).await.is_err() {
            tracing::error!(
                left = self.effects.len(),
                "effects were unfinished; another replica or the next start settles them"
            );
        }
        // A refresh token is often valid only once. A refresh that is cut off has consumed it without storing its
        // successor.
        self.refreshing.close();
        if tokio::time::timeout(EFFECTS_DRAIN, self.refreshing.wait()).await.is_err() {
            tracing::warn!("refreshes of sessions were unfinished");
        }
        self.audit.close();
        self.auditing.close();
        self.auditing.wait().await;
        self.stop.timers.cancel();
        if let Some(access) = self.access {
            access.finish();
        }
        // Otherwise other processes take over what this one held only when its time has passed.
        if let Err(error) = self.store.end_serving().await {
            tracing::debug!(%error, "the leases of this process could not be deleted; other processes take over when they expire");
        }
        self.store.close().await;
    }
}
