//! The JSON object of an API request, read strictly: UTF-8, one value per name.
//!
//! MLflow takes the last of two values for one name. A gateway in front of the proxy may have inspected the first.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use super::Refusal;
use crate::http::Reply;

/// Fields of a JSON object.
#[derive(Debug, Default)]
pub(crate) struct Fields(BTreeMap<String, Value>);

impl Fields {
    /// Reads a body. An empty body, `null` and values other than objects have no fields, as in MLflow, which then answers that a
    /// parameter is missing.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, Refusal> {
        let text = str::from_utf8(body).map_err(|_| Reply::invalid("The request body is not UTF-8 text."))?;
        let text = text.trim_matches([' ', '\t', '\r', '\n']);
        if text.is_empty() {
            return Ok(Self::default());
        }
        let fields = if text.starts_with('{') {
            serde_json::from_str(text)
        } else {
            serde_json::from_str::<IgnoredAny>(text).map(|_| Self::default())
        };
        fields.map_err(|error| Reply::invalid(format!("The request body is not valid JSON: {error}.")).into())
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// Refuses unknown fields. A misspelt field would be ignored, and an ignored scope would widen a token.
    pub(crate) fn only(&self, known: &[&str]) -> Result<(), Refusal> {
        match self.0.keys().find(|name| !known.contains(&name.as_str())) {
            None => Ok(()),
            Some(name) => {
                let known = known.join("', '");
                Err(Reply::invalid(format!("There is no parameter '{name}'. Use '{known}'.")).into())
            }
        }
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(OneValuePerName)
    }
}

struct OneValuePerName;

impl<'de> Visitor<'de> for OneValuePerName {
    type Value = Fields;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
        let mut fields = Fields::default();
        while let Some((name, value)) = map.next_entry::<String, Value>()? {
            if fields.0.contains_key(&name) {
                return Err(A::Error::custom(format_args!("the key `{name}` is there twice")));
            }
            fields.0.insert(name, value);
        }
        Ok(fields)
    }
}
