use std::fmt::Write as _;
use std::time::Duration;

use super::*;
use crate::authz::{Grant, Limits, Selector, TokenId};
use crate::clock::Timestamp;

const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
const PASSWORD: &str = "a fine password";

struct World {
    pages: Pages,
    store: Arc<Store>,
    users: Vec<User>,
    /// Every exchange, for the golden file.
    story: String,
}

async fn world() -> World {
    let clock = Clock::manual(Timestamp(1_700_000_000_000));
    let config = config::Authn {
        token_max_days: 365,
        cache_ttl: Duration::from_secs(60),
        cache_entries: 100,
        hash_concurrency: 2,
        hash_queue: 10,
        guesses_per_address: 100,
        guesses_per_account: 100,
        guess_window: Duration::from_secs(60),
    };
    let store = Arc::new(Store::open("sqlite::memory:", clock.clone()).await.unwrap());
    let authn = Arc::new(Authn::new(&config, Arc::clone(&store), clock.clone()));
    let hash = authn.hash_password(PASSWORD.to_owned().into()).await.unwrap();
    let mut users = Vec::new();
    for (name, admin) in [("admin", true), ("alice", false), ("bob", false)] {
        let actor = Actor { name: "test".to_owned(), token: None, address: None };
        users.push(store.create_user(&actor, name, Some(&hash), admin).await.unwrap());
    }
    let policy = Policy { default_permission: Permission::NoPermissions };
    World { pages: Pages::new(Arc::clone(&store), authn, config, policy, clock), store, users, story: String::new() }
}

impl World {
    async fn identity(&self, name: &str) -> Identity {
        let user = self.users.iter().find(|user| user.name == name).unwrap();
        let grants = self.store.grants_of(&Subject::User(user.id)).await.unwrap();
        Identity {
            user: user.id,
            name: name.into(),
            admin: user.admin,
            scheme: Scheme::Password,
            limits: Limits::default(),
            grants: Arc::new(grants.into_iter().collect()),
        }
    }

    async fn grant(&self, name: &str, kind: ResourceKind, key: &str, permission: Permission) {
        let subject = Subject::User(self.identity(name).await.user);
        let actor = Actor { name: "test".to_owned(), token: None, address: None };
        let selector = Selector::Exact(key.to_owned());
        self.store.create_grant(&actor, &Grant { subject, kind, selector, permission }).await.unwrap();
    }

    async fn as_identity(&mut self, who: Identity, method: &str, target: &str, body: &str) -> (u16, Value) {
        let mut request = Request::new(Bytes::copy_from_slice(body.as_bytes()));
        *request.method_mut() = method.parse().unwrap();
        *request.uri_mut() = target.parse().unwrap();
        if !body.is_empty() {
            request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let name = who.name.to_string();
        let response = self.pages.answer(Arc::new(who), ADDRESS, request).await;
        let status = response.status().as_u16();
        let body: Value = serde_json::from_slice(response.body()).unwrap();
        let mut shown = body.clone();
        if let Some(token) = shown.get_mut("token") {
            *token = Value::from("mlap_...");
        }
        let _ = writeln!(self.story, "{name}: {method} {target}\n  {status} {shown}");
        (status, body)
    }

    async fn ask(&mut self, name: &str, method: &str, target: &str, body: &str) -> (u16, Value) {
        let who = self.identity(name).await;
        self.as_identity(who, method, target, body).await
    }
}

/// Every endpoint's success and refusals, as clients see them: changed only on purpose.
#[tokio::test]
async fn users_are_managed_in_mlflows_words() {
    let mut world = world().await;
    let users = "/api/2.0/mlflow/users";
    let carol = r#"{"username":"carol","password":"carols password"}"#;
    for (name, method, target, body) in [
        ("alice", "POST", "create", carol),
        ("admin", "POST", "create", carol),
        ("admin", "POST", "create", carol),
        ("admin", "POST", "create", r#"{"username":"dan","password":"short"}"#),
        ("admin", "POST", "create", r#"{"username":"","password":""}"#),
        ("admin", "POST", "create", r#"{"username":null}"#),
        ("admin", "POST", "create", r#"{"username":"a:b","password":"carols password"}"#),
        ("admin", "POST", "create", r#"{"username":"x","username":"y","password":"carols password"}"#),
        ("admin", "POST", "create", r#"["carol"]"#),
        ("admin", "POST", "create", r#"{"username":7,"password":"carols password"}"#),
        ("admin", "GET", "get?username=carol", ""),
        ("carolx", "GET", "get?username=carol", ""),
        ("alice", "GET", "get?username=alice", ""),
        ("alice", "GET", "get?username=carol", ""),
        ("admin", "GET", "get?username=nobody", ""),
        ("admin", "GET", "get", ""),
        ("admin", "GET", "get?username=a&username=b", ""),
        ("alice", "GET", "list", ""),
        ("alice", "GET", "current", ""),
        ("alice", "PATCH", "update-admin", r#"{"username":"alice","is_admin":true}"#),
        ("admin", "PATCH", "update-admin", r#"{"username":"alice","is_admin":"true"}"#),
        ("admin", "PATCH", "update-admin", r#"{"username":"alice","is_admin":true}"#),
        ("admin", "PATCH", "update-admin", r#"{"username":"alice","is_admin":false}"#),
        ("admin", "PATCH", "update-admin", r#"{"username":"admin","is_admin":false}"#),
        ("alice", "PATCH", "update-password", r#"{"username":"alice","password":"another password"}"#),
        (
            "alice",
            "PATCH",
            "update-password",
            r#"{"username":"alice","password":"another password","current_password":"no"}"#,
        ),
        (
            "alice",
            "PATCH",
            "update-password",
            r#"{"username":"alice","password":"a fine password","current_password":"a fine password"}"#,
        ),
        (
            "alice",
            "PATCH",
            "update-password",
            r#"{"username":"alice","password":"another password","current_password":"a fine password"}"#,
        ),
        ("alice", "PATCH", "update-password", r#"{"username":"bob","password":"another password"}"#),
        ("admin", "PATCH", "update-password", r#"{"username":"bob","password":"another password"}"#),
        ("admin", "DELETE", "delete", r#"{"username":"admin"}"#),
        ("bob", "DELETE", "delete", r#"{"username":"carol"}"#),
        ("admin", "DELETE", "delete", r#"{"username":"carol"}"#),
        ("admin", "DELETE", "delete", r#"{"username":"carol"}"#),
        ("admin", "GET", "create", ""),
    ] {
        if world.users.iter().any(|user| user.name == name) {
            world.ask(name, method, &format!("{users}/{target}"), body).await;
        }
    }
    insta::assert_snapshot!(world.story);
}

#[tokio::test]
async fn grants_are_managed_in_mlflows_words() {
    let mut world = world().await;
    world.grant("alice", ResourceKind::Experiment, "7", Permission::Manage).await;
    world.grant("alice", ResourceKind::RegisteredModel, "fraud", Permission::Edit).await;
    let grant = |id: &str, level: &str| {
        format!(r#"{{"username":"bob","resource_type":"experiment","resource_id":"{id}","permission":"{level}"}}"#)
    };
    let exp = |id: &str, level: &str| format!(r#"{{"username":"bob","experiment_id":"{id}","permission":"{level}"}}"#);
    let new = "/api/3.0/mlflow/users/permissions";
    let old = "/api/2.0/mlflow/experiments/permissions";
    let models = "/ajax-api/2.0/mlflow/registered-models/permissions";
    for (name, method, target, body) in [
        ("alice", "POST", format!("{new}/grant"), grant("7", "READ")),
        ("alice", "POST", format!("{new}/grant"), grant("7", "EDIT")),
        ("alice", "POST", format!("{new}/grant"), grant("8", "READ")),
        ("alice", "POST", format!("{new}/grant"), grant("*", "READ")),
        ("bob", "POST", format!("{new}/grant"), grant("7", "MANAGE")),
        ("admin", "POST", format!("{new}/grant"), grant("*", "DENY")),
        ("admin", "POST", format!("{new}/grant"), grant("9", "OWNER")),
        ("admin", "POST", format!("{new}/grant"), grant("9", "READ").replace("experiment\"", "exp\"")),
        ("admin", "POST", format!("{new}/grant"), grant("9", "READ").replace("bob", "nobody")),
        ("admin", "GET", format!("{new}/get?username=bob&resource_type=experiment&resource_id=7"), String::new()),
        ("bob", "GET", format!("{new}/get?username=bob&resource_type=experiment&resource_id=99"), String::new()),
        ("bob", "GET", format!("{new}/list?username=bob"), String::new()),
        ("bob", "GET", format!("{new}/list?username=alice"), String::new()),
        ("bob", "GET", "/ajax-api/3.0/mlflow/users/current/permissions".to_owned(), String::new()),
        ("admin", "POST", format!("{new}/revoke"), grant("*", "DENY")),
        ("alice", "POST", format!("{new}/revoke"), grant("7", "READ")),
        ("alice", "POST", format!("{new}/revoke"), grant("7", "READ")),
        ("alice", "POST", format!("{old}/create"), exp("7", "READ")),
        ("alice", "POST", format!("{old}/create"), exp("7", "READ")),
        ("alice", "GET", format!("{old}/get?experiment_id=7&username=bob"), String::new()),
        ("alice", "PATCH", format!("{old}/update"), exp("7", "EDIT")),
        ("bob", "PATCH", format!("{old}/update"), exp("7", "MANAGE")),
        ("alice", "DELETE", format!("{old}/delete"), exp("7", "READ")),
        ("alice", "DELETE", format!("{old}/delete?experiment_id=7&username=bob"), String::new()),
        ("alice", "GET", format!("{models}/get?name=fraud&username=alice"), String::new()),
        ("admin", "GET", format!("{models}/get?name=fraud&username=alice"), String::new()),
        ("admin", "GET", format!("{models}/get?name=fraud&username=bob"), String::new()),
        (
            "admin",
            "POST",
            format!("{models}/create"),
            r#"{"username":"bob","name":"*x","permission":"READ"}"#.to_owned(),
        ),
    ] {
        world.ask(name, method, &target, &body).await;
    }
    insta::assert_snapshot!(world.story);
}

#[tokio::test]
async fn tokens_are_made_shown_rotated_and_revoked() {
    let mut world = world().await;
    let tokens = "/auth/api/v1/tokens";
    let (status, made) = world
        .ask("alice", "POST", tokens, r#"{"name":"ci","expires_in_days":30,"scopes":["read-only","experiment:7"]}"#)
        .await;
    assert_eq!(status, 200);
    assert!(crate::crypto::AccessToken::parse(made["token"].as_str().unwrap()).is_some());
    let id = made["id"].as_i64().unwrap();
    for (name, method, target, body) in [
        ("alice", "POST", tokens.to_owned(), r#"{"name":"ci","expires_in_days":30}"#),
        ("alice", "POST", tokens.to_owned(), r#"{"name":"ci"}"#),
        ("alice", "POST", tokens.to_owned(), r#"{"name":"long","expires_in_days":366}"#),
        ("alice", "POST", tokens.to_owned(), r#"{"name":"never","expires_in_days":0}"#),
        ("alice", "POST", tokens.to_owned(), r#"{"name":"wide","expires_in_days":1,"scopes":["readonly"]}"#),
        ("alice", "POST", tokens.to_owned(), r#"{"name":"wide","expires_in_days":1,"scopes":"read-only"}"#),
        ("alice", "POST", tokens.to_owned(), r#"{"name":" ","expires_in_days":1}"#),
        ("alice", "POST", tokens.to_owned(), r#"{"name":"theirs","expires_in_days":1,"user":"bob"}"#),
        ("alice", "GET", tokens.to_owned(), ""),
        ("bob", "GET", tokens.to_owned(), ""),
        ("bob", "GET", format!("{tokens}?user=alice"), ""),
        ("admin", "GET", format!("{tokens}?user=alice"), ""),
        ("bob", "DELETE", format!("{tokens}/{id}"), ""),
        ("bob", "POST", format!("{tokens}/{id}/rotate"), r#"{"expires_in_days":3}"#),
        ("alice", "POST", format!("{tokens}/{id}/rotate"), r#"{"expires_in_days":3}"#),
        ("alice", "DELETE", tokens.to_owned(), r#"{"id":"x"}"#),
        ("alice", "DELETE", format!("{tokens}/{id}"), ""),
        ("alice", "POST", format!("{tokens}/{id}/rotate"), r#"{"expires_in_days":3}"#),
        ("alice", "GET", "/auth/api/v1/me".to_owned(), ""),
        ("alice", "GET", "/auth/api/v1/nothing".to_owned(), ""),
        ("alice", "PUT", tokens.to_owned(), ""),
    ] {
        world.ask(name, method, &target, body).await;
    }
    insta::assert_snapshot!(world.story);
}

#[tokio::test]
async fn a_token_cannot_make_tokens_change_passwords_or_outgrow_its_scopes() {
    let mut world = world().await;
    world.grant("alice", ResourceKind::Experiment, "7", Permission::Manage).await;
    world.grant("alice", ResourceKind::Experiment, "8", Permission::Manage).await;
    let with = |identity: Identity, scopes: &[&str]| Identity {
        scheme: Scheme::Token(TokenId(1)),
        limits: Limits::parse(scopes.iter().copied()).unwrap(),
        ..identity
    };
    let alice = world.identity("alice").await;
    let admin = world.identity("admin").await;
    let share = |id: &str| {
        format!(r#"{{"username":"bob","resource_type":"experiment","resource_id":"{id}","permission":"READ"}}"#)
    };
    let password = r#"{"username":"alice","password":"another password","current_password":"a fine password"}"#;
    let carol = r#"{"username":"carol","password":"carols password"}"#;
    for (who, method, target, body, expected) in [
        (
            with(alice.clone(), &[]),
            "POST",
            "/auth/api/v1/tokens",
            r#"{"name":"x","expires_in_days":1}"#.to_owned(),
            403,
        ),
        (with(alice.clone(), &[]), "PATCH", "/api/2.0/mlflow/users/update-password", password.to_owned(), 403),
        (with(admin.clone(), &[]), "PATCH", "/api/2.0/mlflow/users/update-password", password.to_owned(), 403),
        (with(admin.clone(), &["read-only"]), "POST", "/api/2.0/mlflow/users/create", carol.to_owned(), 403),
        (with(admin.clone(), &["experiment:7"]), "POST", "/api/2.0/mlflow/users/create", carol.to_owned(), 403),
        (with(alice.clone(), &["read-only"]), "POST", "/api/3.0/mlflow/users/permissions/grant", share("7"), 403),
        (with(alice.clone(), &["experiment:7"]), "POST", "/api/3.0/mlflow/users/permissions/grant", share("8"), 403),
        (with(alice, &["experiment:7"]), "POST", "/api/3.0/mlflow/users/permissions/grant", share("7"), 200),
        (with(admin, &[]), "POST", "/api/2.0/mlflow/users/create", carol.to_owned(), 200),
    ] {
        let (status, body) = world.as_identity(who, method, target, &body).await;
        assert_eq!(status, expected, "{method} {target}: {body}");
    }
}

#[test]
fn what_is_ours_never_reaches_mlflow() {
    for path in [
        "/auth/api/v1/tokens",
        "/auth/anything",
        "/api/2.0/mlflow/users/create",
        "/ajax-api/2.0/mlflow/users/current",
        "/api/3.0/mlflow/users/permissions/grant",
        "/api/2.0/mlflow/experiments/permissions/create",
        "/ajax-api/2.0/mlflow/registered-models/permissions/delete",
    ] {
        assert!(Pages::owns(path), "{path}");
    }
    for path in
        ["/", "/api/2.0/mlflow/experiments/get", "/authx", "/api/2.0/mlflow/users", "/api/2.0/mlflow/users/create/"]
    {
        assert!(!Pages::owns(path), "{path}");
    }
}
