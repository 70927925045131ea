//! Browser sessions, and the logout tokens that were used.
//!
//! Only a hash of the cookie's secret is stored, and the provider's tokens are sealed. Ending a session raises the
//! revision, so that every process drops it from its cache; using and refreshing a session does not.

use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row as _, Sqlite};

use super::{Actor, Error, Result, Store};
use crate::authz::{SessionId, UserId};
use crate::clock::Timestamp;
use crate::crypto::TokenHash;

/// A browser session.
#[derive(Clone, Debug)]
pub struct Session {
    pub id: SessionId,
    pub user: UserId,
    /// Configured name of the provider; `None` for a sign-in with a password.
    pub provider: Option<String>,
    pub issuer: Option<String>,
    pub subject: Option<String>,
    /// The provider's session ID (`sid`), which several sessions of the proxy can share.
    pub sid: Option<String>,
    /// The provider's tokens, sealed by the caller that created the session.
    pub tokens: String,
    pub created: Timestamp,
    pub last_used: Timestamp,
    /// End of the session, regardless of its use.
    pub expires: Timestamp,
    pub refresh_at: Option<Timestamp>,
    /// Number of consecutive failed refreshes.
    pub failures: i64,
    pub address: String,
    pub agent: String,
}

/// A session to create.
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

/// The exclusive right to refresh one session, across all processes, until it expires.
#[derive(Clone, Debug)]
pub struct Lease {
    pub session: Session,
    pub until: Timestamp,
}

/// Selection of providers whose sessions are leased.
#[derive(Clone, Copy, Debug)]
pub enum Whose<'a> {
    AllBut(&'a [&'a str]),
    Only(&'a str),
}

impl Store {
    /// Creates a session. A user has at most `at_most` sessions; beyond that, the least recently used ones end.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the user does not exist any more.
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

    /// Returns the session of a cookie, including an expired one.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn session_by_hash(&self, hash: &TokenHash) -> Result<Option<Session>> {
        let row = sqlx::query(
            "SELECT id, user_id, provider, issuer, subject, sid, tokens, created, last_used, expires, refresh_at,
                    failures, address, agent
             FROM sessions WHERE hash = $1",
        );
        row.bind(hash.0.to_vec()).fetch_optional(&self.readers).await?.as_ref().map(session).transpose()
    }

    /// Returns the session with this ID.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn session(&self, id: SessionId) -> Result<Option<Session>> {
        let row = sqlx::query(
            "SELECT id, user_id, provider, issuer, subject, sid, tokens, created, last_used, expires, refresh_at,
                    failures, address, agent
             FROM sessions WHERE id = $1",
        );
        row.bind(id.0).fetch_optional(&self.readers).await?.as_ref().map(session).transpose()
    }

    /// Returns the sessions of a user, newest first.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn sessions_of(&self, user: UserId) -> Result<Vec<Session>> {
        let rows = sqlx::query(
            "SELECT id, user_id, provider, issuer, subject, sid, tokens, created, last_used, expires, refresh_at,
                    failures, address, agent
             FROM sessions WHERE user_id = $1 ORDER BY id DESC",
        );
        rows.bind(user.0).fetch_all(&self.readers).await?.iter().map(session).collect()
    }

    /// Ends one session; `why` is for the audit log.
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

    /// Ends the sessions that a logout token names: those with its `sid`, or without a `sid` all sessions of the
    /// subject. Returns the affected users, each once, or `None` when the token was used before, in which case no
    /// session ends.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
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
        // With both, the `sid` selects and the subject must agree. Sessions of a provider that sent no `sid` end too.
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

    /// Leases the sessions that are due for a refresh for `milliseconds` each, so that no other task refreshes them.
    /// Idle sessions (last used before `idle_since`) and expired ones are skipped.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn lease_due_sessions(
        &self,
        whose: Whose<'_>,
        idle_since: Timestamp,
        milliseconds: i64,
        at_most: i64,
    ) -> Result<Vec<Lease>> {
        let now = self.clock.now().0;
        // Usually no session is due, and the write lock is not needed.
        let mut count = QueryBuilder::new("SELECT COUNT(*) FROM sessions WHERE ");
        push_due(&mut count, whose, idle_since.0, now);
        let due: i64 = count.build_query_scalar().fetch_one(&self.readers).await?;
        if due == 0 {
            return Ok(Vec::new());
        }
        let until = now.saturating_add(milliseconds);
        // Repeats the condition under the write lock: another process can have leased the sessions since.
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

    /// Ends a lease and stores its result: new or unchanged sealed tokens, the time of the next refresh, and the
    /// number of consecutive failures. Returns false, and writes nothing, when the lease was no longer held.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
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

    /// Records the last use of sessions. Does not raise the revision and is not audited.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
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

    /// Deletes sessions that have expired or were last used before `idle_since`, and returns their number. The
    /// revision is not raised, because these sessions could not be used any more.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn sweep_sessions(&self, idle_since: Timestamp) -> Result<u64> {
        let swept = sqlx::query("DELETE FROM sessions WHERE expires <= $1 OR last_used < $2")
            .bind(self.clock.now().0)
            .bind(idle_since.0)
            .execute(&self.writer)
            .await?;
        Ok(swept.rows_affected())
    }
}

/// Appends the condition for sessions that are due for a refresh.
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
