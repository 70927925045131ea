//! The version of MLflow, read from its `/version` at start and every minute.
//!
//! For an unknown version, only the behaviour common to all versions is used.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

/// A release of MLflow. A pre-release counts as the release that it precedes, because it already has its features.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Version {
    pub major: u16,
    pub minor: u16,
    pub patch: u16,
}

impl Version {
    /// Returns the release `major.minor.0`.
    #[must_use]
    pub const fn release(major: u16, minor: u16) -> Self {
        Self { major, minor, patch: 0 }
    }

    /// Returns true if the route table covers this version.
    #[must_use]
    pub fn is_known(self) -> bool {
        self >= Self::release(2, 10) && self < Self::release(3, 19)
    }
}

/// A text that is not a version, such as a page of a server that is not MLflow.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a version of MLflow")]
pub struct NoVersion;

impl FromStr for Version {
    type Err = NoVersion;

    /// Parses `3.17.2`, `3.6.1.dev0`, `3.17.0rc1`, as far as they are numbers (PEP 440).
    fn from_str(text: &str) -> Result<Self, NoVersion> {
        let mut parts = text.trim().split('.');
        let mut number = || {
            let part = parts.next().unwrap_or("0");
            let digits = part.find(|c: char| !c.is_ascii_digit()).map_or(part, |end| part.split_at(end).0);
            digits.parse::<u16>().map_err(|_| NoVersion)
        };
        let (major, minor) = (number()?, number()?);
        Ok(Self { major, minor, patch: number().unwrap_or(0) })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// The version read last, shared by all clones of an [`super::Upstream`].
#[derive(Debug, Default)]
pub(super) struct Seen(AtomicU64);

impl Seen {
    const KNOWN: u64 = 1 << 48;

    pub(super) fn get(&self) -> Option<Version> {
        let packed = self.0.load(Ordering::Relaxed);
        let part = |shift: u32| u16::try_from((packed >> shift) & 0xffff).unwrap_or_default();
        (packed & Self::KNOWN != 0).then(|| Version { major: part(32), minor: part(16), patch: part(0) })
    }

    pub(super) fn set(&self, version: Option<Version>) {
        let pack = |v: Version| Self::KNOWN | u64::from(v.major) << 32 | u64::from(v.minor) << 16 | u64::from(v.patch);
        self.0.store(version.map_or(0, pack), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_python_packaging_does() {
        for (text, version) in [
            ("3.17.2", "3.17.2"),
            ("3.11.2.dev0", "3.11.2"),
            ("3.6.1.dev0", "3.6.1"),
            ("3.17.0rc1\n", "3.17.0"),
            ("2.10", "2.10.0"),
        ] {
            assert_eq!(text.parse::<Version>().map(|v| v.to_string()).as_deref(), Ok(version), "{text}");
        }
        for text in ["", "latest", "<html>", "3", "v3.1.0", "3.x.1"] {
            assert!(text.parse::<Version>().is_err() || text == "3", "{text}");
        }
    }

    #[test]
    fn what_is_seen_is_what_is_said() {
        let seen = Seen::default();
        assert_eq!(seen.get(), None);
        let version = Version { major: 3, minor: 17, patch: 2 };
        seen.set(Some(version));
        assert_eq!(seen.get(), Some(version));
        seen.set(None);
        assert_eq!(seen.get(), None);
    }
}
