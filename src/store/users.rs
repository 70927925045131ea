//! User accounts.
//!
//! Names are unique. No method removes the last account that is marked as administrator.

use super::change::Change;
use super::changes::Scope;
use super::db::sql;
use super::{Actor, Error, Person, Result, Store, rows};
use crate::authz::UserId;
use crate::clock::Timestamp;
use crate::crypto::PasswordHash;
use crate::text::Looks;

/// A user account.
#[derive(Clone, Debug)]
pub struct User {
    pub id: UserId,
    pub name: String,
    /// True if the account itself is marked as administrator; see [`User::is_admin`].
    pub admin: bool,
    /// `None` for an account without a password, which signs in another way.
    pub password: Option<PasswordHash>,
    pub created: Timestamp,
    /// Claims of the identity provider; `None` for a local account.
    pub person: Option<Person>,
}

impl User {
    /// Returns true if the user is an administrator, by the account or by one of the groups.
    #[must_use]
    pub fn is_admin(&self) -> bool {
        self.admin || self.person.as_ref().is_some_and(|person| person.admin)
    }

    /// Returns issuer and subject if the account belongs to an identity provider.
    #[must_use]
    pub fn identity(&self) -> Option<(&str, &str)> {
        self.person.as_ref().map(|person| (person.issuer.as_str(), person.subject.as_str()))
    }

    /// The name that the provider gave them, also while another account has it: rules of a policy that name the provider go by
    /// it. No provider says a name of the form that such an account gets.
    #[must_use]
    pub fn name_at_provider(&self) -> &str {
        let displaced = self.name.rsplit_once('~').filter(|(_, id)| *id == self.id.to_string());
        displaced.filter(|_| self.person.is_some()).map_or(&self.name, |(name, _)| name)
    }

    /// The groups the provider last said.
    #[must_use]
    pub fn groups(&self) -> &[String] {
        self.person.as_ref().map_or(&[], |person| &person.groups)
    }
}

/// Treatment of a user's access tokens when the password changes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AccessTokens {
    Keep,
    Revoke,
}

impl Store {
    /// Creates an account. Names that differ only in case count as one name, because policies compare them
    /// case-insensitively.
    ///
    /// # Errors
    /// [`Error::Exists`] when the name is taken, [`Error::Reserved`] when it is reserved for another identity,
    /// [`Error::LooksLike`] when it can be mistaken for another account's name.
    pub async fn create_user(
        &self,
        actor: &Actor,
        name: &str,
        password: Option<&PasswordHash>,
        admin: bool,
    ) -> Result<User> {
        let mut change = self.change().await?;
        if change.called_alike(name).await?.is_some() {
            return Err(Error::Exists(name.to_owned()));
        }
        if change.is_reserved(name, None).await? {
            return Err(Error::Reserved(name.to_owned()));
        }
        if let Some(other) = change.look_alike(name, |_| true).await? {
            return Err(Error::LooksLike { name: name.to_owned(), other });
        }
        let created = sql(
            "INSERT INTO users (name, password, admin, created) VALUES ($1, $2, $3, $4)
             RETURNING id, name, password, admin, created, issuer, subject, groups, group_admin, allowed, seen, suspended",
        )
        .bind(name)
        .bind(password.map(|hash| hash.0.as_str()))
        .bind(admin)
        .bind(change.at.0)
        .fetch_one(change.on())
        .await?;
        let user = rows::user(&created)?;
        change.affects([Scope::User(user.id)]);
        change.commit(actor, "user.create", target(name), role(admin).to_owned()).await?;
        Ok(user)
    }

    /// Creates the first account, an administrator. Returns `None` if the store has users, also because another process
    /// was faster.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn create_first_user(&self, actor: &Actor, name: &str, password: &PasswordHash) -> Result<Option<User>> {
        let mut change = self.change().await?;
        let users: i64 = sql("SELECT COUNT(*) FROM users").scalar(change.on()).await?;
        if users > 0 {
            return Ok(None);
        }
        let id = sql("INSERT INTO users (name, password, admin, created) VALUES ($1, $2, $3, $4) RETURNING id");
        let id = id.bind(name).bind(&password.0).bind(true).bind(change.at.0).scalar(change.on()).await?;
        let user = change.user(UserId(id)).await?;
        change.affects([Scope::User(user.id)]);
        change.commit(actor, "user.create", target(name), role(true).to_owned()).await?;
        Ok(Some(user))
    }

    /// Returns the account with exactly this name.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn user_by_name(&self, name: &str) -> Result<Option<User>> {
        // Clients send any name with a password.
        if name.contains('\0') {
            return Ok(None);
        }
        let user = sql(
            "SELECT id, name, password, admin, created, issuer, subject, groups, group_admin, allowed, seen, suspended
             FROM users WHERE name = $1",
        )
        .bind(name);
        user.fetch_optional(&self.readers).await?.as_ref().map(rows::user).transpose()
    }

    /// Returns the account with this ID.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn user(&self, id: UserId) -> Result<Option<User>> {
        let user = sql(
            "SELECT id, name, password, admin, created, issuer, subject, groups, group_admin, allowed, seen, suspended
             FROM users WHERE id = $1",
        )
        .bind(id.0);
        user.fetch_optional(&self.readers).await?.as_ref().map(rows::user).transpose()
    }

    /// Returns all users, ordered by name.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn users(&self) -> Result<Vec<User>> {
        let users = sql(
            "SELECT id, name, password, admin, created, issuer, subject, groups, group_admin, allowed, seen, suspended
             FROM users ORDER BY name",
        );
        users.fetch_all(&self.readers).await?.iter().map(rows::user).collect()
    }

    /// Replaces the password. In the same transaction, sessions that began with the old one end, and access tokens
    /// are kept or revoked. Returns the number of revoked tokens.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn set_password(
        &self,
        actor: &Actor,
        user: UserId,
        password: &PasswordHash,
        tokens: AccessTokens,
    ) -> Result<u64> {
        let mut change = self.change().await?;
        let user = change.user(user).await?;
        sql("UPDATE users SET password = $1 WHERE id = $2")
            .bind(&password.0)
            .bind(user.id.0)
            .execute(change.on())
            .await?;
        sql("DELETE FROM sessions WHERE user_id = $1 AND provider IS NULL")
            .bind(user.id.0)
            .execute(change.on())
            .await?;
        let (revoked, detail) = match tokens {
            AccessTokens::Keep => (0, "access tokens kept".to_owned()),
            AccessTokens::Revoke => {
                let revoked = change.revoke_all_tokens(user.id).await?;
                (revoked, format!("{revoked} access tokens revoked"))
            }
        };
        change.affects([Scope::User(user.id)]);
        change.commit(actor, "user.password", target(&user.name), detail).await?;
        Ok(revoked)
    }

    /// Grants or removes administrator rights.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::LastAdmin`] instead of removing the last administrator.
    pub async fn set_admin(&self, actor: &Actor, user: UserId, admin: bool) -> Result<()> {
        let mut change = self.change().await?;
        let user = change.user(user).await?;
        if !admin {
            change.keep_an_admin(&user).await?;
        }
        sql("UPDATE users SET admin = $1 WHERE id = $2").bind(admin).bind(user.id.0).execute(change.on()).await?;
        change.affects([Scope::User(user.id)]);
        change.commit(actor, "user.admin", target(&user.name), role(admin).to_owned()).await
    }

    /// Deletes a user with their tokens, grants and roles. The name stays reserved.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::LastAdmin`] instead of deleting the last administrator.
    pub async fn delete_user(&self, actor: &Actor, user: UserId) -> Result<()> {
        let mut change = self.change().await?;
        let user = change.user(user).await?;
        change.keep_an_admin(&user).await?;
        change.reserve_name_of(&user).await?;
        sql("DELETE FROM users WHERE id = $1").bind(user.id.0).execute(change.on()).await?;
        change.affects([Scope::User(user.id)]);
        change.commit(actor, "user.delete", target(&user.name), String::new()).await
    }
}

impl Change {
    /// Returns the user within this change.
    pub(super) async fn user(&mut self, id: UserId) -> Result<User> {
        let user = sql(
            "SELECT id, name, password, admin, created, issuer, subject, groups, group_admin, allowed, seen, suspended
             FROM users WHERE id = $1",
        )
        .bind(id.0);
        let user = user.fetch_optional(self.on()).await?;
        rows::user(&user.ok_or_else(|| Error::NotFound(format!("user {id}")))?)
    }

    /// Returns the name of an account that differs from this one at most in case. The comparison is done here,
    /// because databases fold case differently for non-ASCII letters.
    pub(super) async fn called_alike(&mut self, name: &str) -> Result<Option<String>> {
        let folded = name.to_lowercase();
        let names: Vec<String> = sql("SELECT name FROM users").scalars(self.on()).await?;
        Ok(names.into_iter().filter(|taken| taken.to_lowercase() == folded).max_by_key(|taken| taken == name))
    }

    /// Returns the name of an account that `name` can be mistaken for, among those that `counts` selects.
    pub(super) async fn look_alike(
        &mut self,
        name: &str,
        counts: impl Fn(&str) -> bool + Send,
    ) -> Result<Option<String>> {
        let looks = Looks::of(name);
        let names: Vec<String> = sql("SELECT name FROM users").scalars(self.on()).await?;
        Ok(names.into_iter().find(|other| counts(other) && Looks::of(other).are_like(&looks)))
    }

    /// Returns the ID of the user with this name.
    pub(super) async fn user_named(&mut self, name: &str) -> Result<Option<UserId>> {
        let id: Option<i64> = sql("SELECT id FROM users WHERE name = $1").bind(name).scalar_optional(self.on()).await?;
        Ok(id.map(UserId))
    }

    async fn keep_an_admin(&mut self, leaving: &User) -> Result<()> {
        // Only accounts that are marked as administrator count, not users who are administrators by a group.
        let admins: i64 = sql("SELECT COUNT(*) FROM users WHERE admin = $1").bind(true).scalar(self.on()).await?;
        if leaving.admin && admins <= 1 {
            return Err(Error::LastAdmin(leaving.name.clone()));
        }
        Ok(())
    }
}

fn target(name: &str) -> String {
    format!("user:{name}")
}

const fn role(admin: bool) -> &'static str {
    if admin { "administrator" } else { "not an administrator" }
}
