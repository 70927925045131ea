//! Sources of model versions.

use super::super::locate::{Located, is_opaque_id, shown, text_field};
use super::super::{ArtifactPath, Json, LocateError, Thing};
use super::Demand;
use super::prompts;
use crate::authz::Permission;

/// Values that prompts have instead of a source (`mlflow.prompt.constants`).
const PROMPT_SOURCES: [&str; 2] = ["dummy-source", "prompt-template"];

/// Returns the demands of the source of a new version.
pub(super) fn version(body: &mut Json<'_>) -> Result<Vec<Demand>, LocateError> {
    let source = text_field(body, "source")?.ok_or_else(|| LocateError::Missing("source".to_owned()))?;
    let run = text_field(body, "run_id")?.filter(|run| !run.is_empty());
    let model = text_field(body, "model_id")?.filter(|model| !model.is_empty());
    let name = text_field(body, "name")?.unwrap_or_default();
    let mut demands = Vec::new();
    if let Some(Json::Array(tags)) = body.get("tags") {
        for tag in tags.iter() {
            let tag = tag?;
            let (key, value) = (tag.text("key").unwrap_or_default(), tag.text("value").unwrap_or_default());
            demands.extend(prompts::model_tag(&name, key, value));
        }
    }
    // MLflow accepts these for prompts only.
    if PROMPT_SOURCES.contains(&source.as_str()) {
        return Ok(demands);
    }
    let found = SourceUri::parse(&source)?;
    if let SourceUri::Run(id) | SourceUri::LoggedModel(id) = &found
        && !is_opaque_id(id)
    {
        return Err(unclear(&source));
    }
    demands.push(demand_on(found, source, run, model));
    Ok(demands)
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

/// The target of the `source` of a model version.
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
    /// A bucket or a file, which MLflow reads with its own credentials.
    Elsewhere,
}

impl SourceUri {
    /// Parses a source as `mlflow.store.artifact.utils.models._parse_model_uri` and related functions do.
    ///
    /// # Errors
    ///
    /// The artifact path could be interpreted in two ways.
    pub fn parse(source: &str) -> Result<Self, LocateError> {
        // Python's `urlparse` converts schemes to lower case.
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
            // `mlflow-artifacts://HOST/PATH`: clients connect to that host and send it their credentials.
            "mlflow-artifacts" if rest.starts_with("//") && !rest.starts_with("///") => Ok(Self::Elsewhere),
            "mlflow-artifacts" => {
                let path = rest.trim_start_matches('/');
                let path = path.strip_prefix("api/2.0/mlflow-artifacts/artifacts/").unwrap_or(path);
                Ok(Self::Artifact(ArtifactPath::parse(path)?))
            }
            _ => Ok(Self::Elsewhere),
        }
    }
}

/// Returns the part after the scheme if it has the form `/PATH`. Two slashes would introduce a host, which MLflow skips.
pub(super) fn one_slash(rest: &str) -> Option<&str> {
    rest.strip_prefix('/').filter(|path| !path.starts_with('/') && !path.is_empty())
}

/// Returns true if Python's `urlparse` leaves the text unchanged. It drops tabs and line ends, trims the text and cuts it at
/// `?`.
pub(super) fn is_plain(rest: &str) -> bool {
    let changed = rest.contains(char::is_control) || rest.contains(['?', '#', '\\', '%', ';']);
    !changed && rest.split(['/', '@']).all(|part| part.trim() == part)
}

fn unclear(source: &str) -> LocateError {
    LocateError::Invalid {
        name: "source".to_owned(),
        value: shown(source),
        expected: "models:/NAME/VERSION, models:/NAME@ALIAS, models:/MODEL_ID, runs:/RUN_ID/PATH or an artifact's URI",
    }
}
