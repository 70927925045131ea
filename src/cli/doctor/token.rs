//! Checks of a token of an identity provider: the user and the groups that it identifies, and claims that it lacks.
//!
//! Pure, except for the keys, which were fetched before. Of the token's content, only names of claims, users and
//! groups are shown.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::finding::Report;
use super::provider::compared;
use crate::clock::{Clock, Timestamp};
use crate::config::{Claims, Config, GroupForm, Issuer, Provider};
use crate::oidc::Remote;
use crate::oidc::claims::{self, ClaimError, Person};
use crate::oidc::token::{self, Refusal, Unverified};

/// Maximum depth at which claims are searched for groups.
const MAX_DEPTH: usize = 4;

/// Advice for a token of a kind that is not accepted.
const OTHER_KIND: &str = "the access token: ID, refresh and logout tokens are never accepted";

/// Reports the result for each configured provider and issuer.
pub(super) fn check(
    text: &str,
    config: &Config,
    trusted: &[(&Issuer, Arc<Remote>)],
    clock: &Clock,
    report: &mut Report,
) {
    let Some(given) = Given::read(text) else {
        let change =
            "--token-file: only the access token, as the provider issued it, or its claims as Keycloak shows them";
        return report.fail("token", "the file contains no JSON Web Token", change);
    };
    let issuer = given.claims.get("iss").and_then(Value::as_str).unwrap_or_default().to_owned();
    let bearer_of = trusted.iter().find(|(trusted, _)| trusted.endpoint.issuer == issuer);
    let providers: Vec<_> = config.providers.iter().filter(|provider| provider.endpoint.issuer == issuer).collect();
    if bearer_of.is_none() && providers.is_empty() {
        let change = format!("a section [jwt.issuers.NAME] with issuer = \"{issuer}\" and audiences, if it should be");
        return report.fail("token: issuer", format!("`{issuer}` is not configured"), change);
    }
    if given.is_lightweight() {
        let change = format!("Clients > {} > Advanced > Always use lightweight access token: Off", given.client());
        let found = "it is a lightweight access token, which has neither a user nor an audience nor groups";
        return report.fail("token: claims", found, change);
    }
    if !given.is_for_clients() {
        return report.fail("token: kind", Refusal::Kind.to_string(), OTHER_KIND);
    }
    for provider in providers {
        signing_in(&given, provider, bearer_of.is_some(), report);
    }
    if let Some((issuer, remote)) = bearer_of {
        bearer(given, issuer, remote, clock, report);
    }
}

/// Content of the file: a token, or only its claims, without a signature.
struct Given<'t> {
    claims: Value,
    token: Option<Unverified<'t>>,
}

impl<'t> Given<'t> {
    fn read(text: &'t str) -> Option<Self> {
        if text.starts_with('{') {
            return Some(Self { claims: serde_json::from_str(text).ok()?, token: None });
        }
        Some(Self { claims: payload(text)?, token: Some(Unverified::parse(text).ok()?) })
    }

    /// Returns the client that the token was issued for, to name its settings.
    fn client(&self) -> &str {
        self.claims.get("azp").and_then(Value::as_str).unwrap_or("CLIENT")
    }

    /// Returns true for a lightweight access token of Keycloak, which lacks even the claims of the built-in scopes.
    fn is_lightweight(&self) -> bool {
        let has = |claim: &str| self.claims.get(claim).is_some();
        has("azp") && !["sub", "aud", "acr", "email", "preferred_username"].into_iter().any(has)
    }

    /// Returns true for an access token or an ID token. Other kinds are for Keycloak itself, or end sessions.
    fn is_for_clients(&self) -> bool {
        let kind = self.claims.get("typ").and_then(Value::as_str).unwrap_or_default();
        !["Refresh", "Offline", "Logout"].contains(&kind)
    }
}

/// Reports the groups that a user would have after a sign-in. Only a token of the client for sign-in contains them.
fn signing_in(given: &Given<'_>, provider: &Provider, is_bearer: bool, report: &mut Report) {
    let check = format!("token: groups for provider {}", provider.name);
    let ours = &provider.client_id;
    if given.claims.get("azp").and_then(Value::as_str).is_some_and(|client| client != ours) {
        return report.ok(check, format!("issued to `{}`; users sign in with `{ours}`", given.client()));
    }
    let key = format!("oidc.providers.{}", provider.name);
    let rules = Rules { claims: &provider.claims, key: &key, client: given.client() };
    let found = rules.groups(&given.claims);
    if found.are_there {
        report.ok(check, found.text);
    } else if !is_bearer {
        // The other token may have them. As a bearer token this one must have them, which is reported there.
        report.warn(check, found.text, found.change);
    }
    let check = format!("token: sign-in with provider {}", provider.name);
    // An access token can lack claims that the ID token has, so only those that are present are checked.
    match claims::read(&provider.claims, &given.claims) {
        Ok(person) if person.says_groups || person.allowed => rules.standing(&person, "", &check, report),
        Err(error @ (ClaimError::Unverified | ClaimError::BadName { .. })) => {
            report.fail(&check, error.to_string(), unnamed(&error, &key, given.client()));
        }
        Ok(_) | Err(_) => {}
    }
}

fn bearer(given: Given<'_>, issuer: &Issuer, remote: &Remote, clock: &Clock, report: &mut Report) {
    let check = format!("token: as a bearer of issuer {}", issuer.name);
    let key = format!("jwt.issuers.{}", issuer.name);
    let now = clock.now();
    if let Some(issued) = given.claims.get("iat").and_then(Value::as_i64) {
        let here = now.0.div_euclid(1000);
        if issued > here {
            compared("token: clock".to_owned(), issued.abs_diff(here), report);
        }
    }
    let client = given.client().to_owned();
    let rules = Rules { claims: &issuer.claims, key: &key, client: &client };
    let (believed, unsigned) = match given.token {
        Some(token) => (genuine(token, issuer, remote, now), ""),
        None => (meant_for(&given.claims, issuer), "; only its claims were checked"),
    };
    let found = rules.groups(&given.claims);
    match believed.map(|()| claims::read_bearer(issuer, &given.claims)) {
        // One cause, one failure.
        Ok(Ok(person)) if !person.says_groups && !person.allowed => {
            let name = &person.name;
            return report.fail(&check, format!("{name} would be refused: {}", found.text), found.change);
        }
        Ok(Ok(person)) => {
            rules.standing(&person, unsigned, &check, report);
            // A rule names the program and contains its groups.
            if person.machine {
                return;
            }
        }
        // Other kinds have other claims, and programs no groups.
        Ok(Err(error @ ClaimError::ServiceAccount(_))) => {
            return report.fail(&check, error.to_string(), unnamed(&error, &key, &client));
        }
        Err(refusal @ Refusal::Kind) => {
            return report.fail(&check, refusal.to_string(), refused(refusal, &rules, issuer));
        }
        Ok(Err(error)) => report.fail(&check, error.to_string(), unnamed(&error, &key, &client)),
        Err(refusal) => report.fail(&check, refusal.to_string(), refused(refusal, &rules, issuer)),
    }
    let check = format!("token: groups for issuer {}", issuer.name);
    if found.are_there {
        report.ok(check, found.text);
    } else {
        report.warn(check, found.text, found.change);
    }
}

fn genuine(token: Unverified<'_>, issuer: &Issuer, remote: &Remote, now: Timestamp) -> Result<(), Refusal> {
    let keys = remote.keys().ok_or(Refusal::NoKeys)?;
    token::verify(token, issuer, &keys, now).map(|_| ())
}

/// Checks by the claims alone whether a token with them would be intended for this proxy.
fn meant_for(claims: &Value, issuer: &Issuer) -> Result<(), Refusal> {
    let said =
        claims.get("aud").map_or(&[][..], |said| said.as_array().map_or(std::slice::from_ref(said), Vec::as_slice));
    let ours = |audience: &Value| issuer.audiences.iter().any(|ours| audience.as_str() == Some(ours));
    if !said.iter().any(ours) {
        return Err(Refusal::Audience);
    }
    let parties = &issuer.authorized_parties;
    let party = claims.get("azp").and_then(Value::as_str);
    if parties.is_empty() || parties.iter().any(|ours| party == Some(ours)) {
        Ok(())
    } else {
        Err(Refusal::AuthorizedParty)
    }
}

/// Claims that a provider or an issuer is configured to read, and the place of its settings.
struct Rules<'r> {
    claims: &'r Claims,
    /// Section of the configuration.
    key: &'r str,
    /// The client in Keycloak.
    client: &'r str,
}

/// Result of the search for the configured groups claims in a token, and the setting to change if none was found.
struct Groups {
    are_there: bool,
    text: String,
    change: String,
}

impl Rules<'_> {
    fn standing(&self, person: &Person, unsigned: &str, check: &str, report: &mut Report) {
        let groups = listed(&person.groups);
        if person.allowed {
            let what = if person.admin { ", an administrator" } else { "" };
            report.ok(check, format!("it identifies {}{what}, in {groups}{unsigned}", person.name));
        } else {
            let found = format!("{} is in none of the allowed groups; groups: {groups}", person.name);
            report.fail(check, found, self.not_allowed(&person.groups));
        }
    }

    /// The setting that keeps a user out: the form of the groups, when that alone is why none of them is allowed.
    fn not_allowed(&self, groups: &[String]) -> String {
        let Self { claims, key, .. } = self;
        let full_paths = claims.allowed.iter().any(|allowed| allowed.starts_with('/'));
        let leaves = !groups.is_empty() && groups.iter().all(|group| !group.starts_with('/'));
        if full_paths && leaves && claims.form == GroupForm::Leaf {
            return format!("{key}.groups_form = \"full\", because {key}.allowed_groups names full paths");
        }
        if full_paths && leaves {
            return format!(
                "{} > the mapper of type Group Membership > Full group path: On, because {key}.allowed_groups names full paths",
                self.dedicated()
            );
        }
        // Only where the names would be allowed without their paths.
        let mut paths = groups.iter().filter(|group| group.starts_with('/'));
        let is_leaf_allowed = |group: &&String| {
            group.rsplit('/').next().is_some_and(|leaf| claims::is_allowed(claims, &[leaf.to_owned()]))
        };
        let like = |group: &&String| claims::is_allowed(claims, &[group.trim_start_matches('/').to_owned()]);
        match paths.find(|group| is_leaf_allowed(group) || like(group)) {
            Some(group) if claims.form == GroupForm::Full => {
                format!("{key}.allowed_groups with full paths, such as `{group}`; or {key}.groups_form = \"both\"")
            }
            Some(_) | None => format!("{key}.allowed_groups, or Users > USER > Groups > Join Group"),
        }
    }

    /// Searches the configured groups claims. Keycloak omits the claim for users who are in no group.
    fn groups(&self, claims: &Value) -> Groups {
        let mut found = Vec::new();
        let mut absent = Vec::new();
        for source in &self.claims.groups {
            match claims::at(claims, &source.claim) {
                Some(value) => {
                    found.push(format!("{} in `{}`", value.as_array().map_or(1, Vec::len), source.claim));
                }
                None => absent.push(format!("`{}`", source.claim)),
            }
        }
        let not_there = if absent.is_empty() { String::new() } else { format!("; missing: {}", absent.join(", ")) };
        if !found.is_empty() {
            return Groups { are_there: true, text: format!("{}{not_there}", found.join(", ")), change: String::new() };
        }
        let mut others = Vec::new();
        lists(claims, "", 0, &mut others);
        let hint =
            if others.is_empty() { String::new() } else { format!("; claims with lists: {}", others.join(", ")) };
        Groups {
            are_there: false,
            text: format!("the token has none of the configured groups claims{not_there}{hint}"),
            change: self.no_groups(&others),
        }
    }

    fn no_groups(&self, others: &[String]) -> String {
        let claim = self.claims.groups.first().map_or("groups", |source| source.claim.as_str());
        // Keycloak's own lists of roles come from other mappers.
        let is_roles = |path: &&String| path.starts_with("`realm_access.") || path.starts_with("`resource_access.");
        if let Some(other) = others.iter().find(|path| !is_roles(path)) {
            let (dedicated, key) = (self.dedicated(), self.key);
            return format!(
                "{dedicated} > the mapper that writes {other} > Token Claim Name: {claim}; or {key}.groups_claims"
            );
        }
        format!(
            "Users > USER > Groups > Join Group; if the user is in a group, {} > Add mapper > By configuration > Group Membership, \
             with Token Claim Name `{claim}`, Full group path On, Add to access token On",
            self.dedicated()
        )
    }

    fn dedicated(&self) -> String {
        format!("Clients > {0} > Client scopes > {0}-dedicated", self.client)
    }
}

/// Returns the setting to change when a token is refused.
fn refused(refusal: Refusal, rules: &Rules<'_>, issuer: &Issuer) -> String {
    let Rules { key, client, .. } = rules;
    let audience = issuer.audiences.first().map_or("mlflow", String::as_str);
    match refusal {
        Refusal::Audience => format!(
            "Clients > {client} > Client scopes > {client}-dedicated > Add mapper > By configuration > Audience, with Included \
             Client Audience `{audience}` and Add to access token On; or, if such tokens are meant for this proxy, {key}.audiences"
        ),
        Refusal::AuthorizedParty => {
            format!("{key}.authorized_parties, if `{client}` is allowed to request tokens for this proxy")
        }
        Refusal::Kind => OTHER_KIND.to_owned(),
        Refusal::Bound => format!("Clients > {client} > Settings > Capability config > Require DPoP bound tokens: Off"),
        Refusal::Expired => "a new token; Realm settings > Tokens > Access Token Lifespan".to_owned(),
        Refusal::Algorithm => {
            format!("{key}.algorithms, or Clients > {client} > Advanced > Access token signature algorithm")
        }
        Refusal::NotBefore | Refusal::IssuedAt => "the clocks: synchronise both machines (NTP)".to_owned(),
        Refusal::UnknownKey | Refusal::NoKeys | Refusal::Signature | Refusal::Issuer => {
            format!("{key}.issuer: is this token from that realm?")
        }
        Refusal::Subject => no_subject(client),
        Refusal::Malformed
        | Refusal::TooLarge
        | Refusal::Header
        | Refusal::Expiry
        | Refusal::Nonce
        | Refusal::Events
        | Refusal::Jti
        | Refusal::Claims => "a token as RFC 9068 describes it".to_owned(),
    }
}

/// Returns the setting to change when a genuine token does not identify a user.
fn unnamed(error: &ClaimError, key: &str, client: &str) -> String {
    match error {
        ClaimError::Unverified => {
            format!("Users > USER > Email verified: On; or {key}.require_verified_email = false")
        }
        ClaimError::NoName(claim) => format!(
            "Clients > {client} > Client scopes > Add client scope > email (Default), and an address in Users > USER > Email; or \
             {key}.username_claim, now `{claim}`"
        ),
        ClaimError::BadName { .. } => format!("{key}.username_claim"),
        ClaimError::ServiceAccount(_)
        | ClaimError::NoMachine(_)
        | ClaimError::OpenIssuer(_)
        | ClaimError::Template(_) => format!("{key}.machines"),
        ClaimError::TooManyGroups => format!("{key}.groups_claims, or a mapper that adds fewer groups"),
        ClaimError::Subject => no_subject(client),
    }
}

/// The scope of Keycloak that writes `sub`.
fn no_subject(client: &str) -> String {
    format!("Clients > {client} > Client scopes > Add client scope > basic (Default)")
}

/// Collects the paths of claims that are lists of strings.
fn lists(value: &Value, path: &str, depth: usize, found: &mut Vec<String>) {
    let Some(members) = value.as_object().filter(|_| depth < MAX_DEPTH) else { return };
    for (name, member) in members {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let is_list = member.as_array().is_some_and(|all| !all.is_empty() && all.iter().all(Value::is_string));
        if is_list && name != "aud" && name != "allowed-origins" {
            found.push(format!("`{path}`"));
        } else {
            lists(member, &path, depth + 1, found);
        }
    }
}

fn listed(groups: &[String]) -> String {
    if groups.is_empty() { "no group".to_owned() } else { groups.join(", ") }
}

/// Returns the unverified payload of a token. For display only, never for a decision.
fn payload(token: &str) -> Option<Value> {
    let mut parts = token.split('.').skip(1);
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts.next()?).ok()?).ok()
}
