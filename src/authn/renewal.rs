//! Keeping sessions in step with the identity provider, behind everybody's back.
//!
//! Of several proxies on one store, the one with the lease asks, once. No request waits for it: while a provider is silent,
//! sessions live on as they are, and the back-off belongs to the provider, so that all are refreshed soon after its return.

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

/// Refreshes sessions.
#[derive(Clone, Debug)]
pub struct Renewal {
    store: Arc<Store>,
    authn: Arc<Authn>,
    providers: Arc<Providers>,
    limits: config::Session,
    clock: Clock,
}

/// What became of one refresh. A bounded word for metrics each.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Renewed {
    Done,
    /// The provider, or our own configuration, is in trouble; the session stays.
    Kept,
    Ended,
    /// Somebody else has it, or it was ended meanwhile.
    Lost,
}

impl Renewed {
    /// A bounded word.
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
    /// Refreshes this store's sessions, which end as `limits` say.
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

    /// Leases sessions to be refreshed now. Of a provider in trouble, none or a single one.
    ///
    /// # Errors
    /// The store does not answer.
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

    /// Returns the names of the providers in trouble that are to be probed now, each once.
    #[must_use]
    pub fn probes_due(&self) -> Vec<String> {
        let now = self.clock.now();
        let due = self.providers.iter().filter(|provider| provider.health.begin_probe(now));
        due.map(|provider| provider.config.name.clone()).collect()
    }

    /// Finds out whether a provider in trouble answers again.
    pub async fn probe(&self, provider: &str) {
        let Some(provider) = self.providers.get(provider) else { return };
        if provider.remote.probe().await.is_ok() {
            provider.health.probe_answered();
        }
    }

    /// Drops sessions that are over.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn sweep(&self) -> store::Result<u64> {
        self.store.sweep_sessions(self.idle_since()).await
    }

    fn idle_since(&self) -> Timestamp {
        Timestamp(
            self.clock.now().0.saturating_sub(i64::try_from(self.limits.idle_timeout.as_millis()).unwrap_or(i64::MAX)),
        )
    }

    /// Refreshes one.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn renew(&self, lease: Lease) -> store::Result<Renewed> {
        let session = &lease.session;
        let named = session.provider.as_deref().and_then(|name| self.providers.get(name));
        let provider = named.filter(|it| session.issuer.as_ref() == Some(&it.config.endpoint.issuer));
        let renewed = match provider {
            Some(provider) => self.renew_at(provider, &lease).await,
            None => self.end(session.id, "its provider is not configured any more").await,
        };
        // Whatever became of it, another session may be the next trial.
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

    /// Keeps the provider's back-off; said once per outage, not for every session.
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
        // First of all, because the old token may be of no use any more.
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

    /// The provider granted new tokens and did not say which groups the user is in: it stays so for a while only.
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

    /// The session ended there; perhaps because its owner is gone, which only the provider's list of users tells.
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

    /// The provider said that the user is disabled or deleted: their access tokens stop in the same transaction.
    async fn disallow(&self, session: &Session, asked: Timestamp, why: &str) -> store::Result<Renewed> {
        if let Some(user) = self.store.user(session.user).await? {
            self.store.disallow(&Actor::proxy(), &user, asked, why).await?;
        }
        match self.end(session.id, why).await? {
            // It ended with the others.
            Renewed::Lost => Ok(Renewed::Ended),
            renewed => Ok(renewed),
        }
    }

    /// Writes new tokens down; a store that is busy is asked again, because the old ones are gone.
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
