//! Passwords: argon2id, and nothing is ever compared in clear.
//!
//! Slow on purpose (about 16 ms of one core and 19 MiB each): call on a blocking thread, a few at a time.

use argon2::password_hash::phc;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use argon2::{Algorithm, Argon2, Params, Version};
use secrecy::{ExposeSecret as _, SecretString};

use super::{hex, random};

/// What the store keeps of a password: an argon2id PHC string.
#[derive(Clone, Eq, PartialEq)]
pub struct PasswordHash(pub String);

/// OWASP's first choice: 19 MiB, two passes, one lane.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
/// A stored hash may ask for this many times more work than ours before it is refused as an attack on our memory.
const TOLERATED: u32 = 4;

impl PasswordHash {
    /// Hashes a password with a fresh salt. Blocking.
    ///
    /// # Panics
    /// Never: the parameters are constants that argon2 accepts, and a password is far below its limit.
    #[must_use]
    pub fn make(password: &SecretString) -> Self {
        let salt = random::<16>();
        #[expect(clippy::expect_used, reason = "constant parameters, tested")]
        let hash: phc::PasswordHash = hasher()
            .hash_password_with_salt(password.expose_secret().as_bytes(), &salt)
            .expect("argon2 takes these parameters");
        Self(hash.to_string())
    }

    /// Whether it is this password; refuses a stored hash with outrageous parameters. Blocking.
    #[must_use]
    pub fn matches(&self, password: &SecretString) -> bool {
        let Ok(stored) = phc::PasswordHash::new(&self.0) else { return false };
        let Ok(params) = Params::try_from(&stored) else { return false };
        if params.m_cost() > MEMORY_KIB * TOLERATED
            || params.t_cost() > PASSES * TOLERATED
            || params.p_cost() > TOLERATED
        {
            return false;
        }
        hasher().verify_password(password.expose_secret().as_bytes(), &stored).is_ok()
    }
}

impl std::fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PasswordHash(..)")
    }
}

fn hasher() -> Argon2<'static> {
    let params = Params::new(MEMORY_KIB, PASSES, 1, None).unwrap_or_default();
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

/// A random password of 24 characters for the first administrator.
#[must_use]
pub fn random_password() -> SecretString {
    hex(&random::<12>()).into()
}
