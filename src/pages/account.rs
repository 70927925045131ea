//! `/auth/account`: who one is here, where one is signed in, and one's access tokens; plain forms.
//!
//! What the forms do is `super::tokens`' and `super::sessions`'; here it is asked and shown. A secret is in one answer and in
//! no address.

use std::sync::Arc;

use axum::extract::{Path, State};

use super::asked::{Asked, Params, refuse_tokens};
use super::html::{self, AccountPage, Block, NewTokenPage, SessionRow, TokenForm, TokenRow};
use super::shapes::{Shape, minute};
use super::{Answer, Parts, Refusal, sessions, tokens};
use crate::authz::{Limits, Scheme, ScopeError};
use crate::clock::Timestamp;
use crate::crypto::AccessToken;
use crate::http::Reply;
use crate::store::{AccessTokens, Session, Token};

const HERE: &str = "/auth/account";
/// Of the form's token.
const PURPOSE: &str = "account";
/// What the form offers, in days.
const EXPIRIES: [u32; 4] = [7, 30, 90, 365];
const DEFAULT_EXPIRY: u32 = 90;

/// `GET /auth/account`.
pub(super) async fn page(State(parts): State<Arc<Parts>>, asked: Asked) -> Answer {
    show(&parts, &asked, Outcome::default()).await
}

/// `POST /auth/account/tokens`: the page with the secret, once. A form that is refused keeps its fields.
pub(super) async fn create_token(State(parts): State<Arc<Parts>>, asked: Asked) -> Answer {
    let made = match form(&parts, &asked).await {
        Ok(form) => make_token(&parts, &asked, &form).await,
        Err(refusal) => Err(refusal),
    };
    let typed = typed(&asked);
    reveal_or_show(&parts, &asked, made, typed).await
}

/// `POST /auth/account/password`.
pub(super) async fn change_password(State(parts): State<Arc<Parts>>, asked: Asked) -> Answer {
    let changed = match form(&parts, &asked).await {
        Ok(form) => change(&parts, &asked, &form).await,
        Err(refusal) => Err(refusal),
    };
    let outcome = match changed {
        Ok(notice) => Outcome { notice: Some(notice), ..Outcome::default() },
        Err(refusal) => Outcome::wrong(refusal),
    };
    show(&parts, &asked, outcome).await
}

async fn change(parts: &Parts, asked: &Asked, form: &Params) -> Result<String, Refusal> {
    let tokens = match form.optional_text("revoke_tokens")? {
        Some(_) => AccessTokens::Revoke,
        None => AccessTokens::Keep,
    };
    let (current, new) = (form.text("current_password")?, form.text("new_password")?);
    let revoked = parts.change_own_password(asked, current, new, tokens).await?;
    Ok(match tokens {
        AccessTokens::Keep => {
            "Password changed. Your access tokens still work. Sign in again with the new password.".to_owned()
        }
        AccessTokens::Revoke => {
            format!("Password changed. Access tokens revoked: {revoked}. Sign in again with the new password.")
        }
    })
}

/// `POST /auth/account/tokens/{id}/rotate`: the same with a new secret.
pub(super) async fn rotate_token(State(parts): State<Arc<Parts>>, Path(id): Path<String>, asked: Asked) -> Answer {
    let made = match form(&parts, &asked).await {
        Ok(_) => match tokens::number(&id) {
            Ok(id) => tokens::renew(&parts, &asked, id, None).await,
            Err(refusal) => Err(refusal),
        },
        Err(refusal) => Err(refusal),
    };
    reveal_or_show(&parts, &asked, made, TokenForm::default()).await
}

/// `POST /auth/account/tokens/{id}/revoke`.
pub(super) async fn revoke_token(State(parts): State<Arc<Parts>>, Path(id): Path<String>, asked: Asked) -> Answer {
    let done = async {
        form(&parts, &asked).await?;
        tokens::end(&parts, &asked, tokens::number(&id)?).await.map(drop)
    };
    let done = done.await;
    back_or_show(&parts, &asked, done).await
}

/// `POST /auth/account/sessions/{id}/end`.
pub(super) async fn end_session(State(parts): State<Arc<Parts>>, Path(id): Path<String>, asked: Asked) -> Answer {
    let done = async {
        form(&parts, &asked).await?;
        sessions::end_one(&parts, &asked, sessions::number(&id)?, asked.identity.user).await
    };
    let done = done.await;
    back_or_show(&parts, &asked, done).await
}

/// `POST /auth/account/sessions/end-others`.
pub(super) async fn end_other_sessions(State(parts): State<Arc<Parts>>, asked: Asked) -> Answer {
    let done = async {
        form(&parts, &asked).await?;
        sessions::end_others(&parts, &asked, asked.identity.user).await.map(drop)
    };
    let done = done.await;
    back_or_show(&parts, &asked, done).await
}

/// The form, once it is known to be of our page and sent by somebody in person.
async fn form(parts: &Parts, asked: &Asked) -> Result<Params, Refusal> {
    refuse_tokens(asked, "change its owner's account")?;
    let form = asked.form()?;
    parts.check_form_token(asked, PURPOSE, form.optional_text("form_token")?.unwrap_or_default()).await?;
    Ok(form)
}

async fn make_token(parts: &Parts, asked: &Asked, form: &Params) -> Result<(Token, AccessToken), Refusal> {
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
    tokens::make(parts, asked, form.text("name")?.trim(), form.integer("expires_in_days")?, &scopes).await
}

/// The fields of a token's form, as far as they can be read.
fn typed(asked: &Asked) -> TokenForm {
    let Ok(form) = asked.form() else { return TokenForm::default() };
    let text = |name| form.optional_text(name).ok().flatten().map(str::to_owned);
    TokenForm {
        name: text("name").unwrap_or_default(),
        expires_in_days: text("expires_in_days").and_then(|days| days.parse().ok()).unwrap_or(DEFAULT_EXPIRY),
        read_only: text("read_only").is_some(),
        only: text("only").unwrap_or_default(),
    }
}

/// The result of the last form.
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
    parts: &Parts,
    asked: &Asked,
    made: Result<(Token, AccessToken), Refusal>,
    form: TokenForm,
) -> Answer {
    match made {
        Ok((token, secret)) => Ok(Shape::page(html::new_token(&NewTokenPage {
            base: &parts.reached.static_prefix,
            name: &token.name,
            expires: minute(token.expires),
            blocks: blocks(&parts.tracking_uri(asked), secret.reveal()),
        }))),
        Err(refusal) => show(parts, asked, Outcome { form, ..Outcome::wrong(refusal) }).await,
    }
}

async fn back_or_show(parts: &Parts, asked: &Asked, done: Result<(), Refusal>) -> Answer {
    match done {
        Ok(()) => Ok(Shape::see_other(&format!("{}{HERE}", parts.reached.static_prefix))),
        Err(refusal) => show(parts, asked, Outcome::wrong(refusal)).await,
    }
}

/// The page; with what was wrong with the last form, under its status. A denial is not the form's: it stays a refusal.
async fn show(parts: &Parts, asked: &Asked, outcome: Outcome) -> Answer {
    let Outcome { wrong, notice, form } = outcome;
    let wrong = wrong.map(Refusal::into_words).transpose()?;
    let who = &asked.identity;
    let now = parts.clock.now();
    let mut live = parts.store.tokens_of(who.user).await?;
    live.retain(|token| token.revoked.is_none() && token.expires > now);
    let sessions = parts.sessions_of(who.user).await?;
    let has_password = parts.store.user(who.user).await?.is_some_and(|user| user.password.is_some());
    let (status, words) = wrong.map_or((http::StatusCode::OK, None), |(status, words)| (status, Some(words)));
    let page = AccountPage {
        base: &parts.reached.static_prefix,
        name: &who.name,
        admin: who.admin,
        scheme: match who.scheme {
            Scheme::Session(_) => "this browser's session",
            Scheme::Password => "your password",
            Scheme::Token(_) => "an access token",
            Scheme::Jwt => "a token of the identity provider",
        },
        groups: &who.groups,
        tokens: live.iter().map(token_row).collect(),
        has_others: sessions.iter().any(|session| !sessions::is_current(asked, session.id)),
        sessions: sessions.iter().map(|session| session_row(asked, session)).collect(),
        may_change: who.scheme.is_personal(),
        expiries: EXPIRIES.into_iter().filter(|days| *days <= parts.config.token_max_days).collect(),
        form_token: parts.form_token(asked, PURPOSE).await?,
        wrong: words,
        notice,
        form,
        has_password,
    };
    Ok(Shape::page_with(status, html::account(&page)))
}

fn token_row(token: &Token) -> TokenRow {
    let scopes = token.limits.scopes();
    TokenRow {
        id: token.id.0,
        name: token.name.clone(),
        scopes: if scopes.is_empty() { "all that you may".to_owned() } else { scopes.join(", ") },
        created: minute(token.created),
        expires: minute(token.expires),
        last_used: token.last_used.map_or_else(|| "never".to_owned(), minute),
    }
}

fn session_row(asked: &Asked, session: &Session) -> SessionRow {
    SessionRow {
        id: session.id.0,
        browser: browser(&session.agent),
        address: session.address.clone(),
        created: minute(session.created),
        last_used: minute(session.last_used.max(Timestamp(session.created.0))),
        current: sessions::is_current(asked, session.id),
    }
}

/// A browser in plain words, as far as it says: `Firefox on Linux`. The order matters, since browsers name each other.
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
        (None, None) if agent.is_empty() => "a browser that does not say which".to_owned(),
        (None, None) => agent.chars().take(60).collect(),
    }
}

/// What programs need, as one pastes it.
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
