//! Successful answers of the API: a status, a JSON body and perhaps a warning.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use super::Refusal;

/// The result of an API handler.
pub(crate) type ApiResult = Result<ApiResponse, Refusal>;

/// A success.
#[derive(Debug)]
pub(crate) struct ApiResponse {
    status: StatusCode,
    body: Value,
    warning: Option<String>,
}

impl ApiResponse {
    /// 200.
    pub(crate) fn ok(body: Value) -> Self {
        Self { status: StatusCode::OK, body, warning: None }
    }

    /// 200 with `{}`.
    pub(crate) fn done() -> Self {
        Self::ok(json!({}))
    }

    /// 201.
    pub(crate) fn created(body: Value) -> Self {
        Self { status: StatusCode::CREATED, body, warning: None }
    }

    /// Adds a warning, sent as a header because MLflow's JSON has no field for it.
    pub(crate) fn warning(self, warning: Option<String>) -> Self {
        Self { warning, ..self }
    }
}

impl IntoResponse for ApiResponse {
    fn into_response(self) -> Response {
        let json = HeaderValue::from_static("application/json");
        // Flask ends JSON with a newline, too.
        let mut response = (self.status, [(header::CONTENT_TYPE, json)], format!("{}\n", self.body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        let warning = self.warning.map(|text| HeaderValue::try_from(text.escape_default().to_string()));
        if let Some(Ok(warning)) = warning {
            headers.insert("x-mlflow-auth-proxy-warning", warning);
        }
        response
    }
}
