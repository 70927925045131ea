//! `GET /auth/api/v1/explain?operation=&resource=[&user=]`: may they, and because of which grants?
//!
//! About oneself for everybody, about others for administrators. The command line gives the same answer.

use std::sync::Arc;

use axum::extract::State;
use serde_json::{Value, json};

use super::asked::Asked;
use super::{Answer, Parts, shapes};
use crate::authz::{
    Denied, Grant, Homes, Identity, Limits, NeededScope, Policy, PolicyFile, ResourceKind, Scheme, Source, Whom,
    explain,
};
use crate::http::Reply;
use crate::mlflow::Question;
use crate::resolve::{self, Resolver};
use crate::store::{Standing, User};

/// Answers one question.
pub(super) async fn get(State(parts): State<Arc<Parts>>, asked: Asked) -> Answer {
    let params = asked.params()?;
    let (operation, resource) = (params.text("operation")?, params.text("resource")?);
    let mut question =
        Question::parse(&parts.table, operation, resource).map_err(|error| Reply::invalid(error.to_string()))?;
    let name = params.optional_text("user")?.unwrap_or(&asked.identity.name);
    parts.require_self_or_admin(&asked, name)?;
    let user = parts.user(name).await?;
    let myself = asked.is(name);
    // Grants on other things are none of a scoped token's business.
    if myself && !asked.identity.limits.allow_resource(&question.resource) {
        return Err(Denied::TokenScope(NeededScope::of(&question.resource)).into());
    }
    let limits = if myself { asked.identity.limits.clone() } else { Limits::default() };
    // Of oneself the groups as they were just proved, which may be newer than what the store remembers.
    let groups = if myself { asked.identity.groups.to_vec() } else { user.groups().to_vec() };
    let person = Person { standing: parts.store.standing_of(user.id, &groups).await?, user, groups, limits };
    let (file, homes) = (parts.authn.policies().enforced(), parts.authn.policies().homes());
    if person.needs_names(&file, homes) {
        learn_name(&parts.resolver, &mut question).await?;
    }
    Ok(shapes::Shape::ok(explanation(&person, parts.policy, (&file, homes), operation, &question)))
}

/// Says in the question what its experiment is called; one that is not there stays without a name.
///
/// # Errors
/// MLflow could not be asked.
pub async fn learn_name(resolver: &Resolver, question: &mut Question) -> Result<(), resolve::Error> {
    let mut resource = question.resource.clone();
    resolver.name(&mut resource).await?;
    if let Some(name) = &resource.name {
        question.is_called(name);
    }
    Ok(())
}

/// Who is asked about.
#[derive(Debug)]
pub struct Person {
    pub user: User,
    pub groups: Vec<String>,
    pub standing: Standing,
    /// Of the credential.
    pub limits: Limits,
}

impl Person {
    /// Whether it takes the name of an experiment to answer.
    #[must_use]
    pub fn needs_names(&self, file: &PolicyFile, homes: &Homes) -> bool {
        let member = self.standing.member(&self.user.name, homes.of(self.user.identity()), &self.groups);
        self.standing.grants(file, &member).has_globs(ResourceKind::Experiment)
    }
}

/// The answer to a question about one person.
#[must_use]
pub fn explanation(
    person: &Person,
    policy: Policy,
    (file, homes): (&PolicyFile, &Homes),
    operation: &str,
    question: &Question,
) -> Value {
    let Person { user, groups, standing, limits } = person;
    let member = standing.member(&user.name, homes.of(user.identity()), groups);
    let who = Identity {
        user: user.id,
        name: user.name.as_str().into(),
        admin: user.is_admin(),
        // Nothing is decided by how somebody signs in.
        scheme: Scheme::Password,
        groups: groups.as_slice().into(),
        limits: limits.clone(),
        grants: Arc::new(standing.grants(file, &member)),
        shadow: None,
    };
    let held = standing.sentences(file, &member);
    let explained = explain(&who, policy, &question.requirements, &question.resource, held);
    json!({
        "user": user.name,
        "groups": groups,
        "operation": operation,
        "resource": format!("{}:{}", question.resource.kind, question.resource.key),
        "allowed": explained.allowed,
        "reason": explained.denied,
        "permission": explained.level.as_str(),
        "grants": Value::from_iter(explained.grants.iter().map(shown)),
        "default_permission": policy.default_permission.as_str(),
        "is_admin": user.is_admin(),
        "token_scopes": who.limits.scopes(),
        "also_needs": question.also,
    })
}

fn shown(grant: &Grant<(Source, Whom)>) -> Value {
    let (source, whom) = &grant.subject;
    json!({
        "subject_type": whom.kind(),
        "subject": whom.name(),
        "resource_type": grant.kind.as_str(),
        "resource": grant.selector.to_string(),
        "permission": grant.permission.as_str(),
        "source": source.to_string(),
    })
}
