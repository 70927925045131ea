//! Points in time on the command line.

use std::str::FromStr;
use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::clock::{Timestamp, milliseconds};

/// A point in time, absolute or relative to the start of the command.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Moment {
    At(Timestamp),
    Ago(Duration),
}

impl Moment {
    pub(super) fn at(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(at) => at,
            Self::Ago(ago) => Timestamp(now.0.saturating_sub(milliseconds(ago))),
        }
    }
}

impl FromStr for Moment {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        duration(text)
            .map(Self::Ago)
            .or_else(|| instant(text).map(Self::At))
            .ok_or("write a duration before now (90m, 24h, 7d), a date (2026-11-30) or a time (2026-11-30T18:00:00Z)")
    }
}

/// Parses a number with the unit `s`, `m`, `h` or `d`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let seconds = match text.strip_prefix(digits)? {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    Some(Duration::from_secs(digits.parse::<u64>().ok()?.checked_mul(seconds)?))
}

/// Formats a duration in its largest unit, such as `3 hours`.
pub(super) fn in_words(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (count, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..86_400 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

fn instant(text: &str) -> Option<Timestamp> {
    // RFC 3339 has no form for a date alone.
    let at = OffsetDateTime::parse(text, &Rfc3339).or_else(|_| {
        let midnight = format!("{text}T00:00:00Z");
        OffsetDateTime::parse(&midnight, &Rfc3339)
    });
    Some(Timestamp(i64::try_from(at.ok()?.unix_timestamp_nanos() / 1_000_000).ok()?))
}
