//! Results of the checks, in order, each with the setting to change when something is wrong.

use serde::Serialize;

use super::super::output::Format;
use crate::text::plain;

/// Result of a check.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Outcome {
    Ok,
    Warning,
    Failed,
}

impl Outcome {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "FAILED",
        }
    }
}

/// A finding of one check.
#[derive(Debug, Serialize)]
pub(super) struct Finding {
    /// Subject of the check, such as `provider keycloak: redirect URI`.
    pub(super) check: String,
    pub(super) outcome: Outcome,
    pub(super) found: String,
    /// The setting to change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) change: Option<String>,
    /// Other checks that failed for the same reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) also: Vec<String>,
}

/// All findings.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    pub(super) findings: Vec<Finding>,
}

impl Report {
    pub(super) fn ok(&mut self, check: impl Into<String>, found: impl Into<String>) {
        self.add(check.into(), Outcome::Ok, found.into(), None);
    }

    pub(super) fn warn(&mut self, check: impl Into<String>, found: impl Into<String>, change: impl Into<String>) {
        self.add(check.into(), Outcome::Warning, found.into(), Some(change.into()));
    }

    pub(super) fn fail(&mut self, check: impl Into<String>, found: impl Into<String>, change: impl Into<String>) {
        let (check, found) = (check.into(), found.into());
        // Failures with the same cause are one finding: a realm can be both a provider and an issuer, and lack both
        // metadata and keys.
        let same = self.findings.iter_mut().find(|it| it.outcome == Outcome::Failed && it.found == found);
        match same {
            Some(earlier) => earlier.also.push(check),
            None => self.add(check, Outcome::Failed, found, Some(change.into())),
        }
    }

    fn add(&mut self, check: String, outcome: Outcome, found: String, change: Option<String>) {
        self.findings.push(Finding { check, outcome, found, change, also: Vec::new() });
    }

    pub(super) fn has_failed(&self) -> bool {
        self.count(Outcome::Failed) > 0
    }

    fn count(&self, outcome: Outcome) -> usize {
        self.findings.iter().filter(|finding| finding.outcome == outcome).count()
    }

    /// Prints the report.
    pub(super) fn show(&self, format: Format) -> anyhow::Result<()> {
        format.done(self, &self.text())
    }

    fn text(&self) -> String {
        let mut lines = Vec::new();
        for finding in &self.findings {
            // Much of the text comes from a provider or a token.
            let found = plain(&finding.found);
            lines.push(format!("{:<8} {}: {found}", finding.outcome.as_str(), plain(&finding.check)));
            lines.extend(finding.also.iter().map(|check| format!("         also: {}", plain(check))));
            lines.extend(finding.change.as_ref().map(|change| format!("         -> {}", plain(change))));
        }
        let (failed, warned) = (self.count(Outcome::Failed), self.count(Outcome::Warning));
        lines.push(format!("\n{} checks, {failed} failed, {warned} warnings", self.findings.len()));
        lines.join("\n")
    }
}
