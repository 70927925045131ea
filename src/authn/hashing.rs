//! The bounded pool for password hashing.
//!
//! Each hash uses 19 MiB and one core, so the number of running and of waiting hashes is limited. Beyond that, the
//! caller receives [`Error::Busy`] at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Semaphore;

use super::Error;

/// Permits for running and waiting hashes.
#[derive(Debug)]
pub(super) struct Hashing {
    /// One permit per hash that may run.
    running: Arc<Semaphore>,
    /// One permit per hash that may run or wait.
    places: Arc<Semaphore>,
    runs: AtomicU64,
}

impl Hashing {
    pub(super) fn new(concurrency: usize, queue: usize) -> Self {
        let concurrency = concurrency.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            running: Arc::new(Semaphore::new(concurrency)),
            places: Arc::new(Semaphore::new(concurrency.saturating_add(queue).min(Semaphore::MAX_PERMITS))),
            runs: AtomicU64::new(0),
        }
    }

    /// Runs `work` on a blocking thread when a permit is available. Once started, it runs to its end even if the caller
    /// is cancelled.
    pub(super) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| Error::Busy)?;
        let turn = Arc::clone(&self.running).acquire_owned().await.map_err(|_| Error::Busy)?;
        self.runs.fetch_add(1, Ordering::Relaxed);
        let work = tokio::task::spawn_blocking(move || {
            let _held = (place, turn);
            work()
        });
        // Fails only when the process is shutting down.
        work.await.map_err(|_| Error::Busy)
    }
}

#[cfg(test)]
impl Hashing {
    /// Returns the number of hashes that were started.
    pub(super) fn runs(&self) -> u64 {
        self.runs.load(Ordering::Relaxed)
    }

    /// Prevents the pool from starting any hash until the returned permits are dropped.
    pub(super) async fn hold(&self) -> Vec<tokio::sync::OwnedSemaphorePermit> {
        let mut held = Vec::new();
        while let Ok(permit) = Arc::clone(&self.running).try_acquire_owned() {
            held.push(permit);
        }
        held
    }
}
