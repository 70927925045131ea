//! The grants of one user: direct ones, those of the user's groups, and those of the user's roles.
//!
//! They are read from the store in a few statements. The grants of a policy file are added when they are compiled.

use super::db::sql;
use super::{Result, Role, Store, rows};
use crate::authz::{
    DEFAULT_WORKSPACE, Grant, GrantSet, Home, Member, PolicyFile, RoleId, Source, Subject, UserId, Whom,
    texts_of_groups,
};

/// All grants of one user in the store.
#[derive(Clone, Debug)]
pub struct Standing {
    own: Vec<Grant>,
    of_groups: Vec<Grant>,
    roles: Vec<Role>,
}

impl Store {
    /// Returns the grants of a user who is in these groups.
    ///
    /// # Errors
    /// Only those that [`Store`] lists for every method.
    pub async fn standing_of(&self, user: UserId, groups: &[String]) -> Result<Standing> {
        let own = self.grants_of(&Subject::User(user)).await?;
        let texts: Vec<String> = texts_of_groups(groups.iter().map(String::as_str)).into_iter().collect();
        let mut of_groups = Vec::new();
        for texts in texts.chunks(AT_ONCE) {
            of_groups.extend(self.grants_of_groups(texts).await?);
        }
        Ok(Standing { own, of_groups, roles: self.roles_of(user).await? })
    }

    /// Returns the grants of these groups, at most [`AT_ONCE`] of them, compared byte for byte.
    async fn grants_of_groups(&self, groups: &[String]) -> Result<Vec<Grant>> {
        let mut grants = sql("SELECT subject_kind, subject, kind, form, selector, permission FROM grants
             WHERE subject_kind = 'group' AND subject IN ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14,
                   $15, $16, $17, $18, $19, $20, $21, $22, $23, $24)
             ORDER BY subject, kind, form, selector");
        // The statement has the same text for any number of groups: the last group fills the unused parameters.
        for place in 0..AT_ONCE {
            grants = grants.bind(groups.get(place).or(groups.last()));
        }
        grants.fetch_all(&self.readers).await?.iter().map(rows::grant).collect()
    }
}

/// Number of groups per statement.
const AT_ONCE: usize = 24;

impl Standing {
    /// Returns the roles of the user.
    pub fn roles(&self) -> impl Iterator<Item = RoleId> + '_ {
        self.roles.iter().map(|role| role.id)
    }

    /// Returns the user as the subject of a policy's rules.
    #[must_use]
    pub fn member<'m>(&'m self, name: &'m str, home: Home<'m>, groups: &'m [String]) -> Member<'m> {
        let roles = self.roles.iter().filter(|role| role.workspace == DEFAULT_WORKSPACE);
        Member { name, home, groups, roles: roles.map(|role| role.name.as_str()).collect() }
    }

    /// Returns the compiled grants of the store and the policy.
    #[must_use]
    pub fn grants(&self, policy: &PolicyFile, member: &Member<'_>) -> GrantSet {
        let mut set: GrantSet = self.own.iter().cloned().collect();
        set.add(self.of_groups.iter().cloned());
        for role in &self.roles {
            set.join(&role.workspace, role.grants.iter().map(|row| row.grant.clone()));
        }
        set.add(policy.grants_for(member));
        set
    }

    /// Returns the grants of the store and the policy as a list, each with its source and subject.
    #[must_use]
    pub fn sentences(&self, policy: &PolicyFile, member: &Member<'_>) -> Vec<Grant<(Source, Whom)>> {
        let stored = |grant: &Grant, whom: Whom| Grant {
            subject: (Source::Store, whom),
            kind: grant.kind,
            selector: grant.selector.clone(),
            permission: grant.permission,
        };
        let own = self.own.iter().map(|grant| stored(grant, Whom::User(member.name.to_owned())));
        let of_groups = self.of_groups.iter().map(|grant| {
            let Subject::Group(group) = &grant.subject else { return stored(grant, Whom::Everybody) };
            stored(grant, Whom::Group(group.clone()))
        });
        // Outside the default workspace, a role grants the workspace but nothing in it.
        let roles = self.roles.iter().filter(|role| role.workspace == DEFAULT_WORKSPACE);
        let of_roles = roles.flat_map(|role| {
            let whom = Whom::Role(format!("{}/{}", role.workspace, role.name));
            role.grants.iter().map(move |row| stored(&row.grant, whom.clone()))
        });
        own.chain(of_groups).chain(of_roles).chain(policy.grants_for(member)).collect()
    }
}
