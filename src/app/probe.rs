//! State for `/readyz` and `/metrics`.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::followed::Followed;
use crate::oidc::Remote;
use crate::server::admin::{Check, Health};
use crate::session_refresh::SessionRefresh;
use crate::store::Store;
use crate::telemetry::Metrics;
use crate::upstream::Upstream;

/// State that the probes and the metrics endpoint report.
pub(super) struct Probe {
    pub(super) draining: Arc<AtomicBool>,
    pub(super) store: Arc<Store>,
    pub(super) upstream: Upstream,
    pub(super) metrics: Arc<Metrics>,
    pub(super) remotes: Vec<(String, Arc<Remote>)>,
    pub(super) sessions: Arc<SessionRefresh>,
    pub(super) followed: Arc<Followed>,
}

impl Health for Probe {
    fn checks(&self) -> Pin<Box<dyn Future<Output = Vec<Check>> + Send + '_>> {
        Box::pin(async {
            let draining = self.draining.load(Ordering::SeqCst).then(|| "the proxy is shutting down".to_owned());
            let store = self.store.check().await.err().map(|error| error.to_string());
            let upstream = self.upstream.check().await.err().map(|error| error.to_string());
            let mut checks =
                vec![Check::of("draining", draining), Check::of("store", store), Check::of("upstream", upstream)];
            checks.extend(self.followed.checks());
            checks
        })
    }

    fn metrics(&self) -> String {
        for (name, remote) in &self.remotes {
            self.metrics.oidc_keys_are(name, remote.keys_age());
        }
        for (provider, paused) in self.sessions.paused() {
            self.metrics.session_refreshes_are(provider, paused);
        }
        self.metrics.render()
    }
}
