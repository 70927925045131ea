//! What users, administrators and operators rely on; each test has a database of its own.

use std::time::Duration;

use super::*;
use crate::authz::{
    Grant, GrantSet, Home, Limits, Mutation, Permission, PolicyFile, Resource, ResourceKind, RoleId, Selector, Subject,
    TokenId, UserId,
};
use crate::clock::{Stopwatch, Timestamp};
use crate::crypto::{AccessToken, PasswordHash};

#[path = "../../tests/it/postgres.rs"]
pub(crate) mod server;

mod files;
pub(super) mod servers;

#[expect(clippy::duplicate_mod, reason = "each fact is tested on each database")]
#[path = "tests/cases.rs"]
mod postgres;
#[path = "tests/cases.rs"]
mod sqlite;

/// Returns an empty store of the database that the module of a test is named after.
async fn fresh(module: &str) -> (Store, Clock) {
    if module.ends_with("postgres") { postgres().await } else { sqlite().await }
}

pub(super) async fn sqlite() -> (Store, Clock) {
    let clock = Clock::manual(START);
    (Store::open("sqlite::memory:", clock.clone()).await.unwrap(), clock)
}

pub(super) async fn postgres() -> (Store, Clock) {
    let clock = Clock::manual(START);
    (Store::open(&server::database().await, clock.clone()).await.unwrap(), clock)
}

pub(super) const START: Timestamp = Timestamp(1_700_000_000_000);
pub(super) const DAY: Duration = Duration::from_secs(86_400);

pub(super) fn actor() -> Actor {
    Actor { name: "root".to_owned(), token: Some(TokenId(9)), address: Some("192.0.2.7".parse().unwrap()) }
}

pub(super) fn grant(subject: Subject, kind: ResourceKind, key: &str, permission: Permission) -> Grant {
    Grant { subject, kind, selector: Selector::Exact(key.to_owned()), permission }
}

pub(super) async fn user(store: &Store, name: &str) -> User {
    store.create_user(&actor(), name, None, false).await.unwrap()
}

pub(super) async fn token(store: &Store, user: UserId, name: &str) -> Result<(AccessToken, Token)> {
    let secret = AccessToken::generate();
    let (hash, limits, expires) = (secret.hash(), Limits::default(), START.plus(DAY));
    Ok((secret, store.create_token(&actor(), NewToken { user, name, hash, limits: &limits, expires }).await?))
}
