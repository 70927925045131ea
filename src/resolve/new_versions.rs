//! Requirements of new versions of MCP servers and skills. MLflow creates parents that do not exist. Never cached.

use std::collections::HashSet;

use serde::Deserialize;

use super::{Error, Resolver};
use crate::authz::{Permission, Requirement, Resource, ResourceKind, skill_key};
use crate::http::Query;
use crate::mlflow::lookups;

/// The current requirements of registering versions.
#[derive(Clone, Debug)]
pub struct NewVersions {
    pub requirements: Vec<Requirement>,
    /// Keys of the parents that MLflow would create.
    pub absent: Vec<String>,
}

impl Resolver {
    /// Returns the requirements of registering versions of these MCP servers or skills.
    ///
    /// # Errors
    ///
    /// MLflow could not be asked.
    pub async fn new_versions(&self, kind: ResourceKind, keys: &[String]) -> Result<NewVersions, Error> {
        let there = match keys {
            [_, _, ..] if kind == ResourceKind::Skill => self.skills(keys).await?,
            _ => self.each(kind, keys).await?,
        };
        let absent: Vec<String> = keys.iter().filter(|key| !there.contains(*key)).cloned().collect();
        let tier = (kind == ResourceKind::McpServer).then_some(ResourceKind::McpServerVersion);
        let requirement = |key: &String| {
            let resource = Resource::new(kind, key.as_str());
            if there.contains(key) {
                Requirement::Level { permission: Permission::Edit, resource, tier }
            } else {
                Requirement::NotRefused(resource)
            }
        };
        let create = (!absent.is_empty()).then_some(Requirement::Create(kind));
        Ok(NewVersions { requirements: create.into_iter().chain(keys.iter().map(requirement)).collect(), absent })
    }

    /// Returns those of these skills that exist.
    async fn skills(&self, keys: &[String]) -> Result<HashSet<String>, Error> {
        let mut there = HashSet::new();
        for keys in keys.chunks(AT_ONCE) {
            let mut query = Query::default();
            query.set("max_results", Some(&AT_ONCE.to_string()));
            for key in keys {
                query.add("include_skill_identities", key);
            }
            match self.find::<Skills>(lookups::skills(&query)).await? {
                Some(found) => there.extend(found.skills.iter().map(|one| skill_key(&one.organization, &one.name))),
                // A search that MLflow refuses does not show which skills exist.
                None => there.extend(self.each(ResourceKind::Skill, keys).await?),
            }
        }
        Ok(there)
    }

    /// Returns those that exist, with one look-up for each.
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

/// Skills asked for at once: the answer has their descriptions, of up to 1 MiB each.
const AT_ONCE: usize = 10;

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
