//! Formats a time as RFC 3339 in UTC with milliseconds, without allocation.

use serde::{Serialize, Serializer};

use crate::clock::Timestamp;

/// A time such as `2026-11-20T18:55:00.123Z`. Times outside the years 0 to 9999 are clamped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rfc3339([u8; 24]);

impl Rfc3339 {
    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl From<Timestamp> for Rfc3339 {
    fn from(at: Timestamp) -> Self {
        let millis = at.0.clamp(FIRST, LAST);
        let (days, millis) = (millis.div_euclid(DAY), millis.rem_euclid(DAY));
        let (year, month, day) = civil(days);
        let mut text = *b"0000-00-00T00:00:00.000Z";
        digits(&mut text, 0..4, year);
        digits(&mut text, 5..7, month);
        digits(&mut text, 8..10, day);
        digits(&mut text, 11..13, millis / 3_600_000);
        digits(&mut text, 14..16, millis / 60_000 % 60);
        digits(&mut text, 17..19, millis / 1000 % 60);
        digits(&mut text, 20..23, millis % 1000);
        Self(text)
    }
}

impl Serialize for Rfc3339 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// Converts days since 1970 to year, month and day:
/// <https://howardhinnant.github.io/date_algorithms.html#civil_from_days>.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

fn digits(text: &mut [u8; 24], place: std::ops::Range<usize>, mut value: i64) {
    for byte in text.get_mut(place).unwrap_or_default().iter_mut().rev() {
        *byte = b'0' + u8::try_from(value.rem_euclid(10)).unwrap_or_default();
        value = value.div_euclid(10);
    }
}

const DAY: i64 = 86_400_000;
/// The first millisecond of year 0 and the last of year 9999.
const FIRST: i64 = -62_167_219_200_000;
const LAST: i64 = 253_402_300_799_999;
