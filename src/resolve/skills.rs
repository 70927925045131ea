//! Which skills exist. Never cached.

use std::collections::HashSet;

use serde::Deserialize;

use super::{BATCH, Error, Resolver};
use crate::authz::{Permission, Requirement, Resource, ResourceKind, skill_key};
use crate::http::Query;

impl Resolver {
    /// The requirements of registering versions of these skills, which MLflow makes where they are not there.
    ///
    /// # Errors
    /// MLflow could not be asked.
    pub async fn new_skills(&self, keys: &[String]) -> Result<Vec<Requirement>, Error> {
        let there = self.skills(keys).await?;
        let requirement = |key: &String| {
            let skill = Resource::new(ResourceKind::Skill, key.as_str());
            if there.contains(key) {
                Requirement::level(Permission::Edit, skill)
            } else {
                Requirement::NotRefused(skill)
            }
        };
        let create = keys.iter().any(|key| !there.contains(key)).then_some(Requirement::Create(ResourceKind::Skill));
        Ok(create.into_iter().chain(keys.iter().map(requirement)).collect())
    }

    /// Those of these MCP servers or skills that are not there.
    ///
    /// # Errors
    /// MLflow could not be asked.
    pub async fn absent(&self, kind: ResourceKind, mut keys: Vec<String>) -> Result<Vec<String>, Error> {
        let there =
            if kind == ResourceKind::Skill { self.skills(&keys).await? } else { self.each(kind, &keys).await? };
        keys.retain(|key| !there.contains(key));
        Ok(keys)
    }

    /// Those of these skills that are there.
    async fn skills(&self, keys: &[String]) -> Result<HashSet<String>, Error> {
        let mut there = HashSet::new();
        for keys in keys.chunks(BATCH) {
            let mut query = Query::default();
            query.set("max_results", Some(&BATCH.to_string()));
            for key in keys {
                query.add("include_skill_identities", key);
            }
            match self.find::<Skills>(format!("/api/3.0/mlflow/skills?{}", query.encoded())).await? {
                Some(found) => there.extend(found.skills.iter().map(|one| skill_key(&one.organization, &one.name))),
                // A search that MLflow does not accept says nothing about what is there.
                None => there.extend(self.each(ResourceKind::Skill, keys).await?),
            }
        }
        Ok(there)
    }

    /// The same with a look-up for each.
    async fn each(&self, kind: ResourceKind, keys: &[String]) -> Result<HashSet<String>, Error> {
        let mut there = HashSet::new();
        for key in keys {
            if self.is_there(kind, key).await? {
                there.insert(key.clone());
            }
        }
        Ok(there)
    }
}

#[derive(Deserialize)]
struct Skills {
    skills: Vec<Skill>,
}

#[derive(Deserialize)]
struct Skill {
    #[serde(default)]
    organization: String,
    name: String,
}
