//! User names from claims.

use serde_json::Value;

use super::{ClaimError, Claims, at, check_username};

/// Returns the name of a user, in lower case.
pub(super) fn of_person(rules: &Claims, documents: &[&Value]) -> Result<String, ClaimError> {
    let claim = rules.username.as_str();
    let Some((document, value)) = documents.iter().find_map(|claims| Some((claims, at(claims, claim)?))) else {
        return Err(nameless(claim, documents));
    };
    let Some(text) = value.as_str() else { return Err(ClaimError::NoName(claim.to_owned())) };
    let bad = |problem| ClaimError::BadName { claim: claim.to_owned(), problem };
    let name = plain(text).map_err(bad)?;
    if is_machines(&rules.machine_names, &name) {
        return Err(bad("is kept for programs that a rule or preset in `jwt.issuers` names"));
    }
    if claim == "email" {
        check_email(&name).map_err(bad)?;
        // Must be the boolean `true` in the document that contains the address.
        if rules.verified_email && document.get("email_verified") != Some(&Value::Bool(true)) {
            return Err(ClaimError::Unverified);
        }
    }
    Ok(name)
}

/// Returns true if a name is reserved for programs. An e-mail address is reserved only by a pattern that contains `@`.
fn is_machines(globs: &[String], name: &str) -> bool {
    let may_be = |glob: &&String| glob.contains('@') || !name.contains('@');
    globs.iter().filter(may_be).any(|glob| wildmatch::WildMatch::new(glob).matches(name))
}

/// Returns the error for a missing name. Keycloak's service accounts have no e-mail address, so they get an error of
/// their own.
fn nameless(claim: &str, documents: &[&Value]) -> ClaimError {
    let text = |name| documents.iter().find_map(|claims| claims.get(name)).and_then(Value::as_str);
    let is_service = text("preferred_username").is_some_and(|name| name.starts_with("service-account-"));
    match text("client_id").or_else(|| text("azp")) {
        Some(client) if is_service => ClaimError::ServiceAccount(client.chars().take(100).collect()),
        _ => ClaimError::NoName(claim.to_owned()),
    }
}

/// Trims a text and converts it to lower case. Refuses characters that hide or imitate others.
pub(super) fn plain(text: &str) -> Result<String, &'static str> {
    let text = text.trim();
    // Lower-casing turns the Kelvin sign and the dotted capital I into ASCII letters, which could form another user's
    // name.
    if text.chars().any(|c| !c.is_ascii() && c.to_lowercase().any(|lower| lower.is_ascii())) {
        return Err("must not contain characters that imitate letters");
    }
    let name = text.to_lowercase();
    check_username(&name)?;
    Ok(name)
}

fn check_email(name: &str) -> Result<(), &'static str> {
    if name.chars().any(char::is_whitespace) {
        return Err("must not contain spaces");
    }
    match name.split_once('@') {
        Some((local, domain)) if !local.is_empty() && !domain.is_empty() && !domain.contains('@') => Ok(()),
        _ => Err("must be an e-mail address: one `@`, with something on both sides"),
    }
}
