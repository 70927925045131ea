//! A caller, who is identified again after a wait: rights may be withdrawn while a request waits.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue, header};

use super::shown;
use crate::authn::{self, Authn, Shown};
use crate::authz::{Identity, UserId};
use crate::upstream;

/// The credentials of a request that was authenticated, and as whom.
pub(super) struct Asking {
    authn: Arc<Authn>,
    authorization: Option<HeaderValue>,
    session: Option<Box<str>>,
    address: IpAddr,
    identity: Arc<Identity>,
}

impl Asking {
    /// `headers`: of which the session's cookie counts if that is what identified the caller.
    pub(super) fn new(authn: &Arc<Authn>, headers: &HeaderMap, address: IpAddr, identity: &Arc<Identity>) -> Self {
        let session = shown(headers).session.filter(|_| !headers.contains_key(header::AUTHORIZATION));
        Self {
            authn: Arc::clone(authn),
            authorization: headers.get(header::AUTHORIZATION).cloned(),
            session: session.map(Box::from),
            address,
            identity: Arc::clone(identity),
        }
    }

    /// Identifies the caller as of now.
    pub(super) async fn identity(&self) -> Result<Arc<Identity>, authn::Error> {
        let authorization = self.authorization.as_ref().map(HeaderValue::as_bytes);
        let shown = Shown { authorization, session: self.session.as_deref() };
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
