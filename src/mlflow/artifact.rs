//! Paths of the artifact proxy, interpreted as MLflow does: decoded until the text no longer changes.
//!
//! Based on `mlflow.utils.uri.validate_path_is_safe` and `mlflow.server.auth._artifact_proxy_requirements`, MLflow 3.17.2.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use crate::authz::ResourceKind;
use crate::http::PathError;

/// A path below the artifact root in canonical form.
///
/// INVARIANT: MLflow interprets this text literally. It contains no `%` that decodes, no empty, `.` or `..` segment, no `#`, no
/// tab, no line end and no URI scheme; it is neither absolute nor empty.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ArtifactPath(String);

impl ArtifactPath {
    /// Parses a path that was percent-decoded once.
    ///
    /// # Errors
    ///
    /// MLflow or a file system could interpret the text as a different path.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        let stable = stable(text)?;
        for segment in stable.strip_suffix('/').unwrap_or(&stable).split('/') {
            match segment {
                "" => return Err(PathError::EmptySegment),
                "." | ".." => return Err(PathError::DotSegment),
                _ => {}
            }
        }
        Ok(Self(stable.into_owned()))
    }

    /// Returns the path as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the path of an experiment's `artifact_location` without a trailing slash, for locations that refer to the
    /// artifact proxy.
    ///
    /// Returns `None` for buckets, files and all other locations outside the proxy's root, and for locations that clients and
    /// MLflow could interpret differently.
    #[must_use]
    pub fn of_location(location: &str) -> Option<Self> {
        let (scheme, rest) = location.split_once(':')?;
        let proxied = match scheme {
            "mlflow-artifacts" => false,
            "http" | "https" => true,
            _ => return None,
        };
        let path = match rest.strip_prefix("//") {
            // The path alone does not determine which server an authority refers to.
            Some(rest) => rest.split_once('/')?.1,
            None => rest.trim_start_matches('/'),
        };
        let path = match path.strip_prefix("api/2.0/mlflow-artifacts/artifacts/") {
            Some(path) => path,
            None if proxied => return None,
            None => path,
        };
        let path = path.trim_end_matches('/');
        // Clients do not decode a location as they decode a path, and they cut it at `?`.
        let plain = !path.contains(['%', '?', '#', '\\', ';']) && !path.contains(char::is_control);
        Self::parse(path).ok().filter(|parsed| plain && parsed.0 == path)
    }

    /// Returns the ID of the experiment whose default artifact location contains this path: the first segment, if it is a
    /// number.
    #[must_use]
    pub fn experiment(&self) -> Option<&str> {
        let first = self.0.split('/').next()?;
        super::locate::is_experiment_id(first).then_some(first)
    }

    /// Returns the key of the skill that owns this path of an uploaded file: `skills/NAME...` or `skills/@ORGANIZATION/NAME...`
    /// (`mlflow.store.tracking.skill_registry.artifact_paths`, 3.18).
    #[must_use]
    pub fn skill(&self) -> Option<&str> {
        let path = self.0.strip_prefix("skills/")?;
        let slash = if path.starts_with('@') { 1 } else { 0 };
        let end = path.match_indices('/').nth(slash).map_or(path.len(), |(at, _)| at);
        path.get(..end).filter(|key| ResourceKind::Skill.has_key(key))
    }

    /// Returns true for the folder in which MLflow stores the files of skills, and for everything below it. The comparison
    /// ignores case because some file systems do.
    #[must_use]
    pub fn is_of_skills(&self) -> bool {
        self.0.split('/').next().is_some_and(|first| first.eq_ignore_ascii_case("skills"))
    }

    /// Returns the part of the path below `ancestor`, or `None` if the path is not below it.
    #[must_use]
    pub fn below(&self, ancestor: &Self) -> Option<&str> {
        let rest = self.0.strip_suffix('/').unwrap_or(&self.0).strip_prefix(&ancestor.0)?;
        if rest.is_empty() { Some(rest) } else { rest.strip_prefix('/') }
    }

    /// Returns this path and all of its ancestors, from the longest to the shortest, without trailing slashes.
    pub fn ancestors(&self) -> impl Iterator<Item = &str> {
        let path = self.0.strip_suffix('/').unwrap_or(&self.0);
        std::iter::successors(Some(path), |path| path.rsplit_once('/').map(|(parent, _)| parent))
    }
}

/// Returns the tier of a path below an experiment's artifact location (`mlflow.server.auth._artifact_proxy_child_types`, 3.18):
/// the artifacts of a run, of a logged model or of a trace. The comparison ignores case because some file systems do.
#[must_use]
pub fn artifact_tier(below: &str) -> Option<ResourceKind> {
    match below.split('/').next()? {
        models if models.eq_ignore_ascii_case("models") => Some(ResourceKind::LoggedModel),
        traces if traces.eq_ignore_ascii_case("traces") => Some(ResourceKind::Trace),
        run if is_run_id(run) => Some(ResourceKind::Run),
        _ => None,
    }
}

/// The run or logged model that owns the files at a path below an experiment's artifact location, if they can belong to a
/// model.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ModelFiles<'p> {
    Run(&'p str),
    LoggedModel(&'p str),
}

impl<'p> ModelFiles<'p> {
    /// Parses `RUN_ID/artifacts/NAME...` and `models/MODEL_ID/artifacts...`; returns `None` for all other paths. The artifact
    /// folder of a run itself contains more than one model and is therefore excluded.
    #[must_use]
    pub fn at(below: &'p str) -> Option<Self> {
        let mut segments = below.split('/');
        match (segments.next()?, segments.next()?, segments.next()) {
            ("models", model, Some("artifacts")) if super::locate::is_opaque_id(model) => {
                Some(Self::LoggedModel(model))
            }
            (run, "artifacts", Some(_)) if is_run_id(run) => Some(Self::Run(run)),
            _ => None,
        }
    }

    /// Returns the ID of the run or logged model.
    #[must_use]
    pub const fn id(self) -> &'p str {
        match self {
            Self::Run(id) | Self::LoggedModel(id) => id,
        }
    }
}

fn is_run_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Normalizes a text as MLflow does (`mlflow.utils.uri._decode`): percent-decodes it and parses it as a URI until it no longer
/// changes.
fn stable(text: &str) -> Result<Cow<'_, str>, PathError> {
    let mut current = Cow::Borrowed(text);
    for _ in 0..ROUNDS {
        let decoded = percent_decode_str(&current).decode_utf8_lossy();
        let parsed = as_uri(&decoded)?;
        if *parsed == *current {
            return Ok(current);
        }
        current = Cow::Owned(parsed.into_owned());
    }
    Err(PathError::EncodedTwice)
}

/// Returns the result of Python's `urlunparse(urlparse(text))` for a relative path. Refuses texts that Python releases parse
/// differently, and texts that MLflow refuses.
fn as_uri(text: &str) -> Result<Cow<'_, str>, PathError> {
    if text.is_empty() || text.starts_with('/') {
        return Err(PathError::NotAbsolute);
    }
    // Newer Python releases drop leading control characters and spaces.
    if text.contains(['#', '\n']) || text.starts_with(|c: char| c <= ' ') || has_scheme(text) {
        return Err(PathError::ForbiddenCharacter);
    }
    let mut text = Cow::Borrowed(text);
    if text.contains(['\t', '\r']) {
        text = Cow::Owned(text.replace(['\t', '\r'], ""));
    }
    // Python drops an empty query and empty parameters.
    if text.contains(['?', ';']) {
        let (path, query) = text.split_once('?').unwrap_or((&text, ""));
        let name = path.rfind('/').map_or(0, |slash| slash + 1);
        // Parameters start at the first `;` of the last segment.
        let no_parameters =
            path.get(name..).and_then(|name| name.split_once(';')).is_some_and(|(_, rest)| rest.is_empty());
        let path = if no_parameters { path.strip_suffix(';').unwrap_or(path) } else { path };
        text = Cow::Owned(if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") });
    }
    Ok(text)
}

/// Returns true if a URI parser finds a scheme, which it would convert to lower case.
fn has_scheme(text: &str) -> bool {
    let Some((scheme, _)) = text.split_once(':') else { return false };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.bytes().all(plain)
}

/// The number of rounds after which MLflow gives up.
const ROUNDS: usize = 10;
