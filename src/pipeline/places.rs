//! The number of requests to MLflow that each user has under way.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::Error;
use crate::authz::UserId;

/// Limits the requests of one user, so that answers that a client does not read cannot take all of MLflow's connections.
#[derive(Debug)]
pub struct Places {
    most: usize,
    taken: Arc<Mutex<HashMap<UserId, usize>>>,
}

/// The place of one request. Released on drop: when the last byte of a streamed answer was sent, or when an answer in memory is
/// handed to the connection.
#[derive(Debug)]
pub(super) struct Place {
    user: UserId,
    taken: Arc<Mutex<HashMap<UserId, usize>>>,
}

impl Places {
    /// Creates places for `most` requests of each user.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { most, taken: Arc::default() }
    }

    /// Takes a place for a request of this user.
    ///
    /// # Errors
    ///
    /// [`Error::TooManyRequests`] if the user has none left.
    pub(super) fn take(&self, user: UserId) -> Result<Place, Error> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let number = taken.entry(user).or_default();
        if *number >= self.most {
            return Err(Error::TooManyRequests);
        }
        *number += 1;
        Ok(Place { user, taken: Arc::clone(&self.taken) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(number) = taken.get_mut(&self.user) else { return };
        *number = number.saturating_sub(1);
        if *number == 0 {
            taken.remove(&self.user);
        }
    }
}
