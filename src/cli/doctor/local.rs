//! Checks of the local environment: files, the store, MLflow.

use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;

use super::finding::Report;
use crate::authz::PolicyFile;
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::resolve::Resolver;
use crate::server::descriptors;
use crate::server::tls::Acceptor;
use crate::store::Store;
use crate::telemetry::Metrics;
use crate::upstream::{Error, Upstream};

/// Days before expiry from which a certificate is reported.
const SOON_DAYS: i64 = 21;
const DAY_SECONDS: i64 = 86_400;

/// Checks that certificate and key match, and until when the certificate is valid.
pub(super) fn tls(config: &Config, clock: &Clock, report: &mut Report) {
    const CHECK: &str = "TLS";
    let Some(tls) = &config.server.tls else {
        let found = "this proxy does not terminate TLS: server.tls is not set";
        return report.ok(CHECK, found);
    };
    let acceptor = match Acceptor::load(tls) {
        Ok(acceptor) => acceptor,
        Err(error) => return report.fail(CHECK, error.to_string(), "server.tls.cert and server.tls.key"),
    };
    let Some(end) = acceptor.not_after() else {
        let found = format!("the expiry of {} cannot be read", tls.cert.display());
        return report.warn(CHECK, found, "server.tls.cert");
    };
    let days = (end.unix_timestamp() - clock.now().0.div_euclid(1000)).div_euclid(DAY_SECONDS);
    let change = format!(
        "a new certificate in {}, with its key; a running proxy loads it without a restart",
        tls.cert.display()
    );
    match days {
        ..0 => report.fail(CHECK, format!("the certificate expired {} days ago", -days), change),
        0..SOON_DAYS => report.warn(CHECK, format!("the certificate expires in {days} days"), change),
        _ => report.ok(CHECK, format!("certificate and key match, and expire in {days} days")),
    }
}

/// Checks that the store can be opened for writing: opening takes its write lock.
pub(super) async fn store(config: &Config, clock: &Clock, report: &mut Report) {
    const CHECK: &str = "store";
    let url = &config.store.url;
    if let Some(file) = url.strip_prefix("sqlite://").map(Path::new)
        && !file.exists()
    {
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        return if folder.is_dir() {
            report.ok(CHECK, format!("{url} will be created at the first start"))
        } else {
            report.fail(
                CHECK,
                format!("the folder {} does not exist", folder.display()),
                "store.url, or create the folder",
            )
        };
    }
    if let Some(file) = url.strip_prefix("sqlite://").map(Path::new) {
        modes(file, report);
    }
    match Store::connect(&config.store, clock.clone()).await {
        Ok(store) => {
            report.ok(CHECK, format!("{url} can be opened and written"));
            if store.is_shared() {
                notifications(&store, report).await;
            }
            store.close().await;
        }
        Err(error) if url.starts_with("sqlite:") => {
            report.fail(CHECK, error.to_string(), "store.url, or the owner and mode of that file and its folder");
        }
        Err(error) => report.fail(CHECK, error.to_string(), "store.url, store.password, or the server of PostgreSQL"),
    }
}

/// Checks that changes of other processes are announced.
async fn notifications(store: &Store, report: &mut Report) {
    const CHECK: &str = "store: notifications";
    match store.check_listening().await {
        Ok(true) => report.ok(CHECK, "PostgreSQL announces changes of other processes"),
        Ok(false) => {
            let found = "store.pgbouncer is set without store.listen_url: changes of other processes are in force after \
                         up to half a second";
            report.ok(CHECK, found);
        }
        Err(error) => report.fail(CHECK, error.to_string(), "store.listen_url, or store.url if it is not set"),
    }
}

/// Checks whether other users can read the store, which contains password hashes, or replace it. Opening the store
/// removes the access of others to its files.
fn modes(file: &Path, report: &mut Report) {
    const CHECK: &str = "store: file mode";
    let mode = |path: &Path| path.metadata().map(|found| found.mode() & 0o7777);
    if let Ok(mode) = mode(file)
        && mode & 0o077 != 0
    {
        let found = format!(
            "{} was accessible to other users (mode {mode:03o}); the proxy changes it to 600 at start",
            file.display()
        );
        return report.warn(CHECK, found, "the program that copies or mounts that file; it contains password hashes");
    }
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match mode(folder) {
        Ok(mode) if mode & 0o002 != 0 && mode & 0o1000 == 0 => report.warn(
            CHECK,
            format!("all users can replace files in {} (mode {mode:03o})", folder.display()),
            format!("`chmod o-w {}`", folder.display()),
        ),
        Ok(_) | Err(_) => report.ok(CHECK, "only the owner has access to the file"),
    }
}

/// Checks that entries of the audit log can be exported before they are deleted.
pub(super) fn audit(config: &Config, report: &mut Report) {
    const CHECK: &str = "audit log";
    let Some(folder) = &config.audit.export_before_delete else { return };
    let name = folder.display();
    let probe = folder.join(format!(".doctor-{}", std::process::id()));
    let written = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&probe);
    if let Err(error) = written.and_then(|_| std::fs::remove_file(&probe)) {
        return report.fail(CHECK, format!("{name} cannot be written: {error}"), "audit.export_before_delete");
    }
    match folder.metadata().map(|folder| folder.mode() & 0o7777) {
        Ok(mode) if mode & 0o002 != 0 && mode & 0o1000 == 0 => report.warn(
            CHECK,
            format!("all users can replace files in {name} (mode {mode:03o})"),
            format!("`chmod o-w {name}`"),
        ),
        Ok(_) | Err(_) => report.ok(CHECK, format!("old entries can be exported to {name}")),
    }
}

/// Checks that the limit of open files is sufficient for the configured connections.
pub(super) fn descriptors(config: &Config, report: &mut Report) {
    const CHECK: &str = "open files";
    match descriptors::fit(&mut config.clone(), descriptors::attainable()) {
        None => report.ok(CHECK, "the limit leaves room for server.max_connections"),
        Some(found) => report.warn(CHECK, found, "the hard limit of the process that runs `serve`"),
    }
}

/// Checks that the policy files can be read.
pub(super) fn policies(config: &Config, report: &mut Report) {
    let files = [
        ("authz.policy_file", &config.authz.policy_file),
        ("authz.shadow_policy_file", &config.authz.shadow_policy_file),
    ];
    for (key, path) in files {
        let Some(path) = path else { continue };
        let read = config::read_regular(path, PolicyFile::MAX_BYTES as u64).map_err(|error| error.to_string());
        match read.and_then(|text| PolicyFile::parse_rules(&text).map_err(|error| error.to_string())) {
            Ok(policy) => report.ok(key, format!("{} has {} grants", path.display(), policy.grants())),
            Err(error) => report.fail(key, format!("{}: {error}", path.display()), format!("the file, or {key}")),
        }
    }
}

/// Checks the version of MLflow, and whether other clients can reach it directly.
pub(super) async fn upstream(config: &Config, report: &mut Report) {
    const CHECK: &str = "MLflow";
    let url = config.upstream.url.as_str().trim_end_matches('/');
    let asked = match Upstream::new(&config.upstream) {
        Ok(upstream) => upstream.learn_version().await,
        Err(error) => return report.fail(CHECK, error.to_string(), "upstream.url"),
    };
    match asked {
        Ok(version) if version.is_known() => report.ok(CHECK, format!("{version} answers at {url}")),
        Ok(version) => report.warn(
            CHECK,
            format!("{version} answers at {url}; this proxy was not tested with that version"),
            "a newer version of the proxy; until then, unknown routes are refused",
        ),
        Err(Error::NotUnderstood) => {
            report.fail(CHECK, format!("the server at {url} does not return a version as MLflow does"), "upstream.url");
        }
        Err(Error::Unexpected(status)) => report.fail(
            CHECK,
            format!("{url} answers {status} without credentials"),
            "start MLflow without `--app-name basic-auth`; behind a prefix, set upstream.static_prefix; when MLflow \
             refuses the host name, add it to its `--allowed-hosts`",
        ),
        Err(error) => {
            return report.fail(CHECK, error.to_string(), format!("upstream.url: is MLflow running at {url}?"));
        }
    }
    around(config, url, report);
    gateway(config, report).await;
}

/// Checks the AI gateway for stored secrets and endpoints with addresses that are not allowed, created before the
/// proxy was installed or without it. The proxy refuses their use, but MLflow's own jobs do not.
async fn gateway(config: &Config, report: &mut Report) {
    const CHECK: &str = "AI gateway";
    let (Ok(upstream), Ok(metrics)) = (Upstream::new(&config.upstream), Metrics::new([])) else { return };
    let stored = match Resolver::new(upstream, Arc::new(metrics)).stored_addresses().await {
        Ok(stored) => stored,
        Err(error) => return report.warn(CHECK, format!("its secrets cannot be listed: {error}"), "MLflow's log"),
    };
    let hosts = &config.authz.provider_hosts;
    let refused: Vec<_> = stored.iter().filter(|(_, address)| hosts.check(address).is_err()).collect();
    if refused.is_empty() {
        return report.ok(CHECK, "every stored address is allowed by authz.provider_hosts");
    }
    for (what, address) in refused {
        let address: String = address.chars().filter(|c| !c.is_control()).take(128).collect();
        report.warn(
            CHECK,
            format!("{what} refers to {address}, which authz.provider_hosts does not allow: its use is refused"),
            "authz.provider_hosts, if MLflow is meant to connect there; otherwise delete it in MLflow",
        );
    }
}

fn around(config: &Config, url: &str, report: &mut Report) {
    const CHECK: &str = "access past the proxy";
    if config::is_loopback(&config.upstream.url) {
        return report
            .ok(CHECK, "upstream.url is a loopback address; make sure that MLflow listens on no other address");
    }
    report.warn(
        CHECK,
        format!("{url} answers without credentials: clients that can reach it bypass the proxy"),
        "MLflow's `--host`, the network policy or the firewall: only the proxy may reach that port",
    );
}
