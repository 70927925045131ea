//! Converts the needs of a route into authorisation requirements.
//!
//! The only place where a [`Need`] or a [`Thing`] becomes a [`Requirement`]: the pipeline, `explain` and the golden matrix all
//! call it. Pure: questions to MLflow are returned as a [`Lookup`].

use super::answers::ReviewQueue;
use super::{BodyMode, Feature, Located, Need, Operation, QueuePart, Thing};
use crate::authz::{Permission, Requirement, Resource, ResourceKind, skill_key};

impl Need {
    /// Returns the requirement of a need that does not depend on a resource in the request; `None` for [`Need::Level`].
    ///
    /// [`Need::Blocked`] requires an administrator if its feature is enabled; see [`Operation::blocked_by`].
    #[must_use]
    pub fn requirement(&self, operation: &Operation) -> Option<Requirement> {
        match self {
            Self::Public | Self::SignedIn => Some(Requirement::SignedIn),
            Self::Admin => Some(Requirement::Admin { change: operation.send != BodyMode::Query }),
            Self::Blocked(_) => Some(Requirement::Admin { change: true }),
            Self::Create(kind) => Some(Requirement::Create(*kind)),
            Self::NotDenied(tier) => Some(Requirement::NotDenied(*tier)),
            Self::Tier(permission, tier) => Some(Requirement::Tier { permission: *permission, tier: *tier }),
            Self::Level { .. } => None,
        }
    }
}

impl Operation {
    /// Returns the kind and the key of the MCP server or skill that the path leads to.
    #[must_use]
    pub fn named_by_path(&self, params: &[(&str, &str)]) -> Option<(ResourceKind, String)> {
        let part = |wanted: &str| params.iter().find(|(name, _)| *name == wanted).map(|(_, value)| *value);
        self.named().map(|(_, thing, _)| thing.owner_kind().kind).find_map(|kind| {
            if kind == ResourceKind::McpServer {
                Some((kind, format!("{}/{}", part("namespace")?, part("slug")?)))
            } else if kind == ResourceKind::Skill {
                Some((kind, skill_key(part("organization").unwrap_or_default(), part("name")?)))
            } else {
                None
            }
        })
    }

    /// Returns the feature that blocks this operation for every caller, unless the configuration enables it.
    #[must_use]
    pub fn blocked_by(&self, opened: &[Feature]) -> Option<Feature> {
        self.needs.iter().find_map(|need| match need {
            Need::Blocked(feature) => (!opened.contains(feature)).then_some(*feature),
            Need::Public
            | Need::SignedIn
            | Need::Admin
            | Need::Create(_)
            | Need::NotDenied(_)
            | Need::Tier(..)
            | Need::Level { .. } => None,
        })
    }
}

/// The kind of resource whose grants decide about an object (the resource itself or its parent), and the tier of the object.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct OwnerKind {
    pub kind: ResourceKind,
    pub tier: Option<ResourceKind>,
}

impl OwnerKind {
    const fn of(kind: ResourceKind) -> Self {
        Self { kind, tier: None }
    }

    const fn with(self, tier: ResourceKind) -> Self {
        Self { tier: Some(tier), ..self }
    }

    /// Returns the requirement of `permission` on `resource`, which is of this kind or of one that shares its names.
    #[must_use]
    pub fn level(self, permission: Permission, resource: Resource) -> Requirement {
        match self.tier {
            Some(ResourceKind::RegisteredModelVersion) => Requirement::version(permission, resource),
            tier => Requirement::Level { permission, resource, tier },
        }
    }
}

/// The way to find the resource that decides about an object.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Target {
    /// The request contains the key that grants use.
    Direct(OwnerKind),
    /// A look-up in MLflow is required.
    Lookup(Lookup),
}

/// A look-up in MLflow of the resource that a request refers to indirectly.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Lookup {
    ExperimentName,
    /// A registered model or a prompt by name, or its versions.
    Model(OwnerKind),
    EndpointName,
    Guardrail,
    Artifact,
    Dataset,
    ReviewQueue,
    ReviewQueueName,
    OnlineScorer,
    /// The MCP server or skill of a version that is about to be created. It may not exist yet.
    NewVersion(ResourceKind),
    /// An object in one experiment, by ID.
    Child(Child, Option<ResourceKind>),
}

/// The kind of an object in one experiment.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Child {
    Run,
    LoggedModel,
    Trace,
    Issue,
    LabelSchema,
    PromptJob,
}

impl Child {
    /// Returns its name for messages.
    #[must_use]
    pub const fn noun(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::LoggedModel => "logged model",
            Self::Trace => "trace",
            Self::Issue => "issue",
            Self::LabelSchema => "label schema",
            Self::PromptJob => "prompt optimization job",
        }
    }
}

const EXPERIMENT: OwnerKind = OwnerKind::of(ResourceKind::Experiment);
const MODEL: OwnerKind = OwnerKind::of(ResourceKind::RegisteredModel);
const SCORER: OwnerKind = OwnerKind::of(ResourceKind::Scorer);
const MCP_SERVER: OwnerKind = OwnerKind::of(ResourceKind::McpServer);

impl Thing {
    /// Returns the way to find the resource that decides about it.
    #[must_use]
    pub const fn target(self) -> Target {
        use Target::{Direct, Lookup as Ask};
        match self {
            Self::Experiment => Direct(EXPERIMENT),
            Self::TracesOf => Direct(EXPERIMENT.with(ResourceKind::Trace)),
            Self::AssessmentsOf => Direct(EXPERIMENT.with(ResourceKind::Assessment)),
            Self::Scorer => Direct(SCORER),
            Self::ScorerVersion => Direct(SCORER.with(ResourceKind::ScorerVersion)),
            Self::Secret => Direct(OwnerKind::of(ResourceKind::GatewaySecret)),
            Self::Endpoint => Direct(OwnerKind::of(ResourceKind::GatewayEndpoint)),
            Self::ModelDefinition => Direct(OwnerKind::of(ResourceKind::GatewayModelDefinition)),
            Self::McpServer => Direct(MCP_SERVER),
            Self::McpServerVersion => Direct(MCP_SERVER.with(ResourceKind::McpServerVersion)),
            Self::Skill => Direct(OwnerKind::of(ResourceKind::Skill)),
            Self::Job => Direct(OwnerKind::of(ResourceKind::Job)),
            Self::ExperimentName => Ask(Lookup::ExperimentName),
            Self::Model => Ask(Lookup::Model(MODEL)),
            Self::VersionOf => Ask(Lookup::Model(MODEL.with(ResourceKind::RegisteredModelVersion))),
            Self::EndpointName => Ask(Lookup::EndpointName),
            Self::Guardrail => Ask(Lookup::Guardrail),
            Self::Artifact => Ask(Lookup::Artifact),
            Self::Dataset => Ask(Lookup::Dataset),
            Self::ReviewQueue => Ask(Lookup::ReviewQueue),
            Self::ReviewQueueName => Ask(Lookup::ReviewQueueName),
            Self::OnlineScorer => Ask(Lookup::OnlineScorer),
            Self::NewMcpServerVersion => Ask(Lookup::NewVersion(ResourceKind::McpServer)),
            Self::NewSkill => Ask(Lookup::NewVersion(ResourceKind::Skill)),
            Self::Run => Ask(Lookup::Child(Child::Run, Some(ResourceKind::Run))),
            Self::LoggedModel => Ask(Lookup::Child(Child::LoggedModel, Some(ResourceKind::LoggedModel))),
            Self::Trace => Ask(Lookup::Child(Child::Trace, Some(ResourceKind::Trace))),
            Self::AssessmentOf => Ask(Lookup::Child(Child::Trace, Some(ResourceKind::Assessment))),
            Self::Issue => Ask(Lookup::Child(Child::Issue, None)),
            Self::LabelSchema => Ask(Lookup::Child(Child::LabelSchema, None)),
            Self::PromptJob => Ask(Lookup::Child(Child::PromptJob, None)),
        }
    }

    /// Returns the kind of resource that decides about it, and its tier.
    #[must_use]
    pub const fn owner_kind(self) -> OwnerKind {
        match self.target() {
            Target::Direct(owner) => owner,
            Target::Lookup(lookup) => match lookup {
                Lookup::ExperimentName | Lookup::Artifact | Lookup::Dataset | Lookup::OnlineScorer => EXPERIMENT,
                Lookup::Model(owner) => owner,
                Lookup::EndpointName => OwnerKind::of(ResourceKind::GatewayEndpoint),
                Lookup::Guardrail => SCORER,
                Lookup::ReviewQueue | Lookup::ReviewQueueName => EXPERIMENT.with(ResourceKind::ReviewQueue),
                Lookup::NewVersion(ResourceKind::McpServer) => MCP_SERVER.with(ResourceKind::McpServerVersion),
                Lookup::NewVersion(kind) => OwnerKind::of(kind),
                Lookup::Child(_, tier) => OwnerKind { tier, ..EXPERIMENT },
            },
        }
    }

    /// Returns the kinds of resources whose grants alone decide about it, and its tier.
    ///
    /// `None` if other facts can decide, such as membership of a review queue, or if MLflow's response for a name that does not
    /// exist takes precedence. A request for such an object is never refused before its body is read.
    #[must_use]
    pub const fn granted_by(self) -> Option<(&'static [ResourceKind], Option<ResourceKind>)> {
        let OwnerKind { kind, tier } = self.owner_kind();
        let by_grants_alone = match self.target() {
            Target::Direct(_) => matches!(
                kind,
                ResourceKind::Experiment
                    | ResourceKind::GatewaySecret
                    | ResourceKind::GatewayEndpoint
                    | ResourceKind::GatewayModelDefinition
            ),
            Target::Lookup(lookup) => {
                matches!(lookup, Lookup::Child(..) | Lookup::Dataset | Lookup::OnlineScorer | Lookup::EndpointName)
            }
        };
        if by_grants_alone { Some((kind.sharing_names(), tier)) } else { None }
    }
}

impl Located {
    /// Returns the requirement of an object if the request contains the key that grants use.
    ///
    /// # Errors
    ///
    /// The look-up that finds the key.
    pub fn requirement(&self) -> Result<Requirement, Lookup> {
        match self.thing.target() {
            Target::Direct(owner) => Ok(owner.level(self.permission, Resource::new(owner.kind, self.id.as_str()))),
            Target::Lookup(lookup) => Err(lookup),
        }
    }
}

impl ReviewQueue {
    /// Returns the requirement of a part in this queue: that part, or MANAGE on the experiment (`mlflow.server.auth`, 3.17.2).
    pub(crate) fn requirement(&self, part: QueuePart) -> Requirement {
        let on = |permission| {
            let (resource, tier) = (self.experiment(), Some(ResourceKind::ReviewQueue));
            Requirement::Level { permission, resource, tier }
        };
        let member = || Requirement::OneOf(self.users.clone());
        let owner = || vec![on(Permission::Edit), Requirement::OneOf(vec![self.created_by.clone()])];
        Requirement::Any(match part {
            QueuePart::Member => return member(),
            QueuePart::Reader => vec![vec![on(Permission::Manage)], vec![member()], owner()],
            QueuePart::CustomOwner if self.queue_type != "CUSTOM" => vec![vec![on(Permission::Manage)]],
            QueuePart::Owner | QueuePart::CustomOwner => vec![vec![on(Permission::Manage)], owner()],
        })
    }
}
