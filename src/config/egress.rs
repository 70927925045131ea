//! Route of calls to identity providers: direct, or through the proxy in `HTTPS_PROXY`.
//!
//! `HTTPS_PROXY` and `NO_PROXY`, in upper or lower case, are interpreted as Go programs interpret them. Only TLS goes
//! through a proxy.

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

/// Outgoing proxy settings. The default is a direct connection.
#[derive(Clone, Debug, Default)]
pub struct Egress(Option<Arc<Gate>>);

#[derive(Debug)]
struct Gate {
    /// `Err` contains the name of a variable whose value is not a supported proxy.
    proxy: Result<Proxy, &'static str>,
    straight: Vec<Exception>,
}

/// An outgoing HTTP proxy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Proxy {
    /// Name of the environment variable that contained it.
    pub variable: &'static str,
    /// Scheme, host and port, without credentials.
    pub uri: Uri,
    /// Value of `Proxy-Authorization`, marked as sensitive.
    pub credential: Option<HeaderValue>,
}

/// Route to one destination.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Way<'e> {
    Straight,
    Through(&'e Proxy),
    /// Unreachable: the variable of this name does not contain an HTTP proxy.
    Barred(&'static str),
}

impl Egress {
    /// Reads the proxy settings from these variables.
    #[must_use]
    pub fn of(environment: &Environment) -> Self {
        let given = |names: [&'static str; 2]| {
            let text = |name| Some((name, environment.get(name)?.to_string_lossy().trim().to_owned()));
            names.into_iter().filter_map(text).find(|(_, value)| !value.is_empty())
        };
        let Some((variable, proxy)) = given(["HTTPS_PROXY", "https_proxy"]) else { return Self::default() };
        let hosts = given(["NO_PROXY", "no_proxy"]).map_or_else(String::new, |(_, hosts)| hosts);
        let entries = hosts.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        let proxy = Proxy::parse(variable, &proxy).ok_or(variable);
        Self(Some(Arc::new(Gate { proxy, straight: entries.filter_map(Exception::parse).collect() })))
    }

    /// Returns the route to a URI. Hosts on this machine, hosts in `NO_PROXY` and URIs without TLS are reached
    /// directly.
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
    /// Parses `[http://][USER:PASSWORD@]HOST[:PORT][/]`.
    fn parse(variable: &'static str, text: &str) -> Option<Self> {
        let rest = text.strip_prefix("http://").unwrap_or(text);
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        // With one of these characters, part of a password could be parsed as the host, or the URL has another scheme.
        if authority.contains(|c: char| matches!(c, '/' | '\\' | '?' | '#') || c.is_whitespace() || c.is_control()) {
            return None;
        }
        let url = Url::parse(&format!("http://{authority}")).ok()?;
        let address = format!("{}:{}", url.host_str()?, url.port_or_known_default()?);
        let uri = Uri::builder().scheme(Scheme::HTTP).authority(address).path_and_query("/").build().ok()?;
        let (user, password) = (url.username(), url.password().unwrap_or_default());
        let credential = if user.is_empty() && password.is_empty() { None } else { Some(basic(user, password)?) };
        Some(Self { variable, uri, credential })
    }
}

/// Returns the HTTP Basic credentials (RFC 7617) of a URL's user and password, which are percent-encoded there.
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
    /// A domain with everything below it, and with the name itself if `itself` is set.
    Domain {
        name: String,
        itself: bool,
    },
}

impl Exception {
    /// Parses `*`, an address, a network, a name (which includes everything below it), or `.name` or `*.name` (only
    /// what is below it). Addresses and names can have a port. Anything else is ignored.
    fn parse(entry: &str) -> Option<Self> {
        if entry == "*" {
            return Some(Self { hosts: Hosts::All, port: None });
        }
        if let Some(network) = entry.parse().ok().or_else(|| alone(entry)) {
            return Some(Self { hosts: Hosts::Network(network), port: None });
        }
        let (text, port) = entry.rsplit_once(':').unwrap_or((entry, ""));
        if !port.bytes().all(|digit| digit.is_ascii_digit()) {
            return None;
        }
        let port = if port.is_empty() { None } else { Some(port.parse().ok()?) };
        if let Some(network) = alone(text) {
            return Some(Self { hosts: Hosts::Network(network), port });
        }
        let below = text.strip_prefix("*.").or_else(|| text.strip_prefix('.'));
        match host(below.unwrap_or(text))? {
            Host::Domain(name) => Some(Self { hosts: Hosts::Domain { name, itself: below.is_none() }, port }),
            // An incomplete address, such as `192.168.`, which the URL parser reads as a complete one.
            Host::Ipv4(_) | Host::Ipv6(_) => None,
        }
    }

    fn covers(&self, host: &Host<String>, port: u16) -> bool {
        let covers = match (&self.hosts, host) {
            (Hosts::All, _) => true,
            (Hosts::Network(network), Host::Ipv4(ip)) => network.contains(&IpAddr::V4(*ip)),
            (Hosts::Network(network), Host::Ipv6(ip)) => {
                network.contains(&ip.to_canonical()) || network.contains(&IpAddr::V6(*ip))
            }
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

/// Parses a single address, optionally in brackets, as a network.
fn alone(text: &str) -> Option<IpNet> {
    let inside = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    inside.parse().ok().map(|ip: IpAddr| ip.to_canonical().into())
}

/// Parses a host and normalizes it: lower case, IDNA, no trailing dot.
fn host(text: &str) -> Option<Host<String>> {
    let text = text.strip_suffix('.').unwrap_or(text);
    if text.contains('%') { None } else { Host::parse(text).ok() }
}
