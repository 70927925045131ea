//! Access tokens: made, recognised, hashed.
//!
//! 256 random bits, so a fast hash is right; the checksum lets scanners and us tell a typing error from a guess.

use secrecy::{ExposeSecret as _, SecretString};

use super::{hex, random, sha256};

/// An access token as its owner knows it: `mlap_`, 64 hex digits (256 random bits), 8 hex digits of checksum.
/// Has no useful `Debug` and is wiped when dropped.
#[derive(Clone, Debug)]
pub struct AccessToken(SecretString);

/// What the store keeps of a token: SHA-256. Useless to whoever steals the database.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct TokenHash([u8; 32]);

const SECRET_DIGITS: usize = 64;
const CHECKSUM_DIGITS: usize = 8;

impl AccessToken {
    /// How every token starts; secret scanners look for it.
    pub const PREFIX: &'static str = "mlap_";

    /// A new random token.
    #[must_use]
    pub fn generate() -> Self {
        let secret = hex(&random::<{ SECRET_DIGITS / 2 }>());
        let checksum = checksum(&secret);
        Self(format!("{}{secret}{checksum}", Self::PREFIX).into())
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
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if digits.len() != SECRET_DIGITS + CHECKSUM_DIGITS || !digits.bytes().all(hex) {
            return None;
        }
        let (secret, given) = digits.split_at_checked(SECRET_DIGITS)?;
        (checksum(secret) == given).then(|| Self(text.into()))
    }

    /// What the store keeps.
    #[must_use]
    pub fn hash(&self) -> TokenHash {
        TokenHash(sha256(&[self.0.expose_secret().as_bytes()]))
    }

    /// The text, to be shown to its owner once.
    #[must_use]
    pub fn reveal(&self) -> &str {
        self.0.expose_secret()
    }
}

impl TokenHash {
    /// As the store writes it.
    #[must_use]
    pub fn to_hex(&self) -> String {
        hex(&self.0)
    }
}

impl std::fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenHash(..)")
    }
}

/// Not a secret's protection, only an error's detection.
fn checksum(secret: &str) -> String {
    let digest = sha256(&[AccessToken::PREFIX.as_bytes(), secret.as_bytes()]);
    hex(digest.first_chunk::<{ CHECKSUM_DIGITS / 2 }>().map_or(&[], |chunk| chunk))
}
