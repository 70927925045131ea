//! Who is asking, how it was proved, and what the credential itself limits.
//!
//! Built by `authn`, read by everyone after it. Holds no secret.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{GrantSet, Permission, Resource, ResourceKind};

/// A user's number, as MLflow's API shows it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct UserId(pub i64);

/// An access token's number. Not the token.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct TokenId(pub i64);

/// A session's number. Not its cookie.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SessionId(pub i64);

/// A role's number.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RoleId(pub i64);

/// How an identity was proved.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Scheme {
    /// HTTP Basic with the account's password.
    Password,
    /// HTTP Basic or bearer with an access token.
    Token(TokenId),
    /// The cookie of a browser that signed in.
    Session(SessionId),
    /// A bearer token of an identity provider.
    Jwt,
}

impl Scheme {
    /// A bounded word for logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::Token(_) => "token",
            Self::Session(_) => "session",
            Self::Jwt => "jwt",
        }
    }

    /// The access token that was used, if one was.
    #[must_use]
    pub const fn token(self) -> Option<TokenId> {
        match self {
            Self::Token(id) => Some(id),
            Self::Password | Self::Session(_) | Self::Jwt => None,
        }
    }

    /// Whether this is somebody in person, with their password or their browser's session, rather than a program that holds
    /// a token: only a person makes tokens and changes passwords.
    #[must_use]
    pub const fn is_personal(self) -> bool {
        match self {
            Self::Password | Self::Session(_) => true,
            Self::Token(_) | Self::Jwt => false,
        }
    }
}

/// Who is asking. Cheap to clone; one snapshot of the grants for the whole request.
#[derive(Clone, Debug)]
pub struct Identity {
    pub user: UserId,
    pub name: Arc<str>,
    pub admin: bool,
    pub scheme: Scheme,
    /// As the identity provider said them; none for accounts of ours alone.
    pub groups: Arc<[String]>,
    /// What this credential is confined to, however much its owner may do.
    pub limits: Limits,
    /// The grants of the user, their groups and their roles.
    pub grants: Arc<GrantSet>,
    /// What the grants would be under the shadow policy; `None` without one. Decides nothing.
    pub shadow: Option<Arc<GrantSet>>,
}

impl Identity {
    /// Whether this is an administrator: of everything, or of this workspace.
    #[must_use]
    pub fn administers(&self, workspace: &str) -> bool {
        self.admin || self.grants.administers(workspace)
    }

    /// Whether it takes the names of experiments to decide what this identity may do with them.
    #[must_use]
    pub fn needs_names(&self) -> bool {
        let globs = |grants: &GrantSet| grants.has_globs(ResourceKind::Experiment);
        !self.admin && (globs(&self.grants) || self.shadow.as_deref().is_some_and(globs))
    }

    /// Returns whether another look at the same credential found the same user with the same rights.
    #[must_use]
    pub fn has_the_rights_of(&self, other: &Self) -> bool {
        let Self { user, name, admin, scheme, groups, limits, grants, shadow: _ } = self;
        (*user, *admin, *scheme) == (other.user, other.admin, other.scheme)
            && (name, groups, limits, grants) == (&other.name, &other.groups, &other.limits, &other.grants)
    }

    /// The same person under the shadow policy, where there is one and it can make a difference.
    #[must_use]
    pub fn in_the_shadow(&self) -> Option<Self> {
        let shadow = self.shadow.as_ref().filter(|_| !self.admin)?;
        Some(Self { grants: Arc::clone(shadow), shadow: None, ..self.clone() })
    }
}

/// What an access token is confined to. `Limits::default()` confines nothing.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Limits {
    /// Nothing beyond READ.
    pub read_only: bool,
    /// Only these resources; empty means no such limit.
    pub resources: BTreeSet<(ResourceKind, String)>,
}

/// A scope that cannot be understood. Refused, because ignoring it would widen the token.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("`{0}` is not a scope; use `read-only`, `experiment:ID`, `registered_model:NAME` or `prompt:NAME`")]
pub struct ScopeError(pub String);

impl Limits {
    /// Reads scopes as clients write them: `read-only`, `experiment:12`, `registered_model:fraud`, `prompt:summary`.
    ///
    /// # Errors
    /// The first scope that is none of these.
    pub fn parse<'a>(scopes: impl IntoIterator<Item = &'a str>) -> Result<Self, ScopeError> {
        let mut limits = Self::default();
        for scope in scopes {
            if scope == "read-only" {
                limits.read_only = true;
                continue;
            }
            let unknown = || ScopeError(scope.to_owned());
            let (kind, key) = scope.split_once(':').ok_or_else(unknown)?;
            let kind: ResourceKind = kind.parse().map_err(|_| unknown())?;
            let scopable = Self::is_scopable(kind);
            // An experiment has a number; a scope by its name would match nothing.
            let number = key.parse::<u64>().is_ok_and(|number| number.to_string() == key);
            if !scopable || key.is_empty() || key == "*" || kind == ResourceKind::Experiment && !number {
                return Err(unknown());
            }
            limits.resources.insert((kind, key.to_owned()));
        }
        Ok(limits)
    }

    /// Whether a scope can name a thing of this kind.
    #[must_use]
    pub const fn is_scopable(kind: ResourceKind) -> bool {
        matches!(kind, ResourceKind::Experiment | ResourceKind::RegisteredModel | ResourceKind::Prompt)
    }

    /// The scopes as clients write them; the inverse of [`Limits::parse`].
    #[must_use]
    pub fn scopes(&self) -> Vec<String> {
        let read_only = self.read_only.then(|| "read-only".to_owned());
        let resources = self.resources.iter().map(|(kind, key)| format!("{kind}:{key}"));
        read_only.into_iter().chain(resources).collect()
    }

    /// Whether nothing is confined.
    #[must_use]
    pub fn is_unlimited(&self) -> bool {
        !self.read_only && self.resources.is_empty()
    }

    /// Whether the credential may be used for this at all, before anyone asks what its owner may do.
    #[must_use]
    pub fn allow(&self, needed: Permission, resource: &Resource) -> bool {
        self.allow_level(needed) && self.allow_resource(resource)
    }

    /// Whether the credential reaches this level.
    #[must_use]
    pub fn allow_level(&self, needed: Permission) -> bool {
        !self.read_only || needed <= Permission::Read
    }

    /// Whether the credential reaches this resource.
    #[must_use]
    pub fn allow_resource(&self, resource: &Resource) -> bool {
        // The set is of owned strings and small; a token names a handful of resources.
        self.resources.is_empty()
            || self.resources.iter().any(|(kind, key)| *kind == resource.kind && *key == resource.key)
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for RoleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
