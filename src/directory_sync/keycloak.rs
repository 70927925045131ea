//! Keycloak's list of users: disabled and deleted users, and the groups that new tokens would contain.
//!
//! Uses the admin API with the client's service account. Claims are read from Keycloak's example of the tokens that it
//! would issue, so mappers and settings have the same effect as at a sign-in.

use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use secrecy::SecretString;
use serde_json::Value;
use url::Url;

use crate::clock::Stopwatch;
use crate::oidc::claims::{self, Standing};
use crate::oidc::client::{self, PATIENCE};
use crate::oidc::{LoginError, Provider};

/// Reason for which the state of a user is unknown.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the client gets no token for its service account: {0}")]
    Login(#[from] LoginError),
    #[error("the admin API {0}")]
    Client(#[from] client::Error),
    #[error("the client's service account has no access: it needs the role `view-users` of `realm-management`")]
    Forbidden,
    #[error("the admin API knows no client `{0}`")]
    NoClient(String),
    #[error(
        "the mapper `{0}` writes a value that exists only during a sign-in into `sub` or a groups claim: users cannot be looked up"
    )]
    Mapper(String),
    /// Concerns one user. The answers about others may still be usable.
    #[error("the admin API's answer about a user is not Keycloak's")]
    NotUnderstood,
}

impl Error {
    /// Returns a word from a bounded set, for logs and metrics.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Login(error) => error.kind(),
            Self::Client(error) => error.kind(),
            Self::Forbidden => "forbidden",
            Self::NoClient(_) | Self::Mapper(_) => "client",
            Self::NotUnderstood => "not_understood",
        }
    }

    /// Returns true if the client has no service account, or one without the required role.
    #[must_use]
    pub const fn is_lack_of_rights(&self) -> bool {
        match self {
            Self::Forbidden | Self::Login(LoginError::Refused(_)) => true,
            Self::Login(_) | Self::Client(_) | Self::NoClient(_) | Self::Mapper(_) | Self::NotUnderstood => false,
        }
    }
}

/// State of a user at the provider.
#[derive(Debug)]
pub enum Found {
    Deleted,
    Disabled,
    /// Enabled. The service account is not allowed to read more.
    Enabled,
    /// Enabled, with the facts that a sign-in would yield now. `name` is `None` if a sign-in would be refused because
    /// of it.
    Active {
        name: Option<String>,
        standing: Standing,
    },
}

/// An open list, usable as long as the service account's token is valid.
#[derive(Debug)]
pub struct Directory<'p> {
    provider: &'p Provider,
    realm: Url,
    token: SecretString,
    /// Keycloak's ID of the client. `None` if the service account is not allowed to read clients; groups are then
    /// unknown.
    client: Option<String>,
    opened: Stopwatch,
    good_for: Duration,
}

impl<'p> Directory<'p> {
    /// Opens the list of `provider`. `realm` is the URL of its admin API for the realm.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn open(provider: &'p Provider, realm: &Url) -> Result<Self, Error> {
        let opened = Stopwatch::start();
        let (token, expires_in) = provider.service_token().await?;
        let good_for = expires_in.unwrap_or(SHORTEST) * 2 / 3;
        let mut directory = Self { provider, realm: realm.clone(), token, client: None, opened, good_for };
        directory.client = match directory.our_client().await {
            Ok(client) => Some(client),
            Err(Error::Forbidden) => None,
            Err(error) => return Err(error),
        };
        Ok(directory)
    }

    /// Returns true if the list should be opened again.
    #[must_use]
    pub fn is_old(&self) -> bool {
        self.opened.elapsed() > self.good_for
    }

    /// Returns true if the list also contains groups.
    #[must_use]
    pub const fn tells_groups(&self) -> bool {
        self.client.is_some()
    }

    /// Looks up the user with this subject.
    ///
    /// # Errors
    /// See [`Error`]. The state of the user is then unknown.
    pub async fn find(&self, subject: &str) -> Result<Found, Error> {
        // In a URL path, these would lead to other resources.
        if matches!(subject, "" | "." | "..") {
            return Err(Error::NotUnderstood);
        }
        let answer = self.ask(&["users", subject], &[]).await?;
        if is_no_user(&answer) {
            return Ok(Found::Deleted);
        }
        let user = understood(&answer)?;
        let is_theirs = user.get("id").and_then(Value::as_str) == Some(subject);
        match user.get("enabled").and_then(Value::as_bool).filter(|_| is_theirs) {
            Some(true) => {}
            Some(false) => return Ok(Found::Disabled),
            None => return Err(Error::NotUnderstood),
        }
        let Some(client) = &self.client else { return Ok(Found::Enabled) };
        let id_token = self.example(client, "generate-example-id-token", subject).await?;
        let access_token = self.example(client, "generate-example-access-token", subject).await?;
        if id_token.get("sub").and_then(Value::as_str) != Some(subject) {
            return Err(Error::NotUnderstood);
        }
        let (rules, documents) = (&self.provider.config.claims, [&id_token, &access_token]);
        let standing = claims::standing(rules, &documents).map_err(|_| Error::NotUnderstood)?;
        let name = claims::read_all(rules, &documents).ok().map(|person| person.name);
        Ok(Found::Active { name, standing })
    }

    /// Returns the claims of a token of this kind, as it would be issued to the user now.
    async fn example(&self, client: &str, kind: &str, subject: &str) -> Result<Value, Error> {
        let scopes = self.provider.config.scopes.join(" ");
        let path = ["clients", client, "evaluate-scopes", kind];
        let claims = self.get(&path, &[("userId", subject), ("scope", &scopes)]).await?;
        if claims.is_object() { Ok(claims) } else { Err(Error::NotUnderstood) }
    }

    async fn our_client(&self) -> Result<String, Error> {
        let client_id = self.provider.config.client_id.as_str();
        let found = self.get(&["clients"], &[("clientId", client_id)]).await?;
        let of_that_name = |client: &&Value| text(client, "clientId") == Some(client_id);
        let client = found.as_array().and_then(|clients| clients.iter().find(of_that_name));
        let client = client.ok_or_else(|| Error::NoClient(client_id.to_owned()))?;
        let scopes = self.get(&["client-scopes"], &[]).await?;
        if let Some(mapper) = self.mappers(client, &scopes).find(|mapper| self.is_strange(mapper)) {
            return Err(Error::Mapper(text(mapper, "name").unwrap_or("?").to_owned()));
        }
        text(client, "id").map(str::to_owned).ok_or_else(|| Error::NoClient(client_id.to_owned()))
    }

    /// Returns the mappers of the client and of the scopes that its tokens have.
    fn mappers<'v>(&self, client: &'v Value, scopes: &'v Value) -> impl Iterator<Item = &'v Value> {
        let default = list(client, "defaultClientScopes").filter_map(Value::as_str);
        let asked = self.provider.config.scopes.iter().map(String::as_str);
        let names: Vec<String> = default.chain(asked).map(str::to_owned).collect();
        let has = move |scope: &&Value| text(scope, "name").is_some_and(|name| names.iter().any(|it| it == name));
        let scopes = scopes.as_array().map(Vec::as_slice).unwrap_or_default().iter().filter(has);
        list(client, "protocolMappers").chain(scopes.flat_map(|scope| list(scope, "protocolMappers")))
    }

    /// Returns true if the claims of this mapper are missing from example tokens, or if it replaces the user ID in
    /// `sub`.
    fn is_strange(&self, mapper: &Value) -> bool {
        let kind = text(mapper, "protocolMapper").unwrap_or_default();
        let claim = mapper.get("config").and_then(|config| text(config, "claim.name")).unwrap_or_default();
        let is_groups = || self.provider.config.claims.groups.iter().any(|source| source.claim == claim);
        kind.contains("pairwise") || claim == "sub" || kind == "oidc-usersessionmodel-note-mapper" && is_groups()
    }

    async fn get(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Value, Error> {
        understood(&self.ask(path, query).await?)
    }

    async fn ask(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Response<Bytes>, Error> {
        let mut url = self.realm.clone();
        url.path_segments_mut().map_err(|()| Error::NotUnderstood)?.pop_if_empty().extend(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let client = self.provider.remote.client();
        Ok(client.get_any(&url, "application/json", Some(&self.token), PATIENCE).await?)
    }
}

/// Returns true if Keycloak answered that the user does not exist. It does so in JSON; a 404 of a server in front of it
/// has another cause.
fn is_no_user(answer: &Response<Bytes>) -> bool {
    let said = || serde_json::from_slice::<Value>(answer.body()).ok();
    let is_said = |json: Value| text(&json, "error").is_some_and(|error| error.eq_ignore_ascii_case("user not found"));
    answer.status() == StatusCode::NOT_FOUND && said().is_some_and(is_said)
}

fn understood(answer: &Response<Bytes>) -> Result<Value, Error> {
    match answer.status() {
        StatusCode::OK => serde_json::from_slice(answer.body()).map_err(|_| Error::NotUnderstood),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(Error::Forbidden),
        status => Err(Error::Client(client::Error::Status(status))),
    }
}

fn text<'v>(object: &'v Value, name: &str) -> Option<&'v str> {
    object.get(name)?.as_str()
}

fn list<'v>(object: &'v Value, name: &str) -> impl Iterator<Item = &'v Value> {
    object.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default().iter()
}

/// Assumed lifetime of a token that does not name one. Two thirds of it are used.
const SHORTEST: Duration = Duration::from_secs(30);
