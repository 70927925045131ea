//! One at a time: requests with the same credential wait for the first of them.
//!
//! Nothing is shared but the turn; whoever comes next looks into the cache. Holds one entry per credential under way.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::crypto::CacheKey;
use tokio::sync::OwnedMutexGuard;

type Lock = Arc<tokio::sync::Mutex<()>>;

/// The credentials that are being checked right now.
#[derive(Debug, Default)]
pub(super) struct Flights(Mutex<HashMap<CacheKey, Lock>>);

impl Flights {
    /// Waits for its turn, which lasts until the answer is dropped.
    pub(super) async fn enter(&self, key: CacheKey) -> Turn<'_> {
        let lock = Arc::clone(self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default());
        // Made before waiting, so that a request cancelled while it waits cleans up too.
        let mut turn = Turn { flights: self, key, lock, held: None };
        turn.held = Some(Arc::clone(&turn.lock).lock_owned().await);
        turn
    }
}

/// Somebody's turn, or their place in the queue.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    flights: &'a Flights,
    key: CacheKey,
    lock: Lock,
    held: Option<OwnedMutexGuard<()>>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        drop(self.held.take());
        let mut flights = self.flights.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Locks are handed out under the same lock: two owners are the map and this turn.
        if Arc::strong_count(&self.lock) <= 2 {
            flights.remove(&self.key);
        }
    }
}

#[cfg(test)]
impl Flights {
    pub(super) fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}
