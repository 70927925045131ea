//! Tests of the pages, and the world that they share with the tests of the APIs. The clock stands still.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::*;
use crate::api::{Denial, PublicAddress};
use crate::authn::{Authn, RawCredentials};
use crate::authz::{DefaultPermission, Grant, Limits, Permission, ResourceKind, Selector, Subject};
use crate::clock::{Clock, Timestamp};
use crate::crypto::{AccessToken, KeyRing, PasswordHash, SessionSecret};
use crate::mlflow::Table;
use crate::resolve::Resolver;
use crate::store::{self, Actor, NewToken, Store, User};

const START: Timestamp = Timestamp(1_700_000_000_000);
pub(crate) const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
pub(crate) const DAY: Duration = Duration::from_hours(24);

/// `admin` (1), `alice` (2) who has MANAGE on experiment 1 and model m, `bob` (3); a password of each is
/// `<name>-password`. `alice/ro`, `alice/e1` and `admin/all`, `admin/ro`, `admin/e1` are access tokens.
pub(crate) struct World {
    pub(crate) web: Web,
    pub(crate) store: Arc<Store>,
    pub(crate) authn: Arc<Authn>,
    pub(crate) clock: Clock,
    credentials: BTreeMap<String, String>,
}

fn table() -> Arc<Table> {
    Arc::new(Table::built_in().unwrap())
}

/// Returns a resolver whose MLflow does not exist.
fn nowhere() -> Arc<Resolver> {
    let upstream = config::Upstream {
        url: "http://127.0.0.1:1".parse().unwrap(),
        hold: Duration::ZERO,
        ..config::defaults().unwrap().upstream
    };
    let metrics = crate::telemetry::Metrics::new([]).unwrap();
    Arc::new(Resolver::new(crate::upstream::Upstream::new(&upstream).unwrap(), Arc::new(metrics)))
}

/// By default no user has any permission, and nothing is configured.
fn context(store: &Arc<Store>, authn: &Arc<Authn>, clock: &Clock) -> Context {
    Context {
        store: Arc::clone(store),
        authn: Arc::clone(authn),
        config: config(),
        default_permission: DefaultPermission(Permission::NoPermissions),
        table: table(),
        address: PublicAddress::default(),
        clock: clock.clone(),
        resolver: nowhere(),
    }
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(Permission::NoPermissions).await
    }

    pub(crate) async fn with(default_permission: Permission) -> Self {
        let clock = Clock::manual(START);
        let store = Arc::new(Store::open("sqlite::memory:", clock.clone()).await.unwrap());
        let authn = Arc::new(Authn::new(&config(), Arc::clone(&store), clock.clone()));
        let default_permission = DefaultPermission(default_permission);
        let web = Web::new(Context { default_permission, ..context(&store, &authn, &clock) }, sign_in(&clock)).unwrap();
        let mut world = Self { web, store, authn, clock, credentials: BTreeMap::new() };
        let admin = world.person("admin", true).await;
        let alice = world.person("alice", false).await;
        world.person("bob", false).await;
        world.give(&alice, ResourceKind::Experiment, "1", Permission::Manage).await;
        world.give(&alice, ResourceKind::RegisteredModel, "m", Permission::Manage).await;
        world.token(&alice, "ro", &["read-only"]).await;
        world.token(&alice, "e1", &["experiment:1"]).await;
        world.token(&admin, "all", &[]).await;
        world.token(&admin, "ro", &["read-only"]).await;
        world.token(&admin, "e1", &["experiment:1"]).await;
        world
    }

    pub(crate) async fn person(&mut self, name: &str, admin: bool) -> User {
        let password = format!("{name}-password");
        let hash = PasswordHash::make(&password.as_str().into());
        self.credentials.insert(name.to_owned(), basic(name, &password));
        self.store.create_user(&actor(), name, Some(&hash), admin).await.unwrap()
    }

    pub(crate) async fn token(&mut self, owner: &User, name: &str, scopes: &[&str]) {
        let (secret, limits) = (AccessToken::generate(), Limits::parse(scopes.iter().copied()).unwrap());
        let token = NewToken {
            user: owner.id,
            name,
            hash: secret.hash(),
            limits: &limits,
            expires: self.clock.now().plus(30 * DAY),
        };
        self.store.create_token(&actor(), token).await.unwrap();
        self.credentials.insert(format!("{}/{name}", owner.name), basic(&owner.name, secret.reveal()));
    }

    pub(crate) async fn give(&self, user: &User, kind: ResourceKind, key: &str, permission: Permission) {
        let selector = Selector::Exact(key.to_owned());
        let grant = Grant { subject: Subject::User(user.id), kind, selector, permission };
        self.store.create_grant(&actor(), &grant).await.unwrap();
    }

    pub(crate) async fn identity(&self, who: &str) -> Result<Arc<Identity>, crate::authn::Error> {
        self.authn.authenticate(RawCredentials::authorization(self.credentials[who].as_bytes()), HERE).await
    }

    /// `request` is `METHOD path?query`; a body is sent as JSON, unless it starts with `text:`.
    pub(crate) async fn ask(&self, who: &str, request: &str, body: &str) -> http::Response<Bytes> {
        let (method, target) = request.split_once(' ').unwrap();
        let mut builder = http::Request::builder().method(method).uri(target);
        let body = match body.strip_prefix("text:") {
            Some(text) => text,
            None if body.is_empty() => body,
            None if body.starts_with("form:") => {
                builder = builder.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
                body.trim_start_matches("form:")
            }
            None => {
                builder = builder.header(header::CONTENT_TYPE, "application/json; charset=utf-8");
                body
            }
        };
        let request = builder.body(Bytes::copy_from_slice(body.as_bytes())).unwrap();
        let identity = self.identity(who).await.expect(who);
        self.web.answer(Some(identity), HERE, request).await
    }

    /// The conversation as text, with MLflow's paths shortened to what follows `/api/`.
    pub(crate) async fn play(&self, turns: &[(&str, &str, &str)]) -> String {
        let mut text = String::new();
        for (who, request, body) in turns {
            let (method, path) = request.split_once(' ').unwrap();
            let path = match path.split_once('/') {
                Some(("users", rest)) => format!("/api/2.0/mlflow/users/{rest}"),
                Some(("users3", rest)) => format!("/api/3.0/mlflow/users/{rest}"),
                Some(("roles" | "scorers" | "gateway", _)) => format!("/api/3.0/mlflow/{path}"),
                Some(("experiments" | "registered-models", _)) => format!("/api/2.0/mlflow/{path}"),
                Some(("tokens", _)) => format!("/auth/api/v1/{path}"),
                _ if path.starts_with("tokens") => format!("/auth/api/v1/{path}"),
                _ => path.to_owned(),
            };
            let answer = self.ask(who, &format!("{method} {path}"), body).await;
            writeln!(text, "{who}: {method} {path} {body}").unwrap();
            writeln!(text, "    {}", show(&answer)).unwrap();
        }
        text
    }
}

pub(crate) fn show(answer: &http::Response<Bytes>) -> String {
    let mut text = answer.status().as_u16().to_string();
    for name in [header::ALLOW, header::RETRY_AFTER] {
        if let Some(value) = answer.headers().get(&name) {
            write!(text, " [{name}: {}]", value.to_str().unwrap()).unwrap();
        }
    }
    if let Some(Denial(reason)) = answer.extensions().get() {
        write!(text, " [{reason}]").unwrap();
    }
    assert_eq!(answer.headers()[header::CONTENT_TYPE], "application/json");
    assert!(answer.headers()[header::CACHE_CONTROL].to_str().unwrap().ends_with("no-store"));
    assert_eq!(answer.headers()[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
    let body = str::from_utf8(answer.body()).unwrap().trim_end();
    // Secrets differ from run to run.
    let body = match body.split_once("mlap_") {
        Some((before, after)) => {
            format!("{before}mlap_...{}", after.trim_start_matches(|c: char| c.is_ascii_hexdigit()))
        }
        None => body.to_owned(),
    };
    format!("{text} {body}")
}

fn basic(name: &str, secret: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{name}:{secret}")))
}

pub(crate) fn actor() -> Actor {
    Actor { name: "test".to_owned(), token: None, address: None }
}

/// No provider and no password form.
fn sign_in(clock: &Clock) -> SignIn {
    let keys = Arc::new(KeyRing::of("test", &[7; 32]));
    SignIn {
        providers: Arc::new(Providers::new([], None, keys, clock).unwrap()),
        session: config::Session { idle_timeout: DAY, lifetime: DAY, ..config::defaults().unwrap().session },
        password_form: false,
        home: "/".to_owned(),
    }
}

fn config() -> config::Authn {
    config::Authn {
        guesses_per_address: 20,
        guesses_per_account: 3,
        guess_window: Duration::from_mins(15),
        person_max_age: None,
        signup: true,
        ..config::defaults().unwrap().authn
    }
}

#[tokio::test]
async fn an_account_is_made_on_the_page_for_it_and_from_nowhere_else() {
    let world = World::new().await;
    let page = world.ask("admin", "GET /signup", "").await;
    assert_eq!(page.headers()[header::CONTENT_TYPE], "text/html; charset=utf-8");
    assert!(page.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap().contains("default-src 'none'"));
    let page = str::from_utf8(page.body()).unwrap();
    let token = page.split_once("name=\"csrf_token\" value=\"").unwrap().1.split('"').next().unwrap();
    let form = |name: &str, token: &str| format!("form:username={name}&password=a+long+password&csrf_token={token}");
    let send = async |who: &str, form: &str| {
        let answer = world.ask(who, "POST /api/2.0/mlflow/users/create-ui", form).await;
        (answer.status().as_u16(), String::from_utf8(answer.body().to_vec()).unwrap())
    };
    let (status, text) = send("admin", &form("%3Cb%3E", token)).await;
    assert_eq!(status, 200);
    assert!(text.contains("Successfully signed up user: &#60;b&#62;<"), "{text}");
    assert!(world.store.user_by_name("<b>").await.unwrap().is_some());
    for (who, form, status, message) in [
        ("admin", form("dave", ""), 400, "The CSRF token is missing."),
        ("admin", "form:{\"username\":\"dave\"}".to_owned(), 400, "The CSRF token is missing."),
        ("admin", form("dave", "made-up"), 400, "The CSRF token is invalid."),
        ("admin", form("alice", token), 400, "User (username=alice) already exists."),
        ("admin", form("", token), 400, "Username and password cannot be empty."),
        ("admin", form("dave", &format!("{token}&username=x")), 400, "Parameter 'username' is given more than once."),
        ("admin", "{}".to_owned(), 400, "Invalid content type. Must be application/x-www-form-urlencoded"),
        ("admin/ro", form("dave", token), 403, "read-only"),
        ("alice", form("dave", token), 403, "This requires an administrator."),
    ] {
        let (got, text) = send(who, &form).await;
        assert!(got == status && text.contains(message), "{form}: {got} {text}");
    }
    world.clock.advance(Duration::from_hours(1));
    assert!(send("admin", &form("dave", token)).await.1.contains("The CSRF token has expired."));
    let off = config::Authn { signup: false, ..config() };
    let web =
        Web::new(Context { config: off, ..context(&world.store, &world.authn, &world.clock) }, sign_in(&world.clock))
            .unwrap();
    for request in ["GET /signup", "POST /api/2.0/mlflow/users/create-ui"] {
        let (method, path) = request.split_once(' ').unwrap();
        let request = http::Request::builder().method(method).uri(path).body(Bytes::new()).unwrap();
        let answer = web.answer(Some(world.identity("admin").await.unwrap()), HERE, request).await;
        assert_eq!(answer.status(), StatusCode::NOT_FOUND);
    }
}

#[tokio::test]
async fn each_path_requires_its_access() {
    let web = World::new().await.web;
    for (path, access) in [
        ("/auth/login", Some(Access::Public)),
        ("/auth/logout", Some(Access::Public)),
        ("/auth/signed-out", Some(Access::Public)),
        ("/auth/backchannel-logout", Some(Access::Public)),
        ("/auth/callback/keycloak", Some(Access::Public)),
        ("/auth/callback/a/b", Some(Access::Public)),
        ("/auth/static/style.css", Some(Access::Public)),
        ("/auth/api/v1/me", Some(Access::ScopedToken)),
        ("/auth/api/v1/explain", Some(Access::ScopedToken)),
        ("/auth/api/v1/tokens", Some(Access::ScopedToken)),
        ("/auth/api/v1/tokens/7", Some(Access::ScopedToken)),
        ("/auth/api/v1/tokens/7/rotate", Some(Access::ScopedToken)),
        ("/api/2.0/mlflow/users/current", Some(Access::ScopedToken)),
        ("/ajax-api/2.0/mlflow/users/current", Some(Access::ScopedToken)),
        ("/auth", Some(Access::User)),
        ("/auth/", Some(Access::User)),
        ("/auth/loginx", Some(Access::User)),
        ("/auth/login/", Some(Access::User)),
        ("/auth/account", Some(Access::User)),
        ("/auth/api/v1/grants", Some(Access::User)),
        ("/auth/api/v1/sessions", Some(Access::User)),
        ("/auth/api/v1/tokensx", Some(Access::User)),
        ("/signup", Some(Access::User)),
        ("/api/2.0/mlflow/users/create", Some(Access::User)),
        ("/ajax-api/2.0/mlflow/users/create", Some(Access::User)),
        ("/api/2.0/mlflow/users/create-ui", Some(Access::User)),
        ("/api/2.0/mlflow/users/list", Some(Access::User)),
        ("/api/2.0/mlflow/users/made-up", Some(Access::User)),
        ("/api/3.0/mlflow/users/current/permissions", Some(Access::User)),
        ("/api/3.0/mlflow/users/permissions/grant", Some(Access::User)),
        ("/api/3.0/mlflow/users/roles/list", Some(Access::User)),
        ("/ajax-api/3.0/mlflow/roles/permissions/add", Some(Access::User)),
        ("/api/3.0/mlflow/scorers/permissions/create", Some(Access::User)),
        ("/api/3.0/mlflow/gateway/secrets/permissions/get", Some(Access::User)),
        ("/ajax-api/3.0/mlflow/gateway/endpoints/permissions/update", Some(Access::User)),
        ("/api/3.0/mlflow/gateway/model-definitions/permissions/delete", Some(Access::User)),
        ("/api/2.0/mlflow/experiments/permissions/get", Some(Access::User)),
        ("/ajax-api/2.0/mlflow/registered-models/permissions/delete", Some(Access::User)),
        ("/api/3.0/mlflow/gateway/secrets/list", None),
        ("/api/2.0/mlflow/experiments/get", None),
        ("/api/2.0/mlflow/registered-models/permissions", None),
        ("/api/2.0/mlflow/users", None),
        ("/prefix/api/2.0/mlflow/users/create", None),
        ("/authority", None),
        ("/", None),
    ] {
        assert_eq!(web.access(path), access, "{path}");
    }
}

#[tokio::test]
async fn without_an_identity_only_public_routes_answer() {
    let world = World::new().await;
    let ask = async |method: &str, path: &str| {
        let request = http::Request::builder().method(method).uri(path).body(Bytes::new()).unwrap();
        world.web.answer(None, HERE, request).await
    };
    assert_eq!(ask("GET", "/auth/signed-out").await.status(), 200);
    assert_eq!(ask("GET", "/auth/static/style.css").await.headers()[header::CACHE_CONTROL], "no-cache");
    // The pipeline lets no anonymous request in here; if it did, handlers would refuse.
    for (method, path) in [
        ("GET", "/auth/account"),
        ("GET", "/auth/api/v1/tokens"),
        ("POST", "/auth/account/tokens/1/revoke"),
        ("GET", "/api/2.0/mlflow/users/list"),
        ("GET", "/signup"),
    ] {
        assert_eq!(ask(method, path).await.status(), 500, "{path}");
    }
}

#[tokio::test]
async fn a_callback_answers_get_only() {
    let world = World::new().await;
    for (method, status) in [("HEAD", 405), ("POST", 405), ("GET", 404)] {
        let request =
            http::Request::builder().method(method).uri("/auth/callback/keycloak").body(Bytes::new()).unwrap();
        let answer = world.web.answer(None, HERE, request).await;
        assert_eq!(answer.status(), status, "{method}");
        assert_eq!(answer.headers().get(header::ALLOW).is_some_and(|allow| allow == "GET"), status == 405);
    }
}

// ---- sessions and the account page

impl World {
    /// Creates a session. Returns its ID and cookie.
    pub(crate) async fn browser(&self, who: &str) -> (i64, SessionSecret) {
        let user = self.store.user_by_name(who).await.unwrap().unwrap();
        let secret = SessionSecret::generate();
        let session = store::NewSession {
            hash: secret.hash(),
            user: user.id,
            provider: None,
            issuer: None,
            subject: None,
            sid: None,
            tokens: String::new(),
            expires: self.clock.now().plus(DAY),
            refresh_at: None,
            address: "192.0.2.7".to_owned(),
            agent: "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0".to_owned(),
        };
        (self.store.create_session(&actor(), &session, 50).await.unwrap().id.0, secret)
    }

    pub(crate) async fn ask_from(&self, session: &SessionSecret, request: &str, form: &str) -> http::Response<Bytes> {
        let shown = RawCredentials { authorization: None, session: Some(session.reveal()) };
        let identity = self.authn.authenticate(shown, HERE).await.unwrap();
        let (method, target) = request.split_once(' ').unwrap();
        let request = http::Request::builder()
            .method(method)
            .uri(target)
            .header(header::HOST, "mlflow.example")
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Bytes::copy_from_slice(form.as_bytes()))
            .unwrap();
        self.web.answer(Some(identity), HERE, request).await
    }

    pub(crate) async fn is_signed_in(&self, session: &SessionSecret) -> bool {
        let shown = RawCredentials { authorization: None, session: Some(session.reveal()) };
        self.authn.authenticate(shown, HERE).await.is_ok()
    }
}

pub(crate) fn text(answer: &http::Response<Bytes>) -> &str {
    str::from_utf8(answer.body()).unwrap()
}

fn form_token(page: &http::Response<Bytes>) -> String {
    text(page).split("name=\"form_token\" value=\"").nth(1).unwrap().split('"').next().unwrap().to_owned()
}

#[tokio::test]
async fn a_token_made_on_the_account_page_is_shown_once() {
    let world = World::new().await;
    let (_, browser) = world.browser("alice").await;
    let page = world.ask_from(&browser, "GET /auth/account", "").await;
    assert_eq!(page.status(), 200);
    assert_eq!(page.headers()[header::CACHE_CONTROL], "no-store");
    assert!(page.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap().contains("frame-ancestors 'none'"));
    let token = form_token(&page);
    let form = format!("form_token={token}&name=notebook&expires_in_days=30&read_only=yes&only=experiment%3A1");
    let made = world.ask_from(&browser, "POST /auth/account/tokens", &form).await;
    assert_eq!(made.status(), 200);
    let secret = text(&made).split("mlap_").nth(1).unwrap().split('<').next().unwrap();
    let header = format!("Bearer mlap_{secret}");
    let identity = world.authn.authenticate(RawCredentials::authorization(header.as_bytes()), HERE).await.unwrap();
    assert_eq!(identity.limits.scopes(), ["read-only", "experiment:1"]);
    assert!(text(&made).contains("export MLFLOW_TRACKING_URI=http://mlflow.example\n"), "{}", text(&made));
    let again = world.ask_from(&browser, "GET /auth/account", "").await;
    assert!(text(&again).contains("notebook") && !text(&again).contains(secret));

    // A new secret, then none at all.
    let id = identity.scheme.token().unwrap();
    let form = format!("form_token={token}");
    let rotated = world.ask_from(&browser, &format!("POST /auth/account/tokens/{id}/rotate"), &form).await;
    assert!(text(&rotated).contains("mlap_") && !text(&rotated).contains(secret));
    assert!(world.authn.authenticate(RawCredentials::authorization(header.as_bytes()), HERE).await.is_err());
    let revoked = world.ask_from(&browser, &format!("POST /auth/account/tokens/{id}/revoke"), &form).await;
    assert_eq!(
        (revoked.status(), &revoked.headers()[header::LOCATION]),
        (StatusCode::SEE_OTHER, &"/auth/account".parse().unwrap())
    );
    assert!(!text(&world.ask_from(&browser, "GET /auth/account", "").await).contains(">notebook<"));
}

#[tokio::test]
async fn what_is_pasted_leads_back_here_and_browsers_stay_on_tls() {
    let World { store, authn, clock, .. } = World::new().await;
    let ask = async |address: PublicAddress, request: &str, origin: &'static str, form: &str| {
        let web = Web::new(Context { address, ..context(&store, &authn, &clock) }, sign_in(&clock)).unwrap();
        let alice = basic("alice", "alice-password");
        let alice = authn.authenticate(RawCredentials::authorization(alice.as_bytes()), HERE).await.unwrap();
        let (method, path) = request.split_once(' ').unwrap();
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "host.example:8080")
            .header(header::ORIGIN, origin)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Bytes::copy_from_slice(form.as_bytes()))
            .unwrap();
        web.answer(Some(alice), HERE, request).await
    };
    let public =
        || PublicAddress { url: Some("https://mlflow.example/".parse().unwrap()), static_prefix: "/ml".to_owned() };
    let page = ask(public(), "GET /auth/account", "", "").await;
    assert!(page.headers().contains_key(header::STRICT_TRANSPORT_SECURITY));
    let token = form_token(&page);
    for (name, address, origin, uri) in [
        ("one", public(), "https://mlflow.example", "https://mlflow.example/ml"),
        ("two", PublicAddress::default(), "http://host.example:8080", "http://host.example:8080"),
        ("three", PublicAddress::default(), "https://host.example:8080", "https://host.example:8080"),
    ] {
        let form = format!("form_token={token}&name={name}&expires_in_days=7");
        let made = ask(address, "POST /auth/account/tokens", origin, &form).await;
        assert!(text(&made).contains(&format!("export MLFLOW_TRACKING_URI={uri}\n")), "{}", text(&made));
        let secure = made.headers().contains_key(header::STRICT_TRANSPORT_SECURITY);
        assert_eq!(secure, name == "one", "only where TLS is configured");
    }
}

#[tokio::test]
async fn a_form_of_another_page_or_time_changes_nothing() {
    let world = World::new().await;
    let (_, alice) = world.browser("alice").await;
    let (_, bob) = world.browser("bob").await;
    let bobs = form_token(&world.ask_from(&bob, "GET /auth/account", "").await);
    let form = |token: &str| format!("form_token={token}&name=x&expires_in_days=30");
    for token in ["", "x", &bobs] {
        let answer = world.ask_from(&alice, "POST /auth/account/tokens", &form(token)).await;
        assert_eq!(answer.status(), 400);
        assert!(text(&answer).contains("CSRF token") && !text(&answer).contains("mlap_"));
    }
    let own = form_token(&world.ask_from(&alice, "GET /auth/account", "").await);
    world.clock.advance(Duration::from_hours(1));
    let (_, alice) = world.browser("alice").await;
    let late = world.ask_from(&alice, "POST /auth/account/tokens", &form(&own)).await;
    assert!(text(&late).contains("The CSRF token has expired."));
    // What is wrong with a good form is said on the page.
    let fresh = form_token(&world.ask_from(&alice, "GET /auth/account", "").await);
    let wrong = format!("form_token={fresh}&name=x&expires_in_days=30&only=everything");
    let wrong = world.ask_from(&alice, "POST /auth/account/tokens", &wrong).await;
    assert_eq!(wrong.status(), 400);
    assert!(text(&wrong).contains("role=\"alert\"") && text(&wrong).contains("is not an experiment, model or prompt"));
}

#[tokio::test]
async fn a_form_that_is_refused_keeps_its_fields() {
    let world = World::new().await;
    let (_, alice) = world.browser("alice").await;
    let token = form_token(&world.ask_from(&alice, "GET /auth/account", "").await);
    let form = format!(
        "form_token={token}&name=nightly+%3Cjob%3E&expires_in_days=7&read_only=yes&only=experiment%3A1%0D%0Aeverything"
    );
    let page = world.ask_from(&alice, "POST /auth/account/tokens", &form).await;
    assert_eq!(page.status(), 400);
    let page = text(&page).to_owned();
    let escaped = "nightly &#60;job&#62;";
    for kept in [format!("value=\"{escaped}\""), "value=\"7\" selected".to_owned(), "value=\"yes\" checked".to_owned()]
    {
        assert!(page.contains(&kept), "{kept}: {page}");
    }
    assert!(page.contains(">experiment:1\r\neverything</textarea>"), "{page}");
    let no_name = format!("form_token={token}&name=&expires_in_days=7&only=experiment%3A1");
    let page = world.ask_from(&alice, "POST /auth/account/tokens", &no_name).await;
    assert!(text(&page).contains(">experiment:1</textarea>"));
    assert!(text(&page).contains("The name "), "the page's words, not the API's: {}", text(&page));
}

#[tokio::test]
async fn a_password_is_changed_on_the_account_page_and_tokens_are_revoked_if_wanted() {
    for revoke in [true, false] {
        let world = World::new().await;
        let (_, here) = world.browser("alice").await;
        let (_, elsewhere) = world.browser("alice").await;
        let page = world.ask_from(&here, "GET /auth/account", "").await;
        let token = form_token(&page);
        assert!(text(&page).contains("name=\"revoke_tokens\" value=\"yes\" checked"), "it is offered");
        let more = if revoke { "&revoke_tokens=yes" } else { "" };
        let form = |current: &str, new: &str| {
            format!("form_token={token}&current_password={current}&new_password={new}{more}")
        };
        for (current, new, said) in [
            ("wrong", "a-new-password", "does not match"),
            ("alice-password", "short", "at least 12"),
            ("alice-password", "alice-password", "must differ"),
        ] {
            let refused = world.ask_from(&here, "POST /auth/account/password", &form(current, new)).await;
            assert!(refused.status() == 400 && text(&refused).contains(said), "{said}: {}", text(&refused));
            assert!(!text(&refused).contains("a-new-password"), "passwords are not kept in the form");
        }
        let done =
            world.ask_from(&here, "POST /auth/account/password", &form("alice-password", "a-new-password")).await;
        assert!(done.status() == 200 && text(&done).contains("role=\"status\""), "{}", text(&done));
        assert!(!world.is_signed_in(&here).await && !world.is_signed_in(&elsewhere).await);
        let live = world.store.tokens_of(world.store.user_by_name("alice").await.unwrap().unwrap().id).await.unwrap();
        assert_eq!(live.iter().all(|token| token.revoked.is_some()), revoke);
    }
}

#[tokio::test]
async fn a_token_looks_at_the_account_and_changes_nothing() {
    let world = World::new().await;
    let page = world.ask("alice/ro", "GET /auth/account", "").await;
    assert_eq!(page.status(), 200);
    assert!(!text(&page).contains("form_token"));
    for request in ["tokens", "tokens/1/revoke", "tokens/1/rotate", "sessions/1/end", "sessions/end-others", "password"]
    {
        let answer = world.ask("alice/ro", &format!("POST /auth/account/{request}"), "form:name=x").await;
        assert_eq!(answer.status(), 403, "{request}");
    }
}
