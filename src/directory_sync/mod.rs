//! Synchronizes users with Keycloak's own list of them, in the background.
//!
//! Keycloak does not notify clients when it disables or deletes a user. A user without a session that is refreshed
//! would therefore keep their access tokens. While the list cannot be read, nothing changes.

use std::sync::Arc;
use std::time::Duration;

use url::Url;

use crate::clock::{Clock, Stopwatch, Timestamp};
use crate::config;
use crate::oidc::{Provider, Providers, claims};
use crate::store::{self, Actor, Seen, Store, User};
use crate::telemetry::Metrics;

mod keycloak;

use keycloak::Found;

pub use keycloak::{Directory, Error as DirectoryError};

/// Reason for which a round was not completed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The realm was recreated, a user federation is unavailable, or `sub` is not a Keycloak ID. Without this check,
    /// all users would be signed out.
    #[error("it returned none of the {0} known users; they are left unchanged")]
    NobodyFound(usize),
    /// The answers about all other users were applied.
    #[error("the answers about {0} users cannot be read; they are left unchanged")]
    Odd(usize),
}

impl Error {
    /// Returns a word from a bounded set, for metrics.
    const fn kind(&self) -> &'static str {
        match self {
            Self::Directory(error) => error.kind(),
            Self::Store(_) => "store",
            Self::NobodyFound(_) => "nobody_found",
            Self::Odd(_) => "not_understood",
        }
    }

    /// Returns true if the client has no service account at the provider, or one that is not allowed to read the list.
    const fn is_lack_of_rights(&self) -> bool {
        match self {
            Self::Directory(error) => error.is_lack_of_rights(),
            Self::Store(_) | Self::NobodyFound(_) | Self::Odd(_) => false,
        }
    }
}

/// Looks up all users of the store at their provider, periodically.
#[derive(Debug)]
pub struct DirectorySync {
    store: Arc<Store>,
    providers: Arc<Providers>,
    clock: Clock,
    metrics: Arc<Metrics>,
}

impl DirectorySync {
    /// Creates a synchronization for the users of `store`.
    #[must_use]
    pub const fn new(store: Arc<Store>, providers: Arc<Providers>, clock: Clock, metrics: Arc<Metrics>) -> Self {
        Self { store, providers, clock, metrics }
    }

    /// Returns one future per provider with a configured sync, which reads the provider's list of users periodically.
    pub fn tasks(self: &Arc<Self>) -> impl Iterator<Item = impl Future<Output = ()> + Send + 'static> {
        let synced = |provider: &Provider| Some((provider.config.name.clone(), provider.config.sync.clone()?));
        let synced: Vec<_> = self.providers.iter().filter_map(synced).collect();
        let this = Arc::clone(self);
        synced.into_iter().map(move |(name, config)| Arc::clone(&this).run(name, config))
    }

    async fn run(self: Arc<Self>, name: String, config: config::Sync) {
        let Some(provider) = self.providers.get(&name) else { return };
        let (mut failing, lease) = (false, format!("directory:{name}"));
        loop {
            // One process reads the list. Another one takes over when that one is gone.
            if !self.store.hold(&lease).await.unwrap_or(false) {
                tokio::time::sleep(config.every.min(TAKE_OVER)).await;
                continue;
            }
            let begun = Stopwatch::start();
            let outcome = self.round(provider, &config.realm).await;
            self.metrics.directory_synced(&name, outcome.as_ref().err().map_or("ok", Error::kind));
            // Logged when the state changes, not in every round.
            match &outcome {
                Err(error) if !failing => {
                    tracing::warn!(provider = %name, %error, "the disabled users of {name} cannot be determined: {error}");
                }
                Ok(()) if failing => tracing::info!(provider = %name, "the list of users of {name} can be read again"),
                Ok(()) | Err(_) => {}
            }
            failing = outcome.is_err();
            tokio::time::sleep(pause(&config, outcome.as_ref().err(), begun.elapsed())).await;
        }
    }

    /// Looks up every user once. `realm` is the URL of the provider's admin API for its realm.
    ///
    /// Each answer is applied at once, even if the round fails later. A user who appears to be deleted is looked up
    /// again at the end of the round.
    async fn round(&self, provider: &Provider, realm: &Url) -> Result<(), Error> {
        let people = self.store.people_of(&provider.config.endpoint.issuer).await?;
        let mut directory = Directory::open(provider, realm).await?;
        let (mut missing, mut odd) = (Vec::new(), 0);
        for user in &people {
            // A long round outlives the access token of the service account.
            if directory.is_old() {
                directory = Directory::open(provider, realm).await?;
            }
            let asked = self.clock.now();
            match find(&directory, user).await {
                Ok(Found::Deleted) => missing.push(user),
                Ok(found) => self.follow(provider, user, found, asked).await?,
                Err(DirectoryError::NotUnderstood) => odd += 1,
                Err(error) => return Err(error.into()),
            }
        }
        if !missing.is_empty() && missing.len() == people.len() {
            return Err(Error::NobodyFound(people.len()));
        }
        for user in missing {
            directory = Directory::open(provider, realm).await?;
            let asked = self.clock.now();
            match find(&directory, user).await {
                Ok(Found::Deleted) => self.deactivate(user, asked, "the identity provider deleted the user").await?,
                Ok(_) | Err(DirectoryError::NotUnderstood) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if odd > 0 { Err(Error::Odd(odd)) } else { Ok(()) }
    }

    async fn follow(&self, provider: &Provider, user: &User, found: Found, asked: Timestamp) -> store::Result<()> {
        let Some(person) = &user.person else { return Ok(()) };
        let (name, standing) = match found {
            Found::Disabled => return self.deactivate(user, asked, "the identity provider disabled the user").await,
            Found::Active { name, standing } => (name, standing),
            // The answer contains no groups, so the stored ones decide. It also enables a user who was disabled before.
            Found::Enabled | Found::Deleted => {
                (None, claims::standing_in(&provider.config.claims, person.groups.clone()))
            }
        };
        let seen = Seen {
            issuer: &person.issuer,
            subject: &person.subject,
            name: name.as_deref().unwrap_or(&user.name),
            groups: &standing.groups,
            admin: standing.admin,
            allowed: standing.allowed,
            // This call creates no account.
            owns_plain_names: false,
        };
        self.store.follow(&Actor::proxy(), user, seen, asked).await?;
        if standing.allowed { Ok(()) } else { self.end_sessions(user, "in no allowed group any more").await }
    }

    /// Handles a user who is no longer allowed in: their access tokens stop working and their sessions end.
    async fn deactivate(&self, user: &User, asked: Timestamp, why: &str) -> store::Result<()> {
        self.store.disallow(&Actor::proxy(), user, asked, why).await?;
        self.end_sessions(user, why).await
    }

    async fn end_sessions(&self, user: &User, why: &str) -> store::Result<()> {
        for session in self.store.sessions_of(user.id).await? {
            match self.store.end_session(&Actor::proxy(), session.id, why).await {
                Ok(()) | Err(store::Error::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Returns the reason if a user whose refresh was refused is deleted or disabled according to the provider's list.
///
/// Keycloak answers the refresh of a deleted user like that of any session that has ended (seen with 26.7).
pub async fn why_gone(provider: &Provider, subject: &str) -> Option<&'static str> {
    let sync = provider.config.sync.as_ref()?;
    let directory = Directory::open(provider, &sync.realm).await.ok()?;
    match directory.find(subject).await.ok()? {
        Found::Deleted => Some("the identity provider deleted the user"),
        Found::Disabled => Some("the identity provider disabled the user"),
        Found::Enabled | Found::Active { .. } => None,
    }
}

async fn find(directory: &Directory<'_>, user: &User) -> Result<Found, DirectoryError> {
    directory.find(user.person.as_ref().map_or("", |person| &person.subject)).await
}

/// Interval at which a process tries to take over.
const TAKE_OVER: Duration = Duration::from_secs(10);

/// Returns the time until the next round. It is at least as long as the last round took, so that a large realm is not
/// queried continuously. If the sync is on by default and the service account lacks the rights, it is at least
/// [`RIGHTS_AGAIN`], because Keycloak logs each refusal.
fn pause(config: &config::Sync, error: Option<&Error>, took: Duration) -> Duration {
    let every = config.every.saturating_sub(took).max(took);
    if config.by_default && error.is_some_and(Error::is_lack_of_rights) { every.max(RIGHTS_AGAIN) } else { every }
}

/// Interval between attempts without the necessary rights.
const RIGHTS_AGAIN: Duration = Duration::from_mins(10);
