//! The folder in which a quickstart keeps everything, one at a time.

use std::fs::{DirBuilder, File, TryLockError};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};

use super::super::output::printable;

/// The folder, ours alone while this lives.
#[derive(Debug)]
pub(super) struct Place {
    root: String,
    /// Held, so that a second quickstart in the same folder is refused.
    _lock: File,
}

impl Place {
    /// Makes the folder when it is absent.
    pub(super) fn open(dir: &Path) -> anyhow::Result<Self> {
        let root = std::path::absolute(dir).with_context(|| format!("{} is no folder", dir.display()))?;
        let root = root.to_str().with_context(|| format!("{} is not UTF-8; choose another --dir", dir.display()))?;
        // These mean something in the URLs of databases, and MLflow and we would read them differently.
        ensure!(
            !root.contains(['?', '#', '%', '\\']) && !root.chars().any(char::is_control),
            "`{}` must not contain `?`, `#`, `%` or `\\`; choose another --dir",
            printable(root)
        );
        let made = DirBuilder::new().recursive(true).mode(0o700).create(Path::new(root).join("artifacts"));
        made.with_context(|| format!("{root} cannot be made"))?;
        let lock = File::create(Path::new(root).join("lock")).with_context(|| format!("{root} cannot be written"))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { root: root.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => bail!("another quickstart is running in {root}; stop it or choose --dir"),
            Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("{root} cannot be locked")),
        }
    }

    pub(super) fn root(&self) -> &str {
        &self.root
    }

    pub(super) fn store(&self) -> String {
        format!("{}/proxy.db", self.root)
    }

    pub(super) fn database(&self) -> String {
        format!("{}/mlflow.db", self.root)
    }

    pub(super) fn artifacts(&self) -> String {
        format!("{}/artifacts", self.root)
    }

    pub(super) fn log(&self) -> PathBuf {
        Path::new(&self.root).join("mlflow.log")
    }

    /// Names MLflow's process group while it runs, so that one that was left behind is found.
    pub(super) fn pid_file(&self) -> PathBuf {
        Path::new(&self.root).join("mlflow.pid")
    }

    /// For the end of a sentence about MLflow.
    pub(super) fn tail_of_log(&self) -> String {
        tail(&self.log())
    }
}

/// The last lines of a log, for people who should not have to look for it.
pub(super) fn tail(log: &Path) -> String {
    let lines = last_lines(log).unwrap_or_default();
    let indented: Vec<String> = lines.iter().map(|line| format!("  {}", printable(line))).collect();
    format!("the end of {}:\n{}\n", log.display(), indented.join("\n"))
}

fn last_lines(log: &Path) -> std::io::Result<Vec<String>> {
    let mut file = File::open(log)?;
    let from = file.metadata()?.len().saturating_sub(TAIL_BYTES);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    Ok(lines.iter().skip(lines.len().saturating_sub(TAIL_LINES)).map(|line| (*line).to_owned()).collect())
}

const TAIL_BYTES: u64 = 16 * 1024;
const TAIL_LINES: usize = 20;
