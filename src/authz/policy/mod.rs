//! The policy file: grants to users, groups and roles by name, in addition to the store's.
//!
//! Pure: the caller reads the file and passes its text. The rules for one principal are found by hash look-ups.

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

/// Subject of a rule, by name.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Whom {
    /// All signed-in users, written `user = "*"`.
    Everybody,
    User(String),
    /// A name that ends in `/**` includes all groups below it.
    Group(String),
    /// A role of the default workspace.
    Role(String),
}

impl Whom {
    /// Returns `user`, `group` or `role`.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Everybody | Self::User(_) => "user",
            Self::Group(_) => "group",
            Self::Role(_) => "role",
        }
    }

    /// Returns the name, `*` for all users.
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

/// Origin of a grant.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Source {
    Store,
    /// The policy file, at this line.
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

/// A principal as policy rules refer to it.
#[derive(Clone, Debug, Default)]
pub struct Member<'m> {
    pub name: &'m str,
    /// Home of the account.
    pub home: Home<'m>,
    pub groups: &'m [String],
    /// Roles of the default workspace.
    pub roles: Vec<&'m str>,
}

impl Member<'_> {
    /// Returns every subject that includes this principal.
    fn subjects(&self) -> impl Iterator<Item = Whom> {
        let groups = texts_of_groups(self.groups.iter().map(String::as_str)).into_iter().map(Whom::Group);
        let roles = self.roles.iter().map(|role| Whom::Role((*role).to_owned()));
        [Whom::Everybody, Whom::User(self.name.to_owned())].into_iter().chain(groups).chain(roles)
    }
}

/// A grant in the policy file.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Sentence {
    line: usize,
    to: Whom,
    /// Home of the accounts that it applies to; `None` for those that own plain names.
    provider: Option<String>,
    kind: ResourceKind,
    on: Pattern,
    permission: Permission,
}

/// Object of a rule: the same for all users, or different for each.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Pattern {
    Fixed(Selector),
    /// Contains `{user}`.
    Personal(String),
}

const USER: &str = "{user}";

/// Returns true if a rule with this provider and this subject applies to an account of this home.
fn means(provider: Option<&str>, whom: &Whom, home: Home<'_>) -> bool {
    match (provider, whom) {
        (Some(provider), _) => provider == home.name,
        (None, Whom::User(_)) => home.is_plain,
        // Groups and roles are not names of accounts, so the account's home does not matter; nor does it for all users.
        (None, Whom::Everybody | Whom::Group(_) | Whom::Role(_)) => true,
    }
}

impl Sentence {
    /// Returns the grant with the principal's name inserted, or `None` if it does not apply to the principal.
    fn of(&self, member: &Member<'_>) -> Option<Grant<(Source, Whom)>> {
        if !means(self.provider.as_deref(), &self.to, member.home) {
            return None;
        }
        let name = member.name;
        let selector = match &self.on {
            Pattern::Fixed(selector) => selector.clone(),
            Pattern::Personal(pattern) => {
                // A user name that is a pattern would open the resources of other users. A refusal that applies too
                // widely is safe.
                let is_pattern = name.contains(['*', '?']);
                // A plain name of another provider's account can be a different user's name here.
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

/// A grant to others that accompanies the creation of a resource.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OnCreate {
    by: Whom,
    by_provider: Option<String>,
    kinds: Vec<ResourceKind>,
    /// Never all users.
    pub to: Whom,
    to_provider: Option<String>,
    pub permission: Permission,
}

impl OnCreate {
    /// Returns true if the account named `to` in this home is the intended one.
    #[must_use]
    pub fn means(&self, home: Home<'_>) -> bool {
        means(self.to_provider.as_deref(), &self.to, home)
    }
}

/// A test in the policy file: an expected decision. See `policy test`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Expectation {
    pub line: usize,
    pub user: String,
    /// Home of the account; `None` for one that owns plain names.
    pub provider: Option<String>,
    pub groups: Vec<String>,
    pub roles: Vec<String>,
    /// A level or the name of an operation.
    pub operation: String,
    pub resource: Resource,
    pub allowed: bool,
}

/// A valid policy file.
#[derive(Clone, Debug, Default)]
pub struct PolicyFile {
    sentences: Vec<Sentence>,
    by_subject: HashMap<Whom, Vec<usize>>,
    on_create: Vec<OnCreate>,
    tests: Vec<Expectation>,
    /// True if the file contains `empty = true`, which confirms that it has no rules on purpose.
    says_empty: bool,
}

impl PolicyFile {
    /// Maximum size of a file in bytes.
    pub const MAX_BYTES: usize = 1024 * 1024;

    /// Parses a policy file.
    ///
    /// # Errors
    /// All problems of the file.
    pub fn parse(text: &str) -> Result<Self, PolicyProblems> {
        read::parse(text)
    }

    /// Parses a file that is going to be enforced. A file without rules must contain `empty = true`, because a
    /// truncated file or one that is just being written looks the same.
    ///
    /// # Errors
    /// All problems of the file.
    pub fn parse_rules(text: &str) -> Result<Self, PolicyProblems> {
        let file = read::parse(text)?;
        if file.sentences.is_empty() && file.on_create.is_empty() && !file.says_empty {
            let message = "the file has no rule; write `empty = true` into it if that is intended".to_owned();
            return Err(PolicyProblems(vec![PolicyProblem { line: None, sentence: String::new(), message }]));
        }
        Ok(file)
    }

    /// Returns true if a rule of `before` that refuses is missing here, or if there are fewer rules. Such a file is
    /// possibly incomplete because it is still being written.
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

    /// Returns the grants for one principal, in the order of the file.
    pub fn grants_for(&self, who: &Member<'_>) -> impl Iterator<Item = Grant<(Source, Whom)>> {
        let found = who.subjects().filter_map(|subject| self.by_subject.get(&subject));
        let found: BTreeSet<usize> = found.flatten().copied().collect();
        let sentences = found.into_iter().filter_map(|index| self.sentences.get(index));
        sentences.filter_map(|sentence| sentence.of(who))
    }

    /// Returns the grants to others that apply when this principal creates a resource of that kind.
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

    /// Returns true if any creation is accompanied by grants.
    #[must_use]
    pub fn grants_on_create(&self) -> bool {
        !self.on_create.is_empty()
    }

    /// Returns true if any grant depends on the name of an experiment.
    #[must_use]
    pub fn names_experiments(&self) -> bool {
        let by_name = |on: &Pattern| matches!(on, Pattern::Personal(_) | Pattern::Fixed(Selector::Glob(_)));
        self.sentences.iter().any(|sentence| sentence.kind == ResourceKind::Experiment && by_name(&sentence.on))
    }

    /// Returns every home that a rule names, with the line of the rule if it is known.
    pub fn providers(&self) -> impl Iterator<Item = (Option<usize>, &str)> {
        let sentences = self.sentences.iter().map(|it| (Some(it.line), it.provider.as_deref()));
        let rules = self.on_create.iter().flat_map(|it| [it.by_provider.as_deref(), it.to_provider.as_deref()]);
        let tests = self.tests.iter().map(|it| (Some(it.line), it.provider.as_deref()));
        let all = sentences.chain(rules.map(|provider| (None, provider))).chain(tests);
        all.filter_map(|(line, provider)| Some((line, provider?)))
    }

    /// Returns the lines of rules that depend on a user's name and name no provider.
    pub fn by_plain_name(&self) -> impl Iterator<Item = usize> {
        let by_name = |it: &&Sentence| matches!(it.to, Whom::User(_)) || matches!(it.on, Pattern::Personal(_));
        self.sentences.iter().filter(|it| it.provider.is_none()).filter(by_name).map(|it| it.line)
    }

    /// Returns the tests in the file.
    #[must_use]
    pub fn tests(&self) -> &[Expectation] {
        &self.tests
    }

    /// Returns the number of grants.
    #[must_use]
    pub fn grants(&self) -> usize {
        self.sentences.len()
    }

    /// Returns every grant as written, with `{user}` not replaced.
    pub fn written(&self) -> impl Iterator<Item = (Source, &Whom, ResourceKind, String, Permission)> {
        self.sentences.iter().map(|sentence| {
            let on = match &sentence.on {
                Pattern::Fixed(selector) => selector.to_string(),
                Pattern::Personal(pattern) => format!("glob:{pattern}"),
            };
            (Source::PolicyFile { line: sentence.line }, &sentence.to, sentence.kind, on, sentence.permission)
        })
    }

    /// Compiles the grants of a principal who has no others.
    #[must_use]
    pub fn alone(&self, who: &Member<'_>) -> GrantSet {
        let mut set = GrantSet::default();
        set.add(self.grants_for(who));
        set
    }
}

/// The policies in force. Each is replaced atomically.
#[derive(Debug, Default)]
pub struct Policies {
    enforced: ArcSwap<PolicyFile>,
    shadow: ArcSwapOption<PolicyFile>,
    homes: Homes,
}

impl Policies {
    /// Creates policies whose rules refer to accounts of these homes.
    #[must_use]
    pub fn of(homes: Homes) -> Self {
        Self { homes, ..Self::default() }
    }

    /// Returns the homes of accounts.
    #[must_use]
    pub fn homes(&self) -> &Homes {
        &self.homes
    }

    /// Returns the enforced policy. Without a policy file it grants nothing.
    #[must_use]
    pub fn enforced(&self) -> Arc<PolicyFile> {
        self.enforced.load_full()
    }

    /// Returns the shadow policy, which is evaluated but not enforced.
    #[must_use]
    pub fn shadow(&self) -> Option<Arc<PolicyFile>> {
        self.shadow.load_full()
    }

    /// Replaces the enforced policy. Cached identities still contain grants of the earlier one; the caller must drop
    /// them afterwards.
    pub fn enforce(&self, policy: PolicyFile) {
        self.enforced.store(Arc::new(policy));
    }

    /// Replaces the shadow policy.
    pub fn try_beside(&self, policy: PolicyFile) {
        self.shadow.store(Some(Arc::new(policy)));
    }
}

#[cfg(test)]
mod tests;
