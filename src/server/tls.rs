//! Certificate chain and key from PEM files to a TLS 1.2/1.3 acceptor that speaks HTTP/2 and HTTP/1.1.
//!
//! The files can be read again while serving: handshakes that begin after it use what is new, the rest go on.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::certificate;
use crate::config;

/// Why TLS cannot start. Names the file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Unreadable(String),
    #[error("certificate `{}` and key `{}` do not work together: {source}", cert.display(), key.display())]
    Mismatch { cert: PathBuf, key: PathBuf, source: rustls::Error },
    #[error("TLS cannot be set up: {0}")]
    Provider(rustls::Error),
}

/// Between noticing that the files changed and believing them.
const SETTLE: Duration = Duration::from_secs(1);

/// Turns a TCP connection into a TLS one. Clones share what is served.
#[derive(Clone)]
pub struct Acceptor {
    files: config::Tls,
    served: Arc<ArcSwap<Served>>,
}

/// What handshakes use.
struct Served {
    chain: Vec<CertificateDer<'static>>,
    tls: Arc<ServerConfig>,
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Acceptor {
    /// Loads certificate chain and key.
    ///
    /// # Errors
    /// A file cannot be read, holds nothing of use, or the two do not belong together.
    pub fn load(config: &config::Tls) -> Result<Self, Error> {
        let served = Served::load(config)?;
        Ok(Self { files: config.clone(), served: Arc::new(ArcSwap::from_pointee(served)) })
    }

    /// Loads them again, and serves them from now on if the chain is another one, which is what it says. Takes a second when
    /// anything changed.
    ///
    /// # Errors
    /// As [`Acceptor::load`]. What was served still is.
    pub async fn reload(&self) -> Result<bool, Error> {
        let is_new = |loaded: &Served| loaded.chain != self.served.load().chain;
        if self.load_aside().await.is_ok_and(|loaded| !is_new(&loaded)) {
            return Ok(false);
        }
        // Whoever renews writes two files, each perhaps in pieces: what they say counts once they had time to be whole.
        tokio::time::sleep(SETTLE).await;
        let loaded = self.load_aside().await?;
        let is_new = is_new(&loaded);
        if is_new {
            self.served.store(Arc::new(loaded));
        }
        Ok(is_new)
    }

    /// Files may be slow.
    async fn load_aside(&self) -> Result<Served, Error> {
        let files = self.files.clone();
        let loaded = tokio::task::spawn_blocking(move || Served::load(&files)).await;
        loaded.unwrap_or_else(|_| Err(Error::Unreadable("the files could not be looked at".to_owned())))
    }

    /// Until when the certificate that is served is valid; `None` when that cannot be read.
    #[must_use]
    pub fn not_after(&self) -> Option<OffsetDateTime> {
        certificate::not_after(self.served.load().chain.first()?)
    }

    pub(super) async fn accept(&self, tcp: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.served.load().tls));
        acceptor.accept(tcp).await
    }
}

impl Served {
    fn load(files: &config::Tls) -> Result<Self, Error> {
        let chain = config::certificates(&files.cert).map_err(Error::Unreadable)?;
        let key = config::private_key(&files.key).map_err(Error::Unreadable)?;
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().map_err(Error::Provider)?;
        let mut tls = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(Error::Provider)?
            .with_no_client_auth()
            .with_single_cert(chain.clone(), key)
            .map_err(|source| Error::Mismatch { cert: files.cert.clone(), key: files.key.clone(), source })?;
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        tls.ticketer = ticketer;
        Ok(Self { chain, tls: Arc::new(tls) })
    }
}
