//! `token`: access tokens, with which programs sign in.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::{Args, Subcommand};
use serde::Serialize;

use super::output::{Format, Row};
use super::stored::{Absent, Opened};
use crate::authz::{Limits, TokenId};
use crate::clock::Timestamp;
use crate::config::Flags;
use crate::crypto::AccessToken;
use crate::store::{self, NewToken, Token, User};
use crate::text;

pub(super) const EXAMPLES: &str = "\
Examples:
  mlflow-auth-proxy token create --user alice --name notebook
  mlflow-auth-proxy token create --user ci --name nightly --expires-in-days 30 --scope experiment:12
  mlflow-auth-proxy token create --user dashboard --name grafana --scope read-only
  mlflow-auth-proxy token revoke 12
  export MLFLOW_TRACKING_TOKEN=$(mlflow-auth-proxy token rotate --user ci --name nightly)";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the tokens of one user, or of all users
    List {
        /// Only tokens of this user
        #[arg(long)]
        user: Option<String>,
    },
    /// Create a token; its secret is printed once, on standard output
    Create {
        #[command(flatten)]
        new: New,
        #[command(flatten)]
        expiry: Expiry,
        /// Limit the token: `read-only`, `experiment:ID`, `registered_model:NAME` or `prompt:NAME`; can be repeated
        #[arg(long)]
        scope: Vec<String>,
    },
    /// Revoke a token permanently, with immediate effect
    Revoke(Which),
    /// Replace the secret and the expiry of a token; the old secret stops working at once
    Rotate {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        expiry: Expiry,
    },
}

#[derive(Args, Debug)]
pub(super) struct New {
    /// The token's owner
    #[arg(long)]
    user: String,
    /// The token's name, such as `notebook`; unique among the user's tokens
    #[arg(long)]
    name: String,
}

/// An existing token.
#[derive(Args, Debug)]
pub(super) struct Which {
    /// The token's ID, as `token list` shows it
    #[arg(required_unless_present_all = ["user", "name"], conflicts_with_all = ["user", "name"])]
    id: Option<i64>,
    /// The token's owner; with --name instead of the ID
    #[arg(long, requires = "name")]
    user: Option<String>,
    /// The token's name; with --user instead of the ID
    #[arg(long, requires = "user")]
    name: Option<String>,
}

#[derive(Args, Clone, Copy, Debug)]
pub(super) struct Expiry {
    /// Days until the token expires
    #[arg(long, default_value_t = 90, value_name = "DAYS")]
    expires_in_days: u32,
}

impl Expiry {
    fn moment(self, opened: &Opened) -> anyhow::Result<Timestamp> {
        let (days, most) = (self.expires_in_days, opened.token_max_days);
        ensure!((1..=most).contains(&days), "--expires-in-days must be between 1 and {most} (authn.token_max_days)");
        Ok(opened.now.plus(Duration::from_secs(u64::from(days) * 86_400)))
    }
}

/// One token, as `--json` shows it. `token` is present only when it was just created.
#[derive(Debug, Serialize)]
struct Shown {
    id: i64,
    user: String,
    name: String,
    state: &'static str,
    scopes: Vec<String>,
    created_at: String,
    expires_at: String,
    last_used_at: Option<String>,
    revoked_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
}

impl Shown {
    fn new(token: &Token, user: &str, now: Timestamp) -> Self {
        Self {
            id: token.id.0,
            user: user.to_owned(),
            name: token.name.clone(),
            state: state(token, now),
            scopes: token.limits.scopes(),
            created_at: token.created.rfc3339(),
            expires_at: token.expires.rfc3339(),
            last_used_at: token.last_used.map(Timestamp::rfc3339),
            revoked_at: token.revoked.map(Timestamp::rfc3339),
            token: None,
        }
    }
}

impl Row<8> for Shown {
    const HEAD: [&'static str; 8] = ["ID", "USER", "NAME", "STATE", "SCOPES", "CREATED", "EXPIRES", "LAST USED"];

    fn cells(&self) -> [String; 8] {
        [
            self.id.to_string(),
            self.user.clone(),
            self.name.clone(),
            self.state.to_owned(),
            if self.scopes.is_empty() { "-".to_owned() } else { self.scopes.join(" ") },
            self.created_at.clone(),
            self.expires_at.clone(),
            self.last_used_at.clone().unwrap_or_else(|| "never".to_owned()),
        ]
    }
}

pub(super) async fn run(command: Command, format: Format, flags: &Flags) -> anyhow::Result<ExitCode> {
    Opened::with(flags, Absent::Refuse, async |opened| carry_out(command, format, opened).await).await
}

async fn carry_out(command: Command, format: Format, opened: &Opened) -> anyhow::Result<()> {
    match command {
        Command::List { user } => format.list("tokens", &list(opened, user.as_deref()).await?),
        Command::Create { new, expiry, scope } => {
            let limits = Limits::parse(scope.iter().map(String::as_str))?;
            let user = opened.user(&new.user).await?;
            let (token, secret) = create(opened, &user, &new.name, &limits, expiry.moment(opened)?).await?;
            reveal(opened, format, &token, &secret, &user.name)
        }
        Command::Revoke(which) => {
            let (user, token) = live(opened, which).await?;
            opened.store.revoke_token(&opened.actor, token.id).await?;
            let token = opened.store.token(token.id).await?.unwrap_or(token);
            let sentence = format!("token `{}` of `{}` was revoked", token.name, user.name);
            format.done(&Shown::new(&token, &user.name, opened.now), &sentence)
        }
        Command::Rotate { which, expiry } => {
            let (user, token) = live(opened, which).await?;
            let (secret, expires) = (AccessToken::generate(), expiry.moment(opened)?);
            let token = opened.store.rotate_token(&opened.actor, token.id, secret.hash(), expires).await?;
            reveal(opened, format, &token, &secret, &user.name)
        }
    }
}

/// Creates a token for a user.
pub(super) async fn create(
    opened: &Opened,
    user: &User,
    name: &str,
    limits: &Limits,
    expires: Timestamp,
) -> anyhow::Result<(Token, AccessToken)> {
    if let Err(why) = text::check_name(name) {
        bail!("a token's name {why}");
    }
    let secret = AccessToken::generate();
    let new = NewToken { user: user.id, name, hash: secret.hash(), limits, expires };
    match opened.store.create_token(&opened.actor, new).await {
        Ok(token) => Ok((token, secret)),
        Err(store::Error::Exists(_)) => bail!(
            "`{}` already has a token named `{name}`; choose another name, or replace its secret with `token rotate`",
            user.name
        ),
        Err(other) => Err(other).context("the token was not created"),
    }
}

async fn list(opened: &Opened, user: Option<&str>) -> anyhow::Result<Vec<Shown>> {
    let users = match user {
        Some(name) => vec![opened.user(name).await?],
        None => opened.store.users().await?,
    };
    let mut shown = Vec::new();
    for user in users {
        let tokens = opened.store.tokens_of(user.id).await?;
        shown.extend(tokens.iter().map(|token| Shown::new(token, &user.name, opened.now)));
    }
    Ok(shown)
}

/// Returns the token, which must not be revoked, and its owner.
async fn live(opened: &Opened, which: Which) -> anyhow::Result<(User, Token)> {
    match which {
        Which { id: Some(id), .. } => by_id(opened, TokenId(id)).await,
        Which { id: None, user: Some(user), name: Some(name) } => by_name(opened, &user, &name).await,
        Which { id: None, .. } => bail!("give the token's ID, or --user and --name"),
    }
}

async fn by_id(opened: &Opened, id: TokenId) -> anyhow::Result<(User, Token)> {
    let token = opened.store.token(id).await?;
    let token = token.with_context(|| format!("there is no token {id}; `mlflow-auth-proxy token list` lists all"))?;
    ensure!(token.revoked.is_none(), "token {id} (`{}`) is already revoked", token.name);
    let owner = opened.store.user(token.user).await?;
    Ok((owner.with_context(|| format!("the owner of token {id} no longer exists"))?, token))
}

async fn by_name(opened: &Opened, user: &str, name: &str) -> anyhow::Result<(User, Token)> {
    let user = opened.user(user).await?;
    let mut tokens = opened.store.tokens_of(user.id).await?.into_iter();
    let token = tokens.find(|token| token.name == name && token.revoked.is_none());
    let token = token.with_context(|| {
        let user = &user.name;
        format!("`{user}` has no token `{name}` that is not revoked; `mlflow-auth-proxy token list` lists all")
    })?;
    Ok((user, token))
}

fn reveal(opened: &Opened, format: Format, token: &Token, secret: &AccessToken, user: &str) -> anyhow::Result<()> {
    let sentence = format!(
        "Token `{}` of `{user}`, shown once. Expires at {}. Use it as MLFLOW_TRACKING_TOKEN, or as \
         MLFLOW_TRACKING_PASSWORD with MLFLOW_TRACKING_USERNAME={user}.",
        token.name,
        token.expires.rfc3339()
    );
    let shown = Shown { token: Some(secret.reveal().to_owned()), ..Shown::new(token, user, opened.now) };
    format.secret(&shown, &sentence, secret.reveal())
}

fn state(token: &Token, now: Timestamp) -> &'static str {
    if token.revoked.is_some() {
        "revoked"
    } else if token.expires <= now {
        "expired"
    } else {
        "active"
    }
}
