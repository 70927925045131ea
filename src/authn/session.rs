//! Browser sessions: a secret in a cookie, and the corresponding row in the store.
//!
//! A session ends when it expires, when it has been idle for too long, when it is ended explicitly, and when the
//! identity provider no longer allows its owner in. A cached identity never outlives any of these.

use super::{Authenticated, Authn, Error, Reason};
use crate::authz::Scheme;
use crate::crypto::SessionSecret;
use crate::store::Session;

impl Authn {
    /// Returns the owner of a session that is still valid.
    pub(super) async fn by_session(&self, secret: &str) -> Result<Authenticated, Error> {
        let unknown = Error::Failed(Reason::UnknownSession);
        let Some(session) = self.session(secret).await? else { return Err(unknown) };
        let Some(user) = self.store.user(session.user).await? else { return Err(unknown) };
        if user.person.as_ref().is_some_and(|person| !person.allowed) {
            return Err(Error::Failed(Reason::OwnerNotAllowed));
        }
        // This request uses the session, so its idle time starts now.
        let expires = session.expires.min(self.clock.now().plus(self.session_idle));
        let recognised = Authenticated::new(user, Scheme::Session(session.id), expires);
        Ok(Authenticated { last_used: Some(session.last_used), ..recognised })
    }

    /// Returns the session that belongs to a cookie's value, if it is still valid.
    ///
    /// # Errors
    /// Returns an error if the store cannot be queried.
    pub async fn session(&self, secret: &str) -> Result<Option<Session>, Error> {
        let Some(secret) = SessionSecret::parse(secret) else { return Ok(None) };
        let session = self.store.session_by_hash(&secret.hash()).await?;
        Ok(session.filter(|session| self.is_alive(session)))
    }

    /// Returns true if a session is still valid: neither expired nor idle for too long.
    #[must_use]
    pub fn is_alive(&self, session: &Session) -> bool {
        let now = self.clock.now();
        now < session.expires && now.since(session.last_used) < self.session_idle
    }
}
