//! Grants per resource, MLflow's older API (2.5 to 3.12): `{experiments,registered-models}/permissions/...`.
//!
//! Everything, also looking, takes MANAGE on the resource. `NO_PERMISSIONS` is a level here; it refuses, as DENY does.

use std::sync::Arc;

use axum::extract::State;
use serde_json::json;

use super::asked::{Asked, Params};
use super::grants::{managing, permission, selector};
use super::{Answer, Parts, Refusal, shapes};
use crate::authz::{Grant, ResourceKind, Selector, Subject};
use crate::store::{self, User};

/// How one kind of resource is called in this API.
#[derive(Debug)]
pub(super) struct Family {
    kind: ResourceKind,
    /// In the path.
    pub(super) folder: &'static str,
    /// The parameter that names the resource.
    key: &'static str,
    /// The one field of an answer.
    shape: &'static str,
}

pub(super) static EXPERIMENTS: Family = Family {
    kind: ResourceKind::Experiment,
    folder: "experiments",
    key: "experiment_id",
    shape: "experiment_permission",
};

pub(super) static REGISTERED_MODELS: Family = Family {
    kind: ResourceKind::RegisteredModel,
    folder: "registered-models",
    key: "name",
    shape: "registered_model_permission",
};

/// `POST .../create`.
pub(super) async fn create(State(parts): State<Arc<Parts>>, asked: Asked, family: &Family) -> Answer {
    let params = asked.params()?;
    let selector = family.selector(&params)?;
    parts.require(&asked, managing(family.kind, &selector))?;
    let name = params.text("username")?;
    let permission = permission(params.text("permission")?)?;
    let user = parts.user(name).await?;
    let grant = Grant { subject: Subject::User(user.id), kind: family.kind, selector, permission };
    let created = parts.store.create_grant(&asked.actor(), &grant).await;
    parts.authn.forget(user.id);
    created.map_err(|error| match error {
        store::Error::Exists(_) => Refusal::exists(family.exists(&grant.selector, name)),
        store::Error::NotFound(_) => Refusal::no_user(name),
        other => other.into(),
    })?;
    Ok(family.show(&user, &grant))
}

/// `GET .../get`.
pub(super) async fn get(State(parts): State<Arc<Parts>>, asked: Asked, family: &Family) -> Answer {
    let params = asked.params()?;
    let selector = family.selector(&params)?;
    parts.require_to_look(&asked, managing(family.kind, &selector))?;
    let name = params.text("username")?;
    let user = parts.user(name).await?;
    let grants = parts.store.grants_of(&Subject::User(user.id)).await?;
    let grant = grants.iter().find(|grant| grant.kind == family.kind && grant.selector == selector);
    let grant = grant.ok_or_else(|| Refusal::absent(family.absent(&selector, name)))?;
    Ok(family.show(&user, grant))
}

/// `PATCH .../update`.
pub(super) async fn update(State(parts): State<Arc<Parts>>, asked: Asked, family: &Family) -> Answer {
    let params = asked.params()?;
    let selector = family.selector(&params)?;
    parts.require(&asked, managing(family.kind, &selector))?;
    let name = params.text("username")?;
    let permission = permission(params.text("permission")?)?;
    let user = parts.user(name).await?;
    let grant = Grant { subject: Subject::User(user.id), kind: family.kind, selector, permission };
    let updated = parts.store.update_grant(&asked.actor(), &grant).await;
    parts.authn.forget(user.id);
    updated.map_err(|error| family.not_there(error, &grant.selector, name))?;
    Ok(shapes::Shape::done())
}

/// `DELETE .../delete`.
pub(super) async fn delete(State(parts): State<Arc<Parts>>, asked: Asked, family: &Family) -> Answer {
    let params = asked.params()?;
    let selector = family.selector(&params)?;
    parts.require(&asked, managing(family.kind, &selector))?;
    let name = params.text("username")?;
    let user = parts.user(name).await?;
    let deleted = parts.store.delete_grant(&asked.actor(), &Subject::User(user.id), family.kind, &selector).await;
    parts.authn.forget(user.id);
    deleted.map_err(|error| family.not_there(error, &selector, name))?;
    Ok(shapes::Shape::done())
}

impl Family {
    fn selector(&self, params: &Params) -> Result<Selector, Refusal> {
        selector(self.kind, params.text(self.key)?)
    }

    fn show(&self, user: &User, grant: &Grant) -> shapes::Shape {
        shapes::Shape::ok(shapes::with(json!({}), self.shape, shapes::own(user, grant)))
    }

    fn not_there(&self, error: store::Error, selector: &Selector, user: &str) -> Refusal {
        match error {
            store::Error::NotFound(_) => Refusal::absent(self.absent(selector, user)),
            other => other.into(),
        }
    }

    /// MLflow's words, without the SQL that follows them there.
    fn exists(&self, selector: &Selector, user: &str) -> String {
        match self.kind {
            ResourceKind::Experiment => {
                format!("Experiment permission (experiment_id={selector}, username={user}) already exists.")
            }
            _ => format!("{} already exists.", Self::model(selector, user)),
        }
    }

    /// Compared letter for letter by MLflow's own tests.
    fn absent(&self, selector: &Selector, user: &str) -> String {
        match self.kind {
            ResourceKind::Experiment => {
                format!("Experiment permission with experiment_id={selector} and username={user} not found")
            }
            _ => format!("{} not found", Self::model(selector, user)),
        }
    }

    fn model(selector: &Selector, user: &str) -> String {
        let workspace = shapes::WORKSPACE;
        format!("Registered model permission with workspace={workspace}, name={selector} and username={user}")
    }
}
