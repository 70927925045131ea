//! Permission levels.
//!
//! Words and order are those of `mlflow.server.auth.permissions` in MLflow 3.17.

use std::fmt;
use std::str::FromStr;

/// A permission level. Ordered: each of `Read < Use < Edit < Manage` includes the ones before it.
///
/// `Deny` and the older `NoPermissions` are not levels below `Read`: a grant with one of them refuses access regardless
/// of other grants.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Permission {
    Deny,
    NoPermissions,
    Read,
    Use,
    Edit,
    Manage,
}

impl Permission {
    /// All levels, in the order in which MLflow lists them.
    pub const ALL: [Self; 6] = [Self::Read, Self::Use, Self::Edit, Self::Manage, Self::NoPermissions, Self::Deny];

    /// Returns MLflow's word for the level, as in requests, responses and the store.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deny => "DENY",
            Self::NoPermissions => "NO_PERMISSIONS",
            Self::Read => "READ",
            Self::Use => "USE",
            Self::Edit => "EDIT",
            Self::Manage => "MANAGE",
        }
    }

    /// Returns true if a grant of this level refuses access.
    #[must_use]
    pub const fn refuses(self) -> bool {
        match self {
            Self::Deny | Self::NoPermissions => true,
            Self::Read | Self::Use | Self::Edit | Self::Manage => false,
        }
    }

    /// Returns true if level `self` is sufficient where `needed` is required.
    #[must_use]
    pub fn covers(self, needed: Self) -> bool {
        !self.refuses() && self >= needed
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Error for a word that is not a permission level.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("`{0}` is not a permission; use READ, USE, EDIT, MANAGE, NO_PERMISSIONS or DENY")]
pub struct UnknownPermission(pub String);

impl FromStr for Permission {
    type Err = UnknownPermission;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|permission| permission.as_str() == word)
            .ok_or_else(|| UnknownPermission(word.to_owned()))
    }
}
