//! Authorisation: the IDs in a request, the resource that each belongs to, and the decision.

use super::bodies;
use super::{Error, Proxy, gateway};
use crate::authz::{
    DefaultPermission, Denied, Identity, Permission, Permit, Requirement, Resource, ResourceKind, Visibility,
    authorize, holds, may_any,
};
use crate::mlflow::{Demand, Input, Json, LocateError, Located, Need, Operation, Thing, demands, locate};

impl Proxy {
    /// Performs steps 7 to 9: finds the IDs in the request and the resource that each belongs to, and decides.
    pub(super) async fn permit(
        &self,
        identity: &Identity,
        operation: &Operation,
        input: Input<'_, '_>,
    ) -> Result<Permit, Error> {
        let params = input.params;
        let decided = self.decide_beside(identity, operation, input).await;
        // Names are not confidential: a client registers a server after the response that it does not exist.
        if let (Err(Error::Denied(_)), None) = (&decided, operation.then)
            && let Some((kind, name)) = operation.named_by_path(params)
            && !Box::pin(self.resolver.is_there(kind, &name)).await?
        {
            let noun = kind.noun();
            return Err(crate::resolve::Error::NoSuchName(format!("{noun} '{name}' not found")).into());
        }
        decided
    }

    pub(super) async fn decide(
        &self,
        identity: &Identity,
        operation: &Operation,
        mut input: Input<'_, '_>,
    ) -> Result<Permit, Error> {
        if let Some(feature) = operation.blocked_by(&self.authz.opened) {
            return Err(Error::Blocked(feature));
        }
        // Unlimited administrators are allowed everything. MLflow itself reports objects that do not exist.
        let unlimited = identity.admin && identity.limits.is_unlimited();
        let size = input.body.as_deref().map_or(0, Json::size);
        let found = bodies::aside(size, || locate(operation, &mut input))?;
        if let Some(missing) = found.missing.filter(|_| !unlimited) {
            return Err(LocateError::Missing(missing).into());
        }
        let located = found.located;
        // After `locate`, which makes the IDs in the body canonical. Rules may replace parts of the body, such as a
        // scorer.
        let demanded = bodies::aside(size, || demands(operation, &located, input.body.as_deref_mut()))?;
        let mut requirements =
            Requirements { identity, default_permission: self.default_permission, all: Vec::with_capacity(4) };
        for requirement in operation.needs.iter().filter_map(|need| need.requirement(operation)) {
            requirements.add(requirement)?;
        }
        if unlimited {
            requirements.add(Requirement::Admin { change: true })?;
        } else {
            self.require_all(&mut requirements, located).await?;
        }
        let refuses_scorers = !unlimited && identity.grants.refuses_any(ResourceKind::Scorer);
        for demand in demanded {
            if refuses_scorers && let Some(scorer) = demand.scorer() {
                requirements.add(Requirement::NotRefused(Resource::new(ResourceKind::Scorer, scorer.as_str())))?;
                requirements.add(Box::pin(self.scorer_as_stored(scorer)).await?)?;
            }
            // The addresses that MLflow connects to are checked for administrators, too.
            if !unlimited || gateway::holds_for_everybody(&demand) {
                for requirement in Box::pin(self.demand(demand)).await? {
                    self.add(&mut requirements, requirement).await?;
                }
            }
        }
        Ok(authorize(identity, self.default_permission, &requirements.all)?)
    }

    /// Refuses a request before its body is read if the caller has no grant that the operation requires.
    ///
    /// Covers only conditions that no body can change. All other requests are decided by [`Proxy::permit`], with the same
    /// responses.
    pub(super) fn could_be_allowed(&self, identity: &Identity, operation: &Operation) -> Result<(), Error> {
        // Under a shadow policy, every request is decided twice and completely.
        if identity.admin || identity.shadow.is_some() || operation.empty {
            return Ok(());
        }
        if let Some(feature) = operation.blocked_by(&self.authz.opened) {
            return Err(Error::Blocked(feature));
        }
        for need in &operation.needs {
            if let Some(requirement) = need.requirement(operation) {
                holds(identity, self.default_permission, &requirement)?;
            } else if let Need::Level { permission, thing, field } = need
                && !field.optional
                && let Some((kinds, tier)) = thing.granted_by()
            {
                // With a grant on the tier, READ on the resource is sufficient.
                let least = if tier.is_some() { Permission::Read } else { *permission };
                if !kinds.iter().any(|kind| may_any(identity, self.default_permission, least, *kind)) {
                    let kind = kinds.first().copied().unwrap_or(ResourceKind::Experiment);
                    return Err(Denied::MissingTier { permission: *permission, tier: kind }.into());
                }
            }
        }
        Ok(())
    }

    /// Adds the requirements of located objects.
    async fn require_all(&self, requirements: &mut Requirements<'_>, located: Vec<Located>) -> Result<(), Error> {
        let identity = requirements.identity;
        let traces = located.iter().filter(|one| matches!(one.thing, Thing::Trace | Thing::AssessmentOf));
        // A single trace is looked up below, without a batch request.
        if traces.clone().nth(1).is_some() {
            Box::pin(self.resolver.prefetch_traces(traces.map(|trace| trace.id.as_str()))).await;
        }
        if identity.needs_names() {
            let experiments = located.iter().filter(|one| one.is_experiment());
            Box::pin(self.resolver.prefetch_names(experiments.map(|one| one.id.as_str()))).await;
        }
        let refuses = identity.grants.refuses_any(ResourceKind::Scorer);
        for scorer in located.iter().filter(|_| refuses) {
            if scorer.thing == Thing::OnlineScorer {
                // MLflow 3.18: as with evaluations, a refused scorer is not shown through its experiment.
                for scorer in Box::pin(self.resolver.scorers_of(&scorer.id)).await? {
                    requirements.add(Requirement::NotRefused(scorer))?;
                }
            } else if scorer.is_scorer() {
                requirements.add(Box::pin(self.scorer_as_stored(scorer.id.clone())).await?)?;
            }
        }
        for located in located {
            let read_file = located.thing == Thing::Artifact && located.permission == Permission::Read;
            let file = read_file.then(|| located.id.clone());
            match (self.require(requirements, located).await, file) {
                // READ on a registered model also opens the files of its versions. Checked only after a refusal,
                // because this requires look-ups, and users of the experiment read most files.
                (Err(Error::Denied(denied)), Some(path)) => {
                    let version = Box::pin(self.version_with_file(identity, &path)).await?;
                    requirements.add(version.ok_or(Error::Denied(denied))?)?;
                }
                (done, _) => done?,
            }
        }
        Ok(())
    }

    /// Returns the requirement that a scorer is not refused under the name that MLflow has for it: some databases find it under
    /// other spellings.
    async fn scorer_as_stored(&self, key: String) -> Result<Requirement, Error> {
        let stored = self.resolver.stored_key(ResourceKind::Scorer, key).await?;
        Ok(Requirement::NotRefused(Resource::new(ResourceKind::Scorer, stored)))
    }

    /// Adds the requirements of a located object, after a look-up if one is needed.
    async fn require(&self, requirements: &mut Requirements<'_>, located: Located) -> Result<(), Error> {
        // The ID of an experiment requires no look-up.
        match self.resolver.at_hand(&located) {
            Some(requirement) => self.add(requirements, requirement).await,
            None => {
                for requirement in Box::pin(self.resolver.requirements(located)).await? {
                    self.add(requirements, requirement).await?;
                }
                Ok(())
            }
        }
    }

    /// Returns a requirement that is met if the file at this path belongs to a model version that the caller is allowed to
    /// read.
    async fn version_with_file(&self, identity: &Identity, path: &str) -> Result<Option<Requirement>, Error> {
        let readable = |kind| Visibility::of(identity, self.default_permission, kind) != Visibility::Only(Vec::new());
        if ![ResourceKind::RegisteredModel, ResourceKind::Prompt].into_iter().any(readable) {
            return Ok(None);
        }
        for version in self.resolver.versions_near(path).await?.iter() {
            let resource = match self.resolver.model(&version.name).await {
                Ok(resource) => resource,
                Err(crate::resolve::Error::NoSuchName(_)) => continue,
                Err(error) => return Err(error.into()),
            };
            let requirement = Requirement::version(Permission::Read, resource);
            let reads = holds(identity, self.default_permission, &requirement).is_ok();
            if reads && self.resolver.is_file_of(path, version).await? {
                return Ok(Some(requirement));
            }
        }
        Ok(None)
    }

    /// Adds one requirement, with the resource names that the caller's globs require. Callers without globs cause no look-up.
    async fn add(&self, requirements: &mut Requirements<'_>, mut requirement: Requirement) -> Result<(), Error> {
        if requirements.identity.needs_names() {
            Box::pin(self.name_all(&mut requirement)).await?;
        }
        requirements.add(requirement)
    }

    /// Adds the names of the experiments in a requirement.
    pub(super) async fn name_all(&self, requirement: &mut Requirement) -> Result<(), Error> {
        for experiment in requirement.experiments_mut() {
            self.resolver.name(experiment).await?;
        }
        Ok(())
    }

    async fn demand(&self, demand: Demand) -> Result<Vec<Requirement>, Error> {
        Ok(match demand {
            Demand::Located(located) => self.resolver.requirements(located).await?,
            Demand::Privileged(what) => vec![Requirement::Privileged(what)],
            Demand::NewSkills(keys) => self.resolver.new_versions(ResourceKind::Skill, &keys).await?.requirements,
            Demand::NameIsFree { kind, name } => {
                let not_refused = |kind: &ResourceKind| Requirement::NotRefused(Resource::new(*kind, name.as_str()));
                kind.sharing_names().iter().map(not_refused).collect()
            }
            Demand::ExperimentName { renamed, name } => self.new_name(renamed, &name).await?,
            Demand::ArtifactLocation(location) => self.chosen_location(&location).await?,
            Demand::Inside { uri, run, model } => {
                if self.resolver.is_inside(&uri, run.as_deref(), model.as_deref()).await? {
                    return Ok(Vec::new());
                }
                self.check_connection(&uri)?;
                let what = "register a source outside the artifacts of the run or logged model that it names";
                vec![Requirement::Privileged(what)]
            }
            Demand::TraceIn { trace, experiment } => match self.resolver.experiment_of_trace(&trace).await? {
                Some(there) if *there != *experiment => return Err(Error::TraceElsewhere),
                Some(_) | None => Vec::new(),
            },
            Demand::NoUsersName(name) => {
                if self.authn.is_user_name(&name).await? {
                    return Err(Error::UsersName);
                }
                Vec::new()
            }
            Demand::UsageExperiment { name, endpoint } => {
                let found = self.resolver.usage_experiment(name, endpoint.as_deref()).await?;
                found.map(|experiment| Requirement::level(Permission::Edit, experiment)).into_iter().collect()
            }
            Demand::Queue { queue, part } => {
                let queue = self.resolver.queue(queue.thing, &queue.id).await?;
                // The need of the row already refused a queue that does not exist.
                queue.map(|queue| queue.requirement(part)).into_iter().collect()
            }
            Demand::NotOptimized(name) => {
                let privilege = "rename a prompt that was optimized within the last day, or give its name to another";
                let optimized = self.resolver.is_optimized(&name);
                optimized.then_some(Requirement::Privileged(privilege)).into_iter().collect()
            }
            Demand::Connection(connection) => Box::pin(self.connection(connection)).await?,
        })
    }

    /// Returns the requirements of a new name of an experiment; `renamed` is the ID of an existing one.
    async fn new_name(&self, renamed: Option<String>, name: &str) -> Result<Vec<Requirement>, Error> {
        let mut needed = vec![Requirement::NotRefused(Resource::experiment(name, name))];
        if let Some(id) = renamed
            && self.authn.names_experiments().await?
        {
            // The new name can match the globs of other users, and of the caller.
            let experiment = Resource::new(ResourceKind::Experiment, id);
            needed.push(Requirement::level(Permission::Manage, experiment));
        }
        Ok(needed)
    }

    /// Returns the requirements of an artifact location that the caller chose: none below a configured prefix, if the location
    /// is not in use.
    async fn chosen_location(&self, location: &str) -> Result<Vec<Requirement>, Error> {
        // Excludes characters that MLflow or a storage library could decode or normalise into another location.
        let is_plain = !location.contains(['%', '\\', '?', '#']) && !location.split('/').any(|part| part == "..");
        let is_below = |prefix: &String| {
            let rest = location.strip_prefix(prefix.trim_end_matches('/'));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        if is_plain
            && self.authz.artifact_locations.iter().any(is_below)
            && self.resolver.is_location_free(location).await?
        {
            return Ok(Vec::new());
        }
        self.check_connection(location)?;
        Ok(vec![Requirement::Privileged("choose this artifact location")])
    }

    /// Refuses a URI that makes MLflow connect to an address that is not public.
    fn check_connection(&self, uri: &str) -> Result<(), Error> {
        if gateway::connects(uri) {
            self.authz.provider_hosts.check_public(uri)?;
        }
        Ok(())
    }
}

/// Requirements in the order in which they are found. After the first one that is not met, no more are added, so that a denial
/// does not cost the remaining look-ups.
struct Requirements<'r> {
    identity: &'r Identity,
    default_permission: DefaultPermission,
    all: Vec<Requirement>,
}

impl Requirements<'_> {
    fn add(&mut self, requirement: Requirement) -> Result<(), Error> {
        holds(self.identity, self.default_permission, &requirement)?;
        self.all.push(requirement);
        Ok(())
    }
}
