//! What a token of an identity provider would be here: who, with which groups, and what is missing in it.
//!
//! Pure, but for the keys that were fetched before. Nothing of the token is shown but what its claims are called, and names.

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

/// How deep claims that look like groups are looked for.
const MAX_DEPTH: usize = 4;

/// Says what each rule makes of it.
pub(super) fn check(
    text: &str,
    config: &Config,
    trusted: &[(&Issuer, Arc<Remote>)],
    clock: &Clock,
    report: &mut Report,
) {
    let Some(given) = Given::read(text) else {
        let change =
            "--token-file: the access token alone, as the provider gave it, or its claims as Keycloak shows them";
        return report.fail("token", "the file holds no JSON Web Token", change);
    };
    let issuer = given.claims.get("iss").and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut known = false;
    for provider in config.providers.iter().filter(|provider| provider.endpoint.issuer == issuer) {
        known = true;
        signing_in(&given, provider, report);
    }
    if let Some((issuer, remote)) = trusted.iter().find(|(trusted, _)| trusted.endpoint.issuer == issuer) {
        known = true;
        bearer(given, issuer, remote, clock, report);
    }
    if !known {
        let change = format!("a section [jwt.issuers.NAME] with issuer = \"{issuer}\" and audiences, if it should be");
        report.fail("token: issuer", format!("`{issuer}` is not configured"), change);
    }
}

/// What the file holds: a token, or only the claims of one, which nobody signed.
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

    /// The client that it was made for, to name its settings.
    fn client(&self) -> &str {
        self.claims.get("azp").and_then(Value::as_str).unwrap_or("CLIENT")
    }
}

/// Only what was made for the client that people sign in at tells which groups they would have.
fn signing_in(given: &Given<'_>, provider: &Provider, report: &mut Report) {
    let check = format!("token: groups for provider {}", provider.name);
    let ours = &provider.client_id;
    if given.claims.get("azp").and_then(Value::as_str).is_some_and(|client| client != ours) {
        return report.ok(check, format!("made for `{}`, while people sign in at `{ours}`", given.client()));
    }
    let key = format!("oidc.providers.{}", provider.name);
    groups(&given.claims, &provider.claims, &check, &key, given.client(), report);
    let check = format!("token: signing in at provider {}", provider.name);
    // An access token may lack what the ID token has, so only what is in it counts.
    match claims::read(&provider.claims, &given.claims) {
        Ok(person) if person.says_groups || person.allowed => {
            standing(&person, "", &check, &key, (&provider.claims, given.client()), report);
        }
        Err(error @ (ClaimError::Unverified | ClaimError::BadName { .. })) => {
            report.fail(&check, error.to_string(), unnamed(&error, &key));
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
    let (believed, unsigned) = match given.token {
        Some(token) => (genuine(token, issuer, remote, now), ""),
        None => (meant_for(&given.claims, issuer), "; nothing but its claims was looked at"),
    };
    match believed {
        Ok(()) => match claims::read_bearer(issuer, &given.claims) {
            Ok(person) => {
                standing(&person, unsigned, &check, &key, (&issuer.claims, &client), report);
                // A rule has named it, and says its groups.
                if person.machine {
                    return;
                }
            }
            Err(error) => report.fail(&check, error.to_string(), unnamed(&error, &key)),
        },
        Err(refusal) => report.fail(&check, refusal.to_string(), refused(refusal, issuer, &key, &client)),
    }
    let check = format!("token: groups for issuer {}", issuer.name);
    groups(&given.claims, &issuer.claims, &check, &key, &client, report);
}

fn genuine(token: Unverified<'_>, issuer: &Issuer, remote: &Remote, now: Timestamp) -> Result<(), Refusal> {
    let keys = remote.keys().ok_or(Refusal::NoKeys)?;
    token::verify(token, issuer, &keys, now).map(|_| ())
}

/// What claims alone can be asked: whether a token that has them would be for this proxy.
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

fn standing(
    person: &Person,
    unsigned: &str,
    check: &str,
    key: &str,
    (rules, client): (&Claims, &str),
    report: &mut Report,
) {
    let groups = listed(&person.groups);
    if person.allowed {
        let what = if person.admin { ", an administrator" } else { "" };
        report.ok(check, format!("it would be {}{what}, in {groups}{unsigned}", person.name));
    } else {
        let change = not_allowed(&person.groups, rules, key, client);
        report.fail(check, format!("{} is in none of the allowed groups, but in {groups}", person.name), change);
    }
}

/// The setting that keeps a user out: the form of the groups, when that alone is why none of them is allowed.
fn not_allowed(groups: &[String], rules: &Claims, key: &str, client: &str) -> String {
    let full_paths = rules.allowed.iter().any(|allowed| allowed.starts_with('/'));
    let leaves = !groups.is_empty() && groups.iter().all(|group| !group.starts_with('/'));
    if full_paths && leaves && rules.form == GroupForm::Leaf {
        return format!("{key}.groups_form = \"full\", because {key}.allowed_groups names full paths");
    }
    if full_paths && leaves {
        return format!(
            "Clients > {client} > Client scopes > {client}-dedicated > the mapper of type Group Membership > Full group path: On, \
             because {key}.allowed_groups names full paths"
        );
    }
    format!("{key}.allowed_groups, or Users > USER > Groups > Join Group")
}

/// What to change when a token is refused.
fn refused(refusal: Refusal, issuer: &Issuer, key: &str, client: &str) -> String {
    let audience = issuer.audiences.first().map_or("mlflow", String::as_str);
    match refusal {
        Refusal::Audience => format!(
            "Clients > {client} > Client scopes > {client}-dedicated > Add mapper > By configuration > Audience, with Included \
             Client Audience `{audience}` and Add to access token On; or, if such tokens are meant for this proxy, {key}.audiences"
        ),
        Refusal::AuthorizedParty => {
            format!("{key}.authorized_parties, if `{client}` may ask for tokens for this proxy")
        }
        Refusal::Kind => "the access token: ID, refresh and logout tokens are never taken".to_owned(),
        Refusal::Bound => format!("Clients > {client} > Settings > Capability config > Require DPoP bound tokens: Off"),
        Refusal::Expired => "a token that was just made; Realm settings > Tokens > Access Token Lifespan".to_owned(),
        Refusal::Algorithm => {
            format!("{key}.algorithms, or Clients > {client} > Advanced > Access token signature algorithm")
        }
        Refusal::NotBefore | Refusal::IssuedAt => "the clocks: synchronise both machines (NTP)".to_owned(),
        Refusal::UnknownKey | Refusal::NoKeys | Refusal::Signature | Refusal::Issuer => {
            format!("{key}.issuer: is this token of that very realm?")
        }
        Refusal::Subject => format!("Clients > {client} > Client scopes > Add client scope > basic (Default)"),
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

/// What to change when a genuine token names nobody.
fn unnamed(error: &ClaimError, key: &str) -> String {
    match error {
        ClaimError::Unverified => {
            format!("Users > USER > Email verified: On; or {key}.require_verified_email = false")
        }
        ClaimError::NoName(claim) => format!(
            "Client scopes > email, as a Default client scope of the client, puts `email` in; or {key}.username_claim, now \
             `{claim}`"
        ),
        ClaimError::BadName { .. } => format!("{key}.username_claim"),
        ClaimError::ServiceAccount(_)
        | ClaimError::NoMachine(_)
        | ClaimError::OpenIssuer(_)
        | ClaimError::Template(_) => format!("{key}.machines"),
        ClaimError::TooManyGroups => format!("{key}.groups_claims, or a mapper that puts fewer groups in"),
        ClaimError::Subject => "Client scopes > basic, as a Default client scope of the client".to_owned(),
    }
}

fn groups(claims: &Value, rules: &Claims, check: &str, key: &str, client: &str, report: &mut Report) {
    let mut found = Vec::new();
    let mut absent = Vec::new();
    for source in &rules.groups {
        match claims::at(claims, &source.claim) {
            Some(value) => {
                found.push(format!("{} in `{}`", value.as_array().map_or(1, Vec::len), source.claim));
            }
            None => absent.push(format!("`{}`", source.claim)),
        }
    }
    let not_there = if absent.is_empty() { String::new() } else { format!("; not there: {}", absent.join(", ")) };
    if !found.is_empty() {
        return report.ok(check, format!("{}{not_there}", found.join(", ")));
    }
    let mut others = Vec::new();
    lists(claims, "", 0, &mut others);
    let hint = if others.is_empty() { String::new() } else { format!("; lists stand in {}", others.join(", ")) };
    report.warn(
        check,
        format!("none of the configured claims is there{not_there}{hint}"),
        format!(
            "Clients > {client} > Client scopes > {client}-dedicated > Add mapper > By configuration > Group Membership, with Token \
             Claim Name `groups`, Full group path On, Add to access token On; or {key}.groups_claims; somebody in no group has \
             no such claim either"
        ),
    );
}

/// The paths of lists of texts.
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

/// What it says, unverified: for looking at, never for deciding.
fn payload(token: &str) -> Option<Value> {
    let mut parts = token.split('.').skip(1);
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts.next()?).ok()?).ok()
}
