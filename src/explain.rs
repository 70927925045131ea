//! Explains decisions: which permission a user has on a resource, and which grants it comes from.
//!
//! `GET /auth/api/v1/explain` and the `explain` command give the same answer, because both call [`explanation`].

use std::sync::Arc;

use serde_json::{Value, json};

use crate::authz::{
    DefaultPermission, Grant, Homes, Identity, Limits, PolicyFile, ResourceKind, Scheme, Source, Whom, explain,
};
use crate::clock::Timestamp;
use crate::mlflow::Question;
use crate::resolve::{self, Resolver};
use crate::store::{Standing, User};

/// The user whose permissions are explained.
#[derive(Debug)]
pub struct Examined {
    pub user: User,
    pub groups: Vec<String>,
    pub standing: Standing,
    /// Limits of the credential that the user would use.
    pub limits: Limits,
}

impl Examined {
    /// Returns the time at which the identity provider last reported the groups; `None` for a local account, and for
    /// groups that come from the credential of the request.
    #[must_use]
    pub fn groups_reported(&self) -> Option<Timestamp> {
        self.user.person.as_ref().filter(|person| person.groups == self.groups).map(|person| person.seen)
    }

    /// Returns true if grants by experiment name apply to the user, so that the experiment's name must be looked up first.
    #[must_use]
    pub fn needs_names(&self, file: &PolicyFile, homes: &Homes) -> bool {
        let member = self.standing.member(self.user.name_at_provider(), homes.of(self.user.identity()), &self.groups);
        self.standing.grants(file, &member).has_globs(ResourceKind::Experiment)
    }
}

/// Adds the experiment's name to the question. An experiment that does not exist stays without a name.
///
/// # Errors
/// Fails if MLflow does not answer the look-up.
pub async fn add_name(resolver: &Resolver, question: &mut Question) -> Result<(), resolve::Error> {
    let mut resource = question.resource.clone();
    resolver.name(&mut resource).await?;
    if let Some(name) = &resource.name {
        question.is_called(name);
    }
    Ok(())
}

/// Returns the decision for one user, with the grants that it comes from, as JSON.
#[must_use]
pub fn explanation(
    examined: &Examined,
    default_permission: DefaultPermission,
    (file, homes): (&PolicyFile, &Homes),
    operation: &str,
    question: &Question,
) -> Value {
    let Examined { user, groups, standing, limits } = examined;
    let member = standing.member(user.name_at_provider(), homes.of(user.identity()), groups);
    let identity = Identity {
        user: user.id,
        name: user.name.as_str().into(),
        admin: user.is_admin(),
        // No decision depends on the scheme.
        scheme: Scheme::Password,
        groups: groups.as_slice().into(),
        limits: limits.clone(),
        grants: Arc::new(standing.grants(file, &member)),
        shadow: None,
    };
    let rules = standing.sentences(file, &member);
    let explained = explain(&identity, default_permission, &question.requirements, &question.resource, rules);
    json!({
        "user": user.name,
        "groups": groups,
        "groups_reported_at": examined.groups_reported().map(Timestamp::rfc3339),
        "operation": operation,
        "resource": format!("{}:{}", question.resource.kind, question.resource.key),
        "allowed": explained.allowed,
        "reason": explained.denied,
        "permission": explained.level.as_str(),
        "grants": Value::from_iter(explained.grants.iter().map(grant)),
        "default_permission": default_permission.0.as_str(),
        "is_admin": user.is_admin(),
        "token_scopes": identity.limits.scopes(),
        "also_needs": question.also,
    })
}

fn grant(grant: &Grant<(Source, Whom)>) -> Value {
    let (source, principal) = &grant.subject;
    json!({
        "subject_type": principal.kind(),
        "subject": principal.name(),
        "resource_type": grant.kind.as_str(),
        "resource": grant.selector.to_string(),
        "permission": grant.permission.as_str(),
        "source": source.to_string(),
    })
}
