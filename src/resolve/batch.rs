//! Look-ups of many names at once, so that a page of a list does not require one request for each row.
//!
//! Names that are not found here are looked up one by one later: MLflow before 3.17 does not support `IN` for names, and a name
//! with a quote cannot be written in a filter.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use serde::Deserialize;

use super::gateway::KnownEndpoint;
use super::{Error, Resolver, failed, parse};
use crate::authz::Resource;
use crate::http::Query;
use crate::mlflow::answers::{EndpointList, ExperimentId, RegisteredModel};
use crate::mlflow::{PROMPT_TAG, lookups};

/// Maximum total size of the names in one look-up, in bytes. MLflow's server accepts a request head of 64 KiB, its SQL parser
/// 10,000 tokens, and a page of its lists has 1000 rows.
const NAME_BYTES: usize = 16 * 1024;
const NAMES: usize = 1000;

impl Resolver {
    /// Finds the model or prompt behind each of these names, under the name that MLflow returns. Names that are missing from
    /// the result have to be looked up one by one.
    ///
    /// # Errors
    ///
    /// MLflow could not be asked.
    pub async fn models(&self, names: &BTreeSet<String>) -> Result<HashMap<String, Resource>, Error> {
        let mut found = HashMap::new();
        if names.len() < 2 {
            return Ok(found);
        }
        let is_prompt = format!("tags.`{PROMPT_TAG}` = 'true'");
        for batch in batches(names.iter().map(String::as_str)) {
            // A search without that tag excludes prompts.
            for more in [None, Some(is_prompt.as_str())] {
                let missing: Vec<&str> = batch.iter().copied().filter(|name| !found.contains_key(*name)).collect();
                if missing.is_empty() {
                    continue;
                }
                let Some(models) = self.search_models(&missing, more).await? else { return Ok(found) };
                for model in models {
                    if names.contains(&model.name) {
                        found.insert(model.name.clone(), model.resource());
                    }
                }
            }
        }
        Ok(found)
    }

    async fn search_models(&self, names: &[&str], more: Option<&str>) -> Result<Option<Vec<RegisteredModel>>, Error> {
        let condition = format!("name IN ('{}')", names.join("','"));
        let filter = more.map_or_else(|| condition.clone(), |more| format!("{more} AND {condition}"));
        let mut query = Query::default();
        query.set("filter", Some(&filter));
        query.set("max_results", Some(&NAMES.to_string()));
        let target = lookups::registered_models(&query);
        let answer = self.find::<Models>(target).await?;
        Ok(answer.map(|answer| answer.registered_models))
    }

    /// Looks up the names of these experiments. Names that are not found, or cannot be looked up now, are requested one by one
    /// later.
    pub async fn prefetch_names<'i>(&self, ids: impl Iterator<Item = &'i str>) {
        let mut unknown = BTreeSet::new();
        for id in ids {
            if !self.experiments.contains_key(id) {
                unknown.insert(id);
            }
        }
        if unknown.len() < 2 {
            return;
        }
        for batch in batches(unknown.into_iter()) {
            let filter = format!("experiment_id IN ('{}')", batch.join("','"));
            let body = serde_json::json!({ "filter": filter, "max_results": NAMES, "view_type": "ALL" }).to_string();
            let answer = self.upstream.ask(lookups::EXPERIMENTS, body).await.map_err(failed);
            let Ok(Some(found)) = answer.and_then(|bytes| bytes.map(|bytes| parse::<Experiments>(&bytes)).transpose())
            else {
                return;
            };
            for experiment in found.experiments {
                if let Some(name) = experiment.name {
                    self.experiments.insert(experiment.experiment_id, name.into()).await;
                }
            }
        }
    }

    /// Looks up the endpoints of the AI gateway if several of these are not cached. Endpoints that are not found, or cannot be
    /// looked up now, are requested one by one later.
    pub async fn prefetch_endpoints<'i>(&self, names: impl Iterator<Item = &'i str>) {
        if names.filter(|name| !self.endpoints.contains_key(*name)).take(2).count() < 2 {
            return;
        }
        let found = self.find::<EndpointList>(lookups::ENDPOINTS.to_owned()).await;
        for endpoint in found.ok().flatten().into_iter().flat_map(|list| list.endpoints) {
            let (name, known) = KnownEndpoint::of(endpoint);
            self.endpoints.insert(name, Arc::new(known)).await;
        }
    }
}

/// Splits names into batches, each of which fits into one filter. Names that cannot be written in a filter are omitted.
fn batches<'n>(names: impl Iterator<Item = &'n str>) -> Vec<Vec<&'n str>> {
    let plain = |name: &&str| {
        let other = |c: char| matches!(c, ' ' | '-' | '_' | '.' | '/' | ':' | '@' | '+');
        !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || other(c))
    };
    let mut batches: Vec<Vec<&str>> = Vec::new();
    let mut bytes = NAME_BYTES;
    for name in names.filter(plain) {
        // Percent-encoding turns a byte that is not ASCII into three.
        bytes += name.len() + "%27%2C%27".len();
        match batches.last_mut() {
            Some(batch) if bytes <= NAME_BYTES && batch.len() < NAMES => batch.push(name),
            Some(_) | None => {
                bytes = name.len();
                batches.push(vec![name]);
            }
        }
    }
    batches
}

#[derive(Deserialize)]
struct Models {
    #[serde(default)]
    registered_models: Vec<RegisteredModel>,
}

#[derive(Deserialize)]
struct Experiments {
    #[serde(default)]
    experiments: Vec<ExperimentId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cut_into_what_one_filter_can_hold() {
        let names: Vec<String> = (0..2500).map(|number| number.to_string()).collect();
        let lengths = |names: &[String]| -> Vec<usize> {
            batches(names.iter().map(String::as_str)).iter().map(Vec::len).collect()
        };
        assert_eq!(lengths(&names), [1000, 1000, 500]);
        let long: Vec<String> = (0..100).map(|number| format!("{number}-{}", "x".repeat(250))).collect();
        assert!(lengths(&long).iter().all(|length| (1..=64).contains(length)), "{:?}", lengths(&long));
        assert_eq!(lengths(&long).iter().sum::<usize>(), 100);
        assert_eq!(lengths(&["it's".to_owned(), String::new(), "a`b".to_owned()]), [0; 0]);
    }
}
