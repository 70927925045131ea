//! Permissions of roles: `roles/permissions/{add,update,remove,list}` (MLflow 3.12 and later).
//!
//! The ID of a permission is that of its grant, in synthetic roles, too.

use std::sync::Arc;

use axum::extract::State;
use serde_json::{Value, json};

use super::synthetic_roles;
use crate::api::{ApiRequest, ApiResponse, ApiResult, Context, Refusal, parse, views};
use crate::authz::{Grant, RoleId};
use crate::store::{self, GrantRow};

/// `POST roles/permissions/add`. An existing permission is an error.
pub(crate) async fn add(State(context): State<Arc<Context>>, request: ApiRequest) -> ApiResult {
    let params = request.params()?;
    let role = context.role_to_manage(&request, RoleId(params.integer("role_id")?)).await?;
    let (word, pattern) = (params.text("resource_type")?, params.text("resource_pattern")?);
    let level = params.text("permission")?;
    // Of several errors, MLflow reports the level first.
    parse::level(level)?;
    let kind = parse::kind(word)?;
    let permission = parse::level_for(kind, level)?;
    let selector = parse::new_selector(kind, pattern)?;
    let grant = Grant { subject: synthetic_roles::subject(role.id), kind, selector, permission };
    let added = context.store.create_grant(&request.actor(), &grant).await;
    let id = added.map_err(|error| match error {
        store::Error::Exists(_) => Refusal::exists(format!(
            "Role permission (role_id={}, resource_type={kind}, resource_pattern={pattern}) already exists.",
            role.id
        )),
        store::Error::NotFound(_) => Refusal::absent(format!("Role with id={} not found", role.id)),
        other => other.into(),
    })?;
    let warning = context.warn_if_missing(grant.kind, &grant.selector).await;
    Ok(view(role.id, &GrantRow { id, grant }).warning(warning))
}

/// `PATCH roles/permissions/update`.
pub(crate) async fn update(State(context): State<Arc<Context>>, request: ApiRequest) -> ApiResult {
    let params = request.params()?;
    let (role, mut row) = context.permission(&request, params.integer("role_permission_id")?).await?;
    row.grant.permission = parse::level_for(row.grant.kind, params.text("permission")?)?;
    let updated = context.store.update_grant(&request.actor(), &row.grant).await;
    updated.map_err(|error| gone(error, row.id))?;
    Ok(view(role, &row))
}

/// `DELETE roles/permissions/remove`.
pub(crate) async fn remove(State(context): State<Arc<Context>>, request: ApiRequest) -> ApiResult {
    let params = request.params()?;
    let (_, GrantRow { id, grant }) = context.permission(&request, params.integer("role_permission_id")?).await?;
    let removed = context.store.delete_grant(&request.actor(), &grant.subject, grant.kind, &grant.selector).await;
    removed.map_err(|error| gone(error, id))?;
    Ok(ApiResponse::done())
}

/// `GET roles/permissions/list?role_id=`.
pub(crate) async fn list(State(context): State<Arc<Context>>, request: ApiRequest) -> ApiResult {
    let role = context.visible_role(&request, &request.params()?).await?;
    let rows = Value::from_iter(role.grants.iter().map(|row| views::role_permission(role.id, row)));
    Ok(ApiResponse::ok(json!({ "role_permissions": rows })))
}

impl Context {
    /// Returns the permission of this ID with its role, if the caller is allowed to change it.
    async fn permission(&self, request: &ApiRequest, id: i64) -> Result<(RoleId, GrantRow), Refusal> {
        let row = self.store.grant_row(id).await?;
        let found = row.and_then(|row| Some((synthetic_roles::role_of(&row)?, row)));
        let (role, row) = found.ok_or_else(|| self.absent_to(request, absent(id)))?;
        self.role_to_manage(request, role).await?;
        Ok((role, row))
    }
}

fn gone(error: store::Error, id: i64) -> Refusal {
    match error {
        store::Error::NotFound(_) => absent(id),
        other => other.into(),
    }
}

fn absent(id: i64) -> Refusal {
    Refusal::absent(format!("Role permission with id={id} not found"))
}

fn view(role: RoleId, row: &GrantRow) -> ApiResponse {
    ApiResponse::ok(json!({ "role_permission": views::role_permission(role, row) }))
}
