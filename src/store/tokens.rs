//! Access tokens. Only a hash of the secret is stored.
//!
//! A token that was revoked or has expired is kept for its owner and the audit log. It cannot be used again.

use super::change::Change;
use super::changes::Scope;
use super::db::sql;
use super::{Actor, Error, Result, Store, User, rows};
use crate::authz::{Limits, TokenId, UserId};
use crate::clock::Timestamp;
use crate::crypto::TokenHash;

/// An access token as stored, without its secret.
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

/// Values of a new token.
#[derive(Debug)]
pub struct NewToken<'a> {
    pub user: UserId,
    pub name: &'a str,
    pub hash: TokenHash,
    pub limits: &'a Limits,
    pub expires: Timestamp,
}

impl Store {
    /// Stores a new token.
    ///
    /// # Errors
    /// [`Error::Exists`] when the user has a valid token of that name; [`Error::NotFound`] when there is no such
    /// user.
    pub async fn create_token(&self, actor: &Actor, token: NewToken<'_>) -> Result<Token> {
        let mut change = self.change().await?;
        let owner = change.user(token.user).await?;
        change.free_token_name(token.user, token.name, None).await?;
        let scopes = rows::scopes(token.limits);
        let created =
            sql("INSERT INTO tokens (user_id, name, hash, scopes, created, expires) VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (hash) DO NOTHING
             RETURNING id, user_id, name, scopes, created, expires, last_used, revoked")
            .bind(token.user.0)
            .bind(token.name)
            .bind(token.hash.0.to_vec())
            .bind(&scopes)
            .bind(change.at.0)
            .bind(token.expires.0)
            .fetch_optional(change.on())
            .await?;
        let created = rows::token(&created.ok_or_else(|| Error::Exists(token.name.to_owned()))?)?;
        change.affects([]);
        let detail =
            format!("`{}` of {}, scopes {scopes}, expires {}", token.name, owner.name, token.expires.rfc3339());
        change.commit(actor, "token.create", target(created.id), detail).await?;
        Ok(created)
    }

    /// Returns the token and its owner. Expired and revoked tokens are included, so that the caller can report the
    /// reason.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn token_by_hash(&self, hash: &TokenHash) -> Result<Option<(Token, User)>> {
        let token = sql("SELECT t.id, t.user_id, t.name, t.scopes, t.created, t.expires, t.last_used, t.revoked,
                    u.name AS owner_name, u.password AS owner_password, u.admin AS owner_admin,
                    u.created AS owner_created, u.issuer, u.subject, u.groups, u.group_admin, u.allowed, u.seen,
                    u.suspended
             FROM tokens t JOIN users u ON u.id = t.user_id WHERE t.hash = $1")
        .bind(hash.0.to_vec());
        token.fetch_optional(&self.readers).await?.as_ref().map(rows::token_and_owner).transpose()
    }

    /// Returns all tokens of a user, newest first, including revoked and expired ones.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn tokens_of(&self, user: UserId) -> Result<Vec<Token>> {
        let tokens = sql("SELECT id, user_id, name, scopes, created, expires, last_used, revoked
             FROM tokens WHERE user_id = $1 ORDER BY id DESC");
        tokens.bind(user.0).fetch_all(&self.readers).await?.iter().map(rows::token).collect()
    }

    /// Returns the token with this ID.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn token(&self, id: TokenId) -> Result<Option<Token>> {
        let token =
            sql("SELECT id, user_id, name, scopes, created, expires, last_used, revoked FROM tokens WHERE id = $1");
        token.bind(id.0).fetch_optional(&self.readers).await?.as_ref().map(rows::token).transpose()
    }

    /// Revokes a token. Has no effect on a token that is already revoked.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn revoke_token(&self, actor: &Actor, id: TokenId) -> Result<()> {
        let mut change = self.change().await?;
        let token = change.token(id).await?;
        if token.revoked.is_some() {
            return Ok(());
        }
        sql("UPDATE tokens SET revoked = $1 WHERE id = $2").bind(change.at.0).bind(id.0).execute(change.on()).await?;
        change.affects([Scope::User(token.user)]);
        change.commit(actor, "token.revoke", target(id), format!("`{}`", token.name)).await
    }

    /// Replaces secret and expiry of a token. The old secret stops working at once.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the token does not exist or is revoked; [`Error::Exists`] when it had expired and its
    /// name was taken since.
    pub async fn rotate_token(&self, actor: &Actor, id: TokenId, hash: TokenHash, expires: Timestamp) -> Result<Token> {
        let mut change = self.change().await?;
        let token = change.token(id).await?;
        if token.revoked.is_some() {
            return Err(not_found(id));
        }
        change.free_token_name(token.user, &token.name, Some(id)).await?;
        let rotated = sql("UPDATE tokens SET hash = $1, expires = $2 WHERE id = $3
             RETURNING id, user_id, name, scopes, created, expires, last_used, revoked")
        .bind(hash.0.to_vec())
        .bind(expires.0)
        .bind(id.0)
        .fetch_optional(change.on())
        .await?;
        let rotated = rows::token(&rotated.ok_or_else(|| not_found(id))?)?;
        change.affects([Scope::User(token.user)]);
        change
            .commit(actor, "token.rotate", target(id), format!("`{}`, expires {}", token.name, expires.rfc3339()))
            .await?;
        Ok(rotated)
    }

    /// Records the last use of tokens. Does not raise the revision and is not audited.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn touch_tokens(&self, used: &[(TokenId, Timestamp)]) -> Result<()> {
        let used: Vec<_> = used.iter().map(|(token, at)| (token.0, at.0)).collect();
        // Another process can have recorded a later use.
        let later = "tokens.last_used IS NULL OR tokens.last_used < used.column2";
        self.touch("tokens", later, &used).await
    }
}

impl Change {
    async fn token(&mut self, id: TokenId) -> Result<Token> {
        let token =
            sql("SELECT id, user_id, name, scopes, created, expires, last_used, revoked FROM tokens WHERE id = $1");
        let token = token.bind(id.0).fetch_optional(self.on()).await?;
        rows::token(&token.ok_or_else(|| not_found(id))?)
    }

    /// Revokes every valid token of a user, and returns their number.
    pub(super) async fn revoke_all_tokens(&mut self, user: UserId) -> Result<u64> {
        let at = self.at.0;
        let revoked = sql("UPDATE tokens SET revoked = $1 WHERE user_id = $2 AND revoked IS NULL AND expires > $1");
        Ok(revoked.bind(at).bind(user.0).execute(self.on()).await?)
    }

    /// Refuses a name that another valid token of the user has.
    async fn free_token_name(&mut self, user: UserId, name: &str, except: Option<TokenId>) -> Result<()> {
        let at = self.at.0;
        let taken: i64 = sql("SELECT COUNT(*) FROM tokens
             WHERE user_id = $1 AND name = $2 AND revoked IS NULL AND expires > $3 AND id <> $4")
        .bind(user.0)
        .bind(name)
        .bind(at)
        .bind(except.map_or(-1, |id| id.0))
        .scalar(self.on())
        .await?;
        if taken > 0 { Err(Error::Exists(name.to_owned())) } else { Ok(()) }
    }
}

fn target(id: TokenId) -> String {
    format!("token:{id}")
}

fn not_found(id: TokenId) -> Error {
    Error::NotFound(format!("token {id}"))
}
