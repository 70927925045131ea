//! Groups of an identity provider as subjects: one group, or one and everything below it.
//!
//! `/ml/**` is `/ml`, `/ml/a` and `/ml/a/b`, never `/mlx`. A grant is found by the few texts that can speak of a group, so
//! it does not matter how many grants there are.

use std::collections::BTreeSet;

const SUBTREE: &str = "/**";
/// As long as a selector may be.
const MAX_CHARS: usize = 255;

/// Why a text is no group to grant something to.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum GroupError {
    #[error("a group must have a name")]
    Empty,
    #[error("a group's name may have at most {MAX_CHARS} characters")]
    TooLong,
    #[error("of a group only `/**` at its end is understood, for the group and all below it")]
    Pattern,
}

/// Whether something can be granted to this: a group's name, or one with `/**` at its end.
///
/// # Errors
/// Empty, too long, or any other pattern, which would be stored and never match.
pub fn check_group(text: &str) -> Result<(), GroupError> {
    let name = text.strip_suffix(SUBTREE).unwrap_or(text);
    if text.is_empty() {
        return Err(GroupError::Empty);
    }
    if text.chars().count() > MAX_CHARS {
        return Err(GroupError::TooLong);
    }
    if name.contains('*') { Err(GroupError::Pattern) } else { Ok(()) }
}

/// All texts that speak of one of these groups: itself, itself with all below, and each of those it lies below.
#[must_use]
pub fn texts_of_groups<'g>(groups: impl IntoIterator<Item = &'g str>) -> BTreeSet<String> {
    let mut texts = BTreeSet::new();
    for group in groups.into_iter().filter(|group| !group.is_empty()) {
        texts.insert(group.to_owned());
        texts.insert(format!("{group}{SUBTREE}"));
        for (end, _) in group.match_indices('/') {
            texts.insert(group.get(..end).unwrap_or_default().to_owned() + SUBTREE);
        }
    }
    texts
}
