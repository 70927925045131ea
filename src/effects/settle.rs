//! Settles mutations that a crash or an unwritable store interrupted.

use super::turns::Key;
use super::{EffectError, Effects, Maker, Parts};
use crate::authz::{Mutation, ResourceKind};
use crate::clock::Timestamp;
use crate::resolve;
use crate::store::{self, Actor, Holder, Intent};
use crate::upstream::impatiently;

impl Effects {
    /// Completes or drops mutations that a crash or an unwritable store interrupted: those of this process that began
    /// before `before`, and those of processes that are gone. Returns the number of settled intents.
    ///
    /// # Errors
    ///
    /// The store or MLflow does not respond; the remaining intents are tried again next time.
    pub async fn reconcile(&self, before: Timestamp) -> Result<usize, ReconcileError> {
        let mut settled = 0;
        let is_interrupted = |intent: &Intent| match intent.holder {
            Holder::Gone => true,
            // A process of a version that did not record itself cannot be recognised.
            Holder::Own | Holder::Unknown => intent.created < before,
            // Another process is carrying it out, or will settle it.
            Holder::Other => false,
        };
        for intent in self.parts.store.intents().await?.into_iter().filter(is_interrupted) {
            // A locked name belongs to a request that is still in progress.
            let Some(_alone) = self.parts.try_turn(Key::of(&intent.mutation)).await? else { continue };
            let id = intent.id;
            match impatiently(self.parts.settle(intent)).await {
                Ok(()) => settled += 1,
                Err(ReconcileError::TooEarly) => {}
                // An intent that cannot be settled must not block the others.
                Err(error) => tracing::warn!(intent = id, %error, "an interrupted effect cannot be settled yet"),
            }
        }
        Ok(settled)
    }
}

/// The reason why interrupted mutations could not be settled now.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    Resolve(#[from] resolve::Error),
    /// MLflow has not carried out the mutation, and may still be about to.
    #[error("MLflow may still carry out the change of a process that has ended")]
    TooEarly,
}

impl Parts {
    /// Settles the intents on the names of a mutation before a name changes its owner, because grants of the interrupted
    /// mutation would apply to the new resource. Under the lock of the name no request can be in progress, so every intent was
    /// interrupted.
    pub(super) async fn settle_names_of(&self, mutation: &Mutation) -> Result<(), EffectError> {
        let names = Key::of(mutation);
        for intent in self.store.intents().await.map_err(EffectError::NotBegun)? {
            if !names.is_disjoint(&Key::of(&intent.mutation)) {
                if intent.holder == Holder::Other {
                    // Its process was cut off, lost its turn, and is back.
                    return Err(EffectError::Taken);
                }
                impatiently(self.settle(intent)).await.map_err(|error| match error {
                    ReconcileError::Store(error) => EffectError::NotBegun(error),
                    ReconcileError::Resolve(error) => EffectError::Unsettled(error),
                    ReconcileError::TooEarly => EffectError::Taken,
                })?;
            }
        }
        Ok(())
    }

    async fn settle(&self, intent: Intent) -> Result<(), ReconcileError> {
        let settled = match &intent.mutation {
            Mutation::Create { kind, name } => self.settle_create(&intent, *kind, name).await,
            Mutation::Delete { kind, key } => self.settle_delete(&intent, *kind, key).await,
            Mutation::Rename { kind, from, to } => self.settle_rename(&intent, *kind, from, to).await,
        };
        match settled {
            // Its process was faster after all.
            Err(ReconcileError::Store(store::Error::TakenOver)) => Ok(()),
            settled => settled,
        }
    }

    /// Drops an intent that MLflow has not carried out. The request of a process that has ended may still wait in MLflow; it
    /// is dropped only after the time in which MLflow answers.
    async fn was_not_done(&self, intent: &Intent) -> Result<(), ReconcileError> {
        let is_of_another = intent.holder != Holder::Own || intent.created < self.started;
        let age = self.store.now().since(intent.created);
        if is_of_another && age < self.upstream.response_timeout() {
            return Err(ReconcileError::TooEarly);
        }
        Ok(self.store.abandon(intent.id).await?)
    }

    async fn settle_create(&self, intent: &Intent, kind: ResourceKind, name: &str) -> Result<(), ReconcileError> {
        let found = self.resolver.born(kind, name).await?;
        // An older resource with that name is not the one that was to be created.
        let new = found.filter(|(_, created)| *created >= intent.created.0 - CLOCK_SKEW_MS);
        let (Some((resource, _)), Some(user)) = (new, intent.user) else { return self.was_not_done(intent).await };
        let is_owned = self.store.is_owned_since(resource.kind, &resource.key, intent.created).await?;
        // The grant may have been written before the crash, or by an administrator since.
        if is_owned || self.put_aside(&resource).await? {
            return Ok(self.store.abandon(intent.id).await?);
        }
        tracing::warn!(kind = %resource.kind, key = resource.key, "granted MANAGE on a resource without owner to its creator");
        let shared = match self.store.user(user).await? {
            Some(user) => self.shared(resource.kind, &Maker::from(&user)).await?,
            None => Vec::new(),
        };
        let (kind, key) = (resource.kind, &resource.key);
        Ok(self.store.finish_create(&Actor::proxy(), intent.id, kind, key, user, &shared).await?)
    }

    async fn settle_delete(&self, intent: &Intent, kind: ResourceKind, key: &str) -> Result<(), ReconcileError> {
        // A younger resource with that name is another one: the old one does not exist any more, and its grants must be
        // removed.
        let still_exists = if kind.sharing_names().contains(&ResourceKind::RegisteredModel) {
            self.is_older_than(intent, kind, key).await?
        } else {
            self.resolver.is_there(kind, key).await?
        };
        if still_exists {
            self.was_not_done(intent).await
        } else {
            Ok(self.store.finish_drop(&Actor::proxy(), intent.id, kind, key).await?)
        }
    }

    async fn settle_rename(
        &self,
        intent: &Intent,
        kind: ResourceKind,
        from: &str,
        to: &str,
    ) -> Result<(), ReconcileError> {
        // MLflow carried out the renaming if the new name exists, and the old one is free or was given to a newer model.
        let is_renamed =
            !self.is_older_than(intent, kind, from).await? && self.resolver.born(kind, to).await?.is_some();
        if is_renamed {
            Ok(self.store.finish_rename(&Actor::proxy(), intent.id, kind, from, to).await?)
        } else {
            self.was_not_done(intent).await
        }
    }

    /// Returns true if the resource with this name was created before the intent was stored.
    async fn is_older_than(&self, intent: &Intent, kind: ResourceKind, name: &str) -> Result<bool, resolve::Error> {
        Ok(self.resolver.born(kind, name).await?.is_some_and(|(_, created)| created < intent.created.0))
    }
}

/// Maximum time by which MLflow's clock can be behind the proxy's when a resource is compared with the intent to create it.
const CLOCK_SKEW_MS: i64 = 5_000;
