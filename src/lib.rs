//! An authenticating reverse proxy for an unmodified MLflow server.
//!
//! The life of a request is one function: [`pipeline::Proxy::handle`]. Start reading there, with ARCHITECTURE.md beside you.

#![cfg_attr(test, allow(clippy::too_many_lines, reason = "tests are tables"))]

pub mod api;
pub mod app;
pub mod authn;
pub mod authz;
pub mod budget;
pub mod cli;
pub mod clock;
pub mod config;
pub mod crypto;
pub mod directory_sync;
pub mod effects;
pub mod explain;
pub mod filter;
pub mod http;
pub mod mlflow;
pub mod oidc;
pub mod pipeline;
pub mod resolve;
pub mod server;
pub mod session_refresh;
pub mod store;
pub mod telemetry;
pub mod text;
pub mod upstream;
pub mod web;
