//! A person who may read, and their token; made through the REST API, as anybody would.

use anyhow::Context as _;
use base64::Engine as _;
use serde_json::{Value, json};

use crate::load::Target;

pub(crate) const ADMIN_PASSWORD: &str = "only-for-this-benchmark";
pub(crate) const PASSWORD: &str = "a-reader-of-benchmarks";

/// Experiment 1 is theirs to read; experiment 2 takes their uploads.
pub(crate) async fn reader_with_token(target: &Target) -> anyhow::Result<String> {
    let admin = basic("admin", ADMIN_PASSWORD);
    let user = json!({ "username": "reader", "password": PASSWORD });
    call(target, &admin, "/api/2.0/mlflow/users/create", &user).await?;
    for (experiment, permission) in [("1", "READ"), ("2", "EDIT")] {
        let grant = json!({
            "username": "reader", "resource_type": "experiment", "resource_id": experiment, "permission": permission,
        });
        call(target, &admin, "/api/3.0/mlflow/users/permissions/grant", &grant).await?;
    }
    let wanted = json!({ "name": "benchmark", "expires_in_days": 1 });
    let made = call(target, &basic("reader", PASSWORD), "/auth/api/v1/tokens", &wanted).await?;
    Ok(made.get("token").and_then(Value::as_str).context("no token in the answer")?.to_owned())
}

pub(crate) async fn call(target: &Target, authorization: &str, path: &str, body: &Value) -> anyhow::Result<Value> {
    let asker = Target { authorization: Some(authorization.to_owned()), ..target.clone() };
    let (status, answer) = asker.connect().await?.post(path, &body.to_string()).await?;
    let said = String::from_utf8_lossy(&answer);
    anyhow::ensure!((200..300).contains(&status), "POST {path} answered {status}: {said}");
    serde_json::from_slice(&answer).with_context(|| format!("POST {path} answered `{said}`"))
}

pub(crate) fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")))
}
