//! Where accounts come from, as a policy's rules name it.
//!
//! A name alone is not an identity: two identity providers may both know a `ceo@example.org`. A rule therefore means the
//! accounts of one home: the one it names with `provider`, or those that own plain names.

/// The home of one account.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Home<'h> {
    /// [`LOCAL`], or the configuration's name of a provider or issuer; empty when it is not configured.
    pub name: &'h str,
    /// Whether rules without `provider` mean it: local accounts, programs named by the configuration, and people of the first
    /// provider.
    pub is_plain: bool,
}

/// The home of accounts that no identity provider knows.
pub const LOCAL: &str = "local";
/// How the subject of a program starts.
const MACHINE: &str = "machine:";

impl Default for Home<'_> {
    fn default() -> Self {
        Self { name: LOCAL, is_plain: true }
    }
}

/// Every home that is configured.
#[derive(Clone, Debug, Default)]
pub struct Homes {
    /// Issuer and name; the first one's people own plain names.
    issuers: Vec<(String, String)>,
}

impl Homes {
    /// From issuers and the configuration's names for them, in its order. An issuer that comes again keeps its first name.
    pub fn new(issuers: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut homes = Self::default();
        for (issuer, name) in issuers {
            if homes.issuers.iter().all(|(known, _)| *known != issuer) {
                homes.issuers.push((issuer, name));
            }
        }
        homes
    }

    /// The home of an account, by issuer and subject if an identity provider knows it.
    #[must_use]
    pub fn of(&self, identity: Option<(&str, &str)>) -> Home<'_> {
        let Some((issuer, subject)) = identity else { return Home::default() };
        let name = self.issuers.iter().find(|(known, _)| known == issuer).map_or("", |(_, name)| name.as_str());
        Home { name, is_plain: subject.starts_with(MACHINE) || self.owns_plain_names(issuer) }
    }

    /// Whether people of this issuer own plain names. Where nothing is configured, there are no others to tell them from.
    #[must_use]
    pub fn owns_plain_names(&self, issuer: &str) -> bool {
        self.issuers.first().is_none_or(|(first, _)| first == issuer)
    }

    /// Whether a rule may name this home.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        name == LOCAL || self.issuers.iter().any(|(_, known)| known == name)
    }

    /// The names of all, the first one's first.
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
