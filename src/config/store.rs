//! The location of the store: an SQLite file, or a database of PostgreSQL.

use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use secrecy::SecretString;
use url::{Host, Url};

use super::checks::is_loopback_host;

/// Settings of the store.
#[derive(Clone, Debug)]
pub struct Store {
    /// `sqlite://path`, `sqlite::memory:` for tests, or `postgres://user@host/database`. Contains no password.
    pub url: String,
    /// Password of the user in a URL of PostgreSQL.
    pub password: Option<SecretString>,
    /// True if the URL is that of PgBouncer in transaction mode: no state of a session outlives a transaction.
    pub pgbouncer: bool,
    /// Database of PostgreSQL on a direct connection, for notifications of changes.
    pub listen_url: Option<PostgresUrl>,
    /// Connections to PostgreSQL. A quarter of them is for changes.
    pub max_connections: u32,
    /// Time that a request waits for a connection to PostgreSQL.
    pub acquire_timeout: Duration,
    /// Time after which a statement of PostgreSQL is cancelled.
    pub statement_timeout: Duration,
    /// Time for which decisions are made from memory while the store cannot be asked for changes.
    pub max_staleness: Duration,
}

impl Store {
    /// Returns default settings for the store at this URL.
    ///
    /// # Errors
    /// Returns the fault of the URL, as the rest of a sentence.
    pub fn at(url: &str) -> Result<Self, String> {
        StoreUrl::parse(url)?;
        Ok(Self {
            url: url.to_owned(),
            password: None,
            pgbouncer: false,
            listen_url: None,
            max_connections: 10,
            acquire_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(10),
            max_staleness: Duration::from_secs(30),
        })
    }
}

/// A parsed location of the store.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum StoreUrl {
    Sqlite(String),
    Postgres(PostgresUrl),
}

/// A parsed `postgres://` URL.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PostgresUrl {
    pub host: String,
    /// Directory of the server's Unix socket, which replaces host and port.
    pub socket: Option<PathBuf>,
    pub port: u16,
    pub user: String,
    pub database: String,
    pub ssl_mode: SslMode,
    /// Certificates to trust in addition to the public authorities.
    pub ssl_root_cert: Option<PathBuf>,
    /// The client's certificate and its private key.
    pub ssl_client: Option<(PathBuf, PathBuf)>,
}

/// Encryption of the connection to PostgreSQL, as in libpq.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SslMode {
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

impl StoreUrl {
    /// Parses the value of `store.url`.
    ///
    /// # Errors
    /// Returns the fault as the rest of a sentence. It contains no part of the URL that could be a password.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(place) = text.strip_prefix("sqlite:") {
            if place.trim_start_matches('/').is_empty() {
                return Err("must name a file, such as sqlite:///var/lib/mlflow-auth-proxy/store.db".to_owned());
            }
            // Parameters could disable properties that the store relies on (`mode=ro`, `mode=memory`, `immutable`).
            if place != ":memory:" && (!place.starts_with("//") || place.contains(['?', '#'])) {
                return Err("must be sqlite://path, without parameters".to_owned());
            }
            return Ok(Self::Sqlite(text.to_owned()));
        }
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            return PostgresUrl::parse(text).map(Self::Postgres);
        }
        Err("must start with sqlite:// or postgres://, such as sqlite:///var/lib/mlflow-auth-proxy/store.db".to_owned())
    }
}

impl PostgresUrl {
    /// Returns true if both URLs lead to the same database through the same server.
    pub(super) fn is_same_place(&self, other: &Self) -> bool {
        let place = |url: &Self| (url.host.clone(), url.socket.clone(), url.port, url.database.clone());
        place(self) == place(other)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|error| format!("is not a URL ({error})"))?;
        if url.password().is_some() {
            return Err("must not contain a password: use store.password_file or store.password".to_owned());
        }
        if url.fragment().is_some() {
            return Err("must not contain `#`".to_owned());
        }
        let mut parameters = Parameters::read(&url)?;
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        if host.is_empty() {
            return Err("names no host, as in postgres://user@host:5432/database".to_owned());
        }
        let socket = parameters.host.take();
        if socket.is_some() && host != "localhost" {
            return Err("names two hosts: write `localhost` before the database, or remove `host`".to_owned());
        }
        let is_local =
            socket.is_some() || Host::parse(url.host_str().unwrap_or_default()).is_ok_and(|it| is_loopback_host(&it));
        let ssl_mode = match parameters.ssl_mode {
            Some(mode) => mode,
            None if is_local => SslMode::Prefer,
            None => {
                return Err(
                    "needs `?sslmode=verify-full`: the host is another machine, and the store's credentials and \
                            contents would be sent to any server that answers; an explicit weaker mode is accepted"
                        .to_owned(),
                );
            }
        };
        let ssl_client = match (parameters.ssl_cert, parameters.ssl_key) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => return Err("needs both `sslcert` and `sslkey`, or neither".to_owned()),
        };
        Ok(Self {
            host: decoded(&host, "host")?,
            socket,
            port: url.port().unwrap_or(5432),
            user: named(decoded(url.username(), "user")?, "user")?,
            database: named(decoded(url.path().trim_start_matches('/'), "database")?, "database")?,
            ssl_mode,
            ssl_root_cert: parameters.ssl_root_cert,
            ssl_client,
        })
    }
}

/// The parameters after `?`.
#[derive(Default)]
struct Parameters {
    host: Option<PathBuf>,
    ssl_mode: Option<SslMode>,
    ssl_root_cert: Option<PathBuf>,
    ssl_cert: Option<PathBuf>,
    ssl_key: Option<PathBuf>,
}

impl Parameters {
    fn read(url: &Url) -> Result<Self, String> {
        let mut read = Self::default();
        for (name, value) in url.query_pairs() {
            let path = PathBuf::from(value.as_ref());
            let is_first = match name.as_ref() {
                "sslmode" => read.ssl_mode.replace(SslMode::parse(&value)?).is_none(),
                "sslrootcert" => read.ssl_root_cert.replace(path).is_none(),
                "sslcert" => read.ssl_cert.replace(path).is_none(),
                "sslkey" => read.ssl_key.replace(path).is_none(),
                "host" if value.starts_with('/') => read.host.replace(path).is_none(),
                "host" => return Err("has a parameter `host` that is not the directory of a socket".to_owned()),
                "password" => {
                    return Err("must not contain a password: use store.password_file or store.password".to_owned());
                }
                // The name is not repeated: in a URL that was put together wrongly it could be part of a password.
                _ => {
                    return Err(
                        "has an unknown parameter; known are sslmode, sslrootcert, sslcert, sslkey and host, the \
                                directory of a socket"
                            .to_owned(),
                    );
                }
            };
            if !is_first {
                return Err(format!("has the parameter `{name}` twice"));
            }
        }
        Ok(read)
    }
}

impl SslMode {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "disable" => Ok(Self::Disable),
            "prefer" => Ok(Self::Prefer),
            "require" => Ok(Self::Require),
            "verify-ca" => Ok(Self::VerifyCa),
            "verify-full" => Ok(Self::VerifyFull),
            _ => {
                Err("has an unknown sslmode; known are verify-full, verify-ca, require, prefer and disable".to_owned())
            }
        }
    }
}

fn decoded(text: &str, part: &str) -> Result<String, String> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(Into::into).map_err(|_| format!("has a {part} that is not UTF-8"))
}

fn named(text: String, part: &str) -> Result<String, String> {
    if text.is_empty() || text.contains(['\0', '/']) {
        return Err(format!("names no {part}, as in postgres://user@host:5432/database"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
