//! Authentication of requests.
//!
//! Each scheme has one of three outcomes: no such credential, an identity, or a failure. A failure is final: a rejected
//! credential never falls through to another scheme. A cached request costs one keyed hash and one cache look-up.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use moka::sync::Cache;
use secrecy::{ExposeSecret as _, SecretString};

use crate::authz::{Identity, Limits, Policies, Scheme, UserId};
use crate::clock::{Clock, Timestamp};
use crate::config;
use crate::crypto::{AccessToken, CacheKey, CacheKeys, PasswordHash};
use crate::store::{self, Store, Token, User};

mod credential;
mod flights;
mod guesses;
mod hashing;
mod identities;
mod jwt;
mod refusal;
mod renewal;
mod session;
mod sync;

use credential::Credential;
use flights::Flights;
use guesses::{Guesses, Standing};
use hashing::Hashing;
use identities::{Epoch, Identities, Used};
use jwt::Verifications;

pub use jwt::Trusted;
pub use refusal::{Error, Reason};
pub use renewal::{Renewal, Renewed};
pub use sync::{DirectorySync, SyncError};

/// Name of the session cookie. The `__Host-` prefix makes browsers send it to this host only, and only over TLS (except
/// on loopback).
pub const SESSION_COOKIE: &str = "__Host-mlflow-session";

/// Authenticates users and programs.
pub struct Authn {
    store: Arc<Store>,
    policies: Arc<Policies>,
    clock: Clock,
    keys: CacheKeys,
    identities: Identities,
    /// Keys of verified passwords (user, stored hash and password), and the time until which each is accepted without a
    /// hash.
    verified: Cache<CacheKey, Timestamp>,
    /// Issuers whose JWTs are trusted.
    issuers: Vec<Trusted>,
    verifications: Verifications,
    flights: Flights,
    guesses: Guesses,
    hashing: Hashing,
    cache_ttl: Duration,
    /// See [`config::Authn::person_max_age`].
    person_max_age: Option<Duration>,
    /// See [`config::Session::idle_timeout`].
    session_idle: Duration,
    /// The store's revision when the caches were last known to be current.
    revision: AtomicI64,
    /// True if the last [`Authn::refresh`] could not reach the store. Used to log this once, not twice a second.
    cut_off: AtomicBool,
}

impl fmt::Debug for Authn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authn").finish_non_exhaustive()
    }
}

impl Authn {
    /// Creates an authenticator with empty caches over `store`.
    #[must_use]
    pub fn new(config: &config::Authn, store: Arc<Store>, clock: Clock) -> Self {
        Self {
            identities: Identities::new(config.cache_entries, config.cache_ttl),
            // The wall clock may be set back. The cache's own clock cannot.
            verified: Cache::builder().max_capacity(config.cache_entries).time_to_live(config.cache_ttl).build(),
            issuers: Vec::new(),
            verifications: jwt::verifications(config.cache_entries),
            flights: Flights::default(),
            guesses: Guesses::new(config, clock.clone()),
            hashing: Hashing::new(config.hash_concurrency, config.hash_queue),
            cache_ttl: config.cache_ttl,
            person_max_age: config.person_max_age,
            session_idle: Duration::MAX,
            revision: AtomicI64::new(i64::MIN),
            cut_off: AtomicBool::new(false),
            keys: CacheKeys::new(),
            policies: Arc::default(),
            store,
            clock,
        }
    }

    /// Sets the idle time after which sessions end.
    #[must_use]
    pub fn with_idle_sessions_ending_after(mut self, idle: Duration) -> Self {
        self.session_idle = idle;
        self.identities.sessions_idle_after(idle);
        self
    }

    /// Sets the policies that grant permissions beside the store. A caller that replaces one must then call
    /// [`Authn::forget_all`].
    #[must_use]
    pub fn with_policies(self, policies: Arc<Policies>) -> Self {
        Self { policies, ..self }
    }

    /// Returns true if the permissions of any user depend on the name of an experiment.
    ///
    /// # Errors
    /// Returns an error if the store cannot be queried.
    pub async fn names_experiments(&self) -> Result<bool, Error> {
        Ok(self.policies.enforced().names_experiments() || self.store.names_experiments().await?)
    }

    /// Returns true if a user's name alone can decide permissions: policies grant to names, and issuers are configured
    /// whose users bring their own names.
    #[must_use]
    pub fn names_say_something(&self) -> bool {
        self.policies.homes().names().next().is_some() || self.policies.enforced().grants() > 0
    }

    /// Returns the policies that grant permissions beside the store.
    #[must_use]
    pub fn policies(&self) -> &Policies {
        &self.policies
    }

    /// Returns the cached identity of a credential, without I/O and without a password hash.
    ///
    /// This method does not know the client's address. While guesses may be refused without a hash anywhere, passwords
    /// are therefore left to [`Authn::authenticate`]. Otherwise a caller whose wrong guesses are all refused would
    /// still recognize the right one.
    pub fn recent(&self, shown: Shown<'_>) -> Option<Arc<Identity>> {
        let now = self.clock.now();
        let identity = self.identities.get(&self.place(shown)?, now)?;
        match identity.scheme {
            Scheme::Token(_) | Scheme::Session(_) | Scheme::Jwt => Some(identity),
            Scheme::Password => (!self.guesses.is_guarded(now)).then_some(identity),
        }
    }

    /// Authenticates one request. `address` is the client's address, after trusted proxies.
    ///
    /// A valid access token is accepted regardless of any limit, because 256 bits cannot be guessed. A recently
    /// verified password is accepted even while unknown addresses are slowed down, so that they cannot lock its owner
    /// out. This applies only at addresses that are known to the account and have reached neither their own limit nor
    /// that for the account. Everywhere else, right and wrong passwords are refused alike.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn authenticate(&self, shown: Shown<'_>, address: IpAddr) -> Result<Arc<Identity>, Error> {
        let place = self.place(shown).ok_or(Error::Missing)?;
        if let Some(identity) = self.known(&place, address)? {
            return Ok(identity);
        }
        let credential = Credential::read(shown).map_err(Error::Failed)?;
        // One at a time per credential: of a hundred parallel requests with the same password, only one hashes it.
        let _turn = self.flights.enter(place).await;
        if let Some(identity) = self.known(&place, address)? {
            return Ok(identity);
        }
        let started = self.identities.start();
        let recognised = match credential {
            Credential::Token { owner, token } => self.by_token(owner.as_deref(), &token, address).await?,
            Credential::Password { name, password } => {
                let user = self.by_password(&name, password, address).await?;
                if let Some(reason) = self.let_go(&user) {
                    return Err(Error::Failed(reason));
                }
                Recognised::new(user, Scheme::Password, Timestamp(i64::MAX))
            }
            Credential::Jwt(token) => match self.by_jwt(place, token).await? {
                jwt::Found::Owner(recognised) => *recognised,
                jwt::Found::Same(identity, expires) => {
                    self.remember(place, started, &identity, expires, None);
                    return Ok(identity);
                }
            },
            Credential::Session(secret) => self.by_session(secret).await?,
        };
        let (expires, last_used, said) = (recognised.expires, recognised.last_used, recognised.said);
        let identity = Arc::new(self.identity(recognised).await?);
        self.remember(place, started, &identity, expires, last_used);
        if let Some(said) = said {
            self.remember(said, started, &identity, Timestamp(i64::MAX), None);
        }
        Ok(identity)
    }

    fn remember(
        &self,
        place: CacheKey,
        started: Epoch,
        identity: &Arc<Identity>,
        expires: Timestamp,
        last_used: Option<Timestamp>,
    ) {
        let now = self.clock.now();
        let until = now.plus(self.cache_ttl).min(expires);
        self.identities.insert(place, started, Arc::clone(identity), until, last_used, now);
    }

    /// Loads the permissions of an authenticated user: their own, and those of their groups and roles.
    async fn identity(&self, recognised: Recognised) -> Result<Identity, Error> {
        let Recognised { user, scheme, limits, groups, admin, .. } = recognised;
        let standing = self.store.standing_of(user.id, &groups).await?;
        let home = self.policies.homes().of(user.identity());
        let member = standing.member(user.name_at_provider(), home, &groups);
        let grants = Arc::new(standing.grants(&self.policies.enforced(), &member));
        let shadow = self.policies.shadow().map(|shadow| Arc::new(standing.grants(&shadow, &member)));
        Ok(Identity {
            user: user.id,
            name: user.name.as_str().into(),
            admin,
            scheme,
            groups: groups.as_slice().into(),
            limits,
            grants,
            shadow,
        })
    }

    /// Hashes a new password on the bounded pool.
    ///
    /// # Errors
    /// [`Error::Busy`] if the pool's queue is full.
    pub async fn hash_password(&self, password: SecretString) -> Result<PasswordHash, Error> {
        self.hashing.run(move || PasswordHash::make(&password)).await
    }

    /// Returns true if `password` is that of a user who is signed in. Wrong passwords count towards the guessing
    /// limits.
    ///
    /// # Errors
    /// [`Error::TooManyAttempts`], [`Error::Busy`].
    pub async fn verify_password(&self, user: &User, password: SecretString, address: IpAddr) -> Result<bool, Error> {
        self.guesses.check_address(address)?;
        self.is_password(Some(user), &user.name, password, address, Standing::Known).await
    }

    /// Returns the user with this name and password, to create a session. Wrong passwords count towards the guessing
    /// limits.
    ///
    /// # Errors
    /// See [`Error`]. A user who is no longer allowed in by the identity provider is refused with
    /// [`Reason::OwnerNotAllowed`].
    pub async fn sign_in(&self, name: &str, password: SecretString, address: IpAddr) -> Result<User, Error> {
        let user = self.by_password(name, password, address).await?;
        match self.let_go(&user) {
            Some(reason) => Err(Error::Failed(reason)),
            None => Ok(user),
        }
    }

    /// Returns true if a user has this name. The comparison ignores case.
    ///
    /// # Errors
    /// Returns an error if the store cannot be queried.
    pub async fn is_somebodys_name(&self, name: &str) -> Result<bool, Error> {
        let name = name.trim().to_lowercase();
        Ok(self.store.users().await?.iter().any(|user| user.name.to_lowercase() == name))
    }

    /// Invalidates cached identities after a change of one user's grants, password, tokens or administrator flag.
    ///
    /// All identities are invalidated, not only those of this user: the change raised the store's revision, at which
    /// [`Authn::refresh`] would do so within half a second anyway, and loading an identity again takes a few reads.
    pub fn forget(&self, _user: UserId) {
        self.identities.forget_all();
    }

    /// Invalidates all cached identities, but not the verified passwords, whose keys contain the stored hash.
    pub fn forget_all(&self) {
        self.identities.forget_all();
    }

    /// Compares the store's revision with the last seen one, and invalidates all identities if another process changed
    /// something.
    ///
    /// Called twice a second by `app`. Also writes the last uses of tokens and sessions to the store. If the store does
    /// not answer, this is logged once, and cached identities remain valid until they expire.
    pub async fn refresh(&self) {
        // `and` evaluates its argument first: the uses are handed over even if the comparison failed.
        let outcome = self.compare_revision().await.and(self.hand_over_last_uses().await);
        let was_cut_off = self.cut_off.swap(outcome.is_err(), Ordering::Relaxed);
        if let Err(error) = outcome
            && !was_cut_off
        {
            tracing::warn!(%error, "the store cannot be followed, what is cached lives to the end of its time: {error}");
        }
    }

    async fn compare_revision(&self) -> store::Result<()> {
        let revision = self.store.revision().await?;
        if self.revision.swap(revision, Ordering::AcqRel) != revision {
            self.forget_all();
        }
        Ok(())
    }

    async fn hand_over_last_uses(&self) -> store::Result<()> {
        let used = self.identities.take_used();
        if used.is_empty() {
            return Ok(());
        }
        let (mut tokens, mut sessions) = (Vec::new(), Vec::new());
        for (what, at) in used {
            match what {
                Used::Token(token) => tokens.push((token, at)),
                Used::Session(session) => sessions.push((session, at)),
            }
        }
        let tokens_noted = if tokens.is_empty() { Ok(()) } else { self.store.touch_tokens(&tokens).await };
        if tokens_noted.is_err() {
            self.identities.give_back_used(tokens.into_iter().map(|(token, at)| (Used::Token(token), at)));
        }
        let sessions_noted = if sessions.is_empty() { Ok(()) } else { self.store.touch_sessions(&sessions).await };
        if sessions_noted.is_err() {
            self.identities.give_back_used(sessions.into_iter().map(|(session, at)| (Used::Session(session), at)));
        }
        tokens_noted.and(sessions_noted)
    }

    fn known(&self, place: &CacheKey, address: IpAddr) -> Result<Option<Arc<Identity>>, Error> {
        let Some(identity) = self.identities.get(place, self.clock.now()) else { return Ok(None) };
        match identity.scheme {
            Scheme::Token(_) | Scheme::Session(_) | Scheme::Jwt => {}
            Scheme::Password => {
                let account = self.account(&identity.name);
                self.guesses.check_address(address)?;
                self.guesses.check_account(address, account)?;
                if !self.guesses.may_remember(address, account) {
                    return Ok(None);
                }
            }
        }
        Ok(Some(identity))
    }

    async fn by_token(&self, owner: Option<&str>, token: &AccessToken, address: IpAddr) -> Result<Recognised, Error> {
        let found = self.store.token_by_hash(&token.hash()).await?;
        let reason = match found {
            None => Reason::UnknownToken,
            Some((_, user)) if owner.is_some_and(|owner| owner != user.name) => Reason::TokenOfAnother,
            Some((token, user)) => match self.ended(&token).or_else(|| self.let_go(&user)) {
                Some(reason) => reason,
                None => {
                    let (limits, last_used) = (token.limits, token.last_used);
                    let recognised = Recognised::new(user, Scheme::Token(token.id), token.expires);
                    return Ok(Recognised { limits, last_used, ..recognised });
                }
            },
        };
        if reason.is_guess() {
            self.guesses.count(address)?;
        }
        Err(Error::Failed(reason))
    }

    /// Returns the reason if the token itself has expired or was revoked.
    fn ended(&self, token: &Token) -> Option<Reason> {
        let expired = (token.expires <= self.clock.now()).then_some(Reason::ExpiredToken(token.expires));
        token.revoked.map(Reason::RevokedToken).or(expired)
    }

    async fn by_password(&self, name: &str, password: SecretString, address: IpAddr) -> Result<User, Error> {
        self.guesses.check_address(address)?;
        let user = self.store.user_by_name(name).await?;
        let standing = self.standing_at(user.as_ref(), name, address).await?;
        let right = self.is_password(user.as_ref(), name, password, address, standing).await?;
        match user {
            Some(user) if right => Ok(user),
            Some(_) => Err(Error::Failed(Reason::WrongPassword)),
            None => Err(Error::Failed(Reason::UnknownUser)),
        }
    }

    /// Returns the caller's relation to the account, where the limits depend on it. Only then is the store queried, and
    /// for unknown names as well, so that the response time does not reveal which names exist.
    async fn standing_at(&self, user: Option<&User>, name: &str, address: IpAddr) -> Result<Standing, Error> {
        let account = self.account(user.map_or(name, |user| &user.name));
        if !self.guesses.is_slowed(account) {
            return Ok(Standing::Stranger);
        }
        if self.guesses.is_known(address, account) {
            return Ok(Standing::Known);
        }
        let sessions = self.store.sessions_of(user.map_or(UserId(-1), |user| user.id)).await?;
        let address = address.to_canonical();
        let mut here = sessions.iter().filter(|session| self.is_alive(session));
        let is_here = here.any(|session| session.address.parse().is_ok_and(|at: IpAddr| at.to_canonical() == address));
        Ok(if is_here { Standing::Known } else { Standing::Stranger })
    }

    /// Verifies a password. Unknown users and users without a password take the same path and are verified against the
    /// decoy.
    async fn is_password(
        &self,
        user: Option<&User>,
        name: &str,
        password: SecretString,
        address: IpAddr,
        standing: Standing,
    ) -> Result<bool, Error> {
        let stored = user.and_then(|user| user.password.as_ref()).unwrap_or(PasswordHash::decoy());
        let id = user.map_or(-1, |user| user.id.0).to_be_bytes();
        let proof = self.keys.key_of("password", &[&id, stored.0.as_bytes(), password.expose_secret().as_bytes()]);
        let is_verified = || self.verified.get(&proof).is_some_and(|until| self.clock.now() < until);
        // Checked before the cache distinguishes the right password from a wrong one, so that both are refused alike.
        let account = self.account(user.map_or(name, |user| &user.name));
        self.guesses.check_account(address, account)?;
        if is_verified() && self.guesses.may_remember(address, account) {
            return Ok(true);
        }
        let guess = self.guesses.begin(address, account, standing).await?;
        let (stored, verified) = (stored.clone(), self.verified.clone());
        let until = self.clock.now().plus(self.cache_ttl);
        // Settled on the hashing thread, so that a client that disconnects has still used its guess.
        let hashed = self.hashing.run(move || {
            let right = stored.matches(&password);
            if right {
                verified.insert(proof, until);
                guess.was_right();
            } else {
                guess.was_wrong();
            }
            right
        });
        hashed.await
    }

    /// Returns the reason if the user's access tokens and password do not work because of the identity provider's
    /// reports about the user.
    fn let_go(&self, user: &User) -> Option<Reason> {
        let person = user.person.as_ref()?;
        if person.suspended.is_some() {
            return Some(Reason::OwnerSuspended);
        }
        if !person.allowed {
            return Some(Reason::OwnerNotAllowed);
        }
        let age = self.clock.now().since(person.seen);
        self.person_max_age.is_some_and(|limit| age > limit).then_some(Reason::OwnerOutOfTouch)
    }

    /// Returns the cache key under which guesses at an account are counted.
    fn account(&self, name: &str) -> CacheKey {
        self.keys.key("account", name.as_bytes())
    }

    fn place(&self, shown: Shown<'_>) -> Option<CacheKey> {
        match shown {
            Shown { authorization: Some(value), .. } => Some(self.keys.key("authorization", value)),
            Shown { session: Some(secret), .. } => Some(self.keys.key("session", secret.as_bytes())),
            Shown { authorization: None, session: None } => None,
        }
    }
}

/// Credentials that a request contains. `Authorization` is sent on purpose and takes precedence over the cookie.
#[derive(Clone, Copy, Default)]
pub struct Shown<'h> {
    /// The value of `Authorization`.
    pub authorization: Option<&'h [u8]>,
    /// The value of the session cookie.
    pub session: Option<&'h str>,
}

impl fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shown").finish_non_exhaustive()
    }
}

impl<'h> Shown<'h> {
    /// Creates credentials that consist of the value of `Authorization` alone.
    #[must_use]
    pub const fn authorization(value: &'h [u8]) -> Self {
        Self { authorization: Some(value), session: None }
    }
}

/// A user whose credential was verified.
#[derive(Debug)]
struct Recognised {
    user: User,
    scheme: Scheme,
    limits: Limits,
    groups: Vec<String>,
    admin: bool,
    /// Time at which the credential itself expires.
    expires: Timestamp,
    /// Time of the last use that is recorded in the store.
    last_used: Option<Timestamp>,
    /// Cache key of the token's claims, under which tokens with equal claims find this identity.
    said: Option<CacheKey>,
}

impl Recognised {
    /// Creates the result for a credential with all groups and permissions of its user.
    fn new(user: User, scheme: Scheme, expires: Timestamp) -> Self {
        let (groups, admin) = (user.groups().to_vec(), user.is_admin());
        Self { user, scheme, limits: Limits::default(), groups, admin, expires, last_used: None, said: None }
    }
}

#[cfg(test)]
mod tests;
