//! Grants: subject, resource and permission level.
//!
//! A subject has at most one grant on a selector. A grant to a user or role that does not exist is refused.

use super::change::Change;
use super::changes::Scope;
use super::db::{Sql, sql};
use super::rows::{selector_columns, subject_columns};
use super::{Actor, Error, Result, Store, check_key, rows};
use crate::authz::{Grant, Permission, ResourceKind, Selector, Subject};

/// A grant with its ID, which identifies it in MLflow's role API.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GrantRow {
    pub id: i64,
    pub grant: Grant,
}

impl Store {
    /// Returns the grants of one subject.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn grants_of(&self, subject: &Subject) -> Result<Vec<Grant>> {
        let (subject_kind, subject) = subject_columns(subject);
        let grants = sql("SELECT subject_kind, subject, kind, form, selector, permission FROM grants
             WHERE subject_kind = $1 AND subject = $2 ORDER BY kind, form, selector");
        let grants = grants.bind(subject_kind).bind(subject).fetch_all(&self.readers).await?;
        grants.iter().map(rows::grant).collect()
    }

    /// Returns the grants with exactly this selector, without those whose selector also matches it.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn grants_on(&self, kind: ResourceKind, selector: &Selector) -> Result<Vec<Grant>> {
        let (form, selector) = selector_columns(selector);
        let grants = sql("SELECT subject_kind, subject, kind, form, selector, permission FROM grants
             WHERE kind = $1 AND form = $2 AND selector = $3 ORDER BY subject_kind, subject");
        let grants = grants.bind(kind.as_str()).bind(form).bind(selector).fetch_all(&self.readers).await?;
        grants.iter().map(rows::grant).collect()
    }

    /// Returns true if any experiment is granted by a name pattern.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn names_experiments(&self) -> Result<bool> {
        let globs: i64 = sql("SELECT COUNT(*) FROM grants WHERE kind = 'experiment' AND form = 'glob'")
            .scalar(&self.readers)
            .await?;
        Ok(globs > 0)
    }

    /// Returns every grant, ordered by kind, selector and subject.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn grants(&self) -> Result<Vec<Grant>> {
        let grants = sql("SELECT subject_kind, subject, kind, form, selector, permission FROM grants
             ORDER BY kind, form, selector, subject_kind, subject");
        grants.fetch_all(&self.readers).await?.iter().map(rows::grant).collect()
    }

    /// Returns the grants of one subject, in order of creation.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn grant_rows_of(&self, subject: &Subject) -> Result<Vec<GrantRow>> {
        let (subject_kind, subject) = subject_columns(subject);
        let grants = sql("SELECT id, subject_kind, subject, kind, form, selector, permission FROM grants
             WHERE subject_kind = $1 AND subject = $2 ORDER BY id");
        let grants = grants.bind(subject_kind).bind(subject).fetch_all(&self.readers).await?;
        grants.iter().map(rows::grant_row).collect()
    }

    /// Returns the grants whose subject is a user, in order of creation.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn grant_rows_of_users(&self) -> Result<Vec<GrantRow>> {
        let grants = sql("SELECT id, subject_kind, subject, kind, form, selector, permission FROM grants
             WHERE subject_kind = 'user' ORDER BY id");
        grants.fetch_all(&self.readers).await?.iter().map(rows::grant_row).collect()
    }

    /// Returns the grant with this ID.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn grant_row(&self, id: i64) -> Result<Option<GrantRow>> {
        let grant = sql("SELECT id, subject_kind, subject, kind, form, selector, permission FROM grants WHERE id = $1");
        grant.bind(id).fetch_optional(&self.readers).await?.as_ref().map(rows::grant_row).transpose()
    }

    /// Creates a grant and returns its ID.
    ///
    /// # Errors
    /// [`Error::Exists`] when the subject already has a grant on that selector; [`Error::NotFound`] when the subject is
    /// no user or role.
    pub async fn create_grant(&self, actor: &Actor, grant: &Grant) -> Result<i64> {
        let mut change = self.change().await?;
        let whom = change.subject(&grant.subject).await?;
        let created = change.add_grant(grant).await?;
        let id = created.ok_or_else(|| Error::Exists(sentence(&whom, grant.kind, &grant.selector)))?;
        change.commit_grant(actor, "grant.create", grant, &whom).await?;
        Ok(id)
    }

    /// Creates a grant, or changes the level of the existing one.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the subject is no user or role.
    pub async fn set_grant(&self, actor: &Actor, grant: &Grant) -> Result<()> {
        let mut change = self.change().await?;
        let whom = change.subject(&grant.subject).await?;
        change.put_grant(grant).await?;
        change.commit_grant(actor, "grant.set", grant, &whom).await
    }

    /// Changes the level of an existing grant.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the grant does not exist.
    pub async fn update_grant(&self, actor: &Actor, grant: &Grant) -> Result<()> {
        let mut change = self.change().await?;
        let whom = change.subject(&grant.subject).await?;
        change.affects([Scope::from(&grant.subject)]);
        let (subject_kind, subject) = subject_columns(&grant.subject);
        let (form, selector) = selector_columns(&grant.selector);
        let updated = sql("UPDATE grants SET permission = $1, created = $7, thing_created = NULL
             WHERE subject_kind = $2 AND subject = $3 AND kind = $4 AND form = $5 AND selector = $6")
        .bind(grant.permission.as_str())
        .bind(subject_kind)
        .bind(subject)
        .bind(grant.kind.as_str())
        .bind(form)
        .bind(selector)
        .bind(change.at.0)
        .execute(change.on())
        .await?;
        if updated == 0 {
            return Err(Error::NotFound(sentence(&whom, grant.kind, &grant.selector)));
        }
        change.commit_grant(actor, "grant.update", grant, &whom).await
    }

    /// Deletes a grant and returns its level.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the grant does not exist.
    pub async fn delete_grant(
        &self,
        actor: &Actor,
        subject: &Subject,
        kind: ResourceKind,
        selector: &Selector,
    ) -> Result<Permission> {
        let mut change = self.change().await?;
        let whom = change.subject(subject).await?;
        change.affects([Scope::from(subject)]);
        let (subject_kind, subject) = subject_columns(subject);
        let (form, key) = selector_columns(selector);
        let deleted: Option<String> = sql("DELETE FROM grants
             WHERE subject_kind = $1 AND subject = $2 AND kind = $3 AND form = $4 AND selector = $5
             RETURNING permission")
        .bind(subject_kind)
        .bind(subject)
        .bind(kind.as_str())
        .bind(form)
        .bind(key)
        .scalar_optional(change.on())
        .await?;
        let deleted = deleted.ok_or_else(|| Error::NotFound(sentence(&whom, kind, selector)))?;
        let permission = rows::permission(&deleted)?;
        change.commit(actor, "grant.delete", format!("{kind}:{selector}"), format!("{whom}: {permission}")).await?;
        Ok(permission)
    }
}

/// Refuses a grant with texts that the databases cannot index.
fn check_sizes(grant: &Grant) -> Result<()> {
    let (_, subject) = subject_columns(&grant.subject);
    let (_, selector) = selector_columns(&grant.selector);
    check_key(&subject).and_then(|()| check_key(selector))
}

impl Change {
    /// Returns the notation of a subject in the audit log.
    async fn subject(&mut self, subject: &Subject) -> Result<String> {
        Ok(match subject {
            Subject::User(id) => format!("user:{}", self.user(*id).await?.name),
            Subject::Group(name) => format!("group:{name}"),
            Subject::Role(id) => self.role(*id).await?.target(),
        })
    }

    /// Runs a statement on grants that returns `subject_kind, subject` of each row, and records that the subjects are
    /// affected. Returns the number of rows.
    pub(super) async fn affecting(&mut self, statement: Sql) -> Result<u64> {
        let rows = statement.fetch_all(self.on()).await?;
        let subjects = rows.iter().map(rows::subject).collect::<Result<Vec<_>>>()?;
        self.affects(subjects.iter().map(Scope::from));
        Ok(rows.len() as u64)
    }

    /// Creates a grant and returns its ID; `None` when the subject already has a grant on that selector.
    pub(super) async fn add_grant(&mut self, grant: &Grant) -> Result<Option<i64>> {
        check_sizes(grant)?;
        self.affects([Scope::from(&grant.subject)]);
        let (subject_kind, subject) = subject_columns(&grant.subject);
        let (form, selector) = selector_columns(&grant.selector);
        let at = self.at.0;
        let created = sql("INSERT INTO grants (subject_kind, subject, kind, form, selector, permission, created)
             VALUES ($1, $2, $3, $4, $5, $6, $7)
             ON CONFLICT (subject_kind, subject, kind, form, selector) DO NOTHING RETURNING id")
        .bind(subject_kind)
        .bind(subject)
        .bind(grant.kind.as_str())
        .bind(form)
        .bind(selector)
        .bind(grant.permission.as_str())
        .bind(at);
        Ok(created.scalar_optional(self.on()).await?)
    }

    /// Creates a grant, or changes the level of the existing one.
    pub(super) async fn put_grant(&mut self, grant: &Grant) -> Result<()> {
        check_sizes(grant)?;
        self.affects([Scope::from(&grant.subject)]);
        let (subject_kind, subject) = subject_columns(&grant.subject);
        let (form, selector) = selector_columns(&grant.selector);
        let at = self.at.0;
        sql("INSERT INTO grants (subject_kind, subject, kind, form, selector, permission, created)
             VALUES ($1, $2, $3, $4, $5, $6, $7)
             ON CONFLICT (subject_kind, subject, kind, form, selector)
             DO UPDATE SET permission = excluded.permission, created = excluded.created, thing_created = NULL")
        .bind(subject_kind)
        .bind(subject)
        .bind(grant.kind.as_str())
        .bind(form)
        .bind(selector)
        .bind(grant.permission.as_str())
        .bind(at)
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
