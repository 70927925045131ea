//! The words of a grant as requests write them, type, pattern and level, and MLflow's words for those it does not take.

use super::Refusal;
use crate::authz::{Permission, ResourceKind, Selector, SelectorError};
use crate::http::Reply;

/// Reads a type of resource that a role may be granted.
pub(super) fn kind(word: &str) -> Result<ResourceKind, Refusal> {
    // A job is its creator's: MLflow has no such type.
    match word.parse() {
        Ok(kind) if kind != ResourceKind::Job => Ok(kind),
        Ok(_) | Err(_) => {
            let mut types: Vec<_> = ResourceKind::ALL.into_iter().filter(|kind| *kind != ResourceKind::Job).collect();
            types.sort_unstable_by_key(|kind| kind.as_str());
            let types = quoted(types.into_iter().map(ResourceKind::as_str));
            Err(Reply::invalid(format!("Invalid resource type '{word}'. Valid resource types are: {types}")).into())
        }
    }
}

/// Reads a type of resource that a user may be granted.
pub(super) fn users_kind(word: &str) -> Result<ResourceKind, Refusal> {
    match kind(word)? {
        ResourceKind::Workspace => Err(Reply::invalid(
            "resource_type 'workspace' is not supported by the per-user permission convenience APIs. Use \
             set_workspace_permission / delete_workspace_permission for workspace-wide grants.",
        )
        .into()),
        kind => Ok(kind),
    }
}

/// Reads a selector for a new grant, which must be able to match something.
pub(super) fn new_selector(kind: ResourceKind, text: &str) -> Result<Selector, Refusal> {
    read_selector(kind, text, Selector::parse_new)
}

/// Reads a selector.
pub(super) fn selector(kind: ResourceKind, text: &str) -> Result<Selector, Refusal> {
    read_selector(kind, text, Selector::parse)
}

fn read_selector(
    kind: ResourceKind,
    text: &str,
    parse: fn(ResourceKind, &str) -> Result<Selector, SelectorError>,
) -> Result<Selector, Refusal> {
    let no_name = kind == ResourceKind::Scorer && !text.contains('/');
    match parse(kind, text) {
        Ok(Selector::Exact(_)) | Err(SelectorError::NeverMatches(..)) if no_name => {
            Err(Reply::invalid("Invalid scorer resource_id. Expected '<experiment_id>/<scorer_name>'.").into())
        }
        Ok(selector) => Ok(selector),
        Err(error) => {
            let what = format!("Invalid resource_pattern '{text}' for resource_type='{kind}'");
            Err(Reply::invalid(match error {
                SelectorError::OnlyAll(_) => {
                    format!("{what}. This resource type supports only wildcard ('*') grants.")
                }
                other => format!("{what}: {other}."),
            })
            .into())
        }
    }
}

/// Reads a level.
pub(super) fn level(word: &str) -> Result<Permission, Refusal> {
    word.parse().map_err(|_| {
        let valid = quoted(Permission::ALL.map(Permission::as_str));
        Reply::invalid(format!("Invalid permission '{word}'. Valid permissions are: {valid}")).into()
    })
}

/// Reads a level for this type, in the newer API, which does not take `NO_PERMISSIONS`.
pub(super) fn level_for(kind: ResourceKind, word: &str) -> Result<Permission, Refusal> {
    one_of(kind, word, |level| level != Permission::NoPermissions && kind.takes(level))
}

/// Reads a level for this type.
pub(super) fn any_level_for(kind: ResourceKind, word: &str) -> Result<Permission, Refusal> {
    one_of(kind, word, |level| kind.takes(level))
}

fn one_of(kind: ResourceKind, word: &str, takes: impl Fn(Permission) -> bool) -> Result<Permission, Refusal> {
    let level = level(word)?;
    if takes(level) {
        return Ok(level);
    }
    let what = if kind == ResourceKind::Workspace { "Workspace-wide" } else { "Resource-level" };
    let mut taken: Vec<_> = Permission::ALL.into_iter().filter(|level| takes(*level)).map(Permission::as_str).collect();
    taken.sort_unstable();
    let taken = quoted(taken);
    Err(Reply::invalid(format!(
        "Invalid permission '{word}' for resource_type='{kind}'. {what} grants accept only: {taken}."
    ))
    .into())
}

/// As Python shows a tuple of strings.
fn quoted<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let words: Vec<_> = words.into_iter().map(|word| format!("'{word}'")).collect();
    format!("({})", words.join(", "))
}
