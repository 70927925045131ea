//! Text from outside: which names are accepted, and how any text is shown. Pure.
//!
//! Unicode has characters that cannot be seen, that turn the direction of what follows, or that look like others. Names with
//! them are refused, so that no user passes for another. Everything that is shown passes through [`plain`], so that no
//! text controls a terminal or forges a line.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::LazyLock;

use unicode_normalization::UnicodeNormalization as _;
use unicode_properties::{GeneralCategory, GeneralCategoryGroup, UnicodeGeneralCategory as _};
use unicode_security::RestrictionLevel;
use unicode_security::confusable_detection::skeleton;
use unicode_security::restriction_level::RestrictionLevelDetection as _;

/// Names by which the audit log and the policy file mean something else than a user, in lower case.
const RESERVED: [&str; 11] =
    ["*", ".", "..", "-", "proxy", "command-line", "bootstrap", "configuration", "anonymous", "several", "everybody"];
static RESERVED_LOOKS: LazyLock<Vec<Looks>> = LazyLock::new(|| RESERVED.into_iter().map(Looks::of).collect());
const MAX_NAME_CHARS: usize = 255;
const DOT_ABOVE: char = '\u{307}';
/// Letters of the scripts that are accepted together with Latin, or look like its `i`, `j` and `l`, whose dot a further one
/// covers (Soft_Dotted, and the letters that TR 39 §5.4 names).
const SOFT_DOTTED: [char; 20] = [
    'i', 'j', 'l', '\u{131}', '\u{237}', '\u{249}', '\u{268}', '\u{269}', '\u{26a}', '\u{29d}', '\u{2b2}', '\u{3b9}',
    '\u{3f3}', '\u{456}', '\u{458}', '\u{1d62}', '\u{1d96}', '\u{1da4}', '\u{1da8}', '\u{2c7c}',
];
/// The most marks on one letter (TR 39 §5.4).
const MAX_MARKS: usize = 4;

/// Checks a name that the proxy accepts from a client, an identity provider, a configuration file or a command line:
/// Unicode Normalization Form C, no invisible character, and of scripts that belong together (Highly Restrictive,
/// Unicode TR 39 §5.2).
///
/// # Errors
/// What is wrong with it, as the rest of a sentence.
pub fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.chars().count() > MAX_NAME_CHARS {
        return Err("must have 1 to 255 characters");
    }
    if name.trim() != name || name.chars().any(char::is_control) {
        return Err("must not contain control characters, nor begin or end with a space");
    }
    if name.chars().any(|c| is_deceptive(c) || (c.is_whitespace() && c != ' ')) {
        return Err("must not contain characters that cannot be seen or turn the text around");
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

/// Refuses combining marks that are drawn over another mark or over the dot of a letter, so that they cannot be seen (Unicode
/// TR 39 §5.4).
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

/// Two forms of a name that other names share if they look like it (Unicode TR 39 §4): as written, and in lower case.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Looks {
    written: String,
    lower: String,
}

impl Looks {
    /// Returns the forms of a name.
    #[must_use]
    pub fn of(name: &str) -> Self {
        Self { written: skeleton(name).collect(), lower: skeleton(&name.to_lowercase()).collect() }
    }

    /// Returns whether one of two names can be taken for the other.
    #[must_use]
    pub fn are_like(&self, other: &Self) -> bool {
        self.written == other.written || self.lower == other.lower
    }
}

/// [`check_name`] for a name that permissions and the audit log refer to.
///
/// # Errors
/// What is wrong with it, as the rest of a sentence.
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
        return Err("must not end with `~` and a number: accounts whose name another user took over are called so");
    }
    let looks = Looks::of(name);
    if RESERVED_LOOKS.iter().any(|reserved| reserved.are_like(&looks)) {
        return Err("is reserved, or looks like a reserved name");
    }
    Ok(())
}

/// The text with every character escaped that is not visibly itself, line ends included.
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

/// [`plain`] for a text of several lines.
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

/// JSON with the same characters escaped inside its texts, as JSON escapes them. Outside of texts JSON has none of them but
/// line ends.
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

/// Returns whether a character is invisible, changes how its neighbours are shown, or means nothing outside one system.
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
    // Letters and marks that are shown as nothing, or as a blank (Default_Ignorable_Code_Point, U+2800).
    is_unseen
        || matches!(c,
            '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{2800}'
            | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{ffa0}' | '\u{e0100}'..='\u{e01ef}')
}

#[cfg(test)]
mod tests;
