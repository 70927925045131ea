//! Certificates and keys from PEM files (RFC 7468).
//!
//! What is wrong is said without the parser's own words: they quote the file, and one of these files is a private key.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use rustls_pki_types::pem::{self, PemObject as _};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// The certificate chain, leaf first.
///
/// # Errors
/// What is wrong, with the file's name.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = bytes(path)?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("{} cannot be read: {}", path.display(), reason(&error)))?;
    if chain.is_empty() { Err(format!("{} holds no PEM certificate", path.display())) } else { Ok(chain) }
}

/// The private key.
///
/// # Errors
/// As [`certificates`].
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(&bytes(path)?)
        .map_err(|error| format!("{} cannot be read: {}", path.display(), reason(&error)))
}

fn bytes(path: &Path) -> Result<Vec<u8>, String> {
    let read = || {
        // Opening a pipe would wait for whoever writes into it.
        if !path.metadata()?.is_file() {
            return Err(io::Error::other("it is no file"));
        }
        let mut bytes = Vec::new();
        File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_BYTES { Err(io::Error::other("it is larger than 1 MiB")) } else { Ok(bytes) }
    };
    read().map_err(|error: io::Error| format!("{} cannot be read: {error}", path.display()))
}

fn reason(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::NoItemsFound => "it holds no PEM of the expected kind",
        _ => "it is not PEM",
    }
}

const MAX_BYTES: u64 = 1024 * 1024;
