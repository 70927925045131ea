//! TLS 1.2/1.3 acceptor for HTTP/2 and HTTP/1.1, from PEM files with certificate chain and key.
//!
//! The files can be reloaded while serving: later handshakes use the new certificate, and existing connections
//! continue.

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

/// A TLS setup that failed. The text names the file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Unreadable(String),
    #[error("certificate `{}` and key `{}` do not work together: {source}", cert.display(), key.display())]
    Mismatch { cert: PathBuf, key: PathBuf, source: rustls::Error },
    #[error("TLS cannot be set up: {0}")]
    Provider(rustls::Error),
}

/// Pause between detecting changed files and loading them.
const SETTLE: Duration = Duration::from_secs(1);

/// Turns a TCP connection into a TLS connection. Clones share the certificate.
#[derive(Clone)]
pub struct Acceptor {
    files: config::Tls,
    served: Arc<ArcSwap<Served>>,
}

/// The certificate and configuration that handshakes use.
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
    /// A file cannot be read or contains no certificate or key, or the two do not match.
    pub fn load(config: &config::Tls) -> Result<Self, Error> {
        let served = Served::load(config)?;
        Ok(Self { files: config.clone(), served: Arc::new(ArcSwap::from_pointee(served)) })
    }

    /// Loads the files again, and uses them from now on if the chain has changed. Returns true if it has. Waits one
    /// second when anything changed.
    ///
    /// # Errors
    /// As [`Acceptor::load`]. The previous certificate stays in use.
    pub async fn reload(&self) -> Result<bool, Error> {
        let is_new = |loaded: &Served| loaded.chain != self.served.load().chain;
        if self.load_aside().await.is_ok_and(|loaded| !is_new(&loaded)) {
            return Ok(false);
        }
        // A renewal writes two files, each perhaps in pieces. They are read again after a pause, when they should be
        // complete.
        tokio::time::sleep(SETTLE).await;
        let loaded = self.load_aside().await?;
        let is_new = is_new(&loaded);
        if is_new {
            self.served.store(Arc::new(loaded));
        }
        Ok(is_new)
    }

    /// Loads the files on a blocking thread, because file access can be slow.
    async fn load_aside(&self) -> Result<Served, Error> {
        let files = self.files.clone();
        let loaded = tokio::task::spawn_blocking(move || Served::load(&files)).await;
        loaded.unwrap_or_else(|_| Err(Error::Unreadable("the files could not be checked".to_owned())))
    }

    /// Returns the end of validity of the current certificate; `None` when it cannot be read.
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
