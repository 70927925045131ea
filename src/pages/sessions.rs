//! Sessions of browsers: `/auth/api/v1/sessions`.
//!
//! Everybody sees and ends their own; an administrator also anybody else's. A token may look, and end none.

use std::sync::Arc;

use axum::extract::{Path, State};
use serde_json::json;

use super::asked::{Asked, refuse_tokens};
use super::{Answer, Parts, Refusal, shapes, tokens};
use crate::authz::{Requirement, Scheme, SessionId, UserId};
use crate::http::Reply;
use crate::store::{self, Session};

/// `GET /auth/api/v1/sessions[?user=]`: newest first, with the one that asks marked.
pub(super) async fn list(State(parts): State<Arc<Parts>>, asked: Asked) -> Answer {
    let (owner, name) = tokens::owner(&parts, &asked, Requirement::Admin { change: false }).await?;
    let sessions = parts.sessions_of(owner).await?;
    let sessions: Vec<_> =
        sessions.iter().map(|session| shapes::session(session, &name, is_current(&asked, session.id))).collect();
    Ok(shapes::Shape::ok(json!({ "sessions": sessions })))
}

/// `DELETE /auth/api/v1/sessions[?user=]`: all of them, but the one that asks. Says how many.
pub(super) async fn end_all(State(parts): State<Arc<Parts>>, asked: Asked) -> Answer {
    refuse_tokens(&asked, "end sessions")?;
    let (owner, _) = tokens::owner(&parts, &asked, Requirement::Admin { change: true }).await?;
    let ended = end_others(&parts, &asked, owner).await?;
    Ok(shapes::Shape::ok(json!({ "ended": ended })))
}

/// `DELETE /auth/api/v1/sessions/{id}[?user=]`, also the one that asks.
pub(super) async fn end(State(parts): State<Arc<Parts>>, Path(id): Path<String>, asked: Asked) -> Answer {
    refuse_tokens(&asked, "end sessions")?;
    let (owner, _) = tokens::owner(&parts, &asked, Requirement::Admin { change: true }).await?;
    end_one(&parts, &asked, number(&id)?, owner).await?;
    Ok(shapes::Shape::done())
}

/// Ends one of this user's. Another's looks as if there were none; an administrator need not say whose it is.
pub(super) async fn end_one(parts: &Parts, asked: &Asked, id: SessionId, owner: UserId) -> Result<(), Refusal> {
    let session = parts.store.session(id).await?;
    let theirs = session.is_some_and(|session| session.user == owner || asked.identity.admin);
    if !theirs {
        return Err(absent(id));
    }
    let ended = parts.store.end_session(&asked.actor(), id, "ended by hand").await;
    parts.authn.forget_all();
    ended.map_err(|error| match error {
        store::Error::NotFound(_) => absent(id),
        other => other.into(),
    })
}

/// Ends all of this user's but the one that asks; how many.
pub(super) async fn end_others(parts: &Parts, asked: &Asked, owner: UserId) -> Result<usize, Refusal> {
    let mut ended = 0;
    for session in parts.sessions_of(owner).await? {
        if is_current(asked, session.id) {
            continue;
        }
        match end_one(parts, asked, session.id, owner).await {
            Ok(()) => ended += 1,
            Err(refusal) if refusal.is_absent() => {}
            Err(refusal) => return Err(refusal),
        }
    }
    Ok(ended)
}

impl Parts {
    /// The sessions of a user that still work.
    pub(super) async fn sessions_of(&self, owner: UserId) -> Result<Vec<Session>, Refusal> {
        let mut sessions = self.store.sessions_of(owner).await?;
        sessions.retain(|session| self.authn.is_alive(session));
        Ok(sessions)
    }
}

/// Whether this session is the one that asks.
pub(super) fn is_current(asked: &Asked, id: SessionId) -> bool {
    asked.identity.scheme == Scheme::Session(id)
}

pub(super) fn number(id: &str) -> Result<SessionId, Refusal> {
    let number = id.parse().map(SessionId);
    number.map_err(|_| Reply::invalid(format!("Parameter 'id' must be an integer. Got: '{id}'")).into())
}

fn absent(id: SessionId) -> Refusal {
    Refusal::absent(format!("Session with id={id} not found"))
}
