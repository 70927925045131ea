//! A provider tells us that somebody signed out there.
//!
//! Which provider it is, the token says itself; nothing else of it is believed before its signature was verified.

use super::login::{Provider, Providers};
use super::token::{Logout, Refusal, Unverified, verify_logout_token};

impl Providers {
    /// Whose logout token this is, and what it says. Whether it was used before, the caller must ask.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub async fn logout(&self, token: &str) -> Result<(&Provider, Logout), Refusal> {
        let unverified = Unverified::parse(token)?;
        let mut refusal = Refusal::Issuer;
        // One issuer may stand here twice, with two clients.
        let is_its = |provider: &&Provider| unverified.issuer() == Some(provider.config.endpoint.issuer.as_str());
        for provider in self.iter().filter(is_its) {
            let keys = match provider.remote.keys_for(&unverified).await {
                Ok(keys) => keys,
                Err(why) => {
                    refusal = why;
                    continue;
                }
            };
            match verify_logout_token(&unverified, &provider.config, &keys, self.clock.now()) {
                Ok(logout) => return Ok((provider, logout)),
                Err(why) => refusal = why,
            }
        }
        Err(refusal)
    }
}
