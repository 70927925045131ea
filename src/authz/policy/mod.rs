//! The policy file: grants to users, groups and roles by name, kept as a text beside the store.
//!
//! Pure: whoever reads the file brings its text. What speaks of one person is found by exact texts.

mod read;
mod sentence;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};

use super::group::texts_of_groups;
use super::{Grant, GrantSet, Permission, Resource, ResourceKind, Selector};

pub use read::{PolicyProblem, PolicyProblems};
pub use sentence::{read_target, read_whom, write_target};

/// Whom a sentence is about, by the names that people use.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Whom {
    /// Everybody who is signed in, written `user = "*"`.
    Everybody,
    User(String),
    /// With `/**` at its end: the group and all below it.
    Group(String),
    /// A role of the default workspace.
    Role(String),
}

impl Whom {
    /// `user`, `group` or `role`.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Everybody | Self::User(_) => "user",
            Self::Group(_) => "group",
            Self::Role(_) => "role",
        }
    }

    /// The name, `*` for everybody.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Everybody => "*",
            Self::User(name) | Self::Group(name) | Self::Role(name) => name,
        }
    }
}

impl fmt::Display for Whom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind(), self.name())
    }
}

/// Where a grant is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Source {
    Store,
    /// In the policy file, at this line.
    PolicyFile {
        line: usize,
    },
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store => f.write_str("store"),
            Self::PolicyFile { line } => write!(f, "policy file, line {line}"),
        }
    }
}

/// Somebody as a policy knows them.
#[derive(Clone, Debug, Default)]
pub struct Member<'m> {
    pub name: &'m str,
    pub groups: &'m [String],
    /// Roles of the default workspace.
    pub roles: Vec<&'m str>,
}

impl Member<'_> {
    /// Every subject that means this person.
    fn subjects(&self) -> impl Iterator<Item = Whom> {
        let groups = texts_of_groups(self.groups.iter().map(String::as_str)).into_iter().map(Whom::Group);
        let roles = self.roles.iter().map(|role| Whom::Role((*role).to_owned()));
        [Whom::Everybody, Whom::User(self.name.to_owned())].into_iter().chain(groups).chain(roles)
    }
}

/// A grant of the file.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Sentence {
    line: usize,
    to: Whom,
    kind: ResourceKind,
    on: Pattern,
    permission: Permission,
}

/// Which resources a sentence is about: the same for everybody, or other ones for each person.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Pattern {
    Fixed(Selector),
    /// Holds `{user}`.
    Personal(String),
}

const USER: &str = "{user}";

impl Sentence {
    /// The grant as it holds for this person; `None` when it cannot be said for them.
    fn of(&self, name: &str) -> Option<Grant<(Source, Whom)>> {
        let selector = match &self.on {
            Pattern::Fixed(selector) => selector.clone(),
            Pattern::Personal(pattern) => {
                // A name that is a pattern itself would open other people's things. Refusing more than was meant is safe.
                if name.contains(['*', '?']) && !self.permission.refuses() {
                    return None;
                }
                sentence::selector_by_name(self.kind, &pattern.replace(USER, name))
            }
        };
        let subject = (Source::PolicyFile { line: self.line }, self.to.clone());
        Some(Grant { subject, kind: self.kind, selector, permission: self.permission })
    }
}

/// What is granted along when somebody makes something.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OnCreate {
    by: Whom,
    kinds: Vec<ResourceKind>,
    /// Never everybody.
    pub to: Whom,
    pub permission: Permission,
}

/// What the file itself expects to be decided; see `policy test`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Expectation {
    pub line: usize,
    pub user: String,
    pub groups: Vec<String>,
    pub roles: Vec<String>,
    /// A level or the name of an operation.
    pub operation: String,
    pub resource: Resource,
    pub allowed: bool,
}

/// A policy file that was read and found right.
#[derive(Clone, Debug, Default)]
pub struct PolicyFile {
    sentences: Vec<Sentence>,
    by_subject: HashMap<Whom, Vec<usize>>,
    on_create: Vec<OnCreate>,
    tests: Vec<Expectation>,
}

impl PolicyFile {
    /// Reads a file.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(text: &str) -> Result<Self, PolicyProblems> {
        read::parse(text)
    }

    fn new(sentences: Vec<Sentence>, on_create: Vec<OnCreate>, tests: Vec<Expectation>) -> Self {
        let mut by_subject: HashMap<Whom, Vec<usize>> = HashMap::new();
        for (index, sentence) in sentences.iter().enumerate() {
            by_subject.entry(sentence.to.clone()).or_default().push(index);
        }
        Self { sentences, by_subject, on_create, tests }
    }

    /// The grants that speak of one person, in the order of the file.
    pub fn grants_for(&self, who: &Member<'_>) -> impl Iterator<Item = Grant<(Source, Whom)>> {
        let found = who.subjects().filter_map(|subject| self.by_subject.get(&subject));
        let found: BTreeSet<usize> = found.flatten().copied().collect();
        let sentences = found.into_iter().filter_map(|index| self.sentences.get(index));
        sentences.filter_map(|sentence| sentence.of(who.name))
    }

    /// What others get when this person makes something of that kind.
    pub fn on_create(&self, kind: ResourceKind, who: &Member<'_>) -> impl Iterator<Item = &OnCreate> {
        let subjects: BTreeSet<Whom> =
            if self.on_create.is_empty() { BTreeSet::new() } else { who.subjects().collect() };
        self.on_create.iter().filter(move |rule| rule.kinds.contains(&kind) && subjects.contains(&rule.by))
    }

    /// Whether anything at all is granted along with making something.
    #[must_use]
    pub fn grants_on_create(&self) -> bool {
        !self.on_create.is_empty()
    }

    /// Whether anybody's permissions depend on what an experiment is called.
    #[must_use]
    pub fn names_experiments(&self) -> bool {
        let by_name = |on: &Pattern| matches!(on, Pattern::Personal(_) | Pattern::Fixed(Selector::Glob(_)));
        self.sentences.iter().any(|sentence| sentence.kind == ResourceKind::Experiment && by_name(&sentence.on))
    }

    /// What the file expects of itself.
    #[must_use]
    pub fn tests(&self) -> &[Expectation] {
        &self.tests
    }

    /// How many grants it has.
    #[must_use]
    pub fn grants(&self) -> usize {
        self.sentences.len()
    }

    /// Every grant as it is written, `{user}` unreplaced.
    pub fn written(&self) -> impl Iterator<Item = (Source, &Whom, ResourceKind, String, Permission)> {
        self.sentences.iter().map(|sentence| {
            let on = match &sentence.on {
                Pattern::Fixed(selector) => selector.to_string(),
                Pattern::Personal(pattern) => format!("glob:{pattern}"),
            };
            (Source::PolicyFile { line: sentence.line }, &sentence.to, sentence.kind, on, sentence.permission)
        })
    }

    /// The compiled grants of somebody who has nothing else.
    #[must_use]
    pub fn alone(&self, who: &Member<'_>) -> GrantSet {
        let mut set = GrantSet::default();
        set.add(self.grants_for(who));
        set
    }
}

/// The policies that hold at this moment, each replaced whole.
#[derive(Debug, Default)]
pub struct Policies {
    enforced: ArcSwap<PolicyFile>,
    shadow: ArcSwapOption<PolicyFile>,
}

impl Policies {
    /// What is enforced. Without a policy file it grants nothing.
    #[must_use]
    pub fn enforced(&self) -> Arc<PolicyFile> {
        self.enforced.load_full()
    }

    /// What is tried beside it.
    #[must_use]
    pub fn shadow(&self) -> Option<Arc<PolicyFile>> {
        self.shadow.load_full()
    }

    /// Replaces what is enforced. Cached identities still hold the old one: forget them after this.
    pub fn enforce(&self, policy: PolicyFile) {
        self.enforced.store(Arc::new(policy));
    }

    /// Replaces what is tried.
    pub fn try_beside(&self, policy: PolicyFile) {
        self.shadow.store(Some(Arc::new(policy)));
    }
}

#[cfg(test)]
mod tests;
