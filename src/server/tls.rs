//! Certificate chain and key from PEM files to a TLS 1.2/1.3 acceptor that speaks HTTP/2 and HTTP/1.1.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::config;

/// Why TLS cannot start. Names the file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("`{}` cannot be read: {source}", path.display())]
    Unreadable { path: PathBuf, source: pem::Error },
    #[error("`{}` holds no certificate in PEM form", path.display())]
    NoCertificate { path: PathBuf },
    #[error("`{}` holds no private key in PEM form", path.display())]
    NoKey { path: PathBuf },
    #[error("certificate `{}` and key `{}` do not work together: {source}", cert.display(), key.display())]
    Mismatch { cert: PathBuf, key: PathBuf, source: rustls::Error },
    #[error("TLS cannot be set up: {0}")]
    Provider(rustls::Error),
}

/// Turns a TCP connection into a TLS one.
#[derive(Clone)]
pub struct Acceptor(TlsAcceptor);

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Acceptor")
    }
}

impl Acceptor {
    /// Loads certificate chain and key.
    ///
    /// # Errors
    /// A file cannot be read, holds nothing of use, or the two do not belong together.
    pub fn load(config: &config::Tls) -> Result<Self, Error> {
        let chain = chain(&config.cert)?;
        let key = key(&config.key)?;
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().map_err(Error::Provider)?;
        let mut tls = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(Error::Provider)?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(|source| Error::Mismatch { cert: config.cert.clone(), key: config.key.clone(), source })?;
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        tls.ticketer = ticketer;
        Ok(Self(TlsAcceptor::from(Arc::new(tls))))
    }

    pub(super) async fn accept(&self, tcp: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.0.accept(tcp).await
    }
}

fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let unreadable = |source| Error::Unreadable { path: path.to_path_buf(), source };
    let chain =
        CertificateDer::pem_file_iter(path).map_err(unreadable)?.collect::<Result<Vec<_>, _>>().map_err(unreadable)?;
    if chain.is_empty() { Err(Error::NoCertificate { path: path.to_path_buf() }) } else { Ok(chain) }
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    PrivateKeyDer::from_pem_file(path).map_err(|source| match source {
        pem::Error::NoItemsFound => Error::NoKey { path: path.to_path_buf() },
        source => Error::Unreadable { path: path.to_path_buf(), source },
    })
}
