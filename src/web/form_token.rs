//! CSRF tokens: prove that a form was made by the proxy's page, for the user who sends it, within the last hour.
//!
//! The origin check of the pipeline covers browsers that send `Origin` or `Sec-Fetch-Site`; this covers the others.

use std::time::Duration;

use crate::api::{ApiRequest, Context, Refusal};
use crate::clock::Timestamp;
use crate::crypto::Sealer;

/// Lifetime of a form. Flask-WTF's default.
const FORM_LIFETIME: Duration = Duration::from_hours(1);

impl Context {
    /// Returns a token for a form of this purpose.
    pub(super) async fn form_token(&self, request: &ApiRequest, purpose: &str) -> Result<String, Refusal> {
        let until = self.clock.now().plus(FORM_LIFETIME).0.to_be_bytes();
        Ok(self.sealer().await?.seal(purpose, request.identity.user.0, &until))
    }

    /// Requires a valid token for a form of this purpose.
    pub(super) async fn check_form_token(
        &self,
        request: &ApiRequest,
        purpose: &str,
        token: &str,
    ) -> Result<(), Refusal> {
        if token.is_empty() {
            return Err(Refusal::bad_request("The CSRF token is missing."));
        }
        let sealed = self.sealer().await?.open(purpose, request.identity.user.0, token);
        let until = sealed.and_then(|until| until.try_into().ok()).map(|until| Timestamp(i64::from_be_bytes(until)));
        match until {
            None => Err(Refusal::bad_request("The CSRF token is invalid.")),
            Some(until) if until <= self.clock.now() => Err(Refusal::bad_request("The CSRF token has expired.")),
            Some(_) => Ok(()),
        }
    }

    async fn sealer(&self) -> Result<Sealer, Refusal> {
        Ok(Sealer::new(&self.store.sealing_key().await?))
    }
}
