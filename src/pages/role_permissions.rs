//! What roles give: `roles/permissions/{add,update,remove,list}` (MLflow 3.12 on).
//!
//! A permission's number is that of its grant, also where the role stands for what one user was granted.

use std::sync::Arc;

use axum::extract::State;
use serde_json::{Value, json};

use super::asked::Asked;
use super::{Answer, Parts, Refusal, held, shapes, terms};
use crate::authz::{Grant, RoleId};
use crate::store::{self, GrantRow};

/// `POST roles/permissions/add`: never changes one that exists.
pub(super) async fn add(State(parts): State<Arc<Parts>>, asked: Asked) -> Answer {
    let params = asked.params()?;
    let role = parts.role_to_manage(&asked, RoleId(params.integer("role_id")?)).await?;
    let (word, pattern) = (params.text("resource_type")?, params.text("resource_pattern")?);
    let level = params.text("permission")?;
    // Where several things are wrong, MLflow speaks of the level first.
    terms::level(level)?;
    let kind = terms::kind(word)?;
    let permission = terms::level_for(kind, level)?;
    let selector = terms::new_selector(kind, pattern)?;
    let grant = Grant { subject: held::subject(role.id), kind, selector, permission };
    let added = parts.store.create_grant(&asked.actor(), &grant).await;
    parts.authn.forget_all();
    let id = added.map_err(|error| match error {
        store::Error::Exists(_) => Refusal::exists(format!(
            "Role permission (role_id={}, resource_type={kind}, resource_pattern={pattern}) already exists.",
            role.id
        )),
        store::Error::NotFound(_) => Refusal::absent(format!("Role with id={} not found", role.id)),
        other => other.into(),
    })?;
    let warning = parts.absence(grant.kind, &grant.selector).await;
    Ok(shape(role.id, &GrantRow { id, grant }).warning(warning))
}

/// `PATCH roles/permissions/update`.
pub(super) async fn update(State(parts): State<Arc<Parts>>, asked: Asked) -> Answer {
    let params = asked.params()?;
    let (role, mut row) = parts.permission(&asked, params.integer("role_permission_id")?).await?;
    row.grant.permission = terms::level_for(row.grant.kind, params.text("permission")?)?;
    let updated = parts.store.update_grant(&asked.actor(), &row.grant).await;
    parts.authn.forget_all();
    updated.map_err(|error| gone(error, row.id))?;
    Ok(shape(role, &row))
}

/// `DELETE roles/permissions/remove`.
pub(super) async fn remove(State(parts): State<Arc<Parts>>, asked: Asked) -> Answer {
    let params = asked.params()?;
    let (_, GrantRow { id, grant }) = parts.permission(&asked, params.integer("role_permission_id")?).await?;
    let removed = parts.store.delete_grant(&asked.actor(), &grant.subject, grant.kind, &grant.selector).await;
    parts.authn.forget_all();
    removed.map_err(|error| gone(error, id))?;
    Ok(shapes::Shape::done())
}

/// `GET roles/permissions/list?role_id=`.
pub(super) async fn list(State(parts): State<Arc<Parts>>, asked: Asked) -> Answer {
    let role = parts.visible_role(&asked, &asked.params()?).await?;
    let rows = Value::from_iter(role.grants.iter().map(|row| shapes::role_permission(role.id, row)));
    Ok(shapes::Shape::ok(json!({ "role_permissions": rows })))
}

impl Parts {
    /// The permission of this number with its role, when the caller may change it.
    async fn permission(&self, asked: &Asked, id: i64) -> Result<(RoleId, GrantRow), Refusal> {
        let row = self.store.grant_row(id).await?;
        let found = row.and_then(|row| Some((held::role_of(&row)?, row)));
        let (role, row) = found.ok_or_else(|| self.absent_to(asked, absent(id)))?;
        self.role_to_manage(asked, role).await?;
        Ok((role, row))
    }
}

fn gone(error: store::Error, id: i64) -> Refusal {
    match error {
        store::Error::NotFound(_) => absent(id),
        other => other.into(),
    }
}

fn absent(id: i64) -> Refusal {
    Refusal::absent(format!("Role permission with id={id} not found"))
}

fn shape(role: RoleId, row: &GrantRow) -> shapes::Shape {
    shapes::Shape::ok(json!({ "role_permission": shapes::role_permission(role, row) }))
}
