//! Roles (MLflow 3.12 on): `roles/{create,get,list,update,delete,assign,unassign}`, `roles/users/list` and
//! `users/roles/list`.
//!
//! An administrator of a workspace manages its roles; who has one of its roles may look at them. What people were granted
//! themselves is seen by them and by administrators only, which is stricter than MLflow.

use std::sync::Arc;

use axum::extract::State;
use serde_json::{Value, json};

use super::asked::{Asked, Params};
use super::{Answer, Parts, Refusal, held, shapes};
use crate::authz::{Requirement, RoleId};
use crate::http::Reply;
use crate::store::{self, Role};
use crate::text;

/// `POST roles/create`. A workspace is a word: no MLflow needs to know it.
pub(super) async fn create(State(parts): State<Arc<Parts>>, asked: Asked) -> Answer {
    let params = asked.params()?;
    let (name, workspace) = (params.text_or_null("name")?, params.text_or_null("workspace")?);
    parts.require_admin_of(&asked, workspace)?;
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
    let created = parts.store.create_role(&asked.actor(), workspace, name, description).await;
    let role = created.map_err(|error| match error {
        store::Error::Exists(_) => {
            Refusal::exists(format!("Role (name={name}, workspace={workspace}) already exists."))
        }
        other => other.into(),
    })?;
    Ok(shape(&role))
}

/// `GET roles/get?role_id=`.
pub(super) async fn get(State(parts): State<Arc<Parts>>, asked: Asked) -> Answer {
    Ok(shape(&parts.visible_role(&asked, &asked.params()?).await?))
}

/// `GET roles/list[?workspace=]`; the parameter may be repeated, and only administrators may leave it out.
pub(super) async fn list(State(parts): State<Arc<Parts>>, asked: Asked) -> Answer {
    let params = asked.params()?;
    let workspaces = params.repeated_text("workspace");
    let is_member = |workspace: &&str| asked.identity.grants.is_member(workspace);
    if workspaces.is_empty() || !workspaces.iter().all(is_member) {
        parts.require(&asked, Requirement::Admin { change: false })?;
    }
    if workspaces.iter().any(|workspace| workspace.trim().is_empty()) {
        let message = "Parameter 'workspace' must be a non-empty string when provided.";
        return Err(Reply::invalid(message).into());
    }
    let mut roles = parts.roles().await?;
    roles.retain(|role| {
        (workspaces.is_empty() || workspaces.contains(&role.workspace.as_str())) && parts.sees(&asked, role)
    });
    Ok(shapes::Shape::ok(json!({ "roles": Value::from_iter(roles.iter().map(shapes::role)) })))
}

/// `PATCH roles/update`.
pub(super) async fn update(State(parts): State<Arc<Parts>>, asked: Asked) -> Answer {
    let params = asked.params()?;
    let role = made(parts.managed_role(&asked, &params).await?)?;
    let name = params.text_unless_null("name")?;
    let description = description(&params, "Role description must be a string.")?;
    if name.is_none() && description.is_none() {
        let message = "At least one of 'name' or 'description' must be provided to update a role.";
        return Err(Reply::invalid(message).into());
    }
    let name = name.map(role_name).transpose()?;
    let updated = parts.store.update_role(&asked.actor(), role.id, name, description).await;
    updated.map_err(|error| match error {
        store::Error::Exists(_) => {
            let (name, workspace) = (name.unwrap_or(&role.name), &role.workspace);
            Refusal::exists(format!("Role with name={name} already exists in workspace={workspace}"))
        }
        store::Error::NotFound(_) => no_role(role.id),
        other => other.into(),
    })?;
    Ok(shape(&parts.role(role.id).await?.ok_or_else(|| no_role(role.id))?))
}

/// `DELETE roles/delete`.
pub(super) async fn delete(State(parts): State<Arc<Parts>>, asked: Asked) -> Answer {
    let role = made(parts.managed_role(&asked, &asked.params()?).await?)?;
    let deleted = parts.store.delete_role(&asked.actor(), role.id).await;
    parts.authn.forget_all();
    deleted.map_err(|error| gone(error, no_role(role.id)))?;
    Ok(shapes::Shape::done())
}

/// `POST roles/assign`.
pub(super) async fn assign(State(parts): State<Arc<Parts>>, asked: Asked) -> Answer {
    let params = asked.params()?;
    let role = made(parts.managed_role(&asked, &params).await?)?;
    let user = parts.user(params.text("username")?).await?;
    let assigned = parts.store.assign_role(&asked.actor(), user.id, role.id).await;
    parts.authn.forget_all();
    let assignment = assigned.map_err(|error| match error {
        store::Error::Exists(_) => {
            Refusal::exists(format!("User role assignment (user_id={}, role_id={}) already exists", user.id, role.id))
        }
        other => gone(other, no_role(role.id)),
    })?;
    Ok(shapes::Shape::ok(json!({ "assignment": shapes::assignment(&assignment) })))
}

/// `DELETE roles/unassign`.
pub(super) async fn unassign(State(parts): State<Arc<Parts>>, asked: Asked) -> Answer {
    let params = asked.params()?;
    let role = made(parts.managed_role(&asked, &params).await?)?;
    let user = parts.user(params.text("username")?).await?;
    let taken = parts.store.unassign_role(&asked.actor(), user.id, role.id).await;
    parts.authn.forget_all();
    taken.map_err(|error| {
        let (user, role) = (user.id, role.id);
        let absent = format!("User role assignment (user_id={user}, role_id={role}) not found");
        gone(error, Refusal::absent(absent))
    })?;
    Ok(shapes::Shape::done())
}

/// `GET roles/users/list?role_id=`.
pub(super) async fn members(State(parts): State<Arc<Parts>>, asked: Asked) -> Answer {
    let id = role_id(&asked.params()?)?;
    let role = parts.role(id).await?.ok_or_else(|| parts.absent_to(&asked, no_role(id)))?;
    parts.require_sight_of(&asked, &role.workspace)?;
    let assignments = parts.assignments_of(id).await?;
    let assignments = Value::from_iter(assignments.iter().map(shapes::assignment));
    Ok(shapes::Shape::ok(json!({ "assignments": assignments })))
}

/// `GET users/roles/list?username=`.
pub(super) async fn of_user(State(parts): State<Arc<Parts>>, asked: Asked) -> Answer {
    let params = asked.params()?;
    let (_, roles) = parts.visible_roles_of(&asked, params.text("username")?).await?;
    Ok(shapes::Shape::ok(json!({ "roles": Value::from_iter(roles.iter().map(shapes::role)) })))
}

impl Parts {
    /// The role that a request names, when the caller may change it.
    async fn managed_role(&self, asked: &Asked, params: &Params) -> Result<Role, Refusal> {
        self.role_to_manage(asked, role_id(params)?).await
    }

    /// This role, when the caller may change it. Only administrators learn that there is none.
    pub(super) async fn role_to_manage(&self, asked: &Asked, id: RoleId) -> Result<Role, Refusal> {
        let role = self.role(id).await?.ok_or_else(|| self.absent_to(asked, no_role(id)))?;
        self.require_admin_of(asked, &role.workspace)?;
        Ok(role)
    }

    /// The role that a request names, when the caller may look at it.
    pub(super) async fn visible_role(&self, asked: &Asked, params: &Params) -> Result<Role, Refusal> {
        let id = role_id(params)?;
        let role = self.role(id).await?.ok_or_else(|| self.absent_to(asked, no_role(id)))?;
        if !self.sees(asked, &role) {
            self.require_sight_of(asked, &role.workspace)?;
        }
        Ok(role)
    }

    /// Whether the caller may look at a role: one's own grants; a role of a workspace in which one has any; everything in a
    /// workspace that one administers.
    fn sees(&self, asked: &Asked, role: &Role) -> bool {
        let who = &asked.identity;
        match held::owner(role.id) {
            Some(user) if user == who.user => true,
            Some(_) => self.require_sight_of(asked, &role.workspace).is_ok(),
            None => who.grants.is_member(&role.workspace) || self.require_sight_of(asked, &role.workspace).is_ok(),
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

/// A role that people made; the other kind changes with what its owner is granted.
fn made(role: Role) -> Result<Role, Refusal> {
    match held::owner(role.id) {
        None => Ok(role),
        Some(_) => Err(Reply::invalid(format!(
            "Role '{}' stands for what one user was granted. Change that with users/permissions/grant and revoke.",
            role.name
        ))
        .into()),
    }
}

fn no_role(id: RoleId) -> Refusal {
    Refusal::absent(format!("Role with id={id} not found"))
}

/// What was there a moment ago.
fn gone(error: store::Error, absent: Refusal) -> Refusal {
    match error {
        store::Error::NotFound(_) => absent,
        other => other.into(),
    }
}

fn shape(role: &Role) -> shapes::Shape {
    shapes::Shape::ok(json!({ "role": shapes::role(role) }))
}
