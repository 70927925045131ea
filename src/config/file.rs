//! Bounded reads of files that the configuration or the command line names.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// Reads a text of at most `max` bytes from a file or a pipe, such as a shell's `<(command)`.
///
/// # Errors
/// The file cannot be read, is larger, or is not UTF-8.
pub fn read_any(path: &Path, max: u64) -> io::Result<String> {
    text(bounded(File::open(path)?, max)?)
}

/// Reads a text of at most `max` bytes from a regular file. Use it for reads while the proxy runs: opening a pipe waits
/// for its writer, possibly for ever.
///
/// # Errors
/// The file cannot be read, is not a regular file, is larger, or is not UTF-8.
pub fn read_regular(path: &Path, max: u64) -> io::Result<String> {
    text(regular_bytes(path, max)?)
}

/// Calls [`read_regular`] on a thread that is allowed to block.
///
/// # Errors
/// As [`read_regular`].
pub async fn read_regular_aside(path: PathBuf, max: u64) -> io::Result<String> {
    tokio::task::spawn_blocking(move || read_regular(&path, max)).await.map_err(io::Error::other)?
}

pub(super) fn regular_bytes(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    // Without NONBLOCK, opening a pipe that replaced the file would block.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    bounded(file, max)
}

fn bounded(file: impl Read, max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // One byte more than allowed, to distinguish a file of exactly `max` bytes from a larger one.
    file.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max { Err(io::Error::other(format!("it is larger than {max} bytes"))) } else { Ok(bytes) }
}

fn text(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes).map_err(|_| io::Error::other("it is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_are_bounded_and_never_wait() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "12345").unwrap();
        assert_eq!(read_regular(&file, 5).unwrap(), "12345");
        assert_eq!(read_any(&file, 5).unwrap(), "12345");
        assert!(read_regular(&file, 4).unwrap_err().to_string().contains("larger than 4 bytes"));
        std::fs::write(&file, b"\xff").unwrap();
        assert!(read_any(&file, 4).unwrap_err().to_string().contains("UTF-8"));
        let endless = Path::new("/dev/zero");
        assert!(read_any(endless, 4).unwrap_err().to_string().contains("larger"));
        assert!(read_regular(endless, 4).unwrap_err().to_string().contains("regular"));
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        assert!(read_regular(&pipe, 4).unwrap_err().to_string().contains("regular"));
        assert!(read_regular(dir.path(), 4).is_err());
    }
}
