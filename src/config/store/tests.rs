use super::*;

fn postgres(url: &str) -> PostgresUrl {
    match StoreUrl::parse(url) {
        Ok(StoreUrl::Postgres(url)) => url,
        other => panic!("{url}: {other:?}"),
    }
}

#[test]
fn a_url_of_postgresql_has_a_user_a_host_and_a_database() {
    let url = postgres("postgres://proxy%40x@db.example:6432/mlflow_auth?sslmode=verify-full&sslrootcert=/etc/ca.pem");
    assert_eq!((url.user.as_str(), url.host.as_str(), url.port), ("proxy@x", "db.example", 6432));
    assert_eq!((url.database.as_str(), url.ssl_mode), ("mlflow_auth", SslMode::VerifyFull));
    assert_eq!(url.ssl_root_cert, Some("/etc/ca.pem".into()));
    let local = postgres("postgresql://u@[::1]/d");
    assert_eq!((local.host.as_str(), local.port, local.ssl_mode), ("::1", 5432, SslMode::Prefer));
    let socket = postgres("postgres://u@localhost/d?host=/run/postgresql");
    assert_eq!((socket.socket, socket.ssl_mode), (Some("/run/postgresql".into()), SslMode::Prefer));
}

#[test]
fn another_machine_needs_verified_tls_or_an_explicit_weaker_mode() {
    for host in ["db.example", "10.0.0.1", "[2001:db8::1]", "127.0.0.1.example"] {
        let refused = StoreUrl::parse(&format!("postgres://u@{host}/d")).unwrap_err();
        assert!(refused.contains("sslmode=verify-full"), "{host}: {refused}");
        assert_eq!(postgres(&format!("postgres://u@{host}/d?sslmode=disable")).ssl_mode, SslMode::Disable);
    }
    for host in ["localhost", "127.0.0.1", "[::1]"] {
        assert_eq!(postgres(&format!("postgres://u@{host}/d")).ssl_mode, SslMode::Prefer);
    }
}

#[test]
fn what_a_url_lacks_or_has_too_much_is_refused_without_repeating_a_secret() {
    for (url, why) in [
        ("postgres://u:hunter2@localhost/d", "password"),
        ("postgres://u@localhost/d?password=hunter2", "password"),
        ("postgres://localhost/d", "no user"),
        ("postgres://u@localhost", "no database"),
        ("postgres://u@localhost/", "no database"),
        ("postgres://u@localhost/a/b", "no database"),
        ("postgres:///d", "no host"),
        ("postgres://u@localhost/d?options=-c%20a=b", "unknown parameter"),
        ("postgres://u@localhost/d?hunter2", "unknown parameter"),
        ("postgres://u@localhost/d?sslmode=hunter2", "unknown sslmode"),
        ("postgres://u@localhost/d?sslmode=allow", "unknown sslmode"),
        ("postgres://u@localhost/d?sslmode=require&sslmode=disable", "twice"),
        ("postgres://u@localhost/d?sslcert=/a", "both"),
        ("postgres://u@db.example/d?host=/run", "two hosts"),
        ("postgres://u@localhost/d?host=db", "directory of a socket"),
        ("postgres://u@localhost/d#x", "`#`"),
        ("postgres://u@localhost:99999/d", "not a URL"),
        ("sqlite://", "must name a file"),
        ("sqlite://x.db?mode=memory", "without parameters"),
        ("mysql://u@localhost/d", "sqlite:// or postgres://"),
        ("", "sqlite:// or postgres://"),
    ] {
        let refused = StoreUrl::parse(url).unwrap_err();
        assert!(refused.contains(why) && !refused.contains("hunter2"), "{url}: {refused}");
    }
}
