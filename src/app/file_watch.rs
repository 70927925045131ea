//! Schedule for checking files that can change.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Interval, MissedTickBehavior, interval};

/// Interval between checks. SIGHUP triggers one at once.
const EVERY: Duration = Duration::from_secs(5);

/// A timer that fires periodically and on SIGHUP.
#[derive(Debug)]
pub(super) struct FileWatch {
    every: Interval,
    hangup: Option<Signal>,
}

impl FileWatch {
    /// Starts the timer. The first check is due at once.
    pub(super) fn start() -> Self {
        let mut every = interval(EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { every, hangup: signal(SignalKind::hangup()).ok() }
    }

    /// Waits until the next check is due.
    pub(super) async fn next(&mut self) {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.every.tick() => {}
            _ = hangup => {}
        }
    }
}
