//! The extractor of API handlers: the caller and the parameters of a request, read strictly.
//!
//! Handlers read parameters after their first access check, so that a caller without permission gets 403 whatever the body
//! contains. That is why [`ApiRequest`] keeps the body as bytes instead of being a typed `Json`.
//!
//! MLflow 3.17 (`_get_request_param`) reads the parameters of GET from the query, of POST and PATCH from the JSON body, and of DELETE
//! from the body if its type is JSON, else from the query. MLflow takes the first of a repeated name; the proxy refuses it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use axum::body::to_bytes;
use axum::extract::{FromRequest, Request};
use bytes::Bytes;
use http::request::Parts as Head;
use http::{HeaderMap, Method, header};
use serde_json::Value;

use super::Refusal;
use super::fields::Fields;
use crate::authz::Identity;
use crate::http::{Query, Reply};
use crate::store::Actor;

/// Largest body of a request that the proxy answers itself, in bytes.
pub const MAX_BODY_BYTES: usize = 64 * 1024;

/// The sender of a request, an extension of the request.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// `None` without valid credentials, which only public routes allow.
    pub(crate) identity: Option<Arc<Identity>>,
    /// The client's address, after trusted proxies.
    pub(crate) address: IpAddr,
}

/// A request of an authenticated caller. The extractor of all handlers but those of public routes.
#[derive(Debug)]
pub(crate) struct ApiRequest {
    pub(crate) identity: Arc<Identity>,
    pub(crate) address: IpAddr,
    /// The proxy's address as the client wrote it: scheme, host and port.
    pub(crate) origin: String,
    method: Method,
    query: Option<String>,
    is_json: bool,
    is_form: bool,
    body: Bytes,
}

impl<S: Sync> FromRequest<S> for ApiRequest {
    type Rejection = Refusal;

    async fn from_request(request: Request, _: &S) -> Result<Self, Refusal> {
        let (mut head, body) = request.into_parts();
        let Caller { identity, address } = head.extensions.remove().ok_or_else(Refusal::internal)?;
        // A handler that takes this extractor cannot run without an identity, even if its route were declared public.
        let identity = identity.ok_or_else(Refusal::internal)?;
        let body = to_bytes(body, MAX_BODY_BYTES).await.map_err(|_| Refusal::too_large())?;
        Ok(Self {
            identity,
            address,
            origin: origin(&head),
            method: head.method.clone(),
            query: head.uri.query().map(str::to_owned),
            is_json: is_json(&head.headers),
            is_form: essence(&head.headers).is_some_and(|essence| essence == "application/x-www-form-urlencoded"),
            body,
        })
    }
}

impl ApiRequest {
    /// Returns the parameters, from the place where MLflow reads them.
    pub(crate) fn params(&self) -> Result<Params, Refusal> {
        let in_query = match self.method {
            Method::GET | Method::HEAD => true,
            Method::DELETE => !self.is_json,
            _ => false,
        };
        if in_query {
            return Ok(Params::Query(self.query()?));
        }
        // MLflow ignores a body of another type.
        let body: &[u8] = if self.is_json { &self.body } else { &[] };
        Ok(Params::Fields(Fields::parse(body)?))
    }

    /// Returns the parameters of the query, for every method.
    pub(crate) fn query(&self) -> Result<Query, Refusal> {
        let query = Query::parse(self.query.as_deref().unwrap_or_default());
        query.map_err(|error| Reply::invalid(format!("The query cannot be read: {error}.")).into())
    }

    /// Returns the JSON body of a request to the proxy's own API. Fields that are not in `known` are refused.
    pub(crate) fn fields(&self, known: &[&str]) -> Result<Params, Refusal> {
        if !self.is_json && !self.body.is_empty() {
            return Err(Self::not_json());
        }
        let fields = Fields::parse(&self.body)?;
        fields.only(known)?;
        Ok(Params::Fields(fields))
    }

    /// Returns the fields of a browser's form.
    pub(crate) fn form(&self) -> Result<Params, Refusal> {
        if !self.is_form {
            return Err(Reply::invalid("Invalid content type. Must be application/x-www-form-urlencoded").into());
        }
        let text = str::from_utf8(&self.body).map_err(|_| Reply::invalid("The request body is not UTF-8 text."))?;
        let form = Query::parse(text);
        let form = form.map_err(|error| Reply::invalid(format!("The form cannot be read: {error}.")))?;
        Ok(Params::Query(form))
    }

    /// Returns true if the body's type is JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.is_json
    }

    /// MLflow's answer to a body of another type than JSON.
    pub(crate) fn not_json() -> Refusal {
        Reply::invalid("Invalid content type. Must be application/json").into()
    }

    /// Returns the actor for the audit log.
    pub(crate) fn actor(&self) -> Actor {
        let token = self.identity.scheme.token();
        Actor { name: self.identity.name.to_string(), token, address: Some(self.address) }
    }

    /// Returns true if `name` is the caller's name.
    pub(crate) fn is(&self, name: &str) -> bool {
        *self.identity.name == *name
    }
}

/// The parameters of a request.
#[derive(Debug)]
pub(crate) enum Params {
    Query(Query),
    Fields(Fields),
}

impl Params {
    /// Returns a required text.
    pub(crate) fn text(&self, name: &str) -> Result<&str, Refusal> {
        self.optional_text(name)?.ok_or_else(|| missing(name))
    }

    /// Returns an optional text. `null` is an error.
    pub(crate) fn optional_text(&self, name: &str) -> Result<Option<&str>, Refusal> {
        match self {
            Self::Query(query) => query.only(name).map_err(|_| repeated(name)),
            Self::Fields(fields) => match fields.get(name) {
                None => Ok(None),
                Some(Value::String(text)) => Ok(Some(text)),
                Some(other) => Err(wrong(name, other)),
            },
        }
    }

    /// Returns a required text, and the empty text for `null`, as MLflow does.
    pub(crate) fn text_or_null(&self, name: &str) -> Result<&str, Refusal> {
        match self {
            Self::Fields(fields) if fields.get(name) == Some(&Value::Null) => Ok(""),
            Self::Fields(_) | Self::Query(_) => self.text(name),
        }
    }

    /// Returns an optional text, and `None` for `null`.
    pub(crate) fn text_unless_null(&self, name: &str) -> Result<Option<&str>, Refusal> {
        match self {
            Self::Fields(fields) if fields.get(name) == Some(&Value::Null) => Ok(None),
            Self::Fields(_) | Self::Query(_) => self.optional_text(name),
        }
    }

    /// Returns all values of a name that may be repeated in a query.
    pub(crate) fn repeated_text<'p>(&'p self, name: &'p str) -> Vec<&'p str> {
        match self {
            Self::Query(query) => query.all(name).collect(),
            Self::Fields(fields) => fields.get(name).and_then(Value::as_str).into_iter().collect(),
        }
    }

    /// Returns a required JSON boolean.
    pub(crate) fn boolean(&self, name: &str) -> Result<bool, Refusal> {
        match self.value(name)?.ok_or_else(|| missing(name))? {
            Value::Bool(value) => Ok(value),
            other => Err(wrong(name, &other)),
        }
    }

    /// Returns an optional JSON boolean.
    pub(crate) fn optional_boolean(&self, name: &str) -> Result<Option<bool>, Refusal> {
        match self.value(name)? {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(other) => Err(wrong(name, &other)),
        }
    }

    /// Returns an optional integer. In a query it is written as text.
    pub(crate) fn optional_integer(&self, name: &str) -> Result<Option<i64>, Refusal> {
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

    /// Returns a required integer.
    pub(crate) fn integer(&self, name: &str) -> Result<i64, Refusal> {
        self.optional_integer(name)?.ok_or_else(|| missing(name))
    }

    /// Returns a required object whose values are texts.
    pub(crate) fn texts_by_name(&self, name: &str) -> Result<BTreeMap<String, String>, Refusal> {
        let value = self.value(name)?.ok_or_else(|| missing(name))?;
        let texts = value.as_object().and_then(|members| {
            let texts = members.iter().map(|(key, text)| Some((key.clone(), text.as_str()?.to_owned())));
            texts.collect::<Option<BTreeMap<_, _>>>()
        });
        texts.ok_or_else(|| wrong(name, &value))
    }

    /// Returns an optional list of texts.
    pub(crate) fn optional_texts(&self, name: &str) -> Result<Vec<String>, Refusal> {
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

/// Returns the address that the client used. Only the `Origin` of a form shows whether that is https, because TLS may end in front of
/// the proxy. The edge has refused unreadable hosts.
fn origin(head: &Head) -> String {
    let text = |name| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let host = head.uri.authority().map_or_else(|| text(header::HOST), |authority| authority.as_str());
    let scheme = if text(header::ORIGIN).starts_with("https://") { "https" } else { "http" };
    format!("{scheme}://{host}")
}

/// Applies the rule of Flask's `Request.is_json`.
fn is_json(headers: &HeaderMap) -> bool {
    essence(headers).is_some_and(|essence| {
        essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
    })
}

/// Returns the media type of the body, without its parameters.
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

/// Refuses a value of a wrong type. Values that are long or may be secret are left out of the message.
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
    Reply::invalid(format!("Invalid value{shown} for parameter '{name}' supplied: it does not accept {kind}.")).into()
}
