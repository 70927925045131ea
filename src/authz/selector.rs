//! Objects of grants: kinds of resources, single resources, and selectors that match several.
//!
//! A selector is `*`, an exact ID or name, or `glob:PATTERN` on a name. MLflow itself supports only the first two.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::{Deserialize, Serialize};

use super::Permission;

/// Kinds of resources with permissions of their own. Everything else (runs, versions, artifacts) belongs to one of
/// them.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ResourceKind {
    Experiment,
    RegisteredModel,
    Prompt,
    Scorer,
    GatewaySecret,
    GatewayEndpoint,
    GatewayModelDefinition,
    McpServer,
    Skill,
    /// This and the following kinds up to `McpServerVersion` are tiers. They are parts of one of the kinds above and
    /// are granted as a whole, with `*`.
    Run,
    Trace,
    Assessment,
    LoggedModel,
    ReviewQueue,
    RegisteredModelVersion,
    PromptVersion,
    ScorerVersion,
    McpServerVersion,
    /// A background job in MLflow. It belongs to its creator only; MLflow has no grants on jobs.
    Job,
    /// The workspace of the role that has the grant: USE makes the role's users members, MANAGE administrators.
    Workspace,
}

impl ResourceKind {
    /// All kinds.
    pub const ALL: [Self; 20] = [
        Self::Experiment,
        Self::RegisteredModel,
        Self::Prompt,
        Self::Scorer,
        Self::GatewaySecret,
        Self::GatewayEndpoint,
        Self::GatewayModelDefinition,
        Self::McpServer,
        Self::Skill,
        Self::Run,
        Self::Trace,
        Self::Assessment,
        Self::LoggedModel,
        Self::ReviewQueue,
        Self::RegisteredModelVersion,
        Self::PromptVersion,
        Self::ScorerVersion,
        Self::McpServerVersion,
        Self::Job,
        Self::Workspace,
    ];

    /// Returns MLflow's `resource_type`, as in its REST API and in the store.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Experiment => "experiment",
            Self::RegisteredModel => "registered_model",
            Self::Prompt => "prompt",
            Self::Scorer => "scorer",
            Self::GatewaySecret => "gateway_secret",
            Self::GatewayEndpoint => "gateway_endpoint",
            Self::GatewayModelDefinition => "gateway_model_definition",
            Self::McpServer => "mcp_server",
            Self::Skill => "skill",
            Self::Run => "run",
            Self::Trace => "trace",
            Self::Assessment => "assessment",
            Self::LoggedModel => "logged_model",
            Self::ReviewQueue => "review_queue",
            Self::RegisteredModelVersion => "registered_model_version",
            Self::PromptVersion => "prompt_version",
            Self::ScorerVersion => "scorer_version",
            Self::McpServerVersion => "mcp_server_version",
            Self::Job => "job",
            Self::Workspace => "workspace",
        }
    }

    /// Returns the noun for messages.
    #[must_use]
    pub const fn noun(self) -> &'static str {
        match self {
            Self::Experiment => "experiment",
            Self::RegisteredModel => "registered model",
            Self::Prompt => "prompt",
            Self::Scorer => "scorer",
            Self::GatewaySecret => "gateway secret",
            Self::GatewayEndpoint => "gateway endpoint",
            Self::GatewayModelDefinition => "gateway model definition",
            Self::McpServer => "MCP server",
            Self::Skill => "skill",
            Self::Run => "run",
            Self::Trace => "trace",
            Self::Assessment => "assessment",
            Self::LoggedModel => "logged model",
            Self::ReviewQueue => "review queue",
            Self::RegisteredModelVersion => "registered model version",
            Self::PromptVersion => "prompt version",
            Self::ScorerVersion => "scorer version",
            Self::McpServerVersion => "MCP server version",
            Self::Job => "job",
            Self::Workspace => "workspace",
        }
    }

    /// Returns the kinds that share one namespace: in MLflow a registered model can become a prompt and back.
    #[must_use]
    pub const fn sharing_names(self) -> &'static [Self] {
        match self {
            Self::RegisteredModel | Self::Prompt => &[Self::RegisteredModel, Self::Prompt],
            Self::Experiment => &[Self::Experiment],
            Self::Scorer => &[Self::Scorer],
            Self::GatewaySecret => &[Self::GatewaySecret],
            Self::GatewayEndpoint => &[Self::GatewayEndpoint],
            Self::GatewayModelDefinition => &[Self::GatewayModelDefinition],
            Self::McpServer => &[Self::McpServer],
            Self::Skill => &[Self::Skill],
            Self::Run => &[Self::Run],
            Self::Trace => &[Self::Trace],
            Self::Assessment => &[Self::Assessment],
            Self::LoggedModel => &[Self::LoggedModel],
            Self::ReviewQueue => &[Self::ReviewQueue],
            Self::RegisteredModelVersion => &[Self::RegisteredModelVersion],
            Self::PromptVersion => &[Self::PromptVersion],
            Self::ScorerVersion => &[Self::ScorerVersion],
            Self::McpServerVersion => &[Self::McpServerVersion],
            Self::Job => &[Self::Job],
            Self::Workspace => &[Self::Workspace],
        }
    }

    /// Returns true if this is a tier (MLflow 3.17): objects that belong to a resource, such as the runs of an
    /// experiment. A grant on a tier applies to all of its objects, whichever resource they belong to.
    #[must_use]
    pub const fn is_tier(self) -> bool {
        match self {
            Self::Run
            | Self::Trace
            | Self::Assessment
            | Self::LoggedModel
            | Self::ReviewQueue
            | Self::RegisteredModelVersion
            | Self::PromptVersion
            | Self::ScorerVersion
            | Self::McpServerVersion => true,
            Self::Experiment
            | Self::RegisteredModel
            | Self::Prompt
            | Self::Scorer
            | Self::GatewaySecret
            | Self::GatewayEndpoint
            | Self::GatewayModelDefinition
            | Self::McpServer
            | Self::Skill
            | Self::Job
            | Self::Workspace => false,
        }
    }

    /// Returns true if MLflow generates the keys of this kind, so that users know its resources by another name.
    #[must_use]
    pub const fn is_granted_by_id(self) -> bool {
        matches!(self, Self::Experiment | Self::GatewaySecret | Self::GatewayEndpoint | Self::GatewayModelDefinition)
    }

    /// Returns true if only `*` can be granted.
    #[must_use]
    pub const fn is_granted_whole(self) -> bool {
        self.is_tier() || matches!(self, Self::Workspace)
    }

    /// Returns the levels that a grant on this kind can have, for messages.
    #[must_use]
    pub fn levels(self) -> String {
        let levels = Permission::ALL.into_iter().filter(|level| self.takes(*level)).map(Permission::as_str);
        levels.collect::<Vec<_>>().join(", ")
    }

    /// Returns true if a grant on this kind can have this level.
    #[must_use]
    pub const fn takes(self, permission: Permission) -> bool {
        match self {
            Self::Workspace => matches!(permission, Permission::Use | Permission::Manage),
            // No route of MLflow requires USE on one.
            Self::Skill => !matches!(permission, Permission::Use),
            Self::Experiment
            | Self::RegisteredModel
            | Self::Prompt
            | Self::Scorer
            | Self::GatewaySecret
            | Self::GatewayEndpoint
            | Self::GatewayModelDefinition
            | Self::McpServer
            | Self::Run
            | Self::Trace
            | Self::Assessment
            | Self::LoggedModel
            | Self::ReviewQueue
            | Self::RegisteredModelVersion
            | Self::PromptVersion
            | Self::ScorerVersion
            | Self::McpServerVersion
            | Self::Job => true,
        }
    }

    /// Returns true if resources of this kind have names that users choose, so that globs are useful. An experiment's
    /// name is not its key.
    #[must_use]
    pub const fn takes_globs(self) -> bool {
        match self {
            Self::Experiment | Self::RegisteredModel | Self::Prompt | Self::McpServer | Self::Skill => true,
            Self::Scorer
            | Self::GatewaySecret
            | Self::GatewayEndpoint
            | Self::GatewayModelDefinition
            | Self::Run
            | Self::Trace
            | Self::Assessment
            | Self::LoggedModel
            | Self::ReviewQueue
            | Self::RegisteredModelVersion
            | Self::PromptVersion
            | Self::ScorerVersion
            | Self::McpServerVersion
            | Self::Job
            | Self::Workspace => false,
        }
    }

    /// Returns a description of the form of this kind's keys, or `None` if any text that is not empty is valid.
    #[must_use]
    pub fn key_form(self) -> Option<&'static str> {
        self.form().map(|(words, _)| words)
    }

    /// Returns true if a resource of this kind can have this key. Keys in requests are compared exactly, so a grant on
    /// a key in another form would never match.
    #[must_use]
    pub fn has_key(self, key: &str) -> bool {
        self.form().map_or(!key.is_empty(), |(_, fits)| fits(key))
    }

    /// Returns the description and the check of this kind's keys.
    fn form(self) -> Option<KeyForm> {
        Some(match self {
            Self::Experiment => ("a number without sign, spaces or leading zeros", is_experiment_id),
            Self::Scorer => ("`EXPERIMENT_ID/NAME` with the name percent-encoded", is_scorer_key),
            Self::GatewaySecret | Self::GatewayEndpoint | Self::GatewayModelDefinition => {
                ("an ID of letters, digits, `-` and `_`", is_opaque_id)
            }
            Self::McpServer => ("a name of the form `namespace/slug`", is_mcp_name),
            Self::Skill => ("`name` or `@organization/name`, of lower-case letters, digits and `-`", is_skill_name),
            Self::RegisteredModel
            | Self::Prompt
            | Self::Run
            | Self::Trace
            | Self::Assessment
            | Self::LoggedModel
            | Self::ReviewQueue
            | Self::RegisteredModelVersion
            | Self::PromptVersion
            | Self::ScorerVersion
            | Self::McpServerVersion
            | Self::Job
            | Self::Workspace => return None,
        })
    }
}

type KeyForm = (&'static str, fn(&str) -> bool);

fn is_scorer_key(key: &str) -> bool {
    key.split_once('/').is_some_and(|(experiment, name)| {
        let decoded = percent_decode_str(name).decode_utf8();
        is_experiment_id(experiment)
            && decoded.is_ok_and(|decoded| !decoded.is_empty() && scorer_key(experiment, &decoded) == key)
    })
}

impl fmt::Display for ResourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Error for a word that is not a kind of resource.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("`{0}` is not a resource type")]
pub struct UnknownKind(pub String);

impl FromStr for ResourceKind {
    type Err = UnknownKind;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word).ok_or_else(|| UnknownKind(word.to_owned()))
    }
}

/// A resource with permissions of its own: experiment `12`, registered model `fraud`.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Resource {
    pub kind: ResourceKind,
    /// The ID or name as MLflow returned it; never the spelling in a request.
    pub key: String,
    /// An experiment's name, which globs match; `None` if it was not looked up.
    pub name: Option<Arc<str>>,
}

impl Resource {
    /// Creates the resource of this kind with this key.
    pub fn new(kind: ResourceKind, key: impl Into<String>) -> Self {
        Self { kind, key: key.into(), name: None }
    }

    /// Creates the experiment with this ID and its present name.
    pub fn experiment(id: impl Into<String>, name: &str) -> Self {
        Self { name: Some(name.into()), ..Self::new(ResourceKind::Experiment, id) }
    }

    /// Returns the name that globs match, or `None` if it is not known.
    #[must_use]
    pub fn chosen_name(&self) -> Option<&str> {
        if self.kind == ResourceKind::Experiment { self.name.as_deref() } else { Some(&self.key) }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} `{}`", self.kind.noun(), self.key)
    }
}

/// Returns the key of a scorer's grants, `EXPERIMENT/NAME` (`mlflow.server.auth.sqlalchemy_store._scorer_pattern`). The
/// name is percent-encoded as by Python's `quote(name, safe="")`.
#[must_use]
pub fn scorer_key(experiment: &str, name: &str) -> String {
    const QUOTED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'_').remove(b'.').remove(b'-').remove(b'~');
    format!("{experiment}/{}", utf8_percent_encode(name, QUOTED))
}

/// Returns the key of a skill's grants (`mlflow.server.auth.permissions`, 3.18): `NAME`, or `@ORGANIZATION/NAME`.
#[must_use]
pub fn skill_key(organization: &str, name: &str) -> String {
    if organization.is_empty() { name.to_owned() } else { format!("@{organization}/{name}") }
}

/// Returns true for the canonical spelling of an experiment's ID, the only one that requests are allowed to use. MLflow
/// parses IDs with Python's `int()`, which accepts many spellings of one number.
#[must_use]
pub fn is_experiment_id(text: &str) -> bool {
    let digits = !text.is_empty() && text.len() <= 19 && text.bytes().all(|byte| byte.is_ascii_digit());
    digits && (text == "0" || !text.starts_with('0'))
}

/// Returns true for an ID in the form that MLflow generates: 32 hex digits, or other forms in other stores and older
/// versions.
#[must_use]
pub fn is_opaque_id(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    !text.is_empty() && text.len() <= 64 && text.bytes().all(plain)
}

/// Returns true for `namespace/slug`. Words that follow the name in MLflow's greedy paths are excluded.
fn is_mcp_name(name: &str) -> bool {
    let plain = |segment: &str| {
        !segment.is_empty()
            && !matches!(segment, "versions" | "endpoints" | "tags" | "aliases" | "." | "..")
            && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte))
    };
    name.split_once('/').is_some_and(|(namespace, slug)| plain(namespace) && plain(slug))
}

/// Returns true for `name` or `@organization/name` (`mlflow.utils.validation`, 3.18).
fn is_skill_name(key: &str) -> bool {
    let word =
        |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let name = |name: &str| name.len() <= 64 && name.split('-').all(word);
    let organization = |organization: &str| organization.len() <= 64 && organization.split(['-', '.']).all(word);
    match key.strip_prefix('@') {
        Some(rest) => rest.split_once('/').is_some_and(|(of, called)| organization(of) && name(called)),
        None => name(key),
    }
}

/// The resources of a kind to which a grant applies.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Selector {
    /// `*`
    All,
    /// An ID or name, compared exactly.
    Exact(String),
    /// A pattern for names in which `*` matches any number of characters and `?` matches one. Written `glob:PATTERN`.
    Glob(String),
}

/// Reasons why a text is not a selector.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SelectorError {
    #[error("a selector must not be empty; use an id, a name or `*`")]
    Empty,
    #[error("a selector may have at most {} characters", Selector::MAX_CHARS)]
    TooLong,
    #[error("{0}s are selected by id or `*`, not by a glob on their name")]
    NoGlob(&'static str),
    #[error("{0}s are granted as a whole, with `*`")]
    OnlyAll(&'static str),
    #[error("this matches no {0}; write {1}")]
    NeverMatches(&'static str, &'static str),
}

impl Selector {
    /// Maximum length of a selector in characters; MLflow's own column has the same width.
    pub const MAX_CHARS: usize = 255;
    const GLOB: &'static str = "glob:";

    /// Parses a selector for resources of `kind`.
    ///
    /// # Errors
    /// The text is empty or longer than [`Selector::MAX_CHARS`], a glob on a kind that is selected by ID, or anything
    /// but `*` on a kind that is granted as a whole.
    pub fn parse(kind: ResourceKind, text: &str) -> Result<Self, SelectorError> {
        if text.is_empty() {
            return Err(SelectorError::Empty);
        }
        if text.chars().count() > Self::MAX_CHARS {
            return Err(SelectorError::TooLong);
        }
        if text == "*" {
            return Ok(Self::All);
        }
        if kind.is_granted_whole() {
            return Err(SelectorError::OnlyAll(kind.noun()));
        }
        match text.strip_prefix(Self::GLOB) {
            None => Ok(Self::Exact(text.to_owned())),
            Some(_) if !kind.takes_globs() => Err(SelectorError::NoGlob(kind.noun())),
            Some("") => Err(SelectorError::Empty),
            Some(pattern) => Ok(Self::Glob(pattern.to_owned())),
        }
    }

    /// Parses a selector for a new grant. Also refuses a key that no resource of `kind` can have.
    ///
    /// # Errors
    /// See [`Selector::parse`]; [`SelectorError::NeverMatches`].
    pub fn parse_new(kind: ResourceKind, text: &str) -> Result<Self, SelectorError> {
        let selector = Self::parse(kind, text)?;
        match (&selector, kind.key_form()) {
            (Self::Exact(key), Some(form)) if !kind.has_key(key) => Err(SelectorError::NeverMatches(kind.noun(), form)),
            _ => Ok(selector),
        }
    }

    /// Returns true if this selector matches the resource. A glob does not match a resource whose name is not known.
    #[must_use]
    pub fn selects(&self, resource: &Resource) -> bool {
        match self {
            Self::All => true,
            Self::Exact(exact) => *exact == resource.key,
            Self::Glob(pattern) => {
                resource.chosen_name().is_some_and(|name| wildmatch::WildMatch::new(pattern).matches(name))
            }
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::Exact(exact) => f.write_str(exact),
            Self::Glob(pattern) => write!(f, "{}{pattern}", Self::GLOB),
        }
    }
}
