//! Demands of operations that make MLflow open a connection: to model providers, or to itself for its AI gateway.

use http::{HeaderMap, HeaderValue};

use super::send::PARENT_TRACE;
use super::{Error, Proxy};
use crate::authz::{Identity, Permission, Requirement, Resource, ResourceKind, holds};
use crate::mlflow::{
    Connection, Demand, Json, Judge, Located, Operation, PromptAt, ProviderModel, Rule, StoredSecret, Thing, fetches,
    optimized_prompt, pin_prompt, privilege_of, prompt_model,
};

impl Proxy {
    /// Returns the requirements of a demand on addresses, secrets and scorers.
    ///
    /// # Errors
    ///
    /// An address is not allowed, which applies to administrators, too, or MLflow could not be asked.
    pub(super) async fn connection(&self, connection: Connection) -> Result<Vec<Requirement>, Error> {
        let hosts = &self.authz.provider_hosts;
        match connection {
            Connection::Address(address) => hosts.check(&address)?,
            Connection::PublicAddress(address) => hosts.check_public(&address)?,
            Connection::Endpoint(name) => {
                self.check_addresses(self.resolver.addresses_of_endpoint(&name).await?)?;
            }
            Connection::Fetched { endpoint, urls } => {
                if self.resolver.providers_of_endpoint(&endpoint).await?.iter().any(|provider| fetches(provider)) {
                    self.check_addresses(urls)?;
                }
            }
            Connection::Secret { id, provider } => {
                let secret = self.resolver.secret(&id).await?.unwrap_or_default();
                let model = ProviderModel { provider, name: String::new() };
                self.check_addresses(secret.addresses(&model))?;
                return Ok(secret.privilege(&model.provider).map(Requirement::Privileged).into_iter().collect());
            }
            Connection::Definition { definition, provider, secret } => {
                return self.definition(definition, provider, secret).await;
            }
            Connection::SecretChange { id, auth_config, secret_keys } => {
                return self.secret_change(&id, auth_config, secret_keys).await;
            }
            Connection::StoredScorer { experiment, name, version } => {
                return match self.resolver.scorer(&experiment, &name, version.as_deref()).await? {
                    Some(written) => self.judge(&written).await,
                    // Without a version, the name can be that of a built-in scorer, which calls nothing.
                    None if version.is_none() => Ok(Vec::new()),
                    None => Err(crate::resolve::Error::NoSuchName(format!("Scorer with name={name} not found")).into()),
                };
            }
            Connection::PromptModel { name, at } => {
                // Recorded first, so that tags written from now on are checked, too.
                self.resolver.note_optimization(&name).await;
                let version = self.resolver.prompt_version(&name, &at).await?;
                return version.model.map_or(Ok(Vec::new()), |written| self.prompt_model(&written));
            }
            Connection::PromptModelTag { name, written } => {
                return if self.resolver.is_optimized(&name) { self.prompt_model(&written) } else { Ok(Vec::new()) };
            }
            Connection::Guardrail(id) => return self.guardrail(&id).await,
        }
        Ok(Vec::new())
    }

    /// Returns the header `traceparent` (W3C Trace Context) of an invocation if the caller has EDIT on the trace in it, because
    /// the AI gateway adds spans there. Every traced HTTP client sends the header, so it is dropped otherwise instead of
    /// refused.
    pub(super) async fn parent_trace(
        &self,
        identity: &Identity,
        operation: &Operation,
        headers: &HeaderMap,
    ) -> Result<Option<HeaderValue>, Error> {
        let mut values = headers.get_all(PARENT_TRACE).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return Ok(None) };
        let Some(trace) = trace_of(value).filter(|_| operation.rule == Some(Rule::Invocation)) else { return Ok(None) };
        // MLflow would create a trace that does not exist yet in its default experiment.
        let Some(experiment) = Box::pin(self.resolver.experiment_of_trace(&trace)).await? else { return Ok(None) };
        let mut resource = Resource::new(ResourceKind::Experiment, &*experiment);
        if identity.needs_names() {
            Box::pin(self.resolver.name(&mut resource)).await?;
        }
        let tier = Some(ResourceKind::Trace);
        let edit = Requirement::Level { permission: Permission::Edit, resource, tier };
        Ok(holds(identity, self.default_permission, &edit).is_ok().then(|| value.clone()))
    }

    /// Returns the requirements of the use of a guardrail: those of its scorer and of its endpoint.
    async fn guardrail(&self, id: &str) -> Result<Vec<Requirement>, Error> {
        let guardrail = self.resolver.guardrail(id).await?;
        let missing = || crate::resolve::Error::NoSuchName(format!("Guardrail with id={id} not found"));
        let guardrail = guardrail.ok_or_else(missing)?;
        let mut requirements = self.judge(&guardrail.scorer).await?;
        if let Some(id) = guardrail.endpoint {
            requirements.push(self.use_of_endpoint(id).await?);
        }
        Ok(requirements)
    }

    /// Checks a secret after a change with every model that uses it.
    async fn secret_change(
        &self,
        id: &str,
        auth_config: Vec<(String, String)>,
        secret_keys: Vec<String>,
    ) -> Result<Vec<Requirement>, Error> {
        let Some(stored) = self.resolver.secret(id).await? else { return Ok(Vec::new()) };
        let changed = stored.changed(auth_config, secret_keys);
        let mut models = self.resolver.models_of_secret(id).await?;
        // Also for a secret that no model definition uses yet.
        let own = stored.provider.clone().unwrap_or_default();
        models.push(ProviderModel { provider: own, name: String::new() });
        let mut requirements = Vec::new();
        for model in models {
            self.check_addresses(changed.addresses(&model))?;
            // An administrator allowed this combination earlier.
            if stored.privilege(&model.provider).is_none() {
                requirements.extend(changed.privilege(&model.provider).map(Requirement::Privileged));
            }
        }
        Ok(requirements)
    }

    /// Returns the requirements of the model of a prompt, which MLflow's jobs call.
    fn prompt_model(&self, written: &str) -> Result<Vec<Requirement>, Error> {
        let Some(model) = prompt_model(written)? else { return Ok(Vec::new()) };
        self.check_addresses(StoredSecret::default().addresses(&model))?;
        Ok(privilege_of(&model.provider).map(Requirement::Privileged).into_iter().collect())
    }

    /// Replaces the alias in a request to optimize a prompt with a version.
    pub(super) async fn pin_prompt(&self, identity: &Identity, body: &mut Json<'_>) -> Result<(), Error> {
        if let Some((name, at @ PromptAt::Alias(_))) = optimized_prompt(body)? {
            let version = self.resolver.prompt_version(&name, &at).await?;
            // The alias may have moved since the decision.
            let written = version.model.as_deref();
            for requirement in written.map_or(Ok(Vec::new()), |written| self.prompt_model(written))? {
                holds(identity, self.default_permission, &requirement)?;
            }
            pin_prompt(body, &name, &version.version);
        }
        Ok(())
    }

    /// Checks a model definition after a change. Fields that are not given stay unchanged.
    async fn definition(
        &self,
        id: Option<String>,
        provider: Option<String>,
        secret: Option<String>,
    ) -> Result<Vec<Requirement>, Error> {
        let stored = match id {
            Some(id) => self.resolver.definition(&id).await?,
            None => None,
        };
        let provider = provider.or_else(|| stored.as_ref().map(|stored| stored.model.provider.clone()));
        let secret = secret.or_else(|| stored.map(|stored| stored.secret)).unwrap_or_default();
        let Some(provider) = provider else { return Ok(Vec::new()) };
        // MLflow itself reports a secret that does not exist.
        let Some(secret) = self.resolver.secret(&secret).await? else { return Ok(Vec::new()) };
        let privilege = secret.privilege(&provider).map(Requirement::Privileged);
        self.check_addresses(secret.addresses(&ProviderModel { provider, name: String::new() }))?;
        Ok(privilege.into_iter().collect())
    }

    /// Returns the requirements of everything that a stored scorer calls and reads with the privileges of MLflow's own process.
    async fn judge(&self, written: &str) -> Result<Vec<Requirement>, Error> {
        let judge = Judge::read("serialized_scorer", written)?;
        let located = |thing, permission, id| Located { thing, permission, id };
        let mut requirements: Vec<_> = judge.privilege.map(Requirement::Privileged).into_iter().collect();
        self.check_addresses(judge.addresses)?;
        for name in judge.endpoints {
            // MLflow stores the ID of an endpoint instead of its name, and returns either.
            if self.resolver.recent_endpoint(&name).await?.is_none() {
                requirements.push(self.use_of_endpoint(name).await?);
                continue;
            }
            self.check_addresses(self.resolver.addresses_of_endpoint(&name).await?)?;
            let endpoint = located(Thing::EndpointName, Permission::Use, name);
            requirements.extend(self.resolver.requirements(endpoint).await?);
        }
        for id in judge.traces {
            requirements.extend(self.resolver.requirements(located(Thing::Trace, Permission::Read, id)).await?);
        }
        Ok(requirements)
    }

    /// Returns the requirement of USE on an endpoint by its ID, and checks its addresses.
    async fn use_of_endpoint(&self, id: String) -> Result<Requirement, Error> {
        let found = self.resolver.addresses_of_endpoint_id(&id).await?;
        let owner = found.as_ref().map(|_| Resource::new(ResourceKind::GatewayEndpoint, id.as_str()));
        self.check_addresses(found.into_iter().flatten())?;
        Ok(Requirement::Belonging { permission: Permission::Use, noun: "endpoint", id, owner, tier: None })
    }

    /// Checks that MLflow is allowed to connect to each of these addresses for a model provider.
    fn check_addresses(&self, addresses: impl IntoIterator<Item = String>) -> Result<(), Error> {
        addresses.into_iter().try_for_each(|address| Ok(self.authz.provider_hosts.check(&address)?))
    }
}

/// Returns MLflow's ID of the trace in a `traceparent`.
fn trace_of(value: &HeaderValue) -> Option<String> {
    let parts: Vec<&str> = value.to_str().ok()?.split('-').collect();
    let hex = |text: &str, length| {
        text.len() == length && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    match parts[..] {
        [version, trace, parent, flags, ..]
            if hex(version, 2) && hex(trace, 32) && hex(parent, 16) && hex(flags, 2) =>
        {
            Some(format!("tr-{trace}"))
        }
        _ => None,
    }
}

/// Returns true if a demand applies to administrators, too, because it protects the consistency of MLflow's data or the servers
/// in MLflow's network.
pub(super) fn holds_for_everybody(demand: &Demand) -> bool {
    match demand {
        Demand::TraceIn { .. } | Demand::NoUsersName(_) | Demand::Connection(_) => true,
        Demand::ArtifactLocation(address) | Demand::Inside { uri: address, .. } => connects(address),
        Demand::Located(_)
        | Demand::NameIsFree { .. }
        | Demand::NewSkills(_)
        | Demand::ExperimentName { .. }
        | Demand::Privileged(_)
        | Demand::NotOptimized(_)
        | Demand::UsageExperiment { .. }
        | Demand::Queue { .. } => false,
    }
}

/// Returns true if MLflow reads artifacts at this URI with a client that connects to any host (`mlflow/store/artifact`).
pub(super) fn connects(uri: &str) -> bool {
    let scheme = uri.split_once(':').map(|(scheme, _)| scheme.trim().to_ascii_lowercase());
    matches!(scheme.as_deref(), Some("http" | "https" | "ftp" | "sftp"))
}
