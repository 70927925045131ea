//! The providers that people sign in at: where browsers are sent, what a code is worth, who came back.
//!
//! The requests are `openidconnect`'s, over our own client; what tokens say is believed only after [`token`] verified it.
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
use super::{Attempt, Attempts, Health, Remote};
use crate::clock::Clock;
use crate::config::{self, ClientAuth};
use crate::crypto::KeyRing;

/// All providers, and the sign-ins under way at them.
#[derive(Debug)]
pub struct Providers {
    all: Vec<Provider>,
    pub attempts: Attempts,
    /// What their tokens are sealed with in the store.
    pub keys: Arc<KeyRing>,
    pub(super) clock: Clock,
}

/// A provider that people sign in at.
#[derive(Debug)]
pub struct Provider {
    pub config: config::Provider,
    pub remote: Arc<Remote>,
    redirect: RedirectUrl,
    /// Where its logout leads back to.
    signed_out: Url,
    /// Codes that are being redeemed: anybody may bring one, and each is a request to the provider.
    redeeming: Semaphore,
    /// Whether it answers refreshes of sessions.
    pub health: Health,
    clock: Clock,
}

/// Codes that are redeemed at the same time at one provider.
const REDEEMING: usize = 32;

/// What a provider grants for a code or a refresh token. Nobody has looked yet whose it is.
#[derive(Debug)]
pub struct Granted {
    id_token: Option<SecretString>,
    access_token: SecretString,
    refresh_token: Option<SecretString>,
    /// After which the access token is of no use.
    pub expires_in: Option<Duration>,
}

/// What a provider says of a signed-in user with a refresh.
#[derive(Debug)]
pub enum Stayed {
    Person(Person),
    /// Groups without a name, from the userinfo endpoint.
    Standing(Standing),
    /// Nothing: neither an ID token nor groups from the userinfo endpoint.
    Unsaid,
}

/// What is kept, sealed, beside a session.
#[derive(Clone, Debug, Default)]
pub struct Tokens {
    /// Says whose session is to end when they sign out.
    pub id_token: Option<SecretString>,
    pub refresh_token: Option<SecretString>,
}

/// Why nobody was signed in, or a session was not refreshed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the provider's description was never read")]
    NotReady,
    #[error("the provider {0}")]
    Unreachable(#[source] client::Error),
    /// What it answered is in RFC 6749's words, or others; only the first kind is ever looked at.
    #[error("the provider refused: {0}")]
    Refused(Refused),
    #[error("the provider's answer is not what OAuth 2.0 says")]
    NotUnderstood,
    #[error("there is no ID token in the provider's answer")]
    NoIdToken,
    #[error("the ID token was refused: {0}")]
    Token(#[from] Refusal),
    #[error("the claims do not say who it is: {0}")]
    Claims(#[from] ClaimError),
    #[error("the refreshed token is somebody else's")]
    SomebodyElse,
}

/// What a provider calls its refusal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refused {
    /// `invalid_grant`, or one of [`SIGN_IN_AGAIN`]: the code or token is of no use, now and later.
    Grant,
    /// `invalid_grant` because of the person: Keycloak's texts in [`PERSON_GONE`].
    Person,
    /// `invalid_client`, `unauthorized_client`: it does not know us. Ours to mend, not the person's.
    Client,
    /// Anything else it found wrong.
    Request,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Grant => "the code or token is of no use (any more)",
            Self::Person => "the user is disabled or deleted there",
            Self::Client => "it does not know us: check client_id, client_secret and client_auth",
            Self::Request => "the request",
        })
    }
}

impl Error {
    /// A bounded word for logs and metrics.
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

/// A refusal with the provider's own words for it, which diagnosis may show and nothing is decided by.
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
    /// These, behind this public URL.
    ///
    /// # Errors
    /// There is no public URL.
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

    /// The one of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Provider> {
        self.all.iter().find(|provider| provider.config.name == name)
    }

    /// In the configuration's order.
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
            health: Health::default(),
            config: config.clone(),
            clock: clock.clone(),
        })
    }

    /// Where the browser goes to sign in.
    ///
    /// # Errors
    /// [`Error::NotReady`].
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

    /// Whether an answer's `iss` is this provider's (RFC 9207): it must be where the provider says that it sends it.
    #[must_use]
    pub fn is_sender(&self, iss: Option<&str>) -> bool {
        match iss {
            Some(iss) => iss == self.config.endpoint.issuer,
            None => !self.remote.metadata().is_some_and(|metadata| metadata.sends_iss),
        }
    }

    /// Redeems a code.
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

    /// Uses a refresh token, which may be of no use afterwards whatever comes back.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn refresh(&self, refresh_token: &SecretString) -> Result<Granted, Error> {
        let client = self.client().await?;
        let token = RefreshToken::new(refresh_token.expose_secret().to_owned());
        let answer = client.exchange_refresh_token(&token).request_async(&Sure(self.remote.client())).await;
        granted(answer).map_err(|failure| failure.error)
    }

    /// An access token of the client's own (RFC 6749 §4.4), and how long it is good for.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn own_token(&self) -> Result<(SecretString, Option<Duration>), Error> {
        self.try_own_token().await.map_err(|failure| failure.error)
    }

    /// Returns what [`Self::own_token`] does, or a refusal in the provider's words.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn try_own_token(&self) -> Result<(SecretString, Option<Duration>), Failure> {
        let client = self.client().await?;
        let granted = granted(client.exchange_client_credentials().request_async(&Sure(self.remote.client())).await)?;
        Ok((granted.access_token, granted.expires_in))
    }

    /// Who signed in: by the ID token, and by the access token as far as it adds groups.
    ///
    /// # Errors
    /// [`Error::NoIdToken`], [`Error::Token`], [`Error::Claims`].
    pub async fn who_came(&self, granted: &Granted, attempt: &Attempt) -> Result<Person, Error> {
        let id_token = granted.id_token.as_ref().ok_or(Error::NoIdToken)?;
        self.who(id_token, granted, token::Nonce::Must(&attempt.nonce)).await
    }

    /// Who is still signed in; must be the one of this subject. Without a new ID token, which a provider need not grant
    /// (OpenID Connect Core §12.2), its userinfo endpoint is asked.
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
        // OpenID Connect Core §5.3.2: without this, it may be another user's.
        if said.get("sub").and_then(Value::as_str) != Some(subject) {
            return Err(Error::SomebodyElse);
        }
        let access = self.access_claims(granted).await.filter(|claims| claims.get("sub") == said.get("sub"));
        let documents: Vec<&Value> = std::iter::once(&said).chain(&access).collect();
        let standing = claims::standing(&self.config.claims, &documents)?;
        // Without any groups claim it cannot be told from a provider that does not write them here.
        Ok(if standing.says_groups { Stayed::Standing(standing) } else { Stayed::Unsaid })
    }

    async fn access_claims(&self, granted: &Granted) -> Option<Value> {
        let unverified = Unverified::parse(granted.access_token.expose_secret()).ok()?;
        let keys = self.remote.keys_for(&unverified).await.ok()?;
        let verified = token::verify_access_token(unverified, &self.config, &keys, self.clock.now()).ok()?;
        Some(verified.claims)
    }

    /// Where the browser goes to sign out there, too, if that is possible.
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

    /// Scheme, host and port of where it signs people out.
    #[must_use]
    pub fn sign_out_origin(&self) -> Option<String> {
        Some(self.remote.metadata()?.end_session.as_ref()?.origin().ascii_serialization())
    }

    async fn who(&self, id_token: &SecretString, granted: &Granted, nonce: token::Nonce<'_>) -> Result<Person, Error> {
        let unverified = Unverified::parse(id_token.expose_secret())?;
        let keys = self.remote.keys_for(&unverified).await?;
        let now = self.clock.now();
        let verified = token::verify_id_token(unverified, &self.config, &keys, nonce, now)?;
        // Keycloak's stock mapper for realm roles writes them into access tokens only. One that we cannot read is none of
        // our business: it is the provider's own.
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
        // Signatures are not its matter, so it knows no keys.
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

/// A client that hears nothing but answers of a server that is well: whatever one in trouble says of a grant, it does not
/// know.
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
    /// What to keep. A provider that does not rotate gives no new refresh token, and perhaps no new ID token; the old ones
    /// then stay.
    #[must_use]
    pub fn tokens(&self, before: Tokens) -> Tokens {
        Tokens {
            id_token: self.id_token.clone().or(before.id_token),
            refresh_token: self.refresh_token.clone().or(before.refresh_token),
        }
    }
}

impl Tokens {
    /// For the store, readable only with these keys and for this owner.
    #[must_use]
    pub fn seal(&self, keys: &KeyRing, owner: i64) -> String {
        let text = |token: &Option<SecretString>| token.as_ref().map(|token| Value::from(token.expose_secret()));
        let both = serde_json::json!([text(&self.id_token), text(&self.refresh_token)]);
        keys.seal(PURPOSE, owner, both.to_string().as_bytes())
    }

    /// The inverse; `None` when the key is gone or the text is somebody else's.
    #[must_use]
    pub fn open(keys: &KeyRing, owner: i64, sealed: &str) -> Option<Self> {
        let both: [Option<String>; 2] = serde_json::from_slice(&keys.open(PURPOSE, owner, sealed)?).ok()?;
        let [id_token, refresh_token] = both.map(|token| token.map(SecretString::from));
        Some(Self { id_token, refresh_token })
    }
}

const PURPOSE: &str = "session tokens";

/// What OpenID Connect Core §3.1.2.6 says to a browser; some providers say it to a refresh.
const SIGN_IN_AGAIN: [&str; 3] = ["consent_required", "interaction_required", "login_required"];
/// Descriptions of `invalid_grant` by which Keycloak tells a disabled or deleted user from a session that ended, in lower case.
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
        // Its text may hold tokens.
        RequestTokenError::Parse(..) | RequestTokenError::Other(_) => Error::NotUnderstood.into(),
    })?;
    Ok(Granted {
        id_token: answer.id_token().map(|token| token.to_string().into()),
        access_token: answer.access_token().secret().clone().into(),
        refresh_token: answer.refresh_token().map(|token| token.secret().clone().into()),
        expires_in: answer.expires_in(),
    })
}
