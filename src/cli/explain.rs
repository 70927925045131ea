//! `explain`: shows whether a user is allowed to perform an operation, and the grants behind the decision.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use serde_json::Value;

use super::moment;
use super::output::Format;
use super::stored::{Absent, Opened};
use crate::app;
use crate::authz::{DefaultPermission, Limits};
use crate::config::{self, Flags};
use crate::explain::{Examined, add_name, explanation};
use crate::mlflow::{Question, Table};
use crate::resolve::Resolver;
use crate::telemetry::Metrics;
use crate::upstream::Upstream;

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  mlflow-auth-proxy explain --user alice --operation EDIT --resource experiment:12
  mlflow-auth-proxy explain --user alice --operation DeleteRun --resource experiment:12
  mlflow-auth-proxy explain --user bob --operation GetModelVersion --resource registered_model:fraud --json

Operations have the names of the access log and of docs/operations-table.md. For an object in a resource, name the
resource: for a run its experiment, for a version its model.")]
pub(super) struct Arguments {
    /// The user's name
    #[arg(long)]
    user: String,
    /// READ, USE, EDIT or MANAGE, or the name of an operation
    #[arg(long)]
    operation: String,
    /// TYPE:ID or TYPE:NAME
    #[arg(long)]
    resource: String,
    #[command(flatten)]
    format: Format,
}

pub(super) async fn run(arguments: Arguments, flags: &Flags) -> anyhow::Result<ExitCode> {
    let config = config::load(flags)?;
    let policy = DefaultPermission(config.authz.default_permission);
    let policies = app::read_policies(&config).await?;
    let (file, homes) = (policies.enforced(), policies.homes());
    let mut question = Question::parse(&Table::built_in()?, &arguments.operation, &arguments.resource)?;
    Opened::with(flags, Absent::Refuse, async |opened| {
        let user = opened.user(&arguments.user).await?;
        let groups = user.groups().to_vec();
        let standing = opened.store.standing_of(user.id, &groups).await?;
        let examined = Examined { user, groups, standing, limits: Limits::default() };
        if examined.needs_names(&file, homes) {
            let upstream = Upstream::new(&config.upstream).context("upstream.url")?;
            let resolver = Resolver::new(upstream, Arc::new(Metrics::new([])?));
            let named = add_name(&resolver, &mut question).await;
            named.context("grants depend on the experiment's name, and MLflow cannot be asked for it")?;
        }
        let answer = explanation(&examined, policy, (&file, homes), &arguments.operation, &question);
        let age = examined.groups_reported().map(|at| opened.now.since(at));
        arguments.format.done(&answer, in_words(&answer, age).trim_end())
    })
    .await
}

/// Formats the answer as text: the decision first, then the grants behind it.
fn in_words(answer: &Value, age_of_groups: Option<Duration>) -> String {
    let text = |key: &str| answer.get(key).and_then(Value::as_str).unwrap_or_default();
    let yes = |key: &str| answer.get(key).and_then(Value::as_bool).unwrap_or_default();
    let list = |key: &str| answer.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let verdict = if yes("allowed") { "yes" } else { "no" };
    let mut out = format!("{verdict}: {} on {} for `{}`\n", text("operation"), text("resource"), text("user"));
    if !text("reason").is_empty() {
        out += &format!("  {}\n", text("reason"));
    }
    out += &format!("  {}\n", groups(answer, age_of_groups));
    if yes("is_admin") {
        out += "  administrators have all permissions\n";
    }
    for grant in list("grants") {
        let part = |key: &str| grant.get(key).and_then(Value::as_str).unwrap_or_default();
        let (kind, resource) = (part("resource_type"), part("resource"));
        out += &format!(
            "  grant: {} on {kind}:{resource} to {} {} ({})\n",
            part("permission"),
            part("subject_type"),
            part("subject"),
            part("source")
        );
    }
    if list("grants").is_empty() {
        out += "  no grant applies\n";
    }
    out += &format!("  default without a grant: {}\n", text("default_permission"));
    for more in list("also_needs") {
        out += &format!("  also requires {}\n", more.as_str().unwrap_or_default());
    }
    out
}

/// Formats the groups that the decision is based on, and how old they are.
fn groups(answer: &Value, age: Option<Duration>) -> String {
    let groups = answer.get("groups").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let names: Vec<&str> = groups.iter().filter_map(Value::as_str).collect();
    let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    match (age, answer.get("groups_reported_at").and_then(Value::as_str)) {
        (Some(age), Some(at)) => {
            format!("groups: {names}; reported by the identity provider {} ago ({at})", moment::in_words(age))
        }
        _ => format!("groups: {names}; a local account has no groups"),
    }
}
