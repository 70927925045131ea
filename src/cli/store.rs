//! `store`: copies, backups, restores and checks of everything that the store contains.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, anyhow, ensure};
use clap::Subcommand;
use secrecy::SecretString;
use serde::Serialize;

use super::output::{self, Format, Row};
use super::progress;
use super::signals::Signals;
use super::stored::{Absent, Opened, actor, file_of};
use crate::clock::{Clock, Stopwatch};
use crate::config::{self, Config, Flags, Problem, Problems};
use crate::store::transfer::{self, Copied, Fault, Note, Progress, Side};
use crate::store::{self, AuditEntry, Store};

pub(super) const EXAMPLES: &str = "\
Examples:
  Back up every night:  mlflow-auth-proxy store backup /backup/store-$(date +%F).db
  Restore a backup:     mlflow-auth-proxy store restore /backup/store-2026-11-30.db
  Look for faults:      mlflow-auth-proxy store check
  Move to PostgreSQL:   mlflow-auth-proxy store copy --from sqlite:///srv/store.db \\
                          --to 'postgres://proxy@db.example.com/proxy?sslmode=verify-full' \\
                          --to-password-file /run/secrets/store

Copies and backups contain hashes of passwords and tokens, and the keys and tokens of sessions:
protect them like the store. Exit code 1: nothing was written, or `check` found faults. 2: the
command line or the configuration is invalid.";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Copy a store into another, empty one: SQLite or PostgreSQL, in either direction
    ///
    /// No process may use either of them. Accounts, passwords, tokens, sessions, roles, grants and the audit log keep
    /// their IDs and work in the copy. The copy is there as a whole or not at all; the source stays as it is.
    Copy(Copy),
    /// Write a backup into a file, while the proxy serves
    ///
    /// The backup is an SQLite file with mode 0600, whichever database the store is in, and appears under its name when
    /// it is complete. It contains secrets. Back up MLflow's database at the same time: grants name experiments by ID.
    Backup {
        /// The file to write, in an existing folder
        file: PathBuf,
        /// Replace the file if it exists
        #[arg(long)]
        overwrite: bool,
    },
    /// Restore a backup into the configured store, which must be empty and not in use
    ///
    /// A store's file without a log beside it is accepted as well. A backup of an earlier release is migrated; the file
    /// itself stays as it is.
    Restore {
        /// The backup
        file: PathBuf,
    },
    /// Look for faults: damage, rows that cannot be read, references to users and roles that are missing
    ///
    /// Deletes and repairs nothing. Like every command, it first migrates a store of an earlier release. The proxy can
    /// serve meanwhile.
    Check {
        /// Check this backup instead of the configured store
        file: Option<PathBuf>,
    },
}

#[derive(clap::Args, Debug)]
pub(super) struct Copy {
    /// The store to copy, written like store.url
    #[arg(long, value_name = "URL")]
    from: String,
    /// The empty store to copy into; an SQLite file is created
    #[arg(long, value_name = "URL")]
    to: String,
    /// A file with the password for --from. Not needed if --from is store.url: then store.password is used
    #[arg(long, value_name = "PATH")]
    from_password_file: Option<PathBuf>,
    /// A file with the password for --to. Not needed if --to is store.url: then store.password is used
    #[arg(long, value_name = "PATH")]
    to_password_file: Option<PathBuf>,
}

/// Result of a copy, for `--json`.
#[derive(Debug, Serialize)]
struct Done {
    /// Number of rows by table.
    rows: BTreeMap<&'static str, u64>,
}

/// Result of a check, for `--json`.
#[derive(Debug, Serialize)]
struct Checked {
    schema: i64,
    rows: u64,
    faults: Vec<Shown>,
    /// Number of faults that are not listed.
    more_faults: u64,
}

/// One fault.
#[derive(Debug, Serialize)]
struct Shown {
    place: String,
    fault: String,
}

impl Row<2> for Shown {
    const HEAD: [&'static str; 2] = ["PLACE", "FAULT"];

    fn cells(&self) -> [String; 2] {
        [self.place.clone(), self.fault.clone()]
    }
}

pub(super) async fn run(command: Command, format: Format, flags: &Flags) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::listen_also_to_the_terminal().context("the signal handlers cannot be installed")?;
    // A signal drops the work, which removes what is half done.
    let done = tokio::select! {
        done = carry_out(command, format, flags) => done,
        stop = signals.next() => Ok(stop.exit_code()),
    };
    progress::end();
    done
}

async fn carry_out(command: Command, format: Format, flags: &Flags) -> anyhow::Result<ExitCode> {
    match command {
        Command::Copy(arguments) => copy(arguments, format, &config::load(flags)?).await,
        Command::Backup { file, overwrite } => backup(&file, overwrite, format, flags).await,
        Command::Restore { file } => restore(&file, format, config::load(flags)?).await,
        Command::Check { file: None } => {
            let opened = Opened::from(flags, Absent::Refuse).await?;
            check(&opened.store, format).await
        }
        Command::Check { file: Some(file) } => {
            config::load(flags)?;
            check(&transfer::open_backup(&file, Clock::default()).await?, format).await
        }
    }
}

async fn copy(arguments: Copy, format: Format, config: &Config) -> anyhow::Result<ExitCode> {
    let Copy { from, to, from_password_file, to_password_file } = arguments;
    let (from, to) = match (
        named("--from", &from, from_password_file.as_deref(), config),
        named("--to", &to, to_password_file.as_deref(), config),
    ) {
        (Ok(from), Ok(to)) => (from, to),
        (from, to) => {
            let problems = [from.err(), to.err()];
            return Err(Problems(problems.into_iter().flatten().collect()).into());
        }
    };
    ensure!(!transfer::are_the_same(&from, &to), "--from and --to are the same store; nothing was copied");
    ensure!(exists(&from.url), "--from: there is no store at {}", from.url);
    let source = transfer::connect_alone(&from, Side::Source, Clock::default());
    let source = source.await.map_err(|error| in_words(error, "--from", &from))?;
    let note = Note { actor: actor(), action: "store.copy", detail: format!("from {}", from.url) };
    let copied = fill(&source, &to, &note).await.map_err(|error| in_words(error, "--to", &to))?;
    source.close().await;
    report(format, copied, &format!("copied from {} to {}; set store.url to use the copy", from.url, to.url))
}

/// Returns the settings of a store that the command line names, and the cause if they are wrong.
fn named(key: &str, url: &str, password_file: Option<&Path>, config: &Config) -> Result<config::Store, Problem> {
    let problem = |key: String, message: String| Problem { key, message, origin: None };
    let store = config::Store::at(url).map_err(|why| problem(key.to_owned(), named_here(&why, key)))?;
    let mut store = if url == config.store.url { config.store.clone() } else { store };
    let file_key = format!("{key}-password-file");
    if let Some(path) = password_file {
        if file_of(url).is_some() {
            return Err(problem(file_key, "has no effect on an SQLite file; remove it".to_owned()));
        }
        let password = config::secret_file(path).map_err(|why| problem(file_key, why))?;
        store.password = Some(SecretString::from(password));
    }
    Ok(patient(store))
}

/// Replaces the keys of the configuration in a text about a store by the options that name it.
fn named_here(text: &str, key: &str) -> String {
    let option = format!("{key}-password-file");
    let text = text.replace("store.password_file or store.password", &option);
    text.replace("store.password", &option).replace("store.url", key)
}

fn in_words(error: transfer::Error, key: &str, store: &config::Store) -> anyhow::Error {
    let error = match error {
        transfer::Error::Store(store::Error::Open(why)) => anyhow!("it cannot be opened: {}", named_here(&why, key)),
        other => other.into(),
    };
    error.context(format!("{key} is {}", store.url))
}

/// Gives statements of a copy more time than those of requests.
fn patient(store: config::Store) -> config::Store {
    config::Store { statement_timeout: STATEMENT, ..store }
}

async fn backup(file: &Path, overwrite: bool, format: Format, flags: &Flags) -> anyhow::Result<ExitCode> {
    let config = config::load(flags)?;
    ensure!(exists(&config.store.url), "there is no store at {}; check store.url (or --store)", config.store.url);
    let clock = Clock::default();
    let url = &config.store.url;
    let store = Store::connect(&patient(config.store.clone()), clock.clone())
        .await
        .with_context(|| format!("store.url is {url}"))?;
    let copied = transfer::write_backup(&store, file, overwrite, &mut reporter()).await?;
    let entry = AuditEntry {
        at: clock.now(),
        actor: actor(),
        action: "store.backup".to_owned(),
        target: "store".to_owned(),
        detail: format!("to {}", file.display()),
        count: 1,
    };
    if let Err(error) = store.audit(&[entry], &[]).await {
        output::error(&format!("warning: the backup is complete, but has no entry in the audit log: {error}"));
    }
    store.close().await;
    report(format, copied, &format!("backed up to {}, which contains secrets", file.display()))
}

async fn restore(file: &Path, format: Format, config: Config) -> anyhow::Result<ExitCode> {
    let source = transfer::open_backup(file, Clock::default()).await?;
    let name = file.file_name().unwrap_or_default().display().to_string();
    let note = Note { actor: actor(), action: "store.restore", detail: format!("from {name}") };
    let target = patient(config.store);
    let copied = fill(&source, &target, &note).await.with_context(|| format!("store.url is {}", target.url))?;
    source.close().await;
    report(format, copied, &format!("restored from {} into {}", file.display(), target.url))
}

/// Copies all rows into an empty store. A file that is created for it is removed if that fails.
async fn fill(source: &Store, target: &config::Store, note: &Note) -> transfer::Result<Copied> {
    let created = Created(file_of(&target.url).map(PathBuf::from).filter(|file| !file.exists()));
    let store = match transfer::connect_alone(target, Side::Target, Clock::default()).await {
        Ok(store) => store,
        Err(error) => {
            // Another process has created the file since.
            if matches!(error, transfer::Error::InUse { .. }) {
                created.keep();
            }
            return Err(error);
        }
    };
    let copied = transfer::copy(source, &store, note, &mut reporter()).await;
    store.close().await;
    let copied = copied?;
    created.keep();
    Ok(copied)
}

/// A new file of SQLite, which is removed with its companions unless it is kept.
struct Created(Option<PathBuf>);

impl Created {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Created {
    fn drop(&mut self) {
        let Some(file) = &self.0 else { return };
        for end in ["", "-wal", "-shm"] {
            let mut name = file.clone().into_os_string();
            name.push(end);
            let _ = std::fs::remove_file(name);
        }
    }
}

async fn check(store: &Store, format: Format) -> anyhow::Result<ExitCode> {
    let found = transfer::inspect(store, &mut reporter()).await?;
    progress::end();
    store.close().await;
    let shown = |Fault { place, fault }| Shown { place, fault };
    let checked = Checked {
        schema: found.schema,
        rows: found.rows,
        faults: found.faults.into_iter().map(shown).collect(),
        more_faults: found.more,
    };
    let count = checked.faults.len() as u64 + checked.more_faults;
    let summary = format!("schema {}, {} rows, {count} faults", checked.schema, checked.rows);
    let text = match checked.faults.as_slice() {
        [] => summary,
        faults => format!("{}\n\n{summary}", output::aligned(Shown::HEAD, faults.iter().map(Row::cells))),
    };
    format.done(&checked, &text)?;
    Ok(if count == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn report(format: Format, copied: Copied, sentence: &str) -> anyhow::Result<ExitCode> {
    progress::end();
    let done = Done { rows: copied.into_iter().collect() };
    let rows: u64 = done.rows.values().sum();
    format.done(&done, &format!("{rows} rows {sentence}"))?;
    Ok(ExitCode::SUCCESS)
}

/// Returns false for an SQLite file that does not exist.
fn exists(url: &str) -> bool {
    file_of(url).is_none_or(|file| Path::new(file).exists())
}

/// Reports progress: often on a terminal, and now and then where standard error is kept.
fn reporter() -> impl FnMut(Progress) + Send {
    let (started, mut shown) = (Stopwatch::start(), Duration::ZERO);
    move |Progress { table, done, all }| {
        let now = started.elapsed();
        let text = format!("{table}: {done} of {all} rows");
        if progress::is_shown() {
            if now.saturating_sub(shown) > OFTEN {
                progress::step(&text);
                shown = now;
            }
        } else if now.saturating_sub(shown) > NOW_AND_THEN {
            progress::say(&text);
            shown = now;
        }
    }
}

/// Limit of one statement of a copy, and of the pause between two.
const STATEMENT: Duration = Duration::from_mins(10);
const OFTEN: Duration = Duration::from_millis(200);
const NOW_AND_THEN: Duration = Duration::from_secs(10);
