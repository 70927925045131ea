//! Randomness, hashes, sealing and password hashing. No other module touches them.
//!
//! `expose_secret()` may appear here, in `authn` and in `oidc`, and nowhere else. Secrets are always compared in
//! constant time, here or in the crates that this module uses.

use aws_lc_rs::rand;
use secrecy::{ExposeSecret as _, SecretString};
use subtle::ConstantTimeEq as _;

mod keys;
mod password;
mod seal;
mod token;

pub use keys::{CacheKey, CacheKeys, StoreKeys};
pub use password::PasswordHash;
pub use seal::{KeyRing, Sealer};
pub use token::{AccessToken, SessionSecret, TokenHash, random_text, short_hash};

/// Returns a random password of 24 characters for the first administrator.
///
/// It has 120 bits of entropy. The alphabet consists of letters and digits that are not mistaken for one another and
/// need no quoting.
#[must_use]
pub fn random_password() -> SecretString {
    const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    // Without bias, because 256 is a multiple of 32.
    let letter = |byte: &u8| ALPHABET.get(usize::from(byte % 32)).map_or('x', |&letter| char::from(letter));
    random::<24>().iter().map(letter).collect::<String>().into()
}

/// Returns the text of a newly created secret, to be shown to its owner once.
#[must_use]
pub fn reveal(secret: &SecretString) -> &str {
    secret.expose_secret()
}

/// Returns random bytes from the operating system's generator, through AWS-LC.
#[must_use]
#[expect(clippy::expect_used, reason = "no secret must be created without randomness")]
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).expect("the operating system has randomness");
    bytes
}

/// Returns true if two byte strings are equal, in a time that depends only on their lengths.
#[must_use]
pub fn equal(left: &[u8], right: &[u8]) -> bool {
    left.ct_eq(right).into()
}

#[cfg(test)]
mod tests;
