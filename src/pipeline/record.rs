//! What one request leaves behind: one access line, metrics, and for a refusal an audit row.
//!
//! Filled in as the steps are taken; written when the answer's last byte is sent, or when the client is gone.

use std::net::IpAddr;
use std::sync::Arc;

use super::Error;
use crate::authz::Identity;
use crate::http::{Request, Response};
use crate::server::Peer;
use crate::telemetry::Telemetry;

#[derive(Debug)]
pub struct Record {}

impl Record {
    pub(super) fn start(_telemetry: Arc<Telemetry>, _request: &Request, _peer: Peer) -> Self {
        Self {}
    }
    pub(super) fn operation(&mut self, _name: &str) {}
    pub(super) fn unlisted(&mut self) {}
    pub(super) fn identity(&mut self, _identity: &Arc<Identity>) {}
    pub(super) fn address(&mut self, _address: IpAddr) {}
    pub(super) fn upstream_answered(&mut self) {}
    pub(super) fn failed(&mut self, _error: &Error) {}
    pub(super) fn is_browser_xhr(&self) -> bool {
        false
    }
    pub(super) fn finish(self, response: Response) -> Response {
        response
    }
}
