//! The folder of a quickstart, which only one quickstart uses at a time.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use rustix::fs::OFlags;

use crate::text::plain;

/// The locked folder.
#[derive(Debug)]
pub(super) struct Place {
    root: String,
    /// Held, so that a second quickstart in the same folder is refused.
    _lock: File,
}

impl Place {
    /// Opens the folder, and creates it if it is absent.
    pub(super) fn open(dir: &Path) -> anyhow::Result<Self> {
        let root = std::path::absolute(dir).with_context(|| format!("{} is not a folder", dir.display()))?;
        let root = root.to_str().with_context(|| format!("{} is not UTF-8; choose another --dir", dir.display()))?;
        // These have a meaning in database URLs, which MLflow and the proxy would interpret differently.
        ensure!(
            !root.contains(['?', '#', '%', '\\']) && !root.chars().any(char::is_control),
            "`{}` must not contain `?`, `#`, `%` or `\\`; choose another --dir",
            plain(root)
        );
        let folder = Path::new(root);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.with_context(|| format!("{root} cannot be created"))?;
        own(folder)?;
        for entry in ["lock", "proxy.db", "proxy.db-wal", "proxy.db-shm", "mlflow.db", "mlflow.log", "mlflow.pid"] {
            own_file(&folder.join(entry))?;
        }
        let artifacts = folder.join("artifacts");
        DirBuilder::new().recursive(true).mode(0o700).create(&artifacts)?;
        own(&artifacts)?;
        fs::set_permissions(&artifacts, Permissions::from_mode(0o700))?;
        let lock = private_file(OpenOptions::new().write(true), &folder.join("lock"))?;
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

    /// Returns the path of the file with the ID of MLflow's process group, by which a leftover one is found.
    pub(super) fn pid_file(&self) -> PathBuf {
        Path::new(&self.root).join("mlflow.pid")
    }

    /// Returns the end of MLflow's log, for an error message.
    pub(super) fn tail_of_log(&self) -> String {
        tail(&self.log())
    }
}

/// Opens a file for writing, created with mode 0600 if absent. A link in its place is refused.
pub(super) fn private_file(options: &mut OpenOptions, path: &Path) -> anyhow::Result<File> {
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    let file = options.create(true).mode(0o600).custom_flags(flags).open(path);
    file.with_context(|| format!("{} cannot be written", path.display()))
}

/// Refuses a folder that another user could change: its content determines which data and processes this user
/// accesses.
fn own(folder: &Path) -> anyhow::Result<()> {
    let found = fs::symlink_metadata(folder)?;
    let name = folder.display();
    ensure!(found.is_dir(), "{name} is a link or not a folder; choose another --dir");
    ensure!(found.uid() == rustix::process::geteuid().as_raw(), "{name} belongs to another user; choose another --dir");
    ensure!(
        found.mode() & 0o022 == 0,
        "other users are allowed to write to {name}; choose another --dir, or run `chmod go-w` on it"
    );
    Ok(())
}

/// Refuses a link or a file of another user, and removes the access of others to a file.
fn own_file(path: &Path) -> anyhow::Result<()> {
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(()) };
    let name = path.display();
    ensure!(found.is_file() && found.nlink() == 1, "{name} is a link or not a file; choose another --dir");
    ensure!(found.uid() == rustix::process::geteuid().as_raw(), "{name} belongs to another user; choose another --dir");
    if found.mode() & 0o077 != 0 {
        fs::set_permissions(path, Permissions::from_mode(found.mode() & 0o700))?;
    }
    Ok(())
}

/// Returns the last lines of a log, so that users need not look for it.
pub(super) fn tail(log: &Path) -> String {
    let lines = last_lines(log).unwrap_or_default();
    let indented: Vec<String> = lines.iter().map(|line| format!("  {}", plain(line))).collect();
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
