//! Groups of an identity provider as subjects of grants: one group, or one with all groups below it.
//!
//! `/ml/**` includes `/ml`, `/ml/a` and `/ml/a/b`, but not `/mlx`. Grants are looked up by the few texts that match a
//! group, so the cost does not depend on the number of grants.

use std::collections::BTreeSet;

const SUBTREE: &str = "/**";
/// The maximum length of a selector.
const MAX_CHARS: usize = 255;

/// Reasons why a text cannot be the group of a grant.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum GroupError {
    #[error("a group must have a name")]
    Empty,
    #[error("a group's name may have at most {MAX_CHARS} characters")]
    TooLong,
    #[error("the only pattern for groups is `/**` at the end, for the group and all groups below it")]
    Pattern,
}

/// Checks the group of a grant: a group's name, or one that ends in `/**`.
///
/// # Errors
/// The text is empty, too long, or another pattern, which would never match.
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

/// Returns the texts of all grants that can match these groups: each group, each group with `/**`, and each group above
/// it with `/**`.
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
