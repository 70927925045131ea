//! `role`: permissions shared by several users.

use std::process::ExitCode;

use anyhow::{bail, ensure};
use clap::{Args, Subcommand};
use serde::Serialize;

use super::grant::{self, Level, What, noun};
use super::output::{Format, Row};
use super::stored::{Absent, Opened};
use crate::authz::{DEFAULT_WORKSPACE, Grant, Subject};
use crate::config::Flags;
use crate::store::{self, Role};
use crate::text;

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  mlflow-auth-proxy role create analysts
  mlflow-auth-proxy role grant analysts --experiment 12 --permission EDIT
  mlflow-auth-proxy role grant analysts --type run --resource '*' --permission READ
  mlflow-auth-proxy role assign analysts --user alice
  mlflow-auth-proxy role list --json

MANAGE on --type workspace --resource '*' makes members administrators of the role's workspace.")]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List every role, with its members and permissions
    List,
    /// Create a role
    Create {
        #[command(flatten)]
        role: Which,
        /// The role's purpose
        #[arg(long)]
        description: Option<String>,
    },
    /// Delete a role; its members lose its permissions
    Delete(Which),
    /// Assign a role to a user
    Assign {
        #[command(flatten)]
        role: Which,
        /// The user who receives the role
        #[arg(long)]
        user: String,
    },
    /// Remove a role from a user
    Unassign {
        #[command(flatten)]
        role: Which,
        /// The user who loses the role
        #[arg(long)]
        user: String,
    },
    /// Create a grant to the role, or change the level of an existing one
    Grant {
        #[command(flatten)]
        role: Which,
        #[command(flatten)]
        what: What,
        #[command(flatten)]
        level: Level,
    },
    /// Delete a grant to the role
    Revoke {
        #[command(flatten)]
        role: Which,
        #[command(flatten)]
        what: What,
    },
}

/// A role by name and workspace.
#[derive(Args, Debug)]
struct Which {
    /// The role's name
    name: String,
    /// Its workspace; on an MLflow without workspaces, only roles of `default` grant anything on resources
    #[arg(long, default_value = DEFAULT_WORKSPACE)]
    workspace: String,
}

/// One role, as `--json` shows it.
#[derive(Debug, Serialize)]
struct Shown {
    id: i64,
    workspace: String,
    name: String,
    description: Option<String>,
    members: Vec<String>,
    permissions: Vec<Given>,
}

#[derive(Debug, Serialize)]
struct Given {
    resource_type: &'static str,
    resource: String,
    permission: &'static str,
}

impl Shown {
    fn new(role: Role, members: Vec<String>) -> Self {
        let given = |grant: Grant| Given {
            resource_type: grant.kind.as_str(),
            resource: grant.selector.to_string(),
            permission: grant.permission.as_str(),
        };
        Self {
            id: role.id.0,
            workspace: role.workspace,
            name: role.name,
            description: role.description,
            members,
            permissions: role.grants.into_iter().map(|row| given(row.grant)).collect(),
        }
    }
}

impl Row<5> for Shown {
    const HEAD: [&'static str; 5] = ["ID", "WORKSPACE", "NAME", "MEMBERS", "GIVES"];

    fn cells(&self) -> [String; 5] {
        let gives = self.permissions.iter();
        let gives = gives.map(|given| format!("{} on {}:{}", given.permission, given.resource_type, given.resource));
        [
            self.id.to_string(),
            self.workspace.clone(),
            self.name.clone(),
            self.members.join(", "),
            gives.collect::<Vec<_>>().join(", "),
        ]
    }
}

pub(super) async fn run(arguments: Arguments, flags: &Flags) -> anyhow::Result<ExitCode> {
    Opened::with(flags, Absent::Refuse, async |opened| carry_out(arguments, opened).await).await
}

async fn carry_out(arguments: Arguments, opened: &Opened) -> anyhow::Result<()> {
    let (store, actor, format) = (&opened.store, &opened.actor, arguments.format);
    match arguments.command {
        Command::List => format.list("roles", &all(opened).await?),
        Command::Create { role: Which { name, workspace }, description } => {
            check(&name, &workspace)?;
            match store.create_role(actor, &workspace, &name, description.as_deref()).await {
                Ok(role) => format.done(&Shown::new(role, Vec::new()), &format!("role `{name}` was created")),
                Err(store::Error::Exists(_)) => bail!("role `{name}` already exists in workspace `{workspace}`"),
                Err(other) => Err(other.into()),
            }
        }
        Command::Delete(which) => {
            let role = which.find(opened).await?;
            let members = members(opened, &role).await?;
            store.delete_role(actor, role.id).await?;
            let sentence = format!("role `{}` was deleted; {} had it", role.name, people(members.len()));
            format.done(&Shown::new(role, members), &sentence)
        }
        Command::Assign { role, user } => {
            let (role, user) = (role.find(opened).await?, opened.user(&user).await?);
            match store.assign_role(actor, user.id, role.id).await {
                Ok(_) => {}
                Err(store::Error::Exists(_)) => bail!("`{}` already has role `{}`", user.name, role.name),
                Err(other) => return Err(other.into()),
            }
            let (members, sentence) =
                (members(opened, &role).await?, format!("`{}` has role `{}`", user.name, role.name));
            format.done(&Shown::new(role, members), &sentence)
        }
        Command::Unassign { role, user } => {
            let (role, user) = (role.find(opened).await?, opened.user(&user).await?);
            match store.unassign_role(actor, user.id, role.id).await {
                Ok(()) => {}
                Err(store::Error::NotFound(_)) => bail!("`{}` does not have role `{}`", user.name, role.name),
                Err(other) => return Err(other.into()),
            }
            let (members, sentence) =
                (members(opened, &role).await?, format!("role `{}` was taken from `{}`", role.name, user.name));
            format.done(&Shown::new(role, members), &sentence)
        }
        Command::Grant { role, what, level } => give(opened, format, &role, what, &level).await,
        Command::Revoke { role, what } => take(opened, format, &role, what).await,
    }
}

async fn give(opened: &Opened, format: Format, role: &Which, what: What, level: &Level) -> anyhow::Result<()> {
    let role = role.find(opened).await?;
    let (kind, selector) = what.parse_new()?;
    let permission = level.on(kind)?;
    let sentence = format!("role `{}` grants {permission} on {}", role.name, noun(kind, &selector));
    let grant = Grant { subject: Subject::Role(role.id), kind, selector, permission };
    opened.store.set_grant(&opened.actor, &grant).await?;
    opened.warn_of_absence(grant.kind, &grant.selector).await;
    format.done(&grant::Shown::new(&grant, &opened.names().await?), &sentence)
}

async fn take(opened: &Opened, format: Format, role: &Which, what: What) -> anyhow::Result<()> {
    let role = role.find(opened).await?;
    let (kind, selector) = what.parse()?;
    let subject = Subject::Role(role.id);
    match opened.store.delete_grant(&opened.actor, &subject, kind, &selector).await {
        Ok(permission) => {
            let sentence = format!("{permission} on {} was taken from role `{}`", noun(kind, &selector), role.name);
            let grant = Grant { subject, kind, selector, permission };
            format.done(&grant::Shown::new(&grant, &opened.names().await?), &sentence)
        }
        Err(store::Error::NotFound(_)) => {
            bail!("role `{}` has no such grant; `mlflow-auth-proxy role list` shows all", role.name)
        }
        Err(other) => Err(other.into()),
    }
}

impl Which {
    async fn find(&self, opened: &Opened) -> anyhow::Result<Role> {
        opened.role(&self.workspace, &self.name).await
    }
}

async fn all(opened: &Opened) -> anyhow::Result<Vec<Shown>> {
    let mut shown = Vec::new();
    for role in opened.store.roles().await? {
        let members = members(opened, &role).await?;
        shown.push(Shown::new(role, members));
    }
    Ok(shown)
}

async fn members(opened: &Opened, role: &Role) -> anyhow::Result<Vec<String>> {
    let mut members = Vec::new();
    for assignment in opened.store.assignments_of(role.id).await? {
        let user = opened.store.user(assignment.user).await?;
        members.push(user.map_or_else(|| assignment.user.to_string(), |user| user.name));
    }
    Ok(members)
}

fn check(name: &str, workspace: &str) -> anyhow::Result<()> {
    ensure!(!name.trim().is_empty() && !workspace.trim().is_empty(), "a role and its workspace need a name");
    for (what, text) in [("role", name), ("workspace", workspace)] {
        if let Err(why) = text::check_name(text) {
            bail!("the name of a {what} {why}");
        }
    }
    ensure!(!name.starts_with(Role::RESERVED_PREFIX), "names that start with `{}` are reserved", Role::RESERVED_PREFIX);
    let (most, widest) = (Role::MAX_NAME_CHARS, Role::MAX_WORKSPACE_CHARS);
    ensure!(name.chars().count() <= most, "the name may have at most {most} characters");
    ensure!(workspace.chars().count() <= widest, "the workspace may have at most {widest} characters");
    Ok(())
}

fn people(count: usize) -> String {
    if count == 1 { "1 person".to_owned() } else { format!("{count} people") }
}
