//! Folds repeated denials into one row with a count, and bounds the number of rows that clients can cause.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;

use crate::authz::TokenId;
use crate::clock::Timestamp;
use crate::store::{AuditEntry, AuditId};

/// Milliseconds for which repetitions of a denial are counted in its first row.
const WINDOW_MS: i64 = 60_000;
/// Rows per user and window. Further denials share one row, because a client can vary its requests to avoid
/// repetitions.
const MAX_PER_USER: usize = 100;
/// Rows per window.
const MAX_ROWS: usize = 2000;

/// The denials of the current window.
#[derive(Debug, Default)]
pub(super) struct Fold {
    windows: HashMap<Key, Window>,
    users: HashMap<String, usize>,
    since: Timestamp,
    /// The keys of the entries that are being written, in their order.
    pending: Vec<Key>,
    /// Final counts of rows whose window has ended.
    owed: Vec<(AuditId, i64)>,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Key {
    actor: String,
    /// Token and address are part of the key, so that denials of a stolen token are not counted in a row of its
    /// owner's.
    token: Option<TokenId>,
    address: Option<IpAddr>,
    action: String,
    target: String,
    detail: String,
}

#[derive(Debug)]
struct Window {
    row: Option<AuditId>,
    count: i64,
    is_written: bool,
}

impl Fold {
    /// Counts an entry. Returns it if it needs a row of its own.
    pub(super) fn add(&mut self, entry: AuditEntry) -> Option<AuditEntry> {
        if entry.at.0.saturating_sub(self.since.0) >= WINDOW_MS {
            self.begin(entry.at);
        }
        let entry = self.bounded(entry);
        let key = Key {
            actor: entry.actor.name.clone(),
            token: entry.actor.token,
            address: entry.actor.address,
            action: entry.action.clone(),
            target: entry.target.clone(),
            detail: entry.detail.clone(),
        };
        match self.windows.entry(key) {
            Entry::Occupied(mut known) => {
                let window = known.get_mut();
                window.count = window.count.saturating_add(1);
                window.is_written = false;
                None
            }
            Entry::Vacant(place) => {
                self.pending.push(place.key().clone());
                *self.users.entry(entry.actor.name.clone()).or_default() += 1;
                place.insert(Window { row: None, count: 1, is_written: true });
                Some(entry)
            }
        }
    }

    /// Records the row IDs of the entries since the last call; none if they could not be written.
    pub(super) fn written(&mut self, rows: &[AuditId]) {
        let mut rows = rows.iter();
        for key in self.pending.drain(..) {
            match (rows.next(), self.windows.get_mut(&key)) {
                (Some(row), Some(window)) => window.row = Some(*row),
                // The entry was not written, so its next repetition gets a row.
                (None, Some(_)) => drop(self.windows.remove(&key)),
                (_, None) => {}
            }
        }
    }

    /// Returns the counts of written rows that changed since the last call.
    pub(super) fn counts(&mut self) -> Vec<(AuditId, i64)> {
        let mut counts = std::mem::take(&mut self.owed);
        for window in self.windows.values_mut().filter(|window| !window.is_written) {
            if let Some(row) = window.row {
                window.is_written = true;
                counts.push((row, window.count));
            }
        }
        counts
    }

    fn begin(&mut self, at: Timestamp) {
        self.owed = self.counts();
        self.since = at;
        self.users.clear();
        // Windows whose row is still being written are kept, because the row ID is recorded later.
        self.windows.retain(|_, window| window.row.is_none());
    }

    fn bounded(&self, entry: AuditEntry) -> AuditEntry {
        let is_full = self.windows.len() >= MAX_ROWS;
        if !is_full && self.users.get(&entry.actor.name).is_none_or(|rows| *rows < MAX_PER_USER) {
            return entry;
        }
        let mut common = AuditEntry { target: "several".to_owned(), detail: FURTHER.to_owned(), ..entry };
        // The row counts denials of all tokens and addresses.
        common.actor.token = None;
        common.actor.address = None;
        if is_full {
            common.actor.name = "several".to_owned();
        }
        common
    }
}

const FURTHER: &str = "further denials within a minute; the access log has each of them";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Actor;

    fn rows(entries: impl Iterator<Item = (String, String, i64)>) -> usize {
        let actor = |name| Actor { name, token: None, address: None };
        rows_of(entries.map(|(name, target, at)| (actor(name), target, at)))
    }

    fn rows_of(entries: impl Iterator<Item = (Actor, String, i64)>) -> usize {
        let mut fold = Fold::default();
        let entries = entries.filter_map(|(actor, target, at)| {
            let (action, detail) = ("request.denied".to_owned(), String::new());
            fold.add(AuditEntry { at: Timestamp(at), actor, action, target, detail, count: 1 })
        });
        entries.count()
    }

    #[test]
    fn each_token_and_address_has_its_own_row_within_the_bound() {
        let at = |number: u32| Some(IpAddr::from(number.to_be_bytes()));
        let denied = |token, address| (Actor { name: "mallory".to_owned(), token, address }, "x".to_owned(), 1);
        let owner = denied(None, at(1));
        let stolen = denied(Some(TokenId(7)), at(1));
        let elsewhere = denied(Some(TokenId(7)), at(2));
        let repeated = || [owner.clone(), stolen.clone(), elsewhere.clone()];
        assert_eq!(rows_of(repeated().into_iter().chain(repeated())), 3);
        assert_eq!(rows_of((0..50_000).map(|number| denied(None, at(number)))), MAX_PER_USER + 1);
        let tokens = (0..50_000).map(|number| denied(Some(TokenId(number)), at(1)));
        assert_eq!(rows_of(tokens), MAX_PER_USER + 1);
    }

    #[test]
    fn nothing_that_varies_makes_more_rows_than_allowed() {
        let numbers = || (0..50_000).map(|number: i64| number.to_string());
        assert_eq!(rows(numbers().map(|number| ("mallory".to_owned(), number, 1))), MAX_PER_USER + 1);
        assert_eq!(rows(numbers().map(|number| (number, "x".to_owned(), 1))), MAX_ROWS + 1);
        assert_eq!(rows(numbers().map(|_| ("mallory".to_owned(), "x".to_owned(), 1))), 1);
        let minutes = (0..5).map(|minute| ("mallory".to_owned(), "x".to_owned(), minute * WINDOW_MS));
        assert_eq!(rows(minutes), 1, "a row that is still being written keeps its window");
    }

    #[test]
    fn a_count_belongs_to_its_row_and_a_lost_row_is_tried_again() {
        let mut fold = Fold::default();
        let entry = |at| {
            let actor = Actor { name: "mallory".to_owned(), token: None, address: None };
            let (action, target) = ("request.denied".to_owned(), "x".to_owned());
            AuditEntry { at: Timestamp(at), actor, action, target, detail: String::new(), count: 1 }
        };
        assert!(fold.add(entry(1)).is_some());
        fold.written(&[]);
        assert!(fold.add(entry(1)).is_some());
        fold.written(&[AuditId(7)]);
        assert!(fold.counts().is_empty());
        assert!(fold.add(entry(2)).is_none() && fold.add(entry(3)).is_none());
        assert_eq!(fold.counts(), [(AuditId(7), 3)]);
        assert!(fold.add(entry(4)).is_none() && fold.add(entry(WINDOW_MS)).is_some());
        fold.written(&[AuditId(8)]);
        assert_eq!(fold.counts(), [(AuditId(7), 4)]);
    }
}
