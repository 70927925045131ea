//! Authorization decisions.
//!
//! Pure: no I/O, no clock. Only [`authorize`] and [`open_to_all`] create a [`Permit`]; everything else is a type or
//! private. Called by `pipeline` once per request and by `filter` once per row.

#![cfg_attr(not(test), warn(clippy::wildcard_enum_match_arm))]

mod decide;
mod explain;
mod grant;
mod group;
mod identity;
mod mutation;
mod permission;
mod policy;
mod selector;

pub use decide::{
    DefaultPermission, Denied, NeededScope, Permit, Requirement, Visibility, authorize, holds, may, may_any,
    open_to_all,
};
pub use explain::{Explanation, explain};
pub use grant::{DEFAULT_WORKSPACE, Grant, GrantSet, Subject};
pub use group::{GroupError, check_group, texts_of_groups};
pub use identity::{Identity, Limits, RoleId, Scheme, ScopeError, SessionId, TokenId, UserId};
pub use mutation::Mutation;
pub use permission::{Permission, UnknownPermission};
pub use policy::{
    Expectation, Home, Homes, LOCAL, Member, OnCreate, Policies, PolicyFile, PolicyProblem, PolicyProblems, Source,
    Whom, read_target, read_whom, write_target,
};
pub use selector::{
    Resource, ResourceKind, Selector, SelectorError, UnknownKind, is_experiment_id, is_opaque_id, scorer_key, skill_key,
};

#[cfg(test)]
mod tests;
