//! Roles as MLflow's API lists them: the stored ones, and a synthetic one for each user with direct grants.
//!
//! MLflow stores a user's direct grants as rows of a hidden role, `__user_<id>__`, which its clients and pages expect. The proxy stores
//! no such role: it is built here, with the user's negated ID as its ID, which no stored role has.

use std::collections::{BTreeMap, HashMap};

use crate::api::{ApiRequest, Context, Refusal};
use crate::authz::{DEFAULT_WORKSPACE, Grant, ResourceKind, RoleId, Selector, Subject, UserId};
use crate::store::{Assignment, GrantRow, Role, User};

/// Returns the user whose direct grants a synthetic role contains, and `None` for a stored role.
pub(crate) fn owner(role: RoleId) -> Option<UserId> {
    (role.0 < 0).then(|| UserId(role.0.saturating_neg()))
}

/// Returns the subject of the grants that a role contains.
pub(crate) fn subject(role: RoleId) -> Subject {
    owner(role).map_or(Subject::Role(role), Subject::User)
}

/// Returns the role that lists a grant. `None` for grants that MLflow cannot express, such as those of the creator of a job or review
/// queue.
pub(crate) fn role_of(row: &GrantRow) -> Option<RoleId> {
    let Grant { kind, selector, subject, .. } = &row.grant;
    if *kind == ResourceKind::Job || (kind.is_granted_whole() && *selector != Selector::All) {
        return None;
    }
    match *subject {
        Subject::User(user) => Some(RoleId(user.0.saturating_neg())),
        Subject::Role(role) => Some(role),
        Subject::Group(_) => None,
    }
}

/// Builds the synthetic role of a user.
fn synthetic(user: UserId, grants: Vec<GrantRow>) -> Role {
    Role {
        id: RoleId(user.0.saturating_neg()),
        name: format!("{}{user}__", Role::RESERVED_PREFIX),
        workspace: DEFAULT_WORKSPACE.to_owned(),
        description: None,
        grants: grants.into_iter().filter(|row| role_of(row).is_some()).collect(),
    }
}

impl Context {
    /// Returns all roles of a user. As in MLflow, a user without direct grants has no synthetic role.
    pub(crate) async fn roles_of(&self, user: UserId) -> Result<Vec<Role>, Refusal> {
        let own = synthetic(user, self.store.grant_rows_of(&Subject::User(user)).await?);
        let roles = self.store.roles_of(user).await?;
        Ok(std::iter::once(own).filter(|own| !own.grants.is_empty()).chain(roles).collect())
    }

    /// Returns the roles of a user that the caller is allowed to view: all of the caller's own, else those in workspaces that the caller
    /// administers.
    pub(crate) async fn visible_roles_of(
        &self,
        request: &ApiRequest,
        name: &str,
    ) -> Result<(User, Vec<Role>), Refusal> {
        if !request.is(name) && !request.identity.grants.administers_any() {
            self.require_workspace_admin_to_view(request, DEFAULT_WORKSPACE)?;
        }
        let Some(user) = self.store.user_by_name(name).await? else {
            return Err(self.absent_to(request, Refusal::no_user(name)));
        };
        let mut roles = self.roles_of(user.id).await?;
        if !request.is(name) {
            roles.retain(|role| self.require_workspace_admin_to_view(request, &role.workspace).is_ok());
            if roles.is_empty() {
                self.require_workspace_admin_to_view(request, DEFAULT_WORKSPACE)?;
            }
        }
        Ok((user, roles))
    }

    /// Returns the roles of all users.
    pub(crate) async fn roles_by_user(&self) -> Result<HashMap<UserId, Vec<Role>>, Refusal> {
        let mut held: HashMap<UserId, Vec<Role>> = HashMap::new();
        for role in self.synthetic_roles().await? {
            if let Some(user) = owner(role.id) {
                held.entry(user).or_default().push(role);
            }
        }
        let roles: HashMap<RoleId, Role> = self.store.roles().await?.into_iter().map(|role| (role.id, role)).collect();
        for assignment in self.store.assignments().await? {
            if let Some(role) = roles.get(&assignment.role) {
                held.entry(assignment.user).or_default().push(role.clone());
            }
        }
        Ok(held)
    }

    /// Returns all roles: the stored ones, then the synthetic ones.
    pub(crate) async fn roles(&self) -> Result<Vec<Role>, Refusal> {
        Ok(self.store.roles().await?.into_iter().chain(self.synthetic_roles().await?).collect())
    }

    async fn synthetic_roles(&self) -> Result<Vec<Role>, Refusal> {
        let mut rows: BTreeMap<UserId, Vec<GrantRow>> = BTreeMap::new();
        for row in self.store.grant_rows_of_users().await? {
            if let Subject::User(user) = row.grant.subject {
                rows.entry(user).or_default().push(row);
            }
        }
        let roles = rows.into_iter().map(|(user, rows)| synthetic(user, rows));
        Ok(roles.filter(|role| !role.grants.is_empty()).collect())
    }

    /// Returns the role of this ID.
    pub(crate) async fn role(&self, id: RoleId) -> Result<Option<Role>, Refusal> {
        let Some(user) = owner(id) else { return Ok(self.store.role(id).await?) };
        if self.store.user(user).await?.is_none() {
            return Ok(None);
        }
        Ok(Some(synthetic(user, self.store.grant_rows_of(&Subject::User(user)).await?)))
    }

    /// Returns the users who have a role.
    pub(crate) async fn assignments_of(&self, role: RoleId) -> Result<Vec<Assignment>, Refusal> {
        match owner(role) {
            Some(user) => Ok(vec![Assignment { id: role.0, user, role }]),
            None => Ok(self.store.assignments_of(role).await?),
        }
    }
}
