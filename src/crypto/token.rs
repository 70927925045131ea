//! Access tokens and the secrets of sessions: how they are made, recognised and remembered.
//!
//! Each is 256 random bits, so a fast hash of it is as good as a slow one.

use std::fmt::{self, Write as _};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret as _, SecretString};

/// An access token as its owner knows it: `mlap_`, 64 hex digits (256 random bits), 8 hex digits of checksum.
/// Has no useful `Debug`.
#[derive(Clone, Debug)]
pub struct AccessToken(SecretString);

impl AccessToken {
    /// How every token starts; secret scanners look for it.
    pub const PREFIX: &'static str = "mlap_";
    const RANDOM_DIGITS: usize = 64;
    const CHECKSUM_DIGITS: usize = 8;

    /// A new random token.
    #[must_use]
    pub fn generate() -> Self {
        let mut text = Self::PREFIX.to_owned();
        text.push_str(&hex(&super::random::<32>()));
        let checksum = Self::checksum(&text);
        text.push_str(&checksum);
        Self(text.into())
    }

    /// Whether `text` looks like a token at all (prefix), so that it is never tried as a password.
    #[must_use]
    pub fn looks_like(text: &str) -> bool {
        text.starts_with(Self::PREFIX)
    }

    /// Reads a token; `None` when length, alphabet or checksum are wrong, without asking the store.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(Self::PREFIX)?;
        if digits.len() != Self::RANDOM_DIGITS + Self::CHECKSUM_DIGITS {
            return None;
        }
        // Lower case only: one token has one spelling.
        if !digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        let (secret, checksum) = text.split_at_checked(Self::PREFIX.len() + Self::RANDOM_DIGITS)?;
        super::equal(Self::checksum(secret).as_bytes(), checksum.as_bytes()).then(|| Self(text.into()))
    }

    /// What the store keeps.
    #[must_use]
    pub fn hash(&self) -> TokenHash {
        TokenHash(sha256(self.0.expose_secret().as_bytes()))
    }

    /// The text, to be shown to its owner once.
    #[must_use]
    pub fn reveal(&self) -> &str {
        self.0.expose_secret()
    }

    /// Tells a mistyped or truncated token from one that was never ours. It keeps nobody out.
    fn checksum(secret: &str) -> String {
        let [a, b, c, d, ..] = sha256(secret.as_bytes());
        hex(&[a, b, c, d])
    }
}

/// The secret in a session's cookie: 256 random bits. Has no useful `Debug`.
#[derive(Clone, Debug)]
pub struct SessionSecret(SecretString);

impl SessionSecret {
    const LETTERS: usize = 43;

    /// A new random secret.
    #[must_use]
    pub fn generate() -> Self {
        Self(random_text().into())
    }

    /// Reads a cookie's value; `None` when no cookie of ours can look so, without asking the store.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (text.len() == Self::LETTERS && text.bytes().all(plain)).then(|| Self(text.into()))
    }

    /// What the store keeps.
    #[must_use]
    pub fn hash(&self) -> TokenHash {
        TokenHash(sha256(self.0.expose_secret().as_bytes()))
    }

    /// The text, for the cookie.
    #[must_use]
    pub fn reveal(&self) -> &str {
        self.0.expose_secret()
    }
}

/// 256 random bits as URL-safe text.
#[must_use]
pub fn random_text() -> String {
    URL_SAFE_NO_PAD.encode(super::random::<32>())
}

/// A short name for a text, by which it can be found again and from which it cannot be learnt: 16 hex digits.
#[must_use]
pub fn short_hash(text: &str) -> String {
    let [a, b, c, d, e, f, g, h, ..] = sha256(text.as_bytes());
    hex(&[a, b, c, d, e, f, g, h])
}

/// What the store keeps of a token or a session's secret: SHA-256. Useless to whoever steals the database.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct TokenHash(pub [u8; 32]);

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(..)")
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    // The lengths are equal by the algorithm's definition; zip needs no proof of it.
    hash.iter_mut().zip(digest(&SHA256, bytes).as_ref()).for_each(|(to, from)| *to = *from);
    hash
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
