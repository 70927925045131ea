//! `POST /auth/backchannel-logout`: a provider ends sessions (OpenID Connect Back-Channel Logout 1.0).
//!
//! One session there may be several here; all of them end. A token works once, and what it ends is gone at once in this
//! process and within half a second in others.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

use super::visit::{Page, Visit, Visited, with};
use crate::authz::UserId;
use crate::oidc::{Logout, Provider};
use crate::store;

/// `POST /auth/backchannel-logout` with `logout_token`.
pub(super) async fn answer(visit: &Visit<'_>) -> Page {
    let form = visit.form();
    let Some(token) = form.as_ref().and_then(|form| form.only("logout_token").ok()?) else {
        return refused("The form needs 'logout_token' once.", "no_token");
    };
    let (provider, logout) = match visit.sign_in.providers.logout(token).await {
        Ok(verified) => verified,
        Err(error) => {
            tracing::warn!(address = %visit.address, %error, "a logout token was refused: {error}");
            return refused("The logout token is not valid here.", "refused");
        }
    };
    match log_out(visit, provider, &logout).await {
        Ok(true) => {
            let mut page = Response::new(Bytes::new());
            page.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            with(page, Visited::SignOut("provider"))
        }
        Ok(false) => refused("The logout token was used before.", "replayed"),
        Err(error) => {
            tracing::error!(%error, "the store did not answer, a provider's logout is lost");
            let words =
                r#"{"error":"temporarily_unavailable","error_description":"The proxy's store does not answer."}"#;
            json(StatusCode::SERVICE_UNAVAILABLE, words.to_owned())
        }
    }
}

/// Whether the token was new.
async fn log_out(visit: &Visit<'_>, provider: &Provider, logout: &Logout) -> store::Result<bool> {
    let (store, issuer) = (&visit.parts.store, &provider.config.endpoint.issuer);
    let actor = visit.actor(&provider.config.name);
    let (subject, sid) = (logout.subject.as_deref(), logout.sid.as_deref());
    let ended = store.log_out(&actor, issuer, &logout.jti, logout.expires, subject, sid).await;
    visit.parts.authn.forget_all();
    let Some(mut users) = ended? else { return Ok(false) };
    if provider.config.logout_suspends_tokens {
        // Their access tokens rest, also when they had no session here.
        if let Some(subject) = subject
            && let Some(user) = store.user_by_identity(issuer, subject).await?
        {
            users.push(user.id);
        }
        suspend(visit, &users).await?;
    }
    Ok(true)
}

async fn suspend(visit: &Visit<'_>, users: &[UserId]) -> store::Result<()> {
    let mut users = users.to_vec();
    users.sort_unstable();
    users.dedup();
    for user in users {
        let why = "the identity provider signed them out";
        match visit.parts.store.suspend(&visit.actor("proxy"), user, why).await {
            Ok(()) | Err(store::Error::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
    }
    visit.parts.authn.forget_all();
    Ok(())
}

fn refused(words: &str, why: &'static str) -> Page {
    let body = serde_json::json!({ "error": "invalid_request", "error_description": words });
    with(json(StatusCode::BAD_REQUEST, body.to_string()), Visited::SignOut(why))
}

fn json(status: StatusCode, body: String) -> Page {
    let mut page = Response::new(Bytes::from(body));
    *page.status_mut() = status;
    page.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    page.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    page
}
