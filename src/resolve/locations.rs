//! Which experiment owns a path of the artifact proxy: the one whose `artifact_location` it lies in, most specifically.
//!
//! Nearly every experiment is stored at `mlflow-artifacts:/ID`, so only the others are kept, and a path of the former kind
//! is decided without a look-up. MLflow never changes a location, so new experiments are enough to look for; everything is
//! read again from time to time, because `mlflow gc` frees ids.

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

/// What is known of locations, and how old it is.
#[derive(Debug)]
pub(super) struct Locations {
    known: ArcSwapOption<Index>,
    /// Set when an experiment was created through us, until that has been read.
    stale: AtomicBool,
    created: AtomicU64,
    /// Set when a path was asked for since the last refresh.
    used: AtomicBool,
    recent: Cache<(), ()>,
    whole: Cache<(), ()>,
    /// One refresh at a time.
    turn: Mutex<()>,
}

/// A path that no experiment owns may be a new one's: it is looked for again after this time.
const RECENT: Duration = Duration::from_secs(5);
/// How often every experiment is read again.
const WHOLE: Duration = Duration::from_secs(600);
/// How far the clocks of several MLflow servers may differ.
const CLOCK_SKEW_MS: i64 = 60_000;

/// Experiments that are stored elsewhere than at `mlflow-artifacts:/ID`.
#[derive(Clone, Debug, Default)]
struct Index {
    /// Where they are; `None` for what is not in the artifact proxy, or could be read in two ways.
    moved: HashMap<Arc<str>, Option<ArtifactPath>>,
    /// The experiments at each path; more than one cannot be told apart.
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

    /// `None` when no experiment owns the path, or when it is not clear which.
    fn place<'p>(&self, path: &'p ArtifactPath) -> Option<Place<'p>> {
        let whole = path.ancestors().next()?;
        let at = |experiment: Arc<str>, root: &'p str| {
            let below = whole.get(root.len()..)?;
            Some(Place { experiment, root, below: below.strip_prefix('/').unwrap_or(below) })
        };
        for root in path.ancestors().filter(|_| !self.owners.is_empty()) {
            match self.owners.get(root).map(Vec::as_slice) {
                None | Some([]) => {}
                // The default location of the experiment of this id is the same path.
                Some([_]) if path.experiment() == Some(root) && !self.moved.contains_key(root) => return None,
                Some([owner]) => return at(Arc::clone(owner), root),
                Some(_) => return None,
            }
        }
        let id = path.experiment().filter(|id| !self.moved.contains_key(*id))?;
        at(id.into(), id)
    }

    /// The experiments that are stored below the path.
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
        // Deleting a folder deletes what others keep in it.
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
            // A new process reads them before the first request.
            used: AtomicBool::new(true),
            recent: Cache::builder().time_to_live(RECENT).build(),
            whole: Cache::builder().time_to_live(WHOLE).build(),
            turn: Mutex::new(()),
        }
    }

    /// The requirement of a path, where what is known decides it.
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
    /// The requirements of a path of the artifact proxy.
    pub(super) async fn owner_of(
        &self,
        permission: Permission,
        path: &ArtifactPath,
    ) -> Result<Vec<Requirement>, Error> {
        let mut known = self.known_locations(Age::Any).await?;
        let mut found = known.requirements(permission, path);
        if found.is_none() {
            // A new experiment's, perhaps.
            known = self.known_locations(Age::Recent).await?;
            found = known.requirements(permission, path);
        }
        // MLflow itself lets no caller change the files of a skill.
        let of_skill = |key: &str| Requirement::level(permission, Resource::new(ResourceKind::Skill, key));
        let skill = path.skill().filter(|_| permission == Permission::Read).map(of_skill);
        let what = "use artifact paths outside the artifact locations of experiments";
        Ok(found.unwrap_or_else(|| vec![skill.unwrap_or(Requirement::Privileged(what))]))
    }

    /// The location of the experiment that owns the path, and the rest of the path.
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
            // A bucket is no path of the proxy; another spelling of one may be.
            return Ok(scheme != "mlflow-artifacts" && !location.contains("mlflow-artifacts"));
        };
        if path.experiment().is_some() || path.is_of_skills() {
            return Ok(false);
        }
        let known = self.known_locations(Age::Recent).await?;
        let taken = path.ancestors().any(|path| known.owners.contains_key(path));
        Ok(!taken && known.inside(&path).next().is_none())
    }

    /// Forgets that the locations are known, because an experiment was just created through us.
    pub fn forget_locations(&self) {
        self.locations.created.fetch_add(1, Ordering::AcqRel);
        self.locations.stale.store(true, Ordering::Release);
    }

    /// Looks for new experiments when artifact paths were asked for since the last time, so that no request has to.
    ///
    /// # Errors
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
        if let Some(known) = current() {
            return Ok(known);
        }
        self.metrics.resources.misses.inc();
        let created = locations.created.load(Ordering::Acquire);
        let whole = !locations.whole.contains_key(&());
        let mut index = match locations.known.load_full() {
            Some(known) if !whole => Index::clone(&known),
            Some(_) | None => Index::default(),
        };
        let since = index.newest.saturating_sub(CLOCK_SKEW_MS);
        self.experiments_since(since, |experiment| index.learn(experiment)).await?;
        let index = Arc::new(index);
        locations.known.store(Some(Arc::clone(&index)));
        locations.recent.insert((), ());
        if whole {
            locations.whole.insert((), ());
        }
        // What was created in the meantime may not have been read.
        if locations.created.load(Ordering::Acquire) == created {
            locations.stale.store(false, Ordering::Release);
            if locations.created.load(Ordering::Acquire) != created {
                locations.stale.store(true, Ordering::Release);
            }
        }
        Ok(index)
    }
}

/// How old an answer may be.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Age {
    /// Older than the last experiment that was created through us it never is.
    Any,
    Recent,
}

#[cfg(test)]
mod tests;
