//! The spellings of a path that MLflow's clients use.

/// The encoding of the segments of a path.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PathForm {
    Plain,
    /// The path contains a name with an encoded slash: MCP servers and the tags of skills. MLflow treats it as any other slash.
    Names,
    /// The path ends with the name of a file in the artifact proxy.
    Artifact,
}

impl PathForm {
    /// Returns the form of a path as it was sent, without MLflow's static prefix.
    #[must_use]
    pub fn of(path: &str) -> Self {
        let Some(path) = ["/api", "/ajax-api"].iter().find_map(|api| path.strip_prefix(api)) else {
            return Self::Plain;
        };
        if path.starts_with("/2.0/mlflow-artifacts/") {
            return Self::Artifact;
        }
        let has_names = |path: &str| path.starts_with("mcp-servers/") || path.starts_with("skills/");
        if path.strip_prefix("/3.0/mlflow/").is_some_and(has_names) { Self::Names } else { Self::Plain }
    }
}
