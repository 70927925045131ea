//! `doctor`: checks whether the proxy's environment matches the configuration, and names the setting to change for
//! each failure.
//!
//! Only reads: no code is redeemed, and no user is signed in or out. Settings of Keycloak are named as in its admin
//! console.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use url::Url;

use super::output::Format;
use crate::clock::Clock;
use crate::config::{self, Config, Flags};
use crate::crypto::{self, KeyRing};
use crate::oidc::{Providers, Remote};

mod finding;
mod local;
mod provider;
mod token;

use finding::Report;

/// Arguments of `doctor`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  mlflow-auth-proxy doctor --config proxy.toml
  mlflow-auth-proxy doctor --token-file token.jwt      # also: the user and groups of a token of the identity provider
  mlflow-auth-proxy doctor --json | jq '.findings[] | select(.outcome == \"failed\")'

Exit code 0: no check failed, but there can be warnings. 1: a check failed. 2: the configuration is invalid.
The file of --token-file contains an access token, or its claims as Keycloak's console shows them: Clients > ID > Client
scopes > Evaluate > Generated access token.")]
pub(super) struct Arguments {
    /// A file with an access token of the identity provider: show which of its claims contain groups, and the user that it
    /// identifies
    #[arg(long, value_name = "PATH")]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    format: Format,
}

pub(super) async fn run(arguments: Arguments, flags: &Flags) -> anyhow::Result<ExitCode> {
    let config = config::load(flags)?;
    let token = match &arguments.token_file {
        Some(path) => {
            let text = config::read_any(path, MAX_TOKEN_BYTES)
                .with_context(|| format!("{} cannot be read", path.display()))?;
            Some(text.trim().to_owned())
        }
        None => None,
    };
    let report = examine(&config, token.as_deref(), &Clock::default()).await?;
    report.show(arguments.format)?;
    Ok(if report.has_failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Runs all checks, local ones first.
async fn examine(config: &Config, token: Option<&str>, clock: &Clock) -> anyhow::Result<Report> {
    let mut report = Report::default();
    local::tls(config, clock, &mut report);
    local::store(config, clock, &mut report).await;
    local::audit(config, &mut report);
    local::policies(config, &mut report);
    local::descriptors(config, &mut report);
    local::upstream(config, &mut report).await;

    let mut issuers = Vec::new();
    for provider in &config.providers {
        issuers.push((provider, Remote::new(&provider.endpoint, &config.egress)?));
    }
    // The keys are temporary, because nothing that they seal is kept.
    let keys = Arc::new(KeyRing::of("doctor", &crypto::random()));
    let configured = issuers.iter().map(|(provider, remote)| (*provider, Arc::clone(remote)));
    let pages_url = config.pages_url();
    let providers = Providers::new(configured, pages_url.as_ref(), keys, clock)?;
    let public_url = pages_url.as_ref().map_or("PUBLIC_URL", Url::as_str).trim_end_matches('/');
    for one in providers.iter() {
        provider::check(one, &providers.attempts, public_url, clock, &mut report).await;
    }
    let mut trusted = Vec::new();
    for issuer in &config.issuers {
        let remote = Remote::new(&issuer.endpoint, &config.egress)?;
        provider::check_issuer(issuer, &remote, &mut report).await;
        trusted.push((issuer, remote));
    }
    if let Some(token) = token {
        token::check(token, config, &trusted, clock, &mut report);
    }
    Ok(report)
}

/// Claims as the console shows them are longer than a token.
const MAX_TOKEN_BYTES: u64 = 256 * 1024;

#[cfg(test)]
mod tests;
