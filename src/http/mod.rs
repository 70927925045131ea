//! The vocabulary of HTTP that every module shares: canonical paths and queries, headers, bodies, replies.
//!
//! Pure, but for reading a bounded body.

mod body;
mod reply;

pub use body::{Body, BodyError};
pub use reply::{ErrorCode, Reply};

/// A request as hyper hands it over.
pub type Request = http::Request<hyper::body::Incoming>;
/// What we answer.
pub type Response = http::Response<Body>;
