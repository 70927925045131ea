//! Verification of tokens: genuine, intended for this proxy, and of the expected kind.
//!
//! Pure: the time and the keys are arguments. A token is parsed once, so the verified content is the content in use.
//! The token's own information about its verification serves only to select among the keys and algorithms that were
//! configured before.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde_json::{Map, Value};

use super::keys::Keys;
use crate::clock::Timestamp;
use crate::config::{Issuer, Provider};

mod refusal;

pub use refusal::Refusal;

/// Maximum length of a token in bytes.
const MAX_BYTES: usize = 16 * 1024;
const MAX_HEADER_BYTES: usize = 4 * 1024;
/// Tolerated difference of a provider's clock, if the configuration does not set it.
const LEEWAY: Duration = Duration::from_secs(30);
/// Maximum age of a logout token, even if its `exp` allows more.
const LOGOUT_LIFETIME: Duration = Duration::from_mins(10);
/// The end of the year 9999. Later times are mistakes, such as milliseconds.
const MAX_SECONDS: f64 = 253_402_300_799.0;
/// Maximum length in bytes of an identifier: `sub`, `sid`, `jti`.
const MAX_ID_BYTES: usize = 255;
const LOGOUT_EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

/// A parsed compact JWT. Nothing in it is trusted yet.
pub struct Unverified<'t> {
    algorithm: Algorithm,
    kid: Option<String>,
    /// The header's `typ` in lower case, without `application/`.
    kind: Option<String>,
    claims: Map<String, Value>,
    message: &'t str,
    signature: &'t str,
}

/// A token whose signature, issuer, audience and times are valid.
#[derive(Clone, Debug)]
pub struct Verified {
    pub claims: Value,
    pub subject: String,
    pub expires: Timestamp,
    /// Time of issue, if the token contains one.
    pub issued: Option<Timestamp>,
    /// The key that signed the token; see [`Keys::hold`].
    pub key: Arc<str>,
}

/// The content of a logout token.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Logout {
    /// At least one of `subject` and `sid` is present.
    pub subject: Option<String>,
    pub sid: Option<String>,
    /// Identifier to be remembered until `expires`, so that the token is accepted once.
    pub jti: String,
    pub expires: Timestamp,
}

/// Omits the parts that could be used as a token.
impl fmt::Debug for Unverified<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unverified").field("algorithm", &self.algorithm).field("kid", &self.kid).finish_non_exhaustive()
    }
}

impl<'t> Unverified<'t> {
    /// Parses a token.
    ///
    /// # Errors
    /// [`Refusal::TooLarge`], [`Refusal::Malformed`], [`Refusal::Algorithm`] if the algorithm is not supported,
    /// [`Refusal::Header`] if the header requires something unsupported.
    pub fn parse(token: &'t str) -> Result<Self, Refusal> {
        if token.len() > MAX_BYTES {
            return Err(Refusal::TooLarge);
        }
        let (message, signature) = token.rsplit_once('.').ok_or(Refusal::Malformed)?;
        let (header, claims) = message.split_once('.').ok_or(Refusal::Malformed)?;
        if header.len() > MAX_HEADER_BYTES || claims.contains('.') {
            return Err(Refusal::Malformed);
        }
        let header = object(header)?;
        let name = header.get("alg").and_then(Value::as_str).ok_or(Refusal::Malformed)?;
        // `none` and unsupported algorithms do not parse.
        let algorithm = name.parse().map_err(|_| Refusal::Algorithm)?;
        // RFC 7515 §4.1.11: an extension in `crit` that is not understood makes a token invalid. `b64` and `zip` change
        // the signed content, and `enc` marks an encrypted token.
        if ["crit", "b64", "zip", "enc"].iter().any(|name| header.contains_key(*name)) {
            return Err(Refusal::Header);
        }
        Ok(Self {
            algorithm,
            kid: text(&header, "kid").map_err(|()| Refusal::Malformed)?.map(str::to_owned),
            kind: text(&header, "typ").map_err(|()| Refusal::Malformed)?.map(|kind| {
                let kind = kind.to_ascii_lowercase();
                kind.strip_prefix("application/").map_or(kind.clone(), str::to_owned)
            }),
            claims: object(claims)?,
            message,
            signature,
        })
    }

    /// Returns the unverified issuer, which selects the rules for verification.
    #[must_use]
    pub fn issuer(&self) -> Option<&str> {
        self.claims.get("iss").and_then(Value::as_str)
    }

    /// Returns the unverified ID of the signing key.
    #[must_use]
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// Returns the algorithm in the header.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Verifies the signature with the keys that fit, and returns the one that made it.
    fn signed_with(&self, pinned: &[Algorithm], keys: &Keys) -> Result<Arc<str>, Refusal> {
        if !pinned.contains(&self.algorithm) {
            return Err(Refusal::Algorithm);
        }
        let Ok(signature) = URL_SAFE_NO_PAD.decode(self.signature) else { return Err(Refusal::Signature) };
        let mut refusal = Refusal::UnknownKey;
        for key in keys.fitting(self.kid(), self.algorithm) {
            refusal = Refusal::Signature;
            if key.signed(self.algorithm, self.message.as_bytes(), &signature) {
                return Ok(Arc::clone(key.material()));
            }
        }
        Err(refusal)
    }

    /// Verifies issuer and times, which every kind of token has. Returns the end of validity, including leeway, and the
    /// time of issue.
    fn times(&self, expected: &Expected<'_>, now: Timestamp) -> Result<(Timestamp, Option<Timestamp>), Refusal> {
        if self.issuer() != Some(expected.issuer) {
            return Err(Refusal::Issuer);
        }
        let expires = self.time("exp", Refusal::Expiry)?.ok_or(Refusal::Expiry)?;
        let begins = self.time("nbf", Refusal::NotBefore)?;
        let issued = self.time("iat", Refusal::IssuedAt)?;
        let leeway = expected.leeway;
        if expires.plus(leeway) <= now {
            return Err(Refusal::Expired);
        }
        if begins.is_some_and(|begins| begins > now.plus(leeway)) {
            return Err(Refusal::NotBefore);
        }
        if issued.is_some_and(|issued| issued > now.plus(leeway)) {
            return Err(Refusal::IssuedAt);
        }
        Ok((expires.plus(leeway), issued))
    }

    fn time(&self, name: &str, refusal: Refusal) -> Result<Option<Timestamp>, Refusal> {
        let Some(value) = self.claims.get(name) else { return Ok(None) };
        let seconds = value.as_f64().filter(|seconds| (0.0..=MAX_SECONDS).contains(seconds)).ok_or(refusal)?;
        let since = Duration::try_from_secs_f64(seconds).map_err(|_| refusal)?;
        Ok(Some(Timestamp(0).plus(since)))
    }

    /// Returns the values of `aud`: a string, or a non-empty array of strings only.
    fn audiences(&self) -> Result<Vec<&str>, Refusal> {
        match self.claims.get("aud") {
            Some(Value::String(one)) => Ok(vec![one]),
            Some(Value::Array(many)) if !many.is_empty() => {
                many.iter().map(|one| one.as_str().ok_or(Refusal::Audience)).collect()
            }
            _ => Err(Refusal::Audience),
        }
    }

    fn id(&self, name: &str, refusal: Refusal) -> Result<Option<String>, Refusal> {
        let id = text(&self.claims, name).map_err(|()| refusal)?;
        match id {
            Some(id) if id.is_empty() || id.len() > MAX_ID_BYTES || id.contains(char::is_control) => Err(refusal),
            id => Ok(id.map(str::to_owned)),
        }
    }

    /// Returns the claim `typ`, by which Keycloak distinguishes its kinds of tokens.
    fn claimed_kind(&self) -> Option<&str> {
        self.claims.get("typ").and_then(Value::as_str)
    }
}

/// Requirements on every kind of token.
struct Expected<'c> {
    issuer: &'c str,
    leeway: Duration,
}

/// Verifies a bearer token of a program or user.
///
/// # Errors
/// See [`Refusal`].
pub fn verify(token: Unverified<'_>, issuer: &Issuer, keys: &Keys, now: Timestamp) -> Result<Verified, Refusal> {
    let key = token.signed_with(&issuer.endpoint.algorithms, keys)?;
    let expected = Expected { issuer: &issuer.endpoint.issuer, leeway: issuer.leeway };
    let (expires, issued) = token.times(&expected, now)?;
    if !token.audiences()?.iter().any(|audience| issuer.audiences.iter().any(|ours| ours == audience)) {
        return Err(Refusal::Audience);
    }
    let party = token.id("azp", Refusal::AuthorizedParty)?;
    let is_ours = |party: &String| issuer.authorized_parties.contains(party);
    if !issuer.authorized_parties.is_empty() && !party.as_ref().is_some_and(is_ours) {
        return Err(Refusal::AuthorizedParty);
    }
    // RFC 9068 requires `at+jwt` for access tokens. Most providers use `JWT` for all kinds of tokens, or no type.
    if !matches!(token.kind.as_deref(), None | Some("jwt" | "at+jwt")) {
        return Err(Refusal::Kind);
    }
    // These claims occur in ID tokens and logout tokens, but not in access tokens. Such tokens are signed with the same
    // keys for the same audience, and pass through browsers and logs of other parties.
    let other = ["events", "nonce", "at_hash", "c_hash"].iter().any(|name| token.claims.contains_key(*name));
    let said = token.claimed_kind();
    let said_other = said.is_some_and(|said| OTHER_KINDS.iter().any(|kind| kind.eq_ignore_ascii_case(said)));
    if other || said_other {
        return Err(Refusal::Kind);
    }
    // RFC 9449 §7.2, RFC 8705 §3: such a token is valid only with a proof that the bearer has the key. The proxy
    // verifies no such proof, so it refuses the token.
    if token.claims.contains_key("cnf") {
        return Err(Refusal::Bound);
    }
    let subject = token.id("sub", Refusal::Subject)?.ok_or(Refusal::Subject)?;
    Ok(Verified { claims: Value::Object(token.claims), subject, expires, issued, key })
}

/// Values of Keycloak's claim `typ` for tokens other than access tokens.
const OTHER_KINDS: [&str; 5] = ["ID", "Refresh", "Logout", "Offline", "Serialized-ID"];

/// Expected nonce of an ID token.
#[derive(Clone, Copy, Debug)]
pub enum Nonce<'n> {
    /// The first ID token of a login must contain this nonce.
    Must(&'n str),
    /// A refreshed ID token need not repeat the nonce of its login (OpenID Connect Core §12.2).
    Refreshed,
}

/// Verifies an ID token from the token endpoint.
///
/// # Errors
/// See [`Refusal`].
pub fn verify_id_token(
    token: Unverified<'_>,
    provider: &Provider,
    keys: &Keys,
    nonce: Nonce<'_>,
    now: Timestamp,
) -> Result<Verified, Refusal> {
    let key = token.signed_with(&provider.endpoint.algorithms, keys)?;
    let expected = Expected { issuer: &provider.endpoint.issuer, leeway: LEEWAY };
    let (expires, issued) = token.times(&expected, now)?;
    if issued.is_none() {
        return Err(Refusal::IssuedAt);
    }
    for_client(&token, &provider.client_id)?;
    if !matches!(token.kind.as_deref(), None | Some("jwt")) || token.claims.contains_key("events") {
        return Err(Refusal::Kind);
    }
    if token.claimed_kind().is_some_and(|said| !said.eq_ignore_ascii_case("ID")) {
        return Err(Refusal::Kind);
    }
    let said = token.id("nonce", Refusal::Nonce)?;
    match nonce {
        Nonce::Must(nonce) => {
            let same = said.is_some_and(|said| crate::crypto::equal(said.as_bytes(), nonce.as_bytes()));
            if !same {
                return Err(Refusal::Nonce);
            }
        }
        Nonce::Refreshed => {}
    }
    let subject = token.id("sub", Refusal::Subject)?.ok_or(Refusal::Subject)?;
    Ok(Verified { claims: Value::Object(token.claims), subject, expires, issued, key })
}

/// Verifies an access token that the token endpoint issued together with an ID token, to add its claims to those of the
/// ID token.
///
/// The token may have any audience, but it must have been issued to this client: according to `azp`, according to
/// `client_id` (RFC 9068 §2.2), or, without either, because the client is among its audiences.
///
/// # Errors
/// See [`Refusal`].
pub fn verify_access_token(
    token: Unverified<'_>,
    provider: &Provider,
    keys: &Keys,
    now: Timestamp,
) -> Result<Verified, Refusal> {
    let key = token.signed_with(&provider.endpoint.algorithms, keys)?;
    let expected = Expected { issuer: &provider.endpoint.issuer, leeway: LEEWAY };
    let (expires, issued) = token.times(&expected, now)?;
    let parties = [token.id("azp", Refusal::AuthorizedParty)?, token.id("client_id", Refusal::AuthorizedParty)?];
    if parties.iter().flatten().any(|party| *party != provider.client_id) {
        return Err(Refusal::AuthorizedParty);
    }
    if parties.iter().all(Option::is_none) && !token.audiences()?.contains(&provider.client_id.as_str()) {
        return Err(Refusal::Audience);
    }
    if !matches!(token.kind.as_deref(), None | Some("jwt" | "at+jwt")) || token.claims.contains_key("events") {
        return Err(Refusal::Kind);
    }
    let subject = token.id("sub", Refusal::Subject)?.ok_or(Refusal::Subject)?;
    Ok(Verified { claims: Value::Object(token.claims), subject, expires, issued, key })
}

/// Verifies a logout token according to OpenID Connect Back-Channel Logout 1.0 §2.6. The caller must check if its `jti`
/// was used before.
///
/// # Errors
/// See [`Refusal`].
pub fn verify_logout_token(
    token: &Unverified<'_>,
    provider: &Provider,
    keys: &Keys,
    now: Timestamp,
) -> Result<Logout, Refusal> {
    token.signed_with(&provider.endpoint.algorithms, keys)?;
    let expected = Expected { issuer: &provider.endpoint.issuer, leeway: LEEWAY };
    let (expires, issued) = token.times(&expected, now)?;
    let issued = issued.ok_or(Refusal::IssuedAt)?;
    // Its `jti` must be remembered until `expires`, so the token must not be valid for long.
    if issued.plus(LOGOUT_LIFETIME) < now {
        return Err(Refusal::Expired);
    }
    for_client(token, &provider.client_id)?;
    if !matches!(token.kind.as_deref(), None | Some("jwt" | "logout+jwt")) {
        return Err(Refusal::Kind);
    }
    if token.claimed_kind().is_some_and(|said| !said.eq_ignore_ascii_case("Logout")) {
        return Err(Refusal::Kind);
    }
    let event = token.claims.get("events").and_then(|events| events.get(LOGOUT_EVENT));
    if !event.is_some_and(Value::is_object) {
        return Err(Refusal::Events);
    }
    // Logout tokens must not have a nonce, so that an ID token is never accepted as one.
    if token.claims.contains_key("nonce") {
        return Err(Refusal::Nonce);
    }
    let subject = token.id("sub", Refusal::Subject)?;
    let sid = token.id("sid", Refusal::Subject)?;
    if subject.is_none() && sid.is_none() {
        return Err(Refusal::Subject);
    }
    let jti = token.id("jti", Refusal::Jti)?.ok_or(Refusal::Jti)?;
    Ok(Logout { subject, sid, jti, expires: expires.min(issued.plus(LOGOUT_LIFETIME)) })
}

/// Verifies that a token is intended for this client. With several audiences, `azp` must name this client.
fn for_client(token: &Unverified<'_>, client: &str) -> Result<(), Refusal> {
    let audiences = token.audiences()?;
    if !audiences.contains(&client) {
        return Err(Refusal::Audience);
    }
    let party = token.id("azp", Refusal::AuthorizedParty)?;
    match party {
        Some(party) if party != client => Err(Refusal::AuthorizedParty),
        None if audiences.len() > 1 => Err(Refusal::AuthorizedParty),
        Some(_) | None => Ok(()),
    }
}

fn object(part: &str) -> Result<Map<String, Value>, Refusal> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| Refusal::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| Refusal::Malformed)
}

/// Returns a member that must be a string if present. `null` is refused.
fn text<'m>(members: &'m Map<String, Value>, name: &str) -> Result<Option<&'m str>, ()> {
    members.get(name).map(|value| value.as_str().ok_or(())).transpose()
}

#[cfg(test)]
mod tests;
