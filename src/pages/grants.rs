//! Grants to users, MLflow's newer API (3.13 on): `users/permissions/{get,list,grant,revoke}`.
//!
//! Who holds MANAGE on a resource shares it. What speaks of many, `*` and `glob:PATTERN`, is for administrators.

use std::sync::Arc;

use axum::extract::State;
use serde_json::json;

use super::asked::{Asked, Params};
use super::{Answer, Parts, Refusal, shapes};
use crate::authz::{Grant, GrantSet, Permission, Requirement, Resource, ResourceKind, Selector, Subject};
use crate::http::Reply;
use crate::store;

/// `GET users/current/permissions`. MLflow's pages grey out from it what would be refused.
pub(super) async fn current(State(parts): State<Arc<Parts>>, asked: Asked) -> Answer {
    let user = parts.user(&asked.identity.name).await?;
    let grants = parts.store.grants_of(&Subject::User(user.id)).await?;
    Ok(shapes::Shape::ok(shapes::permissions(&user, &grants)))
}

/// `GET users/permissions/list?username=`.
pub(super) async fn list(State(parts): State<Arc<Parts>>, asked: Asked) -> Answer {
    let params = asked.params()?;
    let name = params.text("username")?;
    parts.require_self_or_admin(&asked, name)?;
    let user = parts.user(name).await?;
    let grants = parts.store.grants_of(&Subject::User(user.id)).await?;
    Ok(shapes::Shape::ok(shapes::permissions(&user, &grants)))
}

/// `GET users/permissions/get?username=&resource_type=&resource_id=`: what grants and default come to.
///
/// As in MLflow, a resource that does not exist is no error, `allowed` means USE, and being an administrator, which no
/// grant says, does not count.
pub(super) async fn get(State(parts): State<Arc<Parts>>, asked: Asked) -> Answer {
    let params = asked.params()?;
    let kind = kind(params.text("resource_type")?)?;
    let name = params.text("username")?;
    parts.require_self_or_admin(&asked, name)?;
    let selector = selector(kind, params.text("resource_id")?)?;
    let user = parts.user(name).await?;
    let grants: GrantSet = parts.store.grants_of(&Subject::User(user.id)).await?.into_iter().collect();
    let granted = match &selector {
        Selector::All => grants.level_of_all(kind),
        Selector::Exact(key) => grants.level(kind, key),
        Selector::Glob(_) => {
            return Err(Reply::invalid("Ask for one resource or for '*'; a glob has no permission of its own.").into());
        }
    };
    let permission = parts.policy.level(granted);
    let allowed = permission.covers(Permission::Use);
    Ok(shapes::Shape::ok(json!({ "allowed": allowed, "permission": permission.as_str() })))
}

/// `POST users/permissions/grant`: never changes a grant that exists.
pub(super) async fn grant(State(parts): State<Arc<Parts>>, asked: Asked) -> Answer {
    let params = asked.params()?;
    let (kind, selector) = manageable(&parts, &asked, &params)?;
    let name = params.text("username")?;
    let permission = grantable(kind, params.text("permission")?)?;
    let user = parts.user(name).await?;
    let grant = Grant { subject: Subject::User(user.id), kind, selector, permission };
    let granted = parts.store.create_grant(&asked.actor(), &grant).await;
    parts.authn.forget(user.id);
    granted.map_err(|error| match error {
        store::Error::Exists(_) => Refusal::exists(sentence(name, kind, &grant.selector, "already exists")),
        store::Error::NotFound(_) => Refusal::no_user(name),
        other => other.into(),
    })?;
    Ok(shapes::Shape::done())
}

/// `POST users/permissions/revoke`.
pub(super) async fn revoke(State(parts): State<Arc<Parts>>, asked: Asked) -> Answer {
    let params = asked.params()?;
    let (kind, selector) = manageable(&parts, &asked, &params)?;
    let name = params.text("username")?;
    let user = parts.user(name).await?;
    let revoked = parts.store.delete_grant(&asked.actor(), &Subject::User(user.id), kind, &selector).await;
    parts.authn.forget(user.id);
    revoked.map_err(|error| match error {
        store::Error::NotFound(_) => Refusal::absent(sentence(name, kind, &selector, "not found")),
        other => other.into(),
    })?;
    Ok(shapes::Shape::done())
}

/// What the request speaks of, once it is known that the caller may manage it. Before anything is said of a user.
fn manageable(parts: &Parts, asked: &Asked, params: &Params) -> Result<(ResourceKind, Selector), Refusal> {
    let kind = kind(params.text("resource_type")?)?;
    let selector = selector(kind, params.text("resource_id")?)?;
    parts.require(asked, managing(kind, &selector))?;
    Ok((kind, selector))
}

/// What it takes to manage the grants on a selector.
pub(super) fn managing(kind: ResourceKind, selector: &Selector) -> Requirement {
    match selector {
        Selector::All | Selector::Glob(_) => Requirement::Admin { change: true },
        Selector::Exact(key) => Requirement::level(Permission::Manage, Resource::new(kind, key.as_str())),
    }
}

/// Reads a selector in a request.
pub(super) fn selector(kind: ResourceKind, text: &str) -> Result<Selector, Refusal> {
    let selector = Selector::parse(kind, text).map_err(|error| {
        Reply::invalid(format!("Invalid resource_pattern '{text}' for resource_type='{kind}': {error}."))
    })?;
    match (kind, &selector) {
        (ResourceKind::Scorer, Selector::Exact(key)) if !key.contains('/') => {
            Err(Reply::invalid("Invalid scorer resource_id. Expected '<experiment_id>/<scorer_name>'.").into())
        }
        _ => Ok(selector),
    }
}

/// Reads a level.
pub(super) fn permission(word: &str) -> Result<Permission, Refusal> {
    word.parse().map_err(|_| {
        let valid = quoted(Permission::ALL.map(Permission::as_str));
        Reply::invalid(format!("Invalid permission '{word}'. Valid permissions are: {valid}")).into()
    })
}

/// The same for the newer API, which does not take `NO_PERMISSIONS`.
fn grantable(kind: ResourceKind, word: &str) -> Result<Permission, Refusal> {
    match permission(word)? {
        Permission::NoPermissions => {
            let mut words: Vec<_> =
                Permission::ALL.map(Permission::as_str).into_iter().filter(|w| *w != word).collect();
            words.sort_unstable();
            let message = format!(
                "Invalid permission '{word}' for resource_type='{kind}'. Resource-level grants accept only: {}.",
                quoted(words)
            );
            Err(Reply::invalid(message).into())
        }
        permission => Ok(permission),
    }
}

/// Reads a type of resource. MLflow's tiers below one (`run`, `trace`, ...) inherit here: a grant on them would be kept
/// and protect nothing, so it is refused.
fn kind(word: &str) -> Result<ResourceKind, Refusal> {
    if let Ok(kind) = word.parse() {
        return Ok(kind);
    }
    let message = match word {
        "workspace" => "resource_type 'workspace' is not supported by the per-user permission convenience APIs. Use \
             set_workspace_permission / delete_workspace_permission for workspace-wide grants."
            .to_owned(),
        tier if MLFLOW_TYPES.contains(&tier) => {
            format!("resource_type '{tier}' is not supported by the per-user permission convenience APIs.")
        }
        other => format!("Invalid resource type '{other}'. Valid resource types are: {}", quoted(MLFLOW_TYPES)),
    };
    Err(Reply::invalid(message).into())
}

fn sentence(user: &str, kind: ResourceKind, selector: &Selector, what: &str) -> String {
    format!("Permission for user={user} on resource_type={kind}, resource_id={selector} {what}.")
}

/// As Python shows a tuple of strings.
fn quoted<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let words: Vec<_> = words.into_iter().map(|word| format!("'{word}'")).collect();
    format!("({})", words.join(", "))
}

/// `VALID_RESOURCE_TYPES` of MLflow 3.17.
const MLFLOW_TYPES: [&str; 18] = [
    "assessment",
    "experiment",
    "gateway_endpoint",
    "gateway_model_definition",
    "gateway_secret",
    "logged_model",
    "mcp_server",
    "mcp_server_version",
    "prompt",
    "prompt_version",
    "registered_model",
    "registered_model_version",
    "review_queue",
    "run",
    "scorer",
    "scorer_version",
    "trace",
    "workspace",
];
