//! `policy`: checks a policy file and runs its tests. Needs neither store nor MLflow.
//!
//! A file contains its expectations as `[[tests]]`. A single question can also be asked on the command line.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand};

use super::output;
use crate::authz::{
    DefaultPermission, Expectation, Home, Identity, Limits, Member, PolicyFile, PolicyProblems, Resource, Scheme,
    UserId, holds,
};
use crate::config::{self, Flags, Origin, Problem, Problems};
use crate::mlflow::{Question, Table};
use crate::text;

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  mlflow-auth-proxy policy check policy.toml
  mlflow-auth-proxy policy test policy.toml
  mlflow-auth-proxy policy test policy.toml --user ann --groups /ml/team-a --operation EDIT --resource experiment:fraud-eu

Experiments are identified by name, because MLflow is not asked. Grants in the store are not included; `explain` includes
them.")]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check that the file is valid
    Check {
        /// The policy file
        file: PathBuf,
    },
    /// Run the file's own `[[tests]]`, or ask one question
    Test {
        /// The policy file
        file: PathBuf,
        /// Read the tests from this file instead of the policy file
        #[arg(long, value_name = "FILE", conflicts_with = "user")]
        tests: Option<PathBuf>,
        /// The user's name
        #[arg(long, requires = "operation", requires = "resource")]
        user: Option<String>,
        /// The user's identity provider, if it is not the first one
        #[arg(long, requires = "user")]
        provider: Option<String>,
        /// The groups of the user
        #[arg(long, value_delimiter = ',', requires = "user")]
        groups: Vec<String>,
        /// The user's roles in the default workspace
        #[arg(long, value_delimiter = ',', requires = "user")]
        roles: Vec<String>,
        /// READ, USE, EDIT or MANAGE, or the name of an operation
        #[arg(long, requires = "user")]
        operation: Option<String>,
        /// TYPE:ID or TYPE:NAME; for experiments the name
        #[arg(long, requires = "user")]
        resource: Option<String>,
    },
}

pub(super) fn run(arguments: Arguments, flags: &Flags) -> anyhow::Result<ExitCode> {
    match arguments.command {
        Command::Check { file } => {
            let policy = read(&file, PolicyFile::parse_rules)?;
            let (grants, tests) = (policy.grants(), policy.tests().len());
            output::line(&format!("{}: valid, {grants} grants, {tests} tests", file.display()))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Test { file, tests, user, provider, groups, roles, operation, resource } => {
            let asker = Asker {
                file: read(&file, PolicyFile::parse)?,
                default_permission: DefaultPermission(config::load(flags)?.authz.default_permission),
                table: Table::built_in()?,
            };
            match (user, operation, resource) {
                (Some(user), Some(operation), Some(resource)) => {
                    let resource = named(&resource);
                    let (line, allowed) = (0, true);
                    let resource = resource?;
                    let asked = Expectation { line, user, provider, groups, roles, operation, resource, allowed };
                    asker.answer(&asked)
                }
                _ => {
                    let own = tests.as_deref().map(|path| read(path, PolicyFile::parse)).transpose()?;
                    let (beside, from) = match (&own, &tests) {
                        (Some(own), Some(path)) => (own.tests(), path),
                        _ => (asker.file.tests(), &file),
                    };
                    asker.try_all(beside, from)
                }
            }
        }
    }
}

/// Parses `TYPE:KEY`; for experiments, the key is the name.
fn named(text: &str) -> anyhow::Result<Resource> {
    let (kind, key) = text.split_once(':').context("write the resource as TYPE:NAME, such as experiment:fraud-eu")?;
    let kind = kind.parse().map_err(|error| anyhow!("{error}"))?;
    let resource = Resource::new(kind, key);
    let is_experiment = kind == crate::authz::ResourceKind::Experiment;
    Ok(if is_experiment { Resource::experiment(key, key) } else { resource })
}

fn read(path: &Path, parse: impl Fn(&str) -> Result<PolicyFile, PolicyProblems>) -> anyhow::Result<PolicyFile> {
    let text = config::read_any(path, PolicyFile::MAX_BYTES as u64);
    let text = text.with_context(|| format!("{} cannot be read", path.display()))?;
    parse(&text).map_err(|problems| {
        let problem = |message: String| {
            let origin = Some(Origin::File(path.to_owned()));
            Problem { key: "policy".to_owned(), message, origin }
        };
        anyhow!(Problems(problems.0.iter().map(|found| problem(found.to_string())).collect()))
    })
}

struct Asker {
    file: PolicyFile,
    default_permission: DefaultPermission,
    table: Table,
}

impl Asker {
    /// Answers one question in text.
    fn answer(&self, asked: &Expectation) -> anyhow::Result<ExitCode> {
        let denied = self.decide(asked)?;
        let on = format!("{}:{}", asked.resource.kind, asked.resource.key);
        let verdict = if denied.is_none() { "allowed" } else { "denied" };
        output::line(&text::plain(&format!("{verdict}: {} on {on} for `{}`", asked.operation, asked.user)))?;
        let member = member(asked);
        for grant in self.file.grants_for(&member).filter(|grant| grant.kind == asked.resource.kind) {
            if grant.selector.selects(&asked.resource) {
                let (source, whom) = &grant.subject;
                let line = format!("  {} on {}:{} to {whom} ({source})", grant.permission, grant.kind, grant.selector);
                output::line(&text::plain(&line))?;
            }
        }
        Ok(if denied.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Checks every expectation; fails if one of them fails.
    fn try_all(&self, tests: &[Expectation], from: &Path) -> anyhow::Result<ExitCode> {
        let mut failed = 0;
        for test in tests {
            let denied = self.decide(test).with_context(|| format!("{}, line {}", from.display(), test.line))?;
            if denied.is_none() == test.allowed {
                continue;
            }
            failed += 1;
            let words = |allowed: bool| if allowed { "allowed" } else { "denied" };
            let on = format!("{}:{}", test.resource.kind, test.resource.name.as_deref().unwrap_or(&test.resource.key));
            let (wanted, found) = (words(test.allowed), words(!test.allowed));
            output::line(&text::plain(&format!(
                "FAILED line {}: {} on {on} for `{}` is {found}, expected {wanted}",
                test.line, test.operation, test.user
            )))?;
        }
        output::line(&format!("{}: {} tests, {failed} failed", from.display(), tests.len()))?;
        Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Returns the reason for a denial, or `None` if the operation is allowed.
    fn decide(&self, asked: &Expectation) -> anyhow::Result<Option<String>> {
        let resource = &asked.resource;
        let text = format!("{}:{}", resource.kind, resource.key);
        let mut question = Question::parse(&self.table, &asked.operation, &text)?;
        if let Some(name) = &resource.name {
            question.is_called(name);
        }
        let who = Identity {
            user: UserId(0),
            name: asked.user.as_str().into(),
            admin: false,
            scheme: Scheme::Password,
            groups: asked.groups.as_slice().into(),
            limits: Limits::default(),
            grants: Arc::new(self.file.alone(&member(asked))),
            shadow: None,
        };
        let denied = question
            .requirements
            .iter()
            .find_map(|requirement| holds(&who, self.default_permission, requirement).err());
        Ok(denied.map(|denied| denied.to_string()))
    }
}

fn member(asked: &Expectation) -> Member<'_> {
    let home = asked.provider.as_deref().map_or_else(Home::default, |name| Home { name, is_plain: false });
    let roles = asked.roles.iter().map(String::as_str).collect();
    Member { name: &asked.user, home, groups: &asked.groups, roles }
}
