//! The rule of a counter, whether it is in memory or in the store.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::store::GuessTally;

/// Behaviour beyond a limit.
#[derive(Clone, Copy, Debug)]
pub(super) enum Beyond {
    /// Nothing is granted until the window has passed.
    Close,
    /// One guess is granted per this duration.
    Slow(Duration),
}

pub(super) enum Admission {
    Granted,
    /// The guesses in progress decide.
    Wait,
    Refused(Duration),
}

/// A moment, and the length of the window that it is in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) now: Timestamp,
    pub(super) window: Duration,
}

impl GuessTally {
    pub(super) fn admission(&mut self, limit: u32, beyond: Beyond, moment: Moment) -> Admission {
        self.roll(moment);
        if self.failures >= limit {
            if let Beyond::Slow(pace) = beyond {
                return self.slowed(pace, moment.now);
            }
            let left = moment.window.saturating_sub(moment.now.since(self.since));
            return Admission::Refused(left.max(Duration::from_secs(1)));
        }
        if self.failures.saturating_add(self.under_way) >= limit { Admission::Wait } else { Admission::Granted }
    }

    fn slowed(&mut self, pace: Duration, now: Timestamp) -> Admission {
        // If the clock was set back, the account must not wait for longer than one pace.
        let wait = self.next.since(now).min(pace);
        if !wait.is_zero() {
            return Admission::Refused(wait.max(Duration::from_secs(1)));
        }
        self.next = now.plus(pace);
        Admission::Granted
    }

    pub(super) fn fail(&mut self, moment: Moment) {
        self.roll(moment);
        if self.failures == 0 {
            self.since = moment.now;
        }
        self.failures = self.failures.saturating_add(1);
    }

    /// Starts a new window if the current one has passed, or if the clock was set back to before its start.
    pub(super) fn roll(&mut self, moment: Moment) {
        if self.has_ended(moment) {
            self.failures = 0;
        }
    }

    pub(super) fn has_ended(&self, Moment { now, window }: Moment) -> bool {
        // Clocks of several processes may differ by less than a second.
        self.since.since(now) >= Duration::from_secs(1) || now.since(self.since) >= window
    }
}
