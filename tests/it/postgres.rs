//! A PostgreSQL server for tests: that of the variable `MLFLOW_AUTH_PROXY_TEST_POSTGRES`, or one that this process starts.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

/// Creates an empty database and returns its URL, without a password.
pub(crate) async fn database() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let server = tokio::task::spawn_blocking(server).await.unwrap();
    let name = format!("test_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let mut connection = PgConnection::connect(&format!("{server}/postgres")).await.unwrap();
    let create = AssertSqlSafe(format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'"));
    sqlx::raw_sql(create).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    format!("{server}/{name}")
}

/// Returns the URL of the server, without a database.
pub(crate) fn server() -> &'static str {
    static SERVER: OnceLock<(String, Option<Child>)> = OnceLock::new();
    let (url, _) = SERVER.get_or_init(|| match std::env::var("MLFLOW_AUTH_PROXY_TEST_POSTGRES") {
        Ok(url) => (url, None),
        Err(_) => {
            let (url, child) = start();
            (url, Some(child))
        }
    });
    url
}

/// Starts a server that ends with this process: it lives until its standard input is closed.
fn start() -> (String, Child) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/postgres.sh");
    let server = Command::new(script).arg("serve").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut server = server.expect("scripts/postgres.sh runs");
    let mut url = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut url).unwrap();
    assert!(url.starts_with("postgres://"), "scripts/postgres.sh did not start a server; it has said why");
    (url.trim_end().to_owned(), server)
}
