//! The lists that are filtered to readable rows: their names, paging and JSON dialects in MLflow.

use serde::Deserialize;

use super::Filter;
use crate::authz::{Resource, ResourceKind, scorer_key, skill_key};

/// The properties of one list.
#[derive(Clone, Copy, Debug)]
pub struct ListShape {
    /// Name of the list in MLflow's response.
    pub key: &'static str,
    /// The kinds whose grants determine in advance which part of the list is readable; `None` if only the rows do.
    pub kinds: Option<&'static [ResourceKind]>,
    /// The kind of the rows, if each row contains the actions that the caller is allowed.
    pub actions: Option<ResourceKind>,
    /// Number of rows in a response to a request without `max_results`.
    pub default_rows: usize,
    pub dialect: ListDialect,
}

/// The JSON structure around the rows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ListDialect {
    /// protobuf's JSON, which omits empty fields.
    Protobuf,
    /// pydantic's JSON with `next_page_token`, which is `null` on the last page.
    Paged,
    /// pydantic's JSON in a single page.
    Whole,
    /// The list of models in OpenAI's API.
    OpenAi,
}

/// For lists that MLflow returns in one page.
const ALL: usize = usize::MAX;

impl Filter {
    /// Returns the properties of this list. Page sizes are those of MLflow 3.17.
    #[must_use]
    pub const fn shape(self) -> ListShape {
        use ListDialect::{OpenAi, Paged, Protobuf, Whole};
        use ResourceKind as Kind;
        match self {
            Self::Experiments => ListShape::new("experiments", Some(&[Kind::Experiment]), 1000, Protobuf),
            Self::RegisteredModels => {
                ListShape::new("registered_models", Some(&[Kind::RegisteredModel, Kind::Prompt]), 100, Protobuf)
            }
            // MLflow's own default is 200,000 rows, which exceeds the limits of a page here.
            Self::ModelVersions => {
                ListShape::new("model_versions", Some(&[Kind::RegisteredModel, Kind::Prompt]), 10_000, Protobuf)
            }
            Self::Scorers => ListShape::new("scorers", None, ALL, Protobuf),
            Self::ReviewQueues => ListShape::new("review_queues", None, 100, Protobuf),
            Self::Secrets => ListShape::new("secrets", Some(&[Kind::GatewaySecret]), ALL, Protobuf),
            Self::Endpoints => ListShape::new("endpoints", Some(&[Kind::GatewayEndpoint]), ALL, Protobuf),
            Self::ModelDefinitions => {
                ListShape::new("model_definitions", Some(&[Kind::GatewayModelDefinition]), ALL, Protobuf)
            }
            Self::EndpointModels => ListShape::new("data", None, ALL, OpenAi),
            Self::McpServers => {
                ListShape::new("mcp_servers", Some(&[Kind::McpServer]), 100, Paged).with_actions(Kind::McpServer)
            }
            Self::McpEndpoints => ListShape::new("mcp_access_endpoints", Some(&[Kind::McpServer]), 100, Paged),
            Self::Skills => ListShape::new("skills", Some(&[Kind::Skill]), 100, Paged).with_actions(Kind::Skill),
            Self::Jobs => ListShape::new("jobs", None, ALL, Whole),
        }
    }

    /// Returns the tier of the rows below a resource of this kind, if they belong to one.
    #[must_use]
    pub fn tier(self, kind: ResourceKind) -> Option<ResourceKind> {
        let is_prompt = kind == ResourceKind::Prompt;
        let tier = if is_prompt { ResourceKind::PromptVersion } else { ResourceKind::RegisteredModelVersion };
        (self == Self::ModelVersions).then_some(tier)
    }
}

impl ListShape {
    const fn new(
        key: &'static str,
        kinds: Option<&'static [ResourceKind]>,
        default_rows: usize,
        dialect: ListDialect,
    ) -> Self {
        Self { key, kinds, actions: None, default_rows, dialect }
    }

    const fn with_actions(self, kind: ResourceKind) -> Self {
        Self { actions: Some(kind), ..self }
    }
}

#[derive(Deserialize)]
pub(crate) struct ExperimentRow {
    experiment_id: String,
    name: Option<String>,
}

impl From<ExperimentRow> for Resource {
    fn from(row: ExperimentRow) -> Self {
        Self { name: row.name.map(Into::into), ..Self::new(ResourceKind::Experiment, row.experiment_id) }
    }
}

/// A row of which only the name is read: a model version, or an MCP server.
#[derive(Deserialize)]
pub(crate) struct NamedRow {
    pub(crate) name: String,
}

#[derive(Deserialize)]
pub(crate) struct ScorerRow {
    experiment_id: TextOrNumber,
    scorer_name: String,
}

impl ScorerRow {
    pub(crate) fn experiment_id(&self) -> String {
        match &self.experiment_id {
            TextOrNumber::Text(text) => text.clone(),
            TextOrNumber::Number(number) => number.to_string(),
        }
    }

    pub(crate) fn resource(&self) -> Resource {
        Resource::new(ResourceKind::Scorer, scorer_key(&self.experiment_id(), &self.scorer_name))
    }
}

/// A string or a number. MLflow writes the experiment ID of a scorer as a number.
#[derive(Deserialize)]
#[serde(untagged)]
enum TextOrNumber {
    Text(String),
    Number(u64),
}

#[derive(Deserialize)]
pub(crate) struct SecretRow {
    secret_id: String,
}

impl From<SecretRow> for Resource {
    fn from(row: SecretRow) -> Self {
        Self::new(ResourceKind::GatewaySecret, row.secret_id)
    }
}

#[derive(Deserialize)]
pub(crate) struct EndpointRow {
    endpoint_id: String,
}

impl From<EndpointRow> for Resource {
    fn from(row: EndpointRow) -> Self {
        Self::new(ResourceKind::GatewayEndpoint, row.endpoint_id)
    }
}

#[derive(Deserialize)]
pub(crate) struct DefinitionRow {
    model_definition_id: String,
}

impl From<DefinitionRow> for Resource {
    fn from(row: DefinitionRow) -> Self {
        Self::new(ResourceKind::GatewayModelDefinition, row.model_definition_id)
    }
}

/// An endpoint of the AI gateway as a model of OpenAI's API; its ID is the endpoint's name.
#[derive(Deserialize)]
pub(crate) struct EndpointModelRow {
    pub(crate) id: String,
}

#[derive(Deserialize)]
pub(crate) struct McpEndpointRow {
    server_name: String,
}

impl From<McpEndpointRow> for Resource {
    fn from(row: McpEndpointRow) -> Self {
        Self::new(ResourceKind::McpServer, row.server_name)
    }
}

#[derive(Deserialize)]
pub(crate) struct SkillRow {
    #[serde(default)]
    organization: String,
    name: String,
}

impl From<SkillRow> for Resource {
    fn from(row: SkillRow) -> Self {
        Self::new(ResourceKind::Skill, skill_key(&row.organization, &row.name))
    }
}

#[derive(Deserialize)]
pub(crate) struct JobRow {
    job_id: String,
}

impl From<JobRow> for Resource {
    fn from(row: JobRow) -> Self {
        Self::new(ResourceKind::Job, row.job_id)
    }
}
