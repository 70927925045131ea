//! Grants per resource, MLflow's older API (2.5 to 3.12): `experiments/permissions/...` and so on.
//!
//! Everything, also looking, takes MANAGE on the resource. `NO_PERMISSIONS` is a level here; it refuses, as DENY does.

use std::sync::Arc;

use axum::extract::State;
use serde_json::json;

use super::asked::{Asked, Params};
use super::grants::{require_manage, require_sight};
use super::terms::{level, new_selector, selector};
use super::{Answer, Parts, Refusal, shapes};
use crate::authz::{DEFAULT_WORKSPACE, Grant, ResourceKind, Selector, Subject, scorer_key};
use crate::store::{self, User};

/// How one kind of resource is called in this API.
#[derive(Debug)]
pub(super) struct Family {
    kind: ResourceKind,
    /// In the path, below a twin.
    pub(super) folder: &'static str,
    /// The parameters that name the resource.
    keys: &'static [&'static str],
    /// The one field of an answer.
    shape: &'static str,
    /// In messages.
    title: &'static str,
}

pub(super) static FAMILIES: [Family; 6] = [
    Family {
        kind: ResourceKind::Experiment,
        folder: "/2.0/mlflow/experiments/permissions/",
        keys: &["experiment_id"],
        shape: "experiment_permission",
        title: "Experiment permission",
    },
    Family {
        kind: ResourceKind::RegisteredModel,
        folder: "/2.0/mlflow/registered-models/permissions/",
        keys: &["name"],
        shape: "registered_model_permission",
        title: "Registered model permission",
    },
    Family {
        kind: ResourceKind::Scorer,
        folder: "/3.0/mlflow/scorers/permissions/",
        keys: &["experiment_id", "scorer_name"],
        shape: "scorer_permission",
        title: "Scorer permission",
    },
    Family {
        kind: ResourceKind::GatewaySecret,
        folder: "/3.0/mlflow/gateway/secrets/permissions/",
        keys: &["secret_id"],
        shape: "gateway_secret_permission",
        title: "Gateway secret permission",
    },
    Family {
        kind: ResourceKind::GatewayEndpoint,
        folder: "/3.0/mlflow/gateway/endpoints/permissions/",
        keys: &["endpoint_id"],
        shape: "gateway_endpoint_permission",
        title: "Gateway endpoint permission",
    },
    Family {
        kind: ResourceKind::GatewayModelDefinition,
        folder: "/3.0/mlflow/gateway/model-definitions/permissions/",
        keys: &["model_definition_id"],
        shape: "gateway_model_definition_permission",
        title: "Gateway model definition permission",
    },
];

/// `POST .../create`.
pub(super) async fn create(State(parts): State<Arc<Parts>>, asked: Asked, family: &Family) -> Answer {
    let params = asked.params()?;
    let named = family.named(&params, new_selector)?;
    require_manage(&parts, &asked, family.kind, &named.selector).await?;
    let name = params.text("username")?;
    let permission = level(params.text("permission")?)?;
    let user = parts.user(name).await?;
    let grant =
        Grant { subject: Subject::User(user.id), kind: family.kind, selector: named.selector.clone(), permission };
    let created = parts.store.create_grant(&asked.actor(), &grant).await;
    parts.authn.forget(user.id);
    created.map_err(|error| match error {
        store::Error::Exists(_) => Refusal::exists(named.exists(name)),
        store::Error::NotFound(_) => Refusal::no_user(name),
        other => other.into(),
    })?;
    Ok(family.show(&user, &grant).warning(parts.absence(grant.kind, &grant.selector).await))
}

/// `GET .../get`.
pub(super) async fn get(State(parts): State<Arc<Parts>>, asked: Asked, family: &Family) -> Answer {
    let params = asked.params()?;
    let named = family.named(&params, selector)?;
    require_sight(&parts, &asked, family.kind, &named.selector).await?;
    let name = params.text("username")?;
    let user = parts.user(name).await?;
    let grants = parts.store.grants_of(&Subject::User(user.id)).await?;
    let grant = grants.iter().find(|grant| grant.kind == family.kind && grant.selector == named.selector);
    let grant = grant.ok_or_else(|| Refusal::absent(named.absent(name)))?;
    Ok(family.show(&user, grant))
}

/// `PATCH .../update`.
pub(super) async fn update(State(parts): State<Arc<Parts>>, asked: Asked, family: &Family) -> Answer {
    let params = asked.params()?;
    let named = family.named(&params, selector)?;
    require_manage(&parts, &asked, family.kind, &named.selector).await?;
    let name = params.text("username")?;
    let permission = level(params.text("permission")?)?;
    let user = parts.user(name).await?;
    let grant =
        Grant { subject: Subject::User(user.id), kind: family.kind, selector: named.selector.clone(), permission };
    let updated = parts.store.update_grant(&asked.actor(), &grant).await;
    parts.authn.forget(user.id);
    updated.map_err(|error| named.not_there(error, name))?;
    Ok(shapes::Shape::done())
}

/// `DELETE .../delete`.
pub(super) async fn delete(State(parts): State<Arc<Parts>>, asked: Asked, family: &Family) -> Answer {
    let params = asked.params()?;
    let named = family.named(&params, selector)?;
    require_manage(&parts, &asked, family.kind, &named.selector).await?;
    let name = params.text("username")?;
    let user = parts.user(name).await?;
    let deleted = parts.store.delete_grant(&asked.actor(), &Subject::User(user.id), family.kind, &named.selector).await;
    parts.authn.forget(user.id);
    deleted.map_err(|error| named.not_there(error, name))?;
    Ok(shapes::Shape::done())
}

/// The resource that a request names.
#[derive(Debug)]
struct Named<'f> {
    family: &'f Family,
    selector: Selector,
    /// The parameters, as messages show them.
    shown: Vec<String>,
}

impl Family {
    fn named(
        &self,
        params: &Params,
        read: fn(ResourceKind, &str) -> Result<Selector, Refusal>,
    ) -> Result<Named<'_>, Refusal> {
        let values = self.keys.iter().map(|key| params.text(key)).collect::<Result<Vec<_>, _>>()?;
        let selector = match *values.as_slice() {
            [experiment, scorer] => read(self.kind, &scorer_key(experiment, scorer))?,
            _ => read(self.kind, values.first().copied().unwrap_or_default())?,
        };
        let shown = self.keys.iter().zip(&values).map(|(key, value)| format!("{key}={value}"));
        let workspace = self.names_workspace().then(|| format!("workspace={DEFAULT_WORKSPACE}"));
        Ok(Named { family: self, selector, shown: workspace.into_iter().chain(shown).collect() })
    }

    /// MLflow does so for registered models only.
    fn names_workspace(&self) -> bool {
        self.kind == ResourceKind::RegisteredModel
    }

    fn show(&self, user: &User, grant: &Grant) -> shapes::Shape {
        shapes::Shape::ok(shapes::with(json!({}), self.shape, shapes::own(user, grant)))
    }
}

impl Named<'_> {
    fn not_there(&self, error: store::Error, user: &str) -> Refusal {
        match error {
            store::Error::NotFound(_) => Refusal::absent(self.absent(user)),
            other => other.into(),
        }
    }

    /// MLflow's words, without the SQL that follows them there.
    fn exists(&self, user: &str) -> String {
        let (title, shown) = (self.family.title, self.shown.join(", "));
        if self.family.names_workspace() {
            return format!("{title} with {shown} and username={user} already exists.");
        }
        format!("{title} ({shown}, username={user}) already exists.")
    }

    /// Compared letter for letter by MLflow's own tests.
    fn absent(&self, user: &str) -> String {
        let (title, shown) = (self.family.title, self.shown.join(", "));
        let and = if self.family.keys.len() > 1 { ", and" } else { " and" };
        format!("{title} with {shown}{and} username={user} not found")
    }
}
