//! Public keys of a provider (RFC 7517), and the algorithms that each may verify.
//!
//! Pure. Keys that are not clearly meant for signatures with a configured algorithm are ignored: shared secrets,
//! private keys, short RSA moduli and other curves.

use std::sync::Arc;

use aws_lc_rs::signature::{self, ParsedPublicKey, RsaParameters, RsaPublicKeyComponents, VerificationAlgorithm};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde::Deserialize;
use serde_json::Value;

/// The keys of a provider, as of one fetch.
#[derive(Clone, Debug, Default)]
pub struct Keys(Vec<Key>);

/// A public key.
#[derive(Clone, Debug)]
pub struct Key {
    kid: Option<String>,
    /// The parsed key for each algorithm that it may verify. Parsing it for every signature would increase the cost by
    /// half.
    verifying: Vec<(Algorithm, Arc<ParsedPublicKey>)>,
    material: Arc<str>,
}

/// Reason for which a key set is refused.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    #[error("its key set does not follow RFC 7517: {0}")]
    NotUnderstood(#[source] serde_json::Error),
    #[error("its key set has {0} keys; more than {MAX_KEYS} are not read")]
    TooMany(usize),
    #[error("its key set has no key that could verify a signature of the configured `algorithms`")]
    NoneUsable,
}

/// Maximum number of keys in a set. Real ones have a handful.
const MAX_KEYS: usize = 100;
const MIN_RSA_BITS: usize = 2048;
const MAX_RSA_BITS: usize = 8192;

#[derive(Deserialize)]
struct RawSet {
    keys: Vec<Value>,
}

/// The members of a key that are read.
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
    /// Part of a private key. A published private key is compromised, so the key is ignored.
    d: Option<Value>,
    k: Option<Value>,
}

impl Keys {
    /// Parses a key set and keeps the keys that can verify signatures with the configured algorithms.
    ///
    /// # Errors
    /// Returns an error if the JSON is not a key set, contains too many keys, or contains no usable key.
    pub fn parse(json: &[u8], pinned: &[Algorithm]) -> Result<Self, KeysError> {
        let set: RawSet = serde_json::from_slice(json).map_err(KeysError::NotUnderstood)?;
        if set.keys.len() > MAX_KEYS {
            return Err(KeysError::TooMany(set.keys.len()));
        }
        // RFC 7517 §5: keys that are not understood are ignored.
        let raw = set.keys.into_iter().filter_map(|key| serde_json::from_value(key).ok());
        let keys: Vec<Key> = raw.filter_map(|raw| Key::read(raw, pinned)).collect();
        if keys.is_empty() { Err(KeysError::NoneUsable) } else { Ok(Self(keys)) }
    }

    /// Returns the keys that may have signed a token: those with its `kid`, or the only suitable one if the token has
    /// no `kid`.
    pub fn fitting(&self, kid: Option<&str>, algorithm: Algorithm) -> impl Iterator<Item = &Key> {
        let fitting = || self.0.iter().filter(move |key| key.fits(algorithm));
        let guess = kid.is_none() && fitting().count() == 1;
        fitting().filter(move |key| guess || kid.is_some() && key.kid.as_deref() == kid)
    }

    /// Returns true if the set contains a key that verified an earlier token.
    #[must_use]
    pub fn hold(&self, material: &str) -> bool {
        self.0.iter().any(|key| *key.material == *material)
    }

    /// Returns the number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns true if there are no keys.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Key {
    fn read(raw: Raw, pinned: &[Algorithm]) -> Option<Self> {
        let verifies = |ops: &Vec<String>| ops.iter().any(|op| op == "verify");
        if raw.usage.as_ref().is_some_and(|usage| usage != "sig") || !raw.key_ops.as_ref().is_none_or(verifies) {
            return None;
        }
        if raw.d.is_some() || raw.k.is_some() {
            return None;
        }
        // The only algorithm that the key is for, if the provider names one.
        let only = raw.alg.as_ref().map(|alg| alg.parse::<Algorithm>()).transpose().ok()?;
        let public = Public::read(&raw)?;
        let allowed = pinned.iter().filter(|algorithm| only.is_none_or(|only| only == **algorithm));
        let ready = |algorithm: &Algorithm| Some((*algorithm, Arc::new(public.made_ready(*algorithm)?)));
        let verifying: Vec<_> = allowed.filter_map(ready).collect();
        (!verifying.is_empty()).then(|| Self { kid: raw.kid, verifying, material: public.material().into() })
    }

    fn fits(&self, algorithm: Algorithm) -> bool {
        self.ready_for(algorithm).is_some()
    }

    /// Returns true if this key signed the message with this algorithm.
    pub(super) fn signed(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        self.ready_for(algorithm).is_some_and(|key| key.verify_sig(message, signature).is_ok())
    }

    fn ready_for(&self, algorithm: Algorithm) -> Option<&ParsedPublicKey> {
        self.verifying.iter().find(|(fitting, _)| *fitting == algorithm).map(|(_, key)| &**key)
    }

    pub(super) const fn material(&self) -> &Arc<str> {
        &self.material
    }
}

/// The components of a public key.
enum Public {
    Rsa(RsaPublicKeyComponents<Vec<u8>>),
    /// An uncompressed point (SEC 1 §2.3.3).
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519([u8; 32]),
}

impl Public {
    fn read(raw: &Raw) -> Option<Self> {
        match (raw.kty.as_str(), raw.crv.as_deref()) {
            ("RSA", _) => rsa(decode(raw.n.as_ref()?)?, decode(raw.e.as_ref()?)?).map(Self::Rsa),
            ("EC", Some("P-256")) => point(raw, 32).map(Self::P256),
            ("EC", Some("P-384")) => point(raw, 48).map(Self::P384),
            ("OKP", Some("Ed25519")) => Some(Self::Ed25519(decode(raw.x.as_ref()?)?.try_into().ok()?)),
            _ => None,
        }
    }

    /// Parses the key for signatures with this algorithm. Returns `None` if the key is for other algorithms or its
    /// point is not on the curve.
    fn made_ready(&self, algorithm: Algorithm) -> Option<ParsedPublicKey> {
        let (verification, bytes): (&'static dyn VerificationAlgorithm, &[u8]) = match (self, algorithm) {
            (Self::Rsa(components), _) => return components.to_parsed_public_key(rsa_parameters(algorithm)?).ok(),
            (Self::P256(point), Algorithm::ES256) => (&signature::ECDSA_P256_SHA256_FIXED, point),
            (Self::P384(point), Algorithm::ES384) => (&signature::ECDSA_P384_SHA384_FIXED, point),
            (Self::Ed25519(bytes), Algorithm::EdDSA) => (&signature::ED25519, bytes),
            _ => return None,
        };
        ParsedPublicKey::new(verification, bytes).ok()
    }

    /// Returns a text that is equal for equal keys, regardless of their `kid`.
    fn material(&self) -> String {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match self {
            Self::Rsa(components) => format!("RSA {} {}", encode(&components.n), encode(&components.e)),
            Self::P256(point) => format!("P-256 {}", encode(point)),
            Self::P384(point) => format!("P-384 {}", encode(point)),
            Self::Ed25519(bytes) => format!("Ed25519 {}", encode(bytes)),
        }
    }
}

/// Returns an RSA key if its size is neither weak nor so large that verification is expensive.
fn rsa(modulus: Vec<u8>, exponent: Vec<u8>) -> Option<RsaPublicKeyComponents<Vec<u8>>> {
    let without_zeros = |bytes: Vec<u8>| bytes.into_iter().skip_while(|byte| *byte == 0).collect::<Vec<u8>>();
    let (n, e) = (without_zeros(modulus), without_zeros(exponent));
    let bits = n.len() * 8 - n.first().map_or(0, |first| first.leading_zeros() as usize);
    let odd = e.last().is_some_and(|last| last % 2 == 1) && e != [1];
    ((MIN_RSA_BITS..=MAX_RSA_BITS).contains(&bits) && e.len() <= 4 && odd).then_some(RsaPublicKeyComponents { n, e })
}

const fn rsa_parameters(algorithm: Algorithm) -> Option<&'static RsaParameters> {
    match algorithm {
        Algorithm::RS256 => Some(&signature::RSA_PKCS1_2048_8192_SHA256),
        Algorithm::RS384 => Some(&signature::RSA_PKCS1_2048_8192_SHA384),
        Algorithm::RS512 => Some(&signature::RSA_PKCS1_2048_8192_SHA512),
        Algorithm::PS256 => Some(&signature::RSA_PSS_2048_8192_SHA256),
        Algorithm::PS384 => Some(&signature::RSA_PSS_2048_8192_SHA384),
        Algorithm::PS512 => Some(&signature::RSA_PSS_2048_8192_SHA512),
        _ => None,
    }
}

fn point(raw: &Raw, bytes: usize) -> Option<Vec<u8>> {
    let (x, y) = (decode(raw.x.as_ref()?)?, decode(raw.y.as_ref()?)?);
    (x.len() == bytes && y.len() == bytes).then(|| [vec![4], x, y].concat())
}

fn decode(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

#[cfg(test)]
mod tests;
