//! The configuration as it is written: all keys with plain types and defaults.
//!
//! The fields define the list of keys; [`super::schema`] derives it from the defaults. `Option` means that there is no
//! default. For meaning and limits see `config/default.toml` and [`super::parse`].

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The whole configuration file.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Raw {
    pub(super) server: Server,
    pub(super) admin: Admin,
    pub(super) upstream: Upstream,
    pub(super) store: Store,
    pub(super) audit: Audit,
    pub(super) bootstrap: Bootstrap,
    pub(super) authn: Authn,
    pub(super) authz: Authz,
    pub(super) session: Session,
    pub(super) oidc: Oidc,
    pub(super) jwt: Jwt,
    pub(super) log: Log,
}

impl Raw {
    /// Returns the defaults, with one entry named `*` in each section of named entries. The schema is derived from it.
    pub(super) fn pattern() -> Self {
        let any = || "*".to_owned();
        Self {
            oidc: Oidc { providers: BTreeMap::from([(any(), Provider::default())]) },
            jwt: Jwt { issuers: BTreeMap::from([(any(), Issuer::default())]) },
            ..Self::default()
        }
    }
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Server {
    pub(super) listen: String,
    pub(super) public_url: Option<String>,
    pub(super) allowed_hosts: Vec<String>,
    pub(super) cors_allowed_origins: Vec<String>,
    pub(super) cors_allow_credentials: bool,
    pub(super) allow_plain_http: bool,
    pub(super) tls: Tls,
    pub(super) trusted_proxies: Vec<String>,
    pub(super) max_connections: u64,
    pub(super) max_connections_per_address: u64,
    pub(super) max_head_bytes: u64,
    pub(super) max_headers: u64,
    pub(super) max_body_bytes: u64,
    pub(super) inspection_budget_bytes: u64,
    pub(super) head_timeout_seconds: u64,
    pub(super) body_timeout_seconds: u64,
    pub(super) min_body_bytes_per_second: u64,
    pub(super) tls_handshake_timeout_seconds: u64,
    pub(super) idle_timeout_seconds: u64,
    pub(super) drain_delay_seconds: u64,
    pub(super) drain_timeout_seconds: u64,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8080".to_owned(),
            public_url: None,
            allowed_hosts: Vec::new(),
            cors_allowed_origins: Vec::new(),
            cors_allow_credentials: false,
            allow_plain_http: false,
            tls: Tls::default(),
            trusted_proxies: Vec::new(),
            max_connections: 4096,
            max_connections_per_address: 1024,
            max_head_bytes: 65_536,
            max_headers: 100,
            max_body_bytes: 16 * 1024 * 1024,
            inspection_budget_bytes: 128 * 1024 * 1024,
            head_timeout_seconds: 30,
            body_timeout_seconds: 300,
            min_body_bytes_per_second: 1024,
            tls_handshake_timeout_seconds: 10,
            idle_timeout_seconds: 300,
            drain_delay_seconds: 5,
            drain_timeout_seconds: 30,
        }
    }
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Tls {
    pub(super) cert: Option<String>,
    pub(super) key: Option<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Admin {
    pub(super) listen: String,
    pub(super) allowed_hosts: Vec<String>,
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: "127.0.0.1:9090".to_owned(), allowed_hosts: Vec::new() }
    }
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Upstream {
    pub(super) url: String,
    pub(super) static_prefix: String,
    pub(super) connect_timeout_seconds: u64,
    pub(super) response_timeout_seconds: u64,
    pub(super) pool_idle_timeout_ms: u64,
    pub(super) pool_max_idle: u64,
    pub(super) max_requests_per_user: u64,
    pub(super) hold_seconds: u64,
    pub(super) hold_max_requests: u64,
    pub(super) hold_max_bytes: u64,
}

impl Default for Upstream {
    fn default() -> Self {
        Self {
            url: "http://127.0.0.1:5000".to_owned(),
            static_prefix: String::new(),
            connect_timeout_seconds: 5,
            response_timeout_seconds: 120,
            pool_idle_timeout_ms: 4000,
            pool_max_idle: 256,
            max_requests_per_user: 256,
            hold_seconds: 10,
            hold_max_requests: 256,
            hold_max_bytes: 32 * 1024 * 1024,
        }
    }
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Store {
    pub(super) url: String,
    pub(super) password: Option<Secret>,
    pub(super) password_file: Option<String>,
    pub(super) pgbouncer: bool,
    pub(super) listen_url: Option<String>,
    pub(super) max_connections: u64,
    pub(super) acquire_timeout_seconds: u64,
    pub(super) statement_timeout_seconds: u64,
    pub(super) max_staleness_seconds: u64,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            url: "sqlite://mlflow-auth-proxy.db".to_owned(),
            password: None,
            password_file: None,
            pgbouncer: false,
            listen_url: None,
            max_connections: 10,
            acquire_timeout_seconds: 5,
            statement_timeout_seconds: 10,
            max_staleness_seconds: 30,
        }
    }
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Audit {
    pub(super) retention_days: u64,
    pub(super) export_before_delete: Option<String>,
}

impl Default for Audit {
    fn default() -> Self {
        Self { retention_days: 365, export_before_delete: None }
    }
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Bootstrap {
    pub(super) admin_username: String,
    pub(super) admin_password: Option<Secret>,
    pub(super) admin_password_file: Option<String>,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self { admin_username: "admin".to_owned(), admin_password: None, admin_password_file: None }
    }
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Authn {
    pub(super) token_max_days: u64,
    pub(super) cache_ttl_seconds: u64,
    pub(super) cache_entries: u64,
    pub(super) hash_concurrency: u64,
    pub(super) hash_queue: u64,
    pub(super) guesses_per_address: u64,
    pub(super) guesses_per_account: u64,
    pub(super) guess_window_seconds: u64,
    pub(super) signup: bool,
    pub(super) password_form: bool,
    pub(super) person_max_age_days: u64,
}

impl Default for Authn {
    fn default() -> Self {
        Self {
            token_max_days: 365,
            cache_ttl_seconds: 60,
            cache_entries: 100_000,
            hash_concurrency: 2,
            hash_queue: 64,
            guesses_per_address: 30,
            guesses_per_account: 10,
            guess_window_seconds: 300,
            signup: false,
            password_form: false,
            person_max_age_days: 30,
        }
    }
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Authz {
    pub(super) default_permission: String,
    pub(super) artifact_locations: Vec<String>,
    pub(super) authorship: bool,
    pub(super) opened: Vec<String>,
    pub(super) unlisted_routes_for_admins: bool,
    pub(super) unknown_fields: String,
    pub(super) provider_hosts: Vec<String>,
    pub(super) policy_file: Option<String>,
    pub(super) shadow_policy_file: Option<String>,
}

impl Default for Authz {
    fn default() -> Self {
        Self {
            default_permission: "NO_PERMISSIONS".to_owned(),
            artifact_locations: Vec::new(),
            authorship: true,
            opened: Vec::new(),
            unlisted_routes_for_admins: false,
            unknown_fields: "drop".to_owned(),
            provider_hosts: vec!["public".to_owned()],
            policy_file: None,
            shadow_policy_file: None,
        }
    }
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Session {
    pub(super) idle_timeout_seconds: u64,
    pub(super) lifetime_seconds: u64,
    pub(super) unconfirmed_seconds: u64,
    pub(super) max_per_user: u64,
    pub(super) keys: Vec<Secret>,
    pub(super) keys_file: Option<String>,
}

impl Default for Session {
    fn default() -> Self {
        Self {
            idle_timeout_seconds: 8 * 3600,
            lifetime_seconds: 7 * 24 * 3600,
            unconfirmed_seconds: 8 * 3600,
            max_per_user: 50,
            keys: Vec::new(),
            keys_file: None,
        }
    }
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Oidc {
    /// Providers by name.
    pub(super) providers: BTreeMap<String, Provider>,
}

/// An entry of `oidc.providers`. serde cannot refuse unknown fields beside a flattened one; [`super::layers`] refuses
/// them before.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Provider {
    #[serde(flatten)]
    pub(super) endpoint: Endpoint,
    pub(super) client_id: Option<String>,
    pub(super) client_secret: Option<Secret>,
    pub(super) client_secret_file: Option<String>,
    pub(super) client_auth: String,
    pub(super) display_name: Option<String>,
    pub(super) scopes: Vec<String>,
    #[serde(flatten)]
    pub(super) claims: Claims,
    pub(super) logout_tokens: String,
    pub(super) sync_seconds: u64,
}

impl Default for Provider {
    fn default() -> Self {
        Self {
            endpoint: Endpoint::default(),
            client_id: None,
            client_secret: None,
            client_secret_file: None,
            client_auth: "basic".to_owned(),
            display_name: None,
            scopes: words(&["openid", "email", "profile"]),
            claims: Claims::default(),
            logout_tokens: "keep".to_owned(),
            sync_seconds: super::identity::SYNC_SECONDS,
        }
    }
}

/// URLs and signature algorithms of an issuer.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Endpoint {
    pub(super) issuer: Option<String>,
    pub(super) discovery_url: Option<String>,
    pub(super) internal_url: Option<String>,
    pub(super) ca_file: Option<String>,
    pub(super) algorithms: Vec<String>,
}

impl Default for Endpoint {
    fn default() -> Self {
        Self {
            issuer: None,
            discovery_url: None,
            internal_url: None,
            ca_file: None,
            algorithms: words(&["RS256", "ES256", "PS256", "EdDSA"]),
        }
    }
}

/// Rules that derive a user's name, groups and rights from the claims of a token.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Claims {
    pub(super) groups_claims: Vec<String>,
    pub(super) groups_prefixes: Vec<String>,
    pub(super) groups_form: String,
    pub(super) allowed_groups: Vec<String>,
    pub(super) admin_groups: Vec<String>,
    pub(super) username_claim: String,
    pub(super) require_verified_email: bool,
}

impl Default for Claims {
    fn default() -> Self {
        Self {
            groups_claims: words(&["groups"]),
            groups_prefixes: Vec::new(),
            groups_form: "full".to_owned(),
            allowed_groups: Vec::new(),
            admin_groups: Vec::new(),
            username_claim: "email".to_owned(),
            require_verified_email: true,
        }
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Jwt {
    /// Issuers by name.
    pub(super) issuers: BTreeMap<String, Issuer>,
}

/// An entry of `jwt.issuers`. Unknown fields are refused as for [`Provider`].
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Issuer {
    #[serde(flatten)]
    pub(super) endpoint: Endpoint,
    pub(super) audiences: Vec<String>,
    pub(super) authorized_parties: Vec<String>,
    pub(super) jwks_url: Option<String>,
    pub(super) bearer_file: Option<String>,
    pub(super) leeway_seconds: u64,
    #[serde(flatten)]
    pub(super) claims: Claims,
    pub(super) preset: Option<String>,
    pub(super) machines: Vec<Machine>,
}

impl Default for Issuer {
    fn default() -> Self {
        Self {
            endpoint: Endpoint::default(),
            audiences: Vec::new(),
            authorized_parties: Vec::new(),
            jwks_url: None,
            bearer_file: None,
            leeway_seconds: 30,
            claims: Claims::default(),
            preset: None,
            machines: Vec::new(),
        }
    }
}

/// A rule that assigns a program to the tokens whose claims match.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Machine {
    /// Claim paths and the globs that their values must match. All must match.
    #[serde(rename = "where")]
    pub(super) conditions: BTreeMap<String, String>,
    /// Name of the program, in which `{claim}` is replaced by the claim's value.
    pub(super) name: String,
    #[serde(default)]
    pub(super) groups: Vec<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Log {
    pub(super) level: String,
    pub(super) format: String,
    pub(super) access: bool,
    pub(super) user_names: bool,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: "json".to_owned(), access: true, user_names: true }
    }
}

/// A secret before it becomes a [`secrecy::SecretString`]. It is neither printed nor serialized.
#[derive(Clone)]
pub(super) struct Secret(pub(super) String);

impl Secret {
    /// Replaces a secret wherever the configuration is shown.
    pub(super) const REDACTED: &'static str = "[redacted]";
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::REDACTED)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(Self::REDACTED)
    }
}
