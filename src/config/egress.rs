//! How calls to identity providers leave this machine: straight, or through the proxy that `HTTPS_PROXY` names.
//!
//! The variables are those of curl and Go. Only TLS goes through a proxy, so it learns names of hosts and nothing else.

use std::sync::Arc;

use http::Uri;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use url::{Host, Url};

use super::checks::is_loopback_host;
use super::layers::Environment;

/// The way out. The default is straight.
#[derive(Clone, Debug, Default)]
pub struct Egress {
    matcher: Option<Arc<Matcher>>,
    /// The variable that names something we cannot speak to.
    unusable: Option<&'static str>,
}

impl Egress {
    /// The way that these variables name.
    #[must_use]
    pub fn of(environment: &Environment) -> Self {
        let given = |names: &[&'static str]| {
            let text = |name: &'static str| Some((name, environment.get(name)?.to_string_lossy().into_owned()));
            names.iter().filter_map(|name| text(name)).find(|(_, value)| !value.is_empty())
        };
        let Some((name, proxy)) = given(&["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]) else {
            return Self::default();
        };
        let direct = given(&["NO_PROXY", "no_proxy"]).map_or_else(String::new, |(_, hosts)| hosts);
        let (proxy, unusable) = if speaks_http(&proxy) { (proxy, None) } else { (UNUSABLE.to_owned(), Some(name)) };
        Self { matcher: Some(Arc::new(Matcher::builder().https(proxy).no(direct).build())), unusable }
    }

    /// The proxy for calls to this place; none for what is on this machine, listed in `NO_PROXY`, or not TLS.
    #[must_use]
    pub fn proxy_for(&self, to: &Uri) -> Option<Intercept> {
        let matcher = self.matcher.as_ref()?;
        let is_here = Host::parse(to.host()?).is_ok_and(|host| is_loopback_host(&host));
        if is_here { None } else { matcher.intercept(to) }
    }

    /// The variable that stands in the way of calls to this place.
    pub(super) fn obstacle(&self, to: &Url) -> Option<&'static str> {
        let to: Uri = to.as_str().parse().ok()?;
        self.unusable.filter(|_| self.proxy_for(&to).is_some())
    }
}

/// Whether it is asked in plain HTTP, which is also what no scheme means.
fn speaks_http(proxy: &str) -> bool {
    let scheme = |uri: &Uri| uri.scheme_str().is_none_or(|scheme| scheme == "http");
    proxy.parse::<Uri>().is_ok_and(|uri| scheme(&uri) && uri.authority().is_some())
}

/// Stands for a proxy that cannot be used, so that `NO_PROXY` says whether that matters. Nothing is ever sent there.
const UNUSABLE: &str = "http://unusable.invalid";
