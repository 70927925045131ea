//! Refresh of browser sessions with their identity providers, in the background.
//!
//! [`schedule`] decides when a session is due and what a failure means, [`health`] spares a provider in trouble, and
//! [`refresh`] refreshes one session. This file selects the sessions that are due and runs their refreshes.
//!
//! If several proxies share a store, the one with the lease refreshes a session, once. No request waits for it. While a
//! provider does not answer, its sessions remain valid. The back-off belongs to the provider and not to the session, so
//! all sessions are refreshed soon after it is back.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::task::TaskTracker;

use crate::authn::Authn;
use crate::clock::{Clock, Stopwatch, Timestamp, milliseconds};
use crate::config;
use crate::oidc::{Provider, Providers};
use crate::store::{self, Lease, Store, Whose};
use crate::telemetry::Metrics;

mod health;
mod refresh;
mod schedule;

use health::{Health, Room};
use refresh::Outcome;
use schedule::LEASE;

pub use schedule::time_until_due;

/// Interval between checks for sessions that are due.
const EVERY: Duration = Duration::from_secs(1);
/// Maximum number of refreshes in progress in one process.
const MAX_IN_PROGRESS: usize = 32;
/// Interval between removals of expired sessions.
const SWEEP_EVERY: Duration = Duration::from_hours(1);

/// Refreshes sessions with their providers and removes expired ones.
#[derive(Debug)]
pub struct SessionRefresh {
    store: Arc<Store>,
    authn: Arc<Authn>,
    providers: Arc<Providers>,
    /// The back-off of each provider, in the order of `providers`.
    health: Vec<Health>,
    limits: config::Session,
    clock: Clock,
    metrics: Arc<Metrics>,
    in_progress: TaskTracker,
}

impl SessionRefresh {
    /// Creates the refresh of the sessions of `store`, which end according to `limits`.
    #[must_use]
    pub fn new(
        store: Arc<Store>,
        authn: Arc<Authn>,
        providers: Arc<Providers>,
        limits: config::Session,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Self {
        let health = providers.iter().map(|_| Health::default()).collect();
        Self { store, authn, providers, health, limits, clock, metrics, in_progress: TaskTracker::new() }
    }

    /// Returns the tracker of the refreshes in progress. One that is cut off has used its refresh token without storing
    /// the next one.
    #[must_use]
    pub const fn in_progress(&self) -> &TaskTracker {
        &self.in_progress
    }

    /// Refreshes due sessions for ever, at most [`MAX_IN_PROGRESS`] at a time. A provider that does not respond delays
    /// nothing else.
    pub async fn refresh_for_ever(self: Arc<Self>) {
        let mut ticks = interval(EVERY);
        // Ticks that a long round has missed are not made up for.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let places = Arc::new(Semaphore::new(MAX_IN_PROGRESS));
        loop {
            ticks.tick().await;
            self.start_probes();
            if let Err(error) = self.start_due(&places).await {
                tracing::warn!(%error, "sessions that are due cannot be found");
            }
        }
    }

    /// Deletes expired sessions, leases and counters of wrong passwords, for ever.
    pub async fn sweep_for_ever(self: Arc<Self>) {
        let mut ticks = interval(SWEEP_EVERY);
        loop {
            ticks.tick().await;
            let sessions = self.store.sweep_sessions(self.idle_since()).await.map(drop);
            if let Err(error) = sessions.and(self.store.sweep_leases().await) {
                tracing::warn!(%error, "expired sessions, leases and counters could not be deleted");
            }
        }
    }

    /// Checks in the background if the providers in trouble answer again, each when its probe is due.
    fn start_probes(self: &Arc<Self>) {
        let now = self.clock.now();
        for (provider, _) in self.providers_with_health().filter(|(_, health)| health.begin_probe(now)) {
            let (this, name) = (Arc::clone(self), provider.config.name.clone());
            self.in_progress.spawn(async move {
                let Some((provider, health)) = this.provider(&name) else { return };
                if provider.remote.probe().await.is_ok() {
                    health.probe_answered();
                }
            });
        }
    }

    /// Starts refreshes until no session is due, or for one tick at most: after an outage thousands can be due.
    async fn start_due(self: &Arc<Self>, places: &Arc<Semaphore>) -> store::Result<()> {
        let begun = Stopwatch::start();
        while begun.elapsed() < EVERY {
            let Ok(Ok(first)) = tokio::time::timeout(EVERY, Arc::clone(places).acquire_owned()).await else { break };
            let others = std::iter::from_fn(|| Arc::clone(places).try_acquire_owned().ok());
            let mut held: Vec<_> = std::iter::once(first).chain(others).collect();
            let due = self.lease_due(held.len()).await?;
            if due.is_empty() {
                break;
            }
            for lease in due {
                // `lease_due` can return one lease more than asked for: the trial refresh at a provider that has just
                // recovered.
                let (this, place) = (Arc::clone(self), held.pop());
                self.in_progress.spawn(async move {
                    this.refresh_and_count(lease).await;
                    drop(place);
                });
            }
        }
        Ok(())
    }

    async fn refresh_and_count(&self, lease: Lease) {
        let outcome = self.refresh(lease).await.map(Outcome::as_str).unwrap_or_else(|error| {
            tracing::error!(%error, "a session was not refreshed: the store does not answer");
            "store"
        });
        self.metrics.session_refreshed(outcome);
    }

    /// Leases sessions that are due for a refresh. Of a provider in trouble, leases one session or none.
    async fn lease_due(&self, at_most: usize) -> store::Result<Vec<Lease>> {
        let held_back = self.providers_with_health().filter(|(_, health)| health.room() != Room::All);
        let held_back: Vec<&str> = held_back.map(|(provider, _)| provider.config.name.as_str()).collect();
        let mut due = self.lease(Whose::AllBut(&held_back), at_most).await?;
        for (provider, health) in self.providers_with_health().filter(|(_, health)| health.room() == Room::One) {
            let one = self.lease(Whose::Only(&provider.config.name), 1).await?;
            if !one.is_empty() {
                health.begin_trial();
            }
            due.extend(one);
        }
        Ok(due)
    }

    async fn lease(&self, whose: Whose<'_>, at_most: usize) -> store::Result<Vec<Lease>> {
        let milliseconds = milliseconds(LEASE);
        let at_most = i64::try_from(at_most).unwrap_or(i64::MAX);
        self.store.lease_due_sessions(whose, self.idle_since(), milliseconds, at_most).await
    }

    /// Returns the time at or before which the last use of an idle session was.
    fn idle_since(&self) -> Timestamp {
        let idle = milliseconds(self.limits.idle_timeout);
        Timestamp(self.clock.now().0.saturating_sub(idle))
    }

    /// Returns each provider's name, and true if refreshes of its sessions are paused because it is in trouble.
    pub fn paused(&self) -> impl Iterator<Item = (&str, bool)> {
        self.providers_with_health()
            .map(|(provider, health)| (provider.config.name.as_str(), health.room() != Room::All))
    }

    fn providers_with_health(&self) -> impl Iterator<Item = (&Provider, &Health)> {
        self.providers.iter().zip(&self.health)
    }

    fn provider(&self, name: &str) -> Option<(&Provider, &Health)> {
        self.providers_with_health().find(|(provider, _)| provider.config.name == name)
    }
}
