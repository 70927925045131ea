//! `audit`: lists changes and denied requests.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::output::{Format, Row, moment};
use super::stored::{Absent, Opened};
use crate::config::Flags;
use crate::store::AuditEntry;

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  mlflow-auth-proxy audit list --limit 20
  mlflow-auth-proxy audit list --json | jq '.entries[] | select(.action == \"request.denied\")'")]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the newest entries, newest first
    List {
        /// Maximum number of entries
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        limit: u32,
    },
}

/// One entry, as `--json` shows it.
#[derive(Debug, Serialize)]
struct Shown {
    at: String,
    actor: String,
    token_id: Option<i64>,
    address: Option<String>,
    action: String,
    target: String,
    detail: String,
    /// Number of occurrences within one minute.
    count: i64,
}

impl From<AuditEntry> for Shown {
    fn from(entry: AuditEntry) -> Self {
        Self {
            at: moment(entry.at),
            actor: entry.actor.name,
            token_id: entry.actor.token.map(|token| token.0),
            address: entry.actor.address.map(|address| address.to_string()),
            action: entry.action,
            target: entry.target,
            detail: entry.detail,
            count: entry.count,
        }
    }
}

impl Row<6> for Shown {
    const HEAD: [&'static str; 6] = ["AT", "WHO", "FROM", "ACTION", "TARGET", "DETAIL"];

    fn cells(&self) -> [String; 6] {
        let address = self.address.clone().unwrap_or_else(|| "-".to_owned());
        let times = if self.count > 1 { format!(" ({} times)", self.count) } else { String::new() };
        let detail = format!("{}{times}", self.detail);
        [self.at.clone(), self.actor.clone(), address, self.action.clone(), self.target.clone(), detail]
    }
}

pub(super) async fn run(arguments: &Arguments, flags: &Flags) -> anyhow::Result<ExitCode> {
    let Command::List { limit } = arguments.command;
    Opened::with(flags, Absent::Refuse, async |opened| {
        let entries = opened.store.audit_log(limit).await?;
        let shown: Vec<Shown> = entries.into_iter().map(Shown::from).collect();
        arguments.format.list("entries", &shown)
    })
    .await
}
