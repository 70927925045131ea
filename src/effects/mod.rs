//! Follow-up of mutations: the creator receives MANAGE, a deletion removes grants, a renaming moves them.
//!
//! The intent is stored before MLflow is called, and the grants change before the client receives the response. All of it runs
//! on a tracked task, so a client that disconnects has no influence. [`Effects::reconcile`] settles mutations that a crash
//! interrupts.

mod carry_out;
mod reissued;
mod settle;
mod turns;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Incoming;
use tokio_util::task::TaskTracker;

pub use settle::ReconcileError;
pub use turns::Turn;
use turns::{Key, Late, Turns};

use crate::authn::Authn;
use crate::authz::{DefaultPermission, Identity, Permit, UserId};
use crate::budget::{Full, Share, expected_answer};
use crate::clock::{Stopwatch, Timestamp};
use crate::mlflow::FollowUp;
use crate::resolve::{self, Resolver};
use crate::store::{self, Actor, Scope, Store, User};
use crate::upstream::{self, Outgoing, Upstream, on_behalf_of_the_same};

/// The reason why a mutation or its follow-up failed.
#[derive(Debug, thiserror::Error)]
pub enum EffectError {
    /// MLflow was not called.
    #[error("the store cannot take the change: {0}")]
    NotBegun(#[source] store::Error),
    #[error(transparent)]
    Upstream(#[from] upstream::Error),
    /// An earlier effect on the same name was interrupted and cannot be settled now. MLflow was not called.
    #[error("an interrupted change of the same name cannot be settled now: {0}")]
    Unsettled(#[source] resolve::Error),
    /// MLflow could not be asked whether the mutation is still allowed. The mutation was not sent.
    #[error(transparent)]
    LookUp(resolve::Error),
    /// Another request created or deleted the same resource after this one was decided. MLflow was not called.
    #[error("another request changed the same name at the same time")]
    Changed,
    /// Another request is changing the same resource and did not finish in time. MLflow was not called.
    #[error("another request is changing the same resource")]
    Taken,
    /// There is no memory for MLflow's answer. MLflow was not called.
    #[error("too many answers are being read or wait to be read")]
    NoRoom(Full),
    /// MLflow carried out the change, but the grants could not be written. The intent stays and is completed later.
    #[error("MLflow made the change, but its permissions could not be written: {0}")]
    NotFinished(#[source] store::Error),
    /// This process was cut off from the store, and another one has completed or dropped the change.
    #[error("another process took the change over")]
    TakenOver,
    /// MLflow created an experiment, but cannot be asked now whether its ID was used before. The intent stays and is completed
    /// later.
    #[error("MLflow created the experiment, but it cannot be checked whether data is left under its ID: {0}")]
    Unchecked(#[source] resolve::Error),
    /// MLflow gave a new experiment an ID under which data of a purged one is left. The new experiment was renamed and deleted.
    #[error("the ID {0} of the new experiment was used before, and data is left under it")]
    UsedId(String),
    /// It is unknown whether MLflow carried out the change. An intent that was stored stays and is completed later.
    #[error("the task that carries out the effect failed")]
    Lost,
}

/// MLflow's answer, after the grants have changed.
#[derive(Debug)]
pub struct Done {
    pub head: http::response::Parts,
    pub answer: Answer,
}

/// The body of MLflow's answer.
#[derive(Debug)]
pub enum Answer {
    /// The body, which was read because the follow-up depends on it, with its reservation.
    Read(Bytes, Share),
    Streams(Incoming),
}

/// Carries out mutations with their follow-up.
#[derive(Clone, Debug)]
pub struct Effects {
    parts: Arc<Parts>,
    tracker: TaskTracker,
}

#[derive(Debug)]
struct Parts {
    store: Arc<Store>,
    authn: Arc<Authn>,
    upstream: Upstream,
    resolver: Arc<Resolver>,
    default_permission: DefaultPermission,
    /// One writer per name, so that a model cannot be created again before the grants of the deleted one are removed. Also one
    /// change at a time of the AI gateway's secrets and model definitions, and one new experiment with a chosen location.
    turns: Turns,
    tracker: TaskTracker,
    /// Intents from before this time are those of an earlier process.
    started: Timestamp,
}

impl Effects {
    /// Creates effects whose tasks run on `tracker`, which is drained on shutdown.
    #[must_use]
    pub fn new(
        store: Arc<Store>,
        authn: Arc<Authn>,
        upstream: Upstream,
        resolver: Arc<Resolver>,
        default_permission: DefaultPermission,
        tracker: TaskTracker,
    ) -> Self {
        let (turns, started) = (Turns::default(), store.now());
        let tasks = tracker.clone();
        let parts = Parts { store, authn, upstream, resolver, default_permission, turns, tracker: tasks, started };
        Self { parts: Arc::new(parts), tracker }
    }

    /// Waits for the turn to change secrets or model definitions of the AI gateway.
    ///
    /// A change of one is checked against the stored state of the other. Two changes at once, each harmless beside the state
    /// before the other, could together reach an address or an identity that is not allowed. So the turn is held from the check to
    /// MLflow's answer, in this process.
    ///
    /// # Errors
    /// [`EffectError::Taken`].
    pub async fn gateway_turn(&self, who: &Identity) -> Result<Turn, EffectError> {
        self.parts.turn(who.user, [Key::Gateway].into()).await
    }

    /// Waits for the turn to create an experiment at a location of the caller's choice, because two requests at once would both
    /// find it unused. It is held like [`Effects::gateway_turn`].
    ///
    /// # Errors
    /// [`EffectError::Taken`].
    pub async fn location_turn(&self, who: &Identity) -> Result<Turn, EffectError> {
        self.parts.turn(who.user, [Key::Location].into()).await
    }

    /// Announces the new name of an experiment to other processes when the returned value is dropped, also because the
    /// client disconnected.
    #[must_use]
    pub fn announcing_rename(&self, experiment: String) -> impl Drop + use<> {
        Announcement { store: Arc::clone(&self.parts.store), tracker: self.tracker.clone(), experiment }
    }

    /// Sends an allowed request and completes its follow-up, even if the client disconnects. Then `turn` is released.
    /// A client that disconnects before its turn has come changes nothing. `share`: memory for the answer.
    ///
    /// # Errors
    ///
    /// See [`EffectError`], which says for each whether MLflow was called.
    #[expect(clippy::too_many_arguments, reason = "the parts of a request and its reservations")]
    pub async fn carry_out(
        &self,
        who: &Identity,
        address: IpAddr,
        permit: Permit,
        follow_up: Option<FollowUp>,
        mut outgoing: Outgoing,
        turn: Option<Turn>,
        mut share: Share,
    ) -> Result<Done, EffectError> {
        let parts = Arc::clone(&self.parts);
        let actor = actor(who, address);
        let (who, maker) = (who.clone(), Maker::from(who));
        let last = match &follow_up {
            Some(FollowUp::CreateVersions { .. }) => outgoing.body.hold_back_the_last(),
            Some(FollowUp::Mutation(_) | FollowUp::OwnQueue) | None => None,
        };
        let names = match &follow_up {
            Some(FollowUp::Mutation(mutation)) => Key::of(mutation),
            Some(FollowUp::CreateVersions { kind, parents }) if last.is_none() => {
                parents.iter().map(|name| Key::name(*kind, name)).collect()
            }
            // The turns of an upload's names are taken when it has arrived.
            Some(FollowUp::CreateVersions { .. } | FollowUp::OwnQueue) | None => BTreeSet::new(),
        };
        let reads_answer = match &follow_up {
            Some(FollowUp::Mutation(mutation)) => mutation.needs_answer(),
            Some(FollowUp::CreateVersions { .. } | FollowUp::OwnQueue) => true,
            None => false,
        };
        if reads_answer {
            // Before MLflow is called, because afterwards it is too late to refuse.
            share.reserve(expected_answer(&outgoing.body)).await.map_err(EffectError::NoRoom)?;
        }
        let names = parts.turn(who.user, names).await?;
        let allowed = Allowed { permit, outgoing, share };
        let task = self.tracker.spawn(on_behalf_of_the_same(async move {
            // The task owns the turns and releases them at its end, even if the client has disconnected.
            let _turns = (turn, names);
            match follow_up {
                None => parts.send_whole(allowed).await,
                Some(FollowUp::OwnQueue) => parts.create_queue(&maker.name, allowed).await,
                Some(FollowUp::CreateVersions { kind, parents }) => match last {
                    Some(last) => parts.upload_versions(actor, &who, kind, parents, (allowed, last)).await,
                    None => parts.create_versions(actor, &who, kind, parents, allowed).await,
                },
                Some(FollowUp::Mutation(mutation)) => parts.run(actor, maker, vec![mutation], allowed).await,
            }
        }));
        task.await.unwrap_or(Err(EffectError::Lost))
    }
}

struct Announcement {
    store: Arc<Store>,
    tracker: TaskTracker,
    experiment: String,
}

impl Drop for Announcement {
    fn drop(&mut self) {
        let (store, scope) = (Arc::clone(&self.store), Scope::Experiment(std::mem::take(&mut self.experiment)));
        self.tracker.spawn(async move {
            if let Err(error) = store.announce(scope).await {
                // Other processes ask MLflow for the name again within half a minute.
                tracing::warn!(%error, "the new name of an experiment could not be announced to other processes");
            }
        });
    }
}

impl Parts {
    async fn turn(&self, user: UserId, keys: BTreeSet<Key>) -> Result<Turn, EffectError> {
        let waiting = Stopwatch::start();
        let turn = self.turns.take(user, keys.clone()).await.map_err(|Late| EffectError::Taken)?;
        let patience = turns::WAIT.saturating_sub(waiting.elapsed());
        let turn = turn.among_processes(&self.store, &self.tracker, &keys, patience).await;
        turn.map_err(EffectError::NotBegun)?.ok_or(EffectError::Taken)
    }

    /// Takes turns if all are free; `None` otherwise.
    async fn try_turn(&self, keys: BTreeSet<Key>) -> store::Result<Option<Turn>> {
        match self.turns.try_take(keys.clone()) {
            Some(turn) => turn.among_processes(&self.store, &self.tracker, &keys, Duration::ZERO).await,
            None => Ok(None),
        }
    }
}

/// An allowed request, with the memory for its answer.
#[derive(Debug)]
struct Allowed {
    permit: Permit,
    outgoing: Outgoing,
    share: Share,
}

/// The creator of a resource, as policies refer to them.
#[derive(Clone, Debug)]
struct Maker {
    user: UserId,
    name: Arc<str>,
    groups: Arc<[String]>,
}

impl From<&Identity> for Maker {
    fn from(who: &Identity) -> Self {
        Self { user: who.user, name: Arc::clone(&who.name), groups: Arc::clone(&who.groups) }
    }
}

impl From<&User> for Maker {
    fn from(user: &User) -> Self {
        Self { user: user.id, name: user.name.as_str().into(), groups: user.groups().into() }
    }
}

/// Returns the actor for the audit log.
pub(crate) fn actor(who: &Identity, address: IpAddr) -> Actor {
    Actor { name: who.name.to_string(), token: who.scheme.token(), address: Some(address) }
}
