//! Access tokens of one's own: `/auth/api/v1/tokens`.
//!
//! A token without resource scopes sees its owner's tokens; every token may end itself, and nothing else here: a thief of one cannot make another, and
//! it ends when it was to end. An administrator sees and ends other people's, never makes them.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use serde_json::{Value, json};

use super::asked::{Asked, Params, refuse_tokens};
use super::{Answer, Parts, Refusal, shapes};
use crate::authz::{Denied, Limits, Requirement, Scheme, TokenId, UserId};
use crate::clock::Timestamp;
use crate::crypto::AccessToken;
use crate::http::Reply;
use crate::store::{self, NewToken, Token};
use crate::text;

const DAY: Duration = Duration::from_hours(24);

/// `GET /auth/api/v1/tokens[?user=]`: newest first, ended ones included, secrets never. A token with resource scopes sees
/// itself only.
pub(super) async fn list(State(parts): State<Arc<Parts>>, asked: Asked) -> Answer {
    let (owner, name) = owner(&parts, &asked, Requirement::Admin { change: false }).await?;
    let now = parts.clock.now();
    let mut tokens = parts.store.tokens_of(owner).await?;
    if !asked.identity.limits.resources.is_empty() {
        tokens.retain(|token| asked.identity.scheme == Scheme::Token(token.id));
    }
    let tokens: Vec<_> = tokens.iter().map(|token| shapes::token(token, &name, now)).collect();
    Ok(shapes::Shape::ok(json!({ "tokens": tokens })))
}

/// `POST /auth/api/v1/tokens` with `name`, `expires_in_days` and perhaps `scopes`: the only answer with the secret.
pub(super) async fn create(State(parts): State<Arc<Parts>>, asked: Asked) -> Answer {
    refuse_tokens(&asked, "make access tokens")?;
    only_own(&asked)?;
    let params = asked.fields(&["name", "expires_in_days", "scopes"])?;
    let scopes = params.optional_texts("scopes")?;
    let (token, secret) =
        make(&parts, &asked, params.text("name")?, params.integer("expires_in_days")?, &scopes).await?;
    Ok(shapes::Shape::created(with_secret(&parts, &asked, &token, &secret)))
}

/// Makes one of the caller's own.
pub(super) async fn make(
    parts: &Parts,
    asked: &Asked,
    name: &str,
    expires_in_days: i64,
    scopes: &[String],
) -> Result<(Token, AccessToken), Refusal> {
    check_name(name)?;
    let expires = expiry(parts, expires_in_days)?;
    let limits = Limits::parse(scopes.iter().map(String::as_str))
        .map_err(|error| Reply::invalid(format!("Invalid value for parameter 'scopes' supplied: {error}.")))?;
    let secret = AccessToken::generate();
    let user = asked.identity.user;
    let token = NewToken { user, name, hash: secret.hash(), limits: &limits, expires };
    let token = parts.store.create_token(&asked.actor(), token).await.map_err(|error| taken(error, name))?;
    Ok((token, secret))
}

/// `DELETE /auth/api/v1/tokens` with `{"id": ...}`.
pub(super) async fn revoke(State(parts): State<Arc<Parts>>, asked: Asked) -> Answer {
    let params = if asked.is_json() { asked.fields(&["id"])? } else { asked.params()? };
    end(&parts, &asked, TokenId(params.integer("id")?)).await
}

/// `DELETE /auth/api/v1/tokens/{id}`.
pub(super) async fn revoke_by_path(State(parts): State<Arc<Parts>>, Path(id): Path<String>, asked: Asked) -> Answer {
    end(&parts, &asked, number(&id)?).await
}

/// `POST /auth/api/v1/tokens/{id}/rotate`, perhaps with `expires_in_days`; without it the token ends when it was to end.
pub(super) async fn rotate(State(parts): State<Arc<Parts>>, Path(id): Path<String>, asked: Asked) -> Answer {
    refuse_tokens(&asked, "rotate access tokens")?;
    only_own(&asked)?;
    let params = asked.fields(&["expires_in_days"])?;
    let (rotated, secret) = renew(&parts, &asked, number(&id)?, params.optional_integer("expires_in_days")?).await?;
    Ok(shapes::Shape::ok(with_secret(&parts, &asked, &rotated, &secret)))
}

/// Gives one of the caller's own a new secret.
pub(super) async fn renew(
    parts: &Parts,
    asked: &Asked,
    id: TokenId,
    expires_in_days: Option<i64>,
) -> Result<(Token, AccessToken), Refusal> {
    let token = find(parts, id, asked.identity.user).await?;
    let expires = match expires_in_days {
        Some(days) => expiry(parts, days)?,
        None if token.expires > parts.clock.now() => token.expires,
        None => return Err(Reply::invalid("The token has expired. Say 'expires_in_days' to renew it.").into()),
    };
    let secret = AccessToken::generate();
    let rotated = parts.store.rotate_token(&asked.actor(), id, secret.hash(), expires).await;
    parts.authn.forget(token.user);
    let rotated = rotated.map_err(|error| match error {
        store::Error::NotFound(_) => Refusal::absent(format!("Token with id={id} was revoked. Make a new one.")),
        other => taken(other, &token.name),
    })?;
    Ok((rotated, secret))
}

/// Ends one, at once.
pub(super) async fn end(parts: &Parts, asked: &Asked, id: TokenId) -> Answer {
    if asked.identity.limits.read_only {
        return Err(Denied::TokenIsReadOnly.into());
    }
    match asked.identity.scheme {
        Scheme::Password | Scheme::Session(_) => {}
        Scheme::Token(own) if own == id => {}
        Scheme::Token(_) | Scheme::Jwt => return Err(Refusal::token_may_not("revoke another access token")),
    }
    let (owner, _) = owner(parts, asked, Requirement::Admin { change: true }).await?;
    let token = find(parts, id, owner).await?;
    let revoked = parts.store.revoke_token(&asked.actor(), token.id).await;
    parts.authn.forget(owner);
    revoked.map_err(|error| match error {
        store::Error::NotFound(_) => absent(id),
        other => other.into(),
    })?;
    Ok(shapes::Shape::done())
}

/// Whose tokens are meant: `?user=`, which takes an administrator, or the caller.
pub(super) async fn owner(parts: &Parts, asked: &Asked, needed: Requirement) -> Result<(UserId, String), Refusal> {
    let params = Params::Query(asked.query()?);
    match params.optional_text("user")? {
        Some(name) if !asked.is(name) => {
            parts.require(asked, needed)?;
            let user = parts.user(name).await?;
            Ok((user.id, user.name))
        }
        Some(_) | None => Ok((asked.identity.user, asked.identity.name.to_string())),
    }
}

/// A secret is for its owner: nobody makes or rotates another's token.
fn only_own(asked: &Asked) -> Result<(), Refusal> {
    match Params::Query(asked.query()?).optional_text("user")? {
        Some(name) if !asked.is(name) => {
            Err(Reply::invalid("Access tokens can only be made and rotated by their owner. Leave 'user' out.").into())
        }
        Some(_) | None => Ok(()),
    }
}

/// The token, when it is this user's. Another's looks as if there were none.
async fn find(parts: &Parts, id: TokenId, owner: UserId) -> Result<Token, Refusal> {
    let token = parts.store.token(id).await?;
    token.filter(|token| token.user == owner).ok_or_else(|| absent(id))
}

fn absent(id: TokenId) -> Refusal {
    Refusal::absent(format!("Token with id={id} not found"))
}

fn taken(error: store::Error, name: &str) -> Refusal {
    match error {
        store::Error::Exists(_) => {
            Refusal::exists(format!("You have a token named '{name}'. Revoke it, or choose another name."))
        }
        other => other.into(),
    }
}

fn with_secret(parts: &Parts, asked: &Asked, token: &Token, secret: &AccessToken) -> Value {
    shapes::with(shapes::token(token, &asked.identity.name, parts.clock.now()), "token", secret.reveal())
}

fn check_name(name: &str) -> Result<(), Refusal> {
    text::check_name(name).map_err(|why| Reply::invalid(format!("Parameter 'name' {why}.")).into())
}

fn expiry(parts: &Parts, days: i64) -> Result<Timestamp, Refusal> {
    let max = parts.config.token_max_days;
    match u32::try_from(days) {
        Ok(days) if (1..=max).contains(&days) => Ok(parts.clock.now().plus(DAY * days)),
        _ => Err(Reply::invalid(format!("Parameter 'expires_in_days' must be from 1 to {max}. Got: {days}")).into()),
    }
}

pub(super) fn number(id: &str) -> Result<TokenId, Refusal> {
    let number = id.parse().map(TokenId);
    number.map_err(|_| Reply::invalid(format!("Parameter 'id' must be an integer. Got: '{id}'")).into())
}
