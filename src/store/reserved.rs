//! Names that stay reserved after their account was deleted or renamed.
//!
//! A policy grants to names, so the next holder of a freed name would inherit the grants of the previous one. An
//! administrator can release a name.

use super::change::Change;
use super::db::{Row, sql};
use super::{Actor, Error, Result, Store, User};
use crate::clock::Timestamp;

/// A name that is reserved for an identity.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ReservedName {
    /// The name in lower case.
    pub name: String,
    /// Issuer and subject; `None` for a local account.
    pub identity: Option<(String, String)>,
    pub since: Timestamp,
}

impl Store {
    /// Returns every reserved name, ordered by name.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn reserved_names(&self) -> Result<Vec<ReservedName>> {
        let rows = sql("SELECT name, issuer, subject, since FROM reserved_names ORDER BY name");
        let rows = rows.fetch_all(&self.readers).await?;
        let read = |row: &Row| {
            let identity: (Option<String>, Option<String>) = (row.try_get("issuer")?, row.try_get("subject")?);
            let since = Timestamp(row.try_get("since")?);
            Ok(ReservedName { name: row.try_get("name")?, identity: identity.0.zip(identity.1), since })
        };
        rows.iter().map(read).collect()
    }

    /// Releases a reserved name.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the name is not reserved.
    pub async fn release_name(&self, actor: &Actor, name: &str) -> Result<()> {
        let mut change = self.change().await?;
        let released = sql("DELETE FROM reserved_names WHERE name = $1").bind(name.to_lowercase());
        if released.execute(change.on()).await? == 0 {
            return Err(Error::NotFound(format!("reserved name {name}")));
        }
        change.affects([]);
        change.commit(actor, "name.release", format!("user:{name}"), String::new()).await
    }
}

impl Change {
    /// Reserves the name of an account that is about to be deleted or renamed.
    pub(super) async fn reserve_name_of(&mut self, user: &User) -> Result<()> {
        let (issuer, subject) = user.identity().unzip();
        let reserve = sql("INSERT INTO reserved_names (name, issuer, subject, since) VALUES ($1, $2, $3, $4)
             ON CONFLICT (name) DO UPDATE SET issuer = $2, subject = $3, since = $4");
        let at = self.at.0;
        reserve.bind(user.name.to_lowercase()).bind(issuer).bind(subject).bind(at).execute(self.on()).await?;
        Ok(())
    }

    /// Returns true if a name is reserved for another identity than this one.
    pub(super) async fn is_reserved(&mut self, name: &str, identity: Option<(&str, &str)>) -> Result<bool> {
        let row = sql("SELECT issuer, subject FROM reserved_names WHERE name = $1").bind(name.to_lowercase());
        let Some(row) = row.fetch_optional(self.on()).await? else { return Ok(false) };
        let (issuer, subject): (Option<String>, Option<String>) = (row.try_get("issuer")?, row.try_get("subject")?);
        let owner = issuer.as_deref().zip(subject.as_deref());
        Ok(owner.is_none() || owner != identity)
    }

    /// Deletes a reservation, because its identity has the name again.
    pub(super) async fn take_reserved(&mut self, name: &str) -> Result<()> {
        let taken = sql("DELETE FROM reserved_names WHERE name = $1").bind(name.to_lowercase());
        taken.execute(self.on()).await?;
        Ok(())
    }
}
