//! `/auth/api/v1/tokens`: lists, creates, rotates and revokes access tokens.
//!
//! An access token can revoke itself, and list its owner's tokens unless it is limited to resources. It can neither create nor rotate
//! tokens, so a stolen one cannot outlive its expiry. Administrators list and revoke other users' tokens, but cannot create them.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use serde_json::{Value, json};

use crate::api::{ApiRequest, ApiResponse, ApiResult, Context, Params, Refusal, views};
use crate::authz::{Denied, Limits, Requirement, Scheme, TokenId, UserId};
use crate::clock::Timestamp;
use crate::crypto::AccessToken;
use crate::http::Reply;
use crate::store::{self, NewToken, Token};
use crate::text;

const DAY: Duration = Duration::from_hours(24);

/// `GET /auth/api/v1/tokens[?user=]`: newest first, with expired and revoked ones, without secrets. A token that is limited to
/// resources sees only itself.
pub(crate) async fn list(State(context): State<Arc<Context>>, request: ApiRequest) -> ApiResult {
    let (owner, name) = owner(&context, &request, Requirement::Admin { change: false }).await?;
    let now = context.clock.now();
    let mut tokens = context.store.tokens_of(owner).await?;
    if !request.identity.limits.resources.is_empty() {
        tokens.retain(|token| request.identity.scheme == Scheme::Token(token.id));
    }
    let tokens: Vec<_> = tokens.iter().map(|token| views::token(token, &name, now)).collect();
    Ok(ApiResponse::ok(json!({ "tokens": tokens })))
}

/// `POST /auth/api/v1/tokens` with `name`, `expires_in_days` and optional `scopes`. Only this answer contains the secret.
pub(crate) async fn create(State(context): State<Arc<Context>>, request: ApiRequest) -> ApiResult {
    request.refuse_tokens("create access tokens")?;
    only_own(&request)?;
    let params = request.fields(&["name", "expires_in_days", "scopes"])?;
    let scopes = params.optional_texts("scopes")?;
    let (token, secret) =
        create_for_caller(&context, &request, params.text("name")?, params.integer("expires_in_days")?, &scopes)
            .await?;
    Ok(ApiResponse::created(with_secret(&context, &request, &token, &secret)))
}

/// Creates an access token of the caller.
pub(crate) async fn create_for_caller(
    context: &Context,
    request: &ApiRequest,
    name: &str,
    expires_in_days: i64,
    scopes: &[String],
) -> Result<(Token, AccessToken), Refusal> {
    check_name(name)?;
    let expires = expiry(context, expires_in_days)?;
    let limits = Limits::parse(scopes.iter().map(String::as_str))
        .map_err(|error| Reply::invalid(format!("Invalid value for parameter 'scopes' supplied: {error}.")))?;
    let secret = AccessToken::generate();
    let user = request.identity.user;
    let token = NewToken { user, name, hash: secret.hash(), limits: &limits, expires };
    let token = context.store.create_token(&request.actor(), token).await.map_err(|error| taken(error, name))?;
    Ok((token, secret))
}

/// `DELETE /auth/api/v1/tokens` with `{"id": ...}`.
pub(crate) async fn revoke(State(context): State<Arc<Context>>, request: ApiRequest) -> ApiResult {
    let params = if request.is_json() { request.fields(&["id"])? } else { request.params()? };
    revoke_by_id(&context, &request, TokenId(params.integer("id")?)).await
}

/// `DELETE /auth/api/v1/tokens/{id}`.
pub(crate) async fn revoke_by_path(
    State(context): State<Arc<Context>>,
    Path(id): Path<String>,
    request: ApiRequest,
) -> ApiResult {
    revoke_by_id(&context, &request, parse_id(&id)?).await
}

/// `POST /auth/api/v1/tokens/{id}/rotate` with optional `expires_in_days`. Without it, the expiry does not change.
pub(crate) async fn rotate(
    State(context): State<Arc<Context>>,
    Path(id): Path<String>,
    request: ApiRequest,
) -> ApiResult {
    request.refuse_tokens("rotate access tokens")?;
    only_own(&request)?;
    let params = request.fields(&["expires_in_days"])?;
    let (rotated, secret) =
        rotate_for_caller(&context, &request, parse_id(&id)?, params.optional_integer("expires_in_days")?).await?;
    Ok(ApiResponse::ok(with_secret(&context, &request, &rotated, &secret)))
}

/// Replaces the secret of one of the caller's tokens.
pub(crate) async fn rotate_for_caller(
    context: &Context,
    request: &ApiRequest,
    id: TokenId,
    expires_in_days: Option<i64>,
) -> Result<(Token, AccessToken), Refusal> {
    let token = find(context, id, request.identity.user).await?;
    let expires = match expires_in_days {
        Some(days) => expiry(context, days)?,
        None if token.expires > context.clock.now() => token.expires,
        None => return Err(Reply::invalid("The token has expired. Set 'expires_in_days' to renew it.").into()),
    };
    let secret = AccessToken::generate();
    let rotated = context.store.rotate_token(&request.actor(), id, secret.hash(), expires).await;
    let rotated = rotated.map_err(|error| match error {
        store::Error::NotFound(_) => Refusal::absent(format!("Token with id={id} was revoked. Create a new one.")),
        other => taken(other, &token.name),
    })?;
    Ok((rotated, secret))
}

/// Revokes a token with immediate effect.
pub(crate) async fn revoke_by_id(context: &Context, request: &ApiRequest, id: TokenId) -> ApiResult {
    if request.identity.limits.read_only {
        return Err(Denied::TokenIsReadOnly.into());
    }
    match request.identity.scheme {
        Scheme::Password | Scheme::Session(_) => {}
        // The holder of a leaked token can revoke it with the token itself.
        Scheme::Token(own) if own == id => {}
        Scheme::Token(_) | Scheme::Jwt => return Err(Refusal::token_may_not("revoke another access token")),
    }
    let (owner, _) = owner(context, request, Requirement::Admin { change: true }).await?;
    let token = find(context, id, owner).await?;
    let revoked = context.store.revoke_token(&request.actor(), token.id).await;
    revoked.map_err(|error| match error {
        store::Error::NotFound(_) => absent(id),
        other => other.into(),
    })?;
    Ok(ApiResponse::done())
}

/// Returns the owner that the request names with `?user=`, which requires an administrator, or else the caller.
pub(crate) async fn owner(
    context: &Context,
    request: &ApiRequest,
    needed: Requirement,
) -> Result<(UserId, String), Refusal> {
    let params = Params::Query(request.query()?);
    match params.optional_text("user")? {
        Some(name) if !request.is(name) => {
            context.require(request, needed)?;
            let user = context.user(name).await?;
            Ok((user.id, user.name))
        }
        Some(_) | None => Ok((request.identity.user, request.identity.name.to_string())),
    }
}

/// Refuses a request for another user's token. Only the owner creates and rotates tokens, because the answer contains
/// the secret.
fn only_own(request: &ApiRequest) -> Result<(), Refusal> {
    match Params::Query(request.query()?).optional_text("user")? {
        Some(name) if !request.is(name) => {
            Err(Reply::invalid("Access tokens can only be created and rotated by their owner. Leave 'user' out.")
                .into())
        }
        Some(_) | None => Ok(()),
    }
}

/// Returns a token of `owner`. Another user's token is answered 404.
async fn find(context: &Context, id: TokenId, owner: UserId) -> Result<Token, Refusal> {
    let token = context.store.token(id).await?;
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

fn with_secret(context: &Context, request: &ApiRequest, token: &Token, secret: &AccessToken) -> Value {
    views::with(views::token(token, &request.identity.name, context.clock.now()), "token", secret.reveal())
}

fn check_name(name: &str) -> Result<(), Refusal> {
    text::check_name(name).map_err(|why| Reply::invalid(format!("Parameter 'name' {why}.")).into())
}

fn expiry(context: &Context, days: i64) -> Result<Timestamp, Refusal> {
    let max = context.config.token_max_days;
    match u32::try_from(days) {
        Ok(days) if (1..=max).contains(&days) => Ok(context.clock.now().plus(DAY * days)),
        _ => Err(Reply::invalid(format!("Parameter 'expires_in_days' must be from 1 to {max}. Got: {days}")).into()),
    }
}

/// Parses a token's ID from a path.
pub(crate) fn parse_id(id: &str) -> Result<TokenId, Refusal> {
    let number = id.parse().map(TokenId);
    number.map_err(|_| Reply::invalid(format!("Parameter 'id' must be an integer. Got: '{id}'")).into())
}
