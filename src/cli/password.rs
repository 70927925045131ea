//! Reads a new password without echoing it.

use std::io::Read as _;

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use secrecy::SecretString;

use crate::config::check_password;
use crate::crypto::PasswordHash;

/// Source of a new password.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct Source {
    /// Read the password from the first line of standard input instead of asking for it
    #[arg(long)]
    password_stdin: bool,
}

/// Asks for a new password and hashes it. Blocks the process, which does nothing else meanwhile.
pub(super) fn read_new(source: Source) -> anyhow::Result<PasswordHash> {
    let password = if source.password_stdin { first_line(std::io::stdin().lock())? } else { ask_twice()? };
    if let Err(fault) = check_password(&password) {
        bail!("the password {fault}");
    }
    Ok(PasswordHash::make(&SecretString::from(password)))
}

fn ask_twice() -> anyhow::Result<String> {
    let ask = |question| rpassword::prompt_password(question).context("there is no terminal; use --password-stdin");
    let password = ask("New password (at least 12 characters): ")?;
    ensure!(password == ask("Repeat the new password: ")?, "the passwords differ; nothing was changed");
    Ok(password)
}

pub(super) fn first_line(input: impl std::io::Read) -> anyhow::Result<String> {
    let mut text = String::new();
    input.take(MAX_BYTES).read_to_string(&mut text).context("standard input cannot be read")?;
    let line = text.lines().next().unwrap_or_default();
    ensure!(!line.is_empty(), "standard input contains no password");
    Ok(line.to_owned())
}

const MAX_BYTES: u64 = 4096;
