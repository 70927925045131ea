//! Which cached facts each change affects.
//!
//! A change writes its scopes with its revision, in its own transaction. Other processes read them with
//! [`Store::changes_since`]; caches of this process are told by [`Follower::changed`] when the commit has ended. A
//! change that names no scope affects everything.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock, Weak};

use serde_json::Value;
use tokio::sync::Notify;

use super::db::{Pool, sql};
use super::{Result, Store};
use crate::authz::{RoleId, Subject, UserId};

/// The part of what caches contain that a change affects.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Scope {
    /// The account, credentials, memberships and grants of a user.
    User(UserId),
    /// The grants to a group, or to a group and all below it, by the text of the grant.
    Group(String),
    /// The name and grants of a role.
    Role(RoleId),
    /// The name of an experiment, by its ID.
    Experiment(String),
    /// A model or prompt, by its name.
    Name(String),
    /// A limit on wrong passwords was reached, or a guess ended without a hash.
    Guesses,
    Everything,
}

impl Scope {
    fn write(&self) -> String {
        match self {
            Self::User(id) => format!("user:{id}"),
            Self::Group(text) => format!("group:{text}"),
            Self::Role(id) => format!("role:{id}"),
            Self::Experiment(id) => format!("experiment:{id}"),
            Self::Name(name) => format!("name:{name}"),
            Self::Guesses => "guesses".to_owned(),
            Self::Everything => "everything".to_owned(),
        }
    }

    /// Reads a scope. An unknown one, of a newer version, affects everything.
    fn read(text: &str) -> Self {
        if text == "guesses" {
            return Self::Guesses;
        }
        let read = || match text.split_once(':')? {
            ("user", id) => id.parse().ok().map(|id| Self::User(UserId(id))),
            ("group", text) => Some(Self::Group(text.to_owned())),
            ("role", id) => id.parse().ok().map(|id| Self::Role(RoleId(id))),
            ("experiment", id) => Some(Self::Experiment(id.to_owned())),
            ("name", name) => Some(Self::Name(name.to_owned())),
            _ => None,
        };
        read().unwrap_or(Self::Everything)
    }
}

impl From<&Subject> for Scope {
    fn from(subject: &Subject) -> Self {
        match subject {
            Subject::User(user) => Self::User(*user),
            Subject::Group(group) => Self::Group(group.clone()),
            Subject::Role(role) => Self::Role(*role),
        }
    }
}

/// The scopes of one change.
#[derive(Debug, Default)]
pub(super) struct Scopes {
    named: BTreeSet<Scope>,
    /// True if the change said which, also if it is none.
    are_known: bool,
}

impl Scopes {
    /// Adds scopes. After the first call, the change affects only what was added.
    pub(super) fn add(&mut self, scopes: impl IntoIterator<Item = Scope>) {
        self.are_known = true;
        self.named.extend(scopes);
    }

    pub(super) fn into_list(self) -> Vec<Scope> {
        if !self.are_known || self.named.len() > AT_MOST {
            return vec![Scope::Everything];
        }
        self.named.into_iter().collect()
    }
}

/// Maximum number of scopes of a change; one with more affects everything.
const AT_MOST: usize = 200;

/// Returns the value of the column `scopes`.
pub(super) fn write(scopes: &[Scope]) -> String {
    scopes.iter().map(Scope::write).collect::<Value>().to_string()
}

fn read(scopes: &str) -> Vec<Scope> {
    let read = serde_json::from_str::<Vec<String>>(scopes);
    read.map_or_else(|_| vec![Scope::Everything], |scopes| scopes.iter().map(|scope| Scope::read(scope)).collect())
}

/// A cache that is invalidated by changes of the store.
pub trait Follower: Send + Sync {
    /// Drops what the change may have affected. Called when the commit has ended, also if its outcome is unknown.
    fn changed(&self, scopes: &[Scope]);
}

/// The caches of this process.
#[derive(Clone, Default)]
pub(super) struct Followers(Arc<RwLock<Vec<Weak<dyn Follower>>>>);

impl std::fmt::Debug for Followers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Followers").finish_non_exhaustive()
    }
}

impl Followers {
    pub(super) fn tell(&self, scopes: &[Scope]) {
        for follower in self.0.read().unwrap_or_else(PoisonError::into_inner).iter().filter_map(Weak::upgrade) {
            follower.changed(scopes);
        }
    }
}

/// The changes after a revision.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Changes {
    /// The revision after the last of them.
    pub revision: i64,
    pub scopes: Vec<Scope>,
}

impl Store {
    /// Tells a cache about every change of this process from now on, as long as it exists.
    pub fn follow_changes(&self, follower: Weak<dyn Follower>) {
        let mut followers = self.followers.0.write().unwrap_or_else(PoisonError::into_inner);
        followers.retain(|follower| follower.strong_count() > 0);
        followers.push(follower);
    }

    /// Returns the changes after `revision`, in whichever process they were made. If they are not known any more,
    /// everything has changed.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn changes_since(&self, revision: i64) -> Result<Changes> {
        let now = self.revision().await?;
        if now == revision {
            return Ok(Changes { revision, scopes: Vec::new() });
        }
        let everything = Changes { revision: now, scopes: vec![Scope::Everything] };
        if now < revision || now.saturating_sub(revision) > KEPT {
            return Ok(everything);
        }
        let rows = sql("SELECT revision, scopes FROM changes WHERE revision > $1 AND revision <= $2 ORDER BY revision");
        let mut scopes = BTreeSet::new();
        let mut last = revision;
        for row in rows.bind(revision).bind(now).fetch_all(&self.readers).await? {
            if row.try_get::<i64>("revision")? != last + 1 {
                return Ok(everything);
            }
            last += 1;
            scopes.extend(read(&row.try_get::<String>("scopes")?));
        }
        if last != now {
            // A version that does not write scopes made a change.
            return Ok(everything);
        }
        Ok(Changes { revision: now, scopes: scopes.into_iter().collect() })
    }

    /// Checks that changes of other processes are announced. Returns false if the configuration does without.
    ///
    /// # Errors
    /// [`super::Error::Open`] when announcements do not arrive, with the key to change.
    pub async fn check_listening(&self) -> Result<bool> {
        match &self.readers {
            Pool::Sqlite(_) => Ok(false),
            Pool::Postgres(pool) => pool.check_listening().await,
        }
    }

    /// Wakes `wake` when another process may have changed something, and reports to `connected` whether the database
    /// announces changes. SQLite does not. Never returns.
    pub async fn listen(&self, wake: &Notify, connected: impl Fn(bool) + Send + Sync) {
        match &self.readers {
            Pool::Sqlite(_) => std::future::pending().await,
            Pool::Postgres(pool) => pool.listen(wake, connected).await,
        }
    }

    /// Announces a change that is not in the store's rows to all processes.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn announce(&self, scope: Scope) -> Result<()> {
        let mut change = self.change().await?;
        change.affects([scope]);
        change.commit_unaudited().await
    }
}

/// Number of changes whose scopes are kept.
pub(super) const KEPT: i64 = 4096;
