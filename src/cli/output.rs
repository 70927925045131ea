//! Output of commands: a stable JSON format for programs, an aligned table for users.
//!
//! Names come from users, so all characters are escaped that could control the reader's terminal or forge a line.

use std::io::Write as _;

use crate::text;
use clap::{Args, Subcommand};
use serde::Serialize;

/// Arguments of a command with subcommands that work on the store.
#[derive(Args, Debug)]
pub(super) struct OnStore<C: Subcommand> {
    #[command(subcommand)]
    pub(super) command: C,
    #[command(flatten)]
    pub(super) format: Format,
}

/// Output format of a command.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct Format {
    /// Print JSON, for programs
    #[arg(long, global = true)]
    json: bool,
}

/// A value that can be shown as one row of a table.
pub(super) trait Row<const N: usize>: Serialize {
    const HEAD: [&'static str; N];

    fn cells(&self) -> [String; N];
}

impl Format {
    /// Prints a list: `{"NAME": [...]}` or a table.
    pub(super) fn list<const N: usize, R: Row<N>>(self, name: &str, rows: &[R]) -> anyhow::Result<()> {
        if self.json {
            return json(&std::collections::BTreeMap::from([(name, rows)]));
        }
        table(R::HEAD, rows.iter().map(Row::cells))
    }

    /// Prints one object: as JSON, or as text.
    pub(super) fn done(self, thing: &impl Serialize, text: &str) -> anyhow::Result<()> {
        if self.json { json(thing) } else { line(text) }
    }

    /// Prints a secret that is shown once. As JSON it is part of `thing`. Otherwise it is printed alone on standard
    /// output, so that it can be piped, and the sentence on standard error.
    pub(super) fn secret(self, thing: &impl Serialize, sentence: &str, secret: &str) -> anyhow::Result<()> {
        if self.json {
            return json(thing);
        }
        writeln!(std::io::stderr().lock(), "{}", text::plain(sentence))?;
        line(secret)
    }
}

/// Prints text on standard output, with control and deceptive characters escaped.
pub(super) fn line(text: &str) -> anyhow::Result<()> {
    write(&text::plain_lines(text))
}

/// Prints the reason for an exit code on standard error. All lines but the first are indented, so that none of them
/// can pass for another message.
pub(super) fn error(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", text::plain_lines(text).replace('\n', "\n  "));
}

fn write(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}

/// Prints a table with aligned columns.
pub(super) fn table<const N: usize>(
    head: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> anyhow::Result<()> {
    line(&aligned(head, rows))
}

pub(super) fn aligned<const N: usize>(head: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let head = head.map(str::to_owned);
    let rows: Vec<[String; N]> = std::iter::once(head)
        .chain(rows.into_iter().map(|row| row.map(|cell| text::plain(&cell).into_owned())))
        .collect();
    let mut widths = [0; N];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let lines = rows.iter().map(|row| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

pub(super) fn json(thing: &impl Serialize) -> anyhow::Result<()> {
    let json = serde_json::to_string_pretty(thing)?;
    write(&text::plain_json(&json))
}
