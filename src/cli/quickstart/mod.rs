//! `quickstart`: installs and starts an MLflow with this proxy and accounts in front of it, for trying and
//! developing.
//!
//! Everything is on loopback and below one folder. A second run in the same folder continues with the same data.

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, anyhow};
use clap::Args;
use rustix::fs::Mode;

use super::signals::Signals;
use super::{output, progress};
use crate::app::{self, Running};
use crate::config::{Config, Environment, Flags, load_from};
use crate::telemetry;

mod accounts;
mod demo;
mod mlflow;
mod place;
mod python;
mod words;

use accounts::Accounts;
use mlflow::Mlflow;
use place::Place;
use python::Python;

/// Arguments of `quickstart`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  mlflow-auth-proxy quickstart --demo
  mlflow-auth-proxy quickstart --dir /tmp/try --port 8888
  mlflow-auth-proxy quickstart --mlflow-python .venv/bin/python

Requires Python 3.10 or later with venv, and access to PyPI at the first start. Ctrl-C stops all servers; the data stays
in the folder.")]
pub(super) struct Arguments {
    /// Also create the users alice and bob, and an experiment of alice that bob is allowed to read
    #[arg(long)]
    demo: bool,
    /// The folder for all data
    #[arg(long, default_value = "mlflow-quickstart", value_name = "DIR")]
    dir: PathBuf,
    /// The version of MLflow to install
    #[arg(long, default_value = "3.17.2", value_name = "VERSION", value_parser = python::version)]
    mlflow_version: String,
    /// The port of the proxy on 127.0.0.1; 0 selects a free one
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// A Python interpreter that has MLflow, instead of installing it
    #[arg(long, value_name = "PATH", conflicts_with = "mlflow_version")]
    mlflow_python: Option<PathBuf>,
}

pub(super) async fn run(arguments: Arguments, flags: Flags) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::listen_also_to_the_terminal().context("the signal handlers cannot be installed")?;
    // Also applies to the files that MLflow and pip create.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    let place = Place::open(&arguments.dir)?;
    free(arguments.port)?;
    let upstream_port = some_free_port()?;
    let config = configuration(&arguments, &place, upstream_port, flags)?;
    telemetry::log::init(&config.log)?;

    let python = tokio::select! {
        python = python::ready(&arguments) => python?,
        stop = signals.next() => return Ok(stop.exit_code()),
    };
    let mut mlflow = Mlflow::start(&python, &place, upstream_port).await?;
    let mut proxy = None;
    let kept = config.clone();
    let outcome = tokio::select! {
        outcome = open(&arguments, &place, &python, config, &mut proxy) => outcome,
        ended = mlflow.ended() => Err(ended),
        _ = signals.next() => Ok(()),
    };
    progress::say("Stopping...");
    tokio::select! {
        () = close(proxy, &mut mlflow) => {}
        _ = signals.next() => mlflow.kill().await,
    }
    end_tokens(&kept).await;
    outcome.map(|()| ExitCode::SUCCESS)
}

/// Opens the proxy in front of a started MLflow, prints its address, and waits until something ends it.
async fn open(
    arguments: &Arguments,
    place: &Place,
    python: &Python,
    config: Config,
    proxy: &mut Option<Running>,
) -> anyhow::Result<()> {
    mlflow::ready(&config.upstream.url).await.map_err(|error| anyhow!("{error}; {}", place.tail_of_log()))?;
    let scheme = if config.server.tls.is_some() { "https" } else { "http" };
    let public = config.server.public_url.as_ref().map(|url| url.as_str().trim_end_matches('/').to_owned());
    let accounts = Accounts::open(&config).await?;
    let administrator = accounts.administrator().await?;
    let running = proxy.insert(app::start(config).await.context("the proxy cannot be started")?);
    let address = public.unwrap_or_else(|| format!("{scheme}://{}", running.address));
    let demo = if arguments.demo { Some(demo::make(&accounts, python, &address).await?) } else { None };
    accounts.close().await;
    output::line(&words::ready(&address, place, python, &administrator, demo.as_ref()))?;
    std::future::pending().await
}

/// Revokes the administrator's token of this run. A token that a killed run left is revoked at the next start.
async fn end_tokens(config: &Config) {
    let ended = async {
        let accounts = Accounts::open(config).await?;
        let ended = accounts.end_administrators_tokens().await;
        accounts.close().await;
        ended
    };
    if let Err(error) = ended.await {
        progress::say(&format!("The administrator's token was not revoked: {error:#}"));
    }
}

async fn close(proxy: Option<Running>, mlflow: &mut Mlflow) {
    if let Some(proxy) = proxy {
        proxy.drain().await;
    }
    mlflow.stop().await;
}

/// Builds the configuration from the file named on the command line, without the environment, whose variables may be
/// meant for another proxy. The locations of the quickstart override the file.
fn configuration(arguments: &Arguments, place: &Place, upstream_port: u16, flags: Flags) -> anyhow::Result<Config> {
    let ours = [
        ("server.listen", format!("127.0.0.1:{}", arguments.port)),
        ("server.drain_delay_seconds", "0".to_owned()),
        ("server.drain_timeout_seconds", "5".to_owned()),
        ("admin.listen", "127.0.0.1:0".to_owned()),
        ("upstream.url", format!("http://127.0.0.1:{upstream_port}")),
        ("store.url", format!("sqlite://{}", place.store())),
        ("log.level", "warn".to_owned()),
        ("log.format", "text".to_owned()),
        ("log.access", "false".to_owned()),
    ];
    let set = ours.into_iter().map(|(key, value)| (key.to_owned(), value)).chain(flags.set).collect();
    let (config, _) = load_from(&Flags { config: flags.config, set }, &Environment::of_process().without_ours())?;
    Ok(config)
}

/// Checks that a port is free, before a minute of installing.
fn free(port: u16) -> anyhow::Result<()> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .map(|_| ())
        .with_context(|| format!("port {port} is taken; choose another with --port, or 0 for a free one"))
}

fn some_free_port() -> anyhow::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("there is no free port on loopback")?;
    Ok(listener.local_addr()?.port())
}

#[cfg(test)]
mod tests;
