//! Grants: whom, what, how much.
//!
//! A subject has at most one grant on a selector. A grant to a user who does not exist is refused.

use super::change::Change;
use super::rows::{selector_columns, subject_columns};
use super::{Actor, Error, Result, Store, rows};
use crate::authz::{Grant, Permission, ResourceKind, Selector, Subject};

impl Store {
    /// What one subject holds.
    ///
    /// # Errors
    /// As every method.
    pub async fn grants_of(&self, subject: &Subject) -> Result<Vec<Grant>> {
        let (subject_kind, subject) = subject_columns(subject);
        let grants = sqlx::query(
            "SELECT subject_kind, subject, kind, form, selector, permission FROM grants
             WHERE subject_kind = $1 AND subject = $2 ORDER BY kind, form, selector",
        );
        let grants = grants.bind(subject_kind).bind(subject).fetch_all(&self.readers).await?;
        grants.iter().map(rows::grant).collect()
    }

    /// The grants that say exactly this selector; not those that also match it.
    ///
    /// # Errors
    /// As every method.
    pub async fn grants_on(&self, kind: ResourceKind, selector: &Selector) -> Result<Vec<Grant>> {
        let (form, selector) = selector_columns(selector);
        let grants = sqlx::query(
            "SELECT subject_kind, subject, kind, form, selector, permission FROM grants
             WHERE kind = $1 AND form = $2 AND selector = $3 ORDER BY subject_kind, subject",
        );
        let grants = grants.bind(kind.as_str()).bind(form).bind(selector).fetch_all(&self.readers).await?;
        grants.iter().map(rows::grant).collect()
    }

    /// Every grant, by kind, selector, subject.
    ///
    /// # Errors
    /// As every method.
    pub async fn grants(&self) -> Result<Vec<Grant>> {
        let grants = sqlx::query(
            "SELECT subject_kind, subject, kind, form, selector, permission FROM grants
             ORDER BY kind, form, selector, subject_kind, subject",
        );
        grants.fetch_all(&self.readers).await?.iter().map(rows::grant).collect()
    }

    /// Makes a grant.
    ///
    /// # Errors
    /// [`Error::Exists`] when the subject already has a grant on that selector; [`Error::NotFound`] when the subject is
    /// no user.
    pub async fn create_grant(&self, actor: &Actor, grant: &Grant) -> Result<()> {
        let mut change = self.change().await?;
        let whom = change.subject(&grant.subject).await?;
        let (subject_kind, subject) = subject_columns(&grant.subject);
        let (form, selector) = selector_columns(&grant.selector);
        let created = sqlx::query(
            "INSERT INTO grants (subject_kind, subject, kind, form, selector, permission)
             VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (subject_kind, subject, kind, form, selector) DO NOTHING",
        )
        .bind(subject_kind)
        .bind(subject)
        .bind(grant.kind.as_str())
        .bind(form)
        .bind(selector)
        .bind(grant.permission.as_str())
        .execute(change.on())
        .await?;
        if created.rows_affected() == 0 {
            return Err(Error::Exists(sentence(&whom, grant.kind, &grant.selector)));
        }
        change.commit_grant(actor, "grant.create", grant, &whom).await
    }

    /// Makes it or changes its level.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the subject is no user.
    pub async fn set_grant(&self, actor: &Actor, grant: &Grant) -> Result<()> {
        let mut change = self.change().await?;
        let whom = change.subject(&grant.subject).await?;
        change.put_grant(grant).await?;
        change.commit_grant(actor, "grant.set", grant, &whom).await
    }

    /// Changes its level.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is none.
    pub async fn update_grant(&self, actor: &Actor, grant: &Grant) -> Result<()> {
        let mut change = self.change().await?;
        let whom = change.subject(&grant.subject).await?;
        let (subject_kind, subject) = subject_columns(&grant.subject);
        let (form, selector) = selector_columns(&grant.selector);
        let updated = sqlx::query(
            "UPDATE grants SET permission = $1
             WHERE subject_kind = $2 AND subject = $3 AND kind = $4 AND form = $5 AND selector = $6",
        )
        .bind(grant.permission.as_str())
        .bind(subject_kind)
        .bind(subject)
        .bind(grant.kind.as_str())
        .bind(form)
        .bind(selector)
        .execute(change.on())
        .await?;
        if updated.rows_affected() == 0 {
            return Err(Error::NotFound(sentence(&whom, grant.kind, &grant.selector)));
        }
        change.commit_grant(actor, "grant.update", grant, &whom).await
    }

    /// Drops a grant and says what level it had.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is none.
    pub async fn delete_grant(
        &self,
        actor: &Actor,
        subject: &Subject,
        kind: ResourceKind,
        selector: &Selector,
    ) -> Result<Permission> {
        let mut change = self.change().await?;
        let whom = change.subject(subject).await?;
        let (subject_kind, subject) = subject_columns(subject);
        let (form, key) = selector_columns(selector);
        let deleted: Option<String> = sqlx::query_scalar(
            "DELETE FROM grants
             WHERE subject_kind = $1 AND subject = $2 AND kind = $3 AND form = $4 AND selector = $5
             RETURNING permission",
        )
        .bind(subject_kind)
        .bind(subject)
        .bind(kind.as_str())
        .bind(form)
        .bind(key)
        .fetch_optional(change.on())
        .await?;
        let deleted = deleted.ok_or_else(|| Error::NotFound(sentence(&whom, kind, selector)))?;
        let permission = rows::permission(&deleted)?;
        change.commit(actor, "grant.delete", format!("{kind}:{selector}"), format!("{whom}: {permission}")).await?;
        Ok(permission)
    }
}

impl Change {
    /// How the audit calls a subject.
    async fn subject(&mut self, subject: &Subject) -> Result<String> {
        Ok(match subject {
            Subject::User(id) => format!("user:{}", self.user(*id).await?.name),
            Subject::Group(name) => format!("group:{name}"),
            Subject::Role(id) => format!("role:{id}"),
        })
    }

    /// Makes a grant or changes its level.
    pub(super) async fn put_grant(&mut self, grant: &Grant) -> Result<()> {
        let (subject_kind, subject) = subject_columns(&grant.subject);
        let (form, selector) = selector_columns(&grant.selector);
        sqlx::query(
            "INSERT INTO grants (subject_kind, subject, kind, form, selector, permission)
             VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (subject_kind, subject, kind, form, selector) DO UPDATE SET permission = excluded.permission",
        )
        .bind(subject_kind)
        .bind(subject)
        .bind(grant.kind.as_str())
        .bind(form)
        .bind(selector)
        .bind(grant.permission.as_str())
        .execute(self.on())
        .await?;
        Ok(())
    }

    async fn commit_grant(self, actor: &Actor, action: &str, grant: &Grant, whom: &str) -> Result<()> {
        let target = format!("{}:{}", grant.kind, grant.selector);
        self.commit(actor, action, target, format!("{whom}: {}", grant.permission)).await
    }
}

fn sentence(whom: &str, kind: ResourceKind, selector: &Selector) -> String {
    format!("the grant of {whom} on {kind}:{selector}")
}
