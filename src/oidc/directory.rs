//! Keycloak's own list of people: who was disabled or deleted, and which groups tokens made now would name.
//!
//! Its admin API, asked with the client's service account. Claims are read from Keycloak's example of the very tokens it
//! would issue, so mappers and settings mean what they mean at a sign-in.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use secrecy::SecretString;
use serde_json::Value;
use url::Url;

use super::claims::{self, ClaimError, Person};
use super::client::{self, PATIENCE};
use super::login::{Error as LoginError, Provider};
use crate::clock::Stopwatch;

/// Why it is not known how somebody is.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no token of the client's service account: {0}")]
    Login(#[from] LoginError),
    #[error("the admin API {0}")]
    Client(#[from] client::Error),
    #[error(
        "the client's service account may not ask: it needs the roles `view-users` and `view-clients` of `realm-management`"
    )]
    Forbidden,
    #[error("the admin API knows no client `{0}`")]
    NoClient(String),
    #[error("the client gives people a `sub` that is not Keycloak's id of them (mapper `{0}`): nobody would be found")]
    OtherSubject(String),
    #[error("the admin API's answer is not Keycloak's")]
    NotUnderstood,
}

impl Error {
    /// A bounded word for logs and metrics.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Login(error) => error.kind(),
            Self::Client(error) => error.kind(),
            Self::Forbidden => "forbidden",
            Self::NoClient(_) | Self::OtherSubject(_) => "client",
            Self::NotUnderstood => "not_understood",
        }
    }
}

/// How somebody is.
#[derive(Debug)]
pub enum Found {
    Deleted,
    Disabled,
    /// As a sign-in now would say.
    Active(Box<Person>),
    /// A sign-in now would be refused for what the claims say.
    Refused(ClaimError),
}

/// The list, open for as long as one token of the service account is good.
#[derive(Debug)]
pub struct Directory<'p> {
    provider: &'p Provider,
    realm: Url,
    /// Keycloak's own id of our client.
    client: String,
    token: SecretString,
    opened: Stopwatch,
    good_for: Duration,
}

impl<'p> Directory<'p> {
    /// Opens the list of `provider`, whose admin API for its realm is at `realm`.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn open(provider: &'p Provider, realm: &Url) -> Result<Self, Error> {
        let opened = Stopwatch::start();
        let (token, expires_in) = provider.own_token().await?;
        let good_for = expires_in.unwrap_or(SHORTEST) * 2 / 3;
        let client = String::new();
        let mut directory = Self { provider, realm: realm.clone(), client, token, opened, good_for };
        directory.client = directory.our_client().await?;
        Ok(directory)
    }

    /// Whether it should be opened anew.
    #[must_use]
    pub fn is_old(&self) -> bool {
        self.opened.elapsed() > self.good_for
    }

    /// How the person of this subject is.
    ///
    /// # Errors
    /// See [`Error`]; nothing is known of them then.
    pub async fn find(&self, subject: &str) -> Result<Found, Error> {
        let user = match self.get(&["users", subject], &[]).await {
            Err(Error::Client(client::Error::Status(StatusCode::NOT_FOUND))) => return Ok(Found::Deleted),
            answer => answer?,
        };
        let is_theirs = user.get("id").and_then(Value::as_str) == Some(subject);
        match user.get("enabled").and_then(Value::as_bool).filter(|_| is_theirs) {
            Some(true) => {}
            Some(false) => return Ok(Found::Disabled),
            None => return Err(Error::NotUnderstood),
        }
        let id_token = self.example("generate-example-id-token", subject).await?;
        let access_token = self.example("generate-example-access-token", subject).await?;
        match claims::read_all(&self.provider.config.claims, &[&id_token, &access_token]) {
            Ok(person) if person.subject == subject => Ok(Found::Active(Box::new(person))),
            Ok(_) => Err(Error::NotUnderstood),
            Err(error) => Ok(Found::Refused(error)),
        }
    }

    /// What such a token would say of this person, were it made now.
    async fn example(&self, kind: &str, subject: &str) -> Result<Value, Error> {
        let scopes = self.provider.config.scopes.join(" ");
        let path = ["clients", &self.client, "evaluate-scopes", kind];
        let claims = self.get(&path, &[("userId", subject), ("scope", &scopes)]).await?;
        if claims.is_object() { Ok(claims) } else { Err(Error::NotUnderstood) }
    }

    async fn our_client(&self) -> Result<String, Error> {
        let client_id = self.provider.config.client_id.as_str();
        let found = self.get(&["clients"], &[("clientId", client_id)]).await?;
        let of_that_name = |client: &&Value| client.get("clientId").and_then(Value::as_str) == Some(client_id);
        let client = found.as_array().ok_or(Error::NotUnderstood)?.iter().find(of_that_name);
        let client = client.ok_or_else(|| Error::NoClient(client_id.to_owned()))?;
        if let Some(mapper) = subject_mapper(client) {
            return Err(Error::OtherSubject(mapper));
        }
        client.get("id").and_then(Value::as_str).map(str::to_owned).ok_or(Error::NotUnderstood)
    }

    async fn get(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Value, Error> {
        let mut url = self.realm.clone();
        url.path_segments_mut().map_err(|()| Error::NotUnderstood)?.pop_if_empty().extend(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let answer = self.provider.remote.client().get(&url, "application/json", Some(&self.token), PATIENCE).await;
        let json: Bytes = answer.map_err(|error| match error {
            client::Error::Status(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => Error::Forbidden,
            error => Error::Client(error),
        })?;
        serde_json::from_slice(&json).map_err(|_| Error::NotUnderstood)
    }
}

/// The mapper of this client that writes `sub`, if one does.
fn subject_mapper(client: &Value) -> Option<String> {
    let mappers = client.get("protocolMappers")?.as_array()?;
    let writes_subject = |mapper: &&Value| {
        let kind = mapper.get("protocolMapper").and_then(Value::as_str).unwrap_or_default();
        let claim = mapper.get("config").and_then(|config| config.get("claim.name")).and_then(Value::as_str);
        kind.contains("pairwise") || claim == Some("sub")
    };
    let mapper = mappers.iter().find(writes_subject)?;
    Some(mapper.get("name").and_then(Value::as_str).unwrap_or("?").to_owned())
}

/// A token whose end is not said is used this long, and a little less.
const SHORTEST: Duration = Duration::from_secs(30);
