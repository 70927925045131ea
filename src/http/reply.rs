//! Refusals of the proxy in MLflow's JSON form `{"error_code","message"}`.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};

use super::{Body, NOT_STORED, Response};

/// MLflow's error codes (`mlflow.protos.databricks_pb2.ErrorCode`) that the proxy uses. An unknown code makes MLflow's Python
/// client warn about "a proxy server", so the proxy defines none of its own.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ErrorCode {
    BadRequest,
    InvalidParameterValue,
    Unauthenticated,
    PermissionDenied,
    ResourceDoesNotExist,
    ResourceAlreadyExists,
    ResourceConflict,
    EndpointNotFound,
    RequestLimitExceeded,
    TemporarilyUnavailable,
    InternalError,
}

impl ErrorCode {
    /// Returns MLflow's spelling.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "BAD_REQUEST",
            Self::InvalidParameterValue => "INVALID_PARAMETER_VALUE",
            Self::Unauthenticated => "UNAUTHENTICATED",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::ResourceDoesNotExist => "RESOURCE_DOES_NOT_EXIST",
            Self::ResourceAlreadyExists => "RESOURCE_ALREADY_EXISTS",
            Self::ResourceConflict => "RESOURCE_CONFLICT",
            Self::EndpointNotFound => "ENDPOINT_NOT_FOUND",
            Self::RequestLimitExceeded => "REQUEST_LIMIT_EXCEEDED",
            Self::TemporarilyUnavailable => "TEMPORARILY_UNAVAILABLE",
            Self::InternalError => "INTERNAL_ERROR",
        }
    }
}

/// A refusal by the proxy.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub code: ErrorCode,
    /// A message that tells the client what to do. Never contains a secret.
    pub message: String,
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

impl Reply {
    /// Creates a refusal with this status, MLflow error code and message.
    pub fn new(status: StatusCode, code: ErrorCode, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), headers: Vec::new() }
    }

    /// Creates 400 `INVALID_PARAMETER_VALUE`, MLflow's response to a request that it cannot accept.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, ErrorCode::InvalidParameterValue, message)
    }

    /// Adds a header.
    #[must_use]
    pub fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Converts the refusal to a response.
    #[must_use]
    pub fn into_response(self) -> Response {
        self.into_whole().map(Body::from)
    }

    /// Converts the refusal to a response with its body in memory.
    #[must_use]
    pub fn into_whole(self) -> http::Response<Bytes> {
        let text = serde_json::json!({ "error_code": self.code.as_str(), "message": self.message }).to_string();
        let mut response = http::Response::new(Bytes::from(text));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(header::CACHE_CONTROL, NOT_STORED);
        for (name, value) in self.headers {
            headers.append(name, value);
        }
        response
    }
}
