//! Back-channel logout: a provider reports that a user signed out.
//!
//! The token names its provider itself. Nothing else in it is trusted before its signature is verified.

use super::login::{Provider, Providers};
use super::token::{Logout, Refusal, Unverified, verify_logout_token};

impl Providers {
    /// Verifies a logout token and returns its provider and content. The caller must check if the token was used
    /// before.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub async fn logout(&self, token: &str) -> Result<(&Provider, Logout), Refusal> {
        let unverified = Unverified::parse(token)?;
        let mut refusal = Refusal::Issuer;
        // One issuer may be configured twice, with two clients.
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
