//! Reduces lists in requests to what the caller is allowed to read: the experiments of a search, the traces of a batch.

use std::collections::{BTreeSet, HashSet};

use super::{Error, Proxy};
use crate::authz::{Identity, Permission, Requirement, Resource, ResourceKind, Visibility, holds, may};
use crate::http::Query;
use crate::mlflow::{Json, Keep, LocateError, Narrow, Narrowed, Thing, narrow};

/// Maximum number of experiments in one search whose names are looked up.
const MAX_NAMED: usize = 20_000;
/// Maximum number of traces in one batch, each of which can require a look-up.
const MAX_TRACES: usize = 1000;

impl Proxy {
    /// Reduces the list in a request.
    ///
    /// # Errors
    ///
    /// The list is missing or contains values other than IDs, or MLflow could not be asked.
    pub(super) async fn narrow(
        &self,
        identity: &Identity,
        list: &Narrow,
        query: &mut Query,
        body: Option<&mut Json<'_>>,
    ) -> Result<Narrowed, Error> {
        if list.thing == Thing::Trace {
            return self.narrow_traces(identity, list, query, body).await;
        }
        self.narrow_experiments(identity, list, query, body).await
    }

    async fn narrow_experiments(
        &self,
        identity: &Identity,
        list: &Narrow,
        query: &mut Query,
        mut body: Option<&mut Json<'_>>,
    ) -> Result<Narrowed, Error> {
        if Visibility::of(identity, self.default_permission, ResourceKind::Experiment) == Visibility::All {
            return Ok(Narrowed::Some);
        }
        let may_read = |experiment: &Resource| may(identity, self.default_permission, Permission::Read, experiment);
        if !identity.needs_names() {
            let readable = |id: &str| may_read(&Resource::new(ResourceKind::Experiment, id));
            return Ok(narrow(list, query, body, |id| Ok(keep(readable(id))))?);
        }
        // The first pass only collects the IDs, so that their names are looked up together.
        let mut named = HashSet::new();
        narrow(list, query, body.as_deref_mut(), |id| {
            named.insert(id.to_owned());
            if named.len() > MAX_NAMED { Err(LocateError::TooMany(MAX_NAMED)) } else { Ok(Keep::Yes) }
        })?;
        let readable = self.readable_experiments(identity, named.iter().map(String::as_str), None).await?;
        Ok(narrow(list, query, body, |id| Ok(keep(readable.contains(id))))?)
    }

    /// Removes traces that do not exist, or that are in an experiment that the caller is not allowed to read, as in MLflow
    /// 3.18's own auth.
    async fn narrow_traces(
        &self,
        identity: &Identity,
        list: &Narrow,
        query: &mut Query,
        mut body: Option<&mut Json<'_>>,
    ) -> Result<Narrowed, Error> {
        if identity.admin && identity.limits.is_unlimited() {
            return Ok(Narrowed::Some);
        }
        let mut ids = BTreeSet::new();
        narrow(list, query, body.as_deref_mut(), |id| {
            ids.insert(id.to_owned());
            if ids.len() > MAX_TRACES { Err(LocateError::TooMany(MAX_TRACES)) } else { Ok(Keep::Yes) }
        })?;
        if ids.is_empty() {
            return Err(LocateError::Missing(list.field.name().to_owned()).into());
        }
        let homes = self.resolver.homes_of_traces(ids).await?;
        let experiments: HashSet<&str> = homes.values().map(|home| &**home).collect();
        let tier = Some(ResourceKind::Trace);
        let readable = self.readable_experiments(identity, experiments.iter().copied(), tier).await?;
        let is_readable = |id: &str| homes.get(id).is_some_and(|home| readable.contains(&**home));
        Ok(narrow(list, query, body, |id| Ok(keep(is_readable(id))))?)
    }

    /// Returns those experiments that the caller is allowed to read, or whose resources of the kind `tier` the caller is
    /// allowed to read.
    pub(super) async fn readable_experiments<'i>(
        &self,
        identity: &Identity,
        ids: impl Iterator<Item = &'i str> + Clone + Send,
        tier: Option<ResourceKind>,
    ) -> Result<HashSet<&'i str>, Error> {
        if identity.needs_names() {
            Box::pin(self.resolver.prefetch_names(ids.clone())).await;
        }
        let mut readable = HashSet::new();
        for id in ids {
            let mut resource = Resource::new(ResourceKind::Experiment, id);
            if identity.needs_names() {
                self.resolver.name(&mut resource).await?;
            }
            let read = Requirement::Level { permission: Permission::Read, resource, tier };
            if holds(identity, self.default_permission, &read).is_ok() {
                readable.insert(id);
            }
        }
        Ok(readable)
    }
}

const fn keep(readable: bool) -> Keep {
    if readable { Keep::Yes } else { Keep::No }
}
