//! Keyed hashes: the keys of credential caches, and the keys of sealed values.

use std::fmt;
use std::hash::Hasher as _;

use aws_lc_rs::hmac;
use siphasher::sip128::{Hasher128 as _, SipHasher24};

/// The secret of one process from which the keys of its credential caches are computed.
///
/// SipHash-2-4 with 128 bits of output, a pseudo-random function under a random key that never leaves the process. A
/// caller cannot aim at the entry of another credential, and the chance of hitting one of a million entries is 2^-108
/// per attempt. The hash alone does not prove a credential: an entry is written only for a credential that was
/// verified.
pub struct CacheKeys {
    hasher: SipHasher24,
}

/// The cache key of a credential.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct CacheKey(u128);

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
    /// Creates keys under a new random secret.
    #[must_use]
    pub fn new() -> Self {
        Self { hasher: SipHasher24::new_with_key(&super::random()) }
    }

    /// Returns the key of a credential. Different purposes have different keys.
    #[must_use]
    pub fn key(&self, purpose: &'static str, credential: &[u8]) -> CacheKey {
        self.key_of(purpose, &[credential])
    }

    /// Returns the key of a credential in several parts. Each part is preceded by its length, so parts cannot run into
    /// each other.
    #[must_use]
    pub fn key_of(&self, purpose: &'static str, parts: &[&[u8]]) -> CacheKey {
        let mut hasher = self.hasher;
        for part in std::iter::once(purpose.as_bytes()).chain(parts.iter().copied()) {
            hasher.write(&length(part));
            hasher.write(part);
        }
        CacheKey(hasher.finish128().as_u128())
    }
}

/// The secret of a store, from which all its processes compute the same keys.
pub struct StoreKeys(hmac::Key);

impl fmt::Debug for StoreKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoreKeys(..)")
    }
}

impl StoreKeys {
    /// Derives the keys from `key`.
    #[must_use]
    pub fn new(key: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// Returns the key of something in several parts. Different purposes have different keys.
    #[must_use]
    pub fn key_of(&self, purpose: &'static str, parts: &[&[u8]]) -> [u8; 32] {
        keyed_hash(&self.0, purpose, parts)
    }
}

/// Returns the HMAC of `purpose` and `parts`, each preceded by its length.
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
