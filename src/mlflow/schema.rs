//! The known fields of every request, and the rebuilding of requests from them.
//!
//! `requests.toml` contains MLflow's own descriptors: the protobuf messages of its Flask routes, and the pydantic models and
//! manually listed parameters of the others, merged over every supported release by `scripts/request-schema`. A request is
//! reduced to these fields before any ID in it is read, because MLflow's parsers are lenient and their treatment of unknown
//! fields cannot be predicted.
//!
//! [`Schema::rebuild_body`] and [`Schema::rebuild_query`] leave one spelling of each field, check every value against the
//! field's type, and remove unknown fields. A value of the wrong type is an error and is never dropped: protobuf's JSON parser
//! stops at the first one, and MLflow continues with the fields before it.

mod load;
mod value;

#[cfg(test)]
mod tests;

pub use load::SchemaError;

use super::json::{Keys, Out, Reader, members_of, text_of};
use super::locate::{invalid, shown};
use super::{Json, JsonError, LocateError, MAX_MEMBERS, Step};
use crate::http::Query;

/// All messages, objects and enums of `requests.toml`.
#[derive(Debug)]
pub struct Schema {
    messages: Vec<Message>,
    enums: Vec<Enum>,
    operations: Vec<(Box<str>, RequestFields)>,
    spans: Option<MessageId>,
    /// The message without fields.
    empty: Message,
}

/// The known fields of one operation's request.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct RequestFields {
    /// `None` if MLflow reads no query parameter.
    pub query: Option<MessageId>,
    /// `None` if MLflow reads no field of a JSON body.
    pub body: Option<MessageId>,
}

/// A reference to a message of the [`Schema`] that returned it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MessageId(usize);

/// Names of the unknown fields that were removed from one request.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Unknown {
    names: Vec<String>,
    count: u64,
}

impl Unknown {
    /// Returns the number of removed fields.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Returns the first [`MAX_NAMES`] distinct names, without control characters, at most 64 characters each.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    pub(super) fn add(&mut self, name: &str) {
        self.count = self.count.saturating_add(1);
        if self.names.len() < MAX_NAMES {
            let name = shown(name);
            if !self.names.contains(&name) {
                self.names.push(name);
            }
        }
    }
}

const MAX_NAMES: usize = 8;

#[derive(Debug)]
struct Message {
    dialect: Dialect,
    fields: Vec<Field>,
    /// Accepted spellings in order, each with the index of its field.
    names: Vec<(Box<str>, usize)>,
    /// The type of further members, if MLflow accepts any name.
    rest: Option<Kind>,
}

/// The parser that reads an object.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Dialect {
    /// protobuf's JSON parser: `experiment_id` and `experimentId` are one field, and `null` means absent.
    Protobuf,
    /// OTLP's JSON: lowerCamelCase only, IDs in hex (OTLP 1.9, JSON Protobuf Encoding).
    Otlp,
    /// Python's dictionaries and pydantic's models: one spelling, and `null` is a value.
    Plain,
}

#[derive(Debug)]
struct Field {
    name: Box<str>,
    /// The name as it precedes a value: `"name":`.
    key: Box<str>,
    kind: Kind,
    /// The `oneof` that contains the field. protobuf refuses two members of one `oneof`.
    oneof: Option<u32>,
}

/// The type of a value.
#[derive(Clone, Debug)]
enum Kind {
    String,
    /// The key of a tag, a parameter or a metric.
    Key,
    Integer {
        least: i128,
        most: i128,
    },
    Number {
        most: f64,
    },
    Bool,
    /// `null`, which a list in a plain object can contain.
    Null,
    /// A string in base64.
    Bytes,
    Enum(usize),
    Message(MessageId),
    Repeated(Box<Self>),
    Map(Box<Self>),
    /// `google.protobuf.Struct`.
    Struct,
    /// `google.protobuf.Value`.
    Value,
    /// `google.protobuf.ListValue`.
    List,
    Timestamp,
    Duration,
    FieldMask,
    /// JSON of any shape.
    Any,
    /// JSON of any shape in a string.
    JsonText,
    OneOf(Vec<Self>),
}

#[derive(Debug)]
struct Enum {
    values: Vec<(Box<str>, i32)>,
}

impl Message {
    fn field(&self, name: &str) -> Option<(usize, &Field)> {
        let at = self.names.binary_search_by(|(known, _)| (**known).cmp(name)).ok()?;
        let (_, index) = self.names.get(at)?;
        Some((*index, self.fields.get(*index)?))
    }
}

impl Schema {
    /// Returns the fields of an operation's request, by the operation's name.
    #[must_use]
    pub fn of(&self, operation: &str) -> Option<RequestFields> {
        let at = self.operations.binary_search_by(|(known, _)| (**known).cmp(operation)).ok()?;
        self.operations.get(at).map(|(_, fields)| *fields)
    }

    /// Returns the message of an OpenTelemetry export of spans.
    #[must_use]
    pub const fn spans(&self) -> Option<MessageId> {
        self.spans
    }

    /// Returns every operation that has fields, sorted by name.
    pub fn operations(&self) -> impl Iterator<Item = (&str, RequestFields)> {
        self.operations.iter().map(|(name, fields)| (name.as_ref(), *fields))
    }

    /// Returns true if a message has the field at `steps`, under each name of each step, and `with` beside it.
    pub(super) fn has<'s, N>(
        &self,
        message: Option<MessageId>,
        steps: impl Iterator<Item = N>,
        with: Option<&str>,
    ) -> bool
    where
        N: Iterator<Item = &'s str>,
    {
        let mut here = message;
        let mut last = None;
        for names in steps {
            let Some(message) = here.and_then(|id| self.message(id)) else { return false };
            last = Some(message);
            let mut known = names.filter_map(|name| message.field(name));
            let Some((_, field)) = known.next() else { return false };
            let kind = if let Kind::Repeated(inner) = &field.kind { inner } else { &field.kind };
            here = if let Kind::Message(id) = kind { Some(*id) } else { None };
        }
        last.is_some_and(|message| with.is_none_or(|name| message.field(name).is_some()))
    }

    /// Rebuilds a JSON body from the fields of `message`; without a message, no field is known. Returns the canonical text.
    ///
    /// In every object, the fields at the paths `fronts` come first. When MLflow cannot parse a field, it keeps the fields
    /// before it and ignores the rest: a search whose experiments came later would search all experiments.
    ///
    /// # Errors
    ///
    /// The body is not a JSON object, a value does not match its field's type, a field occurs in two spellings, two members of
    /// one `oneof` occur, or a key contains a control character.
    pub fn rebuild_body(
        &self,
        message: Option<MessageId>,
        body: &[u8],
        fronts: &[&[Step]],
        unknown: &mut Unknown,
    ) -> Result<String, LocateError> {
        let (text, reader) = Reader::of_object(body)?;
        let message = message.and_then(|id| self.message(id)).unwrap_or(&self.empty);
        let again = reader.clone();
        let out = Out::for_text(text);
        // A small body is rebuilt in one pass, with a buffer that may grow. A large one is measured first, because a growing
        // buffer would take more than the memory that is reserved for the body.
        if !out.is_large() {
            let mut rebuild = Rebuild { schema: self, reader, out, unknown, measures: true };
            rebuild.object(message, text, fronts)?;
            return Ok(rebuild.out.into_text());
        }
        let mut rebuild = Rebuild { schema: self, reader, out: Out::counting(), unknown, measures: true };
        rebuild.object(message, text, fronts)?;
        let out = rebuild.out.measured();
        let mut rebuild =
            Rebuild { schema: self, reader: again, out, unknown: &mut Unknown::default(), measures: false };
        rebuild.object(message, text, fronts)?;
        Ok(rebuild.out.into_text())
    }

    /// Rebuilds a query from the fields of `message`; without a message, no field is known.
    ///
    /// Queries use MLflow's own spelling only. Fields that a query cannot contain, such as messages, are unknown there.
    ///
    /// # Errors
    ///
    /// A value does not match its parameter's type, or a parameter that is not a list occurs twice.
    pub fn rebuild_query(
        &self,
        message: Option<MessageId>,
        query: &mut Query,
        unknown: &mut Unknown,
    ) -> Result<(), LocateError> {
        let message = message.and_then(|id| self.message(id));
        let mut seen = Seen::default();
        query.try_retain(|name, value| {
            let known = message.and_then(|message| message.field(name)).filter(|(_, field)| *field.name == *name);
            let kind = match known {
                // A list is a parameter that occurs several times.
                Some((index, Field { kind: Kind::Repeated(inner), .. })) => {
                    let _ = seen.insert(index);
                    Some(inner.as_ref())
                }
                Some((index, field)) => {
                    if self.is_scalar(&field.kind) && !seen.insert(index) {
                        return Err(LocateError::Repeated(shown(name)));
                    }
                    Some(&field.kind)
                }
                None => message.and_then(|message| message.rest.as_ref()),
            };
            match kind.filter(|kind| self.is_scalar(kind)) {
                Some(kind) => self.parameter(kind, name, value).map(|()| true),
                None => {
                    unknown.add(name);
                    Ok(false)
                }
            }
        })
    }

    /// Returns true if MLflow reads the fields of `message` from the JSON body of a GET that has no query.
    ///
    /// This holds for protobuf messages (`mlflow.server.handlers._get_request_message`, 2.10 to 3.18).
    #[must_use]
    pub fn is_read_from_bodies(&self, message: Option<MessageId>) -> bool {
        message.and_then(|id| self.message(id)).is_some_and(|message| message.dialect == Dialect::Protobuf)
    }

    /// Adds the fields of a GET's JSON body to its query, by the rules of [`Self::rebuild_body`].
    ///
    /// # Errors
    ///
    /// The errors of [`Self::rebuild_body`], or a value that no query can contain.
    pub fn fold_into_query(
        &self,
        message: Option<MessageId>,
        body: &[u8],
        query: &mut Query,
        unknown: &mut Unknown,
    ) -> Result<(), LocateError> {
        let text = self.rebuild_body(message, body, &[], unknown)?;
        let Json::Object(members) = Json::open(&text)? else { return Ok(()) };
        for (name, value) in &members {
            let mut add = |value: &Json<'_>| {
                let text = match value {
                    Json::Scalar(text) => text,
                    Json::String(text) if !text.contains('\0') => text.as_ref(),
                    Json::String(_) => return Err(invalid(name, value, "text without NUL")),
                    Json::Array(_) | Json::Object(_) | Json::Closed(_) => {
                        return Err(invalid(name, value, "a value that a query can hold"));
                    }
                };
                query.add(name, text);
                Ok(())
            };
            match value {
                Json::Array(items) => items.iter().try_for_each(|item| add(&item?))?,
                value @ (Json::Scalar(_) | Json::String(_) | Json::Object(_) | Json::Closed(_)) => add(value)?,
            }
        }
        Ok(())
    }

    fn message(&self, id: MessageId) -> Option<&Message> {
        self.messages.get(id.0)
    }
}

/// A body that is being rebuilt.
struct Rebuild<'s, 'u> {
    schema: &'s Schema,
    reader: Reader,
    out: Out,
    unknown: &'u mut Unknown,
    /// False in the second pass, when the checks that allocate memory are complete.
    measures: bool,
}

/// A member that is kept.
struct Kept<'s, 't> {
    /// `None` for a further member of an object that accepts any name.
    field: Option<&'s Field>,
    key: &'t str,
    value: &'t str,
    rank: Rank,
}

impl<'s> Rebuild<'s, '_> {
    fn object(&mut self, message: &'s Message, object: &str, fronts: &[&[Step]]) -> Result<(), LocateError> {
        self.reader.begin(object)?;
        self.members(message, object, fronts)
    }

    fn members(&mut self, message: &'s Message, object: &str, fronts: &[&[Step]]) -> Result<(), LocateError> {
        self.reader.down();
        let mut kept = self.known(message, object, fronts)?;
        // A stable sort: apart from the fields that identify what is authorised, members stay in the client's order.
        if !kept.is_sorted_by_key(|member| member.rank) {
            kept.sort_by_key(|member| member.rank);
        }
        let mut separator = "{";
        for Kept { field, key, value, .. } in kept {
            self.out.push(std::mem::replace(&mut separator, ","));
            match field {
                Some(field) => {
                    self.out.push(&field.key);
                    let inner = below(field, fronts);
                    if message.dialect == Dialect::Plain && value == "null" {
                        self.out.push(value);
                    } else {
                        self.value(&field.kind, &field.name, value, &inner)?;
                    }
                }
                None => {
                    let Some(kind) = &message.rest else { continue };
                    self.out.push_token(key)?;
                    self.out.push(":");
                    self.value(kind, &text_of(key)?, value, &[])?;
                }
            }
        }
        self.out.push(if separator == "{" { "{}" } else { "}" });
        self.reader.up();
        Ok(())
    }

    /// Returns the members of an object that are kept, as written, and records the others.
    fn known<'t>(
        &mut self,
        message: &'s Message,
        object: &'t str,
        fronts: &[&[Step]],
    ) -> Result<Vec<Kept<'s, 't>>, LocateError> {
        let mut kept = Vec::with_capacity(8);
        let mut seen = Seen::default();
        let mut groups: Vec<(u32, usize)> = Vec::new();
        let mut keys = Keys::new();
        for (key, value) in members_of(object) {
            keys.add(key)?;
            let name = text_of(key)?;
            let field = match message.field(&name) {
                Some((index, field)) => {
                    // protobuf: `null` means absent, except for `google.protobuf.Value`, where it is a value.
                    if message.dialect != Dialect::Plain && value == "null" && !matches!(field.kind, Kind::Value) {
                        continue;
                    }
                    once(message, &mut seen, &mut groups, index, field)?;
                    Some(field)
                }
                None if message.rest.is_some() => {
                    check_key(&name)?;
                    None
                }
                None => {
                    // A value that is removed must be valid JSON, too: MLflow would refuse the whole body.
                    self.reader.copy(value, None, &mut |_| Ok::<_, LocateError>(()))?;
                    self.unknown.add(&name);
                    continue;
                }
            };
            let rank = field.map_or(Rank::Other, |field| Rank::of(field, fronts));
            kept.push(Kept { field, key, value, rank });
            if kept.len() > MAX_MEMBERS {
                return Err(JsonError::TooManyMembers.into());
            }
        }
        keys.finish(object)?;
        Ok(kept)
    }
}

/// The rank of a member in the order of an object.
#[derive(Clone, Copy, Eq, Ord, PartialEq, PartialOrd)]
enum Rank {
    /// The member identifies what is authorised.
    Named,
    /// The member contains one that does.
    Above,
    Other,
}

impl Rank {
    fn of(field: &Field, fronts: &[&[Step]]) -> Self {
        let ranks = fronts.iter().filter_map(|steps| match steps.split_first() {
            Some((step, rest)) if step.is_called(&field.name) => {
                Some(if rest.is_empty() { Self::Named } else { Self::Above })
            }
            Some(_) | None => None,
        });
        ranks.min().unwrap_or(Self::Other)
    }
}

/// Returns the remaining steps of `fronts` below a field.
fn below<'f>(field: &Field, fronts: &[&'f [Step]]) -> Vec<&'f [Step]> {
    let inner = fronts.iter().filter_map(|steps| match steps.split_first() {
        Some((step, rest)) if step.is_called(&field.name) && !rest.is_empty() => Some(rest),
        Some(_) | None => None,
    });
    inner.collect()
}

/// Records that a field was given, and refuses a second occurrence and a second member of a `oneof`.
fn once(
    message: &Message,
    seen: &mut Seen,
    groups: &mut Vec<(u32, usize)>,
    index: usize,
    field: &Field,
) -> Result<(), LocateError> {
    if !seen.insert(index) {
        return Err(LocateError::Repeated(field.name.clone().into()));
    }
    let Some(group) = field.oneof else { return Ok(()) };
    if let Some((_, other)) = groups.iter().find(|(known, _)| *known == group) {
        let other = message.fields.get(*other).map_or_else(String::new, |other| other.name.clone().into());
        return Err(LocateError::Exclusive(other, field.name.clone().into()));
    }
    groups.push((group, index));
    Ok(())
}

/// Refuses control characters in a key. protobuf and some databases end a name at NUL; others drop or display control
/// characters in various ways.
fn check_key(key: &str) -> Result<(), LocateError> {
    let has_control =
        if key.is_ascii() { key.bytes().any(|byte| byte.is_ascii_control()) } else { key.contains(char::is_control) };
    if has_control { Err(LocateError::ControlCharacter(shown(key))) } else { Ok(()) }
}

/// A set of field indices. No message has more than 128 fields; `load` refuses one that has.
#[derive(Default)]
struct Seen(u128);

impl Seen {
    /// Adds an index. Returns false if it was present already.
    fn insert(&mut self, index: usize) -> bool {
        let bit = 1_u128.checked_shl(u32::try_from(index).unwrap_or(u32::MAX)).unwrap_or(0);
        let fresh = self.0 & bit == 0;
        self.0 |= bit;
        fresh
    }
}

const MAX_FIELDS: usize = 128;
