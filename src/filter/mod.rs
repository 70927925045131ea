//! Filters MLflow's answers down to what the caller is allowed to see.
//!
//! Lists are filled up page by page, so that a page is full as long as a readable row is left.

mod actions;
mod lists;
mod push_down;
mod request;

pub use actions::{with_actions, with_all_actions};
pub use lists::{ListError, Lists};
pub use request::ListRequest;
