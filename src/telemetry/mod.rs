//! What the people who run it see: log, access log, metrics, audit.
//!
//! Nothing here can make a request wait: what does not fit is dropped and counted.

pub mod access;
pub mod audit;
pub mod log;
pub mod metrics;

pub use access::{AccessLine, AccessLog, Outcome};
pub use audit::AuditQueue;
pub use metrics::{Metrics, RequestKind};
