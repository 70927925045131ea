//! User names and passwords, sent with a request or on the sign-in page.
//!
//! Verifying one costs 19 MiB and one core for a while, so the number of hashes is bounded and a right password is
//! cached. Wrong ones are limited by [`LoginThrottle`](super::login_throttle::LoginThrottle). Right and wrong passwords,
//! known and unknown names take the same path wherever a limit is in force, so that neither the answer nor its time
//! tells them apart.

use std::net::IpAddr;

use secrecy::{ExposeSecret as _, SecretString};

use super::login_throttle::{Account, Familiarity, Proof};
use super::{Authn, Error, Reason};
use crate::authz::UserId;
use crate::crypto::PasswordHash;
use crate::store::User;

impl Authn {
    /// Returns the user with this name and password. Wrong passwords count towards the limits.
    ///
    /// # Errors
    /// See [`Error`]. A user who is no longer allowed in by the identity provider is refused with
    /// [`Reason::OwnerNotAllowed`], [`Reason::OwnerSuspended`] or [`Reason::OwnerOutOfTouch`].
    pub async fn user_with_password(&self, name: &str, password: SecretString, address: IpAddr) -> Result<User, Error> {
        self.throttle.check_address(address)?;
        let proof = self.throttle.start(address, self.account(name));
        let user = self.store.user_by_name(name).await?;
        let familiarity = self.familiarity(user.as_ref(), name, address).await?;
        let is_right = self.is_password(user.as_ref(), name, password, address, (proof, familiarity)).await?;
        let user = match user {
            Some(user) if is_right => user,
            Some(_) => return Err(Error::Failed(Reason::WrongPassword)),
            None => return Err(Error::Failed(Reason::UnknownUser)),
        };
        match self.deactivation_reason(&user) {
            Some(reason) => Err(Error::Failed(reason)),
            None => Ok(user),
        }
    }

    /// Returns true if `password` is that of a user who is signed in. Wrong passwords count towards the limits.
    ///
    /// # Errors
    /// [`Error::TooManyAttempts`], [`Error::Busy`].
    pub async fn verify_password(&self, user: &User, password: SecretString, address: IpAddr) -> Result<bool, Error> {
        self.throttle.check_address(address)?;
        let proof = self.throttle.start(address, self.account(&user.name));
        self.is_password(Some(user), &user.name, password, address, (proof, Familiarity::Known)).await
    }

    /// Hashes a new password on the bounded pool.
    ///
    /// # Errors
    /// [`Error::Busy`] if the pool's queue is full.
    pub async fn hash_password(&self, password: SecretString) -> Result<PasswordHash, Error> {
        self.hashing.run(move || PasswordHash::make(&password)).await
    }

    /// Refuses a cached identity of a password where the limits require that the password is hashed again.
    ///
    /// Returns true if the cached identity may be used.
    pub(super) async fn accepts_cached_password(&self, name: &str, address: IpAddr) -> Result<bool, Error> {
        let account = self.account(name);
        self.throttle.check_address(address)?;
        self.throttle.check_account(address, account)?;
        self.throttle.may_remember(address, account).await
    }

    /// Returns the caller's relation to the account, where the limits depend on it. Only then is the store queried, and
    /// for unknown names as well, so that the response time does not reveal which names exist.
    async fn familiarity(&self, user: Option<&User>, name: &str, address: IpAddr) -> Result<Familiarity, Error> {
        let account = self.account(user.map_or(name, |user| &user.name));
        if !self.throttle.is_slowed(address, account).await? {
            return Ok(Familiarity::Unknown);
        }
        if self.throttle.is_known(address, account).await? {
            return Ok(Familiarity::Known);
        }
        let sessions = self.store.sessions_of(user.map_or(UserId(-1), |user| user.id)).await?;
        let address = address.to_canonical();
        let mut here = sessions.iter().filter(|session| self.is_alive(session));
        let is_here = here.any(|session| session.address.parse().is_ok_and(|at: IpAddr| at.to_canonical() == address));
        Ok(if is_here { Familiarity::Known } else { Familiarity::Unknown })
    }

    /// Verifies a password. Unknown users and users without a password take the same path and are verified against the
    /// decoy.
    async fn is_password(
        &self,
        user: Option<&User>,
        name: &str,
        password: SecretString,
        address: IpAddr,
        (guess, familiarity): (Proof, Familiarity),
    ) -> Result<bool, Error> {
        let stored = user.and_then(|user| user.password.as_ref()).unwrap_or(PasswordHash::decoy());
        let id = user.map_or(-1, |user| user.id.0).to_be_bytes();
        let proof = self.keys.key_of("password", &[&id, stored.0.as_bytes(), password.expose_secret().as_bytes()]);
        let is_verified = || self.verified_passwords.get(&proof).is_some_and(|until| self.clock.now() < until);
        // Checked before the cache distinguishes the right password from a wrong one, so that both are refused alike.
        let account = self.account(user.map_or(name, |user| &user.name));
        self.throttle.check_account(address, account)?;
        if is_verified() && self.throttle.may_remember(address, account).await? {
            guess.was_remembered();
            return Ok(true);
        }
        let guess = self.throttle.begin(guess, familiarity).await?;
        let (stored, verified) = (stored.clone(), self.verified_passwords.clone());
        let until = self.clock.now().plus(self.cache_ttl);
        // Settled on the hashing thread, so that a client that disconnects has still used its guess.
        let hashed = self.hashing.run(move || {
            let is_right = stored.matches(&password);
            if is_right {
                verified.insert(proof, until);
            }
            (is_right, guess.settle(is_right))
        });
        let (is_right, settled) = hashed.await?;
        if let Some(settled) = settled {
            // Fails only when the process is shutting down.
            settled.await.map_err(|_| Error::Busy)?;
        }
        Ok(is_right)
    }

    /// Returns the account at which guesses are counted.
    fn account<'n>(&self, name: &'n str) -> Account<'n> {
        Account { key: self.keys.key("account", name.as_bytes()), name }
    }
}
