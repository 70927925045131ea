//! Bearer tokens of identity providers.
//!
//! A token is verified once. Its claims are cached until it expires or its key is withdrawn, so its next use costs one
//! look-up. Its permissions follow from its claims. The store keeps the same facts about its owner as after a login,
//! and older facts never replace newer ones.

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;

use super::identity_cache::Loaded;
use super::{Authenticated, Authn, Error, Reason};
use crate::authz::Scheme;
use crate::clock::Timestamp;
use crate::config;
use crate::crypto::CacheKey;
use crate::oidc::Remote;
use crate::oidc::claims::{self, Person, Standing};
use crate::oidc::token::{self, Refusal, Unverified, Verified};
use crate::store::{self, Actor, Occasion, Seen, User};

/// An issuer whose tokens are trusted.
#[derive(Debug)]
pub struct Trusted {
    pub issuer: config::Issuer,
    pub remote: Arc<Remote>,
    /// Claim rules of the login at the same issuer, if users sign in there too, so that both derive the same facts.
    pub login: Option<config::Claims>,
}

/// Verified tokens, by cache key.
pub(super) type VerifiedTokens = Cache<CacheKey, Arc<VerifiedClaims>>;

/// The verified claims of a token.
#[derive(Debug)]
pub(super) struct VerifiedClaims {
    issuer: String,
    key: Arc<str>,
    expires: Timestamp,
    issued: Option<Timestamp>,
    person: Person,
}

/// The identity behind a token.
pub(super) enum JwtIdentity {
    /// The cached identity of another token with equal claims, and the time until which it is valid for this token.
    Cached(Loaded, Timestamp),
    Loaded(Box<Authenticated>),
}

/// The longest time for which a token is accepted without verifying its signature again.
const LONGEST: Duration = Duration::from_hours(24);

pub(super) fn verified_tokens(entries: u64) -> VerifiedTokens {
    Cache::builder().max_capacity(entries).time_to_live(LONGEST).build()
}

impl Authn {
    /// Sets the issuers whose tokens are trusted.
    #[must_use]
    pub fn with_trusted_issuers(mut self, issuers: Vec<Trusted>) -> Self {
        self.issuers = issuers;
        self
    }

    /// Returns the identity of this JWT, verified with the keys of the issuer that it names.
    pub(super) async fn by_jwt(&self, cache_key: CacheKey, token: &str) -> Result<JwtIdentity, Error> {
        if let Some(known) = self.verified_tokens.get(&cache_key)
            && self.is_still_valid(&known)
            && let Some(user) = self.store.user_by_identity(&known.issuer, &known.person.subject).await?
        {
            return Ok(JwtIdentity::Loaded(Box::new(authenticated(user, &known)?)));
        }
        let token = Unverified::parse(token).map_err(refused)?;
        // The issuer must be equal byte for byte. A token of an unknown issuer causes no I/O.
        let is_its = |trusted: &&Trusted| Some(trusted.issuer.endpoint.issuer.as_str()) == token.issuer();
        let trusted = self.issuers.iter().find(is_its).ok_or(refused(Refusal::Issuer))?;
        let keys = trusted.remote.keys_for(&token).await.map_err(refused)?;
        let verified = token::verify(token, &trusted.issuer, &keys, self.clock.now()).map_err(refused)?;
        let (person, standing) = read(trusted, &verified)?;
        let claims_key = self.claims_key(trusted, &person, &standing);
        let known = VerifiedClaims {
            issuer: trusted.issuer.endpoint.issuer.clone(),
            key: verified.key,
            expires: verified.expires,
            issued: verified.issued,
            person,
        };
        let found = match self.identities.get_with_expiry(&claims_key, self.clock.now()) {
            Some((loaded, until)) => JwtIdentity::Cached(loaded, known.expires.min(until)),
            None => {
                let (user, is_stored) = self.upsert_owner(trusted, &known, standing).await?;
                let is_suspended = user.person.as_ref().is_some_and(|person| person.suspended.is_some());
                let authenticated = authenticated(user, &known)?;
                // Shared with tokens of equal claims only if the store has these facts from this token, so that such a
                // token would change nothing; and not while access is suspended, because older tokens stay refused.
                JwtIdentity::Loaded(Box::new(Authenticated {
                    claims_key: (is_stored && !is_suspended).then_some(claims_key),
                    ..authenticated
                }))
            }
        };
        self.verified_tokens.insert(cache_key, Arc::new(known));
        Ok(found)
    }

    /// Returns the cache key of everything that decides the identity of a token and the stored facts about its owner.
    /// If it is found, the store recently received equal facts and has not changed since.
    fn claims_key(&self, trusted: &Trusted, person: &Person, standing: &Standing) -> CacheKey {
        let flags = [person.says_groups, person.admin, person.allowed, person.machine];
        let stored_flags = [standing.says_groups, standing.admin, standing.allowed];
        let flags: Vec<u8> = flags.into_iter().chain(stored_flags).map(u8::from).collect();
        let (issuer, count) = (&trusted.issuer.endpoint.issuer, person.groups.len().to_be_bytes());
        let mut parts: Vec<&[u8]> =
            vec![issuer.as_bytes(), person.subject.as_bytes(), person.name.as_bytes(), &flags, &count];
        parts.extend(person.groups.iter().chain(&standing.groups).map(String::as_bytes));
        self.keys.key_of("claims of a token", &parts)
    }

    fn is_still_valid(&self, known: &VerifiedClaims) -> bool {
        let issuer = self.issuers.iter().find(|trusted| trusted.issuer.endpoint.issuer == known.issuer);
        let keys = issuer.and_then(|trusted| trusted.remote.keys());
        self.clock.now() < known.expires && keys.is_some_and(|keys| keys.hold(&known.key))
    }

    /// Finds or creates the account of a token's owner, and stores the facts of the token unless they are outdated.
    /// Returns true if they were stored.
    async fn upsert_owner(
        &self,
        trusted: &Trusted,
        known: &VerifiedClaims,
        standing: Standing,
    ) -> Result<(User, bool), Error> {
        let (issuer, person) = (known.issuer.as_str(), &known.person);
        let user = self.store.user_by_identity(issuer, &person.subject).await?;
        if let Some(reason) = user.as_ref().and_then(|user| overruled(user, known.issued)) {
            return Err(Error::Failed(reason));
        }
        // If a token names no groups, the stored groups of its owner decide. An unknown owner has none, so the token
        // decides alone.
        let refused = !person.allowed || (standing.says_groups || user.is_none()) && !standing.allowed;
        let facts = StoredFacts::new(standing, user.as_ref());
        let (user, is_stored) = match user {
            Some(user) if is_outdated(&user, known.issued) => (user, false),
            // An owner who is not allowed in gets no account. An existing account is updated, so that its access tokens
            // stop working.
            None if refused => return Err(Error::Failed(Reason::OwnerNotAllowed)),
            before => {
                // If users sign in at this issuer too, the login determines their names.
                let named = before.as_ref().filter(|_| trusted.login.is_some() && !person.machine);
                let name = named.map_or(person.name.as_str(), |user| user.name.as_str());
                (self.store_facts(issuer, &person.subject, name, &facts).await?, true)
            }
        };
        if refused { Err(Error::Failed(Reason::OwnerNotAllowed)) } else { Ok((user, is_stored)) }
    }

    async fn store_facts(&self, issuer: &str, subject: &str, name: &str, facts: &StoredFacts) -> Result<User, Error> {
        let StoredFacts { groups, admin, allowed } = facts;
        let owns_plain_names = self.policies.homes().owns_plain_names(issuer);
        let seen = Seen { issuer, subject, name, groups, admin: *admin, allowed: *allowed, owns_plain_names };
        let actor = Actor { name: name.to_owned(), token: None, address: None };
        self.store.meet(&actor, seen, Occasion::Refresh).await.map_err(|error| match error {
            store::Error::NameTaken(_) | store::Error::LooksLike { .. } | store::Error::Reserved(_) => {
                Error::Failed(Reason::NameTaken)
            }
            error => Error::Store(error),
        })
    }
}

/// Returns the identity of a token, and the facts about its owner that the store keeps.
fn read(trusted: &Trusted, verified: &Verified) -> Result<(Person, Standing), Error> {
    let read = || {
        let person = claims::read_bearer(&trusted.issuer, &verified.claims)?;
        let standing = match &trusted.login {
            Some(rules) if !person.machine => {
                let standing = claims::standing(rules, &[&verified.claims])?;
                // A login also reads the ID token. A token that contains only some of the groups must not remove the
                // others.
                let says_groups = standing.says_groups && claims::says_all_groups(rules, &verified.claims);
                Standing { says_groups, ..standing }
            }
            _ => person.standing(),
        };
        Ok((person, standing))
    };
    read().map_err(|error: claims::ClaimError| {
        // The token is genuine, so this is a matter of configuration and is logged for the administrator.
        tracing::info!(issuer = %trusted.issuer.name, "a token of {} identifies no user or program: {error}", trusted.issuer.name);
        refused(Refusal::Claims)
    })
}

/// The facts about a user that the store is to keep.
struct StoredFacts {
    groups: Vec<String>,
    admin: bool,
    allowed: bool,
}

impl StoredFacts {
    /// Returns the facts of the token, or the stored ones if the token has no groups claim.
    fn new(standing: Standing, user: Option<&User>) -> Self {
        match user.and_then(|user| user.person.as_ref()) {
            Some(person) if !standing.says_groups => {
                Self { groups: person.groups.clone(), admin: person.admin, allowed: person.allowed }
            }
            _ => Self { groups: standing.groups, admin: standing.admin, allowed: standing.allowed },
        }
    }
}

/// Combines the account of a token's owner with the claims of the token.
fn authenticated(user: User, known: &VerifiedClaims) -> Result<Authenticated, Error> {
    if let Some(reason) = overruled(&user, known.issued) {
        return Err(Error::Failed(reason));
    }
    let authenticated = Authenticated::new(user, Scheme::Jwt, known.expires);
    let admin = authenticated.user.admin || known.person.admin;
    // Without a groups claim, the stored groups apply. Otherwise such a token would escape a DENY to one of them.
    let silent = !known.person.says_groups && !known.person.machine && authenticated.user.person.is_some();
    let groups = if silent { authenticated.groups.clone() } else { known.person.groups.clone() };
    Ok(Authenticated { groups, admin, ..authenticated })
}

/// Returns the reason if the provider reported something about the owner after it issued the token, which the token
/// cannot contain.
fn overruled(user: &User, issued: Option<Timestamp>) -> Option<Reason> {
    let person = user.person.as_ref()?;
    if person.suspended.is_some_and(|since| issued.is_none_or(|issued| issued <= since)) {
        return Some(Reason::OwnerSuspended);
    }
    (!person.allowed && is_outdated(user, issued)).then_some(Reason::OwnerNotAllowed)
}

/// Returns true if the provider reported on the owner after it issued the token. The comparison uses whole seconds,
/// because `iat` has no finer resolution. A token without `iat` counts as older.
fn is_outdated(user: &User, issued: Option<Timestamp>) -> bool {
    let seconds = |at: Timestamp| at.0.div_euclid(1000);
    let seen = user.person.as_ref().map(|person| person.seen);
    seen.is_some_and(|seen| issued.is_none_or(|issued| seconds(issued) < seconds(seen)))
}

fn refused(refusal: Refusal) -> Error {
    match refusal {
        // Not a fault of the token: it may be valid.
        Refusal::NoKeys => Error::NoKeys,
        refusal => Error::Failed(Reason::RefusedJwt(refusal)),
    }
}

#[cfg(test)]
mod tests;
