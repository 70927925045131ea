//! Homes of accounts, as policy rules name them.
//!
//! A user name alone is not unique: two identity providers can both have a `ceo@example.org`. A rule therefore applies
//! to the accounts of one home: the one in `provider`, or the homes that own plain names.

/// The home of an account.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Home<'h> {
    /// [`LOCAL`], or the configured name of a provider or issuer; empty if the issuer is not configured.
    pub name: &'h str,
    /// True if rules without `provider` apply: to local accounts, programs named by the configuration, and users of the
    /// first provider.
    pub is_plain: bool,
}

/// The home of accounts without an identity provider.
pub const LOCAL: &str = "local";
/// Prefix of a program's subject.
const MACHINE: &str = "machine:";

impl Default for Home<'_> {
    fn default() -> Self {
        Self { name: LOCAL, is_plain: true }
    }
}

/// All configured homes.
#[derive(Clone, Debug, Default)]
pub struct Homes {
    /// Issuer and name. Users of the first one own plain names.
    issuers: Vec<(String, String)>,
}

impl Homes {
    /// Creates the list from issuers and their configured names, in the order of the configuration. A repeated issuer
    /// keeps its first name.
    pub fn new(issuers: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut homes = Self::default();
        for (issuer, name) in issuers {
            if homes.issuers.iter().all(|(known, _)| *known != issuer) {
                homes.issuers.push((issuer, name));
            }
        }
        homes
    }

    /// Returns the home of an account. `identity` is issuer and subject, or `None` for a local account.
    #[must_use]
    pub fn of(&self, identity: Option<(&str, &str)>) -> Home<'_> {
        let Some((issuer, subject)) = identity else { return Home::default() };
        let name = self.issuers.iter().find(|(known, _)| known == issuer).map_or("", |(_, name)| name.as_str());
        Home { name, is_plain: subject.starts_with(MACHINE) || self.owns_plain_names(issuer) }
    }

    /// Returns true if users of this issuer own plain names. Without configured issuers every issuer does, because
    /// there are no others to confuse them with.
    #[must_use]
    pub fn owns_plain_names(&self, issuer: &str) -> bool {
        self.issuers.first().is_none_or(|(first, _)| first == issuer)
    }

    /// Returns true if a rule is allowed to name this home.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        name == LOCAL || self.issuers.iter().any(|(_, known)| known == name)
    }

    /// Returns the names of all issuers, in the order of the configuration.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.issuers.iter().map(|(_, name)| name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_names_are_those_of_the_first_provider_of_programs_and_of_local_accounts() {
        let issuer = |name: &str| (format!("https://{name}"), name.to_owned());
        let homes =
            Homes::new([issuer("keycloak"), issuer("partner"), ("https://keycloak".to_owned(), "again".to_owned())]);
        for (identity, name, is_plain) in [
            (None, LOCAL, true),
            (Some(("https://keycloak", "1")), "keycloak", true),
            (Some(("https://partner", "1")), "partner", false),
            (Some(("https://partner", "machine:ci")), "partner", true),
            (Some(("https://gone", "1")), "", false),
        ] {
            assert_eq!(homes.of(identity), Home { name, is_plain }, "{identity:?}");
        }
        assert!(homes.has("partner") && homes.has(LOCAL) && !homes.has("again") && !homes.has(""));
        assert!(Homes::default().of(Some(("https://any", "1"))).is_plain);
    }
}
