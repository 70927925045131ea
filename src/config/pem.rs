//! Reads certificates and keys from PEM files (RFC 7468).
//!
//! Errors do not include the parser's message, because it quotes the file, which can be a private key.

use std::path::Path;

use rustls_pki_types::pem::{self, PemObject as _};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::file;

/// Reads a certificate chain, leaf first.
///
/// # Errors
/// The file cannot be read or contains no certificate; the text names the file.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = bytes(path)?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("{} cannot be read: {}", path.display(), reason(&error)))?;
    if chain.is_empty() { Err(format!("{} contains no PEM certificate", path.display())) } else { Ok(chain) }
}

/// Reads a private key.
///
/// # Errors
/// The file cannot be read or contains no private key; the text names the file.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(&bytes(path)?)
        .map_err(|error| format!("{} cannot be read: {}", path.display(), reason(&error)))
}

fn bytes(path: &Path) -> Result<Vec<u8>, String> {
    file::regular_bytes(path, MAX_BYTES).map_err(|error| format!("{} cannot be read: {error}", path.display()))
}

fn reason(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::NoItemsFound => "it contains no PEM of the expected kind",
        _ => "it is not PEM",
    }
}

const MAX_BYTES: u64 = 1024 * 1024;
