//! Certificates and keys from PEM files (RFC 7468).
//!
//! What is wrong is said without the parser's own words: they quote the file, and one of these files is a private key.

use std::path::Path;

use rustls_pki_types::pem::{self, PemObject as _};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::file;

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
    file::regular_bytes(path, MAX_BYTES).map_err(|error| format!("{} cannot be read: {error}", path.display()))
}

fn reason(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::NoItemsFound => "it holds no PEM of the expected kind",
        _ => "it is not PEM",
    }
}

const MAX_BYTES: u64 = 1024 * 1024;
