//! Problems of a configuration, all reported at once, each with its key and the origin of the value.
//!
//! A message never contains a value that could be a secret.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// One problem to correct.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    /// The dotted key, e.g. `server.tls.cert`.
    pub key: String,
    /// Description of the problem and its correction. Contains no secret.
    pub message: String,
    /// Layer that the value came from; `None` if no layer has one.
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

/// All problems of a configuration, by key.
#[derive(Clone, Debug, Default, Eq, PartialEq, thiserror::Error)]
#[error("{}", lines(.0))]
pub struct Problems(pub Vec<Problem>);

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Layer that a value came from.
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
    /// Records the layer of a value. Later layers replace earlier ones.
    pub(super) fn came_from(&mut self, key: &str, origin: &Origin) {
        self.origins.insert(key.to_owned(), origin.clone());
    }

    pub(super) fn origin(&self, key: &str) -> Option<&Origin> {
        self.origins.get(key)
    }

    /// Adds a problem with the effective value of `key`.
    pub(super) fn add(&mut self, key: &str, message: impl fmt::Display) {
        let origin = self.origins.get(key).cloned();
        self.problems.push(Problem { key: key.to_owned(), message: message.to_string(), origin });
    }

    /// Adds a problem with one layer's value, which a later layer can have replaced.
    pub(super) fn add_from(&mut self, key: &str, origin: Option<Origin>, message: impl fmt::Display) {
        self.problems.push(Problem { key: key.to_owned(), message: message.to_string(), origin });
    }

    /// Returns the value, or adds a problem under `key`.
    pub(super) fn check<T>(&mut self, key: &str, result: Result<T, impl fmt::Display>) -> Option<T> {
        result.map_err(|message| self.add(key, message)).ok()
    }

    /// Returns `value` if no problem was added.
    pub(super) fn finish<T>(mut self, value: Option<T>) -> Result<T, Problems> {
        if let (Some(value), true) = (value, self.problems.is_empty()) {
            return Ok(value);
        }
        self.problems.sort_by(|a, b| a.key.cmp(&b.key));
        Err(Problems(self.problems))
    }
}
