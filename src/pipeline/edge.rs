//! The strict edge: refuses requests that two parsers could interpret differently.

use http::{HeaderName, HeaderValue, Method, header};
use hyper::body::Incoming;
use url::Url;

use super::cors::{self, Foreign};
use super::{Checked, Error, Proxy, Record};
use crate::http::{CanonicalPath, Query, SEC_FETCH_SITE};
use crate::mlflow::PathForm;
use crate::server::{EdgeRefusal, Peer};

impl Proxy {
    /// Performs steps 1 to 3: refuses requests that two parsers could interpret differently.
    pub(super) fn check<'b>(
        &self,
        mut head: http::request::Parts,
        body: &'b mut Option<Incoming>,
        peer: Peer,
        edge: Option<EdgeRefusal>,
        foreign: Option<&Foreign>,
        record: &mut Record,
    ) -> Result<Checked<'b>, Error> {
        if let Some(refusal) = edge {
            return Err(Error::Edge(refusal));
        }
        let has_body = body.as_ref().is_some_and(|body| !http_body::Body::is_end_stream(body));
        crate::http::check(&mut head, has_body)?;
        if !self.answers_to(&head)? {
            return Err(Error::UnknownHost);
        }
        let address = crate::http::client_address(&head.headers, peer.address.ip(), &self.server.trusted_proxies);
        record.address(address);
        Self::one_workspace(&mut head)?;
        let target = head.uri.path_and_query().ok_or(crate::http::HeadError::Target)?;
        let below = target.path().strip_prefix(self.static_prefix.as_str()).unwrap_or(target.path());
        // Selected before decoding, because the form determines how the path is decoded.
        let path = match PathForm::of(below) {
            PathForm::Plain => CanonicalPath::parse(target)?,
            PathForm::Names => CanonicalPath::parse_names(target)?,
            PathForm::Artifact => CanonicalPath::parse_artifact(target)?,
        };
        let path = self.below_prefix(&head, path)?;
        let query = Query::parse(target.query().unwrap_or_default())?;
        match foreign {
            None => self.check_origin(&head)?,
            // The path has a spelling that only decodes to a closed path.
            Some(_) if cors::is_closed(path.decoded()) => return Err(Error::CrossOrigin),
            Some(_) => {}
        }
        Ok(Checked { head, body, path, query, address, provider_key: None, parent_trace: None, asking: None })
    }

    /// Refuses other workspaces. Grants apply to the default workspace only; an MLflow without workspaces has no others.
    fn one_workspace(head: &mut http::request::Parts) -> Result<(), Error> {
        let default = |value: &HeaderValue| matches!(value.as_bytes().trim_ascii(), b"" | b"default");
        if !head.headers.get_all(&WORKSPACE).iter().all(default) {
            return Err(Error::Workspace);
        }
        head.headers.remove(&WORKSPACE);
        Ok(())
    }

    /// Returns the path below MLflow's static prefix, where the proxy's own pages are located, too. These pages also remain
    /// available without the prefix, because identity providers are configured with those addresses.
    fn below_prefix(&self, head: &http::request::Parts, path: CanonicalPath) -> Result<CanonicalPath, Error> {
        if self.static_prefix.is_empty() {
            return Ok(path);
        }
        match path.decoded().strip_prefix(self.static_prefix.as_str()) {
            Some(rest) if rest.starts_with('/') => return Ok(CanonicalPath::from_decoded(rest.to_owned())?),
            Some("") => {}
            Some(_) | None if path.decoded().starts_with("/auth/") => return Ok(path),
            Some(_) | None if path.decoded() == "/" => {}
            Some(_) | None => return Err(Error::OutsidePrefix(self.static_prefix.clone())),
        }
        // As in MLflow, which responds only with the trailing slash.
        let query = head.uri.query().map_or_else(String::new, |query| format!("?{query}"));
        match HeaderValue::try_from(format!("{}/{query}", self.static_prefix)) {
            Ok(home) if matches!(head.method, Method::GET | Method::HEAD) => Err(Error::Moved(home)),
            Ok(_) | Err(_) => Err(Error::OutsidePrefix(self.static_prefix.clone())),
        }
    }

    /// Returns true if the proxy serves this host. Determined by the configuration only, never by the client; without a public
    /// URL there is nothing to compare with.
    fn answers_to(&self, head: &http::request::Parts) -> Result<bool, Error> {
        let Some(public) = self.server.public_url.as_ref().and_then(Url::host_str) else { return Ok(true) };
        let host = crate::http::host(head)?;
        let ours = std::iter::once(public).chain(self.server.allowed_hosts.iter().map(String::as_str));
        let loopback = ["localhost", "127.0.0.1", "[::1]"];
        Ok(ours.chain(loopback).any(|ours| ours.eq_ignore_ascii_case(&host)))
    }

    /// Refuses changes from pages of other origins. A browser that has stored a password sends it with requests from any page.
    fn check_origin(&self, head: &http::request::Parts) -> Result<(), Error> {
        if matches!(head.method, Method::GET | Method::HEAD | Method::OPTIONS) {
            return Ok(());
        }
        // The browser itself sets `Sec-Fetch-Site`, and no script can change it. Older browsers send `Origin` only.
        let site = head.headers.get(&SEC_FETCH_SITE).map(HeaderValue::as_bytes);
        if matches!(site, Some(b"cross-site" | b"same-site")) {
            return Err(Error::CrossOrigin);
        }
        let Some(origin) = head.headers.get(header::ORIGIN) else { return Ok(()) };
        let origin = origin.to_str().unwrap_or_default();
        let ours =
            self.server.public_url.as_ref().is_some_and(|public| public.origin().ascii_serialization() == origin);
        // Compares host and port. Browsers omit the scheme's default port from both headers.
        let host = head.uri.authority().map(http::uri::Authority::as_str);
        let host = host.or_else(|| head.headers.get(header::HOST)?.to_str().ok());
        let same = origin
            .split_once("://")
            .is_some_and(|(_, origin)| host.is_some_and(|host| host.eq_ignore_ascii_case(origin)));
        if ours || same { Ok(()) } else { Err(Error::CrossOrigin) }
    }

    /// Refuses changes from pages of other sites, because a browser sends its session cookie with every request that a page
    /// causes.
    ///
    /// Stricter than [`Proxy::check_origin`], which does not compare schemes and accepts origins that it cannot determine.
    pub(super) fn check_site(&self, head: &http::request::Parts, foreign: Option<&Foreign>) -> Result<(), Error> {
        let credentials = foreign.is_some_and(|foreign| foreign.credentials);
        if credentials || matches!(head.method, Method::GET | Method::HEAD | Method::OPTIONS) {
            return Ok(());
        }
        let site = head.headers.get(&SEC_FETCH_SITE).map(HeaderValue::as_bytes);
        if !matches!(site, None | Some(b"same-origin" | b"none")) {
            return Err(Error::CrossOrigin);
        }
        let (Some(origin), Some(public)) = (head.headers.get(header::ORIGIN), &self.server.public_url) else {
            return Ok(());
        };
        // Under the public name there is only one origin. Under another name, such as this machine's, the host was compared
        // already.
        let host = crate::http::host(head)?;
        let is_public = public.host_str().is_some_and(|public| public.eq_ignore_ascii_case(&host));
        let ours = origin.as_bytes() == public.origin().ascii_serialization().as_bytes();
        if ours || !is_public { Ok(()) } else { Err(Error::CrossOrigin) }
    }
}

const WORKSPACE: HeaderName = HeaderName::from_static("x-mlflow-workspace");
