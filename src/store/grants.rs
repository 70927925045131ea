//! Grants: subject has permission on the resources a selector names. One per subject and selector.

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::{Actor, Error, Result, Store, exists, finish};
use crate::authz::{Grant, Permission, ResourceKind, Selector, Subject, UserId};

impl Store {
    /// The grants of one subject.
    ///
    /// # Errors
    /// [`Error::Unavailable`]
    pub async fn grants_of(&self, subject: &Subject) -> Result<Vec<Grant>> {
        let of = "SELECT subject, kind, selector, permission FROM grants WHERE subject = $1 ORDER BY kind, selector";
        let rows = sqlx::query(of).bind(subject_text(subject)).fetch_all(&self.read).await?;
        rows.iter().map(grant).collect()
    }

    /// The grants with exactly this selector.
    ///
    /// # Errors
    /// [`Error::Unavailable`]
    pub async fn grants_on(&self, kind: ResourceKind, selector: &Selector) -> Result<Vec<Grant>> {
        let on =
            "SELECT subject, kind, selector, permission FROM grants WHERE kind = $1 AND selector = $2 ORDER BY subject";
        let rows = sqlx::query(on).bind(kind.as_str()).bind(selector.to_string()).fetch_all(&self.read).await?;
        rows.iter().map(grant).collect()
    }

    /// Every grant, by kind, selector, subject.
    ///
    /// # Errors
    /// [`Error::Unavailable`]
    pub async fn grants(&self) -> Result<Vec<Grant>> {
        let all = "SELECT subject, kind, selector, permission FROM grants ORDER BY kind, selector, subject";
        sqlx::query(all).fetch_all(&self.read).await?.iter().map(grant).collect()
    }

    /// Makes a grant.
    ///
    /// # Errors
    /// [`Error::Exists`] when the subject already has one on that selector.
    pub async fn create_grant(&self, actor: &Actor, grant: &Grant) -> Result<()> {
        let mut change = self.begin_change().await?;
        sqlx::query("INSERT INTO grants (subject, kind, selector, permission) VALUES ($1, $2, $3, $4)")
            .bind(subject_text(&grant.subject))
            .bind(grant.kind.as_str())
            .bind(grant.selector.to_string())
            .bind(grant.permission.as_str())
            .execute(&mut *change)
            .await
            .map_err(|error| exists(error, || target(grant.kind, &grant.selector)))?;
        finish(change, self.entry(actor, "grant.create", target(grant.kind, &grant.selector), detail(grant))).await
    }

    /// Makes a grant or changes its level.
    ///
    /// # Errors
    /// [`Error::Unavailable`]
    pub async fn set_grant(&self, actor: &Actor, grant: &Grant) -> Result<()> {
        let mut change = self.begin_change().await?;
        upsert(&mut change, grant).await?;
        finish(change, self.entry(actor, "grant.set", target(grant.kind, &grant.selector), detail(grant))).await
    }

    /// Changes the level of a grant.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is none.
    pub async fn update_grant(&self, actor: &Actor, grant: &Grant) -> Result<()> {
        let mut change = self.begin_change().await?;
        let update = "UPDATE grants SET permission = $4 WHERE subject = $1 AND kind = $2 AND selector = $3";
        let done = sqlx::query(update)
            .bind(subject_text(&grant.subject))
            .bind(grant.kind.as_str())
            .bind(grant.selector.to_string())
            .bind(grant.permission.as_str())
            .execute(&mut *change)
            .await?;
        if done.rows_affected() == 0 {
            return Err(Error::NotFound(target(grant.kind, &grant.selector)));
        }
        finish(change, self.entry(actor, "grant.update", target(grant.kind, &grant.selector), detail(grant))).await
    }

    /// Takes a grant away and says which level it had.
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
        let mut change = self.begin_change().await?;
        let delete = "DELETE FROM grants WHERE subject = $1 AND kind = $2 AND selector = $3 \
                      RETURNING subject, kind, selector, permission";
        let row = sqlx::query(delete)
            .bind(subject_text(subject))
            .bind(kind.as_str())
            .bind(selector.to_string())
            .fetch_optional(&mut *change)
            .await?;
        let gone = grant(&row.ok_or_else(|| Error::NotFound(target(kind, selector)))?)?;
        finish(change, self.entry(actor, "grant.delete", target(kind, selector), detail(&gone))).await?;
        Ok(gone.permission)
    }
}

pub(super) async fn upsert(change: &mut super::Change, grant: &Grant) -> Result<()> {
    let upsert = "INSERT INTO grants (subject, kind, selector, permission) VALUES ($1, $2, $3, $4) \
                  ON CONFLICT (subject, kind, selector) DO UPDATE SET permission = excluded.permission";
    sqlx::query(upsert)
        .bind(subject_text(&grant.subject))
        .bind(grant.kind.as_str())
        .bind(grant.selector.to_string())
        .bind(grant.permission.as_str())
        .execute(&mut **change)
        .await?;
    Ok(())
}

pub(super) fn subject_text(subject: &Subject) -> String {
    match subject {
        Subject::User(id) => format!("user:{id}"),
        Subject::Group(name) => format!("group:{name}"),
        Subject::Role(id) => format!("role:{id}"),
    }
}

fn subject(text: &str) -> Option<Subject> {
    let (kind, rest) = text.split_once(':')?;
    Some(match kind {
        "user" => Subject::User(UserId(rest.parse().ok()?)),
        "group" => Subject::Group(rest.to_owned()),
        "role" => Subject::Role(rest.parse().ok()?),
        _ => return None,
    })
}

fn grant(row: &SqliteRow) -> Result<Grant> {
    let (subject_text, kind, selector, permission): (String, String, String, String) =
        (row.try_get("subject")?, row.try_get("kind")?, row.try_get("selector")?, row.try_get("permission")?);
    let corrupt = || Error::Corrupt(format!("the grant of {subject_text} on {kind}:{selector}"));
    let kind_read: ResourceKind = kind.parse().map_err(|_| corrupt())?;
    Ok(Grant {
        subject: subject(&subject_text).ok_or_else(corrupt)?,
        kind: kind_read,
        selector: Selector::parse(kind_read, &selector).map_err(|_| corrupt())?,
        permission: permission.parse().map_err(|_| corrupt())?,
    })
}

fn target(kind: ResourceKind, selector: &Selector) -> String {
    format!("{kind}:{selector}")
}

fn detail(grant: &Grant) -> String {
    format!("{} for {}", grant.permission, subject_text(&grant.subject))
}
