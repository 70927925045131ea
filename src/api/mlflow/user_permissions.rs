//! Permissions of users, MLflow's newer API (3.13 and later): `users/permissions/{get,list,grant,revoke}`.
//!
//! A grant on one resource requires MANAGE on it. Grants on `*` and on `glob:PATTERN` require an administrator of the proxy or of the
//! default workspace.

use std::sync::Arc;

use axum::extract::State;
use serde_json::json;

use crate::api::parse::{self, selector};
use crate::api::{ApiRequest, ApiResponse, ApiResult, Context, Params, Refusal, views};
use crate::authz::{DEFAULT_WORKSPACE, Grant, Permission, Resource, ResourceKind, Selector, Subject};
use crate::http::Reply;
use crate::store;

/// `GET users/current/permissions`. MLflow's pages disable controls by it.
pub(crate) async fn current(State(context): State<Arc<Context>>, request: ApiRequest) -> ApiResult {
    let user = context.user(&request.identity.name).await?;
    Ok(ApiResponse::ok(views::permissions(&user, &context.roles_of(user.id).await?)))
}

/// `GET users/permissions/list?username=`.
pub(crate) async fn list(State(context): State<Arc<Context>>, request: ApiRequest) -> ApiResult {
    let params = request.params()?;
    let name = params.text("username")?;
    let (user, roles) = context.visible_roles_of(&request, name).await?;
    Ok(ApiResponse::ok(views::permissions(&user, &roles)))
}

/// `GET users/permissions/get?username=&resource_type=&resource_id=`: the permission from grants and default.
///
/// As in MLflow, a resource that does not exist is no error, `allowed` means USE, and whether the user is an administrator does not
/// count.
pub(crate) async fn get(State(context): State<Arc<Context>>, request: ApiRequest) -> ApiResult {
    let params = request.params()?;
    let kind = parse::user_kind(params.text("resource_type")?)?;
    let name = params.text("username")?;
    if !request.is(name) {
        context.require_workspace_admin_to_view(&request, DEFAULT_WORKSPACE)?;
    }
    let selector = selector(kind, params.text("resource_id")?)?;
    let user = context.user(name).await?;
    let standing = context.store.standing_of(user.id, user.groups()).await?;
    let policies = context.authn.policies();
    let member = standing.member(user.name_at_provider(), policies.homes().of(user.identity()), user.groups());
    let grants = standing.grants(&policies.enforced(), &member);
    let granted = match &selector {
        Selector::All => grants.level_of_all(kind),
        Selector::Exact(key) => {
            let mut resource = Resource::new(kind, key.as_str());
            if grants.has_globs(kind) {
                context.resolver.name(&mut resource).await?;
            }
            grants.level(&resource)
        }
        Selector::Glob(_) => {
            return Err(Reply::invalid("Ask for one resource or for '*'; a glob has no permission of its own.").into());
        }
    };
    let permission = context.default_permission.level(granted);
    let allowed = permission.covers(Permission::Use);
    Ok(ApiResponse::ok(json!({ "allowed": allowed, "permission": permission.as_str() })))
}

/// `POST users/permissions/grant`. An existing grant is an error.
pub(crate) async fn grant(State(context): State<Arc<Context>>, request: ApiRequest) -> ApiResult {
    let params = request.params()?;
    let (kind, selector) = manageable(&context, &request, &params, parse::new_selector).await?;
    let name = params.text("username")?;
    let permission = parse::level_for(kind, params.text("permission")?)?;
    let user = context.user(name).await?;
    let grant = Grant { subject: Subject::User(user.id), kind, selector, permission };
    let granted = context.store.create_grant(&request.actor(), &grant).await;
    granted.map_err(|error| match error {
        store::Error::Exists(_) => Refusal::exists(message(name, kind, &grant.selector, "already exists")),
        store::Error::NotFound(_) => Refusal::no_user(name),
        other => other.into(),
    })?;
    Ok(ApiResponse::done().warning(context.warn_if_missing(kind, &grant.selector).await))
}

/// `POST users/permissions/revoke`.
pub(crate) async fn revoke(State(context): State<Arc<Context>>, request: ApiRequest) -> ApiResult {
    let params = request.params()?;
    let (kind, selector) = manageable(&context, &request, &params, selector).await?;
    let name = params.text("username")?;
    let user = context.user(name).await?;
    let revoked = context.store.delete_grant(&request.actor(), &Subject::User(user.id), kind, &selector).await;
    revoked.map_err(|error| match error {
        store::Error::NotFound(_) => Refusal::absent(message(name, kind, &selector, "not found")),
        other => other.into(),
    })?;
    Ok(ApiResponse::done())
}

/// Returns the target of a request after the access check, which comes before the look-up of the user, so that callers without
/// permission do not learn which users exist.
async fn manageable(
    context: &Context,
    request: &ApiRequest,
    params: &Params,
    read: fn(ResourceKind, &str) -> Result<Selector, Refusal>,
) -> Result<(ResourceKind, Selector), Refusal> {
    let kind = parse::user_kind(params.text("resource_type")?)?;
    let selector = read(kind, params.text("resource_id")?)?;
    context.require_manage(request, kind, &selector).await?;
    Ok((kind, selector))
}

fn message(user: &str, kind: ResourceKind, selector: &Selector, what: &str) -> String {
    format!("Permission for user={user} on resource_type={kind}, resource_id={selector} {what}.")
}
