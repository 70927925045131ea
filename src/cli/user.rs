//! `user`: user accounts.

use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};
use clap::Subcommand;
use serde::Serialize;

use super::output::{Format, Row};
use super::password;
use super::stored::{Absent, Opened};
use crate::config::{Flags, check_username};
use crate::store::{self, AccessTokens, ReservedName, User};

pub(super) const EXAMPLES: &str = "\
Examples:
  mlflow-auth-proxy user create alice
  echo \"$PASSWORD\" | mlflow-auth-proxy user create ci --password-stdin
  mlflow-auth-proxy user set-admin alice true
  mlflow-auth-proxy user list --json";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List all accounts
    List,
    /// Create an account; asks for its password
    Create {
        /// The name that the user signs in with
        name: String,
        /// Make the user an administrator, with all permissions
        #[arg(long)]
        admin: bool,
        #[command(flatten)]
        password: password::Source,
    },
    /// Replace the password; asks for it, ends sessions that began with the old one and revokes the user's access
    /// tokens
    SetPassword {
        /// The user's name
        name: String,
        /// Keep the user's access tokens
        #[arg(long)]
        keep_tokens: bool,
        #[command(flatten)]
        password: password::Source,
    },
    /// Make a user an administrator (true), or remove the administrator rights (false)
    SetAdmin {
        /// The user's name
        name: String,
        /// `true` or `false`
        #[arg(action = clap::ArgAction::Set)]
        admin: bool,
    },
    /// List names of deleted or renamed accounts, which stay reserved because policies refer to names
    Reserved,
    /// Release a reserved name
    Release {
        /// The name
        name: String,
    },
    /// Delete the account with its tokens and grants; its name stays reserved
    Delete {
        /// The user's name
        name: String,
    },
}

/// One user, as `--json` shows it.
#[derive(Debug, Serialize)]
struct Shown {
    id: i64,
    username: String,
    is_admin: bool,
    has_password: bool,
    created_at: String,
}

impl From<&User> for Shown {
    fn from(user: &User) -> Self {
        Self {
            id: user.id.0,
            username: user.name.clone(),
            is_admin: user.is_admin(),
            has_password: user.password.is_some(),
            created_at: user.created.rfc3339(),
        }
    }
}

impl Row<4> for Shown {
    const HEAD: [&'static str; 4] = ["ID", "NAME", "ADMIN", "CREATED"];

    fn cells(&self) -> [String; 4] {
        let admin = if self.is_admin { "yes" } else { "no" };
        [self.id.to_string(), self.username.clone(), admin.to_owned(), self.created_at.clone()]
    }
}

/// A reserved name, as `--json` shows it.
#[derive(Debug, Serialize)]
struct Reserved {
    name: String,
    issuer: Option<String>,
    subject: Option<String>,
    since: String,
}

impl From<&ReservedName> for Reserved {
    fn from(reserved: &ReservedName) -> Self {
        let (issuer, subject) = reserved.identity.clone().unzip();
        Self { name: reserved.name.clone(), issuer, subject, since: reserved.since.rfc3339() }
    }
}

impl Row<3> for Reserved {
    const HEAD: [&'static str; 3] = ["NAME", "RESERVED FOR", "SINCE"];

    fn cells(&self) -> [String; 3] {
        let reserved_for = match (&self.issuer, &self.subject) {
            (Some(issuer), Some(subject)) => format!("{subject} of {issuer}"),
            _ => "an account of this proxy".to_owned(),
        };
        [self.name.clone(), reserved_for, self.since.clone()]
    }
}

pub(super) async fn run(command: Command, format: Format, flags: &Flags) -> anyhow::Result<ExitCode> {
    let absent = if matches!(command, Command::Create { .. }) { Absent::Make } else { Absent::Refuse };
    Opened::with(flags, absent, async |opened| carry_out(command, format, opened).await).await
}

async fn carry_out(command: Command, format: Format, opened: &Opened) -> anyhow::Result<()> {
    let (store, actor) = (&opened.store, &opened.actor);
    let (name, sentence) = match command {
        Command::List => {
            let users: Vec<Shown> = store.users().await?.iter().map(Shown::from).collect();
            return format.list("users", &users);
        }
        Command::Reserved => {
            let names: Vec<Reserved> = store.reserved_names().await?.iter().map(Reserved::from).collect();
            return format.list("reserved_names", &names);
        }
        Command::Release { name } => {
            store.release_name(actor, &name).await.with_context(|| format!("`{name}` is not reserved"))?;
            let released = serde_json::json!({ "name": name });
            return format.done(&released, &format!("the name `{name}` was released"));
        }
        Command::Create { name, admin, password } => {
            create(opened, &name, admin, password).await?;
            let sentence = format!("user `{name}` was created");
            (name, sentence)
        }
        Command::SetPassword { name, keep_tokens, password } => {
            let user = opened.user(&name).await?;
            let tokens = if keep_tokens { AccessTokens::Keep } else { AccessTokens::Revoke };
            let revoked = store.set_password(actor, user.id, &password::read_new(password)?, tokens).await?;
            let sentence = format!("the password of `{name}` was changed and {revoked} access tokens were revoked");
            (name, sentence)
        }
        Command::SetAdmin { name, admin } => {
            let user = opened.user(&name).await?;
            store.set_admin(actor, user.id, admin).await.map_err(keep_one)?;
            let sentence = format!("`{name}` is {} administrator", if admin { "now an" } else { "no longer an" });
            (name, sentence)
        }
        Command::Delete { name } => {
            let user = opened.user(&name).await?;
            store.delete_user(actor, user.id).await.map_err(keep_one)?;
            return format.done(&Shown::from(&user), &format!("user `{name}` was deleted, with all tokens and grants"));
        }
    };
    format.done(&Shown::from(&opened.user(&name).await?), &sentence)
}

async fn create(opened: &Opened, name: &str, admin: bool, password: password::Source) -> anyhow::Result<()> {
    if let Err(fault) = check_username(name) {
        bail!("the name {fault}");
    }
    ensure!(opened.store.user_by_name(name).await?.is_none(), "user `{name}` already exists");
    ensure!(
        admin || !opened.store.users().await?.is_empty(),
        "the store has no account yet, and the first one must be an administrator: `serve` creates its administrator \
         (bootstrap.*) only in a store without accounts, so there would be none. Add --admin, or run `mlflow-auth-proxy \
         serve` once before you create `{name}`"
    );
    let hash = password::read_new(password)?;
    opened.store.create_user(&opened.actor, name, Some(&hash), admin).await.context("the user was not created")?;
    Ok(())
}

fn keep_one(error: store::Error) -> anyhow::Error {
    match error {
        store::Error::LastAdmin(name) => {
            anyhow::anyhow!(
                "`{name}` is the last administrator; make another user one first, with `user set-admin NAME true`"
            )
        }
        other => other.into(),
    }
}
