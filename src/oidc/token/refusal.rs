//! Reasons for which a token is refused, as a bounded set of words.

use std::fmt;

/// Reason for which a token was refused. Contains no part of the token.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Refusal {
    /// Not a compact JWT.
    Malformed,
    TooLarge,
    /// The issuer is not configured, or differs from the expected one.
    Issuer,
    /// The algorithm is not configured for the issuer. `none` and shared secrets never are.
    Algorithm,
    /// The header requires something unsupported: `crit`, `b64`, `zip`, `enc`.
    Header,
    /// The issuer has no key with this `kid` that fits the algorithm.
    UnknownKey,
    /// The issuer's keys have never been fetched.
    NoKeys,
    Signature,
    /// `exp` is missing or not a time.
    Expiry,
    Expired,
    NotBefore,
    IssuedAt,
    Audience,
    AuthorizedParty,
    Subject,
    /// An ID, refresh or logout token where another kind is expected.
    Kind,
    /// Bound to a key (RFC 7800), so that the token alone is not sufficient.
    Bound,
    Nonce,
    Events,
    Jti,
    /// The token is genuine, but its claims do not identify a user or program.
    Claims,
}

impl Refusal {
    /// Returns a word from a bounded set, for logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "jwt_malformed",
            Self::TooLarge => "jwt_too_large",
            Self::Issuer => "jwt_issuer",
            Self::Algorithm => "jwt_algorithm",
            Self::Header => "jwt_header",
            Self::UnknownKey => "jwt_unknown_key",
            Self::NoKeys => "jwt_no_keys",
            Self::Signature => "jwt_signature",
            Self::Expiry => "jwt_exp",
            Self::Expired => "jwt_expired",
            Self::NotBefore => "jwt_nbf",
            Self::IssuedAt => "jwt_iat",
            Self::Audience => "jwt_audience",
            Self::AuthorizedParty => "jwt_azp",
            Self::Subject => "jwt_subject",
            Self::Kind => "jwt_kind",
            Self::Bound => "jwt_bound",
            Self::Nonce => "jwt_nonce",
            Self::Events => "jwt_events",
            Self::Jti => "jwt_jti",
            Self::Claims => "jwt_claims",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "it is no JSON Web Token in compact form",
            Self::TooLarge => "it is too large",
            Self::Issuer => "its `iss` is not an issuer that is configured",
            Self::Algorithm => "its `alg` is not among the configured `algorithms`",
            Self::Header => "its header requires an extension that is not supported (`crit`, `b64`, `zip`)",
            Self::UnknownKey => "its issuer has no key with this `kid` that fits its `alg`",
            Self::NoKeys => "its issuer's keys could not be fetched yet",
            Self::Signature => "its signature is wrong",
            Self::Expiry => "its `exp` is missing or not a time",
            Self::Expired => "it has expired",
            Self::NotBefore => "its `nbf` lies in the future or is not a time",
            Self::IssuedAt => "its `iat` is missing, lies in the future or is not a time",
            Self::Audience => "its `aud` contains none of the configured audiences",
            Self::AuthorizedParty => "its `azp` is not a client that may ask for it",
            Self::Subject => "its `sub` (or `sid`) is missing or not valid",
            Self::Kind => "it is another kind of token than is expected here",
            Self::Bound => {
                "it is bound to a key (`cnf`), which a bearer does not show: ask for one without DPoP or mTLS"
            }
            Self::Nonce => "its `nonce` is not the expected one",
            Self::Events => "its `events` contain no logout",
            Self::Jti => "its `jti` is missing or not valid",
            Self::Claims => "its claims do not identify a user or program",
        })
    }
}

impl std::error::Error for Refusal {}
