//! Keys that live in this process or this store only: cache keys and sealed texts.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::random;

/// A per-process key under which credentials are looked up in caches: HMAC-SHA-256, so a memory dump holds no hash that
/// could be tried against a list of passwords.
#[derive(Debug)]
pub struct CacheKeys(hmac::Key);

impl CacheKeys {
    /// A fresh key.
    #[must_use]
    pub fn new() -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, &random::<32>()))
    }

    /// The cache key of a credential; `purpose` keeps caches apart.
    #[must_use]
    pub fn key(&self, purpose: &'static str, credential: &[u8]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(purpose.as_bytes());
        context.update(&[0]);
        context.update(credential);
        context.sign().as_ref().try_into().unwrap_or_default()
    }
}

impl Default for CacheKeys {
    fn default() -> Self {
        Self::new()
    }
}

/// AES-256-GCM sealing of short texts that clients carry for us (page tokens), bound to a purpose and an owner.
pub struct Sealer(Option<LessSafeKey>);

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer(..)")
    }
}

const NONCE_BYTES: usize = 12;

impl Sealer {
    /// A sealer under this key.
    #[must_use]
    pub fn new(key: &[u8; 32]) -> Self {
        // AES-256 takes any 32 bytes; were it not so, nothing would open.
        Self(UnboundKey::new(&AES_256_GCM, key).ok().map(LessSafeKey::new))
    }

    /// URL-safe text. `purpose` and `owner` (a user id) are authenticated, so it opens only where and for whom it was made.
    #[must_use]
    pub fn seal(&self, purpose: &str, owner: i64, plain: &[u8]) -> String {
        let nonce = random::<NONCE_BYTES>();
        let mut sealed = plain.to_vec();
        let done = self.0.as_ref().map(|key| {
            key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad(purpose, owner), &mut sealed)
        });
        match done {
            Some(Ok(())) => URL_SAFE_NO_PAD.encode([&nonce[..], &sealed].concat()),
            Some(Err(_)) | None => String::new(),
        }
    }

    /// `None` when altered, made elsewhere or for somebody else.
    #[must_use]
    pub fn open(&self, purpose: &str, owner: i64, sealed: &str) -> Option<Vec<u8>> {
        let mut bytes = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let nonce = *bytes.first_chunk::<NONCE_BYTES>()?;
        let sealed = bytes.get_mut(NONCE_BYTES..)?;
        let nonce = Nonce::assume_unique_for_key(nonce);
        let plain = self.0.as_ref()?.open_in_place(nonce, aad(purpose, owner), sealed).ok()?;
        Some(plain.to_vec())
    }
}

fn aad(purpose: &str, owner: i64) -> Aad<Vec<u8>> {
    Aad::from(format!("{purpose}\0{owner}").into_bytes())
}
