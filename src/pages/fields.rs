//! The fields of a management request, read as `mlflow.server.auth` reads them.
//!
//! GET: the query. POST and PATCH: the JSON body. DELETE: the JSON body when there is one, else the query.

use bytes::Bytes;
use http::{Method, Request, header};

use crate::http::{Query, Reply};
use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::Value;

/// Names and values; each name once.
#[derive(Debug)]
pub(super) struct Fields(Vec<(String, Value)>);

impl Fields {
    pub(super) fn read(request: &Request<Bytes>) -> Result<Self, Reply> {
        let content_type = request.headers().get(header::CONTENT_TYPE).map(http::HeaderValue::as_bytes);
        let essence = content_type.and_then(|value| value.split(|byte| *byte == b';').next());
        let is_json = essence.is_some_and(|essence| essence.trim_ascii().eq_ignore_ascii_case(b"application/json"));
        match *request.method() {
            Method::GET => Self::of_query(request),
            Method::DELETE if !is_json => {
                if request.body().is_empty() {
                    return Self::of_query(request);
                }
                Err(Reply::invalid("Invalid content type. Must be application/json"))
            }
            // Some requests of ours need no body at all.
            _ if request.body().is_empty() => Ok(Self(Vec::new())),
            _ if is_json => Self::of_body(request.body()),
            _ => Err(Reply::invalid("Invalid content type. Must be application/json")),
        }
    }

    fn of_query(request: &Request<Bytes>) -> Result<Self, Reply> {
        let query = Query::parse(request.uri().query().unwrap_or_default())
            .map_err(|error| Reply::invalid(format!("Invalid request: {error}.")))?;
        let mut fields = Vec::new();
        for (name, value) in query.pairs() {
            if fields.iter().any(|(known, _)| known == name) {
                return Err(Reply::invalid(format!("The parameter '{name}' is given more than once; give it once.")));
            }
            fields.push((name.to_owned(), Value::String(value.to_owned())));
        }
        Ok(Self(fields))
    }

    fn of_body(body: &[u8]) -> Result<Self, Reply> {
        let invalid =
            |error: serde_json::Error| Reply::invalid(format!("The request body is not a JSON object: {error}."));
        let text = std::str::from_utf8(body).map_err(|_| Reply::invalid("The request body is not UTF-8 text."))?;
        let mut reader = serde_json::Deserializer::from_str(text);
        let fields = reader.deserialize_map(Members).map_err(invalid)?;
        reader.end().map_err(invalid)?;
        Ok(Self(fields))
    }

    /// `null` is absent.
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value).filter(|value| !value.is_null())
    }

    /// A text that must be there.
    pub(super) fn text(&self, name: &str) -> Result<&str, Reply> {
        self.text_if_any(name)?.ok_or_else(|| required(name))
    }

    /// A text that may be absent.
    pub(super) fn text_if_any(&self, name: &str) -> Result<Option<&str>, Reply> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => {
                Err(Reply::invalid(format!("Invalid value for parameter '{name}' supplied: it must be a string.")))
            }
        }
    }

    /// A whole number, also as a text.
    pub(super) fn integer(&self, name: &str) -> Result<i64, Reply> {
        let value = self.get(name).ok_or_else(|| required(name))?;
        let number = match value {
            Value::Number(number) => number.as_i64(),
            Value::String(text) => text.parse().ok(),
            _ => None,
        };
        let shown = value.to_string().replace('"', "'");
        number.ok_or_else(|| Reply::invalid(format!("Parameter '{name}' must be an integer. Got: {shown}")))
    }
}

fn required(name: &str) -> Reply {
    Reply::invalid(format!(
        "Missing value for required parameter '{name}'. See the API docs for more information about request parameters."
    ))
}

struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Vec<(String, Value)>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members: Vec<(String, Value)> = Vec::new();
        while let Some((key, value)) = map.next_entry::<String, Value>()? {
            if members.iter().any(|(known, _)| *known == key) {
                return Err(serde::de::Error::custom(format_args!("the key `{key}` stands twice")));
            }
            members.push((key, value));
        }
        Ok(members)
    }
}
