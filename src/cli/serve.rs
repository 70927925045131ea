//! `serve`: runs the proxy until it receives a signal.
//!
//! The first SIGTERM or SIGINT starts the drain; the second ends the process at once.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use secrecy::SecretString;
use tokio_util::task::TaskTracker;

use super::service_manager;
use super::signals::Signals;
use crate::config::{Config, Flags};
use crate::{app, crypto, telemetry};

/// Short flags for the most frequently used keys.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// The address to listen on; short for `--set server.listen=ADDRESS:PORT` [default:
    /// 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// The address of MLflow; short for `--set upstream.url=URL` [default: http://127.0.0.1:5000]
    #[arg(long, value_name = "URL")]
    upstream: Option<String>,
}

impl Arguments {
    pub(super) fn add_to(self, flags: &mut Flags) {
        flags.set.extend(self.listen.map(|listen| ("server.listen".to_owned(), listen)));
        flags.set.extend(self.upstream.map(|url| ("upstream.url".to_owned(), url)));
    }
}

pub(super) async fn run(config: Config) -> anyhow::Result<ExitCode> {
    telemetry::log::init(&config.log)?;
    let mut signals = Signals::listen().context("the signal handlers cannot be installed")?;
    let administrator = config.bootstrap.admin_username.clone();
    let running = tokio::select! {
        running = app::start(config) => running?,
        stop = signals.next() => return Ok(stop.exit_code()),
    };
    tracing::info!(address = %running.address, admin = %running.admin, "ready on {}", running.address);
    if let Some(password) = &running.first_password {
        show_once(&administrator, password);
    }
    service_manager::ready(running.address);
    let watchdog = TaskTracker::new();
    if let Some(pings) = service_manager::watchdog() {
        watchdog.spawn(pings);
    }
    signals.next().await;
    service_manager::stopping();
    tracing::info!("draining; a second signal ends the process at once");
    tokio::select! {
        () = running.drain() => Ok(ExitCode::SUCCESS),
        stop = signals.next() => Ok(stop.exit_code()),
    }
}

/// Shows the password on a terminal, never where logs are collected.
fn show_once(administrator: &str, password: &SecretString) {
    let text = format!(
        "\nThe first administrator was created. This password is shown once:\n  user      {}\n  password  {}\n\n",
        crate::text::plain(administrator),
        crypto::reveal(password)
    );
    let shown = if std::io::stdout().is_terminal() {
        std::io::stdout().lock().write_all(text.as_bytes()).is_ok()
    } else if std::io::stderr().is_terminal() {
        std::io::stderr().lock().write_all(text.as_bytes()).is_ok()
    } else {
        false
    };
    if !shown {
        tracing::warn!(
            "the first administrator was created with a generated password, which could not be shown because there is no \
             terminal; set one with `mlflow-auth-proxy user set-password {administrator}`"
        );
    }
}
