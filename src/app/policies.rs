//! The policy files: read at start, and again whenever their content changes.
//!
//! Content is compared, not the file's date or inode: Kubernetes swaps links under a path. What does not hold is said once
//! and changes nothing: the last good policy stays.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::io::AsyncReadExt as _;

use super::looks::Looks;
use crate::authn::Authn;
use crate::authz::{Homes, LOCAL, Policies, PolicyFile};
use crate::config::{self, Config, Origin, Problem, Problems};
use crate::telemetry::Metrics;

/// A little more than a policy may have, so that too much is seen as such.
const MAX_BYTES: u64 = 1024 * 1024 + 1;

/// Reads the files of this configuration. Without any, nothing is granted beside the store.
///
/// # Errors
/// Everything that is wrong with either.
pub async fn read_policies(config: &Config) -> Result<Policies, Problems> {
    let (policies, mut problems) = (Policies::of(homes(config)), Vec::new());
    for file in files(&config.authz) {
        let text = text(&file.path).await.map_err(|error| vec![unreadable(&error)]);
        match text.and_then(|text| parse(&text, policies.homes())) {
            Ok(policy) => file.kind.replace(&policies, policy),
            Err(messages) => problems.extend(messages.into_iter().map(|message| Problem {
                key: file.kind.key().to_owned(),
                message,
                origin: Some(Origin::File(file.path.clone())),
            })),
        }
    }
    if problems.is_empty() { Ok(policies) } else { Err(Problems(problems)) }
}

/// Where accounts come from: the providers that people sign in at, then the issuers of bearer tokens.
fn homes(config: &Config) -> Homes {
    let providers = config.providers.iter().map(|it| (it.endpoint.issuer.clone(), it.name.clone()));
    let issuers = config.issuers.iter().map(|it| (it.endpoint.issuer.clone(), it.name.clone()));
    Homes::new(providers.chain(issuers))
}

/// What is valid and may still not be what was meant, in words.
#[must_use]
pub fn warnings(config: &Config, policies: &Policies) -> Vec<String> {
    let names: Vec<&str> = policies.homes().names().collect();
    let [first, others @ ..] = names.as_slice() else { return Vec::new() };
    if others.is_empty() {
        return Vec::new();
    }
    let path = config.authz.policy_file.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
    let warning = |line| {
        format!(
            "authz.policy_file: {path}, line {line}: goes by user name, and several providers may know that name. It means the \
             user of `{first}`; for one of {}, add `provider = \"NAME\"` beside `user`",
            others.join(", ")
        )
    };
    policies.enforced().by_plain_name().map(warning).collect()
}

/// Follows the files for as long as it is polled.
pub(super) async fn follow(authz: config::Authz, authn: Arc<Authn>, metrics: Arc<Metrics>) {
    let mut files = files(&authz);
    if files.is_empty() {
        return;
    }
    let mut looks = Looks::start();
    loop {
        looks.next().await;
        for file in &mut files {
            file.look(&authn, &metrics).await;
        }
    }
}

/// One of the two, and what it said when it was last looked at.
#[derive(Debug)]
struct Followed {
    kind: Kind,
    path: PathBuf,
    /// The text, or why there is none; `None` before the first look.
    seen: Option<Result<String, String>>,
}

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
}

impl Followed {
    async fn look(&mut self, authn: &Authn, metrics: &Metrics) {
        let now = text(&self.path).await.map_err(|error| unreadable(&error));
        if self.seen.as_ref() == Some(&now) {
            return;
        }
        let (key, path) = (self.kind.key(), self.path.display());
        let read = now
            .as_deref()
            .map_err(|message| vec![message.to_owned()])
            .and_then(|text| parse(text, authn.policies().homes()));
        metrics.policy_read(self.kind.label(), read.is_ok());
        match read {
            Ok(policy) => {
                tracing::info!(grants = policy.grants(), "{key}: {path} holds from now on");
                self.kind.replace(authn.policies(), policy);
                // After it: what is loaded from here on sees the new one.
                authn.forget_all();
            }
            Err(messages) => {
                for message in messages {
                    tracing::error!("{key}: {message} ({path}); what held before still holds");
                }
            }
        }
        self.seen = Some(now);
    }
}

fn files(authz: &config::Authz) -> Vec<Followed> {
    let both = [(Kind::Enforced, &authz.policy_file), (Kind::Shadow, &authz.shadow_policy_file)];
    let given = both.into_iter().filter_map(|(kind, path)| Some((kind, path.clone()?)));
    given.map(|(kind, path)| Followed { kind, path, seen: None }).collect()
}

async fn text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    tokio::fs::File::open(path).await?.take(MAX_BYTES).read_to_string(&mut text).await?;
    Ok(text)
}

fn unreadable(error: &io::Error) -> String {
    format!("the file cannot be read: {error}")
}

/// A rule of a provider that is not configured would apply to nobody, also one that refuses.
fn parse(text: &str, homes: &Homes) -> Result<PolicyFile, Vec<String>> {
    let file = PolicyFile::parse(text)
        .map_err(|problems| problems.0.iter().map(ToString::to_string).collect::<Vec<String>>())?;
    let unknown = file.providers().filter(|(_, name)| !homes.has(name)).map(|(line, name)| {
        let place = line.map(|line| format!("line {line}: ")).unwrap_or_default();
        format!("{place}`provider` is `{name}`, which is neither `{LOCAL}` nor a configured provider or issuer")
    });
    let unknown: Vec<String> = unknown.collect();
    if unknown.is_empty() { Ok(file) } else { Err(unknown) }
}
