//! The routes of all pages and APIs that the proxy answers itself, each with the access that it requires.
//!
//! The router and [`super::Web::access`] are built from one list, so a path cannot be public in one of them only.

use axum::Router;
use axum::routing::{MethodRouter, any, delete, get, patch, post};
use http::{Method, StatusCode, Uri};

use super::{SignIn, Site, account, assets, backchannel_logout, callback, login, logout, sign_up};
use crate::api::Refusal;
use crate::api::mlflow::resource_permissions::{self, FAMILIES, Family};
use crate::api::mlflow::{role_permissions, roles, user_permissions, users};
use crate::api::v1::{explain, grants, me, sessions, tokens};
use crate::http::{ErrorCode, Reply};

/// The access that a route requires before its handler runs. Handlers check permissions themselves.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Access {
    /// None.
    Public,
    /// An identity, from any credentials.
    ScopedToken,
    /// An identity, from any credentials except an access token that is limited to resources.
    User,
}

use Access::{Public, ScopedToken, User};

struct Route {
    access: Access,
    path: String,
    methods: MethodRouter<Site>,
}

fn route(access: Access, path: &str, methods: MethodRouter<Site>) -> Route {
    Route { access, path: path.to_owned(), methods }
}

/// Returns the router, and the access of each of its paths.
pub(super) fn build(sign_in: &SignIn) -> Result<(Router<Site>, matchit::Router<Access>), matchit::InsertError> {
    let (mut router, mut access) = (Router::new(), matchit::Router::new());
    let mlflow = PREFIXES.into_iter().flat_map(mlflow_api);
    for route in pages(sign_in).into_iter().chain(own_api()).chain(mlflow) {
        access.insert(route.path.clone(), route.access)?;
        router = router.route(&route.path, route.methods);
    }
    Ok((router.fallback(unknown).method_not_allowed_fallback(other_method), access))
}

/// The prefixes of MLflow's paths: for clients and for its web pages.
const PREFIXES: [&str; 2] = ["/api", "/ajax-api"];

/// Folders below a prefix that the proxy owns as a whole. Routes of MLflow's auth API that the proxy does not implement are among them,
/// because they must not reach an MLflow without auth.
const OWNED: [&str; 3] = ["/2.0/mlflow/users/", "/3.0/mlflow/users/", "/3.0/mlflow/roles/"];

/// Returns true if a canonical path, without its query, is answered by the proxy and never forwarded.
pub(super) fn owns(path: &str) -> bool {
    if path == "/auth" || path.starts_with("/auth/") || path == "/signup" {
        return true;
    }
    let below = PREFIXES.iter().find_map(|prefix| path.strip_prefix(prefix));
    let mut owned = OWNED.into_iter().chain(FAMILIES.iter().map(|family| family.folder));
    below.is_some_and(|path| owned.any(|owned| path.starts_with(owned)))
}

fn pages(sign_in: &SignIn) -> Vec<Route> {
    let login = get(login::page);
    let login = if sign_in.password_form { login.post(login::with_password) } else { login };
    vec![
        route(Public, "/auth/login", login),
        // Not `get`: that answers HEAD, too, which would use up the sign-in's state without completing it.
        route(Public, "/auth/callback/{*provider}", any(callback::answer)),
        route(Public, "/auth/logout", get(logout::confirm).post(logout::sign_out)),
        route(Public, "/auth/signed-out", get(logout::signed_out)),
        route(Public, "/auth/backchannel-logout", post(backchannel_logout::answer)),
        route(Public, "/auth/static/{*name}", get(assets::get)),
        route(User, "/auth/account", get(account::page)),
        route(User, "/auth/account/tokens", post(account::create_token)),
        route(User, "/auth/account/tokens/{id}/rotate", post(account::rotate_token)),
        route(User, "/auth/account/tokens/{id}/revoke", post(account::revoke_token)),
        route(User, "/auth/account/password", post(account::change_password)),
        route(User, "/auth/account/sessions/end-others", post(account::end_other_sessions)),
        route(User, "/auth/account/sessions/{id}/end", post(account::end_session)),
        route(User, "/signup", get(sign_up::page)),
        // MLflow has this path below `/api` only.
        route(User, "/api/2.0/mlflow/users/create-ui", post(sign_up::create)),
    ]
}

fn own_api() -> Vec<Route> {
    let grants = get(grants::list).put(grants::set).post(grants::create).delete(grants::revoke);
    let tokens = get(tokens::list).post(tokens::create).delete(tokens::revoke);
    vec![
        route(ScopedToken, "/auth/api/v1/me", get(me::get)),
        route(ScopedToken, "/auth/api/v1/explain", get(explain::get)),
        route(ScopedToken, "/auth/api/v1/tokens", tokens),
        route(ScopedToken, "/auth/api/v1/tokens/{id}", delete(tokens::revoke_by_path)),
        route(ScopedToken, "/auth/api/v1/tokens/{id}/rotate", post(tokens::rotate)),
        route(User, "/auth/api/v1/grants", grants),
        route(User, "/auth/api/v1/sessions", get(sessions::list).delete(sessions::end_all)),
        route(User, "/auth/api/v1/sessions/{id}", delete(sessions::end)),
    ]
}

fn mlflow_api(prefix: &str) -> Vec<Route> {
    let route = |access, path: &str, methods| route(access, &format!("{prefix}{path}"), methods);
    let mut routes = vec![
        route(ScopedToken, "/2.0/mlflow/users/current", get(users::current)),
        route(User, "/2.0/mlflow/users/create", post(users::create)),
        route(User, "/2.0/mlflow/users/get", get(users::get)),
        route(User, "/2.0/mlflow/users/list", get(users::list)),
        route(User, "/2.0/mlflow/users/update-password", patch(users::update_password)),
        route(User, "/2.0/mlflow/users/update-admin", patch(users::update_admin)),
        route(User, "/2.0/mlflow/users/delete", delete(users::delete)),
        route(User, "/3.0/mlflow/users/current/permissions", get(user_permissions::current)),
        route(User, "/3.0/mlflow/users/permissions/list", get(user_permissions::list)),
        route(User, "/3.0/mlflow/users/permissions/get", get(user_permissions::get)),
        route(User, "/3.0/mlflow/users/permissions/grant", post(user_permissions::grant)),
        route(User, "/3.0/mlflow/users/permissions/revoke", post(user_permissions::revoke)),
        route(User, "/3.0/mlflow/users/roles/list", get(roles::of_user)),
        route(User, "/3.0/mlflow/roles/create", post(roles::create)),
        route(User, "/3.0/mlflow/roles/get", get(roles::get)),
        route(User, "/3.0/mlflow/roles/list", get(roles::list)),
        route(User, "/3.0/mlflow/roles/update", patch(roles::update)),
        route(User, "/3.0/mlflow/roles/delete", delete(roles::delete)),
        route(User, "/3.0/mlflow/roles/assign", post(roles::assign)),
        route(User, "/3.0/mlflow/roles/unassign", delete(roles::unassign)),
        route(User, "/3.0/mlflow/roles/users/list", get(roles::members)),
        route(User, "/3.0/mlflow/roles/permissions/add", post(role_permissions::add)),
        route(User, "/3.0/mlflow/roles/permissions/update", patch(role_permissions::update)),
        route(User, "/3.0/mlflow/roles/permissions/remove", delete(role_permissions::remove)),
        route(User, "/3.0/mlflow/roles/permissions/list", get(role_permissions::list)),
    ];
    for family in &FAMILIES {
        let at = |verb: &str| format!("{}{verb}", family.folder);
        routes.extend(of_family(family).map(|(verb, methods)| route(User, &at(verb), methods)));
    }
    routes
}

fn of_family(family: &'static Family) -> [(&'static str, MethodRouter<Site>); 4] {
    [
        ("create", post(|context, request| resource_permissions::create(context, request, family))),
        ("get", get(|context, request| resource_permissions::get(context, request, family))),
        ("update", patch(|context, request| resource_permissions::update(context, request, family))),
        ("delete", delete(|context, request| resource_permissions::delete(context, request, family))),
    ]
}

async fn unknown(uri: Uri) -> Refusal {
    let message = format!("There is nothing at '{}'. Check the path.", uri.path());
    Reply::new(StatusCode::NOT_FOUND, ErrorCode::EndpointNotFound, message).into()
}

async fn other_method(method: Method, uri: Uri) -> Refusal {
    let message = format!("'{}' does not accept {method}. The Allow header lists the accepted methods.", uri.path());
    Reply::new(StatusCode::METHOD_NOT_ALLOWED, ErrorCode::BadRequest, message).into()
}
