//! Entries of the audit log as lines of JSON, on standard output and in files.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::clock::Timestamp;
use crate::store::{AuditEntry, AuditId};
use crate::telemetry::access::Rfc3339;
use crate::text;

/// Entries with their IDs.
pub type Page = Vec<(AuditId, AuditEntry)>;

/// One entry.
#[derive(Serialize)]
struct Line<'e> {
    id: i64,
    at: Rfc3339,
    actor: &'e str,
    token_id: Option<i64>,
    address: Option<std::net::IpAddr>,
    action: &'e str,
    target: &'e str,
    detail: &'e str,
    /// Number of occurrences within one minute.
    count: i64,
}

/// Writes one line for each entry.
///
/// # Errors
/// Those of the writer.
pub fn write(page: &Page, to: &mut impl Write) -> io::Result<()> {
    for (id, entry) in page {
        let line = Line {
            id: id.0,
            at: entry.at.into(),
            actor: &entry.actor.name,
            token_id: entry.actor.token.map(|token| token.0),
            address: entry.actor.address,
            action: &entry.action,
            target: &entry.target,
            detail: &entry.detail,
            count: entry.count,
        };
        // Names come from users: what could control a terminal is escaped, which leaves the JSON value as it is.
        writeln!(to, "{}", text::plain_json(&serde_json::to_string(&line)?))?;
    }
    Ok(())
}

/// A file of exported entries.
#[derive(Debug)]
pub(super) struct Export {
    pub(super) file: File,
    pub(super) path: PathBuf,
    /// Length of the pages that were written completely.
    pub(super) length: u64,
}

impl Export {
    /// Creates a file in the folder, named after the time, with mode 0600.
    pub(super) fn create(folder: &Path, at: Timestamp) -> io::Result<Self> {
        let path = folder.join(Self::name(at));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        File::open(folder)?.sync_all()?;
        Ok(Self { file, path, length: 0 })
    }

    /// Returns the name of the file.
    pub(super) fn name(at: Timestamp) -> String {
        format!("audit-{}.jsonl", at.rfc3339().replace(['-', ':'], ""))
    }

    /// Writes a page, and returns when it is on the disk. A page that cannot be written leaves nothing behind.
    pub(super) fn add(&mut self, page: &Page) -> io::Result<()> {
        let mut out = BufWriter::new(&self.file);
        let written = write(page, &mut out).and_then(|()| out.flush()).and_then(|()| self.file.sync_all());
        // On an error, the buffer must not be written again when it is dropped.
        let _ = out.into_parts();
        match written.and_then(|()| self.file.metadata()) {
            Ok(now) => self.length = now.len(),
            Err(error) => {
                let _ = self.file.set_len(self.length);
                if self.length == 0 {
                    let _ = std::fs::remove_file(&self.path);
                }
                return Err(error);
            }
        }
        Ok(())
    }
}
