//! Checks of an identity provider: its metadata, and its answers to the proxy and to browsers.

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use url::Url;

use super::finding::Report;
use crate::clock::Clock;
use crate::config::{self, ClientAuth};
use crate::directory_sync::{Directory, DirectoryError};
use crate::http::ReturnPath;
use crate::oidc::client::{self, PATIENCE};
use crate::oidc::{Attempts, Error, Failure, LoginError, Metadata, MetadataError, Provider, Refused, Remote, Tokens};

/// Clock difference in seconds from which it is reported. Tokens are refused from about thirty seconds on.
const SKEW_SECONDS: u64 = 5;
const MAX_SKEW_SECONDS: u64 = 30;

/// Checks a provider that users sign in with.
pub(super) async fn check(
    provider: &Provider,
    attempts: &Attempts,
    public_url: &str,
    clock: &Clock,
    report: &mut Report,
) {
    let one = One { provider, about: format!("provider {}", provider.config.name), public_url };
    let key = format!("oidc.providers.{}", provider.config.name);
    let Some(metadata) = described(&provider.remote, &one.about, &key, report).await else { return };
    one.endpoints(&metadata, report);
    let shown = one.redirect(attempts, report).await;
    one.scopes(&metadata, shown.as_ref(), attempts, report).await;
    // One failure for one cause: without a client, all checks of its settings would fail.
    if !shown.is_some_and(|shown| shown.is_without_client()) {
        let is_recognised = one.client(attempts, report).await;
        one.logout(&metadata, report).await;
        // A client that is not recognised has no service account either.
        if is_recognised {
            one.directory(report).await;
        }
    }
    one.clock(clock, report).await;
}

/// Checks an issuer whose tokens programs present.
pub(super) async fn check_issuer(issuer: &config::Issuer, remote: &Remote, report: &mut Report) {
    let key = format!("jwt.issuers.{}", issuer.name);
    described(remote, &format!("issuer {}", issuer.name), &key, report).await;
}

/// Checks metadata and keys. Returns `None` when there is no metadata for further checks.
async fn described(remote: &Remote, about: &str, key: &str, report: &mut Report) -> Option<std::sync::Arc<Metadata>> {
    let outcome = remote.refresh(&|_, _| ()).await;
    let (metadata, keys) = (remote.metadata(), remote.keys());
    let endpoint = remote.endpoint();
    let error = outcome.err();
    let check = format!("{about}: description");
    match (&metadata, &error) {
        (Some(_), _) => {
            let way = remote.proxy().map(|proxy| format!(", through the proxy {}", proxy.uri)).unwrap_or_default();
            report.ok(check, format!("{} describes {}{way}", endpoint.description_url(), endpoint.issuer));
        }
        (None, _) if endpoint.jwks_url.is_some() => {}
        (None, Some(error)) => report.fail(check, error.to_string(), how_to_reach(error, key)),
        (None, None) => report.fail(check, "it is not there", format!("{key}.issuer")),
    }
    let check = format!("{about}: keys");
    match (keys, error) {
        (Some(keys), _) => report.ok(check, format!("{} can verify signatures as configured", keys.len())),
        (None, Some(Error::Keys(error))) => report.fail(
            check,
            error.to_string(),
            format!(
                "{key}.algorithms, or Realm settings > Keys > Add providers > rsa-generated with Use `SIG` and one of the \
                 configured algorithms"
            ),
        ),
        (None, Some(error)) if metadata.is_some() || endpoint.jwks_url.is_some() => {
            report.fail(check, error.to_string(), how_to_reach(&error, key));
        }
        (None, _) => {}
    }
    metadata
}

/// Returns the setting to change when the provider could not be reached.
fn how_to_reach(error: &Error, key: &str) -> String {
    match error {
        Error::Metadata(MetadataError::AnotherIssuer { said, .. }) => format!(
            "{key}.issuer = \"{said}\", if that is the right realm; otherwise Keycloak's `hostname` option, or Realm settings > \
             General > Frontend URL"
        ),
        Error::Client(client::Error::Status(StatusCode::NOT_FOUND)) => format!(
            "{key}.issuer: Keycloak's is https://HOST/realms/REALM, in Realm settings > General > Endpoints > OpenID Endpoint \
             Configuration"
        ),
        Error::Client(client::Error::Status(StatusCode::FORBIDDEN)) => format!(
            "an https address in {key}.issuer or {key}.internal_url; Keycloak refuses plain HTTP as Realm settings > General > \
             Require SSL says"
        ),
        Error::Client(client::Error::Connect(unreached)) => match &unreached.proxy {
            Some(proxy) => format!(
                "{}: does the proxy reach {} without inspecting TLS? Or NO_PROXY, to connect directly. {key}.ca_file when the \
                 provider's own certificate is not signed by an authority that the system knows",
                proxy.variable, unreached.to
            ),
            None => format!(
                "{key}.issuer, or {key}.internal_url when this machine reaches it under another address, HTTPS_PROXY when it \
                 reaches it only through a proxy, or {key}.ca_file when its certificate is not signed by an authority that the \
                 system knows: is {} answering?",
                unreached.to
            ),
        },
        Error::Client(client::Error::Barred { to, variable }) => {
            format!("{variable}: http://HOST:PORT, or {to} in NO_PROXY to connect directly")
        }
        Error::Client(client::Error::Unsafe(_)) | Error::Metadata(MetadataError::Unsafe(_)) => {
            format!("https, or {key}.internal_url for plain HTTP inside the cluster")
        }
        Error::Bearer(_) => format!("{key}.bearer_file"),
        Error::Client(_) | Error::Metadata(_) | Error::Keys(_) | Error::NoKeySet => {
            format!("{key}.issuer or {key}.discovery_url: the server there is not an OpenID provider")
        }
    }
}

/// The first page that a browser gets.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Shown {
    /// A sign-in page, or a redirect to one.
    SignIn,
    /// Back to the proxy: a scope is unknown or not the client's.
    Scope,
    /// Back to the proxy, with `error` and `error_description`.
    SentBack {
        error: String,
        words: String,
    },
    NoClient,
    Disabled,
    RealmDisabled,
    NoRedirect,
    Refused(StatusCode),
}

impl Shown {
    /// Classifies an answer by status, `Location` and page.
    pub(super) fn of(answer: &Response<Bytes>, redirect: &str) -> Self {
        if answer.status().is_success() {
            return Self::SignIn;
        }
        if answer.status().is_redirection() {
            let to = answer.headers().get(header::LOCATION).and_then(|to| to.to_str().ok()).unwrap_or_default();
            return if to.starts_with(redirect) { Self::sent_back(to) } else { Self::SignIn };
        }
        let page = String::from_utf8_lossy(answer.body()).to_lowercase();
        if page.contains("client not found") || page.contains("invalid_client") {
            Self::NoClient
        } else if page.contains("client disabled") {
            Self::Disabled
        } else if page.contains("realm not enabled") {
            Self::RealmDisabled
        } else if page.contains("redirect_uri") || page.contains("redirect uri") {
            Self::NoRedirect
        } else {
            Self::Refused(answer.status())
        }
    }

    fn sent_back(to: &str) -> Self {
        let Ok(to) = Url::parse(to) else { return Self::SignIn };
        let value = |name: &str| to.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
        match value("error") {
            Some(error) if error == "invalid_scope" => Self::Scope,
            Some(error) => {
                let words = value("error_description").unwrap_or_default();
                Self::SentBack { error: short(&error), words: short(&words) }
            }
            None => Self::SignIn,
        }
    }

    /// Returns true if the client does not exist or is disabled, alone or with its realm.
    const fn is_without_client(&self) -> bool {
        match self {
            Self::NoClient | Self::Disabled | Self::RealmDisabled => true,
            Self::SignIn | Self::Scope | Self::SentBack { .. } | Self::NoRedirect | Self::Refused(_) => false,
        }
    }
}

/// Shortens a provider's message to one line.
fn short(words: &str) -> String {
    words.chars().take(200).collect()
}

struct One<'p> {
    provider: &'p Provider,
    about: String,
    public_url: &'p str,
}

impl One<'_> {
    fn check(&self, what: &str) -> String {
        format!("{}: {what}", self.about)
    }

    /// Returns the path to a setting of the proxy's client in Keycloak's console.
    fn console(&self, rest: &str) -> String {
        format!("Clients > {} > {rest}", self.provider.config.client_id)
    }

    fn key(&self, key: &str) -> String {
        format!("oidc.providers.{}.{key}", self.provider.config.name)
    }

    fn endpoints(&self, metadata: &Metadata, report: &mut Report) {
        if metadata.authorization.is_none() || metadata.token.is_none() {
            let found = "its discovery document has no authorization or token endpoint";
            report.fail(self.check("endpoints"), found, self.key("issuer"));
        }
        if !metadata.code_challenge_methods.iter().any(|method| method == "S256") {
            let change = self.console("Settings > Capability config > PKCE Method: S256");
            report.warn(self.check("PKCE"), "its discovery document does not list S256", change);
        }
        let config = &self.provider.config;
        let method = match config.client_auth {
            ClientAuth::Basic => "client_secret_basic",
            ClientAuth::Post => "client_secret_post",
        };
        let methods = &metadata.token_auth_methods;
        if config.client_secret.is_some() && !methods.is_empty() && !methods.iter().any(|known| known == method) {
            let found = format!("it supports {}, not {method}", methods.join(", "));
            report.fail(self.check("client authentication"), found, self.key("client_auth"));
        }
    }

    /// Checks that the provider supports the configured scopes and that the client is allowed to request them.
    async fn scopes(&self, metadata: &Metadata, shown: Option<&Shown>, attempts: &Attempts, report: &mut Report) {
        let check = self.check("scopes");
        let configured = &self.provider.config.scopes;
        let unknown = |scope: &&String| !metadata.scopes.is_empty() && !metadata.scopes.contains(scope);
        let unknown: Vec<&str> = configured.iter().filter(unknown).map(String::as_str).collect();
        let add = self.console("Client scopes > Add client scope");
        let or = format!("or leave it out of {}", self.key("scopes"));
        if !unknown.is_empty() {
            let change = format!("Client scopes > Create client scope `{}`, then {add}; {or}", unknown.join("`, `"));
            return report.fail(check, format!("it does not support {}", unknown.join(", ")), change);
        }
        if shown != Some(&Shown::Scope) {
            return report.ok(check, format!("it supports {}", configured.join(", ")));
        }
        // Keycloak's answer repeats all of them.
        let mut refused = Vec::new();
        for scope in configured.iter().filter(|scope| *scope != "openid") {
            if matches!(self.first_page(attempts, Some(scope)).await, Ok(Ok(Shown::Scope))) {
                refused.push(scope.as_str());
            }
        }
        let which = if refused.is_empty() { configured.join(", ") } else { refused.join(", ") };
        report.fail(check, format!("the client is not allowed to ask for {which}"), format!("{add} > {which}; {or}"));
    }

    /// Requests the sign-in page as a browser does, with one scope beside `openid`, or with all.
    async fn first_page(
        &self,
        attempts: &Attempts,
        scope: Option<&str>,
    ) -> Result<Result<Shown, client::Error>, LoginError> {
        let begun = attempts.begin(&self.provider.config.name, &ReturnPath::parse_or("/", "/"), 0, &HeaderMap::new());
        let mut url = self.provider.sign_in_at(&begun).await?;
        if let Some(scope) = scope {
            let pairs: Vec<_> = url.query_pairs().into_owned().filter(|(name, _)| name != "scope").collect();
            url.query_pairs_mut().clear().extend_pairs(pairs).append_pair("scope", &format!("openid {scope}"));
        }
        Ok(self.get(&url).await.map(|answer| Shown::of(&answer, &self.callback())))
    }

    fn callback(&self) -> String {
        format!("{}/auth/callback/{}", self.public_url, self.provider.config.name)
    }

    async fn redirect(&self, attempts: &Attempts, report: &mut Report) -> Option<Shown> {
        let check = self.check("redirect URI");
        let redirect = self.callback();
        let shown = match self.first_page(attempts, None).await {
            Ok(Ok(shown)) => shown,
            // A browser may reach addresses that this machine does not reach.
            Ok(Err(error)) => {
                report.warn(check, format!("unknown: the sign-in page {error}"), "try it in a browser");
                return None;
            }
            Err(error) => {
                report.fail(check, error.to_string(), self.key("issuer"));
                return None;
            }
        };
        let client = &self.provider.config.client_id;
        match &shown {
            Shown::SignIn => report.ok(check, format!("{redirect} is accepted")),
            // The check of the scopes names it.
            Shown::Scope => {}
            Shown::NoRedirect => report.fail(
                check,
                format!("{redirect} is refused"),
                self.console(&format!("Settings > Valid redirect URIs: {redirect}")),
            ),
            Shown::NoClient => report.fail(
                self.check("client"),
                format!("it has no client `{client}`"),
                format!("{}: it is the Client ID in Clients, in this realm", self.key("client_id")),
            ),
            Shown::Disabled => report.fail(
                self.check("client"),
                format!("the client `{client}` is disabled"),
                self.console("Settings > Enabled: On"),
            ),
            Shown::RealmDisabled => {
                report.fail(self.check("realm"), "the realm is disabled", "Realm settings > Enabled: On");
            }
            Shown::SentBack { error, words } => report.fail(
                self.check("sign-in"),
                format!("it redirects browsers back at once: {error} {words}"),
                self.sent_back(error, words),
            ),
            Shown::Refused(status) => report.fail(
                check,
                format!("its sign-in page answers {status}"),
                format!("{}, or the reason on that page, in a browser", self.console("Settings > Capability config")),
            ),
        }
        Some(shown)
    }

    /// Returns the client setting because of which Keycloak redirects browsers back before the sign-in.
    fn sent_back(&self, error: &str, words: &str) -> String {
        let words = words.to_lowercase();
        if error == "unauthorized_client" || words.contains("standard flow") {
            self.console("Settings > Capability config > Standard flow: On")
        } else if words.contains("code challenge") || words.contains("code_challenge") {
            self.console("Settings > Capability config > PKCE Method: S256")
        } else if words.contains("pushed authorization request") {
            self.console("Advanced > Pushed authorization request required: Off")
        } else {
            format!(
                "{}, depending on the message; its log has the reason, too",
                self.console("Settings > Capability config")
            )
        }
    }

    /// Redeems a code that was never issued. The provider reports the code as wrong only to a client that it recognises. Returns
    /// true if it recognised the client, by its secret if there is one.
    async fn client(&self, attempts: &Attempts, report: &mut Report) -> bool {
        let check = self.check("client credentials");
        let begun = attempts.begin(&self.provider.config.name, &ReturnPath::parse_or("/", "/"), 0, &HeaderMap::new());
        let Err(failure) = self.provider.try_code("mlflow-auth-proxy-doctor", &begun.attempt).await else {
            report.warn(check, "it accepted a code that it did not issue", "another identity provider");
            return false;
        };
        match failure.error {
            LoginError::Refused(Refused::Grant) if self.is_public().await => {
                let found = "the client is public: Keycloak does not require its secret, so that any client can redeem its codes";
                report.warn(check, found, self.console("Settings > Capability config > Client authentication: On"));
                return false;
            }
            LoginError::Refused(Refused::Grant) => {
                report.ok(check, "the client's credentials are accepted");
                return true;
            }
            LoginError::Refused(_) => {
                let (found, change) = self.unrecognised(&failure);
                report.fail(check, found, change);
            }
            LoginError::Unreachable(_)
            | LoginError::NotReady
            | LoginError::NotUnderstood
            | LoginError::NoIdToken
            | LoginError::Token(_)
            | LoginError::Claims(_)
            | LoginError::SomebodyElse => {
                report.fail(check, format!("the token endpoint: {}", failure.error), self.key("internal_url"));
            }
        }
        false
    }

    /// Returns true if Keycloak accepts any secret, because the client is public.
    async fn is_public(&self) -> bool {
        let has_secret = self.provider.config.client_secret.is_some();
        has_secret
            && self
                .provider
                .try_service_token()
                .await
                .is_err_and(|it| it.words.to_lowercase().contains("public client"))
    }

    /// Returns the error of the token endpoint, and the setting to change.
    fn unrecognised(&self, failure: &Failure) -> (String, String) {
        let words = failure.words.to_lowercase();
        let secret = (self.key("client_secret"), self.console("Credentials > Client Secret"));
        if words.contains("client_assertion") {
            let found = "the client authenticates by another method than a secret".to_owned();
            (found, self.console("Credentials > Client Authenticator: Client Id and Secret"))
        } else if words.contains("dpop") {
            let found = "the client's tokens must be bound to a key".to_owned();
            (found, self.console("Settings > Capability config > Require DPoP bound tokens: Off"))
        } else if !matches!(failure.error, LoginError::Refused(Refused::Client)) {
            let change = format!("{}, depending on the message; its log has the reason, too", self.console("Settings"));
            (format!("the token endpoint: {}: {}", failure.error, short(&failure.words)), change)
        } else if self.provider.config.client_secret.is_some() {
            (
                "the client's credentials are refused".to_owned(),
                format!("{} must be the value of {}", secret.0, secret.1),
            )
        } else {
            let public = self.console("Settings > Capability config > Client authentication: Off");
            let change = format!("{}, from {}; or, for a public client, {public}", secret.0, secret.1);
            ("the client is refused without a secret".to_owned(), change)
        }
    }

    async fn logout(&self, metadata: &Metadata, report: &mut Report) {
        let check = self.check("logout");
        let back = format!("{}/auth/signed-out", self.public_url);
        match self.provider.sign_out_at(&Tokens::default()) {
            None => report.warn(
                check,
                "it has no end_session_endpoint: users who sign out here stay signed in there",
                "nothing, if that is intended",
            ),
            Some(url) => match self.get(&url).await {
                Ok(answer) if answer.status().is_client_error() => report.fail(
                    check,
                    format!("{back} is refused as post-logout redirect URI"),
                    self.console(&format!("Settings > Valid post logout redirect URIs: {back}")),
                ),
                Ok(_) => report.ok(check, format!("users return to {back}")),
                Err(error) => report.warn(check, format!("unknown: the sign-out page {error}"), "try it in a browser"),
            },
        }
        let check = self.check("back-channel logout");
        let here = format!("{}/auth/backchannel-logout", self.public_url);
        let set = self.console(&format!("Settings > Logout settings > Backchannel logout URL: {here}"));
        if metadata.backchannel_logout && metadata.backchannel_logout_session {
            // Only an administrator of the provider can see whether the client has the setting.
            let found =
                format!("it supports back-channel logout; make sure that {set}, and that it can reach that address");
            report.ok(check, found);
        } else {
            let found = "it does not support back-channel logout: sessions end at the next refresh, within minutes";
            report.warn(check, found, "nothing, if that is soon enough");
        }
    }

    /// Checks whether users who are disabled at the provider lose their access tokens here.
    async fn directory(&self, report: &mut Report) {
        let check = self.check("list of users");
        let Some(sync) = &self.provider.config.sync else {
            let found = "it is not queried: users who are disabled there and have no session here keep their access tokens until \
                         authn.person_max_age_days have passed";
            let change =
                format!("for Keycloak, {} and a {} other than 0", self.key("client_secret"), self.key("sync_seconds"));
            return report.warn(check, found, change);
        };
        let roles = |roles: &str| {
            self.console(&format!("Service account roles > Assign role > Client roles: {roles} of `realm-management`"))
        };
        let asked = async {
            let directory = Directory::open(self.provider, &sync.realm).await?;
            // A user who does not exist: only the permission to look users up matters.
            directory.find("00000000-0000-0000-0000-000000000000").await.map(|_| directory.tells_groups())
        };
        let error = match asked.await {
            Ok(true) => return report.ok(check, "it returns disabled users and the groups of users"),
            Ok(false) => {
                let found = "it returns disabled users; groups are updated at the next sign-in or refresh";
                return report.warn(
                    check,
                    found,
                    format!("{}, or nothing, if that is enough", roles("`view-clients`")),
                );
            }
            Err(error) => error,
        };
        let change = match &error {
            DirectoryError::Forbidden => roles("`view-users`"),
            DirectoryError::Login(_) => {
                let on = self.console("Settings > Capability config > Service account roles: On");
                format!("{on}, then {}", roles("`view-users`"))
            }
            DirectoryError::NoClient(_) => self.key("client_id"),
            DirectoryError::Mapper(_) => {
                format!("{} = 0, or a service account without `view-clients`", self.key("sync_seconds"))
            }
            DirectoryError::Client(_) | DirectoryError::NotUnderstood => {
                format!("{}: its admin API must be reached at {}", self.key("internal_url"), sync.realm)
            }
        };
        let reason = match &error {
            // The same error as for a wrong secret, which the preceding check has ruled out.
            DirectoryError::Login(LoginError::Refused(Refused::Client | Refused::Request)) => {
                "the client cannot request a token of its own: its service account is off".to_owned()
            }
            other => other.to_string(),
        };
        // Not configured explicitly: the proxy works without it.
        if sync.by_default && error.is_lack_of_rights() {
            let found = format!(
                "{reason}; users who are disabled there and have no session here keep their access tokens until \
                 authn.person_max_age_days have passed"
            );
            return report.warn(check, found, format!("{change}; or {} = 0", self.key("sync_seconds")));
        }
        report.fail(check, reason, change);
    }

    async fn clock(&self, clock: &Clock, report: &mut Report) {
        let check = self.check("clock");
        let url = self.provider.remote.endpoint().description_url();
        let Ok(answer) = self.get(&url).await else { return };
        let date = answer.headers().get(header::DATE).and_then(|date| date.to_str().ok());
        let Some(there) = date.and_then(|date| OffsetDateTime::parse(date, &Rfc2822).ok()) else {
            let found = "its responses have no `Date`; a token with --token-file shows its time";
            return report.ok(check, found);
        };
        let here = clock.now().0.div_euclid(1000);
        compared(check, here.abs_diff(there.unix_timestamp()), report);
    }

    async fn get(&self, url: &Url) -> Result<Response<Bytes>, client::Error> {
        let mut request = Request::new(Vec::new());
        *request.method_mut() = Method::GET;
        *request.uri_mut() = url.as_str().parse().map_err(|_| client::Error::Unwritable)?;
        self.provider.remote.client().send(request, PATIENCE).await
    }
}

/// Reports the difference between two clocks, in seconds.
pub(super) fn compared(check: String, seconds: u64, report: &mut Report) {
    let found = format!("its clock and the clock of this machine differ by {seconds} seconds");
    let change = "synchronise both machines' clocks (NTP)";
    if seconds <= SKEW_SECONDS {
        report.ok(check, found);
    } else if seconds < MAX_SKEW_SECONDS {
        report.warn(check, found, change);
    } else {
        report.fail(check, found, change);
    }
}
