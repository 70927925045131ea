//! Addresses that MLflow connects to on behalf of a caller, and the hosts that are allowed.
//!
//! Pure: no name is resolved. Addresses are parsed strictly, so that every HTTP library derives the same host from them: an
//! address consists of the scheme, the host, an optional port and a path of plain characters.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use url::{Host, Url};

/// Allowed hosts of model providers: `authz.provider_hosts`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ProviderHosts {
    entries: Vec<Entry>,
}

/// One entry of `authz.provider_hosts`: `public`, `HOST`, `HOST:PORT`, `*.DOMAIN`, `http://HOST:PORT` or
/// `https://HOST:PORT`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ProviderHost(Entry);

#[derive(Clone, Debug, Eq, PartialEq)]
enum Entry {
    /// The public endpoints of the providers that MLflow supports: [`PUBLIC`].
    Public,
    /// Exactly this scheme, host and port.
    Origin(Origin),
    /// Every host below this domain, over https on port 443.
    Below(String),
}

impl FromIterator<ProviderHost> for ProviderHosts {
    fn from_iter<I: IntoIterator<Item = ProviderHost>>(entries: I) -> Self {
        Self { entries: entries.into_iter().map(|ProviderHost(entry)| entry).collect() }
    }
}

/// Scheme, host and port of an address.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Origin {
    https: bool,
    host: Host,
    port: u16,
}

/// The reason why MLflow must not connect to an address.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum AddressError {
    #[error(
        "'{0}' is not an address that can be allowed. It must be https://HOST or http://HOST, with an optional port and \
         path, and without user information, query, percent-encoding or blanks."
    )]
    Malformed(String),
    #[error(
        "MLflow is not allowed to connect to {0}. The operator of this proxy can allow it: add it to \
         authz.provider_hosts."
    )]
    NotAllowed(String),
}

/// Hosts of the providers that `mlflow.gateway` (3.9 to 3.18) reaches at a fixed public address, and of the token service of
/// Google's service accounts. Hosts that are specific to one customer, such as those of Azure OpenAI and Databricks, are
/// excluded.
const PUBLIC: [&str; 30] = [
    "api.openai.com",
    "api.anthropic.com",
    "api.mistral.ai",
    "generativelanguage.googleapis.com",
    "api.groq.com",
    "api.deepseek.com",
    "api.x.ai",
    "openrouter.ai",
    "api.portkey.ai",
    "api.typesafe.ai",
    "api.cohere.com",
    "api.cohere.ai",
    "api.together.xyz",
    "api.ai21.com",
    "api.together.ai",
    "api.fireworks.ai",
    "api.cerebras.ai",
    "api.deepinfra.com",
    "api.perplexity.ai",
    "api.sambanova.ai",
    "api.voyageai.com",
    "codestral.mistral.ai",
    "integrate.api.nvidia.com",
    "models.hosted-on.mosaicml.hosting",
    "router.huggingface.co",
    "aiplatform.googleapis.com",
    "aiplatform.eu.rep.googleapis.com",
    "aiplatform.us.rep.googleapis.com",
    "oauth2.googleapis.com",
    "accounts.google.com",
];

/// Returns true if a host belongs to a provider's public endpoints.
fn is_of_a_provider(domain: &str) -> bool {
    let is_region = |part: Option<&str>| {
        part.is_some_and(|part| {
            !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        })
    };
    let bedrock = domain.strip_prefix("bedrock-runtime.").and_then(|rest| rest.strip_suffix(".amazonaws.com"));
    PUBLIC.contains(&domain) || is_region(bedrock) || is_region(domain.strip_suffix("-aiplatform.googleapis.com"))
}

impl ProviderHosts {
    /// Returns the default: the public endpoints of the providers that MLflow supports.
    #[must_use]
    pub fn public() -> Self {
        Self { entries: vec![Entry::Public] }
    }

    /// Checks that MLflow is allowed to connect to this URL for a model provider.
    ///
    /// # Errors
    ///
    /// The URL is malformed, or no entry allows its scheme, host and port.
    pub fn check(&self, url: &str) -> Result<(), AddressError> {
        let origin = Origin::of_url(url)?;
        if self.lists(&origin) { Ok(()) } else { Err(AddressError::NotAllowed(origin.to_string())) }
    }

    /// Checks that MLflow is allowed to connect to this URL, which an administrator chose: a listed host, or any public host
    /// over https.
    ///
    /// # Errors
    ///
    /// The URL is malformed, or neither listed nor public.
    pub fn check_public(&self, url: &str) -> Result<(), AddressError> {
        let origin = Origin::of_url(url)?;
        let allowed = self.lists(&origin) || origin.is_public();
        if allowed { Ok(()) } else { Err(AddressError::NotAllowed(origin.to_string())) }
    }

    fn lists(&self, origin: &Origin) -> bool {
        let domain = match &origin.host {
            Host::Domain(domain) if origin.https && origin.port == HTTPS => Some(domain.as_str()),
            Host::Domain(_) | Host::Ipv4(_) | Host::Ipv6(_) => None,
        };
        self.entries.iter().any(|entry| match entry {
            Entry::Origin(listed) => listed == origin,
            Entry::Public => domain.is_some_and(is_of_a_provider),
            Entry::Below(parent) => domain
                .and_then(|domain| domain.strip_suffix(parent.as_str()))
                .is_some_and(|below| below.len() > 1 && below.ends_with('.')),
        })
    }
}

impl FromStr for ProviderHost {
    type Err = String;

    fn from_str(entry: &str) -> Result<Self, String> {
        let wrong =
            || format!("`{entry}` is none of public, HOST, HOST:PORT, *.DOMAIN, https://HOST:PORT or http://HOST:PORT");
        if entry == "public" {
            return Ok(Self(Entry::Public));
        }
        if let Some(domain) = entry.strip_prefix("*.") {
            let parent = Origin::of_url(&format!("https://{domain}")).map_err(|_| wrong())?;
            return match parent.host {
                Host::Domain(parent) if parent.contains('.') && domain.eq_ignore_ascii_case(&parent) => {
                    Ok(Self(Entry::Below(parent)))
                }
                Host::Domain(_) | Host::Ipv4(_) | Host::Ipv6(_) => Err(wrong()),
            };
        }
        let url = if entry.contains("://") { entry.to_owned() } else { format!("https://{entry}") };
        let (_, rest) = url.split_once("://").unwrap_or_default();
        if rest.contains('/') {
            return Err(wrong());
        }
        Origin::of_url(&url).map(|origin| Self(Entry::Origin(origin))).map_err(|_| wrong())
    }
}

impl Origin {
    /// Parses a URL that contains only plain characters and an authority in canonical form, which every library parses alike.
    fn of_url(text: &str) -> Result<Self, AddressError> {
        // User information and queries can contain secrets, so the error does not repeat them.
        let shown = if text.contains(['@', '?', '#']) { "***" } else { text };
        let malformed = || AddressError::Malformed(shown.chars().filter(|c| !c.is_control()).take(128).collect());
        let (scheme, rest) = text.split_once("://").ok_or_else(malformed)?;
        let https = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return Err(malformed()),
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/:".contains(&byte);
        if !path.bytes().all(plain) || path.split('/').any(|segment| matches!(segment, "." | "..")) {
            return Err(malformed());
        }
        let url = Url::parse(&format!("{scheme}://{authority}/")).map_err(|_| malformed())?;
        let host = url.host().ok_or_else(malformed)?.to_owned();
        let port = url.port_or_known_default().ok_or_else(malformed)?;
        let origin = Self { https, host, port };
        // Some libraries parse `127.1`, `0x7f.1` and `[::1%25]` as addresses, others as names.
        let canonical = origin.authorities().iter().any(|known| known.eq_ignore_ascii_case(authority));
        let label = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let plain = match &origin.host {
            Host::Domain(domain) => domain.bytes().all(label) && !domain.ends_with('.'),
            Host::Ipv4(_) | Host::Ipv6(_) => true,
        };
        if canonical && plain { Ok(origin) } else { Err(malformed()) }
    }

    /// Returns the authority with the port, and also without it if it is the scheme's default port.
    fn authorities(&self) -> Vec<String> {
        let with_port = format!("{}:{}", self.host, self.port);
        let own = if self.https { HTTPS } else { HTTP };
        if self.port == own { vec![with_port, self.host.to_string()] } else { vec![with_port] }
    }

    /// Returns true for a host on the public internet, judged by its name or address only, over https on port 443.
    fn is_public(&self) -> bool {
        self.https
            && self.port == HTTPS
            && match &self.host {
                Host::Domain(domain) => {
                    let last = domain.rsplit('.').next().unwrap_or_default();
                    domain.contains('.') && !LOCAL_DOMAINS.contains(&last) && !domain.ends_with(".home.arpa")
                }
                Host::Ipv4(address) => is_public_v4(*address),
                Host::Ipv6(address) => is_public_v6(*address),
            }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authorities().last().map_or("", String::as_str))
    }
}

const HTTPS: u16 = 443;
const HTTP: u16 = 80;

/// Top-level domains that are resolved within a company, a cluster or a machine (RFC 6761, RFC 8375, ICANN's `.internal`).
const LOCAL_DOMAINS: [&str; 12] = [
    "localhost",
    "local",
    "internal",
    "localdomain",
    "lan",
    "home",
    "corp",
    "intranet",
    "private",
    "test",
    "svc",
    "cluster",
];

/// Returns true if the address is not in the special-purpose registry (RFC 6890 and its updates).
fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast()
        || address.is_documentation()
        || matches!((a, b, c), (0, _, _) | (100, 64..=127, _) | (192, 0, 0) | (198, 18..=19, _) | (240..=255, _, _));
    !special
}

/// Returns true for global unicast addresses that do not embed an IPv4 address (RFC 4291, RFC 6052, RFC 3056, RFC 4380).
fn is_public_v6(address: Ipv6Addr) -> bool {
    let [first, second, ..] = address.segments();
    let global = (0x2000..=0x3fff).contains(&first);
    global && !matches!((first, second), (0x2001, 0 | 0x0db8) | (0x2002, _) | (0x3fff, _))
}

/// Returns true if a text could be parsed as an address. Used for values whose meaning depends on the provider.
pub(super) fn looks_like_address(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    text.contains("//") || lower.starts_with("http:") || lower.starts_with("https:") || text.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::{AddressError, ProviderHost, ProviderHosts};

    fn hosts(entries: &[&str]) -> ProviderHosts {
        entries.iter().map(|entry| entry.parse::<ProviderHost>().expect(entry)).collect()
    }

    #[test]
    fn the_public_providers_are_allowed_by_https_on_their_port() {
        let hosts = ProviderHosts::public();
        for url in ["https://api.openai.com/v1", "https://API.openai.com:443", "HTTPS://api.anthropic.com/"] {
            assert_eq!(hosts.check(url), Ok(()), "{url}");
        }
        for url in [
            "http://api.openai.com/v1",
            "https://api.openai.com:8443",
            "https://mine.openai.azure.com",
            "https://api.openai.com.evil.example",
            "https://x.api.openai.com",
            "https://127.0.0.1/v1",
            "https://10.1.2.3",
            "http://localhost:5000",
            "https://[::1]/",
            "https://[::ffff:7f00:1]",
            "https://8.8.8.8",
        ] {
            assert!(matches!(hosts.check(url), Err(AddressError::NotAllowed(_))), "{url}");
        }
    }

    #[test]
    fn what_two_libraries_could_read_differently_is_no_address() {
        let hosts = hosts(&["public", "http://127.0.0.1:80"]);
        for url in [
            "",
            "api.openai.com",
            "//api.openai.com",
            "ftp://api.openai.com",
            "file:///etc/passwd",
            "https:/api.openai.com",
            "https://",
            "https:///x",
            "https://user@api.openai.com",
            "https://api.openai.com@evil.example",
            "https://api.openai.com\\@evil.example",
            "https://api.openai.com#@evil.example",
            "https://api.openai.com?@evil.example",
            "https://api.openai.com/%2e%2e",
            "https://api.openai.com/v1?x=1",
            "https://api.openai.com/../v1",
            "https://api.openai.com/a b",
            " https://api.openai.com",
            "https://api.openai.com ",
            "https://api.openai.com\n",
            "https://api.open\tai.com",
            "https://api.openai.com.",
            "https://api.openai.com:",
            "https://api.openai.com:0443",
            "https://%61pi.openai.com",
            "https://ａpi.openai.com",
            "http://127.1",
            "http://0x7f.0.0.1",
            "http://2130706433",
            "http://0177.0.0.1",
            "https://[::ffff:127.0.0.1]",
            "https://[0:0:0:0:0:0:0:1]",
            "https://[fe80::1%25eth0]",
            "https://*.openai.com",
        ] {
            assert!(matches!(hosts.check(url), Err(AddressError::Malformed(_))), "{url:?}: {:?}", hosts.check(url));
        }
    }

    #[test]
    fn the_operator_names_further_hosts_schemes_and_ports() {
        let hosts = hosts(&["http://ollama:11434", "10.0.0.5:8443", "*.openai.azure.com", "https://[fd00::1]"]);
        for url in [
            "http://ollama:11434/v1",
            "https://10.0.0.5:8443",
            "https://mine.openai.azure.com/openai",
            "https://a.b.openai.azure.com",
            "https://[fd00::1]:443",
        ] {
            assert_eq!(hosts.check(url), Ok(()), "{url}");
        }
        for url in [
            "https://ollama:11434",
            "http://ollama",
            "https://10.0.0.5",
            "https://openai.azure.com",
            "https://evilopenai.azure.com",
            "http://mine.openai.azure.com",
            "https://api.openai.com",
        ] {
            assert!(hosts.check(url).is_err(), "{url}");
        }
        for entry in ["", "*", "*.com", "*.1.2.3.4", "ftp://x", "https://x/y", "x y", "a@b", "http://"] {
            assert!(entry.parse::<ProviderHost>().is_err(), "{entry}");
        }
    }

    #[test]
    fn an_administrators_addresses_are_public() {
        let hosts = hosts(&["http://hooks.internal:8080"]);
        for url in [
            "https://hooks.example.com/a",
            "https://8.8.8.8/",
            "https://[2606:4700::1111]",
            "http://hooks.internal:8080/x",
        ] {
            assert_eq!(hosts.check_public(url), Ok(()), "{url}");
        }
        for url in [
            "http://hooks.example.com",
            "https://hooks.example.com:5000",
            "https://localhost",
            "https://mlflow",
            "https://mlflow.default.svc",
            "https://hooks.internal",
            "https://127.0.0.1",
            "https://169.254.169.254",
            "https://100.64.0.1",
            "https://192.168.0.1",
            "https://224.0.0.1",
            "https://0.0.0.0",
            "https://[::]",
            "https://[::ffff:808:808]",
            "https://[fe80::1]",
            "https://[fd00::1]",
            "https://[64:ff9b::7f00:1]",
            "https://[2002:7f00:1::]",
            "https://[2001::1]",
        ] {
            assert!(hosts.check_public(url).is_err(), "{url}");
        }
    }
}
