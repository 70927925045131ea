//! The extractor of public pages: a request that may come without an identity.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::to_bytes;
use axum::extract::{FromRequest, Request};
use axum::response::Response;
use bytes::Bytes;
use http::{StatusCode, header};

use super::response::{page, refusal};
use super::{SignIn, Site, html};
use crate::api::{Caller, Context, MAX_BODY_BYTES, Refusal};
use crate::authz::Identity;
use crate::http::{ErrorCode, Query, QueryError, ReturnPath, navigates};
use crate::store::{self, Actor};

/// A request for one of the pages that sign users in and out.
pub(super) struct SignInRequest {
    pub(super) context: Arc<Context>,
    pub(super) sign_in: Arc<SignIn>,
    /// The user of the browser's session, if it has one.
    pub(super) identity: Option<Arc<Identity>>,
    pub(super) address: IpAddr,
    pub(super) head: http::request::Parts,
    body: Bytes,
}

impl FromRequest<Site> for SignInRequest {
    type Rejection = Refusal;

    async fn from_request(request: Request, site: &Site) -> Result<Self, Refusal> {
        let (mut head, body) = request.into_parts();
        let Caller { identity, address } = head.extensions.remove().ok_or_else(Refusal::internal)?;
        let body = to_bytes(body, MAX_BODY_BYTES).await.map_err(|_| Refusal::too_large())?;
        let Site { context, sign_in } = site.clone();
        Ok(Self { context, sign_in, identity, address, head, body })
    }
}

impl SignInRequest {
    /// Returns the static prefix, which precedes the paths of all pages.
    pub(super) fn base(&self) -> &str {
        &self.context.address.static_prefix
    }

    pub(super) fn query(&self) -> Result<Query, QueryError> {
        Query::parse(self.head.uri.query().unwrap_or_default())
    }

    /// Returns the fields of a form, and `None` if the body is not a valid form.
    pub(super) fn form(&self) -> Option<Query> {
        let value = self.head.headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
        let essence = value.split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            return None;
        }
        Query::parse(str::from_utf8(&self.body).ok()?).ok()
    }

    /// Returns the path to return to after the sign-in.
    pub(super) fn return_path(&self, text: Option<&str>) -> ReturnPath {
        ReturnPath::parse_or(&self.sign_in.home, text.unwrap_or_default())
    }

    /// Returns the actor for the audit log.
    pub(super) fn actor(&self, name: &str) -> Actor {
        Actor { name: name.to_owned(), token: None, address: Some(self.address) }
    }

    /// Refuses requests that are not a browser's navigation. Programs use access tokens.
    pub(super) fn refuse_programs(&self) -> Option<Response> {
        if navigates(&self.head.headers) {
            return None;
        }
        let words = "Please sign in. This page is for browsers; programs use an access token.";
        Some(refusal(StatusCode::UNAUTHORIZED, ErrorCode::Unauthenticated, words))
    }

    /// Returns a page.
    pub(super) fn show(&self, status: StatusCode, html: String) -> Response {
        page(status, html, &self.form_actions())
    }

    /// Returns the origins at which a form of the page may end. Browsers apply `form-action` to redirects, and a sign-out ends at the
    /// provider.
    fn form_actions(&self) -> String {
        let origins = self.sign_in.providers.iter().filter_map(|provider| provider.sign_out_origin());
        origins.map(|origin| format!(" {origin}")).collect()
    }

    /// Returns an error page.
    pub(super) fn problem(&self, status: StatusCode, heading: &str, words: &str) -> Response {
        let signed_in = self.identity.is_some();
        let page = html::ErrorPage {
            base: self.base(),
            heading,
            words,
            home: &self.sign_in.home,
            sign_in: !signed_in && self.sign_in.is_possible(),
            account: signed_in,
            sign_out: signed_in,
        };
        self.show(status, html::error(&page))
    }

    /// Returns the page for a store that does not answer, and logs the error.
    pub(super) fn store_unavailable(&self, error: &store::Error) -> Response {
        tracing::error!(%error, "the store did not answer a sign-in or sign-out");
        let words = "The proxy's store does not answer. Try again in a moment.";
        self.problem(StatusCode::SERVICE_UNAVAILABLE, "Try again", words)
    }
}
