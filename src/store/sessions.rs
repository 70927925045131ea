//! Browser sessions, and the logout tokens that were used.
//!
//! Only a hash of the cookie's secret is stored, and the provider's tokens are sealed. Ending a session raises the
//! revision, so that every process drops it from its cache; using and refreshing a session does not.

use std::fmt::Write as _;

use super::changes::Scope;
use super::db::{Row, sql};
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
        let surplus = sql("DELETE FROM sessions WHERE user_id = $1 AND id NOT IN (
                 SELECT id FROM sessions WHERE user_id = $1 ORDER BY last_used DESC, id DESC LIMIT $2)");
        let surplus = surplus.bind(new.user.0).bind(i64::from(at_most).saturating_sub(1));
        let surplus = surplus.execute(change.on()).await?;
        let row = sql(
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
        // A session that ends here has a cached identity.
        change.affects((surplus > 0).then_some(Scope::User(user.id)));
        change.commit(actor, "session.create", format!("user:{}", user.name), how).await?;
        Ok(session)
    }

    /// Returns the session of a cookie, including an expired one.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn session_by_hash(&self, hash: &TokenHash) -> Result<Option<Session>> {
        let row =
            sql("SELECT id, user_id, provider, issuer, subject, sid, tokens, created, last_used, expires, refresh_at,
                    failures, address, agent
             FROM sessions WHERE hash = $1");
        row.bind(hash.0.to_vec()).fetch_optional(&self.readers).await?.as_ref().map(session).transpose()
    }

    /// Returns the session with this ID.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn session(&self, id: SessionId) -> Result<Option<Session>> {
        let row =
            sql("SELECT id, user_id, provider, issuer, subject, sid, tokens, created, last_used, expires, refresh_at,
                    failures, address, agent
             FROM sessions WHERE id = $1");
        row.bind(id.0).fetch_optional(&self.readers).await?.as_ref().map(session).transpose()
    }

    /// Returns the sessions of a user, newest first.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn sessions_of(&self, user: UserId) -> Result<Vec<Session>> {
        let rows =
            sql("SELECT id, user_id, provider, issuer, subject, sid, tokens, created, last_used, expires, refresh_at,
                    failures, address, agent
             FROM sessions WHERE user_id = $1 ORDER BY id DESC");
        rows.bind(user.0).fetch_all(&self.readers).await?.iter().map(session).collect()
    }

    /// Ends one session; `why` is for the audit log.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn end_session(&self, actor: &Actor, id: SessionId, why: &str) -> Result<()> {
        let mut change = self.change().await?;
        let ended = sql("DELETE FROM sessions WHERE id = $1 RETURNING user_id").bind(id.0);
        let Some(user) = ended.scalar_optional(change.on()).await? else {
            return Err(Error::NotFound(format!("session {id}")));
        };
        change.affects([Scope::User(UserId(user))]);
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
        sql("DELETE FROM logout_tokens WHERE expires < $1").bind(at).execute(change.on()).await?;
        let first = sql("INSERT INTO logout_tokens (issuer, jti, expires) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING");
        let first = first.bind(issuer).bind(jti).bind(until.0).execute(change.on()).await?;
        if first == 0 {
            return Ok(None);
        }
        // With both, the `sid` selects and the subject must agree. Sessions of a provider that sent no `sid` end too.
        let ended: Vec<i64> = match (sid, subject) {
            (Some(sid), Some(subject)) => {
                sql("DELETE FROM sessions WHERE issuer = $1 AND (sid = $2 OR sid IS NULL) AND subject = $3
                     RETURNING user_id")
                .bind(issuer)
                .bind(sid)
                .bind(subject)
                .scalars(change.on())
                .await?
            }
            (Some(sid), None) => {
                sql("DELETE FROM sessions WHERE issuer = $1 AND sid = $2 RETURNING user_id")
                    .bind(issuer)
                    .bind(sid)
                    .scalars(change.on())
                    .await?
            }
            (None, Some(subject)) => {
                sql("DELETE FROM sessions WHERE issuer = $1 AND subject = $2 RETURNING user_id")
                    .bind(issuer)
                    .bind(subject)
                    .scalars(change.on())
                    .await?
            }
            (None, None) => Vec::new(),
        };
        change.affects(ended.iter().map(|user| Scope::User(UserId(*user))));
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
        let now = self.now().0;
        let (due, providers) = due(whose);
        let bound = |text: String| {
            providers.iter().fold(sql(text).bind(now).bind(idle_since.0), |query, provider| query.bind(*provider))
        };
        // Usually no session is due, and no lock is needed.
        let count: i64 = bound(format!("SELECT COUNT(*) FROM sessions WHERE {due}")).scalar(&self.readers).await?;
        if count == 0 {
            return Ok(Vec::new());
        }
        let until = now.saturating_add(milliseconds);
        let (until_at, limit_at) = (providers.len() + 3, providers.len() + 4);
        // The outer condition repeats the lease: PostgreSQL evaluates it again for a row that another process leased
        // while this statement waited for it, and the inner one not.
        let lease = bound(format!(
            "UPDATE sessions SET refresh_lease = ${until_at}
             WHERE id IN (SELECT id FROM sessions WHERE {due} ORDER BY refresh_at LIMIT ${limit_at})
               AND refresh_at <= $1 AND refresh_lease < $1
             RETURNING id, user_id, provider, issuer, subject, sid, tokens, created, last_used, expires, refresh_at,
                       failures, address, agent"
        ));
        let lease = lease.bind(until).bind(at_most);
        let mut tx = self.writer.begin().await?;
        let rows = lease.fetch_all(&mut tx).await?;
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
        let written = sql("UPDATE sessions SET tokens = $1, refresh_at = $2, failures = $3, refresh_lease = 0
             WHERE id = $4 AND refresh_lease = $5")
        .bind(tokens)
        .bind(refresh_at.map(|at| at.0))
        .bind(failures)
        .bind(lease.session.id.0)
        .bind(lease.until.0)
        .execute(&self.writer)
        .await?;
        Ok(written > 0)
    }

    /// Records the last use of sessions. Does not raise the revision and is not audited.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn touch_sessions(&self, used: &[(SessionId, Timestamp)]) -> Result<()> {
        let used: Vec<_> = used.iter().map(|(session, at)| (session.0, at.0)).collect();
        self.touch("sessions", "sessions.last_used < used.column2", &used).await
    }

    /// Deletes sessions that have expired or were last used before `idle_since`, and returns their number. The
    /// revision is not raised, because these sessions could not be used any more.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn sweep_sessions(&self, idle_since: Timestamp) -> Result<u64> {
        let swept = sql("DELETE FROM sessions WHERE expires <= $1 OR last_used < $2")
            .bind(self.now().0)
            .bind(idle_since.0)
            .execute(&self.writer)
            .await?;
        Ok(swept)
    }
}

/// Returns the condition for sessions that are due for a refresh, with the time as `$1` and the start of idleness as
/// `$2`, and the values of its further parameters.
fn due<'w>(whose: Whose<'w>) -> (String, Vec<&'w str>) {
    let (comparison, providers) = match whose {
        Whose::Only(provider) => ("=", vec![provider]),
        Whose::AllBut(providers) => ("<>", providers.to_vec()),
    };
    let mut due = "refresh_at <= $1 AND refresh_lease < $1 AND last_used >= $2 AND expires > $1".to_owned();
    for place in 0..providers.len() {
        let _ = write!(due, " AND provider {comparison} ${}", place + 3);
    }
    (due, providers)
}

pub(super) fn session(row: &Row) -> Result<Session> {
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
        refresh_at: row.try_get::<Option<i64>>("refresh_at")?.map(Timestamp),
        failures: row.try_get("failures")?,
        address: row.try_get("address")?,
        agent: row.try_get("agent")?,
    })
}
