//! What we answer ourselves: MLflow's auth API in both generations, access tokens, who am I.
//!
//! Shapes, codes and messages are those of `mlflow.server.auth` 3.17.2 (users, grants) and 3.12 (permissions of one
//! resource), because clients compare them. Who is asking was settled by the pipeline.

mod fields;
mod grants;
mod tokens;
mod users;

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use serde_json::Value;

use crate::authn::{self, Authn};
use crate::authz::{Identity, Permission, Policy, Resource, ResourceKind, Scheme, Subject, UserId, may};
use crate::clock::Clock;
use crate::config;
use crate::http::{ErrorCode, Reply};
use crate::store::{self, Actor, Store, User};

use fields::Fields;

#[cfg(test)]
mod tests;

/// Answers management requests.
#[derive(Debug)]
pub struct Pages {
    store: Arc<Store>,
    authn: Arc<Authn>,
    config: config::Authn,
    policy: Policy,
    clock: Clock,
}

/// One management request, read.
struct Call {
    who: Arc<Identity>,
    address: IpAddr,
    fields: Fields,
}

/// An answer of 200, or a refusal.
type Answer = Result<Value, Reply>;

impl Pages {
    /// Answers from this store.
    #[must_use]
    pub fn new(store: Arc<Store>, authn: Arc<Authn>, config: config::Authn, policy: Policy, clock: Clock) -> Self {
        Self { store, authn, config, policy, clock }
    }

    /// Whether a canonical path is ours, whatever the method.
    #[must_use]
    pub fn owns(path: &str) -> bool {
        path == "/auth" || path.starts_with("/auth/") || Route::find(path).is_some()
    }

    /// Answers one request of somebody who signed in. The body was read and is bounded.
    pub async fn answer(&self, who: Arc<Identity>, address: IpAddr, request: Request<Bytes>) -> Response<Bytes> {
        let (status, body) = match self.route(who, address, request).await {
            Ok(body) => (StatusCode::OK, Ok(body)),
            Err(reply) => (reply.status, Err(reply)),
        };
        let mut response = match body {
            Ok(body) => json(&body),
            Err(reply) => {
                let mut response = json(&serde_json::json!({
                    "error_code": reply.code.as_str(), "message": reply.message,
                }));
                for (name, value) in reply.headers {
                    response.headers_mut().append(name, value);
                }
                response
            }
        };
        *response.status_mut() = status;
        response
    }

    async fn route(&self, who: Arc<Identity>, address: IpAddr, request: Request<Bytes>) -> Answer {
        let not_found = || Reply::new(StatusCode::NOT_FOUND, ErrorCode::EndpointNotFound, "There is no such endpoint.");
        let path = crate::http::CanonicalPath::parse(request.uri().path_and_query().ok_or_else(not_found)?)
            .map_err(|error| Reply::invalid(error.to_string()))?;
        let route = Route::find(path.decoded()).ok_or_else(not_found)?;
        let method = request.method().clone();
        if !route.methods().contains(&method) {
            return Err(Reply::new(
                StatusCode::METHOD_NOT_ALLOWED,
                ErrorCode::BadRequest,
                format!("This endpoint takes {:?} only.", route.methods()),
            ));
        }
        let fields = Fields::read(&request)?;
        let call = Call { who, address, fields };
        match route {
            Route::CreateUser => self.create_user(&call).await,
            Route::GetUser => self.get_user(&call).await,
            Route::ListUsers => self.list_users().await,
            Route::CurrentUser => Ok(Self::current_user(&call)),
            Route::UpdatePassword => self.update_password(&call).await,
            Route::UpdateAdmin => self.update_admin(&call).await,
            Route::DeleteUser => self.delete_user(&call).await,
            Route::CurrentPermissions => self.list_permissions(call.who.user, call.who.admin).await,
            Route::ListPermissions => self.permissions_of(&call).await,
            Route::GetPermission => self.get_permission(&call).await,
            Route::GrantPermission => self.grant_permission(&call).await,
            Route::RevokePermission => self.revoke_permission(&call).await,
            Route::OfResource(kind, action) => self.of_resource(&call, kind, action).await,
            Route::Me => Ok(Self::me(&call)),
            Route::Tokens if method == Method::POST => self.create_token(&call).await,
            Route::Tokens if method == Method::GET => self.list_tokens(&call).await,
            Route::Tokens => self.revoke_token(&call, call.fields.integer("id")?).await,
            Route::Token(id) => self.revoke_token(&call, id).await,
            Route::RotateToken(id) => self.rotate_token(&call, id).await,
        }
    }

    /// The account of this name, or MLflow's 404.
    async fn user(&self, name: &str) -> Result<User, Reply> {
        let missing = || {
            let message = format!("User with username={name} not found");
            Reply::new(StatusCode::NOT_FOUND, ErrorCode::ResourceDoesNotExist, message)
        };
        self.store.user_by_name(name).await.map_err(refused)?.ok_or_else(missing)
    }

    /// Whether the caller may share this resource.
    fn must_manage(&self, call: &Call, resource: &Resource) -> Result<(), Reply> {
        if may(&call.who, self.policy, Permission::Manage, resource) {
            return Ok(());
        }
        Err(denied(&format!("MANAGE on {resource} is required.")))
    }
}

impl Call {
    fn actor(&self) -> Actor {
        let token = match self.who.scheme {
            Scheme::Token(id) => Some(id),
            Scheme::Password => None,
        };
        Actor { name: self.who.name.to_string(), token, address: Some(self.address) }
    }

    /// Management is for credentials that are not confined.
    fn must_be_unconfined(&self) -> Result<(), Reply> {
        if self.who.limits.read_only {
            return Err(denied("This access token is read-only. Use one without that scope."));
        }
        if !self.who.limits.resources.is_empty() {
            return Err(denied("This access token is confined to some resources. Use one without that scope."));
        }
        Ok(())
    }

    fn must_be_admin(&self) -> Result<(), Reply> {
        if !self.who.admin {
            return Err(denied("This needs an administrator."));
        }
        self.must_be_unconfined()
    }
}

/// What one endpoint of the older permission API does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Action {
    Create,
    Get,
    Update,
    Delete,
}

/// Our endpoints.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Route {
    CreateUser,
    GetUser,
    ListUsers,
    CurrentUser,
    UpdatePassword,
    UpdateAdmin,
    DeleteUser,
    CurrentPermissions,
    ListPermissions,
    GetPermission,
    GrantPermission,
    RevokePermission,
    OfResource(ResourceKind, Action),
    Me,
    Tokens,
    Token(i64),
    RotateToken(i64),
}

impl Route {
    fn find(path: &str) -> Option<Self> {
        if let Some(rest) = path.strip_prefix("/auth/api/v1/") {
            return match rest {
                "me" => Some(Self::Me),
                "tokens" => Some(Self::Tokens),
                _ => {
                    let rest = rest.strip_prefix("tokens/")?;
                    match rest.strip_suffix("/rotate") {
                        Some(id) => id.parse().ok().map(Self::RotateToken),
                        None => rest.parse().ok().map(Self::Token),
                    }
                }
            };
        }
        let rest = path.strip_prefix("/api/").or_else(|| path.strip_prefix("/ajax-api/"))?;
        if let Some(rest) = rest.strip_prefix("2.0/mlflow/") {
            return Some(match rest {
                "users/create" => Self::CreateUser,
                "users/get" => Self::GetUser,
                "users/list" => Self::ListUsers,
                "users/current" => Self::CurrentUser,
                "users/update-password" => Self::UpdatePassword,
                "users/update-admin" => Self::UpdateAdmin,
                "users/delete" => Self::DeleteUser,
                _ => return Self::of_resource(rest),
            });
        }
        Some(match rest.strip_prefix("3.0/mlflow/users/")? {
            "current/permissions" => Self::CurrentPermissions,
            "permissions/list" => Self::ListPermissions,
            "permissions/get" => Self::GetPermission,
            "permissions/grant" => Self::GrantPermission,
            "permissions/revoke" => Self::RevokePermission,
            _ => return None,
        })
    }

    fn of_resource(rest: &str) -> Option<Self> {
        let (kind, action) = rest.split_once("/permissions/")?;
        let kind = match kind {
            "experiments" => ResourceKind::Experiment,
            "registered-models" => ResourceKind::RegisteredModel,
            _ => return None,
        };
        let action = match action {
            "create" => Action::Create,
            "get" => Action::Get,
            "update" => Action::Update,
            "delete" => Action::Delete,
            _ => return None,
        };
        Some(Self::OfResource(kind, action))
    }

    const fn methods(self) -> &'static [Method] {
        match self {
            Self::CreateUser | Self::GrantPermission | Self::RevokePermission | Self::RotateToken(_) => &[Method::POST],
            Self::GetUser
            | Self::ListUsers
            | Self::CurrentUser
            | Self::CurrentPermissions
            | Self::ListPermissions
            | Self::GetPermission
            | Self::Me => &[Method::GET],
            Self::UpdatePassword | Self::UpdateAdmin => &[Method::PATCH],
            Self::DeleteUser | Self::Token(_) => &[Method::DELETE],
            Self::OfResource(_, Action::Create) => &[Method::POST],
            Self::OfResource(_, Action::Get) => &[Method::GET],
            Self::OfResource(_, Action::Update) => &[Method::PATCH],
            Self::OfResource(_, Action::Delete) => &[Method::DELETE],
            Self::Tokens => &[Method::GET, Method::POST, Method::DELETE],
        }
    }
}

fn json(body: &Value) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(format!("{body}\n")));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // Answers hold names, and once a secret.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn denied(why: &str) -> Reply {
    Reply::new(StatusCode::FORBIDDEN, ErrorCode::PermissionDenied, format!("Permission denied. {why}"))
}

fn missing(what: String) -> Reply {
    Reply::new(StatusCode::NOT_FOUND, ErrorCode::ResourceDoesNotExist, what)
}

fn already(what: String) -> Reply {
    Reply::new(StatusCode::BAD_REQUEST, ErrorCode::ResourceAlreadyExists, what)
}

/// The store's errors, for whoever has no better sentence.
fn refused(error: store::Error) -> Reply {
    match error {
        store::Error::Exists(what) => already(format!("{what} already exists")),
        store::Error::NotFound(what) => missing(format!("{what} not found")),
        store::Error::LastAdmin(name) => Reply::new(
            StatusCode::BAD_REQUEST,
            ErrorCode::BadRequest,
            format!("User {name} is the last administrator. Make another one first."),
        ),
        store::Error::Open(_) | store::Error::Unavailable(_) | store::Error::Corrupt(_) => {
            tracing::error!(%error, "a management request could not be answered");
            let message = "The proxy's store does not answer; nothing was changed. Try again later.";
            Reply::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::TemporarilyUnavailable, message)
                .with(header::RETRY_AFTER, HeaderValue::from_static("5"))
        }
    }
}

fn not_hashed(error: authn::Error) -> Reply {
    match error {
        authn::Error::TooManyAttempts { retry_after } => {
            let seconds = retry_after.as_secs().max(1);
            let message = format!("Too many wrong passwords. Try again in {seconds} seconds.");
            Reply::new(StatusCode::TOO_MANY_REQUESTS, ErrorCode::RequestLimitExceeded, message)
                .with(header::RETRY_AFTER, HeaderValue::from(seconds))
        }
        authn::Error::Store(error) => refused(error),
        authn::Error::Busy | authn::Error::Missing | authn::Error::Failed(_) => {
            let message = "Too many passwords are being checked. Try again in a few seconds.";
            Reply::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::TemporarilyUnavailable, message)
                .with(header::RETRY_AFTER, HeaderValue::from_static("2"))
        }
    }
}

fn subject(user: UserId) -> Subject {
    Subject::User(user)
}
