//! Text from outside: checks of names, and escaping of text that is shown. Pure.
//!
//! Unicode has characters that are invisible, that change the direction of the following text, or that look like
//! others. Names with such characters are refused, so that no user can impersonate another. All text that is shown
//! passes through [`plain`], so that it cannot control a terminal or forge a line.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::LazyLock;

use unicode_normalization::UnicodeNormalization as _;
use unicode_properties::{GeneralCategory, GeneralCategoryGroup, UnicodeGeneralCategory as _};
use unicode_security::RestrictionLevel;
use unicode_security::confusable_detection::skeleton;
use unicode_security::restriction_level::RestrictionLevelDetection as _;

/// Names with a special meaning in the audit log or the policy file, in lower case.
const RESERVED: [&str; 11] =
    ["*", ".", "..", "-", "proxy", "command-line", "bootstrap", "configuration", "anonymous", "several", "everybody"];
static RESERVED_LOOKS: LazyLock<Vec<Looks>> = LazyLock::new(|| RESERVED.into_iter().map(Looks::of).collect());
const MAX_NAME_CHARS: usize = 255;
const DOT_ABOVE: char = '\u{307}';
/// Letters whose dot hides a combining dot above: those of scripts that are accepted together with Latin, or that
/// look like Latin `i`, `j` and `l` (Soft_Dotted, and the letters that TR 39 §5.4 lists).
const SOFT_DOTTED: [char; 20] = [
    'i', 'j', 'l', '\u{131}', '\u{237}', '\u{249}', '\u{268}', '\u{269}', '\u{26a}', '\u{29d}', '\u{2b2}', '\u{3b9}',
    '\u{3f3}', '\u{456}', '\u{458}', '\u{1d62}', '\u{1d96}', '\u{1da4}', '\u{1da8}', '\u{2c7c}',
];
/// The maximum number of marks on one letter (TR 39 §5.4).
const MAX_MARKS: usize = 4;

/// Checks a name from a client, an identity provider, a configuration file or the command line: Unicode Normalization
/// Form C, no invisible characters, and only scripts that may be mixed (Highly Restrictive, Unicode TR 39 §5.2).
///
/// # Errors
/// The fault, as the rest of a sentence.
pub fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.chars().count() > MAX_NAME_CHARS {
        return Err("must have 1 to 255 characters");
    }
    if name.trim() != name || name.chars().any(char::is_control) {
        return Err("must not contain control characters, nor begin or end with a space");
    }
    if name.chars().any(|c| is_deceptive(c) || (c.is_whitespace() && c != ' ')) {
        return Err("must not contain characters that are invisible or change the direction of text");
    }
    if !name.nfc().eq(name.chars()) {
        return Err("must be in Unicode Normalization Form C");
    }
    check_marks(name)?;
    // The level is defined for identifiers, which have no spaces or punctuation.
    let letters: String = name.chars().filter(|c| c.is_alphanumeric() || is_mark(*c)).collect();
    if !letters.check_restriction_level(RestrictionLevel::HighlyRestrictive) {
        return Err(
            "must not have rare letters, nor mix scripts whose letters imitate each other, such as Latin and Cyrillic",
        );
    }
    Ok(())
}

/// Refuses combining marks that are drawn over another mark or over the dot of a letter, where they are invisible
/// (Unicode TR 39 §5.4).
fn check_marks(name: &str) -> Result<(), &'static str> {
    let (mut base, mut marks) = ('\0', Vec::new());
    for c in name.nfd() {
        if !is_mark(c) {
            (base, marks) = (c, Vec::new());
        } else if c == DOT_ABOVE && SOFT_DOTTED.contains(&base) {
            return Err("must not put a dot above a letter that has one or looks as if it had");
        } else if marks.contains(&c) || marks.len() >= MAX_MARKS {
            return Err("must not repeat a combining mark on one letter");
        } else {
            marks.push(c);
        }
    }
    Ok(())
}

/// The skeletons of a name, as written and in lower case (Unicode TR 39 §4). Names that look alike share one of them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Looks {
    written: String,
    lower: String,
}

impl Looks {
    /// Returns the skeletons of a name.
    #[must_use]
    pub fn of(name: &str) -> Self {
        Self { written: skeleton(name).collect(), lower: skeleton(&name.to_lowercase()).collect() }
    }

    /// Returns true if one of two names can be mistaken for the other.
    #[must_use]
    pub fn are_like(&self, other: &Self) -> bool {
        self.written == other.written || self.lower == other.lower
    }
}

/// Checks a name that permissions and the audit log refer to, by stricter rules than [`check_name`].
///
/// # Errors
/// The fault, as the rest of a sentence.
pub fn check_account(name: &str) -> Result<(), &'static str> {
    check_name(name)?;
    // Ligatures, full-width and mathematical letters look like plain ones.
    if !name.nfkc().eq(name.chars()) {
        return Err("must be in Unicode Normalization Form KC, without full-width or mathematical letters");
    }
    if name.contains(':') {
        return Err("must not contain `:`: HTTP Basic ends the name there");
    }
    if name.contains(['*', '?']) {
        return Err("must not contain `*` or `?`, which stand for other names in permissions");
    }
    // `store::people` gives such a name to an account whose own name went to a user of the first provider.
    if name.rsplit_once('~').is_some_and(|(_, id)| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit())) {
        return Err(
            "must not end with `~` and a number: that form is reserved for accounts whose name went to another user",
        );
    }
    let looks = Looks::of(name);
    if RESERVED_LOOKS.iter().any(|reserved| reserved.are_like(&looks)) {
        return Err("is reserved, or looks like a reserved name");
    }
    Ok(())
}

/// Escapes control characters, line ends and deceptive characters.
#[must_use]
pub fn plain(text: &str) -> Cow<'_, str> {
    escaped(
        text,
        |c| c.is_control() || is_deceptive(c),
        |out, c| {
            out.extend(c.escape_default());
        },
    )
}

/// Escapes like [`plain`], but keeps line ends.
#[must_use]
pub fn plain_lines(text: &str) -> Cow<'_, str> {
    escaped(
        text,
        |c| c != '\n' && (c.is_control() || is_deceptive(c)),
        |out, c| {
            out.extend(c.escape_default());
        },
    )
}

/// Escapes the same characters inside the strings of a JSON text, in JSON's notation. Outside of strings, JSON
/// contains none of them except line ends.
#[must_use]
pub fn plain_json(json: &str) -> Cow<'_, str> {
    escaped(
        json,
        |c| c != '\n' && (c.is_control() || is_deceptive(c)),
        |out, c| {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing into a text cannot fail.
                let _ = write!(out, "\\u{unit:04x}");
            }
        },
    )
}

fn escaped(text: &str, is_refused: impl Fn(char) -> bool, escape: impl Fn(&mut String, char)) -> Cow<'_, str> {
    if !text.contains(&is_refused) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_refused(c) { escape(&mut out, c) } else { out.push(c) }
    }
    Cow::Owned(out)
}

fn is_mark(c: char) -> bool {
    matches!(c.general_category_group(), GeneralCategoryGroup::Mark)
}

/// Returns true if a character is invisible, changes the display of its neighbours, or has no standard meaning.
fn is_deceptive(c: char) -> bool {
    if c.is_ascii() {
        return false;
    }
    let is_unseen = matches!(
        c.general_category(),
        GeneralCategory::Format
            | GeneralCategory::LineSeparator
            | GeneralCategory::ParagraphSeparator
            | GeneralCategory::PrivateUse
            | GeneralCategory::Surrogate
            | GeneralCategory::Unassigned
    );
    // Letters and marks that are displayed as nothing or as a blank (Default_Ignorable_Code_Point, U+2800).
    is_unseen
        || matches!(c,
            '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{2800}'
            | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{ffa0}' | '\u{e0100}'..='\u{e01ef}')
}

#[cfg(test)]
mod tests;
