//! The route table: `routes.toml` read into types, and the look-up from method and path to operation.
//!
//! Read once at start; a sentence that cannot be understood stops the start, it never becomes "allow".

use std::str::FromStr;

use http::Method;
use serde::Deserialize;

use crate::authz::{Permission, ResourceKind};

/// Where in a request a field stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Source {
    Query,
    Body,
    Path,
}

/// How to find one field, e.g. `body.metrics[].model_id?`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Field {
    pub source: Source,
    /// The list the field stands in, for `metrics[].model_id`.
    pub within: Option<String>,
    /// Its names; MLflow renamed `run_uuid` to `run_id` and accepts both.
    pub names: Vec<String>,
    /// The field itself is a list.
    pub list: bool,
    pub optional: bool,
}

/// What a field names.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Thing {
    Experiment,
    ExperimentName,
    Run,
    LoggedModel,
    Model,
    Artifact,
}

/// One thing that must hold.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Need {
    Public,
    SignedIn,
    Admin,
    Create(ResourceKind),
    Level { permission: Permission, thing: Thing, field: Field },
}

/// What becomes of the request's body.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum Send {
    Query,
    Json,
    Stream,
}

/// A list in the answer of which only readable rows are kept.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    Experiments,
    RegisteredModels,
    ModelVersions,
}

/// What follows when MLflow said yes.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
pub enum Then {
    #[serde(rename = "own experiment")]
    OwnExperiment,
    #[serde(rename = "own model")]
    OwnModel,
    #[serde(rename = "drop model")]
    DropModel,
    #[serde(rename = "rename model")]
    RenameModel,
    #[serde(rename = "learn run")]
    LearnRun,
}

/// A check that the columns of the table cannot say; see [`super::rules`].
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    ArtifactLocation,
    NewName,
    PromptTag,
    RunOrModel,
    VersionSource,
}

/// One row: what an MLflow endpoint does and needs.
#[derive(Debug)]
pub struct Operation {
    /// Bounded, so it may label metrics. The table lives as long as the process, and so do its names.
    pub name: &'static str,
    pub needs: Vec<Need>,
    pub send: Send,
    /// Its JSON may be as large as the configuration allows; that of all others is small.
    pub large: bool,
    pub narrow: Option<Field>,
    pub filter: Option<Filter>,
    pub then: Option<Then>,
    pub rule: Option<Rule>,
}

impl Operation {
    /// Whether it may be asked without signing in.
    #[must_use]
    pub fn is_public(&self) -> bool {
        self.needs == [Need::Public]
    }
}

/// Why the table cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    #[error("routes.toml: {0}")]
    Toml(#[from] toml::de::Error),
    #[error("routes.toml: `{operation}`: {what}")]
    Row { operation: String, what: String },
}

/// The answer of a look-up.
#[derive(Debug)]
pub enum Found<'t, 'p> {
    Operation {
        operation: &'t Operation,
        params: Vec<(&'t str, &'p str)>,
    },
    /// The path is known, the method is not: 405 with these.
    OtherMethods(Vec<Method>),
    /// Not in the table: administrators only.
    Unlisted,
}

/// All rows, ready for look-up.
#[derive(Debug)]
pub struct Table {
    operations: Vec<Operation>,
    router: matchit::Router<Vec<(Method, usize)>>,
}

impl Table {
    /// The table this program was built with.
    ///
    /// # Errors
    /// A row that cannot be understood; a unit test reads it too, so a release never starts into this.
    pub fn built_in() -> Result<Self, TableError> {
        Self::parse(include_str!("routes.toml"))
    }

    /// Reads a table.
    ///
    /// # Errors
    /// Anything that is not understood entirely.
    pub fn parse(text: &str) -> Result<Self, TableError> {
        let rows: Rows = toml::from_str(text)?;
        let mut operations = Vec::with_capacity(rows.operation.len());
        let mut paths: Vec<(String, Vec<(Method, usize)>)> = Vec::new();
        for row in rows.operation {
            let wrong = |what: String| TableError::Row { operation: row.name.clone(), what };
            let (methods, path) = parse_route(&row.route).map_err(wrong)?;
            let needs = row.needs.iter().map(|need| need.parse()).collect::<Result<Vec<Need>, _>>().map_err(wrong)?;
            if needs.is_empty() {
                return Err(wrong("it needs nothing; say PUBLIC if that is meant".to_owned()));
            }
            let narrow = row.narrow.as_deref().map(Field::from_str).transpose().map_err(wrong)?;
            let reads = methods.iter().all(|method| *method == Method::GET || *method == Method::HEAD);
            let send = row.send.unwrap_or(if reads { Send::Query } else { Send::Json });
            for path in twins(&path) {
                let entries: Vec<_> = methods.iter().map(|method| (method.clone(), operations.len())).collect();
                match paths.iter_mut().find(|(known, _)| *known == path) {
                    Some((_, known)) => known.extend(entries),
                    None => paths.push((path, entries)),
                }
            }
            let (filter, then, rule) = (row.filter, row.then, row.rule);
            let name = Box::leak(row.name.into_boxed_str());
            operations.push(Operation { name, needs, send, large: row.large, narrow, filter, then, rule });
        }
        let mut router = matchit::Router::new();
        for (path, entries) in paths {
            let what =
                |error: matchit::InsertError| TableError::Row { operation: path.clone(), what: error.to_string() };
            router.insert(&path, entries).map_err(what)?;
        }
        Ok(Self { operations, router })
    }

    /// Every row.
    #[must_use]
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// What a request is. `path` is canonical: [`crate::http::CanonicalPath::decoded`].
    #[must_use]
    pub fn find<'t, 'p>(&'t self, method: &Method, path: &'p str) -> Found<'t, 'p> {
        let Ok(matched) = self.router.at(path) else { return Found::Unlisted };
        let entry = matched.value.iter().find(|(known, _)| known == method);
        match entry.and_then(|(_, index)| self.operations.get(*index)) {
            Some(operation) => Found::Operation { operation, params: matched.params.iter().collect() },
            None => Found::OtherMethods(matched.value.iter().map(|(method, _)| method.clone()).collect()),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rows {
    operation: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    name: String,
    route: String,
    needs: Vec<String>,
    send: Option<Send>,
    #[serde(default)]
    large: bool,
    narrow: Option<String>,
    filter: Option<Filter>,
    then: Option<Then>,
    rule: Option<Rule>,
}

fn parse_route(route: &str) -> Result<(Vec<Method>, String), String> {
    let (methods, path) = route.split_once(' ').ok_or("`route` is methods, a space, a path")?;
    let method = |name: &str| name.parse::<Method>().map_err(|_| format!("`{name}` is not a method"));
    Ok((methods.split(',').map(method).collect::<Result<_, _>>()?, path.to_owned()))
}

fn twins(path: &str) -> Vec<String> {
    let twin = path.strip_prefix("/api/").map(|rest| format!("/ajax-api/{rest}"));
    std::iter::once(path.to_owned()).chain(twin).collect()
}

impl FromStr for Need {
    type Err = String;

    fn from_str(sentence: &str) -> Result<Self, String> {
        let words: Vec<&str> = sentence.split_whitespace().collect();
        match words[..] {
            ["PUBLIC"] => Ok(Self::Public),
            ["SIGNED-IN"] => Ok(Self::SignedIn),
            ["ADMIN"] => Ok(Self::Admin),
            ["CREATE", "experiment"] => Ok(Self::Create(ResourceKind::Experiment)),
            ["CREATE", "model"] => Ok(Self::Create(ResourceKind::RegisteredModel)),
            [level, thing, field] => {
                let permission: Permission = level.parse().map_err(|error| format!("{error}"))?;
                if permission.refuses() {
                    return Err(format!("`{level}` cannot be needed"));
                }
                Ok(Self::Level { permission, thing: thing.parse()?, field: field.parse()? })
            }
            _ => Err(format!("`{sentence}` is not a need")),
        }
    }
}

impl FromStr for Thing {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        Ok(match word {
            "experiment" => Self::Experiment,
            "experiment-name" => Self::ExperimentName,
            "run" => Self::Run,
            "logged-model" => Self::LoggedModel,
            "model" => Self::Model,
            "artifact" => Self::Artifact,
            _ => return Err(format!("`{word}` is not a thing")),
        })
    }
}

impl FromStr for Field {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (text, optional) = text.strip_suffix('?').map_or((text, false), |text| (text, true));
        let (source, rest) = text.split_once('.').ok_or_else(|| format!("`{text}` does not say where the field is"))?;
        let source = match source {
            "query" => Source::Query,
            "body" => Source::Body,
            "path" => Source::Path,
            _ => return Err(format!("`{source}` is not query, body or path")),
        };
        let (within, rest) = match rest.split_once("[].") {
            Some((list, field)) => (Some(list.to_owned()), field),
            None => (None, rest),
        };
        let (rest, list) = rest.strip_suffix("[]").map_or((rest, false), |rest| (rest, true));
        let names: Vec<String> = rest.split('|').map(str::to_owned).collect();
        if names.iter().any(|name| name.is_empty() || !name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')) {
            return Err(format!("`{rest}` is not a field name"));
        }
        Ok(Self { source, within, names, list, optional })
    }
}
