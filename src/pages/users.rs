//! Accounts: `users/{create,get,list,current,update-password,update-admin,delete}`.

use http::StatusCode;
use secrecy::SecretString;
use serde_json::{Value, json};

use super::{Answer, Call, Pages, already, denied, not_hashed, refused, subject};
use crate::authz::{ResourceKind, Scheme};
use crate::crypto::AccessToken;
use crate::http::{ErrorCode, Reply};
use crate::store::{self, User};

/// MLflow's own minimum since 3.13.
const PASSWORD_CHARS: usize = 12;
const NAME_CHARS: usize = 255;

impl Pages {
    pub(super) async fn create_user(&self, call: &Call) -> Answer {
        call.must_be_admin()?;
        let name = call.fields.text_if_any("username")?.unwrap_or_default();
        let password = call.fields.text_if_any("password")?.unwrap_or_default();
        if name.is_empty() || password.is_empty() {
            return Err(Reply::invalid("Username and password cannot be empty."));
        }
        check_name(name)?;
        check_password(password)?;
        if self.store.user_by_name(name).await.map_err(refused)?.is_some() {
            return Err(taken(name));
        }
        let hash = self.authn.hash_password(SecretString::from(password)).await.map_err(not_hashed)?;
        let made = self.store.create_user(&call.actor(), name, Some(&hash), false).await;
        let user = made.map_err(|error| match error {
            store::Error::Exists(_) => taken(name),
            other => refused(other),
        })?;
        Ok(json!({ "user": self.with_permissions(&user).await? }))
    }

    pub(super) async fn get_user(&self, call: &Call) -> Answer {
        let name = call.fields.text("username")?;
        if !call.who.admin && *call.who.name != *name {
            return Err(denied("This needs an administrator."));
        }
        let user = self.user(name).await?;
        Ok(json!({ "user": self.with_permissions(&user).await? }))
    }

    /// Anybody who signed in may know who is here: MLflow's own sharing dialogue needs it.
    pub(super) async fn list_users(&self) -> Answer {
        let users = self.store.users().await.map_err(refused)?;
        let users: Vec<Value> = users
            .iter()
            .map(|user| json!({ "id": user.id.0, "username": user.name, "is_admin": user.admin, "roles": [] }))
            .collect();
        Ok(json!({ "users": users }))
    }

    pub(super) fn current_user(call: &Call) -> Value {
        let who = &call.who;
        json!({
            "user": { "id": who.user.0, "username": *who.name, "is_admin": who.admin },
            "is_basic_auth": who.scheme == Scheme::Password,
        })
    }

    pub(super) async fn update_password(&self, call: &Call) -> Answer {
        let name = call.fields.text("username")?;
        let password = call.fields.text("password")?;
        if call.who.scheme != Scheme::Password {
            return Err(denied("An access token cannot change passwords. Sign in with the password."));
        }
        let is_self = *call.who.name == *name;
        if !is_self && !call.who.admin {
            return Err(denied("This needs an administrator."));
        }
        let user = self.user(name).await?;
        check_password(password)?;
        if is_self {
            let Some(current) = call.fields.text_if_any("current_password")?.filter(|current| !current.is_empty())
            else {
                return Err(Reply::invalid("Current password is required when changing your own password."));
            };
            let right = self.authn.verify_password(&user, SecretString::from(current), call.address).await;
            if !right.map_err(not_hashed)? {
                return Err(Reply::invalid("Current password does not match."));
            }
            if current == password {
                return Err(Reply::invalid("New password must differ from the current password."));
            }
        }
        let hash = self.authn.hash_password(SecretString::from(password)).await.map_err(not_hashed)?;
        self.store.set_password(&call.actor(), user.id, &hash).await.map_err(refused)?;
        self.authn.forget(user.id);
        Ok(json!({}))
    }

    pub(super) async fn update_admin(&self, call: &Call) -> Answer {
        call.must_be_admin()?;
        let name = call.fields.text("username")?;
        let admin = match call.fields.get("is_admin") {
            Some(Value::Bool(admin)) => *admin,
            Some(_) => {
                return Err(Reply::invalid("Invalid value for parameter 'is_admin' supplied: it must be a boolean."));
            }
            None => {
                call.fields.text("is_admin")?;
                return Err(Reply::invalid("Missing value for required parameter 'is_admin'."));
            }
        };
        let user = self.user(name).await?;
        self.store.set_admin(&call.actor(), user.id, admin).await.map_err(refused)?;
        self.authn.forget(user.id);
        Ok(json!({}))
    }

    pub(super) async fn delete_user(&self, call: &Call) -> Answer {
        call.must_be_admin()?;
        let name = call.fields.text("username")?;
        if *call.who.name == *name {
            let message = "Users cannot delete their own account. Ask another admin to delete this user instead.";
            return Err(Reply::new(StatusCode::BAD_REQUEST, ErrorCode::BadRequest, message));
        }
        let user = self.user(name).await?;
        self.store.delete_user(&call.actor(), user.id).await.map_err(refused)?;
        self.authn.forget(user.id);
        Ok(json!({}))
    }

    /// With the lists that clients up to 3.12 read.
    async fn with_permissions(&self, user: &User) -> Answer {
        let grants = self.store.grants_of(&subject(user.id)).await.map_err(refused)?;
        let of = |kind: ResourceKind, key: &str| -> Vec<Value> {
            grants
                .iter()
                .filter(|grant| grant.kind == kind)
                .map(|grant| {
                    json!({
                        key: grant.selector.to_string(), "user_id": user.id.0, "permission": grant.permission.as_str(),
                    })
                })
                .collect()
        };
        Ok(json!({
            "id": user.id.0,
            "username": user.name,
            "is_admin": user.admin,
            "experiment_permissions": of(ResourceKind::Experiment, "experiment_id"),
            "registered_model_permissions": of(ResourceKind::RegisteredModel, "name"),
            "scorer_permissions": [],
        }))
    }
}

fn taken(name: &str) -> Reply {
    already(format!("User (username={name}) already exists."))
}

/// Basic authentication cannot carry a colon in a name (RFC 7617 §2).
fn check_name(name: &str) -> Result<(), Reply> {
    let plain = !name.contains(':') && !name.contains(char::is_control) && name.trim() == name;
    if plain && name.chars().count() <= NAME_CHARS {
        return Ok(());
    }
    Err(Reply::invalid(format!(
        "Invalid username. Use at most {NAME_CHARS} characters, no `:`, no control characters, no space at either end."
    )))
}

fn check_password(password: &str) -> Result<(), Reply> {
    if password.chars().count() < PASSWORD_CHARS {
        return Err(Reply::invalid(format!("Password must be at least {PASSWORD_CHARS} characters.")));
    }
    if AccessToken::looks_like(password) || password.contains(char::is_control) {
        return Err(Reply::invalid(
            "Invalid password. It must not look like an access token nor hold control characters.",
        ));
    }
    Ok(())
}
