//! HTTP types that all modules share: canonical paths and queries, headers, bodies, replies.
//!
//! Pure, except for reading a bounded body.

mod body;
mod cause;
mod cookie;
mod forwarded;
mod head;
mod path;
mod privacy;
mod query;
mod reply;
mod return_path;

pub use body::{Body, BodyError, Last, ReadError, Watcher, discard, read_bounded};
pub use cause::cause;
pub use cookie::{Keep, all_cookies, only_cookie, set_cookie};
pub use forwarded::{client_address, from_upstream, to_upstream};
pub use head::{HeadError, SEC_FETCH_MODE, SEC_FETCH_SITE, X_REQUESTED_WITH, check, host, host_name, navigates};
pub use path::{CanonicalPath, PathError, decode_until_stable};
pub use privacy::{NOT_STORED, keep_private};
pub use query::{Query, QueryError, Repeated};
pub use reply::{ErrorCode, Reply};
pub use return_path::ReturnPath;

#[cfg(test)]
mod tests;

/// A request as received from hyper.
pub type Request = http::Request<hyper::body::Incoming>;
/// A response of the proxy.
pub type Response = http::Response<Body>;
