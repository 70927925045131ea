//! Access tokens and session secrets: generation, parsing and the hashes that the store keeps.
//!
//! Each contains 256 random bits. They cannot be guessed, so a fast hash protects them as well as a slow one.

use std::fmt::{self, Write as _};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret as _, SecretString};

/// An access token in clear text: `mlap_`, 64 hex digits (256 random bits), 8 hex digits of checksum. Its `Debug`
/// output does not contain the secret.
#[derive(Clone, Debug)]
pub struct AccessToken(SecretString);

impl AccessToken {
    /// The prefix of every access token. Secret scanners search for it.
    pub const PREFIX: &'static str = "mlap_";
    const RANDOM_DIGITS: usize = 64;
    const CHECKSUM_DIGITS: usize = 8;

    /// Generates a new random token.
    #[must_use]
    pub fn generate() -> Self {
        let mut text = Self::PREFIX.to_owned();
        text.push_str(&hex(&super::random::<32>()));
        let checksum = Self::checksum(&text);
        text.push_str(&checksum);
        Self(text.into())
    }

    /// Returns true if `text` has the prefix of a token, so that it is never tried as a password.
    #[must_use]
    pub fn looks_like(text: &str) -> bool {
        text.starts_with(Self::PREFIX)
    }

    /// Parses a token without asking the store. Returns `None` if the length, the alphabet or the checksum is wrong.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(Self::PREFIX)?;
        if digits.len() != Self::RANDOM_DIGITS + Self::CHECKSUM_DIGITS {
            return None;
        }
        // Only lower case is accepted, so that each token has exactly one spelling.
        if !digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
            return None;
        }
        let (secret, checksum) = text.split_at_checked(Self::PREFIX.len() + Self::RANDOM_DIGITS)?;
        super::equal(Self::checksum(secret).as_bytes(), checksum.as_bytes()).then(|| Self(text.into()))
    }

    /// Returns the hash that the store keeps.
    #[must_use]
    pub fn hash(&self) -> TokenHash {
        TokenHash(sha256(self.0.expose_secret().as_bytes()))
    }

    /// Returns the text, to be shown to its owner once.
    #[must_use]
    pub fn reveal(&self) -> &str {
        self.0.expose_secret()
    }

    /// Computes the checksum that distinguishes a mistyped or truncated token from a foreign one. It has no security
    /// purpose.
    fn checksum(secret: &str) -> String {
        let [a, b, c, d, ..] = sha256(secret.as_bytes());
        hex(&[a, b, c, d])
    }
}

/// The secret in a session cookie: 256 random bits. Its `Debug` output does not contain the secret.
#[derive(Clone, Debug)]
pub struct SessionSecret(SecretString);

impl SessionSecret {
    const LETTERS: usize = 43;

    /// Generates a new random secret.
    #[must_use]
    pub fn generate() -> Self {
        Self(random_text().into())
    }

    /// Parses a cookie's value without asking the store. Returns `None` if the value does not have the form of a
    /// session secret.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (text.len() == Self::LETTERS && text.bytes().all(plain)).then(|| Self(text.into()))
    }

    /// Returns the hash that the store keeps.
    #[must_use]
    pub fn hash(&self) -> TokenHash {
        TokenHash(sha256(self.0.expose_secret().as_bytes()))
    }

    /// Returns the text, for the cookie.
    #[must_use]
    pub fn reveal(&self) -> &str {
        self.0.expose_secret()
    }
}

/// Returns 256 random bits as URL-safe text.
#[must_use]
pub fn random_text() -> String {
    URL_SAFE_NO_PAD.encode(super::random::<32>())
}

/// Returns a short hash of 16 hex digits that identifies a text and does not reveal it.
#[must_use]
pub fn short_hash(text: &str) -> String {
    let [a, b, c, d, e, f, g, h, ..] = sha256(text.as_bytes());
    hex(&[a, b, c, d, e, f, g, h])
}

/// The SHA-256 hash of a token or session secret, as stored. The secret cannot be recovered from it, even from a stolen
/// database.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct TokenHash(pub [u8; 32]);

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(..)")
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    // SHA-256 always has 32 bytes, so `zip` copies all of them.
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
