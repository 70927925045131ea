//! The store for commands: opened directly, even while the proxy runs, which detects every change.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, bail};

use super::output;
use crate::authz::{Grant, Resource, ResourceKind, Selector, Subject};
use crate::clock::{Clock, Timestamp};
use crate::config::{self, Flags};
use crate::resolve::{Labels, Resolver};
use crate::store::{Actor, Role, Store, User};
use crate::telemetry::Metrics;
use crate::upstream::Upstream;

/// An open store, with the settings that commands need.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) store: Store,
    pub(super) actor: Actor,
    pub(super) now: Timestamp,
    /// Maximum lifetime of a token in days.
    pub(super) token_max_days: u32,
    pub(super) upstream: config::Upstream,
}

/// Treatment of an absent store: created or refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Absent {
    Make,
    Refuse,
}

impl Opened {
    /// Opens the store, runs `work` with it and closes it.
    pub(super) async fn with(
        flags: &Flags,
        absent: Absent,
        work: impl AsyncFnOnce(&Self) -> anyhow::Result<()>,
    ) -> anyhow::Result<ExitCode> {
        let opened = Self::from(flags, absent).await?;
        let done = work(&opened).await;
        opened.store.close().await;
        done.map(|()| ExitCode::SUCCESS)
    }

    pub(super) async fn from(flags: &Flags, absent: Absent) -> anyhow::Result<Self> {
        let config = config::load(flags)?;
        let url = &config.store.url;
        if absent == Absent::Refuse
            && let Some(path) = file_of(url)
            && !Path::new(path).exists()
        {
            bail!(
                "there is no store at {url}; check store.url (or --store), start the proxy once, or create the first \
                 account with `mlflow-auth-proxy user create NAME --admin`"
            );
        }
        let clock = Clock::default();
        let store =
            Store::connect(&config.store, clock.clone()).await.with_context(|| format!("store.url is {url}"))?;
        let (token_max_days, upstream) = (config.authn.token_max_days, config.upstream);
        Ok(Self { store, actor: actor(), now: clock.now(), token_max_days, upstream })
    }

    /// Warns on standard error about a grant on a resource that MLflow does not have. An unreachable MLflow does not
    /// fail the command.
    pub(super) async fn warn_of_absence(&self, kind: ResourceKind, selector: &Selector) {
        let Some(resolver) = self.resolver() else { return };
        if resolver.lacks(kind, selector).await {
            let resource = Resource::new(kind, selector.to_string());
            output::error(&format!("warning: MLflow has no {resource}; the grant has no effect until it exists"));
        }
    }

    /// Returns the names of the resources that these grants identify by ID, as far as MLflow can be asked within a few
    /// seconds.
    pub(super) async fn labels<'g>(&self, grants: impl Iterator<Item = &'g Grant>) -> Labels {
        let ids: BTreeSet<_> = grants
            .filter_map(|grant| match &grant.selector {
                Selector::Exact(id) if grant.kind.is_granted_by_id() => Some((grant.kind, id.clone())),
                Selector::Exact(_) | Selector::All | Selector::Glob(_) => None,
            })
            .collect();
        match self.resolver() {
            Some(resolver) if !ids.is_empty() => resolver.labels(&ids).await,
            Some(_) | None => Labels::new(),
        }
    }

    fn resolver(&self) -> Option<Resolver> {
        let (upstream, metrics) = (Upstream::new(&self.upstream).ok()?, Metrics::new([]).ok()?);
        Some(Resolver::new(upstream, Arc::new(metrics)))
    }

    pub(super) async fn user(&self, name: &str) -> anyhow::Result<User> {
        let user = self.store.user_by_name(name).await?;
        user.with_context(|| format!("there is no user `{name}`; `mlflow-auth-proxy user list` lists all"))
    }

    pub(super) async fn role(&self, workspace: &str, name: &str) -> anyhow::Result<Role> {
        let role = self.store.role_by_name(workspace, name).await?;
        role.with_context(|| {
            format!("there is no role `{name}` in workspace `{workspace}`; `mlflow-auth-proxy role list` lists all")
        })
    }

    /// Returns the displayed names of subjects; those of roles are `WORKSPACE/NAME`.
    pub(super) async fn names(&self) -> anyhow::Result<HashMap<Subject, String>> {
        let users = self.store.users().await?.into_iter().map(|user| (Subject::User(user.id), user.name));
        let roles = self.store.roles().await?.into_iter();
        let roles = roles.map(|role| (Subject::Role(role.id), format!("{}/{}", role.workspace, role.name)));
        Ok(users.chain(roles).collect())
    }
}

/// Returns the audit actor of commands.
pub(super) fn actor() -> Actor {
    Actor { name: "command-line".to_owned(), token: None, address: None }
}

/// Returns the file of a store's URL; `None` if it has none.
pub(super) fn file_of(url: &str) -> Option<&str> {
    let path = url.strip_prefix("sqlite:")?;
    let path = path.strip_prefix("//").unwrap_or(path);
    (path != ":memory:").then(|| path.split('?').next().unwrap_or(path))
}
