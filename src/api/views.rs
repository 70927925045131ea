//! JSON of successful answers: that of `mlflow.server.auth.entities` in MLflow 3.17 and in older releases, and the proxy's own.

use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::authz::{DEFAULT_WORKSPACE, Grant, ResourceKind, RoleId};
use crate::clock::Timestamp;
use crate::store::{Assignment, GrantRow, Role, Session, Token, User};

/// `User.to_json` of MLflow 3.17: three fields.
pub(crate) fn user(user: &User) -> Value {
    json!({ "id": user.id.0, "username": user.name, "is_admin": user.is_admin() })
}

/// [`user`] with the lists of grants that clients before 3.13 require.
pub(crate) fn user_with_grants(who: &User, grants: &[Grant]) -> Value {
    let of = |kind| Value::from_iter(grants.iter().filter(|row| row.kind == kind).map(|row| grant(who, row)));
    let view = with(user(who), "experiment_permissions", of(ResourceKind::Experiment));
    let view = with(view, "registered_model_permissions", of(ResourceKind::RegisteredModel));
    with(view, "scorer_permissions", of(ResourceKind::Scorer))
}

/// One grant with the fields of its kind, as in `/permissions/get` of MLflow 3.9.
pub(crate) fn grant(user: &User, row: &Grant) -> Value {
    let selector = row.selector.to_string();
    let view = match row.kind {
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
    with(with(view, "user_id", user.id.0), "permission", row.permission.as_str())
}

/// One user in `users/list` of MLflow 3.17. `roles`: those that the caller is allowed to see.
pub(crate) fn user_with_roles(who: &User, roles: &[Role]) -> Value {
    with(user(who), "roles", Value::from_iter(roles.iter().map(role)))
}

/// `Role.to_json`.
pub(crate) fn role(role: &Role) -> Value {
    json!({
        "id": role.id.0,
        "name": role.name,
        "workspace": role.workspace,
        "description": role.description,
        "permissions": Value::from_iter(role.grants.iter().map(|row| role_permission(role.id, row))),
    })
}

/// `RolePermission.to_json`.
pub(crate) fn role_permission(role: RoleId, row: &GrantRow) -> Value {
    json!({
        "id": row.id,
        "role_id": role.0,
        "resource_type": row.grant.kind.as_str(),
        "resource_pattern": row.grant.selector.to_string(),
        "permission": row.grant.permission.as_str(),
    })
}

/// `UserRoleAssignment.to_json`.
pub(crate) fn assignment(assignment: &Assignment) -> Value {
    json!({ "id": assignment.id, "user_id": assignment.user.0, "role_id": assignment.role.0 })
}

/// `users/permissions/list` of MLflow 3.17: the permissions of all roles in one list.
pub(crate) fn permissions(user: &User, roles: &[Role]) -> Value {
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
pub(crate) fn token(token: &Token, owner: &str, now: Timestamp) -> Value {
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

/// A session, without its cookie.
pub(crate) fn session(session: &Session, owner: &str, current: bool) -> Value {
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

/// Adds a field to an object.
pub(crate) fn with(mut object: Value, field: &str, value: impl Into<Value>) -> Value {
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

fn point_in_time(at: Timestamp) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(at.0) * 1_000_000).ok()
}
