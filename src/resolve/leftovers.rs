//! Data that `mlflow gc` leaves under the ID of an experiment that it purges.
//!
//! `mlflow gc` deletes the experiment's row with its runs, traces, models and scorers. Datasets and jobs keep the ID, and of
//! the files below it only those of runs are deleted (`mlflow/cli/__init__.py` `gc`, 2.10 to 3.18).

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{Error, Resolver};
use crate::mlflow::lookups;

impl Resolver {
    /// Returns a description of the data under the ID of an experiment that was just created; `None` if there is none.
    ///
    /// # Errors
    ///
    /// MLflow could not be asked.
    pub async fn left_under(&self, experiment: &str) -> Result<Option<&'static str>, Error> {
        let jobs = lookups::prompt_jobs(experiment);
        let (data_sets, jobs, files) = tokio::join!(
            self.find::<DataSets>(lookups::datasets(experiment)),
            self.find::<Jobs>(jobs),
            self.find::<Files>(lookups::artifacts(experiment)),
        );
        if !data_sets?.unwrap_or_default().datasets.is_empty() {
            return Ok(Some("data sets"));
        }
        if !jobs?.unwrap_or_default().jobs.is_empty() {
            return Ok(Some("jobs"));
        }
        match files {
            Ok(found) => Ok((!found.unwrap_or_default().files.is_empty()).then_some("artifacts")),
            // MLflow does not serve artifacts, or its storage fails. Experiments can be created nevertheless.
            Err(error) => {
                tracing::debug!(experiment, %error, "artifacts of a new experiment cannot be listed");
                Ok(None)
            }
        }
    }
}

#[derive(Default, Deserialize)]
struct DataSets {
    #[serde(default)]
    datasets: Vec<IgnoredAny>,
}

#[derive(Default, Deserialize)]
struct Jobs {
    #[serde(default)]
    jobs: Vec<IgnoredAny>,
}

#[derive(Default, Deserialize)]
struct Files {
    #[serde(default)]
    files: Vec<IgnoredAny>,
}
