//! Intents, and the changes that finish them. An intent is written before MLflow is asked and goes with its effect.
//!
//! Finishing does not need the intent to be there still: somebody may have settled it in the meantime.

use sqlx::Row as _;

use super::{Actor, Change, Effect, Error, Intent, Result, Store, finish, grants, next_id};
use crate::authz::{Grant, Permission, ResourceKind, Selector, Subject, UserId};
use crate::clock::Timestamp;

impl Store {
    /// Remembers what is about to happen, before MLflow is asked. When this fails, MLflow must not be asked.
    ///
    /// # Errors
    /// [`Error::Unavailable`]
    pub async fn begin(&self, effect: &Effect) -> Result<i64> {
        let mut change = self.begin_change().await?;
        let id = next_id(&mut change).await?;
        let text = serde_json::to_string(effect).map_err(|error| Error::Corrupt(error.to_string()))?;
        sqlx::query("INSERT INTO intents (id, effect, created) VALUES ($1, $2, $3)")
            .bind(id)
            .bind(text)
            .bind(self.clock.now().0)
            .execute(&mut *change)
            .await?;
        change.commit().await?;
        Ok(id)
    }

    /// `Create` happened under this key: the creator gets MANAGE, whatever they had on it before; the intent goes.
    ///
    /// # Errors
    /// [`Error::Unavailable`]
    pub async fn finish_create(
        &self,
        actor: &Actor,
        intent: i64,
        kind: ResourceKind,
        key: &str,
        user: UserId,
    ) -> Result<()> {
        let mut change = self.begin_change().await?;
        let (subject, selector) = (Subject::User(user), Selector::Exact(key.to_owned()));
        grants::upsert(&mut change, &Grant { subject, kind, selector, permission: Permission::Manage }).await?;
        remove(&mut change, intent).await?;
        let detail = format!("MANAGE for its creator, user {user}");
        finish(change, self.entry(actor, "grant.create", format!("{kind}:{key}"), detail)).await
    }

    /// `Drop` happened: everybody's exact grants on it go, and the intent. A model's and a prompt's name are one.
    ///
    /// # Errors
    /// [`Error::Unavailable`]
    pub async fn finish_drop(&self, actor: &Actor, intent: i64, kind: ResourceKind, key: &str) -> Result<()> {
        let mut change = self.begin_change().await?;
        let mut dropped = 0;
        for kind in sharing_names(kind) {
            let delete = sqlx::query("DELETE FROM grants WHERE kind = $1 AND selector = $2");
            dropped += delete.bind(kind.as_str()).bind(key).execute(&mut *change).await?.rows_affected();
        }
        remove(&mut change, intent).await?;
        let detail = format!("{dropped} grants dropped with it");
        finish(change, self.entry(actor, "resource.delete", format!("{kind}:{key}"), detail)).await
    }

    /// `Rename` happened: exact grants move, replacing those of the same subject at the new name; the intent goes.
    ///
    /// # Errors
    /// [`Error::Unavailable`]
    pub async fn finish_rename(
        &self,
        actor: &Actor,
        intent: i64,
        kind: ResourceKind,
        from: &str,
        to: &str,
    ) -> Result<()> {
        let mut change = self.begin_change().await?;
        if from != to {
            for kind in sharing_names(kind) {
                let in_the_way = "DELETE FROM grants WHERE kind = $1 AND selector = $3 \
                                  AND subject IN (SELECT subject FROM grants WHERE kind = $1 AND selector = $2)";
                let mover = "UPDATE grants SET selector = $3 WHERE kind = $1 AND selector = $2";
                for sql in [in_the_way, mover] {
                    sqlx::query(sql).bind(kind.as_str()).bind(from).bind(to).execute(&mut *change).await?;
                }
            }
        }
        remove(&mut change, intent).await?;
        let detail = format!("now `{to}`; its grants moved");
        finish(change, self.entry(actor, "resource.rename", format!("{kind}:{from}"), detail)).await
    }

    /// MLflow said no: nothing follows.
    ///
    /// # Errors
    /// [`Error::Unavailable`]
    pub async fn abandon(&self, intent: i64) -> Result<()> {
        let mut change = self.begin_change().await?;
        remove(&mut change, intent).await?;
        change.commit().await?;
        Ok(())
    }

    /// What was begun and is not finished, oldest first.
    ///
    /// # Errors
    /// [`Error::Unavailable`]
    pub async fn intents(&self) -> Result<Vec<Intent>> {
        let rows = sqlx::query("SELECT id, effect, created FROM intents ORDER BY id").fetch_all(&self.read).await?;
        let intent = |row: &sqlx::sqlite::SqliteRow| {
            let id: i64 = row.try_get("id")?;
            let effect: String = row.try_get("effect")?;
            let effect = serde_json::from_str(&effect).map_err(|_| Error::Corrupt(format!("intent {id}")))?;
            Ok(Intent { id, effect, created: Timestamp(row.try_get("created")?) })
        };
        rows.iter().map(intent).collect()
    }
}

async fn remove(change: &mut Change, intent: i64) -> Result<()> {
    sqlx::query("DELETE FROM intents WHERE id = $1").bind(intent).execute(&mut **change).await?;
    Ok(())
}

/// In MLflow a name is a registered model or a prompt, and may turn from one into the other.
fn sharing_names(kind: ResourceKind) -> &'static [ResourceKind] {
    match kind {
        ResourceKind::RegisteredModel | ResourceKind::Prompt => &[ResourceKind::RegisteredModel, ResourceKind::Prompt],
        ResourceKind::Experiment => &[ResourceKind::Experiment],
        ResourceKind::Scorer => &[ResourceKind::Scorer],
        ResourceKind::GatewaySecret => &[ResourceKind::GatewaySecret],
        ResourceKind::GatewayEndpoint => &[ResourceKind::GatewayEndpoint],
        ResourceKind::GatewayModelDefinition => &[ResourceKind::GatewayModelDefinition],
        ResourceKind::McpServer => &[ResourceKind::McpServer],
    }
}
