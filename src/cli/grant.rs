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
use crate::resolve::Labels;
use crate::store;

pub(super) const EXAMPLES: &str = "\
Examples:
  mlflow-auth-proxy grant set --user alice --experiment 12 --permission EDIT
  mlflow-auth-proxy grant create --user bob --registered-model 'glob:fraud-*' --permission READ
  mlflow-auth-proxy grant revoke --user bob --experiment 12
  mlflow-auth-proxy grant set --group '/ml/**' --experiment 'glob:fraud-*' --permission READ
  mlflow-auth-proxy grant list --user alice --json

A resource is an ID or name, `*` for all, or `glob:PATTERN` on the names of experiments, models, prompts, MCP servers
and skills. The ID of an experiment is in the address of its page, /#/experiments/ID.
A group is a group of the identity provider; with `/**` at its end, all groups below it are included.
Permissions: READ < USE < EDIT < MANAGE; NO_PERMISSIONS and DENY refuse, whatever else is granted.";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the grants of one user, group or role, or all grants; with names from MLflow, if it can be reached
    List {
        #[command(flatten)]
        of: Of,
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
        ensure!(kind.takes(self.permission), "the permission on a {kind} must be one of {}", kind.levels());
        Ok(self.permission)
    }
}

/// Subject and resource of a grant.
#[derive(Args, Debug)]
pub(super) struct On {
    #[command(flatten)]
    to: To,
    #[command(flatten)]
    what: What,
}

/// Subject of a grant.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub(super) struct To {
    /// A user who has an account
    #[arg(long)]
    user: Option<String>,
    /// A group of the identity provider; `/ml/**` is `/ml` with all groups below it
    #[arg(long)]
    group: Option<String>,
    /// A role of the default workspace
    #[arg(long)]
    role: Option<String>,
}

/// Filter for the grants of one subject.
#[derive(Args, Debug)]
#[group(required = false, multiple = false)]
pub(super) struct Of {
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

impl To {
    async fn find(self, opened: &Opened) -> anyhow::Result<(Subject, String)> {
        let found = subject(self.user, self.group, self.role, opened).await?;
        found.context("give --user, --group or --role")
    }
}

#[derive(Args, Debug)]
#[group(skip)]
#[command(group(ArgGroup::new("what").required(true).args(["experiment", "registered_model", "prompt", "type"])))]
pub(super) struct What {
    /// An experiment's ID (the number in the address of its page), `*`, or `glob:PATTERN` on its name
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
        ensure!(
            !named,
            "--experiment requires the ID, which is a number, not the name; it is in the address of the experiment's page, \
             /#/experiments/ID. For names, use glob:NAME"
        );
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
            bail!("give --experiment, --registered-model, --prompt, or --type with --resource");
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
    /// Name in MLflow of a resource that is granted by ID.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    permission: &'static str,
}

/// Returns the name of a grant's resource.
pub(super) fn label(grant: &Grant, labels: &Labels) -> Option<String> {
    let Selector::Exact(id) = &grant.selector else { return None };
    labels.get(&(grant.kind, id.clone())).cloned()
}

impl Shown {
    pub(super) fn new(grant: &Grant, names: &HashMap<Subject, String>) -> Self {
        Self::named(grant, names, &Labels::new())
    }

    fn named(grant: &Grant, names: &HashMap<Subject, String>, labels: &Labels) -> Self {
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
            name: label(grant, labels),
            permission: grant.permission.as_str(),
        }
    }
}

impl Row<5> for Shown {
    const HEAD: [&'static str; 5] = ["SUBJECT", "TYPE", "RESOURCE", "NAME", "PERMISSION"];

    fn cells(&self) -> [String; 5] {
        let subject = if self.subject_type == "user" {
            self.subject.clone()
        } else {
            format!("{}:{}", self.subject_type, self.subject)
        };
        let name = self.name.clone().unwrap_or_else(|| "-".to_owned());
        [subject, self.resource_type.to_owned(), self.resource.clone(), name, self.permission.to_owned()]
    }
}

pub(super) async fn run(command: Command, format: Format, flags: &Flags) -> anyhow::Result<ExitCode> {
    Opened::with(flags, Absent::Refuse, async |opened| carry_out(command, format, opened).await).await
}

async fn carry_out(command: Command, format: Format, opened: &Opened) -> anyhow::Result<()> {
    let (store, actor) = (&opened.store, &opened.actor);
    let names = opened.names().await?;
    match command {
        Command::List { of } => {
            let grants = match subject(of.user, of.group, of.role, opened).await? {
                Some((subject, _)) => store.grants_of(&subject).await?,
                None => store.grants().await?,
            };
            let labels = opened.labels(grants.iter()).await;
            let shown: Vec<Shown> = grants.iter().map(|grant| Shown::named(grant, &names, &labels)).collect();
            format.list("grants", &shown)
        }
        Command::Create { on, level } => {
            let (grant, sentence) = sentence(on, level, opened).await?;
            match store.create_grant(actor, &grant).await {
                Ok(_) => {
                    opened.warn_of_absence(grant.kind, &grant.selector).await;
                    format.done(&Shown::new(&grant, &names), &sentence)
                }
                Err(store::Error::Exists(_)) => bail!("this grant already exists; change its level with `grant set`"),
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
            let (subject, called) = on.to.find(opened).await?;
            let (kind, selector) = on.what.parse()?;
            match store.delete_grant(actor, &subject, kind, &selector).await {
                Ok(permission) => {
                    let sentence =
                        format!("the grant of {permission} on {} to {called} was deleted", noun(kind, &selector));
                    format.done(&Shown::new(&Grant { subject, kind, selector, permission }, &names), &sentence)
                }
                Err(store::Error::NotFound(_)) => {
                    bail!("there is no such grant to {called}; `mlflow-auth-proxy grant list` lists all")
                }
                Err(other) => Err(other.into()),
            }
        }
    }
}

/// Returns the selected grant and a message that confirms it.
async fn sentence(on: On, level: Level, opened: &Opened) -> anyhow::Result<(Grant, String)> {
    let (subject, called) = on.to.find(opened).await?;
    let (kind, selector) = on.what.parse_new()?;
    let of_role = matches!(subject, Subject::Role(_));
    ensure!(of_role || kind != ResourceKind::Workspace, "a workspace can be granted to roles only");
    let permission = level.on(kind)?;
    let sentence = format!("{called} has {permission} on {}", noun(kind, &selector));
    Ok((Grant { subject, kind, selector, permission }, sentence))
}

pub(super) fn noun(kind: ResourceKind, selector: &Selector) -> String {
    Resource::new(kind, selector.to_string()).to_string()
}
