//! When files that may change are looked at again.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Interval, MissedTickBehavior, interval};

/// How often; SIGHUP does it at once.
const EVERY: Duration = Duration::from_secs(5);

/// The moments to look.
#[derive(Debug)]
pub(super) struct Looks {
    every: Interval,
    hangup: Option<Signal>,
}

impl Looks {
    /// The first is now.
    pub(super) fn start() -> Self {
        let mut every = interval(EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { every, hangup: signal(SignalKind::hangup()).ok() }
    }

    /// Waits for the next one.
    pub(super) async fn next(&mut self) {
        let told = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.every.tick() => {}
            _ = told => {}
        }
    }
}
