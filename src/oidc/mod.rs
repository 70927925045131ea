//! Communication with identity providers: discovery, keys, claims, login, refresh and logout.
//!
//! This module has no knowledge of users, sessions or grants: it derives facts from a provider's answers, and `authn`,
//! `web`, `session_refresh` and `directory_sync` act on them. Client requests never wait for a provider, except for the login itself and briefly for an
//! unknown key.

mod attempt;
pub mod claims;
pub mod client;
mod discovery;
mod keys;
mod login;
mod logout;
mod remote;
pub mod token;

pub use attempt::{
    Attempt, Attempts, Begun, LIFETIME as ATTEMPT_LIFETIME, Returned, State, cookie_name as attempt_cookie,
};
pub use claims::Person;
pub use client::Client;
pub use discovery::{Metadata, MetadataError};
pub use keys::{Key, Keys, KeysError};
pub use login::{Error as LoginError, Failure, Granted, Provider, Providers, Refused, Stayed, Tokens};
pub use remote::{Error, Remote, Timing, What};
pub use token::Logout;

#[cfg(test)]
#[allow(dead_code, reason = "shared with the tests of the whole proxy, which use the rest")]
#[path = "../../tests/it/provider.rs"]
pub(crate) mod fake;
