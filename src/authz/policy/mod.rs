//! The policy file: grants to users, groups and roles by name, kept as a text beside the store.
//!
//! Pure: whoever reads the file brings its text. What speaks of one person is found by exact texts.

mod home;
mod read;
mod sentence;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};

use super::group::texts_of_groups;
use super::{Grant, GrantSet, Permission, Resource, ResourceKind, Selector};

pub use home::{Home, Homes, LOCAL};
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
    /// Where the account comes from.
    pub home: Home<'m>,
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
    /// The home of the accounts that it means; `None`: those that own plain names.
    provider: Option<String>,
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

/// Whether a rule of this provider, about this subject, means an account of this home.
fn means(provider: Option<&str>, whom: &Whom, home: Home<'_>) -> bool {
    match (provider, whom) {
        (Some(provider), _) => provider == home.name,
        (None, Whom::User(_)) => home.is_plain,
        // Groups and roles are names of their own; everybody is everybody.
        (None, Whom::Everybody | Whom::Group(_) | Whom::Role(_)) => true,
    }
}

impl Sentence {
    /// The grant as it holds for this person; `None` when it cannot be said for them.
    fn of(&self, member: &Member<'_>) -> Option<Grant<(Source, Whom)>> {
        if !means(self.provider.as_deref(), &self.to, member.home) {
            return None;
        }
        let name = member.name;
        let selector = match &self.on {
            Pattern::Fixed(selector) => selector.clone(),
            Pattern::Personal(pattern) => {
                // A name that is a pattern itself would open other people's things. Refusing more than was meant is safe.
                let is_pattern = name.contains(['*', '?']);
                // So would the name of another provider's account, which may be another user's here.
                let is_others = self.provider.is_none() && !member.home.is_plain;
                if (is_pattern || is_others) && !self.permission.refuses() {
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
    by_provider: Option<String>,
    kinds: Vec<ResourceKind>,
    /// Never everybody.
    pub to: Whom,
    to_provider: Option<String>,
    pub permission: Permission,
}

impl OnCreate {
    /// Whether the account that has the name of `to` is the one that is meant.
    #[must_use]
    pub fn means(&self, home: Home<'_>) -> bool {
        means(self.to_provider.as_deref(), &self.to, home)
    }
}

/// What the file itself expects to be decided; see `policy test`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Expectation {
    pub line: usize,
    pub user: String,
    /// The account's home; `None`: one that owns plain names.
    pub provider: Option<String>,
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
    /// `empty = true`: that there is no rule is intended.
    says_empty: bool,
}

impl PolicyFile {
    /// A larger file is refused.
    pub const MAX_BYTES: usize = 1024 * 1024;

    /// Reads a file.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(text: &str) -> Result<Self, PolicyProblems> {
        read::parse(text)
    }

    /// Reads a file that is going to be enforced: one without any rule must contain `empty = true`, because a file that a
    /// program has just begun to write, or lost, looks like one.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse_rules(text: &str) -> Result<Self, PolicyProblems> {
        let file = read::parse(text)?;
        if file.sentences.is_empty() && file.on_create.is_empty() && !file.says_empty {
            let message = "the file has no rule; write `empty = true` into it if that is intended".to_owned();
            return Err(PolicyProblems(vec![PolicyProblem { line: None, sentence: String::new(), message }]));
        }
        Ok(file)
    }

    /// Returns whether a rule of `before` that refuses is missing here, or whether there are fewer rules: possibly the
    /// beginning of a file that is still being written.
    #[must_use]
    pub fn takes_away_from(&self, before: &Self) -> bool {
        self.sentences.len() < before.sentences.len()
            || self.on_create.len() < before.on_create.len()
            || !before.refusals().is_subset(&self.refusals())
    }

    fn refusals(&self) -> HashSet<(&Whom, ResourceKind, String)> {
        let written = self.written().filter(|(.., permission)| permission.refuses());
        written.map(|(_, to, kind, on, _)| (to, kind, on)).collect()
    }

    fn new(sentences: Vec<Sentence>, on_create: Vec<OnCreate>, tests: Vec<Expectation>) -> Self {
        let mut by_subject: HashMap<Whom, Vec<usize>> = HashMap::new();
        for (index, sentence) in sentences.iter().enumerate() {
            by_subject.entry(sentence.to.clone()).or_default().push(index);
        }
        Self { sentences, by_subject, on_create, tests, says_empty: false }
    }

    /// The grants that speak of one person, in the order of the file.
    pub fn grants_for(&self, who: &Member<'_>) -> impl Iterator<Item = Grant<(Source, Whom)>> {
        let found = who.subjects().filter_map(|subject| self.by_subject.get(&subject));
        let found: BTreeSet<usize> = found.flatten().copied().collect();
        let sentences = found.into_iter().filter_map(|index| self.sentences.get(index));
        sentences.filter_map(|sentence| sentence.of(who))
    }

    /// What others get when this person makes something of that kind.
    pub fn on_create(&self, kind: ResourceKind, who: &Member<'_>) -> impl Iterator<Item = &OnCreate> {
        let subjects: BTreeSet<Whom> =
            if self.on_create.is_empty() { BTreeSet::new() } else { who.subjects().collect() };
        let home = who.home;
        let applies = move |rule: &&OnCreate| {
            rule.kinds.contains(&kind)
                && subjects.contains(&rule.by)
                && means(rule.by_provider.as_deref(), &rule.by, home)
        };
        self.on_create.iter().filter(applies)
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

    /// Every home that a rule names, with the line of the rule if it has one.
    pub fn providers(&self) -> impl Iterator<Item = (Option<usize>, &str)> {
        let sentences = self.sentences.iter().map(|it| (Some(it.line), it.provider.as_deref()));
        let rules = self.on_create.iter().flat_map(|it| [it.by_provider.as_deref(), it.to_provider.as_deref()]);
        let tests = self.tests.iter().map(|it| (Some(it.line), it.provider.as_deref()));
        let all = sentences.chain(rules.map(|provider| (None, provider))).chain(tests);
        all.filter_map(|(line, provider)| Some((line, provider?)))
    }

    /// The lines of rules that go by a user's name and name no provider.
    pub fn by_plain_name(&self) -> impl Iterator<Item = usize> {
        let by_name = |it: &&Sentence| matches!(it.to, Whom::User(_)) || matches!(it.on, Pattern::Personal(_));
        self.sentences.iter().filter(|it| it.provider.is_none()).filter(by_name).map(|it| it.line)
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
    homes: Homes,
}

impl Policies {
    /// Policies whose rules mean accounts of these homes.
    #[must_use]
    pub fn of(homes: Homes) -> Self {
        Self { homes, ..Self::default() }
    }

    /// Where accounts come from.
    #[must_use]
    pub fn homes(&self) -> &Homes {
        &self.homes
    }

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
