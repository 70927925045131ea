//! Keeping sessions in step with the identity provider, behind everybody's back.
//!
//! Of several proxies on one store, the one with the lease asks, once. No request waits for it: while a provider is silent,
//! sessions live on as they are.

use std::sync::Arc;
use std::time::Duration;

use super::{Authn, proxy};
use crate::authz::SessionId;
use crate::clock::{Clock, Timestamp};
use crate::oidc::refresh::{After, LEASE, after, due};
use crate::oidc::{Granted, LoginError, Person, Provider, Providers, Tokens};
use crate::store::{self, Lease, Seen, Store};

/// Refreshes sessions.
#[derive(Clone, Debug)]
pub struct Renewal {
    store: Arc<Store>,
    authn: Arc<Authn>,
    providers: Arc<Providers>,
    idle: Duration,
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
    /// Of this store's sessions, which end when they are not used for `idle`.
    #[must_use]
    pub const fn new(
        store: Arc<Store>,
        authn: Arc<Authn>,
        providers: Arc<Providers>,
        idle: Duration,
        clock: Clock,
    ) -> Self {
        Self { store, authn, providers, idle, clock }
    }

    /// Sessions to be refreshed now, each for whoever calls this and nobody else.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn due(&self, at_most: usize) -> store::Result<Vec<Lease>> {
        let milliseconds = i64::try_from(LEASE.as_millis()).unwrap_or(i64::MAX);
        let at_most = i64::try_from(at_most).unwrap_or(i64::MAX);
        self.store.lease_due_sessions(self.idle_since(), milliseconds, at_most).await
    }

    /// Drops sessions that are over.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn sweep(&self) -> store::Result<u64> {
        self.store.sweep_sessions(self.idle_since()).await
    }

    fn idle_since(&self) -> Timestamp {
        Timestamp(self.clock.now().0.saturating_sub(i64::try_from(self.idle.as_millis()).unwrap_or(i64::MAX)))
    }

    /// Refreshes one.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn renew(&self, lease: Lease) -> store::Result<Renewed> {
        let session = &lease.session;
        let provider = session.provider.as_deref().and_then(|name| self.providers.get(name));
        let Some(provider) = provider.filter(|it| session.issuer.as_ref() == Some(&it.config.endpoint.issuer)) else {
            return self.end(session.id, "its provider is not configured any more").await;
        };
        let Some(tokens) = Tokens::open(&self.providers.keys, session.user.0, &session.tokens) else {
            return self.end(session.id, "its tokens cannot be opened: the key is not in session.keys").await;
        };
        let Some(refresh_token) = &tokens.refresh_token else {
            self.store.refreshed(&lease, &session.tokens, None, 0).await?;
            return Ok(Renewed::Kept);
        };
        match provider.refresh(refresh_token).await {
            Ok(granted) => self.granted(&lease, provider, tokens, granted).await,
            Err(error) => self.failed(&lease, &error).await,
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
        let subject = session.subject.as_deref().unwrap_or_default();
        match provider.who_stayed(&granted, subject).await {
            Ok(None) => Ok(Renewed::Done),
            Ok(Some(person)) => self.met(session.id, provider, &person).await,
            Err(error) if after(&error, 0) == After::End => self.end(session.id, &error.to_string()).await,
            Err(error) => {
                tracing::warn!(provider = %provider.config.name, %error, "a refreshed session's groups could not be read");
                Ok(Renewed::Kept)
            }
        }
    }

    async fn met(&self, session: SessionId, provider: &Provider, person: &Person) -> store::Result<Renewed> {
        let before = self.store.revision().await?;
        let seen = Seen {
            issuer: &provider.config.endpoint.issuer,
            subject: &person.subject,
            name: &person.name,
            groups: &person.groups,
            admin: person.admin,
            allowed: person.allowed,
        };
        self.store.meet(&proxy(), seen).await?;
        if self.store.revision().await? != before {
            self.authn.forget_all();
        }
        if person.allowed { Ok(Renewed::Done) } else { self.end(session, "in no allowed group any more").await }
    }

    async fn failed(&self, lease: &Lease, error: &LoginError) -> store::Result<Renewed> {
        let session = &lease.session;
        let failures = u32::try_from(session.failures).unwrap_or(u32::MAX);
        match after(error, failures) {
            After::End => self.end(session.id, &error.to_string()).await,
            After::Retry(wait) => {
                if failures == 0 {
                    let provider = session.provider.as_deref();
                    tracing::warn!(session = %session.id, provider, %error, "a session was not refreshed and is kept: {error}");
                }
                let again = self.clock.now().plus(wait);
                self.store.refreshed(lease, &session.tokens, Some(again), session.failures.saturating_add(1)).await?;
                Ok(Renewed::Kept)
            }
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
        let ended = self.store.end_session(&proxy(), session, why).await;
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
