//! People as identity providers know them.
//!
//! Issuer and subject say who it is; the name is what is shown, and two never share one. What the provider last said of
//! somebody's groups is kept, so that their access tokens follow.

use std::time::Duration;

use super::change::Change;
use super::{Actor, Error, Result, Store, User, rows};
use crate::authz::UserId;
use crate::clock::Timestamp;

/// What a provider last said of a user.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Person {
    pub issuer: String,
    pub subject: String,
    /// As grants name them: after prefixes and paths were applied.
    pub groups: Vec<String>,
    /// Whether one of the groups makes an administrator.
    pub admin: bool,
    /// Whether they may come in at all, by the provider's allowed groups.
    pub allowed: bool,
    /// When the provider said so.
    pub seen: Timestamp,
    /// Since when their access tokens rest, because the provider ended their sessions.
    pub suspended: Option<Timestamp>,
}

/// What a provider says of somebody now.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    pub issuer: &'a str,
    pub subject: &'a str,
    pub name: &'a str,
    pub groups: &'a [String],
    pub admin: bool,
    pub allowed: bool,
    /// Whether people of this issuer own plain names; see [`Homes`](crate::authz::Homes).
    pub owns_plain_names: bool,
}

/// The event that brought claims about a user.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Occasion {
    /// An interactive sign-in, which ends a suspension.
    SignIn,
    /// A refreshed session or a bearer token. A suspension stays, because the provider ended another session since.
    Refresh,
}

impl Store {
    /// The user that this issuer calls this.
    ///
    /// # Errors
    /// As every method.
    pub async fn user_by_identity(&self, issuer: &str, subject: &str) -> Result<Option<User>> {
        let user = sqlx::query(
            "SELECT id, name, password, admin, created, issuer, subject, groups, group_admin, allowed, seen, suspended
             FROM users WHERE issuer = $1 AND subject = $2",
        );
        user.bind(issuer).bind(subject).fetch_optional(&self.readers).await?.as_ref().map(rows::user).transpose()
    }

    /// Writes down what a provider says of somebody: an account is made at the first meeting, their groups are kept, and
    /// a sign-in ends the suspension of their tokens. A name that changed follows, unless another user has the new one.
    ///
    /// An account of that name without a password and without a provider waits for its owner and becomes theirs; and the
    /// person of another provider who was here first gives the name back, if people of this one own plain names.
    /// Nothing is announced, and no audit row written, when nothing but the moment is new.
    ///
    /// # Errors
    /// [`Error::NameTaken`] when a new user has the name of another, [`Error::Reserved`] when it is kept for another,
    /// [`Error::LooksLike`] when another account's looks like that of a new user.
    pub async fn meet(&self, actor: &Actor, seen: Seen<'_>, occasion: Occasion) -> Result<User> {
        if let Some(user) = self.user_by_identity(seen.issuer, seen.subject).await?
            && says_nothing_new(&user, seen, occasion)
        {
            if self.clock.now().since(user.person.as_ref().map_or(Timestamp(0), |person| person.seen)) < SEEN_EVERY {
                return Ok(user);
            }
            sqlx::query("UPDATE users SET seen = $1 WHERE id = $2")
                .bind(self.clock.now().0)
                .bind(user.id.0)
                .execute(&self.writer)
                .await?;
            return Ok(user);
        }
        let mut change = self.change().await?;
        let (id, action) = match change.user_by_identity(seen).await? {
            Some(user) => {
                change.rename_person(&user, seen.name).await?;
                (user.id, "person.update")
            }
            None => (change.new_person(seen).await?, "person.create"),
        };
        change.write_person(id, seen, occasion).await?;
        let user = change.user(id).await?;
        let detail = format!("{} groups, {}", seen.groups.len(), words(seen));
        change.commit(actor, action, format!("user:{}", user.name), detail).await?;
        Ok(user)
    }

    /// Writes down what a provider's list of people said of somebody at this moment: groups and what follows from them, and
    /// a name that changed. Makes no account, wakes no suspended token, and does nothing when the provider was heard of
    /// since.
    ///
    /// # Errors
    /// As every method.
    pub async fn follow(&self, actor: &Actor, user: &User, seen: Seen<'_>, at: Timestamp) -> Result<()> {
        let known = user.person.as_ref();
        let said = (seen.groups, seen.admin, seen.allowed);
        let is_known = known.is_some_and(|it| (it.groups.as_slice(), it.admin, it.allowed) == said);
        if is_known && user.name == seen.name {
            if at.since(known.map_or(Timestamp(0), |person| person.seen)) < SEEN_EVERY {
                return Ok(());
            }
            let touched = sqlx::query("UPDATE users SET seen = $1 WHERE id = $2 AND seen <= $1");
            touched.bind(at.0).bind(user.id.0).execute(&self.writer).await?;
            return Ok(());
        }
        let mut change = self.change().await?;
        let groups = serde_json::Value::from(seen.groups).to_string();
        let followed = sqlx::query(
            "UPDATE users SET groups = $1, group_admin = $2, allowed = $3, seen = $4
             WHERE id = $5 AND issuer = $6 AND subject = $7 AND seen <= $4",
        );
        let followed = followed.bind(groups).bind(seen.admin).bind(seen.allowed).bind(at.0).bind(user.id.0);
        if followed.bind(seen.issuer).bind(seen.subject).execute(change.on()).await?.rows_affected() == 0 {
            return Ok(());
        }
        change.rename_person(user, seen.name).await?;
        let user = change.user(user.id).await?;
        let detail = format!("{} groups, {}", seen.groups.len(), words(seen));
        change.commit(actor, "person.update", format!("user:{}", user.name), detail).await
    }

    /// Refuses a user from now on, as the provider answered at this moment: access tokens stop and sessions end in the same
    /// transaction. Groups stay as they were known. Does nothing when the provider was heard of since, or when the user is
    /// refused already.
    ///
    /// # Errors
    /// As every method.
    pub async fn disallow(&self, actor: &Actor, user: &User, at: Timestamp, why: &str) -> Result<()> {
        let Some(person) = user.person.as_ref().filter(|person| person.allowed) else { return Ok(()) };
        let mut change = self.change().await?;
        let disallowed = sqlx::query(
            "UPDATE users SET allowed = $1, seen = $2
             WHERE id = $3 AND issuer = $4 AND subject = $5 AND seen <= $2 AND allowed <> $1",
        );
        let disallowed = disallowed.bind(false).bind(at.0).bind(user.id.0).bind(&person.issuer).bind(&person.subject);
        if disallowed.execute(change.on()).await?.rows_affected() == 0 {
            return Ok(());
        }
        let ended = sqlx::query("DELETE FROM sessions WHERE user_id = $1").bind(user.id.0).execute(change.on()).await?;
        let detail = format!("{why}; {} sessions ended", ended.rows_affected());
        change.commit(actor, "person.update", format!("user:{}", user.name), detail).await
    }

    /// The people whom this issuer knows; programs are none.
    ///
    /// # Errors
    /// As every method.
    pub async fn people_of(&self, issuer: &str) -> Result<Vec<User>> {
        let users = sqlx::query(
            "SELECT id, name, password, admin, created, issuer, subject, groups, group_admin, allowed, seen, suspended
             FROM users WHERE issuer = $1 AND subject NOT LIKE 'machine:%' ORDER BY id",
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
        sqlx::query("UPDATE users SET suspended = $1 WHERE id = $2")
            .bind(change.at.0)
            .bind(user.id.0)
            .execute(change.on())
            .await?;
        change.commit(actor, "person.suspend", format!("user:{}", user.name), why.to_owned()).await
    }
}

/// Whether this is the account's name, or was before [`Change::displace`].
fn is_called(user: &User, name: &str) -> bool {
    user.name == name || user.name == displaced_name(name, user.id)
}

fn displaced_name(name: &str, id: UserId) -> String {
    format!("{name}~{id}")
}

/// Programs named by a rule of the configuration are told from people by their subject.
fn is_machine(subject: &str) -> bool {
    subject.starts_with("machine:")
}

/// Returns whether two names of which a provider says one must not look alike. Providers keep ASCII names apart, and people
/// who are called `cam` and `carn` cannot choose other ones.
const fn is_told_by_letters(name: &str, other: &str) -> bool {
    !name.is_ascii() || !other.is_ascii()
}

/// How often it is written down that nothing is new.
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
        let user = sqlx::query(
            "SELECT id, name, password, admin, created, issuer, subject, groups, group_admin, allowed, seen, suspended
             FROM users WHERE issuer = $1 AND subject = $2",
        );
        let user = user.bind(seen.issuer).bind(seen.subject).fetch_optional(self.on()).await?;
        user.as_ref().map(rows::user).transpose()
    }

    /// An account of its own, or the one that waits under this name.
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
        sqlx::query(
            "INSERT INTO users (name, password, admin, created) VALUES ($1, NULL, $2, $3) ON CONFLICT (name) DO NOTHING",
        )
        .bind(seen.name)
        .bind(false)
        .bind(at)
        .execute(self.on())
        .await?;
        let id: Option<i64> =
            sqlx::query_scalar("SELECT id FROM users WHERE name = $1 AND password IS NULL AND issuer IS NULL")
                .bind(seen.name)
                .fetch_optional(self.on())
                .await?;
        id.map(UserId).ok_or_else(|| Error::NameTaken(seen.name.to_owned()))
    }

    /// Whether the person of another provider gives a name back to one whose provider's people own plain names.
    fn gives_way(&self, holder: &User, seen: Seen<'_>) -> bool {
        let other = holder.identity().is_some_and(|(issuer, subject)| issuer != seen.issuer && !is_machine(subject));
        seen.owns_plain_names && !is_machine(seen.subject) && other && holder.password.is_none()
    }

    /// Whether another person of this provider had this name before [`Self::displace`], and still goes by it in policies.
    async fn is_displaced_there(&mut self, seen: Seen<'_>) -> Result<bool> {
        let found = sqlx::query("SELECT 1 FROM users WHERE issuer = $1 AND lower(name) = lower($2 || '~' || id)");
        Ok(found.bind(seen.issuer).bind(seen.name).fetch_optional(self.on()).await?.is_some())
    }

    /// Gives an account a name that no other account has; the account keeps its grants and tokens.
    async fn displace(&mut self, holder: &User) -> Result<()> {
        let name = displaced_name(&holder.name, holder.id);
        tracing::warn!(user = %holder.name, %name, "the user of the first provider has this name; the other one is renamed");
        sqlx::query("UPDATE users SET name = $1 WHERE id = $2").bind(name).bind(holder.id.0).execute(self.on()).await?;
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
        sqlx::query("UPDATE users SET name = $1 WHERE id = $2").bind(name).bind(user.id.0).execute(self.on()).await?;
        Ok(())
    }

    async fn write_person(&mut self, id: UserId, seen: Seen<'_>, occasion: Occasion) -> Result<()> {
        let (at, groups) = (self.at.0, serde_json::Value::from(seen.groups).to_string());
        sqlx::query(
            "UPDATE users SET issuer = $1, subject = $2, groups = $3, group_admin = $4, allowed = $5, seen = $6,
                    suspended = CASE WHEN $7 THEN NULL ELSE suspended END
             WHERE id = $8",
        )
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
