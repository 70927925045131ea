//! Grants, and the compiled set of all grants that speak about one person.
//!
//! A [`GrantSet`] answers in one hash look-up per resource, whatever the number of grants.

use std::collections::{BTreeMap, HashMap};

use super::{Permission, Resource, ResourceKind, RoleId, Selector, UserId};

/// Where everything is on an MLflow without workspaces: all resources, and what people were granted themselves.
pub const DEFAULT_WORKSPACE: &str = "default";

/// Whom a stored grant is for. A group ending in `/**` is that group and all below it.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Subject {
    User(UserId),
    Group(String),
    Role(RoleId),
}

/// A sentence: `subject` has `permission` on the resources of `kind` that `selector` names.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Grant<S = Subject> {
    pub subject: S,
    pub kind: ResourceKind,
    pub selector: Selector,
    pub permission: Permission,
}

/// What several grants on the same thing come to: any refusal wins, else the highest level.
fn fold(so_far: Option<Permission>, next: Permission) -> Permission {
    match so_far {
        None => next,
        Some(level) if level.refuses() => level,
        Some(_) if next.refuses() => next,
        Some(level) => level.max(next),
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
struct OfKind {
    all: Option<Permission>,
    exact: HashMap<String, Permission>,
    globs: Vec<(wildmatch::WildMatch, Permission)>,
}

/// What somebody is in a workspace in which they hold a role.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Membership {
    Member,
    Administrator,
}

/// All grants whose subject is one person, one of their groups or one of their roles.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GrantSet {
    kinds: HashMap<ResourceKind, OfKind>,
    workspaces: BTreeMap<String, Membership>,
}

impl GrantSet {
    /// What the grants say about one resource; `None` when no grant speaks of it.
    ///
    /// Where its name is not known, a glob that refuses counts as one that matches, and no other does.
    #[must_use]
    pub fn level(&self, resource: &Resource) -> Option<Permission> {
        if self.rules(resource.kind) {
            return Some(Permission::Manage);
        }
        let of_kind = self.kinds.get(&resource.kind)?;
        let mut level = of_kind.all;
        if let Some(&exact) = of_kind.exact.get(&resource.key) {
            level = Some(fold(level, exact));
        }
        let name = resource.chosen_name();
        for (pattern, permission) in &of_kind.globs {
            if name.map_or(permission.refuses(), |name| pattern.matches(name)) {
                level = Some(fold(level, *permission));
            }
        }
        level
    }

    /// The level of the `*` grants of a kind, which is what creating one is measured against.
    #[must_use]
    pub fn level_of_all(&self, kind: ResourceKind) -> Option<Permission> {
        if self.rules(kind) {
            return Some(Permission::Manage);
        }
        self.kinds.get(&kind)?.all
    }

    /// The keys that exact grants of this kind name, each with that grant's level, in no order.
    pub fn exact(&self, kind: ResourceKind) -> impl Iterator<Item = (&str, Permission)> {
        self.kinds
            .get(&kind)
            .into_iter()
            .flat_map(|of_kind| of_kind.exact.iter().map(|(key, permission)| (key.as_str(), *permission)))
    }

    /// Returns true if any grant refuses something of this kind.
    #[must_use]
    pub fn refuses_any(&self, kind: ResourceKind) -> bool {
        self.kinds.get(&kind).is_some_and(|of_kind| {
            let globs = of_kind.globs.iter().map(|(_, level)| level);
            of_kind.all.iter().chain(of_kind.exact.values()).chain(globs).any(|level| level.refuses())
        })
    }

    /// Whether any glob of this kind exists, so that the readable keys cannot be listed in advance.
    #[must_use]
    pub fn has_globs(&self, kind: ResourceKind) -> bool {
        self.kinds.get(&kind).is_some_and(|of_kind| !of_kind.globs.is_empty())
    }

    /// Adds what is given to groups, or to people by a policy: no membership in any workspace comes with it.
    pub fn add<S>(&mut self, grants: impl IntoIterator<Item = Grant<S>>) {
        for grant in grants {
            self.kinds.entry(grant.kind).or_default().add(grant.selector, grant.permission);
        }
    }

    /// Adds what a role of this workspace gives. Outside [`DEFAULT_WORKSPACE`] that is the workspace and nothing in it: its
    /// administrators write their own roles, and the resources are elsewhere.
    pub fn join(&mut self, workspace: &str, grants: impl IntoIterator<Item = Grant>) {
        let membership = self.workspaces.entry(workspace.to_owned()).or_insert(Membership::Member);
        for grant in grants {
            if grant.kind == ResourceKind::Workspace {
                if grant.selector == Selector::All && grant.permission == Permission::Manage {
                    *membership = Membership::Administrator;
                }
            } else if workspace == DEFAULT_WORKSPACE {
                self.kinds.entry(grant.kind).or_default().add(grant.selector, grant.permission);
            }
        }
    }

    /// Whether any role of this workspace is held.
    #[must_use]
    pub fn is_member(&self, workspace: &str) -> bool {
        self.workspaces.contains_key(workspace)
    }

    /// Whether a role makes its members administrators of this workspace.
    #[must_use]
    pub fn administers(&self, workspace: &str) -> bool {
        self.workspaces.get(workspace) == Some(&Membership::Administrator)
    }

    /// Whether there is any workspace that is administered.
    #[must_use]
    pub fn administers_any(&self) -> bool {
        self.workspaces.values().any(|membership| *membership == Membership::Administrator)
    }

    /// An administrator of the workspace has MANAGE on all that is in it, which no DENY takes away. Jobs are in none.
    fn rules(&self, kind: ResourceKind) -> bool {
        kind != ResourceKind::Job && self.administers(DEFAULT_WORKSPACE)
    }
}

impl OfKind {
    fn add(&mut self, selector: Selector, permission: Permission) {
        match selector {
            Selector::All => self.all = Some(fold(self.all, permission)),
            Selector::Exact(key) => {
                let level = fold(self.exact.get(&key).copied(), permission);
                self.exact.insert(key, level);
            }
            Selector::Glob(pattern) => self.globs.push((wildmatch::WildMatch::new(&pattern), permission)),
        }
    }
}

/// What somebody was granted themselves, as if by a role of the default workspace.
impl FromIterator<Grant> for GrantSet {
    fn from_iter<I: IntoIterator<Item = Grant>>(grants: I) -> Self {
        let mut set = Self::default();
        let mut grants = grants.into_iter().peekable();
        if grants.peek().is_some() {
            set.join(DEFAULT_WORKSPACE, grants);
        }
        set
    }
}
