//! Login at identity providers: authorization URLs, redeeming codes, refreshing tokens and logout.
//!
//! Requests are built by `openidconnect` and sent by the `client` module. Tokens are trusted only after [`token`]
//! verified them.
//!
//! [`token`]: super::token

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use openidconnect::core::{CoreAuthenticationFlow, CoreClient, CoreErrorResponseType, CoreTokenResponse};
use openidconnect::{
    AsyncHttpClient, AuthType, AuthUrl, AuthorizationCode, ClientId, ClientSecret, CsrfToken, EndpointNotSet,
    EndpointSet, HttpRequest, HttpResponse, IssuerUrl, JsonWebKeySet, Nonce, OAuth2TokenResponse as _,
    PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, RefreshToken, RequestTokenError, Scope, StandardErrorResponse,
    TokenResponse as _, TokenUrl,
};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use tokio::sync::Semaphore;
use url::Url;

use super::attempt::Begun;
use super::claims::{self, ClaimError, Person, Standing};
use super::client::{self, PATIENCE};
use super::token::{self, Refusal, Unverified};
use super::{Attempt, Attempts, Remote};
use crate::clock::Clock;
use crate::config::{self, ClientAuth};
use crate::crypto::KeyRing;

/// All providers, and the sign-ins in progress.
#[derive(Debug)]
pub struct Providers {
    all: Vec<Provider>,
    pub attempts: Attempts,
    /// Keys that seal the providers' tokens in the store.
    pub keys: Arc<KeyRing>,
    pub(super) clock: Clock,
}

/// A provider at which users sign in.
#[derive(Debug)]
pub struct Provider {
    pub config: config::Provider,
    pub remote: Arc<Remote>,
    redirect: RedirectUrl,
    /// The page to which the provider redirects after a logout.
    signed_out: Url,
    /// Limits the codes that are redeemed at the same time. Any client can send one, and each costs a request to the
    /// provider.
    redeeming: Semaphore,
    clock: Clock,
}

/// Maximum number of codes that are redeemed at the same time at one provider.
const REDEEMING: usize = 32;

/// Tokens that a provider granted for a code or a refresh token, not yet verified.
#[derive(Debug)]
pub struct Granted {
    id_token: Option<SecretString>,
    access_token: SecretString,
    refresh_token: Option<SecretString>,
    /// Lifetime of the access token.
    pub expires_in: Option<Duration>,
}

/// Information about a signed-in user from a refresh.
#[derive(Debug)]
pub enum Stayed {
    Person(Person),
    /// Groups without a name, from the userinfo endpoint.
    Standing(Standing),
    /// Neither an ID token nor groups from the userinfo endpoint.
    Unsaid,
}

/// The tokens that are stored, sealed, with a session.
#[derive(Clone, Debug, Default)]
pub struct Tokens {
    /// Identifies the session that the provider ends at logout.
    pub id_token: Option<SecretString>,
    pub refresh_token: Option<SecretString>,
}

/// Reason for which a login or a refresh failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the provider's description was never read")]
    NotReady,
    #[error("the provider {0}")]
    Unreachable(#[source] client::Error),
    /// The provider answered with an OAuth 2.0 error.
    #[error("the provider refused: {0}")]
    Refused(Refused),
    #[error("the provider's answer does not follow OAuth 2.0")]
    NotUnderstood,
    #[error("there is no ID token in the provider's answer")]
    NoIdToken,
    #[error("the ID token was refused: {0}")]
    Token(#[from] Refusal),
    #[error("the claims do not identify a user: {0}")]
    Claims(#[from] ClaimError),
    #[error("the refreshed token belongs to another user")]
    SomebodyElse,
}

/// Classes of OAuth 2.0 errors.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refused {
    /// `invalid_grant` or one of [`SIGN_IN_AGAIN`]: the code or token is permanently unusable.
    Grant,
    /// `invalid_grant` because the user is disabled or deleted, recognized by Keycloak's texts in [`PERSON_GONE`].
    Person,
    /// `invalid_client` or `unauthorized_client`: the proxy's client is misconfigured. Not caused by the user.
    Client,
    /// Any other error.
    Request,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Grant => "the code or token is not valid (any more)",
            Self::Person => "the user is disabled or deleted there",
            Self::Client => "it does not recognise the client: check client_id, client_secret and client_auth",
            Self::Request => "the request",
        })
    }
}

impl Error {
    /// Returns a word from a bounded set, for logs and metrics.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::NotReady => "not_ready",
            Self::Unreachable(error) => error.kind(),
            Self::Refused(Refused::Grant) => "invalid_grant",
            Self::Refused(Refused::Person) => "user_disabled",
            Self::Refused(Refused::Client) => "invalid_client",
            Self::Refused(Refused::Request) => "refused",
            Self::NotUnderstood => "not_understood",
            Self::NoIdToken => "no_id_token",
            Self::Token(_) => "id_token",
            Self::Claims(_) => "claims",
            Self::SomebodyElse => "somebody_else",
        }
    }
}

/// A refusal with the provider's own description of it, for diagnosis only.
#[derive(Debug)]
pub struct Failure {
    pub error: Error,
    /// Its `error_description` (RFC 6749 §5.2); empty when it sent none.
    pub words: String,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, words: String::new() }
    }
}

type Client = CoreClient<EndpointSet, EndpointNotSet, EndpointNotSet, EndpointNotSet, EndpointSet>;
type Answer = Result<CoreTokenResponse, RequestTokenError<client::Error, StandardErrorResponse<CoreErrorResponseType>>>;

impl Providers {
    /// Creates the configured providers, whose redirects lead back to `pages_url`.
    ///
    /// # Errors
    /// Returns an error if a provider is configured without `pages_url`, or if a redirect URL cannot be built.
    pub fn new<'c>(
        configured: impl IntoIterator<Item = (&'c config::Provider, Arc<Remote>)>,
        pages_url: Option<&Url>,
        keys: Arc<KeyRing>,
        clock: &Clock,
    ) -> std::io::Result<Self> {
        let provider = |(config, remote)| {
            let pages_url = pages_url.ok_or_else(|| std::io::Error::other("server.public_url is not set"))?;
            Provider::new(config, remote, pages_url, clock)
        };
        let all = configured.into_iter().map(provider).collect::<Result<_, _>>()?;
        Ok(Self { all, attempts: Attempts::new(Arc::clone(&keys), clock.clone()), keys, clock: clock.clone() })
    }

    /// Returns the provider with this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Provider> {
        self.all.iter().find(|provider| provider.config.name == name)
    }

    /// Returns the providers in configured order.
    pub fn iter(&self) -> impl Iterator<Item = &Provider> {
        self.all.iter()
    }
}

impl Provider {
    fn new(config: &config::Provider, remote: Arc<Remote>, pages_url: &Url, clock: &Clock) -> std::io::Result<Self> {
        let base = pages_url.as_str().trim_end_matches('/');
        let at = |path: &str| Url::parse(&format!("{base}{path}")).map_err(std::io::Error::other);
        Ok(Self {
            remote,
            redirect: RedirectUrl::from_url(at(&format!("/auth/callback/{}", config.name))?),
            signed_out: at("/auth/signed-out")?,
            redeeming: Semaphore::new(REDEEMING),
            config: config.clone(),
            clock: clock.clone(),
        })
    }

    /// Returns the URL at the provider to which the browser is redirected to sign in.
    ///
    /// # Errors
    /// [`Error::NotReady`] if the provider's metadata was never read or does not contain the required endpoints.
    pub async fn sign_in_at(&self, begun: &Begun) -> Result<Url, Error> {
        let client = self.client().await?;
        let verifier = PkceCodeVerifier::new(begun.attempt.verifier.clone());
        let (state, nonce) = (begun.state.clone(), begun.attempt.nonce.clone());
        let scopes = self.config.scopes.iter().filter(|scope| *scope != "openid").cloned().map(Scope::new);
        let (url, _, _) = client
            .authorize_url(
                CoreAuthenticationFlow::AuthorizationCode,
                move || CsrfToken::new(state),
                move || Nonce::new(nonce),
            )
            .add_scopes(scopes)
            .set_pkce_challenge(PkceCodeChallenge::from_code_verifier_sha256(&verifier))
            .url();
        Ok(url)
    }

    /// Returns true if the `iss` of an authorization response is this provider's (RFC 9207). It may be missing only if
    /// the provider's metadata does not announce it.
    #[must_use]
    pub fn is_sender(&self, iss: Option<&str>) -> bool {
        match iss {
            Some(iss) => iss == self.config.endpoint.issuer,
            None => !self.remote.metadata().is_some_and(|metadata| metadata.sends_iss),
        }
    }

    /// Redeems an authorization code.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn redeem(&self, code: &str, attempt: &Attempt) -> Result<Granted, Error> {
        self.try_code(code, attempt).await.map_err(|failure| failure.error)
    }

    /// Redeems a code as [`Self::redeem`] does, and returns a refusal in the provider's words.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn try_code(&self, code: &str, attempt: &Attempt) -> Result<Granted, Failure> {
        let _turn = self.redeeming.try_acquire().map_err(|_| Error::NotReady)?;
        let client = self.client().await?;
        let request = client
            .exchange_code(AuthorizationCode::new(code.to_owned()))
            .set_pkce_verifier(PkceCodeVerifier::new(attempt.verifier.clone()));
        granted(request.request_async(&Sure(self.remote.client())).await)
    }

    /// Uses a refresh token. Afterwards the token may be invalid, regardless of the result.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn refresh(&self, refresh_token: &SecretString) -> Result<Granted, Error> {
        let client = self.client().await?;
        let token = RefreshToken::new(refresh_token.expose_secret().to_owned());
        let answer = client.exchange_refresh_token(&token).request_async(&Sure(self.remote.client())).await;
        granted(answer).map_err(|failure| failure.error)
    }

    /// Requests an access token for the client itself (RFC 6749 §4.4). Returns it with its lifetime.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn service_token(&self) -> Result<(SecretString, Option<Duration>), Error> {
        self.try_service_token().await.map_err(|failure| failure.error)
    }

    /// Returns what [`Self::service_token`] does, or a refusal in the provider's words.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn try_service_token(&self) -> Result<(SecretString, Option<Duration>), Failure> {
        let client = self.client().await?;
        let granted = granted(client.exchange_client_credentials().request_async(&Sure(self.remote.client())).await)?;
        Ok((granted.access_token, granted.expires_in))
    }

    /// Returns the user who signed in, from the ID token and the additional claims of the access token.
    ///
    /// # Errors
    /// [`Error::NoIdToken`], [`Error::Token`], [`Error::Claims`].
    pub async fn who_came(&self, granted: &Granted, attempt: &Attempt) -> Result<Person, Error> {
        let id_token = granted.id_token.as_ref().ok_or(Error::NoIdToken)?;
        self.who(id_token, granted, token::Nonce::Must(&attempt.nonce)).await
    }

    /// Returns the provider's information about a signed-in user, who must have this subject.
    ///
    /// Without a new ID token, which a refresh need not return (OpenID Connect Core §12.2), the userinfo endpoint is
    /// requested.
    ///
    /// # Errors
    /// [`Error::Token`], [`Error::Claims`], [`Error::SomebodyElse`], [`Error::Unreachable`], [`Error::NotUnderstood`].
    pub async fn who_stayed(&self, granted: &Granted, subject: &str) -> Result<Stayed, Error> {
        let Some(id_token) = &granted.id_token else { return self.userinfo(granted, subject).await };
        let person = self.who(id_token, granted, token::Nonce::Refreshed).await?;
        if person.subject == subject { Ok(Stayed::Person(person)) } else { Err(Error::SomebodyElse) }
    }

    async fn userinfo(&self, granted: &Granted, subject: &str) -> Result<Stayed, Error> {
        let metadata = self.remote.metadata();
        let Some(url) = metadata.as_ref().and_then(|metadata| metadata.userinfo.as_ref()) else {
            return Ok(Stayed::Unsaid);
        };
        let client = self.remote.client();
        let answer = client.get(url, "application/json", Some(&granted.access_token), PATIENCE).await;
        let said: Value =
            serde_json::from_slice(&answer.map_err(Error::Unreachable)?).map_err(|_| Error::NotUnderstood)?;
        // OpenID Connect Core §5.3.2: without this check, the answer may describe another user.
        if said.get("sub").and_then(Value::as_str) != Some(subject) {
            return Err(Error::SomebodyElse);
        }
        let access = self.access_claims(granted).await.filter(|claims| claims.get("sub") == said.get("sub"));
        let documents: Vec<&Value> = std::iter::once(&said).chain(&access).collect();
        let standing = claims::standing(&self.config.claims, &documents)?;
        // Without a groups claim, the user may be in no groups, or the provider may omit groups from this endpoint.
        Ok(if standing.says_groups { Stayed::Standing(standing) } else { Stayed::Unsaid })
    }

    async fn access_claims(&self, granted: &Granted) -> Option<Value> {
        let unverified = Unverified::parse(granted.access_token.expose_secret()).ok()?;
        let keys = self.remote.keys_for(&unverified).await.ok()?;
        let verified = token::verify_access_token(unverified, &self.config, &keys, self.clock.now()).ok()?;
        Some(verified.claims)
    }

    /// Returns the URL for logout at the provider, if it has a logout endpoint.
    #[must_use]
    pub fn sign_out_at(&self, tokens: &Tokens) -> Option<Url> {
        let mut url = self.remote.metadata()?.end_session.clone()?;
        let mut query = url.query_pairs_mut();
        if let Some(id_token) = &tokens.id_token {
            query.append_pair("id_token_hint", id_token.expose_secret());
        }
        query.append_pair("client_id", &self.config.client_id);
        query.append_pair("post_logout_redirect_uri", self.signed_out.as_str());
        query.append_pair("state", &crate::crypto::random_text());
        drop(query);
        Some(url)
    }

    /// Returns scheme, host and port of the logout endpoint.
    #[must_use]
    pub fn sign_out_origin(&self) -> Option<String> {
        Some(self.remote.metadata()?.end_session.as_ref()?.origin().ascii_serialization())
    }

    async fn who(&self, id_token: &SecretString, granted: &Granted, nonce: token::Nonce<'_>) -> Result<Person, Error> {
        let unverified = Unverified::parse(id_token.expose_secret())?;
        let keys = self.remote.keys_for(&unverified).await?;
        let now = self.clock.now();
        let verified = token::verify_id_token(unverified, &self.config, &keys, nonce, now)?;
        // Keycloak's default mapper for realm roles writes them into access tokens only. An access token that cannot be
        // verified is ignored, because its format is up to the provider.
        let access = Unverified::parse(granted.access_token.expose_secret());
        let access = access.and_then(|access| token::verify_access_token(access, &self.config, &keys, now));
        let mut documents = vec![&verified.claims];
        documents.extend(access.as_ref().ok().map(|access| &access.claims));
        Ok(claims::read_all(&self.config.claims, &documents)?)
    }

    async fn client(&self) -> Result<Client, Error> {
        let metadata = self.remote.description().await.ok_or(Error::NotReady)?;
        let (Some(authorization), Some(token)) = (metadata.authorization.clone(), metadata.token.clone()) else {
            return Err(Error::NotReady);
        };
        let issuer = IssuerUrl::new(metadata.issuer.clone()).map_err(|_| Error::NotReady)?;
        let id = ClientId::new(self.config.client_id.clone());
        // Signatures are verified elsewhere, so this client needs no keys.
        let mut client = CoreClient::new(id, issuer, JsonWebKeySet::new(Vec::new()))
            .set_auth_uri(AuthUrl::from_url(authorization))
            .set_token_uri(TokenUrl::from_url(token))
            .set_redirect_uri(self.redirect.clone());
        if let Some(secret) = &self.config.client_secret {
            client = client.set_client_secret(ClientSecret::new(secret.expose_secret().to_owned())).set_auth_type(
                match self.config.client_auth {
                    ClientAuth::Basic => AuthType::BasicAuth,
                    ClientAuth::Post => AuthType::RequestBody,
                },
            );
        }
        Ok(client)
    }
}

/// An HTTP client that returns only answers of a healthy server. An answer with status 5xx or 429 is an error, because
/// its content proves nothing about a grant.
#[derive(Debug)]
struct Sure<'c>(&'c client::Client);

impl<'c> AsyncHttpClient<'c> for Sure<'_> {
    type Error = client::Error;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, client::Error>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(async move {
            let response = self.0.send(request, PATIENCE).await?;
            let status = response.status();
            let in_trouble = status.is_server_error() || status == http::StatusCode::TOO_MANY_REQUESTS;
            if in_trouble { Err(client::Error::Status(status)) } else { Ok(response.map(Vec::from)) }
        })
    }
}

impl Granted {
    /// Returns the tokens to store. A provider that does not rotate tokens returns no new refresh token and possibly no
    /// new ID token; the previous ones are then kept.
    #[must_use]
    pub fn tokens(&self, before: Tokens) -> Tokens {
        Tokens {
            id_token: self.id_token.clone().or(before.id_token),
            refresh_token: self.refresh_token.clone().or(before.refresh_token),
        }
    }
}

impl Tokens {
    /// Seals the tokens for the store. Only these keys open the result, and only for this owner.
    #[must_use]
    pub fn seal(&self, keys: &KeyRing, owner: i64) -> String {
        let text = |token: &Option<SecretString>| token.as_ref().map(|token| Value::from(token.expose_secret()));
        let both = serde_json::json!([text(&self.id_token), text(&self.refresh_token)]);
        keys.seal(PURPOSE, owner, both.to_string().as_bytes())
    }

    /// Opens sealed tokens. Returns `None` if the key is missing or the text belongs to another owner.
    #[must_use]
    pub fn open(keys: &KeyRing, owner: i64, sealed: &str) -> Option<Self> {
        let both: [Option<String>; 2] = serde_json::from_slice(&keys.open(PURPOSE, owner, sealed)?).ok()?;
        let [id_token, refresh_token] = both.map(|token| token.map(SecretString::from));
        Some(Self { id_token, refresh_token })
    }
}

const PURPOSE: &str = "session tokens";

/// Errors that OpenID Connect Core §3.1.2.6 defines for authorization responses. Some providers use them for a refresh,
/// too.
const SIGN_IN_AGAIN: [&str; 3] = ["consent_required", "interaction_required", "login_required"];
/// Lower-case descriptions of `invalid_grant` by which Keycloak distinguishes a disabled or deleted user from a session
/// that ended.
const PERSON_GONE: [&str; 3] = ["user disabled", "unknown user", "user not found"];

fn is_person_gone(description: Option<&String>) -> bool {
    description.is_some_and(|text| PERSON_GONE.iter().any(|known| known.eq_ignore_ascii_case(text.trim())))
}

fn refused(response: &StandardErrorResponse<CoreErrorResponseType>) -> Refused {
    match response.error() {
        CoreErrorResponseType::InvalidGrant if is_person_gone(response.error_description()) => Refused::Person,
        CoreErrorResponseType::InvalidGrant => Refused::Grant,
        CoreErrorResponseType::InvalidClient | CoreErrorResponseType::UnauthorizedClient => Refused::Client,
        CoreErrorResponseType::Extension(word) if SIGN_IN_AGAIN.contains(&word.as_str()) => Refused::Grant,
        CoreErrorResponseType::InvalidRequest
        | CoreErrorResponseType::InvalidScope
        | CoreErrorResponseType::UnsupportedGrantType
        | CoreErrorResponseType::Extension(_) => Refused::Request,
    }
}

fn granted(answer: Answer) -> Result<Granted, Failure> {
    let answer = answer.map_err(|error| match error {
        RequestTokenError::Request(error) => Error::Unreachable(error).into(),
        RequestTokenError::ServerResponse(response) => {
            let words = response.error_description().cloned().unwrap_or_default();
            Failure { error: Error::Refused(refused(&response)), words }
        }
        // Its text may contain tokens.
        RequestTokenError::Parse(..) | RequestTokenError::Other(_) => Error::NotUnderstood.into(),
    })?;
    Ok(Granted {
        id_token: answer.id_token().map(|token| token.to_string().into()),
        access_token: answer.access_token().secret().clone().into(),
        refresh_token: answer.refresh_token().map(|token| token.secret().clone().into()),
        expires_in: answer.expires_in(),
    })
}
