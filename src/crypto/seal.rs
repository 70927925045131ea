//! Texts that clients carry for us and must neither read nor alter.
//!
//! Each purpose and owner has a key of its own, derived from one: a text opens only where and for whom it was made,
//! and random nonces stay far from their limit however many texts are sealed.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret as _, SecretString};

use super::keys::keyed_hash;

/// AES-256-GCM sealing of short texts that clients carry for us (page tokens), bound to a purpose.
pub struct Sealer {
    key: hmac::Key,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer(..)")
    }
}

impl Sealer {
    /// Seals under keys derived from this one.
    #[must_use]
    pub fn new(key: &[u8; 32]) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, key) }
    }

    /// URL-safe text. `purpose` and `owner` (a user id) are authenticated, so a token opens only where and for whom it was made.
    ///
    /// Should sealing fail, which AES-GCM does only beyond 64 GiB, the text is empty and never opens.
    #[must_use]
    pub fn seal(&self, purpose: &str, owner: i64, plain: &[u8]) -> String {
        self.seal_beside(b"", purpose, owner, plain)
    }

    /// `None` when altered, made elsewhere or for somebody else.
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

/// Keys by name: the first seals, all of them open. A new key goes in front; an old one leaves when nothing sealed with
/// it is left.
#[derive(Debug)]
pub struct KeyRing {
    keys: Vec<(String, Sealer)>,
}

impl KeyRing {
    /// A ring of one key.
    #[must_use]
    pub fn of(name: &str, key: &[u8; 32]) -> Self {
        Self { keys: vec![(name.to_owned(), Sealer::new(key))] }
    }

    /// The keys as they are configured: a name and base64 of 32 bytes each. `None` when there is none, or one is no key.
    #[must_use]
    pub fn parse<'k>(keys: impl IntoIterator<Item = (&'k str, &'k SecretString)>) -> Option<Self> {
        let sealer = |(name, secret): (&str, &SecretString)| {
            let key: [u8; 32] = STANDARD.decode(secret.expose_secret()).ok()?.try_into().ok()?;
            Some((name.to_owned(), Sealer::new(&key)))
        };
        let keys = keys.into_iter().map(sealer).collect::<Option<Vec<_>>>()?;
        (!keys.is_empty()).then_some(Self { keys })
    }

    /// As [`Sealer::seal`], with the key's name in front, which is authenticated too.
    #[must_use]
    pub fn seal(&self, purpose: &str, owner: i64, plain: &[u8]) -> String {
        let Some((name, sealer)) = self.keys.first() else { return String::new() };
        format!("{name}.{}", sealer.seal_beside(name.as_bytes(), purpose, owner, plain))
    }

    /// As [`Sealer::open`], with the key that is named in front.
    #[must_use]
    pub fn open(&self, purpose: &str, owner: i64, sealed: &str) -> Option<Vec<u8>> {
        let (name, sealed) = sealed.split_once('.')?;
        let (_, sealer) = self.keys.iter().find(|(known, _)| known == name)?;
        sealer.open_beside(name.as_bytes(), purpose, owner, sealed)
    }
}
