//! Follow-ups of mutations that MLflow carries out.
//!
//! The intent is written before the request is sent to MLflow, and is deleted in the transaction that carries out the
//! follow-up. A crash in between leaves the intent, which [`Store::intents`] returns at the next start and to other replicas.

use super::change::Change;
use super::changes::Scope;
use super::db::sql;
use super::{Actor, Error, Result, Store, rows};
use crate::authz::{
    DEFAULT_WORKSPACE, Grant, Mutation, OnCreate, Permission, ResourceKind, Selector, Subject, UserId, Whom,
};
use crate::clock::Timestamp;

/// A mutation whose follow-up is not finished.
#[derive(Clone, Debug)]
pub struct Intent {
    pub id: i64,
    pub mutation: Mutation,
    /// The caller, who becomes the owner of the created resource; `None` for other mutations.
    pub user: Option<UserId>,
    pub created: Timestamp,
    pub holder: Holder,
}

/// The process that carries a mutation out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Holder {
    /// This process.
    Own,
    /// Another process that exists.
    Other,
    /// A process of a version that did not record itself.
    Unknown,
    /// A process that does not exist any more.
    Gone,
}

impl Store {
    /// Records a mutation before it is sent to MLflow, and returns the ID of the intent. If this fails, the request
    /// must not be sent. `turns`: the rights to change the names, see [`Store::hold`].
    ///
    /// # Errors
    /// [`Error::TooLong`]; [`Error::TakenOver`] if another process has one of these rights by now.
    pub async fn begin(&self, mutation: &Mutation, user: UserId, turns: &[String]) -> Result<i64> {
        let (word, kind, subject, new, user) = match mutation {
            Mutation::Create { kind, name } => ("create", kind, name, None, Some(user.0)),
            Mutation::Delete { kind, key } => ("drop", kind, key, None, None),
            Mutation::Rename { kind, from, to } => ("rename", kind, from, Some(to), None),
        };
        for name in mutation.names() {
            super::check_key(name)?;
        }
        let created = self.now().0;
        // An explicit transaction: a single statement with RETURNING does not report that its commit failed.
        let mut tx = self.writer.begin().await?;
        // A process that could not renew its existence would otherwise lose the intent to another one at once.
        let renewed = self.renew_lease(&mut tx).await?;
        self.confirm(&mut tx, turns).await?;
        let id = sql("INSERT INTO intents (effect, kind, subject, new, user_id, created, holder)
             VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING id");
        let id = id.bind(word).bind(kind.as_str()).bind(subject).bind(new).bind(user).bind(created);
        let id = id.bind(&*self.replica).scalar(&mut tx).await?;
        tx.commit().await?;
        self.own_lease.renewed(renewed);
        Ok(id)
    }

    /// Completes a `Create` whose resource has this key, in one transaction: grants MANAGE to the creator (an
    /// existing grant is raised), adds the grants of the policy's sharing rules (existing grants are kept), and
    /// deletes the intent. A creator whose account was deleted in the meantime receives no grant.
    ///
    /// Grants that are older than the intent were made for an earlier resource of this ID or name. They are deleted
    /// in the same transaction.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn finish_create(
        &self,
        actor: &Actor,
        intent: i64,
        kind: ResourceKind,
        key: &str,
        user: UserId,
        shared: &[OnCreate],
    ) -> Result<()> {
        let mut change = self.change().await?;
        change.check_open(intent).await?;
        let dropped = change.drop_older_grants(kind, key, intent).await?;
        let mut detail = match change.user(user).await {
            Ok(creator) => {
                let (subject, selector) = (Subject::User(user), Selector::Exact(key.to_owned()));
                change.put_grant(&Grant { subject, kind, selector, permission: Permission::Manage }).await?;
                format!("user:{}: MANAGE", creator.name)
            }
            Err(Error::NotFound(_)) => "the creator's account is gone".to_owned(),
            Err(error) => return Err(error),
        };
        for OnCreate { to, permission, .. } in shared {
            if change.share(kind, key, to, *permission).await? {
                detail += &format!(", {to}: {permission}");
            } else {
                tracing::warn!(%to, %kind, key, "the policy shares what is made with nobody there is, or with who has a grant on it");
            }
        }
        if dropped > 0 {
            detail += &format!(", {dropped} older grants dropped");
        }
        change.end(intent).await?;
        // The artifact location of an experiment is new too.
        let scope = if kind == ResourceKind::Experiment { Scope::Experiment } else { Scope::Name };
        change.affects([scope(key.to_owned())]);
        change.commit(actor, "resource.create", format!("{kind}:{key}"), detail).await
    }

    /// Grants MANAGE to a user on a resource that was created without an intent.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn own(&self, actor: &Actor, kind: ResourceKind, key: &str, user: UserId) -> Result<()> {
        let mut change = self.change().await?;
        let owner = change.user(user).await?;
        let (subject, selector) = (Subject::User(user), Selector::Exact(key.to_owned()));
        change.put_grant(&Grant { subject, kind, selector, permission: Permission::Manage }).await?;
        change.commit(actor, "resource.create", format!("{kind}:{key}"), format!("user:{}: MANAGE", owner.name)).await
    }

    /// Completes a `Delete`: deletes the intent and every exact grant on the resource, including grants on the other
    /// kind that shares its names.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn finish_drop(&self, actor: &Actor, intent: i64, kind: ResourceKind, key: &str) -> Result<()> {
        let mut change = self.change().await?;
        change.check_open(intent).await?;
        let mut dropped = 0;
        for kind in kind.sharing_names() {
            let drop = sql(
                "DELETE FROM grants WHERE kind = $1 AND form = 'exact' AND selector = $2 RETURNING subject_kind, subject",
            );
            dropped += change.affecting(drop.bind(kind.as_str()).bind(key)).await?;
        }
        change.end(intent).await?;
        change.affects([Scope::Name(key.to_owned())]);
        let detail = format!("{dropped} grants dropped");
        change.commit(actor, "resource.delete", format!("{kind}:{key}"), detail).await
    }

    /// Completes a `Rename`: moves the exact grants and deletes the intent. MLflow does not rename onto a name in
    /// use, so older grants on the new name were made for an earlier resource; they are deleted.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn finish_rename(
        &self,
        actor: &Actor,
        intent: i64,
        kind: ResourceKind,
        from: &str,
        to: &str,
    ) -> Result<()> {
        let mut change = self.change().await?;
        change.check_open(intent).await?;
        let (mut moved, mut dropped) = (0, 0);
        if from != to {
            dropped = change.drop_older_grants(kind, to, intent).await?;
        }
        for kind in kind.sharing_names().iter().filter(|_| from != to) {
            moved += change.move_grants(*kind, from, to).await?;
        }
        change.end(intent).await?;
        change.affects([Scope::Name(from.to_owned()), Scope::Name(to.to_owned())]);
        let detail = format!("now `{to}`, {moved} grants moved, {dropped} older grants at the new name dropped");
        change.commit(actor, "resource.rename", format!("{kind}:{from}"), detail).await
    }

    /// Returns true if MANAGE was granted on a resource at or after `since`.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn is_owned_since(&self, kind: ResourceKind, key: &str, since: Timestamp) -> Result<bool> {
        let owned = sql("SELECT EXISTS (SELECT 1 FROM grants WHERE form = 'exact' AND kind = $1 AND selector = $2
                 AND permission = 'MANAGE' AND created >= $3)");
        Ok(owned.bind(kind.as_str()).bind(key).bind(since.0).scalar(&self.readers).await?)
    }

    /// Deletes the intent of a mutation that MLflow refused.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn abandon(&self, intent: i64) -> Result<()> {
        sql("DELETE FROM intents WHERE id = $1").bind(intent).execute(&self.writer).await?;
        Ok(())
    }

    /// Returns the intents that a crash left unfinished, oldest first.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn intents(&self) -> Result<Vec<Intent>> {
        let intents = sql(
            "SELECT id, effect, kind, subject, new, user_id, created, holder IS NOT NULL AND holder = $1 AS is_own,
                    holder IS NOT NULL AND NOT EXISTS (
                        SELECT 1 FROM leases WHERE leases.name = 'replica:' || intents.holder AND leases.until > $2
                    ) AS is_gone, holder IS NULL AS is_unknown
             FROM intents ORDER BY id",
        );
        let intents = intents.bind(&*self.replica).bind(self.gone_before().0);
        let mut intents =
            intents.fetch_all(&self.readers).await?.iter().map(rows::intent).collect::<Result<Vec<_>>>()?;
        if !self.is_shared() {
            // Those of an earlier process are this one's, which serves alone.
            intents.iter_mut().for_each(|intent| intent.holder = Holder::Own);
        }
        Ok(intents)
    }
}

impl Change {
    /// Adds a grant unless the subject already has one on the resource. Returns true if it was added.
    async fn share(&mut self, kind: ResourceKind, key: &str, to: &Whom, permission: Permission) -> Result<bool> {
        let subject = match to {
            Whom::Everybody => None,
            Whom::Group(group) => Some(Subject::Group(group.clone())),
            Whom::User(name) => self.user_named(name).await?.map(Subject::User),
            Whom::Role(name) => self.role_named(DEFAULT_WORKSPACE, name).await?.map(Subject::Role),
        };
        let Some(subject) = subject else { return Ok(false) };
        let selector = Selector::Exact(key.to_owned());
        Ok(self.add_grant(&Grant { subject, kind, selector, permission }).await?.is_some())
    }

    /// Locks an intent. Refuses one that another process has settled: who has the name now is its or a later decision.
    async fn check_open(&mut self, intent: i64) -> Result<()> {
        let open = sql("UPDATE intents SET created = created WHERE id = $1").bind(intent);
        if open.execute(self.on()).await? == 0 { Err(Error::TakenOver) } else { Ok(()) }
    }

    async fn end(&mut self, intent: i64) -> Result<()> {
        sql("DELETE FROM intents WHERE id = $1").bind(intent).execute(self.on()).await?;
        Ok(())
    }

    /// Deletes the grants on a resource that are older than an intent. Returns how many.
    ///
    /// Grants of DENY and NO_PERMISSIONS on names are kept. They apply to the name, which any user can take, and
    /// deleting them would open the new resource to the subjects that they refuse. MLflow chooses IDs, so no grant is
    /// written for an ID in advance.
    async fn drop_older_grants(&mut self, kind: ResourceKind, key: &str, intent: i64) -> Result<u64> {
        let older = "form = 'exact' AND (created IS NULL OR created < (SELECT created FROM intents WHERE id = $2))";
        let mut dropped = 0;
        if kind == ResourceKind::Experiment {
            // A scorer's key is `EXPERIMENT/NAME`.
            let drop = format!(
                "DELETE FROM grants WHERE {older} AND (kind = 'experiment' AND selector = $1
                     OR kind = 'scorer' AND substr(selector, 1, length($1) + 1) = $1 || '/')
                 RETURNING subject_kind, subject"
            );
            return self.affecting(sql(drop).bind(key).bind(intent)).await;
        }
        for kind in kind.sharing_names() {
            let drop = format!(
                "DELETE FROM grants WHERE {older} AND kind = $1 AND selector = $3
                     AND permission NOT IN ('DENY', 'NO_PERMISSIONS')
                 RETURNING subject_kind, subject"
            );
            dropped += self.affecting(sql(drop).bind(kind.as_str()).bind(intent).bind(key)).await?;
        }
        Ok(dropped)
    }

    async fn move_grants(&mut self, kind: ResourceKind, from: &str, to: &str) -> Result<u64> {
        let replaced = sql("DELETE FROM grants WHERE kind = $1 AND form = 'exact' AND selector = $2 AND EXISTS (
                 SELECT 1 FROM grants AS moving
                 WHERE moving.kind = $3 AND moving.form = 'exact' AND moving.selector = $4
                   AND moving.subject_kind = grants.subject_kind AND moving.subject = grants.subject)
             RETURNING subject_kind, subject");
        self.affecting(replaced.bind(kind.as_str()).bind(to).bind(kind.as_str()).bind(from)).await?;
        let moved = sql("UPDATE grants SET selector = $1 WHERE kind = $2 AND form = 'exact' AND selector = $3
             RETURNING subject_kind, subject");
        self.affecting(moved.bind(to).bind(kind.as_str()).bind(from)).await
    }
}
