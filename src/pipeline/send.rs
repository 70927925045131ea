//! The last step: sends the request to MLflow, and converts its response to the client's.

use bytes::Bytes;
use http::{HeaderValue, Method, header};
use hyper::body::Incoming;

use super::bodies::{BodyError, Held};
use super::{Checked, Error, Proxy, Record, own};
use crate::authz::{Identity, Permit};
use crate::budget::{self, ANSWER_COST, AnswerError, Owner, Share, expected_answer};
use crate::effects::{Answer, Done};
use crate::filter::{with_actions, with_all_actions};
use crate::http::{Body, CanonicalPath, Query, Response, from_upstream, to_upstream};
use crate::mlflow::{Operation, Then};
use crate::upstream::Outgoing;

impl Proxy {
    pub(super) async fn send(
        &self,
        permit: Permit,
        outgoing: Outgoing,
        record: &mut Record,
    ) -> Result<Response, Error> {
        let response = self.upstream.forward(permit, outgoing).await?;
        Ok(self.answered(response, record))
    }

    pub(super) fn answered(&self, response: http::Response<Incoming>, record: &mut Record) -> Response {
        record.upstream_answered();
        let (head, body) = response.into_parts();
        self.whole(head, Body::from(body))
    }

    /// Sends a request, and adds the caller's allowed actions to an MCP server or a skill in the response.
    pub(super) async fn send_with_actions(
        &self,
        permit: Permit,
        outgoing: Outgoing,
        identity: &Identity,
        operation: &Operation,
        record: &mut Record,
    ) -> Result<Response, Error> {
        match operation.actions.filter(|_| !(identity.admin && identity.limits.is_unlimited())) {
            Some(kind) => {
                let rewrite = |answer: &str| with_actions(identity, self.default_permission, kind, answer);
                Box::pin(self.send_and_rewrite(permit, outgoing, identity, record, rewrite)).await
            }
            None => self.send(permit, outgoing, record).await,
        }
    }

    /// Sends a request, and rewrites the JSON of a successful response.
    pub(super) async fn send_and_rewrite(
        &self,
        permit: Permit,
        outgoing: Outgoing,
        identity: &Identity,
        record: &mut Record,
        rewrite: impl FnOnce(&str) -> Option<String>,
    ) -> Result<Response, Error> {
        let reads = matches!(outgoing.method, Method::GET | Method::HEAD);
        let (head, body) = self.send_to_read(permit, outgoing, record).await?;
        let read = self.read_answer(identity, body, self.server.max_body_bytes).await;
        let answered = self.answer_read(head, read, async |body| rewritten(&body, rewrite)).await;
        // A change has been carried out, so its error must not invite the client to repeat the request.
        answered.map_err(|error| if reads { error } else { error.after_a_change() })
    }

    /// Responds to a change that was carried out. The creator of a new resource is allowed all actions on it.
    pub(super) async fn done(&self, identity: &Identity, done: Done, operation: &Operation) -> Result<Response, Error> {
        let Done { head, answer } = done;
        let rewrites = operation.actions.is_some() && head.status.is_success();
        let read = match answer {
            Answer::Read(body, share) => Ok((body, share)),
            Answer::Streams(body) if rewrites => self.read_answer(identity, body, self.server.max_body_bytes).await,
            Answer::Streams(body) => return Ok(self.whole(head, Body::from(body))),
        };
        let rewrite = async |body: Bytes| if rewrites { rewritten(&body, with_all_actions) } else { Ok(body) };
        self.answer_read(head, read, rewrite).await.map_err(Error::after_a_change)
    }

    pub(super) async fn send_and_learn(
        &self,
        permit: Permit,
        outgoing: Outgoing,
        identity: &Identity,
        then: Then,
        record: &mut Record,
    ) -> Result<Response, Error> {
        let mut share = Share::of(&self.answers, Owner::User(identity.user));
        // Before MLflow is called, because afterwards it is too late to refuse.
        share.reserve(expected_answer(&outgoing.body)).await.map_err(BodyError::NoRoom)?;
        let (head, body) = self.send_to_read(permit, outgoing, record).await?;
        let read = self.read_within(share, body, self.server.max_body_bytes).await;
        let learn = async |body: Bytes| {
            if then == Then::LearnTrace {
                Box::pin(self.resolver.learn_trace(&body)).await;
            } else {
                Box::pin(self.resolver.learn_run(&body)).await;
            }
            Ok(body)
        };
        self.answer_read(head, read, learn).await.map_err(Error::after_a_change)
    }

    /// Sends a request whose response is read here, so it must not be compressed.
    async fn send_to_read(
        &self,
        permit: Permit,
        mut outgoing: Outgoing,
        record: &mut Record,
    ) -> Result<(http::response::Parts, Incoming), Error> {
        outgoing.headers.remove(header::ACCEPT_ENCODING);
        let response = self.upstream.forward(permit, outgoing).await?;
        record.upstream_answered();
        Ok(response.into_parts())
    }

    /// Responds with a body that was read. `of_success` receives the body of a success and returns the one to send.
    async fn answer_read(
        &self,
        mut head: http::response::Parts,
        read: Result<(Bytes, Share), Error>,
        of_success: impl AsyncFnOnce(Bytes) -> Result<Bytes, Error>,
    ) -> Result<Response, Error> {
        let (mut body, share) = read?;
        if head.status.is_success() {
            body = of_success(body).await?;
            // hyper writes the length of the body that is sent.
            head.headers.remove(header::CONTENT_LENGTH);
        }
        Ok(self.whole(head, Body::from(kept(share, body).await?)))
    }

    fn whole(&self, mut head: http::response::Parts, body: Body) -> Response {
        from_upstream(&mut head.headers, self.upstream.authority());
        Response::from_parts(head, body)
    }

    /// Reads a response from MLflow completely, within the caller's share of the memory for responses.
    pub(super) async fn read_answer(
        &self,
        identity: &Identity,
        body: Incoming,
        limit: usize,
    ) -> Result<(Bytes, Share), Error> {
        self.read_within(Share::of(&self.answers, Owner::User(identity.user)), body, limit).await
    }

    async fn read_within(&self, mut share: Share, body: Incoming, limit: usize) -> Result<(Bytes, Share), Error> {
        let limit = limit.min(share.most() / ANSWER_COST);
        match budget::read_answer(body, limit, 0, &mut share).await {
            Ok(bytes) => Ok((bytes, share)),
            Err(AnswerError::Read(error)) => Err(crate::upstream::Error::from(error).into()),
            Err(AnswerError::NoRoom(full)) => Err(BodyError::NoRoom(full).into()),
        }
    }

    pub(super) async fn read_json(
        &self,
        checked: &mut Checked<'_>,
        identity: &Identity,
        limit: usize,
    ) -> Result<Held, Error> {
        own::check_json_head(&checked.head.headers)?;
        self.read(checked, Owner::User(identity.user), limit.min(self.server.max_body_bytes)).await
    }

    /// Reads the body of a request into memory. What is not read stays in `checked`, where a refusal can discard it.
    pub(super) async fn read(&self, checked: &mut Checked<'_>, owner: Owner, limit: usize) -> Result<Held, Error> {
        Ok(self.bodies.read(checked.body.as_mut(), owner, limit).await?)
    }

    pub(super) fn outgoing(&self, checked: &mut Checked<'_>, query: &Query, body: Body) -> Outgoing {
        let mut headers = to_upstream(std::mem::take(&mut checked.head.headers), self.upstream.host(), checked.address);
        if let Some(key) = checked.provider_key.take() {
            headers.insert(header::AUTHORIZATION, key);
        }
        if let Some(parent) = checked.parent_trace.take() {
            headers.insert(PARENT_TRACE, parent);
        }
        Outgoing { method: checked.head.method.clone(), target: target(&checked.path, query), headers, body }
    }

    pub(super) fn outgoing_json(&self, checked: &mut Checked<'_>, query: &Query, body: Option<Bytes>) -> Outgoing {
        Self::as_json(self.outgoing(checked, query, Body::Empty), body)
    }

    pub(super) fn as_json(mut outgoing: Outgoing, body: Option<Bytes>) -> Outgoing {
        outgoing.headers.remove(header::CONTENT_TYPE);
        if body.is_some() {
            outgoing.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let bytes = body.unwrap_or_default();
        // MLflow's Flask routes treat a chunked body as empty.
        outgoing.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes.len()));
        outgoing.body = Body::from(bytes);
        outgoing
    }

    pub(super) fn outgoing_stream(&self, checked: &mut Checked<'_>, query: &Query) -> Outgoing {
        let about_the_body = [header::CONTENT_LENGTH, header::CONTENT_ENCODING].map(|name| {
            let value = checked.head.headers.get(&name).cloned();
            (name, value)
        });
        let mut outgoing = self.outgoing(checked, query, Body::Empty);
        if checked.head.method == Method::GET {
            return outgoing;
        }
        for (name, value) in about_the_body {
            if let Some(value) = value {
                outgoing.headers.insert(name, value);
            }
        }
        outgoing.body = checked.body.take().map_or(Body::Empty, |body| self.bodies.streamed(body));
        outgoing
    }
}

/// Returns a body that holds its share until it is sent.
pub(super) async fn kept(share: Share, body: Bytes) -> Result<Bytes, Error> {
    share.keep(body).await.map_err(|full| BodyError::NoRoom(full).into())
}

/// Returns the JSON of MLflow's answer after `rewrite`.
///
/// # Errors
///
/// The response does not match MLflow's API.
pub(super) fn rewritten(body: &[u8], rewrite: impl FnOnce(&str) -> Option<String>) -> Result<Bytes, Error> {
    let told = std::str::from_utf8(body).ok().and_then(rewrite);
    Ok(told.ok_or(crate::upstream::Error::NotUnderstood)?.into())
}

pub(super) fn without(field: &str, told: &str) -> Option<String> {
    let mut told: serde_json::Map<String, serde_json::Value> = serde_json::from_str(told).ok()?;
    told.remove(field);
    Some(serde_json::Value::Object(told).to_string())
}

pub(super) fn target(path: &CanonicalPath, query: &Query) -> String {
    let mut target = path.encoded().into_owned();
    if !query.is_empty() {
        target.push('?');
        target.push_str(&query.encoded());
    }
    target
}

pub(super) const PARENT_TRACE: &str = "traceparent";
