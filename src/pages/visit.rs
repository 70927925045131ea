//! Pages that nobody has to be signed in for: signing in and out, and what they need.
//!
//! A request is read here, answered by [`super::login`], [`super::callback`], [`super::logout`] or [`super::backchannel`], and
//! what happened stands beside the answer for metrics and audit.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use url::Url;

use super::{Parts, backchannel, callback, html, login, logout};
use crate::authn::SESSION_COOKIE;
use crate::authz::Identity;
use crate::clock::Timestamp;
use crate::config;
use crate::crypto::{SessionSecret, short_hash};
use crate::http::{ErrorCode, Keep, Query, QueryError, Reply, ReturnPath, navigates, only_cookie, set_cookie};
use crate::oidc::Providers;
use crate::store::{self, Actor, NewSession, User};

/// How people sign in here.
#[derive(Debug)]
pub struct SignIn {
    pub providers: Arc<Providers>,
    pub session: config::Session,
    /// Whether the sign-in page takes user name and password.
    pub password_form: bool,
    /// Where somebody goes who wanted nothing in particular.
    pub home: String,
}

impl SignIn {
    /// Whether there is any way at all.
    #[must_use]
    pub fn is_possible(&self) -> bool {
        self.password_form || self.providers.iter().next().is_some()
    }
}

/// What a visit came to. Found among the extensions of the answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Visited {
    /// Somebody signed in, or did not. `provider`: a configured name, or `password`. `name`: who it was, as far as anybody
    /// vouched for it or paid a guess for saying so; what costs nothing must not fill the audit log.
    SignIn { provider: String, outcome: &'static str, name: Option<String> },
    /// `user`, `provider`, or why a provider's logout was refused.
    SignOut(&'static str),
}

/// One request of somebody who may not be signed in.
pub(super) struct Visit<'v> {
    pub(super) parts: &'v Parts,
    pub(super) sign_in: &'v SignIn,
    pub(super) identity: Option<Arc<Identity>>,
    pub(super) address: IpAddr,
    pub(super) head: http::request::Parts,
    pub(super) body: Bytes,
}

/// An answer under way.
pub(super) type Page = Response<Bytes>;

impl Visit<'_> {
    pub(super) async fn answer(self) -> Page {
        let path = self.head.uri.path().to_owned();
        let get = self.head.method == Method::GET;
        let (read, post) = (get || self.head.method == Method::HEAD, self.head.method == Method::POST);
        match path.as_str() {
            "/auth/login" if read => login::page(&self).await,
            "/auth/login" if post && self.sign_in.password_form => login::with_password(&self).await,
            "/auth/login" if self.sign_in.password_form => self.other_method("GET, HEAD, POST"),
            "/auth/login" => self.other_method("GET, HEAD"),
            "/auth/logout" if read => logout::confirm(&self),
            "/auth/logout" if post => logout::now(&self).await,
            "/auth/logout" => self.other_method("GET, HEAD, POST"),
            "/auth/signed-out" if read => self.show(StatusCode::OK, html::signed_out(self.base())),
            "/auth/signed-out" => self.other_method("GET, HEAD"),
            "/auth/backchannel-logout" if post => backchannel::answer(&self).await,
            "/auth/backchannel-logout" => self.other_method("POST"),
            other => match (other.strip_prefix("/auth/callback/"), other.strip_prefix("/auth/static/")) {
                (Some(provider), _) if get => callback::answer(&self, provider).await,
                // HEAD would use up the attempt without a sign-in.
                (Some(_), _) => self.other_method("GET"),
                (_, Some(name)) if read => asset(name, &self.head.headers),
                (_, Some(_)) => self.other_method("GET, HEAD"),
                (None, None) => self.problem(StatusCode::NOT_FOUND, "Not here", "There is nothing at this address."),
            },
        }
    }

    /// A page.
    pub(super) fn show(&self, status: StatusCode, html: String) -> Page {
        let mut response = Response::new(Bytes::from(html));
        *response.status_mut() = status;
        html::guard(response.headers_mut(), &self.form_actions());
        response
    }

    /// Browsers hold redirects of a form's answer to `form-action`, too, and signing out ends at the provider.
    fn form_actions(&self) -> String {
        let ends = self.sign_in.providers.iter().filter_map(|provider| provider.sign_out_origin());
        ends.map(|origin| format!(" {origin}")).collect()
    }

    /// What stands before the paths of all pages.
    pub(super) fn base(&self) -> &str {
        &self.parts.reached.static_prefix
    }

    pub(super) fn problem(&self, status: StatusCode, heading: &str, words: &str) -> Page {
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

    pub(super) fn store_is_away(&self, error: &store::Error) -> Page {
        tracing::error!(%error, "the store did not answer somebody who signs in or out");
        let words = "The proxy's store does not answer. Try again in a moment.";
        self.problem(StatusCode::SERVICE_UNAVAILABLE, "Try again", words)
    }

    fn other_method(&self, allow: &'static str) -> Page {
        let words = "This page does not answer such a request.";
        let mut page = self.problem(StatusCode::METHOD_NOT_ALLOWED, "Not here", words);
        page.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
        page
    }

    /// Signing in is for people at a browser: what a script or a program asks for is refused.
    pub(super) fn refuse_programs(&self) -> Option<Page> {
        if navigates(&self.head.headers) {
            return None;
        }
        let words = "Please sign in. This page is for people at a browser; programs use an access token.";
        Some(refusal(StatusCode::UNAUTHORIZED, ErrorCode::Unauthenticated, words))
    }

    pub(super) fn query(&self) -> Result<Query, QueryError> {
        Query::parse(self.head.uri.query().unwrap_or_default())
    }

    /// What a form says; `None` when it is none.
    pub(super) fn form(&self) -> Option<Query> {
        let value = self.head.headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
        let essence = value.split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            return None;
        }
        Query::parse(str::from_utf8(&self.body).ok()?).ok()
    }

    pub(super) fn return_path(&self, text: Option<&str>) -> ReturnPath {
        ReturnPath::parse_or(&self.sign_in.home, text.unwrap_or_default())
    }

    pub(super) fn actor(&self, name: &str) -> Actor {
        Actor { name: name.to_owned(), token: None, address: Some(self.address) }
    }

    /// Ends the session that this browser had; its cookie is about to go.
    pub(super) async fn end_session(&self, why: &str) -> store::Result<Option<store::Session>> {
        let Some(cookie) = only_cookie(&self.head.headers, SESSION_COOKIE) else { return Ok(None) };
        let session = self.parts.authn.session(cookie).await.map_err(|error| match error {
            crate::authn::Error::Store(error) => error,
            other => store::Error::Corrupt(other.to_string()),
        })?;
        let Some(session) = session else { return Ok(None) };
        let owner = self.parts.store.user(session.user).await?;
        let name = owner.map_or_else(|| "-".to_owned(), |user| user.name);
        let ended = self.parts.store.end_session(&self.actor(&name), session.id, why).await;
        self.parts.authn.forget_all();
        match ended {
            Ok(()) => Ok(Some(session)),
            Err(store::Error::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A session for somebody who was just recognised, under a secret that nobody had before; then on to where they wanted.
    pub(super) async fn signed_in(&self, user: &User, session: Proved, to: &ReturnPath) -> store::Result<Page> {
        self.end_session("signed in anew").await?;
        let secret = SessionSecret::generate();
        let Proved { provider, issuer, subject, sid, tokens, refresh_at } = session;
        let limits = &self.sign_in.session;
        // A provider that is never asked again cannot say that something has changed.
        let is_unconfirmed = provider.is_some() && refresh_at.is_none();
        let lifetime = if is_unconfirmed { limits.lifetime.min(limits.unconfirmed) } else { limits.lifetime };
        let new = NewSession {
            hash: secret.hash(),
            user: user.id,
            provider,
            issuer,
            subject,
            sid,
            tokens,
            expires: self.parts.clock.now().plus(lifetime),
            refresh_at,
            address: self.address.to_string(),
            agent: agent(&self.head.headers),
        };
        self.parts.store.create_session(&self.actor(&user.name), &new, limits.max_per_user).await?;
        let mut response = see_other(to.as_str());
        add_cookie(&mut response, SESSION_COOKIE, secret.reveal(), Keep::WhileOpen);
        Ok(response)
    }
}

/// What a session is made of beside its owner. All empty for a password.
#[derive(Debug, Default)]
pub(super) struct Proved {
    pub(super) provider: Option<String>,
    pub(super) issuer: Option<String>,
    pub(super) subject: Option<String>,
    pub(super) sid: Option<String>,
    /// Sealed.
    pub(super) tokens: String,
    pub(super) refresh_at: Option<Timestamp>,
}

/// 303.
pub(super) fn see_other(location: &str) -> Page {
    redirect(StatusCode::SEE_OTHER, location)
}

/// 302: browsers carry what stands behind `#` along.
pub(super) fn found(location: &Url) -> Page {
    redirect(StatusCode::FOUND, location.as_str())
}

fn redirect(status: StatusCode, location: &str) -> Page {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // What follows must not learn the address of a callback.
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    // Printable ASCII: a URL as `url` writes it, or a return path.
    if let Ok(location) = HeaderValue::try_from(location) {
        headers.insert(header::LOCATION, location);
    }
    response
}

pub(super) fn add_cookie(response: &mut Page, name: &str, value: &str, keep: Keep) {
    if let Some(line) = set_cookie(name, value, keep) {
        response.headers_mut().append(header::SET_COOKIE, line);
    }
}

/// In MLflow's JSON, for programs.
pub(super) fn refusal(status: StatusCode, code: ErrorCode, words: &str) -> Page {
    Reply::new(status, code, words).with(header::CACHE_CONTROL, HeaderValue::from_static("no-store")).into_whole()
}

pub(super) fn with(mut page: Page, visited: Visited) -> Page {
    page.extensions_mut().insert(visited);
    page
}

/// Browsers ask each time whether it is still the same, which costs them next to nothing.
fn asset(name: &str, headers: &HeaderMap) -> Page {
    let Some((kind, text)) = html::asset(name) else {
        return refusal(StatusCode::NOT_FOUND, ErrorCode::EndpointNotFound, "There is no such file.");
    };
    let tag = format!("\"{}\"", short_hash(text));
    let known = headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes());
    let mut response = Response::new(if known { Bytes::new() } else { Bytes::from_static(text.as_bytes()) });
    if known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let headers = response.headers_mut();
    if let Ok(tag) = HeaderValue::try_from(tag) {
        headers.insert(header::ETAG, tag);
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// What the browser calls itself, for the list of sessions.
fn agent(headers: &HeaderMap) -> String {
    let text = headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    text.chars().filter(|letter| !letter.is_control()).take(200).collect()
}
