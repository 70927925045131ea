//! Forwarding: rebuilds a request from its known fields, authorises it, and sends it, depending on the kind of its body.

use bytes::Bytes;
use http::{HeaderValue, Method, header};

use super::bodies::{self, BodyError, Held};
use super::send::without;
use super::{Checked, Error, Proxy, Record, own};
use crate::authz::{Identity, Mutation, Permit, Requirement, Visibility, authorize, holds, open_to_all};
use crate::budget::{Owner, Share};
use crate::config::{INSPECTION_COST, UnknownFields};
use crate::effects::{Done, EffectError, Turn};
use crate::filter::ListRequest;
use crate::http::{Body, CanonicalPath, Query, Response, to_upstream};
use crate::mlflow::{
    Filter, FollowUp, Input, Json, LocateError, Narrowed, Operation, Rule, Then, Unknown, canonical, read_spans, sign,
    text_field, unpacked_size,
};
use crate::upstream::impatiently;

impl Proxy {
    /// Forwards requests that require no sign-in: health, API version and static files.
    pub(super) async fn forward_public(
        &self,
        checked: &mut Checked<'_>,
        operation: &Operation,
        record: &mut Record,
    ) -> Result<Response, Error> {
        let mut query = std::mem::take(&mut checked.query);
        self.keep_known_fields(operation, &mut query, None)?;
        let outgoing = self.outgoing(checked, &query, Body::Empty);
        record.public();
        // Anonymous callers must not occupy the slots of authenticated ones.
        let response = self.upstream.forward_at_once(open_to_all(), outgoing).await?;
        Ok(self.answered(response, record))
    }

    /// Rebuilds a request from the known fields of its operation. The remaining fields are authorised and sent.
    pub(super) fn keep_known_fields(
        &self,
        operation: &Operation,
        query: &mut Query,
        body: Option<&[u8]>,
    ) -> Result<Option<String>, Error> {
        let mut unknown = Unknown::default();
        let size = body.map_or(0, <[u8]>::len);
        let body = bodies::aside(size, || self.table.rebuild(operation, query, body, &mut unknown))?;
        self.report_unknown(operation, &unknown)?;
        Ok(body)
    }

    /// Counts removed fields, and refuses them if the configuration requires it.
    pub(super) fn report_unknown(&self, operation: &Operation, unknown: &Unknown) -> Result<(), Error> {
        let Some(first) = unknown.names().first() else { return Ok(()) };
        self.telemetry.unknown_fields(operation.name, unknown.count(), unknown.names());
        match self.authz.unknown_fields {
            UnknownFields::Drop => Ok(()),
            UnknownFields::Refuse => Err(LocateError::Unknown(first.clone()).into()),
        }
    }

    pub(super) async fn forward_query(
        &self,
        checked: &mut Checked<'_>,
        identity: &Identity,
        operation: &Operation,
        params: &[(&str, &str)],
        record: &mut Record,
    ) -> Result<Response, Error> {
        let mut query = std::mem::take(&mut checked.query);
        if query.is_empty() && checked.has_body() {
            Box::pin(self.fold_body(checked, identity, operation, &mut query)).await?;
        }
        self.keep_known_fields(operation, &mut query, None)?;
        let input = Input { params, headers: &checked.head.headers, query: &mut query, body: None };
        let permit = self.permit(identity, operation, input).await?;
        canonical_artifact_path(checked, params)?;
        if let Some(narrow) = &operation.narrow
            && Box::pin(self.narrow(identity, narrow, &mut query, None)).await? == Narrowed::Nothing
        {
            return Ok(own::json(EMPTY));
        }
        let rewritten = operation.filter.is_some() || operation.hide.is_some() || operation.actions.is_some();
        if checked.head.method == Method::HEAD && rewritten {
            // With HEAD, MLflow would return the length of the unfiltered response.
            checked.head.method = Method::GET;
        }
        if let Some(filter) = operation.filter {
            return Box::pin(self.list(checked, identity, permit, filter, query, None, record)).await;
        }
        let outgoing = self.outgoing(checked, &query, Body::Empty);
        if let Some(field) = operation.hide.as_deref().filter(|_| !identity.admin) {
            let rewrite = |answer: &str| without(field, answer);
            return Box::pin(self.send_and_rewrite(permit, outgoing, identity, record, rewrite)).await;
        }
        self.send_with_actions(permit, outgoing, identity, operation, record).await
    }

    /// Adds the fields of a GET's JSON body to its query, where MLflow reads them. The body itself is never sent.
    pub(super) async fn fold_body(
        &self,
        checked: &mut Checked<'_>,
        identity: &Identity,
        operation: &Operation,
        query: &mut Query,
    ) -> Result<(), Error> {
        let (schema, message) = (self.table.schema(), operation.fields.query);
        if !schema.is_read_from_bodies(message) {
            return Ok(());
        }
        // MLflow ignores the Content-Type of a GET.
        own::check_encoding(&checked.head.headers)?;
        let held = self.read(checked, Owner::User(identity.user), QUERY_BODY_BYTES).await?;
        if held.bytes.is_empty() {
            return Ok(());
        }
        let mut unknown = Unknown::default();
        schema.fold_into_query(message, &held.bytes, query, &mut unknown)?;
        self.report_unknown(operation, &unknown)
    }

    /// Forwards requests whose JSON body is read, rebuilt and authorised.
    pub(super) async fn forward_json(
        &self,
        checked: &mut Checked<'_>,
        identity: &Identity,
        operation: &Operation,
        params: &[(&str, &str)],
        record: &mut Record,
    ) -> Result<Response, Error> {
        let limit = if operation.large { usize::MAX } else { SMALL_BODY_BYTES };
        if checked.has_body() {
            // Refuses a caller without any sufficient grant before memory for the body is reserved.
            self.could_be_allowed(identity, operation)?;
        }
        let held = self.read_json(checked, identity, limit).await?;
        let Held { bytes, share: _share } = held;
        // Waits only now: with the body read, hyper notices a client that disconnects during the wait, and the request is dropped.
        let now = self.after_wait(checked, bytes.len()).await?;
        let identity = now.as_deref().unwrap_or(identity);
        let mut query = std::mem::take(&mut checked.query);
        let text = self.keep_known_fields(operation, &mut query, (!bytes.is_empty()).then_some(&bytes))?;
        // Only the canonical text is used from here on. Without this, body and copies would exceed the reserved
        // memory.
        drop(bytes);
        let mut body = text.as_deref().map(Json::open).transpose()?;
        let turn = self.turn(identity, operation, body.as_ref()).await?;
        let input = Input { params, headers: &checked.head.headers, query: &mut query, body: body.as_mut() };
        let decided = match &turn {
            None => self.permit(identity, operation, input).await,
            // Does not wait for an unreachable MLflow, because other requests wait for this turn.
            Some(_) => Box::pin(impatiently(self.permit(identity, operation, input))).await,
        };
        let permit = match decided {
            Err(Error::Locate(LocateError::Missing(_))) if operation.empty => return Ok(own::json(EMPTY)),
            decided => decided?,
        };
        canonical_artifact_path(checked, params)?;
        checked.parent_trace = self.parent_trace(identity, operation, &checked.head.headers).await?;
        if let Some(narrow) = &operation.narrow
            && Box::pin(self.narrow(identity, narrow, &mut query, body.as_mut())).await? == Narrowed::Nothing
        {
            return Ok(own::json(EMPTY));
        }
        if let Some(filter) = operation.filter {
            return Box::pin(self.list(checked, identity, permit, filter, query, body.as_mut(), record)).await;
        }
        if let Some(body) = body.as_mut() {
            self.rewrite(identity, operation, body).await?;
        }
        let mut follow_up = FollowUp::of(operation, params, body.as_mut())?;
        if let Some(FollowUp::Mutation(mutation)) = &mut follow_up {
            Box::pin(self.name_as_stored(mutation)).await?;
        }
        let renamed = renamed_experiment(operation, body.as_mut())?;
        let rewritten = body.filter(|body| is_rewritten(operation, body, text.as_deref())).map(|body| written(&body));
        let bytes = rewritten.or_else(|| text.map(Bytes::from));
        let outgoing = self.outgoing_json(checked, &query, bytes);
        let _announced = renamed.clone().map(|id| self.effects.announcing_rename(id));
        // Also before the request, because a look-up can occur between MLflow's change and its response.
        self.forget_changed(operation, renamed.as_deref()).await;
        let answer = if follow_up.is_some() || turn.is_some() {
            let share = Share::of(&self.answers, Owner::User(identity.user));
            let done = self.effects.carry_out(identity, checked.address, permit, follow_up, outgoing, turn, share);
            Box::pin(self.answer_done(identity, done, operation, record)).await
        } else if let Some(then @ (Then::LearnRun | Then::LearnTrace)) = operation.then {
            self.send_and_learn(permit, outgoing, identity, then, record).await
        } else {
            self.send_with_actions(permit, outgoing, identity, operation, record).await
        };
        self.forget_changed(operation, renamed.as_deref()).await;
        answer
    }

    /// Waits for the turn of an operation that is checked against state which another one of its kind changes.
    async fn turn(
        &self,
        identity: &Identity,
        operation: &Operation,
        body: Option<&Json<'_>>,
    ) -> Result<Option<Turn>, Error> {
        // Boxed here, because these futures are large and most operations need none.
        Ok(match operation.rule {
            Some(Rule::ProviderSecret | Rule::ProviderModel) => {
                Some(Box::pin(self.effects.gateway_turn(identity)).await?)
            }
            Some(Rule::ArtifactLocation) if body.is_some_and(|body| body.get("artifact_location").is_some()) => {
                Some(Box::pin(self.effects.location_turn(identity)).await?)
            }
            Some(_) | None => None,
        })
    }

    /// Changes the fields of a body that the proxy controls: assessments of other traces, the version of a prompt, the author.
    async fn rewrite(&self, identity: &Identity, operation: &Operation, body: &mut Json<'_>) -> Result<(), Error> {
        match operation.rule {
            Some(Rule::TraceStays) => Box::pin(self.keep_own_assessments(identity, body)).await?,
            Some(Rule::PromptSource) => Box::pin(self.pin_prompt(identity, body)).await?,
            Some(_) | None => {}
        }
        if let Some(author) = operation.author.filter(|_| self.authz.authorship) {
            bodies::aside(body.size(), || sign(author, body, &identity.name))?;
        }
        Ok(())
    }

    /// Clears the cached facts that an operation changes, regardless of MLflow's response, which may be lost.
    async fn forget_changed(&self, operation: &Operation, renamed_experiment: Option<&str>) {
        if operation.changes_versions() {
            self.resolver.forget_versions();
        }
        if operation.then == Some(Then::ForgetTraces) {
            self.resolver.forget_traces();
        }
        if let Some(id) = renamed_experiment {
            Box::pin(self.resolver.forget_experiment(id)).await;
        }
    }

    /// Replaces the name in a deletion or a renaming with the one that MLflow stores, which may differ from the request's
    /// spelling.
    async fn name_as_stored(&self, mutation: &mut Mutation) -> Result<(), Error> {
        let (kind, key) = match mutation {
            Mutation::Create { .. } => return Ok(()),
            Mutation::Delete { kind, key } => (*kind, key),
            Mutation::Rename { kind, from, .. } => (*kind, from),
        };
        *key = self.resolver.stored_key(kind, std::mem::take(key)).await?;
        Ok(())
    }

    pub(super) async fn forward_stream(
        &self,
        checked: &mut Checked<'_>,
        identity: &Identity,
        operation: &Operation,
        params: &[(&str, &str)],
        record: &mut Record,
    ) -> Result<Response, Error> {
        let mut query = std::mem::take(&mut checked.query);
        self.keep_known_fields(operation, &mut query, None)?;
        let input = Input { params, headers: &checked.head.headers, query: &mut query, body: None };
        let permit = self.permit(identity, operation, input).await?;
        canonical_artifact_path(checked, params)?;
        checked.parent_trace = self.parent_trace(identity, operation, &checked.head.headers).await?;
        let follow_up = FollowUp::of(operation, params, None)?;
        let outgoing = self.outgoing_stream(checked, &query);
        if follow_up.is_none() {
            return self.send(permit, outgoing, record).await;
        }
        let share = Share::of(&self.answers, Owner::User(identity.user));
        let done = self.effects.carry_out(identity, checked.address, permit, follow_up, outgoing, None, share);
        self.answer_done(identity, done, operation, record).await
    }

    /// Carries out a change and responds to it.
    async fn answer_done(
        &self,
        identity: &Identity,
        done: impl Future<Output = Result<Done, EffectError>>,
        operation: &Operation,
        record: &mut Record,
    ) -> Result<Response, Error> {
        let done = done.await?;
        record.upstream_answered();
        self.done(identity, done, operation).await
    }

    /// Forwards spans in OpenTelemetry's protocol. Every trace in the export must be new or in the experiment that the header
    /// specifies.
    pub(super) async fn forward_spans(
        &self,
        checked: &mut Checked<'_>,
        identity: &Identity,
        operation: &Operation,
        params: &[(&str, &str)],
        record: &mut Record,
    ) -> Result<Response, Error> {
        let mut query = Query::default();
        let headers = &checked.head.headers;
        let input = Input { params, headers, query: &mut query, body: None };
        // Decided before the body is read, so that callers without access cannot make the proxy decompress it, and
        // again below if that took long.
        let permit = self.permit(identity, operation, input).await.map_err(Error::in_spans)?;
        let limit = self.server.max_body_bytes;
        let Held { bytes: raw, mut share } = self.read(checked, Owner::User(identity.user), limit).await?;
        let headers = &checked.head.headers;
        let text = |name: header::HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("not text"));
        let (content_type, encoding) = (text(header::CONTENT_TYPE), text(header::CONTENT_ENCODING));
        let mut unknown = Unknown::default();
        let schema = self.table.schema();
        // Measured before decompression, so that all memory is reserved before it is used.
        let size = bodies::aside(raw.len(), || unpacked_size(encoding, &raw, limit))?;
        share.grow(size.saturating_mul(INSPECTION_COST)).await.map_err(BodyError::NoRoom)?;
        let read = || read_spans(schema, content_type, encoding, &raw, limit, &mut unknown);
        let spans = bodies::aside(size, read)?;
        drop(raw);
        self.report_unknown(operation, &unknown)?;
        let permit = match self.after_wait(checked, spans.body.len()).await? {
            Some(now) => {
                let input = Input { params, headers: &checked.head.headers, query: &mut query, body: None };
                self.permit(&now, operation, input).await.map_err(Error::in_spans)?
            }
            None => permit,
        };
        let experiment = text(header::HeaderName::from_static("x-mlflow-experiment-id")).unwrap_or_default().to_owned();
        if !self.resolver.traces_fit(&spans.traces, &experiment).await? {
            return Err(Error::TraceElsewhere);
        }
        let length = spans.body.len();
        let mut outgoing = self.outgoing(checked, &query, Body::from(Bytes::from(spans.body)));
        outgoing.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(spans.content_type));
        outgoing.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        let response = self.send(permit, outgoing, record).await?;
        if response.status().is_success() {
            self.resolver.learn_traces(spans.traces, &experiment).await;
        }
        Ok(response)
    }

    /// Refuses requests that are not in the route table. For administrators, forwards them unchanged if the configuration
    /// allows it.
    pub(super) async fn forward_unlisted(
        &self,
        checked: &mut Checked<'_>,
        identity: &Identity,
        record: &mut Record,
    ) -> Result<Response, Error> {
        if !self.authz.unlisted_routes_for_admins {
            return Err(Error::UnknownRoute);
        }
        // The effect of an unknown route is not known either, so every other method counts as a change.
        let reads = matches!(checked.head.method, Method::GET | Method::HEAD);
        // Checked before the wait, so that only administrators wait, and again after it with their rights of that
        // moment.
        holds(identity, self.default_permission, &Requirement::Admin { change: !reads })?;
        let now = self.after_wait(checked, 0).await?;
        let identity = now.as_deref().unwrap_or(identity);
        let permit = authorize(identity, self.default_permission, &[Requirement::Admin { change: !reads }])?;
        if checked.path.decoded().contains('%') {
            return Err(crate::http::PathError::EncodedTwice.into());
        }
        let query = std::mem::take(&mut checked.query);
        let outgoing = if !reads && own::is_json(&checked.head.headers) {
            let held = self.read_json(checked, identity, usize::MAX).await?;
            let bytes = &held.bytes;
            let body = if bytes.is_empty() { None } else { Some(bodies::aside(bytes.len(), || canonical(bytes))?) };
            Self::as_json(self.outgoing(checked, &query, Body::Empty), body.map(Bytes::from))
        } else {
            self.outgoing_stream(checked, &query)
        };
        self.send(permit, outgoing, record).await
    }

    #[expect(clippy::too_many_arguments, reason = "one private step of the request's life")]
    pub(super) async fn list(
        &self,
        checked: &mut Checked<'_>,
        identity: &Identity,
        permit: Permit,
        filter: Filter,
        mut query: Query,
        body: Option<&mut Json<'_>>,
        record: &mut Record,
    ) -> Result<Response, Error> {
        let visible: Vec<_> = match filter.shape().kinds {
            Some(kinds) => kinds
                .iter()
                .map(|kind| match filter.tier(*kind) {
                    // Excludes all objects of a denied tier.
                    Some(tier) if holds(identity, self.default_permission, &Requirement::NotDenied(tier)).is_err() => {
                        Visibility::Only(Vec::new())
                    }
                    Some(_) | None => Visibility::of(identity, self.default_permission, *kind),
                })
                .collect(),
            None if identity.admin && identity.limits.is_unlimited() => vec![Visibility::All],
            None => vec![Visibility::PerRow],
        };
        // MLflow's answer is forwarded unchanged if no row is hidden and no `allowed_actions` have to be replaced.
        let as_it_is = filter.shape().actions.is_none() || identity.admin && identity.limits.is_unlimited();
        if as_it_is && visible.iter().all(|visible| *visible == Visibility::All) {
            let outgoing = match &body {
                Some(body) => self.outgoing_json(checked, &query, Some(written(body))),
                None => self.outgoing(checked, &query, Body::Empty),
            };
            return self.send(permit, outgoing, record).await;
        }
        if visible.iter().all(|visible| *visible == Visibility::Only(Vec::new())) {
            return Ok(own::json(self.lists.nothing(identity, filter).body));
        }
        let headers = to_upstream(std::mem::take(&mut checked.head.headers), self.upstream.host(), checked.address);
        let (method, path) = (checked.head.method.clone(), checked.path.encoded().into_owned());
        let share = Share::of(&self.answers, Owner::User(identity.user));
        let request = ListRequest { method, path, headers, query: &mut query, body, share };
        let answer = self.lists.page(identity, self.default_permission, permit, filter, &visible, request).await?;
        record.upstream_answered();
        let mut response = own::json(answer.body);
        *response.status_mut() = answer.status;
        Ok(response)
    }
}

/// Returns the ID of the experiment that a request renames.
fn renamed_experiment(operation: &Operation, body: Option<&mut Json<'_>>) -> Result<Option<String>, Error> {
    match (operation.then, body) {
        (Some(Then::RenameExperiment), Some(body)) => Ok(text_field(body, "experiment_id")?),
        (Some(_) | None, _) => Ok(None),
    }
}

/// Returns true if a body must be serialised again. Otherwise `text`, from which it was opened, is sent unchanged.
fn is_rewritten(operation: &Operation, body: &Json<'_>, text: Option<&str>) -> bool {
    debug_assert!(operation.rewrites_body() || text == Some(&body.to_text()), "{} changes its body", operation.name);
    operation.rewrites_body()
}

pub(super) fn written(body: &Json<'_>) -> Bytes {
    bodies::aside(body.size(), || Bytes::from(body.to_bytes()))
}

/// Makes an artifact path canonical. Clients can send artifact paths in a spelling that MLflow would decode further, so the
/// authorised path is sent instead. All other paths must arrive fully decoded.
fn canonical_artifact_path(checked: &mut Checked<'_>, params: &[(&str, &str)]) -> Result<(), Error> {
    use crate::mlflow::ArtifactPath;
    let Some((_, raw)) = params.iter().find(|(name, _)| *name == "artifact_path") else {
        let twice = checked.path.decoded().contains('%');
        return if twice { Err(crate::http::PathError::EncodedTwice.into()) } else { Ok(()) };
    };
    let stable = ArtifactPath::parse(raw)?;
    if stable.as_str() == *raw {
        return Ok(());
    }
    let prefix = checked.path.decoded().strip_suffix(raw).unwrap_or_default().to_owned();
    checked.path = CanonicalPath::from_decoded(prefix + stable.as_str())?;
    Ok(())
}

/// An empty protobuf message as a response.
const EMPTY: Bytes = Bytes::from_static(b"{}");

/// Maximum size of the JSON body of a GET. Its fields become a query, and MLflow's server accepts at most 64 KiB of request
/// line.
const QUERY_BODY_BYTES: usize = 16 * 1024;

/// Maximum size of a JSON body that is not a batch: names, tags, descriptions. MLflow repeats them in every list, so they must
/// stay small.
pub(super) const SMALL_BODY_BYTES: usize = 1024 * 1024;
