//! Groups in claims, and patterns that match groups.

use serde_json::Value;

use super::{ClaimError, Claims, GroupForm, GroupSource, MAX_GROUPS, at};
use crate::text;

/// Maximum length in characters. Grants cannot contain longer names.
const MAX_GROUP: usize = 500;

/// Returns the groups in the configured claims, or `None` if none of the claims is present.
pub(super) fn said(rules: &Claims, documents: &[&Value]) -> Result<Option<Vec<String>>, ClaimError> {
    let mut groups = None;
    for source in &rules.groups {
        let Some(value) = documents.iter().find_map(|claims| at(claims, &source.claim)) else { continue };
        let groups: &mut Vec<String> = groups.get_or_insert_default();
        let values = match value {
            Value::Array(values) => values.as_slice(),
            // A value that is not a string is skipped below.
            single => std::slice::from_ref(single),
        };
        if values.len() > MAX_GROUPS {
            return Err(ClaimError::TooManyGroups);
        }
        for group in values.iter().filter_map(Value::as_str) {
            add(groups, source, rules.form, group);
        }
        if groups.len() > MAX_GROUPS {
            return Err(ClaimError::TooManyGroups);
        }
    }
    Ok(groups)
}

fn add(groups: &mut Vec<String>, source: &GroupSource, form: GroupForm, group: &str) {
    // Unreadable names are skipped, because no grant can refer to them.
    if group.trim().is_empty() || group.chars().count() > MAX_GROUP || text::plain(group) != group {
        return;
    }
    let leaf = group.rsplit('/').next().filter(|leaf| !leaf.is_empty());
    let (full, leaf) = match form {
        GroupForm::Full => (Some(group), None),
        GroupForm::Leaf => (None, leaf),
        GroupForm::Both => (Some(group), leaf),
    };
    for part in full.into_iter().chain(leaf) {
        let name = format!("{}{part}", source.prefix);
        if !groups.contains(&name) {
            groups.push(name);
        }
    }
}

/// Returns true if a group matches a pattern.
///
/// `*` and `?` match characters within one segment of a path. `/ml/**` matches `/ml` and everything below it, but not
/// `/mlx`. `*` and `**` alone match every group. Matching is case-sensitive: `/ML` does not match `/ml`.
#[must_use]
pub fn matches(pattern: &str, group: &str) -> bool {
    if matches!(pattern, "*" | "**") {
        return true;
    }
    let (base, below) = match pattern.strip_suffix("/**") {
        Some(base) => (base, true),
        None => (pattern, false),
    };
    let (mut patterns, mut segments) = (base.split('/'), group.split('/'));
    loop {
        match (patterns.next(), segments.next()) {
            (Some(pattern), Some(segment)) if wildmatch::WildMatch::new(pattern).matches(segment) => {}
            (None, None) => return true,
            (None, Some(_)) => return below,
            (Some(_), _) => return false,
        }
    }
}
