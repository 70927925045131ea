//! Grants, and the compiled set of all grants that speak about one person.
//!
//! A [`GrantSet`] answers in one hash look-up per resource, whatever the number of grants.

use std::collections::HashMap;

use super::{Permission, ResourceKind, Selector, UserId};

/// Whom a grant is for.
///
/// Groups (from the identity provider) and roles (MLflow 3.12+) already have their place here; their sources come later.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Subject {
    User(UserId),
    Group(String),
    Role(i64),
}

/// A sentence: `subject` has `permission` on the resources of `kind` that `selector` names.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Grant {
    pub subject: Subject,
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

#[derive(Clone, Debug, Default)]
struct OfKind {
    all: Option<Permission>,
    exact: HashMap<String, Permission>,
    globs: Vec<(wildmatch::WildMatch, Permission)>,
}

/// All grants whose subject is one person, one of their groups or one of their roles.
#[derive(Clone, Debug, Default)]
pub struct GrantSet {
    kinds: HashMap<ResourceKind, OfKind>,
}

impl GrantSet {
    /// What the grants say about one resource; `None` when no grant speaks of it.
    #[must_use]
    pub fn level(&self, kind: ResourceKind, key: &str) -> Option<Permission> {
        let of_kind = self.kinds.get(&kind)?;
        let mut level = of_kind.all;
        if let Some(&exact) = of_kind.exact.get(key) {
            level = Some(fold(level, exact));
        }
        for (pattern, permission) in &of_kind.globs {
            if pattern.matches(key) {
                level = Some(fold(level, *permission));
            }
        }
        level
    }

    /// The level of the `*` grants of a kind, which is what creating one is measured against.
    #[must_use]
    pub fn level_of_all(&self, kind: ResourceKind) -> Option<Permission> {
        self.kinds.get(&kind)?.all
    }

    /// The keys that exact grants of this kind name, each with that grant's level, in no order.
    pub fn exact(&self, kind: ResourceKind) -> impl Iterator<Item = (&str, Permission)> {
        self.kinds
            .get(&kind)
            .into_iter()
            .flat_map(|of_kind| of_kind.exact.iter().map(|(key, permission)| (key.as_str(), *permission)))
    }

    /// Whether any glob of this kind exists, so that the readable keys cannot be listed in advance.
    #[must_use]
    pub fn has_globs(&self, kind: ResourceKind) -> bool {
        self.kinds.get(&kind).is_some_and(|of_kind| !of_kind.globs.is_empty())
    }
}

impl FromIterator<Grant> for GrantSet {
    fn from_iter<I: IntoIterator<Item = Grant>>(grants: I) -> Self {
        let mut set = Self::default();
        for grant in grants {
            let of_kind = set.kinds.entry(grant.kind).or_default();
            match grant.selector {
                Selector::All => of_kind.all = Some(fold(of_kind.all, grant.permission)),
                Selector::Exact(key) => {
                    let level = fold(of_kind.exact.get(&key).copied(), grant.permission);
                    of_kind.exact.insert(key, level);
                }
                Selector::Glob(pattern) => {
                    of_kind.globs.push((wildmatch::WildMatch::new(&pattern), grant.permission));
                }
            }
        }
        set
    }
}
