//! What follows in our store when MLflow said yes: the creator gets MANAGE, a deletion drops grants, a rename moves them.
//!
//! The intent is written before MLflow is asked, the effect before the client hears of it, and all of it runs on a
//! tracked task: a client that hangs up changes nothing. What a crash leaves is found again by [`Effects::reconcile`].

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, Weak};

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio_util::task::TaskTracker;

use crate::authn::Authn;
use crate::authz::{
    Identity, OnCreate, Permission, Permit, Policy, Resource, ResourceKind, Selector, UserId, Whom, holds, skill_key,
};
use crate::clock::Timestamp;
use crate::crypto::random_text;
use crate::http::read_bounded;
use crate::resolve::{self, NewVersions, RegisteredModel, Resolver, folded};
use crate::store::{self, Actor, Effect, Intent, Store, User};
use crate::upstream::{self, Outgoing, Upstream, impatiently};

/// What is about to happen, in the caller's words.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Happening {
    /// `name` is how the thing is found again when its id is not known yet.
    Create {
        kind: ResourceKind,
        name: String,
    },
    Delete {
        kind: ResourceKind,
        key: String,
    },
    RenameModel {
        from: String,
        to: String,
    },
    /// A review queue, whose owner MLflow keeps itself.
    CreateQueue,
    /// Versions of these MCP servers or skills. MLflow makes those along that are not there.
    CreateVersions {
        kind: ResourceKind,
        parents: Vec<String>,
    },
    /// Nothing follows, but the request must end before the next of its kind is decided.
    Alone,
}

/// Why it did not come to a good end.
#[derive(Debug, thiserror::Error)]
pub enum EffectError {
    /// MLflow was not asked.
    #[error("the store cannot take the change: {0}")]
    NotBegun(#[source] store::Error),
    #[error(transparent)]
    Upstream(#[from] upstream::Error),
    /// An earlier effect on the same name was interrupted and cannot be settled now. MLflow was not asked.
    #[error("an interrupted change of the same name cannot be settled now: {0}")]
    Unsettled(#[source] resolve::Error),
    /// Another request made or deleted the same thing after this one was decided. MLflow was not asked.
    #[error("another request changed the same name at the same time")]
    Changed,
    /// MLflow did it, our part is missing; the intent stays and is finished later.
    #[error("MLflow did it, but the permissions could not be written: {0}")]
    NotFinished(#[source] store::Error),
    /// MLflow made an experiment, and cannot be asked now whether its ID was used before; the intent stays and is finished later.
    #[error("MLflow made the experiment, but what is left under its ID cannot be looked at: {0}")]
    Unchecked(#[source] resolve::Error),
    /// MLflow gave a new experiment an ID under which data of a purged one is left. It was renamed and deleted again.
    #[error("the ID {0} of the new experiment was used before, and data is left under it")]
    UsedId(String),
    #[error("the task that carries out the effect failed")]
    Lost,
}

/// MLflow's answer, complete, with our part done.
#[derive(Debug)]
pub struct Done {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Carries effects out.
#[derive(Clone, Debug)]
pub struct Effects {
    pub(super) parts: Arc<Parts>,
    tracker: TaskTracker,
}

#[derive(Debug)]
pub(super) struct Parts {
    pub(super) store: Arc<Store>,
    pub(super) authn: Arc<Authn>,
    upstream: Upstream,
    pub(super) resolver: Arc<Resolver>,
    policy: Policy,
    /// One writer per name: a model cannot be made again before the grants of the deleted one are gone.
    names: Turns,
    /// One change of the AI gateway's secrets and model definitions at a time, see [`Effects::gateway_turn`].
    gateway: Arc<Mutex<()>>,
    /// One experiment with a location of its own at a time, see [`Effects::location_turn`].
    location: Arc<Mutex<()>>,
}

const ANSWER_BYTES: usize = 16 * 1024 * 1024;
/// How far MLflow's clock may be behind ours when we ask whether a thing is younger than our intent to make it.
const CLOCK_SKEW_MS: i64 = 5_000;

impl Effects {
    /// Effects whose tasks run on `tracker`, which is drained on shutdown.
    #[must_use]
    pub fn new(
        store: Arc<Store>,
        authn: Arc<Authn>,
        upstream: Upstream,
        resolver: Arc<Resolver>,
        policy: Policy,
        tracker: TaskTracker,
    ) -> Self {
        let (names, gateway, location) = (Turns::default(), Arc::default(), Arc::default());
        Self { parts: Arc::new(Parts { store, authn, upstream, resolver, policy, names, gateway, location }), tracker }
    }

    /// Waits for the turn to change secrets or model definitions of the AI gateway.
    ///
    /// A change of one is checked against the stored state of the other. Two changes at once, each harmless beside the state
    /// before the other, could together reach an address or an identity that is not allowed. So the turn is held from the check to
    /// MLflow's answer, in this process.
    pub async fn gateway_turn(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.parts.gateway).lock_owned().await
    }

    /// Waits for the turn to create an experiment at a location of the caller's choice, because two at once would both find it free.
    /// Held as [`Effects::gateway_turn`] is.
    pub async fn location_turn(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.parts.location).lock_owned().await
    }

    /// Sends an allowed request and does what follows, to the end, even if the caller stops waiting. `turn` ends with it.
    ///
    /// # Errors
    /// See [`EffectError`]; only [`EffectError::NotFinished`] leaves a change behind in MLflow.
    pub async fn carry_out(
        &self,
        who: &Identity,
        address: IpAddr,
        permit: Permit,
        happening: Happening,
        outgoing: Outgoing,
        turn: Option<OwnedMutexGuard<()>>,
    ) -> Result<Done, EffectError> {
        let parts = Arc::clone(&self.parts);
        let actor = actor(who, address);
        let (who, maker) = (who.clone(), Maker::from(who));
        let task = self.tracker.spawn(async move {
            let _turn = turn;
            match happening {
                Happening::Alone => parts.send_whole(permit, outgoing).await,
                Happening::CreateQueue => parts.create_queue(&maker.name, permit, outgoing).await,
                Happening::CreateVersions { kind, parents } => {
                    parts.create_versions(actor, &who, permit, kind, parents, outgoing).await
                }
                happening => parts.run(actor, maker, permit, happening, outgoing).await,
            }
        });
        task.await.unwrap_or(Err(EffectError::Lost))
    }

    /// Finishes or drops what a crash or an unwritable store left behind and was begun before `before`.
    /// Returns how many intents were settled.
    ///
    /// # Errors
    /// The store or MLflow does not answer; whatever is left is tried again next time.
    pub async fn reconcile(&self, before: Timestamp) -> Result<usize, ReconcileError> {
        let mut settled = 0;
        for intent in self.parts.store.intents().await?.into_iter().filter(|intent| intent.created < before) {
            // A name that is taken is one whose request is under way, such as a slow upload.
            let Some(_alone) = self.parts.names.try_take(&intent.effect.names()) else { continue };
            let id = intent.id;
            match self.parts.settle(intent).await {
                Ok(()) => settled += 1,
                // One that cannot be settled must not keep the others waiting.
                Err(error) => tracing::warn!(intent = id, %error, "an interrupted effect cannot be settled yet"),
            }
        }
        Ok(settled)
    }
}

/// Why unfinished effects could not be settled now.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    Resolve(#[from] resolve::Error),
}

/// Who makes something, as policies know them.
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

/// Who did it, for the audit.
pub(crate) fn actor(who: &Identity, address: IpAddr) -> Actor {
    Actor { name: who.name.to_string(), token: who.scheme.token(), address: Some(address) }
}

impl Parts {
    async fn run(
        &self,
        actor: Actor,
        maker: Maker,
        permit: Permit,
        happening: Happening,
        outgoing: Outgoing,
    ) -> Result<Done, EffectError> {
        let _alone = self.names.take(&happening.names()).await;
        self.run_alone(actor, maker, permit, vec![happening], outgoing).await
    }

    /// Under the locks of the names. What happens, happens with one request: all of it or nothing.
    async fn run_alone(
        &self,
        actor: Actor,
        maker: Maker,
        permit: Permit,
        happenings: Vec<Happening>,
        outgoing: Outgoing,
    ) -> Result<Done, EffectError> {
        let mut begun = Vec::with_capacity(happenings.len());
        for happening in happenings {
            self.settle_names_of(&happening).await?;
            let intent = self.store.begin(&happening.effect(maker.user)).await.map_err(EffectError::NotBegun)?;
            begun.push((intent, happening));
        }
        let response = match self.upstream.forward(permit, outgoing).await {
            Ok(response) => response,
            Err(error @ upstream::Error::Connect(_)) => {
                // It provably never arrived. If forgetting fails too, the intent is settled later.
                for (intent, _) in begun {
                    let _ = self.store.abandon(intent).await;
                }
                return Err(error.into());
            }
            // It may have arrived: the intent stays until somebody can look.
            Err(error) => return Err(error.into()),
        };
        let (head, body) = response.into_parts();
        // What follows a deletion or a renaming does not wait for the answer's body, which may be of any size.
        let early = head.status.is_success() && !begun.iter().any(|(_, happening)| happening.needs_answer());
        if early {
            self.follow_all(&actor, &maker, &begun, &[]).await?;
        }
        let body = read_bounded(body, ANSWER_BYTES).await.map_err(upstream::Error::from)?;
        if head.status.is_success() {
            if !early {
                self.follow_all(&actor, &maker, &begun, &body).await?;
            }
        } else {
            for (intent, _) in begun {
                if let Err(error) = self.store.abandon(intent).await {
                    tracing::warn!(intent, %error, "an intent that came to nothing could not be forgotten; it will be settled later");
                }
            }
        }
        Ok(Done { status: head.status, headers: head.headers, body })
    }

    /// A name that is about to change hands must not carry an unfinished effect: its old grants would open the new
    /// thing. Under the name's lock none can be under way, so what is found was interrupted.
    async fn settle_names_of(&self, happening: &Happening) -> Result<(), EffectError> {
        let names = happening.names();
        for intent in self.store.intents().await.map_err(EffectError::NotBegun)? {
            if intent.effect.names().iter().any(|name| names.iter().any(|other| folded(name) == folded(other))) {
                self.settle(intent).await.map_err(|error| match error {
                    ReconcileError::Store(error) => EffectError::NotBegun(error),
                    ReconcileError::Resolve(error) => EffectError::Unsettled(error),
                })?;
            }
        }
        Ok(())
    }

    async fn follow_all(
        &self,
        actor: &Actor,
        maker: &Maker,
        begun: &[(i64, Happening)],
        body: &[u8],
    ) -> Result<(), EffectError> {
        for (intent, happening) in begun {
            self.follow(actor, maker, *intent, happening, body).await?;
        }
        Ok(())
    }

    async fn follow(
        &self,
        actor: &Actor,
        maker: &Maker,
        intent: i64,
        happening: &Happening,
        body: &[u8],
    ) -> Result<(), EffectError> {
        let store = &self.store;
        let finished = match happening {
            Happening::Create { kind: ResourceKind::Job, .. } => {
                for job in parse::<Created>(body)?.jobs() {
                    store.own(actor, ResourceKind::Job, &job, maker.user).await.map_err(EffectError::NotFinished)?;
                }
                store.abandon(intent).await
            }
            Happening::Create { kind: ResourceKind::Scorer, name }
                if !is_first_version(body) && self.has_owner(ResourceKind::Scorer, name).await? =>
            {
                // A further version of somebody's scorer.
                store.abandon(intent).await
            }
            // It was there after all: made beside this process.
            Happening::Create { kind: ResourceKind::Skill, name } if !makes_skill(name, body) => {
                store.abandon(intent).await
            }
            Happening::Create { kind, name } => {
                self.resolver.forget_name(name).await;
                if *kind == ResourceKind::Experiment {
                    self.resolver.forget_locations();
                }
                let resource = created(*kind, name, body)?;
                if self.put_aside(&resource).await.map_err(EffectError::Unchecked)? {
                    let _ = store.abandon(intent).await;
                    return Err(EffectError::UsedId(resource.key));
                }
                let shared = self.shared(resource.kind, maker).await.map_err(EffectError::NotFinished)?;
                store.finish_create(actor, intent, resource.kind, &resource.key, maker.user, &shared).await
            }
            Happening::Delete { kind, key } => {
                self.resolver.forget_name(key).await;
                store.finish_drop(actor, intent, *kind, key).await
            }
            Happening::RenameModel { from, to } => {
                self.resolver.forget_name(from).await;
                self.resolver.forget_name(to).await;
                store.finish_rename(actor, intent, ResourceKind::RegisteredModel, from, to).await
            }
            Happening::CreateQueue | Happening::CreateVersions { .. } | Happening::Alone => store.abandon(intent).await,
        };
        match happening {
            Happening::Create { .. } | Happening::CreateQueue | Happening::CreateVersions { .. } | Happening::Alone => {
                self.authn.forget(maker.user)
            }
            // Anybody may have had a grant on it.
            Happening::Delete { .. } | Happening::RenameModel { .. } => self.authn.forget_all(),
        }
        finished.map_err(EffectError::NotFinished)
    }

    /// Renames and deletes a new experiment if a purged one of the same ID left data sets, jobs or artifacts: they would be
    /// its owner's. SQLite gives the highest ID again. The name is free afterwards. Returns true if it was done.
    async fn put_aside(&self, resource: &Resource) -> Result<bool, resolve::Error> {
        if resource.kind != ResourceKind::Experiment {
            return Ok(false);
        }
        let id = &resource.key;
        let Some(left) = impatiently(self.resolver.left_under(id)).await? else { return Ok(false) };
        tracing::warn!(
            experiment = id,
            left,
            "a new experiment got the ID of a purged one that left data behind, and was put aside as a deleted experiment"
        );
        let new_name = format!("unused {id} {}", random_text());
        let rename = serde_json::json!({ "experiment_id": id, "new_name": new_name }).to_string();
        let delete = serde_json::json!({ "experiment_id": id }).to_string();
        for (path, body) in [("update", rename), ("delete", delete)] {
            let done = self.upstream.ask(&format!("/api/2.0/mlflow/experiments/{path}"), body).await;
            done.map_err(resolve::Error::from)?.ok_or_else(|| resolve::Error::from(upstream::Error::NotUnderstood))?;
        }
        Ok(true)
    }

    /// With whom the policy shares what somebody makes.
    async fn shared(&self, kind: ResourceKind, maker: &Maker) -> store::Result<Vec<OnCreate>> {
        let policy = self.authn.policies().enforced();
        if !policy.grants_on_create() {
            return Ok(Vec::new());
        }
        let standing = self.store.standing_of(maker.user, &maker.groups).await?;
        let homes = self.authn.policies().homes();
        let user = self.store.user(maker.user).await?;
        let home = homes.of(user.as_ref().and_then(User::identity));
        let member = standing.member(&maker.name, home, &maker.groups);
        let mut shared = Vec::new();
        for rule in policy.on_create(kind, &member) {
            // The account that has the name may be another than the one that is meant.
            let named = match &rule.to {
                Whom::User(name) => self.store.user_by_name(name).await?,
                Whom::Everybody | Whom::Group(_) | Whom::Role(_) => None,
            };
            if named.is_none_or(|user| rule.means(homes.of(user.identity()))) {
                shared.push(rule.clone());
            }
        }
        Ok(shared)
    }

    async fn has_owner(&self, kind: ResourceKind, key: &str) -> Result<bool, EffectError> {
        let on =
            self.store.grants_on(kind, &Selector::Exact(key.to_owned())).await.map_err(EffectError::NotFinished)?;
        Ok(on.iter().any(|grant| grant.permission == Permission::Manage))
    }

    /// An MLflow without auth does not know who creates a queue; its next request tells it.
    async fn create_queue(&self, name: &str, permit: Permit, outgoing: Outgoing) -> Result<Done, EffectError> {
        let (mut head, body) = self.upstream.forward(permit, outgoing).await?.into_parts();
        let mut body = read_bounded(body, ANSWER_BYTES).await.map_err(upstream::Error::from)?;
        if head.status.is_success() {
            let queue = parse::<CreatedQueue>(&body)?.review_queue;
            if queue.queue_type == "CUSTOM" && queue.created_by != name {
                let change = serde_json::json!({ "queue_id": queue.queue_id, "new_owner": name }).to_string();
                let changed = self.upstream.ask("/api/3.0/mlflow/review-queues/update", change).await;
                if let Some(changed) = changed.map_err(upstream::Error::half_way)? {
                    body = changed;
                    // It was the first answer's.
                    head.headers.remove(CONTENT_LENGTH);
                }
            }
        }
        Ok(Done { status: head.status, headers: head.headers, body })
    }

    /// Decides once more under the locks of the names: whether something is there, and so what it takes, may have changed since.
    async fn create_versions(
        &self,
        actor: Actor,
        who: &Identity,
        permit: Permit,
        kind: ResourceKind,
        parents: Vec<String>,
        outgoing: Outgoing,
    ) -> Result<Done, EffectError> {
        let names: Vec<&str> = parents.iter().map(String::as_str).collect();
        let _alone = self.names.take(&names).await;
        let NewVersions { requirements, absent } =
            self.resolver.new_versions(kind, &parents).await.map_err(EffectError::Unsettled)?;
        if requirements.iter().any(|requirement| holds(who, self.policy, requirement).is_err()) {
            return Err(EffectError::Changed);
        }
        if absent.is_empty() {
            return self.send_whole(permit, outgoing).await;
        }
        let makes = absent.into_iter().map(|name| Happening::Create { kind, name }).collect();
        self.run_alone(actor, Maker::from(who), permit, makes, outgoing).await
    }

    async fn send_whole(&self, permit: Permit, outgoing: Outgoing) -> Result<Done, EffectError> {
        let (head, body) = self.upstream.forward(permit, outgoing).await?.into_parts();
        let body = read_bounded(body, ANSWER_BYTES).await.map_err(upstream::Error::from)?;
        Ok(Done { status: head.status, headers: head.headers, body })
    }

    async fn settle(&self, intent: Intent) -> Result<(), ReconcileError> {
        let proxy = Actor::proxy();
        match &intent.effect {
            Effect::Create { kind, name, user } => match self.resolver.born(*kind, name).await? {
                Some((resource, born)) if born >= intent.created.0 - CLOCK_SKEW_MS => {
                    let is_owned = self.store.is_owned_since(resource.kind, &resource.key, intent.created).await?;
                    if is_owned || self.put_aside(&resource).await? {
                        self.store.abandon(intent.id).await?;
                    } else {
                        tracing::warn!(kind = %resource.kind, key = resource.key, "gave a thing without owner to its creator");
                        let shared = match self.store.user(*user).await? {
                            Some(user) => self.shared(resource.kind, &Maker::from(&user)).await?,
                            None => Vec::new(),
                        };
                        let (kind, key) = (resource.kind, &resource.key);
                        self.store.finish_create(&proxy, intent.id, kind, key, *user, &shared).await?;
                    }
                }
                Some(_) | None => self.store.abandon(intent.id).await?,
            },
            Effect::Drop { kind, key } => {
                // A younger thing of that name is another one: the old one is gone, and so must its grants be.
                let still = match kind {
                    ResourceKind::RegisteredModel | ResourceKind::Prompt => {
                        self.resolver.born(*kind, key).await?.is_some_and(|(_, born)| born < intent.created.0)
                    }
                    _ => self.resolver.is_there(*kind, key).await?,
                };
                if still {
                    self.store.abandon(intent.id).await?;
                } else {
                    self.store.finish_drop(&proxy, intent.id, *kind, key).await?;
                }
            }
            Effect::Rename { kind, from, to } => {
                let still = self.resolver.born(*kind, from).await?.is_some_and(|(_, born)| born < intent.created.0);
                let moved = !still && self.resolver.born(*kind, to).await?.is_some();
                if moved {
                    self.store.finish_rename(&proxy, intent.id, *kind, from, to).await?;
                } else {
                    self.store.abandon(intent.id).await?;
                }
            }
        }
        self.authn.forget_all();
        Ok(())
    }
}

impl Happening {
    /// Whether what follows can only be known from MLflow's answer.
    const fn needs_answer(&self) -> bool {
        match self {
            Self::Create { .. } | Self::CreateQueue | Self::CreateVersions { .. } | Self::Alone => true,
            Self::Delete { .. } | Self::RenameModel { .. } => false,
        }
    }

    fn names(&self) -> Vec<&str> {
        match self {
            // A job has no name that could change hands.
            Self::Create { kind: ResourceKind::Job, .. } => Vec::new(),
            Self::Create { name, .. } => vec![name],
            Self::Delete { key, .. } => vec![key],
            Self::RenameModel { from, to } => vec![from, to],
            Self::CreateQueue | Self::Alone => Vec::new(),
            Self::CreateVersions { parents, .. } => parents.iter().map(String::as_str).collect(),
        }
    }

    fn effect(&self, user: UserId) -> Effect {
        match self {
            Self::Create { kind, name } => Effect::Create { kind: *kind, name: name.clone(), user },
            Self::Delete { kind, key } => Effect::Drop { kind: *kind, key: key.clone() },
            Self::RenameModel { from, to } => {
                Effect::Rename { kind: ResourceKind::RegisteredModel, from: from.clone(), to: to.clone() }
            }
            Self::CreateQueue | Self::Alone => {
                Effect::Create { kind: ResourceKind::ReviewQueue, name: String::new(), user }
            }
            Self::CreateVersions { kind, parents } => {
                Effect::Create { kind: *kind, name: parents.first().cloned().unwrap_or_default(), user }
            }
        }
    }
}

/// Returns true if MLflow's answer to the registration of a scorer says that the scorer is new.
fn is_first_version(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Registered {
        version: Option<i64>,
    }
    serde_json::from_slice::<Registered>(body).is_ok_and(|registered| registered.version == Some(1))
}

/// Returns true if MLflow's answer says that a skill is new: the skill itself, or the first of its versions.
fn makes_skill(key: &str, body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Registered {
        version: Option<i64>,
        skill_versions: Option<Vec<SkillVersion>>,
    }
    #[derive(Deserialize)]
    struct SkillVersion {
        #[serde(default)]
        organization: String,
        name: String,
        version: i64,
    }
    let Ok(Registered { version, skill_versions }) = serde_json::from_slice(body) else { return false };
    match skill_versions {
        Some(all) => all.iter().any(|one| one.version == 1 && skill_key(&one.organization, &one.name) == key),
        None => version.is_none_or(|version| version == 1),
    }
}

/// What MLflow says it made.
fn created(kind: ResourceKind, name: &str, body: &[u8]) -> Result<Resource, EffectError> {
    let made = parse::<Created>(body)?;
    let key = match kind {
        ResourceKind::RegisteredModel | ResourceKind::Prompt => {
            return made.registered_model.map(RegisteredModel::resource).ok_or_else(not_understood);
        }
        ResourceKind::Experiment => made.experiment_id,
        ResourceKind::GatewaySecret => made.secret.map(|secret| secret.secret_id),
        ResourceKind::GatewayEndpoint => made.endpoint.map(|endpoint| endpoint.endpoint_id),
        ResourceKind::GatewayModelDefinition => made.model_definition.map(|made| made.model_definition_id),
        ResourceKind::McpServer => made.name,
        // Their keys are made of what the request says.
        ResourceKind::Scorer
        | ResourceKind::Skill
        | ResourceKind::Run
        | ResourceKind::Trace
        | ResourceKind::Assessment
        | ResourceKind::LoggedModel
        | ResourceKind::ReviewQueue
        | ResourceKind::RegisteredModelVersion
        | ResourceKind::PromptVersion
        | ResourceKind::ScorerVersion
        | ResourceKind::McpServerVersion
        | ResourceKind::Job
        | ResourceKind::Workspace => Some(name.to_owned()),
    };
    Ok(Resource::new(kind, key.ok_or_else(not_understood)?))
}

/// Turns of names: a task that has taken one is alone with it, in this process.
///
/// A turn may last as long as an upload, so each name has one of its own.
#[derive(Debug, Default)]
pub(super) struct Turns(std::sync::Mutex<HashMap<String, Weak<Mutex<()>>>>);

impl Turns {
    /// Waits until these names are free. They are taken in one order, so that two requests cannot wait for each other.
    async fn take(&self, names: &[&str]) -> Vec<OwnedMutexGuard<()>> {
        let mut taken = Vec::with_capacity(names.len());
        for turn in self.of(names) {
            taken.push(turn.lock_owned().await);
        }
        taken
    }

    /// `None` if one of them is taken.
    fn try_take(&self, names: &[&str]) -> Option<Vec<OwnedMutexGuard<()>>> {
        self.of(names).into_iter().map(|turn| turn.try_lock_owned().ok()).collect()
    }

    fn of(&self, names: &[&str]) -> Vec<Arc<Mutex<()>>> {
        let names: BTreeSet<String> = names.iter().map(|name| folded(name)).collect();
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that no task has or waits for go before the table grows.
        if turns.len() + names.len() > turns.capacity() {
            turns.retain(|_, turn| turn.strong_count() > 0);
        }
        let turn = |name: String| {
            let known = turns.get(&name).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let turn = Arc::default();
                turns.insert(name, Arc::downgrade(&turn));
                turn
            })
        };
        names.into_iter().map(turn).collect()
    }
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, EffectError> {
    serde_json::from_slice(body).map_err(|_| not_understood())
}

fn not_understood() -> EffectError {
    EffectError::Upstream(upstream::Error::NotUnderstood)
}

/// The answers to all creations, as far as they are read.
#[derive(Deserialize)]
struct Created {
    #[serde(default, deserialize_with = "text_only")]
    experiment_id: Option<String>,
    registered_model: Option<RegisteredModel>,
    secret: Option<CreatedSecret>,
    endpoint: Option<CreatedEndpoint>,
    model_definition: Option<CreatedDefinition>,
    name: Option<String>,
    job_id: Option<String>,
    #[serde(default)]
    jobs: Vec<CreatedJob>,
    job: Option<CreatedJob>,
}

impl Created {
    fn jobs(self) -> impl Iterator<Item = String> {
        let within = self.jobs.into_iter().chain(self.job).map(|job| job.job_id);
        self.job_id.into_iter().chain(within)
    }
}

/// Scorers answer with a number here, which nobody reads.
fn text_only<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(serde_json::Value::deserialize(deserializer)?.as_str().map(str::to_owned))
}

#[derive(Deserialize)]
struct CreatedSecret {
    secret_id: String,
}

#[derive(Deserialize)]
struct CreatedEndpoint {
    endpoint_id: String,
}

#[derive(Deserialize)]
struct CreatedDefinition {
    model_definition_id: String,
}

#[derive(Deserialize)]
struct CreatedJob {
    job_id: String,
}

#[derive(Deserialize)]
struct CreatedQueue {
    review_queue: CreatedQueueInfo,
}

#[derive(Deserialize)]
struct CreatedQueueInfo {
    queue_id: String,
    #[serde(default)]
    queue_type: String,
    #[serde(default)]
    created_by: String,
}

#[cfg(test)]
mod tests;
