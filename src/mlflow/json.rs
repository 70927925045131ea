//! JSON in its one accepted spelling: read strictly, and what is sent is our own re-serialisation.
//!
//! Numbers keep their exact text. Refused: anything but UTF-8, a byte-order mark, duplicate keys at any depth, keys that
//! start with `[` (protobuf extensions), nesting beyond [`MAX_DEPTH`], bare `NaN` and `Infinity`.
//!
//! No tree is built, because one costs many times the size of its text. [`Reader`] walks over the text of a body once and
//! writes its canonical text. [`Json`] then opens that text, one level at a time and only where something is looked at: lists
//! stay text, an object is opened if it has at most [`MAX_MEMBERS`] members. So a body costs its own text, its canonical
//! text, and what replaces parts of that.

mod text;

use std::borrow::Cow;

use text::{chars, check_grammar, escape, items, members, trim, unescape};
pub(super) use text::{
    chars as chars_of, has_escape, items as items_of, keys_anywhere, members as members_of, unescape as text_of,
};

/// How deep objects and arrays may nest.
pub const MAX_DEPTH: usize = 64;

/// Members of an object whose members are looked at one by one. Free-form JSON has no such limit.
pub const MAX_MEMBERS: usize = 1024;

/// Members of most messages, and one that is set.
const USUAL_MEMBERS: usize = 8;

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
    /// An object that was not opened.
    Closed(&'a str),
}

/// A list as its canonical text.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct List<'a>(Cow<'a, str>);

/// Returns the canonical text of a request body that must be an object.
///
/// # Errors
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
    /// Opens canonical text; an object by one level.
    ///
    /// # Errors
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

    /// Opens an object that was not opened yet.
    ///
    /// # Errors
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

    /// The value of a key of an opened object; `None` when absent, `null`, or when this is no object.
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
            Self::Scalar(_) | Self::Array(_) | Self::Object(_) | Self::Closed(_) => None,
        }
    }

    /// Sets the value of a key, replacing one that is there. Does nothing when this is no opened object.
    pub fn set(&mut self, key: &str, value: Self) {
        let Self::Object(members) = self else { return };
        match members.iter_mut().find(|(name, _)| name == key) {
            Some((_, old)) => *old = value,
            None => members.push((Cow::Owned(key.to_owned()), value)),
        }
    }

    /// Calls `take` like [`each_string`], for a value that may be opened.
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

    /// Whether this is `null`.
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Scalar("null"))
    }

    /// The size of its parts, roughly; for an opened object of what is directly in it.
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

    /// The canonical text.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.to_text().into_bytes()
    }

    /// The canonical text.
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

/// What [`List::rewrite`] does with an item.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Keep {
    Yes,
    No,
}

impl<'a> List<'a> {
    /// A list of strings.
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

    /// The items, objects among them opened by one level.
    pub fn iter(&self) -> impl Iterator<Item = Result<Json<'_>, JsonError>> {
        items(&self.0).map(Json::open)
    }

    /// The canonical texts of the items.
    pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
        items(&self.0)
    }

    /// The canonical text.
    pub(super) fn text(&self) -> &str {
        &self.0
    }

    pub(super) fn into_text(self) -> String {
        self.0.into_owned()
    }

    /// Returns true if there is no item.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0 == "[]"
    }

    /// Rewrites every item, drops those for which `rewrite` says so, and adds `further` at the end.
    ///
    /// A long list is gone through twice, so that its new text is allocated once; `rewrite` must do the same both times.
    ///
    /// # Errors
    /// The first error of `rewrite`, and an item that cannot be opened.
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
        // What is added to every item must not make much of little.
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

/// The value of a key in the canonical text of an object; `None` when absent or `null`.
pub(super) fn value_of<'t>(object: &'t str, key: &str) -> Option<&'t str> {
    let is_key = |token: &str| token.strip_prefix('"').and_then(|token| token.strip_suffix('"')) == Some(key);
    members(object).find(|(token, _)| is_key(token)).map(|(_, value)| value).filter(|value| *value != "null")
}

/// Calls `take` with every string of canonical text that is a value, and its key where it is a member. Members are passed over
/// where `enter` refuses their key and whether their value is an object.
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

/// What a [`Reader`] comes by and others may want to check.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part<'t> {
    /// A key, as a string token.
    Key(&'t str),
    Number(&'t str),
}

/// Checks of text that go beyond its grammar, and the price of its depth.
#[derive(Clone, Debug)]
pub(super) struct Reader {
    depth: usize,
    budget: usize,
}

impl Reader {
    /// Starts at the object that `bytes` must be.
    pub(super) fn of_object(bytes: &[u8]) -> Result<(&str, Self), JsonError> {
        let text = trim(std::str::from_utf8(bytes).map_err(|_| JsonError::NotUtf8)?);
        let reader = Self::of_value(text)?;
        if text.starts_with('{') { Ok((text, reader)) } else { Err(JsonError::NotAnObject) }
    }

    fn of_value(text: &str) -> Result<Self, JsonError> {
        check_grammar(text)?;
        // Every level reads its text once more: nesting is paid for, so that it cannot be used to keep a core busy.
        let budget = text.len().saturating_mul(LEVELS_PAID).saturating_add(FREE_BYTES);
        Ok(Self { depth: 0, budget })
    }

    /// Begins with a value.
    pub(super) fn begin(&mut self, value: &str) -> Result<(), JsonError> {
        self.budget = self.budget.checked_sub(value.len()).ok_or(JsonError::TooDeep)?;
        if self.depth > MAX_DEPTH { Err(JsonError::TooDeep) } else { Ok(()) }
    }

    /// Goes down into a list or an object.
    pub(super) fn down(&mut self) {
        self.depth += 1;
    }

    /// Comes back from a list or an object.
    pub(super) fn up(&mut self) {
        self.depth = self.depth.saturating_sub(1);
    }

    /// Writes the canonical text of a value; without `out`, only checks it.
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

/// The keys of an object as they come by: refuses one that stands twice, and one that starts with `[`.
#[derive(Debug)]
pub(super) struct Keys<'t> {
    few: [&'t str; FEW_KEYS],
    count: usize,
    has_escapes: bool,
}

impl<'t> Keys<'t> {
    pub(super) const fn new() -> Self {
        Self { few: [""; FEW_KEYS], count: 0, has_escapes: false }
    }

    pub(super) fn add(&mut self, key: &'t str) -> Result<(), JsonError> {
        let is_escaped = has_escape(key);
        let is_bracket = key.starts_with("\"[") || is_escaped && chars(key).next().transpose()? == Some('[');
        if is_bracket {
            return Err(JsonError::BracketKey(shown(key)));
        }
        if is_escaped {
            token(key, None)?;
            self.has_escapes = true;
        }
        // For the few keys of a message, comparing each with each costs less than a set.
        if let Some((place, before)) = self.few.get_mut(..=self.count).and_then(<[_]>::split_last_mut) {
            *place = key;
            if before.iter().any(|other| if self.has_escapes { is_same(other, key) } else { *other == key }) {
                return Err(JsonError::DuplicateKey(shown(key)));
            }
        }
        self.count += 1;
        Ok(())
    }

    /// Ends with the object whose keys were added.
    pub(super) fn finish(&self, object: &str) -> Result<(), JsonError> {
        if self.count > FEW_KEYS { check_many_keys(object, self.count) } else { Ok(()) }
    }
}

/// Sorts the places of the keys, because a set of the keys would be many times as large as their text.
fn check_many_keys(object: &str, count: usize) -> Result<(), JsonError> {
    let mut places: Vec<u32> = Vec::with_capacity(count);
    for (key, _) in members(object) {
        let place = (key.as_ptr() as usize).saturating_sub(object.as_ptr() as usize);
        places.push(u32::try_from(place).map_err(|_| JsonError::TooManyMembers)?);
    }
    let key_at = |place: &u32| text::token_at(object, usize::try_from(*place).unwrap_or(usize::MAX));
    places.sort_unstable_by(|one, other| order(key_at(one), key_at(other)));
    let twice = places.windows(2).find_map(|pair| match pair {
        [one, other] if is_same(key_at(one), key_at(other)) => Some(key_at(one)),
        _ => None,
    });
    twice.map_or(Ok(()), |key| Err(JsonError::DuplicateKey(shown(key))))
}

fn is_same(one: &str, other: &str) -> bool {
    order(one, other).is_eq()
}

/// Compares the texts of two string tokens.
fn order(one: &str, other: &str) -> std::cmp::Ordering {
    if !has_escape(one) && !has_escape(other) {
        return text::unquoted(one).cmp(text::unquoted(other));
    }
    let letters = |token| chars(token).map(|letter| letter.unwrap_or(char::REPLACEMENT_CHARACTER));
    letters(one).cmp(letters(other))
}

/// The first characters of a string token, for a message.
fn shown(token: &str) -> String {
    chars(token).take(64).filter_map(Result::ok).collect()
}

const FEW_KEYS: usize = 12;

/// Canonical text that is written, or only counted.
#[derive(Debug, Default)]
pub(super) struct Out {
    text: String,
    counted: usize,
    counts: bool,
    is_large: bool,
}

impl Out {
    /// Room for the canonical text of `text`. For a large one, count first.
    pub(super) fn for_text(text: &str) -> Self {
        let is_large = text.len() > LARGE_BYTES;
        // Names in snake_case and the names of enums are longer than what they replace.
        let room = if is_large { 0 } else { text.len() + text.len() / 8 + 64 };
        Self { text: String::with_capacity(room), is_large, ..Self::default() }
    }

    pub(super) fn counting() -> Self {
        Self { counts: true, ..Self::default() }
    }

    pub(super) const fn is_large(&self) -> bool {
        self.is_large
    }

    /// Room for exactly what was counted.
    pub(super) fn measured(&self) -> Self {
        Self { text: String::with_capacity(self.counted), ..Self::default() }
    }

    pub(super) fn into_text(self) -> String {
        self.text
    }

    /// A place to come back to.
    pub(super) const fn mark(&self) -> usize {
        if self.counts { self.counted } else { self.text.len() }
    }

    pub(super) fn back_to(&mut self, mark: usize) {
        if self.counts { self.counted = mark } else { self.text.truncate(mark) }
    }

    pub(super) fn push(&mut self, text: &str) {
        if self.counts { self.counted += text.len() } else { self.text.push_str(text) }
    }

    pub(super) fn push_quoted(&mut self, text: &str) {
        self.push("\"");
        if text.bytes().any(|byte| byte < 0x20 || byte == b'"' || byte == b'\\') {
            text.chars().for_each(|letter| escape(letter, &mut |text| self.push(text)));
        } else {
            self.push(text);
        }
        self.push("\"");
    }

    /// Writes a string token in its canonical spelling.
    pub(super) fn push_token(&mut self, token: &str) -> Result<(), JsonError> {
        if !has_escape(token) {
            self.push(token);
            return Ok(());
        }
        self.push("\"");
        for letter in chars(token) {
            escape(letter?, &mut |text| self.push(text));
        }
        self.push("\"");
        Ok(())
    }
}

/// Beyond this, a text is measured before it is written: growing would take its size three times.
const LARGE_BYTES: usize = 64 * 1024;
