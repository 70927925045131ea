//! Keyed hashes, under which caches look credentials up.
//!
//! The key is random and lives as long as the process, so a memory dump has no credential hash to crack offline
//! without also holding the key, and nobody outside can aim at a place in a cache.

use std::fmt;

use aws_lc_rs::hmac;

/// A per-process key under which credentials are looked up in caches: HMAC-SHA-256, so a memory dump has no credential hash to crack.
pub struct CacheKeys {
    key: hmac::Key,
}

impl fmt::Debug for CacheKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CacheKeys(..)")
    }
}

impl Default for CacheKeys {
    fn default() -> Self {
        Self::new()
    }
}

impl CacheKeys {
    /// A new random key.
    #[must_use]
    pub fn new() -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, &super::random::<32>()) }
    }

    /// The place of one credential; two purposes never share one.
    #[must_use]
    pub fn key(&self, purpose: &'static str, credential: &[u8]) -> [u8; 32] {
        self.key_of(purpose, &[credential])
    }

    /// The place of a credential in several parts. Each is preceded by its length, so parts cannot run into each other.
    #[must_use]
    pub fn key_of(&self, purpose: &'static str, parts: &[&[u8]]) -> [u8; 32] {
        keyed_hash(&self.key, purpose, parts)
    }
}

/// HMAC over `purpose` and `parts`, each preceded by its length.
pub(super) fn keyed_hash(key: &hmac::Key, purpose: &str, parts: &[&[u8]]) -> [u8; 32] {
    let mut context = hmac::Context::with_key(key);
    for part in std::iter::once(purpose.as_bytes()).chain(parts.iter().copied()) {
        context.update(&length(part));
        context.update(part);
    }
    bytes(&context.sign())
}

fn length(part: &[u8]) -> [u8; 8] {
    u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes()
}

fn bytes(tag: &hmac::Tag) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.iter_mut().zip(tag.as_ref()).for_each(|(to, from)| *to = *from);
    bytes
}
