//! Progress on standard error: one line that changes on a terminal, a few lines elsewhere.

use std::io::{IsTerminal as _, Write as _};

use crate::text::plain;

/// Prints a permanent message.
pub(in crate::cli) fn say(text: &str) {
    let clear = if std::io::stderr().is_terminal() { "\r\x1b[2K" } else { "" };
    // Standard error was closed, which is no reason to stop.
    let _ = writeln!(std::io::stderr().lock(), "{clear}{text}");
}

/// Shows a step that the next one replaces; only on a terminal.
pub(in crate::cli) fn step(text: &str) {
    let mut stderr = std::io::stderr().lock();
    if stderr.is_terminal() {
        let _ = write!(stderr, "\r\x1b[2K  {}", shortened(&plain(text.trim())));
        let _ = stderr.flush();
    }
}

/// Returns true if steps are shown.
pub(in crate::cli) fn is_shown() -> bool {
    std::io::stderr().is_terminal()
}

/// Removes the step from the terminal.
pub(in crate::cli) fn end() {
    let mut stderr = std::io::stderr().lock();
    if stderr.is_terminal() {
        let _ = write!(stderr, "\r\x1b[2K");
        let _ = stderr.flush();
    }
}

/// Shows a step, which is permanent where there is no terminal.
pub(in crate::cli) fn mark(text: &str) {
    if std::io::stderr().is_terminal() { step(text) } else { say(&format!("  {}", shortened(&plain(text.trim())))) }
}

fn shortened(text: &str) -> String {
    text.chars().take(WIDTH).collect()
}

const WIDTH: usize = 76;
