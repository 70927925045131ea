//! The REST APIs that the proxy answers itself: MLflow's for users, roles and permissions, and its own.
//!
//! A request arrives authenticated and with its body in memory. Nothing here is forwarded to MLflow. `web::routes` maps paths to the
//! handlers; a handler takes the shared [`Context`] and an [`ApiRequest`], and returns an [`ApiResult`].

mod context;
mod fields;
pub(crate) mod mlflow;
mod parse;
mod refusal;
mod request;
mod response;
pub(crate) mod v1;
mod views;

pub use context::{Context, PublicAddress};
pub use refusal::{Denial, Refusal};
pub use request::MAX_BODY_BYTES;
pub(crate) use request::{ApiRequest, Caller, Params};
pub(crate) use response::{ApiResponse, ApiResult};
