//! `POST /graphql`: every root field of a query is decided separately.
//!
//! The query that is sent is rewritten from the allowed fields; a denied field is `null` in the response, as in MLflow.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use http::{HeaderValue, header};

use super::forward::SMALL_BODY_BYTES;
use super::send::kept;
use super::{Checked, Error, Proxy, Record, own};
use crate::authz::{Identity, Permission, Permit, Requirement, Resource, ResourceKind, authorize, holds};
use crate::budget::Share;
use crate::http::{Body, Query, Response};
use crate::mlflow::{Ask, GraphqlQuery, Located, Thing, Verdict};
use crate::resolve;

impl Proxy {
    /// Responds to a GraphQL query with the fields that `identity` is allowed to read.
    pub(super) async fn forward_graphql(
        &self,
        checked: &mut Checked<'_>,
        identity: &Identity,
        record: &mut Record,
    ) -> Result<Response, Error> {
        let held = self.read_json(checked, identity, SMALL_BODY_BYTES).await?;
        let now = self.after_wait(checked, held.bytes.len()).await?;
        let identity = now.as_deref().unwrap_or(identity);
        let query = GraphqlQuery::parse(&held.bytes)?;
        // The permit covers the requirements of all fields that are kept. Denied fields are not sent.
        let mut proven = vec![Requirement::SignedIn];
        let mut verdicts = Vec::with_capacity(query.fields().len());
        for field in query.fields() {
            let verdict = self.verdict(identity, &field.ask, &mut proven).await?;
            self.ask_beside(identity, &field.ask, &verdict).await;
            verdicts.push(verdict);
        }
        let permit = authorize(identity, self.default_permission, &proven)?;
        let answer = match query.rewrite(&verdicts) {
            Some(body) => Some(self.ask_graphql(permit, identity, checked, body, record).await?),
            None => None,
        };
        let bytes = answer.as_ref().map(|(bytes, _)| bytes.as_ref());
        let readable = self.readable_names(identity, &query, &verdicts, bytes).await?;
        let body = Bytes::from(query.answer(&verdicts, bytes, |name| readable.contains(name))?);
        Ok(own::json(match answer {
            Some((_, share)) => kept(share, body).await?,
            None => body,
        }))
    }

    pub(super) async fn verdict(
        &self,
        identity: &Identity,
        ask: &Ask,
        proven: &mut Vec<Requirement>,
    ) -> Result<Verdict, Error> {
        let read = |thing, id: &str| Located { permission: Permission::Read, thing, id: id.to_owned() };
        let located = match ask {
            Ask::Open | Ask::Versions(_) => return Ok(Verdict::Keep),
            Ask::Nothing => return Ok(Verdict::Drop),
            Ask::Experiment(id) => vec![read(Thing::Experiment, id)],
            Ask::Run(id) => vec![read(Thing::Run, id)],
            Ask::Runs(ids) => ids.iter().map(|id| read(Thing::Run, id)).collect(),
            Ask::Experiments(ids) => {
                let tier = Requirement::Tier { permission: Permission::Read, tier: ResourceKind::Run };
                if holds(identity, self.default_permission, &tier).is_err() {
                    return Ok(Verdict::Drop);
                }
                let readable = self.readable_experiments(identity, ids.iter().map(String::as_str), None).await?;
                let kept: Vec<String> = ids.iter().filter(|id| readable.contains(id.as_str())).cloned().collect();
                return Ok(if kept.is_empty() { Verdict::Drop } else { Verdict::Experiments(kept) });
            }
        };
        let mut needed = Vec::with_capacity(located.len());
        for located in located {
            for mut requirement in self.resolver.requirements(located).await? {
                if identity.needs_names() {
                    self.name_all(&mut requirement).await?;
                }
                if holds(identity, self.default_permission, &requirement).is_err() {
                    return Ok(Verdict::Drop);
                }
                needed.push(requirement);
            }
        }
        // Added together at the end, because a field that is dropped must not add requirements.
        proven.append(&mut needed);
        Ok(Verdict::Keep)
    }

    async fn ask_graphql(
        &self,
        permit: Permit,
        identity: &Identity,
        checked: &mut Checked<'_>,
        body: Vec<u8>,
        record: &mut Record,
    ) -> Result<(Bytes, Share), Error> {
        let length = body.len();
        let mut outgoing = self.outgoing(checked, &Query::default(), Body::from(Bytes::from(body)));
        outgoing.headers.remove(header::ACCEPT_ENCODING);
        outgoing.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        outgoing.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        let response = self.upstream.forward(permit, outgoing).await?;
        record.upstream_answered();
        if !response.status().is_success() {
            return Err(crate::upstream::Error::Unexpected(response.status()).into());
        }
        let limit = self.server.max_body_bytes.max(ANSWER_BYTES);
        self.read_answer(identity, response.into_body(), limit).await
    }

    /// Returns those models whose versions the response lists and that the caller is allowed to read.
    async fn readable_names(
        &self,
        identity: &Identity,
        query: &GraphqlQuery,
        verdicts: &[Verdict],
        answer: Option<&[u8]>,
    ) -> Result<BTreeSet<String>, Error> {
        let mut names = BTreeMap::new();
        // Discards the result: this pass only collects the names.
        query.answer(verdicts, answer, |name| {
            names.insert(name.to_owned(), ());
            false
        })?;
        let reads = |resource| {
            holds(identity, self.default_permission, &Requirement::version(Permission::Read, resource)).is_ok()
        };
        let reads_as = |kind, name: &str| reads(Resource::new(kind, name));
        let (mut readable, mut unclear) = (BTreeSet::new(), BTreeSet::new());
        for name in names.into_keys() {
            let as_model = reads_as(ResourceKind::RegisteredModel, &name);
            if as_model != reads_as(ResourceKind::Prompt, &name) {
                unclear.insert(name);
            } else if as_model {
                readable.insert(name);
            }
        }
        let mut kinds = self.resolver.models(&unclear).await?;
        for name in unclear {
            let resource = match kinds.remove(&name) {
                Some(resource) => Ok(resource),
                None => self.resolver.model(&name).await,
            };
            match resource {
                Ok(resource) if reads(resource.clone()) => {
                    readable.insert(name);
                }
                // Deleted since MLflow listed it.
                Ok(_) | Err(resolve::Error::NoSuchName(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(readable)
    }
}

/// The largest response is that to a search of runs with many metrics.
const ANSWER_BYTES: usize = 64 * 1024 * 1024;
