//! Serializes requests with the same credential, so that only the first one verifies it.
//!
//! The turn carries no result: the next request finds it in the cache. Only that the credential could not be checked is
//! passed on, so that requests do not wait for the same failure one after another. Contains one entry per credential
//! being checked.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;

use crate::crypto::CacheKey;

/// True inside if the credential could not be checked.
type Lock = Arc<tokio::sync::Mutex<bool>>;

/// The credentials that are being checked.
#[derive(Debug, Default)]
pub(super) struct SingleFlight(Mutex<HashMap<CacheKey, Lock>>);

impl SingleFlight {
    /// Waits for the caller's turn, which lasts until the returned value is dropped.
    pub(super) async fn enter(&self, key: CacheKey) -> Turn<'_> {
        let lock = Arc::clone(self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default());
        // Created before waiting, so that a request that is cancelled while it waits is cleaned up too.
        let mut turn = Turn { single_flight: self, key, lock, held: None };
        turn.held = Some(Arc::clone(&turn.lock).lock_owned().await);
        turn
    }
}

/// A turn, or a place in the queue for it.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    single_flight: &'a SingleFlight,
    key: CacheKey,
    lock: Lock,
    held: Option<OwnedMutexGuard<bool>>,
}

impl Turn<'_> {
    /// Returns true if the credential could not be checked while this request waited.
    pub(super) fn has_failed(&self) -> bool {
        self.held.as_ref().is_some_and(|failed| **failed)
    }

    /// Tells the requests that wait that the credential cannot be checked.
    pub(super) fn fail(&mut self) {
        if let Some(failed) = &mut self.held {
            **failed = true;
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // The guard contains a reference to the lock, so it must be gone before the references are counted.
        drop(self.held.take());
        let mut locks = self.single_flight.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Clones are created under the map's lock, so a count of two means the map and this turn: no other request
        // waits.
        if Arc::strong_count(&self.lock) <= 2 {
            locks.remove(&self.key);
        }
    }
}

#[cfg(test)]
impl SingleFlight {
    pub(super) fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}
