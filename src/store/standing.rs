//! What one person holds: themselves, by their groups, by their roles.
//!
//! Read from the store in a few statements; what a policy file adds comes in when it is compiled.

use super::{Result, Role, Store, rows};
use crate::authz::{
    DEFAULT_WORKSPACE, Grant, GrantSet, Home, Member, PolicyFile, Source, Subject, UserId, Whom, texts_of_groups,
};

/// Everything the store grants to one person.
#[derive(Clone, Debug)]
pub struct Standing {
    own: Vec<Grant>,
    of_groups: Vec<Grant>,
    roles: Vec<Role>,
}

impl Store {
    /// What somebody in these groups holds.
    ///
    /// # Errors
    /// As every method.
    pub async fn standing_of(&self, user: UserId, groups: &[String]) -> Result<Standing> {
        let own = self.grants_of(&Subject::User(user)).await?;
        let texts: Vec<String> = texts_of_groups(groups.iter().map(String::as_str)).into_iter().collect();
        let mut of_groups = Vec::new();
        for texts in texts.chunks(AT_ONCE) {
            of_groups.extend(self.grants_of_groups(texts).await?);
        }
        Ok(Standing { own, of_groups, roles: self.roles_of(user).await? })
    }

    /// The grants to these groups, at most [`AT_ONCE`] of them, letter for letter.
    async fn grants_of_groups(&self, groups: &[String]) -> Result<Vec<Grant>> {
        let mut grants = sqlx::query(
            "SELECT subject_kind, subject, kind, form, selector, permission FROM grants
             WHERE subject_kind = 'group' AND subject IN ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14,
                   $15, $16, $17, $18, $19, $20, $21, $22, $23, $24)
             ORDER BY subject, kind, form, selector",
        );
        // One text for any number of groups: the last stands in for those that are not there.
        for place in 0..AT_ONCE {
            grants = grants.bind(groups.get(place).or(groups.last()));
        }
        grants.fetch_all(&self.readers).await?.iter().map(rows::grant).collect()
    }
}

/// How many groups one statement asks for.
const AT_ONCE: usize = 24;

impl Standing {
    /// The same person as a policy knows them.
    #[must_use]
    pub fn member<'m>(&'m self, name: &'m str, home: Home<'m>, groups: &'m [String]) -> Member<'m> {
        let roles = self.roles.iter().filter(|role| role.workspace == DEFAULT_WORKSPACE);
        Member { name, home, groups, roles: roles.map(|role| role.name.as_str()).collect() }
    }

    /// The compiled grants: the store's and the policy's.
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

    /// The same one by one, with where each is written and whom it names.
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
        // Outside the default workspace a role gives the workspace and nothing in it.
        let roles = self.roles.iter().filter(|role| role.workspace == DEFAULT_WORKSPACE);
        let of_roles = roles.flat_map(|role| {
            let whom = Whom::Role(format!("{}/{}", role.workspace, role.name));
            role.grants.iter().map(move |row| stored(&row.grant, whom.clone()))
        });
        own.chain(of_groups).chain(of_roles).chain(policy.grants_for(member)).collect()
    }
}
