//! What proves that a form is of our page, made for whoever sends it, and lately.
//!
//! A browser sends password or session along with what another site made it send, too; the origin check keeps that out, and
//! this does where a browser says nothing of origins.

use std::time::Duration;

use super::asked::Asked;
use super::{Parts, Refusal};
use crate::clock::Timestamp;
use crate::crypto::Sealer;

/// How long a form may lie; Flask's own bound.
const FORM_LIFETIME: Duration = Duration::from_hours(1);

impl Parts {
    /// A token for a form of this purpose.
    pub(super) async fn form_token(&self, asked: &Asked, purpose: &str) -> Result<String, Refusal> {
        let until = self.clock.now().plus(FORM_LIFETIME).0.to_be_bytes();
        Ok(self.sealer().await?.seal(purpose, asked.identity.user.0, &until))
    }

    /// Refuses a form without such a token.
    pub(super) async fn check_form_token(&self, asked: &Asked, purpose: &str, token: &str) -> Result<(), Refusal> {
        if token.is_empty() {
            return Err(Refusal::bad_request("The CSRF token is missing."));
        }
        let sealed = self.sealer().await?.open(purpose, asked.identity.user.0, token);
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
