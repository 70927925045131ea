//! Turns of names: a task that has taken one is alone with it, in this process.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, Weak};

use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::resolve::folded;

/// The names that are taken. A turn may last as long as an upload, so each name has one of its own.
#[derive(Debug, Default)]
pub(super) struct Turns(std::sync::Mutex<HashMap<String, Weak<Mutex<()>>>>);

impl Turns {
    /// Waits until these names are free. They are taken in one order, so that two requests cannot wait for each other.
    pub(super) async fn take(&self, names: &[&str]) -> Vec<OwnedMutexGuard<()>> {
        let mut taken = Vec::with_capacity(names.len());
        for turn in self.of(names) {
            taken.push(turn.lock_owned().await);
        }
        taken
    }

    /// `None` if one of them is taken.
    pub(super) fn try_take(&self, names: &[&str]) -> Option<Vec<OwnedMutexGuard<()>>> {
        self.of(names).into_iter().map(|turn| turn.try_lock_owned().ok()).collect()
    }

    fn of(&self, names: &[&str]) -> Vec<Arc<Mutex<()>>> {
        let names: BTreeSet<String> = names.iter().map(|name| folded(name)).collect();
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that no task has or waits for go before the table grows.
        if turns.len() + names.len() > turns.capacity() {
            turns.retain(|_, turn| turn.strong_count() > 0);
        }
        let turn = |name: String| {
            let known = turns.get(&name).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let turn = Arc::default();
                turns.insert(name, Arc::downgrade(&turn));
                turn
            })
        };
        names.into_iter().map(turn).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_is_taken_until_its_turn_ends() {
        let turns = Turns::default();
        let taken = turns.take(&["b", "A", "a "]).await;
        assert_eq!(taken.len(), 2, "names that a database may not tell apart are one");
        assert!(turns.try_take(&["a"]).is_none());
        assert!(turns.try_take(&["c"]).is_some());
        drop(taken);
        assert_eq!(turns.try_take(&["a", "b"]).map(|taken| taken.len()), Some(2));
        for number in 0..1000 {
            drop(turns.take(&[number.to_string().as_str()]).await);
        }
        assert!(turns.0.lock().expect("a lock").len() < 100, "names that no task has are forgotten");
    }
}
