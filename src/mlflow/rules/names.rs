//! Names of new resources.

use super::super::locate::{Located, SKILL_NAME, invalid, member, shown, text_field};
use super::super::{Json, LocateError, Operation, Then};
use super::Demand;
use super::issues;
use crate::authz::{Permission, ResourceKind, skill_key};

/// Returns the demands of a new experiment.
pub(super) fn experiment(body: &mut Json<'_>) -> Result<Vec<Demand>, LocateError> {
    let location = text_field(body, "artifact_location")?.filter(|location| !location.is_empty());
    let name = text_field(body, "name")?.map(|name| Demand::ExperimentName { renamed: None, name });
    let mut demands: Vec<Demand> = location.map(Demand::ArtifactLocation).into_iter().chain(name).collect();
    if let Some(Json::Array(tags)) = body.get("tags") {
        for tag in tags.iter() {
            let tag = tag?;
            demands.extend(issues::schedule_tag(tag.text("key").unwrap_or_default(), tag.text("value"))?);
        }
    }
    Ok(demands)
}

/// Returns the demands of a new name of an experiment.
pub(super) fn renamed_experiment(located: &[Located], body: &mut Json<'_>) -> Result<Vec<Demand>, LocateError> {
    let renamed = located.first().map(|located| located.id.clone());
    let name = text_field(body, "new_name")?.filter(|name| !name.is_empty());
    Ok(name.map(|name| Demand::ExperimentName { renamed, name }).into_iter().collect())
}

/// Returns the demands of a new name of any other kind.
pub(super) fn new_name(operation: &Operation, body: &mut Json<'_>) -> Result<Vec<Demand>, LocateError> {
    let field = if operation.then == Some(Then::RenameModel) { "new_name" } else { "name" };
    let name = text_field(body, field)?.ok_or_else(|| LocateError::Missing(field.to_owned()))?;
    let kind = if let Some(Then::Own(kind)) = operation.then { kind } else { ResourceKind::RegisteredModel };
    let name = if kind == ResourceKind::Skill { skill(body, &name)? } else { name };
    if name == "*" {
        // In grants and lists, this name stands for all resources. MLflow 3.18 refuses it, too.
        let (value, expected) = (format!("'{name}'"), "another name than the one that stands for all in grants");
        return Err(LocateError::Invalid { name: field.to_owned(), value, expected });
    }
    let mut demands = vec![Demand::NameIsFree { kind, name: name.clone() }];
    if operation.then == Some(Then::RenameModel) {
        demands.extend(text_field(body, "name")?.map(Demand::NotOptimized));
        demands.push(Demand::NotOptimized(name));
    }
    Ok(demands)
}

/// Returns the demands of a new status of a skill version. One of the statuses deletes the version.
pub(super) fn skill_status(located: &[Located], body: &mut Json<'_>) -> Result<Vec<Demand>, LocateError> {
    let status = text_field(body, "status")?.unwrap_or_default();
    let whole = |one: &Located| Demand::Located(Located { permission: Permission::Manage, ..one.clone() });
    let deletes = status.trim().eq_ignore_ascii_case("deleted");
    Ok(if deletes { located.iter().map(whole).collect() } else { Vec::new() })
}

/// Returns the key of the skill that a request creates. `organization` is in the body.
///
/// # Errors
///
/// The name is not valid for a skill.
fn skill(body: &mut Json<'_>, name: &str) -> Result<String, LocateError> {
    let organization = text_field(body, "organization")?.unwrap_or_default();
    let key = skill_key(&organization, name);
    if ResourceKind::Skill.has_key(&key) && !name.starts_with('@') {
        return Ok(key);
    }
    Err(LocateError::Invalid { name: "name".to_owned(), value: shown(&format!("'{key}'")), expected: SKILL_NAME })
}

/// Returns the skills in a request that registers versions of several skills.
///
/// # Errors
///
/// The body does not match the operation's types, a name is not valid for a skill, or there are more skills than MLflow accepts
/// at once.
pub fn new_skills(body: &mut Json<'_>) -> Result<Vec<String>, LocateError> {
    let organization = text_field(body, "organization")?.unwrap_or_default();
    let mut keys = Vec::new();
    match member(body, "skills")? {
        None => {}
        Some(Json::Array(skills)) => {
            for one in skills.iter() {
                let one = one?;
                let name = one.text("name").unwrap_or_default();
                let key = skill_key(&organization, name);
                if !ResourceKind::Skill.has_key(&key) || name.starts_with('@') {
                    let (name, value) = ("skills.name".to_owned(), shown(&format!("'{key}'")));
                    return Err(LocateError::Invalid { name, value, expected: SKILL_NAME });
                }
                keys.push(key);
                if keys.len() > MAX_SKILLS {
                    return Err(LocateError::TooMany(MAX_SKILLS));
                }
            }
        }
        Some(other) => return Err(invalid("skills", other, "a list of objects")),
    }
    if keys.is_empty() { Err(LocateError::Missing("skills".to_owned())) } else { Ok(keys) }
}

/// Equals `mlflow.utils.validation._MAX_BULK_REGISTER_SKILLS`, 3.18.
const MAX_SKILLS: usize = 500;
