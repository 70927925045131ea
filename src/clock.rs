//! Wall-clock time and elapsed time, passed to other modules as arguments.
//!
//! The only module that may ask the operating system for the time. All other modules receive a [`Clock`] or a
//! [`Timestamp`], so tests need no sleep.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A point in time in Unix milliseconds, as stored in the `BIGINT` columns of the database.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Returns this time plus `duration`. Saturates instead of overflowing.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(milliseconds(duration)))
    }

    /// Formats the date and the minute for users, such as `2026-11-29 10:15 UTC`. Returns an empty string beyond the
    /// year 9999.
    #[must_use]
    pub fn minute(self) -> String {
        let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000_000);
        at.map_or_else(|_| String::new(), |at| format!("{} {:02}:{:02} UTC", at.date(), at.hour(), at.minute()))
    }

    /// Formats the time in UTC as RFC 3339, to the second. Returns the number of milliseconds for a time that RFC 3339
    /// cannot express, beyond the year 9999.
    #[must_use]
    pub fn rfc3339(self) -> String {
        let at = OffsetDateTime::from_unix_timestamp(self.0.div_euclid(1000)).ok();
        at.and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_else(|| self.0.to_string())
    }

    /// Returns the time that has passed since `earlier`, or zero if `earlier` lies in the future.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// Returns a duration in milliseconds, as [`Timestamp`] counts them.
#[must_use]
pub fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// A source of wall-clock time. `Clock::default()` is the system clock; [`Clock::manual`] is for tests.
///
/// All clones of one clock tell the same time. Processes on a shared store follow the clock of its database.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    manual: Option<Arc<AtomicI64>>,
    /// Milliseconds that are added to the system's time.
    ahead: Arc<AtomicI64>,
}

impl Clock {
    /// Creates a clock that stands still until [`Clock::advance`] moves it.
    #[must_use]
    pub fn manual(start: Timestamp) -> Self {
        Self { manual: Some(Arc::new(AtomicI64::new(start.0))), ahead: Arc::default() }
    }

    /// Returns true for the system clock.
    #[must_use]
    pub const fn is_system(&self) -> bool {
        self.manual.is_none()
    }

    /// Changes the difference to the system's time.
    pub fn correct(&self, milliseconds: i64) {
        self.ahead.fetch_add(milliseconds, Ordering::Relaxed);
    }

    /// Moves a manual clock forward. Has no effect on the system clock.
    pub fn advance(&self, by: Duration) {
        if let Some(manual) = &self.manual {
            manual.fetch_add(milliseconds(by), Ordering::SeqCst);
        }
    }

    /// Returns the current wall-clock time.
    #[expect(clippy::disallowed_methods, reason = "the one place that asks the operating system")]
    #[must_use]
    pub fn now(&self) -> Timestamp {
        match &self.manual {
            Some(manual) => Timestamp(manual.load(Ordering::SeqCst)),
            None => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let system = milliseconds(since);
                Timestamp(system.saturating_add(self.ahead.load(Ordering::Relaxed)))
            }
        }
    }
}

/// A monotonic stopwatch that measures elapsed time.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts measuring.
    #[expect(clippy::disallowed_methods, reason = "the one place that asks the operating system")]
    #[must_use]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Returns the time since [`Stopwatch::start`].
    #[must_use]
    pub fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}
