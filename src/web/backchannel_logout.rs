//! `POST /auth/backchannel-logout`: a provider ends sessions (OpenID Connect Back-Channel Logout 1.0).
//!
//! One session at the provider can correspond to several here; all of them end. A logout token is accepted once. The sessions end at
//! once in this process and within half a second in others.

use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, StatusCode, header};

use super::response::{SignInEvent, with_event};
use super::sign_in_request::SignInRequest;
use crate::authz::UserId;
use crate::oidc::{Logout, Provider};
use crate::store;

/// Handles `POST` with `logout_token`.
pub(super) async fn answer(request: SignInRequest) -> Response {
    let form = request.form();
    let Some(token) = form.as_ref().and_then(|form| form.only("logout_token").ok()?) else {
        return refused("The form needs 'logout_token' once.", "no_token");
    };
    let (provider, logout) = match request.sign_in.providers.logout(token).await {
        Ok(verified) => verified,
        Err(error) => {
            tracing::warn!(address = %request.address, %error, "a logout token was refused: {error}");
            return refused("The logout token is not valid here.", "refused");
        }
    };
    match log_out(&request, provider, &logout).await {
        Ok(true) => {
            let mut response = Response::new(Body::empty());
            response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            with_event(response, SignInEvent::SignOut("provider"))
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

/// Ends the sessions that the token names. Returns false if the token was used before.
async fn log_out(request: &SignInRequest, provider: &Provider, logout: &Logout) -> store::Result<bool> {
    let (store, issuer) = (&request.context.store, &provider.config.endpoint.issuer);
    let actor = request.actor(&provider.config.name);
    let (subject, sid) = (logout.subject.as_deref(), logout.sid.as_deref());
    let ended = store.log_out(&actor, issuer, &logout.jti, logout.expires, subject, sid).await;
    let Some(mut users) = ended? else { return Ok(false) };
    if provider.config.logout_suspends_tokens {
        // A user without a session here can have access tokens, too.
        if let Some(subject) = subject
            && let Some(user) = store.user_by_identity(issuer, subject).await?
        {
            users.push(user.id);
        }
        suspend(request, &users).await?;
    }
    Ok(true)
}

async fn suspend(request: &SignInRequest, users: &[UserId]) -> store::Result<()> {
    let mut users = users.to_vec();
    users.sort_unstable();
    users.dedup();
    for user in users {
        let why = "the identity provider signed the user out";
        match request.context.store.suspend(&request.actor("proxy"), user, why).await {
            Ok(()) | Err(store::Error::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn refused(words: &str, why: &'static str) -> Response {
    let body = serde_json::json!({ "error": "invalid_request", "error_description": words });
    with_event(json(StatusCode::BAD_REQUEST, body.to_string()), SignInEvent::SignOut(why))
}

/// Returns JSON in the form of the OpenID Connect specification, not in MLflow's.
fn json(status: StatusCode, body: String) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
