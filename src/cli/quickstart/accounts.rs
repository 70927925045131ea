//! The accounts of a quickstart and their credentials.

use std::time::Duration;

use anyhow::Context as _;
use secrecy::SecretString;

use super::super::stored::{Opened, actor};
use super::super::token;
use crate::authz::{Grant, Limits, Permission, ResourceKind, Selector, Subject};
use crate::clock::Clock;
use crate::config::Config;
use crate::crypto::{AccessToken, PasswordHash, random_password};
use crate::store::{Store, User};

/// The proxy's store, opened in addition to the proxy itself.
#[derive(Debug)]
pub(super) struct Accounts {
    opened: Opened,
    administrator: String,
}

/// A user with the credentials that are shown once.
#[derive(Debug)]
pub(super) struct Person {
    pub(super) user: User,
    /// `None` if the account existed before.
    pub(super) password: Option<SecretString>,
    pub(super) token: AccessToken,
}

impl Accounts {
    pub(super) async fn open(config: &Config) -> anyhow::Result<Self> {
        let clock = Clock::default();
        let store = Store::connect(&config.store, clock.clone()).await?;
        let opened = Opened {
            store,
            actor: actor(),
            now: clock.now(),
            token_max_days: config.authn.token_max_days,
            upstream: config.upstream.clone(),
        };
        Ok(Self { opened, administrator: config.bootstrap.admin_username.clone() })
    }

    /// Revokes the tokens that quickstarts created for the first administrator.
    pub(super) async fn end_administrators_tokens(&self) -> anyhow::Result<()> {
        let Some(user) = self.first_administrator().await? else { return Ok(()) };
        for token in self.opened.store.tokens_of(user.id).await? {
            if token.revoked.is_none() && token.name.starts_with(TOKEN_PREFIX) {
                self.opened.store.revoke_token(&self.opened.actor, token.id).await?;
            }
        }
        Ok(())
    }

    async fn first_administrator(&self) -> anyhow::Result<Option<User>> {
        let users = self.opened.store.users().await?;
        Ok(users.into_iter().filter(|user| user.admin).min_by_key(|user| user.id))
    }

    /// Returns the first administrator with a new token. Creates the account if there is no administrator.
    pub(super) async fn administrator(&self) -> anyhow::Result<Person> {
        self.end_administrators_tokens().await?;
        match self.first_administrator().await? {
            Some(user) => self.with_token(user, None).await,
            None => self.make(&self.administrator, true).await,
        }
    }

    /// Returns a user without administrator rights, with a new token. Creates the account if it does not exist.
    pub(super) async fn person(&self, name: &str) -> anyhow::Result<Person> {
        match self.opened.store.user_by_name(name).await? {
            Some(user) => self.with_token(user, None).await,
            None => self.make(name, false).await,
        }
    }

    pub(super) async fn may_read(&self, reader: &Person, experiment: &str) -> anyhow::Result<()> {
        let kind = ResourceKind::Experiment;
        let selector = Selector::parse(kind, experiment)?;
        let grant = Grant { subject: Subject::User(reader.user.id), kind, selector, permission: Permission::Read };
        Ok(self.opened.store.set_grant(&self.opened.actor, &grant).await?)
    }

    pub(super) async fn close(&self) {
        self.opened.store.close().await;
    }

    async fn make(&self, name: &str, admin: bool) -> anyhow::Result<Person> {
        let password = random_password();
        let hashed = password.clone();
        let hash = tokio::task::spawn_blocking(move || PasswordHash::make(&hashed)).await?;
        let user = self.opened.store.create_user(&self.opened.actor, name, Some(&hash), admin).await;
        self.with_token(user.with_context(|| format!("account `{name}` cannot be created"))?, Some(password)).await
    }

    /// Creates a token for this run. Tokens of the demo's users stay valid; the administrator's is revoked at the end
    /// of the run.
    async fn with_token(&self, user: User, password: Option<SecretString>) -> anyhow::Result<Person> {
        let days = TOKEN_DAYS.min(self.opened.token_max_days);
        let expires = self.opened.now.plus(Duration::from_secs(u64::from(days) * 86_400));
        let name = format!("{TOKEN_PREFIX}{}", self.opened.now.rfc3339());
        let (_, token) = token::create(&self.opened, &user, &name, &Limits::default(), expires).await?;
        Ok(Person { user, password, token })
    }
}

const TOKEN_PREFIX: &str = "quickstart ";
const TOKEN_DAYS: u32 = 30;
