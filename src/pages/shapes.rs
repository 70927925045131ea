//! What successful answers look like: the JSON of MLflow 3.17's `mlflow.server.auth.entities` and its older shapes.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::html;
use crate::authz::{DEFAULT_WORKSPACE, Grant, ResourceKind, RoleId};
use crate::clock::Timestamp;
use crate::store::{Assignment, GrantRow, Role, Session, Token, User};

/// A success.
#[derive(Debug)]
pub(super) struct Shape {
    status: StatusCode,
    body: Body,
    /// Told in a header, because MLflow's shapes have no place for it.
    warning: Option<String>,
}

#[derive(Debug)]
enum Body {
    Json(Value),
    Page(String),
    SeeOther(String),
}

impl Shape {
    /// 200.
    pub(super) fn ok(body: Value) -> Self {
        Self { status: StatusCode::OK, body: Body::Json(body), warning: None }
    }

    /// 200 with `{}`.
    pub(super) fn done() -> Self {
        Self::ok(json!({}))
    }

    /// 201.
    pub(super) fn created(body: Value) -> Self {
        Self { status: StatusCode::CREATED, body: Body::Json(body), warning: None }
    }

    /// Adds what the caller should know although the request was carried out.
    pub(super) fn warning(self, warning: Option<String>) -> Self {
        Self { warning, ..self }
    }

    /// 200 with a page for people.
    pub(super) fn page(page: String) -> Self {
        Self::page_with(StatusCode::OK, page)
    }

    /// A page for people, with this status.
    pub(super) fn page_with(status: StatusCode, page: String) -> Self {
        Self { status, body: Body::Page(page), warning: None }
    }

    /// 303: the form was taken, look here.
    pub(super) fn see_other(path: &str) -> Self {
        Self { status: StatusCode::SEE_OTHER, body: Body::SeeOther(path.to_owned()), warning: None }
    }
}

impl IntoResponse for Shape {
    fn into_response(self) -> Response {
        let mut response = match self.body {
            // The newline is Flask's.
            Body::Json(body) => {
                (self.status, [(header::CONTENT_TYPE, "application/json")], format!("{body}\n")).into_response()
            }
            Body::Page(text) => {
                let mut response = (self.status, text).into_response();
                html::guard(response.headers_mut(), "");
                response
            }
            Body::SeeOther(path) => (self.status, [(header::LOCATION, path)]).into_response(),
        };
        let headers = response.headers_mut();
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        let warning = self.warning.map(|text| HeaderValue::try_from(text.escape_default().to_string()));
        if let Some(Ok(warning)) = warning {
            headers.insert("x-mlflow-auth-proxy-warning", warning);
        }
        response
    }
}

/// `User.to_json` of MLflow 3.17: three fields.
pub(super) fn user(user: &User) -> Value {
    json!({ "id": user.id.0, "username": user.name, "is_admin": user.is_admin() })
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
        ResourceKind::RegisteredModel | ResourceKind::Prompt => {
            json!({ "workspace": DEFAULT_WORKSPACE, "name": selector })
        }
        ResourceKind::Scorer => scorer(&selector),
        ResourceKind::GatewaySecret => json!({ "secret_id": selector }),
        ResourceKind::GatewayEndpoint => json!({ "endpoint_id": selector }),
        ResourceKind::GatewayModelDefinition => json!({ "model_definition_id": selector }),
        ResourceKind::McpServer | ResourceKind::Skill => json!({ "name": selector }),
        ResourceKind::Run
        | ResourceKind::Trace
        | ResourceKind::Assessment
        | ResourceKind::LoggedModel
        | ResourceKind::ReviewQueue
        | ResourceKind::RegisteredModelVersion
        | ResourceKind::PromptVersion
        | ResourceKind::ScorerVersion
        | ResourceKind::McpServerVersion
        | ResourceKind::Job
        | ResourceKind::Workspace => json!({ "resource_id": selector }),
    };
    with(with(shape, "user_id", user.id.0), "permission", grant.permission.as_str())
}

/// `users/list` of MLflow 3.17; `roles` as far as the caller may see them.
pub(super) fn user_with_roles(who: &User, roles: &[Role]) -> Value {
    with(user(who), "roles", Value::from_iter(roles.iter().map(role)))
}

/// `Role.to_json`.
pub(super) fn role(role: &Role) -> Value {
    json!({
        "id": role.id.0,
        "name": role.name,
        "workspace": role.workspace,
        "description": role.description,
        "permissions": Value::from_iter(role.grants.iter().map(|row| role_permission(role.id, row))),
    })
}

/// `RolePermission.to_json`.
pub(super) fn role_permission(role: RoleId, row: &GrantRow) -> Value {
    json!({
        "id": row.id,
        "role_id": role.0,
        "resource_type": row.grant.kind.as_str(),
        "resource_pattern": row.grant.selector.to_string(),
        "permission": row.grant.permission.as_str(),
    })
}

/// `UserRoleAssignment.to_json`.
pub(super) fn assignment(assignment: &Assignment) -> Value {
    json!({ "id": assignment.id, "user_id": assignment.user.0, "role_id": assignment.role.0 })
}

/// `users/permissions/list` of MLflow 3.17: what all these roles give, in one list.
pub(super) fn permissions(user: &User, roles: &[Role]) -> Value {
    let rows = roles.iter().flat_map(|role| {
        role.grants.iter().map(|row| {
            json!({
                "role_id": role.id.0,
                "role_name": role.name,
                "workspace": role.workspace,
                "resource_type": row.grant.kind.as_str(),
                "resource_pattern": row.grant.selector.to_string(),
                "permission": row.grant.permission.as_str(),
            })
        })
    });
    json!({ "is_admin": user.is_admin(), "permissions": Value::from_iter(rows) })
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

/// A session, without anything of its cookie.
pub(super) fn session(session: &Session, owner: &str, current: bool) -> Value {
    json!({
        "id": session.id.0,
        "user": owner,
        "provider": session.provider,
        "created_at": moment(session.created),
        "last_used_at": moment(session.last_used),
        "expires_at": moment(session.expires),
        "address": session.address,
        "agent": session.agent,
        "current": current,
    })
}

/// An object with one more field.
pub(super) fn with(mut object: Value, field: &str, value: impl Into<Value>) -> Value {
    if let Value::Object(fields) = &mut object {
        fields.insert(field.to_owned(), value.into());
    }
    object
}

/// A scorer's key is `<experiment id>/<percent-encoded name>`.
fn scorer(key: &str) -> Value {
    let (experiment, name) = key.split_once('/').unwrap_or((key, key));
    let name = percent_decode_str(name).decode_utf8_lossy();
    json!({ "experiment_id": experiment, "scorer_name": name })
}

fn moment(at: Timestamp) -> Option<String> {
    point_in_time(at)?.format(&Rfc3339).ok()
}

/// For people, to the minute: `2026-11-21 09:30 UTC`.
pub(super) fn minute(at: Timestamp) -> String {
    at.minute()
}

fn point_in_time(at: Timestamp) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(at.0) * 1_000_000).ok()
}
