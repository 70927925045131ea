//! The composition root: builds every part from a [`Config`] and runs them until told to stop.

use std::net::SocketAddr;

use crate::config::Config;

/// A proxy that is running in this process.
#[derive(Debug)]
pub struct Running {
    /// Where clients reach it; useful when the configuration said port 0.
    pub address: SocketAddr,
    /// Where probes and metrics are.
    pub admin: SocketAddr,
}

/// Opens the store, makes the first administrator, binds both listeners and starts serving.
///
/// # Errors
/// The store cannot be opened, an address cannot be bound, a certificate cannot be read.
#[expect(unused_variables, clippy::todo, clippy::unused_async, reason = "signatures first")]
pub async fn start(config: Config) -> anyhow::Result<Running> {
    todo!()
}

#[expect(clippy::todo, clippy::unused_async, reason = "signatures first")]
impl Running {
    /// Unready, pause, no new connections, requests under way finish (bounded), effects finish, store closes.
    pub async fn drain(self) {
        todo!()
    }
}
