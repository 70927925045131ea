//! Keeping what is known of people in step with Keycloak's own list of them.
//!
//! Keycloak tells nobody when it disables or deletes somebody: whoever has no session that is refreshed would keep their
//! access tokens. Behind everybody's back; while the list cannot be read, everything stays as it is.

use std::sync::Arc;

use url::Url;

use super::proxy;
use crate::oidc::{Directory, DirectoryError, Found, Provider};
use crate::store::{self, Seen, Store, User};

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
}

impl SyncError {
    /// A bounded word for metrics.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Directory(error) => error.kind(),
            Self::Store(_) => "store",
            Self::NobodyFound(_) => "nobody_found",
        }
    }
}

/// Asks about everybody in the store.
#[derive(Clone, Debug)]
pub struct DirectorySync {
    store: Arc<Store>,
}

impl DirectorySync {
    /// Of this store's people.
    #[must_use]
    pub const fn new(store: Arc<Store>) -> Self {
        Self { store }
    }

    /// Looks everybody up once; `realm` is where the provider's admin API is. Who has been heard of meanwhile counts at
    /// once, also when the round breaks off.
    ///
    /// # Errors
    /// See [`SyncError`].
    pub async fn round(&self, provider: &Provider, realm: &Url) -> Result<(), SyncError> {
        let people = self.store.people_of(&provider.config.endpoint.issuer).await?;
        let mut directory = Directory::open(provider, realm).await?;
        let mut deleted = Vec::new();
        for user in &people {
            if directory.is_old() {
                directory = Directory::open(provider, realm).await?;
            }
            let Some(person) = &user.person else { continue };
            match directory.find(&person.subject).await? {
                Found::Deleted => deleted.push(user),
                Found::Disabled => self.let_go(user, "the identity provider disabled them").await?,
                Found::Active(now) => {
                    let seen = Seen {
                        issuer: &person.issuer,
                        subject: &person.subject,
                        name: &now.name,
                        groups: &now.groups,
                        admin: now.admin,
                        allowed: now.allowed,
                        came: false,
                    };
                    self.store.meet(&proxy(), seen).await?;
                    if !now.allowed {
                        self.end_sessions(user, "in no allowed group any more").await?;
                    }
                }
                Found::Refused(error) => tracing::debug!(user = %user.name, %error, "a sign-in would be refused"),
            }
        }
        if !deleted.is_empty() && deleted.len() == people.len() {
            return Err(SyncError::NobodyFound(people.len()));
        }
        for user in deleted {
            self.let_go(user, "the identity provider deleted them").await?;
        }
        Ok(())
    }

    /// Somebody may not come in any more: their access tokens stop, their sessions end.
    async fn let_go(&self, user: &User, why: &str) -> store::Result<()> {
        let Some(person) = &user.person else { return Ok(()) };
        let seen = Seen {
            issuer: &person.issuer,
            subject: &person.subject,
            name: &user.name,
            groups: &person.groups,
            admin: person.admin,
            allowed: false,
            came: false,
        };
        self.store.meet(&proxy(), seen).await?;
        self.end_sessions(user, why).await
    }

    async fn end_sessions(&self, user: &User, why: &str) -> store::Result<()> {
        for session in self.store.sessions_of(user.id).await? {
            match self.store.end_session(&proxy(), session.id, why).await {
                Ok(()) | Err(store::Error::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
