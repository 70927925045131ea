//! Changes of resources in MLflow that grants follow.

use super::ResourceKind;

/// A change of one resource in MLflow.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Mutation {
    /// The creator gets MANAGE. `name` finds the resource as long as its ID is not known; a job has none.
    Create { kind: ResourceKind, name: String },
    /// Grants on it are dropped.
    Delete { kind: ResourceKind, key: String },
    /// Grants on it move.
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

    /// Returns true if what follows can only be known from the body of MLflow's answer.
    #[must_use]
    pub const fn needs_answer(&self) -> bool {
        match self {
            Self::Create { .. } => true,
            Self::Delete { .. } | Self::Rename { .. } => false,
        }
    }
}
