//! `/auth/login`: the choice of a provider, the redirect to it, and the form for user name and password.

use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use url::form_urlencoded;

use super::html::{self, Choice, SignInPage};
use super::provider;
use super::response::{SignInEvent, refusal, see_other, with_event};
use super::session::ProviderSession;
use super::sign_in_request::SignInRequest;
use crate::authn;
use crate::http::{ErrorCode, ReturnPath};

/// `GET /auth/login[?provider=][&return_to=]`.
pub(super) async fn page(request: SignInRequest) -> Response {
    if let Some(refusal) = request.refuse_programs() {
        return refusal;
    }
    let Ok(query) = request.query() else { return unreadable(&request) };
    let (Ok(name), Ok(return_to)) = (query.only("provider"), query.only("return_to")) else {
        return unreadable(&request);
    };
    let return_to = request.return_path(return_to);
    match name {
        None if request.identity.is_some() => see_other(return_to.as_str()),
        None => choose(&request, StatusCode::OK, &return_to, "", None),
        Some(name) => match request.sign_in.providers.get(name) {
            Some(provider) => provider::redirect(&request, provider, &return_to, 0).await,
            None => provider::unknown(&request),
        },
    }
}

fn unreadable(request: &SignInRequest) -> Response {
    let words = "The address cannot be read. Start from the sign-in page.";
    request.problem(StatusCode::BAD_REQUEST, "Not signed in", words)
}

/// `POST /auth/login`, sent by the form of the sign-in page.
pub(super) async fn with_password(request: SignInRequest) -> Response {
    let bad = |words| refusal(StatusCode::BAD_REQUEST, ErrorCode::BadRequest, words);
    let Some(form) = request.form() else { return bad("This is not the form of the sign-in page.") };
    let (Ok(Some(name)), Ok(Some(password)), Ok(return_to)) =
        (form.only("username"), form.only("password"), form.only("return_to"))
    else {
        return bad("The form needs 'username' and 'password' once.");
    };
    let return_to = request.return_path(return_to);
    match request.context.authn.user_with_password(name, password.into(), request.address).await {
        Ok(user) => match request.start_session(&user, ProviderSession::default(), &return_to).await {
            Ok(response) => with_event(response, event("done", Some(name))),
            Err(error) => with_event(request.store_unavailable(&error), event("store", Some(name))),
        },
        Err(error) => refused(&request, error, name, &return_to),
    }
}

fn refused(request: &SignInRequest, error: authn::Error, name: &str, return_to: &ReturnPath) -> Response {
    let form = |status, words: &str| choose(request, status, return_to, &printable(name), Some(words));
    match error {
        authn::Error::TooManyAttempts { retry_after } => {
            let seconds = retry_after.as_secs().max(1);
            let words = format!("Too many failed sign-ins. Try again in {seconds} seconds.");
            let mut page = form(StatusCode::TOO_MANY_REQUESTS, &words);
            page.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
            with_event(page, event("too_many_attempts", None))
        }
        authn::Error::Busy => {
            let words = "Too many passwords are being checked. Try again in a few seconds.";
            with_event(form(StatusCode::SERVICE_UNAVAILABLE, words), event("busy", None))
        }
        authn::Error::Store(error) => with_event(request.store_unavailable(&error), event("store", Some(name))),
        authn::Error::Missing | authn::Error::Failed(_) | authn::Error::NoKeys => {
            let page = form(StatusCode::UNAUTHORIZED, "User name or password is wrong.");
            with_event(page, event("refused", Some(name)))
        }
    }
}

fn event(outcome: &'static str, name: Option<&str>) -> SignInEvent {
    SignInEvent::SignIn { provider: "password".to_owned(), outcome, name: name.map(printable) }
}

/// Returns the user name of an attempt as it is shown and logged.
fn printable(name: &str) -> String {
    const MAX_NAME_CHARS: usize = 255;
    name.chars().filter(|letter| !letter.is_control()).take(MAX_NAME_CHARS).collect()
}

/// Returns the sign-in page. `username` and `wrong` are those of a failed attempt.
fn choose(
    request: &SignInRequest,
    status: StatusCode,
    return_to: &ReturnPath,
    username: &str,
    wrong: Option<&str>,
) -> Response {
    let sign_in = &request.sign_in;
    if !sign_in.is_possible() {
        let words =
            "No identity provider is configured here, and the password form is off. Programs use an access token.";
        return request.problem(StatusCode::NOT_FOUND, "Sign in", words);
    }
    let choices: Vec<_> = sign_in
        .providers
        .iter()
        .map(|provider| {
            let mut query = form_urlencoded::Serializer::new(format!("{}/auth/login?", request.base()));
            query.append_pair("provider", &provider.config.name).append_pair("return_to", return_to.as_str());
            Choice { label: &provider.config.display_name, href: query.finish() }
        })
        .collect();
    let page = SignInPage {
        base: request.base(),
        at_once: choices.len() == 1 && !sign_in.password_form,
        choices,
        password_form: sign_in.password_form,
        return_to: return_to.as_str(),
        username,
        wrong,
    };
    request.show(status, html::sign_in(&page))
}
