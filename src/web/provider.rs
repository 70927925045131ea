//! Redirects to an identity provider, and pages for sign-ins that failed there. Shared by the sign-in page and the callback.

use axum::response::Response;
use http::StatusCode;

use super::response::{SignInEvent, add_cookie, found, with_event};
use super::sign_in_request::SignInRequest;
use crate::http::{Keep, ReturnPath};
use crate::oidc::claims::ClaimError;
use crate::oidc::token::Refusal;
use crate::oidc::{self, Provider, Refused};

/// Redirects the browser to a provider, with a cookie that it must return. `tries`: the number of attempts before this one that
/// lost their cookie.
pub(super) async fn redirect(
    request: &SignInRequest,
    provider: &Provider,
    return_to: &ReturnPath,
    tries: u8,
) -> Response {
    let attempts = &request.sign_in.providers.attempts;
    let begun = attempts.begin(&provider.config.name, return_to, tries, &request.head.headers);
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
        Err(error) => failed(request, provider, &error),
    }
}

/// Returns the page for an error at the provider, and logs the error.
pub(super) fn failed(request: &SignInRequest, provider: &Provider, error: &oidc::LoginError) -> Response {
    let name = &provider.config.name;
    tracing::warn!(provider = %name, %error, "sign-in failed: {error}");
    let (status, words) = page_of(error);
    let page = request.problem(status, "Not signed in", words);
    with_event(page, SignInEvent::SignIn { provider: name.clone(), outcome: error.kind(), name: None })
}

/// Returns the page for a provider that is not configured.
pub(super) fn unknown(request: &SignInRequest) -> Response {
    let words = "No identity provider of this name is configured here.";
    request.problem(StatusCode::NOT_FOUND, "Not signed in", words)
}

/// Returns status and text of the page. The text never quotes the provider.
fn page_of(error: &oidc::LoginError) -> (StatusCode, &'static str) {
    match error {
        oidc::LoginError::NotReady | oidc::LoginError::Unreachable(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "The identity provider cannot be reached right now. Try again in a moment. Existing sessions are not affected.",
        ),
        oidc::LoginError::Claims(error) => (StatusCode::FORBIDDEN, claims(error)),
        // Caused by the browser's request: a code that was made up, used before or issued to another browser.
        oidc::LoginError::Refused(Refused::Grant | Refused::Request) | oidc::LoginError::Token(Refusal::Nonce) => (
            StatusCode::BAD_REQUEST,
            "The identity provider did not accept this sign-in: its code was used before, is too old, or belongs to another \
             browser. Start again from the sign-in page.",
        ),
        oidc::LoginError::Refused(Refused::Person) => {
            (StatusCode::FORBIDDEN, "This account is disabled or deleted at the identity provider.")
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
            "The sign-in failed. Try again. If it fails again, ask an administrator of this proxy, whose log contains the cause.",
        ),
    }
}

fn claims(error: &ClaimError) -> &'static str {
    match error {
        ClaimError::Unverified => {
            "Your e-mail address is not verified at the identity provider, and it is your user name here. Verify it there: open \
             your account page at the identity provider, or the link in its verification e-mail. Then sign in again. If you \
             cannot, ask an administrator of the identity provider to mark the address as verified."
        }
        ClaimError::NoName(_) => {
            "The identity provider did not send your user name, such as an e-mail address. Complete your profile there, then \
             sign in again. Otherwise ask an administrator of this proxy, whose log names the missing claim."
        }
        ClaimError::Subject
        | ClaimError::BadName { .. }
        | ClaimError::ServiceAccount(_)
        | ClaimError::TooManyGroups
        | ClaimError::NoMachine(_)
        | ClaimError::OpenIssuer(_)
        | ClaimError::Template(_) => {
            "The identity provider sent information about your account that cannot be used here. Ask an administrator of this \
             proxy, whose log names the claim."
        }
    }
}
