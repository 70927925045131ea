//! `/auth/login`: choose a provider, be sent there, or give a user name and password.

use http::{HeaderValue, StatusCode, header};
use url::form_urlencoded;

use super::html::{self, Choice, SignInPage};
use super::visit::{Page, Proved, Visit, Visited, add_cookie, found, refusal, see_other, with};
use crate::authn;
use crate::http::{ErrorCode, Keep, ReturnPath};
use crate::oidc::claims::ClaimError;
use crate::oidc::token::Refusal;
use crate::oidc::{self, Provider, Refused};

/// `GET /auth/login[?provider=][&return_to=]`.
pub(super) async fn page(visit: &Visit<'_>) -> Page {
    if let Some(refusal) = visit.refuse_programs() {
        return refusal;
    }
    let Ok(query) = visit.query() else { return unreadable(visit) };
    let (Ok(name), Ok(return_to)) = (query.only("provider"), query.only("return_to")) else { return unreadable(visit) };
    let return_to = visit.return_path(return_to);
    match name {
        None if visit.identity.is_some() => see_other(return_to.as_str()),
        None => choose(visit, StatusCode::OK, &return_to, "", None),
        Some(name) => match visit.sign_in.providers.get(name) {
            Some(provider) => to_provider(visit, provider, &return_to, 0).await,
            None => no_such_provider(visit),
        },
    }
}

/// Sends the browser to a provider, with what it must bring back.
pub(super) async fn to_provider(visit: &Visit<'_>, provider: &Provider, return_to: &ReturnPath, tries: u8) -> Page {
    let begun = visit.sign_in.providers.attempts.begin(&provider.config.name, return_to, tries, &visit.head.headers);
    match provider.sign_in_at(&begun).await {
        Ok(url) => {
            let mut response = found(&url);
            for name in &begun.expired {
                add_cookie(&mut response, name, "", Keep::No);
            }
            let (name, value) = &begun.cookie;
            let lifetime = i64::try_from(oidc::ATTEMPT_LIFETIME.as_secs()).unwrap_or(i64::MAX);
            add_cookie(&mut response, name, value, Keep::Seconds(lifetime));
            response
        }
        Err(error) => failed(visit, provider, &error),
    }
}

/// Why a provider signed nobody in, in our words.
pub(super) fn failed(visit: &Visit<'_>, provider: &Provider, error: &oidc::LoginError) -> Page {
    let name = &provider.config.name;
    tracing::warn!(provider = %name, %error, "nobody was signed in: {error}");
    let (status, words) = match error {
        oidc::LoginError::NotReady | oidc::LoginError::Unreachable(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "The identity provider cannot be reached right now. Try again in a moment; whoever is signed in stays so.",
        ),
        oidc::LoginError::Claims(ClaimError::Unverified) => (
            StatusCode::FORBIDDEN,
            "Your e-mail address is not verified at the identity provider, and it is your user name here. Verify it there: open \
             your account page at the identity provider, or the link in its verification e-mail. Then sign in again. If you \
             cannot, ask an administrator of the identity provider to mark the address as verified.",
        ),
        oidc::LoginError::Claims(ClaimError::NoName(_)) => (
            StatusCode::FORBIDDEN,
            "The identity provider did not send your user name, such as an e-mail address. Complete your profile there, then \
             sign in again; otherwise ask an administrator of this proxy, whose log names the claim that is missing.",
        ),
        oidc::LoginError::Claims(_) => (
            StatusCode::FORBIDDEN,
            "The identity provider did not say who you are in a way that can be used here. Ask an administrator of this proxy, \
             whose log names the claim.",
        ),
        // Because of what the browser brought: a code that was made up, used before or given to another browser.
        oidc::LoginError::Refused(Refused::Grant | Refused::Request) | oidc::LoginError::Token(Refusal::Nonce) => (
            StatusCode::BAD_REQUEST,
            "The identity provider did not accept this sign-in: its code was used before, is too old, or belongs to another \
             browser. Start again from the sign-in page.",
        ),
        oidc::LoginError::Refused(Refused::Person) => {
            (StatusCode::FORBIDDEN, "The identity provider says that this account is disabled or deleted.")
        }
        oidc::LoginError::Token(Refusal::NoKeys) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "The identity provider's keys could not be fetched yet. Try again in a moment.",
        ),
        oidc::LoginError::Refused(Refused::Client)
        | oidc::LoginError::NotUnderstood
        | oidc::LoginError::NoIdToken
        | oidc::LoginError::Token(_)
        | oidc::LoginError::SomebodyElse => (
            StatusCode::BAD_GATEWAY,
            "Signing in did not work. Try again; if it goes on, the log of this proxy says why.",
        ),
    };
    let page = visit.problem(status, "Not signed in", words);
    with(page, Visited::SignIn { provider: name.clone(), outcome: error.kind(), name: None })
}

pub(super) fn no_such_provider(visit: &Visit<'_>) -> Page {
    let words = "No identity provider of this name is configured here.";
    visit.problem(StatusCode::NOT_FOUND, "Not signed in", words)
}

fn unreadable(visit: &Visit<'_>) -> Page {
    visit.problem(StatusCode::BAD_REQUEST, "Not signed in", "The address cannot be read. Start from the sign-in page.")
}

/// Of a name that somebody tried, so much is written down.
const MAX_NAME_CHARS: usize = 255;

/// `POST /auth/login` from the page's form.
pub(super) async fn with_password(visit: &Visit<'_>) -> Page {
    let Some(form) = visit.form() else {
        return refusal(StatusCode::BAD_REQUEST, ErrorCode::BadRequest, "This is not the form of the sign-in page.");
    };
    let (Ok(Some(name)), Ok(Some(password)), Ok(return_to)) =
        (form.only("username"), form.only("password"), form.only("return_to"))
    else {
        return refusal(
            StatusCode::BAD_REQUEST,
            ErrorCode::BadRequest,
            "The form needs 'username' and 'password' once.",
        );
    };
    let return_to = visit.return_path(return_to);
    let tried: String = name.chars().filter(|letter| !letter.is_control()).take(MAX_NAME_CHARS).collect();
    let outcome = |page, outcome| {
        with(page, Visited::SignIn { provider: "password".to_owned(), outcome, name: Some(tried.clone()) })
    };
    let wrong = |status, words: &str| choose(visit, status, &return_to, &tried, Some(words));
    match visit.parts.authn.sign_in(name, password.into(), visit.address).await {
        Ok(user) => match visit.signed_in(&user, Proved::default(), &return_to).await {
            Ok(page) => outcome(page, "done"),
            Err(error) => outcome(visit.store_is_away(&error), "store"),
        },
        Err(authn::Error::TooManyAttempts { retry_after }) => {
            let seconds = retry_after.as_secs().max(1);
            let words = format!("Too many failed sign-ins. Try again in {seconds} seconds.");
            let mut page = wrong(StatusCode::TOO_MANY_REQUESTS, &words);
            page.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
            with(page, Visited::SignIn { provider: "password".to_owned(), outcome: "too_many_attempts", name: None })
        }
        Err(authn::Error::Busy) => {
            let words = "Too many passwords are being checked. Try again in a few seconds.";
            let page = wrong(StatusCode::SERVICE_UNAVAILABLE, words);
            with(page, Visited::SignIn { provider: "password".to_owned(), outcome: "busy", name: None })
        }
        Err(authn::Error::Store(error)) => outcome(visit.store_is_away(&error), "store"),
        Err(authn::Error::Missing | authn::Error::Failed(_) | authn::Error::NoKeys) => {
            outcome(wrong(StatusCode::UNAUTHORIZED, "User name or password is wrong."), "refused")
        }
    }
}

fn choose(visit: &Visit<'_>, status: StatusCode, return_to: &ReturnPath, username: &str, wrong: Option<&str>) -> Page {
    let sign_in = visit.sign_in;
    if !sign_in.is_possible() {
        let words =
            "No identity provider is configured here, and the password form is off. Programs use an access token.";
        return visit.problem(StatusCode::NOT_FOUND, "Sign in", words);
    }
    let choices: Vec<_> = sign_in
        .providers
        .iter()
        .map(|provider| {
            let mut query = form_urlencoded::Serializer::new(format!("{}/auth/login?", visit.base()));
            query.append_pair("provider", &provider.config.name).append_pair("return_to", return_to.as_str());
            Choice { label: &provider.config.display_name, href: query.finish() }
        })
        .collect();
    let page = SignInPage {
        base: visit.base(),
        at_once: choices.len() == 1 && !sign_in.password_form,
        choices,
        password_form: sign_in.password_form,
        return_to: return_to.as_str(),
        username,
        wrong,
    };
    visit.show(status, html::sign_in(&page))
}
