//! The only module that touches randomness, hashes, sealing and password hashing.
//!
//! `expose_secret()` may appear here, in `authn` and in `oidc`, and nowhere else.

mod password;
mod seal;
mod token;

pub use password::{PasswordHash, random_password};
pub use seal::{CacheKeys, Sealer};
pub use token::{AccessToken, TokenHash};

#[cfg(test)]
mod tests;

/// Fresh random bytes of the operating system.
///
/// # Panics
/// Never in practice: aws-lc-rs fails only when the operating system has no randomness, and then nothing may go on.
#[must_use]
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    #[expect(clippy::expect_used, reason = "without randomness no secret may be made")]
    aws_lc_rs::rand::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a `String` cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    parts.iter().for_each(|part| context.update(part));
    // SHA-256 has 32 bytes.
    context.finish().as_ref().try_into().unwrap_or_default()
}
