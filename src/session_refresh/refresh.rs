//! The refresh of one session: new tokens, and the facts about its owner that come with them.

use std::time::Duration;

use super::SessionRefresh;
use super::health::Health;
use super::schedule::{Consequence, consequence, time_until_due};
use crate::authz::SessionId;
use crate::clock::Timestamp;
use crate::directory_sync;
use crate::oidc::claims::Standing;
use crate::oidc::{Granted, LoginError, Person, Provider, Refused, Stayed, Tokens};
use crate::store::{self, Actor, Lease, Occasion, Seen, Session};

/// Outcome of one refresh. Each variant is a label in metrics.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Outcome {
    Done,
    /// The provider or the proxy's own configuration has a problem. The session is kept.
    Kept,
    Ended,
    /// Another process holds the lease, or the session ended in the meantime.
    Lost,
}

impl Outcome {
    /// Returns a word from a bounded set, for metrics.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Kept => "kept",
            Self::Ended => "ended",
            Self::Lost => "lost",
        }
    }
}

impl SessionRefresh {
    /// Refreshes one leased session.
    pub(super) async fn refresh(&self, lease: Lease) -> store::Result<Outcome> {
        let session = &lease.session;
        let named = session.provider.as_deref().and_then(|name| self.provider(name));
        let is_its =
            |(provider, _): &(&Provider, &Health)| session.issuer.as_ref() == Some(&provider.config.endpoint.issuer);
        let outcome = match named.filter(is_its) {
            Some((provider, health)) => self.refresh_at(provider, health, &lease).await,
            None => self.end(session.id, "its provider is not configured any more").await,
        };
        // The trial ends with any outcome. Without an answer, another session is the next trial.
        if let Some((_, health)) = named {
            health.end_trial();
        }
        outcome
    }

    async fn refresh_at(&self, provider: &Provider, health: &Health, lease: &Lease) -> store::Result<Outcome> {
        let session = &lease.session;
        let Some(tokens) = Tokens::open(&self.providers.keys, session.user.0, &session.tokens) else {
            return self.end(session.id, "its tokens cannot be opened: the key is not in session.keys").await;
        };
        let Some(refresh_token) = &tokens.refresh_token else {
            // Without a refresh token there is nothing to refresh, so the session is never due again.
            self.store.refreshed(lease, &session.tokens, None, 0).await?;
            return Ok(Outcome::Kept);
        };
        // From before the request, so that facts which are stored meanwhile count as newer than its answer.
        let asked = self.clock.now();
        let answer = provider.refresh(refresh_token).await;
        self.note_health(provider, health, answer.as_ref().err());
        match answer {
            Ok(granted) => self.granted(lease, provider, tokens, granted).await,
            Err(LoginError::Refused(Refused::Grant)) => self.refused(lease, provider).await,
            Err(error) => self.failed(lease, &error, asked).await,
        }
    }

    /// Updates the provider's back-off. Logs once per outage, not for every session.
    fn note_health(&self, provider: &Provider, health: &Health, error: Option<&LoginError>) {
        let name = &provider.config.name;
        match error {
            Some(error) if matches!(consequence(error, 0), Consequence::Wait(_)) => {
                if health.failed(self.clock.now()) {
                    tracing::warn!(provider = %name, %error, "sessions at {name} are not refreshed and are kept: {error}");
                }
            }
            Some(_) | None => {
                if health.answered() {
                    tracing::info!(provider = %name, "sessions at {name} are refreshed again");
                }
            }
        }
    }

    async fn granted(
        &self,
        lease: &Lease,
        provider: &Provider,
        before: Tokens,
        granted: Granted,
    ) -> store::Result<Outcome> {
        let (session, refresh_at) = (&lease.session, self.clock.now().plus(time_until_due(granted.expires_in)));
        // Stored before anything else, because the provider may have invalidated the old token.
        let sealed = granted.tokens(before).seal(&self.providers.keys, session.user.0);
        if !self.store_tokens(lease, &sealed, refresh_at).await? {
            return Ok(Outcome::Lost);
        }
        let (issuer, subject) =
            (provider.config.endpoint.issuer.as_str(), session.subject.as_deref().unwrap_or_default());
        let owns_plain_names = self.authn.policies().homes().owns_plain_names(issuer);
        match provider.who_stayed(&granted, subject).await {
            Ok(Stayed::Person(person)) => {
                let Person { name, groups, .. } = &person;
                let (admin, allowed) = (person.admin, person.allowed);
                self.update_owner(session, Seen { issuer, subject, name, groups, admin, allowed, owns_plain_names })
                    .await
            }
            Ok(Stayed::Standing(Standing { groups, admin, allowed, .. })) => {
                let Some(user) = self.store.user(session.user).await? else { return Ok(Outcome::Lost) };
                let (name, groups) = (user.name.as_str(), groups.as_slice());
                self.update_owner(session, Seen { issuer, subject, name, groups, admin, allowed, owns_plain_names })
                    .await
            }
            Ok(Stayed::Unsaid) => self.unconfirmed(session).await,
            Err(error) if consequence(&error, 0) == Consequence::End => self.end(session.id, &error.to_string()).await,
            Err(error) => {
                tracing::warn!(provider = %provider.config.name, %error, "a refreshed session's groups could not be read");
                self.unconfirmed(session).await
            }
        }
    }

    /// Handles new tokens without information about the user's groups. The session is kept only for a limited time.
    async fn unconfirmed(&self, session: &Session) -> store::Result<Outcome> {
        let user = self.store.user(session.user).await?;
        let seen = user.and_then(|user| user.person).map_or(session.created, |person| person.seen);
        if self.clock.now().since(seen) < self.limits.unconfirmed {
            return Ok(Outcome::Kept);
        }
        self.end(session.id, "the provider has not returned the groups of its owner for too long").await
    }

    async fn update_owner(&self, session: &Session, seen: Seen<'_>) -> store::Result<Outcome> {
        self.store.meet(&Actor::proxy(), seen, Occasion::Refresh).await?;
        if seen.allowed { Ok(Outcome::Done) } else { self.end(session.id, "in no allowed group any more").await }
    }

    /// Handles a refused refresh. The session ended at the provider, possibly because its owner is disabled or deleted.
    /// Only the provider's list of users shows which.
    async fn refused(&self, lease: &Lease, provider: &Provider) -> store::Result<Outcome> {
        let session = &lease.session;
        let asked = self.clock.now();
        match directory_sync::why_gone(provider, session.subject.as_deref().unwrap_or_default()).await {
            Some(why) => self.deactivate(session, asked, why).await,
            None => self.end(session.id, &LoginError::Refused(Refused::Grant).to_string()).await,
        }
    }

    async fn failed(&self, lease: &Lease, error: &LoginError, asked: Timestamp) -> store::Result<Outcome> {
        let session = &lease.session;
        let failures = u32::try_from(session.failures).unwrap_or(u32::MAX);
        let wait = match consequence(error, failures) {
            Consequence::End => return self.end(session.id, &error.to_string()).await,
            Consequence::Disallow => return self.deactivate(session, asked, &error.to_string()).await,
            Consequence::Retry(wait) => {
                if failures == 0 {
                    let provider = session.provider.as_deref();
                    tracing::warn!(session = %session.id, provider, %error, "a session was not refreshed and is kept: {error}");
                }
                wait
            }
            Consequence::Wait(wait) => wait,
        };
        let again = self.clock.now().plus(wait);
        self.store.refreshed(lease, &session.tokens, Some(again), session.failures.saturating_add(1)).await?;
        Ok(Outcome::Kept)
    }

    /// Deactivates a user who is disabled or deleted at the provider: all their sessions end and their access tokens stop
    /// working, in one transaction.
    async fn deactivate(&self, session: &Session, asked: Timestamp, why: &str) -> store::Result<Outcome> {
        if let Some(user) = self.store.user(session.user).await? {
            self.store.disallow(&Actor::proxy(), &user, asked, why).await?;
        }
        match self.end(session.id, why).await? {
            // It ended together with the user's other sessions.
            Outcome::Lost => Ok(Outcome::Ended),
            outcome => Ok(outcome),
        }
    }

    /// Stores new tokens. Retries if the store fails, because the old tokens may no longer be valid.
    async fn store_tokens(&self, lease: &Lease, sealed: &str, refresh_at: Timestamp) -> store::Result<bool> {
        for _ in 0..WRITE_ATTEMPTS {
            match self.store.refreshed(lease, sealed, Some(refresh_at), 0).await {
                Err(error) => tracing::warn!(%error, "a session's new tokens are not written yet"),
                written => return written,
            }
            tokio::time::sleep(WRITE_PAUSE).await;
        }
        self.store.refreshed(lease, sealed, Some(refresh_at), 0).await
    }

    async fn end(&self, session: SessionId, why: &str) -> store::Result<Outcome> {
        let ended = self.store.end_session(&Actor::proxy(), session, why).await;
        match ended {
            Ok(()) => Ok(Outcome::Ended),
            Err(store::Error::NotFound(_)) => Ok(Outcome::Lost),
            Err(error) => Err(error),
        }
    }
}

const WRITE_ATTEMPTS: usize = 4;
const WRITE_PAUSE: Duration = Duration::from_secs(2);
