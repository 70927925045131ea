//! Finds the model versions that a file of the artifact proxy belongs to.
//!
//! Clients load `models:/NAME/VERSION` from the location of the version's files, below the experiment that trained it. READ on
//! the model grants access to these files and no others. A version whose files would be all artifacts of a run, or more, is
//! ignored here.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Deserialize;

use super::{Error, Resolver, parse};
use crate::http::Query;
use crate::mlflow::{ArtifactPath, ModelFiles, lookups};

/// A version of a registered model or prompt.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ModelVersionKey {
    pub name: String,
    pub version: String,
}

/// Maximum number of versions of one run or logged model that are considered.
const MAX_VERSIONS: usize = 200;
/// Maximum number of these versions whose copies are looked up.
const MAX_COPIED: usize = 20;

impl Resolver {
    /// Returns the model versions whose files can include this one: those that refer to its run or logged model, and their
    /// copies.
    ///
    /// # Errors
    ///
    /// MLflow could not be asked.
    pub async fn versions_near(&self, path: &str) -> Result<Arc<[ModelVersionKey]>, Error> {
        let Ok(path) = ArtifactPath::parse(path) else { return Ok(Arc::default()) };
        let Some(place) = self.place(&path).await? else { return Ok(Arc::default()) };
        let Some(files) = ModelFiles::at(place.below) else { return Ok(Arc::default()) };
        let found = self.versions.try_get_with(files.id().to_owned(), async { self.search_versions(files).await });
        found.await.map_err(|error| Error::clone(&error))
    }

    /// Returns true if the file belongs to this version.
    ///
    /// # Errors
    ///
    /// MLflow could not be asked.
    pub async fn is_file_of(&self, path: &str, version: &ModelVersionKey) -> Result<bool, Error> {
        let Ok(path) = ArtifactPath::parse(path) else { return Ok(false) };
        let location = self.version_locations.try_get_with(version.clone(), async {
            let found = self.find::<DownloadUri>(lookups::download_uri(&version.name, &version.version)).await?;
            Ok::<_, Error>(found.and_then(|found| ArtifactPath::of_location(&found.artifact_uri)).map(Arc::new))
        });
        let Some(root) = location.await.map_err(|error| Error::clone(&error))? else { return Ok(false) };
        if path.below(&root).is_none() {
            return Ok(false);
        }
        let (Some(of_file), Some(of_version)) = (self.place(&path).await?, self.place(&root).await?) else {
            return Ok(false);
        };
        // Another experiment may be stored inside, and the version may contain more than the folder of a model.
        let files = ModelFiles::at(of_version.below);
        Ok(of_file.root == of_version.root && files.is_some() && files == ModelFiles::at(of_file.below))
    }

    /// Clears the cached versions, because one was just created or deleted through the proxy.
    pub fn forget_versions(&self) {
        self.versions.invalidate_all();
        self.version_locations.invalidate_all();
    }

    async fn search_versions(&self, files: ModelFiles<'_>) -> Result<Arc<[ModelVersionKey]>, Error> {
        // INVARIANT: the ID contains letters, digits, `-` and `_` only, so it needs no escaping in a filter.
        let id = files.id();
        let mut found = BTreeSet::new();
        let mut to_follow = self.versions_where(&format!("source_path LIKE '%{id}%'"), &mut found).await?;
        if let ModelFiles::Run(_) = files {
            to_follow.extend(self.versions_where(&format!("run_id = '{id}'"), &mut found).await?);
        }
        // The source of a copy is `models:/NAME/VERSION`, and a copy can be copied again.
        for _ in 0..MAX_COPIED {
            let Some(copied) = to_follow.pop() else { break };
            // A name with a quote cannot be written in a filter.
            if copied.name.contains(['\'', '"', '\\']) {
                continue;
            }
            let source = format!("source_path = 'models:/{}/{}'", copied.name, copied.version);
            to_follow.extend(self.versions_where(&source, &mut found).await?);
        }
        Ok(found.into_iter().collect())
    }

    /// Adds the versions that match, and returns those that are new.
    async fn versions_where(
        &self,
        filter: &str,
        found: &mut BTreeSet<ModelVersionKey>,
    ) -> Result<Vec<ModelVersionKey>, Error> {
        let mut query = Query::default();
        query.set("filter", Some(filter));
        query.set("max_results", Some(&MAX_VERSIONS.to_string()));
        let target = lookups::model_versions(&query);
        let Some(answer) = self.upstream.lookup(target).await.map_err(super::failed)? else { return Ok(Vec::new()) };
        let versions = parse::<Versions>(&answer)?.model_versions;
        Ok(versions.into_iter().filter(|version| found.insert(version.clone())).collect())
    }
}

#[derive(Deserialize)]
struct Versions {
    #[serde(default)]
    model_versions: Vec<ModelVersionKey>,
}

#[derive(Deserialize)]
struct DownloadUri {
    #[serde(default)]
    artifact_uri: String,
}
