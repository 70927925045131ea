//! Names of resources that are granted by ID, for display.
//!
//! No decision depends on them: a resource without a name is shown by its ID.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use super::born::{Definitions, Secrets};
use super::{Error, Resolver};
use crate::authz::{Resource, ResourceKind};
use crate::mlflow::answers::EndpointList;
use crate::mlflow::lookups;
use crate::upstream::impatiently;

/// Names by kind and ID.
pub type Labels = HashMap<(ResourceKind, String), String>;

impl Resolver {
    /// Returns the names of these resources. Resources that MLflow does not have, and kinds that are granted by name,
    /// are omitted; so are all that are not found when MLflow fails or does not respond in time.
    pub async fn labels(&self, ids: &BTreeSet<(ResourceKind, String)>) -> Labels {
        let mut labels = Labels::new();
        let ask = async {
            self.experiment_labels(ids, &mut labels).await?;
            for kind in GATEWAY.into_iter().filter(|kind| ids.iter().any(|(wanted, _)| wanted == kind)) {
                let named = self.gateway_labels(kind).await?.into_iter();
                labels.extend(named.map(|(id, name)| ((kind, id), name)));
            }
            Ok::<(), Error>(())
        };
        // The first failure ends the look-ups: an MLflow that is down must not delay a command once for every grant.
        let _ = tokio::time::timeout(PATIENCE, impatiently(ask)).await;
        labels
    }

    async fn experiment_labels(
        &self,
        ids: &BTreeSet<(ResourceKind, String)>,
        labels: &mut Labels,
    ) -> Result<(), Error> {
        let ids = || ids.iter().filter(|(kind, _)| *kind == ResourceKind::Experiment).map(|(_, id)| id.as_str());
        self.prefetch_names(ids()).await;
        for id in ids() {
            let mut experiment = Resource::new(ResourceKind::Experiment, id);
            self.name(&mut experiment).await?;
            if let Some(name) = experiment.name {
                labels.insert((experiment.kind, experiment.key), name.to_string());
            }
        }
        Ok(())
    }

    /// Returns the IDs and names of all resources of a kind of the AI gateway.
    async fn gateway_labels(&self, kind: ResourceKind) -> Result<Vec<(String, String)>, Error> {
        Ok(match kind {
            ResourceKind::GatewayEndpoint => {
                let all = self.find::<EndpointList>(lookups::ENDPOINTS.to_owned()).await?;
                all.into_iter().flat_map(|all| all.endpoints).map(|one| (one.endpoint_id, one.name)).collect()
            }
            ResourceKind::GatewaySecret => {
                let all = self.find::<Secrets>(lookups::SECRETS.to_owned()).await?;
                all.into_iter().flat_map(|all| all.secrets).map(|one| (one.secret_id, one.secret_name)).collect()
            }
            _ => {
                let all = self.find::<Definitions>(lookups::MODEL_DEFINITIONS.to_owned()).await?;
                let all = all.into_iter().flat_map(|all| all.model_definitions);
                all.map(|one| (one.model_definition_id, one.name)).collect()
            }
        })
    }
}

/// The kinds that MLflow lists without a filter.
const GATEWAY: [ResourceKind; 3] =
    [ResourceKind::GatewayEndpoint, ResourceKind::GatewaySecret, ResourceKind::GatewayModelDefinition];

/// Time for all look-ups of one command.
const PATIENCE: Duration = Duration::from_secs(3);
