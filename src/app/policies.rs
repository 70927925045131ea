//! Reads the policy files at start and again whenever their content changes.
//!
//! Changes are detected by content, not by date or inode, because Kubernetes replaces symbolic links in the path.
//! Content that is still changing is not read. Content with an error is logged once, and the last valid policy stays in
//! force.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::file_watch::FileWatch;
use super::followed::Followed;
use crate::authn::Authn;
use crate::authz::{Homes, LOCAL, Policies, PolicyFile};
use crate::config::{self, Config, Origin, Problem, Problems, read_regular_aside};
use crate::server::descriptors;
use crate::telemetry::Metrics;

/// Time for which changed content must stay the same before it is enforced.
const SETTLE: Duration = Duration::from_secs(1);
/// Settling time, in units of [`SETTLE`], of content that removes rules. A program that writes a file in pieces can
/// pause between them, and a missing DENY opens what it closed.
const SETTLE_WITH_LESS: u32 = 5;
/// Units of [`SETTLE`] after which content that keeps changing is left to the next check.
const PATIENCE: u32 = 30;

/// Contents of the policy files of a configuration.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) policies: Policies,
    pub(super) files: Vec<File>,
}

/// Reads the policy files of this configuration. Without any, there are no grants beside the store's.
///
/// # Errors
/// All problems of both files.
pub async fn read_policies(config: &Config) -> Result<Policies, Problems> {
    read(config).await.map(|read| read.policies)
}

/// Reads the policy files like [`read_policies`], for a proxy that is going to follow them.
pub(super) async fn read(config: &Config) -> Result<Read, Problems> {
    let (policies, mut files, mut problems) = (Policies::of(homes(config)), files(&config.authz), Vec::new());
    for file in &mut files {
        file.seen = file.text().await;
        match parse(&file.seen, policies.homes()) {
            Ok(policy) => file.kind.replace(&policies, policy),
            Err(messages) => problems.extend(messages.into_iter().map(|message| Problem {
                key: file.kind.key().to_owned(),
                message,
                origin: Some(Origin::File(file.path.clone())),
            })),
        }
    }
    if problems.is_empty() { Ok(Read { policies, files }) } else { Err(Problems(problems)) }
}

/// Returns the homes of accounts: the providers for sign-in, then the issuers of bearer tokens.
fn homes(config: &Config) -> Homes {
    let providers = config.providers.iter().map(|it| (it.endpoint.issuer.clone(), it.name.clone()));
    let issuers = config.issuers.iter().map(|it| (it.endpoint.issuer.clone(), it.name.clone()));
    Homes::new(providers.chain(issuers))
}

/// Returns warnings about settings that are valid but possibly unintended.
#[must_use]
pub fn warnings(config: &Config, policies: &Policies) -> Vec<String> {
    let descriptors = descriptors::fit(&mut config.clone(), descriptors::attainable());
    descriptors.into_iter().chain(ambiguous_names(config, policies)).collect()
}

fn ambiguous_names(config: &Config, policies: &Policies) -> Vec<String> {
    let names: Vec<&str> = policies.homes().names().collect();
    let [first, others @ ..] = names.as_slice() else { return Vec::new() };
    if others.is_empty() {
        return Vec::new();
    }
    let path = config.authz.policy_file.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
    let warning = |line| {
        format!(
            "authz.policy_file: {path}, line {line}: names a user without a provider, and several providers may have a user \
             of that name. It means the user of `{first}`; for one of {}, add `provider = \"NAME\"` beside `user`",
            others.join(", ")
        )
    };
    policies.enforced().by_plain_name().map(warning).collect()
}

/// Returns one future per file, which follows the file while it is polled.
pub(super) fn follow(
    files: Vec<File>,
    authn: Arc<Authn>,
    metrics: Arc<Metrics>,
    followed: Arc<Followed>,
) -> impl Iterator<Item = impl Future<Output = ()> + Send + 'static> {
    let follow = move |file: File| file.follow(Arc::clone(&authn), Arc::clone(&metrics), Arc::clone(&followed));
    files.into_iter().map(follow)
}

/// A policy file and its content at the last read.
#[derive(Debug)]
pub(super) struct File {
    kind: Kind,
    path: PathBuf,
    seen: Content,
}

/// The text of a file, or the reason why it cannot be read.
type Content = Result<String, String>;

#[derive(Clone, Copy, Debug)]
enum Kind {
    Enforced,
    Shadow,
}

impl Kind {
    const fn key(self) -> &'static str {
        match self {
            Self::Enforced => "authz.policy_file",
            Self::Shadow => "authz.shadow_policy_file",
        }
    }

    const fn label(self) -> &'static str {
        match self {
            Self::Enforced => "policy",
            Self::Shadow => "shadow_policy",
        }
    }

    fn replace(self, policies: &Policies, policy: PolicyFile) {
        match self {
            Self::Enforced => policies.enforce(policy),
            Self::Shadow => policies.try_beside(policy),
        }
    }

    fn current(self, policies: &Policies) -> Arc<PolicyFile> {
        match self {
            Self::Enforced => policies.enforced(),
            Self::Shadow => policies.shadow().unwrap_or_default(),
        }
    }
}

impl File {
    async fn follow(mut self, authn: Arc<Authn>, metrics: Arc<Metrics>, followed: Arc<Followed>) {
        metrics.policy_read(self.kind.label(), true);
        followed.is(self.kind.key(), None);
        let mut watch = FileWatch::start();
        loop {
            watch.next().await;
            let now = self.text().await;
            if now != self.seen
                && let Some(settled) = self.settled(now, authn.policies()).await
            {
                self.take(settled, &authn, &metrics, &followed);
            }
        }
    }

    /// Reads until the content has stayed the same for long enough. Returns `None` if it is unchanged after all, or
    /// does not settle.
    async fn settled(&self, first: Content, policies: &Policies) -> Option<Content> {
        let before = self.kind.current(policies);
        let mut settling = Settling { last: first, quiet: 0 };
        for _ in 0..PATIENCE {
            tokio::time::sleep(SETTLE).await;
            if settling.is_over(self.text().await, &before) {
                return (settling.last != self.seen).then_some(settling.last);
            }
        }
        let (key, path) = (self.kind.key(), self.path.display());
        tracing::warn!("{key}: {path} keeps changing and is not read; the policy from before is still in use");
        None
    }

    fn take(&mut self, now: Content, authn: &Authn, metrics: &Metrics, followed: &Followed) {
        let (key, path) = (self.kind.key(), self.path.display());
        let read = parse(&now, authn.policies().homes());
        metrics.policy_read(self.kind.label(), read.is_ok());
        match read {
            Ok(policy) => {
                tracing::info!(grants = policy.grants(), "{key}: {path} is in use from now on");
                followed.is(key, None);
                self.kind.replace(authn.policies(), policy);
                // Only after the replacement: an identity that is loaded from now on uses the new policy.
                authn.forget_all();
            }
            Err(messages) => {
                let more =
                    if messages.len() > 1 { format!(" (and {} more)", messages.len() - 1) } else { String::new() };
                let first = messages.first().map_or("", String::as_str);
                followed.is(key, Some(format!("the policy from before is in use: {first}{more}")));
                for message in messages {
                    tracing::error!("{key}: {message} ({path}); the policy from before is still in use");
                }
            }
        }
        self.seen = now;
    }

    async fn text(&self) -> Content {
        // Reads one byte more than a policy is allowed to have, so that the parser reports the limit.
        let read = read_regular_aside(self.path.clone(), PolicyFile::MAX_BYTES as u64 + 1).await;
        read.map_err(|error| unreadable(&error))
    }
}

/// Recently changed content that is not in force yet.
#[derive(Debug)]
struct Settling {
    last: Content,
    /// Number of consecutive reads that returned `last` again.
    quiet: u32,
}

impl Settling {
    /// Records one more read. Returns true if the content has settled.
    fn is_over(&mut self, read: Content, before: &PolicyFile) -> bool {
        if read != self.last {
            *self = Self { last: read, quiet: 0 };
            return false;
        }
        self.quiet += 1;
        let parsed = self.last.as_ref().ok().and_then(|text| PolicyFile::parse_rules(text).ok());
        let takes_away = || parsed.is_some_and(|policy| policy.takes_away_from(before));
        self.quiet >= SETTLE_WITH_LESS || (self.quiet == 1 && !takes_away())
    }
}

fn files(authz: &config::Authz) -> Vec<File> {
    let both = [(Kind::Enforced, &authz.policy_file), (Kind::Shadow, &authz.shadow_policy_file)];
    let given = both.into_iter().filter_map(|(kind, path)| Some((kind, path.clone()?)));
    given.map(|(kind, path)| File { kind, path, seen: Err(String::new()) }).collect()
}

fn unreadable(error: &io::Error) -> String {
    format!("the file cannot be read: {error}")
}

/// Parses a policy file and refuses unknown providers: a rule for one would apply to no user, even if it denies access.
fn parse(text: &Content, homes: &Homes) -> Result<PolicyFile, Vec<String>> {
    let text = text.as_ref().map_err(|message| vec![message.clone()])?;
    let file = PolicyFile::parse_rules(text)
        .map_err(|problems| problems.0.iter().map(ToString::to_string).collect::<Vec<String>>())?;
    let unknown = file.providers().filter(|(_, name)| !homes.has(name)).map(|(line, name)| {
        let place = line.map(|line| format!("line {line}: ")).unwrap_or_default();
        format!("{place}`provider` is `{name}`, which is neither `{LOCAL}` nor a configured provider or issuer")
    });
    let unknown: Vec<String> = unknown.collect();
    if unknown.is_empty() { Ok(file) } else { Err(unknown) }
}

#[cfg(test)]
mod tests;
