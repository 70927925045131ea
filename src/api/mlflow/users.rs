//! Accounts: `users/{create,get,list,current,update-password,update-admin,delete}`.
//!
//! Every user sees the names of all accounts, as in MLflow 3.17. The rest requires the user in question or an administrator.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::State;
use secrecy::SecretString;
use serde_json::{Value, json};

use crate::api::{ApiRequest, ApiResponse, ApiResult, Context, Refusal, views};
use crate::authz::{Requirement, Scheme, Subject};
use crate::config;
use crate::http::Reply;
use crate::store::{self, AccessTokens, User};

/// MLflow's minimum.
const MIN_PASSWORD_CHARS: usize = 12;

/// `POST users/create`. MLflow 3.17 answers three fields, older releases six; the proxy answers six.
pub(crate) async fn create(State(context): State<Arc<Context>>, request: ApiRequest) -> ApiResult {
    context.require_any_workspace_admin(&request)?;
    if !request.is_json() {
        return Err(ApiRequest::not_json());
    }
    let params = request.params()?;
    let user =
        context.create_user(&request, params.text_or_null("username")?, params.text_or_null("password")?).await?;
    Ok(ApiResponse::ok(json!({ "user": views::user_with_grants(&user, &[]) })))
}

impl Context {
    /// Creates an account. As in MLflow, administrators of a workspace can create accounts, because a new account has no grants. Where
    /// a name alone carries permissions, through a policy file or an identity provider, it requires an administrator of the proxy.
    pub(crate) async fn create_user(&self, request: &ApiRequest, name: &str, password: &str) -> Result<User, Refusal> {
        if self.authn.names_decide_permissions() {
            self.require(request, Requirement::Admin { change: true })?;
        }
        if name.is_empty() || password.is_empty() {
            return Err(Reply::invalid("Username and password cannot be empty.").into());
        }
        check_name(name)?;
        let password = new_password(password)?;
        let taken = || Refusal::exists(format!("User (username={name}) already exists."));
        // Avoids the cost of a hash for a name in use. The store decides, in its transaction.
        if self.store.user_by_name(name).await?.is_some() {
            return Err(taken());
        }
        let hash = self.authn.hash_password(password).await?;
        // Names carry no permissions here, so a freed name can be used again.
        if !self.authn.names_decide_permissions() {
            match self.store.release_name(&request.actor(), name).await {
                Ok(()) | Err(store::Error::NotFound(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let made = self.store.create_user(&request.actor(), name, Some(&hash), false).await;
        made.map_err(|error| match error {
            store::Error::Exists(_) => taken(),
            other => other.into(),
        })
    }
}

/// `GET users/get?username=`.
pub(crate) async fn get(State(context): State<Arc<Context>>, request: ApiRequest) -> ApiResult {
    let params = request.params()?;
    let name = params.text("username")?;
    context.require_self_or_admin(&request, name)?;
    let user = context.user(name).await?;
    let grants = context.store.grants_of(&Subject::User(user.id)).await?;
    Ok(ApiResponse::ok(json!({ "user": views::user_with_grants(&user, &grants) })))
}

/// `GET users/list`: all names, with the caller's own roles and those in workspaces that the caller administers.
pub(crate) async fn list(State(context): State<Arc<Context>>, request: ApiRequest) -> ApiResult {
    let mut users = context.store.users().await?;
    users.sort_unstable_by_key(|user| user.id);
    let own = request.identity.user;
    let mut held = if request.identity.admin || request.identity.grants.administers_any() {
        context.roles_by_user().await?
    } else {
        HashMap::from([(own, context.roles_of(own).await?)])
    };
    let users = users.iter().map(|user| {
        let mut roles = held.remove(&user.id).unwrap_or_default();
        roles.retain(|role| {
            user.id == own || context.require_workspace_admin_to_view(&request, &role.workspace).is_ok()
        });
        views::user_with_roles(user, &roles)
    });
    Ok(ApiResponse::ok(json!({ "users": Value::from_iter(users) })))
}

/// `GET users/current`: three fields of the user, as in MLflow.
///
/// `is_basic_auth` makes MLflow's pages offer a log-out that works only for HTTP Basic.
pub(crate) async fn current(request: ApiRequest) -> ApiResult {
    let is_basic_auth = match request.identity.scheme {
        Scheme::Password | Scheme::Token(_) => true,
        Scheme::Session(_) | Scheme::Jwt => false,
    };
    let who = &request.identity;
    let user = json!({ "id": who.user.0, "username": &*who.name, "is_admin": who.admin });
    Ok(ApiResponse::ok(json!({ "is_basic_auth": is_basic_auth, "user": user })))
}

/// `PATCH users/update-password`: the caller's own password with `current_password`, every user's for an administrator.
///
/// Differs from MLflow: `revoke_tokens` also revokes the caller's access tokens, and an administrator's reset always revokes the user's.
pub(crate) async fn update_password(State(context): State<Arc<Context>>, request: ApiRequest) -> ApiResult {
    request.refuse_tokens("change passwords")?;
    let params = request.params()?;
    let name = params.text("username")?;
    if request.is(name) {
        let new = params.text_or_null("password")?;
        let current = params.optional_text("current_password")?.unwrap_or_default();
        let tokens = match params.optional_boolean("revoke_tokens")? {
            Some(true) => AccessTokens::Revoke,
            Some(false) | None => AccessTokens::Keep,
        };
        context.change_own_password(&request, current, new, tokens).await?;
        return Ok(ApiResponse::done());
    }
    context.require(&request, Requirement::Admin { change: true })?;
    let password = params.text_or_null("password")?;
    let user = context.user(name).await?;
    let hash = context.authn.hash_password(new_password(password)?).await?;
    let changed = context.store.set_password(&request.actor(), user.id, &hash, AccessTokens::Revoke).await;
    changed.map_err(|error| gone(error, name))?;
    Ok(ApiResponse::done())
}

impl Context {
    /// Replaces the caller's password after checking the current one. Returns the number of revoked access tokens.
    pub(crate) async fn change_own_password(
        &self,
        request: &ApiRequest,
        current: &str,
        new: &str,
        tokens: AccessTokens,
    ) -> Result<u64, Refusal> {
        let user = self.user(&request.identity.name).await?;
        if current.is_empty() {
            return Err(Reply::invalid("Current password is required when changing your own password.").into());
        }
        if !self.authn.verify_password(&user, current.into(), request.address).await? {
            return Err(Reply::invalid("Current password does not match.").into());
        }
        if new == current {
            return Err(Reply::invalid("New password must differ from the current password.").into());
        }
        let hash = self.authn.hash_password(new_password(new)?).await?;
        let changed = self.store.set_password(&request.actor(), user.id, &hash, tokens).await;
        changed.map_err(|error| gone(error, &user.name))
    }
}

/// `PATCH users/update-admin`. Differs from MLflow, which accepts numbers for `is_admin` and lets the last administrator resign.
pub(crate) async fn update_admin(State(context): State<Arc<Context>>, request: ApiRequest) -> ApiResult {
    context.require(&request, Requirement::Admin { change: true })?;
    let params = request.params()?;
    let (name, admin) = (params.text("username")?, params.boolean("is_admin")?);
    let user = context.user(name).await?;
    let changed = context.store.set_admin(&request.actor(), user.id, admin).await;
    changed.map_err(|error| gone(error, name))?;
    Ok(ApiResponse::done())
}

/// `DELETE users/delete`: deletes the account with its access tokens and grants.
pub(crate) async fn delete(State(context): State<Arc<Context>>, request: ApiRequest) -> ApiResult {
    context.require(&request, Requirement::Admin { change: true })?;
    let params = request.params()?;
    let name = params.text("username")?;
    if request.is(name) {
        let message = "Users cannot delete their own account. Ask another admin to delete this user instead.";
        return Err(Refusal::bad_request(message));
    }
    let user = context.user(name).await?;
    let deleted = context.store.delete_user(&request.actor(), user.id).await;
    deleted.map_err(|error| gone(error, name))?;
    Ok(ApiResponse::done())
}

/// Maps the error for a user who was deleted since the look-up.
fn gone(error: store::Error, name: &str) -> Refusal {
    match error {
        store::Error::NotFound(_) => Refusal::no_user(name),
        other => other.into(),
    }
}

/// Checks a new name by the rule of the command line, because HTTP Basic cannot carry every name that MLflow stores.
fn check_name(name: &str) -> Result<(), Refusal> {
    config::check_username(name).map_err(|why| Reply::invalid(format!("Username {why}.")).into())
}

fn new_password(password: &str) -> Result<SecretString, Refusal> {
    // MLflow's message.
    if password.chars().count() < MIN_PASSWORD_CHARS {
        return Err(Reply::invalid(format!("Password must be at least {MIN_PASSWORD_CHARS} characters.")).into());
    }
    config::check_password(password).map_err(|why| Reply::invalid(format!("Password {why}.")))?;
    Ok(password.into())
}
