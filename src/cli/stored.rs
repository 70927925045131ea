//! The store as commands see it: opened directly, also while the proxy runs, which notices every change.

use std::path::Path;

use anyhow::{Context as _, bail};

use crate::authz::UserId;
use crate::clock::{Clock, Timestamp};
use crate::config::{self, Flags};
use crate::store::{Actor, Store, User};

/// An open store and what commands need beside it.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) store: Store,
    pub(super) actor: Actor,
    pub(super) now: Timestamp,
    /// Days that a token may live at most.
    pub(super) token_max_days: u32,
}

/// Whether a command may make the store when there is none.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Absent {
    Make,
    Refuse,
}

impl Opened {
    pub(super) async fn from(flags: &Flags, absent: Absent) -> anyhow::Result<Self> {
        let config = config::load(flags)?;
        let url = &config.store.url;
        if absent == Absent::Refuse
            && let Some(path) = file_of(url)
            && !Path::new(path).exists()
        {
            bail!(
                "there is no store at {url}; check store.url (or --store), start the proxy once, or make the first \
                 account with `mlflow-auth-proxy user create NAME --admin`"
            );
        }
        let clock = Clock::default();
        let store = Store::open(url, clock.clone()).await.with_context(|| format!("store.url is {url}"))?;
        Ok(Self { store, actor: actor(), now: clock.now(), token_max_days: config.authn.token_max_days })
    }

    pub(super) async fn user(&self, name: &str) -> anyhow::Result<User> {
        let user = self.store.user_by_name(name).await?;
        user.with_context(|| format!("there is no user `{name}`; `mlflow-auth-proxy user list` shows all"))
    }

    /// The name for a number, for people to read.
    pub(super) async fn names(&self) -> anyhow::Result<std::collections::BTreeMap<UserId, String>> {
        Ok(self.store.users().await?.into_iter().map(|user| (user.id, user.name)).collect())
    }
}

/// Who the audit log says it was.
pub(super) fn actor() -> Actor {
    Actor { name: "command-line".to_owned(), token: None, address: None }
}

/// The file behind a store's URL; `None` when it is none.
fn file_of(url: &str) -> Option<&str> {
    let path = url.strip_prefix("sqlite:")?;
    let path = path.strip_prefix("//").unwrap_or(path);
    (path != ":memory:").then(|| path.split('?').next().unwrap_or(path))
}
