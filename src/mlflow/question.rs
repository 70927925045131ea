//! A question about permissions, in words: may somebody do this operation, or hold this level, on that resource?
//!
//! Read from the route table, so that the answer is about what a request would meet.

use super::{Need, Send, Table, Thing};
use crate::authz::{Permission, Requirement, Resource, ResourceKind};

/// What is asked, in the terms of a decision.
#[derive(Clone, Debug)]
pub struct Question {
    pub resource: Resource,
    /// All of it must hold on the resource.
    pub requirements: Vec<Requirement>,
    /// What the operation needs on other things, in words.
    pub also: Vec<String>,
}

impl Question {
    /// Says what the experiment is called that it is about: globs are compared with that.
    pub fn is_called(&mut self, name: &std::sync::Arc<str>) {
        if self.resource.kind == ResourceKind::Experiment {
            self.resource.name = Some(std::sync::Arc::clone(name));
        }
        for experiment in self.requirements.iter_mut().flat_map(Requirement::experiments_mut) {
            experiment.name = Some(std::sync::Arc::clone(name));
        }
    }
}

/// Why a question is not understood.
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
    /// Reads a question. `operation` is an operation's name or a level; `resource` is `TYPE:KEY`.
    ///
    /// # Errors
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
            match need {
                Need::Public | Need::SignedIn => requirements.push(Requirement::SignedIn),
                Need::Admin => requirements.push(Requirement::Admin { change: row.send != Send::Query }),
                Need::Blocked(feature) => {
                    requirements.push(Requirement::Admin { change: true });
                    also.push(format!("`{}` in authz.opened", feature.as_str()));
                }
                Need::Create(kind) => requirements.push(Requirement::Create(*kind)),
                Need::NotDenied(tier) => requirements.push(Requirement::NotDenied(*tier)),
                Need::Tier(permission, tier) => {
                    requirements.push(Requirement::Tier { permission: *permission, tier: *tier });
                }
                Need::Level { permission, thing, field } => {
                    let (home, tier) = thing.belongs_to();
                    let tier = match tier {
                        Some(ResourceKind::RegisteredModelVersion) if kind == ResourceKind::Prompt => {
                            Some(ResourceKind::PromptVersion)
                        }
                        tier => tier,
                    };
                    if field.optional {
                        also.push(format!(
                            "{permission} on the {} that `{}` names, if given",
                            home.noun(),
                            field.name()
                        ));
                        concerns |= home.sharing_names().contains(&kind);
                    } else if home.sharing_names().contains(&kind) {
                        let resource = resource.clone();
                        requirements.push(Requirement::Level { permission: *permission, resource, tier });
                        concerns = true;
                    } else {
                        also.push(format!("{permission} on the {} that `{}` names", home.noun(), field.name()));
                    }
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

impl Thing {
    /// The kinds of resources whose grants alone decide about it, and its tier; `None` if something else may, such as being a
    /// member of a review queue, or if a name that does not exist is answered as such.
    #[must_use]
    pub const fn granted_by(self) -> Option<(&'static [ResourceKind], Option<ResourceKind>)> {
        match self {
            Self::Experiment
            | Self::TracesOf
            | Self::AssessmentsOf
            | Self::Run
            | Self::LoggedModel
            | Self::Trace
            | Self::AssessmentOf
            | Self::Dataset
            | Self::Issue
            | Self::LabelSchema
            | Self::PromptJob
            | Self::OnlineScorer
            | Self::Secret
            | Self::Endpoint
            | Self::EndpointName
            | Self::ModelDefinition => {
                let (home, tier) = self.belongs_to();
                Some((home.sharing_names(), tier))
            }
            Self::ExperimentName
            | Self::Artifact
            | Self::ReviewQueue
            | Self::ReviewQueueName
            | Self::Model
            | Self::VersionOf
            | Self::Scorer
            | Self::ScorerVersion
            | Self::Guardrail
            | Self::McpServer
            | Self::McpServerVersion
            | Self::NewMcpServerVersion
            | Self::Skill
            | Self::NewSkill
            | Self::Job => None,
        }
    }

    /// The kind of resource that decides about it, and the tier it is in.
    #[must_use]
    pub const fn belongs_to(self) -> (ResourceKind, Option<ResourceKind>) {
        match self {
            Self::Experiment
            | Self::ExperimentName
            | Self::Dataset
            | Self::Issue
            | Self::LabelSchema
            | Self::PromptJob
            | Self::OnlineScorer
            | Self::Artifact => (ResourceKind::Experiment, None),
            Self::TracesOf | Self::Trace => (ResourceKind::Experiment, Some(ResourceKind::Trace)),
            Self::AssessmentsOf | Self::AssessmentOf => (ResourceKind::Experiment, Some(ResourceKind::Assessment)),
            Self::Run => (ResourceKind::Experiment, Some(ResourceKind::Run)),
            Self::LoggedModel => (ResourceKind::Experiment, Some(ResourceKind::LoggedModel)),
            Self::ReviewQueue | Self::ReviewQueueName => (ResourceKind::Experiment, Some(ResourceKind::ReviewQueue)),
            Self::Model => (ResourceKind::RegisteredModel, None),
            Self::VersionOf => (ResourceKind::RegisteredModel, Some(ResourceKind::RegisteredModelVersion)),
            Self::Scorer | Self::Guardrail => (ResourceKind::Scorer, None),
            Self::ScorerVersion => (ResourceKind::Scorer, Some(ResourceKind::ScorerVersion)),
            Self::Secret => (ResourceKind::GatewaySecret, None),
            Self::Endpoint | Self::EndpointName => (ResourceKind::GatewayEndpoint, None),
            Self::ModelDefinition => (ResourceKind::GatewayModelDefinition, None),
            Self::McpServer => (ResourceKind::McpServer, None),
            Self::McpServerVersion | Self::NewMcpServerVersion => {
                (ResourceKind::McpServer, Some(ResourceKind::McpServerVersion))
            }
            Self::Skill | Self::NewSkill => (ResourceKind::Skill, None),
            Self::Job => (ResourceKind::Job, None),
        }
    }
}

/// Names that contain this one or are contained in it, as the end of a sentence.
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
