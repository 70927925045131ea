//! Talking to identity providers: discovery, keys, claims, log-in, refresh, logout.
//!
//! Knows no user, session or grant: it turns what a provider says into facts, and `authn` and `pages` act on them. No request
//! of a client ever waits for a provider, but for log-in itself.

mod attempt;

pub use attempt::{Attempt, Attempts, Begun, Returned, State};
