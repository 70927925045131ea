//! Golden conversations about access tokens, and tests of sessions and of tokens that are limited to resources.

use std::time::Duration;

use bytes::Bytes;

use crate::authn::RawCredentials;
use crate::web::tests::{DAY, HERE, World, text};

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
    assert_eq!(
        &*world.authn.authenticate(RawCredentials::authorization(old.as_bytes()), HERE).await.unwrap().name,
        "bob"
    );
    let rotated = world.ask("bob", "POST /auth/api/v1/tokens/6/rotate", "").await;
    let new = format!("Bearer {}", secret(&rotated));
    assert!(world.authn.authenticate(RawCredentials::authorization(old.as_bytes()), HERE).await.is_err());
    assert_eq!(
        &*world.authn.authenticate(RawCredentials::authorization(new.as_bytes()), HERE).await.unwrap().name,
        "bob"
    );
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
