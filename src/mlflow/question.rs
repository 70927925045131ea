//! A question about permissions in text form: whether a user is allowed to do an operation, or holds a level, on a resource.
//!
//! Evaluated with the route table, so that the answer matches the decision on a request.

use super::{Need, Table};
use crate::authz::{Permission, Requirement, Resource, ResourceKind};

/// A question in the terms of a decision.
#[derive(Clone, Debug)]
pub struct Question {
    pub resource: Resource,
    /// Requirements on the resource, all of which must be met.
    pub requirements: Vec<Requirement>,
    /// Descriptions of what the operation requires on other resources.
    pub also: Vec<String>,
}

impl Question {
    /// Sets the name of the experiment that the question concerns. Globs are compared with it.
    pub fn is_called(&mut self, name: &std::sync::Arc<str>) {
        if self.resource.kind == ResourceKind::Experiment {
            self.resource.name = Some(std::sync::Arc::clone(name));
        }
        for experiment in self.requirements.iter_mut().flat_map(Requirement::experiments_mut) {
            experiment.name = Some(std::sync::Arc::clone(name));
        }
    }
}

/// The reason why a question cannot be parsed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum QuestionError {
    #[error("`{0}` is not a resource; write TYPE:ID or TYPE:NAME, such as experiment:12 or registered_model:fraud")]
    Resource(String),
    #[error(
        "`{0}` is neither a permission (READ, USE, EDIT, MANAGE) nor an operation of the route table, such as GetRun{1}"
    )]
    Operation(String, String),
    #[error("{operation} does not concern {kind}s; it needs {needs}")]
    Elsewhere { operation: String, kind: &'static str, needs: String },
}

impl Question {
    /// Parses a question. `operation` is the name of an operation or a level; `resource` is `TYPE:KEY`.
    ///
    /// # Errors
    ///
    /// See [`QuestionError`].
    pub fn parse(table: &Table, operation: &str, resource: &str) -> Result<Self, QuestionError> {
        let parts = resource.split_once(':').and_then(|(kind, key)| Some((kind.parse::<ResourceKind>().ok()?, key)));
        let Some((kind, key)) = parts.filter(|(_, key)| !key.is_empty()) else {
            return Err(QuestionError::Resource(resource.to_owned()));
        };
        let resource = Resource::new(kind, key);
        if let Ok(permission) = operation.parse::<Permission>()
            && !permission.refuses()
        {
            let requirements = vec![Requirement::level(permission, resource.clone())];
            return Ok(Self { resource, requirements, also: Vec::new() });
        }
        let Some(row) = table.operations().iter().find(|row| row.name == operation) else {
            return Err(QuestionError::Operation(operation.to_owned(), like(table, operation)));
        };
        let (mut requirements, mut also, mut concerns) = (Vec::new(), Vec::new(), false);
        for need in &row.needs {
            requirements.extend(need.requirement(row));
            match need {
                Need::Blocked(feature) => also.push(format!("`{}` in authz.opened", feature.as_str())),
                Need::Level { permission, thing, field } => {
                    let owner = thing.owner_kind();
                    let is_asked = owner.kind.sharing_names().contains(&kind);
                    concerns |= is_asked;
                    let noun = owner.kind.noun();
                    if field.optional {
                        also.push(format!("{permission} on the {noun} that `{}` names, if given", field.name()));
                    } else if is_asked {
                        requirements.push(owner.level(*permission, resource.clone()));
                    } else {
                        also.push(format!("{permission} on the {noun} that `{}` names", field.name()));
                    }
                }
                Need::Public | Need::SignedIn | Need::Admin | Need::Create(_) | Need::NotDenied(_) | Need::Tier(..) => {
                }
            }
        }
        if !concerns && !also.is_empty() {
            let (operation, needs) = (operation.to_owned(), also.join(" and "));
            return Err(QuestionError::Elsewhere { operation, kind: kind.noun(), needs });
        }
        Ok(Self { resource, requirements, also })
    }
}

/// Returns the names of similar operations (one contains the other), as the end of a sentence.
fn like(table: &Table, operation: &str) -> String {
    let word = operation.replace(['-', '_', ' '], "").to_lowercase();
    let near = |name: &&str| {
        let name = name.to_lowercase();
        !word.is_empty() && (name.contains(&word) || word.contains(&name))
    };
    let mut names: Vec<&str> = table.operations().iter().map(|row| row.name).filter(near).collect();
    names.dedup();
    names.truncate(3);
    if names.is_empty() { String::new() } else { format!("; did you mean {}?", names.join(", ")) }
}
