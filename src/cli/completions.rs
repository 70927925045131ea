//! `completions` and `man`: shell completions and manual pages, generated from the definition of the command line.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;

use super::Cli;

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  mlflow-auth-proxy completions bash > /usr/share/bash-completion/completions/mlflow-auth-proxy
  mlflow-auth-proxy completions zsh > /usr/local/share/zsh/site-functions/_mlflow-auth-proxy
  mlflow-auth-proxy completions fish > ~/.config/fish/completions/mlflow-auth-proxy.fish")]
pub(super) struct Completions {
    /// Shell whose script to print
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  mlflow-auth-proxy man | man -l -                       read the page of the program
  mlflow-auth-proxy man --out /usr/local/share/man/man1  install one page for each command")]
pub(super) struct Manual {
    /// Existing folder for one page for each command
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub(super) fn print_completions(arguments: &Completions) -> anyhow::Result<ExitCode> {
    let mut command = Cli::command();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, name, &mut script);
    let script = String::from_utf8(script)?;
    // clap_complete 4.6 takes the hyphens of the program's name for borders of subcommands in the branches of bash, but not where
    // it chooses among them, so no branch would be reached.
    print(script.replace("mlflow__subcmd__auth__subcmd__proxy", "mlflow__auth__proxy").as_bytes())
}

pub(super) fn write_manual(arguments: Manual) -> anyhow::Result<ExitCode> {
    if let Some(folder) = arguments.out {
        clap_mangen::generate_to(Cli::command(), &folder)
            .with_context(|| format!("the pages cannot be written to {}", folder.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut page = Vec::new();
    Man::new(Cli::command()).render(&mut page)?;
    print(&page)
}

fn print(text: &[u8]) -> anyhow::Result<ExitCode> {
    std::io::stdout().lock().write_all(text)?;
    Ok(ExitCode::SUCCESS)
}
