//! `--demo`: creates two users, and an experiment of one of them that the other may read. As users do, it uses
//! MLflow's own client through the proxy.

use std::time::Duration;

use anyhow::{Context as _, ensure};

use super::super::progress;
use super::accounts::{Accounts, Person};
use super::python::Python;

/// The users and the experiment of the demo.
#[derive(Debug)]
pub(super) struct Demo {
    pub(super) alice: Person,
    pub(super) bob: Person,
    pub(super) experiment: String,
}

pub(super) async fn make(accounts: &Accounts, python: &Python, address: &str) -> anyhow::Result<Demo> {
    progress::say("Logging a few runs as alice");
    let alice = accounts.person("alice").await?;
    let bob = accounts.person("bob").await?;
    let experiment = log_runs(python, address, &alice).await.context("the demo data cannot be created")?;
    accounts.may_read(&bob, &experiment).await?;
    Ok(Demo { alice, bob, experiment })
}

async fn log_runs(python: &Python, address: &str, person: &Person) -> anyhow::Result<String> {
    let mut client = python.command();
    client.args(["-c", include_str!("demo.py")]);
    client.env("MLFLOW_TRACKING_URI", address).env("MLFLOW_DISABLE_TELEMETRY", "true");
    client.env("MLFLOW_TRACKING_USERNAME", &person.user.name).env("MLFLOW_TRACKING_PASSWORD", person.token.reveal());
    // Loopback must be reached directly, even if an HTTP proxy is configured.
    client.env("NO_PROXY", "127.0.0.1").env("no_proxy", "127.0.0.1").env("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1");
    let output = tokio::time::timeout(TIMEOUT, client.output()).await.context("MLflow's client takes too long")??;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "MLflow's client failed: {}", complaint.lines().last().unwrap_or_default());
    experiment_id(&String::from_utf8_lossy(&output.stdout))
}

/// Returns the experiment's ID from the last matching line. The client also prints messages about its runs.
pub(super) fn experiment_id(output: &str) -> anyhow::Result<String> {
    let id = output.lines().rev().find_map(|line| line.strip_prefix("experiment_id="));
    id.map(str::to_owned).context("MLflow's client did not print the ID of the experiment")
}

const TIMEOUT: Duration = Duration::from_secs(180);
