//! Permissions per resource, MLflow's older API (2.5 to 3.12): `experiments/permissions/...` and the like.
//!
//! All of it requires MANAGE on the resource, viewing included. `NO_PERMISSIONS` is a level here and refuses, as DENY does.

use std::sync::Arc;

use axum::extract::State;
use serde_json::json;

use crate::api::parse::{level, new_selector, selector};
use crate::api::{ApiRequest, ApiResponse, ApiResult, Context, Params, Refusal, views};
use crate::authz::{DEFAULT_WORKSPACE, Grant, Permission, ResourceKind, Selector, Subject, scorer_key};
use crate::store::{self, User};

/// The paths, parameters and fields of this API for one kind of resource.
#[derive(Debug)]
pub(crate) struct Family {
    kind: ResourceKind,
    /// Path of the routes, below `/api` and `/ajax-api`.
    pub(crate) folder: &'static str,
    /// The parameters that name the resource.
    keys: &'static [&'static str],
    /// The single field of an answer.
    field: &'static str,
    /// Name in messages.
    title: &'static str,
}

pub(crate) static FAMILIES: [Family; 6] = [
    Family {
        kind: ResourceKind::Experiment,
        folder: "/2.0/mlflow/experiments/permissions/",
        keys: &["experiment_id"],
        field: "experiment_permission",
        title: "Experiment permission",
    },
    Family {
        kind: ResourceKind::RegisteredModel,
        folder: "/2.0/mlflow/registered-models/permissions/",
        keys: &["name"],
        field: "registered_model_permission",
        title: "Registered model permission",
    },
    Family {
        kind: ResourceKind::Scorer,
        folder: "/3.0/mlflow/scorers/permissions/",
        keys: &["experiment_id", "scorer_name"],
        field: "scorer_permission",
        title: "Scorer permission",
    },
    Family {
        kind: ResourceKind::GatewaySecret,
        folder: "/3.0/mlflow/gateway/secrets/permissions/",
        keys: &["secret_id"],
        field: "gateway_secret_permission",
        title: "Gateway secret permission",
    },
    Family {
        kind: ResourceKind::GatewayEndpoint,
        folder: "/3.0/mlflow/gateway/endpoints/permissions/",
        keys: &["endpoint_id"],
        field: "gateway_endpoint_permission",
        title: "Gateway endpoint permission",
    },
    Family {
        kind: ResourceKind::GatewayModelDefinition,
        folder: "/3.0/mlflow/gateway/model-definitions/permissions/",
        keys: &["model_definition_id"],
        field: "gateway_model_definition_permission",
        title: "Gateway model definition permission",
    },
];

/// `POST .../create`.
pub(crate) async fn create(State(context): State<Arc<Context>>, request: ApiRequest, family: &Family) -> ApiResult {
    let params = request.params()?;
    let named = family.named(&params, new_selector)?;
    context.require_manage(&request, family.kind, &named.selector).await?;
    let name = params.text("username")?;
    let (user, grant) = grant(&context, &named, name, level(params.text("permission")?)?).await?;
    let created = context.store.create_grant(&request.actor(), &grant).await;
    created.map_err(|error| match error {
        store::Error::Exists(_) => Refusal::exists(named.exists(name)),
        store::Error::NotFound(_) => Refusal::no_user(name),
        other => other.into(),
    })?;
    Ok(family.show(&user, &grant).warning(context.warn_if_missing(grant.kind, &grant.selector).await))
}

/// Returns the user of this name, and a grant to them.
async fn grant(
    context: &Context,
    named: &Named<'_>,
    name: &str,
    permission: Permission,
) -> Result<(User, Grant), Refusal> {
    let user = context.user(name).await?;
    let (subject, kind) = (Subject::User(user.id), named.family.kind);
    Ok((user, Grant { subject, kind, selector: named.selector.clone(), permission }))
}

/// `GET .../get`.
pub(crate) async fn get(State(context): State<Arc<Context>>, request: ApiRequest, family: &Family) -> ApiResult {
    let params = request.params()?;
    let named = family.named(&params, selector)?;
    context.require_manage_to_view(&request, family.kind, &named.selector).await?;
    let name = params.text("username")?;
    let user = context.user(name).await?;
    let grants = context.store.grants_of(&Subject::User(user.id)).await?;
    let grant = grants.iter().find(|grant| grant.kind == family.kind && grant.selector == named.selector);
    let grant = grant.ok_or_else(|| Refusal::absent(named.absent(name)))?;
    Ok(family.show(&user, grant))
}

/// `PATCH .../update`.
pub(crate) async fn update(State(context): State<Arc<Context>>, request: ApiRequest, family: &Family) -> ApiResult {
    let params = request.params()?;
    let named = family.named(&params, selector)?;
    context.require_manage(&request, family.kind, &named.selector).await?;
    let name = params.text("username")?;
    let (_, grant) = grant(&context, &named, name, level(params.text("permission")?)?).await?;
    let updated = context.store.update_grant(&request.actor(), &grant).await;
    updated.map_err(|error| named.not_there(error, name))?;
    Ok(ApiResponse::done())
}

/// `DELETE .../delete`.
pub(crate) async fn delete(State(context): State<Arc<Context>>, request: ApiRequest, family: &Family) -> ApiResult {
    let params = request.params()?;
    let named = family.named(&params, selector)?;
    context.require_manage(&request, family.kind, &named.selector).await?;
    let name = params.text("username")?;
    let user = context.user(name).await?;
    let deleted =
        context.store.delete_grant(&request.actor(), &Subject::User(user.id), family.kind, &named.selector).await;
    deleted.map_err(|error| named.not_there(error, name))?;
    Ok(ApiResponse::done())
}

/// The resource that a request identifies.
#[derive(Debug)]
struct Named<'f> {
    family: &'f Family,
    selector: Selector,
    /// The identifying parameters as they appear in messages.
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

    /// Returns true if messages name the workspace. MLflow does so for registered models only.
    fn names_workspace(&self) -> bool {
        self.kind == ResourceKind::RegisteredModel
    }

    fn show(&self, user: &User, grant: &Grant) -> ApiResponse {
        ApiResponse::ok(views::with(json!({}), self.field, views::grant(user, grant)))
    }
}

impl Named<'_> {
    fn not_there(&self, error: store::Error, user: &str) -> Refusal {
        match error {
            store::Error::NotFound(_) => Refusal::absent(self.absent(user)),
            other => other.into(),
        }
    }

    /// MLflow's message, without the SQL that follows it there.
    fn exists(&self, user: &str) -> String {
        let (title, shown) = (self.family.title, self.shown.join(", "));
        if self.family.names_workspace() {
            return format!("{title} with {shown} and username={user} already exists.");
        }
        format!("{title} ({shown}, username={user}) already exists.")
    }

    /// MLflow's tests compare this message literally.
    fn absent(&self, user: &str) -> String {
        let (title, shown) = (self.family.title, self.shown.join(", "));
        let and = if self.family.keys.len() > 1 { ", and" } else { " and" };
        format!("{title} with {shown}{and} username={user} not found")
    }
}
