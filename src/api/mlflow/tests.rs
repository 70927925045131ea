//! Golden conversations: requests of several users, with every byte of the answers. The clock stands still.

use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use http::header;

use crate::authz::{DefaultPermission, Permission, Resource, ResourceKind};
use crate::web::tests::{HERE, World, show};

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
async fn a_grant_holds_from_the_next_request_on() {
    let world = World::new().await;
    let experiment = Resource::new(ResourceKind::Experiment, "1");
    let policy = DefaultPermission(Permission::NoPermissions);
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
        writeln!(answers, "{}", show(&world.web.answer(Some(Arc::clone(&identity)), HERE, request).await)).unwrap();
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
    insta::assert_snapshot!(show(&world.web.answer(Some(identity), HERE, request).await));
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
