//! Back-off of session refreshes, kept per provider instead of per session.
//!
//! Pure except for its lock. While a provider is in trouble, no session is refreshed there, and one small probe per
//! [`PROBE_EVERY`] requests its metadata. After an answer, a single session is refreshed, and after its success all
//! others. An outage therefore costs a few requests, regardless of its duration and of the number of sessions that are
//! due, and ends for all sessions within seconds.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Timestamp;

/// Time between two probes.
const PROBE_EVERY: Duration = Duration::from_secs(3);

/// State of one provider, as observed by session refreshes.
#[derive(Debug, Default)]
pub(super) struct Health {
    state: Mutex<State>,
}

/// Number of sessions of a provider that may be refreshed now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Room {
    All,
    /// One, to test if the token endpoint answers; see [`Health::begin_trial`].
    One,
    None,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum State {
    #[default]
    Well,
    Away {
        probe_at: Timestamp,
    },
    /// The metadata was answered. `under_way` is true while the trial session is being refreshed.
    Trial {
        under_way: bool,
    },
}

impl Health {
    /// Returns the number of sessions that may be refreshed.
    pub(super) fn room(&self) -> Room {
        match *self.lock() {
            State::Well => Room::All,
            State::Trial { under_way: false } => Room::One,
            State::Trial { under_way: true } | State::Away { .. } => Room::None,
        }
    }

    /// Records a refresh that the provider did not answer properly. Returns true if the provider was well before.
    pub(super) fn failed(&self, now: Timestamp) -> bool {
        let probe_at = now.plus(PROBE_EVERY);
        std::mem::replace(&mut *self.lock(), State::Away { probe_at }) == State::Well
    }

    /// Records a refresh that was granted or refused. Returns true if the provider was in trouble before.
    pub(super) fn answered(&self) -> bool {
        std::mem::replace(&mut *self.lock(), State::Well) != State::Well
    }

    /// Claims the next probe. Returns true if one is due.
    pub(super) fn begin_probe(&self, now: Timestamp) -> bool {
        let mut state = self.lock();
        match *state {
            State::Away { probe_at } if probe_at <= now => {
                *state = State::Away { probe_at: now.plus(PROBE_EVERY) };
                true
            }
            State::Away { .. } | State::Well | State::Trial { .. } => false,
        }
    }

    /// Records that a probe was answered.
    pub(super) fn probe_answered(&self) {
        let mut state = self.lock();
        if matches!(*state, State::Away { .. }) {
            *state = State::Trial { under_way: false };
        }
    }

    /// Marks the refresh of the trial session as begun.
    pub(super) fn begin_trial(&self) {
        self.replace(State::Trial { under_way: false }, State::Trial { under_way: true });
    }

    /// Marks the refresh of the trial session as ended. If it had no outcome, another session is tried next.
    pub(super) fn end_trial(&self) {
        self.replace(State::Trial { under_way: true }, State::Trial { under_way: false });
    }

    fn replace(&self, from: State, to: State) {
        let mut state = self.lock();
        if *state == from {
            *state = to;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_in_trouble_is_probed_and_tried_with_one_session_before_all() {
        let health = Health::default();
        let at = |seconds: i64| Timestamp(seconds * 1000);
        assert_eq!(health.room(), Room::All);
        assert!(!health.begin_probe(at(0)));
        assert!(health.failed(at(0)), "the first failure");
        assert!(!health.failed(at(0)), "not the second");
        assert_eq!(health.room(), Room::None);
        assert!(!health.begin_probe(at(2)), "not yet");
        assert!(health.begin_probe(at(3)));
        assert!(!health.begin_probe(at(3)), "one at a time");
        assert!(health.begin_probe(at(6)), "the first was not answered");
        health.probe_answered();
        assert_eq!(health.room(), Room::One);
        health.begin_trial();
        assert_eq!(health.room(), Room::None);
        health.end_trial();
        assert_eq!(health.room(), Room::One, "without an outcome");
        health.begin_trial();
        assert!(!health.failed(at(7)));
        health.end_trial();
        assert_eq!(health.room(), Room::None);
        assert!(health.begin_probe(at(10)));
        health.probe_answered();
        health.begin_trial();
        assert!(health.answered());
        assert!(!health.answered());
        health.end_trial();
        assert_eq!(health.room(), Room::All);
    }

    #[test]
    fn a_probe_says_nothing_of_a_provider_that_is_well() {
        let health = Health::default();
        health.probe_answered();
        health.begin_trial();
        health.end_trial();
        assert_eq!(health.room(), Room::All);
    }
}
