//! JSON in canonical form: parsed strictly, and serialised again before it is sent.
//!
//! Numbers keep their exact text. Refused are encodings other than UTF-8, a byte-order mark, duplicate keys at any depth, keys
//! that start with `[` (protobuf extensions), nesting beyond [`MAX_DEPTH`], and bare `NaN` and `Infinity`.
//!
//! No tree is built, because a tree requires many times the memory of its text. [`Reader`] passes over the text of a body once
//! and writes its canonical text. [`Json`] then opens that text one level at a time, only where a value is read: lists stay
//! text, and an object is opened if it has at most [`MAX_MEMBERS`] members. A body therefore costs its own text, its canonical
//! text, and the replacements for parts of it.

mod keys;
mod out;
mod text;

use std::borrow::Cow;

pub(super) use keys::Keys;
use out::LARGE_BYTES;
pub(super) use out::Out;
use text::{chars, check_grammar, items, members, trim, unescape};
pub(super) use text::{
    chars as chars_of, has_escape, items as items_of, keys_anywhere, members as members_of, unescape as text_of,
};

/// Maximum nesting depth of objects and arrays.
pub const MAX_DEPTH: usize = 64;

/// Maximum number of members of an object that is opened. Free-form JSON has no such limit.
pub const MAX_MEMBERS: usize = 1024;

/// Initial capacity for the members of an object: those of most messages, and one that is set.
const USUAL_MEMBERS: usize = 8;

/// Nesting depth that a large body can have throughout; a small body can reach [`MAX_DEPTH`].
const LEVELS_PAID: usize = 8;
const FREE_BYTES: usize = 64 * 1024;

/// The reason why a text is refused as JSON.
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
    #[error("The request body has an object with more than {MAX_MEMBERS} members. Send it in parts.")]
    TooManyMembers,
    #[error("The request body has too many small items. Send it in parts.")]
    TooManyItems,
}

/// A JSON value that borrows from its canonical text.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Json<'a> {
    /// `null`, `true`, `false`, or a number with its exact text.
    Scalar(&'a str),
    String(Cow<'a, str>),
    Array(List<'a>),
    Object(Vec<(Cow<'a, str>, Self)>),
    /// An object that has not been opened.
    Closed(&'a str),
}

/// A list as its canonical text.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct List<'a>(Cow<'a, str>);

/// Returns the canonical text of a request body, which must be an object.
///
/// # Errors
///
/// See [`JsonError`].
pub fn canonical(bytes: &[u8]) -> Result<String, JsonError> {
    let (text, mut reader) = Reader::of_object(bytes)?;
    write_canonical(text, &mut reader)
}

/// Returns the canonical text of one JSON value of any kind.
///
/// # Errors
/// See [`JsonError`].
pub(super) fn canonical_value(text: &str) -> Result<String, JsonError> {
    let text = trim(text);
    write_canonical(text, &mut Reader::of_value(text)?)
}

fn write_canonical(text: &str, reader: &mut Reader) -> Result<String, JsonError> {
    let mut out = Out::for_text(text);
    if out.is_large {
        out = Out::counting();
        reader.clone().copy(text, Some(&mut out), &mut |_| Ok::<_, JsonError>(()))?;
        out = out.measured();
    }
    reader.copy(text, Some(&mut out), &mut |_| Ok::<_, JsonError>(()))?;
    Ok(out.text)
}

impl<'a> Json<'a> {
    /// Opens canonical text. An object is opened by one level.
    ///
    /// # Errors
    ///
    /// [`JsonError::TooManyMembers`].
    pub fn open(text: &'a str) -> Result<Self, JsonError> {
        let mut json = Self::of(text)?;
        json.open_closed()?;
        Ok(json)
    }

    fn of(text: &'a str) -> Result<Self, JsonError> {
        Ok(match text.as_bytes().first() {
            Some(b'{') => Self::Closed(text),
            Some(b'[') => Self::Array(List(Cow::Borrowed(text))),
            Some(b'"') => Self::String(unescape(text)?),
            Some(_) | None => Self::Scalar(text),
        })
    }

    /// Opens an object that has not been opened yet.
    ///
    /// # Errors
    ///
    /// [`JsonError::TooManyMembers`].
    pub fn open_closed(&mut self) -> Result<(), JsonError> {
        let Self::Closed(text) = *self else { return Ok(()) };
        let mut opened = Vec::with_capacity(USUAL_MEMBERS);
        for (key, value) in members(text) {
            if opened.len() == MAX_MEMBERS {
                return Err(JsonError::TooManyMembers);
            }
            opened.push((unescape(key)?, Self::of(value)?));
        }
        *self = Self::Object(opened);
        Ok(())
    }

    /// Returns the value of a key of an opened object; `None` if the key is absent or `null`, or if this is not an object.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Self> {
        let Self::Object(members) = self else { return None };
        members.iter().find(|(name, _)| name == key).map(|(_, value)| value).filter(|value| !value.is_null())
    }

    /// Returns the value of a key as text; `None` if the key is absent or the value is not a string.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.get(key)? {
            Self::String(text) => Some(text),
            Self::Scalar(_) | Self::Array(_) | Self::Object(_) | Self::Closed(_) => None,
        }
    }

    /// Sets the value of a key, replacing an existing one. Does nothing if this is not an opened object.
    pub fn set(&mut self, key: &str, value: Self) {
        let Self::Object(members) = self else { return };
        match members.iter_mut().find(|(name, _)| name == key) {
            Some((_, old)) => *old = value,
            None => members.push((Cow::Owned(key.to_owned()), value)),
        }
    }

    /// Calls `take` as [`each_string`] does, for a value that may have been opened.
    pub(super) fn each_string(&self, enter: &impl Fn(&str, bool) -> bool, take: &mut impl FnMut(Option<&str>, &str)) {
        self.each_string_at(None, enter, take);
    }

    fn each_string_at(
        &self,
        key: Option<&str>,
        enter: &impl Fn(&str, bool) -> bool,
        take: &mut impl FnMut(Option<&str>, &str),
    ) {
        match self {
            Self::Scalar(_) => {}
            Self::String(text) => take(key, text),
            Self::Closed(text) => each_string_at(key, text, enter, take),
            Self::Array(list) => each_string_at(key, list.text(), enter, take),
            Self::Object(members) => {
                for (key, value) in members {
                    if enter(key, matches!(value, Self::Object(_) | Self::Closed(_))) {
                        value.each_string_at(Some(key), enter, take);
                    }
                }
            }
        }
    }

    /// Returns true if this is `null`.
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Scalar("null"))
    }

    /// Returns the approximate size in bytes of the value's own parts; for an opened object, of its direct members.
    #[must_use]
    pub fn size(&self) -> usize {
        match self {
            Self::Scalar(text) | Self::Closed(text) => text.len(),
            Self::String(text) => text.len(),
            Self::Array(List(text)) => text.len(),
            Self::Object(members) => members.iter().map(|(key, value)| key.len() + value.flat_size()).sum(),
        }
    }

    fn flat_size(&self) -> usize {
        match self {
            Self::Scalar(text) | Self::Closed(text) => text.len(),
            Self::String(text) => text.len(),
            Self::Array(List(text)) => text.len(),
            Self::Object(_) => 0,
        }
    }

    /// Returns the canonical text.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.to_text().into_bytes()
    }

    /// Returns the canonical text.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut out = Out::counting();
        self.write(&mut out);
        let mut out = out.measured();
        self.write(&mut out);
        out.text
    }

    fn write(&self, out: &mut Out) {
        match self {
            Self::Scalar(text) | Self::Closed(text) => out.push(text),
            Self::String(text) => out.push_quoted(text),
            Self::Array(List(text)) => out.push(text),
            Self::Object(members) => {
                out.push("{");
                for (index, (key, value)) in members.iter().enumerate() {
                    if index > 0 {
                        out.push(",");
                    }
                    out.push_quoted(key);
                    out.push(":");
                    value.write(out);
                }
                out.push("}");
            }
        }
    }
}

/// The decision of [`List::rewrite`] on an item.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Keep {
    Yes,
    No,
}

impl<'a> List<'a> {
    /// Creates a list of strings.
    pub fn of_strings<'s>(strings: impl IntoIterator<Item = &'s str>) -> Self {
        let mut out = Out::default();
        out.push("[");
        for (index, text) in strings.into_iter().enumerate() {
            if index > 0 {
                out.push(",");
            }
            out.push_quoted(text);
        }
        out.push("]");
        Self(Cow::Owned(out.text))
    }

    /// Returns the items. Objects among them are opened by one level.
    pub fn iter(&self) -> impl Iterator<Item = Result<Json<'_>, JsonError>> {
        items(&self.0).map(Json::open)
    }

    /// Returns the canonical texts of the items.
    pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
        items(&self.0)
    }

    /// Returns the canonical text.
    pub(super) fn text(&self) -> &str {
        &self.0
    }

    pub(super) fn into_text(self) -> String {
        self.0.into_owned()
    }

    /// Returns true if the list is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0 == "[]"
    }

    /// Rewrites every item, drops those for which `rewrite` returns so, and appends `further`.
    ///
    /// A long list is processed twice, so that its new text is allocated once; `rewrite` must return the same result both
    /// times.
    ///
    /// # Errors
    ///
    /// The first error of `rewrite`, or an item that cannot be opened.
    pub fn rewrite<E: From<JsonError>>(
        &mut self,
        mut rewrite: impl FnMut(&mut Json<'_>) -> Result<Keep, E>,
        further: &[Json<'_>],
    ) -> Result<(), E> {
        let mut out = Out::for_text(&self.0);
        if out.is_large {
            out = Out::counting();
            self.rewrite_to(&mut out, &mut rewrite, further)?;
            out = out.measured();
        }
        self.rewrite_to(&mut out, &mut rewrite, further)?;
        self.0 = Cow::Owned(out.text);
        Ok(())
    }

    fn rewrite_to<E: From<JsonError>>(
        &self,
        out: &mut Out,
        rewrite: &mut impl FnMut(&mut Json<'_>) -> Result<Keep, E>,
        further: &[Json<'_>],
    ) -> Result<(), E> {
        // Bounds the growth of the text, because a rewrite adds text to every item.
        let most = self.0.len().saturating_mul(2).saturating_add(LARGE_BYTES);
        let mut separator = "[";
        for item in self.iter() {
            let mut item = item?;
            if rewrite(&mut item)? == Keep::Yes {
                out.push(separator);
                item.write(out);
                separator = ",";
            }
            if out.mark() > most {
                return Err(JsonError::TooManyItems.into());
            }
        }
        for item in further {
            out.push(separator);
            item.write(out);
            separator = ",";
        }
        if separator == "[" {
            out.push("[");
        }
        out.push("]");
        Ok(())
    }
}

impl Default for List<'_> {
    fn default() -> Self {
        Self(Cow::Borrowed("[]"))
    }
}

/// Returns the value of a key in the canonical text of an object; `None` if absent or `null`.
pub(super) fn value_of<'t>(object: &'t str, key: &str) -> Option<&'t str> {
    let is_key = |token: &str| token.strip_prefix('"').and_then(|token| token.strip_suffix('"')) == Some(key);
    members(object).find(|(token, _)| is_key(token)).map(|(_, value)| value).filter(|value| *value != "null")
}

/// Calls `take` with every string value of canonical text, and with its key if it is a member. Members for which `enter`
/// returns false are skipped; `enter` receives the key and whether the value is an object.
pub(super) fn each_string(text: &str, enter: &impl Fn(&str, bool) -> bool, take: &mut impl FnMut(Option<&str>, &str)) {
    each_string_at(None, text, enter, take);
}

fn each_string_at(
    key: Option<&str>,
    value: &str,
    enter: &impl Fn(&str, bool) -> bool,
    take: &mut impl FnMut(Option<&str>, &str),
) {
    match value.as_bytes().first() {
        Some(b'{') => members(value).for_each(|(key, value)| {
            let key = unescape(key).unwrap_or_default();
            if enter(&key, value.starts_with('{')) {
                each_string_at(Some(&key), value, enter, take);
            }
        }),
        Some(b'[') => items(value).for_each(|item| each_string_at(None, item, enter, take)),
        Some(b'"') => take(key, &unescape(value).unwrap_or_default()),
        Some(_) | None => {}
    }
}

/// An element that a [`Reader`] passes, for additional checks.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part<'t> {
    /// A key, as a string token.
    Key(&'t str),
    Number(&'t str),
}

/// Checks beyond the grammar of JSON, and the budget for the depth of the text.
#[derive(Clone, Debug)]
pub(super) struct Reader {
    depth: usize,
    budget: usize,
}

impl Reader {
    /// Creates a reader for `bytes`, which must be an object.
    pub(super) fn of_object(bytes: &[u8]) -> Result<(&str, Self), JsonError> {
        let text = trim(std::str::from_utf8(bytes).map_err(|_| JsonError::NotUtf8)?);
        let reader = Self::of_value(text)?;
        if text.starts_with('{') { Ok((text, reader)) } else { Err(JsonError::NotAnObject) }
    }

    fn of_value(text: &str) -> Result<Self, JsonError> {
        check_grammar(text)?;
        // Every level of nesting reads its text again. The budget limits this work, so that deep nesting cannot occupy a core.
        let budget = text.len().saturating_mul(LEVELS_PAID).saturating_add(FREE_BYTES);
        Ok(Self { depth: 0, budget })
    }

    /// Starts reading a value.
    pub(super) fn begin(&mut self, value: &str) -> Result<(), JsonError> {
        self.budget = self.budget.checked_sub(value.len()).ok_or(JsonError::TooDeep)?;
        if self.depth > MAX_DEPTH { Err(JsonError::TooDeep) } else { Ok(()) }
    }

    /// Enters a list or an object.
    pub(super) fn down(&mut self) {
        self.depth += 1;
    }

    /// Leaves a list or an object.
    pub(super) fn up(&mut self) {
        self.depth = self.depth.saturating_sub(1);
    }

    /// Writes the canonical text of a value. Without `out`, only checks it.
    pub(super) fn copy<E: From<JsonError>>(
        &mut self,
        value: &str,
        mut out: Option<&mut Out>,
        check: &mut impl FnMut(Part<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let push = |out: &mut Option<&mut Out>, text: &str| {
            if let Some(out) = out {
                out.push(text);
            }
        };
        self.begin(value)?;
        match value.as_bytes().first() {
            Some(b'{') => {
                self.down();
                let (mut keys, mut separator) = (Keys::new(), "{");
                for (key, value) in members(value) {
                    keys.add(key)?;
                    check(Part::Key(key))?;
                    push(&mut out, std::mem::replace(&mut separator, ","));
                    token(key, out.as_deref_mut())?;
                    push(&mut out, ":");
                    self.copy(value, out.as_deref_mut(), check)?;
                }
                keys.finish(value)?;
                push(&mut out, if separator == "{" { "{}" } else { "}" });
                self.up();
            }
            Some(b'[') => {
                self.down();
                let mut separator = "[";
                for item in items(value) {
                    push(&mut out, std::mem::replace(&mut separator, ","));
                    self.copy(item, out.as_deref_mut(), check)?;
                }
                push(&mut out, if separator == "[" { "[]" } else { "]" });
                self.up();
            }
            Some(b'"') => token(value, out)?,
            Some(b'n' | b't' | b'f') => push(&mut out, value),
            Some(_) | None => {
                check(Part::Number(value))?;
                push(&mut out, value);
            }
        }
        Ok(())
    }
}

fn token(token: &str, out: Option<&mut Out>) -> Result<(), JsonError> {
    match out {
        Some(out) => out.push_token(token),
        None if has_escape(token) => chars(token).try_for_each(|letter| letter.map(|_| ())),
        None => Ok(()),
    }
}
