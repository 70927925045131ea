//! The bounded pool on which passwords are hashed.
//!
//! Each hash takes 19 MiB and a core, so only so many run at a time and only so many wait; beyond that the answer is
//! [`Error::Busy`] at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Semaphore;

use super::Error;

/// Turns and places in the queue.
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

    /// Runs `work` on a blocking thread when its turn comes. Once begun, it ends, whether or not anybody waits for it.
    pub(super) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| Error::Busy)?;
        let turn = Arc::clone(&self.running).acquire_owned().await.map_err(|_| Error::Busy)?;
        self.runs.fetch_add(1, Ordering::Relaxed);
        let work = tokio::task::spawn_blocking(move || {
            let _held = (place, turn);
            work()
        });
        // Fails only when the process is ending.
        work.await.map_err(|_| Error::Busy)
    }
}

#[cfg(test)]
impl Hashing {
    /// How many hashes were begun.
    pub(super) fn runs(&self) -> u64 {
        self.runs.load(Ordering::Relaxed)
    }

    /// Keeps the pool from beginning anything until dropped.
    pub(super) async fn hold(&self) -> Vec<tokio::sync::OwnedSemaphorePermit> {
        let mut held = Vec::new();
        while let Ok(permit) = Arc::clone(&self.running).try_acquire_owned() {
            held.push(permit);
        }
        held
    }
}
