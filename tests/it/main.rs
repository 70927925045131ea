//! One binary for all integration tests: it links once.

#![allow(clippy::too_many_lines, reason = "tests are tables")]
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    clippy::unwrap_used,
    clippy::missing_errors_doc,
    reason = "a test that cannot go on should say so and stop; the settings for tests do not cover their helpers"
)]

mod answers;
mod architecture;
mod authorisation;
mod bearers;
mod bodies;
mod browser;
mod changed_rights;
mod cli;
mod dependencies;
mod directory;
mod documents;
mod edge;
mod harness;
mod login;
mod logout;
mod matrix;
mod metrics_table;
mod operations_table;
#[allow(dead_code, reason = "shared with the library's own tests, which use the rest")]
mod provider;
mod restarts;
mod service;
mod sessions;
mod turns;
