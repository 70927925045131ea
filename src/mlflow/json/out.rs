//! The buffer that canonical text is written to.

use super::JsonError;
use super::text::{chars, escape, has_escape};

/// Canonical text that is being written, or only measured.
#[derive(Debug, Default)]
pub(in crate::mlflow) struct Out {
    pub(super) text: String,
    counted: usize,
    counts: bool,
    pub(super) is_large: bool,
}

impl Out {
    /// Creates a buffer for the canonical text of `text`. A large text must be measured first.
    pub(in crate::mlflow) fn for_text(text: &str) -> Self {
        let is_large = text.len() > LARGE_BYTES;
        // The canonical names of fields and enums can be longer than the ones that they replace.
        let room = if is_large { 0 } else { text.len() + text.len() / 8 + 64 };
        Self { text: String::with_capacity(room), is_large, ..Self::default() }
    }

    pub(in crate::mlflow) fn counting() -> Self {
        Self { counts: true, ..Self::default() }
    }

    pub(in crate::mlflow) const fn is_large(&self) -> bool {
        self.is_large
    }

    /// Creates a buffer of exactly the measured size.
    pub(in crate::mlflow) fn measured(&self) -> Self {
        Self { text: String::with_capacity(self.counted), ..Self::default() }
    }

    pub(in crate::mlflow) fn into_text(self) -> String {
        self.text
    }

    /// Returns the current position, to which the text can be truncated later.
    pub(in crate::mlflow) const fn mark(&self) -> usize {
        if self.counts { self.counted } else { self.text.len() }
    }

    pub(in crate::mlflow) fn back_to(&mut self, mark: usize) {
        if self.counts { self.counted = mark } else { self.text.truncate(mark) }
    }

    pub(in crate::mlflow) fn push(&mut self, text: &str) {
        if self.counts { self.counted += text.len() } else { self.text.push_str(text) }
    }

    pub(in crate::mlflow) fn push_quoted(&mut self, text: &str) {
        self.push("\"");
        if text.bytes().any(|byte| byte < 0x20 || byte == b'"' || byte == b'\\') {
            text.chars().for_each(|letter| escape(letter, &mut |text| self.push(text)));
        } else {
            self.push(text);
        }
        self.push("\"");
    }

    /// Writes a string token in its canonical spelling.
    pub(in crate::mlflow) fn push_token(&mut self, token: &str) -> Result<(), JsonError> {
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

/// Above this size, a text is measured before it is written, because growing the buffer would require three times its size.
pub(super) const LARGE_BYTES: usize = 64 * 1024;
