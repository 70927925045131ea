//! Detects a write-ahead log that does not belong to the database beside it.
//!
//! SQLite replays a leftover `-wal` over the database file beside it, because neither identifies the other. If a
//! backup is copied over the database of a killed process, the replay silently brings back the newer state. To detect
//! this, `meta.writes` counts changes: its value in the main file must be one that SQLite can have written there from
//! this log.
//!
//! Accepted are the value before the first transaction of the log, and the values up to the frame that a checkpoint
//! reached. The `-shm` file (<https://sqlite.org/walformat.html>) records that frame. It survives a killed process
//! but not a power failure; without it, every value in the log is accepted.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use memchr::memmem;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, Row as _};

use super::{Error, Result};

/// The initial value of `meta.writes`. It is large, so that SQLite always stores it in six bytes and [`ROW`] matches.
pub(super) const FIRST: i64 = 1 << 40;

/// The row of `writes` in SQLite's record format: three header bytes and the text `writes`. The six-byte number
/// follows.
const ROW: &[u8] = b"\x03\x19\x05writes";
const NUMBER_BYTES: usize = 6;

const HEADER_BYTES: usize = 32;
const FRAME_HEADER_BYTES: usize = 24;
/// Checkpoints normally keep a log at about a thousand pages. A log larger than this is not inspected.
const MAX_LOG_BYTES: u64 = 256 * 1024 * 1024;
/// Number of times that a live database is read whose files change during the read.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(100);

/// State of the database file: open in this or another process, or not.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Use {
    Unopened,
    Open,
}

/// Refuses a log that was left by another database than the one at `path`.
///
/// # Errors
/// [`Error::Open`], whose text contains the remedy.
pub(super) async fn check(path: &Path) -> Result<Use> {
    // POSIX releases all locks of a process on a file when it closes any descriptor of that file. Reading a database
    // that this process has open would therefore drop SQLite's locks.
    if is_open(path) {
        return Ok(Use::Open);
    }
    for attempt in 1..=ATTEMPTS {
        if belongs(path).await {
            return Ok(Use::Unopened);
        }
        if attempt < ATTEMPTS {
            tokio::time::sleep(PAUSE).await;
        }
    }
    let (file, log, index) = (path.display(), beside(path, "-wal"), beside(path, "-shm"));
    Err(Error::Open(format!(
        "`{}` does not belong to `{file}`: the database was replaced while the log of the one before was left there, and \
         SQLite would apply that log to it. If `{file}` is the right one, remove `{}` and `{}`, then start again",
        log.display(),
        log.display(),
        index.display()
    )))
}

async fn belongs(path: &Path) -> bool {
    let Some((page, found)) = in_main_file(path).await else { return true };
    let log = beside(path, "-wal");
    let index = beside(path, "-shm");
    let read = tokio::task::spawn_blocking(move || (Log::read(&log, page), bytes(&index, 4096)));
    match read.await {
        Ok((Ok(Some(log)), index)) => log.allows(found, Reached::read(&index.unwrap_or_default(), &log)),
        // No log, an empty log, a log without changes or an unreadable one: SQLite decides.
        Ok((Ok(None) | Err(_), _)) | Err(_) => true,
    }
}

/// Returns the root page of `meta` and the value of `writes` in the main file, without the log. `None` for a database
/// that has none.
async fn in_main_file(path: &Path) -> Option<(u32, i64)> {
    if fs::metadata(beside(path, "-wal")).map_or(0, |log| log.len()) <= HEADER_BYTES as u64 {
        return None;
    }
    // `immutable` makes SQLite read only the main file, without touching `-wal` and `-shm`.
    let options = SqliteConnectOptions::new().filename(path).read_only(true).immutable(true);
    let mut connection = options.disable_statement_logging().connect().await.ok()?;
    let row = sqlx::query(
        "SELECT s.rootpage AS page, m.value AS writes FROM sqlite_master s, meta m WHERE s.name = 'meta' AND m.name = 'writes'",
    );
    let row = row.fetch_optional(&mut connection).await;
    let _ = connection.close().await;
    let row = row.ok()??;
    Some((row.try_get::<i64, _>("page").ok()?.try_into().ok()?, row.try_get("writes").ok()?))
}

/// The committed changes of a log.
#[derive(Debug)]
struct Log {
    /// The salts of the log, which SQLite changes whenever it restarts the log.
    salts: [u8; 8],
    /// The frame numbers of the last two commits; 0 when there is none.
    ends: [u32; 2],
    /// Frames with the root page of `meta`, numbered from 1, and the value of `writes` in each.
    changes: Vec<(u32, i64)>,
}

impl Log {
    fn read(path: &Path, page: u32) -> io::Result<Option<Self>> {
        let log = bytes(path, MAX_LOG_BYTES)?;
        let Some((header, frames)) = log.split_at_checked(HEADER_BYTES) else { return Ok(None) };
        let (Some(size), Some(salts)) = (number(header, 8), header.get(16..24).and_then(|it| it.try_into().ok()))
        else {
            return Ok(None);
        };
        let mut read = Self { salts, ends: [0; 2], changes: Vec::new() };
        let mut open = Vec::new();
        for (frame, index) in frames.chunks_exact(FRAME_HEADER_BYTES + size as usize).zip(1..) {
            // Older salts: the remaining frames are from before the log was restarted.
            if frame.get(8..16) != Some(&salts) {
                break;
            }
            if number(frame, 0) == Some(page) {
                open.extend(value(frame).map(|value| (index, value)));
            }
            // The database size field is nonzero only in the last frame of a transaction.
            if number(frame, 4) != Some(0) {
                read.ends = [read.ends[1], index];
                read.changes.append(&mut open);
            }
        }
        Ok(if read.changes.is_empty() { None } else { Some(read) })
    }

    /// Returns true if SQLite can have written `found` into the main file from this log.
    fn allows(&self, found: i64, reached: Reached) -> bool {
        // Each transaction that changes the page raises the number by one.
        let before = self.changes.first().map(|(_, value)| value - 1);
        let mut copied = self.changes.iter().filter(|(frame, _)| *frame <= reached.0);
        // A checkpoint that a reader held back omits pages that changed again after it.
        before == Some(found) || copied.any(|(_, value)| *value == found)
    }
}

/// The last frame that a checkpoint can have copied into the main file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Reached(u32);

impl Reached {
    /// Reads the frame from a `-shm` file; returns the upper bound when the file does not belong to this log.
    fn read(index: &[u8], log: &Log) -> Self {
        let own = |at: usize| index.get(at..at + 4).and_then(|it| it.try_into().ok()).map(u32::from_ne_bytes);
        // SQLite stores two copies of the header. They differ if a process was killed while it wrote them.
        let is_whole = index.get(..48).is_some_and(|header| index.get(48..96) == Some(header));
        // A process that is killed during a commit has written the transaction to the log but not to the `-shm` file.
        let is_of_log = index.get(32..40) == Some(&log.salts) && own(16).is_some_and(|end| log.ends.contains(&end));
        match (is_whole && is_of_log, own(128)) {
            (true, Some(attempted)) => Self(attempted),
            _ => Self(u32::MAX),
        }
    }
}

/// Returns true if a process holds SQLite's locks on the database files, or if the locks cannot be read.
fn is_open(path: &Path) -> bool {
    let Ok(locks) = fs::read_to_string("/proc/locks") else { return true };
    let files = ["", "-shm"].map(|end| fs::metadata(beside(path, end)).map(|file| format!(":{}", file.ino())));
    files.iter().flatten().any(|inode| locks.split_whitespace().any(|word| word.ends_with(inode)))
}

fn value(frame: &[u8]) -> Option<i64> {
    // The largest value: a page can still contain bytes of an earlier row.
    memmem::find_iter(frame, ROW)
        .filter_map(|at| frame.get(at + ROW.len()..at + ROW.len() + NUMBER_BYTES))
        .map(|bytes| bytes.iter().fold(0, |value, byte| value << 8 | i64::from(*byte)))
        .max()
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes)
}

fn bytes(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

pub(super) fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

#[cfg(test)]
mod tests;
