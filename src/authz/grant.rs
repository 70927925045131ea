//! Grants, and the compiled set of all grants of one principal.
//!
//! A [`GrantSet`] finds the level on a resource with one hash look-up plus one match per glob, however many exact
//! grants there are.

use std::collections::{BTreeMap, HashMap};

use super::{Permission, Resource, ResourceKind, RoleId, Selector, UserId};

/// Workspace of all resources and of grants to users themselves. An MLflow server without workspaces has only this one.
pub const DEFAULT_WORKSPACE: &str = "default";

/// Subject of a stored grant. A group that ends in `/**` includes all groups below it.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Subject {
    User(UserId),
    Group(String),
    Role(RoleId),
}

/// A grant: `subject` has `permission` on the resources of `kind` that `selector` matches.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Grant<S = Subject> {
    pub subject: S,
    pub kind: ResourceKind,
    pub selector: Selector,
    pub permission: Permission,
}

/// Combines the levels of two grants on one resource: a refusal wins, otherwise the higher level.
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

/// Membership in a workspace in which the principal has a role.
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
    /// Returns the level that the grants give on one resource, or `None` if no grant applies to it.
    ///
    /// If the resource's name is not known, every glob that refuses counts as a match and no other glob does, so that a
    /// missing name never widens access.
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

    /// Returns the level of the `*` grants of a kind. Creating a resource of that kind is checked against it.
    #[must_use]
    pub fn level_of_all(&self, kind: ResourceKind) -> Option<Permission> {
        if self.rules(kind) {
            return Some(Permission::Manage);
        }
        self.kinds.get(&kind)?.all
    }

    /// Returns the keys in exact grants of this kind, each with its level, in no particular order.
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

    /// Returns true if there is a glob of this kind, so that the readable keys cannot be listed in advance.
    #[must_use]
    pub fn has_globs(&self, kind: ResourceKind) -> bool {
        self.kinds.get(&kind).is_some_and(|of_kind| !of_kind.globs.is_empty())
    }

    /// Returns true if this set is `earlier` with grants that were added and refuse nothing, so that every level is at
    /// least as high.
    #[must_use]
    pub fn include(&self, earlier: &Self) -> bool {
        let workspaces = earlier.workspaces.iter().all(|(name, of_old)| self.workspaces.get(name) >= Some(of_old));
        let kinds = earlier.kinds.keys().all(|kind| self.kinds.contains_key(kind));
        let nothing = OfKind::default();
        workspaces
            && kinds
            && self.kinds.iter().all(|(kind, of_kind)| of_kind.include(earlier.kinds.get(kind).unwrap_or(&nothing)))
    }

    /// Adds grants of groups or of the policy file. They imply no membership in a workspace.
    pub fn add<S>(&mut self, grants: impl IntoIterator<Item = Grant<S>>) {
        for grant in grants {
            self.kinds.entry(grant.kind).or_default().add(grant.selector, grant.permission);
        }
    }

    /// Adds the grants of a role of this workspace. Outside [`DEFAULT_WORKSPACE`] only the grants on the workspace
    /// itself count: its administrators write its roles, and all resources are in the default workspace.
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

    /// Returns true if the principal has a role in this workspace.
    #[must_use]
    pub fn is_member(&self, workspace: &str) -> bool {
        self.workspaces.contains_key(workspace)
    }

    /// Returns true if a role grants administration of this workspace.
    #[must_use]
    pub fn administers(&self, workspace: &str) -> bool {
        self.workspaces.get(workspace) == Some(&Membership::Administrator)
    }

    /// Returns true if a role grants administration of any workspace.
    #[must_use]
    pub fn administers_any(&self) -> bool {
        self.workspaces.values().any(|membership| *membership == Membership::Administrator)
    }

    /// Returns true if administration of the default workspace grants MANAGE on everything of this kind, which no DENY
    /// takes away. Jobs belong to no workspace.
    fn rules(&self, kind: ResourceKind) -> bool {
        kind != ResourceKind::Job && self.administers(DEFAULT_WORKSPACE)
    }
}

impl OfKind {
    fn include(&self, earlier: &Self) -> bool {
        let kept = earlier.exact.iter().all(|(key, level)| self.exact.get(key) == Some(level));
        let is_gain = |(key, level): (&String, &Permission)| !level.refuses() || earlier.exact.contains_key(key);
        self.all == earlier.all && self.globs == earlier.globs && kept && self.exact.iter().all(is_gain)
    }

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

/// Compiles grants to a user, which count like those of a role of the default workspace.
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
