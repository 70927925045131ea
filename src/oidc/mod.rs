//! Talking to identity providers: discovery, keys, claims, log-in, refresh, logout.
//!
//! Knows no user, session or grant: it turns what a provider says into facts, and `authn` and `pages` act on them. No request
//! of a client ever waits for a provider, but for log-in itself, and for a moment when a key is new.

mod attempt;
pub mod claims;
pub mod client;
mod directory;
mod discovery;
mod health;
mod keys;
mod login;
mod logout;
pub mod refresh;
mod remote;
pub mod token;

pub use attempt::{
    Attempt, Attempts, Begun, LIFETIME as ATTEMPT_LIFETIME, Returned, State, cookie_name as attempt_cookie,
};
pub use claims::Person;
pub use client::Client;
pub use directory::{Directory, Error as DirectoryError, Found};
pub use discovery::{Metadata, MetadataError};
pub use health::{Health, Room};
pub use keys::{Key, Keys, KeysError};
pub use login::{Error as LoginError, Failure, Granted, Provider, Providers, Refused, Stayed, Tokens};
pub use remote::{Error, Remote, Timing, What};
pub use token::Logout;

#[cfg(test)]
#[allow(dead_code, reason = "shared with the tests of the whole proxy, which use the rest")]
#[path = "../../tests/it/provider.rs"]
pub(crate) mod fake;
