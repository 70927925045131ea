//! Sessions of browsers: a secret in a cookie, and what the store remembers of it.

use secrecy::SecretString;

use super::{Authn, Error, Reason, Recognised};

impl Authn {
    /// Whose session this is, while it lasts.
    pub(super) async fn by_session(&self, _secret: &SecretString) -> Result<Recognised, Error> {
        Err(Error::Failed(Reason::UnknownSession))
    }
}
