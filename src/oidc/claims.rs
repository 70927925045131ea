//! Evaluates claims: identity and groups of a user, and the decision if the user is allowed in.
//!
//! Pure. Reads only verified claims. The text in a claim is controlled by a third party, so it is limited in length,
//! must not contain characters that hide or imitate others, and never names an existing account by accident.

use serde_json::Value;

use crate::config::{Claims, GroupForm, GroupSource, Issuer, check_username};

mod groups;
mod machine;
mod name;

pub use groups::matches;

/// A user or program, as described by a provider's claims.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Person {
    pub subject: String,
    /// The name used by accounts and grants.
    pub name: String,
    pub groups: Vec<String>,
    /// True if any of the configured groups claims was present. Otherwise `groups` contains no information about the
    /// user.
    pub says_groups: bool,
    pub admin: bool,
    /// True if one of the groups is allowed in.
    pub allowed: bool,
    /// The provider's session ID, if the token belongs to a session.
    pub sid: Option<String>,
    /// True for a program that is named by a rule or a preset.
    pub machine: bool,
}

/// The groups in the claims, and the decisions that follow from them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Standing {
    pub groups: Vec<String>,
    /// See [`Person::says_groups`].
    pub says_groups: bool,
    pub admin: bool,
    pub allowed: bool,
}

impl Person {
    /// Returns the groups and the decisions that follow from them.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let (groups, says_groups) = (self.groups.clone(), self.says_groups);
        Standing { groups, says_groups, admin: self.admin, allowed: self.allowed }
    }
}

/// Reason for which claims do not identify a user or program.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ClaimError {
    #[error("the claim `sub` is missing or not valid")]
    Subject,
    #[error("the claim `{0}`, which is the user name, is missing or not a text")]
    NoName(String),
    #[error("the claim `{claim}` cannot be a user name: it {problem}")]
    BadName { claim: String, problem: &'static str },
    #[error("the e-mail address is not verified: `email_verified` is not true")]
    Unverified,
    #[error(
        "this is the service account of client `{0}`, which has no user name; a rule in `machines` must name it, such as \
         where = {{ client_id = \"{0}\" }}"
    )]
    ServiceAccount(String),
    #[error("there are more than {MAX_GROUPS} groups")]
    TooManyGroups,
    #[error("no rule in `machines` matches, and the preset needs the claim `{0}`")]
    NoMachine(&'static str),
    #[error(
        "every account of `{0}` can get tokens: name those that are admitted with a rule in `machines` or with `allowed_groups`"
    )]
    OpenIssuer(String),
    #[error("the name `{0}` of the rule in `machines` needs a claim that is missing or not a plain text")]
    Template(String),
}

/// More groups than a company's directory assigns to one user.
const MAX_GROUPS: usize = 1000;
const MAX_SUBJECT_BYTES: usize = 255;
/// Prefix of the subject of a program. A program is identified by the name of its rule, because its `sub` may differ
/// from run to run.
const MACHINE: &str = "machine:";

/// Reads the user from the claims of a login.
///
/// # Errors
/// See [`ClaimError`].
pub fn read(rules: &Claims, claims: &Value) -> Result<Person, ClaimError> {
    read_all(rules, &[claims])
}

/// Reads the user from several documents: the ID token, the access token and the answer of the userinfo endpoint, in
/// this order.
///
/// Each claim is taken from the first document that contains it. All documents that contain `sub` must have the same
/// value.
///
/// # Errors
/// See [`ClaimError`].
pub fn read_all(rules: &Claims, documents: &[&Value]) -> Result<Person, ClaimError> {
    let subject = subject(documents)?;
    // A user with such a subject would share the identity of a program.
    if subject.starts_with(MACHINE) {
        return Err(ClaimError::Subject);
    }
    let name = name::of_person(rules, documents)?;
    let Standing { groups, says_groups, admin, allowed } = standing(rules, documents)?;
    let sid = documents.iter().find_map(|claims| claims.get("sid")).and_then(Value::as_str).map(str::to_owned);
    Ok(Person { subject, name, groups, says_groups, admin, allowed, sid, machine: false })
}

/// Reads the groups from several documents about one user, without identifying the user.
///
/// # Errors
/// [`ClaimError::TooManyGroups`].
pub fn standing(rules: &Claims, documents: &[&Value]) -> Result<Standing, ClaimError> {
    let said = groups::said(rules, documents)?;
    let says_groups = said.is_some();
    Ok(Standing { says_groups, ..standing_in(rules, said.unwrap_or_default()) })
}

/// Returns the decisions that follow from being in these groups.
#[must_use]
pub fn standing_in(rules: &Claims, groups: Vec<String>) -> Standing {
    Standing { admin: is_in(&rules.admin, &groups), allowed: is_allowed(rules, &groups), groups, says_groups: true }
}

/// Returns true if every configured groups claim is present. Otherwise the user may be in more groups than the claims
/// contain.
#[must_use]
pub fn says_all_groups(rules: &Claims, claims: &Value) -> bool {
    rules.groups.iter().all(|source| at(claims, &source.claim).is_some())
}

/// Reads the claims of a bearer token: a program if a rule or preset of the issuer names one, otherwise a user.
///
/// # Errors
/// See [`ClaimError`].
pub fn read_bearer(issuer: &Issuer, claims: &Value) -> Result<Person, ClaimError> {
    let Some(machine) = machine::named(issuer, claims)? else { return read(&issuer.claims, claims) };
    // Only checked, because the rule identifies the program.
    subject(&[claims])?;
    let said = groups::said(&issuer.claims, &[claims])?;
    let mut groups = said.unwrap_or_default();
    for group in machine.groups {
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
    Ok(Person {
        subject: format!("{MACHINE}{}", machine.name),
        name: machine.name,
        admin: is_in(&issuer.claims.admin, &groups),
        allowed: is_allowed(&issuer.claims, &groups),
        groups,
        says_groups: true,
        sid: None,
        machine: true,
    })
}

/// Returns true if a user in these groups is allowed in.
#[must_use]
pub fn is_allowed(rules: &Claims, groups: &[String]) -> bool {
    rules.allowed.is_empty() || is_in(&rules.allowed, groups)
}

fn is_in(patterns: &[String], groups: &[String]) -> bool {
    patterns.iter().any(|pattern| groups.iter().any(|group| matches(pattern, group)))
}

fn subject(documents: &[&Value]) -> Result<String, ClaimError> {
    let mut subjects = documents.iter().filter_map(|claims| claims.get("sub"));
    let subject = subjects.next().and_then(Value::as_str).ok_or(ClaimError::Subject)?;
    let strange = subject.is_empty() || subject.len() > MAX_SUBJECT_BYTES || subject.contains(char::is_control);
    if strange || subjects.any(|other| other.as_str() != Some(subject)) {
        return Err(ClaimError::Subject);
    }
    Ok(subject.to_owned())
}

/// Returns the value at a dotted path.
///
/// At each step, the longest member name that the path begins with is tried first. Both `https://example.com/groups`
/// and `resource_access.my.client.roles` are therefore found.
#[must_use]
pub fn at<'v>(claims: &'v Value, path: &str) -> Option<&'v Value> {
    let members = claims.as_object()?;
    if let Some(found) = members.get(path) {
        return Some(found);
    }
    path.rmatch_indices('.').find_map(|(dot, _)| {
        let (name, rest) = path.split_at_checked(dot)?;
        at(members.get(name)?, rest.get(1..)?)
    })
}

#[cfg(test)]
mod tests;
