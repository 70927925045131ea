//! The web pages of the proxy, and the router (in [`routes`]) of these pages and of the REST APIs of `api`.
//!
//! The pages are for users at a browser: sign-in, sign-out, the account page, and the page that shows an error. Requests of
//! programs are refused in MLflow's JSON.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{FromRef, Request};
use axum::response::IntoResponse as _;
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use tower::ServiceExt as _;

use crate::api::{Caller, Context, Refusal};
use crate::authz::{Denied, Identity, NeededScope};
use crate::config;
use crate::http::Response;
use crate::oidc::Providers;

mod account;
mod assets;
mod backchannel_logout;
mod callback;
mod form_token;
mod html;
mod login;
mod logout;
mod provider;
mod response;
mod routes;
mod session;
mod sign_in_request;
mod sign_up;

use html::ErrorPage;

pub use response::SignInEvent;
pub use routes::Access;

/// Answers requests for the proxy's own pages and APIs.
#[derive(Clone, Debug)]
pub struct Web {
    site: Site,
    router: Router,
    access: Arc<matchit::Router<Access>>,
}

/// State of the router.
#[derive(Clone, Debug)]
struct Site {
    context: Arc<Context>,
    sign_in: Arc<SignIn>,
}

impl FromRef<Site> for Arc<Context> {
    fn from_ref(site: &Site) -> Self {
        Self::clone(&site.context)
    }
}

/// The ways to sign in from a browser.
#[derive(Debug)]
pub struct SignIn {
    pub providers: Arc<Providers>,
    pub session: config::Session,
    /// True if the sign-in page offers user name and password.
    pub password_form: bool,
    /// Path to return to after a sign-in that was not started from a page.
    pub home: String,
}

impl SignIn {
    /// Returns true if there is a provider or a password form.
    #[must_use]
    pub fn is_possible(&self) -> bool {
        self.password_form || self.providers.iter().next().is_some()
    }
}

impl Web {
    /// Builds the router.
    ///
    /// # Errors
    /// Two routes have paths that conflict.
    pub fn new(context: Context, sign_in: SignIn) -> Result<Self, matchit::InsertError> {
        let site = Site { context: Arc::new(context), sign_in: Arc::new(sign_in) };
        let (router, access) = routes::build(&site.sign_in)?;
        Ok(Self { router: router.with_state(site.clone()), access: Arc::new(access), site })
    }

    /// Returns true if a browser can be sent to the sign-in page.
    #[must_use]
    pub fn can_sign_in(&self) -> bool {
        self.site.sign_in.is_possible()
    }

    /// Returns the address before `/auth`: `server.public_url`, if it is set, and the static prefix.
    #[must_use]
    pub fn pages(&self) -> String {
        let address = &self.site.context.address;
        format!("{}{}", address.origin().unwrap_or_default(), address.static_prefix)
    }

    /// Returns the access that a canonical path without query requires, and `None` if the path is not answered here.
    ///
    /// Paths that belong to the proxy but match no route require an identity, so that an anonymous client learns nothing of them.
    #[must_use]
    pub fn access(&self, path: &str) -> Option<Access> {
        routes::owns(path).then(|| self.access.at(path).map_or(Access::User, |matched| *matched.value))
    }

    /// Answers one request. `identity` is required unless [`Self::access`] of its path is public; `address` is the client's, after
    /// trusted proxies.
    ///
    /// Extensions of the response: `api::Denial` for the log of a 403, [`SignInEvent`] for metrics and audit.
    pub async fn answer(
        &self,
        identity: Option<Arc<Identity>>,
        address: IpAddr,
        request: http::Request<Bytes>,
    ) -> http::Response<Bytes> {
        let (mut head, body) = request.into_parts();
        let refusal = identity.as_ref().and_then(|identity| self.refuse_scoped_token(identity, head.uri.path()));
        head.extensions.insert(Caller { identity, address });
        let request = Request::from_parts(head, Body::from(body));
        let response = match refusal {
            Some(refusal) => refusal.into_response(),
            None => match self.router.clone().oneshot(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            },
        };
        let (mut head, body) = response.into_parts();
        // Answers contain secrets and other users' names. Only the pages' static files state their own policy.
        head.headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
        self.site.context.keep_browsers_on_tls(&mut head.headers);
        // Without a limit, because handlers build their answers in memory.
        let body = to_bytes(body, usize::MAX).await.unwrap_or_else(|error| {
            tracing::error!(%error, "an answer of the proxy's own could not be read");
            head.status = StatusCode::INTERNAL_SERVER_ERROR;
            Bytes::new()
        });
        http::Response::from_parts(head, body)
    }

    /// Refuses access tokens that are limited to resources, except on routes that concern the token itself: such a token must neither
    /// share resources nor reveal its owner's account.
    fn refuse_scoped_token(&self, identity: &Identity, path: &str) -> Option<Refusal> {
        let is_open = || match self.access(path) {
            Some(Access::Public | Access::ScopedToken) => true,
            Some(Access::User) | None => false,
        };
        let is_refused = !identity.limits.resources.is_empty() && !is_open();
        is_refused.then(|| Denied::TokenScope(NeededScope::Unscoped).into())
    }

    /// Turns a refusal into an HTML page with a link to MLflow. Status and headers stay, except those of the body.
    #[must_use]
    pub fn show_refusal(&self, refusal: Response, heading: &str, words: &str, signed_in: bool) -> Response {
        let (mut head, _) = refusal.into_parts();
        let can_sign_in = self.can_sign_in();
        let address = &self.site.context.address;
        // Under a host name that is not served here, a relative link would lead nowhere.
        let origin = address.origin().filter(|_| head.status == StatusCode::MISDIRECTED_REQUEST).unwrap_or_default();
        let home = format!("{origin}{}/", address.static_prefix);
        let page = html::error(&ErrorPage {
            base: &address.static_prefix,
            heading,
            words,
            home: &home,
            sign_in: can_sign_in && !signed_in,
            account: signed_in,
            sign_out: can_sign_in && signed_in,
        });
        head.headers.remove(header::CONTENT_LENGTH);
        html::guard(&mut head.headers, "");
        Response::from_parts(head, crate::http::Body::from(Bytes::from(page)))
    }
}

#[cfg(test)]
pub(crate) mod tests;
