//! Configuration of identity providers: sign-in of browsers, bearer tokens, sessions.
//!
//! Converts raw values into valid ones, like [`super::parse`].

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::Algorithm;
use rustls_pki_types::CertificateDer;
use secrecy::SecretString;
use url::Url;

use super::parse::{DAY, each, optional};
use super::report::Report;
use super::{checks, pem, raw};
use crate::authz::LOCAL;

/// An identity provider for signing in.
#[derive(Clone, Debug)]
pub struct Provider {
    /// Name in the configuration; part of the path of its callback.
    pub name: String,
    /// Name on the sign-in page.
    pub display_name: String,
    pub client_id: String,
    /// `None` for a public client.
    pub client_secret: Option<SecretString>,
    pub client_auth: ClientAuth,
    pub scopes: Vec<String>,
    pub endpoint: Endpoint,
    pub claims: Claims,
    /// If true, a back-channel logout also suspends the user's access tokens.
    pub logout_suspends_tokens: bool,
    /// Periodic query of Keycloak's list of users; `None` if it is off or not possible.
    pub sync: Option<Sync>,
}

/// Periodic query of Keycloak's admin API for all users who have signed in here.
#[derive(Clone, Debug)]
pub struct Sync {
    pub every: Duration,
    /// URL of the admin API for the issuer's realm.
    pub realm: Url,
    /// True if the interval is the default. The service account can then lack the rights.
    pub by_default: bool,
}

/// Default of `sync_seconds`. It has no effect where the query is not possible.
pub(super) const SYNC_SECONDS: u64 = 60;

/// Client authentication of a confidential client at the token endpoint (RFC 6749 §2.3.1).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ClientAuth {
    Basic,
    Post,
}

/// An issuer of bearer tokens for programs.
#[derive(Clone, Debug)]
pub struct Issuer {
    /// Name in the configuration.
    pub name: String,
    pub endpoint: Endpoint,
    /// `aud` of a token must contain one of these. Never empty.
    pub audiences: Vec<String>,
    /// Accepted values of `azp`; empty accepts all.
    pub authorized_parties: Vec<String>,
    /// Tolerated difference between clocks.
    pub leeway: Duration,
    pub claims: Claims,
    /// Kind of issuer, which determines the claims that its tokens can lack.
    pub preset: Preset,
    /// Rules that name the program a token belongs to; the first match applies.
    pub machines: Vec<Machine>,
}

/// URLs and signature algorithms of an issuer.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Exactly the `iss` claim of its tokens.
    pub issuer: String,
    pub discovery_url: Url,
    /// Scheme, host and port under which the proxy reaches the issuer, if they differ from the issuer's own. Requests
    /// for tokens, keys and user info go there. Browsers are still sent to the URLs in the discovery document.
    pub internal_url: Option<Url>,
    /// URL of its key set, if it is configured instead of discovered.
    pub jwks_url: Option<Url>,
    /// Additional trusted certificates, beside the system's roots.
    pub ca: Vec<CertificateDer<'static>>,
    /// File with a bearer token for the key set endpoint, as Kubernetes requires it.
    pub bearer_file: Option<PathBuf>,
    /// Accepted signature algorithms, regardless of what tokens or the discovery document name. Never empty, and never
    /// an HMAC.
    pub algorithms: Vec<Algorithm>,
}

impl Endpoint {
    /// Returns the URL from which the discovery document is fetched: at `internal_url` if the document is on the
    /// issuer's own host.
    #[must_use]
    pub fn description_url(&self) -> Url {
        let issuer = Url::parse(&self.issuer).map(|issuer| issuer.origin());
        let is_issuers = issuer.is_ok_and(|origin| origin == self.discovery_url.origin());
        if is_issuers { self.inside(&self.discovery_url) } else { self.discovery_url.clone() }
    }

    /// Returns this URL with scheme, host and port of `internal_url`, if that is configured.
    #[must_use]
    pub fn inside(&self, url: &Url) -> Url {
        let Some(internal) = &self.internal_url else { return url.clone() };
        let mut moved = internal.clone();
        moved.set_path(url.path());
        moved.set_query(url.query());
        moved
    }

    /// Returns the URL of the first request to the issuer.
    #[must_use]
    pub fn called_at(&self) -> Url {
        self.jwks_url.clone().unwrap_or_else(|| self.description_url())
    }
}

/// Kinds of issuers, whose tokens differ from a user's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Preset {
    /// Keycloak and compatible providers.
    Standard,
    /// Service-account tokens: `sub` is `system:serviceaccount:NAMESPACE:NAME`.
    Kubernetes,
    GithubActions,
    GitlabCi,
}

/// Rules that derive a user's name, groups and rights from the claims of a token.
#[derive(Clone, Debug)]
pub struct Claims {
    pub groups: Vec<GroupSource>,
    pub form: GroupForm,
    /// Globs of groups that are admitted; empty admits every user.
    pub allowed: Vec<String>,
    /// Globs of groups whose members are administrators.
    pub admin: Vec<String>,
    /// The claim that contains the user name.
    pub username: String,
    /// If true, an `email` that the provider did not verify is not accepted as a name.
    pub verified_email: bool,
    /// Globs of the names that rules and presets of all issuers assign to programs. No user is allowed to have such a
    /// name.
    pub machine_names: Vec<String>,
}

/// A claim that contains groups.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GroupSource {
    /// A dotted path, such as `realm_access.roles`. A claim whose own name contains dots is found as well.
    pub claim: String,
    /// Prefix that is added to each of the claim's values.
    pub prefix: String,
}

/// Part of a group's path that grants refer to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum GroupForm {
    /// `/ml/team-a`
    Full,
    /// `team-a`
    Leaf,
    Both,
}

/// A rule that assigns a program to the tokens whose claims match.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Machine {
    /// Dotted claim paths and the globs that their values must match. All must match; never empty.
    pub conditions: Vec<(String, String)>,
    /// Name of the program. `{claim}` is replaced by the claim's value.
    pub name: String,
    pub groups: Vec<String>,
}

/// Settings for sessions of browsers.
#[derive(Clone, Debug)]
pub struct Session {
    /// Time without use after which a session ends.
    pub idle_timeout: Duration,
    /// Time after which a session ends regardless of use.
    pub lifetime: Duration,
    /// Time after which a session ends if the provider answers but does not confirm the user's groups.
    pub unconfirmed: Duration,
    /// Maximum number of sessions per user. A further one ends the least recently used one.
    pub max_per_user: u32,
    /// The first key seals the provider's tokens; the others only open them. If empty, a key from the store is used.
    pub keys: Vec<SealingKey>,
}

/// A key, with the ID that is stored beside everything it sealed.
#[derive(Clone, Debug)]
pub struct SealingKey {
    pub id: String,
    /// Base64 of 32 bytes.
    pub secret: SecretString,
}

pub(super) fn providers(raw: raw::Oidc, report: &mut Report) -> Option<Vec<Provider>> {
    refuse_local(raw.providers.keys(), "oidc.providers", report);
    let parsed: Vec<_> = raw.providers.into_iter().map(|(name, raw)| provider(&name, raw, report)).collect();
    parsed.into_iter().collect()
}

pub(super) fn issuers(raw: raw::Jwt, report: &mut Report) -> Option<Vec<Issuer>> {
    refuse_local(raw.issuers.keys(), "jwt.issuers", report);
    let parsed: Vec<_> = raw.issuers.into_iter().map(|(name, raw)| issuer(&name, raw, report)).collect();
    let parsed: Vec<Issuer> = parsed.into_iter().collect::<Option<_>>()?;
    for (at, issuer) in parsed.iter().enumerate() {
        // With two entries for one issuer, the meaning of a token would depend on their order.
        if parsed.iter().take(at).any(|other| other.endpoint.issuer == issuer.endpoint.issuer) {
            report.add(&format!("jwt.issuers.{}.issuer", issuer.name), "is the issuer of another entry, too");
        }
    }
    Some(parsed)
}

/// Refuses the name `local`, which policies use for accounts without an identity provider.
fn refuse_local<'n>(mut names: impl Iterator<Item = &'n String>, section: &str, report: &mut Report) {
    if names.any(|name| name == LOCAL) {
        report.add(&format!("{section}.{LOCAL}"), "cannot have this name: in policies it means local accounts");
    }
}

/// Reserves the names of programs at every provider and issuer, so that no user can have one.
pub(super) fn keep_machine_names(providers: &mut [Provider], issuers: &mut [Issuer]) {
    let names: Vec<String> = issuers.iter().flat_map(machine_names).collect();
    let claims = providers.iter_mut().map(|it| &mut it.claims).chain(issuers.iter_mut().map(|it| &mut it.claims));
    claims.for_each(|claims| claims.machine_names.clone_from(&names));
}

fn machine_names(issuer: &Issuer) -> impl Iterator<Item = String> {
    let preset = match issuer.preset {
        Preset::Standard => None,
        Preset::Kubernetes => Some("k8s/*".to_owned()),
        Preset::GithubActions => Some("github/*".to_owned()),
        Preset::GitlabCi => Some("gitlab/*".to_owned()),
    };
    let rules = issuer.machines.iter().map(|machine| glob_of(&machine.name));
    // A rule that takes the whole name from a claim reserves no names.
    rules.chain(preset).filter(|glob| glob.contains(|letter| letter != '*'))
}

/// Converts a name template into a glob: `ci-{repository}` becomes `ci-*`.
fn glob_of(template: &str) -> String {
    let (mut glob, mut rest) = (String::new(), template);
    while let Some((before, after)) = rest.split_once('{') {
        glob.push_str(before);
        glob.push('*');
        rest = after.split_once('}').map_or("", |(_, after)| after);
    }
    glob.push_str(rest);
    glob.to_lowercase()
}

fn provider(name: &str, raw: raw::Provider, report: &mut Report) -> Option<Provider> {
    let at = |key: &str| format!("oidc.providers.{name}.{key}");
    let client_id = match raw.client_id {
        Some(id) if !id.contains(char::is_control) => Some(id),
        Some(_) => {
            report.add(&at("client_id"), "must not contain control characters");
            None
        }
        None => {
            report.add(&at("client_id"), "is missing: the client's ID at the provider");
            None
        }
    };
    let client_secret = secret(&at("client_secret"), raw.client_secret, raw.client_secret_file.as_deref(), report);
    let client_auth = match raw.client_auth.as_str() {
        "basic" => Some(ClientAuth::Basic),
        "post" => Some(ClientAuth::Post),
        _ => {
            report.add(&at("client_auth"), "must be `basic` or `post`");
            None
        }
    };
    if !raw.scopes.iter().any(|scope| scope == "openid") {
        report.add(&at("scopes"), "must contain `openid`");
    }
    let logout_suspends_tokens = match raw.logout_tokens.as_str() {
        "keep" => Some(false),
        "suspend" => Some(true),
        _ => {
            report.add(&at("logout_tokens"), "must be `keep` or `suspend`");
            None
        }
    };
    let endpoint = endpoint(&at, &raw.endpoint, report);
    let claims = claims(&at, raw.claims, report);
    let has_secret = client_secret.as_ref().is_some_and(Option::is_some);
    let sync = sync(&at, raw.sync_seconds, endpoint.as_ref(), has_secret, report);
    Some(Provider {
        display_name: raw.display_name.unwrap_or_else(|| name.to_owned()),
        name: name.to_owned(),
        client_id: client_id?,
        client_secret: client_secret?,
        client_auth: client_auth?,
        scopes: raw.scopes,
        endpoint: endpoint?,
        claims: claims?,
        logout_suspends_tokens: logout_suspends_tokens?,
        sync: sync?,
    })
}

/// Parses `sync_seconds`. `Some(None)` means that the query is off.
fn sync(
    at: &impl Fn(&str) -> String,
    seconds: u64,
    endpoint: Option<&Endpoint>,
    has_secret: bool,
    report: &mut Report,
) -> Option<Option<Sync>> {
    if seconds == 0 {
        return Some(None);
    }
    let key = at("sync_seconds");
    let every = report.check(&key, checks::seconds(seconds, 1..=DAY));
    let by_default = seconds == SYNC_SECONDS;
    let realm = admin_api(endpoint?);
    if by_default && (!has_secret || realm.is_none()) {
        return Some(None);
    }
    if !has_secret {
        report.add(&key, "requires client_secret: Keycloak's admin API is used with the client's service account");
    }
    if realm.is_none() {
        report.add(&key, "requires Keycloak, whose issuers end with /realms/NAME");
    }
    Some(Some(Sync { every: every?, realm: realm?, by_default }))
}

/// Returns the URL of the admin API: `https://HOST/realms/NAME` becomes `https://HOST/admin/realms/NAME`, at
/// `internal_url` if that is configured.
fn admin_api(endpoint: &Endpoint) -> Option<Url> {
    let issuer = Url::parse(&endpoint.issuer).ok()?;
    let (before, realm) = issuer.path().trim_end_matches('/').rsplit_once("/realms/")?;
    let mut url = endpoint.internal_url.clone().unwrap_or_else(|| issuer.clone());
    url.set_path(&format!("{before}/admin/realms/{realm}"));
    (!realm.is_empty() && !realm.contains('/')).then_some(url)
}

fn issuer(name: &str, raw: raw::Issuer, report: &mut Report) -> Option<Issuer> {
    let at = |key: &str| format!("jwt.issuers.{name}.{key}");
    if raw.audiences.is_empty() || raw.audiences.iter().any(String::is_empty) {
        report.add(
            &at("audiences"),
            "must contain the value of `aud` in tokens for this proxy; otherwise tokens for other applications would be accepted",
        );
    }
    let preset = match raw.preset.as_deref() {
        None => Some(Preset::Standard),
        Some("kubernetes") => Some(Preset::Kubernetes),
        Some("github-actions") => Some(Preset::GithubActions),
        Some("gitlab-ci") => Some(Preset::GitlabCi),
        Some(_) => {
            report.add(&at("preset"), "must be `kubernetes`, `github-actions` or `gitlab-ci`");
            None
        }
    };
    let leeway = report.check(&at("leeway_seconds"), checks::seconds(raw.leeway_seconds, 0..=300));
    let endpoint = endpoint(&at, &raw.endpoint, report);
    let jwks_url = optional(raw.jwks_url.as_deref(), |url| report.check(&at("jwks_url"), checks::provider_url(url)));
    let claims = claims(&at, raw.claims, report);
    for machine in &raw.machines {
        if machine.conditions.is_empty() || machine.name.is_empty() {
            report.add(&at("machines"), "each rule requires a `where` with at least one claim, and a `name`");
        }
    }
    let is_ci = matches!(preset, Some(Preset::GithubActions | Preset::GitlabCi));
    if is_ci && raw.machines.is_empty() && claims.as_ref().is_some_and(|claims| claims.allowed.is_empty()) {
        report.add(
            &at("preset"),
            "requires a rule in `machines` or `allowed_groups`: without one, all jobs of a public issuer are refused, and all \
             repositories of any other issuer are admitted",
        );
    }
    let machines = raw.machines.into_iter().map(|raw| Machine {
        conditions: raw.conditions.into_iter().collect(),
        name: raw.name,
        groups: raw.groups,
    });
    let bearer_file = raw.bearer_file.map(PathBuf::from);
    Some(Issuer {
        name: name.to_owned(),
        endpoint: Endpoint { jwks_url: jwks_url?, bearer_file, ..endpoint? },
        audiences: raw.audiences,
        authorized_parties: raw.authorized_parties,
        leeway: leeway?,
        claims: claims?,
        preset: preset?,
        machines: machines.collect(),
    })
}

fn endpoint(at: &impl Fn(&str) -> String, raw: &raw::Endpoint, report: &mut Report) -> Option<Endpoint> {
    let Some(issuer) = raw.issuer.as_deref() else {
        report.add(&at("issuer"), "is missing: the issuer's URL, exactly as in the claim `iss` of its tokens");
        return None;
    };
    let issuer_url = report.check(&at("issuer"), checks::provider_url(issuer));
    let well_known = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
    let discovery_url = match raw.discovery_url.as_deref() {
        Some(url) => report.check(&at("discovery_url"), checks::provider_url(url)),
        None => checks::provider_url(&well_known).ok(),
    };
    let internal = optional(raw.internal_url.as_deref(), |url| report.check(&at("internal_url"), checks::origin(url)));
    let ca = optional(raw.ca_file.as_deref(), |path| report.check(&at("ca_file"), pem::certificates(Path::new(path))));
    let algorithms = each(&at("algorithms"), &raw.algorithms, algorithm, report);
    if raw.algorithms.is_empty() {
        report.add(&at("algorithms"), "must contain at least one, such as RS256");
    }
    issuer_url?;
    Some(Endpoint {
        issuer: issuer.to_owned(),
        discovery_url: discovery_url?,
        internal_url: internal?,
        jwks_url: None,
        ca: ca?.unwrap_or_default(),
        bearer_file: None,
        algorithms: algorithms?,
    })
}

fn claims(at: &impl Fn(&str) -> String, raw: raw::Claims, report: &mut Report) -> Option<Claims> {
    let form = match raw.groups_form.as_str() {
        "full" => Some(GroupForm::Full),
        "leaf" => Some(GroupForm::Leaf),
        "both" => Some(GroupForm::Both),
        _ => {
            report.add(&at("groups_form"), "must be `full`, `leaf` or `both`");
            None
        }
    };
    if raw.groups_prefixes.len() > raw.groups_claims.len() {
        report
            .add(&at("groups_prefixes"), "has more entries than groups_claims; write one for each, in the same order");
    }
    if raw.groups_claims.iter().any(String::is_empty) {
        report.add(&at("groups_claims"), "must not contain an empty path");
    }
    if raw.allowed_groups.iter().chain(&raw.admin_groups).any(String::is_empty) {
        report.add(&at("allowed_groups"), "and admin_groups must not contain an empty name");
    }
    let prefixes = raw.groups_prefixes.into_iter().chain(std::iter::repeat(String::new()));
    let sources = raw.groups_claims.into_iter().zip(prefixes).map(|(claim, prefix)| GroupSource { claim, prefix });
    Some(Claims {
        groups: sources.collect(),
        form: form?,
        allowed: raw.allowed_groups,
        admin: raw.admin_groups,
        username: raw.username_claim,
        verified_email: raw.require_verified_email,
        machine_names: Vec::new(),
    })
}

pub(super) fn session(raw: raw::Session, report: &mut Report) -> Option<Session> {
    let idle = report.check("session.idle_timeout_seconds", checks::seconds(raw.idle_timeout_seconds, 60..=30 * DAY));
    let lifetime = report.check("session.lifetime_seconds", checks::seconds(raw.lifetime_seconds, 60..=90 * DAY));
    let unconfirmed =
        report.check("session.unconfirmed_seconds", checks::seconds(raw.unconfirmed_seconds, 60..=90 * DAY));
    let max_per_user = report.check("session.max_per_user", checks::number::<u32>(raw.max_per_user, 1..=10_000));
    let keys = match (raw.keys.is_empty(), raw.keys_file) {
        (false, Some(_)) => {
            report.add("session.keys", "is given twice, also as keys_file; remove one");
            return None;
        }
        (_, None) => raw.keys.into_iter().map(|key| key.0).collect(),
        (true, Some(path)) => {
            let text = report.check("session.keys_file", checks::secret_file(Path::new(&path)))?;
            text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect::<Vec<_>>()
        }
    };
    let keys: Vec<_> = keys.iter().map(|key| report.check("session.keys", sealing_key(key))).collect();
    Some(Session {
        idle_timeout: idle?,
        lifetime: lifetime?,
        unconfirmed: unconfirmed?,
        max_per_user: max_per_user?,
        keys: keys.into_iter().collect::<Option<_>>()?,
    })
}

/// Parses `ID:BASE64`. Errors do not quote it.
fn sealing_key(text: &str) -> Result<SealingKey, &'static str> {
    const HOW: &str =
        "each key must be ID:BASE64, with a short ID and 32 random bytes, such as 2026-11:$(openssl rand -base64 32)";
    let (id, secret) = text.split_once(':').ok_or(HOW)?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let named = !id.is_empty() && id.len() <= 32 && id.bytes().all(plain);
    let right = STANDARD.decode(secret).is_ok_and(|bytes| bytes.len() == 32);
    if named && right { Ok(SealingKey { id: id.to_owned(), secret: secret.into() }) } else { Err(HOW) }
}

/// Reads an optional secret. `Some(None)` means that none is configured, which is valid.
fn secret(
    key: &str,
    given: Option<raw::Secret>,
    file: Option<&str>,
    report: &mut Report,
) -> Option<Option<SecretString>> {
    match (given, file) {
        (Some(_), Some(_)) => {
            report.add(key, "is given twice, also as a file; remove one");
            None
        }
        (Some(secret), None) => Some(Some(secret.0.into())),
        (None, Some(path)) => {
            let text = report.check(&format!("{key}_file"), checks::secret_file(Path::new(path)))?;
            Some(Some(text.into()))
        }
        (None, None) => Some(None),
    }
}

fn algorithm(name: &str) -> Result<Algorithm, String> {
    let refusal = || format!("`{name}` must be one of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA");
    let algorithm: Algorithm = name.parse().map_err(|_| refusal())?;
    match algorithm {
        Algorithm::RS256
        | Algorithm::RS384
        | Algorithm::RS512
        | Algorithm::PS256
        | Algorithm::PS384
        | Algorithm::PS512
        | Algorithm::ES256
        | Algorithm::ES384
        | Algorithm::EdDSA => Ok(algorithm),
        // HMAC algorithms are refused: a key that verifies such a signature can also create one.
        _ => Err(refusal()),
    }
}
