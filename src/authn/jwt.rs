//! Bearer tokens of identity providers.
//!
//! A token is verified once. Its claims are cached until it expires or its key is withdrawn, so its next use costs one
//! look-up. Its permissions follow from its claims. The store keeps the same facts about its owner as after a login,
//! and older facts never replace newer ones.

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;

use super::{Authn, Error, Reason, Recognised};
use crate::authz::{Identity, Scheme};
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
pub(super) type Verifications = Cache<CacheKey, Arc<Known>>;

/// The verified claims of a token.
#[derive(Debug)]
pub(super) struct Known {
    issuer: String,
    key: Arc<str>,
    expires: Timestamp,
    issued: Option<Timestamp>,
    person: Person,
}

/// The identity behind a token.
pub(super) enum Found {
    /// The cached identity of another token with equal claims, and the time until which it is valid for this token.
    Same(Arc<Identity>, Timestamp),
    Owner(Box<Recognised>),
}

/// The longest time for which a token is accepted without verifying its signature again.
const LONGEST: Duration = Duration::from_hours(24);

pub(super) fn verifications(entries: u64) -> Verifications {
    Cache::builder().max_capacity(entries).time_to_live(LONGEST).build()
}

impl Authn {
    /// Sets the issuers whose tokens are trusted.
    #[must_use]
    pub fn trusting(mut self, issuers: Vec<Trusted>) -> Self {
        self.issuers = issuers;
        self
    }

    /// Returns the identity of this JWT, verified with the keys of the issuer that it names.
    pub(super) async fn by_jwt(&self, place: CacheKey, token: &str) -> Result<Found, Error> {
        if let Some(known) = self.verifications.get(&place)
            && self.is_still_good(&known)
            && let Some(user) = self.store.user_by_identity(&known.issuer, &known.person.subject).await?
        {
            return Ok(Found::Owner(Box::new(recognised(user, &known)?)));
        }
        let token = Unverified::parse(token).map_err(refused)?;
        // The issuer must be equal byte for byte. A token of an unknown issuer causes no I/O.
        let is_its = |trusted: &&Trusted| Some(trusted.issuer.endpoint.issuer.as_str()) == token.issuer();
        let trusted = self.issuers.iter().find(is_its).ok_or(refused(Refusal::Issuer))?;
        let keys = trusted.remote.keys_for(&token).await.map_err(refused)?;
        let verified = token::verify(token, &trusted.issuer, &keys, self.clock.now()).map_err(refused)?;
        let (person, kept) = read(trusted, &verified)?;
        let said = self.said(trusted, &person, &kept);
        let known = Known {
            issuer: trusted.issuer.endpoint.issuer.clone(),
            key: verified.key,
            expires: verified.expires,
            issued: verified.issued,
            person,
        };
        let found = match self.identities.get_with_end(&said, self.clock.now()) {
            Some((identity, until)) => Found::Same(identity, known.expires.min(until)),
            None => {
                let (user, is_kept) = self.meet(trusted, &known, kept).await?;
                let recognised = recognised(user, &known)?;
                // Shared with tokens of equal claims only if the store has these facts from this token, so that such a
                // token would change nothing.
                Found::Owner(Box::new(Recognised { said: is_kept.then_some(said), ..recognised }))
            }
        };
        self.verifications.insert(place, Arc::new(known));
        Ok(found)
    }

    /// Returns the cache key of everything that decides the identity of a token and the stored facts about its owner.
    /// If it is found, the store recently received equal facts and has not changed since.
    fn said(&self, trusted: &Trusted, person: &Person, kept: &Standing) -> CacheKey {
        let flags = [person.says_groups, person.admin, person.allowed, person.machine];
        let kept_flags = [kept.says_groups, kept.admin, kept.allowed];
        let flags: Vec<u8> = flags.into_iter().chain(kept_flags).map(u8::from).collect();
        let (issuer, count) = (&trusted.issuer.endpoint.issuer, person.groups.len().to_be_bytes());
        let mut parts: Vec<&[u8]> =
            vec![issuer.as_bytes(), person.subject.as_bytes(), person.name.as_bytes(), &flags, &count];
        parts.extend(person.groups.iter().chain(&kept.groups).map(String::as_bytes));
        self.keys.key_of("said by a token", &parts)
    }

    fn is_still_good(&self, known: &Known) -> bool {
        let issuer = self.issuers.iter().find(|trusted| trusted.issuer.endpoint.issuer == known.issuer);
        let keys = issuer.and_then(|trusted| trusted.remote.keys());
        self.clock.now() < known.expires && keys.is_some_and(|keys| keys.hold(&known.key))
    }

    /// Finds or creates the account of a token's owner, and stores the facts of the token unless they are outdated.
    /// Returns true if they were stored.
    async fn meet(&self, trusted: &Trusted, known: &Known, said: Standing) -> Result<(User, bool), Error> {
        let (issuer, person) = (known.issuer.as_str(), &known.person);
        let user = self.store.user_by_identity(issuer, &person.subject).await?;
        if let Some(reason) = user.as_ref().and_then(|user| overruled(user, known.issued)) {
            return Err(Error::Failed(reason));
        }
        // If a token names no groups, the stored groups of its owner decide. An unknown owner has none, so the token
        // decides alone.
        let refused = !person.allowed || (said.says_groups || user.is_none()) && !said.allowed;
        let kept = Kept::new(said, user.as_ref());
        let (user, is_kept) = match user {
            Some(user) if is_old_news(&user, known.issued) => (user, false),
            // An owner who is not allowed in gets no account. An existing account is updated, so that its access tokens
            // stop working.
            None if refused => return Err(Error::Failed(Reason::OwnerNotAllowed)),
            before => {
                // If users sign in at this issuer too, the login determines their names.
                let named = before.as_ref().filter(|_| trusted.login.is_some() && !person.machine);
                let name = named.map_or(person.name.as_str(), |user| user.name.as_str());
                // A new account may take its name from another one.
                let displaces = before.is_none() && self.store.user_by_name(name).await?.is_some();
                let user = self.keep(issuer, &person.subject, name, &kept).await?;
                // What was loaded before is of another time.
                if before.map_or(displaces, |before| is_another(&before, &user)) {
                    self.forget_all();
                }
                (user, true)
            }
        };
        if refused { Err(Error::Failed(Reason::OwnerNotAllowed)) } else { Ok((user, is_kept)) }
    }

    async fn keep(&self, issuer: &str, subject: &str, name: &str, kept: &Kept) -> Result<User, Error> {
        let Kept { groups, admin, allowed } = kept;
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
        let kept = match &trusted.login {
            Some(rules) if !person.machine => {
                let standing = claims::standing(rules, &[&verified.claims])?;
                // A login also reads the ID token. A token that contains only some of the groups must not remove the
                // others.
                let says_groups = standing.says_groups && claims::says_all_groups(rules, &verified.claims);
                Standing { says_groups, ..standing }
            }
            _ => person.standing(),
        };
        Ok((person, kept))
    };
    read().map_err(|error: claims::ClaimError| {
        // The token is genuine, so this is a matter of configuration and is logged for the administrator.
        tracing::info!(issuer = %trusted.issuer.name, "a token of {} names nobody: {error}", trusted.issuer.name);
        refused(Refusal::Claims)
    })
}

/// The facts about a user that the store is to keep.
struct Kept {
    groups: Vec<String>,
    admin: bool,
    allowed: bool,
}

impl Kept {
    /// Returns the facts of the token, or the stored ones if the token has no groups claim.
    fn new(said: Standing, user: Option<&User>) -> Self {
        match user.and_then(|user| user.person.as_ref()) {
            Some(person) if !said.says_groups => {
                Self { groups: person.groups.clone(), admin: person.admin, allowed: person.allowed }
            }
            _ => Self { groups: said.groups, admin: said.admin, allowed: said.allowed },
        }
    }
}

/// Combines the account of a token's owner with the claims of the token.
fn recognised(user: User, known: &Known) -> Result<Recognised, Error> {
    if let Some(reason) = overruled(&user, known.issued) {
        return Err(Error::Failed(reason));
    }
    let recognised = Recognised::new(user, Scheme::Jwt, known.expires);
    let admin = recognised.user.admin || known.person.admin;
    // Without a groups claim, the stored groups apply. Otherwise such a token would escape a DENY to one of them.
    let silent = !known.person.says_groups && !known.person.machine && recognised.user.person.is_some();
    let groups = if silent { recognised.groups.clone() } else { known.person.groups.clone() };
    Ok(Recognised { groups, admin, ..recognised })
}

/// Returns the reason if the provider reported something about the owner after it issued the token, which the token
/// cannot contain.
fn overruled(user: &User, issued: Option<Timestamp>) -> Option<Reason> {
    let person = user.person.as_ref()?;
    if person.suspended.is_some_and(|since| issued.is_none_or(|issued| issued <= since)) {
        return Some(Reason::OwnerSuspended);
    }
    (!person.allowed && is_old_news(user, issued)).then_some(Reason::OwnerNotAllowed)
}

/// Returns true if more than the time differs.
fn is_another(before: &User, after: &User) -> bool {
    let facts = |user: &User| user.person.as_ref().map(|it| (it.groups.clone(), it.admin, it.allowed, it.suspended));
    before.name != after.name || facts(before) != facts(after)
}

/// Returns true if the provider reported on the owner after it issued the token. The comparison uses whole seconds,
/// because `iat` has no finer resolution. A token without `iat` counts as older.
fn is_old_news(user: &User, issued: Option<Timestamp>) -> bool {
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
