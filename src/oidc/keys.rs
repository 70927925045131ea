//! A provider's public keys (RFC 7517), and which of them may verify what.
//!
//! Pure. What is not surely a key for signatures of a pinned kind is left out: shared secrets, private keys, short RSA
//! moduli, curves that nobody asked for.

use std::sync::Arc;

use aws_lc_rs::signature::{self, ParsedPublicKey, RsaParameters, RsaPublicKeyComponents, VerificationAlgorithm};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde::Deserialize;
use serde_json::Value;

/// A provider's keys, as of one fetch.
#[derive(Clone, Debug, Default)]
pub struct Keys(Vec<Key>);

/// One public key.
#[derive(Clone, Debug)]
pub struct Key {
    kid: Option<String>,
    /// For each algorithm that it may verify, the key made ready: done for every signature, that costs half as much again.
    verifying: Vec<(Algorithm, Arc<ParsedPublicKey>)>,
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
        let keys: Vec<Key> = raw.filter_map(|raw| Key::read(raw, pinned)).collect();
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
    fn read(raw: Raw, pinned: &[Algorithm]) -> Option<Self> {
        let verifies = |ops: &Vec<String>| ops.iter().any(|op| op == "verify");
        if raw.usage.as_ref().is_some_and(|usage| usage != "sig") || !raw.key_ops.as_ref().is_none_or(verifies) {
            return None;
        }
        if raw.d.is_some() || raw.k.is_some() {
            return None;
        }
        // The only algorithm it is for, when the provider says so.
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

    /// Whether this key signed the message, with this algorithm.
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

/// What a public key is made of.
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

    /// Ready to verify signatures of this algorithm; `None` if it is for others, or a point that is not on its curve.
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

    /// The same for the same key, whatever it is called.
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

/// An RSA key of a size that is neither weak nor expensive on purpose.
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
