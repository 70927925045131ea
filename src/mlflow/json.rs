//! JSON in its one accepted spelling: parsed strictly, and what is sent is our own re-serialisation.
//!
//! Numbers keep their exact text. Refused: anything but UTF-8, a byte-order mark, duplicate keys at any depth, keys that
//! start with `[` (protobuf extensions), nesting beyond [`MAX_DEPTH`], bare `NaN` and `Infinity`.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserializer as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// How deep objects and arrays may nest.
pub const MAX_DEPTH: usize = 64;

/// A large body may be nested this deep throughout; a small one up to [`MAX_DEPTH`].
const LEVELS_PAID: usize = 8;
const FREE_BYTES: usize = 64 * 1024;

/// Why a text is not accepted as JSON.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum JsonError {
    #[error("The request body is not UTF-8 text.")]
    NotUtf8,
    #[error("The request body is not valid JSON: {0}.")]
    Syntax(String),
    #[error("The request body must be a JSON object.")]
    NotAnObject,
    #[error("The request body has the key `{0}` twice in one object.")]
    DuplicateKey(String),
    #[error("The request body has the key `{0}`, which is not a field name.")]
    BracketKey(String),
    #[error("The request body nests deeper than {MAX_DEPTH} levels.")]
    TooDeep,
}

/// A JSON value that borrows from the text it was read from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Json<'a> {
    /// `null`, `true`, `false`, or a number with its exact text.
    Scalar(&'a str),
    String(Cow<'a, str>),
    Array(Vec<Self>),
    Object(Vec<(Cow<'a, str>, Self)>),
}

impl<'a> Json<'a> {
    /// Reads a request body that must be an object.
    ///
    /// # Errors
    /// See [`JsonError`].
    pub fn parse_object(bytes: &'a [u8]) -> Result<Self, JsonError> {
        let text = std::str::from_utf8(bytes).map_err(|_| JsonError::NotUtf8)?;
        // Every level reads its text once more: nesting is paid for, so that it cannot be used to keep a core busy.
        let mut budget = text.len().saturating_mul(LEVELS_PAID).saturating_add(FREE_BYTES);
        match Self::parse(text, 0, &mut budget)? {
            object @ Self::Object(_) => Ok(object),
            Self::Scalar(_) | Self::String(_) | Self::Array(_) => Err(JsonError::NotAnObject),
        }
    }

    fn parse(text: &'a str, depth: usize, budget: &mut usize) -> Result<Self, JsonError> {
        let paid = budget.checked_sub(text.len()).ok_or(JsonError::TooDeep)?;
        *budget = paid;
        if depth > MAX_DEPTH {
            return Err(JsonError::TooDeep);
        }
        let syntax = |error: serde_json::Error| JsonError::Syntax(error.to_string());
        let text = text.trim_matches([' ', '\t', '\n', '\r']);
        match text.as_bytes().first() {
            Some(b'{') => {
                let mut reader = serde_json::Deserializer::from_str(text);
                let members = reader.deserialize_map(Members).map_err(syntax)?;
                reader.end().map_err(syntax)?;
                check_keys(&members)?;
                let parse =
                    |(key, value): (Key<'a>, &'a RawValue)| Ok((key.0, Self::parse(value.get(), depth + 1, budget)?));
                members.into_iter().map(parse).collect::<Result<_, _>>().map(Self::Object)
            }
            Some(b'[') => {
                let mut reader = serde_json::Deserializer::from_str(text);
                let items = reader.deserialize_seq(Items).map_err(syntax)?;
                reader.end().map_err(syntax)?;
                let parse = |value: &'a RawValue| Self::parse(value.get(), depth + 1, budget);
                items.into_iter().map(parse).collect::<Result<_, _>>().map(Self::Array)
            }
            Some(b'"') => Ok(Self::String(serde_json::from_str::<Key<'a>>(text).map_err(syntax)?.0)),
            // serde_json checks the grammar of numbers and literals; the text itself is what we keep.
            _ => serde_json::from_str::<&'a RawValue>(text).map(|_| Self::Scalar(text)).map_err(syntax),
        }
    }

    /// The value of a key; `None` when absent, `null`, or when this is no object.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Self> {
        let Self::Object(members) = self else { return None };
        members.iter().find(|(name, _)| name == key).map(|(_, value)| value).filter(|value| !value.is_null())
    }

    /// The value of a key as text; `None` when absent or not a string.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.get(key)? {
            Self::String(text) => Some(text),
            Self::Scalar(_) | Self::Array(_) | Self::Object(_) => None,
        }
    }

    /// Sets the value of a key, replacing one that is there. Does nothing when this is no object.
    pub fn set(&mut self, key: &str, value: Self) {
        let Self::Object(members) = self else { return };
        match members.iter_mut().find(|(name, _)| name == key) {
            Some((_, old)) => *old = value,
            None => members.push((Cow::Owned(key.to_owned()), value)),
        }
    }

    /// Whether this is `null`.
    #[must_use]
    pub fn is_null(&self) -> bool {
        *self == Self::Scalar("null")
    }

    /// The canonical text.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Scalar(text) => out.extend_from_slice(text.as_bytes()),
            Self::String(text) => write_string(text, out),
            Self::Array(items) => {
                out.push(b'[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    item.write(out);
                }
                out.push(b']');
            }
            Self::Object(members) => {
                out.push(b'{');
                for (index, (key, value)) in members.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    write_string(key, out);
                    out.push(b':');
                    value.write(out);
                }
                out.push(b'}');
            }
        }
    }
}

fn write_string(text: &str, out: &mut Vec<u8>) {
    // Writing a string to memory cannot fail.
    let _ = serde_json::to_writer(out, text);
}

fn check_keys(members: &[(Key<'_>, &RawValue)]) -> Result<(), JsonError> {
    if let Some((Key(key), _)) = members.iter().find(|(Key(key), _)| key.starts_with('[')) {
        return Err(JsonError::BracketKey(key.chars().take(64).collect()));
    }
    let twice = if members.len() <= FEW_KEYS {
        // For the few keys of a message, comparing each with each costs less than a set.
        let mut before = members.iter().enumerate();
        before
            .find(|(at, (Key(key), _))| members.iter().take(*at).any(|(Key(other), _)| other == key))
            .map(|(_, one)| one)
    } else {
        let mut seen = HashSet::with_capacity(members.len());
        members.iter().find(|(Key(key), _)| !seen.insert(key.as_ref()))
    };
    match twice {
        Some((Key(key), _)) => Err(JsonError::DuplicateKey(key.chars().take(64).collect())),
        None => Ok(()),
    }
}

const FEW_KEYS: usize = 12;

/// A string that borrows when it has no escapes.
#[derive(serde::Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Vec<(Key<'de>, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(members)
    }
}

struct Items;

impl<'de> Visitor<'de> for Items {
    type Value = Vec<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(items)
    }
}
