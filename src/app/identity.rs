//! The identity providers of a process, and what its start changes about their users.

use std::sync::Arc;

use anyhow::Context as _;

use crate::authn::Trusted;
use crate::config::Config;
use crate::crypto::KeyRing;
use crate::oidc::{self, Remote, claims};
use crate::store::{self, Actor, Seen, Store};
use crate::telemetry::Metrics;

/// The configured identity providers and issuers, each with its HTTP client.
pub(super) struct Remotes {
    pub(super) providers: Vec<Arc<Remote>>,
    issuers: Vec<Arc<Remote>>,
    /// Names for metrics: first the providers', then the issuers'.
    names: Vec<String>,
}

/// Creates a client for each provider and issuer, without connecting to any.
pub(super) fn remotes(config: &Config) -> anyhow::Result<Remotes> {
    let of = |key: &str, name: &str, endpoint| {
        let remote = Remote::new(endpoint, &config.egress);
        let remote = remote.with_context(|| format!("{key}.{name}: its certificates cannot be used"))?;
        if let Some(proxy) = remote.proxy() {
            let (issuer, variable, proxy) = (&endpoint.issuer, proxy.variable, &proxy.uri);
            tracing::info!(%issuer, %proxy, "the identity provider {issuer} is asked through the proxy {proxy} ({variable})");
        }
        anyhow::Ok(remote)
    };
    let providers = config.providers.iter().map(|it| of("oidc.providers", &it.name, &it.endpoint));
    let issuers = config.issuers.iter().map(|it| of("jwt.issuers", &it.name, &it.endpoint));
    let names = config.providers.iter().map(|it| format!("oidc.{}", it.name));
    let names = names.chain(config.issuers.iter().map(|it| format!("jwt.{}", it.name)));
    Ok(Remotes {
        names: names.collect(),
        providers: providers.collect::<anyhow::Result<_>>()?,
        issuers: issuers.collect::<anyhow::Result<_>>()?,
    })
}

impl Remotes {
    pub(super) fn all(&self) -> Vec<(String, Arc<Remote>)> {
        let remotes = self.providers.iter().chain(&self.issuers).cloned();
        self.names.iter().cloned().zip(remotes).collect()
    }

    /// Returns the issuers whose bearer tokens are accepted.
    pub(super) fn trusted(&self, config: &Config) -> Vec<Trusted> {
        let login = |issuer: &str| config.providers.iter().find(|provider| provider.endpoint.issuer == issuer);
        let issuers = config.issuers.iter().zip(&self.issuers);
        issuers
            .map(|(issuer, remote)| Trusted {
                issuer: issuer.clone(),
                remote: Arc::clone(remote),
                login: login(&issuer.endpoint.issuer).map(|provider| provider.claims.clone()),
            })
            .collect()
    }
}

/// Keeps the discovery document and keys of an identity provider fresh. An unreachable provider does not make the proxy
/// unready; the last valid documents stay in use.
pub(super) async fn keep_fresh(name: String, remote: Arc<Remote>, metrics: Arc<Metrics>) {
    let on_result = |what: oidc::What, outcome: Result<(), &oidc::Error>| {
        metrics.oidc_fetched(&name, what.as_str(), outcome.err().map_or("ok", oidc::Error::kind));
    };
    remote.keep_fresh(on_result).await;
}

/// Applies stricter group rules at start: users whose groups no longer admit them, or no longer make them
/// administrators, lose that right at once. Rights that the configuration adds take effect at the next sign-in or
/// refresh, when the provider confirms the groups.
pub(super) async fn reapply_group_rules(config: &Config, store: &Store) -> store::Result<()> {
    let providers = config.providers.iter().map(|it| (&it.endpoint.issuer, &it.claims));
    let signs_in = |issuer: &str| config.providers.iter().any(|it| it.endpoint.issuer == issuer);
    let bearers = config.issuers.iter().map(|it| (&it.endpoint.issuer, &it.claims));
    let actor = Actor { name: "configuration".to_owned(), token: None, address: None };
    for (issuer, rules) in providers.chain(bearers.filter(|(issuer, _)| !signs_in(issuer))) {
        for user in store.people_of(issuer).await? {
            let Some(person) = &user.person else { continue };
            let now = claims::standing_in(rules, person.groups.clone());
            let seen = Seen {
                issuer,
                subject: &person.subject,
                name: &user.name,
                groups: &person.groups,
                admin: person.admin && now.admin,
                allowed: person.allowed && now.allowed,
                owns_plain_names: false,
            };
            store.follow(&actor, &user, seen, person.seen).await?;
        }
    }
    Ok(())
}

/// Returns the keys that seal the provider's tokens of sessions: the configured ones, or one from the store.
pub(super) async fn session_keys(config: &Config, store: &Store) -> anyhow::Result<Arc<KeyRing>> {
    let keys = config.session.keys.iter().map(|key| (key.id.as_str(), &key.secret));
    if let Some(ring) = KeyRing::parse(keys) {
        return Ok(Arc::new(ring));
    }
    if !config.providers.is_empty() {
        tracing::warn!(
            "session.keys is empty: the identity provider's tokens are sealed with a key that is kept in the same store"
        );
    }
    Ok(Arc::new(KeyRing::of("store", &store.session_key().await?)))
}
