//! The authenticated principal, the authentication scheme, and the limits of the credential.
//!
//! Created by `authn` and read by all later stages. Contains no secret.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{GrantSet, Permission, Resource, ResourceKind};

/// A user's ID, as MLflow's API shows it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct UserId(pub i64);

/// The ID of an access token, not the token itself.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct TokenId(pub i64);

/// The ID of a session, not its cookie.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SessionId(pub i64);

/// A role's ID.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RoleId(pub i64);

/// Authentication scheme of a request.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Scheme {
    /// HTTP Basic with the account's password.
    Password,
    /// HTTP Basic or bearer with an access token.
    Token(TokenId),
    /// The session cookie of a browser.
    Session(SessionId),
    /// A bearer token of an identity provider.
    Jwt,
}

impl Scheme {
    /// Returns a word from a fixed set, for logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::Token(_) => "token",
            Self::Session(_) => "session",
            Self::Jwt => "jwt",
        }
    }

    /// Returns the ID of the access token, if one was used.
    #[must_use]
    pub const fn token(self) -> Option<TokenId> {
        match self {
            Self::Token(id) => Some(id),
            Self::Password | Self::Session(_) | Self::Jwt => None,
        }
    }

    /// Returns true if a user authenticated with a password or a browser's session, as opposed to a program with a
    /// token. Creating tokens and changing passwords requires this.
    #[must_use]
    pub const fn is_personal(self) -> bool {
        match self {
            Self::Password | Self::Session(_) => true,
            Self::Token(_) | Self::Jwt => false,
        }
    }
}

/// An authenticated principal. Cheap to clone; one snapshot of the grants for the whole request.
#[derive(Clone, Debug)]
pub struct Identity {
    pub user: UserId,
    pub name: Arc<str>,
    pub admin: bool,
    pub scheme: Scheme,
    /// Groups from the identity provider; empty for accounts of the proxy itself.
    pub groups: Arc<[String]>,
    /// Limits of this credential, regardless of its owner's permissions.
    pub limits: Limits,
    /// Grants of the user, the user's groups and the user's roles.
    pub grants: Arc<GrantSet>,
    /// Grants under the shadow policy; `None` without one. They have no effect on decisions.
    pub shadow: Option<Arc<GrantSet>>,
}

impl Identity {
    /// Returns true for an administrator of the whole server or of this workspace.
    #[must_use]
    pub fn administers(&self, workspace: &str) -> bool {
        self.admin || self.grants.administers(workspace)
    }

    /// Returns true if decisions about experiments require their names.
    #[must_use]
    pub fn needs_names(&self) -> bool {
        let globs = |grants: &GrantSet| grants.has_globs(ResourceKind::Experiment);
        !self.admin && (globs(&self.grants) || self.shadow.as_deref().is_some_and(globs))
    }

    /// Returns whether another look at the same credential found the same user with all rights of `earlier`. Grants may
    /// have been added: the user can own more by now.
    #[must_use]
    pub fn has_the_rights_of(&self, earlier: &Self) -> bool {
        let Self { user, name, admin, scheme, groups, limits, grants, shadow: _ } = self;
        (*user, *admin, *scheme) == (earlier.user, earlier.admin, earlier.scheme)
            && (name, groups, limits) == (&earlier.name, &earlier.groups, &earlier.limits)
            && grants.include(&earlier.grants)
    }

    /// Returns this identity under the shadow policy; `None` if there is no such policy, or for administrators.
    #[must_use]
    pub fn in_the_shadow(&self) -> Option<Self> {
        let shadow = self.shadow.as_ref().filter(|_| !self.admin)?;
        Some(Self { grants: Arc::clone(shadow), shadow: None, ..self.clone() })
    }
}

/// Limits of an access token. `Limits::default()` imposes none.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Limits {
    /// If true, no level above READ.
    pub read_only: bool,
    /// Only these resources; empty means no such limit.
    pub resources: BTreeSet<(ResourceKind, String)>,
}

/// Error for an unknown scope. It is refused, because ignoring it would widen the token.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("`{0}` is not a scope; use `read-only`, `experiment:ID`, `registered_model:NAME` or `prompt:NAME`")]
pub struct ScopeError(pub String);

impl Limits {
    /// Parses scopes as clients write them: `read-only`, `experiment:12`, `registered_model:fraud`, `prompt:summary`.
    ///
    /// # Errors
    /// The first scope that has none of these forms.
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
            // The key of an experiment is its numeric ID; a scope with its name would match nothing.
            let number = key.parse::<u64>().is_ok_and(|number| number.to_string() == key);
            if !scopable || key.is_empty() || key == "*" || kind == ResourceKind::Experiment && !number {
                return Err(unknown());
            }
            limits.resources.insert((kind, key.to_owned()));
        }
        Ok(limits)
    }

    /// Returns true if a scope can name a resource of this kind.
    #[must_use]
    pub const fn is_scopable(kind: ResourceKind) -> bool {
        matches!(kind, ResourceKind::Experiment | ResourceKind::RegisteredModel | ResourceKind::Prompt)
    }

    /// Returns the scopes as clients write them; the inverse of [`Limits::parse`].
    #[must_use]
    pub fn scopes(&self) -> Vec<String> {
        let read_only = self.read_only.then(|| "read-only".to_owned());
        let resources = self.resources.iter().map(|(kind, key)| format!("{kind}:{key}"));
        read_only.into_iter().chain(resources).collect()
    }

    /// Returns true if there are no limits.
    #[must_use]
    pub fn is_unlimited(&self) -> bool {
        !self.read_only && self.resources.is_empty()
    }

    /// Returns true if the limits permit this level on this resource. The owner's permissions are a separate check.
    #[must_use]
    pub fn allow(&self, needed: Permission, resource: &Resource) -> bool {
        self.allow_level(needed) && self.allow_resource(resource)
    }

    /// Returns true if the limits permit this level.
    #[must_use]
    pub fn allow_level(&self, needed: Permission) -> bool {
        !self.read_only || needed <= Permission::Read
    }

    /// Returns true if the limits permit this resource.
    #[must_use]
    pub fn allow_resource(&self, resource: &Resource) -> bool {
        // A linear search avoids allocating an owned key, and a token has only a few resources.
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
