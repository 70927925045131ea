//! Identifies a caller again after a wait, because rights can be revoked while a request waits.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue, header};

use super::shown;
use crate::authn::{self, Authn, RawCredentials};
use crate::authz::{Identity, UserId};
use crate::upstream;

/// The credentials of an authenticated request, and the identity that they had.
pub(super) struct Asking {
    authn: Arc<Authn>,
    authorization: Option<HeaderValue>,
    session: Option<Box<str>>,
    address: IpAddr,
    identity: Arc<Identity>,
}

impl Asking {
    /// Keeps the credentials in `headers` that identified the caller: `Authorization`, or else the session's cookie.
    pub(super) fn new(authn: &Arc<Authn>, headers: &HeaderMap, address: IpAddr, identity: &Arc<Identity>) -> Self {
        let authorization = headers.get(header::AUTHORIZATION).cloned();
        let session = if authorization.is_none() { shown(headers).session } else { None };
        Self {
            authn: Arc::clone(authn),
            authorization,
            session: session.map(Box::from),
            address,
            identity: Arc::clone(identity),
        }
    }

    /// Identifies the caller as of now.
    pub(super) async fn identity(&self) -> Result<Arc<Identity>, authn::Error> {
        let authorization = self.authorization.as_ref().map(HeaderValue::as_bytes);
        let shown = RawCredentials { authorization, session: self.session.as_deref() };
        match self.authn.recent(shown) {
            Some(identity) => Ok(identity),
            None => self.authn.authenticate(shown, self.address).await,
        }
    }
}

impl upstream::Caller for Asking {
    fn user(&self) -> UserId {
        self.identity.user
    }

    fn is_unchanged(&self) -> Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        Box::pin(async {
            let now = self.identity().await;
            now.is_ok_and(|now| Arc::ptr_eq(&now, &self.identity) || now.has_the_rights_of(&self.identity))
        })
    }
}
