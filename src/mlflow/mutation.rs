//! Changes of resources that a request asks for, and the resources that MLflow's response reports as created.

use serde::Deserialize;

use super::answers::RegisteredModel;
use super::{Json, LocateError, Operation, Then, names_a_version, new_skills, text_field};
use crate::authz::{Mutation, Resource, ResourceKind, scorer_key, skill_key};

/// An action of the proxy after MLflow has carried out a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum FollowUp {
    Mutation(Mutation),
    /// Makes the caller the owner of a new review queue. MLflow stores the owner of a queue itself.
    OwnQueue,
    /// Creates versions of these MCP servers or skills. MLflow creates parents that do not exist.
    CreateVersions {
        kind: ResourceKind,
        parents: Vec<String>,
    },
}

impl FollowUp {
    /// Reads the names from a request; returns `None` if no action has to follow.
    ///
    /// # Errors
    ///
    /// A name is missing or not a string.
    pub fn of(
        operation: &Operation,
        params: &[(&str, &str)],
        body: Option<&mut Json<'_>>,
    ) -> Result<Option<Self>, LocateError> {
        let Some(then) = operation.then else { return Ok(None) };
        let mut empty = Json::Object(Vec::new());
        let mut names = Names { params, body: body.unwrap_or(&mut empty) };
        Ok(Some(match then {
            Then::Own(kind) => Self::Mutation(Mutation::Create { kind, name: names.of_new(kind)? }),
            Then::Drop(ResourceKind::Scorer) if names_a_version(names.body) => return Ok(None),
            Then::Drop(kind) => Self::Mutation(Mutation::Delete { kind, key: names.key(kind)? }),
            Then::RenameModel => {
                let kind = ResourceKind::RegisteredModel;
                Self::Mutation(Mutation::Rename { kind, from: names.get("name")?, to: names.get("new_name")? })
            }
            Then::OwnQueue => Self::OwnQueue,
            Then::OwnNew(kind) => {
                let is_bulk = kind == ResourceKind::Skill && params.is_empty();
                let parents = if is_bulk { new_skills(names.body)? } else { vec![names.key(kind)?] };
                Self::CreateVersions { kind, parents }
            }
            Then::LearnRun | Then::LearnTrace | Then::RenameExperiment | Then::ForgetTraces => return Ok(None),
        }))
    }
}

/// The names in a request. Those of the path take precedence.
struct Names<'n, 'b> {
    params: &'n [(&'n str, &'n str)],
    body: &'n mut Json<'b>,
}

impl Names<'_, '_> {
    fn get(&mut self, name: &str) -> Result<String, LocateError> {
        match self.params.iter().find(|(param, _)| *param == name) {
            Some((_, value)) => Ok((*value).to_owned()),
            None => text_field(self.body, name)?.ok_or_else(|| LocateError::Missing(name.to_owned())),
        }
    }

    /// Returns the name that identifies a new resource until its ID is known.
    fn of_new(&mut self, kind: ResourceKind) -> Result<String, LocateError> {
        // MLflow chooses the ID, or the path has no name yet.
        let has_name_only = matches!(
            kind,
            ResourceKind::GatewayEndpoint | ResourceKind::GatewayModelDefinition | ResourceKind::McpServer
        );
        if kind == ResourceKind::Job {
            // A job is identified by its ID only.
            Ok(String::new())
        } else if kind == ResourceKind::GatewaySecret {
            self.get("secret_name")
        } else if has_name_only {
            self.get("name")
        } else {
            self.key(kind)
        }
    }

    /// Returns the key of an existing resource.
    fn key(&mut self, kind: ResourceKind) -> Result<String, LocateError> {
        match kind {
            ResourceKind::Scorer => Ok(scorer_key(&self.get("experiment_id")?, &self.get("name")?)),
            ResourceKind::Skill => Ok(skill_key(&self.get("organization").unwrap_or_default(), &self.get("name")?)),
            ResourceKind::McpServer => Ok(format!("{}/{}", self.get("namespace")?, self.get("slug")?)),
            ResourceKind::GatewaySecret => self.get("secret_id"),
            ResourceKind::GatewayEndpoint => self.get("endpoint_id"),
            ResourceKind::GatewayModelDefinition => self.get("model_definition_id"),
            ResourceKind::Experiment
            | ResourceKind::RegisteredModel
            | ResourceKind::Prompt
            | ResourceKind::Job
            | ResourceKind::Run
            | ResourceKind::Trace
            | ResourceKind::Assessment
            | ResourceKind::LoggedModel
            | ResourceKind::ReviewQueue
            | ResourceKind::RegisteredModelVersion
            | ResourceKind::PromptVersion
            | ResourceKind::ScorerVersion
            | ResourceKind::McpServerVersion
            | ResourceKind::Workspace => self.get("name"),
        }
    }
}

/// Returns the resource in MLflow's response to a creation; `None` if there is none.
pub(crate) fn created(kind: ResourceKind, name: &str, body: &[u8]) -> Option<Resource> {
    let made = serde_json::from_slice::<Created>(body).ok()?;
    let key = match kind {
        ResourceKind::RegisteredModel | ResourceKind::Prompt => {
            return made.registered_model.map(RegisteredModel::resource);
        }
        ResourceKind::Experiment => made.experiment_id,
        ResourceKind::GatewaySecret => made.secret.map(|secret| secret.secret_id),
        ResourceKind::GatewayEndpoint => made.endpoint.map(|endpoint| endpoint.endpoint_id),
        ResourceKind::GatewayModelDefinition => made.model_definition.map(|made| made.model_definition_id),
        ResourceKind::McpServer => made.name,
        // Their keys consist of names from the request.
        ResourceKind::Scorer
        | ResourceKind::Skill
        | ResourceKind::Run
        | ResourceKind::Trace
        | ResourceKind::Assessment
        | ResourceKind::LoggedModel
        | ResourceKind::ReviewQueue
        | ResourceKind::RegisteredModelVersion
        | ResourceKind::PromptVersion
        | ResourceKind::ScorerVersion
        | ResourceKind::McpServerVersion
        | ResourceKind::Job
        | ResourceKind::Workspace => Some(name.to_owned()),
    };
    Some(Resource::new(kind, key?))
}

/// Returns the IDs of the jobs that MLflow's response reports as started; `None` for a response of another form.
pub(crate) fn created_jobs(body: &[u8]) -> Option<impl Iterator<Item = String>> {
    let made = serde_json::from_slice::<Created>(body).ok()?;
    let within = made.jobs.into_iter().chain(made.job).map(|job| job.job_id);
    Some(made.job_id.into_iter().chain(within))
}

/// Returns true if MLflow's response to the registration of a scorer shows that the scorer is new.
pub(crate) fn is_first_version(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Registered {
        version: Option<i64>,
    }
    serde_json::from_slice::<Registered>(body).is_ok_and(|registered| registered.version == Some(1))
}

/// Returns true if MLflow's response shows that a skill is new: the skill itself, or its first version.
pub(crate) fn makes_skill(key: &str, body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Registered {
        version: Option<i64>,
        skill_versions: Option<Vec<SkillVersion>>,
    }
    #[derive(Deserialize)]
    struct SkillVersion {
        #[serde(default)]
        organization: String,
        name: String,
        version: i64,
    }
    let Ok(Registered { version, skill_versions }) = serde_json::from_slice(body) else { return false };
    match skill_versions {
        Some(all) => all.iter().any(|one| one.version == 1 && skill_key(&one.organization, &one.name) == key),
        None => version.is_none_or(|version| version == 1),
    }
}

/// The responses to all creations, limited to the fields that are read.
#[derive(Deserialize)]
struct Created {
    #[serde(default, deserialize_with = "text_only")]
    experiment_id: Option<String>,
    registered_model: Option<RegisteredModel>,
    secret: Option<CreatedSecret>,
    endpoint: Option<CreatedEndpoint>,
    model_definition: Option<CreatedDefinition>,
    name: Option<String>,
    job_id: Option<String>,
    #[serde(default)]
    jobs: Vec<CreatedJob>,
    job: Option<CreatedJob>,
}

/// Reads a string and ignores a number, which MLflow returns for scorers here.
fn text_only<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(serde_json::Value::deserialize(deserializer)?.as_str().map(str::to_owned))
}

#[derive(Deserialize)]
struct CreatedSecret {
    secret_id: String,
}

#[derive(Deserialize)]
struct CreatedEndpoint {
    endpoint_id: String,
}

#[derive(Deserialize)]
struct CreatedDefinition {
    model_definition_id: String,
}

#[derive(Deserialize)]
struct CreatedJob {
    job_id: String,
}

#[cfg(test)]
mod tests {
    use super::makes_skill;

    #[test]
    fn a_skill_is_its_makers_when_its_first_version_made_it() {
        for (body, made) in [
            (r#"{"name":"a","organization":"","latest_version":null}"#, true),
            (r#"{"name":"a","version":1}"#, true),
            (r#"{"name":"a","version":2}"#, false),
            (r#"{"skill_versions":[{"name":"b","version":1},{"name":"a","version":1}]}"#, true),
            (r#"{"skill_versions":[{"name":"a","version":2}]}"#, false),
            (r#"{"skill_versions":[{"organization":"acme","name":"a","version":1}]}"#, false),
            ("", false),
        ] {
            assert_eq!(makes_skill("a", body.as_bytes()), made, "{body}");
        }
    }
}
