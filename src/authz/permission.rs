//! The levels of permission and what each allows.
//!
//! The same words and order as MLflow 3.17's `mlflow.server.auth.permissions`.

use std::fmt;
use std::str::FromStr;

/// A level. Ordered: each of `Read < Use < Edit < Manage` includes the ones before it.
///
/// `Deny` and the older `NoPermissions` are not "less than read": as a grant, either refuses whatever other grants say.
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
    /// Every level, in MLflow's own order of listing.
    pub const ALL: [Self; 6] = [Self::Read, Self::Use, Self::Edit, Self::Manage, Self::NoPermissions, Self::Deny];

    /// The word MLflow uses for it, in requests, answers and the store.
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

    /// Whether a grant of this level takes everything away.
    #[must_use]
    pub const fn refuses(self) -> bool {
        match self {
            Self::Deny | Self::NoPermissions => true,
            Self::Read | Self::Use | Self::Edit | Self::Manage => false,
        }
    }

    /// Whether somebody who holds `self` may do what needs `needed`.
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

/// A word that names no level.
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
