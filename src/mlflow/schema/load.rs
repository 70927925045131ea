//! Parses `requests.toml`.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Dialect, Enum, Field, Kind, MAX_FIELDS, Message, MessageId, RequestFields, Schema};

/// The reason why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    #[error("requests.toml: {0}")]
    Toml(#[from] toml::de::Error),
    #[error("requests.toml: `{place}`: {what}")]
    Entry { place: String, what: String },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default, rename = "enum")]
    enums: BTreeMap<String, BTreeMap<String, i32>>,
    #[serde(default, rename = "message")]
    messages: BTreeMap<String, BTreeMap<String, String>>,
    #[serde(default, rename = "object")]
    objects: BTreeMap<String, BTreeMap<String, String>>,
    #[serde(rename = "operation")]
    operations: BTreeMap<String, Places>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Places {
    query: Option<String>,
    body: Option<String>,
}

/// Indices of names, while types are read.
struct Names<'f> {
    enums: BTreeMap<&'f str, usize>,
    messages: BTreeMap<&'f str, MessageId>,
    /// The messages of an export of spans.
    exported: BTreeMap<&'f str, MessageId>,
}

impl Schema {
    /// Parses a schema.
    ///
    /// # Errors
    ///
    /// The text contains anything that is not fully recognised.
    pub fn parse(text: &str) -> Result<Self, SchemaError> {
        let file: File = toml::from_str(text)?;
        // Spans also occur as messages in MLflow's own requests, but use another dialect in an export.
        let exported = file.messages.iter().filter(|(name, _)| name.starts_with("otlp."));
        let objects: Vec<_> = (file.messages.iter().map(|entry| (Dialect::Protobuf, entry)))
            .chain(exported.map(|entry| (Dialect::Otlp, entry)))
            .chain(file.objects.iter().map(|entry| (Dialect::Plain, entry)))
            .collect();
        let mut names = Names {
            enums: file.enums.keys().enumerate().map(|(index, name)| (name.as_str(), index)).collect(),
            messages: BTreeMap::new(),
            exported: BTreeMap::new(),
        };
        for (index, (dialect, (name, _))) in objects.iter().enumerate() {
            let names = if *dialect == Dialect::Otlp { &mut names.exported } else { &mut names.messages };
            names.insert(name.as_str(), MessageId(index));
        }
        if names.messages.len() + names.exported.len() != objects.len() {
            return Err(wrong("object", "a message and an object have one name"));
        }
        let messages = objects
            .iter()
            .map(|(dialect, (name, fields))| names.message(*dialect, name, fields))
            .collect::<Result<_, _>>()?;
        let place = |place: Option<&String>| match place {
            None => Ok(None),
            Some(name) => match names.messages.get(name.as_str()) {
                Some(id) => Ok(Some(*id)),
                None => Err(wrong(name, "neither a message nor an object")),
            },
        };
        let operations = file.operations.iter().map(|(name, places)| {
            let fields = RequestFields { query: place(places.query.as_ref())?, body: place(places.body.as_ref())? };
            Ok((name.as_str().into(), fields))
        });
        let operations = operations.collect::<Result<_, SchemaError>>()?;
        let values =
            |values: &BTreeMap<String, i32>| values.iter().map(|(name, n)| (name.as_str().into(), *n)).collect();
        let enums = file.enums.values().map(|one| Enum { values: values(one) }).collect();
        let spans = names.exported.get("otlp.ExportTraceServiceRequest").copied();
        let empty = Message { dialect: Dialect::Plain, fields: Vec::new(), names: Vec::new(), rest: None };
        Ok(Self { messages, enums, operations, spans, empty })
    }
}

impl Names<'_> {
    fn message(
        &self,
        dialect: Dialect,
        name: &str,
        members: &BTreeMap<String, String>,
    ) -> Result<Message, SchemaError> {
        let mut groups: Vec<&str> = Vec::new();
        let mut message = Message { dialect, fields: Vec::new(), names: Vec::new(), rest: None };
        for (field, kind) in members {
            let (kind, group) = match kind.split_once(" @") {
                Some((kind, group)) => (kind, Some(group)),
                None => (kind.as_str(), None),
            };
            let kind = self.kind(dialect, kind).map_err(|what| wrong(&format!("{name}.{field}"), &what))?;
            if field == "*" {
                message.rest = Some(kind);
                continue;
            }
            let oneof = group.map(|group| {
                let known = groups.iter().position(|known| *known == group);
                known.unwrap_or_else(|| {
                    groups.push(group);
                    groups.len() - 1
                })
            });
            let index = message.fields.len();
            let camel = lower_camel(field);
            let spellings: &[&str] = match dialect {
                Dialect::Protobuf if camel != *field => &[field, &camel],
                Dialect::Protobuf | Dialect::Plain => &[field],
                Dialect::Otlp => &[&camel],
            };
            message.names.extend(spellings.iter().map(|name| ((*name).into(), index)));
            let name = spellings.first().copied().unwrap_or_default();
            let key = format!("\"{name}\":").into();
            let name = name.into();
            let oneof = oneof.and_then(|group| u32::try_from(group).ok());
            message.fields.push(Field { name, key, kind, oneof });
        }
        message.names.sort_unstable();
        if message.names.windows(2).any(|pair| matches!(pair, [one, other] if one.0 == other.0)) {
            return Err(wrong(name, "two fields have one spelling"));
        }
        if message.fields.len() > MAX_FIELDS {
            return Err(wrong(name, "too many fields"));
        }
        Ok(message)
    }

    fn kind(&self, dialect: Dialect, text: &str) -> Result<Kind, String> {
        let integer = |least: i128, most: i128| Kind::Integer { least, most };
        let inner = |inner: &str| self.kind(dialect, inner).map(Box::new);
        if let Some(item) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
            return Ok(Kind::Repeated(inner(item)?));
        }
        if let Some(item) = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')) {
            return Ok(Kind::Map(inner(item)?));
        }
        if text.contains('|') {
            return text
                .split('|')
                .map(|kind| self.kind(dialect, kind.trim()))
                .collect::<Result<_, _>>()
                .map(Kind::OneOf);
        }
        if let Some(name) = text.strip_prefix("enum ") {
            return self.enums.get(name).map(|index| Kind::Enum(*index)).ok_or_else(|| format!("no enum `{name}`"));
        }
        Ok(match text {
            "string" => Kind::String,
            "key" => Kind::Key,
            "int32" => integer(i32::MIN.into(), i32::MAX.into()),
            "int64" => integer(i64::MIN.into(), i64::MAX.into()),
            "uint32" => integer(0, u32::MAX.into()),
            "uint64" => integer(0, u64::MAX.into()),
            "float" => Kind::Number { most: f32::MAX.into() },
            "double" => Kind::Number { most: f64::MAX },
            "bool" => Kind::Bool,
            "null" => Kind::Null,
            "bytes" => Kind::Bytes,
            "struct" => Kind::Struct,
            "value" => Kind::Value,
            "list" => Kind::List,
            "timestamp" => Kind::Timestamp,
            "duration" => Kind::Duration,
            "fieldmask" => Kind::FieldMask,
            "any" => Kind::Any,
            "json" => Kind::JsonText,
            name => match (if dialect == Dialect::Otlp { &self.exported } else { &self.messages }).get(name) {
                Some(id) => Kind::Message(*id),
                None => return Err(format!("no type `{name}`")),
            },
        })
    }
}

/// Returns protobuf's JSON name of a field (`google/protobuf/descriptor.proto`, `json_name`).
fn lower_camel(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let mut upper = false;
    for letter in name.chars() {
        match letter {
            '_' => upper = true,
            _ if std::mem::take(&mut upper) => out.push(letter.to_ascii_uppercase()),
            _ => out.push(letter),
        }
    }
    out
}

fn wrong(place: &str, what: &str) -> SchemaError {
    SchemaError::Entry { place: place.to_owned(), what: what.to_owned() }
}
