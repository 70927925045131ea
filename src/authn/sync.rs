//! Keeping what is known of people in step with Keycloak's own list of them.
//!
//! Keycloak tells nobody when it disables or deletes somebody: whoever has no session that is refreshed would keep their
//! access tokens. Behind everybody's back; while the list cannot be read, everything stays as it is.

use std::sync::Arc;

use url::Url;

use crate::clock::{Clock, Timestamp};
use crate::oidc::{Directory, DirectoryError, Found, Provider, claims};
use crate::store::{self, Actor, Seen, Store, User};

/// Why a round was not finished.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A realm that was made anew, a user federation that is away, a `sub` that is no id of Keycloak's: everybody would be
    /// signed out.
    #[error("it knows none of the {0} people who have been here; they are left as they are")]
    NobodyFound(usize),
    /// Everybody else's news was heard.
    #[error("the answers about {0} people are not understood; they are left as they are")]
    Odd(usize),
}

impl SyncError {
    /// A bounded word for metrics.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Directory(error) => error.kind(),
            Self::Store(_) => "store",
            Self::NobodyFound(_) => "nobody_found",
            Self::Odd(_) => "not_understood",
        }
    }

    /// Whether the client has no service account at the provider, or one that may not read the list.
    #[must_use]
    pub const fn is_lack_of_rights(&self) -> bool {
        match self {
            Self::Directory(error) => error.is_lack_of_rights(),
            Self::Store(_) | Self::NobodyFound(_) | Self::Odd(_) => false,
        }
    }
}

/// Asks about everybody in the store.
#[derive(Clone, Debug)]
pub struct DirectorySync {
    store: Arc<Store>,
    clock: Clock,
}

impl DirectorySync {
    /// Of this store's people.
    #[must_use]
    pub const fn new(store: Arc<Store>, clock: Clock) -> Self {
        Self { store, clock }
    }

    /// Looks everybody up once; `realm` is where the provider's admin API is. What is known of one counts at once, also
    /// when the round breaks off later; who seems deleted is asked about once more at its end.
    ///
    /// # Errors
    /// See [`SyncError`].
    pub async fn round(&self, provider: &Provider, realm: &Url) -> Result<(), SyncError> {
        let people = self.store.people_of(&provider.config.endpoint.issuer).await?;
        let mut directory = Directory::open(provider, realm).await?;
        let (mut missing, mut odd) = (Vec::new(), 0);
        for user in &people {
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
            return Err(SyncError::NobodyFound(people.len()));
        }
        for user in missing {
            directory = Directory::open(provider, realm).await?;
            let asked = self.clock.now();
            match find(&directory, user).await {
                Ok(Found::Deleted) => self.let_go(user, asked, "the identity provider deleted them").await?,
                Ok(_) | Err(DirectoryError::NotUnderstood) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if odd > 0 { Err(SyncError::Odd(odd)) } else { Ok(()) }
    }

    async fn follow(&self, provider: &Provider, user: &User, found: Found, asked: Timestamp) -> store::Result<()> {
        let Some(person) = &user.person else { return Ok(()) };
        let (name, standing) = match found {
            Found::Disabled => return self.let_go(user, asked, "the identity provider disabled them").await,
            Found::Active { name, standing } => (name, standing),
            // As far as is known: they may have been disabled before.
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
            // It makes no account.
            owns_plain_names: false,
        };
        self.store.follow(&Actor::proxy(), user, seen, asked).await?;
        if standing.allowed { Ok(()) } else { self.end_sessions(user, "in no allowed group any more").await }
    }

    /// Somebody may not come in any more: their access tokens stop, their sessions end.
    async fn let_go(&self, user: &User, asked: Timestamp, why: &str) -> store::Result<()> {
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

/// Why a user whose refresh was refused may not come in any more, as far as the provider's list tells: Keycloak answers the
/// refresh of a deleted user as that of any session that ended (seen with 26.7).
pub(super) async fn why_gone(provider: &Provider, subject: &str) -> Option<&'static str> {
    let sync = provider.config.sync.as_ref()?;
    let directory = Directory::open(provider, &sync.realm).await.ok()?;
    match directory.find(subject).await.ok()? {
        Found::Deleted => Some("the identity provider deleted them"),
        Found::Disabled => Some("the identity provider disabled them"),
        Found::Enabled | Found::Active { .. } => None,
    }
}

async fn find(directory: &Directory<'_>, user: &User) -> Result<Found, DirectoryError> {
    directory.find(user.person.as_ref().map_or("", |person| &person.subject)).await
}
