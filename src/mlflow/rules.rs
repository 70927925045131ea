//! The checks that the columns of the route table cannot say, one arm each.
//!
//! A rule reads the canonical request and answers with further demands; it decides nothing itself.

use super::locate::{Located, is_opaque_id, text_field};
use super::{ArtifactPath, Json, LocateError, Operation, PROMPT_TAG, Rule, Then, Thing};
use crate::authz::Permission;

const PROMPT_SOURCES: [&str; 2] = ["dummy-source", "prompt-template"];

/// What a rule asks for beside the row's needs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Demand {
    /// One more thing the request is about.
    Located(Located),
    /// Nobody took this name's permissions away from the caller.
    NameIsFree(String),
    /// Only administrators may do this; the words complete "Only an administrator may …".
    Privileged(&'static str),
    /// Only administrators, or anybody below one of the configured prefixes.
    ArtifactLocation(String),
    /// The URI lies inside the artifacts of this run or logged model, which the request names too.
    Inside { uri: String, run: Option<String>, model: Option<String> },
}

/// The further demands of an operation's rule.
///
/// # Errors
/// A field that the rule reads is of the wrong type or missing.
pub fn demands(operation: &Operation, body: Option<&mut Json<'_>>) -> Result<Vec<Demand>, LocateError> {
    let (Some(rule), Some(body)) = (operation.rule, body) else { return Ok(Vec::new()) };
    Ok(match rule {
        Rule::ArtifactLocation => {
            let location = text_field(body, "artifact_location")?.filter(|location| !location.is_empty());
            location.map(Demand::ArtifactLocation).into_iter().collect()
        }
        Rule::NewName => {
            let field = if operation.then == Some(Then::RenameModel) { "new_name" } else { "name" };
            let name = text_field(body, field)?.ok_or_else(|| LocateError::Missing(field.to_owned()))?;
            vec![Demand::NameIsFree(name)]
        }
        Rule::PromptTag => {
            let key = text_field(body, "key")?.ok_or_else(|| LocateError::Missing("key".to_owned()))?;
            // A prompt and a model carry different grants; this tag would move one among the other's.
            let moves = key.eq_ignore_ascii_case(PROMPT_TAG);
            moves.then_some(Demand::Privileged("set or delete the tag `mlflow.prompt.is_prompt`")).into_iter().collect()
        }
        Rule::RunOrModel => {
            let none = text_field(body, "run_id")?.is_none() && text_field(body, "model_id")?.is_none();
            if none {
                return Err(LocateError::Missing("run_id".to_owned()));
            }
            Vec::new()
        }
        Rule::VersionSource => {
            let source = text_field(body, "source")?.ok_or_else(|| LocateError::Missing("source".to_owned()))?;
            let run = text_field(body, "run_id")?.filter(|run| !run.is_empty());
            let model = text_field(body, "model_id")?.filter(|model| !model.is_empty());
            // What prompts have in place of a source (`mlflow.prompt.constants`); MLflow takes it for prompts only.
            if PROMPT_SOURCES.contains(&source.as_str()) {
                return Ok(Vec::new());
            }
            let found = SourceUri::parse(&source)?;
            if let SourceUri::Run(id) | SourceUri::LoggedModel(id) = &found
                && !is_opaque_id(id)
            {
                return Err(unclear(&source));
            }
            vec![demand_on(found, source, run, model)]
        }
    })
}

fn demand_on(source: SourceUri, uri: String, run: Option<String>, model: Option<String>) -> Demand {
    let read = |thing, id| Demand::Located(Located { permission: Permission::Read, thing, id });
    match source {
        SourceUri::Model(name) => read(Thing::Model, name),
        SourceUri::LoggedModel(id) => read(Thing::LoggedModel, id),
        SourceUri::Run(id) => read(Thing::Run, id),
        SourceUri::Artifact(path) => read(Thing::Artifact, path.as_str().to_owned()),
        SourceUri::Elsewhere => Demand::Inside { uri, run, model },
    }
}

/// What the `source` of a model version points to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum SourceUri {
    /// `models:/NAME/VERSION` or `models:/NAME@ALIAS`
    Model(String),
    /// `models:/m-…`
    LoggedModel(String),
    /// `runs:/RUN/…`
    Run(String),
    /// `mlflow-artifacts:/…`
    Artifact(ArtifactPath),
    /// A bucket, a file: MLflow reads it with its own credentials.
    Elsewhere,
}

impl SourceUri {
    /// Reads a source as `mlflow.store.artifact.utils.models._parse_model_uri` and its siblings do.
    ///
    /// # Errors
    /// An artifact path that could be read in two ways.
    pub fn parse(source: &str) -> Result<Self, LocateError> {
        // Python's urlparse lower-cases schemes.
        let (scheme, rest) = source.split_once(':').unwrap_or(("", source));
        let scheme = scheme.to_ascii_lowercase();
        if matches!(scheme.as_str(), "models" | "runs" | "mlflow-artifacts") && !is_plain(rest) {
            return Err(unclear(source));
        }
        match scheme.as_str() {
            "models" => {
                let path = one_slash(rest).ok_or_else(|| unclear(source))?;
                let parts: Vec<&str> = path.split('/').collect();
                match parts[..] {
                    [name, _suffix] => Ok(Self::Model(name.to_owned())),
                    [only] => Ok(match only.rsplit_once('@') {
                        Some((name, _alias)) => Self::Model(name.to_owned()),
                        None => Self::LoggedModel(only.to_owned()),
                    }),
                    _ => Err(unclear(source)),
                }
            }
            "runs" => {
                let path = one_slash(rest).ok_or_else(|| unclear(source))?;
                Ok(Self::Run(path.split('/').next().unwrap_or_default().to_owned()))
            }
            "mlflow-artifacts" => {
                // `mlflow-artifacts:/PATH` or `mlflow-artifacts://HOST/PATH`: the host is where clients find MLflow.
                let path = match rest.strip_prefix("//") {
                    Some(with_host) => with_host.split_once('/').map_or("", |(_, path)| path),
                    None => rest.trim_start_matches('/'),
                };
                let path = path.strip_prefix("api/2.0/mlflow-artifacts/artifacts/").unwrap_or(path);
                Ok(Self::Artifact(ArtifactPath::parse(path)?))
            }
            _ => Ok(Self::Elsewhere),
        }
    }
}

/// After the scheme: `/PATH`. With two slashes a host would stand there, which MLflow skips.
fn one_slash(rest: &str) -> Option<&str> {
    rest.strip_prefix('/').filter(|path| !path.starts_with('/') && !path.is_empty())
}

/// Python's urlparse drops tabs and line ends, trims, and cuts at `?`: what it would change is not accepted.
fn is_plain(rest: &str) -> bool {
    let changed = rest.contains(char::is_control) || rest.contains(['?', '#', '\\', '%', ';']);
    !changed && rest.split(['/', '@']).all(|part| part.trim() == part)
}

fn unclear(source: &str) -> LocateError {
    LocateError::Invalid {
        name: "source".to_owned(),
        value: source.chars().filter(|c| !c.is_control()).take(64).collect(),
        expected: "models:/NAME/VERSION, models:/NAME@ALIAS, models:/MODEL_ID, runs:/RUN_ID/PATH or an artifact's URI",
    }
}
