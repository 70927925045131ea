//! A private Python environment with a pinned MLflow: created once, verified at each start, and created again if it
//! is broken.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::Command;

use super::super::progress;
use super::Arguments;
use super::place::{private_file, tail};

/// A Python that has MLflow.
#[derive(Debug)]
pub(super) struct Python {
    pub(super) executable: PathBuf,
    /// Version of MLflow.
    pub(super) version: String,
}

impl Python {
    /// Returns a command without the environment variables that configure other Pythons and MLflows.
    pub(super) fn command(&self) -> Command {
        command(&self.executable)
    }
}

/// Returns the requested environment, and installs it if necessary.
pub(super) async fn ready(arguments: &Arguments) -> anyhow::Result<Python> {
    if let Some(executable) = &arguments.mlflow_python {
        let version = mlflow_version(executable).await;
        let version = version.with_context(|| format!("{} has no working MLflow", executable.display()))?;
        return Ok(Python { executable: executable.clone(), version });
    }
    let cache = cache_folder()?;
    Environment::new(&cache, &arguments.mlflow_version).ready().await
}

/// Parses a version as PyPI writes it. It becomes part of a path and of a pip command.
pub(super) fn version(text: &str) -> Result<String, String> {
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || c == '.');
    if !plain || !text.starts_with(|c: char| c.is_ascii_digit()) || text.ends_with('.') {
        return Err("write a version such as 3.17.2".to_owned());
    }
    Ok(text.to_owned())
}

#[derive(Debug)]
pub(super) struct Environment {
    root: PathBuf,
    log: PathBuf,
    lock: PathBuf,
    version: String,
}

impl Environment {
    pub(super) fn new(cache: &Path, version: &str) -> Self {
        let beside = |end: &str| cache.join(format!("mlflow-{version}{end}"));
        Self { root: beside(""), log: beside(".install.log"), lock: beside(".lock"), version: version.to_owned() }
    }

    fn executable(&self) -> PathBuf {
        self.root.join("bin/python")
    }

    async fn ready(&self) -> anyhow::Result<Python> {
        let cache = self.root.parent().unwrap_or(&self.root);
        fs::create_dir_all(cache).with_context(|| format!("{} cannot be created", cache.display()))?;
        // Two quickstarts that install the same version take turns.
        let lock = private_file(OpenOptions::new().write(true), &self.lock)?;
        let _held = tokio::task::spawn_blocking(move || lock.lock().map(|()| lock)).await??;
        if self.verify().await.is_err() {
            self.install().await?;
        }
        // A marker for users that the installation was complete. It is not read: an environment is valid if the
        // import works.
        fs::write(self.root.join(".complete"), &self.version)
            .context("the environment cannot be marked as complete")?;
        Ok(Python { executable: self.executable(), version: self.version.clone() })
    }

    /// Checks that the environment is complete and has the right version.
    pub(super) async fn verify(&self) -> anyhow::Result<()> {
        ensure!(self.executable().exists(), "there is no {}", self.executable().display());
        let found = mlflow_version(&self.executable()).await?;
        ensure!(found == self.version, "{} has MLflow {found}", self.root.display());
        Ok(())
    }

    async fn install(&self) -> anyhow::Result<()> {
        if self.root.exists() {
            progress::say(&format!("The environment in {} is incomplete; creating it again", self.root.display()));
            fs::remove_dir_all(&self.root).with_context(|| format!("{} cannot be removed", self.root.display()))?;
        }
        let base = base_python().await?;
        progress::say(&format!(
            "Installing MLflow {} into {} (only at the first start; takes one or two minutes)",
            self.version,
            self.root.display()
        ));
        private_file(OpenOptions::new().write(true).truncate(true), &self.log)?;
        let mut venv = command(Path::new(&base));
        venv.args(["-m", "venv"]).arg(&self.root);
        self.watch(venv).await?;
        let mut pip = command(&self.executable());
        pip.args(["-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--progress-bar", "off"]);
        pip.args(requirements(&self.version));
        self.watch(pip).await?;
        self.verify().await.context("the installation does not work")?;
        progress::say(&format!("MLflow {} was installed", self.version));
        Ok(())
    }

    /// Runs one step to its end. Every line is written to the log, and some to the terminal.
    async fn watch(&self, mut command: Command) -> anyhow::Result<()> {
        let log = OpenOptions::new().append(true).open(&self.log)?;
        let mut child = command.stdout(Stdio::piped()).stderr(log.try_clone()?).spawn().context("it cannot be run")?;
        let mut log = tokio::fs::File::from_std(log);
        if let Some(output) = child.stdout.take() {
            let mut lines = BufReader::new(output).lines();
            while let Some(line) = lines.next_line().await? {
                log.write_all(format!("{line}\n").as_bytes()).await?;
                let milestone = ["Collecting", "Installing", "Successfully"].iter().any(|word| line.starts_with(word));
                if milestone { progress::mark(&line) } else { progress::step(&line) }
            }
        }
        log.flush().await?;
        let status = child.wait().await?;
        ensure!(status.success(), "MLflow cannot be installed ({status}); {}", tail(&self.log));
        Ok(())
    }
}

/// Returns the requirements for pip. MLflow 2 does not work with later versions of these packages, although its
/// metadata allows them.
fn requirements(version: &str) -> Vec<String> {
    let mut wanted = vec![format!("mlflow=={version}")];
    if version.starts_with("2.") {
        wanted.extend(["setuptools<80".to_owned(), "pandas<3".to_owned()]);
    }
    wanted
}

async fn mlflow_version(executable: &Path) -> anyhow::Result<String> {
    let mut import = command(executable);
    import.args(["-c", "import mlflow; print(mlflow.__version__)"]);
    let output =
        tokio::time::timeout(IMPORT_TIMEOUT, import.output()).await.context("importing mlflow takes too long")?;
    let output = output.with_context(|| format!("{} cannot be run", executable.display()))?;
    ensure!(output.status.success(), "importing mlflow fails: {}", last_line(&output.stderr));
    Ok(last_line(&output.stdout))
}

/// Returns the Python from which environments are created.
async fn base_python() -> anyhow::Result<String> {
    for name in ["python3", "python3.13", "python3.12", "python3.11", "python3.10"] {
        let mut fit = command(Path::new(name));
        fit.args(["-c", "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))"]);
        if fit.output().await.is_ok_and(|output| output.status.success()) {
            return Ok(name.to_owned());
        }
    }
    bail!(
        "Python 3.10 or newer with venv is needed; on Debian and Ubuntu: apt-get install python3-venv. \
         Or name a Python that has MLflow with --mlflow-python"
    )
}

fn command(executable: &Path) -> Command {
    let mut command = Command::new(executable);
    command.stdin(Stdio::null()).kill_on_drop(true).env("PYTHONUNBUFFERED", "1");
    for name in ["PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV"] {
        command.env_remove(name);
    }
    // Settings of MLflow clients or servers, meant for other programs.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("MLFLOW_") || name.starts_with("_MLFLOW_")) {
            command.env_remove(name);
        }
    }
    command
}

fn cache_folder() -> anyhow::Result<PathBuf> {
    let given = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    let cache =
        given.or_else(home).context("HOME is not set; set XDG_CACHE_HOME to the folder for the installation")?;
    Ok(cache.join("mlflow-auth-proxy"))
}

fn last_line(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).lines().last().unwrap_or_default().trim().to_owned()
}

const IMPORT_TIMEOUT: Duration = Duration::from_secs(120);
