//! Paths of the artifact proxy, read as MLflow reads them: decoded until nothing changes.
//!
//! `mlflow.server.handlers.validate_path_is_safe` and `_get_experiment_id_from_view_args`, MLflow 3.17.2.

use crate::authz::ResourceKind;
use crate::http::{PathError, decode_until_stable};

/// A path below the artifact root in its one accepted spelling.
///
/// INVARIANT: no `%` that decodes, no empty, `.` or `..` segment, no `#`, no backslash, not absolute, not empty.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ArtifactPath(String);

impl ArtifactPath {
    /// Reads a path that was percent-decoded once.
    ///
    /// # Errors
    /// Anything that MLflow or a file system could read as another path.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        let stable = decode_until_stable(text)?;
        if stable.is_empty() || stable.starts_with('/') {
            return Err(PathError::NotAbsolute);
        }
        if stable.contains(['\\', '#', '?']) || stable.contains(char::is_control) {
            return Err(PathError::ForbiddenCharacter);
        }
        let inner = stable.strip_suffix('/').unwrap_or(&stable);
        for segment in inner.split('/') {
            match segment {
                "" => return Err(PathError::EmptySegment),
                "." | ".." => return Err(PathError::DotSegment),
                _ => {}
            }
        }
        Ok(Self(stable))
    }

    /// The path.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The experiment whose default artifact location this lies in: the first segment, when it is a number.
    ///
    /// `None` for the root, for other workspaces and for locations of an administrator's choosing.
    #[must_use]
    pub fn experiment(&self) -> Option<&str> {
        let first = self.0.split('/').next()?;
        super::locate::is_experiment_id(first).then_some(first)
    }

    /// What of the experiment it belongs to (`mlflow.server.auth._artifact_proxy_requirements`, 3.17.2): the artifacts
    /// of a run, of a logged model or of a trace.
    #[must_use]
    pub fn tier(&self) -> Option<ResourceKind> {
        match self.0.split('/').nth(1)? {
            "models" => Some(ResourceKind::LoggedModel),
            "traces" => Some(ResourceKind::Trace),
            run if run.len() == 32 && run.bytes().all(|byte| byte.is_ascii_hexdigit()) => Some(ResourceKind::Run),
            _ => None,
        }
    }
}
