//! Conversion between database rows and values.
//!
//! An unknown word is [`Error::Corrupt`], never a default: a scope or level that is misread could grant access.

use super::db::Row;
use super::{Assignment, AuditEntry, Error, GrantRow, Holder, Intent, Person, Result, Role, Token, Undated, User};
use crate::authz::{Grant, Limits, Mutation, Permission, ResourceKind, RoleId, Selector, Subject, TokenId, UserId};
use crate::clock::Timestamp;
use crate::crypto::PasswordHash;
use crate::store::Actor;

/// Reads a user from the columns `id, name, password, admin, created` and those of [`person`].
pub(super) fn user(row: &Row) -> Result<User> {
    Ok(User {
        id: UserId(row.try_get("id")?),
        name: row.try_get("name")?,
        admin: row.try_get("admin")?,
        password: row.try_get::<Option<String>>("password")?.map(PasswordHash),
        created: Timestamp(row.try_get("created")?),
        person: person(row)?,
    })
}

/// Reads provider claims from the columns `issuer, subject, groups, group_admin, allowed, seen, suspended`.
fn person(row: &Row) -> Result<Option<Person>> {
    let Some(issuer) = row.try_get("issuer")? else { return Ok(None) };
    let groups = serde_json::from_str(row.try_get("groups")?);
    Ok(Some(Person {
        issuer,
        subject: row.try_get("subject")?,
        groups: groups.map_err(|error| Error::Corrupt(format!("the groups of a user: {error}")))?,
        admin: row.try_get("group_admin")?,
        allowed: row.try_get("allowed")?,
        seen: Timestamp(row.try_get::<Option<i64>>("seen")?.unwrap_or_default()),
        suspended: row.try_get::<Option<i64>>("suspended")?.map(Timestamp),
    }))
}

/// Reads a token from the columns `id, user_id, name, scopes, created, expires, last_used, revoked`.
pub(super) fn token(row: &Row) -> Result<Token> {
    Ok(Token {
        id: TokenId(row.try_get("id")?),
        user: UserId(row.try_get("user_id")?),
        name: row.try_get("name")?,
        limits: limits(row.try_get("scopes")?)?,
        created: Timestamp(row.try_get("created")?),
        expires: Timestamp(row.try_get("expires")?),
        last_used: row.try_get::<Option<i64>>("last_used")?.map(Timestamp),
        revoked: row.try_get::<Option<i64>>("revoked")?.map(Timestamp),
    })
}

/// Reads a token and its owner from the columns of [`token`], [`person`] and `owner_name, owner_password,
/// owner_admin, owner_created`.
pub(super) fn token_and_owner(row: &Row) -> Result<(Token, User)> {
    let token = token(row)?;
    let owner = User {
        id: token.user,
        name: row.try_get("owner_name")?,
        admin: row.try_get("owner_admin")?,
        password: row.try_get::<Option<String>>("owner_password")?.map(PasswordHash),
        created: Timestamp(row.try_get("owner_created")?),
        person: person(row)?,
    };
    Ok((token, owner))
}

/// Reads a subject from the columns `subject_kind, subject`.
pub(super) fn subject(row: &Row) -> Result<Subject> {
    let (subject_kind, subject): (&str, &str) = (row.try_get("subject_kind")?, row.try_get("subject")?);
    let number = || subject.parse().map_err(|_| Error::Corrupt(format!("`{subject}` is not the ID of a subject")));
    match subject_kind {
        "user" => Ok(Subject::User(UserId(number()?))),
        "group" => Ok(Subject::Group(subject.to_owned())),
        "role" => Ok(Subject::Role(RoleId(number()?))),
        other => Err(Error::Corrupt(format!("`{other}` is not a kind of subject"))),
    }
}

/// Reads a grant from the columns `subject_kind, subject, kind, form, selector, permission`.
pub(super) fn grant(row: &Row) -> Result<Grant> {
    let subject = subject(row)?;
    let key = || row.try_get::<String>("selector");
    let selector = match row.try_get("form")? {
        "all" => Selector::All,
        "exact" => Selector::Exact(key()?),
        "glob" => Selector::Glob(key()?),
        other => return Err(Error::Corrupt(format!("`{other}` is not a form of selector"))),
    };
    Ok(Grant { subject, kind: kind(row)?, selector, permission: permission(row.try_get("permission")?)? })
}

/// Reads a grant with its ID from the columns of [`grant`] and `id`.
pub(super) fn grant_row(row: &Row) -> Result<GrantRow> {
    Ok(GrantRow { id: row.try_get("id")?, grant: grant(row)? })
}

/// Reads an undated resource from the columns `id, kind, selector`.
pub(super) fn undated(row: &Row) -> Result<Undated> {
    Ok(Undated { id: row.try_get("id")?, kind: kind(row)?, key: row.try_get("selector")? })
}

/// Reads a role, without its grants, from the columns `id, workspace, name, description`.
pub(super) fn role(row: &Row) -> Result<Role> {
    Ok(Role {
        id: RoleId(row.try_get("id")?),
        name: row.try_get("name")?,
        workspace: row.try_get("workspace")?,
        description: row.try_get("description")?,
        grants: Vec::new(),
    })
}

/// Reads a membership from the columns `id, user_id, role_id`.
pub(super) fn assignment(row: &Row) -> Result<Assignment> {
    Ok(Assignment {
        id: row.try_get("id")?,
        user: UserId(row.try_get("user_id")?),
        role: RoleId(row.try_get("role_id")?),
    })
}

/// Reads a mutation from the columns `effect, kind, subject, new`.
pub(super) fn mutation(row: &Row) -> Result<Mutation> {
    let subject: String = row.try_get("subject")?;
    match row.try_get("effect")? {
        "create" => Ok(Mutation::Create { kind: kind(row)?, name: subject }),
        "drop" => Ok(Mutation::Delete { kind: kind(row)?, key: subject }),
        "rename" => Ok(Mutation::Rename { kind: kind(row)?, from: subject, to: row.try_get("new")? }),
        other => Err(Error::Corrupt(format!("`{other}` is not an effect"))),
    }
}

/// Reads an intent from the columns of [`mutation`] and `id, user_id, created, is_own, is_gone, is_unknown`.
pub(super) fn intent(row: &Row) -> Result<Intent> {
    let mutation = mutation(row)?;
    let user: Option<i64> = row.try_get("user_id")?;
    let holder = match (row.try_get("is_own")?, row.try_get("is_gone")?, row.try_get("is_unknown")?) {
        (true, _, _) => Holder::Own,
        (false, true, _) => Holder::Gone,
        (false, false, true) => Holder::Unknown,
        (false, false, false) => Holder::Other,
    };
    let (id, created) = (row.try_get("id")?, Timestamp(row.try_get("created")?));
    Ok(Intent { id, mutation, user: user.map(UserId), created, holder })
}

/// Reads an audit entry from the columns `at, actor, token, address, action, target, detail, count`.
pub(super) fn audit_entry(row: &Row) -> Result<AuditEntry> {
    let address: Option<&str> = row.try_get("address")?;
    let address = address.map(str::parse).transpose();
    Ok(AuditEntry {
        at: Timestamp(row.try_get("at")?),
        actor: Actor {
            name: row.try_get("actor")?,
            token: row.try_get::<Option<i64>>("token")?.map(TokenId),
            address: address.map_err(|_| Error::Corrupt("an address in the audit log".to_owned()))?,
        },
        action: row.try_get("action")?,
        target: row.try_get("target")?,
        detail: row.try_get("detail")?,
        count: row.try_get("count")?,
    })
}

/// Reads a key that seals from the column `value`.
pub(super) fn sealing_key(row: &Row) -> Result<[u8; 32]> {
    key_of(row.try_get("value")?)
}

/// Checks the length of a key that seals.
pub(super) fn key_of(bytes: Vec<u8>) -> Result<[u8; 32]> {
    bytes.try_into().map_err(|_| Error::Corrupt("the sealing key has not 32 bytes".to_owned()))
}

/// Reads a stored permission level.
pub(super) fn permission(word: &str) -> Result<Permission> {
    word.parse().map_err(|error: crate::authz::UnknownPermission| Error::Corrupt(error.to_string()))
}

/// Returns the values of the columns `subject_kind` and `subject`.
pub(super) fn subject_columns(subject: &Subject) -> (&'static str, String) {
    match subject {
        Subject::User(user) => ("user", user.to_string()),
        Subject::Group(group) => ("group", group.clone()),
        Subject::Role(role) => ("role", role.to_string()),
    }
}

/// Returns the values of the columns `form` and `selector`.
pub(super) fn selector_columns(selector: &Selector) -> (&'static str, &str) {
    match selector {
        Selector::All => ("all", ""),
        Selector::Exact(key) => ("exact", key),
        Selector::Glob(pattern) => ("glob", pattern),
    }
}

/// Returns the value of the column `scopes`.
pub(super) fn scopes(limits: &Limits) -> String {
    serde_json::Value::from(limits.scopes()).to_string()
}

fn limits(scopes: &str) -> Result<Limits> {
    let corrupt = |error: String| Error::Corrupt(format!("the scopes of a token: {error}"));
    let scopes: Vec<String> = serde_json::from_str(scopes).map_err(|error| corrupt(error.to_string()))?;
    Limits::parse(scopes.iter().map(String::as_str)).map_err(|error| corrupt(error.to_string()))
}

fn kind(row: &Row) -> Result<ResourceKind> {
    let word: &str = row.try_get("kind")?;
    word.parse().map_err(|error: crate::authz::UnknownKind| Error::Corrupt(error.to_string()))
}
