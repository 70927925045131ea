//! Grants on resources that MLflow created again under an earlier ID or name.
//!
//! A grant applies to the resource for which it was made, identified by its creation time in MLflow. A background
//! task looks the creation time up, because the command line and administrators write grants without a request to
//! MLflow.

use super::db::sql;
use super::{Actor, Result, Store, rows};
use crate::authz::ResourceKind;

/// A resource that exact grants name and whose creation time is not known yet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Undated {
    /// The ID of the latest of these grants, after which the next page starts.
    pub id: i64,
    pub kind: ResourceKind,
    pub key: String,
}

impl Store {
    /// Returns up to `limit` resources with undated grants whose IDs are greater than `after`, in the order of their IDs.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn undated(&self, after: i64, limit: u32) -> Result<Vec<Undated>> {
        let undated = sql("SELECT MAX(id) AS id, kind, selector FROM grants
             WHERE form = 'exact' AND thing_created IS NULL AND id > $1
               AND kind IN ('experiment', 'registered_model', 'prompt', 'scorer', 'mcp_server', 'skill')
             GROUP BY kind, selector ORDER BY MAX(id) LIMIT $2");
        let undated = undated.bind(after).bind(limit).fetch_all(&self.readers).await?;
        undated.iter().map(rows::undated).collect()
    }

    /// Returns true if there are grants that name resources of a kind, or of another kind that [`Store::date_grants`] treats
    /// with it.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn has_exact_grants(&self, kind: ResourceKind) -> Result<bool> {
        let found = format!("SELECT EXISTS (SELECT 1 FROM grants WHERE {})", exact(kind));
        Ok(sql(found).scalar(&self.readers).await?)
    }

    /// Returns the creation time (Unix ms) up to which the resources of a kind have been compared with the grants.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn compared(&self, kind: ResourceKind) -> Result<i64> {
        let compared = sql("SELECT value FROM meta WHERE name = $1");
        Ok(compared.bind(cursor(kind)).scalar_optional(&self.readers).await?.unwrap_or(0))
    }

    /// Records the creation time (Unix ms) up to which the resources of a kind have been compared with the grants.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn set_compared(&self, kind: ResourceKind, until: i64) -> Result<()> {
        let compared = sql("INSERT INTO meta (name, value) VALUES ($1, $2)
             ON CONFLICT (name) DO UPDATE SET value = excluded.value");
        compared.bind(cursor(kind)).bind(until).execute(&self.writer).await?;
        Ok(())
    }

    /// Records the creation time (Unix ms) of a resource in MLflow, and deletes the grants that were made for an
    /// earlier resource of its ID or name. Returns the number of deleted grants.
    ///
    /// Grants of DENY and NO_PERMISSIONS on names are kept, as when a resource is created through the proxy.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn date_grants(&self, kind: ResourceKind, key: &str, created: i64) -> Result<u64> {
        let stale = stale(kind);
        let undated = format!("{} AND thing_created IS NULL", on(kind));
        let exists = |condition: &str| format!("SELECT EXISTS (SELECT 1 FROM grants WHERE {condition})");
        let is_stale: bool = sql(exists(&stale)).bind(key).bind(created).scalar(&self.readers).await?;
        let is_undated: bool = sql(exists(&undated)).bind(key).scalar(&self.readers).await?;
        let mut dropped = 0;
        if is_stale {
            let mut change = self.change().await?;
            let drop = sql(format!("DELETE FROM grants WHERE {stale} RETURNING subject_kind, subject"));
            dropped = change.affecting(drop.bind(key).bind(created)).await?;
            let detail = format!("{dropped} grants dropped: MLflow has a newer resource of this ID or name");
            change.commit(&Actor::proxy(), "resource.reissue", format!("{kind}:{key}"), detail).await?;
        }
        if is_undated {
            let date = sql(format!("UPDATE grants SET thing_created = $2 WHERE {undated}"));
            date.bind(key).bind(created).execute(&self.writer).await?;
        }
        Ok(dropped)
    }
}

fn cursor(kind: ResourceKind) -> String {
    format!("compared_{kind}")
}

/// Returns the SQL condition for the exact grants on resources of a kind, or of another kind that is treated with it.
fn exact(kind: ResourceKind) -> String {
    let kinds = match kind {
        ResourceKind::Experiment => "'experiment', 'scorer'",
        ResourceKind::McpServer => "'mcp_server'",
        ResourceKind::Skill => "'skill'",
        _ => "'registered_model', 'prompt'",
    };
    format!("form = 'exact' AND kind IN ({kinds})")
}

/// Returns the SQL condition for the exact grants on the resource whose key is `$1`.
fn on(kind: ResourceKind) -> String {
    let named = match kind {
        // A scorer's key is `EXPERIMENT/NAME`. Scorers are deleted with their experiment.
        ResourceKind::Experiment => {
            "(kind = 'experiment' AND selector = $1
                 OR kind = 'scorer' AND substr(selector, 1, length($1) + 1) = $1 || '/')"
        }
        _ => "selector = $1",
    };
    format!("{} AND {named}", exact(kind))
}

/// Returns the SQL condition for those grants that were made for a resource created at another time than `$2`.
fn stale(kind: ResourceKind) -> String {
    // Clients choose names, so a refusing grant applies to the name itself.
    let refusals =
        if kind == ResourceKind::Experiment { "" } else { "AND permission NOT IN ('DENY', 'NO_PERMISSIONS')" };
    format!("{} AND thing_created <> $2 {refusals}", on(kind))
}
