//! `allowed_actions` in MLflow's responses: the actions on an MCP server or a skill that the caller is allowed.
//!
//! MLflow's pages show and hide their buttons by this field. A server without auth allows all actions to every caller.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::authz::{DefaultPermission, Identity, Permission, Resource, ResourceKind, may};
use crate::mlflow::skill_key;

/// MLflow's name of each action, and the permission that it requires (`mlflow.server.auth._permission_to_allowed_actions`,
/// 3.17).
const ACTIONS: [(&str, Permission); 4] = [
    ("USE", Permission::Use),
    ("UPDATE", Permission::Edit),
    ("DELETE", Permission::Manage),
    ("MANAGE", Permission::Manage),
];

/// Adds the actions that `who` is allowed to one resource of this kind in MLflow's form. Returns `None` for any other text.
#[must_use]
pub fn with_actions(
    who: &Identity,
    default_permission: DefaultPermission,
    kind: ResourceKind,
    row: &str,
) -> Option<String> {
    rewritten(row, |members| {
        let text = |name: &str| {
            members.get(name).and_then(|value: &&RawValue| serde_json::from_str::<Option<String>>(value.get()).ok())
        };
        let name = text("name")??;
        let key = match kind {
            ResourceKind::Skill => skill_key(&text("organization").flatten().unwrap_or_default(), &name),
            _ => name,
        };
        let resource = Resource::new(kind, key);
        Some(
            ACTIONS
                .iter()
                .filter(|(_, level)| may(who, default_permission, *level, &resource))
                .map(|(action, _)| *action)
                .collect(),
        )
    })
}

/// Adds all actions to a resource, for its creator.
#[must_use]
pub fn with_all_actions(row: &str) -> Option<String> {
    rewritten(row, |_| Some(ACTIONS.iter().map(|(action, _)| *action).collect()))
}

fn rewritten(
    row: &str,
    actions: impl FnOnce(&BTreeMap<String, &RawValue>) -> Option<Vec<&'static str>>,
) -> Option<String> {
    let mut members: BTreeMap<String, &RawValue> = serde_json::from_str(row).ok()?;
    let actions = serde_json::value::to_raw_value(&actions(&members)?).ok()?;
    members.insert("allowed_actions".to_owned(), &actions);
    serde_json::to_string(&members).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_of_a_row_stays_as_mlflow_wrote_it() {
        let row = r#"{"name":"a/b","allowed_actions":["USE"],"tags":{"n":1.0,"big":123456789012345678901}}"#;
        let all = r#"{"allowed_actions":["USE","UPDATE","DELETE","MANAGE"],"name":"a/b","tags":{"n":1.0,"big":123456789012345678901}}"#;
        assert_eq!(with_all_actions(row).as_deref(), Some(all));
        for other in ["", "[]", "1", "{"] {
            assert_eq!(with_all_actions(other), None);
        }
    }
}
