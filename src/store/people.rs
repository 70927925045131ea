//! Users of identity providers.
//!
//! A user is identified by issuer and subject; the name is for display and is unique. The latest groups that the
//! provider reported are stored, because they determine the permissions of the user's access tokens.

use std::time::Duration;

use super::change::Change;
use super::changes::Scope;
use super::db::sql;
use super::{Actor, Error, Result, Store, User, rows};
use crate::authz::UserId;
use crate::clock::Timestamp;

/// The latest claims of an identity provider about a user.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Person {
    pub issuer: String,
    pub subject: String,
    /// Group names as grants use them: after prefixes and paths were applied.
    pub groups: Vec<String>,
    /// True if one of the groups grants administrator rights.
    pub admin: bool,
    /// True if the provider's allowed groups include one of the user's groups.
    pub allowed: bool,
    /// Time at which the provider reported the claims.
    pub seen: Timestamp,
    /// Time since which the user's access tokens are suspended, because the provider ended the user's sessions.
    pub suspended: Option<Timestamp>,
}

/// Current claims of an identity provider about a user.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    pub issuer: &'a str,
    pub subject: &'a str,
    pub name: &'a str,
    pub groups: &'a [String],
    pub admin: bool,
    pub allowed: bool,
    /// True if users of this issuer own plain names; see [`Homes`](crate::authz::Homes).
    pub owns_plain_names: bool,
}

/// The event in which claims about a user were received.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Occasion {
    /// An interactive sign-in, which ends a suspension.
    SignIn,
    /// A refreshed session or a bearer token. It does not end a suspension, because the provider has ended another
    /// session since.
    Refresh,
}

impl Store {
    /// Returns the user with this issuer and subject.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn user_by_identity(&self, issuer: &str, subject: &str) -> Result<Option<User>> {
        let user = sql(
            "SELECT id, name, password, admin, created, issuer, subject, groups, group_admin, allowed, seen, suspended
             FROM users WHERE issuer = $1 AND subject = $2",
        );
        user.bind(issuer).bind(subject).fetch_optional(&self.readers).await?.as_ref().map(rows::user).transpose()
    }

    /// Stores a provider's claims about a user: creates the account at the first sign-in, updates the groups, and
    /// ends the suspension of the access tokens at an interactive sign-in. A changed name is adopted unless another
    /// user has it.
    ///
    /// An account of that name that has neither password nor provider is linked to the user. If users of this issuer
    /// own plain names, a user of another provider who has the name is renamed. Without a change, only the time of
    /// the claims is updated: the revision is not raised and no audit row is written.
    ///
    /// # Errors
    /// [`Error::NameTaken`] when a new user has the name of another, [`Error::Reserved`] when it is kept for another,
    /// [`Error::LooksLike`] when another account's looks like that of a new user.
    pub async fn meet(&self, actor: &Actor, seen: Seen<'_>, occasion: Occasion) -> Result<User> {
        if let Some(user) = self.user_by_identity(seen.issuer, seen.subject).await?
            && says_nothing_new(&user, seen, occasion)
        {
            if self.now().since(user.person.as_ref().map_or(Timestamp(0), |person| person.seen)) < SEEN_EVERY {
                return Ok(user);
            }
            sql("UPDATE users SET seen = $1 WHERE id = $2")
                .bind(self.now().0)
                .bind(user.id.0)
                .execute(&self.writer)
                .await?;
            return Ok(user);
        }
        let mut change = self.change().await?;
        // Looked up again in the transaction: another process can have created the account since.
        let (id, action) = match change.user_by_identity(seen).await? {
            Some(user) => {
                change.rename_person(&user, seen.name).await?;
                (user.id, "person.update")
            }
            None => (change.new_person(seen).await?, "person.create"),
        };
        change.write_person(id, seen, occasion).await?;
        let user = change.user(id).await?;
        change.affects([Scope::User(user.id)]);
        let detail = format!("{} groups, {}", seen.groups.len(), words(seen));
        change.commit(actor, action, format!("user:{}", user.name), detail).await?;
        Ok(user)
    }

    /// Stores the claims about a user from a provider's list of users, read at `at`: groups, the rights that follow
    /// from them, and a changed name. Creates no account and ends no suspension. Does nothing when newer claims are
    /// stored.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn follow(&self, actor: &Actor, user: &User, seen: Seen<'_>, at: Timestamp) -> Result<()> {
        let known = user.person.as_ref();
        let said = (seen.groups, seen.admin, seen.allowed);
        let is_known = known.is_some_and(|it| (it.groups.as_slice(), it.admin, it.allowed) == said);
        if is_known && user.name == seen.name {
            if at.since(known.map_or(Timestamp(0), |person| person.seen)) < SEEN_EVERY {
                return Ok(());
            }
            let touched = sql("UPDATE users SET seen = $1 WHERE id = $2 AND seen <= $1");
            touched.bind(at.0).bind(user.id.0).execute(&self.writer).await?;
            return Ok(());
        }
        let mut change = self.change().await?;
        let groups = serde_json::Value::from(seen.groups).to_string();
        let followed = sql("UPDATE users SET groups = $1, group_admin = $2, allowed = $3, seen = $4
             WHERE id = $5 AND issuer = $6 AND subject = $7 AND seen <= $4");
        let followed = followed.bind(groups).bind(seen.admin).bind(seen.allowed).bind(at.0).bind(user.id.0);
        if followed.bind(seen.issuer).bind(seen.subject).execute(change.on()).await? == 0 {
            return Ok(());
        }
        change.rename_person(user, seen.name).await?;
        let user = change.user(user.id).await?;
        change.affects([Scope::User(user.id)]);
        let detail = format!("{} groups, {}", seen.groups.len(), words(seen));
        change.commit(actor, "person.update", format!("user:{}", user.name), detail).await
    }

    /// Disables a user after a refusal of the provider at `at`: in one transaction, access tokens stop working and sessions
    /// end. The stored groups are kept. Does nothing when newer claims are stored or the user is already disabled.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn disallow(&self, actor: &Actor, user: &User, at: Timestamp, why: &str) -> Result<()> {
        let Some(person) = user.person.as_ref().filter(|person| person.allowed) else { return Ok(()) };
        let mut change = self.change().await?;
        let disallowed = sql("UPDATE users SET allowed = $1, seen = $2
             WHERE id = $3 AND issuer = $4 AND subject = $5 AND seen <= $2 AND allowed <> $1");
        let disallowed = disallowed.bind(false).bind(at.0).bind(user.id.0).bind(&person.issuer).bind(&person.subject);
        if disallowed.execute(change.on()).await? == 0 {
            return Ok(());
        }
        let ended = sql("DELETE FROM sessions WHERE user_id = $1").bind(user.id.0).execute(change.on()).await?;
        change.affects([Scope::User(user.id)]);
        let detail = format!("{why}; {} sessions ended", ended);
        change.commit(actor, "person.update", format!("user:{}", user.name), detail).await
    }

    /// Returns the users of this issuer, without machine accounts.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn people_of(&self, issuer: &str) -> Result<Vec<User>> {
        let users = sql(
            "SELECT id, name, password, admin, created, issuer, subject, groups, group_admin, allowed, seen, suspended
             FROM users WHERE issuer = $1 AND substr(subject, 1, 8) <> 'machine:' ORDER BY id",
        );
        users.bind(issuer).fetch_all(&self.readers).await?.iter().map(rows::user).collect()
    }

    /// Suspends a user's access tokens until their next sign-in.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn suspend(&self, actor: &Actor, user: UserId, why: &str) -> Result<()> {
        let mut change = self.change().await?;
        let user = change.user(user).await?;
        sql("UPDATE users SET suspended = $1 WHERE id = $2")
            .bind(change.at.0)
            .bind(user.id.0)
            .execute(change.on())
            .await?;
        change.affects([Scope::User(user.id)]);
        change.commit(actor, "person.suspend", format!("user:{}", user.name), why.to_owned()).await
    }
}

/// Returns true if this is the account's name, or was before [`Change::displace`].
fn is_called(user: &User, name: &str) -> bool {
    user.name == name || user.name == displaced_name(name, user.id)
}

fn displaced_name(name: &str, id: UserId) -> String {
    format!("{name}~{id}")
}

/// Returns true for the subject of a machine account, which a rule of the configuration names.
fn is_machine(subject: &str) -> bool {
    subject.starts_with("machine:")
}

/// Returns true if two names of one provider must not look alike. ASCII names are exempt: providers keep them
/// distinct, and users who are called `cam` and `carn` cannot choose other ones.
const fn is_told_by_letters(name: &str, other: &str) -> bool {
    !name.is_ascii() || !other.is_ascii()
}

/// Minimum interval between updates of the stored time when the claims have not changed.
const SEEN_EVERY: Duration = Duration::from_mins(1);

fn says_nothing_new(user: &User, seen: Seen<'_>, occasion: Occasion) -> bool {
    is_called(user, seen.name)
        && user.person.as_ref().is_some_and(|person| {
            person.groups == seen.groups
                && person.admin == seen.admin
                && person.allowed == seen.allowed
                && (occasion != Occasion::SignIn || person.suspended.is_none())
        })
}

const fn words(seen: Seen<'_>) -> &'static str {
    match (seen.allowed, seen.admin) {
        (false, _) => "not in any allowed group",
        (true, true) => "administrator by a group",
        (true, false) => "allowed",
    }
}

impl Change {
    async fn user_by_identity(&mut self, seen: Seen<'_>) -> Result<Option<User>> {
        let user = sql(
            "SELECT id, name, password, admin, created, issuer, subject, groups, group_admin, allowed, seen, suspended
             FROM users WHERE issuer = $1 AND subject = $2",
        );
        let user = user.bind(seen.issuer).bind(seen.subject).fetch_optional(self.on()).await?;
        user.as_ref().map(rows::user).transpose()
    }

    /// Creates an account, or links the account without an owner that has this name.
    async fn new_person(&mut self, seen: Seen<'_>) -> Result<UserId> {
        let at = self.at.0;
        let taken = || Error::NameTaken(seen.name.to_owned());
        let identity = (seen.issuer, seen.subject);
        if self.is_reserved(seen.name, Some(identity)).await? {
            return Err(Error::Reserved(seen.name.to_owned()));
        }
        if !is_machine(seen.subject) && self.is_displaced_there(seen).await? {
            return Err(taken());
        }
        if let Some(name) = self.called_alike(seen.name).await? {
            let holder = self.user_named(&name).await?.ok_or_else(taken)?;
            let holder = self.user(holder).await?;
            let is_waiting = holder.password.is_none() && holder.person.is_none() && name == seen.name;
            if !seen.owns_plain_names && !is_machine(seen.subject) || !is_waiting && !self.gives_way(&holder, seen) {
                return Err(taken());
            }
            if !is_waiting {
                self.displace(&holder).await?;
            }
        } else if let Some(other) = self.look_alike(seen.name, |other| is_told_by_letters(seen.name, other)).await? {
            return Err(Error::LooksLike { name: seen.name.to_owned(), other });
        }
        self.take_reserved(seen.name).await?;
        sql(
            "INSERT INTO users (name, password, admin, created) VALUES ($1, NULL, $2, $3) ON CONFLICT (name) DO NOTHING",
        )
        .bind(seen.name)
        .bind(false)
        .bind(at)
        .execute(self.on())
        .await?;
        let id: Option<i64> = sql("SELECT id FROM users WHERE name = $1 AND password IS NULL AND issuer IS NULL")
            .bind(seen.name)
            .scalar_optional(self.on())
            .await?;
        id.map(UserId).ok_or_else(|| Error::NameTaken(seen.name.to_owned()))
    }

    /// Returns true if the user of another provider has to give up the name to a user whose issuer owns plain names.
    fn gives_way(&self, holder: &User, seen: Seen<'_>) -> bool {
        let other = holder.identity().is_some_and(|(issuer, subject)| issuer != seen.issuer && !is_machine(subject));
        seen.owns_plain_names && !is_machine(seen.subject) && other && holder.password.is_none()
    }

    /// Returns true if another user of this provider had this name before [`Self::displace`], and policies still use it.
    async fn is_displaced_there(&mut self, seen: Seen<'_>) -> Result<bool> {
        // Compared here, because databases fold case differently for non-ASCII letters.
        let displaced = sql("SELECT id, name FROM users WHERE issuer = $1 AND name LIKE '%~%'");
        for row in displaced.bind(seen.issuer).fetch_all(self.on()).await? {
            let (id, name): (i64, String) = (row.try_get("id")?, row.try_get("name")?);
            if name.to_lowercase() == displaced_name(seen.name, UserId(id)).to_lowercase() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Gives an account a name that no other account has; the account keeps its grants and tokens.
    async fn displace(&mut self, holder: &User) -> Result<()> {
        let name = displaced_name(&holder.name, holder.id);
        self.affects([Scope::User(holder.id)]);
        tracing::warn!(user = %holder.name, %name, "the user of the first provider has this name; the other one is renamed");
        sql("UPDATE users SET name = $1 WHERE id = $2").bind(name).bind(holder.id.0).execute(self.on()).await?;
        Ok(())
    }

    async fn rename_person(&mut self, user: &User, name: &str) -> Result<()> {
        if is_called(user, name) {
            return Ok(());
        }
        let taken = self.called_alike(name).await?.is_some_and(|taken| taken != user.name)
            || self.is_reserved(name, user.identity()).await?
            || self.look_alike(name, |other| other != user.name && is_told_by_letters(name, other)).await?.is_some();
        if taken {
            tracing::warn!(user = %user.name, %name, "another user has the new name or one like it; the old one stays");
            return Ok(());
        }
        if user.name.to_lowercase() != name.to_lowercase() {
            self.reserve_name_of(user).await?;
        }
        self.take_reserved(name).await?;
        sql("UPDATE users SET name = $1 WHERE id = $2").bind(name).bind(user.id.0).execute(self.on()).await?;
        Ok(())
    }

    async fn write_person(&mut self, id: UserId, seen: Seen<'_>, occasion: Occasion) -> Result<()> {
        let (at, groups) = (self.at.0, serde_json::Value::from(seen.groups).to_string());
        sql("UPDATE users SET issuer = $1, subject = $2, groups = $3, group_admin = $4, allowed = $5, seen = $6,
                    suspended = CASE WHEN $7 THEN NULL ELSE suspended END
             WHERE id = $8")
        .bind(seen.issuer)
        .bind(seen.subject)
        .bind(groups)
        .bind(seen.admin)
        .bind(seen.allowed)
        .bind(at)
        .bind(occasion == Occasion::SignIn)
        .bind(id.0)
        .execute(self.on())
        .await?;
        Ok(())
    }
}
