//! Accounts: `users/{create,get,list,current,update-password,update-admin,delete}` and `/auth/api/v1/me`.
//!
//! Everybody may see who has an account, as in MLflow 3.17; the rest is for oneself or for administrators.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::State;
use secrecy::SecretString;
use serde_json::{Value, json};

use super::asked::{Asked, refuse_tokens};
use super::{Answer, Parts, Refusal, shapes};
use crate::authz::{Requirement, Scheme, Subject};
use crate::config;
use crate::http::Reply;
use crate::store::{self, AccessTokens, User};

/// MLflow's own bound.
const MIN_PASSWORD_CHARS: usize = 12;

/// `POST users/create`. MLflow 3.17 answers three fields and older ones six; we answer six.
pub(super) async fn create(State(parts): State<Arc<Parts>>, asked: Asked) -> Answer {
    parts.require_admin_of_any(&asked)?;
    if !asked.is_json() {
        return Err(Asked::not_json());
    }
    let params = asked.params()?;
    let user = parts.sign_up(&asked, params.text_or_null("username")?, params.text_or_null("password")?).await?;
    Ok(shapes::Shape::ok(json!({ "user": shapes::user_with_grants(&user, &[]) })))
}

impl Parts {
    /// Makes an account. It may do nothing yet, so administrators of workspaces may make one too, as in MLflow; unless a name
    /// says something by itself, in a policy or because an identity provider's people are called by theirs.
    pub(super) async fn sign_up(&self, asked: &Asked, name: &str, password: &str) -> Result<User, Refusal> {
        if self.authn.names_say_something() {
            self.require(asked, Requirement::Admin { change: true })?;
        }
        if name.is_empty() || password.is_empty() {
            return Err(Reply::invalid("Username and password cannot be empty.").into());
        }
        check_name(name)?;
        let password = new_password(password)?;
        let taken = || Refusal::exists(format!("User (username={name}) already exists."));
        // Asked before a core is spent on the hash; the store's answer is the one that counts.
        if self.store.user_by_name(name).await?.is_some() {
            return Err(taken());
        }
        let hash = self.authn.hash_password(password).await?;
        // Where names grant nothing, nothing can be inherited with one.
        if !self.authn.names_say_something() {
            match self.store.release_name(&asked.actor(), name).await {
                Ok(()) | Err(store::Error::NotFound(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let made = self.store.create_user(&asked.actor(), name, Some(&hash), false).await;
        made.map_err(|error| match error {
            store::Error::Exists(_) => taken(),
            other => other.into(),
        })
    }
}

/// `GET users/get?username=`.
pub(super) async fn get(State(parts): State<Arc<Parts>>, asked: Asked) -> Answer {
    let params = asked.params()?;
    let name = params.text("username")?;
    parts.require_self_or_admin(&asked, name)?;
    let user = parts.user(name).await?;
    let grants = parts.store.grants_of(&Subject::User(user.id)).await?;
    Ok(shapes::Shape::ok(json!({ "user": shapes::user_with_grants(&user, &grants) })))
}

/// `GET users/list`: everybody sees everybody's name, but only their own roles and those of workspaces they administer.
pub(super) async fn list(State(parts): State<Arc<Parts>>, asked: Asked) -> Answer {
    let mut users = parts.store.users().await?;
    users.sort_unstable_by_key(|user| user.id);
    let own = asked.identity.user;
    let mut held = if asked.identity.admin || asked.identity.grants.administers_any() {
        parts.roles_by_user().await?
    } else {
        HashMap::from([(own, parts.roles_of(own).await?)])
    };
    let users = users.iter().map(|user| {
        let mut roles = held.remove(&user.id).unwrap_or_default();
        roles.retain(|role| user.id == own || parts.require_sight_of(&asked, &role.workspace).is_ok());
        shapes::user_with_roles(user, &roles)
    });
    Ok(shapes::Shape::ok(json!({ "users": Value::from_iter(users) })))
}

/// `GET users/current`: exactly three fields of the user.
///
/// `is_basic_auth` makes MLflow's pages offer to log out, which works for whatever a browser sends as Basic.
pub(super) async fn current(asked: Asked) -> Answer {
    let is_basic_auth = match asked.identity.scheme {
        Scheme::Password | Scheme::Token(_) => true,
        Scheme::Session(_) | Scheme::Jwt => false,
    };
    let who = &asked.identity;
    let user = json!({ "id": who.user.0, "username": &*who.name, "is_admin": who.admin });
    Ok(shapes::Shape::ok(json!({ "is_basic_auth": is_basic_auth, "user": user })))
}

/// `PATCH users/update-password`: one's own with `current_password`, anybody's for an administrator.
///
/// Beyond MLflow: `revoke_tokens` also revokes one's own access tokens. An administrator's reset always revokes the user's.
pub(super) async fn update_password(State(parts): State<Arc<Parts>>, asked: Asked) -> Answer {
    refuse_tokens(&asked, "change passwords")?;
    let params = asked.params()?;
    let name = params.text("username")?;
    if asked.is(name) {
        let new = params.text_or_null("password")?;
        let current = params.optional_text("current_password")?.unwrap_or_default();
        let tokens = match params.optional_boolean("revoke_tokens")? {
            Some(true) => AccessTokens::Revoke,
            Some(false) | None => AccessTokens::Keep,
        };
        parts.change_own_password(&asked, current, new, tokens).await?;
        return Ok(shapes::Shape::done());
    }
    parts.require(&asked, Requirement::Admin { change: true })?;
    let password = params.text_or_null("password")?;
    let user = parts.user(name).await?;
    let hash = parts.authn.hash_password(new_password(password)?).await?;
    let changed = parts.store.set_password(&asked.actor(), user.id, &hash, AccessTokens::Revoke).await;
    parts.authn.forget(user.id);
    changed.map_err(|error| gone(error, name))?;
    Ok(shapes::Shape::done())
}

impl Parts {
    /// Replaces the caller's password, who proves the current one. Returns the number of access tokens that were revoked.
    pub(super) async fn change_own_password(
        &self,
        asked: &Asked,
        current: &str,
        new: &str,
        tokens: AccessTokens,
    ) -> Result<u64, Refusal> {
        let user = self.user(&asked.identity.name).await?;
        if current.is_empty() {
            return Err(Reply::invalid("Current password is required when changing your own password.").into());
        }
        if !self.authn.verify_password(&user, current.into(), asked.address).await? {
            return Err(Reply::invalid("Current password does not match.").into());
        }
        if new == current {
            return Err(Reply::invalid("New password must differ from the current password.").into());
        }
        let hash = self.authn.hash_password(new_password(new)?).await?;
        let changed = self.store.set_password(&asked.actor(), user.id, &hash, tokens).await;
        self.authn.forget(user.id);
        changed.map_err(|error| gone(error, &user.name))
    }
}

/// `PATCH users/update-admin`. MLflow also takes numbers for `is_admin`, and lets the last administrator leave.
pub(super) async fn update_admin(State(parts): State<Arc<Parts>>, asked: Asked) -> Answer {
    parts.require(&asked, Requirement::Admin { change: true })?;
    let params = asked.params()?;
    let (name, admin) = (params.text("username")?, params.boolean("is_admin")?);
    let user = parts.user(name).await?;
    let changed = parts.store.set_admin(&asked.actor(), user.id, admin).await;
    parts.authn.forget(user.id);
    changed.map_err(|error| gone(error, name))?;
    Ok(shapes::Shape::done())
}

/// `DELETE users/delete`; also their access tokens and grants.
pub(super) async fn delete(State(parts): State<Arc<Parts>>, asked: Asked) -> Answer {
    parts.require(&asked, Requirement::Admin { change: true })?;
    let params = asked.params()?;
    let name = params.text("username")?;
    if asked.is(name) {
        let message = "Users cannot delete their own account. Ask another admin to delete this user instead.";
        return Err(Refusal::bad_request(message));
    }
    let user = parts.user(name).await?;
    let deleted = parts.store.delete_user(&asked.actor(), user.id).await;
    parts.authn.forget(user.id);
    deleted.map_err(|error| gone(error, name))?;
    Ok(shapes::Shape::done())
}

/// `GET /auth/api/v1/me`: who am I to this proxy, and what may this credential do?
pub(super) async fn me(asked: Asked) -> Answer {
    let who = &asked.identity;
    Ok(shapes::Shape::ok(json!({
        "id": who.user.0,
        "username": &*who.name,
        "groups": &*who.groups,
        "is_admin": who.admin,
        "scheme": who.scheme.as_str(),
        "token_id": who.scheme.token().map(|id| id.0),
        "scopes": who.limits.scopes(),
    })))
}

/// A user who was there a moment ago.
fn gone(error: store::Error, name: &str) -> Refusal {
    match error {
        store::Error::NotFound(_) => Refusal::no_user(name),
        other => other.into(),
    }
}

/// HTTP Basic cannot carry every name that MLflow stores. The rule is the command line's too.
fn check_name(name: &str) -> Result<(), Refusal> {
    config::check_username(name).map_err(|why| Reply::invalid(format!("Username {why}.")).into())
}

fn new_password(password: &str) -> Result<SecretString, Refusal> {
    // MLflow's own words for the usual mistake.
    if password.chars().count() < MIN_PASSWORD_CHARS {
        return Err(Reply::invalid(format!("Password must be at least {MIN_PASSWORD_CHARS} characters.")).into());
    }
    config::check_password(password).map_err(|why| Reply::invalid(format!("Password {why}.")))?;
    Ok(password.into())
}
