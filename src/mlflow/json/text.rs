//! Positions in JSON text: values, members and items, without a tree.
//!
//! All functions require text that [`check_grammar`] accepts; on any other text they end early and do not panic.

use std::borrow::Cow;

use serde::de::IgnoredAny;

use super::JsonError;

/// Checks that `text` is one JSON value.
pub(in crate::mlflow) fn check_grammar(text: &str) -> Result<(), JsonError> {
    serde_json::from_str::<IgnoredAny>(text).map(|_| ()).map_err(|error| JsonError::Syntax(error.to_string()))
}

/// Returns the text without surrounding JSON white space.
pub(in crate::mlflow) fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t', '\n', '\r'])
}

/// Iterator over the members of an object: the key as a string token, and the value, both as written.
#[derive(Clone, Debug)]
pub(in crate::mlflow) struct Members<'t> {
    rest: &'t str,
}

/// Returns the members of `object`; none if it is not an object.
pub(in crate::mlflow) fn members(object: &str) -> Members<'_> {
    Members { rest: inside(object, '{', '}') }
}

impl<'t> Iterator for Members<'t> {
    type Item = (&'t str, &'t str);

    fn next(&mut self) -> Option<Self::Item> {
        let rest = next_value(self.rest)?;
        let (key, rest) = rest.split_at_checked(value_end(rest.as_bytes()))?;
        let rest = trim_start(trim_start(rest).strip_prefix(':')?);
        let (value, rest) = rest.split_at_checked(value_end(rest.as_bytes()))?;
        self.rest = rest;
        Some((key, value))
    }
}

/// Iterator over the items of a list, as written.
#[derive(Clone, Debug)]
pub(in crate::mlflow) struct Items<'t> {
    rest: &'t str,
}

/// Returns the items of `list`; none if it is not a list.
pub(in crate::mlflow) fn items(list: &str) -> Items<'_> {
    Items { rest: inside(list, '[', ']') }
}

impl<'t> Iterator for Items<'t> {
    type Item = &'t str;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = next_value(self.rest)?;
        let (value, rest) = rest.split_at_checked(value_end(rest.as_bytes()))?;
        self.rest = rest;
        Some(value)
    }
}

fn inside(text: &str, open: char, close: char) -> &str {
    text.strip_prefix(open).and_then(|text| text.strip_suffix(close)).unwrap_or_default()
}

/// Skips to the next value of a list or an object; returns `None` at its end.
fn next_value(rest: &str) -> Option<&str> {
    let rest = trim_start(rest);
    let rest = trim_start(rest.strip_prefix(',').unwrap_or(rest));
    (!rest.is_empty()).then_some(rest)
}

fn trim_start(text: &str) -> &str {
    // Canonical text contains no blanks between tokens.
    if text.as_bytes().first().is_some_and(|byte| *byte > b' ') {
        return text;
    }
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
    let blanks = text.as_bytes().iter().take_while(|byte| is_blank(byte)).count();
    text.get(blanks..).unwrap_or_default()
}

/// Returns the length of the value at the start of `bytes`.
fn value_end(bytes: &[u8]) -> usize {
    match bytes.first() {
        Some(b'"') => string_end(bytes),
        Some(b'{' | b'[') => container_end(bytes),
        _ => {
            let is_end = |byte: &u8| matches!(byte, b',' | b':' | b']' | b'}' | b' ' | b'\t' | b'\n' | b'\r');
            bytes.iter().position(is_end).unwrap_or(bytes.len())
        }
    }
}

/// Returns the length of the list or object at the start of `bytes`.
fn container_end(bytes: &[u8]) -> usize {
    let (mut at, mut depth) = (0, 0_usize);
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        let next = match rest.first_chunk() {
            Some(word) => first_mark(u64::from_le_bytes(*word)),
            None if rest.is_empty() => return bytes.len(),
            None => rest.iter().position(|byte| is_mark(*byte)),
        };
        let Some(next) = next else {
            at += rest.len().min(8);
            continue;
        };
        at += next;
        match bytes.get(at) {
            Some(b'"') => {
                at += string_end(bytes.get(at..).unwrap_or_default());
                continue;
            }
            Some(b'{' | b'[') => depth += 1,
            Some(b'}' | b']') if depth <= 1 => return at + 1,
            Some(b'}' | b']') => depth -= 1,
            Some(_) | None => {}
        }
        at += 1;
    }
}

/// Returns the length of the string token at the start of `bytes`.
fn string_end(bytes: &[u8]) -> usize {
    let mut at = 1;
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        // Keys and quoted numbers are usually shorter than the setup cost of a vectorised search.
        let next = match rest.first_chunk().and_then(|word| first_of(u64::from_le_bytes(*word), b'"', b'\\')) {
            Some(next) => next,
            None => match memchr::memchr2(b'"', b'\\', rest) {
                Some(next) => next,
                None => return bytes.len(),
            },
        };
        at += next;
        if bytes.get(at) == Some(&b'"') {
            return at + 1;
        }
        at += 2;
    }
}

/// Returns the position of the first occurrence of either byte in a little-endian word.
const fn first_of(word: u64, one: u8, other: u8) -> Option<usize> {
    first_zero(zeros(word ^ repeated(one)) | zeros(word ^ repeated(other)))
}

/// Returns the position of the first byte in a little-endian word for which [`is_mark`] is true.
const fn first_mark(word: u64) -> Option<usize> {
    first_zero(zeros(word ^ repeated(b'"')) | zeros((word | repeated(!MARK_BITS)) ^ repeated(b'{' | !MARK_BITS)))
}

/// Returns true for quotes, brackets and braces, and for letters that cannot occur outside of strings.
const fn is_mark(byte: u8) -> bool {
    byte == b'"' || byte & MARK_BITS == b'{' & MARK_BITS
}

/// Mask of the bits that brackets and braces have in common. `Y`, `_`, `y` and DEL match, too.
const MARK_BITS: u8 = !0x26;

/// Sets the highest bit of each zero byte. Bits above the lowest set one may be wrong.
const fn zeros(word: u64) -> u64 {
    word.wrapping_sub(repeated(0x01)) & !word & repeated(0x80)
}

const fn first_zero(zeros: u64) -> Option<usize> {
    if zeros == 0 { None } else { Some(zeros.trailing_zeros() as usize / 8) }
}

const fn repeated(byte: u8) -> u64 {
    u64::from_le_bytes([byte; 8])
}

/// Returns true if a string token contains an escape.
pub(in crate::mlflow) fn has_escape(token: &str) -> bool {
    let (words, rest) = token.as_bytes().as_chunks();
    words.iter().any(|word| first_of(u64::from_le_bytes(*word), b'\\', b'\\').is_some()) || rest.contains(&b'\\')
}

/// Iterator over the characters of a string token.
#[derive(Clone, Debug)]
pub(in crate::mlflow) struct Chars<'t> {
    rest: std::str::Chars<'t>,
}

/// Returns the characters of `token`, which must be a string token.
pub(in crate::mlflow) fn chars(token: &str) -> Chars<'_> {
    Chars { rest: unquoted(token).chars() }
}

/// Returns a string token without its quotes.
pub(in crate::mlflow) fn unquoted(token: &str) -> &str {
    token.strip_prefix('"').and_then(|token| token.strip_suffix('"')).unwrap_or_default()
}

impl Iterator for Chars<'_> {
    type Item = Result<char, JsonError>;

    fn next(&mut self) -> Option<Self::Item> {
        let letter = self.rest.next()?;
        if letter != '\\' {
            return Some(Ok(letter));
        }
        Some(match self.rest.next() {
            Some('b') => Ok('\u{8}'),
            Some('f') => Ok('\u{c}'),
            Some('n') => Ok('\n'),
            Some('r') => Ok('\r'),
            Some('t') => Ok('\t'),
            Some('u') => self.unicode(),
            Some(letter @ ('"' | '\\' | '/')) => Ok(letter),
            Some(_) | None => Err(JsonError::Syntax("invalid escape".to_owned())),
        })
    }
}

impl Chars<'_> {
    fn unicode(&mut self) -> Result<char, JsonError> {
        let lone = || JsonError::Syntax("a string holds half of a surrogate pair".to_owned());
        let first = self.hex().ok_or_else(lone)?;
        if let Some(letter) = char::from_u32(first) {
            return Ok(letter);
        }
        let second = match (self.rest.next(), self.rest.next()) {
            (Some('\\'), Some('u')) => self.hex().ok_or_else(lone)?,
            _ => return Err(lone()),
        };
        if !(0xD800..0xDC00).contains(&first) || !(0xDC00..0xE000).contains(&second) {
            return Err(lone());
        }
        char::from_u32(0x1_0000 + ((first - 0xD800) << 10) + (second - 0xDC00)).ok_or_else(lone)
    }

    fn hex(&mut self) -> Option<u32> {
        (0..4).try_fold(0, |number, _| Some((number << 4) | self.rest.next()?.to_digit(16)?))
    }
}

/// Returns the text of a string token; borrowed if it contains no escapes.
pub(in crate::mlflow) fn unescape(token: &str) -> Result<Cow<'_, str>, JsonError> {
    if !has_escape(token) {
        return Ok(Cow::Borrowed(unquoted(token)));
    }
    let mut text = String::with_capacity(token.len());
    for letter in chars(token) {
        text.push(letter?);
    }
    Ok(Cow::Owned(text))
}

/// Writes a character of a string as `serde_json` does.
pub(in crate::mlflow) fn escape(letter: char, push: &mut impl FnMut(&str)) {
    match letter {
        '"' => push("\\\""),
        '\\' => push("\\\\"),
        '\n' => push("\\n"),
        '\r' => push("\\r"),
        '\t' => push("\\t"),
        '\u{8}' => push("\\b"),
        '\u{c}' => push("\\f"),
        '\0'..'\u{20}' => push(&format!("\\u{:04x}", u32::from(letter))),
        _ => push(letter.encode_utf8(&mut [0; 4])),
    }
}

/// Returns the string token at a position of `text`.
pub(in crate::mlflow) fn token_at(text: &str, place: usize) -> &str {
    let rest = text.get(place..).unwrap_or_default();
    rest.get(..string_end(rest.as_bytes())).unwrap_or_default()
}

/// Returns the keys in JSON text of any shape, as string tokens: every string that precedes a colon.
pub(in crate::mlflow) fn keys_anywhere(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        loop {
            let start = memchr::memchr(b'"', rest.as_bytes())?;
            let (token, after) = rest.get(start..)?.split_at_checked(string_end(rest.get(start..)?.as_bytes()))?;
            rest = after;
            if trim_start(after).starts_with(':') {
                return Some(token);
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_end_at_their_quote_wherever_it_stands() {
        for length in 0..40 {
            for escape in (0..length).map(Some).chain([None]) {
                let mut text: Vec<u8> = vec![b'a'; length];
                if let Some(at) = escape {
                    text.splice(at..=at, *b"\\\"");
                }
                let token = format!("\"{}\"", String::from_utf8(text).expect("text"));
                assert_eq!(string_end(format!("{token},\"b\":1").as_bytes()), token.len(), "{token}");
                assert_eq!(string_end(token.as_bytes()), token.len(), "{token}");
                assert_eq!(has_escape(&token), escape.is_some(), "{token}");
                let open = token.strip_suffix('"').unwrap_or_default();
                assert_eq!(string_end(open.as_bytes()), open.len(), "{open}");
            }
        }
        // Bytes beside the two in the alphabet, and beyond ASCII.
        for text in ["\"!#[]!#[]\"", "\"\u{a2}\u{dc}\u{122}\u{222}\u{25c}\u{22a2}\"", "\"\u{0}\u{1}\u{7f}\u{80}\""] {
            assert_eq!(string_end(text.as_bytes()), text.len(), "{text}");
            assert!(!has_escape(text), "{text}");
        }
    }

    #[test]
    fn containers_end_at_their_bracket_wherever_it_stands() {
        for blanks in 0..20 {
            let space = " ".repeat(blanks);
            for inner in ["", "{}", "[[],{}]", "\"]\"", "\"\\\"}\"", "-1.5e7", "true", "{\"Y_y\":[\"{\",\"[\"]}"] {
                for (open, close) in [("[", "]"), ("{\"k\":", "}")] {
                    let text = format!("{open}{space}{inner}{space}{close}");
                    for after in ["", ",", "]", "}]  ,\"a\""] {
                        assert_eq!(container_end(format!("{text}{after}").as_bytes()), text.len(), "{text}{after}");
                    }
                    let cut = text.strip_suffix(close).unwrap_or_default();
                    assert_eq!(container_end(cut.as_bytes()), cut.len(), "{cut}");
                }
            }
        }
        let marks = (0..=255).filter(|byte| is_mark(*byte)).map(char::from).collect::<String>();
        assert_eq!(marks, "\"Y[]_y{}\u{7f}");
        for byte in 0..=255 {
            for at in 0..8 {
                let mut word = [b'0'; 8];
                word[at] = byte;
                assert_eq!(first_mark(u64::from_le_bytes(word)), is_mark(byte).then_some(at), "{byte} at {at}");
            }
        }
    }
}
