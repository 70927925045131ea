//! The check of an object's keys.

use super::text::{chars, has_escape, members};
use super::{JsonError, text, token};

/// The keys of one object, in order. Refuses duplicates and keys that start with `[`.
#[derive(Debug)]
pub(in crate::mlflow) struct Keys<'t> {
    few: [&'t str; FEW_KEYS],
    count: usize,
    has_escapes: bool,
}

impl<'t> Keys<'t> {
    pub(in crate::mlflow) const fn new() -> Self {
        Self { few: [""; FEW_KEYS], count: 0, has_escapes: false }
    }

    pub(in crate::mlflow) fn add(&mut self, key: &'t str) -> Result<(), JsonError> {
        let is_escaped = has_escape(key);
        let is_bracket = key.starts_with("\"[") || is_escaped && chars(key).next().transpose()? == Some('[');
        if is_bracket {
            return Err(JsonError::BracketKey(shown(key)));
        }
        if is_escaped {
            token(key, None)?;
            self.has_escapes = true;
        }
        // For the few keys of a message, pairwise comparison is cheaper than a set.
        if let Some((place, before)) = self.few.get_mut(..=self.count).and_then(<[_]>::split_last_mut) {
            *place = key;
            if before.iter().any(|other| if self.has_escapes { is_same(other, key) } else { *other == key }) {
                return Err(JsonError::DuplicateKey(shown(key)));
            }
        }
        self.count += 1;
        Ok(())
    }

    /// Completes the check of the object whose keys were added.
    pub(in crate::mlflow) fn finish(&self, object: &str) -> Result<(), JsonError> {
        if self.count > FEW_KEYS { check_many_keys(object, self.count) } else { Ok(()) }
    }
}

/// Sorts the positions of the keys, because a set of the keys would require many times the memory of their text.
fn check_many_keys(object: &str, count: usize) -> Result<(), JsonError> {
    let mut places: Vec<u32> = Vec::with_capacity(count);
    for (key, _) in members(object) {
        let place = (key.as_ptr() as usize).saturating_sub(object.as_ptr() as usize);
        places.push(u32::try_from(place).map_err(|_| JsonError::TooManyMembers)?);
    }
    let key_at = |place: &u32| text::token_at(object, usize::try_from(*place).unwrap_or(usize::MAX));
    places.sort_unstable_by(|one, other| order(key_at(one), key_at(other)));
    let twice = places.windows(2).find_map(|pair| match pair {
        [one, other] if is_same(key_at(one), key_at(other)) => Some(key_at(one)),
        _ => None,
    });
    twice.map_or(Ok(()), |key| Err(JsonError::DuplicateKey(shown(key))))
}

fn is_same(one: &str, other: &str) -> bool {
    order(one, other).is_eq()
}

/// Compares the texts of two string tokens.
fn order(one: &str, other: &str) -> std::cmp::Ordering {
    if !has_escape(one) && !has_escape(other) {
        return text::unquoted(one).cmp(text::unquoted(other));
    }
    let letters = |token| chars(token).map(|letter| letter.unwrap_or(char::REPLACEMENT_CHARACTER));
    letters(one).cmp(letters(other))
}

/// Returns the first characters of a string token, for an error message.
fn shown(token: &str) -> String {
    chars(token).take(64).filter_map(Result::ok).collect()
}

const FEW_KEYS: usize = 12;
