//! Reasons for which bytes are refused before they become a request.
//!
//! Each reason has a name for logs and metrics, a status, and a message for the client.

use http::{HeaderValue, StatusCode, header};

use crate::http::{ErrorCode, Reply};

/// The reason that a request head was refused below hyper.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum EdgeRefusal {
    /// Not HTTP/1: bad method, target, version, header name or value, a folded header, a NUL.
    Malformed,
    /// The head is longer than `max_head_bytes`.
    TooLarge,
    /// More header lines than `max_headers`.
    TooManyHeaders,
    /// The head did not end within `head_timeout`.
    TooSlow,
    /// A line of the head ends in LF without CR.
    BareLineFeed,
    /// Both Content-Length and Transfer-Encoding.
    LengthAndEncoding,
    /// A Transfer-Encoding that is not exactly one `chunked`, or one in HTTP/1.0.
    TransferEncoding,
    /// A Content-Length that is not one plain number, or more than one.
    ContentLength,
    /// The method CONNECT.
    Connect,
    /// An upgrade to a protocol other than `h2c`, which is ignored instead.
    Upgrade,
    /// Broken chunk framing. The request itself is already being handled, and its body ends early.
    Chunk,
}

impl EdgeRefusal {
    /// Returns the name for logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::TooLarge => "head_too_large",
            Self::TooManyHeaders => "too_many_headers",
            Self::TooSlow => "head_too_slow",
            Self::BareLineFeed => "bare_line_feed",
            Self::LengthAndEncoding => "length_and_encoding",
            Self::TransferEncoding => "transfer_encoding",
            Self::ContentLength => "content_length",
            Self::Connect => "connect",
            Self::Upgrade => "upgrade",
            Self::Chunk => "chunk",
        }
    }

    /// Returns 405 for CONNECT, 408 for a slow head, 431 for a large one, and 400 otherwise.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::TooLarge | Self::TooManyHeaders => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Connect => StatusCode::METHOD_NOT_ALLOWED,
            Self::Malformed
            | Self::BareLineFeed
            | Self::LengthAndEncoding
            | Self::TransferEncoding
            | Self::ContentLength
            | Self::Upgrade
            | Self::Chunk => StatusCode::BAD_REQUEST,
        }
    }

    /// Returns the message for the client.
    #[must_use]
    pub const fn message(self) -> &'static str {
        match self {
            Self::Malformed => "The request head is not valid HTTP/1.1.",
            Self::TooLarge => "The request head is too large. Send fewer or shorter headers and a shorter address.",
            Self::TooManyHeaders => "The request has too many headers.",
            Self::TooSlow => "The request head did not arrive in time.",
            Self::BareLineFeed => "Lines of the request head must end in CR LF.",
            Self::LengthAndEncoding => "Send either Content-Length or Transfer-Encoding, not both.",
            Self::TransferEncoding => "The only Transfer-Encoding understood is a single `chunked`, in HTTP/1.1.",
            Self::ContentLength => "Send one Content-Length that is a plain number.",
            Self::Connect => "This server is not a tunnel: CONNECT is not allowed.",
            Self::Upgrade => "This connection cannot be upgraded to another protocol.",
            Self::Chunk => "The chunked body is malformed.",
        }
    }

    /// Returns the answer in MLflow's JSON format.
    #[must_use]
    pub fn reply(self) -> Reply {
        let reply = Reply::new(self.status(), ErrorCode::BadRequest, self.message());
        match self {
            Self::Connect => {
                let allowed = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
                reply.with(header::ALLOW, allowed)
            }
            Self::Malformed
            | Self::TooLarge
            | Self::TooManyHeaders
            | Self::TooSlow
            | Self::BareLineFeed
            | Self::LengthAndEncoding
            | Self::TransferEncoding
            | Self::ContentLength
            | Self::Upgrade
            | Self::Chunk => reply,
        }
    }
}
