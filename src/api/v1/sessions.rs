//! `/auth/api/v1/sessions`: lists and ends browser sessions.
//!
//! Users manage their own sessions, administrators those of every user. An access token can list sessions but not end them.

use std::sync::Arc;

use axum::extract::{Path, State};
use serde_json::json;

use super::tokens;
use crate::api::{ApiRequest, ApiResponse, ApiResult, Context, Refusal, views};
use crate::authz::{Requirement, Scheme, SessionId, UserId};
use crate::http::Reply;
use crate::store::{self, Session};

/// `GET /auth/api/v1/sessions[?user=]`: newest first. The caller's own session is marked.
pub(crate) async fn list(State(context): State<Arc<Context>>, request: ApiRequest) -> ApiResult {
    let (owner, name) = tokens::owner(&context, &request, Requirement::Admin { change: false }).await?;
    let sessions = context.sessions_of(owner).await?;
    let sessions: Vec<_> =
        sessions.iter().map(|session| views::session(session, &name, is_current(&request, session.id))).collect();
    Ok(ApiResponse::ok(json!({ "sessions": sessions })))
}

/// `DELETE /auth/api/v1/sessions[?user=]`: ends all sessions except the caller's, and returns their number.
pub(crate) async fn end_all(State(context): State<Arc<Context>>, request: ApiRequest) -> ApiResult {
    request.refuse_tokens("end sessions")?;
    let (owner, _) = tokens::owner(&context, &request, Requirement::Admin { change: true }).await?;
    let ended = end_others(&context, &request, owner).await?;
    Ok(ApiResponse::ok(json!({ "ended": ended })))
}

/// `DELETE /auth/api/v1/sessions/{id}[?user=]`. The caller's own session can be ended, too.
pub(crate) async fn end(State(context): State<Arc<Context>>, Path(id): Path<String>, request: ApiRequest) -> ApiResult {
    request.refuse_tokens("end sessions")?;
    let (owner, _) = tokens::owner(&context, &request, Requirement::Admin { change: true }).await?;
    end_one(&context, &request, parse_id(&id)?, owner).await?;
    Ok(ApiResponse::done())
}

/// Ends one session of `owner`. Another user's session is answered 404; administrators end every session by its ID.
pub(crate) async fn end_one(
    context: &Context,
    request: &ApiRequest,
    id: SessionId,
    owner: UserId,
) -> Result<(), Refusal> {
    let session = context.store.session(id).await?;
    let is_allowed = session.is_some_and(|session| session.user == owner || request.identity.admin);
    if !is_allowed {
        return Err(absent(id));
    }
    let ended = context.store.end_session(&request.actor(), id, "ended by hand").await;
    ended.map_err(|error| match error {
        store::Error::NotFound(_) => absent(id),
        other => other.into(),
    })
}

/// Ends all sessions of `owner` except the caller's. Returns their number.
pub(crate) async fn end_others(context: &Context, request: &ApiRequest, owner: UserId) -> Result<usize, Refusal> {
    let mut ended = 0;
    for session in context.sessions_of(owner).await? {
        if is_current(request, session.id) {
            continue;
        }
        match end_one(context, request, session.id, owner).await {
            Ok(()) => ended += 1,
            Err(refusal) if refusal.is_absent() => {}
            Err(refusal) => return Err(refusal),
        }
    }
    Ok(ended)
}

impl Context {
    /// Returns a user's sessions that have not expired.
    pub(crate) async fn sessions_of(&self, owner: UserId) -> Result<Vec<Session>, Refusal> {
        let mut sessions = self.store.sessions_of(owner).await?;
        sessions.retain(|session| self.authn.is_alive(session));
        Ok(sessions)
    }
}

/// Returns true if this is the session of the request.
pub(crate) fn is_current(request: &ApiRequest, id: SessionId) -> bool {
    request.identity.scheme == Scheme::Session(id)
}

/// Parses a session's ID from a path.
pub(crate) fn parse_id(id: &str) -> Result<SessionId, Refusal> {
    let number = id.parse().map(SessionId);
    number.map_err(|_| Reply::invalid(format!("Parameter 'id' must be an integer. Got: '{id}'")).into())
}

fn absent(id: SessionId) -> Refusal {
    Refusal::absent(format!("Session with id={id} not found"))
}
