//! Configuration: reads text from four layers and parses it into valid values.
//!
//! Layers, weakest first: defaults, TOML file, environment (`MLFLOW_AUTH_PROXY_`, nesting `__`), flags. A [`Config`] is
//! always complete and valid.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::HeaderValue;
use ipnet::IpNet;
use secrecy::SecretString;

use crate::authz::Permission;
use crate::mlflow::{Feature, ProviderHosts};

mod checks;
mod egress;
mod file;
mod identity;
mod layers;
mod load;
mod parse;
mod pem;
mod raw;
mod report;
mod schema;
mod store;

pub use checks::{check_password, check_username, is_loopback, secret_file};
pub use egress::{Egress, Proxy, Way};
pub use file::{read_any, read_regular, read_regular_aside};
pub use identity::{
    Claims, ClientAuth, Endpoint, GroupForm, GroupSource, Issuer, Machine, Preset, Provider, SealingKey, Session, Sync,
};
pub use layers::Environment;
pub use load::{Flags, Setting, defaults, load, load_from};
pub use pem::{certificates, private_key};
pub use report::{Origin, Problem, Problems};
pub use store::{PostgresUrl, SslMode, Store, StoreUrl};

/// The complete configuration. Always the result of parsing; see [`load()`] and, for tests, [`defaults()`].
#[derive(Clone, Debug)]
pub struct Config {
    pub server: Server,
    pub admin: Admin,
    pub upstream: Upstream,
    pub store: Store,
    pub audit: Audit,
    pub bootstrap: Bootstrap,
    pub authn: Authn,
    pub authz: Authz,
    pub session: Session,
    /// Identity providers for signing in, by name.
    pub providers: Vec<Provider>,
    /// Issuers of bearer tokens, by name. No issuer occurs twice.
    pub issuers: Vec<Issuer>,
    /// Route of requests to identity providers and issuers.
    pub egress: Egress,
    pub log: Log,
}

/// Settings of the listener for clients.
#[derive(Clone, Debug)]
pub struct Server {
    pub listen: SocketAddr,
    /// Base URL under which browsers and clients reach the proxy, e.g. `https://mlflow.example.com`. No path, no
    /// trailing slash.
    pub public_url: Option<url::Url>,
    /// Further accepted `Host` names, beside that of `public_url`. Checked only if `public_url` is set.
    pub allowed_hosts: Vec<String>,
    pub cors: Cors,
    pub tls: Option<Tls>,
    /// Peers whose `X-Forwarded-For` is trusted. Empty trusts none.
    pub trusted_proxies: Vec<IpNet>,
    pub max_connections: usize,
    /// Maximum per IPv4 address or IPv6 /64 that is not a trusted proxy.
    pub max_connections_per_address: usize,
    /// Maximum size of a request head in bytes, and limit of each connection's buffers.
    pub max_head_bytes: usize,
    pub max_headers: usize,
    /// Maximum size in bytes of a body that is inspected (JSON). Streamed bodies have no such limit.
    pub max_body_bytes: usize,
    /// Memory in bytes for all bodies under inspection together. One user can take half of it.
    pub inspection_budget_bytes: usize,
    pub head_timeout: Duration,
    /// Time limit for a body that is read into memory. Streamed bodies have none.
    pub body_timeout: Duration,
    /// Minimum rate at which such a body must arrive, after a grace period of `head_timeout`.
    pub min_body_bytes_per_second: u32,
    pub tls_handshake_timeout: Duration,
    /// Time after which a connection without traffic in either direction is closed.
    pub idle_timeout: Duration,
    /// Pause after SIGTERM, in which the proxy reports unready so that load balancers notice.
    pub drain_delay: Duration,
    /// Time limit after that pause for requests in progress.
    pub drain_timeout: Duration,
}

impl Config {
    /// Returns the base URL of the proxy's own pages, as browsers and identity providers reach it.
    #[must_use]
    pub fn pages_url(&self) -> Option<url::Url> {
        let mut url = self.server.public_url.clone()?;
        url.set_path(&self.upstream.static_prefix);
        Some(url)
    }
}

/// Other origins whose pages are allowed to call the proxy from a browser.
#[derive(Clone, Debug, Default)]
pub struct Cors {
    /// Scheme, host and port, as browsers write them in `Origin`.
    pub origins: Vec<HeaderValue>,
    /// If true, such requests are allowed to carry the user's session.
    pub credentials: bool,
}

/// Memory that a body takes while it is inspected, as a multiple of its size.
pub const INSPECTION_COST: usize = 3;

/// Paths of certificate chain and private key, both PEM.
#[derive(Clone, Debug)]
pub struct Tls {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// Settings of the listener for probes and metrics.
#[derive(Clone, Debug)]
pub struct Admin {
    pub listen: SocketAddr,
    /// Accepted host names that contain dots. Addresses and names without dots are always accepted.
    pub allowed_hosts: Vec<String>,
}

/// Settings of the connection to MLflow.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// Scheme, host and port; no path.
    pub url: url::Url,
    /// MLflow's `--static-prefix`, such as `/mlflow`, or empty.
    pub static_prefix: String,
    pub connect_timeout: Duration,
    /// Time limit from the end of the request to the response head. Bodies have no total limit.
    pub response_timeout: Duration,
    /// Time after which idle connections are closed. Must be shorter than MLflow's keep-alive (uvicorn: 5 s).
    pub pool_idle_timeout: Duration,
    pub pool_max_idle: usize,
    /// Maximum number of requests that one user has under way.
    pub max_requests_per_user: usize,
    /// Time that a request waits for an unreachable MLflow; zero disables waiting.
    pub hold: Duration,
    pub hold_max_requests: usize,
    /// Maximum bytes of bodies in memory, over all requests that wait.
    pub hold_max_bytes: usize,
}

/// Settings of the audit log.
#[derive(Clone, Debug)]
pub struct Audit {
    /// Age at which entries are deleted. `None` keeps all.
    pub retention: Option<Duration>,
    /// Folder of the files into which entries are written before they are deleted.
    pub export_before_delete: Option<PathBuf>,
}

/// The first administrator, who is created when the store has no users.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    pub admin_username: String,
    pub admin_password: Option<SecretString>,
}

/// Settings of authentication.
#[derive(Clone, Debug)]
pub struct Authn {
    pub token_max_days: u32,
    /// Time for which a verified password or a loaded identity is reused before the store is read again.
    pub cache_ttl: Duration,
    pub cache_entries: u64,
    /// Maximum number of passwords hashed at the same time. Each takes 19 MiB and one core.
    pub hash_concurrency: usize,
    /// Maximum number of passwords that wait for hashing. Further requests are answered with 503.
    pub hash_queue: usize,
    pub guesses_per_address: u32,
    pub guesses_per_account: u32,
    pub guess_window: Duration,
    /// If true, MLflow's sign-up page is available.
    pub signup: bool,
    /// If true, the sign-in page accepts user name and password.
    pub password_form: bool,
    /// Time since the identity provider last confirmed a user after which that user's access tokens are suspended;
    /// `None` disables the limit.
    pub person_max_age: Option<Duration>,
}

/// Settings of authorization.
#[derive(Clone, Debug)]
pub struct Authz {
    pub default_permission: Permission,
    /// Prefixes that users other than administrators are allowed to choose as an experiment's `artifact_location`.
    pub artifact_locations: Vec<String>,
    /// If true, the authenticated name replaces the author fields of requests.
    pub authorship: bool,
    /// Features that are closed to all users by default, opened to administrators.
    pub opened: Vec<Feature>,
    /// If true, administrators are allowed to use routes that the route table does not contain.
    pub unlisted_routes_for_admins: bool,
    /// Hosts that MLflow is allowed to connect to for model providers.
    pub provider_hosts: ProviderHosts,
    /// Handling of request fields that no known version of MLflow has.
    pub unknown_fields: UnknownFields,
    /// File with grants in addition to the store's.
    pub policy_file: Option<PathBuf>,
    /// File with a trial policy, which is evaluated beside the enforced one and never enforced.
    pub shadow_policy_file: Option<PathBuf>,
}

/// Handling of request fields that no known version of MLflow has. They are never forwarded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum UnknownFields {
    /// Removes them and forwards the rest, so that clients newer than the proxy keep working.
    Drop,
    /// Refuses the request with status 400.
    Refuse,
}

/// Settings of logs.
#[derive(Clone, Debug)]
pub struct Log {
    /// `tracing-subscriber` filter, e.g. `info` or `info,mlflow_auth_proxy::authn=debug`.
    pub level: String,
    pub format: LogFormat,
    /// One line per request on standard output.
    pub access: bool,
    /// If true, user names appear in the access log. The audit log always contains them.
    pub user_names: bool,
}

/// Format of log lines.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LogFormat {
    Json,
    Text,
}

#[cfg(test)]
mod tests;
