//! Detects a write-ahead log that does not belong to the database beside it.
//!
//! SQLite replays a leftover `-wal` over whatever file lies beside it, because neither names the other. A backup that was
//! copied over a database whose process had been killed would so silently become the newer state again. Here, `meta.writes`
//! counts changes: its value in the main file must be one that SQLite can have put there from this log.
//!
//! Legitimate are the value before the first transaction of the log, and values up to the frame that a checkpoint reached.
//! How far one came is in the `-shm` file (<https://sqlite.org/walformat.html>), which survives a killed process, though
//! not a power failure; without it, every value of the log is legitimate.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use memchr::memmem;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, Row as _};

use super::{Error, Result};

/// The first value of `meta.writes`: large, so that SQLite stores it in six bytes for good, and the pattern below finds it.
pub(super) const FIRST: i64 = 1 << 40;

/// The row of `writes` as SQLite writes it: three bytes of header, a text of six bytes, a number of six bytes.
const ROW: &[u8] = b"\x03\x19\x05writes";
const NUMBER_BYTES: usize = 6;

const HEADER_BYTES: usize = 32;
const FRAME_HEADER_BYTES: usize = 24;
/// A log is cut back after a thousand pages; much more than that means that something holds it, and is not looked through.
const MAX_LOG_BYTES: u64 = 256 * 1024 * 1024;
/// A live database, whose files change while they are read, is read again.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(100);

/// Whether the database is open, here or in another process.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Use {
    Nobody,
    Somebody,
}

/// Refuses a log that was left by another database than the one at `path`.
///
/// # Errors
/// [`Error::Open`] with what to do.
pub(super) async fn check(path: &Path) -> Result<Use> {
    // Reading a file that this process has open would release SQLite's locks on it (POSIX), so nothing is read then.
    if is_open(path) {
        return Ok(Use::Somebody);
    }
    for attempt in 1..=ATTEMPTS {
        if belongs(path).await {
            return Ok(Use::Nobody);
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
        // No log, an empty one, one without changes, or one that cannot be read: SQLite's to judge.
        Ok((Ok(None) | Err(_), _)) | Err(_) => true,
    }
}

/// The root page of `meta` and the value of `writes`, without the log. `None` for a database that has none.
async fn in_main_file(path: &Path) -> Option<(u32, i64)> {
    if fs::metadata(beside(path, "-wal")).map_or(0, |log| log.len()) <= HEADER_BYTES as u64 {
        return None;
    }
    // `immutable` makes SQLite read this file alone, and leave it and its companions alone.
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
    /// Renewed whenever SQLite begins the log anew.
    salts: [u8; 8],
    /// The numbers of the last two frames that end a transaction; 0 when there is none.
    ends: [u32; 2],
    /// Frames with the root page of `meta`, numbered from 1, with the value of `writes`.
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
            // What was there before the log began anew.
            if frame.get(8..16) != Some(&salts) {
                break;
            }
            if number(frame, 0) == Some(page) {
                open.extend(value(frame).map(|value| (index, value)));
            }
            // The size of the database, for the last frame of a transaction only.
            if number(frame, 4) != Some(0) {
                read.ends = [read.ends[1], index];
                read.changes.append(&mut open);
            }
        }
        Ok(if read.changes.is_empty() { None } else { Some(read) })
    }

    /// Returns whether SQLite can have put `found` into the main file from this log.
    fn allows(&self, found: i64, reached: Reached) -> bool {
        // Each transaction that changes the page raises the number by one.
        let before = self.changes.first().map(|(_, value)| value - 1);
        let mut copied = self.changes.iter().filter(|(frame, _)| *frame <= reached.0);
        // A checkpoint that a reader held back leaves out the pages that changed again after it.
        before == Some(found) || copied.any(|(_, value)| *value == found)
    }
}

/// The last frame that a checkpoint may have copied into the main file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Reached(u32);

impl Reached {
    /// From a `-shm` file; knows nothing when that is not of this very log.
    fn read(index: &[u8], log: &Log) -> Self {
        let own = |at: usize| index.get(at..at + 4).and_then(|it| it.try_into().ok()).map(u32::from_ne_bytes);
        // The header is there twice; a difference means that a process was killed while it wrote it.
        let is_whole = index.get(..48).is_some_and(|header| index.get(48..96) == Some(header));
        // A process that is killed in a commit has written the transaction to the log, and not yet here.
        let is_of_log = index.get(32..40) == Some(&log.salts) && own(16).is_some_and(|end| log.ends.contains(&end));
        match (is_whole && is_of_log, own(128)) {
            (true, Some(attempted)) => Self(attempted),
            _ => Self(u32::MAX),
        }
    }
}

/// Whether a process has the database open, by the locks that SQLite holds on its files. Also true where it cannot be known.
fn is_open(path: &Path) -> bool {
    let Ok(locks) = fs::read_to_string("/proc/locks") else { return true };
    let files = ["", "-shm"].map(|end| fs::metadata(beside(path, end)).map(|file| format!(":{}", file.ino())));
    files.iter().flatten().any(|inode| locks.split_whitespace().any(|word| word.ends_with(inode)))
}

fn value(frame: &[u8]) -> Option<i64> {
    // The largest: a page may still hold bytes of an earlier row.
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
