//! Sealed texts that clients carry for the proxy and can neither read nor alter.
//!
//! Each pair of purpose and owner has its own key, derived from one secret. A text therefore opens only for the purpose
//! and owner that it was sealed for, and the number of random nonces per key stays far below the limit of AES-GCM.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret as _, SecretString};

use super::keys::keyed_hash;

/// Seals short texts that clients carry for the proxy (page tokens) with AES-256-GCM, bound to a purpose and an owner.
pub struct Sealer {
    key: hmac::Key,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer(..)")
    }
}

impl Sealer {
    /// Creates a sealer whose keys are derived from `key`.
    #[must_use]
    pub fn new(key: &[u8; 32]) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, key) }
    }

    /// Seals a text and returns it in URL-safe form. `purpose` and `owner` (a user ID) select the key, so the result
    /// opens only with both.
    ///
    /// If sealing fails, which AES-GCM does only beyond 64 GiB, the result is empty and never opens.
    #[must_use]
    pub fn seal(&self, purpose: &str, owner: i64, plain: &[u8]) -> String {
        self.seal_beside(b"", purpose, owner, plain)
    }

    /// Opens a sealed text. Returns `None` if it was altered or sealed for another purpose, owner or key.
    #[must_use]
    pub fn open(&self, purpose: &str, owner: i64, sealed: &str) -> Option<Vec<u8>> {
        self.open_beside(b"", purpose, owner, sealed)
    }

    fn seal_beside(&self, beside: &[u8], purpose: &str, owner: i64, plain: &[u8]) -> String {
        let mut sealed = plain.to_vec();
        let nonce = self
            .key_for(purpose, owner)
            .and_then(|key| key.seal_in_place_append_tag(Aad::from(beside), &mut sealed).ok());
        let Some(nonce) = nonce else { return String::new() };
        URL_SAFE_NO_PAD.encode([nonce.as_ref().as_slice(), &sealed].concat())
    }

    fn open_beside(&self, beside: &[u8], purpose: &str, owner: i64, sealed: &str) -> Option<Vec<u8>> {
        let bytes = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let (nonce, sealed) = bytes.split_first_chunk::<NONCE_LEN>()?;
        let mut sealed = sealed.to_vec();
        let key = self.key_for(purpose, owner)?;
        let plain = key.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(beside), &mut sealed).ok()?;
        Some(plain.to_vec())
    }

    fn key_for(&self, purpose: &str, owner: i64) -> Option<RandomizedNonceKey> {
        let key = keyed_hash(&self.key, purpose, &[&owner.to_be_bytes()]);
        RandomizedNonceKey::new(&AES_256_GCM, &key).ok()
    }
}

/// Named keys. The first one seals; all of them open.
///
/// A new key is added in front. An old key can be removed when no text sealed with it is in use.
#[derive(Debug)]
pub struct KeyRing {
    keys: Vec<(String, Sealer)>,
}

impl KeyRing {
    /// Creates a ring of one key.
    #[must_use]
    pub fn of(name: &str, key: &[u8; 32]) -> Self {
        Self { keys: vec![(name.to_owned(), Sealer::new(key))] }
    }

    /// Parses the configured keys: a name and the base64 of 32 bytes each. Returns `None` if there are no keys or one
    /// of them is invalid.
    #[must_use]
    pub fn parse<'k>(keys: impl IntoIterator<Item = (&'k str, &'k SecretString)>) -> Option<Self> {
        let sealer = |(name, secret): (&str, &SecretString)| {
            let key: [u8; 32] = STANDARD.decode(secret.expose_secret()).ok()?.try_into().ok()?;
            Some((name.to_owned(), Sealer::new(&key)))
        };
        let keys = keys.into_iter().map(sealer).collect::<Option<Vec<_>>>()?;
        (!keys.is_empty()).then_some(Self { keys })
    }

    /// Seals like [`Sealer::seal`], with the key's name in front. The name is authenticated too.
    #[must_use]
    pub fn seal(&self, purpose: &str, owner: i64, plain: &[u8]) -> String {
        let Some((name, sealer)) = self.keys.first() else { return String::new() };
        format!("{name}.{}", sealer.seal_beside(name.as_bytes(), purpose, owner, plain))
    }

    /// Opens like [`Sealer::open`], with the key whose name is in front.
    #[must_use]
    pub fn open(&self, purpose: &str, owner: i64, sealed: &str) -> Option<Vec<u8>> {
        let (name, sealed) = sealed.split_once('.')?;
        let (_, sealer) = self.keys.iter().find(|(known, _)| known == name)?;
        sealer.open_beside(name.as_bytes(), purpose, owner, sealed)
    }
}
