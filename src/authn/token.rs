//! Access tokens: random secrets that users create, as bearer tokens or in place of a password.
//!
//! The store contains only a hash of each. A valid token is accepted regardless of any limit, because 256 random bits
//! cannot be guessed.

use std::net::IpAddr;

use super::{Authenticated, Authn, Error, Reason};
use crate::authz::Scheme;
use crate::crypto::AccessToken;
use crate::store::Token;

impl Authn {
    /// Returns the owner of an access token. `owner` is the user name that was sent with it, which must be the owner's.
    pub(super) async fn by_token(
        &self,
        owner: Option<&str>,
        token: &AccessToken,
        address: IpAddr,
    ) -> Result<Authenticated, Error> {
        let found = self.store.token_by_hash(&token.hash()).await?;
        let reason = match found {
            None => Reason::UnknownToken,
            Some((_, user)) if owner.is_some_and(|owner| owner != user.name) => Reason::TokenOfAnother,
            Some((token, user)) => match self.ended(&token).or_else(|| self.deactivation_reason(&user)) {
                Some(reason) => reason,
                None => {
                    let (limits, last_used) = (token.limits, token.last_used);
                    let authenticated = Authenticated::new(user, Scheme::Token(token.id), token.expires);
                    return Ok(Authenticated { limits, last_used, ..authenticated });
                }
            },
        };
        if reason.is_guess() {
            self.throttle.count(address)?;
        }
        Err(Error::Failed(reason))
    }

    /// Returns the reason if the token itself has expired or was revoked.
    fn ended(&self, token: &Token) -> Option<Reason> {
        let expired = (token.expires <= self.clock.now()).then_some(Reason::ExpiredToken(token.expires));
        token.revoked.map(Reason::RevokedToken).or(expired)
    }
}
