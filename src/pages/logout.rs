//! `/auth/logout`: a page that asks, and the form's answer, which ends the session here and at the provider.

use http::StatusCode;

use super::html;
use super::visit::{Page, Visit, Visited, add_cookie, see_other, with};
use crate::authn::SESSION_COOKIE;
use crate::http::Keep;
use crate::oidc::Tokens;
use crate::store::Session;

/// `GET /auth/logout`: an image on another site must not sign anybody out.
pub(super) fn confirm(visit: &Visit<'_>) -> Page {
    visit.show(StatusCode::OK, html::confirm_logout(visit.base()))
}

/// `POST /auth/logout`.
pub(super) async fn now(visit: &Visit<'_>) -> Page {
    let session = match visit.end_session("signed out").await {
        Ok(session) => session,
        Err(error) => return visit.store_is_away(&error),
    };
    let there = session.as_ref().and_then(|session| at_provider(visit, session));
    let mut page = see_other(&there.unwrap_or_else(|| format!("{}/auth/signed-out", visit.base())));
    add_cookie(&mut page, SESSION_COOKIE, "", Keep::No);
    if session.is_some() { with(page, Visited::SignOut("user")) } else { page }
}

fn at_provider(visit: &Visit<'_>, session: &Session) -> Option<String> {
    let providers = &visit.sign_in.providers;
    let provider = providers.get(session.provider.as_deref()?)?;
    let tokens = Tokens::open(&providers.keys, session.user.0, &session.tokens).unwrap_or_default();
    Some(provider.sign_out_at(&tokens)?.into())
}
