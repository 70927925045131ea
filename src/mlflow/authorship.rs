//! Who did it: the authenticated name goes where MLflow keeps authors, and no client can claim another's.
//!
//! An unmodified MLflow asks nobody who they are and stores what the client says. [`sign`] rewrites the canonical body:
//! a field that only says who acts is always set; a tag that says it is set when a thing is made, and replaced wherever
//! else it is given. The body has one spelling of each field: [`super::Schema`] rebuilt it.
//!
//! Left alone on purpose:
//! - `mlflow.trace.user`: the user of the traced application, whom its author names (`mlflow.tracing.constant`); who
//!   made the trace is `mlflow.user`.
//! - `source_id` of an assessment by a judge or by code: the name of that judge or code.
//! - `new_owner` and `users` of review queues: they name others by their meaning, and are a question of permission.
//! - `created_by` of datasets and review queues: MLflow reads neither from the request.

use std::borrow::Cow;

use super::json::{Keep, List, canonical_value};
use super::locate::{invalid, member};
use super::{Json, LocateError};

/// Where an operation's body says who did it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Author {
    /// A new run: `user_id`, and `mlflow.user` among `tags`.
    Run,
    /// A new run of the prompt lab: `user_id`. MLflow 3.17 cannot read `tags` there that are not empty.
    PromptlabRun,
    /// `mlflow.user` among `tags`, when it is given.
    Tags,
    /// One tag, `key` and `value`: when it is `mlflow.user`.
    Tag,
    /// `created_by`
    CreatedBy,
    /// `updated_by`
    UpdatedBy,
    /// `last_updated_by`
    LastUpdatedBy,
    /// `completed_by`, but not of what is opened again.
    CompletedBy,
    /// `assessment.source.source_id`, unless a judge or code assessed.
    Assessment,
    /// A new trace, third generation: `trace.trace_info`.
    Trace,
    /// A new trace, second generation: `request_metadata` and `tags`.
    TraceV2,
    /// The end of a trace, second generation: the same, when given.
    TraceV2End,
    /// A new dataset: `mlflow.user` in `tags`, an object written as a string.
    Dataset,
    /// The same, when given.
    DatasetTags,
    /// The records of a dataset, a list written as a string: `mlflow.user` in the `tags` of each.
    DatasetRecords,
}

impl Author {
    /// The field that holds the author; the operation's request must have it.
    pub(super) const fn field(self) -> &'static str {
        match self {
            Self::Run | Self::PromptlabRun => "user_id",
            Self::CreatedBy => "created_by",
            Self::UpdatedBy => "updated_by",
            Self::LastUpdatedBy => "last_updated_by",
            Self::CompletedBy => "completed_by",
            Self::Assessment => "assessment",
            Self::Trace => "trace",
            Self::TraceV2 | Self::TraceV2End => "request_metadata",
            Self::Tags | Self::Dataset | Self::DatasetTags => "tags",
            Self::Tag => "key",
            Self::DatasetRecords => "records",
        }
    }
}

/// Puts the caller's name where the operation's author stands.
///
/// # Errors
/// What holds the author is of the wrong type, or given in both spellings.
pub fn sign(author: Author, body: &mut Json<'_>, name: &str) -> Result<(), LocateError> {
    match author {
        Author::Run => {
            body.set("user_id", text(name));
            sign_list(body, "tags", name, Absent::Append)
        }
        Author::PromptlabRun => {
            body.set("user_id", text(name));
            sign_list(body, "tags", name, Absent::Leave)
        }
        Author::Tags => sign_list(body, "tags", name, Absent::Leave),
        Author::Tag => sign_tag(body, name),
        Author::CreatedBy => {
            body.set("created_by", text(name));
            Ok(())
        }
        Author::UpdatedBy => {
            body.set("updated_by", text(name));
            Ok(())
        }
        Author::LastUpdatedBy => {
            body.set("last_updated_by", text(name));
            Ok(())
        }
        Author::CompletedBy => {
            sign_completion(body, name);
            Ok(())
        }
        Author::Assessment => match member(body, "assessment")? {
            None => Ok(()),
            Some(assessment) => sign_assessment(assessment, name),
        },
        Author::Trace => sign_trace(body, name),
        Author::TraceV2 => {
            sign_list(body, "tags", name, Absent::Leave)?;
            sign_list(body, "request_metadata", name, Absent::Append)
        }
        Author::TraceV2End => {
            sign_list(body, "tags", name, Absent::Leave)?;
            sign_list(body, "request_metadata", name, Absent::Leave)
        }
        Author::Dataset => sign_written(body, "tags", "{}", |tags| sign_map(tags, "tags", name, Absent::Append)),
        Author::DatasetTags => match member(body, "tags")? {
            None => Ok(()),
            Some(_) => sign_written(body, "tags", "{}", |tags| sign_map(tags, "tags", name, Absent::Leave)),
        },
        Author::DatasetRecords => match member(body, "records")? {
            None => Ok(()),
            Some(_) => sign_written(body, "records", "[]", |records| sign_records(records, name)),
        },
    }
}

/// What happens to an author's tag that the client did not give.
#[derive(Clone, Copy)]
enum Absent {
    Append,
    Leave,
}

fn sign_tag(body: &mut Json<'_>, name: &str) -> Result<(), LocateError> {
    let key = match member(body, "key")? {
        None => return Ok(()),
        Some(Json::String(key)) => key,
        Some(other) => return Err(invalid("key", other, "a string")),
    };
    // A tag is not what the gateway reads.
    let Some(claim) = Claim::of(key).filter(|claim| *claim != Claim::Gateway) else { return Ok(()) };
    *key = Cow::Borrowed(claim.key());
    body.set("value", claim.value(name).unwrap_or_else(|| text("")));
    Ok(())
}

/// Tags as protobuf has them: a list of objects with `key` and `value`.
fn sign_list(body: &mut Json<'_>, field: &str, name: &str, absent: Absent) -> Result<(), LocateError> {
    let mut list = match member(body, field)? {
        None if matches!(absent, Absent::Leave) => return Ok(()),
        None => List::default(),
        Some(Json::Array(items)) => std::mem::take(items),
        Some(other) => return Err(invalid(field, other, "a list")),
    };
    let mut claims = vec![];
    if matches!(absent, Absent::Append) {
        claims.push(Claim::User);
    }
    let claim_of = |item: &Json<'_>| match item {
        Json::Object(_) => match item.get("key") {
            None => Ok(None),
            Some(Json::String(key)) => Ok(Claim::of(key)),
            Some(other) => Err(invalid(&format!("{field}.key"), other, "a string")),
        },
        other @ (Json::Scalar(_) | Json::String(_) | Json::Array(_) | Json::Closed(_)) => {
            Err(invalid(field, other, "a list of objects"))
        }
    };
    for item in list.iter() {
        match claim_of(&item?)? {
            Some(claim) if !claims.contains(&claim) => claims.push(claim),
            Some(_) | None => {}
        }
    }
    if !claims.is_empty() {
        let tag = |claim: &Claim| {
            let value = claim.value(name)?;
            Some(Json::Object(vec![(Cow::Borrowed("key"), text(claim.key())), (Cow::Borrowed("value"), value)]))
        };
        let tags: Vec<Json<'_>> = claims.iter().filter_map(tag).collect();
        let keep = |item: &mut Json<'_>| Ok(if claim_of(item)?.is_none() { Keep::Yes } else { Keep::No });
        list.rewrite::<LocateError>(keep, &tags)?;
    }
    body.set(field, Json::Array(list));
    Ok(())
}

/// Tags as an object, key to value.
fn sign_map(map: &mut Json<'_>, field: &str, name: &str, absent: Absent) -> Result<(), LocateError> {
    let Json::Object(members) = map else { return Err(invalid(field, map, "an object")) };
    let mut claims: Vec<Claim> = members.iter().filter_map(|(key, _)| Claim::of(key)).collect();
    if matches!(absent, Absent::Append) {
        claims.push(Claim::User);
    }
    members.retain(|(key, _)| Claim::of(key).is_none());
    for claim in claims {
        if let Some(value) = claim.value(name) {
            map.set(claim.key(), value);
        }
    }
    Ok(())
}

fn sign_trace(body: &mut Json<'_>, name: &str) -> Result<(), LocateError> {
    let Some(trace) = member(body, "trace")? else { return Ok(()) };
    let Some(info) = member(trace, "trace_info")? else { return Ok(()) };
    match member(info, "assessments")? {
        None => {}
        Some(Json::Array(assessments)) => {
            assessments.rewrite(|one| sign_assessment(one, name).map(|()| Keep::Yes), &[])?;
        }
        Some(other) => return Err(invalid("assessments", other, "a list")),
    }
    if let Some(tags) = member(info, "tags")? {
        sign_map(tags, "tags", name, Absent::Leave)?;
    }
    match member(info, "trace_metadata")? {
        Some(metadata) => sign_map(metadata, "trace_metadata", name, Absent::Append),
        None => {
            let mut metadata = Json::Object(Vec::new());
            sign_map(&mut metadata, "trace_metadata", name, Absent::Append)?;
            info.set("trace_metadata", metadata);
            Ok(())
        }
    }
}

/// A person's assessment is the caller's. What is not clearly a judge's or a program's counts as a person's.
fn sign_assessment(assessment: &mut Json<'_>, name: &str) -> Result<(), LocateError> {
    if let Some(metadata) = member(assessment, "metadata")? {
        sign_map(metadata, "metadata", name, Absent::Leave)?;
    }
    let Some(source) = member(assessment, "source")? else { return Ok(()) };
    if !matches!(source, Json::Object(_)) {
        return Err(invalid("source", source, "an object"));
    }
    if !matches!(source.text("source_type"), Some("LLM_JUDGE" | "CODE")) {
        source.set("source_id", text(name));
    }
    Ok(())
}

/// MLflow keeps no name at a review that is opened again, and refuses one.
fn sign_completion(body: &mut Json<'_>, name: &str) {
    let open = matches!(body.text("status"), None | Some("PENDING" | "REVIEW_STATUS_UNSPECIFIED"));
    match body {
        Json::Object(members) if open => members.retain(|(key, _)| key != "completed_by"),
        Json::Object(_) | Json::Scalar(_) | Json::String(_) | Json::Array(_) | Json::Closed(_) => {
            body.set("completed_by", text(name))
        }
    }
}

/// The SDK writes its user into every record; MLflow takes a record's author from there only.
fn sign_records(records: &mut Json<'_>, name: &str) -> Result<(), LocateError> {
    let Json::Array(items) = records else { return Err(invalid("records", records, "a list")) };
    items.rewrite(
        |record| {
            if !matches!(record, Json::Object(_)) {
                return Err(invalid("records", record, "a list of objects"));
            }
            if record.get("tags").is_none() {
                record.set("tags", Json::Object(Vec::new()));
            }
            if let Some(tags) = member(record, "tags")? {
                sign_map(tags, "tags", name, Absent::Append)?;
            }
            // What a person wrote in MLflow's pages names that person (`mlflow/entities/dataset_record_source.py`).
            if let Some(source) = member(record, "source")?
                && let Some(data) = member(source, "source_data")?
                && data.get("user_name").is_some()
            {
                data.set("user_name", text(name));
            }
            Ok(Keep::Yes)
        },
        &[],
    )
}

/// Rewrites a field whose value is JSON written as a string.
fn sign_written(
    body: &mut Json<'_>,
    field: &str,
    empty: &str,
    sign: impl FnOnce(&mut Json<'_>) -> Result<(), LocateError>,
) -> Result<(), LocateError> {
    let written = match member(body, field)? {
        None => Cow::Borrowed(empty),
        // MLflow takes an empty string for none.
        Some(Json::String(written)) if written.is_empty() => Cow::Borrowed(empty),
        // Taken, and dropped before the rest is written: a batch of records is large.
        Some(Json::String(written)) => std::mem::take(written),
        Some(other) => return Err(invalid(field, other, "a string that holds JSON")),
    };
    let unreadable = || invalid(field, &Json::String(Cow::Borrowed(&*written)), "a string that holds JSON");
    let text = canonical_value(&written).map_err(|_| unreadable())?;
    drop(written);
    let mut value = Json::open(&text)?;
    sign(&mut value)?;
    let signed = match value {
        Json::Array(list) => list.into_text(),
        other @ (Json::Scalar(_) | Json::String(_) | Json::Object(_) | Json::Closed(_)) => other.to_text(),
    };
    drop(text);
    body.set(field, Json::String(Cow::Owned(signed)));
    Ok(())
}

/// A tag that claims to be somebody.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Claim {
    /// Who made it.
    User,
    /// Who was signed in; MLflow's own authentication writes it, and its budgets add up by it.
    SignedIn,
    /// The number of that user in MLflow's own store, which is not here.
    SignedInId,
    /// What MLflow's AI gateway notes about a call. Its budgets add up the costs of every trace that has it.
    Gateway,
}

impl Claim {
    /// Some databases compare keys without case and without spaces at the end.
    fn of(key: &str) -> Option<Self> {
        let key = key.trim_end();
        let is_gateways = key.get(..GATEWAY.len()).is_some_and(|start| start.eq_ignore_ascii_case(GATEWAY));
        if is_gateways {
            return Some(Self::Gateway);
        }
        [Self::User, Self::SignedIn, Self::SignedInId].into_iter().find(|claim| key.eq_ignore_ascii_case(claim.key()))
    }

    const fn key(self) -> &'static str {
        match self {
            Self::User => "mlflow.user",
            Self::SignedIn => "mlflow.auth.username",
            Self::SignedInId => "mlflow.auth.userId",
            Self::Gateway => GATEWAY,
        }
    }

    /// `None`: there is no true value, so the tag goes.
    fn value<'b>(self, name: &str) -> Option<Json<'b>> {
        match self {
            Self::User | Self::SignedIn => Some(text(name)),
            Self::SignedInId | Self::Gateway => None,
        }
    }
}

/// Start of the keys of [`Claim::Gateway`] (`mlflow/tracing/constant.py`, 3.9 to 3.18).
const GATEWAY: &str = "mlflow.gateway.";

fn text<'b>(text: &str) -> Json<'b> {
    Json::String(Cow::Owned(text.to_owned()))
}

#[cfg(test)]
mod tests;
