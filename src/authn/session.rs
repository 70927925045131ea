//! Sessions of browsers: a secret in a cookie, and what the store remembers of it.
//!
//! A session ends at its own end, when it is not used for too long, when somebody ends it, and when the identity provider
//! no longer lets its owner in. What is cached never outlives any of these.

use super::{Authn, Error, Reason, Recognised};
use crate::authz::Scheme;
use crate::crypto::SessionSecret;
use crate::store::Session;

impl Authn {
    /// Whose session this is, while it lasts.
    pub(super) async fn by_session(&self, secret: &str) -> Result<Recognised, Error> {
        let unknown = Error::Failed(Reason::UnknownSession);
        let Some(session) = self.session(secret).await? else { return Err(unknown) };
        let Some(user) = self.store.user(session.user).await? else { return Err(unknown) };
        if user.person.as_ref().is_some_and(|person| !person.allowed) {
            return Err(Error::Failed(Reason::OwnerNotAllowed));
        }
        // It is being used now, so it is idle from now at the earliest.
        let expires = session.expires.min(self.clock.now().plus(self.session_idle));
        let recognised = Recognised::new(user, Scheme::Session(session.id), expires);
        Ok(Recognised { last_used: Some(session.last_used), ..recognised })
    }

    /// The session behind a cookie's value, while it lasts.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn session(&self, secret: &str) -> Result<Option<Session>, Error> {
        let Some(secret) = SessionSecret::parse(secret) else { return Ok(None) };
        let session = self.store.session_by_hash(&secret.hash()).await?;
        Ok(session.filter(|session| self.is_alive(session)))
    }

    /// Whether a session still works: neither over nor idle for too long.
    #[must_use]
    pub fn is_alive(&self, session: &Session) -> bool {
        let now = self.clock.now();
        now < session.expires && now.since(session.last_used) < self.session_idle
    }
}
