use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::schema::{Schema, environment_name, pattern};
use super::*;

const DEFAULT: &str = include_str!("../../config/default.toml");
const MINIMAL: &str = include_str!("../../config/minimal.toml");

// ---- the annotated default

#[test]
fn the_default_file_names_every_key_and_no_other() {
    let written: BTreeSet<String> = keys_of(DEFAULT).into_iter().map(|(key, _)| pattern(&key)).collect();
    let known: BTreeSet<String> = Schema::new().keys().map(str::to_owned).collect();
    assert_eq!(written, known);
}

#[test]
fn the_default_file_gives_the_variable_of_every_key() {
    for (key, line) in keys_of(DEFAULT) {
        let variable = line.rsplit("# ").next().unwrap();
        assert_eq!(variable, environment_name(&key), "{line}");
    }
}

#[test]
fn the_default_file_says_the_true_defaults() {
    let file = file_with(DEFAULT);
    let (_, from_file) = load_from(&flags(file.path()), &env([])).unwrap();
    let (_, defaults) = load_from(&Flags::default(), &env([])).unwrap();
    let values = |settings: Vec<Setting>| settings.into_iter().map(|s| (s.key, s.value)).collect::<Vec<_>>();
    assert_eq!(values(from_file), values(defaults));
}

#[test]
fn the_minimal_file_is_safe_once_its_certificate_exists() {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = certificate(dir.path());
    let text = MINIMAL
        .replace("/etc/mlflow-auth-proxy/tls.crt", cert.to_str().unwrap())
        .replace("/etc/mlflow-auth-proxy/tls.key", key.to_str().unwrap());
    let config = from_toml(&text).unwrap();
    assert_eq!(config.server.tls.unwrap().cert, cert);
    assert_eq!(config.server.public_url.unwrap().as_str(), "https://mlflow.example.com:8443/");
}

// ---- layers

#[test]
fn the_environment_alone_is_enough() {
    let config = from_env([
        ("MLFLOW_AUTH_PROXY_UPSTREAM__URL", "http://mlflow:5000"),
        ("MLFLOW_AUTH_PROXY_SERVER__LISTEN", "0.0.0.0:80"),
        ("MLFLOW_AUTH_PROXY_SERVER__ALLOW_PLAIN_HTTP", "true"),
        ("MLFLOW_AUTH_PROXY_SERVER__TRUSTED_PROXIES", "10.0.0.0/8, 192.168.1.7"),
        ("MLFLOW_AUTH_PROXY_SERVER__MAX_HEADERS", "50"),
        ("MLFLOW_AUTH_PROXY_BOOTSTRAP__ADMIN_PASSWORD", "0123456789012"),
        ("MLFLOW_AUTH_PROXY_AUTHZ__DEFAULT_PERMISSION", "READ"),
        ("UNRELATED", "x"),
    ])
    .unwrap();
    assert_eq!(config.upstream.url.as_str(), "http://mlflow:5000/");
    assert_eq!(config.server.listen.to_string(), "0.0.0.0:80");
    assert_eq!(config.server.trusted_proxies.len(), 2);
    assert_eq!(config.server.max_headers, 50);
    assert!(config.bootstrap.admin_password.is_some(), "digits are a password too");
    assert_eq!(config.authz.default_permission, Permission::Read);
}

#[test]
fn identity_providers_come_from_the_environment_alone() {
    let config = from_env([
        ("MLFLOW_AUTH_PROXY_SERVER__PUBLIC_URL", "http://localhost:8080"),
        ("MLFLOW_AUTH_PROXY_OIDC__PROVIDERS__KEYCLOAK__ISSUER", "http://localhost:8081/realms/mlflow"),
        ("MLFLOW_AUTH_PROXY_OIDC__PROVIDERS__KEYCLOAK__CLIENT_ID", "mlflow"),
        ("MLFLOW_AUTH_PROXY_OIDC__PROVIDERS__KEYCLOAK__CLIENT_SECRET", "12345"),
        ("MLFLOW_AUTH_PROXY_OIDC__PROVIDERS__KEYCLOAK__GROUPS_CLAIMS", r#"["groups","realm_access.roles"]"#),
        ("MLFLOW_AUTH_PROXY_OIDC__PROVIDERS__KEYCLOAK__GROUPS_PREFIXES", r#"["", "role:"]"#),
        ("MLFLOW_AUTH_PROXY_OIDC__PROVIDERS__KEYCLOAK__ADMIN_GROUPS", "/ml/admins"),
        ("MLFLOW_AUTH_PROXY_JWT__ISSUERS__CI__ISSUER", "https://ci.example.com"),
        ("MLFLOW_AUTH_PROXY_JWT__ISSUERS__CI__AUDIENCES", r#"["mlflow"]"#),
        (
            "MLFLOW_AUTH_PROXY_JWT__ISSUERS__CI__MACHINES",
            r#"[{ where = { azp = "ci-*" }, name = "{azp}", groups = ["/ml/ci"] }]"#,
        ),
        ("MLFLOW_AUTH_PROXY_AUTHZ__POLICY_FILE", "/etc/policy.toml"),
    ])
    .unwrap();
    let provider = &config.providers[0];
    assert_eq!((provider.name.as_str(), provider.client_id.as_str()), ("keycloak", "mlflow"));
    assert!(provider.client_secret.is_some(), "digits are a secret too");
    assert_eq!(provider.claims.groups[1], GroupSource { claim: "realm_access.roles".into(), prefix: "role:".into() });
    assert_eq!(provider.claims.admin, ["/ml/admins"]);
    let discovery = "http://localhost:8081/realms/mlflow/.well-known/openid-configuration";
    assert_eq!(provider.endpoint.discovery_url.as_str(), discovery);
    let issuer = &config.issuers[0];
    assert_eq!((issuer.name.as_str(), issuer.audiences.as_slice()), ("ci", ["mlflow".to_owned()].as_slice()));
    assert_eq!(issuer.machines[0].groups, ["/ml/ci"]);
    assert_eq!(config.authz.policy_file.as_deref(), Some(Path::new("/etc/policy.toml")));
}

#[test]
fn every_problem_of_a_provider_is_told_under_its_own_key() {
    let problems = from_env([
        ("MLFLOW_AUTH_PROXY_OIDC__PROVIDERS__KC__ISSUER", "http://keycloak.example.com/realms/x"),
        ("MLFLOW_AUTH_PROXY_OIDC__PROVIDERS__KC__SCOPES", "email"),
        ("MLFLOW_AUTH_PROXY_OIDC__PROVIDERS__KC__ALGORITHMS", "RS256,HS256"),
        ("MLFLOW_AUTH_PROXY_JWT__ISSUERS__KC__ISSUER", "https://keycloak.example.com/realms/x"),
        ("MLFLOW_AUTH_PROXY_JWT__ISSUERS__KC__MACHINES", "ci"),
        ("MLFLOW_AUTH_PROXY_SESSION__KEYS", "k1:not-a-key"),
        ("MLFLOW_AUTH_PROXY_OIDC__PROVIDERS__KC__CLIENTSECRET", "hidden-value"),
    ])
    .unwrap_err();
    let said = problems.to_string();
    for key in [
        "oidc.providers.kc.issuer: must be https",
        "oidc.providers.kc.client_id: is missing",
        "oidc.providers.kc.scopes: must contain `openid`",
        "oidc.providers.kc.algorithms: `HS256` must be one of",
        "jwt.issuers.kc.audiences: must contain",
        "jwt.issuers.kc.machines: must be a list of tables",
        "session.keys: each key must be ID:BASE64",
        "oidc.providers.kc.clientsecret: there is no variable",
    ] {
        assert!(said.contains(key), "{key} is not in\n{said}");
    }
    assert!(!said.contains("not-a-key") && !said.contains("hidden-value"), "{said}");
}

#[test]
fn nothing_at_all_gives_the_defaults() {
    let config = from_env([]).unwrap();
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.admin.listen.to_string(), "127.0.0.1:9090");
    assert_eq!(config.upstream.pool_idle_timeout, Duration::from_millis(4000));
    assert_eq!(config.server.max_body_bytes, 16 * 1024 * 1024);
    assert_eq!(config.authz.default_permission, Permission::NoPermissions);
    assert_eq!(config.log.format, LogFormat::Json);
}

#[test]
fn file_then_environment_then_flags() {
    let file = file_with("[log]\nlevel = \"warn\"\nformat = \"text\"\naccess = false\n");
    let flags = Flags { config: Some(file.path().to_owned()), set: vec![("log.level".into(), "trace".into())] };
    let environment = env([("MLFLOW_AUTH_PROXY_LOG__LEVEL", "debug"), ("MLFLOW_AUTH_PROXY_LOG__ACCESS", "true")]);
    let (config, settings) = load_from(&flags, &environment).unwrap();
    assert_eq!((config.log.level.as_str(), config.log.access, config.log.format), ("trace", true, LogFormat::Text));
    let origin = |key: &str| settings.iter().find(|s| s.key == key).unwrap().origin.clone();
    assert_eq!(origin("log.level"), Some(Origin::Flag("log.level".into())));
    assert_eq!(origin("log.access"), Some(Origin::Environment("MLFLOW_AUTH_PROXY_LOG__ACCESS".into())));
    assert_eq!(origin("log.format"), Some(Origin::File(file.path().to_owned())));
    assert_eq!(origin("log.user_names"), None);
}

#[test]
fn the_file_may_be_named_by_the_environment() {
    let file = file_with("[log]\nlevel = \"warn\"\n");
    let environment = env([("MLFLOW_AUTH_PROXY_CONFIG", file.path().to_str().unwrap())]);
    assert_eq!(load_from(&Flags::default(), &environment).unwrap().0.log.level, "warn");
}

#[test]
fn kubernetes_service_links_are_not_ours() {
    from_env([
        ("MLFLOW_AUTH_PROXY_SERVICE_HOST", "10.0.0.1"),
        ("MLFLOW_AUTH_PROXY_SERVICE_PORT_HTTP", "80"),
        ("MLFLOW_AUTH_PROXY_PORT", "tcp://10.0.0.1:80"),
        ("MLFLOW_AUTH_PROXY_PORT_80_TCP", "tcp://10.0.0.1:80"),
        ("MLFLOW_AUTH_PROXY_PORT_80_TCP_ADDR", "10.0.0.1"),
        ("MLFLOW_AUTH_PROXY_ADMIN_SERVICE_HOST", "10.0.0.2"),
    ])
    .unwrap();
    refused([("MLFLOW_AUTH_PROXY_PORT", "8080")], "port: there is no variable MLFLOW_AUTH_PROXY_PORT");
}

// ---- problems

#[test]
fn all_problems_are_reported_at_once() {
    let file = file_with(
        "[server]\nlisten = 8080\nmax_headers = -1\ntsl.cert = \"x\"\n[upstream]\nurl = \"ftp://x\"\n[logs]\nlevel = 1\n",
    );
    let environment = env([
        ("MLFLOW_AUTH_PROXY_SERVER_LISTEN", "127.0.0.1:1"),
        ("MLFLOW_AUTH_PROXY_LOG__ACCESS", "maybe"),
        ("MLFLOW_AUTH_PROXY_AUTHN__HASH_QUEUE", "0"),
    ]);
    let problems = load_from(&flags(file.path()), &environment).unwrap_err();
    let text = problems.to_string().replace(file.path().to_str().unwrap(), "FILE");
    insta::assert_snapshot!(text);
}

#[test]
fn each_wrong_value_is_refused_under_its_key() {
    let public = "MLFLOW_AUTH_PROXY_SERVER__PUBLIC_URL";
    let upstream = "MLFLOW_AUTH_PROXY_UPSTREAM__URL";
    let password = "MLFLOW_AUTH_PROXY_BOOTSTRAP__ADMIN_PASSWORD";
    let set = "MLFLOW_AUTH_PROXY_SERVER__";
    refused([("MLFLOW_AUTH_PROXY_SERVER__LISTEN", "0.0.0.0:8080")], "server.listen: would send passwords in plain");
    refused([("MLFLOW_AUTH_PROXY_SERVER__LISTEN", "[::]:8080")], "server.listen: would send passwords in plain");
    refused([("MLFLOW_AUTH_PROXY_SERVER__LISTEN", "localhost")], "server.listen: must be an IP address and a port");
    refused([("MLFLOW_AUTH_PROXY_SERVER__LISTEN", "")], "server.listen: is empty");
    refused([(public, "http://mlflow.example.com/mlflow")], "server.public_url: must end after host and port");
    refused([(public, "http://mlflow.example.com/?a=b")], "server.public_url: must end after host and port");
    refused([(public, "http://u:p@mlflow.example.com")], "server.public_url: must not contain a user name");
    refused([(public, "https://mlflow.example.com")], "server.public_url: is https, but nothing terminates TLS");
    refused([(upstream, "http://u:p@mlflow:5000")], "upstream.url: must not contain a user name");
    refused([(upstream, "http://mlflow:5000/base")], "upstream.url: must end after host and port");
    refused([(upstream, "mlflow:5000")], "upstream.url: must start with http:// or https://");
    refused([(upstream, "http://localhost:8080")], "upstream.url: is the address that this proxy listens on");
    refused([(password, "short")], "bootstrap.admin_password: must have at least 12 characters");
    refused([(password, "mlap_0123456789")], "bootstrap.admin_password: must not start with `mlap_`");
    refused([("MLFLOW_AUTH_PROXY_BOOTSTRAP__ADMIN_USERNAME", "a:b")], "bootstrap.admin_username: must not contain `:`");
    refused([("MLFLOW_AUTH_PROXY_ADMIN__LISTEN", "127.0.0.1:8080")], "admin.listen: must be a port other");
    let store = "MLFLOW_AUTH_PROXY_STORE__URL";
    refused([(store, "mysql://u@db/x")], "store.url: must start with sqlite:// or postgres://");
    refused([(store, "postgres://u:p@db/x")], "store.url: must not contain a password");
    refused([(store, "postgres://u@db/x")], "store.url: needs `?sslmode=verify-full`");
    refused([("MLFLOW_AUTH_PROXY_STORE__PASSWORD", "a password")], "store.password: has no effect on an SQLite file");
    let (pgbouncer, listen) = ("MLFLOW_AUTH_PROXY_STORE__PGBOUNCER", "MLFLOW_AUTH_PROXY_STORE__LISTEN_URL");
    let (there, direct) = ((store, "postgres://u@127.0.0.1:6432/x"), "postgres://u@127.0.0.1:5432/x");
    refused([(pgbouncer, "true")], "store.pgbouncer: has no effect on an SQLite file");
    refused([(listen, direct)], "store.listen_url: has no effect on an SQLite file");
    refused([there, (pgbouncer, "true"), (listen, there.1)], "store.listen_url: is the database of PgBouncer");
    refused([there, (listen, "postgres://u:p@127.0.0.1/x")], "store.listen_url: must not contain a password");
    refused([there, (listen, "postgres://u@db/x")], "store.listen_url: needs `?sslmode=verify-full`");
    refused([there, (listen, "sqlite://x.db")], "store.listen_url: must start with postgres://");
    assert!(from_env([there, (pgbouncer, "true"), (listen, direct)]).is_ok());
    let (days, folder) = ("MLFLOW_AUTH_PROXY_AUDIT__RETENTION_DAYS", "MLFLOW_AUTH_PROXY_AUDIT__EXPORT_BEFORE_DELETE");
    refused([(days, "36501")], "audit.retention_days: must be between 0 and 36500");
    refused([(folder, "/nowhere/at/all")], "audit.export_before_delete: /nowhere/at/all is not a folder; create it");
    refused([(folder, "/"), (days, "0")], "audit.export_before_delete: has no effect while audit.retention_days is 0");
    refused([("MLFLOW_AUTH_PROXY_STORE__MAX_CONNECTIONS", "1")], "store.max_connections: must be between 2 and");
    refused([("MLFLOW_AUTH_PROXY_AUTHZ__DEFAULT_PERMISSION", "NONE")], "authz.default_permission: `NONE` is not a");
    refused([("MLFLOW_AUTH_PROXY_AUTHZ__ARTIFACT_LOCATIONS", "s3://b/../")], "authz.artifact_locations: `s3://b/../`");
    refused([("MLFLOW_AUTH_PROXY_LOG__LEVEL", "inof")], "log.level: `inof` is not a log filter");
    refused(
        [(&format!("{set}TRUSTED_PROXIES"), "0.0.0.0/0")],
        "server.trusted_proxies: `0.0.0.0/0` contains all addresses",
    );
    refused([(&format!("{set}TRUSTED_PROXIES"), "10.0.0.0/99")], "server.trusted_proxies: `10.0.0.0/99` is not");
    refused([(&format!("{set}ALLOWED_HOSTS"), "a.example")], "server.allowed_hosts: has no effect without");
    refused([(&format!("{set}MAX_CONNECTIONS"), "0")], "server.max_connections: must be between 1 and");
    refused([(&format!("{set}IDLE_TIMEOUT_SECONDS"), "0")], "server.idle_timeout_seconds: must be between 1 and");
    refused([(&format!("{set}TLS__CERT"), "/nowhere")], "server.tls.key: is missing");
    refused([(&format!("{set}TLS__KEY"), "/nowhere")], "server.tls.cert: is missing");
    refused([("MLFLOW_AUTH_PROXY_CONFIG", "/nowhere")], "config: /nowhere cannot be read");
    refused([("MLFLOW_AUTH_PROXY_server__LISTEN", "127.0.0.1:1")], "did you mean MLFLOW_AUTH_PROXY_SERVER__LISTEN?");
}

#[test]
fn certificate_and_key_must_be_readable_and_belong_together() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (cert, key) = certificate(one.path());
    let (_, foreign) = certificate(other.path());
    let text = |cert: &Path, key: &Path| {
        format!(
            "[server]\nlisten = \"0.0.0.0:1\"\ntls.cert = {cert:?}\ntls.key = {key:?}\npublic_url = \"https://a.b\""
        )
    };
    from_toml(&text(&cert, &key)).unwrap();
    let problem = |cert: &Path, key: &Path| from_toml(&text(cert, key)).unwrap_err().to_string();
    assert!(problem(&cert, &foreign).contains("server.tls.key: does not belong to the first certificate"));
    assert!(problem(&key, &key).contains("server.tls.cert: "));
    assert!(problem(&cert, &cert).contains("server.tls.key: "));
    assert!(problem(&one.path().join("none"), &key).contains("server.tls.cert: "));
    let plain = text(&cert, &key).replace("https:", "http:");
    assert!(from_toml(&plain).unwrap_err().to_string().contains("server.public_url: is http, but server.tls is set"));
}

// ---- secrets

#[test]
fn a_secret_may_come_from_a_file_without_its_last_line_end() {
    let file = file_with("correct horse battery\n");
    let config = from_env([("MLFLOW_AUTH_PROXY_BOOTSTRAP__ADMIN_PASSWORD_FILE", file.path().to_str().unwrap())]);
    let password = config.unwrap().bootstrap.admin_password.unwrap();
    assert_eq!(secrecy::ExposeSecret::expose_secret(&password), "correct horse battery");
    refused(
        [("MLFLOW_AUTH_PROXY_BOOTSTRAP__ADMIN_PASSWORD_FILE", "/nowhere")],
        "bootstrap.admin_password_file: /nowhere cannot be read",
    );
    refused(
        [
            ("MLFLOW_AUTH_PROXY_BOOTSTRAP__ADMIN_PASSWORD_FILE", file.path().to_str().unwrap()),
            ("MLFLOW_AUTH_PROXY_BOOTSTRAP__ADMIN_PASSWORD", "correct horse battery"),
        ],
        "bootstrap.admin_password: is given twice",
    );
}

#[test]
fn no_message_and_no_listing_shows_a_secret() {
    let secret = "hunter2";
    let given = |text: &str| from_toml(text).unwrap_err();
    let problems = [
        given(&format!("[bootstrap]\nadmin_password = {secret}\n")),
        given(&format!("[bootstrap]\nadmin_password = [\"{secret}\"]\n")),
        given(&format!("[bootstrap]\nadmin_password = \"{secret}\"\n")),
        given(&format!("[upstream]\nurl = \"http://me:{secret}@host\"\n")),
        given(&format!("[store]\nurl = \"postgres://me:{secret}@host\"\n")),
        load_from(
            &Flags { config: None, set: vec![("bootstrap.admin_password".into(), format!("{secret}{secret}"))] },
            &env([]),
        )
        .unwrap_err(),
    ];
    for problem in problems {
        assert!(!format!("{problem} {problem:?}").contains(secret), "{problem}");
    }
    let long = "hunter2hunter2";
    let environment = env([("MLFLOW_AUTH_PROXY_BOOTSTRAP__ADMIN_PASSWORD", long)]);
    let (config, settings) = load_from(&Flags::default(), &environment).unwrap();
    assert!(!format!("{config:?} {settings:?}").contains(long));
    assert!(settings.iter().any(|s| s.key == "bootstrap.admin_password" && s.value == "[redacted]"));
}

// ---- the way out

fn way(variables: &[(&str, &str)], to: &str) -> String {
    let egress = Egress::of(&variables.iter().copied().collect());
    match egress.way_to(&to.parse().unwrap()) {
        Way::Straight => "straight".to_owned(),
        Way::Through(proxy) => proxy.uri.to_string(),
        Way::Barred(variable) => variable.to_owned(),
    }
}

#[test]
fn the_way_out_is_what_https_proxy_names() {
    let keycloak = "https://keycloak.example/x";
    for (variables, to, expected) in [
        (vec![], keycloak, "straight"),
        (vec![("HTTPS_PROXY", "http://out:3128")], keycloak, "http://out:3128/"),
        (vec![("HTTPS_PROXY", " http://out:3128/\n")], keycloak, "http://out:3128/"),
        (vec![("https_proxy", "out:3128")], "https://keycloak.example:8443/x", "http://out:3128/"),
        (vec![("HTTPS_PROXY", ""), ("https_proxy", "http://out")], keycloak, "http://out:80/"),
        (vec![("HTTPS_PROXY", "http://[::2]:3128")], keycloak, "http://[::2]:3128/"),
        // Only TLS, whose end is the provider's, and nothing on this machine.
        (vec![("HTTPS_PROXY", "http://out"), ("HTTP_PROXY", "http://out")], "http://keycloak.example/", "straight"),
        (vec![("HTTP_PROXY", "http://out"), ("ALL_PROXY", "http://out")], keycloak, "straight"),
        (vec![("HTTPS_PROXY", "http://out")], "https://localhost:8443/", "straight"),
        (vec![("HTTPS_PROXY", "http://out")], "https://LOCALHOST./", "straight"),
        (vec![("HTTPS_PROXY", "http://out")], "https://127.8.8.8/", "straight"),
        (vec![("HTTPS_PROXY", "http://out")], "https://[::1]/", "straight"),
        (vec![("HTTPS_PROXY", "http://out")], "https://[::ffff:127.0.0.1]/", "straight"),
    ] {
        assert_eq!(way(&variables, to), expected, "{variables:?} {to}");
    }
}

#[test]
fn a_proxy_that_is_none_bars_the_way_and_shows_no_password() {
    for proxy in [
        "socks5://out:1080",
        "https://ann:hidden@out:3128",
        "http://",
        "http://:3128",
        "a b",
        "http://out:99999",
        "http://out:abc",
        "http://out:3128/path",
        "http://out:3128?hidden",
        "http://ann:hid/den@out:3128",
        "http://ann:12/hidden@out:3128",
        "http://ann:12/hidden@out:3128/..",
        "http://ann:hid\tden@out:3128",
        "http://ann:hid\\den@out:3128",
        "http://ann:hid#den@out:3128",
    ] {
        assert_eq!(way(&[("HTTPS_PROXY", proxy)], "https://keycloak.example/"), "HTTPS_PROXY", "{proxy}");
        let straight = [("https_proxy", proxy), ("NO_PROXY", "keycloak.example")];
        assert_eq!(way(&straight, "https://keycloak.example/"), "straight", "{proxy}");
    }
    for (proxy, credential) in [
        ("http://ann:p%40ss@out:3128", "Basic YW5uOnBAc3M="),
        ("http://ann:p@ss@out:3128", "Basic YW5uOnBAc3M="),
        ("ann:p@ss@out:3128", "Basic YW5uOnBAc3M="),
        ("http://ann:p%2Fss@out:3128", "Basic YW5uOnAvc3M="),
        ("http://ann@out:3128", "Basic YW5uOg=="),
    ] {
        let egress = Egress::of(&env([("HTTPS_PROXY", proxy)]));
        let Way::Through(found) = egress.way_to(&"https://keycloak.example/".parse().unwrap()) else {
            panic!("{proxy}")
        };
        assert_eq!(found.uri, "http://out:3128/", "{proxy}");
        assert_eq!(found.credential.as_ref().unwrap(), credential, "{proxy}");
        let shown = format!("{egress:?} {found:?}");
        assert!(!shown.contains("ss@") && !shown.contains("ann") && !shown.contains("Basic"), "{shown}");
    }
}

#[test]
fn no_proxy_is_read_as_go_reads_it() {
    for (list, to, straight) in [
        ("keycloak.example", "https://keycloak.example/", true),
        ("KEYCLOAK.example.", "https://Keycloak.Example./", true),
        ("example", "https://keycloak.example/", true),
        (".example", "https://keycloak.example/", true),
        ("*.example", "https://keycloak.example/", true),
        (".keycloak.example", "https://keycloak.example/", false),
        ("*.keycloak.example", "https://keycloak.example/", false),
        ("cloak.example", "https://keycloak.example/", false),
        ("keycloak.example.com", "https://keycloak.example/", false),
        ("a,  keycloak.example ,b", "https://keycloak.example/", true),
        ("a keycloak.example", "https://keycloak.example/", false),
        ("keycloak.example:443", "https://keycloak.example/", true),
        ("keycloak.example:8443", "https://keycloak.example/", false),
        ("keycloak.example:8443", "https://keycloak.example:8443/", true),
        ("keycloak.example:", "https://keycloak.example:8443/", true),
        ("keycloak.example:x", "https://keycloak.example/", false),
        ("keycloak.example:+443", "https://keycloak.example/", false),
        ("keycloak.exampl%65", "https://keycloak.example/", false),
        ("*:443", "https://keycloak.example/", false),
        ("b\u{fc}cher.example", "https://xn--bcher-kva.example/", true),
        ("*", "https://keycloak.example/", true),
        ("*", "https://10.0.0.1/", true),
        ("*", "https://[2001:db8::1]/", true),
        ("10.0.0.0/8", "https://10.1.2.3:8443/", true),
        ("10.0.0.0/8", "https://11.1.2.3/", false),
        ("10.0.0.1", "https://10.0.0.1/", true),
        ("10.0.0.1:8443", "https://10.0.0.1:8443/", true),
        ("10.0.0.1:8443", "https://10.0.0.1/", false),
        ("10.0.0.1", "https://[::ffff:10.0.0.1]/", true),
        ("::ffff:10.0.0.1", "https://10.0.0.1/", true),
        ("192.168.", "https://192.0.0.168/", false),
        ("10", "https://0.0.0.10/", false),
        ("010.0.0.1", "https://8.0.0.1/", false),
        (".8.8.8.8", "https://8.8.8.8/", false),
        ("[10.0.0.1]:443", "https://10.0.0.1/", true),
        ("2001:db8::1", "https://[2001:db8::1]/", true),
        ("[2001:db8::1]", "https://[2001:db8::1]/", true),
        ("[2001:db8::1]:443", "https://[2001:db8::1]/", true),
        ("2001:db8::/32", "https://[2001:db8::1]/", true),
        ("10.0.0.0/8", "https://keycloak.example/", false),
        (", ,:,.,*.,/8,[", "https://keycloak.example/", false),
    ] {
        let found = way(&[("HTTPS_PROXY", "http://out:3128"), ("no_proxy", list)], to);
        assert_eq!(found == "straight", straight, "{list} {to}: {found}");
    }
}

#[test]
fn another_programs_way_out_is_kept_without_our_own_variables() {
    let environment = env([("HTTPS_PROXY", "http://out"), ("MLFLOW_AUTH_PROXY_LOG__LEVEL", "nonsense")]).without_ours();
    let (config, _) = load_from(&Flags::default(), &environment).unwrap();
    assert!(matches!(config.egress.way_to(&"https://keycloak.example/".parse().unwrap()), Way::Through(_)));
}

// ---- tools

fn env<const N: usize>(variables: [(&str, &str); N]) -> Environment {
    variables.into_iter().collect()
}

fn from_env<const N: usize>(variables: [(&str, &str); N]) -> Result<Config, Problems> {
    load_from(&Flags::default(), &env(variables)).map(|(config, _)| config)
}

fn from_toml(text: &str) -> Result<Config, Problems> {
    let file = file_with(text);
    load_from(&flags(file.path()), &env([])).map(|(config, _)| config)
}

#[track_caller]
fn refused<const N: usize>(variables: [(&str, &str); N], expected: &str) {
    let problems = from_env(variables).unwrap_err().to_string();
    assert!(problems.contains(expected), "{problems}");
    assert_eq!(problems.lines().count(), 1, "{problems}");
}

fn flags(config: &Path) -> Flags {
    Flags { config: Some(config.to_owned()), set: Vec::new() }
}

fn file_with(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

fn certificate(dir: &Path) -> (PathBuf, PathBuf) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (cert, key) = (dir.join("tls.crt"), dir.join("tls.key"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    (cert, key)
}

/// The keys of the annotated file, commented examples included, each with its line.
fn keys_of(text: &str) -> Vec<(String, String)> {
    let mut section = String::new();
    let mut found = Vec::new();
    for line in text.lines() {
        let header = line.strip_prefix("# ").unwrap_or(line);
        if let Some(name) = header.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
            section = name.to_owned();
            continue;
        }
        let line = line.strip_prefix("# ").unwrap_or(line);
        let Some((name, _)) = line.split_once(" = ") else { continue };
        if name.chars().all(|c| c.is_ascii_lowercase() || c == '_') {
            found.push((format!("{section}.{name}"), line.to_owned()));
        }
    }
    found
}
