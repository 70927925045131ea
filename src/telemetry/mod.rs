//! Output for operators: log, access log, metrics and audit queue.
//!
//! Nothing here makes a request wait: output that does not fit is dropped and counted.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use crate::clock::Clock;

pub mod access;
pub mod audit;
pub mod log;
pub mod metrics;

pub use access::{AccessLine, AccessLog, Outcome};
pub use audit::{AuditQueue, Retention};
pub use metrics::{Metrics, RequestKind};

/// The outputs that requests report to.
#[derive(Debug)]
pub struct Telemetry {
    pub metrics: Arc<Metrics>,
    pub access: AccessLog,
    pub audit: AuditQueue,
    pub clock: Clock,
    /// True if the access log may contain user names.
    pub user_names: bool,
    /// Operations whose unknown fields were logged.
    pub named: Mutex<HashSet<&'static str>>,
}

impl Telemetry {
    /// Counts fields that were removed from a request, and logs their names, once for each operation.
    pub fn unknown_fields(&self, operation: &'static str, count: u64, names: &[String]) {
        self.metrics.unknown_fields(operation, count);
        let first = self.named.lock().unwrap_or_else(PoisonError::into_inner).insert(operation);
        if first {
            let fields = names.join(", ");
            tracing::warn!(
                operation,
                fields,
                "{operation}: unknown request fields are not forwarded: {fields}. If the client is newer than the \
                 proxy, update the proxy. Logged once for each operation; unknown_fields_total counts all"
            );
        }
    }
}
