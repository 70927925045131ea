//! The only module that touches randomness, hashes, sealing and password hashing.
//!
//! `expose_secret()` may appear here, in `authn` and in `oidc`, and nowhere else.

use secrecy::SecretString;

/// An access token as its owner knows it: `mlap_`, 64 hex digits (256 random bits), 8 hex digits of checksum.
/// Has no useful `Debug`.
#[derive(Clone, Debug)]
pub struct AccessToken(SecretString);

/// What the store keeps of a token: SHA-256. Useless to whoever steals the database.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct TokenHash(pub [u8; 32]);

impl std::fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenHash(..)")
    }
}

/// What the store keeps of a password: an argon2id PHC string.
#[derive(Clone, Eq, PartialEq)]
pub struct PasswordHash(pub String);

impl std::fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PasswordHash(..)")
    }
}

#[expect(unused_variables, clippy::todo, reason = "signatures first")]
impl AccessToken {
    /// How every token starts; secret scanners look for it.
    pub const PREFIX: &'static str = "mlap_";
    /// A new random token.
    pub fn generate() -> Self {
        todo!()
    }
    /// Whether `text` looks like a token at all (prefix), so that it is never tried as a password.
    pub fn looks_like(text: &str) -> bool {
        todo!()
    }
    /// Reads a token; `None` when length, alphabet or checksum are wrong, without asking the store.
    pub fn parse(text: &str) -> Option<Self> {
        todo!()
    }
    /// What the store keeps.
    pub fn hash(&self) -> TokenHash {
        todo!()
    }
    /// The text, to be shown to its owner once.
    pub fn reveal(&self) -> &str {
        todo!()
    }
}

#[expect(unused_variables, clippy::todo, reason = "signatures first")]
impl PasswordHash {
    /// argon2id, 19 MiB, 2 passes, 1 lane (OWASP's first choice). Takes about 16 ms of one core: call it on a blocking thread.
    pub fn make(password: &SecretString) -> Self {
        todo!()
    }
    /// Whether it is this password. Refuses stored parameters beyond ours times four. Blocking, as above.
    pub fn matches(&self, password: &SecretString) -> bool {
        todo!()
    }
    /// Hash of an unknown password, verified for unknown users so that they take the same time.
    pub fn decoy() -> &'static Self {
        todo!()
    }
}

/// A random password of 24 characters for the first administrator.
#[expect(clippy::todo, reason = "signatures first")]
pub fn random_password() -> SecretString {
    todo!()
}

/// A per-process key under which credentials are looked up in caches: HMAC-SHA-256, so a memory dump has no credential hash to crack.
#[derive(Debug)]
pub struct CacheKeys {}

#[expect(unused_variables, clippy::todo, reason = "signatures first")]
impl CacheKeys {
    pub fn new() -> Self {
        todo!()
    }
    pub fn key(&self, purpose: &'static str, credential: &[u8]) -> [u8; 32] {
        todo!()
    }
}

/// AES-256-GCM sealing of short texts that clients carry for us (page tokens), bound to a purpose.
#[derive(Debug)]
pub struct Sealer {}

#[expect(unused_variables, clippy::todo, reason = "signatures first")]
impl Sealer {
    pub fn new(key: &[u8; 32]) -> Self {
        todo!()
    }
    /// URL-safe text. `purpose` and `owner` (a user id) are authenticated, so a token opens only where and for whom it was made.
    pub fn seal(&self, purpose: &str, owner: i64, plain: &[u8]) -> String {
        todo!()
    }
    /// `None` when altered, made elsewhere or for somebody else.
    pub fn open(&self, purpose: &str, owner: i64, sealed: &str) -> Option<Vec<u8>> {
        todo!()
    }
}
