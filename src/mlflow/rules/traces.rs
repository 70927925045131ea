//! Traces, their tags and their assessments.

use std::collections::HashSet;

use super::super::json::{Keep, List};
use super::super::locate::{Located, is_opaque_id, member, shown, text_field};
use super::super::{Json, LocateError, Thing};
use super::Demand;
use super::inner;
use crate::authz::Permission;

/// Returns the demands of a trace that a request starts: the trace and its assessments stay in its experiment.
pub(super) fn start(located: &[Located], body: &mut Json<'_>) -> Result<Vec<Demand>, LocateError> {
    let mut demands = tags_of(body, &["trace", "trace_info"])?;
    if let Some(trace) = started_trace(body)? {
        assessments_stay(body, &trace)?;
        if !is_opaque_id(&trace) {
            let expected = "an id of letters, digits, `-` and `_`";
            return Err(LocateError::Invalid { name: "trace_id".to_owned(), value: shown(&trace), expected });
        }
        let stays = |located: &Located| Demand::TraceIn { trace: trace.clone(), experiment: located.id.clone() };
        demands.extend(located.iter().filter(|located| located.thing == Thing::Experiment).map(stays));
    }
    if assessments_of(body)?.is_some_and(|assessments| !assessments.is_empty()) {
        let assess = |located: &Located| {
            let (permission, id) = (Permission::Edit, located.id.clone());
            Demand::Located(Located { permission, thing: Thing::AssessmentsOf, id })
        };
        demands.extend(located.iter().filter(|located| located.thing == Thing::Experiment).map(assess));
    }
    Ok(demands)
}

/// Returns the demands of a tag of a trace.
pub(super) fn tag(body: &mut Json<'_>) -> Result<Vec<Demand>, LocateError> {
    let key = text_field(body, "key")?.unwrap_or_default();
    Ok(is_location_tag(&key).then_some(CHOOSES_ARTIFACTS).into_iter().collect())
}

/// Requires that assessments refer to the trace itself. MLflow 3.9 to 3.16 adds an assessment to the trace that the assessment
/// refers to.
fn assessments_stay(body: &mut Json<'_>, trace: &str) -> Result<(), LocateError> {
    let Some(assessments) = assessments_of(body)? else { return Ok(()) };
    for one in assessments.iter() {
        if one?.text("trace_id").is_some_and(|named| !named.is_empty() && named != trace) {
            let (info, assessment) = ("trace_info.trace_id".to_owned(), "assessments.trace_id".to_owned());
            return Err(LocateError::Contradiction(info, assessment));
        }
    }
    Ok(())
}

/// Returns the ID of the trace that a request starts (`StartTraceV3`); `None` if MLflow chooses it.
///
/// # Errors
///
/// The body does not match the operation's types.
pub fn started_trace(body: &mut Json<'_>) -> Result<Option<String>, LocateError> {
    let Some(info) = inner(body, &["trace", "trace_info"])? else { return Ok(None) };
    Ok(text_field(info, "trace_id")?.filter(|trace| !trace.is_empty()))
}

/// Returns the assessments in a request that starts a trace (`StartTraceV3`).
fn assessments_of<'j, 'b>(body: &'j mut Json<'b>) -> Result<Option<&'j mut List<'b>>, LocateError> {
    Ok(match inner(body, &["trace", "trace_info", "assessments"])? {
        Some(Json::Array(assessments)) => Some(assessments),
        Some(Json::Scalar(_) | Json::String(_) | Json::Object(_) | Json::Closed(_)) | None => None,
    })
}

/// Returns true if a request that starts a trace specifies the IDs of its assessments.
///
/// # Errors
///
/// The body does not match the operation's types.
pub fn names_assessments(body: &mut Json<'_>) -> Result<bool, LocateError> {
    let Some(assessments) = assessments_of(body)? else { return Ok(false) };
    for one in assessments.iter() {
        if one?.text("assessment_id").is_some_and(|id| !id.is_empty()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Removes the IDs of assessments, except of those in `stored`, from a request that starts a trace. MLflow then chooses new
/// IDs.
///
/// MLflow up to 3.17 merges the assessments of a started trace by ID alone: the ID of another trace's assessment moves that
/// assessment here and overwrites it.
///
/// # Errors
///
/// The body does not match the operation's types.
pub fn keep_assessment_ids(body: &mut Json<'_>, stored: &HashSet<String>) -> Result<(), LocateError> {
    let Some(assessments) = assessments_of(body)? else { return Ok(()) };
    assessments.rewrite::<LocateError>(
        |assessment| {
            if let Json::Object(members) = assessment {
                members.retain(|(key, value)| {
                    key != "assessment_id" || matches!(value, Json::String(id) if stored.contains(id.as_ref()))
                });
            }
            Ok(Keep::Yes)
        },
        &[],
    )
}

/// The tags in which MLflow stores the location of a trace's artifacts and of its archived spans (`mlflow.tracing.constant`).
/// MLflow reads from there, and deletes the files there along with the trace.
const LOCATION_TAGS: [&str; 2] = ["mlflow.artifactLocation", "mlflow.trace.archiveLocation"];
const CHOOSES_ARTIFACTS: Demand = Demand::Privileged("choose where a trace's artifacts are");

/// Returns true for a tag in [`LOCATION_TAGS`]. Some databases compare keys without case and trailing spaces.
fn is_location_tag(key: &str) -> bool {
    LOCATION_TAGS.iter().any(|tag| key.trim_end().eq_ignore_ascii_case(tag))
}

/// Returns the demands of the tags in the object at `path`, given as a list of `key` and `value` or as an object.
pub(super) fn tags_of(body: &mut Json<'_>, path: &[&str]) -> Result<Vec<Demand>, LocateError> {
    let Some(object) = inner(body, path)? else { return Ok(Vec::new()) };
    let mut chooses = false;
    match member(object, "tags")? {
        Some(Json::Object(tags)) => chooses = tags.iter().any(|(key, _)| is_location_tag(key)),
        Some(Json::Array(tags)) => {
            for tag in tags.iter() {
                chooses |= tag?.text("key").is_some_and(is_location_tag);
            }
        }
        Some(Json::Scalar(_) | Json::String(_) | Json::Closed(_)) | None => {}
    }
    Ok(if chooses { vec![CHOOSES_ARTIFACTS] } else { Vec::new() })
}
