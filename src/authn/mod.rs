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
use tokio_util::task::TaskTracker;

use crate::authz::{Identity, Limits, Policies, Scheme};
use crate::clock::{Clock, Stopwatch, Timestamp};
use crate::config;
use crate::crypto::{CacheKey, CacheKeys};
use crate::store::{self, Follower as _, Scope, Store, User};

mod credential;
mod hashing;
mod identity_cache;
mod jwt;
mod login_throttle;
mod password;
mod refusal;
mod session;
mod single_flight;
mod token;

use credential::Credential;
use hashing::Hashing;
use identity_cache::{Epoch, IdentityCache, Loaded, Used};
use jwt::{JwtIdentity, VerifiedTokens};
use login_throttle::LoginThrottle;
use single_flight::SingleFlight;

pub use jwt::Trusted;
pub use login_throttle::network;
pub use refusal::{Error, Reason};

/// Name of the session cookie. The `__Host-` prefix makes browsers send it to this host only, and only over TLS (except
/// on loopback).
pub const SESSION_COOKIE: &str = "__Host-mlflow-session";

/// Authenticates users and programs.
pub struct Authn {
    store: Arc<Store>,
    policies: Arc<Policies>,
    clock: Clock,
    keys: CacheKeys,
    identities: Arc<IdentityCache>,
    /// Keys of verified passwords (user, stored hash and password), and the time until which each is accepted without a
    /// hash.
    verified_passwords: Cache<CacheKey, Timestamp>,
    /// Issuers whose JWTs are trusted.
    issuers: Vec<Trusted>,
    verified_tokens: VerifiedTokens,
    single_flight: SingleFlight,
    throttle: LoginThrottle,
    hashing: Hashing,
    cache_ttl: Duration,
    /// See [`config::Authn::person_max_age`].
    person_max_age: Option<Duration>,
    /// See [`config::Session::idle_timeout`].
    session_idle: Duration,
    /// The store's revision when the caches were last known to be current.
    revision: AtomicI64,
    /// True if the last [`Authn::follow_store`] could not reach the store. Used to log this once, not twice a second.
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
        let identities = Arc::new(IdentityCache::new(config.cache_entries, config.cache_ttl));
        identities.confirm(clock.now(), Stopwatch::start());
        let follower = Arc::downgrade(&identities);
        store.follow_changes(follower);
        Self {
            identities,
            // The wall clock may be set back. The cache's own clock cannot.
            verified_passwords: Cache::builder()
                .max_capacity(config.cache_entries)
                .time_to_live(config.cache_ttl)
                .build(),
            issuers: Vec::new(),
            verified_tokens: jwt::verified_tokens(config.cache_entries),
            single_flight: SingleFlight::default(),
            throttle: LoginThrottle::new(config, clock.clone()),
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
    pub fn with_session_idle_timeout(mut self, idle: Duration) -> Self {
        self.session_idle = idle;
        self.identities.sessions_idle_after(idle);
        self
    }

    /// Sets the time for which cached identities are used while the store cannot be asked for changes.
    #[must_use]
    pub fn with_max_staleness(self, limit: Duration) -> Self {
        self.identities.stale_after(limit);
        self
    }

    /// Counts wrong passwords together with the other processes on the store. `key`: the secret of the store. `tracker`:
    /// for tasks that record the outcome of a password whose client has disconnected.
    #[must_use]
    pub fn with_shared_limits(mut self, key: &[u8; 32], tracker: TaskTracker) -> Self {
        self.throttle.share(Arc::clone(&self.store), key, tracker);
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
    pub fn names_decide_permissions(&self) -> bool {
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
    pub fn recent(&self, credentials: RawCredentials<'_>) -> Option<Arc<Identity>> {
        let now = self.clock.now();
        let identity = self.identities.get(&self.cache_key(credentials)?, now)?;
        match identity.scheme {
            Scheme::Token(_) | Scheme::Session(_) | Scheme::Jwt => Some(identity),
            Scheme::Password => (!self.throttle.is_guarded(now)).then_some(identity),
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
    pub async fn authenticate(&self, credentials: RawCredentials<'_>, address: IpAddr) -> Result<Arc<Identity>, Error> {
        let cache_key = self.cache_key(credentials).ok_or(Error::Missing)?;
        if let Some(identity) = self.cached(&cache_key, address).await? {
            return Ok(identity);
        }
        let credential = Credential::read(credentials).map_err(Error::Failed)?;
        // One at a time per credential: of a hundred parallel requests with the same password, only one hashes it.
        let mut turn = self.single_flight.enter(cache_key).await;
        if turn.has_failed() {
            return Err(Error::Store(store::Error::no_answer()));
        }
        // The request that had the turn before may have cached the identity.
        if let Some(identity) = self.cached(&cache_key, address).await? {
            return Ok(identity);
        }
        let identity = self.verify(credential, cache_key, address).await;
        if matches!(identity, Err(Error::Store(_))) {
            turn.fail();
        }
        identity
    }

    /// Verifies a credential, and loads the identity that it proves.
    async fn verify(
        &self,
        credential: Credential<'_>,
        cache_key: CacheKey,
        address: IpAddr,
    ) -> Result<Arc<Identity>, Error> {
        // From before the verification: if the caches are invalidated meanwhile, the result serves this request only.
        let started = self.identities.epoch();
        let authenticated = match credential {
            Credential::Token { owner, token } => self.by_token(owner.as_deref(), &token, address).await?,
            Credential::Password { name, password } => {
                let user = self.user_with_password(&name, password, address).await?;
                Authenticated::new(user, Scheme::Password, Timestamp(i64::MAX))
            }
            Credential::Jwt(token) => match self.by_jwt(cache_key, token).await? {
                JwtIdentity::Loaded(authenticated) => *authenticated,
                JwtIdentity::Cached(loaded, expires) => {
                    self.remember(cache_key, started, &loaded, expires, None);
                    return Ok(loaded.identity);
                }
            },
            Credential::Session(secret) => self.by_session(secret).await?,
        };
        let (expires, last_used, claims_key) =
            (authenticated.expires, authenticated.last_used, authenticated.claims_key);
        let loaded = self.load(authenticated).await?;
        self.remember(cache_key, started, &loaded, expires, last_used);
        if let Some(claims_key) = claims_key {
            self.remember(claims_key, started, &loaded, Timestamp(i64::MAX), None);
        }
        Ok(loaded.identity)
    }

    /// Caches the identity under this key, until `expires` or the end of the cache's time.
    fn remember(
        &self,
        cache_key: CacheKey,
        started: Epoch,
        loaded: &Loaded,
        expires: Timestamp,
        last_used: Option<Timestamp>,
    ) {
        let now = self.clock.now();
        let until = now.plus(self.cache_ttl).min(expires);
        self.identities.insert(cache_key, started, loaded.clone(), until, last_used, now);
    }

    /// Loads the permissions of an authenticated user: their own, and those of their groups and roles.
    async fn load(&self, authenticated: Authenticated) -> Result<Loaded, Error> {
        let Authenticated { user, scheme, limits, groups, admin, .. } = authenticated;
        let standing = self.store.standing_of(user.id, &groups).await?;
        let home = self.policies.homes().of(user.identity());
        let member = standing.member(user.name_at_provider(), home, &groups);
        let grants = Arc::new(standing.grants(&self.policies.enforced(), &member));
        let shadow = self.policies.shadow().map(|shadow| Arc::new(standing.grants(&shadow, &member)));
        let identity = Identity {
            user: user.id,
            name: user.name.as_str().into(),
            admin,
            scheme,
            groups: groups.as_slice().into(),
            limits,
            grants,
            shadow,
        };
        Ok(Loaded::new(identity, standing.roles()))
    }

    /// Returns true if a user has this name. The comparison ignores case.
    ///
    /// # Errors
    /// Returns an error if the store cannot be queried.
    pub async fn is_user_name(&self, name: &str) -> Result<bool, Error> {
        let name = name.trim().to_lowercase();
        Ok(self.store.users().await?.iter().any(|user| user.name.to_lowercase() == name))
    }

    /// Invalidates all cached identities, because a policy changed. Changes of the store invalidate what they affect by
    /// themselves. Verified passwords stay: their keys contain the stored hash.
    pub fn forget_all(&self) {
        self.identities.forget_all();
    }

    /// Reads the changes of other processes since the last call, invalidates the identities that they affect, and
    /// returns their scopes for other caches.
    ///
    /// Called twice a second by `app`, and when the store announces a change. If the store does not answer, this is logged
    /// once, and cached identities remain valid until they expire or are older than [`Authn::with_max_staleness`] allows.
    pub async fn follow_store(&self) -> Vec<Scope> {
        let changes = self.read_changes().await;
        let was_cut_off = self.cut_off.swap(changes.is_err(), Ordering::Relaxed);
        if was_cut_off && changes.is_ok() {
            // A server that took over from another one may lack the last changes, and count others in their place.
            self.forget_all();
            self.throttle.guard();
            return vec![Scope::Everything];
        }
        changes.unwrap_or_else(|error| {
            self.identities.not_confirmed();
            if !was_cut_off {
                tracing::warn!(%error, "changes of the store cannot be read; cached identities are used for at most store.max_staleness_seconds: {error}");
            }
            Vec::new()
        })
    }

    /// Returns true if the store did not answer the last [`Authn::follow_store`].
    pub fn is_cut_off(&self) -> bool {
        self.cut_off.load(Ordering::Relaxed)
    }

    async fn read_changes(&self) -> store::Result<Vec<Scope>> {
        let (asked, since) = (self.clock.now(), Stopwatch::start());
        let changes = self.store.changes_since(self.revision.load(Ordering::Acquire)).await?;
        if !changes.scopes.is_empty() {
            self.identities.changed(&changes.scopes);
        }
        if changes.scopes.iter().any(|scope| matches!(scope, Scope::Guesses | Scope::Everything)) {
            self.throttle.guard();
        }
        self.revision.store(changes.revision, Ordering::Release);
        self.identities.confirm(asked, since);
        Ok(changes.scopes)
    }

    /// Writes the last uses of tokens and sessions to the store. Those that cannot be written are written next time.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn write_last_uses(&self) -> store::Result<()> {
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

    /// Returns the cached identity of a credential, if it may be used at this address.
    async fn cached(&self, cache_key: &CacheKey, address: IpAddr) -> Result<Option<Arc<Identity>>, Error> {
        let Some(identity) = self.identities.get(cache_key, self.clock.now()) else { return Ok(None) };
        match identity.scheme {
            Scheme::Token(_) | Scheme::Session(_) | Scheme::Jwt => {}
            Scheme::Password if self.accepts_cached_password(&identity.name, address).await? => {}
            Scheme::Password => return Ok(None),
        }
        Ok(Some(identity))
    }

    /// Returns the reason if the user's access tokens and password do not work because of the identity provider's
    /// reports about the user.
    fn deactivation_reason(&self, user: &User) -> Option<Reason> {
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

    /// Returns the key under which the identity of these credentials is cached.
    fn cache_key(&self, credentials: RawCredentials<'_>) -> Option<CacheKey> {
        match credentials {
            RawCredentials { authorization: Some(value), .. } => Some(self.keys.key("authorization", value)),
            RawCredentials { session: Some(secret), .. } => Some(self.keys.key("session", secret.as_bytes())),
            RawCredentials { authorization: None, session: None } => None,
        }
    }
}

/// Credentials that a request contains. `Authorization` is sent on purpose and takes precedence over the cookie.
#[derive(Clone, Copy, Default)]
pub struct RawCredentials<'h> {
    /// The value of `Authorization`.
    pub authorization: Option<&'h [u8]>,
    /// The value of the session cookie.
    pub session: Option<&'h str>,
}

impl fmt::Debug for RawCredentials<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawCredentials").finish_non_exhaustive()
    }
}

impl<'h> RawCredentials<'h> {
    /// Creates credentials that consist of the value of `Authorization` alone.
    #[must_use]
    pub const fn authorization(value: &'h [u8]) -> Self {
        Self { authorization: Some(value), session: None }
    }
}

/// A user whose credential was verified.
#[derive(Debug)]
struct Authenticated {
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
    claims_key: Option<CacheKey>,
}

impl Authenticated {
    /// Creates the result for a credential with all groups and permissions of its user.
    fn new(user: User, scheme: Scheme, expires: Timestamp) -> Self {
        let (groups, admin) = (user.groups().to_vec(), user.is_admin());
        Self { user, scheme, limits: Limits::default(), groups, admin, expires, last_used: None, claims_key: None }
    }
}

#[cfg(test)]
mod tests;
