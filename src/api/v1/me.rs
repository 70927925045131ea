//! `GET /auth/api/v1/me`: the caller's account, and the scheme and limits of the credential in use.

use serde_json::json;

use crate::api::{ApiRequest, ApiResponse, ApiResult};

/// Handles `GET`.
pub(crate) async fn get(request: ApiRequest) -> ApiResult {
    let identity = &request.identity;
    Ok(ApiResponse::ok(json!({
        "id": identity.user.0,
        "username": &*identity.name,
        "groups": &*identity.groups,
        "is_admin": identity.admin,
        "scheme": identity.scheme.as_str(),
        "token_id": identity.scheme.token().map(|id| id.0),
        "scopes": identity.limits.scopes(),
    })))
}
