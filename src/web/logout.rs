//! `/auth/logout`: asks for confirmation, then ends the session here and at the provider.

use axum::response::Response;
use http::StatusCode;

use super::html;
use super::response::{SignInEvent, add_cookie, see_other, with_event};
use super::sign_in_request::SignInRequest;
use crate::authn::SESSION_COOKIE;
use crate::http::Keep;
use crate::oidc::Tokens;
use crate::store::Session;

/// `GET /auth/logout`: asks first, so that an image on another site cannot sign a user out.
pub(super) async fn confirm(request: SignInRequest) -> Response {
    request.show(StatusCode::OK, html::confirm_logout(request.base()))
}

/// `POST /auth/logout`.
pub(super) async fn sign_out(request: SignInRequest) -> Response {
    let session = match request.end_session("signed out").await {
        Ok(session) => session,
        Err(error) => return request.store_unavailable(&error),
    };
    let at_provider = session.as_ref().and_then(|session| at_provider(&request, session));
    let mut response = see_other(&at_provider.unwrap_or_else(|| format!("{}/auth/signed-out", request.base())));
    add_cookie(&mut response, SESSION_COOKIE, "", Keep::No);
    if session.is_some() { with_event(response, SignInEvent::SignOut("user")) } else { response }
}

/// `GET /auth/signed-out`: the page to which providers return after a sign-out.
pub(super) async fn signed_out(request: SignInRequest) -> Response {
    request.show(StatusCode::OK, html::signed_out(request.base()))
}

/// Returns the address at which the session's provider signs its user out.
fn at_provider(request: &SignInRequest, session: &Session) -> Option<String> {
    let providers = &request.sign_in.providers;
    let provider = providers.get(session.provider.as_deref()?)?;
    // Without the ID token, the provider asks the user to confirm the sign-out.
    let tokens = Tokens::open(&providers.keys, session.user.0, &session.tokens).unwrap_or_default();
    Some(provider.sign_out_at(&tokens)?.into())
}
