//! How calls to identity providers leave this machine: straight, or through the proxy that `HTTPS_PROXY` names.
//!
//! `HTTPS_PROXY` and `NO_PROXY`, in capitals or not, mean what they mean to Go's programs. Only TLS goes through a proxy.

use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::uri::Scheme;
use http::{HeaderValue, Uri};
use ipnet::IpNet;
use percent_encoding::percent_decode_str;
use url::{Host, Url};

use super::checks::is_loopback_host;
use super::layers::Environment;

/// The way out. The default is straight.
#[derive(Clone, Debug, Default)]
pub struct Egress(Option<Arc<Gate>>);

#[derive(Debug)]
struct Gate {
    /// `Err`: what the variable names is none that we can speak to.
    proxy: Result<Proxy, &'static str>,
    straight: Vec<Exception>,
}

/// A proxy on the way out.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Proxy {
    /// The variable that named it.
    pub variable: &'static str,
    /// Scheme, host and port; holds no password.
    pub uri: Uri,
    /// What `Proxy-Authorization` says; does not print.
    pub credential: Option<HeaderValue>,
}

/// How one place is reached.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Way<'e> {
    Straight,
    Through(&'e Proxy),
    /// Not at all: this variable names something that is no HTTP proxy.
    Barred(&'static str),
}

impl Egress {
    /// The way that these variables name.
    #[must_use]
    pub fn of(environment: &Environment) -> Self {
        let given = |names: [&'static str; 2]| {
            let text = |name| Some((name, environment.get(name)?.to_string_lossy().trim().to_owned()));
            names.into_iter().filter_map(text).find(|(_, value)| !value.is_empty())
        };
        let Some((variable, proxy)) = given(["HTTPS_PROXY", "https_proxy"]) else { return Self::default() };
        let hosts = given(["NO_PROXY", "no_proxy"]).map_or_else(String::new, |(_, hosts)| hosts);
        let entries = hosts.split(|c: char| c == ',' || c.is_whitespace()).filter(|entry| !entry.is_empty());
        let proxy = Proxy::parse(variable, &proxy).ok_or(variable);
        Self(Some(Arc::new(Gate { proxy, straight: entries.filter_map(Exception::parse).collect() })))
    }

    /// The way to this place. What is on this machine, in `NO_PROXY` or not TLS is reached straight.
    #[must_use]
    pub fn way_to(&self, to: &Uri) -> Way<'_> {
        let Some(gate) = self.0.as_deref().filter(|_| to.scheme() == Some(&Scheme::HTTPS)) else {
            return Way::Straight;
        };
        let Some(host) = to.host().and_then(host) else { return Way::Straight };
        let port = to.port_u16().unwrap_or(443);
        if is_loopback_host(&host) || gate.straight.iter().any(|exception| exception.covers(&host, port)) {
            return Way::Straight;
        }
        gate.proxy.as_ref().map_or_else(|variable| Way::Barred(variable), Way::Through)
    }
}

impl Proxy {
    /// `[http://][USER:PASSWORD@]HOST[:PORT]`
    fn parse(variable: &'static str, text: &str) -> Option<Self> {
        let url = if text.contains("://") { text.parse::<Url>() } else { format!("http://{text}").parse() };
        // Of anything else, a part of a password may have become a host or a path.
        let url = url.ok().filter(|url| url.scheme() == "http" && url.path() == "/")?;
        if url.query().is_some() || url.fragment().is_some() {
            return None;
        }
        let authority = format!("{}:{}", url.host_str()?, url.port_or_known_default()?);
        let uri = Uri::builder().scheme(Scheme::HTTP).authority(authority).path_and_query("/").build().ok()?;
        let (user, password) = (url.username(), url.password().unwrap_or_default());
        let credential = if user.is_empty() && password.is_empty() { None } else { Some(basic(user, password)?) };
        Some(Self { variable, uri, credential })
    }
}

/// HTTP Basic (RFC 7617) of what a URL has.
fn basic(user: &str, password: &str) -> Option<HeaderValue> {
    let pair = [user, password].map(|part| percent_decode_str(part).collect::<Vec<u8>>());
    let mut value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(pair.join(&b':')))).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// An entry of `NO_PROXY`.
#[derive(Debug)]
struct Exception {
    hosts: Hosts,
    port: Option<u16>,
}

#[derive(Debug)]
enum Hosts {
    All,
    Network(IpNet),
    /// The name itself, if so, and all below it.
    Domain {
        name: String,
        itself: bool,
    },
}

impl Exception {
    /// `*`, an address, a network, a name and all below it, or (`.name`, `*.name`) only what is below; but for networks perhaps
    /// with a port. What is none of these covers nothing.
    fn parse(entry: &str) -> Option<Self> {
        if let Ok(network) = entry.parse() {
            return Some(Self { hosts: Hosts::Network(network), port: None });
        }
        if let Ok(ip) = entry.trim_matches(['[', ']']).parse::<IpAddr>() {
            return Some(Self { hosts: Hosts::Network(ip.into()), port: None });
        }
        let (name, port) = match entry.rsplit_once(':') {
            Some((name, port)) => (name, Some(port.parse().ok()?)),
            None => (entry, None),
        };
        if name == "*" {
            return Some(Self { hosts: Hosts::All, port });
        }
        let below = name.strip_prefix("*.").or_else(|| name.strip_prefix('.'));
        let hosts = match host(below.unwrap_or(name))? {
            Host::Domain(name) => Hosts::Domain { name, itself: below.is_none() },
            Host::Ipv4(ip) => Hosts::Network(IpAddr::from(ip).into()),
            Host::Ipv6(ip) => Hosts::Network(IpAddr::from(ip).into()),
        };
        Some(Self { hosts, port })
    }

    fn covers(&self, host: &Host<String>, port: u16) -> bool {
        let covers = match (&self.hosts, host) {
            (Hosts::All, _) => true,
            (Hosts::Network(network), Host::Ipv4(ip)) => network.contains(&IpAddr::from(*ip)),
            (Hosts::Network(network), Host::Ipv6(ip)) => network.contains(&ip.to_canonical()),
            (Hosts::Domain { name, itself }, Host::Domain(host)) => match host.strip_suffix(name.as_str()) {
                Some("") => *itself,
                Some(below) => below.ends_with('.'),
                None => false,
            },
            (Hosts::Network(_), Host::Domain(_)) | (Hosts::Domain { .. }, _) => false,
        };
        covers && self.port.is_none_or(|wanted| wanted == port)
    }
}

/// In one spelling: lower case, IDNA, without the root's dot.
fn host(text: &str) -> Option<Host<String>> {
    Host::parse(text.strip_suffix('.').unwrap_or(text)).ok()
}
