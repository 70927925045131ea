//! One request as the answers see it: who asks, and its parameters, read strictly.
//!
//! Where MLflow 3.17 looks for parameters (`_get_request_param`): GET in the query, POST and PATCH in the JSON body,
//! DELETE in the JSON body when it says it is one, else in the query. It reads the first of a repeated name; we refuse.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use bytes::Bytes;
use http::request::Parts as Head;
use http::{HeaderMap, Method, header};
use serde_json::Value;

use super::json::Fields;
use super::{Parts, Refusal};
use crate::authz::{Denied, Identity, Requirement, Resource, authorize};
use crate::http::{Query, Reply};
use crate::store::{Actor, User};

/// What travels beside the request to its answer.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) identity: Arc<Identity>,
    pub(super) address: IpAddr,
    pub(super) body: Bytes,
}

/// One request.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) identity: Arc<Identity>,
    pub(super) address: IpAddr,
    /// What the client called us, as an address without a path.
    pub(super) called: String,
    method: Method,
    query: Option<String>,
    is_json: bool,
    is_form: bool,
    body: Bytes,
}

impl<S: Sync> FromRequestParts<S> for Asked {
    type Rejection = Refusal;

    async fn from_request_parts(head: &mut Head, _: &S) -> Result<Self, Refusal> {
        let Caller { identity, address, body } = head.extensions.remove().ok_or_else(Refusal::internal)?;
        Ok(Self {
            identity,
            address,
            called: called(head),
            method: head.method.clone(),
            query: head.uri.query().map(str::to_owned),
            is_json: is_json(&head.headers),
            is_form: essence(&head.headers).is_some_and(|essence| essence == "application/x-www-form-urlencoded"),
            body,
        })
    }
}

impl Asked {
    /// The parameters, from where MLflow looks for them.
    pub(super) fn params(&self) -> Result<Params, Refusal> {
        let in_query = match self.method {
            Method::GET | Method::HEAD => true,
            Method::DELETE => !self.is_json,
            _ => false,
        };
        if in_query {
            return Ok(Params::Query(self.query()?));
        }
        // As MLflow: a body that does not call itself JSON is as good as none.
        let body: &[u8] = if self.is_json { &self.body } else { &[] };
        Ok(Params::Fields(Fields::parse(body)?))
    }

    /// The query, whatever the method.
    pub(super) fn query(&self) -> Result<Query, Refusal> {
        let query = Query::parse(self.query.as_deref().unwrap_or_default());
        query.map_err(|error| Reply::invalid(format!("The query cannot be read: {error}.")).into())
    }

    /// The JSON body of a request to our own API, which may have no other fields than these.
    pub(super) fn fields(&self, known: &[&str]) -> Result<Params, Refusal> {
        if !self.is_json && !self.body.is_empty() {
            return Err(Self::not_json());
        }
        let fields = Fields::parse(&self.body)?;
        fields.only(known)?;
        Ok(Params::Fields(fields))
    }

    /// What a browser sends for a form.
    pub(super) fn form(&self) -> Result<Params, Refusal> {
        if !self.is_form {
            return Err(Reply::invalid("Invalid content type. Must be application/x-www-form-urlencoded").into());
        }
        let text = str::from_utf8(&self.body).map_err(|_| Reply::invalid("The request body is not UTF-8 text."))?;
        let form = Query::parse(text);
        let form = form.map_err(|error| Reply::invalid(format!("The form cannot be read: {error}.")))?;
        Ok(Params::Query(form))
    }

    /// Whether a body says of itself that it is JSON.
    pub(super) fn is_json(&self) -> bool {
        self.is_json
    }

    /// What MLflow says to a body that is not JSON.
    pub(super) fn not_json() -> Refusal {
        Reply::invalid("Invalid content type. Must be application/json").into()
    }

    /// For the audit.
    pub(super) fn actor(&self) -> Actor {
        let token = self.identity.scheme.token();
        Actor { name: self.identity.name.to_string(), token, address: Some(self.address) }
    }

    /// Whether `name` is the caller's own.
    pub(super) fn is(&self, name: &str) -> bool {
        *self.identity.name == *name
    }
}

impl Parts {
    /// Refuses who does not meet the requirement.
    pub(super) fn require(&self, asked: &Asked, requirement: Requirement) -> Result<(), Refusal> {
        let _permit = authorize(&asked.identity, self.policy, &[requirement])?;
        Ok(())
    }

    /// The same for somebody who only wants to look: a read-only token does, whatever level looking takes.
    pub(super) fn require_to_look(&self, asked: &Asked, requirement: Requirement) -> Result<(), Refusal> {
        let mut who = Identity::clone(&asked.identity);
        who.limits.read_only = false;
        let _permit = authorize(&who, self.policy, &[requirement])?;
        Ok(())
    }

    /// An administrator, of everything or of this workspace, who is about to change something.
    pub(super) fn require_admin_of(&self, asked: &Asked, workspace: &str) -> Result<(), Refusal> {
        self.require_of(asked, workspace, Requirement::Admin { change: true })
    }

    /// The same, who only wants to look.
    pub(super) fn require_sight_of(&self, asked: &Asked, workspace: &str) -> Result<(), Refusal> {
        self.require_of(asked, workspace, Requirement::Admin { change: false })
    }

    /// An administrator, of everything or of any workspace, who is about to change something.
    pub(super) fn require_admin_of_any(&self, asked: &Asked) -> Result<(), Refusal> {
        let mut who = Identity::clone(&asked.identity);
        who.admin |= who.grants.administers_any();
        let _permit = authorize(&who, self.policy, &[Requirement::Admin { change: true }])?;
        Ok(())
    }

    fn require_of(&self, asked: &Asked, workspace: &str, requirement: Requirement) -> Result<(), Refusal> {
        let mut who = Identity::clone(&asked.identity);
        who.admin = who.administers(workspace);
        let _permit = authorize(&who, self.policy, &[requirement])?;
        Ok(())
    }

    /// Oneself, or an administrator: who may read what belongs to one user.
    pub(super) fn require_self_or_admin(&self, asked: &Asked, name: &str) -> Result<(), Refusal> {
        if asked.is(name) { Ok(()) } else { self.require(asked, Requirement::Admin { change: false }) }
    }

    /// The resource under its name, where globs of this identity's ask for it.
    pub(super) async fn named(&self, who: &Identity, mut resource: Resource) -> Result<Resource, Refusal> {
        if who.needs_names() {
            self.resolver.name(&mut resource).await?;
        }
        Ok(resource)
    }

    /// The user of this name, or MLflow's 404. Ask only after it is known that the caller may know.
    pub(super) async fn user(&self, name: &str) -> Result<User, Refusal> {
        self.store.user_by_name(name).await?.ok_or_else(|| Refusal::no_user(name))
    }
}

/// Refuses a token what only its owner in person may do.
pub(super) fn refuse_tokens(asked: &Asked, what: &str) -> Result<(), Refusal> {
    if asked.identity.scheme.is_personal() {
        Ok(())
    } else if asked.identity.limits.read_only {
        Err(Denied::TokenIsReadOnly.into())
    } else {
        Err(Refusal::token_may_not(what))
    }
}

/// The parameters of a request.
#[derive(Debug)]
pub(super) enum Params {
    Query(Query),
    Fields(Fields),
}

impl Params {
    /// A text that must be there.
    pub(super) fn text(&self, name: &str) -> Result<&str, Refusal> {
        self.optional_text(name)?.ok_or_else(|| missing(name))
    }

    /// A text that may be absent. `null` is not absent.
    pub(super) fn optional_text(&self, name: &str) -> Result<Option<&str>, Refusal> {
        match self {
            Self::Query(query) => query.only(name).map_err(|_| repeated(name)),
            Self::Fields(fields) => match fields.get(name) {
                None => Ok(None),
                Some(Value::String(text)) => Ok(Some(text)),
                Some(other) => Err(wrong(name, other)),
            },
        }
    }

    /// A text that must be there, where MLflow reads `null` as the empty one.
    pub(super) fn text_or_null(&self, name: &str) -> Result<&str, Refusal> {
        match self {
            Self::Fields(fields) if fields.get(name) == Some(&Value::Null) => Ok(""),
            Self::Fields(_) | Self::Query(_) => self.text(name),
        }
    }

    /// A text that may be absent, also as `null`.
    pub(super) fn text_unless_null(&self, name: &str) -> Result<Option<&str>, Refusal> {
        match self {
            Self::Fields(fields) if fields.get(name) == Some(&Value::Null) => Ok(None),
            Self::Fields(_) | Self::Query(_) => self.optional_text(name),
        }
    }

    /// The values of a name that may stand more than once in a query.
    pub(super) fn repeated_text<'p>(&'p self, name: &'p str) -> Vec<&'p str> {
        match self {
            Self::Query(query) => query.all(name).collect(),
            Self::Fields(fields) => fields.get(name).and_then(Value::as_str).into_iter().collect(),
        }
    }

    /// A JSON boolean that must be there.
    pub(super) fn boolean(&self, name: &str) -> Result<bool, Refusal> {
        match self.value(name)?.ok_or_else(|| missing(name))? {
            Value::Bool(value) => Ok(value),
            other => Err(wrong(name, &other)),
        }
    }

    /// A JSON boolean that may be absent.
    pub(super) fn optional_boolean(&self, name: &str) -> Result<Option<bool>, Refusal> {
        match self.value(name)? {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(other) => Err(wrong(name, &other)),
        }
    }

    /// A whole number that may be absent; in a query, as text.
    pub(super) fn optional_integer(&self, name: &str) -> Result<Option<i64>, Refusal> {
        let not_one = |got: &dyn std::fmt::Display| -> Refusal {
            Reply::invalid(format!("Parameter '{name}' must be an integer. Got: {got}")).into()
        };
        match self.value(name)? {
            None => Ok(None),
            Some(Value::Number(number)) => number.as_i64().map(Some).ok_or_else(|| not_one(&number)),
            Some(Value::String(text)) if matches!(self, Self::Query(_)) => {
                text.parse().map(Some).map_err(|_| not_one(&format!("'{text}'")))
            }
            Some(other) => Err(not_one(&other)),
        }
    }

    /// A whole number that must be there.
    pub(super) fn integer(&self, name: &str) -> Result<i64, Refusal> {
        self.optional_integer(name)?.ok_or_else(|| missing(name))
    }

    /// An object of texts that must be there.
    pub(super) fn texts_by_name(&self, name: &str) -> Result<BTreeMap<String, String>, Refusal> {
        let value = self.value(name)?.ok_or_else(|| missing(name))?;
        let texts = value.as_object().and_then(|members| {
            let texts = members.iter().map(|(key, text)| Some((key.clone(), text.as_str()?.to_owned())));
            texts.collect::<Option<BTreeMap<_, _>>>()
        });
        texts.ok_or_else(|| wrong(name, &value))
    }

    /// A list of texts that may be absent.
    pub(super) fn optional_texts(&self, name: &str) -> Result<Vec<String>, Refusal> {
        let Some(value) = self.value(name)? else { return Ok(Vec::new()) };
        let texts = value.as_array().and_then(|items| {
            let texts = items.iter().map(|item| item.as_str().map(str::to_owned));
            texts.collect::<Option<Vec<_>>>()
        });
        texts.ok_or_else(|| wrong(name, &value))
    }

    fn value(&self, name: &str) -> Result<Option<Value>, Refusal> {
        match self {
            Self::Query(query) => {
                Ok(query.only(name).map_err(|_| repeated(name))?.map(|text| Value::String(text.to_owned())))
            }
            Self::Fields(fields) => Ok(fields.get(name).cloned()),
        }
    }
}

/// Without a host when that is unreadable, which the edge refuses. Only a browser's form says whether it is TLS, which may
/// also end in front of us.
fn called(head: &Head) -> String {
    let text = |name| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let host = head.uri.authority().map_or_else(|| text(header::HOST), |authority| authority.as_str());
    let scheme = if text(header::ORIGIN).starts_with("https://") { "https" } else { "http" };
    format!("{scheme}://{host}")
}

/// As Flask's `Request.is_json`.
fn is_json(headers: &HeaderMap) -> bool {
    essence(headers).is_some_and(|essence| {
        essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
    })
}

/// The type of the body, without its parameters.
fn essence(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    Some(value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}

fn missing(name: &str) -> Refusal {
    let sentence = "See the API docs for more information about request parameters.";
    Reply::invalid(format!("Missing value for required parameter '{name}'. {sentence}")).into()
}

fn repeated(name: &str) -> Refusal {
    Reply::invalid(format!("Parameter '{name}' is given more than once. Give it once.")).into()
}

/// Shows what is short and cannot be a secret.
fn wrong(name: &str, value: &Value) -> Refusal {
    let (shown, kind) = match value {
        Value::Null => (" null".to_owned(), "null"),
        Value::Bool(flag) => (format!(" {flag}"), "a boolean"),
        Value::Number(_) if name.contains("password") => (String::new(), "a number"),
        Value::Number(number) => (format!(" {number}"), "a number"),
        Value::String(_) => (String::new(), "a string"),
        Value::Array(_) => (String::new(), "an array"),
        Value::Object(_) => (String::new(), "an object"),
    };
    Reply::invalid(format!("Invalid value{shown} for parameter '{name}' supplied: it does not take {kind}.")).into()
}
