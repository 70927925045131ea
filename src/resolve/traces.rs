//! Traces: the experiment of each, alone and in batches.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use http::StatusCode;

use super::{BATCH, Error, Home, Resolver, failed, parse};
use crate::mlflow::answers::{AssessedTraceAnswer, TraceAnswer, TraceAnswerV2, TraceBatch, TraceInfo};
use crate::mlflow::{Child, lookups};
use crate::upstream;

impl Resolver {
    /// Caches a trace's experiment from a response that was forwarded.
    pub async fn learn_trace(&self, start_trace_answer: &[u8]) {
        if let Ok(answer) = serde_json::from_slice::<TraceAnswer>(start_trace_answer)
            && let Some((id, home)) = home_of_trace(answer.trace.trace_info)
        {
            self.others.insert((Child::Trace, id), home).await;
        }
    }

    /// Looks up many traces at once, so that a batch does not require one request for each. Traces that are not found, or
    /// cannot be looked up now, are requested one by one later.
    pub async fn prefetch_traces<'i>(&self, ids: impl Iterator<Item = &'i str>) {
        let mut unknown: Vec<&str> = Vec::new();
        for id in ids {
            if !self.others.contains_key(&(Child::Trace, id.to_owned())) && !unknown.contains(&id) {
                unknown.push(id);
            }
        }
        for ids in unknown.chunks(BATCH) {
            // A single trace costs one request in either way.
            if ids.len() < 2 {
                return;
            }
            let Ok(Some(found)) = self.batch_of_traces(ids).await else { return };
            for (id, home) in found {
                self.others.insert((Child::Trace, id), home).await;
            }
        }
    }

    /// Returns the experiment that already contains a trace with this ID. Ignores cached negative results, because the result
    /// decides about the creation of the trace.
    ///
    /// # Errors
    ///
    /// MLflow could not be asked.
    pub async fn experiment_of_trace(&self, id: &str) -> Result<Option<Arc<str>>, Error> {
        if let Some(known) = self.others.get(&(Child::Trace, id.to_owned())).await {
            return Ok(Some(known.experiment));
        }
        let Some(home) = self.ask_trace(id).await? else { return Ok(None) };
        self.others.insert((Child::Trace, id.to_owned()), home.clone()).await;
        Ok(Some(home.experiment))
    }

    /// Clears the cached experiments of traces, because some traces were deleted through the proxy.
    pub fn forget_traces(&self) {
        self.others.invalidate_all();
    }

    /// Returns the IDs of a trace's current assessments; none if the trace does not exist. Never cached.
    ///
    /// # Errors
    ///
    /// MLflow could not be asked.
    pub async fn assessments_of_trace(&self, id: &str) -> Result<HashSet<String>, Error> {
        // INVARIANT: `mlflow::demands` accepts letters, digits, `-` and `_` only, so the ID is one path segment.
        let found = self.find::<AssessedTraceAnswer>(lookups::trace(id)).await?;
        let assessments = found.map(|answer| answer.trace.trace_info.assessments).unwrap_or_default();
        Ok(assessments.into_iter().map(|assessment| assessment.assessment_id).collect())
    }

    /// Returns true if every one of these traces is in the experiment or does not exist yet. Ignores cached negative results.
    ///
    /// # Errors
    ///
    /// MLflow could not be asked.
    pub async fn traces_fit(&self, ids: &BTreeSet<String>, experiment: &str) -> Result<bool, Error> {
        let mut unknown: Vec<&str> = Vec::new();
        for id in ids {
            match self.others.get(&(Child::Trace, id.clone())).await {
                Some(home) if *home.experiment != *experiment => return Ok(false),
                Some(_) => {}
                None => unknown.push(id),
            }
        }
        for ids in unknown.chunks(BATCH) {
            match self.batch_of_traces(ids).await? {
                Some(found) => {
                    if found.iter().any(|(_, home)| *home.experiment != *experiment) {
                        return Ok(false);
                    }
                }
                // MLflow before 3.13 supports only look-ups of single traces.
                None => {
                    for id in ids {
                        if self.ask_trace(id).await?.is_some_and(|home| *home.experiment != *experiment) {
                            return Ok(false);
                        }
                    }
                }
            }
        }
        Ok(true)
    }

    /// Returns the experiments of these traces; traces that do not exist are omitted. Requires one look-up for each hundred
    /// traces that are not cached.
    ///
    /// # Errors
    ///
    /// MLflow could not be asked.
    pub async fn homes_of_traces(&self, ids: BTreeSet<String>) -> Result<HashMap<String, Arc<str>>, Error> {
        let (mut homes, mut unknown) = (HashMap::new(), Vec::new());
        for id in ids {
            match self.others.get(&(Child::Trace, id.clone())).await {
                Some(home) => {
                    homes.insert(id, home.experiment);
                }
                None => unknown.push(id),
            }
        }
        for ids in unknown.chunks(BATCH) {
            let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
            let found = match self.batch_of_traces(&ids).await? {
                Some(found) => found,
                // MLflow before 3.13 supports only look-ups of single traces.
                None => {
                    let mut found = Vec::new();
                    for id in ids {
                        found.extend(self.trace(id).await?.map(|home| (id.to_owned(), home)));
                    }
                    found
                }
            };
            for (id, home) in found {
                homes.insert(id.clone(), Arc::clone(&home.experiment));
                self.others.insert((Child::Trace, id), home).await;
            }
        }
        Ok(homes)
    }

    /// Caches the experiment of traces that MLflow has just accepted.
    pub async fn learn_traces(&self, ids: BTreeSet<String>, experiment: &str) {
        for id in ids {
            self.others.insert((Child::Trace, id), Home::of(experiment.to_owned())).await;
        }
    }

    /// Looks up these traces at once and returns those that exist; `None` if this MLflow does not support the request.
    pub(super) async fn batch_of_traces(&self, ids: &[&str]) -> Result<Option<Vec<(String, Home)>>, Error> {
        let body = serde_json::json!({ "trace_ids": ids }).to_string();
        let path = lookups::TRACES;
        let found = match self.upstream.ask(path, body).await {
            Ok(found) => found,
            Err(upstream::Error::Unexpected(StatusCode::METHOD_NOT_ALLOWED)) => None,
            Err(error) => return Err(failed(error)),
        };
        let found = found.map(|bytes| parse::<TraceBatch>(&bytes)).transpose()?;
        Ok(found.map(|batch| batch.trace_infos.into_iter().filter_map(home_of_trace).collect()))
    }

    pub(super) async fn trace(&self, id: &str) -> Result<Option<Home>, Error> {
        self.other(Child::Trace, id, async || self.ask_trace(id).await).await
    }

    pub(super) async fn ask_trace(&self, id: &str) -> Result<Option<Home>, Error> {
        let found = self.find::<TraceAnswer>(lookups::trace(id)).await?;
        if let Some((_, home)) = found.and_then(|answer| home_of_trace(answer.trace.trace_info)) {
            return Ok(Some(home));
        }
        // MLflow 2.14 to 2.22 has only the older route.
        let found = self.find::<TraceAnswerV2>(lookups::trace_v2(id)).await?;
        Ok(found.map(|answer| Home::of(answer.trace_info.experiment_id)))
    }
}

fn home_of_trace(trace: TraceInfo) -> Option<(String, Home)> {
    trace.in_experiment().map(|(id, experiment)| (id, Home::of(experiment)))
}
