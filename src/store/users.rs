//! People and programs with an account.

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::{Actor, Change, Error, Result, Store, User, exists, finish, grants, next_id};
use crate::authz::{Subject, UserId};
use crate::clock::Timestamp;
use crate::crypto::PasswordHash;

impl Store {
    /// Makes an account.
    ///
    /// # Errors
    /// [`Error::Exists`] when the name is taken.
    pub async fn create_user(
        &self,
        actor: &Actor,
        name: &str,
        password: Option<&PasswordHash>,
        admin: bool,
    ) -> Result<User> {
        let mut change = self.begin_change().await?;
        let id = next_id(&mut change).await?;
        let created = self.clock.now();
        sqlx::query("INSERT INTO users (id, name, password, admin, created) VALUES ($1, $2, $3, $4, $5)")
            .bind(id)
            .bind(name)
            .bind(password.map(|hash| &hash.0))
            .bind(admin)
            .bind(created.0)
            .execute(&mut *change)
            .await
            .map_err(|error| exists(error, || name.to_owned()))?;
        let detail = if admin { "as administrator" } else { "" };
        finish(change, self.entry(actor, "user.create", target(name), detail)).await?;
        Ok(User { id: UserId(id), name: name.to_owned(), admin, password: password.cloned(), created })
    }

    /// The account of this name, letter for letter.
    ///
    /// # Errors
    /// [`Error::Unavailable`]
    pub async fn user_by_name(&self, name: &str) -> Result<Option<User>> {
        let by_name = "SELECT id, name, password, admin, created FROM users WHERE name = $1";
        let row = sqlx::query(by_name).bind(name).fetch_optional(&self.read).await?;
        row.as_ref().map(user).transpose()
    }

    /// The account of this number.
    ///
    /// # Errors
    /// [`Error::Unavailable`]
    pub async fn user(&self, id: UserId) -> Result<Option<User>> {
        let by_id = "SELECT id, name, password, admin, created FROM users WHERE id = $1";
        let row = sqlx::query(by_id).bind(id.0).fetch_optional(&self.read).await?;
        row.as_ref().map(user).transpose()
    }

    /// All accounts, by name.
    ///
    /// # Errors
    /// [`Error::Unavailable`]
    pub async fn users(&self) -> Result<Vec<User>> {
        let all = "SELECT id, name, password, admin, created FROM users ORDER BY name";
        let rows = sqlx::query(all).fetch_all(&self.read).await?;
        rows.iter().map(user).collect()
    }

    /// Changes a password.
    ///
    /// # Errors
    /// [`Error::NotFound`]
    pub async fn set_password(&self, actor: &Actor, user: UserId, password: &PasswordHash) -> Result<()> {
        let mut change = self.begin_change().await?;
        let name = name_of(&mut change, user).await?;
        sqlx::query("UPDATE users SET password = $2 WHERE id = $1")
            .bind(user.0)
            .bind(&password.0)
            .execute(&mut *change)
            .await?;
        finish(change, self.entry(actor, "user.set_password", target(&name), "")).await
    }

    /// Makes somebody an administrator, or no longer one.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::LastAdmin`] rather than leaving nobody in charge.
    pub async fn set_admin(&self, actor: &Actor, user: UserId, admin: bool) -> Result<()> {
        let mut change = self.begin_change().await?;
        let name = name_of(&mut change, user).await?;
        if !admin {
            keep_an_admin(&mut change, user, &name).await?;
        }
        sqlx::query("UPDATE users SET admin = $2 WHERE id = $1").bind(user.0).bind(admin).execute(&mut *change).await?;
        let detail = if admin { "administrator" } else { "no administrator" };
        finish(change, self.entry(actor, "user.set_admin", target(&name), detail)).await
    }

    /// Deletes an account with its tokens and grants.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::LastAdmin`] rather than leaving nobody in charge.
    pub async fn delete_user(&self, actor: &Actor, user: UserId) -> Result<()> {
        let mut change = self.begin_change().await?;
        let name = name_of(&mut change, user).await?;
        keep_an_admin(&mut change, user, &name).await?;
        let subject = grants::subject_text(&Subject::User(user));
        sqlx::query("DELETE FROM grants WHERE subject = $1").bind(subject).execute(&mut *change).await?;
        sqlx::query("DELETE FROM tokens WHERE user_id = $1").bind(user.0).execute(&mut *change).await?;
        sqlx::query("DELETE FROM users WHERE id = $1").bind(user.0).execute(&mut *change).await?;
        finish(change, self.entry(actor, "user.delete", target(&name), "")).await
    }
}

async fn name_of(change: &mut Change, user: UserId) -> Result<String> {
    let row = sqlx::query("SELECT name FROM users WHERE id = $1").bind(user.0).fetch_optional(&mut **change).await?;
    Ok(row.ok_or_else(|| Error::NotFound(user.to_string()))?.try_get("name")?)
}

/// Inside the change, so that two of them cannot each remove the other's last one.
async fn keep_an_admin(change: &mut Change, user: UserId, name: &str) -> Result<()> {
    let others = "SELECT COUNT(*) AS others FROM users WHERE admin AND id <> $1";
    let row = sqlx::query(others).bind(user.0).fetch_one(&mut **change).await?;
    let others: i64 = row.try_get("others")?;
    if others > 0 {
        return Ok(());
    }
    let row = sqlx::query("SELECT admin FROM users WHERE id = $1").bind(user.0).fetch_one(&mut **change).await?;
    if row.try_get("admin")? { Err(Error::LastAdmin(name.to_owned())) } else { Ok(()) }
}

pub(super) fn user(row: &SqliteRow) -> Result<User> {
    Ok(User {
        id: UserId(row.try_get("id")?),
        name: row.try_get("name")?,
        admin: row.try_get("admin")?,
        password: row.try_get::<Option<String>, _>("password")?.map(PasswordHash),
        created: Timestamp(row.try_get("created")?),
    })
}

fn target(name: &str) -> String {
    format!("user:{name}")
}
