//! `/auth/callback/{provider}`: completes a sign-in that began at `/auth/login`.
//!
//! The code is redeemed only after `state` and cookie have shown that this browser began the sign-in here, recently, and that the state
//! was not used before. Text that the address contains is never shown.

use axum::extract::Path;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderValue, Method, StatusCode, header};

use super::html::{self, AllowedGroup, DeniedPage};
use super::provider;
use super::response::{SignInEvent, add_cookie, see_other, with_event};
use super::session::ProviderSession;
use super::sign_in_request::SignInRequest;
use crate::api::Refusal;
use crate::http::{ErrorCode, Keep, Reply};
use crate::oidc::{self, Attempt, Person, Provider, Returned, State, Tokens, attempt_cookie};
use crate::session_refresh;
use crate::store::{self, Occasion, Seen, User};

/// Largest code that is passed to a provider, in bytes.
const MAX_CODE_BYTES: usize = 4096;

/// `GET /auth/callback/{provider}`.
pub(super) async fn answer(Path(name): Path<String>, request: SignInRequest) -> Response {
    if request.head.method != Method::GET {
        return other_method();
    }
    if let Some(refusal) = request.refuse_programs() {
        return refusal;
    }
    let Some(provider) = request.sign_in.providers.get(&name) else { return provider::unknown(&request) };
    let refused = |outcome| refused(&request, provider, outcome);
    let Ok(query) = request.query() else { return refused("unreadable") };
    let (Ok(state), Ok(code), Ok(iss), Ok(error)) =
        (query.only("state"), query.only("code"), query.only("iss"), query.only("error"))
    else {
        return refused("repeated_parameter");
    };
    let Some(sealed) = state.filter(|state| !state.is_empty()) else { return refused("no_state") };
    let attempts = &request.sign_in.providers.attempts;
    let Some(state) = attempts.read(sealed) else { return refused("wrong_state") };
    // Mix-up attack (RFC 9207): a code must be redeemed only at the provider to which this state was sent.
    if state.provider != provider.config.name || !provider.is_sender(iss) {
        return refused("another_provider");
    }
    let return_to = state.return_to(&request.sign_in.home);
    // From here on the state is used, so a reload of this page is stale.
    let returned = match take(&request, sealed, &state).await {
        Ok(returned) => returned,
        Err(error) => return outcome(request.store_unavailable(&error), provider, "store"),
    };
    let attempt = match returned {
        Returned::Right(attempt) => attempt,
        // Another tab completed a sign-in first, or this one took too long.
        Returned::Stale if request.identity.is_some() => return see_other(return_to.as_str()),
        Returned::Stale => match state.next_try() {
            Some(tries) => return provider::redirect(&request, provider, &return_to, tries).await,
            None => return without_cookies(&request, provider),
        },
    };
    let mut page = match (error, code.filter(|code| (1..=MAX_CODE_BYTES).contains(&code.len()))) {
        (Some(error), _) => provider_error(&request, provider, error),
        (None, None) => refused("no_code"),
        (None, Some(code)) => match enter(&request, provider, code, &attempt).await {
            Ok(SignedIn { user, session }) => match request.start_session(&user, session, &return_to).await {
                Ok(page) => outcome(page, provider, "done"),
                Err(error) => outcome(request.store_unavailable(&error), provider, "store"),
            },
            Err(page) => *page,
        },
    };
    add_cookie(&mut page, &attempt_cookie(sealed), "", Keep::No);
    page
}

/// Verifies that this browser began the sign-in, and marks its state as used in every process.
async fn take(request: &SignInRequest, sealed: &str, state: &State) -> store::Result<Returned> {
    let returned = request.sign_in.providers.attempts.take(sealed, state, &request.head.headers);
    let (id, expires) = state.id();
    match returned {
        Returned::Right(_) if !request.context.store.use_once("login", id, expires).await? => Ok(Returned::Stale),
        returned => Ok(returned),
    }
}

/// A user who is allowed to sign in, and the provider's part of the session.
struct SignedIn {
    user: User,
    session: ProviderSession,
}

async fn enter(
    request: &SignInRequest,
    provider: &Provider,
    code: &str,
    attempt: &Attempt,
) -> Result<SignedIn, Box<Response>> {
    let failed = |error: oidc::LoginError| Box::new(provider::failed(request, provider, &error));
    let granted = provider.redeem(code, attempt).await.map_err(failed)?;
    let person = provider.who_came(&granted, attempt).await.map_err(failed)?;
    let user = update_account(request, provider, &person)
        .await
        .map_err(|error| Box::new(no_account(request, provider, &person, &error)))?;
    let Some(user) = user.filter(|_| person.allowed) else {
        tracing::info!(provider = %provider.config.name, groups = ?person.groups, "a user in no allowed group was refused");
        // The link carries no ID token, so the provider asks for confirmation.
        let sign_out = provider.sign_out_at(&Tokens::default());
        let allowed: Vec<_> = provider.config.claims.allowed.iter().map(|pattern| AllowedGroup::of(pattern)).collect();
        let page = html::denied(&DeniedPage {
            base: request.base(),
            name: &person.name,
            groups: &person.groups,
            allowed: &allowed,
            sign_out: sign_out.as_ref().map(url::Url::as_str),
        });
        let page = request.show(StatusCode::FORBIDDEN, page);
        return Err(Box::new(outcome_of(&person, page, provider, "not_allowed")));
    };
    let tokens = granted.tokens(Tokens::default());
    let refresh_at = tokens.refresh_token.is_some();
    let refresh_at =
        refresh_at.then(|| request.context.clock.now().plus(session_refresh::time_until_due(granted.expires_in)));
    let session = ProviderSession {
        provider: Some(provider.config.name.clone()),
        issuer: Some(provider.config.endpoint.issuer.clone()),
        subject: Some(person.subject),
        sid: person.sid,
        tokens: tokens.seal(&request.sign_in.providers.keys, user.id.0),
        refresh_at,
    };
    Ok(SignedIn { user, session })
}

/// Creates or updates the user's account. A user who is not allowed to sign in gets no account; an existing account is deactivated, so
/// that its access tokens stop working.
async fn update_account(request: &SignInRequest, provider: &Provider, person: &Person) -> store::Result<Option<User>> {
    let (store, issuer) = (&request.context.store, &provider.config.endpoint.issuer);
    if !person.allowed && store.user_by_identity(issuer, &person.subject).await?.is_none() {
        return Ok(None);
    }
    let seen = Seen {
        issuer,
        subject: &person.subject,
        name: &person.name,
        groups: &person.groups,
        admin: person.admin,
        allowed: person.allowed,
        owns_plain_names: request.context.authn.policies().homes().owns_plain_names(issuer),
    };
    let user = store.meet(&request.actor(&person.name), seen, Occasion::SignIn).await?;
    Ok(Some(user))
}

fn no_account(request: &SignInRequest, provider: &Provider, person: &Person, error: &store::Error) -> Response {
    if !matches!(error, store::Error::NameTaken(_) | store::Error::LooksLike { .. } | store::Error::Reserved(_)) {
        return outcome(request.store_unavailable(error), provider, "store");
    }
    tracing::warn!(provider = %provider.config.name, %error, "sign-in failed: {error}");
    let words = match error {
        store::Error::Reserved(_) => {
            "Your user name belonged to another account here and is kept for it. An administrator of this proxy can release \
             it with `mlflow-auth-proxy user release`."
        }
        store::Error::LooksLike { .. } => {
            "Your user name looks like that of another user here. An administrator of the identity provider can change it."
        }
        _ => {
            "Your user name is already in use here, by an account with a password or a user of another identity provider. An \
             administrator of this proxy can rename or remove that account."
        }
    };
    outcome_of(person, request.problem(StatusCode::CONFLICT, "Not signed in", words), provider, "name_taken")
}

/// Returns the page for an error that the provider reports in the address. Its text is not shown, because anyone can make such a link.
fn provider_error(request: &SignInRequest, provider: &Provider, error: &str) -> Response {
    let (status, words, why) = match error {
        "access_denied" => {
            (StatusCode::FORBIDDEN, "The identity provider refused the sign-in, or you cancelled it.", "access_denied")
        }
        "temporarily_unavailable" | "server_error" => (
            StatusCode::SERVICE_UNAVAILABLE,
            "The identity provider reports a temporary error. Try again in a moment.",
            "provider_error",
        ),
        _ => (
            StatusCode::FORBIDDEN,
            "The identity provider refused the sign-in. Try again. If it fails again, ask an administrator of this proxy.",
            "refused",
        ),
    };
    outcome(request.problem(status, "Not signed in", words), provider, why)
}

fn without_cookies(request: &SignInRequest, provider: &Provider) -> Response {
    let words = "Your browser does not keep the cookies that the sign-in needs. Allow cookies for this site, and open it \
                 under its public https address.";
    outcome(request.problem(StatusCode::BAD_REQUEST, "Not signed in", words), provider, "no_cookie")
}

fn refused(request: &SignInRequest, provider: &Provider, why: &'static str) -> Response {
    let words =
        "This answer does not belong to a sign-in that your browser began here. Start again from the sign-in page.";
    outcome(request.problem(StatusCode::BAD_REQUEST, "Not signed in", words), provider, why)
}

/// Adds the event to a response.
fn outcome(page: Response, provider: &Provider, outcome: &'static str) -> Response {
    with_event(page, SignInEvent::SignIn { provider: provider.config.name.clone(), outcome, name: None })
}

/// Adds the event to a response, with the user name that the provider vouched for.
fn outcome_of(person: &Person, page: Response, provider: &Provider, outcome: &'static str) -> Response {
    let (provider, name) = (provider.config.name.clone(), Some(person.name.clone()));
    with_event(page, SignInEvent::SignIn { provider, outcome, name })
}

fn other_method() -> Response {
    let words = "This page accepts GET only.";
    let reply = Reply::new(StatusCode::METHOD_NOT_ALLOWED, ErrorCode::BadRequest, words);
    Refusal::from(reply.with(header::ALLOW, HeaderValue::from_static("GET"))).into_response()
}
