//! Groups in claims, and patterns of groups.

use serde_json::Value;

use super::{ClaimError, Claims, GroupForm, GroupSource, MAX_GROUPS, at};
use crate::text;

/// In characters; longer ones can be in no grant.
const MAX_GROUP: usize = 500;

/// The groups that the configured claims say; `None` when none of them is there.
pub(super) fn said(rules: &Claims, documents: &[&Value]) -> Result<Option<Vec<String>>, ClaimError> {
    let mut groups = None;
    for source in &rules.groups {
        let Some(value) = documents.iter().find_map(|claims| at(claims, &source.claim)) else { continue };
        let groups: &mut Vec<String> = groups.get_or_insert_default();
        let values = match value {
            Value::Array(values) => values.as_slice(),
            // Anything else has no text in it and says nothing.
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
    // Nobody grants anything to what cannot be read.
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

/// Whether a group is one of those that a pattern means.
///
/// `*` and `?` stand for characters within one segment of a path; `/ml/**` is `/ml` and everything below, never `/mlx`; `*`
/// and `**` alone are every group. Letters are as they are: `/ML` is not `/ml`.
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
