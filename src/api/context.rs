//! State that all handlers share, and the access checks that they begin with.
//!
//! Each check refuses with the same 403 that the pipeline would answer; its denial is written to the audit log.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, header};
use url::Url;

use super::{ApiRequest, Refusal};
use crate::authn::Authn;
use crate::authz::{
    DEFAULT_WORKSPACE, DefaultPermission, Denied, Identity, Permission, Requirement, Resource, ResourceKind, Selector,
    authorize,
};
use crate::clock::Clock;
use crate::config;
use crate::mlflow::Table;
use crate::resolve::Resolver;
use crate::store::{Store, User};

/// Shared state of all handlers. Built once in `app`.
#[derive(Debug)]
pub struct Context {
    pub store: Arc<Store>,
    pub authn: Arc<Authn>,
    pub config: config::Authn,
    pub default_permission: DefaultPermission,
    pub table: Arc<Table>,
    pub address: PublicAddress,
    pub clock: Clock,
    /// Looks up names of experiments.
    pub resolver: Arc<Resolver>,
}

/// The address under which clients reach the proxy.
#[derive(Debug, Default)]
pub struct PublicAddress {
    /// `server.public_url`.
    pub url: Option<Url>,
    /// The path that precedes all of MLflow's paths, and the pages' paths.
    pub static_prefix: String,
}

impl PublicAddress {
    /// Returns the configured URL without a trailing slash.
    #[must_use]
    pub fn origin(&self) -> Option<&str> {
        self.url.as_ref().map(|url| url.as_str().trim_end_matches('/'))
    }

    fn is_https(&self) -> bool {
        self.url.as_ref().is_some_and(|url| url.scheme() == "https")
    }
}

impl Context {
    /// Returns the URL that the caller sets as `MLFLOW_TRACKING_URI`, without a trailing slash.
    pub(crate) fn tracking_uri(&self, request: &ApiRequest) -> String {
        format!("{}{}", self.address.origin().unwrap_or(&request.origin), self.address.static_prefix)
    }

    /// Returns a warning if MLflow has no resource that the selector of a new grant names, and logs it.
    pub(crate) async fn warn_if_missing(&self, kind: ResourceKind, selector: &Selector) -> Option<String> {
        if !self.resolver.lacks(kind, selector).await {
            return None;
        }
        let resource = Resource::new(kind, selector.to_string());
        tracing::warn!(%resource, "a grant was made on {resource}, which MLflow does not have");
        Some(format!("MLflow has no {resource}; the grant has no effect until it exists"))
    }

    /// Adds HSTS where the proxy is reached over TLS.
    pub(crate) fn keep_browsers_on_tls(&self, headers: &mut HeaderMap) {
        if self.address.is_https() {
            headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=15768000"));
        }
    }

    /// Returns the user of this name, or MLflow's 404. Called only after a check that the caller may learn whether the user exists.
    pub(crate) async fn user(&self, name: &str) -> Result<User, Refusal> {
        self.store.user_by_name(name).await?.ok_or_else(|| Refusal::no_user(name))
    }
}

/// Access checks.
impl Context {
    /// Requires that the caller meets `requirement`.
    pub(crate) fn require(&self, request: &ApiRequest, requirement: Requirement) -> Result<(), Refusal> {
        let _permit = authorize(&request.identity, self.default_permission, &[requirement])?;
        Ok(())
    }

    /// Requires `requirement` for viewing only, so that a read-only token is accepted whatever level it names.
    fn require_to_view(&self, request: &ApiRequest, requirement: Requirement) -> Result<(), Refusal> {
        let mut identity = Identity::clone(&request.identity);
        identity.limits.read_only = false;
        let _permit = authorize(&identity, self.default_permission, &[requirement])?;
        Ok(())
    }

    /// Requires an administrator, of the proxy or of this workspace, for a change.
    pub(crate) fn require_workspace_admin(&self, request: &ApiRequest, workspace: &str) -> Result<(), Refusal> {
        self.require_admin_in(request, workspace, Requirement::Admin { change: true })
    }

    /// Requires an administrator, of the proxy or of this workspace, for viewing.
    pub(crate) fn require_workspace_admin_to_view(&self, request: &ApiRequest, workspace: &str) -> Result<(), Refusal> {
        self.require_admin_in(request, workspace, Requirement::Admin { change: false })
    }

    fn require_admin_in(&self, request: &ApiRequest, workspace: &str, requirement: Requirement) -> Result<(), Refusal> {
        let mut identity = Identity::clone(&request.identity);
        identity.admin = identity.administers(workspace);
        let _permit = authorize(&identity, self.default_permission, &[requirement])?;
        Ok(())
    }

    /// Requires an administrator, of the proxy or of any workspace, for a change.
    pub(crate) fn require_any_workspace_admin(&self, request: &ApiRequest) -> Result<(), Refusal> {
        let mut identity = Identity::clone(&request.identity);
        identity.admin |= identity.grants.administers_any();
        let _permit = authorize(&identity, self.default_permission, &[Requirement::Admin { change: true }])?;
        Ok(())
    }

    /// Requires that the caller is the user of this name, or an administrator.
    pub(crate) fn require_self_or_admin(&self, request: &ApiRequest, name: &str) -> Result<(), Refusal> {
        if request.is(name) { Ok(()) } else { self.require(request, Requirement::Admin { change: false }) }
    }

    /// Requires the permission to change grants on a selector: MANAGE on one resource; for a whole kind and for patterns, an
    /// administrator of the default workspace.
    pub(crate) async fn require_manage(
        &self,
        request: &ApiRequest,
        kind: ResourceKind,
        selector: &Selector,
    ) -> Result<(), Refusal> {
        match selector {
            Selector::All | Selector::Glob(_) => self.require_workspace_admin(request, DEFAULT_WORKSPACE),
            Selector::Exact(key) => self.require(request, self.manage(request, kind, key).await?),
        }
    }

    /// Requires the permission to view grants on a selector: as [`Self::require_manage`], but a read-only token is accepted.
    pub(crate) async fn require_manage_to_view(
        &self,
        request: &ApiRequest,
        kind: ResourceKind,
        selector: &Selector,
    ) -> Result<(), Refusal> {
        match selector {
            Selector::All | Selector::Glob(_) => self.require_workspace_admin_to_view(request, DEFAULT_WORKSPACE),
            Selector::Exact(key) => self.require_to_view(request, self.manage(request, kind, key).await?),
        }
    }

    /// Returns the requirement of MANAGE on one resource, with its name where grants of the caller refer to names.
    async fn manage(&self, request: &ApiRequest, kind: ResourceKind, key: &str) -> Result<Requirement, Refusal> {
        let mut resource = Resource::new(kind, key);
        if request.identity.needs_names() {
            self.resolver.name(&mut resource).await?;
        }
        Ok(Requirement::level(Permission::Manage, resource))
    }

    /// Returns `absent` to administrators, and the denial to other callers, who must not learn that something does not exist.
    pub(crate) fn absent_to(&self, request: &ApiRequest, absent: Refusal) -> Refusal {
        match self.require(request, Requirement::Admin { change: false }) {
            Ok(()) => absent,
            Err(denied) => denied,
        }
    }
}

impl ApiRequest {
    /// Refuses access tokens, for actions that require a password or a session. `action`: as in "An access token cannot be used
    /// to `action`".
    pub(crate) fn refuse_tokens(&self, action: &str) -> Result<(), Refusal> {
        if self.identity.scheme.is_personal() {
            Ok(())
        } else if self.identity.limits.read_only {
            Err(Denied::TokenIsReadOnly.into())
        } else {
            Err(Refusal::token_may_not(action))
        }
    }
}
