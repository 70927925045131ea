//! Programs: matches tokens with the rules and presets that name them.
//!
//! A program needs no account beforehand: the rule allows it in, and its permissions follow from its groups.

use serde_json::Value;

use super::name::plain;
use super::{ClaimError, at, check_username};
use crate::config::{Issuer, Machine, Preset};

/// The name and groups of a program.
#[derive(Debug)]
pub(super) struct Named {
    pub(super) name: String,
    pub(super) groups: Vec<String>,
}

/// Public issuers, from which any user of the service obtains tokens for any audience.
const OPEN_ISSUERS: [&str; 2] = ["https://token.actions.githubusercontent.com", "https://gitlab.com"];

/// Returns the program named by the first rule that matches, or else by the preset. Returns `None` for an issuer of
/// users.
pub(super) fn named(issuer: &Issuer, claims: &Value) -> Result<Option<Named>, ClaimError> {
    for rule in &issuer.machines {
        if applies(rule, claims) {
            return Ok(Some(Named { name: fill(&rule.name, claims)?, groups: rule.groups.clone() }));
        }
    }
    let (template, group) = match issuer.preset {
        Preset::Standard => return Ok(None),
        Preset::Kubernetes => return service_account(claims).map(Some),
        Preset::GithubActions => ("github/{repository}", "github/{repository_owner}"),
        Preset::GitlabCi => ("gitlab/{project_path}", "gitlab/{namespace_path}"),
    };
    let open = OPEN_ISSUERS.contains(&issuer.endpoint.issuer.trim_end_matches('/'));
    if open && issuer.claims.allowed.is_empty() {
        return Err(ClaimError::OpenIssuer(issuer.endpoint.issuer.clone()));
    }
    // The owner becomes a group, so that `allowed_groups` and grants can refer to all repositories of an organization.
    let groups = fill(group, claims).into_iter().collect();
    Ok(Some(Named { name: fill(template, claims)?, groups }))
}

fn applies(rule: &Machine, claims: &Value) -> bool {
    rule.conditions.iter().all(|(path, pattern)| {
        let pattern = wildmatch::WildMatch::new(pattern);
        match at(claims, path) {
            Some(Value::String(text)) => pattern.matches(text),
            Some(value @ (Value::Bool(_) | Value::Number(_))) => pattern.matches(&value.to_string()),
            // For an array such as `aud`, one matching element is enough.
            Some(Value::Array(values)) => values.iter().filter_map(Value::as_str).any(|text| pattern.matches(text)),
            Some(Value::Null | Value::Object(_)) | None => false,
        }
    })
}

/// Replaces `{...}` in a template with claims. The text of a claim is converted to lower case, like every external
/// name.
fn fill(template: &str, claims: &Value) -> Result<String, ClaimError> {
    let wrong = || ClaimError::Template(template.to_owned());
    let (mut name, mut rest) = (String::new(), template);
    while let Some((before, after)) = rest.split_once('{') {
        let (path, after) = after.split_once('}').ok_or_else(wrong)?;
        let value = at(claims, path).and_then(Value::as_str).ok_or_else(wrong)?;
        name.push_str(before);
        name.push_str(&plain(value).map_err(|_| wrong())?);
        rest = after;
    }
    name.push_str(rest);
    check_username(&name).map_err(|_| wrong())?;
    Ok(name)
}

/// Names a Kubernetes service account from `system:serviceaccount:NAMESPACE:NAME`. User names cannot contain the
/// colons.
fn service_account(claims: &Value) -> Result<Named, ClaimError> {
    let subject = claims.get("sub").and_then(Value::as_str);
    let rest = subject.and_then(|subject| subject.strip_prefix("system:serviceaccount:"));
    let parts = rest.and_then(|rest| rest.split_once(':')).ok_or(ClaimError::NoMachine("sub"))?;
    // The characters that the API server allows in namespaces and service accounts. A slash would make one pair look
    // like another.
    let dns = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    let (namespace, name) = parts;
    if [namespace, name].iter().any(|part| part.is_empty() || !part.bytes().all(dns)) {
        return Err(ClaimError::NoMachine("sub"));
    }
    let full = format!("k8s/{namespace}/{name}");
    check_username(&full).map_err(|_| ClaimError::NoMachine("sub"))?;
    Ok(Named { name: full, groups: vec![format!("system:serviceaccounts:{namespace}")] })
}
