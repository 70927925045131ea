//! Grants: `users/permissions/*` of MLflow 3.13 and later, and the permission API of single resources before that.

use serde_json::{Value, json};

use super::{Action, Answer, Call, Pages, already, denied, missing, refused, subject};
use crate::authz::{Grant, Permission, Resource, ResourceKind, Selector, UserId};
use crate::http::Reply;
use crate::store;

impl Pages {
    pub(super) async fn list_permissions(&self, user: UserId, admin: bool) -> Answer {
        let grants = self.store.grants_of(&subject(user)).await.map_err(refused)?;
        let row = |grant: &Grant| {
            json!({
                // MLflow keeps direct grants in a role of the user's own; its pages know it by this name.
                "role_id": user.0,
                "role_name": format!("__user_{user}__"),
                "workspace": "default",
                "resource_type": grant.kind.as_str(),
                "resource_pattern": grant.selector.to_string(),
                "permission": grant.permission.as_str(),
            })
        };
        Ok(json!({ "is_admin": admin, "permissions": grants.iter().map(row).collect::<Vec<Value>>() }))
    }

    pub(super) async fn permissions_of(&self, call: &Call) -> Answer {
        let name = call.fields.text("username")?;
        if !call.who.admin && *call.who.name != *name {
            return Err(denied("This needs an administrator."));
        }
        let user = self.user(name).await?;
        self.list_permissions(user.id, user.admin).await
    }

    pub(super) async fn get_permission(&self, call: &Call) -> Answer {
        let name = call.fields.text("username")?;
        let (kind, key) = (kind(call)?, call.fields.text("resource_id")?);
        if !call.who.admin && *call.who.name != *name {
            return Err(denied("This needs an administrator."));
        }
        let user = self.user(name).await?;
        let grants = self.store.grants_of(&subject(user.id)).await.map_err(refused)?;
        let set: crate::authz::GrantSet = grants.into_iter().collect();
        let level = match set.level(kind, key) {
            _ if user.admin => Permission::Manage,
            None => self.policy.default_permission,
            Some(level) if level.refuses() => level,
            Some(level) => level.max(self.policy.default_permission),
        };
        Ok(json!({ "allowed": level.covers(Permission::Use), "permission": level.as_str() }))
    }

    pub(super) async fn grant_permission(&self, call: &Call) -> Answer {
        let (kind, key) = (kind(call)?, call.fields.text("resource_id")?);
        let (name, permission) = (call.fields.text("username")?, permission(call)?);
        let selector = self.shareable(call, kind, key)?;
        let user = self.user(name).await?;
        let grant = Grant { subject: subject(user.id), kind, selector, permission };
        self.store.create_grant(&call.actor(), &grant).await.map_err(|error| match error {
            store::Error::Exists(_) => already(format!(
                "Permission for username={name}, resource_type={kind}, resource_id={key} already exists."
            )),
            other => refused(other),
        })?;
        self.authn.forget(user.id);
        Ok(json!({}))
    }

    pub(super) async fn revoke_permission(&self, call: &Call) -> Answer {
        let (kind, key) = (kind(call)?, call.fields.text("resource_id")?);
        let name = call.fields.text("username")?;
        let selector = self.shareable(call, kind, key)?;
        let user = self.user(name).await?;
        let gone = self.store.delete_grant(&call.actor(), &subject(user.id), kind, &selector).await;
        gone.map_err(|error| match error {
            store::Error::NotFound(_) => {
                missing(format!("Permission for username={name}, resource_type={kind}, resource_id={key} not found."))
            }
            other => refused(other),
        })?;
        self.authn.forget(user.id);
        Ok(json!({}))
    }

    /// `experiments|registered-models/permissions/{create,get,update,delete}`
    pub(super) async fn of_resource(&self, call: &Call, kind: ResourceKind, action: Action) -> Answer {
        let field = if kind == ResourceKind::Experiment { "experiment_id" } else { "name" };
        let (key, name) = (call.fields.text(field)?, call.fields.text("username")?);
        let selector = self.shareable(call, kind, key)?;
        let user = self.user(name).await?;
        let subject = subject(user.id);
        let absent = || match kind {
            ResourceKind::Experiment => {
                missing(format!("Experiment permission with experiment_id={key} and username={name} not found"))
            }
            _ => missing(format!(
                "Registered model permission with workspace=default, name={key} and username={name} not found"
            )),
        };
        let found = |error| match error {
            store::Error::NotFound(_) => absent(),
            store::Error::Exists(_) => match kind {
                ResourceKind::Experiment => {
                    already(format!("Experiment permission (experiment_id={key}, username={name}) already exists."))
                }
                _ => already(format!(
                    "Registered model permission (workspace=default, name={key}, username={name}) already exists."
                )),
            },
            other => refused(other),
        };
        match action {
            Action::Create => {
                let grant = Grant { subject, kind, selector, permission: permission(call)? };
                self.store.create_grant(&call.actor(), &grant).await.map_err(found)?;
                self.authn.forget(user.id);
                Ok(shown(&grant, user.id))
            }
            Action::Get => {
                let grants = self.store.grants_of(&subject).await.map_err(refused)?;
                let grant = grants.iter().find(|grant| grant.kind == kind && grant.selector == selector);
                Ok(shown(grant.ok_or_else(absent)?, user.id))
            }
            Action::Update => {
                let grant = Grant { subject, kind, selector, permission: permission(call)? };
                self.store.update_grant(&call.actor(), &grant).await.map_err(found)?;
                self.authn.forget(user.id);
                Ok(json!({}))
            }
            Action::Delete => {
                self.store.delete_grant(&call.actor(), &subject, kind, &selector).await.map_err(found)?;
                self.authn.forget(user.id);
                Ok(json!({}))
            }
        }
    }

    /// The selector for a key, if the caller may share it: MANAGE on one thing, an administrator for all of them.
    fn shareable(&self, call: &Call, kind: ResourceKind, key: &str) -> Result<Selector, Reply> {
        if key == "*" {
            call.must_be_admin()?;
            return Ok(Selector::All);
        }
        if key.is_empty() || key.chars().count() > Selector::MAX_CHARS || key.contains(char::is_control) {
            return Err(Reply::invalid(format!(
                "Invalid resource id. Use 1 to {} characters, or `*`.",
                Selector::MAX_CHARS
            )));
        }
        self.must_manage(call, &Resource::new(kind, key))?;
        // MLflow knows names and `*` only: a name that looks like a glob is that name.
        Ok(Selector::Exact(key.to_owned()))
    }
}

fn kind(call: &Call) -> Result<ResourceKind, Reply> {
    let text = call.fields.text("resource_type")?;
    text.parse().map_err(|_| {
        let names: Vec<String> = ResourceKind::ALL.iter().map(|kind| format!("'{kind}'")).collect();
        Reply::invalid(format!("Invalid resource type '{text}'. Valid resource types are: ({})", names.join(", ")))
    })
}

fn permission(call: &Call) -> Result<Permission, Reply> {
    let text = call.fields.text("permission")?;
    text.parse().map_err(|_| {
        let names: Vec<String> = Permission::ALL.iter().map(|level| format!("'{level}'")).collect();
        Reply::invalid(format!("Invalid permission '{text}'. Valid permissions are: ({})", names.join(", ")))
    })
}

fn shown(grant: &Grant, user: UserId) -> Value {
    let (key, permission) = (grant.selector.to_string(), grant.permission.as_str());
    match grant.kind {
        ResourceKind::Experiment => json!({
            "experiment_permission": { "experiment_id": key, "user_id": user.0, "permission": permission },
        }),
        _ => json!({
            "registered_model_permission": {
                "name": key, "user_id": user.0, "permission": permission, "workspace": "default",
            },
        }),
    }
}
