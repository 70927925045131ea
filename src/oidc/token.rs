//! Is this token genuine, meant for us, and of the right kind?
//!
//! Pure: the moment and the keys are arguments. A token is read once; what was verified is what is believed. Nothing it says
//! about how to verify it counts, but for picking among the keys and algorithms that were pinned before it came.

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

/// The longest token that is looked at, in bytes.
const MAX_BYTES: usize = 16 * 1024;
const MAX_HEADER_BYTES: usize = 4 * 1024;
/// How far a provider's clock may differ where the configuration does not say.
const LEEWAY: Duration = Duration::from_secs(30);
/// The age from which a logout token is refused even if it says that it is valid for years.
const LOGOUT_LIFETIME: Duration = Duration::from_mins(10);
/// Times beyond the year 9999 are mistakes, milliseconds for instance.
const MAX_SECONDS: f64 = 253_402_300_799.0;
/// How long an identifier may be: `sub`, `sid`, `jti`.
const MAX_ID_BYTES: usize = 255;
const LOGOUT_EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

/// A compact JWT that was taken apart, and of which nothing is believed yet.
pub struct Unverified<'t> {
    algorithm: Algorithm,
    kid: Option<String>,
    /// The header's `typ`: lower case, without `application/`.
    kind: Option<String>,
    claims: Map<String, Value>,
    message: &'t str,
    signature: &'t str,
}

/// A token whose signature, issuer, audience and times are right.
#[derive(Clone, Debug)]
pub struct Verified {
    pub claims: Value,
    pub subject: String,
    pub expires: Timestamp,
    /// When it was made, as far as it says.
    pub issued: Option<Timestamp>,
    /// The key that signed it; see [`Keys::hold`].
    pub key: Arc<str>,
}

/// What a provider's logout token says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Logout {
    /// At least one of this and `sid` is there.
    pub subject: Option<String>,
    pub sid: Option<String>,
    /// To be remembered until `expires`, so that it works once.
    pub jti: String,
    pub expires: Timestamp,
}

/// Without anything that somebody could use as a token.
impl fmt::Debug for Unverified<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unverified").field("algorithm", &self.algorithm).field("kid", &self.kid).finish_non_exhaustive()
    }
}

impl<'t> Unverified<'t> {
    /// Takes a token apart.
    ///
    /// # Errors
    /// It is no compact JWT, too large, or its header asks for what we do not do.
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
        // Parsing knows neither `none` nor what nobody pinned.
        let algorithm = name.parse().map_err(|_| Refusal::Algorithm)?;
        // RFC 7515 §4.1.11: what must be understood and is not makes a token invalid. `b64` and `zip` change what was signed.
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

    /// Who it says has issued it: for picking the issuer whose rules it must then keep.
    #[must_use]
    pub fn issuer(&self) -> Option<&str> {
        self.claims.get("iss").and_then(Value::as_str)
    }

    /// Which key it says has signed it.
    #[must_use]
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// What it says it was signed with.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Whether one of these made the signature.
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

    /// The claims that every kind of token has, and how long it is valid.
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

    /// `aud`: a string, or an array of nothing but strings.
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

    /// What Keycloak writes into its tokens to tell them apart.
    fn claimed_kind(&self) -> Option<&str> {
        self.claims.get("typ").and_then(Value::as_str)
    }
}

/// What every kind of token is measured by.
struct Expected<'c> {
    issuer: &'c str,
    leeway: Duration,
}

/// Verifies a token that a program brings as a bearer.
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
    // RFC 9068 calls access tokens `at+jwt`; most providers write `JWT` on every kind of theirs, or nothing.
    if !matches!(token.kind.as_deref(), None | Some("jwt" | "at+jwt")) {
        return Err(Refusal::Kind);
    }
    // What an ID token or a logout token has and an access token has not. They are signed with the same keys for the same
    // audience, and travel through browsers and logs of other parties.
    let other = ["events", "nonce", "at_hash", "c_hash"].iter().any(|name| token.claims.contains_key(*name));
    let said = token.claimed_kind();
    let said_other = said.is_some_and(|said| OTHER_KINDS.iter().any(|kind| kind.eq_ignore_ascii_case(said)));
    if other || said_other {
        return Err(Refusal::Kind);
    }
    // RFC 9449 §7.2, RFC 8705 §3: of no use without a proof that its bearer has the key, and we ask for none.
    if token.claims.contains_key("cnf") {
        return Err(Refusal::Bound);
    }
    let subject = token.id("sub", Refusal::Subject)?.ok_or(Refusal::Subject)?;
    Ok(Verified { claims: Value::Object(token.claims), subject, expires, issued, key })
}

/// What Keycloak calls tokens that are no access tokens, in their claim `typ`.
const OTHER_KINDS: [&str; 5] = ["ID", "Refresh", "Logout", "Offline", "Serialized-ID"];

/// Which ID token is expected.
#[derive(Clone, Copy, Debug)]
pub enum Nonce<'n> {
    /// The first of a log-in, which must repeat this.
    Must(&'n str),
    /// A refreshed one: it need not repeat the nonce of its log-in (OpenID Connect Core §12.2).
    Refreshed,
}

/// Verifies an ID token that came from the token endpoint.
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

/// Verifies an access token that came from the token endpoint beside an ID token, for what it adds to that one's claims.
///
/// It is for whatever the provider says, so other audiences do not matter; but it must have been issued to this client: by
/// `azp`, by `client_id` (RFC 9068 §2.2), or, without either, by having the client among its audiences.
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

/// Verifies a logout token as OpenID Connect Back-Channel Logout 1.0 §2.6 says. Whether `jti` was seen before, the caller
/// must ask.
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
    // Until `expires` its `jti` is remembered, so that must be soon.
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
    // So that an ID token can never be one.
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

/// Whether a token is for this client, and for others only as far as it says that this one asked for it.
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

/// A member that must be a string if it is there; `null` is neither.
fn text<'m>(members: &'m Map<String, Value>, name: &str) -> Result<Option<&'m str>, ()> {
    members.get(name).map(|value| value.as_str().ok_or(())).transpose()
}

#[cfg(test)]
mod tests;
