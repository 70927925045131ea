//! `GET /auth/api/v1/explain?operation=&resource=[&user=]`: may they, and because of which grants?
//!
//! About oneself for everybody, about others for administrators. The command line gives the same answer.

use std::sync::Arc;

use axum::extract::State;
use serde_json::{Value, json};

use super::asked::Asked;
use super::{Answer, Parts, shapes};
use crate::authz::{DEFAULT_WORKSPACE, Identity, Limits, Policy, Scheme, Subject, explain};
use crate::http::Reply;
use crate::mlflow::Question;
use crate::store::{self, Store, User};

/// Answers one question.
pub(super) async fn get(State(parts): State<Arc<Parts>>, asked: Asked) -> Answer {
    let params = asked.params()?;
    let (operation, resource) = (params.text("operation")?, params.text("resource")?);
    let question =
        Question::parse(&parts.table, operation, resource).map_err(|error| Reply::invalid(error.to_string()))?;
    let name = params.optional_text("user")?.unwrap_or(&asked.identity.name);
    parts.require_self_or_admin(&asked, name)?;
    let user = parts.user(name).await?;
    let limits = if asked.is(name) { asked.identity.limits.clone() } else { Limits::default() };
    Ok(shapes::Shape::ok(explanation(&parts.store, parts.policy, &user, limits, operation, &question).await?))
}

/// The answer to a question about `user`, whose credential has these limits.
///
/// # Errors
/// The store does not answer.
pub async fn explanation(
    store: &Store,
    policy: Policy,
    user: &User,
    limits: Limits,
    operation: &str,
    question: &Question,
) -> Result<Value, store::Error> {
    let roles = store.roles_of(user.id).await?;
    // Outside the default workspace a role gives the workspace and nothing in it.
    let mut held = store.grants_of(&Subject::User(user.id)).await?;
    for role in roles.iter().filter(|role| role.workspace == DEFAULT_WORKSPACE) {
        held.extend(role.grants.iter().map(|row| row.grant.clone()));
    }
    let who = Identity {
        user: user.id,
        name: user.name.as_str().into(),
        admin: user.is_admin(),
        // Nothing is decided by how somebody signs in.
        scheme: Scheme::Password,
        groups: user.groups().into(),
        limits,
        grants: Arc::new(store.held_by(user.id).await?),
    };
    let explained = explain(&who, policy, &question.requirements, &question.resource, held);
    let named = |subject: &Subject| match subject {
        Subject::User(_) => ("user", user.name.clone()),
        Subject::Group(path) => ("group", path.clone()),
        Subject::Role(id) => {
            let role = roles.iter().find(|role| role.id == *id);
            ("role", role.map_or_else(|| id.to_string(), |role| format!("{}/{}", role.workspace, role.name)))
        }
    };
    let grants = explained.grants.iter().map(|grant| {
        let (subject_type, subject) = named(&grant.subject);
        json!({
            "subject_type": subject_type,
            "subject": subject,
            "resource_type": grant.kind.as_str(),
            "resource": grant.selector.to_string(),
            "permission": grant.permission.as_str(),
        })
    });
    Ok(json!({
        "user": user.name,
        "operation": operation,
        "resource": format!("{}:{}", question.resource.kind, question.resource.key),
        "allowed": explained.allowed,
        "reason": explained.denied,
        "permission": explained.level.as_str(),
        "grants": Value::from_iter(grants),
        "default_permission": policy.default_permission.as_str(),
        "is_admin": user.is_admin(),
        "token_scopes": who.limits.scopes(),
        "also_needs": question.also,
    }))
}
