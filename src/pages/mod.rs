//! What we serve ourselves: MLflow's API for users and grants in both its generations, and our own for access tokens.
//!
//! A request that arrives here is authenticated and its body read; nothing here reaches MLflow. Status codes, shapes and
//! messages are those of MLflow 3.17.2 (`mlflow.server.auth`) and, for the per-resource grants, of 3.9, the newest that
//! has them; where we differ, the function says why.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::to_bytes;
use axum::response::IntoResponse as _;
use axum::routing::{MethodRouter, delete, get, patch, post};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use tower::ServiceExt as _;
use url::Url;

use crate::authn::Authn;
use crate::authz::{Identity, Policy, Resource, ResourceKind, Selector};
use crate::clock::Clock;
use crate::config;
use crate::http::{Body, ErrorCode, Reply, Response};
use crate::mlflow::Table;
use crate::resolve::Resolver;
use crate::store::Store;

mod account;
mod asked;
mod backchannel;
mod callback;
mod explain;
mod form_token;
mod grants;
mod held;
mod html;
mod json;
mod login;
mod logout;
mod refusal;
mod resource_permissions;
mod role_permissions;
mod roles;
mod scoped;
mod sessions;
mod shapes;
mod sharing;
mod signup;
mod terms;
mod tokens;
mod users;
mod visit;

use asked::{Asked, Caller};
use html::ErrorPage;
use refusal::Refusal;
use resource_permissions::{FAMILIES, Family};
use visit::Visit;

pub use explain::{Person, explanation, learn_name};
pub use refusal::Denial;
pub use visit::{SignIn, Visited};

/// Answers management requests.
#[derive(Clone, Debug)]
pub struct Pages {
    router: Router,
    parts: Arc<Parts>,
    /// How people sign in, where they can.
    sign_in: Option<Arc<SignIn>>,
}

/// What every answer may touch.
#[derive(Debug)]
pub struct Parts {
    pub store: Arc<Store>,
    pub authn: Arc<Authn>,
    pub config: config::Authn,
    pub policy: Policy,
    pub table: Arc<Table>,
    pub reached: Reached,
    pub clock: Clock,
    /// What experiments are called.
    pub resolver: Arc<Resolver>,
}

/// How clients reach us.
#[derive(Debug, Default)]
pub struct Reached {
    /// Where it is configured.
    pub public_url: Option<Url>,
    /// What stands before MLflow's paths.
    pub static_prefix: String,
}

impl Parts {
    /// What the one who asks would set as tracking URI: without a slash at its end.
    fn tracking_uri(&self, asked: &Asked) -> String {
        let public = self.reached.public_url.as_ref().map(|url| url.as_str().trim_end_matches('/'));
        format!("{}{}", public.unwrap_or(&asked.called), self.reached.static_prefix)
    }

    /// Says, to the caller and in the log, that a grant is on a thing that MLflow does not have.
    async fn absence(&self, kind: ResourceKind, selector: &Selector) -> Option<String> {
        if !self.resolver.lacks(kind, selector).await {
            return None;
        }
        let resource = Resource::new(kind, selector.to_string());
        tracing::warn!(%resource, "a grant was made on {resource}, which MLflow does not have");
        Some(format!("MLflow has no {resource}; the grant has no effect until it exists"))
    }

    /// Whoever was here over TLS comes back over TLS only.
    fn stay_secure(&self, headers: &mut HeaderMap) {
        if self.reached.public_url.as_ref().is_some_and(|url| url.scheme() == "https") {
            headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=15768000"));
        }
    }
}

/// What an answer's function gives: a success, or a refusal.
type Answer = Result<shapes::Shape, Refusal>;

impl Pages {
    /// Pages over these, where nobody signs in with a browser yet.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let parts = Arc::new(parts);
        Self { router: router().with_state(Arc::clone(&parts)), parts, sign_in: None }
    }

    /// The same, where people sign in with their browser.
    #[must_use]
    pub fn with_sign_in(self, sign_in: SignIn) -> Self {
        Self { sign_in: Some(Arc::new(sign_in)), ..self }
    }

    /// Whether a browser can be sent to sign in.
    #[must_use]
    pub fn can_sign_in(&self) -> bool {
        self.sign_in.as_ref().is_some_and(|sign_in| sign_in.is_possible())
    }

    /// The address of the page on which users manage their access tokens.
    #[must_use]
    pub fn account_page(&self) -> String {
        let public = self.parts.reached.public_url.as_ref().map(|url| url.as_str().trim_end_matches('/'));
        format!("{}{}/auth/account", public.unwrap_or_default(), self.parts.reached.static_prefix)
    }

    /// Turns a refusal into a page with a way home. Status and headers stay, but for those about the body.
    #[must_use]
    pub fn show_refusal(&self, refusal: Response, heading: &str, words: &str, signed_in: bool) -> Response {
        let (mut head, _) = refusal.into_parts();
        let can_sign_in = self.can_sign_in();
        let public = self.parts.reached.public_url.as_ref().map(|url| url.as_str().trim_end_matches('/'));
        // Under a name that is not served here, our own addresses lead nowhere.
        let origin = public.filter(|_| head.status == StatusCode::MISDIRECTED_REQUEST).unwrap_or_default();
        let home = format!("{origin}{}/", self.parts.reached.static_prefix);
        let page = html::error(&ErrorPage {
            base: &self.parts.reached.static_prefix,
            heading,
            words,
            home: &home,
            sign_in: can_sign_in && !signed_in,
            account: signed_in,
            sign_out: can_sign_in && signed_in,
        });
        head.headers.remove(header::CONTENT_LENGTH);
        html::guard(&mut head.headers, "");
        Response::from_parts(head, Body::from(Bytes::from(page)))
    }

    /// Whether nobody needs to be signed in for this canonical path.
    #[must_use]
    pub fn is_public(path: &str) -> bool {
        ["/auth/login", "/auth/logout", "/auth/signed-out", "/auth/backchannel-logout"].contains(&path)
            || path.starts_with("/auth/callback/")
            || path.starts_with("/auth/static/")
    }

    /// Answers a request for such a path. `identity`: who this is, if the browser has a session.
    ///
    /// What it came to stands among the extensions, as [`Visited`], for metrics and audit.
    pub async fn answer_visitor(
        &self,
        identity: Option<Arc<Identity>>,
        address: IpAddr,
        request: http::Request<Bytes>,
    ) -> http::Response<Bytes> {
        let (head, body) = request.into_parts();
        let Some(sign_in) = &self.sign_in else {
            let words = "Nobody signs in with a browser's page here.";
            return visit::refusal(StatusCode::NOT_FOUND, ErrorCode::EndpointNotFound, words);
        };
        let mut response = Visit { parts: &self.parts, sign_in, identity, address, head, body }.answer().await;
        self.parts.stay_secure(response.headers_mut());
        response
    }

    /// Whether a request for this canonical path, without its query, is answered here and nowhere else.
    #[must_use]
    pub fn owns(path: &str) -> bool {
        if path == "/auth" || path.starts_with("/auth/") || path == "/signup" {
            return true;
        }
        let below = TWINS.iter().find_map(|twin| path.strip_prefix(twin));
        let mut owned = OWNED.into_iter().chain(FAMILIES.iter().map(|family| family.folder));
        below.is_some_and(|path| owned.any(|owned| path.starts_with(owned)))
    }

    /// Answers one request. `address` is the client's, after trusted proxies.
    ///
    /// A 403 carries a [`Denial`] among its extensions, for the log.
    pub async fn answer(
        &self,
        identity: Arc<Identity>,
        address: IpAddr,
        request: http::Request<Bytes>,
    ) -> http::Response<Bytes> {
        let (mut head, body) = request.into_parts();
        let refusal = scoped::check(&identity.limits, head.uri.path()).err();
        head.extensions.insert(Caller { identity, address, body });
        let request = http::Request::from_parts(head, axum::body::Body::empty());
        let response = match refusal {
            Some(refusal) => refusal.into_response(),
            None => match self.router.clone().oneshot(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            },
        };
        let (mut head, body) = response.into_parts();
        // Secrets and other people's names: for this caller and this moment only.
        head.headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        self.parts.stay_secure(&mut head.headers);
        // No limit: it is ours and in memory already.
        let body = to_bytes(body, usize::MAX).await.unwrap_or_else(|error| {
            tracing::error!(%error, "an answer of our own broke off");
            head.status = StatusCode::INTERNAL_SERVER_ERROR;
            Bytes::new()
        });
        http::Response::from_parts(head, body)
    }
}

/// The two prefixes under which MLflow answers everything: for programs and for its own web pages.
const TWINS: [&str; 2] = ["/api", "/ajax-api"];

/// Below a twin. Whole folders: what MLflow's auth API has there and we do not must not reach an MLflow without auth.
const OWNED: [&str; 3] = ["/2.0/mlflow/users/", "/3.0/mlflow/users/", "/3.0/mlflow/roles/"];

fn router() -> Router<Arc<Parts>> {
    let own = Router::new()
        .route("/signup", get(signup::page))
        .route("/api/2.0/mlflow/users/create-ui", post(signup::create))
        .route("/auth/account", get(account::page))
        .route("/auth/account/tokens", post(account::create_token))
        .route("/auth/account/tokens/{id}/rotate", post(account::rotate_token))
        .route("/auth/account/tokens/{id}/revoke", post(account::revoke_token))
        .route("/auth/account/password", post(account::change_password))
        .route("/auth/account/sessions/end-others", post(account::end_other_sessions))
        .route("/auth/account/sessions/{id}/end", post(account::end_session))
        .route("/auth/api/v1/me", get(users::me))
        .route("/auth/api/v1/sessions", get(sessions::list).delete(sessions::end_all))
        .route("/auth/api/v1/sessions/{id}", delete(sessions::end))
        .route("/auth/api/v1/explain", get(explain::get))
        .route(
            "/auth/api/v1/grants",
            get(sharing::list).put(sharing::set).post(sharing::create).delete(sharing::revoke),
        )
        .route("/auth/api/v1/tokens", get(tokens::list).post(tokens::create).delete(tokens::revoke))
        .route("/auth/api/v1/tokens/{id}", delete(tokens::revoke_by_path))
        .route("/auth/api/v1/tokens/{id}/rotate", post(tokens::rotate));
    TWINS
        .iter()
        .fold(own, |router, twin| router.nest(twin, mlflow()))
        .fallback(unknown)
        .method_not_allowed_fallback(other_method)
}

fn mlflow() -> Router<Arc<Parts>> {
    let router = Router::new()
        .route("/2.0/mlflow/users/create", post(users::create))
        .route("/2.0/mlflow/users/get", get(users::get))
        .route("/2.0/mlflow/users/list", get(users::list))
        .route("/2.0/mlflow/users/current", get(users::current))
        .route("/2.0/mlflow/users/update-password", patch(users::update_password))
        .route("/2.0/mlflow/users/update-admin", patch(users::update_admin))
        .route("/2.0/mlflow/users/delete", delete(users::delete))
        .route("/3.0/mlflow/users/current/permissions", get(grants::current))
        .route("/3.0/mlflow/users/permissions/list", get(grants::list))
        .route("/3.0/mlflow/users/permissions/get", get(grants::get))
        .route("/3.0/mlflow/users/permissions/grant", post(grants::grant))
        .route("/3.0/mlflow/users/permissions/revoke", post(grants::revoke))
        .route("/3.0/mlflow/users/roles/list", get(roles::of_user))
        .route("/3.0/mlflow/roles/create", post(roles::create))
        .route("/3.0/mlflow/roles/get", get(roles::get))
        .route("/3.0/mlflow/roles/list", get(roles::list))
        .route("/3.0/mlflow/roles/update", patch(roles::update))
        .route("/3.0/mlflow/roles/delete", delete(roles::delete))
        .route("/3.0/mlflow/roles/assign", post(roles::assign))
        .route("/3.0/mlflow/roles/unassign", delete(roles::unassign))
        .route("/3.0/mlflow/roles/users/list", get(roles::members))
        .route("/3.0/mlflow/roles/permissions/add", post(role_permissions::add))
        .route("/3.0/mlflow/roles/permissions/update", patch(role_permissions::update))
        .route("/3.0/mlflow/roles/permissions/remove", delete(role_permissions::remove))
        .route("/3.0/mlflow/roles/permissions/list", get(role_permissions::list));
    FAMILIES.iter().fold(router, |router, family| router.merge(per_resource(family)))
}

fn per_resource(family: &'static Family) -> Router<Arc<Parts>> {
    let at = |verb: &str, answers: MethodRouter<Arc<Parts>>| {
        Router::new().route(&format!("{}{verb}", family.folder), answers)
    };
    at("create", post(|parts, asked| resource_permissions::create(parts, asked, family)))
        .merge(at("get", get(|parts, asked| resource_permissions::get(parts, asked, family))))
        .merge(at("update", patch(|parts, asked| resource_permissions::update(parts, asked, family))))
        .merge(at("delete", delete(|parts, asked| resource_permissions::delete(parts, asked, family))))
}

async fn unknown(uri: Uri) -> Refusal {
    let message = format!("There is nothing at '{}'. Check the path.", uri.path());
    Reply::new(StatusCode::NOT_FOUND, ErrorCode::EndpointNotFound, message).into()
}

async fn other_method(method: Method, uri: Uri) -> Refusal {
    let message = format!("'{}' does not answer {method}. The Allow header says what it answers.", uri.path());
    Reply::new(StatusCode::METHOD_NOT_ALLOWED, ErrorCode::BadRequest, message).into()
}

#[cfg(test)]
mod tests;
