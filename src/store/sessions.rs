//! Sessions of browsers, and the logout tokens that ended some.
//!
//! The cookie's secret is kept as a hash only, the provider's tokens sealed. Ending one raises the revision, so that
//! every process forgets it; using and refreshing one does not.

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::{Actor, Error, Result, Store};
use crate::authz::{SessionId, UserId};
use crate::clock::Timestamp;
use crate::crypto::TokenHash;

/// A browser that is signed in.
#[derive(Clone, Debug)]
pub struct Session {
    pub id: SessionId,
    pub user: UserId,
    /// The configuration's name of the provider; `None`: signed in with a password.
    pub provider: Option<String>,
    pub issuer: Option<String>,
    pub subject: Option<String>,
    /// The provider's session, which several of ours may share.
    pub sid: Option<String>,
    /// Sealed by whoever made it.
    pub tokens: String,
    pub created: Timestamp,
    pub last_used: Timestamp,
    /// When it ends, however much it is used.
    pub expires: Timestamp,
    pub refresh_at: Option<Timestamp>,
    /// Refreshes that failed in a row.
    pub failures: i64,
    pub address: String,
    pub agent: String,
}

/// A session to be made.
#[derive(Clone, Debug)]
pub struct NewSession {
    pub hash: TokenHash,
    pub user: UserId,
    pub provider: Option<String>,
    pub issuer: Option<String>,
    pub subject: Option<String>,
    pub sid: Option<String>,
    pub tokens: String,
    pub expires: Timestamp,
    pub refresh_at: Option<Timestamp>,
    pub address: String,
    pub agent: String,
}

/// The right to refresh one session, for as long as it lasts; no other process has it.
#[derive(Clone, Debug)]
pub struct Lease {
    pub session: Session,
    pub until: Timestamp,
}

impl Store {
    /// Makes a session.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the user is gone.
    pub async fn create_session(&self, actor: &Actor, new: &NewSession) -> Result<Session> {
        let mut change = self.change().await?;
        let user = change.user(new.user).await?;
        let at = change.at.0;
        let row = sqlx::query(
            "INSERT INTO sessions (hash, user_id, provider, issuer, subject, sid, tokens, created, last_used, expires,
                                   refresh_at, address, agent)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
             RETURNING id, user_id, provider, issuer, subject, sid, tokens, created, last_used, expires, refresh_at,
                       failures, address, agent",
        )
        .bind(new.hash.0.to_vec())
        .bind(new.user.0)
        .bind(&new.provider)
        .bind(&new.issuer)
        .bind(&new.subject)
        .bind(&new.sid)
        .bind(&new.tokens)
        .bind(at)
        .bind(at)
        .bind(new.expires.0)
        .bind(new.refresh_at.map(|at| at.0))
        .bind(&new.address)
        .bind(&new.agent)
        .fetch_one(change.on())
        .await?;
        let session = session(&row)?;
        let how = new.provider.as_deref().unwrap_or("password").to_owned();
        change.commit(actor, "session.create", format!("user:{}", user.name), how).await?;
        Ok(session)
    }

    /// The session behind a cookie, also one that is over.
    ///
    /// # Errors
    /// As every method.
    pub async fn session_by_hash(&self, hash: &TokenHash) -> Result<Option<Session>> {
        let row = sqlx::query(
            "SELECT id, user_id, provider, issuer, subject, sid, tokens, created, last_used, expires, refresh_at,
                    failures, address, agent
             FROM sessions WHERE hash = $1",
        );
        row.bind(hash.0.to_vec()).fetch_optional(&self.readers).await?.as_ref().map(session).transpose()
    }

    /// The session of this number.
    ///
    /// # Errors
    /// As every method.
    pub async fn session(&self, id: SessionId) -> Result<Option<Session>> {
        let row = sqlx::query(
            "SELECT id, user_id, provider, issuer, subject, sid, tokens, created, last_used, expires, refresh_at,
                    failures, address, agent
             FROM sessions WHERE id = $1",
        );
        row.bind(id.0).fetch_optional(&self.readers).await?.as_ref().map(session).transpose()
    }

    /// The sessions of a user, newest first.
    ///
    /// # Errors
    /// As every method.
    pub async fn sessions_of(&self, user: UserId) -> Result<Vec<Session>> {
        let rows = sqlx::query(
            "SELECT id, user_id, provider, issuer, subject, sid, tokens, created, last_used, expires, refresh_at,
                    failures, address, agent
             FROM sessions WHERE user_id = $1 ORDER BY id DESC",
        );
        rows.bind(user.0).fetch_all(&self.readers).await?.iter().map(session).collect()
    }

    /// Ends one session at once; `why` is for the audit.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn end_session(&self, actor: &Actor, id: SessionId, why: &str) -> Result<()> {
        let mut change = self.change().await?;
        let ended = sqlx::query("DELETE FROM sessions WHERE id = $1").bind(id.0).execute(change.on()).await?;
        if ended.rows_affected() == 0 {
            return Err(Error::NotFound(format!("session {id}")));
        }
        change.commit(actor, "session.end", format!("session:{id}"), why.to_owned()).await
    }

    /// Ends what a logout token names: the sessions of that `sid`, or without one all of that subject. Says whose they
    /// were, each user once. `Ok(None)`: this token was used before, and nothing was done.
    ///
    /// # Errors
    /// As every method.
    pub async fn log_out(
        &self,
        actor: &Actor,
        issuer: &str,
        jti: &str,
        until: Timestamp,
        subject: Option<&str>,
        sid: Option<&str>,
    ) -> Result<Option<Vec<UserId>>> {
        let mut change = self.change().await?;
        let at = change.at.0;
        sqlx::query("DELETE FROM logout_tokens WHERE expires < $1").bind(at).execute(change.on()).await?;
        let first =
            sqlx::query("INSERT INTO logout_tokens (issuer, jti, expires) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING");
        let first = first.bind(issuer).bind(jti).bind(until.0).execute(change.on()).await?;
        if first.rows_affected() == 0 {
            return Ok(None);
        }
        // With both, the sid decides and the subject must agree; a session whose provider told no sid ends, too.
        let ended: Vec<i64> = match (sid, subject) {
            (Some(sid), Some(subject)) => {
                sqlx::query_scalar(
                    "DELETE FROM sessions WHERE issuer = $1 AND (sid = $2 OR sid IS NULL) AND subject = $3
                     RETURNING user_id",
                )
                .bind(issuer)
                .bind(sid)
                .bind(subject)
                .fetch_all(change.on())
                .await?
            }
            (Some(sid), None) => {
                sqlx::query_scalar("DELETE FROM sessions WHERE issuer = $1 AND sid = $2 RETURNING user_id")
                    .bind(issuer)
                    .bind(sid)
                    .fetch_all(change.on())
                    .await?
            }
            (None, Some(subject)) => {
                sqlx::query_scalar("DELETE FROM sessions WHERE issuer = $1 AND subject = $2 RETURNING user_id")
                    .bind(issuer)
                    .bind(subject)
                    .fetch_all(change.on())
                    .await?
            }
            (None, None) => Vec::new(),
        };
        let detail = format!("{} sessions ended by the provider", ended.len());
        change.commit(actor, "session.logout", issuer.to_owned(), detail).await?;
        let mut users: Vec<UserId> = ended.into_iter().map(UserId).collect();
        users.sort_unstable();
        users.dedup();
        Ok(Some(users))
    }

    /// Sessions whose refresh is due and that nobody is refreshing; each is leased for `milliseconds`. Idle ones, last used
    /// before `idle_since`, and ended ones are left alone.
    ///
    /// # Errors
    /// As every method.
    pub async fn lease_due_sessions(
        &self,
        idle_since: Timestamp,
        milliseconds: i64,
        at_most: i64,
    ) -> Result<Vec<Lease>> {
        let now = self.clock.now().0;
        // Mostly there is none, and then nobody needs the write lock.
        let due: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM sessions WHERE refresh_at <= $1")
            .bind(now)
            .fetch_one(&self.readers)
            .await?;
        if due == 0 {
            return Ok(Vec::new());
        }
        let until = now.saturating_add(milliseconds);
        let mut tx = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        let rows = sqlx::query(
            "UPDATE sessions SET refresh_lease = $1 WHERE id IN (
                 SELECT id FROM sessions
                 WHERE refresh_at <= $2 AND refresh_lease < $3 AND last_used >= $4 AND expires > $5
                 ORDER BY refresh_at LIMIT $6)
             RETURNING id, user_id, provider, issuer, subject, sid, tokens, created, last_used, expires, refresh_at,
                       failures, address, agent",
        )
        .bind(until)
        .bind(now)
        .bind(now)
        .bind(idle_since.0)
        .bind(now)
        .bind(at_most)
        .fetch_all(&mut *tx)
        .await?;
        tx.commit().await?;
        rows.iter().map(|row| Ok(Lease { session: session(row)?, until: Timestamp(until) })).collect()
    }

    /// Ends a lease with what came of it: new sealed tokens or the old ones, when to refresh next, and failures in a row.
    /// Says whether the lease was still held; when it was not, nothing is written.
    ///
    /// # Errors
    /// As every method.
    pub async fn refreshed(
        &self,
        lease: &Lease,
        tokens: &str,
        refresh_at: Option<Timestamp>,
        failures: i64,
    ) -> Result<bool> {
        let written = sqlx::query(
            "UPDATE sessions SET tokens = $1, refresh_at = $2, failures = $3, refresh_lease = 0
             WHERE id = $4 AND refresh_lease = $5",
        )
        .bind(tokens)
        .bind(refresh_at.map(|at| at.0))
        .bind(failures)
        .bind(lease.session.id.0)
        .bind(lease.until.0)
        .execute(&self.writer)
        .await?;
        Ok(written.rows_affected() > 0)
    }

    /// Notes the last uses; does not raise the revision, is not audited.
    ///
    /// # Errors
    /// As every method.
    pub async fn touch_sessions(&self, used: &[(SessionId, Timestamp)]) -> Result<()> {
        let mut tx = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        for (session, at) in used {
            sqlx::query("UPDATE sessions SET last_used = $1 WHERE id = $2 AND last_used < $3")
                .bind(at.0)
                .bind(session.0)
                .bind(at.0)
                .execute(&mut *tx)
                .await?;
        }
        Ok(tx.commit().await?)
    }

    /// Drops sessions that are over or were last used before `idle_since`; how many. Nobody could use them any more, so
    /// nothing is announced.
    ///
    /// # Errors
    /// As every method.
    pub async fn sweep_sessions(&self, idle_since: Timestamp) -> Result<u64> {
        let swept = sqlx::query("DELETE FROM sessions WHERE expires <= $1 OR last_used < $2")
            .bind(self.clock.now().0)
            .bind(idle_since.0)
            .execute(&self.writer)
            .await?;
        Ok(swept.rows_affected())
    }
}

fn session(row: &SqliteRow) -> Result<Session> {
    Ok(Session {
        id: SessionId(row.try_get("id")?),
        user: UserId(row.try_get("user_id")?),
        provider: row.try_get("provider")?,
        issuer: row.try_get("issuer")?,
        subject: row.try_get("subject")?,
        sid: row.try_get("sid")?,
        tokens: row.try_get("tokens")?,
        created: Timestamp(row.try_get("created")?),
        last_used: Timestamp(row.try_get("last_used")?),
        expires: Timestamp(row.try_get("expires")?),
        refresh_at: row.try_get::<Option<i64>, _>("refresh_at")?.map(Timestamp),
        failures: row.try_get("failures")?,
        address: row.try_get("address")?,
        agent: row.try_get("agent")?,
    })
}
