//! Finds resources that MLflow created outside this proxy under an earlier ID or name, and removes the grants of the earlier
//! ones.
//!
//! SQLite reuses the ID of an experiment after `mlflow gc` has removed the newest ones, and every name is free after a
//! deletion. Resources that are created through the proxy lose older grants at once (`Store::finish_create`); this task covers
//! those that are created outside it.

use super::{Effects, ReconcileError};
use crate::authz::ResourceKind;

/// The kinds whose new resources are compared; prompts are among the registered models.
const COMPARED: [ResourceKind; 4] =
    [ResourceKind::Experiment, ResourceKind::RegisteredModel, ResourceKind::McpServer, ResourceKind::Skill];

/// Number of resources whose creation times are requested in one pass, with one look-up each.
const DATED_AT_ONCE: u32 = 200;

impl Effects {
    /// Compares the resources that MLflow created since the last pass with the grants, and adds the date to grants without one.
    ///
    /// `after` is the position in the undated grants, kept between passes: those on resources that do not exist stay undated.
    /// Returns the number of removed grants.
    ///
    /// # Errors
    ///
    /// The store or MLflow does not respond; the next pass starts where this one did.
    pub async fn drop_reissued(&self, after: &mut i64) -> Result<u64, ReconcileError> {
        let (store, resolver) = (&self.parts.store, &self.parts.resolver);
        let mut dropped = 0;
        for kind in COMPARED {
            if !store.has_exact_grants(kind).await? {
                continue;
            }
            let since = store.compared(kind).await?;
            let newest = resolver.newest(kind, since).await?;
            for one in &newest {
                dropped += store.date_grants(kind, &one.key, one.created).await?;
            }
            // Stored after all grants were compared, so that a pass that fails is repeated.
            if let Some(until) = newest.iter().map(|one| one.position).max().filter(|until| *until > since) {
                store.set_compared(kind, until).await?;
            }
        }
        let undated = store.undated(*after, DATED_AT_ONCE).await?;
        let next = undated.last().map_or(0, |last| last.id);
        for one in undated {
            let Some(created) = resolver.created(one.kind, &one.key).await? else { continue };
            let (kind, key) = match one.kind {
                ResourceKind::Scorer => (ResourceKind::Experiment, one.key.split('/').next().unwrap_or_default()),
                kind => (kind, one.key.as_str()),
            };
            dropped += store.date_grants(kind, key, created).await?;
        }
        // 0 after the last grant, so that the next pass starts again.
        *after = next;
        Ok(dropped)
    }
}
