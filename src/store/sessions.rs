//! Sessions of browsers, and the logout tokens that ended some.
//!
//! The cookie's secret is kept as a hash only, the provider's tokens sealed. Ending one raises the revision, so that
//! every process forgets it; using and refreshing one does not.

use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row as _, Sqlite};

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

/// The sessions of which providers are leased.
#[derive(Clone, Copy, Debug)]
pub enum Whose<'a> {
    AllBut(&'a [&'a str]),
    Only(&'a str),
}

impl Store {
    /// Makes a session. A user has `at_most` of them: those that were not used for longest end.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the user is gone.
    pub async fn create_session(&self, actor: &Actor, new: &NewSession, at_most: u32) -> Result<Session> {
        let mut change = self.change().await?;
        let user = change.user(new.user).await?;
        let at = change.at.0;
        let surplus = sqlx::query(
            "DELETE FROM sessions WHERE user_id = $1 AND id NOT IN (
                 SELECT id FROM sessions WHERE user_id = $1 ORDER BY last_used DESC, id DESC LIMIT $2)",
        );
        let surplus = surplus.bind(new.user.0).bind(i64::from(at_most).saturating_sub(1));
        let surplus = surplus.execute(change.on()).await?.rows_affected();
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
        let mut how = new.provider.as_deref().unwrap_or("password").to_owned();
        if surplus > 0 {
            how.push_str(&format!("; {surplus} sessions ended, because the user has too many"));
        }
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

    /// Leases sessions whose refresh is due for `milliseconds` each, so that no other task refreshes them. Idle ones, last
    /// used before `idle_since`, and ended ones are left alone.
    ///
    /// # Errors
    /// As every method.
    pub async fn lease_due_sessions(
        &self,
        whose: Whose<'_>,
        idle_since: Timestamp,
        milliseconds: i64,
        at_most: i64,
    ) -> Result<Vec<Lease>> {
        let now = self.clock.now().0;
        // Mostly there is none, and then nobody needs the write lock.
        let mut count = QueryBuilder::new("SELECT COUNT(*) FROM sessions WHERE ");
        push_due(&mut count, whose, idle_since.0, now);
        let due: i64 = count.build_query_scalar().fetch_one(&self.readers).await?;
        if due == 0 {
            return Ok(Vec::new());
        }
        let until = now.saturating_add(milliseconds);
        let mut lease = QueryBuilder::new("UPDATE sessions SET refresh_lease = ");
        lease.push_bind(until).push(" WHERE id IN (SELECT id FROM sessions WHERE ");
        push_due(&mut lease, whose, idle_since.0, now);
        lease.push(" ORDER BY refresh_at LIMIT ").push_bind(at_most).push(
            ")
             RETURNING id, user_id, provider, issuer, subject, sid, tokens, created, last_used, expires, refresh_at,
                       failures, address, agent",
        );
        let mut tx = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        let rows = lease.build().fetch_all(&mut *tx).await?;
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

/// The condition under which a session is to be refreshed.
fn push_due(query: &mut QueryBuilder<Sqlite>, whose: Whose<'_>, idle_since: i64, now: i64) {
    query.push("refresh_at <= ").push_bind(now).push(" AND refresh_lease < ").push_bind(now);
    query.push(" AND last_used >= ").push_bind(idle_since).push(" AND expires > ").push_bind(now);
    match whose {
        Whose::Only(provider) => {
            query.push(" AND provider = ").push_bind(provider.to_owned());
        }
        Whose::AllBut(providers) => {
            for provider in providers {
                query.push(" AND provider <> ").push_bind((*provider).to_owned());
            }
        }
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
