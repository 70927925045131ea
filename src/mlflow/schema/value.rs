//! Type checks of single values.

use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};

use super::super::json::{Keys, Part, chars_of, has_escape, items_of, keys_anywhere, members_of, text_of};
use super::super::locate::{refused, shown};
use super::super::{JsonError, LocateError, Step};
use super::{Enum, Kind, Rebuild, Schema, check_key};

impl<'s> Rebuild<'s, '_> {
    /// Checks a value of the body, and writes it in canonical form.
    pub(super) fn value(
        &mut self,
        kind: &'s Kind,
        name: &str,
        value: &str,
        fronts: &[&[Step]],
    ) -> Result<(), LocateError> {
        self.reader.begin(value)?;
        self.typed(kind, name, value, fronts)
    }

    fn typed(&mut self, kind: &'s Kind, name: &str, value: &str, fronts: &[&[Step]]) -> Result<(), LocateError> {
        let is_object = value.starts_with('{');
        let is_list = value.starts_with('[');
        match kind {
            Kind::Message(id) => match self.schema.message(*id).filter(|_| is_object) {
                Some(message) => self.members(message, value, fronts),
                None => Err(refused(name, value, "an object")),
            },
            Kind::Repeated(inner) if is_list => {
                self.reader.down();
                let mut separator = "[";
                for item in items_of(value) {
                    self.out.push(std::mem::replace(&mut separator, ","));
                    self.value(inner, name, item, fronts)?;
                }
                self.out.push(if separator == "[" { "[]" } else { "]" });
                self.reader.up();
                Ok(())
            }
            Kind::Repeated(_) => Err(refused(name, value, "a list")),
            Kind::Map(inner) if is_object => self.map(inner, name, value),
            Kind::Map(_) => Err(refused(name, value, "an object")),
            Kind::OneOf(kinds) => {
                let mark = (self.out.mark(), self.reader.clone());
                for kind in kinds {
                    if self.typed(kind, name, value, &[]).is_ok() {
                        return Ok(());
                    }
                    self.out.back_to(mark.0);
                    self.reader = mark.1.clone();
                }
                Err(refused(name, value, "a value of another type"))
            }
            Kind::Struct if !is_object => Err(refused(name, value, "an object")),
            Kind::List if !is_list => Err(refused(name, value, "a list")),
            Kind::Struct | Kind::List | Kind::Value => self.free(name, value, Numbers::Finite),
            Kind::Any => self.free(name, value, Numbers::All),
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
            | Kind::JsonText => self.scalar(kind, name, value),
        }
    }

    fn map(&mut self, inner: &'s Kind, name: &str, object: &str) -> Result<(), LocateError> {
        self.reader.down();
        let (mut keys, mut separator) = (Keys::new(), "{");
        for (key, value) in members_of(object) {
            keys.add(key)?;
            check_key_token(key)?;
            if *text_of(key)? == *TAKEN_FOR_A_LIST {
                return Err(LocateError::ReservedKey(shown(name), TAKEN_FOR_A_LIST.to_owned()));
            }
            self.out.push(std::mem::replace(&mut separator, ","));
            self.out.push_token(key)?;
            self.out.push(":");
            self.value(inner, name, value, &[])?;
        }
        keys.finish(object)?;
        self.out.push(if separator == "{" { "{}" } else { "}" });
        self.reader.up();
        Ok(())
    }

    /// Checks JSON of any shape. Its keys must not contain control characters.
    fn free(&mut self, name: &str, value: &str, numbers: Numbers) -> Result<(), LocateError> {
        self.reader.copy(value, Some(&mut self.out), &mut |part| match part {
            Part::Key(key) => check_key_token(key),
            Part::Number(text) if numbers == Numbers::Finite && !is_number(text, f64::MAX) => {
                Err(refused(name, text, "a number that fits into a double"))
            }
            Part::Number(_) => Ok(()),
        })
    }

    /// Writes the name of an enum's value, for a given name or number.
    fn enumerated(&mut self, index: usize, name: &str, value: &str) -> Result<(), LocateError> {
        let schema = self.schema;
        let text = if value.starts_with('"') { Some(text_of(value)?) } else { None };
        let known = schema.enums.get(index).and_then(|one| match &text {
            Some(name) => one.name(name),
            None => value.parse::<i32>().ok().and_then(|number| one.name_of(number)),
        });
        match known {
            Some(known) => {
                self.out.push_quoted(known);
                Ok(())
            }
            None => Err(refused(name, value, KNOWN_VALUE)),
        }
    }

    fn scalar(&mut self, kind: &Kind, name: &str, value: &str) -> Result<(), LocateError> {
        if !value.starts_with('"') {
            return self.literal(kind, name, value);
        }
        let (fits, expected) = match kind {
            Kind::String => (true, ""),
            Kind::Key => {
                check_key_token(value)?;
                (true, "")
            }
            Kind::JsonText => {
                if self.measures {
                    check_written(&text_of(value)?)?;
                }
                (true, "")
            }
            Kind::Integer { least, most } => (is_integer(&text_of(value)?, *least, *most), "an integer"),
            Kind::Number { most } => {
                let text = text_of(value)?;
                (matches!(&*text, "NaN" | "Infinity" | "-Infinity") || is_number(&text, *most), "a number")
            }
            Kind::Bytes => (is_base64(&text_of(value)?), "base64"),
            Kind::Timestamp => (is_timestamp(&text_of(value)?), TIMESTAMP),
            Kind::Duration => (is_duration(&text_of(value)?), DURATION),
            Kind::FieldMask => (is_field_mask(&text_of(value)?), FIELD_MASK),
            Kind::Null => (false, "null"),
            Kind::Bool => (false, "true or false"),
            Kind::Enum(_)
            | Kind::Message(_)
            | Kind::Repeated(_)
            | Kind::Map(_)
            | Kind::Struct
            | Kind::Value
            | Kind::List
            | Kind::Any
            | Kind::OneOf(_) => (false, "a string"),
        };
        if !fits {
            return Err(refused(name, value, expected));
        }
        Ok(self.out.push_token(value)?)
    }

    /// Checks a number, `true`, `false` or `null`. Lists and objects are refused, because they are not scalars.
    fn literal(&mut self, kind: &Kind, name: &str, value: &str) -> Result<(), LocateError> {
        let is_scalar = !value.starts_with(['{', '[']);
        let (fits, expected, sent) = match kind {
            Kind::Integer { least, most } => {
                // Python's JSON module writes an integral float with `.0`.
                let whole = value.strip_suffix(".0").unwrap_or(value);
                (is_integer(whole, *least, *most), "an integer", whole)
            }
            Kind::Number { most } => {
                (is_scalar && (is_plain_number(value) || is_number(value, *most)), "a number", value)
            }
            Kind::Null => (value == "null", "null", value),
            Kind::Bool => (matches!(value, "true" | "false"), "true or false", value),
            Kind::Bytes => (false, "base64", value),
            Kind::Timestamp => (false, TIMESTAMP, value),
            Kind::Duration => (false, DURATION, value),
            Kind::FieldMask => (false, FIELD_MASK, value),
            Kind::String
            | Kind::Key
            | Kind::Enum(_)
            | Kind::Message(_)
            | Kind::Repeated(_)
            | Kind::Map(_)
            | Kind::Struct
            | Kind::Value
            | Kind::List
            | Kind::Any
            | Kind::JsonText
            | Kind::OneOf(_) => (false, "a string", value),
        };
        if !fits {
            return Err(refused(name, value, expected));
        }
        self.out.push(sent);
        Ok(())
    }
}

impl Schema {
    /// Checks a value of the query, which is always text.
    pub(super) fn parameter(&self, kind: &Kind, name: &str, value: &mut String) -> Result<(), LocateError> {
        let wrong = |value: &str, expected| LocateError::Invalid {
            name: shown(name),
            value: shown(&format!("'{value}'")),
            expected,
        };
        let fits = |fits: bool, expected| if fits { Ok(()) } else { Err(wrong(value, expected)) };
        match kind {
            Kind::Integer { least, most } => fits(is_integer(value, *least, *most), "an integer"),
            Kind::Number { most } => fits(is_number(value, *most), "a number"),
            Kind::Timestamp => fits(is_timestamp(value), TIMESTAMP),
            Kind::Duration => fits(is_duration(value), DURATION),
            Kind::FieldMask => fits(is_field_mask(value), FIELD_MASK),
            Kind::Key => check_key(value),
            Kind::String | Kind::Any | Kind::JsonText | Kind::Bytes => Ok(()),
            Kind::Message(_)
            | Kind::Repeated(_)
            | Kind::Map(_)
            | Kind::Struct
            | Kind::Value
            | Kind::List
            | Kind::Null => Err(wrong(value, "in the request body")),
            Kind::Bool => {
                value.make_ascii_lowercase();
                if matches!(value.as_str(), "true" | "false") { Ok(()) } else { Err(wrong(value, "true or false")) }
            }
            Kind::Enum(index) => {
                let known = self.enums.get(*index).and_then(|one| match value.parse::<i32>() {
                    Ok(number) => one.name_of(number),
                    Err(_) => one.name(value),
                });
                known.ok_or_else(|| wrong(value, KNOWN_VALUE))?.clone_into(value);
                Ok(())
            }
            Kind::OneOf(kinds) => {
                let one = kinds.iter().any(|kind| self.parameter(kind, name, value).is_ok());
                if one { Ok(()) } else { Err(wrong(value, "a value of another type")) }
            }
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
}

impl Enum {
    fn name(&self, name: &str) -> Option<&str> {
        self.values.iter().map(|(known, _)| known.as_ref()).find(|known| *known == name)
    }

    fn name_of(&self, number: i32) -> Option<&str> {
        self.values.iter().find(|(_, known)| *known == number).map(|(name, _)| name.as_ref())
    }
}

/// MLflow up to 3.12 converts the value under this key to a list at any depth (`_stringify_all_experiment_ids`), and its parser
/// then stops at the map.
const TAKEN_FOR_A_LIST: &str = "experiment_ids";

/// The numbers that a free-form value is allowed to contain.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Numbers {
    All,
    /// protobuf refuses numbers that a double cannot represent.
    Finite,
}

const KNOWN_VALUE: &str = "one of the values that MLflow knows";
const TIMESTAMP: &str = "a time such as 2026-01-31T23:59:59.5Z";
const DURATION: &str = "a duration such as 1.5s";
const FIELD_MASK: &str = "names in lowerCamelCase, separated by commas";

/// Returns true for decimal digits that every parser reads alike: no sign but `-`, no leading zero, no spaces.
fn is_integer(text: &str, least: i128, most: i128) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = !digits.is_empty() && digits.len() <= 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    let canonical = plain && (digits == "0" || !digits.starts_with('0'));
    if !canonical {
        return false;
    }
    // 128 bits represent the limits of all 64-bit types.
    match text.len() {
        ..=18 => text.parse::<i64>().is_ok_and(|number| (least..=most).contains(&number.into())),
        _ => text.parse::<i128>().is_ok_and(|number| (least..=most).contains(&number)),
    }
}

/// Returns true for a number of the body that is so short that every numeric type can represent it. The JSON reader has checked
/// its grammar.
fn is_plain_number(text: &str) -> bool {
    text.len() <= 38 && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.' || byte == b'-')
}

/// Returns true for a number in JSON's grammar, no larger than `most`. protobuf's parser stops at a number that its field
/// cannot represent.
fn is_number(text: &str, most: f64) -> bool {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    plain && serde_json::from_str::<f64>(text).is_ok_and(|number| number.abs() <= most)
}

/// Returns true for base64 in either alphabet, with or without padding.
fn is_base64(text: &str) -> bool {
    let digits = text.strip_suffix("==").or_else(|| text.strip_suffix('=')).unwrap_or(text);
    digits.len() % 4 != 1 && digits.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/-_".contains(&byte))
}

/// Returns true for a timestamp of RFC 3339 as restricted by protobuf's JSON mapping: upper-case `T` and `Z`, at most nine
/// fractional digits.
fn is_timestamp(text: &str) -> bool {
    let plain = text.len() <= 40 && text.bytes().all(|byte| byte.is_ascii_digit() || b"-:.+TZ".contains(&byte));
    let (_, fraction) = text.split_once('.').unwrap_or_default();
    let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
    // Python does not support leap seconds.
    plain && digits <= 9 && !text.contains(":60") && is_in_protobufs_range(text)
}

/// Returns true for the years 1 to 9999 in UTC (`google/protobuf/timestamp.proto`).
fn is_in_protobufs_range(text: &str) -> bool {
    let in_utc = |time: OffsetDateTime| time.checked_to_offset(UtcOffset::UTC);
    OffsetDateTime::parse(text, &Rfc3339).ok().and_then(in_utc).is_some_and(|time| (1..=9999).contains(&time.year()))
}

/// Returns true for seconds with the suffix `s`, at most nine fractional digits, and at most 10,000 years
/// (`google/protobuf/duration.proto`).
fn is_duration(text: &str) -> bool {
    const MOST: i128 = 315_576_000_000;
    let Some(seconds) = text.strip_suffix('s') else { return false };
    let (whole, fraction) = seconds.split_once('.').unwrap_or((seconds, "0"));
    let digits = (1..=9).contains(&fraction.len()) && fraction.bytes().all(|byte| byte.is_ascii_digit());
    // `-0.5s` is a negative half second, although its integer part is 0.
    digits && (whole == "-0" || is_integer(whole, -MOST, MOST))
}

fn is_field_mask(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".,".contains(&byte))
}

/// Checks the keys of JSON in a string. MLflow itself refuses a text that is not JSON.
fn check_written(text: &str) -> Result<(), LocateError> {
    if !text.trim_start().starts_with(['{', '[']) {
        return Ok(());
    }
    keys_anywhere(text).try_for_each(check_key_token)
}

/// Checks a key as [`check_key`] does, given as a string token.
fn check_key_token(key: &str) -> Result<(), LocateError> {
    if !has_escape(key) {
        return check_key(key);
    }
    let is_control = |letter: Result<char, JsonError>| letter.is_ok_and(char::is_control);
    if chars_of(key).any(is_control) { Err(LocateError::ControlCharacter(shown(&text_of(key)?))) } else { Ok(()) }
}
