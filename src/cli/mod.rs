//! The command line.
//!
//! Exit codes: 0 for success, 1 for a failure, with a message that contains the remedy, 2 for an invalid command line
//! or configuration.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use self::output::OnStore;
use crate::config::{self, Flags, Problems};
use crate::text;

mod audit;
mod check_config;
mod completions;
mod doctor;
mod explain;
mod grant;
mod health;
mod moment;
mod output;
mod password;
mod policy;
mod progress;
mod quickstart;
mod role;
mod serve;
mod service_manager;
mod session;
mod signals;
mod store;
mod stored;
mod token;
mod user;

/// An authenticating reverse proxy for an unmodified MLflow server.
#[derive(Debug, Parser)]
#[command(name = "mlflow-auth-proxy", version, max_term_width = 100, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    settings: Settings,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the proxy
    Serve(serve::Arguments),
    /// Check the configuration, and print the resulting settings
    CheckConfig(serve::Arguments),
    /// Check identity providers, MLflow and files, and print the setting to change for each problem
    Doctor(doctor::Arguments),
    /// Ask the running proxy whether it is ready, for health checks of containers
    Health(health::Arguments),
    /// Install and start MLflow on this machine with this proxy in front of it, for a trial
    Quickstart(quickstart::Arguments),
    /// Manage user accounts
    #[command(after_help = user::EXAMPLES)]
    User(OnStore<user::Command>),
    /// Manage access tokens, with which programs authenticate
    #[command(after_help = token::EXAMPLES)]
    Token(OnStore<token::Command>),
    /// Manage permissions on experiments, models, prompts and other resources
    #[command(after_help = grant::EXAMPLES)]
    Grant(OnStore<grant::Command>),
    /// Manage roles: permissions that several users share
    #[command(after_help = role::EXAMPLES)]
    Role(OnStore<role::Command>),
    /// Manage browser sessions
    #[command(after_help = session::EXAMPLES)]
    Session(OnStore<session::Command>),
    /// Check and test a policy file
    Policy(policy::Arguments),
    /// Explain whether a user is allowed to perform an operation, and because of which grants
    Explain(explain::Arguments),
    /// List and export changes and denied requests
    #[command(after_help = audit::EXAMPLES)]
    Audit(OnStore<audit::Command>),
    /// Copy, back up, restore and check the store
    #[command(after_help = store::EXAMPLES)]
    Store(OnStore<store::Command>),
    /// Print the completions of the command line for a shell
    Completions(completions::Completions),
    /// Print the manual page, or write the pages of all commands
    Man(completions::Manual),
}

/// Sources of the configuration.
#[derive(Args, Clone, Debug)]
struct Settings {
    /// The configuration file [or: MLFLOW_AUTH_PROXY_CONFIG]
    #[arg(long, global = true, value_name = "PATH", help_heading = "Configuration")]
    config: Option<PathBuf>,
    /// Location of the store with users, tokens and grants; short for `--set store.url=URL`
    #[arg(long, global = true, value_name = "URL", help_heading = "Configuration")]
    store: Option<String>,
    /// Set any key of the configuration, overriding file and environment; can be repeated
    #[arg(long, global = true, value_name = "KEY=VALUE", value_parser = key_and_value, help_heading = "Configuration")]
    set: Vec<(String, String)>,
}

impl Settings {
    fn into_flags(self) -> Flags {
        let store = self.store.map(|url| ("store.url".to_owned(), url));
        Flags { config: self.config, set: self.set.into_iter().chain(store).collect() }
    }
}

/// Runs one command line to its end.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(help_or_error) => {
            // A closed terminal is not a failure.
            let _ = help_or_error.print();
            return ExitCode::from(u8::try_from(help_or_error.exit_code()).unwrap_or(2));
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&anyhow::Error::new(error).context("the runtime cannot be started")),
    };
    let outcome = runtime.block_on(dispatch(cli));
    // A second signal means "now": do not wait for threads that are still hashing a password.
    runtime.shutdown_background();
    outcome.unwrap_or_else(|error| failed(&error))
}

async fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    let mut flags = cli.settings.into_flags();
    match cli.command {
        Command::Serve(arguments) => {
            arguments.add_to(&mut flags);
            serve::run(config::load(&flags)?).await
        }
        Command::CheckConfig(arguments) => {
            arguments.add_to(&mut flags);
            check_config::run(&flags).await
        }
        Command::Doctor(arguments) => doctor::run(arguments, &flags).await,
        Command::Health(arguments) => health::run(arguments, &flags).await,
        Command::Quickstart(arguments) => quickstart::run(arguments, flags).await,
        Command::User(OnStore { command, format }) => user::run(command, format, &flags).await,
        Command::Token(OnStore { command, format }) => token::run(command, format, &flags).await,
        Command::Grant(OnStore { command, format }) => grant::run(command, format, &flags).await,
        Command::Role(OnStore { command, format }) => role::run(command, format, &flags).await,
        Command::Session(OnStore { command, format }) => session::run(command, format, &flags).await,
        Command::Policy(arguments) => policy::run(arguments, &flags),
        Command::Explain(arguments) => explain::run(arguments, &flags).await,
        Command::Audit(OnStore { command, format }) => audit::run(command, format, &flags).await,
        Command::Store(OnStore { command, format }) => store::run(command, format, &flags).await,
        Command::Completions(arguments) => completions::print_completions(&arguments),
        Command::Man(arguments) => completions::write_manual(arguments),
    }
}

/// Prints the error; the only place where an error becomes an exit code.
fn failed(error: &anyhow::Error) -> ExitCode {
    let broken_pipe = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
    };
    if error.chain().any(broken_pipe) {
        return ExitCode::SUCCESS;
    }
    match error.downcast_ref::<Problems>() {
        Some(problems) => {
            problems.0.iter().for_each(|problem| output::error(&text::plain(&problem.to_string())));
            ExitCode::from(2)
        }
        None => {
            output::error(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE, such as server.listen=0.0.0.0:8443")?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

const EXAMPLES: &str = "\
Examples:
  Try it, with MLflow and demo users:   mlflow-auth-proxy quickstart --demo
  Run it in front of your MLflow:       mlflow-auth-proxy serve --upstream http://127.0.0.1:5000
  Check the configuration:              mlflow-auth-proxy check-config --config proxy.toml
  Check MLflow, Keycloak and files:     mlflow-auth-proxy doctor --config proxy.toml
  Create an account:                    mlflow-auth-proxy user create alice
  Grant EDIT on experiment 12:          mlflow-auth-proxy grant set --user alice --experiment 12 --permission EDIT
  Create a token for a pipeline:        mlflow-auth-proxy token create --user ci --name nightly

Every key of the configuration, with its default, is described in config/default.toml.";

#[cfg(test)]
mod tests;
