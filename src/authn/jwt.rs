//! Bearer tokens of identity providers.
//!
//! A token is verified once; what it says is kept until it expires or its key is withdrawn, so its next use costs one
//! look-up. What it may do is what it says; what is kept of its owner is what a log-in would keep, and never older news.

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

/// An issuer whose tokens are believed.
#[derive(Debug)]
pub struct Trusted {
    pub issuer: config::Issuer,
    pub remote: Arc<Remote>,
    /// How log-in reads the claims of the same issuer, where people sign in there too: one person, one set of facts.
    pub login: Option<config::Claims>,
}

/// Tokens that were verified, by their place.
pub(super) type Verifications = Cache<CacheKey, Arc<Known>>;

/// What a verified token says.
#[derive(Debug)]
pub(super) struct Known {
    issuer: String,
    key: Arc<str>,
    expires: Timestamp,
    issued: Option<Timestamp>,
    person: Person,
}

/// Who a token is.
pub(super) enum Found {
    /// Whoever another token is that said the same, until this one expires.
    Same(Arc<Identity>, Timestamp),
    Owner(Box<Recognised>),
}

/// The longest that a token is believed without its signature being looked at again.
const LONGEST: Duration = Duration::from_hours(24);

pub(super) fn verifications(entries: u64) -> Verifications {
    Cache::builder().max_capacity(entries).time_to_live(LONGEST).build()
}

impl Authn {
    /// The same, believing these issuers' tokens.
    #[must_use]
    pub fn trusting(mut self, issuers: Vec<Trusted>) -> Self {
        self.issuers = issuers;
        self
    }

    /// Who this JWT is, by the issuer that signed it.
    pub(super) async fn by_jwt(&self, place: CacheKey, token: &str) -> Result<Found, Error> {
        if let Some(known) = self.verifications.get(&place)
            && self.is_still_good(&known)
            && let Some(user) = self.store.user_by_identity(&known.issuer, &known.person.subject).await?
        {
            return Ok(Found::Owner(Box::new(recognised(user, &known)?)));
        }
        let token = Unverified::parse(token).map_err(refused)?;
        // To the letter: no issuer of ours, no I/O.
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
                // Only what the store has from this very token: then another that says the same would change nothing.
                Found::Owner(Box::new(Recognised { said: is_kept.then_some(said), ..recognised }))
            }
        };
        self.verifications.insert(place, Arc::new(known));
        Ok(found)
    }

    /// The place of everything that decides who a token is and what is kept of them: whoever is found there was met with
    /// the very same lately, and nothing in the store has changed since.
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

    /// Finds or makes the account of a token's owner, and keeps what the token says of them, unless it is old news. Says
    /// whether it was kept.
    async fn meet(&self, trusted: &Trusted, known: &Known, said: Standing) -> Result<(User, bool), Error> {
        let (issuer, person) = (known.issuer.as_str(), &known.person);
        let user = self.store.user_by_identity(issuer, &person.subject).await?;
        if let Some(reason) = user.as_ref().and_then(|user| overruled(user, known.issued)) {
            return Err(Error::Failed(reason));
        }
        // Whom nobody has heard of, nothing else vouches for.
        let refused = !person.allowed || (said.says_groups || user.is_none()) && !said.allowed;
        let kept = Kept::new(said, user.as_ref());
        let (user, is_kept) = match user {
            Some(user) if is_old_news(&user, known.issued) => (user, false),
            // Somebody who may not come in gets no account, but whose account there is, their access tokens stop.
            None if refused => return Err(Error::Failed(Reason::OwnerNotAllowed)),
            before => {
                // Where people sign in too, log-in says what they are called.
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

/// Who a token is, and what is to be kept of them.
fn read(trusted: &Trusted, verified: &Verified) -> Result<(Person, Standing), Error> {
    let read = || {
        let person = claims::read_bearer(&trusted.issuer, &verified.claims)?;
        let kept = match &trusted.login {
            Some(rules) if !person.machine => {
                let standing = claims::standing(rules, &[&verified.claims])?;
                // A log-in sees the ID token, too: what has only a part of the groups takes none of the others away.
                let says_groups = standing.says_groups && claims::says_all_groups(rules, &verified.claims);
                Standing { says_groups, ..standing }
            }
            _ => person.standing(),
        };
        Ok((person, kept))
    };
    read().map_err(|error: claims::ClaimError| {
        // The token is genuine, so whoever configured this wants to know.
        tracing::info!(issuer = %trusted.issuer.name, "a token of {} names nobody: {error}", trusted.issuer.name);
        refused(Refusal::Claims)
    })
}

/// What the store shall know of somebody.
struct Kept {
    groups: Vec<String>,
    admin: bool,
    allowed: bool,
}

impl Kept {
    /// What the token says; a token without any groups claim says nothing about groups, so what was known stays.
    fn new(said: Standing, user: Option<&User>) -> Self {
        match user.and_then(|user| user.person.as_ref()) {
            Some(person) if !said.says_groups => {
                Self { groups: person.groups.clone(), admin: person.admin, allowed: person.allowed }
            }
            _ => Self { groups: said.groups, admin: said.admin, allowed: said.allowed },
        }
    }
}

/// The identity of a token: its owner's account, with what the token says.
fn recognised(user: User, known: &Known) -> Result<Recognised, Error> {
    if let Some(reason) = overruled(&user, known.issued) {
        return Err(Error::Failed(reason));
    }
    let recognised = Recognised::new(user, Scheme::Jwt, known.expires);
    let admin = recognised.user.admin || known.person.admin;
    // A token that says nothing of groups must not lose what is denied to one.
    let silent = !known.person.says_groups && !known.person.machine && recognised.user.person.is_some();
    let groups = if silent { recognised.groups.clone() } else { known.person.groups.clone() };
    Ok(Recognised { groups, admin, ..recognised })
}

/// Whether the provider said something of the owner after it made the token, which the token cannot know.
fn overruled(user: &User, issued: Option<Timestamp>) -> Option<Reason> {
    let person = user.person.as_ref()?;
    if person.suspended.is_some_and(|since| issued.is_none_or(|issued| issued <= since)) {
        return Some(Reason::OwnerSuspended);
    }
    (!person.allowed && is_old_news(user, issued)).then_some(Reason::OwnerNotAllowed)
}

/// Whether more than the moment is new.
fn is_another(before: &User, after: &User) -> bool {
    let facts = |user: &User| user.person.as_ref().map(|it| (it.groups.clone(), it.admin, it.allowed, it.suspended));
    before.name != after.name || facts(before) != facts(after)
}

/// Whether the provider was heard of after it made the token, or may have been. `iat` has whole seconds.
fn is_old_news(user: &User, issued: Option<Timestamp>) -> bool {
    let seconds = |at: Timestamp| at.0.div_euclid(1000);
    let seen = user.person.as_ref().map(|person| person.seen);
    seen.is_some_and(|seen| issued.is_none_or(|issued| seconds(issued) < seconds(seen)))
}

fn refused(refusal: Refusal) -> Error {
    match refusal {
        // Not the token's fault: it may be good.
        Refusal::NoKeys => Error::NoKeys,
        refusal => Error::Failed(Reason::RefusedJwt(refusal)),
    }
}

#[cfg(test)]
mod tests;
