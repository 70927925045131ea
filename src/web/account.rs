//! `/auth/account`: the user's account, access tokens, sessions and password, with plain HTML forms.
//!
//! The forms use the functions of `api::v1` and `api::mlflow`. A secret is shown in one answer and is never part of an address.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::Response;
use http::StatusCode;

use super::html::{self, AccountPage, Block, NewTokenPage, SessionRow, TokenForm, TokenRow};
use super::response::{page as html_page, see_other};
use crate::api::v1::{sessions, tokens};
use crate::api::{ApiRequest, Context, Params, Refusal};
use crate::authz::{Limits, Scheme, ScopeError};
use crate::clock::Timestamp;
use crate::crypto::AccessToken;
use crate::http::Reply;
use crate::store::{AccessTokens, Session, Token};
use crate::text;

const PATH: &str = "/auth/account";
/// Purpose of the forms' tokens.
const PURPOSE: &str = "account";
/// Lifetimes that the form offers, in days.
const EXPIRIES: [u32; 4] = [7, 30, 90, 365];
const DEFAULT_EXPIRY: u32 = 90;

/// `GET /auth/account`.
pub(super) async fn page(State(context): State<Arc<Context>>, request: ApiRequest) -> Result<Response, Refusal> {
    show(&context, &request, Outcome::default()).await
}

/// `POST /auth/account/tokens`: answers with the page that shows the secret. After an error, the form keeps its fields.
pub(super) async fn create_token(
    State(context): State<Arc<Context>>,
    request: ApiRequest,
) -> Result<Response, Refusal> {
    let created = match form(&context, &request).await {
        Ok(form) => create(&context, &request, &form).await,
        Err(refusal) => Err(refusal),
    };
    let typed = typed(&request);
    reveal_or_show(&context, &request, created, typed).await
}

/// `POST /auth/account/password`.
pub(super) async fn change_password(
    State(context): State<Arc<Context>>,
    request: ApiRequest,
) -> Result<Response, Refusal> {
    let changed = match form(&context, &request).await {
        Ok(form) => change(&context, &request, &form).await,
        Err(refusal) => Err(refusal),
    };
    let outcome = match changed {
        Ok(notice) => Outcome { notice: Some(notice), ..Outcome::default() },
        Err(refusal) => Outcome::wrong(refusal),
    };
    show(&context, &request, outcome).await
}

async fn change(context: &Context, request: &ApiRequest, form: &Params) -> Result<String, Refusal> {
    let tokens = match form.optional_text("revoke_tokens")? {
        Some(_) => AccessTokens::Revoke,
        None => AccessTokens::Keep,
    };
    let (current, new) = (form.text("current_password")?, form.text("new_password")?);
    let revoked = context.change_own_password(request, current, new, tokens).await?;
    Ok(match tokens {
        AccessTokens::Keep => {
            "Password changed. Your access tokens still work. Sign in again with the new password.".to_owned()
        }
        AccessTokens::Revoke => {
            format!("Password changed. Access tokens revoked: {revoked}. Sign in again with the new password.")
        }
    })
}

/// `POST /auth/account/tokens/{id}/rotate`: answers with the page that shows the new secret.
pub(super) async fn rotate_token(
    State(context): State<Arc<Context>>,
    Path(id): Path<String>,
    request: ApiRequest,
) -> Result<Response, Refusal> {
    let rotated = match form(&context, &request).await {
        Ok(_) => match tokens::parse_id(&id) {
            Ok(id) => tokens::rotate_for_caller(&context, &request, id, None).await,
            Err(refusal) => Err(refusal),
        },
        Err(refusal) => Err(refusal),
    };
    reveal_or_show(&context, &request, rotated, TokenForm::default()).await
}

/// `POST /auth/account/tokens/{id}/revoke`.
pub(super) async fn revoke_token(
    State(context): State<Arc<Context>>,
    Path(id): Path<String>,
    request: ApiRequest,
) -> Result<Response, Refusal> {
    let done = async {
        form(&context, &request).await?;
        tokens::revoke_by_id(&context, &request, tokens::parse_id(&id)?).await.map(drop)
    };
    let done = done.await;
    back_or_show(&context, &request, done).await
}

/// `POST /auth/account/sessions/{id}/end`.
pub(super) async fn end_session(
    State(context): State<Arc<Context>>,
    Path(id): Path<String>,
    request: ApiRequest,
) -> Result<Response, Refusal> {
    let done = async {
        form(&context, &request).await?;
        sessions::end_one(&context, &request, sessions::parse_id(&id)?, request.identity.user).await
    };
    let done = done.await;
    back_or_show(&context, &request, done).await
}

/// `POST /auth/account/sessions/end-others`.
pub(super) async fn end_other_sessions(
    State(context): State<Arc<Context>>,
    request: ApiRequest,
) -> Result<Response, Refusal> {
    let done = async {
        form(&context, &request).await?;
        sessions::end_others(&context, &request, request.identity.user).await.map(drop)
    };
    let done = done.await;
    back_or_show(&context, &request, done).await
}

/// Returns the form after checking its CSRF token. Access tokens cannot send it.
async fn form(context: &Context, request: &ApiRequest) -> Result<Params, Refusal> {
    request.refuse_tokens("change its owner's account")?;
    let form = request.form()?;
    context.check_form_token(request, PURPOSE, form.optional_text("form_token")?.unwrap_or_default()).await?;
    Ok(form)
}

async fn create(context: &Context, request: &ApiRequest, form: &Params) -> Result<(Token, AccessToken), Refusal> {
    let only = form.optional_text("only")?.unwrap_or_default();
    let mut scopes: Vec<String> =
        only.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if form.optional_text("read_only")?.is_some() {
        scopes.push("read-only".to_owned());
    }
    if let Err(ScopeError(scope)) = Limits::parse(scopes.iter().map(String::as_str)) {
        let message = format!(
            "`{scope}` is not an experiment, model or prompt. Write experiment:ID, registered_model:NAME or prompt:NAME, one \
             per line."
        );
        return Err(Reply::invalid(message).into());
    }
    let name = form.optional_text("name")?.unwrap_or_default().trim();
    // Before the API's own check, whose message names the parameter.
    text::check_name(name).map_err(|why| Reply::invalid(format!("The name {why}.")))?;
    tokens::create_for_caller(context, request, name, form.integer("expires_in_days")?, &scopes).await
}

/// Returns the fields of the token form, as far as they can be read.
fn typed(request: &ApiRequest) -> TokenForm {
    let Ok(form) = request.form() else { return TokenForm::default() };
    let text = |name| form.optional_text(name).ok().flatten().map(str::to_owned);
    TokenForm {
        name: text("name").unwrap_or_default(),
        expires_in_days: text("expires_in_days").and_then(|days| days.parse().ok()).unwrap_or(DEFAULT_EXPIRY),
        read_only: text("read_only").is_some(),
        only: text("only").unwrap_or_default(),
    }
}

/// The outcome of the last form.
#[derive(Debug, Default)]
struct Outcome {
    wrong: Option<Refusal>,
    notice: Option<String>,
    form: TokenForm,
}

impl Outcome {
    fn wrong(refusal: Refusal) -> Self {
        Self { wrong: Some(refusal), ..Self::default() }
    }
}

async fn reveal_or_show(
    context: &Context,
    request: &ApiRequest,
    token: Result<(Token, AccessToken), Refusal>,
    form: TokenForm,
) -> Result<Response, Refusal> {
    match token {
        Ok((token, secret)) => {
            // No redirect, because the secret would have to be stored or be part of an address.
            let page = html::new_token(&NewTokenPage {
                base: &context.address.static_prefix,
                name: &token.name,
                expires: token.expires.minute(),
                blocks: blocks(&context.tracking_uri(request), secret.reveal()),
            });
            Ok(html_page(StatusCode::OK, page, ""))
        }
        Err(refusal) => show(context, request, Outcome { form, ..Outcome::wrong(refusal) }).await,
    }
}

async fn back_or_show(context: &Context, request: &ApiRequest, done: Result<(), Refusal>) -> Result<Response, Refusal> {
    match done {
        // A redirect, so that reloading the page does not send the form again.
        Ok(()) => Ok(see_other(&format!("{}{PATH}", context.address.static_prefix))),
        Err(refusal) => show(context, request, Outcome::wrong(refusal)).await,
    }
}

/// Returns the account page, with the outcome of the last form and the status of its error. A denial is not an error of the form and
/// stays a refusal.
async fn show(context: &Context, request: &ApiRequest, outcome: Outcome) -> Result<Response, Refusal> {
    let Outcome { wrong, notice, form } = outcome;
    let wrong = wrong.map(Refusal::into_words).transpose()?;
    let who = &request.identity;
    let now = context.clock.now();
    let mut live = context.store.tokens_of(who.user).await?;
    live.retain(|token| token.revoked.is_none() && token.expires > now);
    let sessions = context.sessions_of(who.user).await?;
    let has_password = context.store.user(who.user).await?.is_some_and(|user| user.password.is_some());
    let (status, words) = wrong.map_or((StatusCode::OK, None), |(status, words)| (status, Some(words)));
    let page = AccountPage {
        base: &context.address.static_prefix,
        name: &who.name,
        admin: who.admin,
        scheme: match who.scheme {
            Scheme::Session(_) => "Session of this browser",
            Scheme::Password => "Password",
            Scheme::Token(_) => "Access token",
            Scheme::Jwt => "Token of the identity provider",
        },
        groups: &who.groups,
        tokens: live.iter().map(token_row).collect(),
        has_others: sessions.iter().any(|session| !sessions::is_current(request, session.id)),
        sessions: sessions.iter().map(|session| session_row(request, session)).collect(),
        can_change: who.scheme.is_personal(),
        expiries: EXPIRIES.into_iter().filter(|days| *days <= context.config.token_max_days).collect(),
        form_token: context.form_token(request, PURPOSE).await?,
        wrong: words,
        notice,
        form,
        has_password,
    };
    Ok(html_page(status, html::account(&page), ""))
}

fn token_row(token: &Token) -> TokenRow {
    let scopes = token.limits.scopes();
    TokenRow {
        id: token.id.0,
        name: token.name.clone(),
        scopes: if scopes.is_empty() { "All permissions".to_owned() } else { scopes.join(", ") },
        created: token.created.minute(),
        expires: token.expires.minute(),
        last_used: token.last_used.map_or_else(|| "Never".to_owned(), Timestamp::minute),
    }
}

fn session_row(request: &ApiRequest, session: &Session) -> SessionRow {
    SessionRow {
        id: session.id.0,
        browser: browser(&session.agent),
        address: session.address.clone(),
        created: session.created.minute(),
        last_used: session.last_used.max(session.created).minute(),
        current: sessions::is_current(request, session.id),
    }
}

/// Returns a short name for a `User-Agent`, such as `Firefox on Linux`. The order of the lists matters, because browsers contain each
/// other's names.
fn browser(agent: &str) -> String {
    const BROWSERS: [(&str, &str); 6] = [
        ("Edg/", "Edge"),
        ("OPR/", "Opera"),
        ("Firefox/", "Firefox"),
        ("Chromium/", "Chromium"),
        ("Chrome/", "Chrome"),
        ("Safari/", "Safari"),
    ];
    const SYSTEMS: [(&str, &str); 6] = [
        ("Android", "Android"),
        ("iPhone", "iPhone"),
        ("iPad", "iPad"),
        ("Windows", "Windows"),
        ("Mac OS X", "macOS"),
        ("Linux", "Linux"),
    ];
    let named =
        |table: &[(&str, &'static str)]| table.iter().find(|(mark, _)| agent.contains(mark)).map(|(_, name)| *name);
    match (named(&BROWSERS), named(&SYSTEMS)) {
        (Some(browser), Some(system)) => format!("{browser} on {system}"),
        (Some(name), None) | (None, Some(name)) => name.to_owned(),
        (None, None) if agent.is_empty() => "Unknown browser".to_owned(),
        (None, None) => agent.chars().take(60).collect(),
    }
}

/// Returns the settings of a client, ready to paste.
fn blocks(address: &str, secret: &str) -> Vec<Block> {
    let block = |id, title, text| Block { id, title, text };
    vec![
        block("token", "The token", secret.to_owned()),
        block("shell", "Shell", format!("export MLFLOW_TRACKING_URI={address}\nexport MLFLOW_TRACKING_TOKEN={secret}")),
        block("dotenv", ".env file", format!("MLFLOW_TRACKING_URI={address}\nMLFLOW_TRACKING_TOKEN={secret}")),
        block(
            "notebook",
            "Notebook",
            format!(
                "import os\n\nos.environ[\"MLFLOW_TRACKING_URI\"] = \"{address}\"\n\
                 os.environ[\"MLFLOW_TRACKING_TOKEN\"] = \"{secret}\"\n\nimport mlflow"
            ),
        ),
    ]
}

#[cfg(test)]
mod tests;
