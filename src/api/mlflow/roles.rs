//! Roles (MLflow 3.12 and later): `roles/{create,get,list,update,delete,assign,unassign}`, `roles/users/list` and
//! `users/roles/list`.
//!
//! An administrator of a workspace manages its roles, and every user who has one of its roles can view them. A user's
//! direct grants are visible to that user and to administrators only, which is stricter than MLflow.

use std::sync::Arc;

use axum::extract::State;
use serde_json::{Value, json};

use super::synthetic_roles;
use crate::api::{ApiRequest, ApiResponse, ApiResult, Context, Params, Refusal, views};
use crate::authz::{Requirement, RoleId};
use crate::http::Reply;
use crate::store::{self, Role};
use crate::text;

/// `POST roles/create`. The workspace need not exist in MLflow.
pub(crate) async fn create(State(context): State<Arc<Context>>, request: ApiRequest) -> ApiResult {
    let params = request.params()?;
    let (name, workspace) = (params.text_or_null("name")?, params.text_or_null("workspace")?);
    context.require_workspace_admin(&request, workspace)?;
    let name = role_name(name)?;
    if workspace.trim().is_empty() {
        return Err(Reply::invalid("Workspace cannot be empty.").into());
    }
    if workspace.chars().count() > Role::MAX_WORKSPACE_CHARS {
        return Err(
            Reply::invalid(format!("A workspace may have at most {} characters.", Role::MAX_WORKSPACE_CHARS)).into()
        );
    }
    let description = description(&params, "Role description must be a string or null.")?;
    let created = context.store.create_role(&request.actor(), workspace, name, description).await;
    let role = created.map_err(|error| match error {
        store::Error::Exists(_) => {
            Refusal::exists(format!("Role (name={name}, workspace={workspace}) already exists."))
        }
        other => other.into(),
    })?;
    Ok(view(&role))
}

/// `GET roles/get?role_id=`.
pub(crate) async fn get(State(context): State<Arc<Context>>, request: ApiRequest) -> ApiResult {
    Ok(view(&context.visible_role(&request, &request.params()?).await?))
}

/// `GET roles/list[?workspace=]`. The parameter can be repeated; leaving it out requires an administrator.
pub(crate) async fn list(State(context): State<Arc<Context>>, request: ApiRequest) -> ApiResult {
    let params = request.params()?;
    let workspaces = params.repeated_text("workspace");
    let is_member = |workspace: &&str| request.identity.grants.is_member(workspace);
    if workspaces.is_empty() || !workspaces.iter().all(is_member) {
        context.require(&request, Requirement::Admin { change: false })?;
    }
    if workspaces.iter().any(|workspace| workspace.trim().is_empty()) {
        let message = "Parameter 'workspace' must be a non-empty string when provided.";
        return Err(Reply::invalid(message).into());
    }
    let mut roles = context.roles().await?;
    roles.retain(|role| {
        (workspaces.is_empty() || workspaces.contains(&role.workspace.as_str())) && context.can_view(&request, role)
    });
    Ok(ApiResponse::ok(json!({ "roles": Value::from_iter(roles.iter().map(views::role)) })))
}

/// `PATCH roles/update`.
pub(crate) async fn update(State(context): State<Arc<Context>>, request: ApiRequest) -> ApiResult {
    let params = request.params()?;
    let role = stored(context.managed_role(&request, &params).await?)?;
    let name = params.text_unless_null("name")?;
    let description = description(&params, "Role description must be a string.")?;
    if name.is_none() && description.is_none() {
        let message = "At least one of 'name' or 'description' must be provided to update a role.";
        return Err(Reply::invalid(message).into());
    }
    let name = name.map(role_name).transpose()?;
    let updated = context.store.update_role(&request.actor(), role.id, name, description).await;
    updated.map_err(|error| match error {
        store::Error::Exists(_) => {
            let (name, workspace) = (name.unwrap_or(&role.name), &role.workspace);
            Refusal::exists(format!("Role with name={name} already exists in workspace={workspace}"))
        }
        store::Error::NotFound(_) => no_role(role.id),
        other => other.into(),
    })?;
    Ok(view(&context.role(role.id).await?.ok_or_else(|| no_role(role.id))?))
}

/// `DELETE roles/delete`.
pub(crate) async fn delete(State(context): State<Arc<Context>>, request: ApiRequest) -> ApiResult {
    let role = stored(context.managed_role(&request, &request.params()?).await?)?;
    let deleted = context.store.delete_role(&request.actor(), role.id).await;
    deleted.map_err(|error| gone(error, no_role(role.id)))?;
    Ok(ApiResponse::done())
}

/// `POST roles/assign`.
pub(crate) async fn assign(State(context): State<Arc<Context>>, request: ApiRequest) -> ApiResult {
    let params = request.params()?;
    let role = stored(context.managed_role(&request, &params).await?)?;
    let user = context.user(params.text("username")?).await?;
    let assigned = context.store.assign_role(&request.actor(), user.id, role.id).await;
    let assignment = assigned.map_err(|error| match error {
        store::Error::Exists(_) => {
            Refusal::exists(format!("User role assignment (user_id={}, role_id={}) already exists", user.id, role.id))
        }
        other => gone(other, no_role(role.id)),
    })?;
    Ok(ApiResponse::ok(json!({ "assignment": views::assignment(&assignment) })))
}

/// `DELETE roles/unassign`.
pub(crate) async fn unassign(State(context): State<Arc<Context>>, request: ApiRequest) -> ApiResult {
    let params = request.params()?;
    let role = stored(context.managed_role(&request, &params).await?)?;
    let user = context.user(params.text("username")?).await?;
    let taken = context.store.unassign_role(&request.actor(), user.id, role.id).await;
    taken.map_err(|error| {
        let (user, role) = (user.id, role.id);
        let absent = format!("User role assignment (user_id={user}, role_id={role}) not found");
        gone(error, Refusal::absent(absent))
    })?;
    Ok(ApiResponse::done())
}

/// `GET roles/users/list?role_id=`.
pub(crate) async fn members(State(context): State<Arc<Context>>, request: ApiRequest) -> ApiResult {
    let id = role_id(&request.params()?)?;
    let role = context.role(id).await?.ok_or_else(|| context.absent_to(&request, no_role(id)))?;
    context.require_workspace_admin_to_view(&request, &role.workspace)?;
    let assignments = context.assignments_of(id).await?;
    let assignments = Value::from_iter(assignments.iter().map(views::assignment));
    Ok(ApiResponse::ok(json!({ "assignments": assignments })))
}

/// `GET users/roles/list?username=`.
pub(crate) async fn of_user(State(context): State<Arc<Context>>, request: ApiRequest) -> ApiResult {
    let params = request.params()?;
    let (_, roles) = context.visible_roles_of(&request, params.text("username")?).await?;
    Ok(ApiResponse::ok(json!({ "roles": Value::from_iter(roles.iter().map(views::role)) })))
}

impl Context {
    /// Returns the role that a request names, if the caller is allowed to change it.
    async fn managed_role(&self, request: &ApiRequest, params: &Params) -> Result<Role, Refusal> {
        self.role_to_manage(request, role_id(params)?).await
    }

    /// Returns a role that the caller is allowed to change. Only administrators learn that a role does not exist.
    pub(crate) async fn role_to_manage(&self, request: &ApiRequest, id: RoleId) -> Result<Role, Refusal> {
        let role = self.role(id).await?.ok_or_else(|| self.absent_to(request, no_role(id)))?;
        self.require_workspace_admin(request, &role.workspace)?;
        Ok(role)
    }

    /// Returns the role that a request names, if the caller is allowed to view it.
    pub(crate) async fn visible_role(&self, request: &ApiRequest, params: &Params) -> Result<Role, Refusal> {
        let id = role_id(params)?;
        let role = self.role(id).await?.ok_or_else(|| self.absent_to(request, no_role(id)))?;
        if !self.can_view(request, &role) {
            self.require_workspace_admin_to_view(request, &role.workspace)?;
        }
        Ok(role)
    }

    /// Returns true if the caller is allowed to view a role: the caller's direct grants, the roles of a workspace in which the caller has
    /// a role, and everything in a workspace that the caller administers.
    fn can_view(&self, request: &ApiRequest, role: &Role) -> bool {
        let who = &request.identity;
        match synthetic_roles::owner(role.id) {
            Some(user) if user == who.user => true,
            Some(_) => self.require_workspace_admin_to_view(request, &role.workspace).is_ok(),
            None => {
                who.grants.is_member(&role.workspace)
                    || self.require_workspace_admin_to_view(request, &role.workspace).is_ok()
            }
        }
    }
}

fn role_id(params: &Params) -> Result<RoleId, Refusal> {
    Ok(RoleId(params.integer("role_id")?))
}

fn role_name(name: &str) -> Result<&str, Refusal> {
    if name.trim().is_empty() {
        return Err(Reply::invalid("Role name cannot be empty.").into());
    }
    if let Err(why) = text::check_name(name) {
        return Err(Reply::invalid(format!("Role name {why}.")).into());
    }
    if name.starts_with(Role::RESERVED_PREFIX) {
        return Err(Reply::invalid(format!(
            "Role name '{name}' uses the reserved '{}' prefix, which is held for the per-user permission \
             representation. Choose a different name.",
            Role::RESERVED_PREFIX
        ))
        .into());
    }
    if name.chars().count() > Role::MAX_NAME_CHARS {
        return Err(Reply::invalid(format!("A role name may have at most {} characters.", Role::MAX_NAME_CHARS)).into());
    }
    Ok(name)
}

fn description<'p>(params: &'p Params, wrong: &'static str) -> Result<Option<&'p str>, Refusal> {
    params.text_unless_null("description").map_err(|_| Reply::invalid(wrong).into())
}

/// Refuses synthetic roles, which change only with the grants of their user.
fn stored(role: Role) -> Result<Role, Refusal> {
    match synthetic_roles::owner(role.id) {
        None => Ok(role),
        Some(_) => Err(Reply::invalid(format!(
            "Role '{}' represents the grants of one user. Change them with users/permissions/grant and revoke.",
            role.name
        ))
        .into()),
    }
}

fn no_role(id: RoleId) -> Refusal {
    Refusal::absent(format!("Role with id={id} not found"))
}

/// Maps the error for something that was deleted since the look-up.
fn gone(error: store::Error, absent: Refusal) -> Refusal {
    match error {
        store::Error::NotFound(_) => absent,
        other => other.into(),
    }
}

fn view(role: &Role) -> ApiResponse {
    ApiResponse::ok(json!({ "role": views::role(role) }))
}
