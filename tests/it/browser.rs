//! A person's browser before the proxy and a fake provider: it keeps cookies and follows nothing by itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mlflow_auth_proxy::clock::{Clock, Stopwatch};
use mlflow_auth_proxy::config;
use mlflow_auth_proxy::store::Session;
use serde_json::{Value, json};
use url::Url;

use crate::harness::{Answer, PATIENCE, Proxy, Recorder, pause};
use crate::provider::{self, FakeProvider, RSA};

pub(crate) const HOST: &str = "mlflow.example.com";
pub(crate) const PUBLIC: &str = "https://mlflow.example.com";
pub(crate) const TOKEN: &str = "/realms/test/token";
pub(crate) const SESSION: &str = "__Host-mlflow-session";
pub(crate) const ATTEMPT: &str = "__Host-mlflow-login-";

/// Proxy, MLflow and provider, whose token endpoint says no until told otherwise.
pub(crate) struct World {
    pub(crate) recorder: Recorder,
    pub(crate) provider: FakeProvider,
    pub(crate) proxy: Proxy,
}

impl World {
    pub(crate) fn start() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut config::Config)) -> Self {
        let provider = FakeProvider::start(&[&RSA]);
        let recorder = Recorder::start();
        let endpoint = endpoint(&provider.issuer());
        let proxy = Proxy::with(recorder.address, |config| {
            config.server.public_url = Some(PUBLIC.parse().unwrap());
            config.providers = vec![configured("keycloak", endpoint)];
            change(config);
        });
        Self { recorder, provider, proxy }
    }

    pub(crate) fn browser(&self) -> Browser<'_> {
        Browser { proxy: &self.proxy, jar: BTreeMap::new() }
    }

    /// What an ID token for this nonce says.
    pub(crate) fn claims(&self, nonce: &str) -> Value {
        let now = Clock::default().now().0 / 1000;
        json!({
            "iss": self.provider.issuer(), "aud": "mlflow", "azp": "mlflow", "typ": "ID", "sub": "subject-1",
            "exp": now + 300, "iat": now, "nonce": nonce, "sid": "sid-1",
            "email": "Alice@Example.com", "email_verified": true, "groups": ["/ml/team-a"],
        })
    }

    /// The token endpoint grants these claims from now on.
    pub(crate) fn grants(&self, claims: &Value) {
        self.provider.answer(TOKEN, provider::Answer::Json(granted(claims, "refresh-1", 300)));
    }

    /// The token endpoint answers so from now on.
    pub(crate) fn answers(&self, answer: impl Fn(&provider::Request) -> (u16, Value) + Send + Sync + 'static) {
        self.provider.answer(TOKEN, provider::Answer::With(Arc::new(answer)));
    }

    pub(crate) fn token_requests(&self) -> usize {
        self.provider.requests(TOKEN).len()
    }

    /// A browser in which somebody signed in, with tokens that end after so many seconds.
    pub(crate) fn signed_in_for(&self, seconds: u64) -> Browser<'_> {
        let mut browser = self.browser();
        let begun = browser.begin("/");
        let claims = self.claims(&begun.nonce);
        self.provider.answer(TOKEN, provider::Answer::Json(granted(&claims, "refresh-1", seconds)));
        let answer = browser.callback(&self.right(&begun.state));
        assert_eq!(answer.status, 303, "{}", answer.text());
        assert!(browser.is_signed_in());
        browser
    }

    pub(crate) fn signed_in(&self) -> Browser<'_> {
        self.signed_in_for(300)
    }

    /// The query of a right answer.
    pub(crate) fn right(&self, state: &str) -> String {
        query(&[("code", "code-1"), ("state", state), ("iss", &self.provider.issuer())])
    }

    pub(crate) fn sessions_of(&self, name: &str) -> Vec<Session> {
        let store = self.proxy.store();
        self.proxy.block_on(async {
            let Some(user) = store.user_by_name(name).await.unwrap() else { return Vec::new() };
            store.sessions_of(user.id).await.unwrap()
        })
    }
}

/// What the token endpoint says.
pub(crate) fn granted(claims: &Value, refresh_token: &str, expires_in: u64) -> Value {
    json!({
        "token_type": "Bearer", "access_token": "opaque", "expires_in": expires_in, "refresh_token": refresh_token,
        "id_token": RSA.token("RS256", claims),
    })
}

/// Until something is so.
#[track_caller]
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let watch = Stopwatch::start();
    while !is_so() {
        assert!(watch.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        pause(Duration::from_millis(20));
    }
}

pub(crate) fn query(pairs: &[(&str, &str)]) -> String {
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

/// A sign-in that was begun.
pub(crate) struct Begun {
    pub(crate) at: Url,
    pub(crate) state: String,
    pub(crate) nonce: String,
}

#[derive(Clone)]
pub(crate) struct Browser<'w> {
    proxy: &'w Proxy,
    pub(crate) jar: BTreeMap<String, String>,
}

impl<'w> Browser<'w> {
    /// The same person at another proxy.
    pub(crate) fn at<'o>(&self, proxy: &'o Proxy) -> Browser<'o> {
        Browser { proxy, jar: self.jar.clone() }
    }

    /// A request with these further header lines; cookies go along and are kept.
    pub(crate) fn send(&mut self, method: &str, target: &str, headers: &str, body: &str) -> Answer {
        let cookies: Vec<_> = self.jar.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let cookies = if cookies.is_empty() { String::new() } else { format!("Cookie: {}\r\n", cookies.join("; ")) };
        let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let answer = self
            .proxy
            .ask(format!("{method} {target} HTTP/1.1\r\nHost: {HOST}\r\n{cookies}{headers}{length}\r\n{body}"))
            .unwrap_or_else(|| panic!("no answer to {method} {target}"));
        for (_, line) in answer.headers.iter().filter(|(name, _)| name == "set-cookie") {
            let (pair, attributes) = line.split_once("; ").unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            let parts: Vec<&str> = attributes.split("; ").collect();
            for needed in ["HttpOnly", "Secure", "SameSite=Lax", "Path=/"] {
                assert!(parts.contains(&needed), "{line}");
            }
            if parts.contains(&"Max-Age=0") {
                self.jar.remove(name);
            } else {
                self.jar.insert(name.to_owned(), value.to_owned());
            }
        }
        answer
    }

    /// Opens an address.
    pub(crate) fn open(&mut self, target: &str) -> Answer {
        let headers = "Accept: text/html,*/*\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Site: none\r\n";
        self.send("GET", target, headers, "")
    }

    /// Sends a form of the proxy's own pages.
    pub(crate) fn submit(&mut self, target: &str, form: &str) -> Answer {
        let headers = format!(
            "Content-Type: application/x-www-form-urlencoded\r\nOrigin: {PUBLIC}\r\nSec-Fetch-Site: same-origin\r\n\
             Sec-Fetch-Mode: navigate\r\nAccept: text/html\r\n"
        );
        self.send("POST", target, &headers, form)
    }

    pub(crate) fn begin(&mut self, return_to: &str) -> Begun {
        let query = query(&[("provider", "keycloak"), ("return_to", return_to)]);
        // The provider's description is fetched as soon as the proxy runs.
        let mut answer = self.open(&format!("/auth/login?{query}"));
        eventually("the provider is known", || {
            if answer.status == 503 {
                answer = self.open(&format!("/auth/login?{query}"));
            }
            answer.status != 503
        });
        assert_eq!(answer.status, 302, "{}", answer.text());
        begun(&answer)
    }

    pub(crate) fn callback(&mut self, query: &str) -> Answer {
        self.open(&format!("/auth/callback/keycloak?{query}"))
    }

    /// The name under which a page's script is known.
    pub(crate) fn name(&mut self) -> Option<String> {
        let answer = self.send("GET", "/auth/api/v1/me", "Sec-Fetch-Mode: cors\r\n", "");
        let me: Value = serde_json::from_slice(&answer.body).unwrap();
        (answer.status == 200).then(|| me["username"].as_str().unwrap().to_owned())
    }

    pub(crate) fn is_signed_in(&mut self) -> bool {
        self.name().is_some()
    }

    pub(crate) fn attempts(&self) -> usize {
        self.jar.keys().filter(|name| name.starts_with(ATTEMPT)).count()
    }
}

pub(crate) fn begun(answer: &Answer) -> Begun {
    let at = Url::parse(answer.header("location").unwrap()).unwrap();
    let find = |name: &str| at.query_pairs().find(|(found, _)| found == name).unwrap().1.into_owned();
    Begun { state: find("state"), nonce: find("nonce"), at }
}

pub(crate) fn endpoint(issuer: &str) -> config::Endpoint {
    config::Endpoint {
        issuer: issuer.to_owned(),
        discovery_url: format!("{issuer}/.well-known/openid-configuration").parse().unwrap(),
        internal_url: None,
        jwks_url: None,
        ca: Vec::new(),
        bearer_file: None,
        algorithms: vec!["RS256".parse().unwrap()],
    }
}

pub(crate) fn configured(name: &str, endpoint: config::Endpoint) -> config::Provider {
    config::Provider {
        name: name.to_owned(),
        display_name: "Company <account>".to_owned(),
        client_id: "mlflow".to_owned(),
        client_secret: Some("client-secret".to_owned().into()),
        client_auth: config::ClientAuth::Basic,
        scopes: ["openid", "email", "profile"].map(str::to_owned).to_vec(),
        endpoint,
        claims: config::Claims {
            groups: vec![config::GroupSource { claim: "groups".to_owned(), prefix: String::new() }],
            form: config::GroupForm::Full,
            allowed: vec!["/ml/**".to_owned()],
            admin: vec!["/ml/admins".to_owned()],
            username: "email".to_owned(),
            verified_email: true,
            machine_names: Vec::new(),
        },
        logout_suspends_tokens: false,
        sync: None,
    }
}
