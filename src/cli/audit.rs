//! `audit`: lists and exports changes and denied requests.

use std::io::Write as _;
use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use super::moment::Moment;
use super::output::{Format, Row};
use super::stored::{Absent, Opened};
use crate::authz::{Resource, ResourceKind};
use crate::clock::Timestamp;
use crate::config::Flags;
use crate::store::{AuditEntry, AuditFilter, AuditOutcome, AuditPlace};
use crate::telemetry::audit::export;

pub(super) const EXAMPLES: &str = "\
Examples:
  mlflow-auth-proxy audit list --limit 20
  mlflow-auth-proxy audit list --user alice --outcome denied --since 24h
  mlflow-auth-proxy audit list --resource experiment:12 --since 2026-11-01 --until 2026-12-01
  mlflow-auth-proxy audit list --action token --json
  mlflow-auth-proxy audit export --since 2026-01-01 --until 2026-02-01 > audit-2026-01.jsonl";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the newest entries, newest first; all conditions must hold
    List {
        #[command(flatten)]
        conditions: Conditions,
        /// Maximum number of entries
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        limit: u32,
    },
    /// Print entries as lines of JSON, oldest first, however many there are
    ///
    /// The log can grow and be shortened meanwhile. Entries have IDs, by which repetitions in several exports can be found.
    Export {
        /// Only entries from this time on: `24h` or `7d` ago, `2026-11-30`, or RFC 3339; dates are in UTC
        #[arg(long, value_name = "TIME")]
        since: Option<Moment>,
        /// Only entries before this time [default: now]
        #[arg(long, value_name = "TIME")]
        until: Option<Moment>,
    },
}

/// Conditions on entries.
#[derive(Args, Debug)]
pub(super) struct Conditions {
    /// Only entries that this user caused; `command-line` for commands
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Only this action, such as `token.create`, or this group of actions, such as `token`
    #[arg(long)]
    action: Option<String>,
    /// Only changes, or only denied requests and failed sign-ins
    #[arg(long)]
    outcome: Option<Outcome>,
    /// Only denied requests of this operation, such as `DeleteRun`; names as in the access log
    #[arg(long)]
    operation: Option<String>,
    /// Only changes and denials that concern TYPE:ID or TYPE:NAME, such as `experiment:12` or `user:alice`
    #[arg(long)]
    resource: Option<String>,
    /// Only entries from this client address
    #[arg(long)]
    address: Option<IpAddr>,
    /// Only entries from this time on: `24h` or `7d` ago, `2026-11-30`, or RFC 3339; dates are in UTC
    #[arg(long, value_name = "TIME")]
    since: Option<Moment>,
    /// Only entries before this time
    #[arg(long, value_name = "TIME")]
    until: Option<Moment>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Outcome {
    Changed,
    Denied,
}

impl Conditions {
    fn filter(self, opened: &Opened) -> AuditFilter {
        AuditFilter {
            denied_on: self.resource.as_deref().and_then(denied_on),
            actor: self.user,
            action: self.action,
            outcome: self.outcome.map(|outcome| match outcome {
                Outcome::Changed => AuditOutcome::Changed,
                Outcome::Denied => AuditOutcome::Denied,
            }),
            operation: self.operation,
            target: self.resource,
            address: self.address,
            since: self.since.map(|since| since.at(opened.now)),
            until: self.until.map(|until| until.at(opened.now)),
        }
    }
}

/// Returns the notation of a resource in denials. Objects that are no resources, such as users, do not occur there.
fn denied_on(text: &str) -> Option<String> {
    let (kind, key) = text.split_once(':')?;
    let kind: ResourceKind = kind.parse().ok()?;
    Some(Resource::new(kind, key).to_string())
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
            at: entry.at.rfc3339(),
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
    const HEAD: [&'static str; 6] = ["AT", "ACTOR", "FROM", "ACTION", "TARGET", "DETAIL"];

    fn cells(&self) -> [String; 6] {
        let address = self.address.clone().unwrap_or_else(|| "-".to_owned());
        let times = if self.count > 1 { format!(" ({} times)", self.count) } else { String::new() };
        let detail = format!("{}{times}", self.detail);
        [self.at.clone(), self.actor.clone(), address, self.action.clone(), self.target.clone(), detail]
    }
}

pub(super) async fn run(command: Command, format: Format, flags: &Flags) -> anyhow::Result<ExitCode> {
    Opened::with(flags, Absent::Refuse, async |opened| match command {
        Command::List { conditions, limit } => {
            let entries = opened.store.audit_search(&conditions.filter(opened), limit).await?;
            let shown: Vec<Shown> = entries.into_iter().map(Shown::from).collect();
            format.list("entries", &shown)
        }
        Command::Export { since, until } => {
            let since = since.map_or(Timestamp(i64::MIN), |since| since.at(opened.now));
            export(opened, since, until.map_or(opened.now, |until| until.at(opened.now))).await
        }
    })
    .await
}

async fn export(opened: &Opened, since: Timestamp, until: Timestamp) -> anyhow::Result<()> {
    let mut place = AuditPlace::before(since);
    loop {
        let page = opened.store.audit_page(place, until).await?;
        let Some((id, last)) = page.last() else { return Ok(()) };
        place = AuditPlace::after(*id, last);
        let mut out = std::io::BufWriter::new(std::io::stdout().lock());
        export::write(&page, &mut out).and_then(|()| out.flush()).context("standard output cannot be written")?;
    }
}
