//! Reads the TLS files at start and again whenever they change, as when cert-manager or an ACME client renews them.
//!
//! Existing connections stay open. New connections receive the newest certificate that was valid together with its key.

use std::sync::Arc;

use super::file_watch::FileWatch;
use super::followed::Followed;
use crate::server::tls::Acceptor;
use crate::telemetry::Metrics;

/// Follows the files while the future is polled.
pub(super) async fn follow(acceptor: Acceptor, metrics: Arc<Metrics>, followed: Arc<Followed>) {
    let mut watch = FileWatch::start();
    // The error that was logged last, if the files have one.
    let mut trouble = None;
    loop {
        metrics.tls_certificate(trouble.is_none(), acceptor.not_after().map(time::OffsetDateTime::unix_timestamp));
        followed.is("tls_certificate", trouble.clone());
        watch.next().await;
        let now = match acceptor.reload().await {
            Ok(true) => {
                let ends = acceptor.not_after().map(|end| end.date().to_string()).unwrap_or_default();
                tracing::info!(ends, "server.tls: new connections get the new certificate from now on; it ends {ends}");
                None
            }
            Ok(false) => None,
            Err(error) => Some(error.to_string()),
        };
        if let Some(error) = now.as_ref().filter(|_| now != trouble) {
            tracing::error!("server.tls: {error}; new connections still get the certificate from before");
        }
        trouble = now;
    }
}
