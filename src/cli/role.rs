//! `role`: permissions shared by several users.

use std::collections::HashMap;
use std::process::ExitCode;

use anyhow::{bail, ensure};
use clap::{Args, Subcommand};
use serde::Serialize;

use super::grant::{self, Level, What, noun};
use super::output::{Format, Row, aligned};
use super::stored::{Absent, Opened};
use crate::authz::{DEFAULT_WORKSPACE, Grant, RoleId, Subject, UserId};
use crate::config::Flags;
use crate::resolve::Labels;
use crate::store::{self, Assignment, Role};
use crate::text::{self, plain};

pub(super) const EXAMPLES: &str = "\
Examples:
  mlflow-auth-proxy role create analysts
  mlflow-auth-proxy role grant analysts --experiment 12 --permission EDIT
  mlflow-auth-proxy role grant analysts --type run --resource '*' --permission READ
  mlflow-auth-proxy role assign analysts --user alice
  mlflow-auth-proxy role show analysts
  mlflow-auth-proxy role list --json

MANAGE on --type workspace --resource '*' makes members administrators of the role's workspace.";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List all roles; as JSON with members and permissions
    List,
    /// Show the members and permissions of a role
    Show(Which),
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
pub(super) struct Which {
    /// The role's name
    name: String,
    /// The role's workspace; on an MLflow without workspaces, only roles of `default` grant permissions on resources
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
    /// Name in MLflow of a resource that is granted by ID.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    permission: &'static str,
}

impl Shown {
    fn new(role: Role, members: Vec<String>) -> Self {
        Self::named(role, members, &Labels::new())
    }

    fn named(role: Role, members: Vec<String>, labels: &Labels) -> Self {
        let given = |grant: Grant| Given {
            resource_type: grant.kind.as_str(),
            resource: grant.selector.to_string(),
            name: grant::label(&grant, labels),
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
    const HEAD: [&'static str; 5] = ["ID", "WORKSPACE", "NAME", "MEMBERS", "PERMISSIONS"];

    fn cells(&self) -> [String; 5] {
        let (members, permissions) = (self.members.len().to_string(), self.permissions.len().to_string());
        [self.id.to_string(), self.workspace.clone(), self.name.clone(), members, permissions]
    }
}

impl Shown {
    /// Formats the role with one line for each member and permission.
    fn in_full(&self) -> String {
        let mut text = format!("role       {}\nworkspace  {}\n", plain(&self.name), plain(&self.workspace));
        if let Some(description) = &self.description {
            text += &format!("purpose    {}\n", plain(description));
        }
        text += &format!("\n{} members\n", self.members.len());
        for member in &self.members {
            text += &format!("  {}\n", plain(member));
        }
        text += &format!("\n{} permissions\n", self.permissions.len());
        if !self.permissions.is_empty() {
            let rows = self.permissions.iter().map(|given| {
                let name = given.name.clone().unwrap_or_else(|| "-".to_owned());
                [given.resource_type.to_owned(), given.resource.clone(), name, given.permission.to_owned()]
            });
            let table = aligned(["TYPE", "RESOURCE", "NAME", "PERMISSION"], rows);
            text += &table.lines().map(|line| format!("  {line}\n")).collect::<String>();
        }
        text.trim_end().to_owned()
    }
}

pub(super) async fn run(command: Command, format: Format, flags: &Flags) -> anyhow::Result<ExitCode> {
    Opened::with(flags, Absent::Refuse, async |opened| carry_out(command, format, opened).await).await
}

async fn carry_out(command: Command, format: Format, opened: &Opened) -> anyhow::Result<()> {
    let (store, actor) = (&opened.store, &opened.actor);
    match command {
        Command::List => format.list("roles", &all(opened).await?),
        Command::Show(which) => {
            let role = which.find(opened).await?;
            let members = members(opened, &role).await?;
            let labels = opened.labels(role.grants.iter().map(|row| &row.grant)).await;
            let shown = Shown::named(role, members, &labels);
            format.done(&shown, &shown.in_full())
        }
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
            let sentence = format!("role `{}` was deleted; it had {}", role.name, count_of(members.len()));
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
                (members(opened, &role).await?, format!("role `{}` was removed from `{}`", role.name, user.name));
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
            let sentence =
                format!("the grant of {permission} on {} to role `{}` was deleted", noun(kind, &selector), role.name);
            let grant = Grant { subject, kind, selector, permission };
            format.done(&grant::Shown::new(&grant, &opened.names().await?), &sentence)
        }
        Err(store::Error::NotFound(_)) => {
            bail!("role `{0}` has no such grant; `mlflow-auth-proxy role show {0}` lists all", role.name)
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
    let names: HashMap<UserId, String> =
        opened.store.users().await?.into_iter().map(|user| (user.id, user.name)).collect();
    let mut members: HashMap<RoleId, Vec<String>> = HashMap::new();
    for Assignment { user, role, .. } in opened.store.assignments().await? {
        let name = names.get(&user).cloned().unwrap_or_else(|| user.to_string());
        members.entry(role).or_default().push(name);
    }
    let roles = opened.store.roles().await?.into_iter();
    Ok(roles
        .map(|role| (members.remove(&role.id).unwrap_or_default(), role))
        .map(|(of, role)| Shown::new(role, of))
        .collect())
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
    ensure!(!name.trim().is_empty() && !workspace.trim().is_empty(), "a role and its workspace must have a name");
    for (what, text) in [("role", name), ("workspace", workspace)] {
        if let Err(why) = text::check_name(text) {
            bail!("the name of a {what} {why}");
        }
    }
    ensure!(!name.starts_with(Role::RESERVED_PREFIX), "names that start with `{}` are reserved", Role::RESERVED_PREFIX);
    let (most, widest) = (Role::MAX_NAME_CHARS, Role::MAX_WORKSPACE_CHARS);
    ensure!(name.chars().count() <= most, "the name must have at most {most} characters");
    ensure!(workspace.chars().count() <= widest, "the workspace must have at most {widest} characters");
    Ok(())
}

fn count_of(members: usize) -> String {
    if members == 1 { "1 member".to_owned() } else { format!("{members} members") }
}
