//! `GET /auth/api/v1/explain?operation=&resource=[&user=]`: the decision on one operation, with the grants that it comes from.
//!
//! Users ask about themselves, administrators about every user.

use std::sync::Arc;

use axum::extract::State;

use crate::api::{ApiRequest, ApiResponse, ApiResult, Context};
use crate::authz::{Denied, Limits, NeededScope};
use crate::explain::{Examined, add_name, explanation};
use crate::http::Reply;
use crate::mlflow::Question;

/// Handles `GET`.
pub(crate) async fn get(State(context): State<Arc<Context>>, request: ApiRequest) -> ApiResult {
    let params = request.params()?;
    let (operation, resource) = (params.text("operation")?, params.text("resource")?);
    let mut question =
        Question::parse(&context.table, operation, resource).map_err(|error| Reply::invalid(error.to_string()))?;
    let name = params.optional_text("user")?.unwrap_or(&request.identity.name);
    context.require_self_or_admin(&request, name)?;
    let user = context.user(name).await?;
    let about_caller = request.is(name);
    // A token that is limited to resources must not reveal grants on others.
    if about_caller && !request.identity.limits.allow_resource(&question.resource) {
        return Err(Denied::TokenScope(NeededScope::of(&question.resource)).into());
    }
    let limits = if about_caller { request.identity.limits.clone() } else { Limits::default() };
    // The caller's groups come from the credential, which may be newer than the store.
    let groups = if about_caller { request.identity.groups.to_vec() } else { user.groups().to_vec() };
    let standing = context.store.standing_of(user.id, &groups).await?;
    let examined = Examined { user, groups, standing, limits };
    let (file, homes) = (context.authn.policies().enforced(), context.authn.policies().homes());
    if examined.needs_names(&file, homes) {
        add_name(&context.resolver, &mut question).await?;
    }
    Ok(ApiResponse::ok(explanation(&examined, context.default_permission, (&file, homes), operation, &question)))
}
