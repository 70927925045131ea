//! The roles that answers show: those that people made, and for each person one that stands for their own grants.
//!
//! MLflow keeps a person's own grants as rows of a hidden role, `__user_<id>__`, and its clients and pages know them by
//! that name. We have no such role. It is made up here, and its number is the person's with a minus sign, which no other
//! role has.

use std::collections::{BTreeMap, HashMap};

use super::asked::Asked;
use super::{Parts, Refusal};
use crate::authz::{DEFAULT_WORKSPACE, Grant, Requirement, ResourceKind, RoleId, Selector, Subject, UserId};
use crate::store::{Assignment, GrantRow, Role, User};

/// Whose own grants this role stands for; `None` when it is one that people made.
pub(super) fn owner(role: RoleId) -> Option<UserId> {
    (role.0 < 0).then(|| UserId(role.0.saturating_neg()))
}

/// Whom the grants are for that this role shows.
pub(super) fn subject(role: RoleId) -> Subject {
    owner(role).map_or(Subject::Role(role), Subject::User)
}

/// Under which role a grant is shown. `None`: MLflow has no words for it, such as a job's or review queue's creator.
pub(super) fn role_of(row: &GrantRow) -> Option<RoleId> {
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

/// The role that stands for a person's own grants.
fn own(user: UserId, grants: Vec<GrantRow>) -> Role {
    Role {
        id: RoleId(user.0.saturating_neg()),
        name: format!("{}{user}__", Role::RESERVED_PREFIX),
        workspace: DEFAULT_WORKSPACE.to_owned(),
        description: None,
        grants: grants.into_iter().filter(|row| role_of(row).is_some()).collect(),
    }
}

impl Parts {
    /// Everything that somebody holds. Who was granted nothing themselves has no role for that, as in MLflow.
    pub(super) async fn roles_of(&self, user: UserId) -> Result<Vec<Role>, Refusal> {
        let own = own(user, self.store.grant_rows_of(&Subject::User(user)).await?);
        let roles = self.store.roles_of(user).await?;
        Ok(std::iter::once(own).filter(|own| !own.grants.is_empty()).chain(roles).collect())
    }

    /// The same as far as the caller may see it: all for oneself, else what is in workspaces that the caller administers.
    pub(super) async fn visible_roles_of(&self, asked: &Asked, name: &str) -> Result<(User, Vec<Role>), Refusal> {
        if !asked.is(name) && !asked.identity.grants.administers_any() {
            self.require_sight_of(asked, DEFAULT_WORKSPACE)?;
        }
        let Some(user) = self.store.user_by_name(name).await? else {
            return Err(self.absent_to(asked, Refusal::no_user(name)));
        };
        let mut roles = self.roles_of(user.id).await?;
        if !asked.is(name) {
            roles.retain(|role| self.require_sight_of(asked, &role.workspace).is_ok());
            if roles.is_empty() {
                self.require_sight_of(asked, DEFAULT_WORKSPACE)?;
            }
        }
        Ok((user, roles))
    }

    /// Everybody's, by person.
    pub(super) async fn roles_by_user(&self) -> Result<HashMap<UserId, Vec<Role>>, Refusal> {
        let mut held: HashMap<UserId, Vec<Role>> = HashMap::new();
        for role in self.own_roles().await? {
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

    /// All roles: those that people made, then those that stand for people's own grants.
    pub(super) async fn roles(&self) -> Result<Vec<Role>, Refusal> {
        Ok(self.store.roles().await?.into_iter().chain(self.own_roles().await?).collect())
    }

    async fn own_roles(&self) -> Result<Vec<Role>, Refusal> {
        let mut rows: BTreeMap<UserId, Vec<GrantRow>> = BTreeMap::new();
        for row in self.store.grant_rows_of_users().await? {
            if let Subject::User(user) = row.grant.subject {
                rows.entry(user).or_default().push(row);
            }
        }
        let roles = rows.into_iter().map(|(user, rows)| own(user, rows));
        Ok(roles.filter(|role| !role.grants.is_empty()).collect())
    }

    /// The role of this number.
    pub(super) async fn role(&self, id: RoleId) -> Result<Option<Role>, Refusal> {
        let Some(user) = owner(id) else { return Ok(self.store.role(id).await?) };
        if self.store.user(user).await?.is_none() {
            return Ok(None);
        }
        Ok(Some(own(user, self.store.grant_rows_of(&Subject::User(user)).await?)))
    }

    /// Who has a role.
    pub(super) async fn assignments_of(&self, role: RoleId) -> Result<Vec<Assignment>, Refusal> {
        match owner(role) {
            Some(user) => Ok(vec![Assignment { id: role.0, user, role }]),
            None => Ok(self.store.assignments_of(role).await?),
        }
    }

    /// Says that something is not there, to administrators; nobody else learns even that.
    pub(super) fn absent_to(&self, asked: &Asked, absent: Refusal) -> Refusal {
        match self.require(asked, Requirement::Admin { change: false }) {
            Ok(()) => absent,
            Err(denied) => denied,
        }
    }
}
