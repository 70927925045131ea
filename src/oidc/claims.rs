//! Claims -> who somebody is, which groups they are in, and whether they may come in.
//!
//! Pure. Reads only what was verified before. What a claim says is somebody else's text: bounded, without characters that hide
//! or imitate, and never the name of an account by accident.

use serde_json::Value;

use crate::config::{Claims, GroupForm, GroupSource, Issuer, check_username};

mod groups;
mod machine;
mod name;

pub use groups::matches;

/// Somebody, as a provider's claims say.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Person {
    pub subject: String,
    /// What accounts and grants call them.
    pub name: String,
    pub groups: Vec<String>,
    /// Whether any of the configured groups claims was there. Without one, `groups` says nothing about the person.
    pub says_groups: bool,
    pub admin: bool,
    /// Whether one of the groups is allowed in.
    pub allowed: bool,
    /// The provider's session, when the token belongs to one.
    pub sid: Option<String>,
    /// A program, named by a rule or a preset.
    pub machine: bool,
}

/// What claims say of somebody's groups, and what follows from them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Standing {
    pub groups: Vec<String>,
    /// See [`Person::says_groups`].
    pub says_groups: bool,
    pub admin: bool,
    pub allowed: bool,
}

impl Person {
    /// Their groups and what follows from them.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let (groups, says_groups) = (self.groups.clone(), self.says_groups);
        Standing { groups, says_groups, admin: self.admin, allowed: self.allowed }
    }
}

/// Why claims name nobody.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ClaimError {
    #[error("the claim `sub` is missing or strange")]
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
    #[error("everybody can get tokens of `{0}`: say who may come in by a rule in `machines` or by `allowed_groups`")]
    OpenIssuer(String),
    #[error("the name `{0}` of the rule in `machines` needs a claim that is missing or not a plain text")]
    Template(String),
}

/// More than a company's directory gives to anybody.
const MAX_GROUPS: usize = 1000;
const MAX_SUBJECT_BYTES: usize = 255;
/// How a program's identity is told from a person's: its `sub` may differ from run to run, its rule's name does not.
const MACHINE: &str = "machine:";

/// Who the claims of a log-in name.
///
/// # Errors
/// See [`ClaimError`].
pub fn read(rules: &Claims, claims: &Value) -> Result<Person, ClaimError> {
    read_all(rules, &[claims])
}

/// As [`read`], from several documents about one person: the ID token, then the access token, then what `userinfo` says.
///
/// Each claim is taken from the first document that has it; all must have the same `sub`, where they have one.
///
/// # Errors
/// See [`ClaimError`].
pub fn read_all(rules: &Claims, documents: &[&Value]) -> Result<Person, ClaimError> {
    let subject = subject(documents)?;
    if subject.starts_with(MACHINE) {
        return Err(ClaimError::Subject);
    }
    let name = name::of_person(rules, documents)?;
    let Standing { groups, says_groups, admin, allowed } = standing(rules, documents)?;
    let sid = documents.iter().find_map(|claims| claims.get("sid")).and_then(Value::as_str).map(str::to_owned);
    Ok(Person { subject, name, groups, says_groups, admin, allowed, sid, machine: false })
}

/// What several documents about one person say of their groups, whoever it is.
///
/// # Errors
/// [`ClaimError::TooManyGroups`].
pub fn standing(rules: &Claims, documents: &[&Value]) -> Result<Standing, ClaimError> {
    let said = groups::said(rules, documents)?;
    let says_groups = said.is_some();
    Ok(Standing { says_groups, ..standing_in(rules, said.unwrap_or_default()) })
}

/// What follows from being in these groups.
#[must_use]
pub fn standing_in(rules: &Claims, groups: Vec<String>) -> Standing {
    Standing { admin: is_in(&rules.admin, &groups), allowed: is_allowed(rules, &groups), groups, says_groups: true }
}

/// Whether every configured groups claim is there: otherwise somebody may be in more groups than are said.
#[must_use]
pub fn says_all_groups(rules: &Claims, claims: &Value) -> bool {
    rules.groups.iter().all(|source| at(claims, &source.claim).is_some())
}

/// Who the claims of a bearer token name: a program by the issuer's rules or preset, else a person.
///
/// # Errors
/// See [`ClaimError`].
pub fn read_bearer(issuer: &Issuer, claims: &Value) -> Result<Person, ClaimError> {
    let Some(machine) = machine::named(issuer, claims)? else { return read(&issuer.claims, claims) };
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

/// Whether somebody in these groups may come in.
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

/// What a dotted path leads to. At each step the longest member whose name is the path's beginning is tried first, so
/// that `https://example.com/groups` is found and so is `resource_access.my.client.roles`.
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
