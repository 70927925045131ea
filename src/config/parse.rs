//! Parses raw values into a valid [`Config`]. Each function runs to its end so that all problems are found; the `?`
//! operators in its last expression only assemble the valid parts.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;
use url::Url;

use super::egress::Egress;
use super::report::Report;
use super::{
    Admin, Audit, Authn, Authz, Bootstrap, Config, Cors, INSPECTION_COST, Log, PostgresUrl, Provider, Server, Store,
    StoreUrl, Tls, Upstream, checks, identity, pem, raw,
};
use crate::mlflow::{Feature, ProviderHost};

/// Parses all sections. Returns `None` if one is invalid; the reasons are in the report.
pub(super) fn config(raw: raw::Raw, egress: Egress, report: &mut Report) -> Option<Config> {
    let server = server(&raw.server, report);
    let admin = admin(&raw.admin, report);
    let upstream = upstream(&raw.upstream, report);
    let store = store(raw.store, report);
    let audit = audit(raw.audit, report);
    let bootstrap = bootstrap(raw.bootstrap, report);
    let authn = authn(&raw.authn, report);
    let authz = authz(&raw.authz, report);
    let session = identity::session(raw.session, report);
    let mut providers = identity::providers(raw.oidc, report);
    let mut issuers = identity::issuers(raw.jwt, report);
    if let (Some(providers), Some(issuers)) = (&mut providers, &mut issuers) {
        identity::keep_machine_names(providers, issuers);
    }
    let log = log(&raw.log, report);
    if let (Some(server), Some(admin)) = (&server, &admin) {
        one_listener_each(server.listen, admin.listen, report);
    }
    if let (Some(server), Some(upstream)) = (&server, &upstream) {
        not_ourselves(server.listen, &upstream.url, report);
    }
    if let (Some(server), Some(providers)) = (&server, &providers) {
        reachable_for_log_in(server, providers, report);
    }
    Some(Config {
        server: server?,
        admin: admin?,
        upstream: upstream?,
        store: store?,
        audit: audit?,
        bootstrap: bootstrap?,
        authn: authn?,
        authz: authz?,
        session: session?,
        providers: providers?,
        issuers: issuers?,
        egress,
        log: log?,
    })
}

#[expect(clippy::too_many_lines, reason = "two lines for each key of one section")]
fn server(raw: &raw::Server, report: &mut Report) -> Option<Server> {
    let listen = report.check("server.listen", checks::address(&raw.listen));
    let public_url = optional(raw.public_url.as_deref(), |url| report.check("server.public_url", checks::origin(url)));
    let tls = tls(&raw.tls, report);
    let encrypts = raw.tls.cert.is_some() || raw.tls.key.is_some();
    if let Some(listen) = listen {
        encrypted_where_it_matters(listen, encrypts, raw.allow_plain_http, report);
    }
    if let Some(Some(url)) = &public_url {
        scheme_is_true(url, encrypts, raw.allow_plain_http, report);
    }
    if raw.public_url.is_none() && !raw.allowed_hosts.is_empty() {
        report.add("server.allowed_hosts", "has no effect without server.public_url; set that too");
    }
    let allowed_hosts = each("server.allowed_hosts", &raw.allowed_hosts, checks::host, report);
    let origins = each("server.cors_allowed_origins", &raw.cors_allowed_origins, checks::page_origin, report);
    if raw.cors_allow_credentials && raw.cors_allowed_origins.is_empty() {
        report.add("server.cors_allow_credentials", "has no effect without server.cors_allowed_origins; set that too");
    }
    let trusted_proxies = each("server.trusted_proxies", &raw.trusted_proxies, checks::network, report);
    let max_connections = report.check("server.max_connections", checks::number(raw.max_connections, 1..=1_000_000));
    let per_address = checks::number(raw.max_connections_per_address, 1..=1_000_000);
    let per_address = report.check("server.max_connections_per_address", per_address);
    let max_head_bytes = report.check("server.max_head_bytes", checks::number(raw.max_head_bytes, 8192..=1_048_576));
    let max_headers = report.check("server.max_headers", checks::number(raw.max_headers, 10..=1000));
    let max_body_bytes: Option<usize> =
        report.check("server.max_body_bytes", checks::number(raw.max_body_bytes, 1024..=GIB));
    let budget: Option<usize> = report
        .check("server.inspection_budget_bytes", checks::number(raw.inspection_budget_bytes, 1024 * 1024..=64 * GIB));
    if let (Some(body), Some(budget)) = (max_body_bytes, budget)
        && budget / 2 < body.saturating_mul(INSPECTION_COST)
    {
        report.add(
            "server.inspection_budget_bytes",
            "must be at least six times server.max_body_bytes: inspecting a body requires three times its size, and one \
             user can use half of the budget",
        );
    }
    let body_timeout = report.check("server.body_timeout_seconds", checks::seconds(raw.body_timeout_seconds, 1..=DAY));
    let pace = checks::number(raw.min_body_bytes_per_second, 1..=GIB);
    let pace = report.check("server.min_body_bytes_per_second", pace);
    let head = report.check("server.head_timeout_seconds", checks::seconds(raw.head_timeout_seconds, 1..=HOUR));
    let handshake = checks::seconds(raw.tls_handshake_timeout_seconds, 1..=HOUR);
    let handshake = report.check("server.tls_handshake_timeout_seconds", handshake);
    let idle = report.check("server.idle_timeout_seconds", checks::seconds(raw.idle_timeout_seconds, 1..=DAY));
    let drain_delay = report.check("server.drain_delay_seconds", checks::seconds(raw.drain_delay_seconds, 0..=HOUR));
    let drain = report.check("server.drain_timeout_seconds", checks::seconds(raw.drain_timeout_seconds, 1..=HOUR));
    Some(Server {
        listen: listen?,
        public_url: public_url?,
        allowed_hosts: allowed_hosts?,
        cors: Cors { origins: origins?, credentials: raw.cors_allow_credentials },
        tls: tls?,
        trusted_proxies: trusted_proxies?,
        max_connections: max_connections?,
        max_connections_per_address: per_address?,
        max_head_bytes: max_head_bytes?,
        max_headers: max_headers?,
        max_body_bytes: max_body_bytes?,
        inspection_budget_bytes: budget?,
        head_timeout: head?,
        body_timeout: body_timeout?,
        min_body_bytes_per_second: pace?,
        tls_handshake_timeout: handshake?,
        idle_timeout: idle?,
        drain_delay: drain_delay?,
        drain_timeout: drain?,
    })
}

fn tls(raw: &raw::Tls, report: &mut Report) -> Option<Option<Tls>> {
    let (cert, key) = match (raw.cert.as_deref(), raw.key.as_deref()) {
        (None, None) => return Some(None),
        (Some(cert), Some(key)) => (Path::new(cert), Path::new(key)),
        (Some(_), None) => {
            report.add("server.tls.key", "is missing: server.tls.cert is set and requires its private key");
            return None;
        }
        (None, Some(_)) => {
            report.add("server.tls.cert", "is missing: server.tls.key is set and requires its certificate");
            return None;
        }
    };
    let chain = report.check("server.tls.cert", pem::certificates(cert));
    let private = report.check("server.tls.key", pem::private_key(key));
    report.check("server.tls.key", checks::belongs(chain?, private?))?;
    Some(Some(Tls { cert: cert.to_owned(), key: key.to_owned() }))
}

fn encrypted_where_it_matters(listen: SocketAddr, encrypts: bool, allow_plain_http: bool, report: &mut Report) {
    if encrypts || allow_plain_http || listen.ip().to_canonical().is_loopback() {
        return;
    }
    report.add(
        "server.listen",
        "would send passwords in plain HTTP over the network; set server.tls.cert and server.tls.key, or \
         server.allow_plain_http = true if a server in front of this proxy terminates TLS",
    );
}

fn scheme_is_true(public_url: &Url, encrypts: bool, allow_plain_http: bool, report: &mut Report) {
    match public_url.scheme() {
        "https" if !encrypts && !allow_plain_http => report.add(
            "server.public_url",
            "is https, but nothing terminates TLS; set server.tls.cert and server.tls.key, or server.allow_plain_http = \
             true if a server in front of this proxy terminates TLS",
        ),
        "http" if encrypts => report.add("server.public_url", "is http, but server.tls is set; write https://"),
        _ => {}
    }
}

fn one_listener_each(server: SocketAddr, admin: SocketAddr, report: &mut Report) {
    let overlap = server.ip() == admin.ip() || server.ip().is_unspecified() || admin.ip().is_unspecified();
    // Two listeners with port 0 do not collide: the system assigns a free port to each.
    if overlap && server.port() == admin.port() && server.port() != 0 {
        report.add("admin.listen", "must be a port other than that of server.listen");
    }
}

fn not_ourselves(listen: SocketAddr, upstream: &Url, report: &mut Report) {
    let ours = listen.ip().is_loopback() || listen.ip().is_unspecified();
    if checks::is_loopback(upstream) && ours && upstream.port_or_known_default() == Some(listen.port()) {
        report.add("upstream.url", "is the address that this proxy listens on; it must be the address of MLflow");
    }
}

/// Requires `server.public_url` if there are providers, because they redirect browsers to it.
fn reachable_for_log_in(server: &Server, providers: &[Provider], report: &mut Report) {
    if !providers.is_empty() && server.public_url.is_none() {
        report.add(
            "server.public_url",
            "is missing: identity providers redirect browsers to it, such as https://mlflow.example.com",
        );
    }
}

fn admin(raw: &raw::Admin, report: &mut Report) -> Option<Admin> {
    let listen = report.check("admin.listen", checks::address(&raw.listen));
    let allowed_hosts = each("admin.allowed_hosts", &raw.allowed_hosts, checks::host, report);
    Some(Admin { listen: listen?, allowed_hosts: allowed_hosts? })
}

fn upstream(raw: &raw::Upstream, report: &mut Report) -> Option<Upstream> {
    let url = report.check("upstream.url", checks::origin(&raw.url));
    let prefix = report.check("upstream.static_prefix", checks::static_prefix(&raw.static_prefix));
    let connect = checks::seconds(raw.connect_timeout_seconds, 1..=HOUR);
    let connect = report.check("upstream.connect_timeout_seconds", connect);
    let response = checks::seconds(raw.response_timeout_seconds, 1..=DAY);
    let response = report.check("upstream.response_timeout_seconds", response);
    let idle = checks::number(raw.pool_idle_timeout_ms, 1..=HOUR * 1000).map(Duration::from_millis);
    let idle = report.check("upstream.pool_idle_timeout_ms", idle);
    let max_idle = report.check("upstream.pool_max_idle", checks::number(raw.pool_max_idle, 1..=65_536));
    let per_user = checks::number(raw.max_requests_per_user, 1..=65_536);
    let per_user = report.check("upstream.max_requests_per_user", per_user);
    let hold = report.check("upstream.hold_seconds", checks::seconds(raw.hold_seconds, 0..=60));
    let max_held = report.check("upstream.hold_max_requests", checks::number(raw.hold_max_requests, 1..=65_536));
    let held_bytes = checks::number(raw.hold_max_bytes, 1024..=GIB);
    let held_bytes = report.check("upstream.hold_max_bytes", held_bytes);
    Some(Upstream {
        url: url?,
        static_prefix: prefix?,
        connect_timeout: connect?,
        response_timeout: response?,
        pool_idle_timeout: idle?,
        pool_max_idle: max_idle?,
        max_requests_per_user: per_user?,
        hold: hold?,
        hold_max_requests: max_held?,
        hold_max_bytes: held_bytes?,
    })
}

fn store(raw: raw::Store, report: &mut Report) -> Option<Store> {
    let url = report.check("store.url", StoreUrl::parse(&raw.url));
    let password = match (raw.password, raw.password_file) {
        (Some(_), Some(_)) => {
            report.add("store.password", "is given twice, also as password_file; remove one");
            None
        }
        (Some(secret), None) => Some(Some(secret.0)),
        (None, Some(path)) => report.check("store.password_file", checks::secret_file(Path::new(&path))).map(Some),
        (None, None) => Some(None),
    };
    if matches!(&url, Some(StoreUrl::Sqlite(_))) && matches!(&password, Some(Some(_))) {
        report.add("store.password", "has no effect on an SQLite file; remove it");
    }
    if matches!(&url, Some(StoreUrl::Sqlite(_))) && raw.pgbouncer {
        report.add("store.pgbouncer", "has no effect on an SQLite file; remove it");
    }
    let listen_url = match &raw.listen_url {
        Some(text) => report.check("store.listen_url", listen_url(text, url.as_ref(), raw.pgbouncer)).map(Some),
        None => Some(None),
    };
    let connections = report.check("store.max_connections", checks::number(raw.max_connections, 2..=1000));
    let acquire = checks::seconds(raw.acquire_timeout_seconds, 1..=MINUTE);
    let acquire = report.check("store.acquire_timeout_seconds", acquire);
    let statement = checks::seconds(raw.statement_timeout_seconds, 1..=MINUTE);
    let statement = report.check("store.statement_timeout_seconds", statement);
    let staleness = report.check("store.max_staleness_seconds", checks::seconds(raw.max_staleness_seconds, 1..=HOUR));
    url?;
    Some(Store {
        url: raw.url,
        password: password?.map(SecretString::from),
        pgbouncer: raw.pgbouncer,
        listen_url: listen_url?,
        max_connections: connections?,
        acquire_timeout: acquire?,
        statement_timeout: statement?,
        max_staleness: staleness?,
    })
}

/// Parses the URL of the connection for notifications.
fn listen_url(text: &str, store: Option<&StoreUrl>, pgbouncer: bool) -> Result<PostgresUrl, String> {
    let url = match StoreUrl::parse(text)? {
        StoreUrl::Postgres(url) => url,
        StoreUrl::Sqlite(_) => return Err("must start with postgres://".to_owned()),
    };
    match store {
        Some(StoreUrl::Sqlite(_)) => Err("has no effect on an SQLite file; remove it".to_owned()),
        Some(StoreUrl::Postgres(store)) if pgbouncer && store.is_same_place(&url) => Err(
            "is the database of PgBouncer in store.url, which passes no notifications on; name the server itself, or \
             remove it"
                .to_owned(),
        ),
        Some(StoreUrl::Postgres(_)) | None => Ok(url),
    }
}

fn audit(raw: raw::Audit, report: &mut Report) -> Option<Audit> {
    let retention = report
        .check("audit.retention_days", checks::number(raw.retention_days, 0..=36_500))
        .map(|days: u64| (days > 0).then(|| Duration::from_secs(days * DAY)));
    let folder = raw.export_before_delete.map(PathBuf::from);
    if let Some(folder) = &folder {
        if retention == Some(None) {
            report.add("audit.export_before_delete", "has no effect while audit.retention_days is 0; remove it");
        } else if !folder.is_dir() {
            report.add(
                "audit.export_before_delete",
                format!("{} is not a folder; create it, writable by the proxy's user alone", folder.display()),
            );
        }
    }
    Some(Audit { retention: retention?, export_before_delete: folder })
}

fn bootstrap(raw: raw::Bootstrap, report: &mut Report) -> Option<Bootstrap> {
    let name = checks::check_username(&raw.admin_username).map(|()| raw.admin_username);
    let name = report.check("bootstrap.admin_username", name);
    let (key, password) = match (raw.admin_password, raw.admin_password_file) {
        (Some(_), Some(_)) => {
            report.add("bootstrap.admin_password", "is given twice, also as admin_password_file; remove one");
            return None;
        }
        (Some(secret), None) => ("bootstrap.admin_password", Some(secret.0)),
        (None, Some(path)) => {
            let key = "bootstrap.admin_password_file";
            (key, Some(report.check(key, checks::secret_file(Path::new(&path)))?))
        }
        (None, None) => ("bootstrap.admin_password", None),
    };
    if let Some(password) = &password {
        report.check(key, checks::check_password(password))?;
    }
    Some(Bootstrap { admin_username: name?, admin_password: password.map(SecretString::from) })
}

fn authn(raw: &raw::Authn, report: &mut Report) -> Option<Authn> {
    let token_max_days = report.check("authn.token_max_days", checks::number(raw.token_max_days, 1..=3650));
    let cache_ttl = report.check("authn.cache_ttl_seconds", checks::seconds(raw.cache_ttl_seconds, 1..=HOUR));
    let cache_entries = report.check("authn.cache_entries", checks::number(raw.cache_entries, 1..=10_000_000));
    let concurrency = report.check("authn.hash_concurrency", checks::number(raw.hash_concurrency, 1..=256));
    let queue = report.check("authn.hash_queue", checks::number(raw.hash_queue, 1..=65_536));
    let address = checks::number(raw.guesses_per_address, 1..=1_000_000);
    let address = report.check("authn.guesses_per_address", address);
    let account = checks::number(raw.guesses_per_account, 1..=1_000_000);
    let account = report.check("authn.guesses_per_account", account);
    let window = report.check("authn.guess_window_seconds", checks::seconds(raw.guess_window_seconds, 1..=DAY));
    let person_days = checks::number::<u64>(raw.person_max_age_days, 0..=3650);
    let person_max_age = report
        .check("authn.person_max_age_days", person_days)
        .map(|days| (days > 0).then(|| Duration::from_secs(days * DAY)));
    Some(Authn {
        token_max_days: token_max_days?,
        cache_ttl: cache_ttl?,
        cache_entries: cache_entries?,
        hash_concurrency: concurrency?,
        hash_queue: queue?,
        guesses_per_address: address?,
        guesses_per_account: account?,
        guess_window: window?,
        signup: raw.signup,
        password_form: raw.password_form,
        person_max_age: person_max_age?,
    })
}

fn authz(raw: &raw::Authz, report: &mut Report) -> Option<Authz> {
    let default = report.check("authz.default_permission", raw.default_permission.parse());
    let locations = each("authz.artifact_locations", &raw.artifact_locations, checks::artifact_location, report);
    let opened = each("authz.opened", &raw.opened, |word| word.parse::<Feature>(), report);
    let hosts = each("authz.provider_hosts", &raw.provider_hosts, str::parse::<ProviderHost>, report);
    let unknown = report.check("authz.unknown_fields", checks::unknown_fields(&raw.unknown_fields));
    Some(Authz {
        default_permission: default?,
        artifact_locations: locations?,
        authorship: raw.authorship,
        opened: opened?,
        unlisted_routes_for_admins: raw.unlisted_routes_for_admins,
        unknown_fields: unknown?,
        provider_hosts: hosts?.into_iter().collect(),
        policy_file: raw.policy_file.as_deref().map(PathBuf::from),
        shadow_policy_file: raw.shadow_policy_file.as_deref().map(PathBuf::from),
    })
}

fn log(raw: &raw::Log, report: &mut Report) -> Option<Log> {
    let level = report.check("log.level", checks::log_level(&raw.level));
    let format = report.check("log.format", checks::log_format(&raw.format));
    Some(Log { level: level?, format: format?, access: raw.access, user_names: raw.user_names })
}

/// Checks every item of a list. Returns `None` if one is invalid.
pub(super) fn each<T>(
    key: &str,
    items: &[String],
    check: impl Fn(&str) -> Result<T, String>,
    report: &mut Report,
) -> Option<Vec<T>> {
    let checked: Vec<Option<T>> = items.iter().map(|item| report.check(key, check(item))).collect();
    checked.into_iter().collect()
}

/// Checks an optional value. `Some(None)` means that there is none, which is valid.
pub(super) fn optional<T>(given: Option<&str>, check: impl FnOnce(&str) -> Option<T>) -> Option<Option<T>> {
    given.map_or(Some(None), |given| check(given).map(Some))
}

const MINUTE: u64 = 60;
const HOUR: u64 = 3600;
pub(super) const DAY: u64 = 24 * HOUR;
const GIB: u64 = 1024 * 1024 * 1024;
