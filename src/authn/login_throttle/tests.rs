//! The limits on passwords, through the authentication of requests. The clock stands still unless a test moves it.

use tokio::task::JoinSet;

use super::*;
use crate::authn::tests::{
    DAY, HERE, PER_ACCOUNT, PER_ADDRESS, THERE, WINDOW, World, actor, basic, bearer, config, new_address,
};
use crate::authn::{Authn, RawCredentials};
use crate::crypto::{AccessToken, PasswordHash};
use crate::store::NewSession;
use crate::store::tests::server;

mod processes;

#[path = "tests/cases.rs"]
mod in_memory;
#[expect(clippy::duplicate_mod, reason = "each fact is tested with each place of the counters")]
#[path = "tests/cases.rs"]
mod in_the_store;

/// Returns a world whose counters are where the module of a test says.
async fn world(module: &str) -> World {
    if module.ends_with("in_memory") { World::new().await } else { World::shared(&server::database().await).await }
}
