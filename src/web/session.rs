//! Starts and ends the session of a browser.

use axum::response::Response;
use http::{HeaderMap, header};

use super::response::{add_cookie, see_other};
use super::sign_in_request::SignInRequest;
use crate::authn::{self, SESSION_COOKIE};
use crate::clock::Timestamp;
use crate::crypto::SessionSecret;
use crate::http::{Keep, ReturnPath, only_cookie};
use crate::store::{self, NewSession, User};

/// The provider's part of a new session. Empty after a sign-in with a password.
#[derive(Debug, Default)]
pub(super) struct ProviderSession {
    pub(super) provider: Option<String>,
    pub(super) issuer: Option<String>,
    pub(super) subject: Option<String>,
    pub(super) sid: Option<String>,
    /// Sealed.
    pub(super) tokens: String,
    pub(super) refresh_at: Option<Timestamp>,
}

impl SignInRequest {
    /// Starts a session for an authenticated user under a new secret, and redirects to the page that they asked for.
    pub(super) async fn start_session(
        &self,
        user: &User,
        session: ProviderSession,
        to: &ReturnPath,
    ) -> store::Result<Response> {
        // Session fixation: a session is never continued by another sign-in. The old one ends, and the new one has a
        // new secret.
        self.end_session("signed in again").await?;
        let secret = SessionSecret::generate();
        let ProviderSession { provider, issuer, subject, sid, tokens, refresh_at } = session;
        let limits = &self.sign_in.session;
        // Without a refresh token, later changes at the provider go unnoticed, so the session is short.
        let is_unconfirmed = provider.is_some() && refresh_at.is_none();
        let lifetime = if is_unconfirmed { limits.lifetime.min(limits.unconfirmed) } else { limits.lifetime };
        let new = NewSession {
            hash: secret.hash(),
            user: user.id,
            provider,
            issuer,
            subject,
            sid,
            tokens,
            expires: self.context.clock.now().plus(lifetime),
            refresh_at,
            address: self.address.to_string(),
            agent: user_agent(&self.head.headers),
        };
        self.context.store.create_session(&self.actor(&user.name), &new, limits.max_per_user).await?;
        let mut response = see_other(to.as_str());
        add_cookie(&mut response, SESSION_COOKIE, secret.reveal(), Keep::WhileOpen);
        Ok(response)
    }

    /// Ends the session of the request's cookie, if there is one. `why` is for the audit log. The caller replaces the cookie.
    pub(super) async fn end_session(&self, why: &str) -> store::Result<Option<store::Session>> {
        let Some(cookie) = only_cookie(&self.head.headers, SESSION_COOKIE) else { return Ok(None) };
        let session = self.context.authn.session(cookie).await.map_err(|error| match error {
            authn::Error::Store(error) => error,
            other => store::Error::Corrupt(other.to_string()),
        })?;
        let Some(session) = session else { return Ok(None) };
        let owner = self.context.store.user(session.user).await?;
        let name = owner.map_or_else(|| "-".to_owned(), |user| user.name);
        let ended = self.context.store.end_session(&self.actor(&name), session.id, why).await;
        match ended {
            Ok(()) => Ok(Some(session)),
            Err(store::Error::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Returns the browser's `User-Agent` for the list of sessions, at most 200 characters.
fn user_agent(headers: &HeaderMap) -> String {
    let text = headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    text.chars().filter(|letter| !letter.is_control()).take(200).collect()
}
