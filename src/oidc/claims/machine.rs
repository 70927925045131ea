//! Programs: which rule or preset names a token.
//!
//! No account is needed before: the rule is the permission to come in, and what the program may do follows from its groups.

use serde_json::Value;

use super::name::plain;
use super::{ClaimError, at, check_username};
use crate::config::{Issuer, Machine, Preset};

/// A program that has a name.
#[derive(Debug)]
pub(super) struct Named {
    pub(super) name: String,
    pub(super) groups: Vec<String>,
}

/// Whose tokens anybody in the world can have for any audience.
const OPEN_ISSUERS: [&str; 2] = ["https://token.actions.githubusercontent.com", "https://gitlab.com"];

/// The first rule that matches, else what the preset says; `None` for an issuer of people.
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
    // The owner is a group, so that `allowed_groups` and grants can speak of all of an organisation's repositories.
    let groups = fill(group, claims).into_iter().collect();
    Ok(Some(Named { name: fill(template, claims)?, groups }))
}

fn applies(rule: &Machine, claims: &Value) -> bool {
    rule.conditions.iter().all(|(path, pattern)| {
        let pattern = wildmatch::WildMatch::new(pattern);
        match at(claims, path) {
            Some(Value::String(text)) => pattern.matches(text),
            Some(value @ (Value::Bool(_) | Value::Number(_))) => pattern.matches(&value.to_string()),
            // Such as `aud`: one of them is enough.
            Some(Value::Array(values)) => values.iter().filter_map(Value::as_str).any(|text| pattern.matches(text)),
            Some(Value::Null | Value::Object(_)) | None => false,
        }
    })
}

/// Puts claims into `{...}`. A claim's text is lower-cased, like every name from outside.
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

/// `system:serviceaccount:NAMESPACE:NAME`, whose colons no user name can have.
fn service_account(claims: &Value) -> Result<Named, ClaimError> {
    let subject = claims.get("sub").and_then(Value::as_str);
    let rest = subject.and_then(|subject| subject.strip_prefix("system:serviceaccount:"));
    let parts = rest.and_then(|rest| rest.split_once(':')).ok_or(ClaimError::NoMachine("sub"))?;
    // As the API server spells namespaces and accounts; a slash would make one look like another.
    let dns = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    let (namespace, name) = parts;
    if [namespace, name].iter().any(|part| part.is_empty() || !part.bytes().all(dns)) {
        return Err(ClaimError::NoMachine("sub"));
    }
    let full = format!("k8s/{namespace}/{name}");
    check_username(&full).map_err(|_| ClaimError::NoMachine("sub"))?;
    Ok(Named { name: full, groups: vec![format!("system:serviceaccounts:{namespace}")] })
}
