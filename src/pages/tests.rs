//! What clients rely on, as golden conversations: who asked what, and every byte of the answer. The clock stands still.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::*;
use crate::authn::Shown;
use crate::authz::{Grant, Limits, Permission, ResourceKind, Selector, Subject};
use crate::clock::Timestamp;
use crate::crypto::{AccessToken, PasswordHash, SessionSecret};
use crate::mlflow::Table;
use crate::store::{self, Actor, NewToken, User};

const START: Timestamp = Timestamp(1_700_000_000_000);
const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
const DAY: Duration = Duration::from_hours(24);

/// `admin` (1), `alice` (2) who has MANAGE on experiment 1 and model m, `bob` (3); a password of each is
/// `<name>-password`. `alice/ro`, `alice/e1` and `admin/all`, `admin/ro`, `admin/e1` are access tokens.
struct World {
    pages: Pages,
    store: Arc<Store>,
    authn: Arc<Authn>,
    clock: Clock,
    credentials: BTreeMap<String, String>,
}

fn table() -> Arc<Table> {
    Arc::new(Table::built_in().unwrap())
}

/// Asks an MLflow that is not there.
fn nowhere() -> Arc<Resolver> {
    let upstream = config::Upstream {
        url: "http://127.0.0.1:1".parse().unwrap(),
        static_prefix: String::new(),
        connect_timeout: Duration::from_secs(1),
        response_timeout: Duration::from_secs(1),
        pool_idle_timeout: Duration::from_secs(1),
        pool_max_idle: 1,
        hold: Duration::ZERO,
        hold_max_requests: 16,
        hold_max_bytes: 1024 * 1024,
    };
    let metrics = crate::telemetry::Metrics::new([]).unwrap();
    Arc::new(Resolver::new(crate::upstream::Upstream::new(&upstream).unwrap(), Arc::new(metrics)))
}

/// By default nobody may do anything, and nothing is configured.
fn parts(store: &Arc<Store>, authn: &Arc<Authn>, clock: &Clock) -> Parts {
    Parts {
        store: Arc::clone(store),
        authn: Arc::clone(authn),
        config: config(),
        policy: Policy { default_permission: Permission::NoPermissions },
        table: table(),
        reached: Reached::default(),
        clock: clock.clone(),
        resolver: nowhere(),
    }
}

impl World {
    async fn new() -> Self {
        Self::with(Permission::NoPermissions).await
    }

    async fn with(default_permission: Permission) -> Self {
        let clock = Clock::manual(START);
        let store = Arc::new(Store::open("sqlite::memory:", clock.clone()).await.unwrap());
        let authn = Arc::new(Authn::new(&config(), Arc::clone(&store), clock.clone()));
        let policy = Policy { default_permission };
        let pages = Pages::new(Parts { policy, ..parts(&store, &authn, &clock) });
        let mut world = Self { pages, store, authn, clock, credentials: BTreeMap::new() };
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

    async fn person(&mut self, name: &str, admin: bool) -> User {
        let password = format!("{name}-password");
        let hash = PasswordHash::make(&password.as_str().into());
        self.credentials.insert(name.to_owned(), basic(name, &password));
        self.store.create_user(&actor(), name, Some(&hash), admin).await.unwrap()
    }

    async fn token(&mut self, owner: &User, name: &str, scopes: &[&str]) {
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

    async fn give(&self, user: &User, kind: ResourceKind, key: &str, permission: Permission) {
        let selector = Selector::Exact(key.to_owned());
        let grant = Grant { subject: Subject::User(user.id), kind, selector, permission };
        self.store.create_grant(&actor(), &grant).await.unwrap();
    }

    async fn identity(&self, who: &str) -> Result<Arc<Identity>, crate::authn::Error> {
        self.authn.authenticate(Shown::authorization(self.credentials[who].as_bytes()), HERE).await
    }

    /// `request` is `METHOD path?query`; a body is sent as JSON, unless it starts with `text:`.
    async fn ask(&self, who: &str, request: &str, body: &str) -> http::Response<Bytes> {
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
        self.pages.answer(identity, HERE, request).await
    }

    /// The conversation as text, with MLflow's paths shortened to what follows `/api/`.
    async fn play(&self, turns: &[(&str, &str, &str)]) -> String {
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

fn show(answer: &http::Response<Bytes>) -> String {
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
    assert_eq!(answer.headers()[header::CACHE_CONTROL], "no-store");
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

fn actor() -> Actor {
    Actor { name: "test".to_owned(), token: None, address: None }
}

fn config() -> config::Authn {
    config::Authn {
        token_max_days: 365,
        cache_ttl: Duration::from_mins(5),
        cache_entries: 1000,
        hash_concurrency: 2,
        hash_queue: 16,
        guesses_per_address: 20,
        guesses_per_account: 3,
        guess_window: Duration::from_mins(15),
        password_form: false,
        person_max_age: None,
        signup: true,
    }
}

#[tokio::test]
async fn users_are_managed_in_mlflows_words() {
    let world = World::new().await;
    let conversation = world
        .play(&[
            ("admin", "POST users/create", r#"{"username":"carol","password":"a long password"}"#),
            ("admin", "POST users/create", r#"{"username":"carol","password":"a long password"}"#),
            ("admin", "POST users/create", ""),
            ("admin", "POST users/create", "text:username=dave"),
            ("admin", "POST users/create", "null"),
            ("admin", "POST users/create", "[]"),
            ("admin", "POST users/create", r#"{"username":"dave"}"#),
            ("admin", "POST users/create", r#"{"username":"","password":"a long password"}"#),
            ("admin", "POST users/create", r#"{"username":null,"password":"a long password"}"#),
            ("admin", "POST users/create", r#"{"username":"dave","password":""}"#),
            ("admin", "POST users/create", r#"{"username":5,"password":"a long password"}"#),
            ("admin", "POST users/create", r#"{"username":"dave","password":123456789012}"#),
            ("admin", "POST users/create", r#"{"username":"dave","password":"short"}"#),
            ("admin", "POST users/create", r#"{"username":"dave","password":"mlap_0123456789"}"#),
            ("admin", "POST users/create", r#"{"username":"dave","password":"eleven char\n"}"#),
            ("admin", "POST users/create", r#"{"username":"da:ve","password":"a long password"}"#),
            ("admin", "POST users/create", r#"{"username":" dave","password":"a long password"}"#),
            ("admin", "POST users/create", r#"{"username":"da\u0000ve","password":"a long password"}"#),
            ("admin", "POST users/create", r#"{"username":"dave","username":"eve","password":"a long password"}"#),
            ("admin", "POST users/create", r#"{"username":"dave""#),
            ("alice", "POST users/create", r#"{"username":"dave","password":"a long password"}"#),
            ("admin", "GET users/create", ""),
            ("alice", "PUT users/create", ""),
            ("admin", "GET users/get?username=alice", ""),
            ("alice", "GET users/get?username=alice", ""),
            ("admin", "GET users/get?username=nobody", ""),
            ("alice", "GET users/get?username=bob", ""),
            ("alice", "GET users/get?username=nobody", ""),
            ("alice", "GET users/get", ""),
            ("alice", "GET users/get?username=alice&username=bob", ""),
            ("alice", "GET users/get?username=%ff", ""),
            ("alice", "GET users/list", ""),
            ("admin", "GET users/list", ""),
            ("alice", "GET users/current?x=1&x=2", ""),
            ("admin/all", "GET users/current", ""),
        ])
        .await;
    insta::assert_snapshot!(conversation);
}

#[tokio::test]
async fn passwords_administrators_and_accounts_change_in_mlflows_words() {
    let world = World::new().await;
    let conversation = world
        .play(&[
            ("alice", "PATCH users/update-password", r#"{"username":"alice","password":"alice-password-2"}"#),
            (
                "alice",
                "PATCH users/update-password",
                r#"{"username":"alice","password":"alice-password-2","current_password":""}"#,
            ),
            (
                "alice",
                "PATCH users/update-password",
                r#"{"username":"alice","password":"alice-password-2","current_password":"wrong"}"#,
            ),
            (
                "alice",
                "PATCH users/update-password",
                r#"{"username":"alice","password":"alice-password","current_password":"alice-password"}"#,
            ),
            (
                "alice",
                "PATCH users/update-password",
                r#"{"username":"alice","password":"short","current_password":"alice-password"}"#,
            ),
            ("alice", "PATCH users/update-password", r#"{"username":"bob","password":"a long password"}"#),
            ("alice", "PATCH users/update-password", "{}"),
            ("admin", "PATCH users/update-password", r#"{"username":"nobody","password":"a long password"}"#),
            ("admin", "PATCH users/update-password", r#"{"username":"bob","password":""}"#),
            ("admin", "PATCH users/update-password", r#"{"username":"bob"}"#),
            ("admin/all", "PATCH users/update-password", r#"{"username":"bob","password":"a long password"}"#),
            ("alice/e1", "PATCH users/update-password", r#"{"username":"alice","password":"a long password"}"#),
            ("alice/ro", "PATCH users/update-password", r#"{"username":"alice","password":"a long password"}"#),
            (
                "alice",
                "PATCH users/update-password",
                r#"{"username":"alice","password":"alice-password-2","current_password":"alice-password"}"#,
            ),
            ("admin", "PATCH users/update-admin", r#"{"username":"bob","is_admin":"yes"}"#),
            ("admin", "PATCH users/update-admin", r#"{"username":"bob","is_admin":null}"#),
            ("admin", "PATCH users/update-admin", r#"{"username":"bob","is_admin":1}"#),
            ("admin", "PATCH users/update-admin", r#"{"username":"bob"}"#),
            ("admin", "PATCH users/update-admin", r#"{"username":"nobody","is_admin":true}"#),
            ("admin", "PATCH users/update-admin", r#"{"username":"admin","is_admin":false}"#),
            ("bob", "PATCH users/update-admin", r#"{"username":"bob","is_admin":true}"#),
            ("admin", "PATCH users/update-admin", r#"{"username":"bob","is_admin":true}"#),
            ("bob", "DELETE users/delete", r#"{"username":"bob"}"#),
            ("bob", "DELETE users/delete", r#"{"username":"nobody"}"#),
            ("bob", "DELETE users/delete?username=nobody", ""),
            ("bob", "DELETE users/delete?username=nobody", "{}"),
            ("bob", "DELETE users/delete", r#"{"username":"alice"}"#),
            ("bob", "GET users3/permissions/list?username=alice", ""),
        ])
        .await;
    insta::assert_snapshot!(conversation);
    assert!(world.identity("alice").await.is_err(), "a deleted user is forgotten at once");
    assert!(world.identity("alice/e1").await.is_err(), "and so are their tokens");
}

#[tokio::test]
async fn grants_to_users_are_made_in_mlflows_words() {
    let grant = |user: &str, kind: &str, id: &str, permission: &str| {
        format!(r#"{{"username":"{user}","resource_type":"{kind}","resource_id":"{id}","permission":"{permission}"}}"#)
    };
    let (to, world) = ("POST users3/permissions/grant", World::with(Permission::Read).await);
    let bodies = [
        ("alice", grant("bob", "experiment", "1", "EDIT")),
        ("alice", grant("bob", "experiment", "1", "READ")),
        ("alice", grant("bob", "experiment", "1", "OWNER")),
        ("alice", grant("bob", "experiment", "1", "NO_PERMISSIONS")),
        ("alice", grant("nobody", "experiment", "1", "READ")),
        ("alice", grant("nobody", "experiment", "2", "READ")),
        ("alice", grant("bob", "experiment", "2", "READ")),
        ("alice", grant("bob", "experiment", "*", "READ")),
        ("alice", grant("bob", "registered_model", "glob:m*", "READ")),
        ("alice", grant("bob", "registered_model", "m", "USE")),
        ("alice", grant("bob", "exp", "1", "READ")),
        ("alice", grant("bob", "workspace", "*", "USE")),
        ("alice", grant("bob", "run", "abc", "READ")),
        ("alice", grant("bob", "scorer", "x", "READ")),
        ("alice", grant("bob", "experiment", "", "READ")),
        ("alice", "{}".to_owned()),
        ("alice", r#"{"resource_type":"experiment","resource_id":"1"}"#.to_owned()),
        ("alice", r#"{"resource_type":"experiment","resource_id":1}"#.to_owned()),
        ("alice/ro", grant("bob", "experiment", "1", "READ")),
        ("alice/e1", grant("bob", "registered_model", "m", "READ")),
        ("admin/e1", grant("bob", "experiment", "*", "READ")),
        ("admin/ro", grant("bob", "experiment", "*", "READ")),
        ("admin", grant("bob", "experiment", "*", "READ")),
        ("admin", grant("bob", "experiment", "99999", "DENY")),
        ("admin", grant("bob", "registered_model", "glob:team-*", "READ")),
        ("admin", grant("bob", "scorer", "glob:team-*", "READ")),
        ("admin", grant("bob", "prompt", "p", "READ")),
        ("admin", grant("bob", "scorer", "1/my%20scorer", "READ")),
        ("admin", grant("bob", "mcp_server", "a/b", "USE")),
        ("admin", grant("bob", "run", "*", "READ")),
        ("admin", grant("bob", "skill", "@acme/review", "EDIT")),
        ("admin", grant("bob", "skill", "review", "USE")),
        ("admin", grant("bob", "skill", "Review", "READ")),
        ("admin", grant("bob", "experiment", "02", "DENY")),
        ("admin", grant("bob", "scorer", "01/judge", "DENY")),
        ("admin", grant("bob", "scorer", "1/my scorer", "DENY")),
        ("admin", grant("bob", "mcp_server", "a", "DENY")),
        ("admin", grant("bob", "gateway_secret", "a b", "DENY")),
    ];
    let turns: Vec<_> = bodies.iter().map(|(who, body)| (*who, to, body.as_str())).collect();
    let granted = world.play(&turns).await;
    let asked = world
        .play(&[
            ("bob", "GET users3/current/permissions", ""),
            ("admin/ro", "GET users3/permissions/list?username=bob", ""),
            ("alice", "GET users3/permissions/list?username=bob", ""),
            ("admin", "GET users3/permissions/list?username=nobody", ""),
            ("alice", "GET users3/permissions/list", ""),
            ("bob", "GET users/list", ""),
            ("bob", "GET users/get?username=bob", ""),
            ("bob", "GET users3/permissions/get?username=bob&resource_type=experiment&resource_id=1", ""),
            ("bob", "GET users3/permissions/get?username=bob&resource_type=experiment&resource_id=2", ""),
            ("bob", "GET users3/permissions/get?username=bob&resource_type=experiment&resource_id=99999", ""),
            ("bob", "GET users3/permissions/get?username=bob&resource_type=experiment&resource_id=*", ""),
            ("bob", "GET users3/permissions/get?username=bob&resource_type=registered_model&resource_id=team-x", ""),
            ("bob", "GET users3/permissions/get?username=bob&resource_type=mcp_server&resource_id=a%2Fb", ""),
            ("bob", "GET users3/permissions/get?username=bob&resource_type=prompt&resource_id=nothing", ""),
            ("bob", "GET users3/permissions/get?username=bob&resource_type=registered_model&resource_id=glob:x", ""),
            ("bob", "GET users3/permissions/get?username=bob&resource_type=exp&resource_id=1", ""),
            ("bob", "GET users3/permissions/get?username=bob&resource_type=workspace&resource_id=*", ""),
            ("bob", "GET users3/permissions/get", ""),
            ("admin", "GET users3/permissions/get?username=admin&resource_type=experiment&resource_id=1", ""),
            ("admin", "GET users3/permissions/get?username=nobody&resource_type=experiment&resource_id=1", ""),
            ("alice", "GET users3/permissions/get?username=bob&resource_type=experiment&resource_id=1", ""),
            ("alice", "GET users3/permissions/get?username=nobody&resource_type=experiment&resource_id=1", ""),
        ])
        .await;
    let revoke = |user: &str, kind: &str, id: &str| {
        format!(r#"{{"username":"{user}","resource_type":"{kind}","resource_id":"{id}"}}"#)
    };
    let bodies = [
        ("bob", revoke("bob", "experiment", "1")),
        ("alice/ro", revoke("bob", "experiment", "1")),
        ("alice/e1", revoke("bob", "experiment", "1")),
        ("alice", revoke("bob", "experiment", "1")),
        ("alice", revoke("bob", "experiment", "*")),
        ("admin/all", revoke("bob", "experiment", "*")),
        ("admin", revoke("bob", "experiment", "*")),
        ("admin", revoke("nobody", "experiment", "1")),
        ("admin", revoke("bob", "run", "abc")),
        ("admin", revoke("bob", "skill", "@acme/review")),
        // One that was stored before such IDs were refused can still be taken away.
        ("admin", revoke("bob", "experiment", "02")),
    ];
    let turns: Vec<_> =
        bodies.iter().map(|(who, body)| (*who, "POST users3/permissions/revoke", body.as_str())).collect();
    insta::assert_snapshot!([granted, asked, world.play(&turns).await].join("\n"));
}

#[tokio::test]
async fn grants_per_resource_are_made_in_the_words_of_older_mlflows() {
    let world = World::new().await;
    let conversation = world
        .play(&[
            (
                "alice",
                "POST experiments/permissions/create",
                r#"{"experiment_id":"1","username":"bob","permission":"NO_PERMISSIONS"}"#,
            ),
            (
                "alice",
                "POST experiments/permissions/create",
                r#"{"experiment_id":"1","username":"bob","permission":"READ"}"#,
            ),
            (
                "alice",
                "POST experiments/permissions/create",
                r#"{"experiment_id":"1","username":"bob","permission":"read"}"#,
            ),
            (
                "alice",
                "POST experiments/permissions/create",
                r#"{"experiment_id":"2","username":"bob","permission":"READ"}"#,
            ),
            (
                "admin",
                "POST experiments/permissions/create",
                r#"{"experiment_id":"99999","username":"bob","permission":"READ"}"#,
            ),
            ("alice", "POST experiments/permissions/create", "{}"),
            ("alice", "GET experiments/permissions/get?experiment_id=1&username=bob", ""),
            ("alice/ro", "GET experiments/permissions/get?experiment_id=1&username=bob", ""),
            ("bob", "GET experiments/permissions/get?experiment_id=1&username=bob", ""),
            ("admin", "GET experiments/permissions/get?experiment_id=1&username=nobody", ""),
            ("admin", "GET experiments/permissions/get?experiment_id=7&username=bob", ""),
            (
                "alice",
                "PATCH experiments/permissions/update",
                r#"{"experiment_id":"1","username":"bob","permission":"EDIT"}"#,
            ),
            (
                "alice/ro",
                "PATCH experiments/permissions/update",
                r#"{"experiment_id":"1","username":"bob","permission":"EDIT"}"#,
            ),
            (
                "admin",
                "PATCH experiments/permissions/update",
                r#"{"experiment_id":"7","username":"bob","permission":"EDIT"}"#,
            ),
            ("bob", "DELETE experiments/permissions/delete", r#"{"experiment_id":"1","username":"bob"}"#),
            ("alice", "DELETE experiments/permissions/delete", r#"{"experiment_id":"1","username":"bob"}"#),
            ("alice", "DELETE experiments/permissions/delete?experiment_id=1&username=bob", ""),
            (
                "alice",
                "POST registered-models/permissions/create",
                r#"{"name":"m","username":"bob","permission":"USE"}"#,
            ),
            (
                "alice",
                "POST registered-models/permissions/create",
                r#"{"name":"m","username":"bob","permission":"USE"}"#,
            ),
            ("alice", "GET registered-models/permissions/get?name=m&username=bob", ""),
            ("admin", "GET registered-models/permissions/get?name=other&username=bob", ""),
            ("alice", "GET registered-models/permissions/get?name=other&username=bob", ""),
            (
                "alice",
                "PATCH registered-models/permissions/update",
                r#"{"name":"m","username":"bob","permission":"MANAGE"}"#,
            ),
            ("bob", "DELETE registered-models/permissions/delete", r#"{"name":"m","username":"alice"}"#),
            ("bob", "DELETE registered-models/permissions/delete", r#"{"name":"m","username":"alice"}"#),
            ("bob", "GET users/get?username=bob", ""),
        ])
        .await;
    insta::assert_snapshot!(conversation);
}

#[tokio::test]
async fn roles_are_made_in_mlflows_words() {
    let world = World::new().await;
    let mut conversation = world
        .play(&[
            ("admin", "POST roles/create", r#"{"name":"analysts","workspace":"default","description":"they look"}"#),
            ("admin", "POST roles/create", r#"{"name":"analysts","workspace":"default"}"#),
            ("admin", "POST roles/create", r#"{"name":"analysts","workspace":"team","description":null}"#),
            ("admin", "POST roles/create", r#"{"name":" ","workspace":"default"}"#),
            ("admin", "POST roles/create", r#"{"name":"x","workspace":" "}"#),
            ("admin", "POST roles/create", r#"{"workspace":"default"}"#),
            ("admin", "POST roles/create", r#"{"name":"x"}"#),
            ("admin", "POST roles/create", r#"{"name":"x","workspace":"default","description":3}"#),
            ("admin", "POST roles/create", r#"{"name":"__user_9__","workspace":"default"}"#),
            ("admin/ro", "POST roles/create", r#"{"name":"x","workspace":"default"}"#),
            ("alice", "POST roles/create", r#"{"name":"x","workspace":"default"}"#),
            ("admin", "GET roles/get?role_id=1", ""),
            ("admin", "GET roles/get?role_id=99", ""),
            ("admin", "GET roles/get?role_id=abc", ""),
            ("admin", "GET roles/get", ""),
            ("bob", "GET roles/get?role_id=1", ""),
            ("bob", "GET roles/get?role_id=99", ""),
            ("admin", "PATCH roles/update", r#"{"role_id":1,"description":"they only look"}"#),
            ("admin", "PATCH roles/update", r#"{"role_id":1,"name":"lookers","description":null}"#),
            ("admin", "PATCH roles/update", r#"{"role_id":1}"#),
            ("admin", "PATCH roles/update", r#"{"role_id":1,"name":""}"#),
            ("admin", "PATCH roles/update", r#"{"role_id":-2,"name":"x"}"#),
            ("bob", "PATCH roles/update", r#"{"role_id":1,"name":"x"}"#),
        ])
        .await;
    conversation += "\n";
    conversation += &world
        .play(&[
            ("admin", "POST roles/permissions/add", &gives(1, "experiment", "7", "EDIT")),
            ("admin", "POST roles/permissions/add", &gives(1, "experiment", "7", "READ")),
            ("admin", "POST roles/permissions/add", &gives(1, "run", "*", "READ")),
            ("admin", "POST roles/permissions/add", &gives(1, "run", "abc", "READ")),
            ("admin", "POST roles/permissions/add", &gives(1, "workspace", "*", "READ")),
            ("admin", "POST roles/permissions/add", &gives(1, "workspace", "x", "USE")),
            ("admin", "POST roles/permissions/add", &gives(1, "exp", "1", "READ")),
            ("admin", "POST roles/permissions/add", &gives(1, "job", "1", "READ")),
            ("admin", "POST roles/permissions/add", &gives(1, "experiment", "1", "OWNER")),
            ("admin", "POST roles/permissions/add", &gives(1, "experiment", "1", "NO_PERMISSIONS")),
            ("admin", "POST roles/permissions/add", &gives(1, "registered_model", "glob:fraud-*", "DENY")),
            ("admin", "POST roles/permissions/add", &gives(99, "experiment", "1", "READ")),
            ("bob", "POST roles/permissions/add", &gives(1, "experiment", "1", "READ")),
            ("admin", "GET roles/permissions/list?role_id=1", ""),
            ("bob", "GET roles/permissions/list?role_id=1", ""),
            ("admin", "PATCH roles/permissions/update", r#"{"role_permission_id":3,"permission":"USE"}"#),
            ("admin", "PATCH roles/permissions/update", r#"{"role_permission_id":3,"permission":"NO"}"#),
            ("admin", "PATCH roles/permissions/update", r#"{"role_permission_id":99,"permission":"USE"}"#),
            ("bob", "PATCH roles/permissions/update", r#"{"role_permission_id":3,"permission":"USE"}"#),
            ("bob", "DELETE roles/permissions/remove", r#"{"role_permission_id":3}"#),
            ("admin", "POST roles/assign", r#"{"username":"bob","role_id":1}"#),
            ("admin", "POST roles/assign", r#"{"username":"bob","role_id":1}"#),
            ("admin", "POST roles/assign", r#"{"username":"nobody","role_id":1}"#),
            ("admin", "POST roles/assign", r#"{"username":"bob","role_id":-2}"#),
            ("bob", "POST roles/assign", r#"{"username":"bob","role_id":1}"#),
            ("bob", "GET roles/get?role_id=1", ""),
            ("bob", "GET roles/users/list?role_id=1", ""),
            ("admin", "GET roles/users/list?role_id=1", ""),
            ("admin", "GET roles/users/list?role_id=-2", ""),
            ("bob", "GET users3/roles/list?username=bob", ""),
            ("admin", "GET users3/roles/list?username=alice", ""),
            ("bob", "GET users3/roles/list?username=alice", ""),
            ("bob", "GET users3/roles/list?username=nobody", ""),
            ("bob", "GET users3/current/permissions", ""),
            ("bob", "GET users3/permissions/get?username=bob&resource_type=experiment&resource_id=7", ""),
            ("admin", "DELETE roles/permissions/remove", r#"{"role_permission_id":3}"#),
            ("admin", "DELETE roles/permissions/remove", r#"{"role_permission_id":3}"#),
            ("bob", "GET users3/permissions/get?username=bob&resource_type=experiment&resource_id=7", ""),
            ("admin", "DELETE roles/unassign?username=bob&role_id=1", ""),
            ("admin", "DELETE roles/unassign", r#"{"username":"bob","role_id":1}"#),
            ("admin", "DELETE roles/delete", r#"{"role_id":1}"#),
            ("admin", "DELETE roles/delete", r#"{"role_id":1}"#),
            ("admin", "DELETE roles/delete", r#"{"role_id":-2}"#),
            ("bob", "DELETE roles/delete", r#"{"role_id":2}"#),
        ])
        .await;
    insta::assert_snapshot!(conversation);
}

fn gives(role: i64, kind: &str, pattern: &str, permission: &str) -> String {
    format!(
        r#"{{"role_id":{role},"resource_type":"{kind}","resource_pattern":"{pattern}","permission":"{permission}"}}"#
    )
}

#[tokio::test]
async fn an_administrator_of_a_workspace_is_one_there_and_nowhere_else() {
    let mut world = World::new().await;
    let carol = world.person("carol", false).await;
    let conversation = world
        .play(&[
            ("admin", "POST roles/create", r#"{"name":"admins","workspace":"team"}"#),
            ("admin", "POST roles/create", r#"{"name":"admins","workspace":"default"}"#),
            ("admin", "POST roles/create", r#"{"name":"members","workspace":"default"}"#),
            ("admin", "POST roles/permissions/add", &gives(1, "workspace", "*", "MANAGE")),
            ("admin", "POST roles/permissions/add", &gives(2, "workspace", "*", "MANAGE")),
            ("admin", "POST roles/permissions/add", &gives(3, "workspace", "*", "USE")),
            ("admin", "POST roles/assign", r#"{"username":"bob","role_id":1}"#),
            // bob, of `team`
            ("bob", "POST roles/create", r#"{"name":"readers","workspace":"team"}"#),
            ("bob", "POST roles/permissions/add", &gives(4, "experiment", "*", "MANAGE")),
            ("bob", "POST roles/assign", r#"{"username":"bob","role_id":4}"#),
            ("bob", "GET users3/permissions/get?username=bob&resource_type=experiment&resource_id=1", ""),
            ("bob", "POST roles/create", r#"{"name":"x","workspace":"default"}"#),
            ("bob", "POST roles/assign", r#"{"username":"bob","role_id":2}"#),
            ("bob", "GET roles/list?workspace=team", ""),
            ("bob", "GET roles/list?workspace=team&workspace=default", ""),
            ("bob", "GET roles/list", ""),
            ("bob", "GET users3/roles/list?username=alice", ""),
            ("bob", "POST users/create", r#"{"username":"dave","password":"a long password"}"#),
            ("bob", "DELETE users/delete", r#"{"username":"dave"}"#),
            ("bob", "GET users/list", ""),
            // alice has a role in `default`, and a grant of her own
            ("admin", "POST roles/assign", r#"{"username":"alice","role_id":3}"#),
            ("alice", "GET roles/list?workspace=default", ""),
            ("alice", "GET roles/get?role_id=-4", ""),
            ("alice", "GET roles/get?role_id=-2", ""),
            // carol, of `default`
            ("admin", "POST roles/assign", r#"{"username":"carol","role_id":2}"#),
            ("carol", "GET roles/list?workspace=default", ""),
            ("carol", "GET roles/list?workspace=", ""),
            ("admin", "GET roles/list?workspace=", ""),
            ("carol", "GET users3/permissions/list?username=alice", ""),
            ("carol", "GET users3/permissions/list?username=bob", ""),
            ("carol", "POST users3/permissions/grant", &to("carol", "experiment", "*", "READ")),
            ("carol", "POST users3/permissions/grant", &to("bob", "run", "*", "DENY")),
            (
                "carol",
                "POST users3/permissions/revoke",
                r#"{"username":"alice","resource_type":"experiment","resource_id":"1"}"#,
            ),
            ("carol", "GET users3/permissions/get?username=carol&resource_type=experiment&resource_id=1", ""),
            ("carol", "PATCH users/update-admin", r#"{"username":"carol","is_admin":true}"#),
        ])
        .await;
    insta::assert_snapshot!(conversation);
    assert!(world.identity("carol").await.unwrap().administers("default"));
    assert_eq!(carol.id.0, 4);
}

#[tokio::test]
async fn a_job_is_its_creators_and_no_permission_in_mlflows_words() {
    let world = World::new().await;
    let bob = world.store.user_by_name("bob").await.unwrap().unwrap();
    world.give(&bob, ResourceKind::Job, "j", Permission::Manage).await;
    world.give(&bob, ResourceKind::ReviewQueue, "rq-1", Permission::Manage).await;
    let conversation = world
        .play(&[
            ("bob", "GET users3/current/permissions", ""),
            ("bob", "GET users3/roles/list?username=bob", ""),
            ("admin", "GET roles/permissions/list?role_id=-3", ""),
            ("admin", "DELETE roles/permissions/remove", r#"{"role_permission_id":3}"#),
            ("admin", "POST users3/permissions/grant", &to("alice", "job", "j", "READ")),
        ])
        .await;
    insta::assert_snapshot!(conversation);
}

fn to(user: &str, kind: &str, id: &str, permission: &str) -> String {
    format!(r#"{{"username":"{user}","resource_type":"{kind}","resource_id":"{id}","permission":"{permission}"}}"#)
}

#[tokio::test]
async fn scorers_and_the_gateways_things_have_the_older_api_too() {
    let world = World::new().await;
    let mut turns: Vec<(&str, String, String)> = vec![
        ("admin", "POST scorers/permissions/create".to_owned(), scorer(r#""permission":"MANAGE""#)),
        ("admin", "POST scorers/permissions/create".to_owned(), scorer(r#""permission":"READ""#)),
        (
            "bob",
            "GET scorers/permissions/get?experiment_id=1&scorer_name=a%2Fb+c&username=bob".to_owned(),
            String::new(),
        ),
        (
            "alice",
            "GET scorers/permissions/get?experiment_id=1&scorer_name=a%2Fb+c&username=bob".to_owned(),
            String::new(),
        ),
        ("admin", "GET users/get?username=bob".to_owned(), String::new()),
        ("admin", "PATCH scorers/permissions/update".to_owned(), scorer(r#""permission":"NO_PERMISSIONS""#)),
        ("admin", "DELETE scorers/permissions/delete".to_owned(), scorer(r#""x":1"#)),
        ("admin", "DELETE scorers/permissions/delete".to_owned(), scorer(r#""x":1"#)),
    ];
    for (folder, key) in
        [("secrets", "secret_id"), ("endpoints", "endpoint_id"), ("model-definitions", "model_definition_id")]
    {
        let body = format!(r#"{{"{key}":"x-1","username":"bob","permission":"USE"}}"#);
        for verb in ["POST create", "POST create", "GET get", "PATCH update", "DELETE delete", "DELETE delete"] {
            let (method, verb) = verb.split_once(' ').unwrap();
            let (query, body) = match method {
                "GET" => (format!("?{key}=x-1&username=bob"), String::new()),
                _ => (String::new(), body.clone()),
            };
            turns.push(("admin", format!("{method} gateway/{folder}/permissions/{verb}{query}"), body));
        }
    }
    let turns: Vec<_> = turns.iter().map(|(who, request, body)| (*who, request.as_str(), body.as_str())).collect();
    insta::assert_snapshot!(world.play(&turns).await);
}

fn scorer(more: &str) -> String {
    format!(r#"{{"experiment_id":"1","scorer_name":"a/b c","username":"bob",{more}}}"#)
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
        ("alice", form("dave", token), 403, "This needs an administrator."),
    ] {
        let (got, text) = send(who, &form).await;
        assert!(got == status && text.contains(message), "{form}: {got} {text}");
    }
    world.clock.advance(Duration::from_hours(1));
    assert!(send("admin", &form("dave", token)).await.1.contains("The CSRF token has expired."));
    let off = config::Authn { signup: false, ..config() };
    let pages = Pages::new(Parts { config: off, ..parts(&world.store, &world.authn, &world.clock) });
    for request in ["GET /signup", "POST /api/2.0/mlflow/users/create-ui"] {
        let (method, path) = request.split_once(' ').unwrap();
        let request = http::Request::builder().method(method).uri(path).body(Bytes::new()).unwrap();
        let answer = pages.answer(world.identity("admin").await.unwrap(), HERE, request).await;
        assert_eq!(answer.status(), StatusCode::NOT_FOUND);
    }
}

#[tokio::test]
async fn access_tokens_are_their_owners() {
    let world = World::new().await;
    world.clock.advance(Duration::from_secs(3600));
    let conversation = world
        .play(&[
            ("bob", "POST tokens", r#"{"name":"ci","expires_in_days":90}"#),
            ("bob", "POST tokens", r#"{"name":"ci","expires_in_days":90}"#),
            ("bob", "POST tokens", r#"{"name":"narrow","expires_in_days":1,"scopes":["read-only","prompt:p"]}"#),
            ("bob", "POST tokens", r#"{"name":"x"}"#),
            ("bob", "POST tokens", r#"{"expires_in_days":1}"#),
            ("bob", "POST tokens", r#"{"name":"x","expires_in_days":0}"#),
            ("bob", "POST tokens", r#"{"name":"x","expires_in_days":366}"#),
            ("bob", "POST tokens", r#"{"name":"x","expires_in_days":99999999999999999999}"#),
            ("bob", "POST tokens", r#"{"name":"x","expires_in_days":1.5}"#),
            ("bob", "POST tokens", r#"{"name":"x","expires_in_days":"1"}"#),
            ("bob", "POST tokens", r#"{"name":"","expires_in_days":1}"#),
            ("bob", "POST tokens", r#"{"name":"x","expires_in_days":1,"scopes":["write"]}"#),
            ("bob", "POST tokens", r#"{"name":"x","expires_in_days":1,"scopes":"read-only"}"#),
            ("bob", "POST tokens", r#"{"name":"x","expires_in_days":1,"scopes":null}"#),
            ("bob", "POST tokens", r#"{"name":"x","expires_in_days":1,"scope":["read-only"]}"#),
            ("bob", "POST tokens", "text:name=x"),
            ("admin", "POST tokens?user=bob", r#"{"name":"x","expires_in_days":1}"#),
            ("alice/e1", "POST tokens", r#"{"name":"x","expires_in_days":1}"#),
            ("bob", "GET tokens", ""),
            ("alice/e1", "GET tokens", ""),
            ("alice", "GET tokens?user=bob", ""),
            ("alice", "GET tokens?user=nobody", ""),
            ("admin", "GET tokens?user=nobody", ""),
            ("admin/e1", "GET tokens?user=bob", ""),
            ("admin/ro", "GET tokens?user=bob", ""),
            ("bob", "POST tokens/6/rotate", ""),
            ("bob", "POST tokens/6/rotate", r#"{"expires_in_days":7}"#),
            ("bob", "POST tokens/1/rotate", ""),
            ("bob", "POST tokens/99/rotate", ""),
            ("bob", "POST tokens/abc/rotate", ""),
            ("alice/e1", "POST tokens/2/rotate", ""),
            ("admin", "POST tokens/6/rotate?user=bob", ""),
            ("bob", "DELETE tokens/2", ""),
            ("bob", "DELETE tokens/2?user=alice", ""),
            ("admin", "DELETE tokens/6", ""),
            ("admin/all", "DELETE tokens/6?user=bob", ""),
            ("admin", "DELETE tokens/6?user=bob", ""),
            ("bob", "DELETE tokens", r#"{"id":7}"#),
            ("bob", "DELETE tokens", r#"{"id":7}"#),
            ("bob", "DELETE tokens", r#"{"id":"7"}"#),
            ("bob", "DELETE tokens", "{}"),
            ("bob", "DELETE tokens", ""),
            ("bob", "POST tokens/7/rotate", ""),
            ("alice/ro", "DELETE tokens/1", ""),
            ("alice/e1", "DELETE tokens/1", ""),
            ("alice/e1", "DELETE tokens/2", ""),
            ("alice", "GET tokens", ""),
            ("bob", "GET tokens/6", ""),
        ])
        .await;
    insta::assert_snapshot!(conversation);
    assert!(world.identity("alice/e1").await.is_err(), "a revoked token stops at once");
}

#[tokio::test]
async fn everybody_learns_who_they_are_here_and_nothing_else_is_there() {
    let world = World::new().await;
    let conversation = world
        .play(&[
            ("admin", "GET /auth/api/v1/me", ""),
            ("alice/e1", "GET /auth/api/v1/me", ""),
            ("alice", "POST /auth/api/v1/me", ""),
            ("alice", "GET /auth/nothing", ""),
            ("alice", "GET /auth", ""),
            ("admin", "GET /api/2.0/mlflow/users/create-ui", ""),
            ("admin", "POST /ajax-api/2.0/mlflow/users/create-ui", ""),
            ("admin", "GET /ajax-api/2.0/mlflow/users/current", ""),
            ("admin", "GET /ajax-api/2.0/mlflow/users/current/", ""),
        ])
        .await;
    insta::assert_snapshot!(conversation);
}

#[tokio::test]
async fn an_expired_token_is_renewed_only_with_a_new_expiry() {
    let world = World::new().await;
    world.clock.advance(40 * DAY);
    let conversation = world
        .play(&[
            ("alice", "GET tokens", ""),
            ("alice", "POST tokens/1/rotate", ""),
            ("alice", "POST tokens/1/rotate", r#"{"expires_in_days":7}"#),
        ])
        .await;
    insta::assert_snapshot!(conversation);
}

#[tokio::test]
async fn a_made_token_signs_in_and_a_rotated_one_no_longer() {
    let world = World::new().await;
    let secret = |answer: &http::Response<Bytes>| {
        let body: serde_json::Value = serde_json::from_slice(answer.body()).unwrap();
        body["token"].as_str().unwrap().to_owned()
    };
    let made = world.ask("bob", "POST /auth/api/v1/tokens", r#"{"name":"ci","expires_in_days":1}"#).await;
    let old = format!("Bearer {}", secret(&made));
    assert_eq!(&*world.authn.authenticate(Shown::authorization(old.as_bytes()), HERE).await.unwrap().name, "bob");
    let rotated = world.ask("bob", "POST /auth/api/v1/tokens/6/rotate", "").await;
    let new = format!("Bearer {}", secret(&rotated));
    assert!(world.authn.authenticate(Shown::authorization(old.as_bytes()), HERE).await.is_err());
    assert_eq!(&*world.authn.authenticate(Shown::authorization(new.as_bytes()), HERE).await.unwrap().name, "bob");
}

#[tokio::test]
async fn a_grant_holds_from_the_next_request_on() {
    let world = World::new().await;
    let experiment = Resource::new(ResourceKind::Experiment, "1");
    let policy = Policy { default_permission: Permission::NoPermissions };
    let may = async || {
        let bob = world.identity("bob").await.unwrap();
        crate::authz::may(&bob, policy, Permission::Read, &experiment)
    };
    let body = r#"{"username":"bob","resource_type":"experiment","resource_id":"1","permission":"READ"}"#;
    assert!(!may().await);
    world.ask("alice", "POST /api/3.0/mlflow/users/permissions/grant", body).await;
    assert!(may().await);
    world.ask("alice", "POST /api/3.0/mlflow/users/permissions/revoke", body).await;
    assert!(!may().await);
}

#[tokio::test]
async fn guessing_the_current_password_is_limited() {
    let world = World::new().await;
    let identity = world.identity("bob").await.unwrap();
    let body = r#"{"username":"bob","password":"a long password","current_password":"wrong"}"#;
    let mut answers = String::new();
    for _ in 0..4 {
        let request = http::Request::patch("/api/2.0/mlflow/users/update-password");
        let request = request.header(header::CONTENT_TYPE, "application/json").body(Bytes::from(body)).unwrap();
        writeln!(answers, "{}", show(&world.pages.answer(Arc::clone(&identity), HERE, request).await)).unwrap();
    }
    insta::assert_snapshot!(answers);
    assert!(world.identity("bob").await.is_err(), "neither does the right one sign in from there now");
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_503_without_details() {
    let world = World::new().await;
    let identity = world.identity("admin").await.unwrap();
    world.store.close().await;
    let request = http::Request::get("/api/2.0/mlflow/users/list").body(Bytes::new()).unwrap();
    insta::assert_snapshot!(show(&world.pages.answer(identity, HERE, request).await));
}

#[test]
fn errors_of_other_modules_say_what_to_do_and_nothing_internal() {
    use axum::response::IntoResponse as _;
    let check = |refusal: Refusal, status: u16, retry_after: Option<&str>| {
        let response = refusal.into_response();
        assert_eq!(response.status(), status);
        assert_eq!(response.headers().get(header::RETRY_AFTER).map(|value| value.to_str().unwrap()), retry_after);
    };
    check(crate::authn::Error::Busy.into(), 503, Some("2"));
    let retry_after = Duration::from_millis(1500);
    check(crate::authn::Error::TooManyAttempts { retry_after }.into(), 429, Some("2"));
    check(crate::authn::Error::Missing.into(), 500, None);
    check(store::Error::Exists("x".to_owned()).into(), 400, None);
    check(store::Error::NotFound("x".to_owned()).into(), 404, None);
    check(store::Error::LastAdmin("x".to_owned()).into(), 400, None);
    check(store::Error::Corrupt("secret".to_owned()).into(), 500, None);
    check(store::Error::Open("secret".to_owned()).into(), 503, Some("5"));
}

#[test]
fn what_is_answered_here_is_answered_nowhere_else() {
    for (path, ours) in [
        ("/auth", true),
        ("/auth/", true),
        ("/auth/api/v1/tokens/1", true),
        ("/authority", false),
        ("/signup", true),
        ("/api/2.0/mlflow/users/create", true),
        ("/ajax-api/2.0/mlflow/users/create", true),
        ("/api/2.0/mlflow/users/create-ui", true),
        ("/api/3.0/mlflow/users/permissions/grant", true),
        ("/api/3.0/mlflow/users/roles/list", true),
        ("/ajax-api/3.0/mlflow/roles/permissions/add", true),
        ("/api/3.0/mlflow/scorers/permissions/create", true),
        ("/api/3.0/mlflow/gateway/secrets/permissions/get", true),
        ("/ajax-api/3.0/mlflow/gateway/endpoints/permissions/update", true),
        ("/api/3.0/mlflow/gateway/model-definitions/permissions/delete", true),
        ("/api/3.0/mlflow/gateway/secrets/list", false),
        ("/api/2.0/mlflow/experiments/permissions/get", true),
        ("/ajax-api/2.0/mlflow/registered-models/permissions/delete", true),
        ("/api/2.0/mlflow/experiments/get", false),
        ("/api/2.0/mlflow/registered-models/permissions", false),
        ("/api/2.0/mlflow/users", false),
        ("/prefix/api/2.0/mlflow/users/create", false),
        ("/", false),
    ] {
        assert_eq!(Pages::owns(path), ours, "{path}");
    }
}

// ---- sessions and the account page

impl World {
    /// Signs somebody in from a browser; the session's number.
    async fn browser(&self, who: &str) -> (i64, SessionSecret) {
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

    async fn ask_from(&self, session: &SessionSecret, request: &str, form: &str) -> http::Response<Bytes> {
        let shown = Shown { authorization: None, session: Some(session.reveal()) };
        let identity = self.authn.authenticate(shown, HERE).await.unwrap();
        let (method, target) = request.split_once(' ').unwrap();
        let request = http::Request::builder()
            .method(method)
            .uri(target)
            .header(header::HOST, "mlflow.example")
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Bytes::copy_from_slice(form.as_bytes()))
            .unwrap();
        self.pages.answer(identity, HERE, request).await
    }

    async fn is_signed_in(&self, session: &SessionSecret) -> bool {
        let shown = Shown { authorization: None, session: Some(session.reveal()) };
        self.authn.authenticate(shown, HERE).await.is_ok()
    }
}

fn text(answer: &http::Response<Bytes>) -> &str {
    str::from_utf8(answer.body()).unwrap()
}

fn form_token(page: &http::Response<Bytes>) -> String {
    text(page).split("name=\"form_token\" value=\"").nth(1).unwrap().split('"').next().unwrap().to_owned()
}

#[tokio::test]
async fn sessions_are_seen_and_ended_by_their_owner_and_by_administrators() {
    let world = World::new().await;
    let (first, alices) = world.browser("alice").await;
    let (second, others) = world.browser("alice").await;
    let (third, bobs) = world.browser("bob").await;
    let listed = world.ask_from(&alices, "GET /auth/api/v1/sessions", "").await;
    let listed: serde_json::Value = serde_json::from_slice(listed.body()).unwrap();
    let rows: Vec<_> = listed["sessions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["id"].as_i64(), row["current"].as_bool()))
        .collect();
    assert_eq!(rows, [(Some(second), Some(false)), (Some(first), Some(true))]);
    assert!(!listed.to_string().contains(alices.reveal()));

    // Another's looks as if there were none.
    for request in [format!("DELETE /auth/api/v1/sessions/{third}"), "DELETE /auth/api/v1/sessions/99".to_owned()] {
        assert_eq!(world.ask_from(&alices, &request, "").await.status(), 404);
    }
    assert_eq!(world.ask_from(&alices, "GET /auth/api/v1/sessions?user=bob", "").await.status(), 403);
    assert_eq!(world.ask("alice/e1", &format!("DELETE /auth/api/v1/sessions/{first}"), "").await.status(), 403);

    let ended = world.ask_from(&alices, "DELETE /auth/api/v1/sessions", "").await;
    assert_eq!(text(&ended).trim(), r#"{"ended":1}"#);
    assert!(world.is_signed_in(&alices).await && !world.is_signed_in(&others).await);
    let request = format!("DELETE /auth/api/v1/sessions/{third}");
    assert_eq!(world.ask("admin", &request, "").await.status(), 200);
    assert!(!world.is_signed_in(&bobs).await);
    assert_eq!(world.ask_from(&alices, &format!("DELETE /auth/api/v1/sessions/{first}"), "").await.status(), 200);
    assert!(!world.is_signed_in(&alices).await);
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
    let identity = world.authn.authenticate(Shown::authorization(header.as_bytes()), HERE).await.unwrap();
    assert_eq!(identity.limits.scopes(), ["read-only", "experiment:1"]);
    assert!(text(&made).contains("export MLFLOW_TRACKING_URI=http://mlflow.example\n"), "{}", text(&made));
    let again = world.ask_from(&browser, "GET /auth/account", "").await;
    assert!(text(&again).contains("notebook") && !text(&again).contains(secret));

    // A new secret, then none at all.
    let id = identity.scheme.token().unwrap();
    let form = format!("form_token={token}");
    let rotated = world.ask_from(&browser, &format!("POST /auth/account/tokens/{id}/rotate"), &form).await;
    assert!(text(&rotated).contains("mlap_") && !text(&rotated).contains(secret));
    assert!(world.authn.authenticate(Shown::authorization(header.as_bytes()), HERE).await.is_err());
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
    let ask = async |reached: Reached, request: &str, origin: &'static str, form: &str| {
        let pages = Pages::new(Parts { reached, ..parts(&store, &authn, &clock) });
        let alice = basic("alice", "alice-password");
        let alice = authn.authenticate(Shown::authorization(alice.as_bytes()), HERE).await.unwrap();
        let (method, path) = request.split_once(' ').unwrap();
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "host.example:8080")
            .header(header::ORIGIN, origin)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Bytes::copy_from_slice(form.as_bytes()))
            .unwrap();
        pages.answer(alice, HERE, request).await
    };
    let public =
        || Reached { public_url: Some("https://mlflow.example/".parse().unwrap()), static_prefix: "/ml".to_owned() };
    let page = ask(public(), "GET /auth/account", "", "").await;
    assert!(page.headers().contains_key(header::STRICT_TRANSPORT_SECURITY));
    let token = form_token(&page);
    for (name, reached, origin, uri) in [
        ("one", public(), "https://mlflow.example", "https://mlflow.example/ml"),
        ("two", Reached::default(), "http://host.example:8080", "http://host.example:8080"),
        ("three", Reached::default(), "https://host.example:8080", "https://host.example:8080"),
    ] {
        let form = format!("form_token={token}&name={name}&expires_in_days=7");
        let made = ask(reached, "POST /auth/account/tokens", origin, &form).await;
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
async fn resetting_a_password_revokes_the_users_tokens_and_changing_it_does_so_if_wanted() {
    let live = async |world: &World, name: &str| {
        let user = world.store.user_by_name(name).await.unwrap().unwrap();
        world.store.tokens_of(user.id).await.unwrap().iter().filter(|token| token.revoked.is_none()).count()
    };
    let request = "PATCH /api/2.0/mlflow/users/update-password";
    let world = World::new().await;
    let before = live(&world, "alice").await;
    assert!(before > 0);
    let own = |more: &str| {
        format!(r#"{{"username":"alice","current_password":"alice-password","password":"a-new-password"{more}}}"#)
    };
    assert_eq!(world.ask("alice", request, &own(r#","revoke_tokens":"yes""#)).await.status(), 400);
    assert_eq!(world.ask("alice", request, &own("")).await.status(), 200);
    assert_eq!(live(&world, "alice").await, before);
    let world = World::new().await;
    assert_eq!(world.ask("alice", request, &own(r#","revoke_tokens":true"#)).await.status(), 200);
    assert_eq!(live(&world, "alice").await, 0);
    let world = World::new().await;
    let reset = r#"{"username":"alice","password":"a-new-password"}"#;
    assert_eq!(world.ask("admin", request, reset).await.status(), 200);
    assert_eq!(live(&world, "alice").await, 0);
}

#[tokio::test]
async fn a_scoped_token_shares_nothing_and_sees_nothing_of_its_owners_account() {
    let world = World::new().await;
    world.browser("alice").await;
    for (request, body) in [
        (
            "POST /api/2.0/mlflow/experiments/permissions/create",
            r#"{"experiment_id":"1","username":"bob","permission":"READ"}"#,
        ),
        (
            "POST /api/3.0/mlflow/users/permissions/grant",
            r#"{"username":"bob","resource_type":"experiment","resource_id":"1","permission":"READ"}"#,
        ),
        ("PUT /auth/api/v1/grants", r#"{"to":{"user":"bob"},"on":{"experiment_id":"1"},"permission":"READ"}"#),
        ("GET /auth/api/v1/grants?experiment_id=1", ""),
        ("GET /auth/api/v1/sessions", ""),
        ("GET /auth/account", ""),
        ("GET /api/3.0/mlflow/users/current/permissions", ""),
        ("GET /api/2.0/mlflow/users/get?username=alice", ""),
        ("GET /api/2.0/mlflow/users/list", ""),
        ("GET /api/3.0/mlflow/users/roles/list?username=alice", ""),
        ("GET /auth/api/v1/explain?operation=GetRun&resource=experiment:2", ""),
    ] {
        let answer = world.ask("alice/e1", request, body).await;
        assert_eq!(answer.status(), 403, "{request}: {}", text(&answer));
        assert!(text(&answer).contains("scope"), "{}", text(&answer));
    }
    let listed = world.ask("alice/e1", "GET /auth/api/v1/tokens", "").await;
    let listed: serde_json::Value = serde_json::from_slice(listed.body()).unwrap();
    assert_eq!(listed["tokens"].as_array().unwrap().len(), 1);
    assert_eq!(world.ask("alice/e1", "GET /auth/api/v1/me", "").await.status(), 200);
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
