//! Identifies a caller again after a wait, because rights can be revoked while a request waits.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, header};

use super::shown;
use crate::authn::{self, Authn, RawCredentials};
use crate::authz::{Identity, UserId};
use crate::clock::Stopwatch;
use crate::upstream;

/// The credentials of an authenticated request, and the identity that they had.
pub(super) struct Asking {
    authn: Arc<Authn>,
    authorization: Option<HeaderValue>,
    session: Option<Box<str>>,
    address: IpAddr,
    found: Mutex<Found>,
}

/// The identity with which the request is decided.
struct Found {
    identity: Arc<Identity>,
    /// Time at which this identity was last confirmed.
    at: Stopwatch,
}

/// Age up to which a request is decided and sent with the identity that was found.
const RECENT: Duration = Duration::from_secs(1);

impl Asking {
    /// Keeps the credentials in `headers` that identified the caller: `Authorization`, or else the session's cookie. `at`: a
    /// moment before they were checked.
    pub(super) fn new(
        authn: &Arc<Authn>,
        headers: &HeaderMap,
        address: IpAddr,
        identity: &Arc<Identity>,
        at: Stopwatch,
    ) -> Self {
        let authorization = headers.get(header::AUTHORIZATION).cloned();
        let session = if authorization.is_none() { shown(headers).session } else { None };
        Self {
            authn: Arc::clone(authn),
            authorization,
            session: session.map(Box::from),
            address,
            found: Mutex::new(Found { identity: Arc::clone(identity), at }),
        }
    }

    /// Identifies the caller again. The request is then decided with the result.
    pub(super) async fn identity(&self) -> Result<Arc<Identity>, authn::Error> {
        let at = Stopwatch::start();
        let identity = self.look().await?;
        *self.found() = Found { identity: Arc::clone(&identity), at };
        Ok(identity)
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn look(&self) -> Result<Arc<Identity>, authn::Error> {
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
        self.found().identity.user
    }

    fn is_recent(&self) -> bool {
        self.found().at.elapsed() <= RECENT
    }

    fn is_unchanged(&self) -> Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        Box::pin(async {
            let at = Stopwatch::start();
            let Ok(now) = self.look().await else { return false };
            let mut found = self.found();
            let unchanged = Arc::ptr_eq(&now, &found.identity) || now.has_the_rights_of(&found.identity);
            if unchanged {
                // From before the look-up, so that a change during the look-up does not count as confirmed.
                found.at = at;
            }
            unchanged
        })
    }
}
