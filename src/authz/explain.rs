//! Explains a decision with every grant that contributed to it.
//!
//! The verdict comes from [`holds`]; this module only collects the grants and the level.

use super::decide::level;
use super::{DefaultPermission, Grant, Identity, Permission, Requirement, Resource, ResourceKind, Subject, holds};

/// A decision and the facts it is based on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Explanation<S = Subject> {
    pub allowed: bool,
    /// Error text of a refused request.
    pub denied: Option<String>,
    /// Level on the resource itself from grants and default permission, before tiers, administrator rights and the
    /// credential's limits.
    pub level: Permission,
    /// Grants on the resource, on a tier that the requirements name, or on the workspace.
    pub grants: Vec<Grant<S>>,
}

/// Explains whether `who` fulfils all `requirements`, which concern `resource`. `held` are the grants from which the
/// identity's grant set was compiled.
#[must_use]
pub fn explain<S>(
    who: &Identity,
    default_permission: DefaultPermission,
    requirements: &[Requirement],
    resource: &Resource,
    held: impl IntoIterator<Item = Grant<S>>,
) -> Explanation<S> {
    let denied = requirements.iter().find_map(|requirement| holds(who, default_permission, requirement).err());
    let asked = |tier| {
        requirements.iter().any(|requirement| match requirement {
            Requirement::Level { tier: below, .. } | Requirement::Belonging { tier: below, .. } => *below == Some(tier),
            Requirement::NotDenied(asked) | Requirement::Tier { tier: asked, .. } => *asked == tier,
            Requirement::SignedIn
            | Requirement::Admin { .. }
            | Requirement::Create(_)
            | Requirement::Privileged(_)
            | Requirement::NotRefused(_)
            | Requirement::OneOf(_)
            | Requirement::Any(_) => false,
        })
    };
    let takes_part = |grant: &Grant<S>| {
        let speaks = grant.kind == resource.kind && grant.selector.selects(resource);
        // On the workspace, only MANAGE applies to the resources in it.
        let of_all = grant.kind == ResourceKind::Workspace && grant.permission == Permission::Manage;
        speaks || of_all || asked(grant.kind)
    };
    Explanation {
        allowed: denied.is_none(),
        denied: denied.map(|denied| denied.to_string()),
        level: level(who, default_permission, resource),
        grants: held.into_iter().filter(takes_part).collect(),
    }
}
