//! Carries out one mutation, from the intent to the response.

use std::pin::pin;

use hyper::body::Incoming;

use super::turns::Key;
use super::{Allowed, Answer, Done, EffectError, Maker, Parts};
use crate::authz::{Identity, Mutation, OnCreate, Permission, Resource, ResourceKind, Selector, Whom, holds};
use crate::budget::Share;
use crate::crypto::random_text;
use crate::http::Last;
use crate::mlflow::answers::CreatedQueue;
use crate::mlflow::{created, created_jobs, is_first_version, lookups, makes_skill};
use crate::resolve::{self, NewVersions};
use crate::store::{self, Actor, User};
use crate::upstream::{self, impatiently};

impl Parts {
    /// Carries out mutations that one request makes, all of them or none. The caller has the turns of their names.
    pub(super) async fn run(
        &self,
        actor: Actor,
        maker: Maker,
        mutations: Vec<Mutation>,
        allowed: Allowed,
    ) -> Result<Done, EffectError> {
        let Allowed { permit, outgoing, share } = allowed;
        let begun = self.begin(&maker, mutations).await?;
        let answer = self.upstream.forward(permit, outgoing).await;
        self.finish(&actor, &maker, begun, answer, share).await
    }

    /// Stores the intents of mutations, before MLflow is called.
    async fn begin(&self, maker: &Maker, mutations: Vec<Mutation>) -> Result<Vec<(i64, Mutation)>, EffectError> {
        let mut begun = Vec::with_capacity(mutations.len());
        for mutation in mutations {
            self.settle_names_of(&mutation).await?;
            let turns: Vec<String> = Key::of(&mutation).iter().map(Key::lease).collect();
            let intent = self.store.begin(&mutation, maker.user, &turns).await.map_err(|error| match error {
                store::Error::TakenOver => EffectError::Taken,
                error => EffectError::NotBegun(error),
            })?;
            begun.push((intent, mutation));
        }
        Ok(begun)
    }

    /// Completes the follow-up after MLflow's answer to mutations whose intents are stored.
    async fn finish(
        &self,
        actor: &Actor,
        maker: &Maker,
        begun: Vec<(i64, Mutation)>,
        answer: Result<http::Response<Incoming>, upstream::Error>,
        share: Share,
    ) -> Result<Done, EffectError> {
        let response = match answer {
            Ok(response) => response,
            Err(error @ upstream::Error::Connect(_)) => {
                // The request certainly did not arrive. If the intent cannot be removed either, it is settled later.
                for (intent, _) in begun {
                    let _ = self.store.abandon(intent).await;
                }
                return Err(error.into());
            }
            // The request may have arrived, so the intent stays until MLflow can be asked.
            Err(error) => return Err(error.into()),
        };
        let (head, body) = response.into_parts();
        if !head.status.is_success() {
            for (intent, _) in begun {
                if let Err(error) = self.store.abandon(intent).await {
                    tracing::warn!(intent, %error, "an intent of a request without effect could not be deleted; it will be settled later");
                }
            }
        } else if begun.iter().any(|(_, mutation)| mutation.needs_answer()) {
            // A creation: the answer contains the ID or name on which the creator receives MANAGE.
            let body = self.upstream.read(body, share.held().max(ANSWER_BYTES)).await?;
            self.follow_all(actor, maker, &begun, &body).await?;
            return Ok(Done { head, answer: Answer::Read(body, share) });
        } else {
            // What follows a deletion or a renaming does not wait for the answer's body, which may be of any size.
            self.follow_all(actor, maker, &begun, &[]).await?;
        }
        Ok(streams(http::Response::from_parts(head, body)))
    }

    async fn follow_all(
        &self,
        actor: &Actor,
        maker: &Maker,
        begun: &[(i64, Mutation)],
        body: &[u8],
    ) -> Result<(), EffectError> {
        for (intent, mutation) in begun {
            self.follow(actor, maker, *intent, mutation, body).await?;
        }
        Ok(())
    }

    async fn follow(
        &self,
        actor: &Actor,
        maker: &Maker,
        intent: i64,
        mutation: &Mutation,
        body: &[u8],
    ) -> Result<(), EffectError> {
        let store = &self.store;
        let finished = match mutation {
            Mutation::Create { kind: ResourceKind::Job, .. } => {
                for job in created_jobs(body).ok_or_else(not_understood)? {
                    store.own(actor, ResourceKind::Job, &job, maker.user).await.map_err(EffectError::NotFinished)?;
                }
                store.abandon(intent).await
            }
            Mutation::Create { kind: ResourceKind::Scorer, name }
                if !is_first_version(body) && self.has_owner(ResourceKind::Scorer, name).await? =>
            {
                // The response shows a further version of an existing scorer.
                store.abandon(intent).await
            }
            // The skill existed already: another process or client created it.
            Mutation::Create { kind: ResourceKind::Skill, name } if !makes_skill(name, body) => {
                store.abandon(intent).await
            }
            Mutation::Create { kind, name } => {
                self.resolver.forget_name(name).await;
                if *kind == ResourceKind::Experiment {
                    self.resolver.forget_locations();
                }
                let resource = created(*kind, name, body).ok_or_else(not_understood)?;
                // Before the owner's grant is written, so that the creator has access to data of the purged
                // experiment at no time.
                if self.put_aside(&resource).await.map_err(EffectError::Unchecked)? {
                    let _ = store.abandon(intent).await;
                    return Err(EffectError::UsedId(resource.key));
                }
                let shared = self.shared(resource.kind, maker).await.map_err(EffectError::NotFinished)?;
                store.finish_create(actor, intent, resource.kind, &resource.key, maker.user, &shared).await
            }
            Mutation::Delete { kind, key } => {
                self.resolver.forget_name(key).await;
                store.finish_drop(actor, intent, *kind, key).await
            }
            Mutation::Rename { kind, from, to } => {
                self.resolver.forget_name(from).await;
                self.resolver.forget_name(to).await;
                store.finish_rename(actor, intent, *kind, from, to).await
            }
        };
        finished.map_err(|error| match error {
            store::Error::TakenOver => EffectError::TakenOver,
            error => EffectError::NotFinished(error),
        })
    }

    /// Renames and deletes a new experiment if a purged one of the same ID left datasets, jobs or artifacts, which the new
    /// owner could otherwise access. SQLite reuses the highest ID. The name is free afterwards. Returns true if the experiment
    /// was deleted.
    pub(super) async fn put_aside(&self, resource: &Resource) -> Result<bool, resolve::Error> {
        if resource.kind != ResourceKind::Experiment {
            return Ok(false);
        }
        let id = &resource.key;
        let Some(left) = impatiently(self.resolver.left_under(id)).await? else { return Ok(false) };
        tracing::warn!(
            experiment = id,
            left,
            "a new experiment got the ID of a purged one that left data behind, and was renamed and deleted"
        );
        let new_name = format!("unused {id} {}", random_text());
        let rename = serde_json::json!({ "experiment_id": id, "new_name": new_name }).to_string();
        let delete = serde_json::json!({ "experiment_id": id }).to_string();
        for (path, body) in [(lookups::RENAME_EXPERIMENT, rename), (lookups::DELETE_EXPERIMENT, delete)] {
            let done = self.upstream.ask(path, body).await;
            done.map_err(resolve::Error::from)?.ok_or_else(|| resolve::Error::from(upstream::Error::NotUnderstood))?;
        }
        Ok(true)
    }

    /// Returns the grants that the policy gives to others on a resource that a user creates.
    pub(super) async fn shared(&self, kind: ResourceKind, maker: &Maker) -> store::Result<Vec<OnCreate>> {
        let policy = self.authn.policies().enforced();
        if !policy.grants_on_create() {
            return Ok(Vec::new());
        }
        let standing = self.store.standing_of(maker.user, &maker.groups).await?;
        let homes = self.authn.policies().homes();
        let user = self.store.user(maker.user).await?;
        let home = homes.of(user.as_ref().and_then(User::identity));
        let name = user.as_ref().map_or(&*maker.name, User::name_at_provider);
        let member = standing.member(name, home, &maker.groups);
        let mut shared = Vec::new();
        for rule in policy.on_create(kind, &member) {
            // The account with this name may be another than the intended one.
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

    /// Creates a review queue and sets its owner in a second request, because an MLflow without auth does not know the caller.
    pub(super) async fn create_queue(&self, name: &str, allowed: Allowed) -> Result<Done, EffectError> {
        let Allowed { permit, outgoing, share } = allowed;
        let (head, body) = self.upstream.forward(permit, outgoing).await?.into_parts();
        if !head.status.is_success() {
            return Ok(streams(http::Response::from_parts(head, body)));
        }
        let mut body = self.upstream.read(body, share.held().max(ANSWER_BYTES)).await?;
        let created = serde_json::from_slice::<CreatedQueue>(&body).map_err(|_| not_understood())?;
        let queue = created.review_queue;
        if queue.queue_type == "CUSTOM" && queue.created_by != name {
            let change = serde_json::json!({ "queue_id": queue.queue_id, "new_owner": name }).to_string();
            // The queue exists already, so a failure of this request must not have the meaning "not sent".
            let changed = self.upstream.ask(lookups::CHANGE_REVIEW_QUEUE, change).await;
            if let Some(changed) = changed.map_err(upstream::Error::half_way)? {
                body = changed;
            }
        }
        Ok(Done { head, answer: Answer::Read(body, share) })
    }

    /// Creates versions after a second decision in the turns of their names: a parent can have been created or deleted since the
    /// first one, which changes the requirement.
    pub(super) async fn create_versions(
        &self,
        actor: Actor,
        who: &Identity,
        kind: ResourceKind,
        parents: Vec<String>,
        allowed: Allowed,
    ) -> Result<Done, EffectError> {
        let makes = self.decide_again(who, kind, &parents).await?;
        self.run(actor, Maker::from(who), makes, allowed).await
    }

    /// Sends an upload without its last piece. When that has arrived, takes the turns of the names, decides once more, and
    /// sends it: MLflow registers nothing before it has read the whole body. After a refusal, the connection is closed.
    pub(super) async fn upload_versions(
        &self,
        actor: Actor,
        who: &Identity,
        kind: ResourceKind,
        parents: Vec<String>,
        (allowed, last): (Allowed, Last),
    ) -> Result<Done, EffectError> {
        let Allowed { permit, outgoing, share } = allowed;
        let maker = Maker::from(who);
        let mut answer = pin!(self.upstream.forward(permit, outgoing));
        let release = tokio::select! {
            biased;
            early = answer.as_mut() => {
                let early = early?;
                // A success before the whole body was sent is an error: no intent is stored yet, so a new skill would have no owner.
                return if early.status().is_success() { Err(not_understood()) } else { Ok(streams(early)) };
            }
            release = last.arrived() => release,
        };
        // The turns are taken only now, so that a slow client holds none while it sends.
        let names = parents.iter().map(|name| Key::name(kind, name)).collect();
        let _turn = self.turn(who.user, names).await?;
        // An upload can take hours.
        upstream::confirm_rights().await?;
        let makes = self.decide_again(who, kind, &parents).await?;
        let begun = self.begin(&maker, makes).await?;
        // The intents are stored, so MLflow is allowed to register the versions from here on.
        release.send();
        self.finish(&actor, &maker, begun, answer.await, share).await
    }

    /// Decides again and returns the parents that the registration of their versions creates.
    async fn decide_again(
        &self,
        who: &Identity,
        kind: ResourceKind,
        parents: &[String],
    ) -> Result<Vec<Mutation>, EffectError> {
        let looked_up = impatiently(self.resolver.new_versions(kind, parents)).await;
        let NewVersions { requirements, absent } = looked_up.map_err(EffectError::LookUp)?;
        if requirements.iter().any(|requirement| holds(who, self.default_permission, requirement).is_err()) {
            return Err(EffectError::Changed);
        }
        Ok(absent.into_iter().map(|name| Mutation::Create { kind, name }).collect())
    }

    pub(super) async fn send_whole(&self, allowed: Allowed) -> Result<Done, EffectError> {
        Ok(streams(self.upstream.forward(allowed.permit, allowed.outgoing).await?))
    }
}

fn streams(answer: http::Response<Incoming>) -> Done {
    let (head, body) = answer.into_parts();
    Done { head, answer: Answer::Streams(body) }
}

/// Maximum size of an answer to a creation, unless the request is larger.
const ANSWER_BYTES: usize = 2 * 1024 * 1024;

fn not_understood() -> EffectError {
    EffectError::Upstream(upstream::Error::NotUnderstood)
}
