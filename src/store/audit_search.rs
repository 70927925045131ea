//! Searches of the audit log.

use std::net::IpAddr;

use super::db::sql;
use super::{AuditEntry, Result, Store, rows};
use crate::clock::Timestamp;

/// Conditions on audit entries, all of which must hold. The default matches every entry.
#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    /// Name of the actor.
    pub actor: Option<String>,
    /// An action such as `token.create`, or its first part, such as `token`.
    pub action: Option<String>,
    pub outcome: Option<AuditOutcome>,
    /// Operation of a denied request, as the access log names it.
    pub operation: Option<String>,
    /// Object of a change, such as `experiment:12` or `user:alice`.
    pub target: Option<String>,
    /// Text that the detail of a denial contains instead, when `target` is a resource.
    pub denied_on: Option<String>,
    pub address: Option<IpAddr>,
    /// First time that matches.
    pub since: Option<Timestamp>,
    /// First time that no longer matches.
    pub until: Option<Timestamp>,
}

/// Kind of an audit entry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AuditOutcome {
    /// A change to the store.
    Changed,
    /// A refused request or a failed sign-in.
    Denied,
}

impl Store {
    /// Returns the newest `limit` entries that match, newest first.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn audit_search(&self, filter: &AuditFilter, limit: u32) -> Result<Vec<AuditEntry>> {
        // The casts give the parameters a type where PostgreSQL cannot infer one.
        let entries = sql(
            "SELECT at, actor, token, address, action, target, detail, count FROM audit
             WHERE (CAST($1 AS TEXT) IS NULL OR actor = $1)
               AND (CAST($2 AS TEXT) IS NULL OR action = $2 OR action LIKE $3 ESCAPE '\\')
               AND (CAST($4 AS TEXT) IS NULL
                    OR (action IN ('request.denied', 'login.failed')) = (CAST($4 AS TEXT) = 'denied'))
               AND (CAST($5 AS TEXT) IS NULL OR (action = 'request.denied' AND target = $5))
               AND (CAST($6 AS TEXT) IS NULL OR target = $6 OR (action = 'request.denied' AND detail LIKE $7 ESCAPE '\\'))
               AND (CAST($8 AS TEXT) IS NULL OR address = $8)
               AND at >= $9 AND at < $10
             ORDER BY id DESC LIMIT $11",
        );
        let outcome = filter.outcome.map(|outcome| match outcome {
            AuditOutcome::Changed => "changed",
            AuditOutcome::Denied => "denied",
        });
        entries
            .bind(filter.actor.clone())
            .bind(filter.action.clone())
            .bind(filter.action.as_deref().map(|action| format!("{}.%", literal(action))))
            .bind(outcome.map(str::to_owned))
            .bind(filter.operation.clone())
            .bind(filter.target.clone())
            .bind(filter.denied_on.as_deref().map(|text| format!("%{}%", literal(text))))
            .bind(filter.address.map(|address| address.to_string()))
            .bind(filter.since.map_or(i64::MIN, |since| since.0))
            .bind(filter.until.map_or(i64::MAX, |until| until.0))
            .bind(i64::from(limit))
            .fetch_all(&self.readers)
            .await?
            .iter()
            .map(rows::audit_entry)
            .collect()
    }
}

/// Escapes the wildcards of `LIKE`.
fn literal(text: &str) -> String {
    text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_")
}
