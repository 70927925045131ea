//! What we remember: users, access tokens, grants, intents of unfinished effects, audit.
//!
//! SQLite through sqlx; every statement is one text that PostgreSQL accepts too. Each change and its audit row are one
//! transaction, which also raises [`Store::revision`] so that caches, in this process or another, notice.

use crate::authz::{Grant, Limits, Permission, ResourceKind, Selector, Subject, TokenId, UserId};
use crate::clock::{Clock, Timestamp};
use crate::crypto::{PasswordHash, TokenHash};

/// Somebody with an account.
#[derive(Clone, Debug)]
pub struct User {
    pub id: UserId,
    pub name: String,
    pub admin: bool,
    /// `None`: this account has no password and signs in another way.
    pub password: Option<PasswordHash>,
    pub created: Timestamp,
}

/// An access token as the store knows it: everything but the secret.
#[derive(Clone, Debug)]
pub struct Token {
    pub id: TokenId,
    pub user: UserId,
    pub name: String,
    pub limits: Limits,
    pub created: Timestamp,
    pub expires: Timestamp,
    pub last_used: Option<Timestamp>,
    pub revoked: Option<Timestamp>,
}

/// What is needed to remember a new token.
#[derive(Debug)]
pub struct NewToken<'a> {
    pub user: UserId,
    pub name: &'a str,
    pub hash: TokenHash,
    pub limits: &'a Limits,
    pub expires: Timestamp,
}

/// Who changes something, for the audit.
#[derive(Clone, Debug)]
pub struct Actor {
    /// User name, or `command-line`, `bootstrap`, `proxy`.
    pub name: String,
    pub token: Option<TokenId>,
    pub address: Option<std::net::IpAddr>,
}

/// One row of the audit log.
#[derive(Clone, Debug)]
pub struct AuditEntry {
    pub at: Timestamp,
    pub actor: Actor,
    /// A bounded word, e.g. `user.create`, `grant.set`, `request.denied`.
    pub action: String,
    /// What it was done to, e.g. `user:alice`, `experiment:12`.
    pub target: String,
    /// A sentence without secrets.
    pub detail: String,
}

/// What we are about to do in MLflow that must be followed by a change here.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Effect {
    /// The creator will get MANAGE on the thing of this kind that is being created under `name`.
    Create { kind: ResourceKind, name: String, user: UserId },
    /// Grants on it will be dropped.
    Drop { kind: ResourceKind, key: String },
    /// Grants on it will move.
    Rename { kind: ResourceKind, from: String, to: String },
}

/// A remembered [`Effect`] that is not finished.
#[derive(Clone, Debug)]
pub struct Intent {
    pub id: i64,
    pub effect: Effect,
    pub created: Timestamp,
}

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("`{0}` already exists")]
    Exists(String),
    #[error("`{0}` was not found")]
    NotFound(String),
    #[error("`{0}` is the last administrator")]
    LastAdmin(String),
    #[error("the store cannot be opened: {0}")]
    Open(String),
    #[error("the store does not answer: {0}")]
    Unavailable(#[source] sqlx::Error),
    #[error("the store holds a row that cannot be read: {0}")]
    Corrupt(String),
}

/// A result of the store.
pub type Result<T> = std::result::Result<T, Error>;

/// The database, behind two pools: one writer, several readers.
#[derive(Clone, Debug)]
pub struct Store {
    clock: Clock,
}

#[expect(unused_variables, clippy::todo, clippy::unused_async, reason = "signatures first")]
impl Store {
    /// Opens `sqlite://path` (made when absent) or `sqlite::memory:`, and brings its tables up to date.
    pub async fn open(url: &str, clock: Clock) -> Result<Self> {
        todo!()
    }
    /// Whether the database answers and takes writes; what `/readyz` asks.
    pub async fn check(&self) -> Result<()> {
        todo!()
    }
    /// A number that every change raises, in whichever process it happened.
    pub async fn revision(&self) -> Result<i64> {
        todo!()
    }
    /// 32 random bytes made once per database, for sealing page tokens.
    pub async fn sealing_key(&self) -> Result<[u8; 32]> {
        todo!()
    }

    /// Waits for what is under way and closes the database.
    pub async fn close(&self) {
        todo!()
    }

    // ---- users
    pub async fn create_user(
        &self,
        actor: &Actor,
        name: &str,
        password: Option<&PasswordHash>,
        admin: bool,
    ) -> Result<User> {
        todo!()
    }
    pub async fn user_by_name(&self, name: &str) -> Result<Option<User>> {
        todo!()
    }
    pub async fn user(&self, id: UserId) -> Result<Option<User>> {
        todo!()
    }
    /// All users, by name.
    pub async fn users(&self) -> Result<Vec<User>> {
        todo!()
    }
    pub async fn set_password(&self, actor: &Actor, user: UserId, password: &PasswordHash) -> Result<()> {
        todo!()
    }
    /// Refuses to unmake the last administrator.
    pub async fn set_admin(&self, actor: &Actor, user: UserId, admin: bool) -> Result<()> {
        todo!()
    }
    /// Also drops tokens and grants. Refuses to delete the last administrator.
    pub async fn delete_user(&self, actor: &Actor, user: UserId) -> Result<()> {
        todo!()
    }

    // ---- tokens
    /// `Exists` when the user has a live token of that name.
    pub async fn create_token(&self, actor: &Actor, token: NewToken<'_>) -> Result<Token> {
        todo!()
    }
    /// The token and its owner; also expired and revoked ones, so the caller can say why.
    pub async fn token_by_hash(&self, hash: &TokenHash) -> Result<Option<(Token, User)>> {
        todo!()
    }
    /// All tokens of a user, newest first, revoked and expired ones included.
    pub async fn tokens_of(&self, user: UserId) -> Result<Vec<Token>> {
        todo!()
    }
    pub async fn token(&self, id: TokenId) -> Result<Option<Token>> {
        todo!()
    }
    pub async fn revoke_token(&self, actor: &Actor, id: TokenId) -> Result<()> {
        todo!()
    }
    /// A new secret and expiry for the same token; the old secret stops at once. `NotFound` when revoked.
    pub async fn rotate_token(&self, actor: &Actor, id: TokenId, hash: TokenHash, expires: Timestamp) -> Result<Token> {
        todo!()
    }
    /// Notes the last use; does not raise the revision, is not audited.
    pub async fn touch_tokens(&self, used: &[(TokenId, Timestamp)]) -> Result<()> {
        todo!()
    }

    // ---- grants
    pub async fn grants_of(&self, subject: &Subject) -> Result<Vec<Grant>> {
        todo!()
    }
    pub async fn grants_on(&self, kind: ResourceKind, selector: &Selector) -> Result<Vec<Grant>> {
        todo!()
    }
    /// Every grant, by kind, selector, subject.
    pub async fn grants(&self) -> Result<Vec<Grant>> {
        todo!()
    }
    /// `Exists` when the subject already has a grant on that selector.
    pub async fn create_grant(&self, actor: &Actor, grant: &Grant) -> Result<()> {
        todo!()
    }
    /// Makes it or changes its level.
    pub async fn set_grant(&self, actor: &Actor, grant: &Grant) -> Result<()> {
        todo!()
    }
    /// `NotFound` when there is none.
    pub async fn update_grant(&self, actor: &Actor, grant: &Grant) -> Result<()> {
        todo!()
    }
    /// `NotFound` when there is none.
    pub async fn delete_grant(
        &self,
        actor: &Actor,
        subject: &Subject,
        kind: ResourceKind,
        selector: &Selector,
    ) -> Result<Permission> {
        todo!()
    }

    // ---- effects
    /// Remembers what is about to happen, before MLflow is asked. When this fails, MLflow must not be asked.
    pub async fn begin(&self, effect: &Effect) -> Result<i64> {
        todo!()
    }
    /// `Create` happened under this key: the creator gets MANAGE (an existing grant of theirs is raised), the intent goes. One transaction.
    pub async fn finish_create(
        &self,
        actor: &Actor,
        intent: i64,
        kind: ResourceKind,
        key: &str,
        user: UserId,
    ) -> Result<()> {
        todo!()
    }
    /// `Drop` happened: everybody's exact grants on it go, and the intent.
    pub async fn finish_drop(&self, actor: &Actor, intent: i64, kind: ResourceKind, key: &str) -> Result<()> {
        todo!()
    }
    /// `Rename` happened: exact grants move (one that is in the way at the new name is replaced), and the intent goes.
    pub async fn finish_rename(
        &self,
        actor: &Actor,
        intent: i64,
        kind: ResourceKind,
        from: &str,
        to: &str,
    ) -> Result<()> {
        todo!()
    }
    /// MLflow said no: nothing follows.
    pub async fn abandon(&self, intent: i64) -> Result<()> {
        todo!()
    }
    /// What a crash left unfinished, oldest first.
    pub async fn intents(&self) -> Result<Vec<Intent>> {
        todo!()
    }

    // ---- audit
    pub async fn audit(&self, entries: &[AuditEntry]) -> Result<()> {
        todo!()
    }
    /// The newest `limit` entries, newest first.
    pub async fn audit_log(&self, limit: u32) -> Result<Vec<AuditEntry>> {
        todo!()
    }
}
