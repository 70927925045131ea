//! Roles: named sets of grants in a workspace, and their members.
//!
//! The permissions of a role are grants with the role as subject; `super::grants` creates and changes them.

use super::change::Change;
use super::changes::Scope;
use super::db::{Row, sql};
use super::grants::GrantRow;
use super::{Actor, Error, Result, Store, rows};
use crate::authz::{RoleId, Subject, UserId};

/// A role with its grants.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Role {
    pub id: RoleId,
    /// Unique in its workspace.
    pub name: String,
    pub workspace: String,
    pub description: Option<String>,
    /// The grants of the role, in order of creation.
    pub grants: Vec<GrantRow>,
}

impl Role {
    /// Prefix that no role name may have: MLflow uses it for the grants of a single user.
    pub const RESERVED_PREFIX: &str = "__user_";
    /// The widths of MLflow's columns.
    pub const MAX_NAME_CHARS: usize = 255;
    pub const MAX_WORKSPACE_CHARS: usize = 63;

    /// Returns the notation of the role in the audit log.
    pub(super) fn target(&self) -> String {
        target(&self.workspace, &self.name)
    }
}

/// A membership of a user in a role.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Assignment {
    pub id: i64,
    pub user: UserId,
    pub role: RoleId,
}

impl Store {
    /// Returns the role with this ID.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn role(&self, id: RoleId) -> Result<Option<Role>> {
        let role = sql("SELECT id, workspace, name, description FROM roles WHERE id = $1").bind(id.0);
        let Some(role) = role.fetch_optional(&self.readers).await? else { return Ok(None) };
        let grants = self.grant_rows_of(&Subject::Role(id)).await?;
        Ok(Some(Role { grants, ..rows::role(&role)? }))
    }

    /// Returns the role with this name in the workspace.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn role_by_name(&self, workspace: &str, name: &str) -> Result<Option<Role>> {
        let id: Option<i64> = sql("SELECT id FROM roles WHERE workspace = $1 AND name = $2")
            .bind(workspace)
            .bind(name)
            .scalar_optional(&self.readers)
            .await?;
        match id {
            Some(id) => self.role(RoleId(id)).await,
            None => Ok(None),
        }
    }

    /// Returns every role, ordered by ID.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn roles(&self) -> Result<Vec<Role>> {
        let roles = sql("SELECT id, workspace, name, description FROM roles ORDER BY id");
        let roles = roles.fetch_all(&self.readers).await?;
        let grants = sql("SELECT id, subject_kind, subject, kind, form, selector, permission FROM grants
             WHERE subject_kind = 'role' ORDER BY id");
        with_grants(&roles, &grants.fetch_all(&self.readers).await?)
    }

    /// Returns the roles of a user, ordered by ID.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn roles_of(&self, user: UserId) -> Result<Vec<Role>> {
        let roles = sql("SELECT id, workspace, name, description FROM roles
             WHERE id IN (SELECT role_id FROM role_assignments WHERE user_id = $1) ORDER BY id");
        let roles = roles.bind(user.0).fetch_all(&self.readers).await?;
        if roles.is_empty() {
            return Ok(Vec::new());
        }
        let grants = sql("SELECT id, subject_kind, subject, kind, form, selector, permission FROM grants
             WHERE subject_kind = 'role'
               AND subject IN (SELECT CAST(role_id AS TEXT) FROM role_assignments WHERE user_id = $1) ORDER BY id");
        with_grants(&roles, &grants.bind(user.0).fetch_all(&self.readers).await?)
    }

    /// Returns all memberships.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn assignments(&self) -> Result<Vec<Assignment>> {
        let all = sql("SELECT id, user_id, role_id FROM role_assignments ORDER BY id");
        all.fetch_all(&self.readers).await?.iter().map(rows::assignment).collect()
    }

    /// Returns the memberships of one role.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn assignments_of(&self, role: RoleId) -> Result<Vec<Assignment>> {
        let of = sql("SELECT id, user_id, role_id FROM role_assignments WHERE role_id = $1 ORDER BY id");
        of.bind(role.0).fetch_all(&self.readers).await?.iter().map(rows::assignment).collect()
    }

    /// Creates a role without grants.
    ///
    /// # Errors
    /// [`Error::Exists`] when the workspace has a role of that name.
    pub async fn create_role(
        &self,
        actor: &Actor,
        workspace: &str,
        name: &str,
        description: Option<&str>,
    ) -> Result<Role> {
        let mut change = self.change().await?;
        let created = sql("INSERT INTO roles (workspace, name, description) VALUES ($1, $2, $3)
             ON CONFLICT (workspace, name) DO NOTHING RETURNING id, workspace, name, description")
        .bind(workspace)
        .bind(name)
        .bind(description)
        .fetch_optional(change.on())
        .await?;
        let role = rows::role(&created.ok_or_else(|| Error::Exists(target(workspace, name)))?)?;
        change.affects([]);
        change.commit(actor, "role.create", target(workspace, name), String::new()).await?;
        Ok(role)
    }

    /// Changes the name, the description or both. The role keeps its ID, its grants and its members.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Exists`] when another role of its workspace has that name.
    pub async fn update_role(
        &self,
        actor: &Actor,
        id: RoleId,
        name: Option<&str>,
        description: Option<&str>,
    ) -> Result<()> {
        let mut change = self.change().await?;
        let role = change.role(id).await?;
        let name = name.unwrap_or(&role.name);
        let taken: Option<i64> = sql("SELECT id FROM roles WHERE workspace = $1 AND name = $2 AND id <> $3")
            .bind(&role.workspace)
            .bind(name)
            .bind(id.0)
            .scalar_optional(change.on())
            .await?;
        if taken.is_some() {
            return Err(Error::Exists(target(&role.workspace, name)));
        }
        sql("UPDATE roles SET name = $1, description = $2 WHERE id = $3")
            .bind(name)
            .bind(description.or(role.description.as_deref()))
            .bind(id.0)
            .execute(change.on())
            .await?;
        let detail = if name == role.name { String::new() } else { format!("now `{name}`") };
        change.affects([Scope::Role(id)]);
        change.commit(actor, "role.update", role.target(), detail).await
    }

    /// Deletes a role with its grants and memberships.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn delete_role(&self, actor: &Actor, id: RoleId) -> Result<()> {
        let mut change = self.change().await?;
        let role = change.role(id).await?;
        sql("DELETE FROM roles WHERE id = $1").bind(id.0).execute(change.on()).await?;
        change.affects([Scope::Role(id)]);
        change.commit(actor, "role.delete", role.target(), String::new()).await
    }

    /// Assigns a role to a user.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such user or role; [`Error::Exists`] when the user has the role already.
    pub async fn assign_role(&self, actor: &Actor, user: UserId, role: RoleId) -> Result<Assignment> {
        let mut change = self.change().await?;
        let (user, role) = (change.user(user).await?, change.role(role).await?);
        let assigned = sql("INSERT INTO role_assignments (user_id, role_id) VALUES ($1, $2)
             ON CONFLICT (user_id, role_id) DO NOTHING RETURNING id, user_id, role_id");
        let assigned = assigned.bind(user.id.0).bind(role.id.0).fetch_optional(change.on()).await?;
        let assigned = assigned.ok_or_else(|| Error::Exists(format!("{} of user:{}", role.target(), user.name)))?;
        let assignment = rows::assignment(&assigned)?;
        change.affects([Scope::User(user.id)]);
        change.commit(actor, "role.assign", role.target(), format!("user:{}", user.name)).await?;
        Ok(assignment)
    }

    /// Removes a role from a user.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such user or role, or the user does not have the role.
    pub async fn unassign_role(&self, actor: &Actor, user: UserId, role: RoleId) -> Result<()> {
        let mut change = self.change().await?;
        let (user, role) = (change.user(user).await?, change.role(role).await?);
        let taken = sql("DELETE FROM role_assignments WHERE user_id = $1 AND role_id = $2");
        let taken = taken.bind(user.id.0).bind(role.id.0).execute(change.on()).await?;
        if taken == 0 {
            return Err(Error::NotFound(format!("{} of user:{}", role.target(), user.name)));
        }
        change.affects([Scope::User(user.id)]);
        change.commit(actor, "role.unassign", role.target(), format!("user:{}", user.name)).await
    }
}

impl Change {
    /// Returns the role within this change, without its grants.
    pub(super) async fn role(&mut self, id: RoleId) -> Result<Role> {
        let role = sql("SELECT id, workspace, name, description FROM roles WHERE id = $1").bind(id.0);
        let role = role.fetch_optional(self.on()).await?;
        rows::role(&role.ok_or_else(|| Error::NotFound(format!("role {id}")))?)
    }

    /// Returns the ID of the role with this name in the workspace.
    pub(super) async fn role_named(&mut self, workspace: &str, name: &str) -> Result<Option<RoleId>> {
        let id: Option<i64> = sql("SELECT id FROM roles WHERE workspace = $1 AND name = $2")
            .bind(workspace)
            .bind(name)
            .scalar_optional(self.on())
            .await?;
        Ok(id.map(RoleId))
    }
}

fn target(workspace: &str, name: &str) -> String {
    format!("role:{workspace}/{name}")
}

/// Combines roles and grants, both ordered by ID. A grant whose role is not in `roles` is omitted.
fn with_grants(roles: &[Row], grants: &[Row]) -> Result<Vec<Role>> {
    let mut roles = roles.iter().map(rows::role).collect::<Result<Vec<_>>>()?;
    for row in grants {
        let row = rows::grant_row(row)?;
        if let Subject::Role(id) = row.grant.subject
            && let Ok(place) = roles.binary_search_by_key(&id, |role| role.id)
            && let Some(role) = roles.get_mut(place)
        {
            role.grants.push(row);
        }
    }
    Ok(roles)
}
