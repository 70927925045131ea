//! `grant`: permissions on experiments, registered models, prompts and other resources.

use std::collections::HashMap;
use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};
use clap::{ArgGroup, Args, Subcommand};
use serde::Serialize;

use super::output::{Format, Row};
use super::stored::{Absent, Opened};
use crate::authz::{DEFAULT_WORKSPACE, Grant, Permission, Resource, ResourceKind, Selector, Subject, check_group};
use crate::config::Flags;
use crate::store;

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  mlflow-auth-proxy grant set --user alice --experiment 12 --permission EDIT
  mlflow-auth-proxy grant create --user bob --registered-model 'glob:fraud-*' --permission READ
  mlflow-auth-proxy grant revoke --user bob --experiment 12
  mlflow-auth-proxy grant set --group '/ml/**' --experiment 'glob:fraud-*' --permission READ
  mlflow-auth-proxy grant list --user alice --json

A resource is an id or name, `*` for all, or `glob:PATTERN` on the names of experiments, models, prompts, MCP servers
and skills.
A group is one of the identity provider; with `/**` at its end it is that group and all below it.
Permissions: READ < USE < EDIT < MANAGE; NO_PERMISSIONS and DENY refuse, whatever else was granted.")]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List grants, of one user, group or role or all of them
    List {
        #[command(flatten)]
        whose: Whose,
    },
    /// Create a grant; fails if the subject already has one on the resource
    Create {
        #[command(flatten)]
        on: On,
        #[command(flatten)]
        level: Level,
    },
    /// Create a grant, or change the level of an existing one
    Set {
        #[command(flatten)]
        on: On,
        #[command(flatten)]
        level: Level,
    },
    /// Delete a grant
    #[command(visible_alias = "delete")]
    Revoke(On),
}

#[derive(Args, Debug)]
pub(super) struct Level {
    /// READ, USE, EDIT, MANAGE, NO_PERMISSIONS or DENY
    #[arg(long)]
    permission: Permission,
}

impl Level {
    /// Returns the level if it is valid for the resource type.
    pub(super) fn on(&self, kind: ResourceKind) -> anyhow::Result<Permission> {
        ensure!(kind.takes(self.permission), "a {kind} is granted with one of {}", kind.levels());
        Ok(self.permission)
    }
}

/// Subject and resource of a grant.
#[derive(Args, Debug)]
struct On {
    #[command(flatten)]
    whom: Whom,
    #[command(flatten)]
    what: What,
}

/// Subject of a grant.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct Whom {
    /// A user with an account
    #[arg(long)]
    user: Option<String>,
    /// A group of the identity provider; `/ml/**` is `/ml` and all groups below it
    #[arg(long)]
    group: Option<String>,
    /// A role of the default workspace
    #[arg(long)]
    role: Option<String>,
}

/// Filter for the grants of one subject.
#[derive(Args, Debug)]
#[group(required = false, multiple = false)]
struct Whose {
    /// Only grants of this user
    #[arg(long)]
    user: Option<String>,
    /// Only grants of exactly this group
    #[arg(long)]
    group: Option<String>,
    /// Only grants of this role of the default workspace
    #[arg(long)]
    role: Option<String>,
}

/// Returns the selected subject and its description for messages; `None` when no subject is given.
async fn subject(
    user: Option<String>,
    group: Option<String>,
    role: Option<String>,
    opened: &Opened,
) -> anyhow::Result<Option<(Subject, String)>> {
    Ok(match (user, group, role) {
        (Some(name), _, _) => {
            let user = opened.user(&name).await?;
            Some((Subject::User(user.id), format!("`{}`", user.name)))
        }
        (None, Some(group), _) => {
            check_group(&group)?;
            let called = format!("group `{group}`");
            Some((Subject::Group(group), called))
        }
        (None, None, Some(name)) => {
            let role = opened.role(DEFAULT_WORKSPACE, &name).await?;
            Some((Subject::Role(role.id), format!("role `{name}`")))
        }
        (None, None, None) => None,
    })
}

impl Whom {
    async fn find(self, opened: &Opened) -> anyhow::Result<(Subject, String)> {
        let found = subject(self.user, self.group, self.role, opened).await?;
        found.context("say who is granted: --user, --group or --role")
    }
}

#[derive(Args, Debug)]
#[group(skip)]
#[command(group(ArgGroup::new("what").required(true).args(["experiment", "registered_model", "prompt", "type"])))]
pub(super) struct What {
    /// An experiment's ID, `*`, or `glob:PATTERN` on its name
    #[arg(long, value_name = "ID")]
    experiment: Option<String>,
    /// A registered model's name, `*` or `glob:PATTERN`
    #[arg(long, value_name = "NAME")]
    registered_model: Option<String>,
    /// A prompt's name, `*` or `glob:PATTERN`
    #[arg(long, value_name = "NAME")]
    prompt: Option<String>,
    /// Another type of resource, such as `gateway_endpoint`; with --resource
    #[arg(long, value_name = "TYPE", requires = "resource")]
    r#type: Option<ResourceKind>,
    /// The ID or name of a resource of that --type, or `*`
    #[arg(long, value_name = "RESOURCE", requires = "type")]
    resource: Option<String>,
}

impl What {
    /// Parses the resource of a new grant.
    pub(super) fn parse_new(self) -> anyhow::Result<(ResourceKind, Selector)> {
        let (kind, selector) = self.parse()?;
        // A grant on an experiment's name would be stored but never match.
        let named = kind == ResourceKind::Experiment
            && matches!(&selector, Selector::Exact(id) if !id.bytes().all(|b| b.is_ascii_digit()));
        ensure!(!named, "an experiment is granted by its id, which is a number, not by its name");
        let selector = Selector::parse_new(kind, &selector.to_string())?;
        Ok((kind, selector))
    }

    pub(super) fn parse(self) -> anyhow::Result<(ResourceKind, Selector)> {
        let named = [
            (ResourceKind::Experiment, self.experiment),
            (ResourceKind::RegisteredModel, self.registered_model),
            (ResourceKind::Prompt, self.prompt),
        ];
        let other = self.r#type.zip(self.resource);
        let Some((kind, text)) = named.into_iter().find_map(|(kind, text)| Some((kind, text?))).or(other) else {
            bail!("say what is granted: --experiment, --registered-model, --prompt, or --type with --resource");
        };
        Ok((kind, Selector::parse(kind, &text)?))
    }
}

/// One grant, as `--json` shows it.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    subject_type: &'static str,
    subject: String,
    resource_type: &'static str,
    resource: String,
    permission: &'static str,
}

impl Shown {
    pub(super) fn new(grant: &Grant, names: &HashMap<Subject, String>) -> Self {
        let (subject_type, otherwise) = match &grant.subject {
            Subject::User(id) => ("user", id.to_string()),
            Subject::Group(path) => ("group", path.clone()),
            Subject::Role(id) => ("role", id.to_string()),
        };
        Self {
            subject_type,
            subject: names.get(&grant.subject).cloned().unwrap_or(otherwise),
            resource_type: grant.kind.as_str(),
            resource: grant.selector.to_string(),
            permission: grant.permission.as_str(),
        }
    }
}

impl Row<4> for Shown {
    const HEAD: [&'static str; 4] = ["WHO", "TYPE", "RESOURCE", "PERMISSION"];

    fn cells(&self) -> [String; 4] {
        let who = if self.subject_type == "user" {
            self.subject.clone()
        } else {
            format!("{}:{}", self.subject_type, self.subject)
        };
        [who, self.resource_type.to_owned(), self.resource.clone(), self.permission.to_owned()]
    }
}

pub(super) async fn run(arguments: Arguments, flags: &Flags) -> anyhow::Result<ExitCode> {
    Opened::with(flags, Absent::Refuse, async |opened| carry_out(arguments, opened).await).await
}

async fn carry_out(arguments: Arguments, opened: &Opened) -> anyhow::Result<()> {
    let (store, actor, format) = (&opened.store, &opened.actor, arguments.format);
    let names = opened.names().await?;
    match arguments.command {
        Command::List { whose } => {
            let grants = match subject(whose.user, whose.group, whose.role, opened).await? {
                Some((subject, _)) => store.grants_of(&subject).await?,
                None => store.grants().await?,
            };
            let shown: Vec<Shown> = grants.iter().map(|grant| Shown::new(grant, &names)).collect();
            format.list("grants", &shown)
        }
        Command::Create { on, level } => {
            let (grant, sentence) = sentence(on, level, opened).await?;
            match store.create_grant(actor, &grant).await {
                Ok(_) => {
                    opened.warn_of_absence(grant.kind, &grant.selector).await;
                    format.done(&Shown::new(&grant, &names), &sentence)
                }
                Err(store::Error::Exists(_)) => bail!("there already is such a grant; change it with `grant set`"),
                Err(other) => Err(other.into()),
            }
        }
        Command::Set { on, level } => {
            let (grant, sentence) = sentence(on, level, opened).await?;
            store.set_grant(actor, &grant).await?;
            opened.warn_of_absence(grant.kind, &grant.selector).await;
            format.done(&Shown::new(&grant, &names), &sentence)
        }
        Command::Revoke(on) => {
            let (subject, called) = on.whom.find(opened).await?;
            let (kind, selector) = on.what.parse()?;
            match store.delete_grant(actor, &subject, kind, &selector).await {
                Ok(permission) => {
                    let sentence = format!("{permission} on {} was taken from {called}", noun(kind, &selector));
                    format.done(&Shown::new(&Grant { subject, kind, selector, permission }, &names), &sentence)
                }
                Err(store::Error::NotFound(_)) => {
                    bail!("there is no such grant of {called}; `mlflow-auth-proxy grant list` shows all")
                }
                Err(other) => Err(other.into()),
            }
        }
    }
}

/// Returns the selected grant and a message that confirms it.
async fn sentence(on: On, level: Level, opened: &Opened) -> anyhow::Result<(Grant, String)> {
    let (subject, called) = on.whom.find(opened).await?;
    let (kind, selector) = on.what.parse_new()?;
    let of_group = matches!(subject, Subject::Group(_));
    ensure!(!(of_group && kind == ResourceKind::Workspace), "a workspace is granted to roles only");
    let permission = level.on(kind)?;
    let sentence = format!("{called} has {permission} on {}", noun(kind, &selector));
    Ok((Grant { subject, kind, selector, permission }, sentence))
}

pub(super) fn noun(kind: ResourceKind, selector: &Selector) -> String {
    Resource::new(kind, selector.to_string()).to_string()
}
