//! What an access token with resource scopes may ask of the management API.
//!
//! Such a token is for working with what it names. It shares nothing, and sees nothing of its owner's account but itself.

use super::Refusal;
use crate::authz::{Denied, Limits, NeededScope};

/// Refuses a token with resource scopes everything that is not about the token itself.
pub(super) fn check(limits: &Limits, path: &str) -> Result<(), Refusal> {
    if limits.resources.is_empty() || is_open(path) {
        return Ok(());
    }
    Err(Denied::TokenScope(NeededScope::Unscoped).into())
}

fn is_open(path: &str) -> bool {
    const OWN: [&str; 3] = ["/auth/api/v1/me", "/auth/api/v1/explain", "/auth/api/v1/tokens"];
    const CURRENT: [&str; 2] = ["/api/2.0/mlflow/users/current", "/ajax-api/2.0/mlflow/users/current"];
    // What is below `tokens/` ends one, and only itself; see `tokens::end`.
    OWN.contains(&path) || CURRENT.contains(&path) || path.starts_with("/auth/api/v1/tokens/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scoped_token_reaches_what_is_about_itself() {
        let scoped = Limits::parse(["experiment:1"]).unwrap();
        let read_only = Limits::parse(["read-only"]).unwrap();
        for (path, open) in [
            ("/auth/api/v1/me", true),
            ("/auth/api/v1/tokens", true),
            ("/auth/api/v1/tokens/7", true),
            ("/api/2.0/mlflow/users/current", true),
            ("/auth/api/v1/grants", false),
            ("/auth/api/v1/sessions", false),
            ("/auth/account", false),
            ("/api/2.0/mlflow/experiments/permissions/create", false),
            ("/api/3.0/mlflow/users/current/permissions", false),
            ("/api/3.0/mlflow/users/permissions/grant", false),
            ("/api/2.0/mlflow/users/list", false),
            ("/auth/api/v1/tokensx", false),
        ] {
            assert_eq!(check(&scoped, path).is_ok(), open, "{path}");
            assert!(check(&Limits::default(), path).is_ok() && check(&read_only, path).is_ok(), "{path}");
        }
    }
}
