//! Parses the text of a policy file into rules, or into a list of all its problems.
//!
//! Each rule is parsed on its own, so that one error does not hide another.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::{Spanned, Value};

use super::sentence::{kind, read_pattern, read_resource, read_whom};
use super::{Expectation, OnCreate, PolicyFile, Sentence, Whom};
use crate::authz::{Permission, ResourceKind};

const MAX_SENTENCES: usize = 10_000;
const MAX_PROBLEMS: usize = 100;

/// One problem to correct.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PolicyProblem {
    /// Line number, counted from 1; `None` if the problem concerns the whole file.
    pub line: Option<usize>,
    /// The rule, such as `grants 3`; empty if the problem concerns no single rule.
    pub sentence: String,
    pub message: String,
}

impl fmt::Display for PolicyProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if !self.sentence.is_empty() {
            write!(f, "{}: ", self.sentence)?;
        }
        f.write_str(&self.message)
    }
}

/// The problems of a policy file, by line; at most 100.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct PolicyProblems(pub Vec<PolicyProblem>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    #[serde(default)]
    empty: bool,
    #[serde(default)]
    grants: Vec<Spanned<Value>>,
    #[serde(default)]
    on_create: Vec<Spanned<Value>>,
    #[serde(default)]
    tests: Vec<Spanned<Value>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawGrant {
    to: BTreeMap<String, String>,
    on: BTreeMap<String, String>,
    permission: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawOnCreate {
    by: BTreeMap<String, String>,
    kinds: Vec<String>,
    to: BTreeMap<String, String>,
    permission: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTest {
    who: RawMember,
    operation: String,
    on: BTreeMap<String, String>,
    expect: String,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMember {
    user: String,
    #[serde(default)]
    provider: Option<String>,
    #[serde(default)]
    groups: Vec<String>,
    #[serde(default)]
    roles: Vec<String>,
}

pub(super) fn parse(text: &str) -> Result<PolicyFile, PolicyProblems> {
    let whole = |message: String| PolicyProblem { line: None, sentence: String::new(), message };
    if text.len() > PolicyFile::MAX_BYTES {
        return Err(PolicyProblems(vec![whole(format!("the file is larger than {} bytes", PolicyFile::MAX_BYTES))]));
    }
    let raw: RawFile = toml::from_str(text).map_err(|error| {
        let line = error.span().map(|span| line_of(text, span.start));
        PolicyProblems(vec![PolicyProblem { line, ..whole(error.message().to_owned()) }])
    })?;
    let mut reader = Reader { text, problems: Vec::new() };
    if raw.empty && !(raw.grants.is_empty() && raw.on_create.is_empty()) {
        reader.problems.push(whole("the file has rules, and `empty = true`".to_owned()));
    }
    if raw.grants.len() + raw.on_create.len() + raw.tests.len() > MAX_SENTENCES {
        reader.problems.push(whole(format!("the file has more than {MAX_SENTENCES} entries")));
    }
    let sentences = reader.all("grants", raw.grants, sentence);
    let on_create = reader.all("on_create", raw.on_create, rule);
    let tests = reader.all("tests", raw.tests, expectation);
    if reader.problems.is_empty() {
        return Ok(PolicyFile { says_empty: raw.empty, ..PolicyFile::new(sentences, on_create, tests) });
    }
    let mut problems = reader.problems;
    problems.sort_by_key(|problem| problem.line);
    problems.truncate(MAX_PROBLEMS);
    Err(PolicyProblems(problems))
}

struct Reader<'t> {
    text: &'t str,
    problems: Vec<PolicyProblem>,
}

impl Reader<'_> {
    /// Parses every rule of one list; `read` returns all problems of one rule.
    fn all<R: DeserializeOwned, T>(
        &mut self,
        list: &str,
        values: Vec<Spanned<Value>>,
        read: impl Fn(usize, &R) -> Result<T, Vec<String>>,
    ) -> Vec<T> {
        let mut all = Vec::with_capacity(values.len());
        for (index, value) in values.into_iter().enumerate() {
            let line = line_of(self.text, value.span().start);
            let raw = value.into_inner().try_into::<R>().map_err(|error| vec![error.message().to_owned()]);
            match raw.and_then(|raw| read(line, &raw)) {
                Ok(sentence) => all.push(sentence),
                Err(messages) => self.problems.extend(messages.into_iter().map(|message| PolicyProblem {
                    line: Some(line),
                    sentence: format!("{list} {}", index + 1),
                    message,
                })),
            }
        }
        all
    }
}

fn sentence(line: usize, raw: &RawGrant) -> Result<Sentence, Vec<String>> {
    let (to, on, permission) = (whom_of(&raw.to), read_pattern(&raw.on), level(&raw.permission));
    match (to, on, permission) {
        (Ok(_), Ok((kind, _)), Ok(permission)) if !kind.takes(permission) => Err(vec![not_taken(kind)]),
        (Ok((to, provider)), Ok((kind, on)), Ok(permission)) => {
            Ok(Sentence { line, to, provider, kind, on, permission })
        }
        (to, on, permission) => Err([to.err(), on.err(), permission.err()].into_iter().flatten().collect()),
    }
}

fn rule(_line: usize, raw: &RawOnCreate) -> Result<OnCreate, Vec<String>> {
    let to = whom_of(&raw.to).and_then(|to| match to {
        (Whom::Everybody, _) => Err("`on_create` cannot grant to all users; write a grant with a glob".to_owned()),
        (Whom::Group(_), Some(_)) => {
            Err("`provider` cannot be combined with the `group` that receives the grants".to_owned())
        }
        to => Ok(to),
    });
    let permission = level(&raw.permission).and_then(|level| {
        if level.refuses() { Err(format!("{level} refuses, and `on_create` only grants")) } else { Ok(level) }
    });
    let mut kinds = Vec::with_capacity(raw.kinds.len());
    let mut wrong = Vec::new();
    for word in &raw.kinds {
        match kind(word) {
            Ok(kind) if permission.as_ref().is_ok_and(|permission| !kind.takes(*permission)) => {
                wrong.push(not_taken(kind));
            }
            Ok(kind) if is_owned(kind) => kinds.push(kind),
            Ok(kind) => wrong.push(format!("a {} has no owner, so `on_create` cannot grant on it", kind.noun())),
            Err(message) => wrong.push(message),
        }
    }
    if raw.kinds.is_empty() {
        wrong.push("`kinds` must name at least one type".to_owned());
    }
    match (whom_of(&raw.by), to, permission) {
        (Ok((by, by_provider)), Ok((to, to_provider)), Ok(permission)) if wrong.is_empty() => {
            Ok(OnCreate { by, by_provider, kinds, to, to_provider, permission })
        }
        (by, to, permission) => {
            wrong.extend([by.err(), to.err(), permission.err()].into_iter().flatten());
            Err(wrong)
        }
    }
}

/// Reads `{ user = …, provider = … }`. `provider` is also accepted beside `group`.
fn whom_of(to: &BTreeMap<String, String>) -> Result<(Whom, Option<String>), String> {
    let mut rest = to.clone();
    let provider = rest.remove("provider");
    match (read_whom(&rest)?, provider) {
        (Whom::Role(_), Some(_)) => {
            Err("`provider` can be combined with `user` or `group`, not with `role`".to_owned())
        }
        (whom, provider) => Ok((whom, provider)),
    }
}

fn expectation(line: usize, raw: &RawTest) -> Result<Expectation, Vec<String>> {
    let allowed = match raw.expect.as_str() {
        "allowed" => Ok(true),
        "denied" => Ok(false),
        other => Err(format!("`expect` is `{other}`; use `allowed` or `denied`")),
    };
    match (read_resource(&raw.on), allowed) {
        (Ok(resource), Ok(allowed)) => {
            let RawMember { user, provider, groups, roles } = raw.who.clone();
            Ok(Expectation { line, user, provider, groups, roles, operation: raw.operation.clone(), resource, allowed })
        }
        (resource, allowed) => Err([resource.err(), allowed.err()].into_iter().flatten().collect()),
    }
}

fn level(word: &str) -> Result<Permission, String> {
    word.parse().map_err(|error: crate::authz::UnknownPermission| error.to_string())
}

fn not_taken(kind: ResourceKind) -> String {
    format!("a {} is granted with one of {}", kind.noun(), kind.levels())
}

/// Returns true if the creator of such a resource receives MANAGE on it.
const fn is_owned(kind: ResourceKind) -> bool {
    !kind.is_granted_whole() && !matches!(kind, ResourceKind::Job)
}

fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}
