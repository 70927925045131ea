//! `/auth/api/v1/grants`: grants to users, groups and roles, in the words of the policy file.
//!
//! `{"to": {"group": "/ml/team-a"}, "on": {"experiment_id": "12"}, "permission": "EDIT"}`. Who holds MANAGE on one thing
//! shares it; what speaks of many, and what is given to roles, is for administrators.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use axum::extract::State;
use serde_json::{Value, json};

use super::asked::{Asked, Params};
use super::grants::{require_manage, require_sight};
use super::{Answer, Parts, Refusal, shapes, terms};
use crate::authz::{
    DEFAULT_WORKSPACE, Grant, Permission, ResourceKind, Selector, Source, Subject, Whom, read_target, read_whom,
    write_target,
};
use crate::http::Reply;
use crate::store;

/// `GET`: what is granted, in the store and in the policy file. With one key of `on` in the query, what says exactly that;
/// it takes MANAGE there. Without any, everything, for administrators.
pub(super) async fn list(State(parts): State<Arc<Parts>>, asked: Asked) -> Answer {
    let query = asked.query()?;
    let on: BTreeMap<String, String> = query.pairs().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    let (stored, wanted) = if on.is_empty() {
        parts.require_sight_of(&asked, DEFAULT_WORKSPACE)?;
        (parts.store.grants().await?, None)
    } else {
        let (kind, selector) = target(&on)?;
        require_sight(&parts, &asked, kind, &selector).await?;
        (parts.store.grants_on(kind, &selector).await?, Some((kind, selector.to_string())))
    };
    let names = parts.names_of_subjects().await?;
    let stored = stored.iter().filter(|grant| is_sayable(grant.kind)).map(|grant| {
        let (kind, name) = subject(&grant.subject, &names);
        let (key, text) = write_target(grant.kind, &grant.selector);
        shape((kind, &name), (&key, &text), grant.permission, Source::Store)
    });
    let file = parts.authn.policies().enforced();
    let written = file.written().filter(|(_, _, kind, on, _)| {
        wanted.as_ref().is_none_or(|(wanted, selector)| wanted == kind && selector == on)
    });
    let written = written.map(|(source, whom, kind, on, permission)| {
        let selector = Selector::parse(kind, &on).unwrap_or(Selector::Exact(on));
        let (key, text) = write_target(kind, &selector);
        shape((whom.kind(), whom.name()), (&key, &text), permission, source)
    });
    Ok(shapes::Shape::ok(json!({ "grants": Value::from_iter(stored.chain(written)) })))
}

/// `PUT`: makes a grant or changes its level.
pub(super) async fn set(State(parts): State<Arc<Parts>>, asked: Asked) -> Answer {
    let Sentence { grant, shown } = parts.sentence(&asked, &asked.fields(&["to", "on", "permission"])?).await?;
    let set = parts.store.set_grant(&asked.actor(), &grant).await;
    parts.authn.forget_all();
    set?;
    let warning = parts.absence(grant.kind, &grant.selector).await;
    Ok(shapes::Shape::ok(granted(&shown, warning.as_deref())).warning(warning))
}

/// `POST`: the same, and never changes a grant that exists.
pub(super) async fn create(State(parts): State<Arc<Parts>>, asked: Asked) -> Answer {
    let Sentence { grant, shown } = parts.sentence(&asked, &asked.fields(&["to", "on", "permission"])?).await?;
    let created = parts.store.create_grant(&asked.actor(), &grant).await;
    parts.authn.forget_all();
    created.map_err(|error| match error {
        store::Error::Exists(_) => Refusal::exists("This grant already exists. Change it with PUT.".to_owned()),
        other => other.into(),
    })?;
    let warning = parts.absence(grant.kind, &grant.selector).await;
    Ok(shapes::Shape::created(granted(&shown, warning.as_deref())).warning(warning))
}

/// `DELETE`, with `to` and `on` in a JSON body.
pub(super) async fn revoke(State(parts): State<Arc<Parts>>, asked: Asked) -> Answer {
    let (whom, (kind, selector)) = parts.manageable(&asked, &asked.fields(&["to", "on"])?).await?;
    let subject = parts.subject(&whom).await?;
    let revoked = parts.store.delete_grant(&asked.actor(), &subject, kind, &selector).await;
    parts.authn.forget_all();
    revoked.map_err(|error| match error {
        store::Error::NotFound(_) => Refusal::absent("There is no such grant.".to_owned()),
        other => other.into(),
    })?;
    Ok(shapes::Shape::done())
}

fn granted(shown: &Value, warning: Option<&str>) -> Value {
    let body = json!({ "grant": shown });
    match warning {
        Some(warning) => shapes::with(body, "warning", warning),
        None => body,
    }
}

/// A grant that the caller may make.
struct Sentence {
    grant: Grant,
    shown: Value,
}

impl Parts {
    async fn sentence(&self, asked: &Asked, params: &Params) -> Result<Sentence, Refusal> {
        let (whom, (kind, selector)) = self.manageable(asked, params).await?;
        let permission = terms::any_level_for(kind, params.text("permission")?)?;
        let subject = self.subject(&whom).await?;
        let (key, text) = write_target(kind, &selector);
        let shown = shape((whom.kind(), whom.name()), (&key, &text), permission, Source::Store);
        Ok(Sentence { grant: Grant { subject, kind, selector, permission }, shown })
    }

    /// Whom and what the request speaks of, once it is known that the caller may. Before anything is said of a user.
    async fn manageable(&self, asked: &Asked, params: &Params) -> Result<(Whom, (ResourceKind, Selector)), Refusal> {
        let (kind, selector) = target(&params.texts_by_name("on")?)?;
        let whom = read_whom(&params.texts_by_name("to")?);
        let whom = whom.map_err(|message| Reply::invalid(format!("Invalid value for parameter 'to': {message}.")))?;
        require_manage(self, asked, kind, &selector).await?;
        if matches!(whom, Whom::Role(_)) {
            self.require_admin_of(asked, DEFAULT_WORKSPACE)?;
        }
        Ok((whom, (kind, selector)))
    }

    /// The stored subject that goes by this name.
    async fn subject(&self, whom: &Whom) -> Result<Subject, Refusal> {
        match whom {
            Whom::Everybody => {
                let message = "Grants to everybody are written in the policy file. Name a user, a group or a role.";
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

/// Jobs and workspaces are shown elsewhere: nobody writes sentences about them here.
const fn is_sayable(kind: ResourceKind) -> bool {
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

fn shape(to: (&str, &str), on: (&str, &str), permission: Permission, source: Source) -> Value {
    json!({
        "to": { to.0: to.1 },
        "on": { on.0: on.1 },
        "permission": permission.as_str(),
        "source": source.to_string(),
    })
}
