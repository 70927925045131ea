//! Parsers for the resource type, pattern and level of a grant, with MLflow's messages for invalid ones.

use super::Refusal;
use crate::authz::{Permission, ResourceKind, Selector, SelectorError};
use crate::http::Reply;

/// Parses a resource type that can be granted to a role.
pub(crate) fn kind(word: &str) -> Result<ResourceKind, Refusal> {
    // MLflow has no such type: jobs are granted only to their creators, by the proxy.
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

/// Parses a resource type that can be granted to a user.
pub(crate) fn user_kind(word: &str) -> Result<ResourceKind, Refusal> {
    match kind(word)? {
        ResourceKind::Workspace => Err(Reply::invalid(
            "resource_type 'workspace' is not supported by the per-user permission convenience APIs. Use \
             set_workspace_permission / delete_workspace_permission for workspace-wide grants.",
        )
        .into()),
        kind => Ok(kind),
    }
}

/// Parses the selector of a new grant. One that can never match is refused.
pub(crate) fn new_selector(kind: ResourceKind, text: &str) -> Result<Selector, Refusal> {
    read_selector(kind, text, Selector::parse_new)
}

/// Parses the selector of an existing grant.
pub(crate) fn selector(kind: ResourceKind, text: &str) -> Result<Selector, Refusal> {
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

/// Parses a level.
pub(crate) fn level(word: &str) -> Result<Permission, Refusal> {
    word.parse().map_err(|_| {
        let valid = quoted(Permission::ALL.map(Permission::as_str));
        Reply::invalid(format!("Invalid permission '{word}'. Valid permissions are: {valid}")).into()
    })
}

/// Parses a level that is valid for `kind`, for MLflow's newer API, which has no `NO_PERMISSIONS`.
pub(crate) fn level_for(kind: ResourceKind, word: &str) -> Result<Permission, Refusal> {
    one_of(kind, word, |level| level != Permission::NoPermissions && kind.takes(level))
}

/// Parses a level that is valid for `kind`.
pub(crate) fn any_level_for(kind: ResourceKind, word: &str) -> Result<Permission, Refusal> {
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

/// Formats words as Python prints a tuple of strings.
fn quoted<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let words: Vec<_> = words.into_iter().map(|word| format!("'{word}'")).collect();
    format!("({})", words.join(", "))
}
