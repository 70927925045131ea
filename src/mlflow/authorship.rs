//! Authorship: writes the authenticated user name into the fields in which MLflow stores authors, so that a client cannot claim
//! the name of another user.
//!
//! MLflow without auth stores the author that the client sends. [`sign`] rewrites the canonical body: a field that only
//! identifies the acting user is always set; a tag that does so is set when an object is created, and replaced wherever else it
//! is given. [`super::Schema`] has reduced each field of the body to one spelling.
//!
//! Deliberately left unchanged:
//! - `mlflow.trace.user`: the user of the traced application, set by its developer (`mlflow.tracing.constant`); the creator of
//!   the trace is `mlflow.user`.
//! - `source_id` of an assessment by a judge or by code: the name of that judge or code.
//! - `new_owner` and `users` of review queues: they refer to other users by design, and are subject to permissions.
//! - `created_by` of datasets and review queues: MLflow does not read it from the request.

use std::borrow::Cow;

use super::json::{Keep, List, canonical_value};
use super::locate::{invalid, member};
use super::{Json, LocateError};

/// The location of the author in the body of an operation.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Author {
    /// A new run: `user_id`, and `mlflow.user` among `tags`.
    Run,
    /// A new run of the prompt lab: `user_id`. MLflow 3.17 cannot parse a non-empty `tags` there.
    PromptlabRun,
    /// `mlflow.user` among `tags`, if given.
    Tags,
    /// A single tag, `key` and `value`, if its key is `mlflow.user`.
    Tag,
    /// The field `created_by`.
    CreatedBy,
    /// The field `updated_by`.
    UpdatedBy,
    /// The field `last_updated_by`.
    LastUpdatedBy,
    /// The field `completed_by`, except when a review is reopened.
    CompletedBy,
    /// The field `assessment.source.source_id`, unless the source is a judge or code.
    Assessment,
    /// A new trace, version 3: `trace.trace_info`.
    Trace,
    /// A new trace, version 2: `request_metadata` and `tags`.
    TraceV2,
    /// The end of a trace, version 2: `request_metadata` and `tags`, if given.
    TraceV2End,
    /// A new dataset: `mlflow.user` in `tags`, which is a JSON object in a string.
    Dataset,
    /// Tags of a dataset: `mlflow.user` in `tags`, which is a JSON object in a string, if given.
    DatasetTags,
    /// The records of a dataset, a JSON list in a string: `mlflow.user` in the `tags` of each record.
    DatasetRecords,
}

impl Author {
    /// Returns the field that contains the author. The operation's request schema must have it.
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

/// Writes the caller's name into the author field of the operation.
///
/// # Errors
///
/// The author field has the wrong type, or is given in both spellings.
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

/// The treatment of an author tag that the client did not send.
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
    // The AI gateway does not read tags.
    let Some(claim) = Claim::of(key).filter(|claim| *claim != Claim::Gateway) else { return Ok(()) };
    *key = Cow::Borrowed(claim.key());
    body.set("value", claim.value(name).unwrap_or_else(|| text("")));
    Ok(())
}

/// Signs tags in protobuf form: a list of objects with `key` and `value`.
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
    // First pass: finds the claims of the client. Each is then written once with its true value, however often it occurs.
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

/// Signs tags in object form, with the key as the member name.
fn sign_map(map: &mut Json<'_>, field: &str, name: &str, absent: Absent) -> Result<(), LocateError> {
    let Json::Object(members) = map else { return Err(invalid(field, map, "an object")) };
    let mut claims: Vec<Claim> = members.iter().filter_map(|(key, _)| Claim::of(key)).collect();
    if matches!(absent, Absent::Append) {
        claims.push(Claim::User);
    }
    // Removes every spelling before the true values are added.
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

/// Attributes a human assessment to the caller. Every assessment that is not clearly from a judge or from code counts as human.
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

/// Sets the user who completed a review, or removes it when the review is reopened: MLflow then stores no name, and refuses
/// one.
fn sign_completion(body: &mut Json<'_>, name: &str) {
    let open = matches!(body.text("status"), None | Some("PENDING" | "REVIEW_STATUS_UNSPECIFIED"));
    match body {
        Json::Object(members) if open => members.retain(|(key, _)| key != "completed_by"),
        Json::Object(_) | Json::Scalar(_) | Json::String(_) | Json::Array(_) | Json::Closed(_) => {
            body.set("completed_by", text(name))
        }
    }
}

/// Signs the records of a dataset. The SDK writes its user into every record, and MLflow takes a record's author from that tag
/// only.
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
            // Records that a user enters in MLflow's pages name that user (`mlflow/entities/dataset_record_source.py`).
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
        // MLflow treats an empty string as absent.
        Some(Json::String(written)) if written.is_empty() => Cow::Borrowed(empty),
        // Taken out of the body and dropped before the rest is written, because a batch of records can be large.
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

/// A tag that identifies a user.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Claim {
    /// The creator.
    User,
    /// The signed-in user. MLflow's own authentication writes this tag, and MLflow's budgets sum up costs by it.
    SignedIn,
    /// That user's ID in MLflow's own user store, which does not exist behind the proxy.
    SignedInId,
    /// Data of MLflow's AI gateway about a call. Its budgets sum up the costs of every trace that has this tag.
    Gateway,
}

impl Claim {
    /// Returns the claim that a key makes. The comparison is lenient because some databases compare keys without case and
    /// trailing spaces.
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

    /// Returns the true value of the tag, or `None` if there is none and the tag must be removed.
    fn value<'b>(self, name: &str) -> Option<Json<'b>> {
        match self {
            Self::User | Self::SignedIn => Some(text(name)),
            Self::SignedInId | Self::Gateway => None,
        }
    }
}

/// Prefix of the keys of [`Claim::Gateway`] (`mlflow/tracing/constant.py`, 3.9 to 3.18).
const GATEWAY: &str = "mlflow.gateway.";

fn text<'b>(text: &str) -> Json<'b> {
    Json::String(Cow::Owned(text.to_owned()))
}

#[cfg(test)]
mod tests;
