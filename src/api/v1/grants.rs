//! `/auth/api/v1/grants`: grants to users, groups and roles, in the notation of the policy file.
//!
//! `{"to": {"group": "/ml/team-a"}, "on": {"experiment_id": "12"}, "permission": "EDIT"}`. A grant on one resource requires MANAGE on
//! it. Grants on patterns and grants to roles require an administrator.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use axum::extract::State;
use serde_json::{Value, json};

use crate::api::{ApiRequest, ApiResponse, ApiResult, Context, Params, Refusal, parse, views};
use crate::authz::{
    DEFAULT_WORKSPACE, Grant, Permission, ResourceKind, Selector, Source, Subject, Whom, read_target, read_whom,
    write_target,
};
use crate::http::Reply;
use crate::store;

/// `GET`: lists the grants of the store and of the policy file. With one key of `on` in the query, only the grants with exactly that
/// target, which requires MANAGE on it. Without, all grants, which requires an administrator.
pub(crate) async fn list(State(context): State<Arc<Context>>, request: ApiRequest) -> ApiResult {
    let query = request.query()?;
    let on: BTreeMap<String, String> = query.pairs().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    let (stored, wanted) = if on.is_empty() {
        context.require_workspace_admin_to_view(&request, DEFAULT_WORKSPACE)?;
        (context.store.grants().await?, None)
    } else {
        let (kind, selector) = target(&on)?;
        context.require_manage_to_view(&request, kind, &selector).await?;
        (context.store.grants_on(kind, &selector).await?, Some((kind, selector.to_string())))
    };
    let names = context.names_of_subjects().await?;
    let stored = stored.iter().filter(|grant| is_listed(grant.kind)).map(|grant| {
        let (kind, name) = subject(&grant.subject, &names);
        let (key, text) = write_target(grant.kind, &grant.selector);
        view((kind, &name), (&key, &text), grant.permission, Source::Store)
    });
    let file = context.authn.policies().enforced();
    let written = file.written().filter(|(_, _, kind, on, _)| {
        wanted.as_ref().is_none_or(|(wanted, selector)| wanted == kind && selector == on)
    });
    let written = written.map(|(source, principal, kind, on, permission)| {
        let selector = Selector::parse(kind, &on).unwrap_or(Selector::Exact(on));
        let (key, text) = write_target(kind, &selector);
        view((principal.kind(), principal.name()), (&key, &text), permission, source)
    });
    Ok(ApiResponse::ok(json!({ "grants": Value::from_iter(stored.chain(written)) })))
}

/// `PUT`: creates a grant, or changes its level.
pub(crate) async fn set(State(context): State<Arc<Context>>, request: ApiRequest) -> ApiResult {
    let NewGrant { grant, view } = context.new_grant(&request, &request.fields(&["to", "on", "permission"])?).await?;
    let set = context.store.set_grant(&request.actor(), &grant).await;
    set?;
    let warning = context.warn_if_missing(grant.kind, &grant.selector).await;
    Ok(ApiResponse::ok(granted(&view, warning.as_deref())).warning(warning))
}

/// `POST`: creates a grant. An existing one is an error.
pub(crate) async fn create(State(context): State<Arc<Context>>, request: ApiRequest) -> ApiResult {
    let NewGrant { grant, view } = context.new_grant(&request, &request.fields(&["to", "on", "permission"])?).await?;
    let created = context.store.create_grant(&request.actor(), &grant).await;
    created.map_err(|error| match error {
        store::Error::Exists(_) => Refusal::exists("This grant already exists. Change it with PUT.".to_owned()),
        other => other.into(),
    })?;
    let warning = context.warn_if_missing(grant.kind, &grant.selector).await;
    Ok(ApiResponse::created(granted(&view, warning.as_deref())).warning(warning))
}

/// `DELETE`, with `to` and `on` in a JSON body.
pub(crate) async fn revoke(State(context): State<Arc<Context>>, request: ApiRequest) -> ApiResult {
    let (principal, (kind, selector)) = context.manageable(&request, &request.fields(&["to", "on"])?).await?;
    let subject = context.subject(&principal).await?;
    let revoked = context.store.delete_grant(&request.actor(), &subject, kind, &selector).await;
    revoked.map_err(|error| match error {
        store::Error::NotFound(_) => Refusal::absent("There is no such grant.".to_owned()),
        other => other.into(),
    })?;
    Ok(ApiResponse::done())
}

fn granted(view: &Value, warning: Option<&str>) -> Value {
    let body = json!({ "grant": view });
    match warning {
        Some(warning) => views::with(body, "warning", warning),
        None => body,
    }
}

/// A grant that the caller is allowed to create, and its JSON.
struct NewGrant {
    grant: Grant,
    view: Value,
}

impl Context {
    async fn new_grant(&self, request: &ApiRequest, params: &Params) -> Result<NewGrant, Refusal> {
        let (principal, (kind, selector)) = self.manageable(request, params).await?;
        let permission = parse::any_level_for(kind, params.text("permission")?)?;
        let subject = self.subject(&principal).await?;
        let (key, text) = write_target(kind, &selector);
        let view = view((principal.kind(), principal.name()), (&key, &text), permission, Source::Store);
        Ok(NewGrant { grant: Grant { subject, kind, selector, permission }, view })
    }

    /// Returns principal and target of the request, after the access check. Called before the principal is looked up, so that callers
    /// without permission do not learn which users exist.
    async fn manageable(
        &self,
        request: &ApiRequest,
        params: &Params,
    ) -> Result<(Whom, (ResourceKind, Selector)), Refusal> {
        let (kind, selector) = target(&params.texts_by_name("on")?)?;
        let principal = read_whom(&params.texts_by_name("to")?);
        let principal =
            principal.map_err(|message| Reply::invalid(format!("Invalid value for parameter 'to': {message}.")))?;
        self.require_manage(request, kind, &selector).await?;
        if matches!(principal, Whom::Role(_)) {
            self.require_workspace_admin(request, DEFAULT_WORKSPACE)?;
        }
        Ok((principal, (kind, selector)))
    }

    /// Returns the stored subject of a principal's name.
    async fn subject(&self, principal: &Whom) -> Result<Subject, Refusal> {
        match principal {
            Whom::Everybody => {
                let message = "Grants to all users belong in the policy file. Name a user, a group or a role.";
                Err(Reply::invalid(message).into())
            }
            Whom::User(name) => Ok(Subject::User(self.user(name).await?.id)),
            Whom::Group(group) => Ok(Subject::Group(group.clone())),
            Whom::Role(name) => {
                let role = self.store.role_by_name(DEFAULT_WORKSPACE, name).await?;
                let absent = || Refusal::absent(format!("Role with name={name} not found"));
                Ok(Subject::Role(role.ok_or_else(absent)?.id))
            }
        }
    }

    async fn names_of_subjects(&self) -> Result<HashMap<Subject, String>, Refusal> {
        let users = self.store.users().await?.into_iter().map(|user| (Subject::User(user.id), user.name));
        let roles = self.store.roles().await?.into_iter();
        let roles = roles.map(|role| {
            let home = role.workspace == DEFAULT_WORKSPACE;
            let name = if home { role.name } else { format!("{}/{}", role.workspace, role.name) };
            (Subject::Role(role.id), name)
        });
        Ok(users.chain(roles).collect())
    }
}

/// Returns true for kinds that this API lists. Jobs are granted by the proxy itself, workspaces through MLflow's API.
const fn is_listed(kind: ResourceKind) -> bool {
    !matches!(kind, ResourceKind::Job | ResourceKind::Workspace)
}

fn target(on: &BTreeMap<String, String>) -> Result<(ResourceKind, Selector), Refusal> {
    read_target(on).map_err(|message| Reply::invalid(format!("Invalid value for parameter 'on': {message}.")).into())
}

fn subject(subject: &Subject, names: &HashMap<Subject, String>) -> (&'static str, String) {
    let named = |otherwise: String| names.get(subject).cloned().unwrap_or(otherwise);
    match subject {
        Subject::User(id) => ("user", named(id.to_string())),
        Subject::Group(group) => ("group", group.clone()),
        Subject::Role(id) => ("role", named(id.to_string())),
    }
}

fn view(to: (&str, &str), on: (&str, &str), permission: Permission, source: Source) -> Value {
    json!({
        "to": { to.0: to.1 },
        "on": { on.0: on.1 },
        "permission": permission.as_str(),
        "source": source.to_string(),
    })
}
