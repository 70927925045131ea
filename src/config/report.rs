//! What is wrong with a configuration: everything at once, each under its own key, with where the value came from.
//!
//! A message never repeats a value that could be a secret.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// One thing that has to be corrected.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    /// The dotted key, e.g. `server.tls.cert`.
    pub key: String,
    /// What is wrong and what to do. Holds no secret.
    pub message: String,
    /// Where the value came from; `None` when nobody gave one.
    pub origin: Option<Origin>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.message)?;
        match &self.origin {
            None => Ok(()),
            Some(origin) => write!(f, " ({origin})"),
        }
    }
}

/// Every problem of a configuration, by key.
#[derive(Clone, Debug, Default, Eq, PartialEq, thiserror::Error)]
#[error("{}", lines(.0))]
pub struct Problems(pub Vec<Problem>);

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Where a value came from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Origin {
    File(PathBuf),
    /// The variable's name.
    Environment(String),
    /// The flag's key.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "from {}", path.display()),
            Self::Environment(name) => write!(f, "from {name}"),
            Self::Flag(_) => f.write_str("from the command line"),
        }
    }
}

/// Collects problems while the layers are read and the values are parsed.
#[derive(Debug, Default)]
pub(super) struct Report {
    problems: Vec<Problem>,
    origins: BTreeMap<String, Origin>,
}

impl Report {
    /// Remembers which layer's value of `key` holds; later layers replace earlier ones.
    pub(super) fn came_from(&mut self, key: &str, origin: &Origin) {
        self.origins.insert(key.to_owned(), origin.clone());
    }

    pub(super) fn origin(&self, key: &str) -> Option<&Origin> {
        self.origins.get(key)
    }

    /// A problem with the value of `key` that holds.
    pub(super) fn add(&mut self, key: &str, message: impl fmt::Display) {
        let origin = self.origins.get(key).cloned();
        self.problems.push(Problem { key: key.to_owned(), message: message.to_string(), origin });
    }

    /// A problem with what one layer says, whether or not it holds.
    pub(super) fn add_from(&mut self, key: &str, origin: Option<Origin>, message: impl fmt::Display) {
        self.problems.push(Problem { key: key.to_owned(), message: message.to_string(), origin });
    }

    /// The value, or a problem under `key`.
    pub(super) fn check<T>(&mut self, key: &str, result: Result<T, impl fmt::Display>) -> Option<T> {
        result.map_err(|message| self.add(key, message)).ok()
    }

    /// `value`, unless anything at all was wrong.
    pub(super) fn finish<T>(mut self, value: Option<T>) -> Result<T, Problems> {
        if let (Some(value), true) = (value, self.problems.is_empty()) {
            return Ok(value);
        }
        self.problems.sort_by(|a, b| a.key.cmp(&b.key));
        Err(Problems(self.problems))
    }
}
