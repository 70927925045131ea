//! `explain`: shows whether a user is allowed to perform an operation, and the grants behind the decision.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use serde_json::Value;

use super::output;
use super::stored::{Absent, Opened};
use crate::app;
use crate::authz::{Limits, Policy};
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

Operations are the names in the access log. What lies in a resource is asked about by naming the resource: a run by its
experiment, a version by its model.")]
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
    /// Print as JSON, the same as the answer of GET /auth/api/v1/explain
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: Arguments, flags: &Flags) -> anyhow::Result<ExitCode> {
    let config = config::load(flags)?;
    let policy = Policy { default_permission: config.authz.default_permission };
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
            named.context("grants depend on what the experiment is called, and MLflow does not say")?;
        }
        let answer = explanation(&examined, policy, (&file, homes), &arguments.operation, &question);
        if arguments.json {
            output::json(&answer)?;
        } else {
            output::line(in_words(&answer).trim_end())?;
        }
        Ok(())
    })
    .await
}

/// Formats the answer as text: the decision first, then the grants behind it.
fn in_words(answer: &Value) -> String {
    let text = |key: &str| answer.get(key).and_then(Value::as_str).unwrap_or_default();
    let yes = |key: &str| answer.get(key).and_then(Value::as_bool).unwrap_or_default();
    let list = |key: &str| answer.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let verdict = if yes("allowed") { "yes" } else { "no" };
    let mut out = format!("{verdict}: {} on {} for `{}`\n", text("operation"), text("resource"), text("user"));
    if !text("reason").is_empty() {
        out += &format!("  {}\n", text("reason"));
    }
    if yes("is_admin") {
        out += "  an administrator may do everything\n";
    }
    for grant in list("grants") {
        let part = |key: &str| grant.get(key).and_then(Value::as_str).unwrap_or_default();
        let (kind, resource) = (part("resource_type"), part("resource"));
        out += &format!(
            "  {} on {kind}:{resource}, of {} {} ({})\n",
            part("permission"),
            part("subject_type"),
            part("subject"),
            part("source")
        );
    }
    if list("grants").is_empty() {
        out += "  no grant speaks of it\n";
    }
    out += &format!("  where no grant speaks: {}\n", text("default_permission"));
    for more in list("also_needs") {
        out += &format!("  also needs {}\n", more.as_str().unwrap_or_default());
    }
    out
}
