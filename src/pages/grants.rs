//! Grants to users, MLflow's newer API (3.13 on): `users/permissions/{get,list,grant,revoke}`.
//!
//! Who holds MANAGE on a resource shares it. What speaks of many, `*` and `glob:PATTERN`, is for administrators, also those
//! of the default workspace.

use std::sync::Arc;

use axum::extract::State;
use serde_json::json;

use super::asked::{Asked, Params};
use super::terms::{self, selector, users_kind};
use super::{Answer, Parts, Refusal, shapes};
use crate::authz::{DEFAULT_WORKSPACE, Grant, Permission, Requirement, Resource, ResourceKind, Selector, Subject};
use crate::http::Reply;
use crate::store;

/// `GET users/current/permissions`. MLflow's pages grey out from it what would be refused.
pub(super) async fn current(State(parts): State<Arc<Parts>>, asked: Asked) -> Answer {
    let user = parts.user(&asked.identity.name).await?;
    Ok(shapes::Shape::ok(shapes::permissions(&user, &parts.roles_of(user.id).await?)))
}

/// `GET users/permissions/list?username=`.
pub(super) async fn list(State(parts): State<Arc<Parts>>, asked: Asked) -> Answer {
    let params = asked.params()?;
    let name = params.text("username")?;
    let (user, roles) = parts.visible_roles_of(&asked, name).await?;
    Ok(shapes::Shape::ok(shapes::permissions(&user, &roles)))
}

/// `GET users/permissions/get?username=&resource_type=&resource_id=`: what grants and default come to.
///
/// As in MLflow, a resource that does not exist is no error, `allowed` means USE, and being an administrator, which no
/// grant says, does not count.
pub(super) async fn get(State(parts): State<Arc<Parts>>, asked: Asked) -> Answer {
    let params = asked.params()?;
    let kind = users_kind(params.text("resource_type")?)?;
    let name = params.text("username")?;
    if !asked.is(name) {
        parts.require_sight_of(&asked, DEFAULT_WORKSPACE)?;
    }
    let selector = selector(kind, params.text("resource_id")?)?;
    let user = parts.user(name).await?;
    let standing = parts.store.standing_of(user.id, user.groups()).await?;
    let policies = parts.authn.policies();
    let member = standing.member(&user.name, policies.homes().of(user.identity()), user.groups());
    let grants = standing.grants(&policies.enforced(), &member);
    let granted = match &selector {
        Selector::All => grants.level_of_all(kind),
        Selector::Exact(key) => {
            let mut resource = Resource::new(kind, key.as_str());
            if grants.has_globs(kind) {
                parts.resolver.name(&mut resource).await?;
            }
            grants.level(&resource)
        }
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
    let (kind, selector) = manageable(&parts, &asked, &params, terms::new_selector).await?;
    let name = params.text("username")?;
    let permission = terms::level_for(kind, params.text("permission")?)?;
    let user = parts.user(name).await?;
    let grant = Grant { subject: Subject::User(user.id), kind, selector, permission };
    let granted = parts.store.create_grant(&asked.actor(), &grant).await;
    parts.authn.forget(user.id);
    granted.map_err(|error| match error {
        store::Error::Exists(_) => Refusal::exists(sentence(name, kind, &grant.selector, "already exists")),
        store::Error::NotFound(_) => Refusal::no_user(name),
        other => other.into(),
    })?;
    Ok(shapes::Shape::done().warning(parts.absence(kind, &grant.selector).await))
}

/// `POST users/permissions/revoke`.
pub(super) async fn revoke(State(parts): State<Arc<Parts>>, asked: Asked) -> Answer {
    let params = asked.params()?;
    let (kind, selector) = manageable(&parts, &asked, &params, selector).await?;
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
async fn manageable(
    parts: &Parts,
    asked: &Asked,
    params: &Params,
    read: fn(ResourceKind, &str) -> Result<Selector, Refusal>,
) -> Result<(ResourceKind, Selector), Refusal> {
    let kind = users_kind(params.text("resource_type")?)?;
    let selector = read(kind, params.text("resource_id")?)?;
    require_manage(parts, asked, kind, &selector).await?;
    Ok((kind, selector))
}

/// What it takes to manage the grants on a selector. All of a kind is its workspace's.
pub(super) async fn require_manage(
    parts: &Parts,
    asked: &Asked,
    kind: ResourceKind,
    selector: &Selector,
) -> Result<(), Refusal> {
    match selector {
        Selector::All | Selector::Glob(_) => parts.require_admin_of(asked, DEFAULT_WORKSPACE),
        Selector::Exact(key) => {
            let resource = parts.named(&asked.identity, Resource::new(kind, key.as_str())).await?;
            parts.require(asked, Requirement::level(Permission::Manage, resource))
        }
    }
}

/// What it takes to look at them: the same, but a read-only token does.
pub(super) async fn require_sight(
    parts: &Parts,
    asked: &Asked,
    kind: ResourceKind,
    selector: &Selector,
) -> Result<(), Refusal> {
    match selector {
        Selector::All | Selector::Glob(_) => parts.require_sight_of(asked, DEFAULT_WORKSPACE),
        Selector::Exact(key) => {
            let resource = parts.named(&asked.identity, Resource::new(kind, key.as_str())).await?;
            parts.require_to_look(asked, Requirement::level(Permission::Manage, resource))
        }
    }
}

fn sentence(user: &str, kind: ResourceKind, selector: &Selector, what: &str) -> String {
    format!("Permission for user={user} on resource_type={kind}, resource_id={selector} {what}.")
}
