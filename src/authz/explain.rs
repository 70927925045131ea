//! Why may they, or why not: a decision with every grant that took part.
//!
//! The verdict is [`holds`]'s own; this only gathers what it was made of.

use super::decide::level;
use super::{Grant, Identity, Permission, Policy, Requirement, Resource, ResourceKind, Subject, holds};

/// A decision, and what it was made of.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Explanation<S = Subject> {
    pub allowed: bool,
    /// What a refused request is told.
    pub denied: Option<String>,
    /// What grants and default come to on the resource itself, before tiers, being an administrator, and the limits of
    /// the credential.
    pub level: Permission,
    /// The grants that speak of it, of a tier that is asked about, or of the workspace.
    pub grants: Vec<Grant<S>>,
}

/// Explains whether `who` fulfils all `requirements`, which are about `resource`. `held` are the grants from which the
/// identity's own were made.
#[must_use]
pub fn explain<S>(
    who: &Identity,
    policy: Policy,
    requirements: &[Requirement],
    resource: &Resource,
    held: impl IntoIterator<Item = Grant<S>>,
) -> Explanation<S> {
    let denied = requirements.iter().find_map(|requirement| holds(who, policy, requirement).err());
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
        // Of the workspace, MANAGE alone is about what is in it.
        let of_all = grant.kind == ResourceKind::Workspace && grant.permission == Permission::Manage;
        speaks || of_all || asked(grant.kind)
    };
    Explanation {
        allowed: denied.is_none(),
        denied: denied.map(|denied| denied.to_string()),
        level: level(who, policy, resource),
        grants: held.into_iter().filter(takes_part).collect(),
    }
}
