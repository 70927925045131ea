//! Access tokens: one's own, or anybody's for an administrator. A token cannot make tokens.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Answer, Call, Pages, already, denied, missing, refused};
use crate::authz::{Limits, Scheme, TokenId};
use crate::clock::Timestamp;
use crate::crypto::AccessToken;
use crate::http::Reply;
use crate::store::{self, NewToken, Token, User};

const NAME_CHARS: usize = 100;

impl Pages {
    pub(super) fn me(call: &Call) -> Value {
        let who = &call.who;
        json!({
            "username": *who.name,
            "is_admin": who.admin,
            "scheme": who.scheme.as_str(),
            "scopes": who.limits.scopes(),
        })
    }

    pub(super) async fn create_token(&self, call: &Call) -> Answer {
        no_token(call)?;
        let name = call.fields.text("name")?.trim();
        if name.is_empty() || name.chars().count() > NAME_CHARS || name.contains(char::is_control) {
            return Err(Reply::invalid(format!("Invalid name. Use 1 to {NAME_CHARS} characters.")));
        }
        let limits = limits(call)?;
        let owner = self.owner(call).await?;
        let token = AccessToken::generate();
        let new = NewToken { user: owner.id, name, hash: token.hash(), limits: &limits, expires: self.expiry(call)? };
        let made = self.store.create_token(&call.actor(), new).await.map_err(|error| match error {
            store::Error::Exists(_) => already(format!(
                "Token with name={name} already exists. Revoke it first, rotate it, or choose another name."
            )),
            other => refused(other),
        })?;
        Ok(with_secret(self.shown(&made), &token))
    }

    pub(super) async fn list_tokens(&self, call: &Call) -> Answer {
        let owner = self.owner(call).await?;
        let tokens = self.store.tokens_of(owner.id).await.map_err(refused)?;
        Ok(json!({ "tokens": tokens.iter().map(|token| self.shown(token)).collect::<Vec<Value>>() }))
    }

    /// A token may end itself, and nothing else.
    pub(super) async fn revoke_token(&self, call: &Call, id: i64) -> Answer {
        let token = self.theirs(call, TokenId(id)).await?;
        if let Scheme::Token(own) = call.who.scheme
            && own != token.id
        {
            return Err(denied("An access token can revoke itself only. Sign in with the password."));
        }
        self.store.revoke_token(&call.actor(), token.id).await.map_err(refused)?;
        self.authn.forget(token.user);
        Ok(json!({}))
    }

    pub(super) async fn rotate_token(&self, call: &Call, id: i64) -> Answer {
        no_token(call)?;
        let token = self.theirs(call, TokenId(id)).await?;
        let secret = AccessToken::generate();
        let rotated = self.store.rotate_token(&call.actor(), token.id, secret.hash(), self.expiry(call)?).await;
        let rotated = rotated.map_err(|error| match error {
            store::Error::NotFound(_) => missing(format!("Token with id={id} not found, or revoked.")),
            other => refused(other),
        })?;
        self.authn.forget(token.user);
        Ok(with_secret(self.shown(&rotated), &secret))
    }

    /// The caller, or whom an administrator named with `user`.
    async fn owner(&self, call: &Call) -> Result<User, Reply> {
        let name = call.fields.text_if_any("user")?.unwrap_or(&call.who.name);
        if *name != *call.who.name {
            call.must_be_admin()?;
        }
        self.user(name).await
    }

    /// A token of the caller's; to others it does not exist.
    async fn theirs(&self, call: &Call, id: TokenId) -> Result<Token, Reply> {
        let token = self.store.token(id).await.map_err(refused)?;
        let visible = token.filter(|token| token.user == call.who.user || call.must_be_admin().is_ok());
        visible.ok_or_else(|| missing(format!("Token with id={id} not found.")))
    }

    fn expiry(&self, call: &Call) -> Result<Timestamp, Reply> {
        let days = call.fields.integer("expires_in_days")?;
        let most = self.config.token_max_days;
        match u32::try_from(days) {
            Ok(days) if days >= 1 && days <= most => {
                Ok(self.clock.now().plus(Duration::from_secs(u64::from(days) * 24 * 60 * 60)))
            }
            _ => Err(Reply::invalid(format!("Parameter 'expires_in_days' must be between 1 and {most}. Got: {days}"))),
        }
    }

    fn shown(&self, token: &Token) -> Value {
        let state = match token.revoked {
            Some(_) => "revoked",
            None if token.expires <= self.clock.now() => "expired",
            None => "live",
        };
        json!({
            "id": token.id.0,
            "name": token.name,
            "state": state,
            "scopes": token.limits.scopes(),
            "created_at": token.created.0,
            "expires_at": token.expires.0,
            "last_used_at": token.last_used.map(|at| at.0),
            "revoked_at": token.revoked.map(|at| at.0),
        })
    }
}

fn no_token(call: &Call) -> Result<(), Reply> {
    match call.who.scheme {
        Scheme::Password => Ok(()),
        Scheme::Token(_) => Err(denied("An access token cannot make or rotate tokens. Sign in with the password.")),
    }
}

fn limits(call: &Call) -> Result<Limits, Reply> {
    let wrong = || Reply::invalid("Invalid value for parameter 'scopes' supplied: it must be a list of strings.");
    let scopes = match call.fields.get("scopes") {
        None => Vec::new(),
        Some(Value::Array(scopes)) => {
            scopes.iter().map(Value::as_str).collect::<Option<Vec<&str>>>().ok_or_else(wrong)?
        }
        Some(_) => return Err(wrong()),
    };
    if scopes.len() > 100 {
        return Err(Reply::invalid("A token may have at most 100 scopes."));
    }
    Limits::parse(scopes).map_err(|error| Reply::invalid(format!("Invalid scope: {error}.")))
}

fn with_secret(mut shown: Value, token: &AccessToken) -> Value {
    if let Value::Object(members) = &mut shown {
        members.insert("token".to_owned(), Value::from(token.reveal()));
    }
    shown
}
