//! Password hashes: argon2id with OWASP's first choice of parameters.
//!
//! Hashing is slow on purpose, so `authn` runs it on a bounded pool. A stored hash names its own parameters. They are
//! checked before they are used, because one row with a huge memory cost would otherwise exhaust the proxy's memory.

use std::fmt;
use std::sync::LazyLock;

use argon2::password_hash::phc::{self, Output, ParamsString, Salt};
use argon2::{Algorithm, Argon2, Params, PasswordHasher as _, PasswordVerifier as _, Version};
use secrecy::{ExposeSecret as _, SecretString};

/// The stored form of a password: an argon2id PHC string.
#[derive(Clone, Eq, PartialEq)]
pub struct PasswordHash(pub String);

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(..)")
    }
}

impl PasswordHash {
    /// Hashes a password with argon2id, 19 MiB, 2 passes and 1 lane (OWASP's first choice).
    ///
    /// Takes about 16 ms of one core, so call it on a blocking thread.
    #[must_use]
    #[expect(clippy::expect_used, reason = "argon2 refuses only passwords beyond 4 GiB, and bodies are far smaller")]
    pub fn make(password: &SecretString) -> Self {
        let salt = super::random::<SALT_BYTES>();
        let hash = hasher().hash_password_with_salt(password.expose_secret().as_bytes(), &salt);
        Self(hash.expect("our own parameters are valid").to_string())
    }

    /// Returns true if `password` matches this hash.
    ///
    /// Returns false if a stored parameter exceeds four times the default. Blocks like [`PasswordHash::make`].
    #[must_use]
    pub fn matches(&self, password: &SecretString) -> bool {
        let Ok(stored) = phc::PasswordHash::new(&self.0) else { return false };
        stored.algorithm == Algorithm::Argon2id.ident()
            && Params::try_from(&stored).is_ok_and(|params| affordable(&params))
            && hasher().verify_password(password.expose_secret().as_bytes(), &stored).is_ok()
    }

    /// Returns a hash that no password matches, verified for unknown users so that they take the same time as known
    /// ones.
    ///
    /// Salt and output are random, so no password for it is known and creating it needs no hashing.
    #[must_use]
    pub fn decoy() -> &'static Self {
        static DECOY: LazyLock<PasswordHash> = LazyLock::new(|| {
            let hash = phc::PasswordHash {
                algorithm: Algorithm::Argon2id.ident(),
                version: Some(Version::default().into()),
                params: ParamsString::try_from(hasher().params()).unwrap_or_default(),
                salt: Salt::new(&super::random::<SALT_BYTES>()).ok(),
                hash: Output::new(&super::random::<{ Params::DEFAULT_OUTPUT_LEN }>()).ok(),
            };
            PasswordHash(hash.to_string())
        });
        &DECOY
    }
}

const SALT_BYTES: usize = 16;

/// Returns a hasher with argon2's defaults, which equal OWASP's first choice. A test verifies that they do.
fn hasher() -> Argon2<'static> {
    Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::DEFAULT)
}

fn affordable(params: &Params) -> bool {
    let ours = Params::DEFAULT;
    params.m_cost() <= ours.m_cost() * 4 && params.t_cost() <= ours.t_cost() * 4 && params.p_cost() <= ours.p_cost() * 4
}
