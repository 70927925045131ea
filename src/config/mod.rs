//! Configuration: text from four places becomes values that cannot be wrong.
//!
//! Layers: defaults < TOML file < environment (`MLFLOW_AUTH_PROXY_`, nesting `__`) < flags. If you hold a [`Config`],
//! the proxy can start.

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

pub use checks::{check_password, check_username, is_loopback};
pub use egress::{Egress, Proxy, Way};
pub use file::{read_any, read_regular, read_regular_aside};
pub use identity::{
    Claims, ClientAuth, Endpoint, GroupForm, GroupSource, Issuer, Machine, Preset, Provider, SealingKey, Session, Sync,
};
pub use layers::Environment;
pub use load::{Flags, Setting, load, load_from};
pub use pem::{certificates, private_key};
pub use report::{Origin, Problem, Problems};

/// Everything the proxy was told. Built only by [`load()`].
#[derive(Clone, Debug)]
pub struct Config {
    pub server: Server,
    pub admin: Admin,
    pub upstream: Upstream,
    pub store: Store,
    pub bootstrap: Bootstrap,
    pub authn: Authn,
    pub authz: Authz,
    pub session: Session,
    /// Identity providers that people sign in at, by name.
    pub providers: Vec<Provider>,
    /// Issuers whose tokens programs bring, by name; no issuer twice.
    pub issuers: Vec<Issuer>,
    /// How they are reached.
    pub egress: Egress,
    pub log: Log,
}

/// The listener that clients reach.
#[derive(Clone, Debug)]
pub struct Server {
    pub listen: SocketAddr,
    /// How browsers and clients call us from outside, e.g. `https://mlflow.example.com`. No path, no trailing slash.
    pub public_url: Option<url::Url>,
    /// Further `Host` names that are answered beside `public_url`'s; checked only when `public_url` is set.
    pub allowed_hosts: Vec<String>,
    pub cors: Cors,
    pub tls: Option<Tls>,
    /// Peers whose `X-Forwarded-For` is believed. Empty: nobody's.
    pub trusted_proxies: Vec<IpNet>,
    pub max_connections: usize,
    /// Of one IPv4 address or IPv6 /64 that is not a trusted proxy.
    pub max_connections_per_address: usize,
    /// Bytes of one request head, and bound of each connection's buffers.
    pub max_head_bytes: usize,
    pub max_headers: usize,
    /// Bytes of a body that we must look into (JSON). Streams have no such limit.
    pub max_body_bytes: usize,
    /// Bytes of memory that all bodies may take together while they are inspected; one user may take half of it.
    pub inspection_budget_bytes: usize,
    pub head_timeout: Duration,
    /// Time limit of a body that is read into memory. Streams have none.
    pub body_timeout: Duration,
    /// Pace at which such a body must arrive, after a grace period of `head_timeout`.
    pub min_body_bytes_per_second: u32,
    pub tls_handshake_timeout: Duration,
    /// A connection on which nothing moved for this long, in either direction, is closed.
    pub idle_timeout: Duration,
    /// SIGTERM: unready, then this pause so that load balancers notice.
    pub drain_delay: Duration,
    /// Then at most this long for requests under way.
    pub drain_timeout: Duration,
}

impl Config {
    /// The address below which browsers and identity providers find the proxy's own pages.
    #[must_use]
    pub fn pages_url(&self) -> Option<url::Url> {
        let mut url = self.server.public_url.clone()?;
        url.set_path(&self.upstream.static_prefix);
        Some(url)
    }
}

/// Other origins whose pages may call the proxy from a browser.
#[derive(Clone, Debug, Default)]
pub struct Cors {
    /// Scheme, host and port, as browsers write them in `Origin`.
    pub origins: Vec<HeaderValue>,
    /// Whether their requests may carry the session of the user.
    pub credentials: bool,
}

/// Memory that a body takes while it is inspected, in multiples of its size.
pub const INSPECTION_COST: usize = 3;

/// Where certificate chain and private key are, both PEM.
#[derive(Clone, Debug)]
pub struct Tls {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// The listener for probes and metrics.
#[derive(Clone, Debug)]
pub struct Admin {
    pub listen: SocketAddr,
    /// Host names with dots that are answered beside addresses and plain names.
    pub allowed_hosts: Vec<String>,
}

/// The MLflow behind us.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// Scheme, host and port; no path.
    pub url: url::Url,
    /// What MLflow was started with as `--static-prefix`: `/mlflow`, or empty.
    pub static_prefix: String,
    pub connect_timeout: Duration,
    /// From the request sent to the response head. Bodies have no total limit.
    pub response_timeout: Duration,
    /// Idle connections are dropped after this; must stay below MLflow's keep-alive (uvicorn: 5 s).
    pub pool_idle_timeout: Duration,
    pub pool_max_idle: usize,
    /// How long a request waits for an MLflow that cannot be reached; zero: not at all.
    pub hold: Duration,
    pub hold_max_requests: usize,
    /// Bodies in memory, of all requests that wait.
    pub hold_max_bytes: usize,
}

/// What we remember.
#[derive(Clone, Debug)]
pub struct Store {
    /// `sqlite://path`; `sqlite::memory:` for tests.
    pub url: String,
}

/// The first administrator, made when the store has no user.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    pub admin_username: String,
    pub admin_password: Option<SecretString>,
}

/// Proving who is asking.
#[derive(Clone, Debug)]
pub struct Authn {
    pub token_max_days: u32,
    /// How long a verified password or a loaded identity is reused before the store is asked again.
    pub cache_ttl: Duration,
    pub cache_entries: u64,
    /// Passwords hashed at the same time; 19 MiB and one core each.
    pub hash_concurrency: usize,
    /// Passwords waiting for their turn; beyond that the answer is 503.
    pub hash_queue: usize,
    pub guesses_per_address: u32,
    pub guesses_per_account: u32,
    pub guess_window: Duration,
    /// Whether MLflow's sign-up page is there.
    pub signup: bool,
    /// Whether the sign-in page takes user name and password.
    pub password_form: bool,
    /// Access tokens of people from an identity provider rest when it was not heard of their owner for so long.
    pub person_max_age: Option<Duration>,
}

/// What people may do.
#[derive(Clone, Debug)]
pub struct Authz {
    pub default_permission: Permission,
    /// Prefixes that people who are not administrators may choose as an experiment's `artifact_location`.
    pub artifact_locations: Vec<String>,
    /// Where MLflow keeps authors, the authenticated name goes.
    pub authorship: bool,
    /// What is closed to everybody otherwise, opened to administrators.
    pub opened: Vec<Feature>,
    /// Whether administrators may use routes that the table does not know.
    pub unlisted_routes_for_admins: bool,
    /// Hosts that MLflow may connect to for model providers.
    pub provider_hosts: ProviderHosts,
    /// Handling of request fields that no known version of MLflow has.
    pub unknown_fields: UnknownFields,
    /// Grants beside the store's.
    pub policy_file: Option<PathBuf>,
    /// Grants that are tried beside the ones that hold, and never enforced.
    pub shadow_policy_file: Option<PathBuf>,
}

/// Handling of request fields that no known version of MLflow has. They reach MLflow in no case.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum UnknownFields {
    /// Remove them from the request and forward the rest, so that clients newer than the proxy keep working.
    Drop,
    /// Answer 400.
    Refuse,
}

/// What we write down.
#[derive(Clone, Debug)]
pub struct Log {
    /// `tracing-subscriber` filter, e.g. `info` or `info,mlflow_auth_proxy::authn=debug`.
    pub level: String,
    pub format: LogFormat,
    /// One line per request on standard output.
    pub access: bool,
    /// Whether user names appear in the access log; the audit log always has them.
    pub user_names: bool,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LogFormat {
    Json,
    Text,
}

#[cfg(test)]
mod tests;
