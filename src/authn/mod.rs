//! Who is asking?
//!
//! Each scheme gives one of three answers: not requested (no such credential), an identity, or failed, which stops: a
//! rejected credential never falls through to another scheme. The warm path is one keyed hash and one cache look-up.

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

/// The cookie of a session. Its prefix makes browsers keep it to this very host, and to TLS (loopback aside).
pub const SESSION_COOKIE: &str = "__Host-mlflow-session";

/// Recognises people and programs.
pub struct Authn {
    store: Arc<Store>,
    policies: Arc<Policies>,
    clock: Clock,
    keys: CacheKeys,
    identities: Identities,
    /// Passwords that were right, by user, stored hash and password, with the moment until which that is believed.
    verified: Cache<CacheKey, Timestamp>,
    /// Whose JWTs are believed.
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
    /// The store's revision when the caches were last known to be right.
    revision: AtomicI64,
    /// Whether the last [`Authn::refresh`] could not reach the store: said once, not twice a second.
    cut_off: AtomicBool,
}

impl fmt::Debug for Authn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authn").finish_non_exhaustive()
    }
}

impl Authn {
    /// An empty memory before this store.
    #[must_use]
    pub fn new(config: &config::Authn, store: Arc<Store>, clock: Clock) -> Self {
        Self {
            identities: Identities::new(config.cache_entries, config.cache_ttl),
            // The wall clock may be set back; the cache's own clock cannot.
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

    /// The same, with sessions that end when they are not used for so long.
    #[must_use]
    pub fn with_idle_sessions_ending_after(mut self, idle: Duration) -> Self {
        self.session_idle = idle;
        self.identities.sessions_idle_after(idle);
        self
    }

    /// The same with what these policies grant. Who replaces one calls [`Authn::forget_all`] after it.
    #[must_use]
    pub fn with_policies(self, policies: Arc<Policies>) -> Self {
        Self { policies, ..self }
    }

    /// Whether anybody's permissions depend on what an experiment is called.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn names_experiments(&self) -> Result<bool, Error> {
        Ok(self.policies.enforced().names_experiments() || self.store.names_experiments().await?)
    }

    /// Whether a user's name decides anything by itself: policies grant to names, and people of an issuer bring theirs.
    #[must_use]
    pub fn names_say_something(&self) -> bool {
        self.policies.homes().names().next().is_some() || self.policies.enforced().grants() > 0
    }

    /// What is granted beside the store.
    #[must_use]
    pub fn policies(&self) -> &Policies {
        &self.policies
    }

    /// The identity behind a credential that was seen lately: no I/O, no password hash.
    ///
    /// Knows no address. Therefore, while guesses may be refused without a hash anywhere, a password is left to
    /// [`Authn::authenticate`]: otherwise a caller who is refused every wrong guess would still learn the right one.
    pub fn recent(&self, shown: Shown<'_>) -> Option<Arc<Identity>> {
        let now = self.clock.now();
        let identity = self.identities.get(&self.place(shown)?, now)?;
        match identity.scheme {
            Scheme::Token(_) | Scheme::Session(_) | Scheme::Jwt => Some(identity),
            Scheme::Password => (!self.guesses.is_guarded(now)).then_some(identity),
        }
    }

    /// Recognises one request by what it shows. `address` is the client's, after trusted proxies.
    ///
    /// A valid access token passes whatever the limits say, because 256 bits cannot be guessed. A password that was verified
    /// recently passes where strangers are slowed down, so that they cannot lock its owner out, but only at addresses that the
    /// account knows, and at none that is over its limit, or over its limit for the account. Everywhere else right and wrong
    /// are refused alike.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn authenticate(&self, shown: Shown<'_>, address: IpAddr) -> Result<Arc<Identity>, Error> {
        let place = self.place(shown).ok_or(Error::Missing)?;
        if let Some(identity) = self.known(&place, address)? {
            return Ok(identity);
        }
        let credential = Credential::read(shown).map_err(Error::Failed)?;
        // One at a time per credential: of a hundred parallel requests with one password, one hashes it.
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

    /// What a recognised user may do now: by themselves, by their groups and by their roles.
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
    /// [`Error::Busy`].
    pub async fn hash_password(&self, password: SecretString) -> Result<PasswordHash, Error> {
        self.hashing.run(move || PasswordHash::make(&password)).await
    }

    /// Whether this is the password of a user who is signed in; counted against the guessing limits.
    ///
    /// # Errors
    /// [`Error::TooManyAttempts`], [`Error::Busy`].
    pub async fn verify_password(&self, user: &User, password: SecretString, address: IpAddr) -> Result<bool, Error> {
        self.guesses.check_address(address)?;
        self.is_password(Some(user), &user.name, password, address, Standing::Known).await
    }

    /// Whose name and password these are, for a session; counted against the guessing limits.
    ///
    /// # Errors
    /// See [`Error`]; a person whom the identity provider does not let in any more is [`Reason::OwnerNotAllowed`].
    pub async fn sign_in(&self, name: &str, password: SecretString, address: IpAddr) -> Result<User, Error> {
        let user = self.by_password(name, password, address).await?;
        match self.let_go(&user) {
            Some(reason) => Err(Error::Failed(reason)),
            None => Ok(user),
        }
    }

    /// Whether some user is called this, in any case.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn is_somebodys_name(&self, name: &str) -> Result<bool, Error> {
        let name = name.trim().to_lowercase();
        Ok(self.store.users().await?.iter().any(|user| user.name.to_lowercase() == name))
    }

    /// Drops what is cached of one user: their grants, password, tokens or admin bit changed.
    ///
    /// Drops everybody's, in fact: whatever changed raised the store's revision, at which [`Authn::refresh`] does the
    /// same half a second later, and loading an identity again takes a few reads.
    pub fn forget(&self, _user: UserId) {
        self.identities.forget_all();
    }

    /// Drops all cached identities (not the verified passwords, which are keyed by the stored hash).
    pub fn forget_all(&self) {
        self.identities.forget_all();
    }

    /// Compares the store's revision with the last seen one and forgets all when another process changed something.
    /// Called twice a second by `app`, which also hands over when tokens and sessions were last used.
    ///
    /// A store that does not answer is said in the log once; cached identities then live to the end of their time.
    pub async fn refresh(&self) {
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

    /// Why a token itself does not work any more, if so.
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

    /// How an address stands with an account, where that makes a difference: only there is the store asked, and for unknown
    /// names too, so that they are not told from others by the time it takes.
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

    /// One path for everybody: an unknown user and one without a password are measured against the decoy.
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
        // Before the right password is told from a wrong one, also where that costs nothing.
        let account = self.account(user.map_or(name, |user| &user.name));
        self.guesses.check_account(address, account)?;
        if is_verified() && self.guesses.may_remember(address, account) {
            return Ok(true);
        }
        let guess = self.guesses.begin(address, account, standing).await?;
        let (stored, verified) = (stored.clone(), self.verified.clone());
        let until = self.clock.now().plus(self.cache_ttl);
        // Settled on the hashing thread: a client that hangs up has still used its guess.
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

    /// Why somebody's access tokens and password rest, when they do: they follow what the identity provider says of their owner.
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

    /// The key under which guesses at an account are counted.
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

/// What a request shows of who sends it. A credential in `Authorization` was sent on purpose and goes before a cookie.
#[derive(Clone, Copy, Default)]
pub struct Shown<'h> {
    /// The value of `Authorization`.
    pub authorization: Option<&'h [u8]>,
    /// The value of our session's cookie.
    pub session: Option<&'h str>,
}

impl fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shown").finish_non_exhaustive()
    }
}

impl<'h> Shown<'h> {
    /// The value of `Authorization` alone.
    #[must_use]
    pub const fn authorization(value: &'h [u8]) -> Self {
        Self { authorization: Some(value), session: None }
    }
}

/// Somebody whose credential was right.
#[derive(Debug)]
struct Recognised {
    user: User,
    scheme: Scheme,
    limits: Limits,
    groups: Vec<String>,
    admin: bool,
    /// When the credential itself ends.
    expires: Timestamp,
    /// When a use of it was last written down.
    last_used: Option<Timestamp>,
    /// The place of what a token said of them, for others that say the same.
    said: Option<CacheKey>,
}

impl Recognised {
    /// With all that the user has.
    fn new(user: User, scheme: Scheme, expires: Timestamp) -> Self {
        let (groups, admin) = (user.groups().to_vec(), user.is_admin());
        Self { user, scheme, limits: Limits::default(), groups, admin, expires, last_used: None, said: None }
    }
}

#[cfg(test)]
mod tests;
