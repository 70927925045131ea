//! A provider's public keys (RFC 7517), and which of them may verify what.
//!
//! Pure. What is not surely a key for signatures of a pinned kind is left out: shared secrets, private keys, short RSA
//! moduli, curves that nobody asked for.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;

/// A provider's keys, as of one fetch.
#[derive(Clone, Debug, Default)]
pub struct Keys(Vec<Key>);

/// One public key.
#[derive(Clone, Debug)]
pub struct Key {
    kid: Option<String>,
    /// The only algorithm it is for, when the provider says so.
    only: Option<Algorithm>,
    fits: &'static [Algorithm],
    decoding: DecodingKey,
    material: Arc<str>,
}

/// Why a key set is not used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    #[error("its key set is not what RFC 7517 says: {0}")]
    NotUnderstood(#[source] serde_json::Error),
    #[error("its key set has {0} keys; more than {MAX_KEYS} are not read")]
    TooMany(usize),
    #[error("its key set has no key that could verify a signature of the configured `algorithms`")]
    NoneUsable,
}

/// How many keys a set may have; real ones have a handful.
const MAX_KEYS: usize = 100;
const MIN_RSA_BITS: usize = 2048;
const MAX_RSA_BITS: usize = 8192;
const RSA: [Algorithm; 6] =
    [Algorithm::RS256, Algorithm::RS384, Algorithm::RS512, Algorithm::PS256, Algorithm::PS384, Algorithm::PS512];

#[derive(Deserialize)]
struct RawSet {
    keys: Vec<Value>,
}

/// The members of a key that we read.
#[derive(Deserialize)]
struct Raw {
    kty: String,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    kid: Option<String>,
    n: Option<String>,
    e: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    /// Of a private key. Whoever publishes it has no secret left.
    d: Option<Value>,
    k: Option<Value>,
}

impl Keys {
    /// Reads a key set and keeps what may verify signatures made with the pinned algorithms.
    ///
    /// # Errors
    /// It is no key set, has too many keys, or none that is of use.
    pub fn parse(json: &[u8], pinned: &[Algorithm]) -> Result<Self, KeysError> {
        let set: RawSet = serde_json::from_slice(json).map_err(KeysError::NotUnderstood)?;
        if set.keys.len() > MAX_KEYS {
            return Err(KeysError::TooMany(set.keys.len()));
        }
        // RFC 7517 §5: keys that are not understood are ignored.
        let raw = set.keys.into_iter().filter_map(|key| serde_json::from_value(key).ok());
        let usable = |key: &Key| pinned.iter().any(|algorithm| key.fits(*algorithm));
        let keys: Vec<Key> = raw.filter_map(Key::read).filter(usable).collect();
        if keys.is_empty() { Err(KeysError::NoneUsable) } else { Ok(Self(keys)) }
    }

    /// The keys that may have signed a token: those with its `kid`, or the only one that fits when it has none.
    pub fn fitting(&self, kid: Option<&str>, algorithm: Algorithm) -> impl Iterator<Item = &Key> {
        let fitting = || self.0.iter().filter(move |key| key.fits(algorithm));
        let guess = kid.is_none() && fitting().count() == 1;
        fitting().filter(move |key| guess || kid.is_some() && key.kid.as_deref() == kid)
    }

    /// Whether a key that verified something earlier is still among them.
    #[must_use]
    pub fn hold(&self, material: &str) -> bool {
        self.0.iter().any(|key| *key.material == *material)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Key {
    fn read(raw: Raw) -> Option<Self> {
        let verifies = |ops: &Vec<String>| ops.iter().any(|op| op == "verify");
        if raw.usage.as_ref().is_some_and(|usage| usage != "sig") || !raw.key_ops.as_ref().is_none_or(verifies) {
            return None;
        }
        if raw.d.is_some() || raw.k.is_some() {
            return None;
        }
        let only = raw.alg.as_ref().map(|alg| alg.parse::<Algorithm>()).transpose().ok()?;
        let crv = raw.crv.as_deref();
        let (fits, decoding, material): (&[Algorithm], _, _) = match (raw.kty.as_str(), crv) {
            ("RSA", _) => {
                let (n, e) = (raw.n?, raw.e?);
                let decoding = rsa(&n, &e)?;
                (&RSA, decoding, format!("RSA {n} {e}"))
            }
            ("EC", Some(curve @ ("P-256" | "P-384"))) => {
                let (x, y) = (raw.x?, raw.y?);
                let (fits, bytes): (&[Algorithm], _) =
                    if curve == "P-256" { (&[Algorithm::ES256], 32) } else { (&[Algorithm::ES384], 48) };
                if decode(&x)?.len() != bytes || decode(&y)?.len() != bytes {
                    return None;
                }
                (fits, DecodingKey::from_ec_components(&x, &y).ok()?, format!("{curve} {x} {y}"))
            }
            ("OKP", Some("Ed25519")) => {
                let x = raw.x?;
                if decode(&x)?.len() != 32 {
                    return None;
                }
                (&[Algorithm::EdDSA], DecodingKey::from_ed_components(&x).ok()?, format!("Ed25519 {x}"))
            }
            _ => return None,
        };
        Some(Self { kid: raw.kid, only, fits, decoding, material: material.into() })
    }

    fn fits(&self, algorithm: Algorithm) -> bool {
        self.fits.contains(&algorithm) && self.only.is_none_or(|only| only == algorithm)
    }

    pub(super) const fn decoding(&self) -> &DecodingKey {
        &self.decoding
    }

    pub(super) const fn material(&self) -> &Arc<str> {
        &self.material
    }
}

/// An RSA key of a size that is neither weak nor expensive on purpose.
fn rsa(modulus: &str, exponent: &str) -> Option<DecodingKey> {
    let (n, e) = (decode(modulus)?, decode(exponent)?);
    let n: Vec<u8> = n.into_iter().skip_while(|byte| *byte == 0).collect();
    let bits = n.len() * 8 - n.first().map_or(0, |first| first.leading_zeros() as usize);
    let odd = e.last().is_some_and(|last| last % 2 == 1) && e != [1];
    if !(MIN_RSA_BITS..=MAX_RSA_BITS).contains(&bits) || e.len() > 4 || !odd {
        return None;
    }
    Some(DecodingKey::from_rsa_raw_components(&n, &e))
}

fn decode(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

#[cfg(test)]
mod tests;
