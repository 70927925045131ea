//! What successful answers look like: the JSON of MLflow 3.17's `mlflow.server.auth.entities` and its older shapes.
//!
//! MLflow keeps a user's own grants as rows of a hidden role, `__user_<id>__`. We have no such role, but its clients and
//! pages tell a user's own grants by that name, so the shapes show one; its number is the user's.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::authz::{Grant, ResourceKind};
use crate::clock::Timestamp;
use crate::store::{Token, User};

/// A success.
#[derive(Debug)]
pub(super) struct Shape {
    status: StatusCode,
    body: Value,
}

impl Shape {
    /// 200.
    pub(super) fn ok(body: Value) -> Self {
        Self { status: StatusCode::OK, body }
    }

    /// 200 with `{}`.
    pub(super) fn done() -> Self {
        Self::ok(json!({}))
    }

    /// 201.
    pub(super) fn created(body: Value) -> Self {
        Self { status: StatusCode::CREATED, body }
    }
}

impl IntoResponse for Shape {
    fn into_response(self) -> Response {
        // The newline is Flask's.
        let mut response = (self.status, format!("{}\n", self.body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        response
    }
}

/// `User.to_json` of MLflow 3.17: three fields.
pub(super) fn user(user: &User) -> Value {
    json!({ "id": user.id.0, "username": user.name, "is_admin": user.admin })
}

/// The same with the lists that clients before 3.13 read and fail without.
pub(super) fn user_with_grants(who: &User, grants: &[Grant]) -> Value {
    let of = |kind| Value::from_iter(grants.iter().filter(|grant| grant.kind == kind).map(|grant| own(who, grant)));
    let shape = with(user(who), "experiment_permissions", of(ResourceKind::Experiment));
    let shape = with(shape, "registered_model_permissions", of(ResourceKind::RegisteredModel));
    with(shape, "scorer_permissions", of(ResourceKind::Scorer))
}

/// One grant in the shape of its kind, as `/permissions/get` of MLflow 3.9 answers it.
pub(super) fn own(user: &User, grant: &Grant) -> Value {
    let selector = grant.selector.to_string();
    let shape = match grant.kind {
        ResourceKind::Experiment => json!({ "experiment_id": selector }),
        ResourceKind::RegisteredModel | ResourceKind::Prompt => json!({ "workspace": WORKSPACE, "name": selector }),
        ResourceKind::Scorer => scorer(&selector),
        ResourceKind::GatewaySecret => json!({ "secret_id": selector }),
        ResourceKind::GatewayEndpoint => json!({ "endpoint_id": selector }),
        ResourceKind::GatewayModelDefinition => json!({ "model_definition_id": selector }),
        ResourceKind::McpServer => json!({ "name": selector }),
        ResourceKind::Run
        | ResourceKind::Trace
        | ResourceKind::Assessment
        | ResourceKind::LoggedModel
        | ResourceKind::ReviewQueue
        | ResourceKind::RegisteredModelVersion
        | ResourceKind::PromptVersion
        | ResourceKind::ScorerVersion
        | ResourceKind::McpServerVersion
        | ResourceKind::Job => json!({ "resource_id": selector }),
    };
    with(with(shape, "user_id", user.id.0), "permission", grant.permission.as_str())
}

/// `users/list` of MLflow 3.17; `grants` only where the caller may see them.
pub(super) fn user_with_roles(who: &User, grants: &[Grant]) -> Value {
    let role = (!grants.is_empty()).then(|| role(who, grants));
    with(user(who), "roles", Value::from_iter(role))
}

/// `users/permissions/list` of MLflow 3.17.
pub(super) fn permissions(user: &User, grants: &[Grant]) -> Value {
    let rows = grants.iter().map(|grant| {
        json!({
            "role_id": user.id.0,
            "role_name": role_name(user),
            "workspace": WORKSPACE,
            "resource_type": grant.kind.as_str(),
            "resource_pattern": grant.selector.to_string(),
            "permission": grant.permission.as_str(),
        })
    });
    json!({ "is_admin": user.admin, "permissions": Value::from_iter(rows) })
}

/// An access token, without its secret.
pub(super) fn token(token: &Token, owner: &str, now: Timestamp) -> Value {
    let state = match token.revoked {
        Some(_) => "revoked",
        None if token.expires <= now => "expired",
        None => "active",
    };
    json!({
        "id": token.id.0,
        "name": token.name,
        "user": owner,
        "scopes": token.limits.scopes(),
        "state": state,
        "created_at": moment(token.created),
        "expires_at": moment(token.expires),
        "last_used_at": token.last_used.map(moment),
        "revoked_at": token.revoked.map(moment),
    })
}

/// An object with one more field.
pub(super) fn with(mut object: Value, field: &str, value: impl Into<Value>) -> Value {
    if let Value::Object(fields) = &mut object {
        fields.insert(field.to_owned(), value.into());
    }
    object
}

fn role(user: &User, grants: &[Grant]) -> Value {
    // Our grants have no numbers; the position is one within the role, and no route takes it.
    let rows = (1_u64..).zip(grants).map(|(id, grant)| {
        json!({
            "id": id,
            "role_id": user.id.0,
            "resource_type": grant.kind.as_str(),
            "resource_pattern": grant.selector.to_string(),
            "permission": grant.permission.as_str(),
        })
    });
    json!({
        "id": user.id.0,
        "name": role_name(user),
        "workspace": WORKSPACE,
        "description": Value::Null,
        "permissions": Value::from_iter(rows),
    })
}

fn role_name(user: &User) -> String {
    format!("__user_{}__", user.id)
}

/// A scorer's key is `<experiment id>/<percent-encoded name>`.
fn scorer(key: &str) -> Value {
    let (experiment, name) = key.split_once('/').unwrap_or((key, key));
    let name = percent_decode_str(name).decode_utf8_lossy();
    json!({ "experiment_id": experiment, "scorer_name": name })
}

fn moment(at: Timestamp) -> Option<String> {
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(at.0) * 1_000_000).ok()?;
    at.format(&Rfc3339).ok()
}

/// The workspace of a server without workspaces.
pub(super) const WORKSPACE: &str = "default";
