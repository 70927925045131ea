//! Finds the experiment that owns a path of the artifact proxy: the one with the most specific `artifact_location` that
//! contains the path.
//!
//! Nearly every experiment is stored at `mlflow-artifacts:/ID`. Only the others are cached, and a path of the former kind
//! requires no look-up. MLflow never changes a location, so a refresh reads new experiments only; all experiments are read
//! again periodically, because `mlflow gc` frees IDs.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use moka::sync::Cache;
use tokio::sync::Mutex;

use super::{Error, Resolver};
use crate::authz::{Permission, Requirement, Resource, ResourceKind};
use crate::mlflow::answers::ExperimentId;
use crate::mlflow::{ArtifactPath, artifact_tier};

/// Cached locations and their age.
#[derive(Debug)]
pub(super) struct Locations {
    known: ArcSwapOption<Index>,
    /// Set when an experiment was created through the proxy, until that experiment has been read.
    stale: AtomicBool,
    created: AtomicU64,
    /// Set when a path was looked up since the last refresh.
    used: AtomicBool,
    recent: Cache<(), ()>,
    whole: Cache<(), ()>,
    /// Allows one refresh at a time.
    turn: Mutex<()>,
}

/// A path without an owner may belong to a new experiment, so it is looked up again after this time.
const RECENT: Duration = Duration::from_secs(5);
/// Interval at which all experiments are read again.
const WHOLE: Duration = Duration::from_secs(600);
/// Maximum difference between the clocks of several MLflow servers.
const CLOCK_SKEW_MS: i64 = 60_000;

/// Experiments that are not stored at `mlflow-artifacts:/ID`.
#[derive(Clone, Debug, Default)]
struct Index {
    /// Their locations; `None` for a location outside the artifact proxy, or one that could be interpreted in two ways.
    moved: HashMap<Arc<str>, Option<ArtifactPath>>,
    /// The experiments at each path. With more than one, the owner is ambiguous.
    owners: BTreeMap<String, Vec<Arc<str>>>,
    newest: i64,
}

/// The owner of a path.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Place<'p> {
    pub(super) experiment: Arc<str>,
    /// The experiment's location and the rest of the path.
    pub(super) root: &'p str,
    pub(super) below: &'p str,
}

impl Index {
    fn learn(&mut self, experiment: ExperimentId) {
        let ExperimentId { experiment_id, artifact_location, creation_time, .. } = experiment;
        self.newest = self.newest.max(creation_time);
        let id: Arc<str> = experiment_id.into();
        if let Some(Some(old)) = self.moved.remove(&id)
            && let Some(owners) = self.owners.get_mut(old.as_str())
        {
            owners.retain(|owner| *owner != id);
            if owners.is_empty() {
                self.owners.remove(old.as_str());
            }
        }
        let location = ArtifactPath::of_location(&artifact_location);
        if location.as_ref().is_some_and(|location| location.as_str() == &*id) {
            return;
        }
        if let Some(location) = &location {
            self.owners.entry(location.as_str().to_owned()).or_default().push(Arc::clone(&id));
        }
        self.moved.insert(id, location);
    }

    /// Returns the owner of a path; `None` if no experiment owns it, or if the owner is ambiguous.
    fn place<'p>(&self, path: &'p ArtifactPath) -> Option<Place<'p>> {
        let whole = path.ancestors().next()?;
        let at = |experiment: Arc<str>, root: &'p str| {
            let below = whole.get(root.len()..)?;
            Some(Place { experiment, root, below: below.strip_prefix('/').unwrap_or(below) })
        };
        for root in path.ancestors().filter(|_| !self.owners.is_empty()) {
            match self.owners.get(root).map(Vec::as_slice) {
                None | Some([]) => {}
                // The default location of the experiment with this ID is the same path.
                Some([_]) if path.experiment() == Some(root) && !self.moved.contains_key(root) => return None,
                Some([owner]) => return at(Arc::clone(owner), root),
                Some(_) => return None,
            }
        }
        let id = path.experiment().filter(|id| !self.moved.contains_key(*id))?;
        at(id.into(), id)
    }

    /// Returns the experiments that are stored below the path.
    fn inside(&self, path: &ArtifactPath) -> impl Iterator<Item = &Arc<str>> {
        let prefix = path.ancestors().next().map(|path| format!("{path}/")).unwrap_or_default();
        let from = self.owners.range(prefix.clone()..);
        from.take_while(move |(location, _)| location.starts_with(&prefix)).flat_map(|(_, owners)| owners)
    }

    fn requirements(&self, permission: Permission, path: &ArtifactPath) -> Option<Vec<Requirement>> {
        let place = self.place(path)?;
        let level = |id: &str, tier| {
            let resource = Resource::new(ResourceKind::Experiment, id);
            Requirement::Level { permission, resource, tier }
        };
        let mut requirements = vec![level(&place.experiment, artifact_tier(place.below))];
        // Deleting a folder also deletes the files of experiments that are stored in it.
        requirements.extend(self.inside(path).map(|id| level(id, None)));
        Some(requirements)
    }
}

impl Locations {
    pub(super) fn new() -> Self {
        Self {
            known: ArcSwapOption::empty(),
            stale: AtomicBool::new(true),
            created: AtomicU64::new(0),
            // True, so that a new process reads the locations before the first request.
            used: AtomicBool::new(true),
            recent: Cache::builder().time_to_live(RECENT).build(),
            whole: Cache::builder().time_to_live(WHOLE).build(),
            turn: Mutex::new(()),
        }
    }

    /// Returns the requirement of a path, if the cache determines it.
    pub(super) fn at_hand(&self, permission: Permission, path: &ArtifactPath) -> Option<Requirement> {
        self.used.store(true, Ordering::Relaxed);
        if self.stale.load(Ordering::Acquire) {
            return None;
        }
        let known = self.known.load();
        let known = known.as_ref()?;
        let place = known.place(path)?;
        if !known.owners.is_empty() && known.inside(path).next().is_some() {
            return None;
        }
        let (resource, tier) =
            (Resource::new(ResourceKind::Experiment, &*place.experiment), artifact_tier(place.below));
        Some(Requirement::Level { permission, resource, tier })
    }
}

impl Resolver {
    /// Returns the requirements of a path of the artifact proxy.
    pub(super) async fn owner_of(
        &self,
        permission: Permission,
        path: &ArtifactPath,
    ) -> Result<Vec<Requirement>, Error> {
        let mut known = self.known_locations(Age::Any).await?;
        let mut found = known.requirements(permission, path);
        if found.is_none() {
            // The path may belong to a new experiment.
            known = self.known_locations(Age::Recent).await?;
            found = known.requirements(permission, path);
        }
        // MLflow itself does not let callers change the files of a skill.
        let of_skill = |key: &str| Requirement::level(permission, Resource::new(ResourceKind::Skill, key));
        let skill = path.skill().filter(|_| permission == Permission::Read).map(of_skill);
        let what = "use artifact paths outside the artifact locations of experiments";
        Ok(found.unwrap_or_else(|| vec![skill.unwrap_or(Requirement::Privileged(what))]))
    }

    /// Returns the location of the experiment that owns the path, and the rest of the path.
    pub(super) async fn place<'p>(&self, path: &'p ArtifactPath) -> Result<Option<Place<'p>>, Error> {
        Ok(self.known_locations(Age::Any).await?.place(path))
    }

    /// Returns true if an experiment at this location would share no path of the artifact proxy with another one.
    ///
    /// # Errors
    /// MLflow could not be asked.
    pub async fn is_location_free(&self, location: &str) -> Result<bool, Error> {
        let scheme = location.split(':').next().unwrap_or_default().to_ascii_lowercase();
        let Some(path) = ArtifactPath::of_location(location) else {
            // A bucket is outside the artifact proxy, but another spelling of `mlflow-artifacts` may not be.
            return Ok(scheme != "mlflow-artifacts" && !location.contains("mlflow-artifacts"));
        };
        if path.experiment().is_some() || path.is_of_skills() {
            return Ok(false);
        }
        // Another process may have created the last one.
        self.forget_locations();
        let known = self.known_locations(Age::Recent).await?;
        let taken = path.ancestors().any(|path| known.owners.contains_key(path));
        Ok(!taken && known.inside(&path).next().is_none())
    }

    /// Invalidates the cached locations, because an experiment was created through this or another process, or may have
    /// been.
    pub fn forget_locations(&self) {
        self.locations.created.fetch_add(1, Ordering::AcqRel);
        self.locations.stale.store(true, Ordering::Release);
    }

    /// Reads new experiments if artifact paths were looked up since the last refresh, so that requests need not do so.
    ///
    /// # Errors
    ///
    /// MLflow could not be asked.
    pub async fn refresh_locations(&self) -> Result<(), Error> {
        if self.locations.used.swap(false, Ordering::Relaxed) {
            self.known_locations(Age::Recent).await?;
        }
        Ok(())
    }

    async fn known_locations(&self, age: Age) -> Result<Arc<Index>, Error> {
        let locations = &self.locations;
        let current = || {
            let fresh = age == Age::Any || locations.recent.contains_key(&());
            locations.known.load_full().filter(|_| fresh && !locations.stale.load(Ordering::Acquire))
        };
        if let Some(known) = current() {
            self.metrics.resources.hits.inc();
            return Ok(known);
        }
        let _turn = locations.turn.lock().await;
        // Another task may have completed a refresh while this one waited.
        if let Some(known) = current() {
            return Ok(known);
        }
        self.metrics.resources.misses.inc();
        // Read before the list is requested; compared afterwards to detect a creation in between.
        let created = locations.created.load(Ordering::Acquire);
        let whole = !locations.whole.contains_key(&());
        let mut index = match locations.known.load_full() {
            Some(known) if !whole => Index::clone(&known),
            Some(_) | None => Index::default(),
        };
        // MLflow orders experiments by creation time, which several servers take from their own clocks.
        let since = index.newest.saturating_sub(CLOCK_SKEW_MS);
        self.experiments_since(since, |experiment| index.learn(experiment)).await?;
        let index = Arc::new(index);
        locations.known.store(Some(Arc::clone(&index)));
        locations.recent.insert((), ());
        if whole {
            locations.whole.insert((), ());
        }
        // Experiments that were created in the meantime may not have been read.
        if locations.created.load(Ordering::Acquire) == created {
            locations.stale.store(false, Ordering::Release);
            // A creation between the check and the store above has set `stale` before it was cleared.
            if locations.created.load(Ordering::Acquire) != created {
                locations.stale.store(true, Ordering::Release);
            }
        }
        Ok(index)
    }
}

/// The maximum age of a result.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Age {
    /// Any age, but never older than the last experiment that was created through the proxy.
    Any,
    Recent,
}

#[cfg(test)]
mod tests;
