//! `session`: browser sessions.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Subcommand;
use serde::Serialize;

use super::output::{Format, Row};
use super::stored::{Absent, Opened};
use crate::authz::SessionId;
use crate::config::Flags;
use crate::store::Session;

pub(super) const EXAMPLES: &str = "\
Examples:
  mlflow-auth-proxy session list
  mlflow-auth-proxy session list --user alice@example.com --json
  mlflow-auth-proxy session end 12
  mlflow-auth-proxy session end --user alice@example.com";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the sessions of one user, or of all users
    List {
        /// Only sessions of this user
        #[arg(long)]
        user: Option<String>,
    },
    /// End one session, or all sessions of a user; takes effect in a running proxy within a second
    End {
        /// The session's ID, as `session list` shows it
        #[arg(conflicts_with = "user", required_unless_present = "user")]
        id: Option<i64>,
        /// End all sessions of this user
        #[arg(long)]
        user: Option<String>,
    },
}

/// One session, as `--json` shows it.
#[derive(Debug, Serialize)]
struct Shown {
    id: i64,
    user: String,
    provider: Option<String>,
    created_at: String,
    last_used_at: String,
    expires_at: String,
    address: String,
    agent: String,
}

impl Shown {
    fn new(session: Session, user: &str) -> Self {
        Self {
            id: session.id.0,
            user: user.to_owned(),
            provider: session.provider,
            created_at: session.created.rfc3339(),
            last_used_at: session.last_used.rfc3339(),
            expires_at: session.expires.rfc3339(),
            address: session.address,
            agent: session.agent,
        }
    }
}

impl Row<7> for Shown {
    const HEAD: [&'static str; 7] = ["ID", "USER", "PROVIDER", "CREATED", "LAST USED", "EXPIRES", "ADDRESS"];

    fn cells(&self) -> [String; 7] {
        [
            self.id.to_string(),
            self.user.clone(),
            self.provider.clone().unwrap_or_else(|| "password".to_owned()),
            self.created_at.clone(),
            self.last_used_at.clone(),
            self.expires_at.clone(),
            self.address.clone(),
        ]
    }
}

pub(super) async fn run(command: Command, format: Format, flags: &Flags) -> anyhow::Result<ExitCode> {
    Opened::with(flags, Absent::Refuse, async |opened| carry_out(command, format, opened).await).await
}

async fn carry_out(command: Command, format: Format, opened: &Opened) -> anyhow::Result<()> {
    match command {
        Command::List { user } => format.list("sessions", &list(opened, user.as_deref()).await?),
        Command::End { id: Some(id), .. } => {
            let session = opened.store.session(SessionId(id)).await?;
            let session = session
                .with_context(|| format!("there is no session {id}; `mlflow-auth-proxy session list` lists all"))?;
            let owner = opened.store.user(session.user).await?.map_or_else(String::new, |user| user.name);
            let shown = Shown::new(session, &owner);
            end(opened, std::slice::from_ref(&shown)).await?;
            format.done(&shown, &format!("session {id} of `{owner}` was ended"))
        }
        Command::End { id: None, user: Some(name) } => {
            let shown = list(opened, Some(&name)).await?;
            end(opened, &shown).await?;
            format.done(&shown, &format!("{} sessions of `{name}` were ended", shown.len()))
        }
        Command::End { id: None, user: None } => bail!("give the session's ID, or --user"),
    }
}

async fn end(opened: &Opened, sessions: &[Shown]) -> anyhow::Result<()> {
    for session in sessions {
        opened.store.end_session(&opened.actor, SessionId(session.id), "command line").await?;
    }
    Ok(())
}

/// Returns the sessions that have not expired. Idle ones are included until they are swept.
async fn list(opened: &Opened, user: Option<&str>) -> anyhow::Result<Vec<Shown>> {
    let users = match user {
        Some(name) => vec![opened.user(name).await?],
        None => opened.store.users().await?,
    };
    let mut shown = Vec::new();
    for user in users {
        let sessions = opened.store.sessions_of(user.id).await?.into_iter();
        let live = sessions.filter(|session| session.expires > opened.now);
        shown.extend(live.map(|session| Shown::new(session, &user.name)));
    }
    Ok(shown)
}
