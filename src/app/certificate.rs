//! The TLS files: read at start, and again whenever they change, as cert-manager and ACME clients renew them.
//!
//! Who is connected stays so; each new connection gets the newest certificate that was good with its key.

use std::sync::Arc;

use super::looks::Looks;
use crate::server::tls::Acceptor;
use crate::telemetry::Metrics;

/// Follows the files for as long as it is polled.
pub(super) async fn follow(acceptor: Acceptor, metrics: Arc<Metrics>) {
    let mut looks = Looks::start();
    let mut trouble = Trouble::default();
    loop {
        if let Some(end) = acceptor.not_after() {
            metrics.tls_certificate_ends(end.unix_timestamp());
        }
        looks.next().await;
        let again = acceptor.clone();
        // Otherwise the process is ending.
        let Ok(read) = tokio::task::spawn_blocking(move || again.reload()).await else { return };
        if let Ok(true) = read {
            let ends = acceptor.not_after().map(|end| end.date().to_string()).unwrap_or_default();
            tracing::info!(ends, "server.tls: new connections get the new certificate from now on; it ends {ends}");
        }
        if let Some(error) = trouble.look(read.err().map(|error| error.to_string())) {
            tracing::error!("server.tls: {error}; new connections still get the certificate from before");
        }
        metrics.tls_certificate_read(!trouble.lasts);
    }
}

/// What was wrong at the last look. Certificate and key are two files: between the two writes of a renewal they do not fit,
/// so only what is wrong twice is said, and that once.
#[derive(Debug, Default)]
struct Trouble {
    seen: Option<String>,
    lasts: bool,
}

impl Trouble {
    /// Takes what a look found; gives what is to be said.
    fn look(&mut self, error: Option<String>) -> Option<String> {
        let lasted = self.lasts;
        self.lasts = error.is_some() && self.seen == error;
        self.seen.clone_from(&error);
        error.filter(|_| self.lasts && !lasted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_twice_is_said_once() {
        let mut trouble = Trouble::default();
        let mut look = |error: Option<&str>| trouble.look(error.map(str::to_owned));
        for (error, said) in [
            (None, None),
            // Between the two writes of a renewal.
            (Some("a"), None),
            (None, None),
            (Some("a"), None),
            (Some("a"), Some("a")),
            (Some("a"), None),
            (Some("b"), None),
            (Some("b"), Some("b")),
            (None, None),
            (Some("b"), None),
            (Some("b"), Some("b")),
        ] {
            assert_eq!(look(error).as_deref(), said, "{error:?}");
        }
    }
}
