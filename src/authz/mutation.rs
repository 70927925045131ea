//! Changes of resources in MLflow that grants must follow.

use super::ResourceKind;

/// A change of one resource in MLflow.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Mutation {
    /// The creator receives MANAGE. `name` finds the resource until its ID is known; a job has none.
    Create { kind: ResourceKind, name: String },
    /// The resource's grants are deleted.
    Delete { kind: ResourceKind, key: String },
    /// The resource's grants move to the new name.
    Rename { kind: ResourceKind, from: String, to: String },
}

impl Mutation {
    /// Returns the kind of what changes.
    #[must_use]
    pub const fn kind(&self) -> ResourceKind {
        match self {
            Self::Create { kind, .. } | Self::Delete { kind, .. } | Self::Rename { kind, .. } => *kind,
        }
    }

    /// Returns the names that change hands. Nothing else may happen to them at the same time.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        match self {
            Self::Create { kind: ResourceKind::Job, .. } => Vec::new(),
            Self::Create { name, .. } => vec![name],
            Self::Delete { key, .. } => vec![key],
            Self::Rename { from, to, .. } => vec![from, to],
        }
    }

    /// Returns true if the effect on grants depends on the body of MLflow's response.
    #[must_use]
    pub const fn needs_answer(&self) -> bool {
        match self {
            Self::Create { .. } => true,
            Self::Delete { .. } | Self::Rename { .. } => false,
        }
    }
}
