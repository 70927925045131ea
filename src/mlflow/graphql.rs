//! `POST /graphql`: the resources that a query reads, the query that is sent to MLflow instead, and the filtered response.
//!
//! Pure. [`Query::parse`] reduces the selected operation to plain fields: it inlines fragments, substitutes variables and
//! evaluates `@skip` and `@include`. [`Query::rewrite`] writes one operation without variables from the allowed fields. What is
//! authorised is therefore exactly what is sent, however another parser reads the original. [`Query::answer`] writes `null` for
//! denied fields and removes model versions that the caller is not allowed to read. A denial is `null` with status 200, never
//! an entry in `errors`, as in MLflow.
//!
//! Only known elements are forwarded: the root fields, their arguments, and below them the fields that lead to other resources.
//! MLflow validates the rest. Source: `mlflow.server.graphql`, `GraphQLAuthorizationMiddleware`.

mod document;

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::json::canonical;
use super::locate::{is_experiment_id, is_opaque_id};
use super::{Json, JsonError};
use document::{Literal, Selected};

/// One operation that a client requests.
#[derive(Clone, Debug)]
pub struct Query {
    keyword: &'static str,
    fields: Vec<RootField>,
}

/// One field at the root of the operation.
#[derive(Clone, Debug)]
pub struct RootField {
    /// The key of the field in the response.
    pub key: String,
    pub ask: Ask,
    selected: Selected,
}

/// The resources that a root field reads. Each requires READ.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Ask {
    /// Not specific to any resource: the schema, or an echo.
    Open,
    Experiment(String),
    Run(String),
    /// Several runs, all of which must be readable.
    Runs(Vec<String>),
    /// A search, reduced to readable experiments.
    Experiments(Vec<String>),
    /// Versions of registered models, whose names are known only from the response. Contains the filter of the search.
    Versions(String),
    /// No resource, or one that cannot exist. The response is `null`.
    Nothing,
}

/// The decision on a root field.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verdict {
    Keep,
    Drop,
    /// Keep an [`Ask::Experiments`], reduced to these.
    Experiments(Vec<String>),
}

/// The reason why a request is refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum GraphqlError {
    #[error(transparent)]
    Body(#[from] JsonError),
    #[error("The request must have a `query`, which is a string of at most {MAX_QUERY} bytes.")]
    NoQuery,
    #[error("The query is not understood: {0}.")]
    Syntax(&'static str),
    #[error("The query does not have exactly one such operation.")]
    Operation,
    #[error("The field `{0}` is not known here.")]
    UnknownField(String),
    #[error("The argument `{0}` is not known here, or has a value that it cannot have.")]
    Argument(String),
    #[error("The variable `{0}` is missing.")]
    Variable(String),
    #[error("The directive `@{0}` is not known here.")]
    Directive(String),
    #[error("The fragment `{0}` is not defined, or contains itself.")]
    Fragment(String),
    #[error("The fields named `{0}` differ.")]
    Conflict(String),
    #[error("The query has too many {0}.")]
    TooMany(&'static str),
    #[error("MLflow's answer is not understood")]
    Answer,
}

const MAX_QUERY: usize = 64 * 1024;

impl Query {
    /// Parses the body of a request.
    ///
    /// # Errors
    ///
    /// See [`GraphqlError`].
    pub fn parse(body: &[u8]) -> Result<Self, GraphqlError> {
        let body = canonical(body)?;
        let body = Json::open(&body)?;
        let text = body.text("query").filter(|text| text.len() <= MAX_QUERY).ok_or(GraphqlError::NoQuery)?;
        let name = match body.get("operationName") {
            None => None,
            Some(name) if name.is_null() => None,
            Some(Json::String(name)) => Some(name.as_ref()),
            Some(_) => return Err(GraphqlError::Operation),
        };
        let mut variables = body.get("variables").cloned().unwrap_or(Json::Object(Vec::new()));
        variables.open_closed()?;
        let Json::Object(variables) = variables else { return Err(GraphqlError::Argument("variables".to_owned())) };
        let operation = document::read(text, name, &variables)?;
        let fields = operation.fields.into_iter().map(RootField::new).collect::<Result<_, _>>()?;
        Ok(Self { keyword: operation.keyword, fields })
    }

    #[must_use]
    pub fn fields(&self) -> &[RootField] {
        &self.fields
    }

    /// Returns the body to send, with the allowed fields; `None` if no field is allowed. `verdicts` has one entry for each of
    /// [`Self::fields`], in order; fields without a verdict are dropped.
    #[must_use]
    pub fn rewrite(&self, verdicts: &[Verdict]) -> Option<Vec<u8>> {
        let mut text = format!("{}{{", self.keyword);
        let mut kept = 0;
        for (index, field) in self.fields.iter().enumerate() {
            if let Some(sent) = field.sent(verdicts.get(index)) {
                sent.write(&mut text);
                kept += 1;
            }
        }
        text.push('}');
        let query = Json::Object(vec![(Cow::Borrowed("query"), Json::String(Cow::Owned(text)))]);
        (kept > 0).then(|| query.to_bytes())
    }

    /// Returns the response for the client: MLflow's response with `null` for dropped fields, and without the model versions
    /// whose model name `keep` rejects. `answer` is `None` if nothing was sent.
    ///
    /// # Errors
    ///
    /// MLflow's response has an unexpected form.
    pub fn answer(
        &self,
        verdicts: &[Verdict],
        answer: Option<&[u8]>,
        mut keep: impl FnMut(&str) -> bool,
    ) -> Result<Vec<u8>, GraphqlError> {
        let answer = answer.map(|bytes| std::str::from_utf8(bytes).map_err(|_| GraphqlError::Answer)).transpose()?;
        let members = answer.map(members).transpose()?.unwrap_or_default();
        let data = match members.get("data") {
            Some(data) if data.get() == "null" => None,
            Some(data) => Some(self::members(data.get())?),
            // Nothing was sent, so every field is `null`.
            None if answer.is_none() => Some(BTreeMap::new()),
            None => return Err(GraphqlError::Answer),
        };
        let mut out = String::from("{\"data\":");
        match data {
            None => out.push_str("null"),
            Some(data) => {
                let mut edited = Vec::with_capacity(self.fields.len());
                for (index, field) in self.fields.iter().enumerate() {
                    let value = match (field.sent(verdicts.get(index)), data.get(field.key.as_str())) {
                        (Some(sent), Some(value)) => sent.edit(value.get(), &mut keep)?,
                        (Some(_) | None, _) => "null".to_owned(),
                    };
                    edited.push((field.key.as_str(), value));
                }
                write_members(&mut out, &edited);
            }
        }
        out.push_str(",\"errors\":");
        out.push_str(members.get("errors").map_or("null", |errors| errors.get()));
        out.push('}');
        Ok(out.into_bytes())
    }
}

impl RootField {
    fn new(mut selected: Selected) -> Result<Self, GraphqlError> {
        let ask = match inputs(&selected.name) {
            Some(kinds) => {
                let input = selected.coerce_input(kinds)?;
                ask(&selected.name, &input)
            }
            None if OPEN.contains(&selected.name.as_str()) => Ask::Open,
            None => return Err(GraphqlError::UnknownField(selected.name)),
        };
        // Open fields lead to no resource, so their selection needs no restriction.
        if ask != Ask::Open {
            selected.check_below()?;
            selected.show_names();
        }
        Ok(Self { key: selected.key.clone(), ask, selected })
    }

    /// Returns the field to send for a verdict, if any.
    fn sent(&self, verdict: Option<&Verdict>) -> Option<Cow<'_, Selected>> {
        match (verdict?, &self.ask) {
            (Verdict::Drop, _) | (Verdict::Keep | Verdict::Experiments(_), Ask::Nothing) => None,
            (Verdict::Experiments(ids), Ask::Experiments(asked)) => {
                // The result is always a subset of what the client requested.
                let kept: Vec<Literal> =
                    asked.iter().filter(|id| ids.contains(id)).cloned().map(Literal::String).collect();
                let mut sent = self.selected.clone();
                sent.set_input("experimentIds", Literal::List(kept.clone()));
                (!kept.is_empty()).then_some(Cow::Owned(sent))
            }
            (Verdict::Experiments(_), _) => None,
            (Verdict::Keep, _) => Some(Cow::Borrowed(&self.selected)),
        }
    }
}

/// Root fields that every caller is allowed to query.
const OPEN: [&str; 5] = ["__typename", "__schema", "__type", "test", "testMutation"];

/// The syntax of a value in a field of an `input`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Text,
    Texts,
    /// A number. Variables are allowed to contain it as a string where MLflow expects a long integer.
    Number,
    Word,
}

/// Returns the fields of a root field's `input`, and their kinds.
fn inputs(name: &str) -> Option<&'static [(&'static str, Kind)]> {
    Some(match name {
        "mlflowGetExperiment" => &[("experimentId", Kind::Text)],
        "mlflowGetRun" => &[("runId", Kind::Text), ("runUuid", Kind::Text)],
        "mlflowListArtifacts" => {
            &[("runId", Kind::Text), ("runUuid", Kind::Text), ("path", Kind::Text), ("pageToken", Kind::Text)]
        }
        "mlflowGetMetricHistoryBulkInterval" => &[
            ("runIds", Kind::Texts),
            ("metricKey", Kind::Text),
            ("startStep", Kind::Number),
            ("endStep", Kind::Number),
            ("maxResults", Kind::Number),
        ],
        "mlflowSearchModelVersions" => {
            &[("filter", Kind::Text), ("maxResults", Kind::Number), ("orderBy", Kind::Texts), ("pageToken", Kind::Text)]
        }
        "mlflowSearchRuns" => &[
            ("experimentIds", Kind::Texts),
            ("filter", Kind::Text),
            ("runViewType", Kind::Word),
            ("maxResults", Kind::Number),
            ("orderBy", Kind::Texts),
            ("pageToken", Kind::Text),
        ],
        "mlflowSearchDatasets" => &[("experimentIds", Kind::Texts)],
        _ => return None,
    })
}

fn ask(name: &str, input: &[(String, Literal)]) -> Ask {
    let value = |field: &str| input.iter().find(|(key, _)| key == field).map(|(_, value)| value);
    let text = |field: &str| match value(field) {
        Some(Literal::String(text)) => text.as_str(),
        _ => "",
    };
    let texts = |field: &str| -> Vec<String> {
        let Some(Literal::List(items)) = value(field) else { return Vec::new() };
        let text = |item: &Literal| if let Literal::String(text) = item { Some(text.clone()) } else { None };
        items.iter().filter_map(text).collect()
    };
    match name {
        "mlflowGetExperiment" if is_experiment_id(text("experimentId")) => {
            Ask::Experiment(text("experimentId").to_owned())
        }
        "mlflowGetRun" | "mlflowListArtifacts" => {
            let (id, uuid) = (text("runId"), text("runUuid"));
            let run = if id.is_empty() { uuid } else { id };
            // MLflow accepts either name. With two different IDs, the run that is read could be another than the
            // authorised one.
            let one = uuid.is_empty() || uuid == run;
            if one && is_opaque_id(run) { Ask::Run(run.to_owned()) } else { Ask::Nothing }
        }
        "mlflowGetMetricHistoryBulkInterval" => {
            let runs = texts("runIds");
            let known = !runs.is_empty() && runs.iter().all(|run| is_opaque_id(run));
            if known { Ask::Runs(runs) } else { Ask::Nothing }
        }
        "mlflowSearchRuns" | "mlflowSearchDatasets" => {
            let experiments = texts("experimentIds");
            let known = !experiments.is_empty() && experiments.iter().all(|id| is_experiment_id(id));
            if known { Ask::Experiments(experiments) } else { Ask::Nothing }
        }
        "mlflowSearchModelVersions" => Ask::Versions(text("filter").to_owned()),
        _ => Ask::Nothing,
    }
}

/// Returns the members of an object, with unparsed values.
fn members(text: &str) -> Result<BTreeMap<Cow<'_, str>, &RawValue>, GraphqlError> {
    serde_json::from_str(text).map_err(|_| GraphqlError::Answer)
}

fn write_members(out: &mut String, members: &[(&str, String)]) {
    out.push('{');
    for (index, (key, value)) in members.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        // Keys are GraphQL names (letters, digits and `_`), so they need no escaping.
        out.push('"');
        out.push_str(key);
        out.push_str("\":");
        out.push_str(value);
    }
    out.push('}');
}

impl Selected {
    /// Rewrites a value of the response without the fields that the client did not request or is not allowed to read.
    fn edit(&self, text: &str, keep: &mut impl FnMut(&str) -> bool) -> Result<String, GraphqlError> {
        if !self.is_edited() || text == "null" {
            return Ok(text.to_owned());
        }
        if text.starts_with('[') {
            let items: Vec<&RawValue> = serde_json::from_str(text).map_err(|_| GraphqlError::Answer)?;
            let mut kept = Vec::with_capacity(items.len());
            for item in items {
                if self.name == "modelVersions" && !self.may_keep(item.get(), keep)? {
                    continue;
                }
                kept.push(self.edit(item.get(), keep)?);
            }
            return Ok(format!("[{}]", kept.join(",")));
        }
        let values = members(text)?;
        let mut edited = Vec::with_capacity(values.len());
        for child in self.children.iter().filter(|child| !child.private) {
            if let Some(value) = values.get(child.key.as_str()) {
                edited.push((child.key.as_str(), child.edit(value.get(), keep)?));
            }
        }
        let mut out = String::with_capacity(text.len());
        write_members(&mut out, &edited);
        Ok(out)
    }

    fn may_keep(&self, version: &str, keep: &mut impl FnMut(&str) -> bool) -> Result<bool, GraphqlError> {
        let named = self.children.iter().find(|child| child.name == "name").ok_or(GraphqlError::Answer)?;
        let values = members(version)?;
        let name = values.get(named.key.as_str()).ok_or(GraphqlError::Answer)?;
        let name: Option<String> = serde_json::from_str(name.get()).map_err(|_| GraphqlError::Answer)?;
        Ok(name.is_some_and(|name| keep(&name)))
    }
}

#[cfg(test)]
mod tests;
