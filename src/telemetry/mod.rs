//! What the people who run it see: log, access log, metrics, audit.
//!
//! Nothing here can make a request wait: what does not fit is dropped and counted.

use std::sync::Arc;

use crate::clock::Clock;

pub mod access;
pub mod audit;
pub mod log;
pub mod metrics;

pub use access::{AccessLine, AccessLog, Outcome};
pub use audit::AuditQueue;
pub use metrics::{Metrics, RequestKind};

/// Everything a request reports to.
#[derive(Debug)]
pub struct Telemetry {
    pub metrics: Arc<Metrics>,
    pub access: AccessLog,
    pub audit: AuditQueue,
    pub clock: Clock,
    /// Whether user names may stand in the access log.
    pub user_names: bool,
}
