//! Passwords: argon2id, with OWASP's first choice of parameters.
//!
//! Slow on purpose: `authn` runs it on a bounded pool. A stored hash names its own parameters, so they are checked
//! before they are believed: one row with a huge memory cost would otherwise stop the proxy.

use std::fmt;
use std::sync::LazyLock;

use argon2::password_hash::phc::{self, Output, ParamsString, Salt};
use argon2::{Algorithm, Argon2, Params, PasswordHasher as _, PasswordVerifier as _, Version};
use secrecy::{ExposeSecret as _, SecretString};

/// What the store keeps of a password: an argon2id PHC string.
#[derive(Clone, Eq, PartialEq)]
pub struct PasswordHash(pub String);

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(..)")
    }
}

impl PasswordHash {
    /// argon2id, 19 MiB, 2 passes, 1 lane (OWASP's first choice). Takes about 16 ms of one core: call it on a blocking thread.
    #[must_use]
    #[expect(clippy::expect_used, reason = "argon2 refuses only passwords beyond 4 GiB, and bodies are far smaller")]
    pub fn make(password: &SecretString) -> Self {
        let salt = super::random::<SALT_BYTES>();
        let hash = hasher().hash_password_with_salt(password.expose_secret().as_bytes(), &salt);
        Self(hash.expect("our own parameters are valid").to_string())
    }

    /// Whether it is this password. Refuses stored parameters beyond ours times four. Blocking, as above.
    #[must_use]
    pub fn matches(&self, password: &SecretString) -> bool {
        let Ok(stored) = phc::PasswordHash::new(&self.0) else { return false };
        stored.algorithm == Algorithm::Argon2id.ident()
            && Params::try_from(&stored).is_ok_and(|params| affordable(&params))
            && hasher().verify_password(password.expose_secret().as_bytes(), &stored).is_ok()
    }

    /// Hash of an unknown password, verified for unknown users so that they take the same time.
    ///
    /// Salt and output are random: nobody knows a password for it, and making it costs nothing.
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

/// argon2's defaults are the parameters we want; a test holds them to that.
fn hasher() -> Argon2<'static> {
    Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::DEFAULT)
}

fn affordable(params: &Params) -> bool {
    let ours = Params::DEFAULT;
    params.m_cost() <= ours.m_cost() * 4 && params.t_cost() <= ours.t_cost() * 4 && params.p_cost() <= ours.p_cost() * 4
}
