//! Checks of single values against their type.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};

use super::super::locate::{invalid, shown};
use super::super::{Json, LocateError};
use super::{Enum, Kind, Schema, Unknown, check_key};

impl Schema {
    /// Checks a value of the body, and leaves it in its one spelling.
    pub(super) fn value(
        &self,
        kind: &Kind,
        name: &str,
        value: &mut Json<'_>,
        unknown: &mut Unknown,
    ) -> Result<(), LocateError> {
        match kind {
            Kind::Message(id) => match (self.message(*id), value) {
                (Some(message), Json::Object(members)) => self.members(message, members, unknown),
                (_, other) => Err(invalid(name, other, "an object")),
            },
            Kind::Repeated(inner) => match value {
                Json::Array(items) => items.iter_mut().try_for_each(|item| self.value(inner, name, item, unknown)),
                other => Err(invalid(name, other, "a list")),
            },
            Kind::Map(inner) => match value {
                Json::Object(members) => members.iter_mut().try_for_each(|(key, value)| {
                    check_key(key)?;
                    if key == TAKEN_FOR_A_LIST {
                        return Err(LocateError::ReservedKey(shown(name), shown(key)));
                    }
                    self.value(inner, name, value, unknown)
                }),
                other => Err(invalid(name, other, "an object")),
            },
            Kind::OneOf(kinds) => {
                let one = kinds.iter().any(|kind| self.value(kind, name, value, unknown).is_ok());
                if one { Ok(()) } else { Err(invalid(name, value, "a value of another type")) }
            }
            Kind::Struct if !matches!(value, Json::Object(_)) => Err(invalid(name, value, "an object")),
            Kind::List if !matches!(value, Json::Array(_)) => Err(invalid(name, value, "a list")),
            Kind::Struct | Kind::List | Kind::Value => free(name, value, Numbers::Finite),
            Kind::Any => free(name, value, Numbers::All),
            Kind::Enum(index) => self.enumerated(*index, name, value),
            Kind::String
            | Kind::Key
            | Kind::Integer { .. }
            | Kind::Number { .. }
            | Kind::Bool
            | Kind::Null
            | Kind::Bytes
            | Kind::Timestamp
            | Kind::Duration
            | Kind::FieldMask
            | Kind::JsonText => scalar(kind, name, value),
        }
    }

    /// Checks a value of the query, which is always text.
    pub(super) fn parameter(&self, kind: &Kind, name: &str, value: &mut String) -> Result<(), LocateError> {
        let wrong = |value: &str, expected| LocateError::Invalid {
            name: shown(name),
            value: shown(&format!("'{value}'")),
            expected,
        };
        match kind {
            Kind::Integer { least, most } => {
                if is_integer(value, *least, *most) {
                    Ok(())
                } else {
                    Err(wrong(value, "an integer"))
                }
            }
            Kind::Number { most } => {
                if is_number(value, *most) {
                    Ok(())
                } else {
                    Err(wrong(value, "a number"))
                }
            }
            Kind::Bool => {
                value.make_ascii_lowercase();
                if matches!(value.as_str(), "true" | "false") { Ok(()) } else { Err(wrong(value, "true or false")) }
            }
            Kind::Enum(index) => {
                let known = self.enums.get(*index).and_then(|one| match value.parse::<i32>() {
                    Ok(number) => one.name_of(number),
                    Err(_) => one.name(value),
                });
                match known {
                    Some(known) => {
                        known.clone_into(value);
                        Ok(())
                    }
                    None => Err(wrong(value, KNOWN_VALUE)),
                }
            }
            Kind::Key => check_key(value),
            Kind::OneOf(kinds) => {
                let one = kinds.iter().any(|kind| self.parameter(kind, name, value).is_ok());
                if one { Ok(()) } else { Err(wrong(value, "a value of another type")) }
            }
            Kind::String | Kind::Any | Kind::JsonText | Kind::Bytes => Ok(()),
            Kind::Timestamp => {
                if is_timestamp(value) {
                    Ok(())
                } else {
                    Err(wrong(value, TIMESTAMP))
                }
            }
            Kind::Duration => {
                if is_duration(value) {
                    Ok(())
                } else {
                    Err(wrong(value, DURATION))
                }
            }
            Kind::FieldMask => {
                if is_field_mask(value) {
                    Ok(())
                } else {
                    Err(wrong(value, FIELD_MASK))
                }
            }
            Kind::Message(_)
            | Kind::Repeated(_)
            | Kind::Map(_)
            | Kind::Struct
            | Kind::Value
            | Kind::List
            | Kind::Null => Err(wrong(value, "in the request body")),
        }
    }

    /// Returns true if a query parameter can hold a value of this type.
    pub(super) fn is_scalar(&self, kind: &Kind) -> bool {
        match kind {
            Kind::Message(_) | Kind::Repeated(_) | Kind::Map(_) | Kind::Struct | Kind::Value | Kind::List => false,
            Kind::OneOf(kinds) => kinds.iter().all(|kind| self.is_scalar(kind)),
            Kind::String
            | Kind::Key
            | Kind::Integer { .. }
            | Kind::Number { .. }
            | Kind::Bool
            | Kind::Null
            | Kind::Bytes
            | Kind::Enum(_)
            | Kind::Timestamp
            | Kind::Duration
            | Kind::FieldMask
            | Kind::Any
            | Kind::JsonText => true,
        }
    }

    /// Leaves the name of an enum's value, whether the name or the number was given.
    fn enumerated(&self, index: usize, name: &str, value: &mut Json<'_>) -> Result<(), LocateError> {
        let Some(one) = self.enums.get(index) else { return Err(invalid(name, value, KNOWN_VALUE)) };
        let known = match value {
            Json::String(text) if one.name(text).is_some() => return Ok(()),
            Json::Scalar(text) => text.parse::<i32>().ok().and_then(|number| one.name_of(number)),
            Json::String(_) | Json::Array(_) | Json::Object(_) => None,
        };
        match known {
            Some(known) => {
                *value = Json::String(Cow::Owned(known.to_owned()));
                Ok(())
            }
            None => Err(invalid(name, value, KNOWN_VALUE)),
        }
    }
}

impl Enum {
    fn name(&self, name: &str) -> Option<&str> {
        self.values.iter().map(|(known, _)| known.as_ref()).find(|known| *known == name)
    }

    fn name_of(&self, number: i32) -> Option<&str> {
        self.values.iter().find(|(_, known)| *known == number).map(|(name, _)| name.as_ref())
    }
}

fn scalar(kind: &Kind, name: &str, value: &mut Json<'_>) -> Result<(), LocateError> {
    let (fits, expected) = match (kind, &mut *value) {
        (Kind::String, value) => (matches!(value, Json::String(_)), "a string"),
        (Kind::Key, Json::String(key)) => {
            check_key(key)?;
            return Ok(());
        }
        (Kind::JsonText, Json::String(text)) => {
            check_written(text)?;
            return Ok(());
        }
        (Kind::Integer { least, most }, Json::Scalar(text)) => {
            // Python's JSON module writes a whole float so.
            if let Some(whole) = text.strip_suffix(".0") {
                *text = whole;
            }
            (is_integer(text, *least, *most), "an integer")
        }
        (Kind::Integer { least, most }, Json::String(text)) => (is_integer(text, *least, *most), "an integer"),
        (Kind::Number { most }, Json::Scalar(text)) => (is_plain_number(text) || is_number(text, *most), "a number"),
        (Kind::Number { most }, Json::String(text)) => {
            (matches!(text.as_ref(), "NaN" | "Infinity" | "-Infinity") || is_number(text, *most), "a number")
        }
        (Kind::Null, value) => (value.is_null(), "null"),
        (Kind::Bool, Json::Scalar(text)) => (matches!(*text, "true" | "false"), "true or false"),
        (Kind::Bytes, Json::String(text)) => (is_base64(text), "base64"),
        (Kind::Timestamp, Json::String(text)) => (is_timestamp(text), TIMESTAMP),
        (Kind::Duration, Json::String(text)) => (is_duration(text), DURATION),
        (Kind::FieldMask, Json::String(text)) => (is_field_mask(text), FIELD_MASK),
        (Kind::Integer { .. }, _) => (false, "an integer"),
        (Kind::Number { .. }, _) => (false, "a number"),
        (Kind::Bool, _) => (false, "true or false"),
        (_, _) => (false, "a string"),
    };
    if fits { Ok(()) } else { Err(invalid(name, value, expected)) }
}

/// MLflow up to 3.12 makes a list of the value under this key wherever it stands (`_stringify_all_experiment_ids`), and its
/// parser then stops at the map.
const TAKEN_FOR_A_LIST: &str = "experiment_ids";

/// Which numbers a free-form value may hold.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Numbers {
    All,
    /// protobuf refuses those that a double cannot hold.
    Finite,
}

/// JSON of any shape: its keys hold no control characters.
fn free(name: &str, value: &Json<'_>, numbers: Numbers) -> Result<(), LocateError> {
    match value {
        Json::Scalar("null" | "true" | "false") | Json::String(_) => Ok(()),
        Json::Scalar(text) if numbers == Numbers::Finite && !is_number(text, f64::MAX) => {
            Err(invalid(name, value, "a number that fits into a double"))
        }
        Json::Scalar(_) => Ok(()),
        Json::Array(items) => items.iter().try_for_each(|item| free(name, item, numbers)),
        Json::Object(members) => members.iter().try_for_each(|(key, value)| {
            check_key(key)?;
            free(name, value, numbers)
        }),
    }
}

const KNOWN_VALUE: &str = "one of the values that MLflow knows";
const TIMESTAMP: &str = "a time such as 2026-01-31T23:59:59.5Z";
const DURATION: &str = "a duration such as 1.5s";
const FIELD_MASK: &str = "names in lowerCamelCase, separated by commas";

/// Decimal digits as every parser reads them: no sign but `-`, no leading zero, no spaces.
fn is_integer(text: &str, least: i128, most: i128) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = !digits.is_empty() && digits.len() <= 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    let canonical = plain && (digits == "0" || !digits.starts_with('0'));
    if !canonical {
        return false;
    }
    // 128 bits are for the borders of 64.
    match text.len() {
        ..=18 => text.parse::<i64>().is_ok_and(|number| (least..=most).contains(&number.into())),
        _ => text.parse::<i128>().is_ok_and(|number| (least..=most).contains(&number)),
    }
}

/// A number of the body that is so short that every type of number holds it. The JSON reader has checked its grammar.
fn is_plain_number(text: &str) -> bool {
    text.len() <= 38 && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.' || byte == b'-')
}

/// A number in JSON's grammar, no larger than `most`; protobuf's parser stops at one that its field cannot hold.
fn is_number(text: &str, most: f64) -> bool {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    plain && serde_json::from_str::<f64>(text).is_ok_and(|number| number.abs() <= most)
}

/// base64 in either alphabet, with or without padding.
fn is_base64(text: &str) -> bool {
    let digits = text.strip_suffix("==").or_else(|| text.strip_suffix('=')).unwrap_or(text);
    digits.len() % 4 != 1 && digits.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/-_".contains(&byte))
}

/// RFC 3339 as protobuf's JSON mapping has it: upper-case `T` and `Z`, at most nine digits of a second.
fn is_timestamp(text: &str) -> bool {
    let plain = text.len() <= 40 && text.bytes().all(|byte| byte.is_ascii_digit() || b"-:.+TZ".contains(&byte));
    let (_, fraction) = text.split_once('.').unwrap_or_default();
    let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
    // Python knows no leap second.
    plain && digits <= 9 && !text.contains(":60") && is_in_protobufs_range(text)
}

/// Years 1 to 9999 in UTC (`google/protobuf/timestamp.proto`).
fn is_in_protobufs_range(text: &str) -> bool {
    let in_utc = |time: OffsetDateTime| time.checked_to_offset(UtcOffset::UTC);
    OffsetDateTime::parse(text, &Rfc3339).ok().and_then(in_utc).is_some_and(|time| (1..=9999).contains(&time.year()))
}

/// Seconds with `s`, at most nine digits after the point, at most 10,000 years (`google/protobuf/duration.proto`).
fn is_duration(text: &str) -> bool {
    const MOST: i128 = 315_576_000_000;
    let Some(seconds) = text.strip_suffix('s') else { return false };
    let (whole, fraction) = seconds.split_once('.').unwrap_or((seconds, "0"));
    let digits = (1..=9).contains(&fraction.len()) && fraction.bytes().all(|byte| byte.is_ascii_digit());
    // `-0.5s` is half a second back.
    digits && (whole == "-0" || is_integer(whole, -MOST, MOST))
}

fn is_field_mask(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".,".contains(&byte))
}

/// Checks the keys of JSON that is written as a string. A text that is no JSON is MLflow's to refuse.
fn check_written(text: &str) -> Result<(), LocateError> {
    if !text.trim_start().starts_with(['{', '[']) {
        return Ok(());
    }
    match serde_json::from_str::<Keys>(text) {
        Ok(Keys(Some(key))) => Err(LocateError::ControlCharacter(shown(&key))),
        Ok(Keys(None)) | Err(_) => Ok(()),
    }
}

/// The first key with a control character, at any depth.
struct Keys(Option<String>);

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KeysVisitor)
    }
}

struct KeysVisitor;

impl<'de> Visitor<'de> for KeysVisitor {
    type Value = Keys;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Keys, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            let inner = map.next_value::<Keys>()?;
            if found.is_none() {
                found = if check_key(&key).is_err() { Some(key.into_owned()) } else { inner.0 };
            }
        }
        Ok(Keys(found))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Keys, A::Error> {
        let mut found = None;
        while let Some(inner) = seq.next_element::<Keys>()? {
            found = found.or(inner.0);
        }
        Ok(Keys(found))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Keys, E> {
        Ok(Keys(None))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Keys, E> {
        Ok(Keys(None))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Keys, E> {
        Ok(Keys(None))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Keys, E> {
        Ok(Keys(None))
    }

    fn visit_str<E>(self, _: &str) -> Result<Keys, E> {
        Ok(Keys(None))
    }

    fn visit_unit<E>(self) -> Result<Keys, E> {
        Ok(Keys(None))
    }
}
