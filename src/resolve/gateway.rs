//! Look-ups of AI gateway objects: the models, addresses and scorers that an endpoint, a secret or a guardrail makes MLflow
//! call.

use std::sync::Arc;

use super::{Error, Resolver, folded};
use crate::http::Query;
use crate::mlflow::answers::{
    Endpoint, EndpointAnswer, EndpointList, GuardrailAnswer, ModelDefinition, ModelDefinitionAnswer,
    ModelDefinitionList, ModelVersionAnswer, ScorerAnswer, SecretAnswer, SecretList,
};
use crate::mlflow::{PromptAt, ProviderModel, StoredSecret, is_prompt_model_tag, lookups};

/// An endpoint, found by name.
#[derive(Debug)]
pub(super) struct KnownEndpoint {
    pub(super) id: Arc<str>,
    /// Every model that it can call: primary models and fallbacks.
    models: Vec<ModelDefinition>,
}

impl KnownEndpoint {
    /// Returns the name of an endpoint and the facts to cache.
    pub(super) fn of(endpoint: Endpoint) -> (String, Self) {
        let models = endpoint.model_mappings.into_iter().filter_map(|mapping| mapping.model_definition).collect();
        (endpoint.name, Self { id: endpoint.endpoint_id.into(), models })
    }
}

/// A model definition of the AI gateway.
#[derive(Clone, Debug)]
pub struct Definition {
    pub model: ProviderModel,
    /// ID of its secret; empty if it has none.
    pub secret: String,
}

/// The parts of an AI gateway guardrail that call models.
#[derive(Clone, Debug)]
pub struct GuardrailCalls {
    /// The serialized scorer.
    pub scorer: String,
    /// ID of the endpoint that rewrites responses.
    pub endpoint: Option<String>,
}

/// A version of a prompt.
#[derive(Clone, Debug)]
pub struct PromptVersion {
    pub version: String,
    /// The value of the tag that specifies its model.
    pub model: Option<String>,
}

impl Resolver {
    /// Returns the ID of an AI gateway endpoint, possibly from the cache. That suffices to list the endpoint, but not to allow
    /// its use.
    ///
    /// # Errors
    ///
    /// MLflow could not be asked.
    pub async fn recent_endpoint(&self, name: &str) -> Result<Option<Arc<str>>, Error> {
        Ok(self.recently_known(name).await?.map(|known| Arc::clone(&known.id)))
    }

    /// Looks up an AI gateway endpoint without the cache: names move between endpoints, and a stale entry would allow the use
    /// of another owner's endpoint. The duration of the look-up is negligible compared to the provider's response.
    pub(super) async fn endpoint(&self, name: &str) -> Result<Option<Arc<KnownEndpoint>>, Error> {
        self.metrics.resources.misses.inc();
        let found = self.find::<EndpointAnswer>(lookups::endpoint_by_name(name)).await?;
        let Some(endpoint) = found.map(|answer| answer.endpoint) else { return Ok(None) };
        let known = Arc::new(KnownEndpoint::of(endpoint).1);
        self.endpoints.insert(name.to_owned(), Arc::clone(&known)).await;
        Ok(Some(known))
    }

    async fn recently_known(&self, name: &str) -> Result<Option<Arc<KnownEndpoint>>, Error> {
        if let Some(known) = self.endpoints.get(name).await {
            self.metrics.resources.hits.inc();
            return Ok(Some(known));
        }
        self.endpoint(name).await
    }

    /// Returns every address that MLflow connects to for an endpoint, by name, in addition to the public addresses of its
    /// providers. Returns none for an endpoint that does not exist.
    ///
    /// # Errors
    ///
    /// MLflow could not be asked.
    pub async fn addresses_of_endpoint(&self, name: &str) -> Result<Vec<String>, Error> {
        match self.endpoint(name).await? {
            Some(known) => self.addresses(&known.models).await,
            None => Ok(Vec::new()),
        }
    }

    /// Returns the providers of every model that an endpoint can call, by name. Returns none for an endpoint that does not
    /// exist.
    ///
    /// # Errors
    ///
    /// MLflow could not be asked.
    pub async fn providers_of_endpoint(&self, name: &str) -> Result<Vec<String>, Error> {
        let known = self.endpoint(name).await?;
        Ok(known.iter().flat_map(|known| known.models.iter().map(|model| model.provider.clone())).collect())
    }

    /// Returns every address that MLflow connects to for an endpoint, by ID; `None` if it does not exist.
    ///
    /// # Errors
    ///
    /// MLflow could not be asked.
    pub async fn addresses_of_endpoint_id(&self, id: &str) -> Result<Option<Vec<String>>, Error> {
        let target = lookups::endpoint(id);
        let Some(answer) = self.find::<EndpointAnswer>(target).await? else { return Ok(None) };
        let models = answer.endpoint.model_mappings.into_iter().filter_map(|mapping| mapping.model_definition);
        self.addresses(&models.collect::<Vec<_>>()).await.map(Some)
    }

    /// Returns every address that stored secrets and endpoints of the AI gateway lead to, each with a description of its
    /// source.
    ///
    /// # Errors
    ///
    /// MLflow could not be asked.
    pub async fn stored_addresses(&self) -> Result<Vec<(String, String)>, Error> {
        let mut found = Vec::new();
        let secrets = self.find::<SecretList>(lookups::SECRETS.to_owned()).await?;
        for mut secret in secrets.into_iter().flat_map(|list| list.secrets) {
            let what = format!("the secret `{}`", std::mem::take(&mut secret.secret_name));
            let secret = StoredSecret::from(secret);
            let model = ProviderModel { provider: String::new(), name: String::new() };
            found.extend(secret.addresses(&model).into_iter().map(|address| (what.clone(), address)));
        }
        let endpoints = self.find::<EndpointList>(lookups::ENDPOINTS.to_owned()).await?;
        for endpoint in endpoints.into_iter().flat_map(|list| list.endpoints) {
            let what = format!("the endpoint `{}`", endpoint.name);
            let models: Vec<_> = endpoint.model_mappings.into_iter().filter_map(|one| one.model_definition).collect();
            found.extend(self.addresses(&models).await?.into_iter().map(|address| (what.clone(), address)));
        }
        Ok(found)
    }

    async fn addresses(&self, models: &[ModelDefinition]) -> Result<Vec<String>, Error> {
        let mut addresses = Vec::new();
        for definition in models {
            let secret = self.secret(&definition.secret_id).await?;
            let model = ProviderModel { provider: definition.provider.clone(), name: definition.model_name.clone() };
            addresses.extend(secret.unwrap_or_default().addresses(&model));
        }
        Ok(addresses)
    }

    /// Returns a secret by its ID; `None` if it does not exist. Never cached, because values that are checked against it may be
    /// used at once.
    ///
    /// # Errors
    ///
    /// MLflow could not be asked.
    pub async fn secret(&self, id: &str) -> Result<Option<StoredSecret>, Error> {
        if id.is_empty() {
            return Ok(None);
        }
        let found = self.find::<SecretAnswer>(lookups::secret(id)).await?;
        Ok(found.map(|answer| StoredSecret::from(answer.secret)))
    }

    /// Returns the models of all definitions that use a secret. Never cached.
    ///
    /// # Errors
    ///
    /// MLflow could not be asked.
    pub async fn models_of_secret(&self, id: &str) -> Result<Vec<ProviderModel>, Error> {
        let target = lookups::model_definitions(id);
        let listed = self.find::<ModelDefinitionList>(target).await?;
        let listed = listed.into_iter().flat_map(|list| list.model_definitions);
        let model = |one: ModelDefinition| ProviderModel { provider: one.provider, name: one.model_name };
        Ok(listed.filter(|one| one.secret_id == id).map(model).collect())
    }

    /// Returns a model definition by its ID. Never cached, because a change is compared with it.
    ///
    /// # Errors
    ///
    /// MLflow could not be asked.
    pub async fn definition(&self, id: &str) -> Result<Option<Definition>, Error> {
        let target = lookups::model_definition(id);
        let found = self.find::<ModelDefinitionAnswer>(target).await?.map(|answer| answer.model_definition);
        Ok(found.map(|found| Definition {
            model: ProviderModel { provider: found.provider, name: found.model_name },
            secret: found.secret_id,
        }))
    }

    /// Returns a version of a prompt: its number, and the tag that specifies its model. Never cached.
    ///
    /// # Errors
    ///
    /// The version does not exist, or MLflow could not be asked.
    pub async fn prompt_version(&self, name: &str, at: &PromptAt) -> Result<PromptVersion, Error> {
        let found = self.find::<ModelVersionAnswer>(lookups::prompt_version(name, at)).await?;
        let (key, value) = match at {
            PromptAt::Version(version) => ("version", version),
            PromptAt::Alias(alias) => ("alias", alias),
        };
        let missing = || Error::NoSuchName(format!("Prompt (name={name}, {key}={value}) not found"));
        let found = found.ok_or_else(missing)?.model_version;
        let tag = found.tags.into_iter().rev().find(|tag| is_prompt_model_tag(&tag.key));
        Ok(PromptVersion { version: found.version, model: tag.map(|tag| tag.value) })
    }

    /// Records that MLflow optimizes a prompt. Its job reads the prompt's model at a time that the proxy cannot determine.
    pub async fn note_optimization(&self, prompt: &str) {
        self.optimized.insert(folded(prompt), ()).await;
    }

    /// Returns true if an optimization of a prompt was started within the last day.
    #[must_use]
    pub fn is_optimized(&self, prompt: &str) -> bool {
        self.optimized.contains_key(&folded(prompt))
    }

    /// Returns the serialized form of a registered scorer; `None` if it does not exist.
    ///
    /// # Errors
    ///
    /// MLflow could not be asked.
    pub async fn scorer(&self, experiment: &str, name: &str, version: Option<&str>) -> Result<Option<String>, Error> {
        let mut query = Query::default();
        query.set("experiment_id", Some(experiment));
        query.set("name", Some(name));
        query.set("version", version);
        let target = lookups::scorer(&query);
        Ok(self.find::<ScorerAnswer>(target).await?.map(|answer| answer.scorer.serialized_scorer))
    }

    /// Returns the scorer and the endpoint of a guardrail; `None` if it does not exist.
    ///
    /// # Errors
    ///
    /// MLflow could not be asked.
    pub async fn guardrail(&self, id: &str) -> Result<Option<GuardrailCalls>, Error> {
        let target = lookups::guardrail(id);
        let found = self.find::<GuardrailAnswer>(target).await?.map(|answer| answer.guardrail);
        Ok(found.map(|found| GuardrailCalls {
            scorer: found.scorer.serialized_scorer,
            endpoint: Some(found.action_endpoint_id).filter(|endpoint| !endpoint.is_empty()),
        }))
    }
}
