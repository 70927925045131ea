//! The times at which a session's tokens are refreshed, and the consequences of a failure.
//!
//! Pure. A provider in trouble or a fault of the proxy keeps the session. Only a refusal by the provider ends it.

use std::time::Duration;

use crate::oidc::{LoginError as Error, Refused};

/// Duration of a lease. After it, another process may refresh the session.
pub(super) const LEASE: Duration = Duration::from_mins(1);
/// Maximum time between two refreshes, so that groups stay current even if the provider's tokens live longer. Keycloak
/// ends a session that has been idle for half an hour.
const AT_MOST: Duration = Duration::from_mins(5);
/// Time before a token expires at which it is refreshed at the latest, so that there is time for a second attempt.
const BEFORE_END: Duration = Duration::from_secs(5);
const FIRST_RETRY: Duration = Duration::from_secs(5);
const MAX_DOUBLINGS: u32 = 6;
/// Pause after a refresh token may have been used. The next attempt also waits until the provider answers again; see
/// [`Health`](super::health::Health).
const REST: Duration = Duration::from_secs(10);

/// Consequence of a failed refresh.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Consequence {
    /// The session has ended.
    End,
    /// The user is disabled or deleted: all their sessions end, and their access tokens stop working.
    Disallow,
    /// The session is kept and refreshed again after this time.
    Retry(Duration),
    /// The provider or the client's registration there has a problem. Like [`Consequence::Retry`], but
    /// [`Health`](super::health::Health) must also allow it.
    Wait(Duration),
}

/// Returns the time after which tokens with this lifetime are refreshed: two thirds of it, some seconds before it ends,
/// and at most `AT_MOST`.
#[must_use]
pub fn time_until_due(expires_in: Option<Duration>) -> Duration {
    let lifetime = expires_in.unwrap_or(AT_MOST);
    let due = (lifetime * 2 / 3).min(lifetime.saturating_sub(BEFORE_END));
    // Near the end of its session, Keycloak grants lifetimes of a few seconds.
    due.clamp(Duration::from_secs(1), AT_MOST)
}

/// Returns the consequence of this failure, which follows `failures` others.
#[must_use]
pub(super) fn consequence(error: &Error, failures: u32) -> Consequence {
    let again = (FIRST_RETRY * 2_u32.pow(failures.min(MAX_DOUBLINGS))).min(AT_MOST);
    match error {
        Error::Refused(Refused::Grant) | Error::Claims(_) | Error::SomebodyElse => Consequence::End,
        Error::Refused(Refused::Person) => Consequence::Disallow,
        // The provider may still execute the request. A second use of the token in the meantime would look like a
        // stolen token.
        Error::Unreachable(error) if error.may_have_arrived() => Consequence::Wait(REST),
        Error::NotUnderstood => Consequence::Wait(REST),
        // Not caused by the session, so the pause does not grow with its number of failures.
        Error::NotReady | Error::Unreachable(_) | Error::Refused(Refused::Client) => Consequence::Wait(FIRST_RETRY),
        Error::Refused(Refused::Request) | Error::NoIdToken | Error::Token(_) => Consequence::Retry(again),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn tokens_are_refreshed_before_they_end() {
        for (lifetime, expected) in [(60, 40), (300, 200), (12, 7), (3, 1), (0, 1), (36_000, 300)] {
            assert_eq!(time_until_due(Some(seconds(lifetime))), seconds(expected), "{lifetime}");
        }
        assert_eq!(time_until_due(None), seconds(200));
    }

    #[test]
    fn only_a_refusal_ends_a_session() {
        assert_eq!(consequence(&Error::Refused(Refused::Grant), 0), Consequence::End);
        assert_eq!(consequence(&Error::SomebodyElse, 0), Consequence::End);
        assert_eq!(consequence(&Error::Refused(Refused::Person), 0), Consequence::Disallow);
        for (failures, expected) in [(0, 5), (3, 40), (3000, 300)] {
            let ours = Error::Refused(Refused::Request);
            assert_eq!(consequence(&ours, failures), Consequence::Retry(seconds(expected)), "{failures}");
        }
    }

    #[test]
    fn after_an_outage_of_any_length_a_session_is_due_within_seconds() {
        let broken = || crate::oidc::client::Error::Status(http::StatusCode::BAD_GATEWAY);
        for theirs in [Error::NotReady, Error::Refused(Refused::Client), Error::Unreachable(broken())] {
            for failures in [0, 3, 3000] {
                let Consequence::Wait(wait) = consequence(&theirs, failures) else { panic!("{theirs}") };
                assert!(wait <= REST, "{theirs}: {wait:?}");
            }
        }
    }

    #[test]
    fn a_token_that_was_perhaps_used_rests() {
        let silent = || crate::oidc::client::Error::TimedOut(seconds(10));
        assert_eq!(consequence(&Error::Unreachable(silent()), 0), Consequence::Wait(REST));
        assert_eq!(consequence(&Error::NotUnderstood, 0), Consequence::Wait(REST));
    }
}
