//! Access tokens: everything but the secret.

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::{Actor, Change, Error, NewToken, Result, Store, Token, User, finish, next_id, users};
use crate::authz::{Limits, TokenId, UserId};
use crate::clock::Timestamp;
use crate::crypto::TokenHash;

const COLUMNS: &str = "SELECT id AS token_id, user_id, name AS token_name, scopes, created AS token_created, expires, \
                       last_used, revoked FROM tokens";

impl Store {
    /// Remembers a new token.
    ///
    /// # Errors
    /// [`Error::Exists`] when its owner has a live token of that name; [`Error::NotFound`] when the owner is gone.
    pub async fn create_token(&self, actor: &Actor, token: NewToken<'_>) -> Result<Token> {
        let mut change = self.begin_change().await?;
        let created = self.clock.now();
        let live = "SELECT id FROM tokens WHERE user_id = $1 AND name = $2 AND revoked IS NULL AND expires > $3";
        let row =
            sqlx::query(live).bind(token.user.0).bind(token.name).bind(created.0).fetch_optional(&mut *change).await?;
        if row.is_some() {
            return Err(Error::Exists(token.name.to_owned()));
        }
        let owner = sqlx::query("SELECT id FROM users WHERE id = $1").bind(token.user.0);
        if owner.fetch_optional(&mut *change).await?.is_none() {
            return Err(Error::NotFound(token.user.to_string()));
        }
        let id = next_id(&mut change).await?;
        let scopes = token.limits.scopes();
        let insert = "INSERT INTO tokens (id, user_id, name, hash, scopes, created, expires) \
                      VALUES ($1, $2, $3, $4, $5, $6, $7)";
        sqlx::query(insert)
            .bind(id)
            .bind(token.user.0)
            .bind(token.name)
            .bind(token.hash.to_hex())
            .bind(serde_json::Value::from(scopes.clone()).to_string())
            .bind(created.0)
            .bind(token.expires.0)
            .execute(&mut *change)
            .await?;
        let detail = format!("`{}` for user {}, scopes [{}]", token.name, token.user, scopes.join(", "));
        finish(change, self.entry(actor, "token.create", target(TokenId(id)), detail)).await?;
        Ok(Token {
            id: TokenId(id),
            user: token.user,
            name: token.name.to_owned(),
            limits: token.limits.clone(),
            created,
            expires: token.expires,
            last_used: None,
            revoked: None,
        })
    }

    /// The token and its owner; also expired and revoked ones, so the caller can say why.
    ///
    /// # Errors
    /// [`Error::Unavailable`]
    pub async fn token_by_hash(&self, hash: &TokenHash) -> Result<Option<(Token, User)>> {
        let by_hash = "SELECT t.id AS token_id, t.user_id, t.name AS token_name, t.scopes, t.created AS token_created, \
                       t.expires, t.last_used, t.revoked, u.id, u.name, u.password, u.admin, u.created \
                       FROM tokens t JOIN users u ON u.id = t.user_id WHERE t.hash = $1";
        let row = sqlx::query(by_hash).bind(hash.to_hex()).fetch_optional(&self.read).await?;
        row.map(|row| Ok((token(&row)?, users::user(&row)?))).transpose()
    }

    /// All tokens of a user, newest first, revoked and expired ones included.
    ///
    /// # Errors
    /// [`Error::Unavailable`]
    pub async fn tokens_of(&self, user: UserId) -> Result<Vec<Token>> {
        let sql = const_format(COLUMNS, " WHERE user_id = $1 ORDER BY id DESC");
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(user.0).fetch_all(&self.read).await?;
        rows.iter().map(token).collect()
    }

    /// One token.
    ///
    /// # Errors
    /// [`Error::Unavailable`]
    pub async fn token(&self, id: TokenId) -> Result<Option<Token>> {
        let sql = const_format(COLUMNS, " WHERE id = $1");
        let row = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(id.0).fetch_optional(&self.read).await?;
        row.as_ref().map(token).transpose()
    }

    /// Ends a token for good.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is none, or it was revoked before.
    pub async fn revoke_token(&self, actor: &Actor, id: TokenId) -> Result<()> {
        let mut change = self.begin_change().await?;
        let revoke = "UPDATE tokens SET revoked = $2 WHERE id = $1 AND revoked IS NULL";
        let done = sqlx::query(revoke).bind(id.0).bind(self.clock.now().0).execute(&mut *change).await?;
        if done.rows_affected() == 0 {
            return Err(Error::NotFound(id.to_string()));
        }
        finish(change, self.entry(actor, "token.revoke", target(id), "")).await
    }

    /// A new secret and expiry for the same token; the old secret stops at once.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is none, or it was revoked.
    pub async fn rotate_token(&self, actor: &Actor, id: TokenId, hash: TokenHash, expires: Timestamp) -> Result<Token> {
        let mut change = self.begin_change().await?;
        let rotate = "UPDATE tokens SET hash = $2, expires = $3, last_used = NULL WHERE id = $1 AND revoked IS NULL";
        let done = sqlx::query(rotate).bind(id.0).bind(hash.to_hex()).bind(expires.0).execute(&mut *change).await?;
        if done.rows_affected() == 0 {
            return Err(Error::NotFound(id.to_string()));
        }
        let token = token_in(&mut change, id).await?;
        finish(change, self.entry(actor, "token.rotate", target(id), "")).await?;
        Ok(token)
    }

    /// Notes last uses; does not raise the revision, is not audited.
    ///
    /// # Errors
    /// [`Error::Unavailable`]
    pub async fn touch_tokens(&self, used: &[(TokenId, Timestamp)]) -> Result<()> {
        let mut change = self.begin_change().await?;
        for (id, at) in used {
            sqlx::query("UPDATE tokens SET last_used = $2 WHERE id = $1")
                .bind(id.0)
                .bind(at.0)
                .execute(&mut *change)
                .await?;
        }
        change.commit().await?;
        Ok(())
    }
}

async fn token_in(change: &mut Change, id: TokenId) -> Result<Token> {
    let sql = const_format(COLUMNS, " WHERE id = $1");
    token(&sqlx::query(sqlx::AssertSqlSafe(sql)).bind(id.0).fetch_one(&mut **change).await?)
}

/// Two constants make one statement; nothing a caller said is in it.
fn const_format(columns: &'static str, condition: &'static str) -> String {
    format!("{columns}{condition}")
}

fn token(row: &SqliteRow) -> Result<Token> {
    let id: i64 = row.try_get("token_id")?;
    let corrupt = || Error::Corrupt(format!("the scopes of token {id}"));
    let scopes: String = row.try_get("scopes")?;
    let scopes: Vec<String> = serde_json::from_str(&scopes).map_err(|_| corrupt())?;
    // A scope that cannot be read must not widen the token: it is an error, and an error is a no.
    let limits = Limits::parse(scopes.iter().map(String::as_str)).map_err(|_| corrupt())?;
    Ok(Token {
        id: TokenId(id),
        user: UserId(row.try_get("user_id")?),
        name: row.try_get("token_name")?,
        limits,
        created: Timestamp(row.try_get("token_created")?),
        expires: Timestamp(row.try_get("expires")?),
        last_used: row.try_get::<Option<i64>, _>("last_used")?.map(Timestamp),
        revoked: row.try_get::<Option<i64>, _>("revoked")?.map(Timestamp),
    })
}

fn target(id: TokenId) -> String {
    format!("token:{id}")
}
