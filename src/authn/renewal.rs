//! Refreshes sessions with the identity provider in the background.
//!
//! If several proxies share a store, the one with the lease refreshes a session, once. No request waits for it. While a
//! provider does not answer, its sessions remain valid. The back-off belongs to the provider and not to the session, so
//! all sessions are refreshed soon after it is back.

use std::sync::Arc;
use std::time::Duration;

use super::Authn;
use super::sync::why_gone;
use crate::authz::SessionId;
use crate::clock::{Clock, Timestamp};
use crate::config;
use crate::oidc::claims::Standing;
use crate::oidc::refresh::{After, LEASE, after, due};
use crate::oidc::{Granted, LoginError, Person, Provider, Providers, Refused, Room, Stayed, Tokens};
use crate::store::{self, Actor, Lease, Occasion, Seen, Session, Store, Whose};

/// Refreshes sessions with their providers.
#[derive(Clone, Debug)]
pub struct Renewal {
    store: Arc<Store>,
    authn: Arc<Authn>,
    providers: Arc<Providers>,
    limits: config::Session,
    clock: Clock,
}

/// Outcome of one refresh. Each variant is a label in metrics.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Renewed {
    Done,
    /// The provider or the proxy's own configuration has a problem. The session is kept.
    Kept,
    Ended,
    /// Another process holds the lease, or the session ended in the meantime.
    Lost,
}

impl Renewed {
    /// Returns a word from a bounded set, for metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Kept => "kept",
            Self::Ended => "ended",
            Self::Lost => "lost",
        }
    }
}

impl Renewal {
    /// Creates a renewal for the sessions of `store`, which end according to `limits`.
    #[must_use]
    pub const fn new(
        store: Arc<Store>,
        authn: Arc<Authn>,
        providers: Arc<Providers>,
        limits: config::Session,
        clock: Clock,
    ) -> Self {
        Self { store, authn, providers, limits, clock }
    }

    /// Leases sessions that are due for a refresh. Of a provider in trouble, leases one session or none.
    ///
    /// # Errors
    /// Returns an error if the store cannot be queried.
    pub async fn due(&self, at_most: usize) -> store::Result<Vec<Lease>> {
        let held_back = self.providers.iter().filter(|it| it.health.room() != Room::All);
        let held_back: Vec<&str> = held_back.map(|provider| provider.config.name.as_str()).collect();
        let mut due = self.lease(Whose::AllBut(&held_back), at_most).await?;
        for provider in self.providers.iter().filter(|it| it.health.room() == Room::One) {
            let one = self.lease(Whose::Only(&provider.config.name), 1).await?;
            if !one.is_empty() {
                provider.health.begin_trial();
            }
            due.extend(one);
        }
        Ok(due)
    }

    async fn lease(&self, whose: Whose<'_>, at_most: usize) -> store::Result<Vec<Lease>> {
        let milliseconds = i64::try_from(LEASE.as_millis()).unwrap_or(i64::MAX);
        let at_most = i64::try_from(at_most).unwrap_or(i64::MAX);
        self.store.lease_due_sessions(whose, self.idle_since(), milliseconds, at_most).await
    }

    /// Returns the names of the providers in trouble that are due for a probe, each once.
    #[must_use]
    pub fn probes_due(&self) -> Vec<String> {
        let now = self.clock.now();
        let due = self.providers.iter().filter(|provider| provider.health.begin_probe(now));
        due.map(|provider| provider.config.name.clone()).collect()
    }

    /// Checks if a provider in trouble answers again.
    pub async fn probe(&self, provider: &str) {
        let Some(provider) = self.providers.get(provider) else { return };
        if provider.remote.probe().await.is_ok() {
            provider.health.probe_answered();
        }
    }

    /// Deletes sessions that have ended.
    ///
    /// # Errors
    /// Returns an error if the store cannot be queried.
    pub async fn sweep(&self) -> store::Result<u64> {
        self.store.sweep_sessions(self.idle_since()).await
    }

    fn idle_since(&self) -> Timestamp {
        Timestamp(
            self.clock.now().0.saturating_sub(i64::try_from(self.limits.idle_timeout.as_millis()).unwrap_or(i64::MAX)),
        )
    }

    /// Refreshes one leased session.
    ///
    /// # Errors
    /// Returns an error if the store cannot be queried.
    pub async fn renew(&self, lease: Lease) -> store::Result<Renewed> {
        let session = &lease.session;
        let named = session.provider.as_deref().and_then(|name| self.providers.get(name));
        let provider = named.filter(|it| session.issuer.as_ref() == Some(&it.config.endpoint.issuer));
        let renewed = match provider {
            Some(provider) => self.renew_at(provider, &lease).await,
            None => self.end(session.id, "its provider is not configured any more").await,
        };
        // The trial ends with any outcome. Without an answer, another session is the next trial.
        if let Some(named) = named {
            named.health.end_trial();
        }
        renewed
    }

    async fn renew_at(&self, provider: &Provider, lease: &Lease) -> store::Result<Renewed> {
        let session = &lease.session;
        let Some(tokens) = Tokens::open(&self.providers.keys, session.user.0, &session.tokens) else {
            return self.end(session.id, "its tokens cannot be opened: the key is not in session.keys").await;
        };
        let Some(refresh_token) = &tokens.refresh_token else {
            self.store.refreshed(lease, &session.tokens, None, 0).await?;
            return Ok(Renewed::Kept);
        };
        let asked = self.clock.now();
        let answer = provider.refresh(refresh_token).await;
        self.note_health(provider, answer.as_ref().err());
        match answer {
            Ok(granted) => self.granted(lease, provider, tokens, granted).await,
            Err(LoginError::Refused(Refused::Grant)) => self.refused(lease, provider).await,
            Err(error) => self.failed(lease, &error, asked).await,
        }
    }

    /// Updates the provider's back-off. Logs once per outage, not for every session.
    fn note_health(&self, provider: &Provider, error: Option<&LoginError>) {
        let name = &provider.config.name;
        match error {
            Some(error) if matches!(after(error, 0), After::Wait(_)) => {
                if provider.health.failed(self.clock.now()) {
                    tracing::warn!(provider = %name, %error, "sessions at {name} are not refreshed and are kept: {error}");
                }
            }
            Some(_) | None => {
                if provider.health.answered() {
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
    ) -> store::Result<Renewed> {
        let (session, refresh_at) = (&lease.session, self.clock.now().plus(due(granted.expires_in)));
        // Stored before anything else, because the provider may have invalidated the old token.
        let sealed = granted.tokens(before).seal(&self.providers.keys, session.user.0);
        if !self.keep(lease, &sealed, refresh_at).await? {
            return Ok(Renewed::Lost);
        }
        let (issuer, subject) =
            (provider.config.endpoint.issuer.as_str(), session.subject.as_deref().unwrap_or_default());
        let owns_plain_names = self.authn.policies().homes().owns_plain_names(issuer);
        match provider.who_stayed(&granted, subject).await {
            Ok(Stayed::Person(person)) => {
                let Person { name, groups, .. } = &person;
                let (admin, allowed) = (person.admin, person.allowed);
                self.met(session, Seen { issuer, subject, name, groups, admin, allowed, owns_plain_names }).await
            }
            Ok(Stayed::Standing(Standing { groups, admin, allowed, .. })) => {
                let Some(user) = self.store.user(session.user).await? else { return Ok(Renewed::Lost) };
                let (name, groups) = (user.name.as_str(), groups.as_slice());
                self.met(session, Seen { issuer, subject, name, groups, admin, allowed, owns_plain_names }).await
            }
            Ok(Stayed::Unsaid) => self.unconfirmed(session).await,
            Err(error) if after(&error, 0) == After::End => self.end(session.id, &error.to_string()).await,
            Err(error) => {
                tracing::warn!(provider = %provider.config.name, %error, "a refreshed session's groups could not be read");
                self.unconfirmed(session).await
            }
        }
    }

    /// Handles new tokens without information about the user's groups. The session is kept only for a limited time.
    async fn unconfirmed(&self, session: &Session) -> store::Result<Renewed> {
        let user = self.store.user(session.user).await?;
        let seen = user.and_then(|user| user.person).map_or(session.created, |person| person.seen);
        if self.clock.now().since(seen) < self.limits.unconfirmed {
            return Ok(Renewed::Kept);
        }
        self.end(session.id, "the provider has not said for too long which groups its owner is in").await
    }

    async fn met(&self, session: &Session, seen: Seen<'_>) -> store::Result<Renewed> {
        let before = self.store.revision().await?;
        self.store.meet(&Actor::proxy(), seen, Occasion::Refresh).await?;
        if self.store.revision().await? != before {
            self.authn.forget_all();
        }
        if seen.allowed { Ok(Renewed::Done) } else { self.end(session.id, "in no allowed group any more").await }
    }

    /// Handles a refused refresh. The session ended at the provider, possibly because its owner is disabled or deleted.
    /// Only the provider's list of users shows which.
    async fn refused(&self, lease: &Lease, provider: &Provider) -> store::Result<Renewed> {
        let session = &lease.session;
        let asked = self.clock.now();
        match why_gone(provider, session.subject.as_deref().unwrap_or_default()).await {
            Some(why) => self.disallow(session, asked, why).await,
            None => self.end(session.id, &LoginError::Refused(Refused::Grant).to_string()).await,
        }
    }

    async fn failed(&self, lease: &Lease, error: &LoginError, asked: Timestamp) -> store::Result<Renewed> {
        let session = &lease.session;
        let failures = u32::try_from(session.failures).unwrap_or(u32::MAX);
        let wait = match after(error, failures) {
            After::End => return self.end(session.id, &error.to_string()).await,
            After::Disallow => return self.disallow(session, asked, &error.to_string()).await,
            After::Retry(wait) => {
                if failures == 0 {
                    let provider = session.provider.as_deref();
                    tracing::warn!(session = %session.id, provider, %error, "a session was not refreshed and is kept: {error}");
                }
                wait
            }
            After::Wait(wait) => wait,
        };
        let again = self.clock.now().plus(wait);
        self.store.refreshed(lease, &session.tokens, Some(again), session.failures.saturating_add(1)).await?;
        Ok(Renewed::Kept)
    }

    /// Handles a user who is disabled or deleted at the provider: all their sessions end and their access tokens stop
    /// working, in one transaction.
    async fn disallow(&self, session: &Session, asked: Timestamp, why: &str) -> store::Result<Renewed> {
        if let Some(user) = self.store.user(session.user).await? {
            self.store.disallow(&Actor::proxy(), &user, asked, why).await?;
        }
        match self.end(session.id, why).await? {
            // It ended together with the user's other sessions.
            Renewed::Lost => Ok(Renewed::Ended),
            renewed => Ok(renewed),
        }
    }

    /// Stores new tokens. Retries if the store fails, because the old tokens may no longer be valid.
    async fn keep(&self, lease: &Lease, sealed: &str, refresh_at: Timestamp) -> store::Result<bool> {
        for _ in 0..WRITE_ATTEMPTS {
            match self.store.refreshed(lease, sealed, Some(refresh_at), 0).await {
                Err(error) => tracing::warn!(%error, "a session's new tokens are not written yet"),
                written => return written,
            }
            tokio::time::sleep(WRITE_PAUSE).await;
        }
        self.store.refreshed(lease, sealed, Some(refresh_at), 0).await
    }

    async fn end(&self, session: SessionId, why: &str) -> store::Result<Renewed> {
        let ended = self.store.end_session(&Actor::proxy(), session, why).await;
        self.authn.forget_all();
        match ended {
            Ok(()) => Ok(Renewed::Ended),
            Err(store::Error::NotFound(_)) => Ok(Renewed::Lost),
            Err(error) => Err(error),
        }
    }
}

const WRITE_ATTEMPTS: usize = 4;
const WRITE_PAUSE: Duration = Duration::from_secs(2);
