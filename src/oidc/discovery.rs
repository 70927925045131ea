//! Provider metadata (OpenID Connect Discovery 1.0, RFC 8414).
//!
//! Parsed strictly and accepted only for the configured issuer, so that one provider cannot present itself as another.
//! The metadata never determines which algorithms are trusted.

use serde::Deserialize;
use url::Url;

use super::client::is_safe;
use crate::config::Endpoint;

/// Metadata of a provider.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Metadata {
    /// The issuer, equal to the configured one.
    pub issuer: String,
    /// The authorization endpoint, for browsers. Issuers of tokens for programs have none.
    pub authorization: Option<Url>,
    /// The token endpoint, where the proxy redeems codes and refreshes tokens.
    pub token: Option<Url>,
    pub jwks: Option<Url>,
    pub userinfo: Option<Url>,
    /// The logout endpoint, for browsers.
    pub end_session: Option<Url>,
    /// True if authorization responses contain `iss` (RFC 9207).
    pub sends_iss: bool,
    pub backchannel_logout: bool,
    /// True if logout tokens contain `sid`.
    pub backchannel_logout_session: bool,
    pub scopes: Vec<String>,
    /// Supported PKCE methods (RFC 7636). The proxy requires `S256`.
    pub code_challenge_methods: Vec<String>,
    pub token_auth_methods: Vec<String>,
}

/// Reason for which metadata is refused.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    #[error("its description does not follow OpenID Connect Discovery: {0}")]
    NotUnderstood(#[source] serde_json::Error),
    #[error("its issuer is `{said}`, but the configured issuer is `{configured}`: both must be identical")]
    AnotherIssuer { said: String, configured: String },
    #[error("its `{0}` is neither https nor on this machine")]
    Unsafe(&'static str),
}

/// The members that are read, in their original form.
#[derive(Deserialize)]
struct Raw {
    issuer: String,
    authorization_endpoint: Option<String>,
    token_endpoint: Option<String>,
    jwks_uri: Option<String>,
    userinfo_endpoint: Option<String>,
    end_session_endpoint: Option<String>,
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
    #[serde(default)]
    backchannel_logout_supported: bool,
    #[serde(default)]
    backchannel_logout_session_supported: bool,
    #[serde(default)]
    scopes_supported: Vec<String>,
    #[serde(default)]
    code_challenge_methods_supported: Vec<String>,
    #[serde(default)]
    token_endpoint_auth_methods_supported: Vec<String>,
}

impl Metadata {
    /// Parses metadata. URLs that the proxy calls are moved to the endpoint's `internal_url`, if it has one.
    ///
    /// # Errors
    /// See [`MetadataError`].
    pub fn parse(json: &[u8], endpoint: &Endpoint) -> Result<Self, MetadataError> {
        let raw: Raw = serde_json::from_slice(json).map_err(MetadataError::NotUnderstood)?;
        // RFC 8414 §3.3 requires identical strings, not equality after normalization.
        if raw.issuer != endpoint.issuer {
            let said = raw.issuer.chars().take(200).collect();
            return Err(MetadataError::AnotherIssuer { said, configured: endpoint.issuer.clone() });
        }
        let internal = endpoint.internal_url.as_ref();
        let ours = |name, text: Option<&str>| Ok(place(name, text, internal)?.map(|url| endpoint.inside(&url)));
        Ok(Self {
            authorization: place("authorization_endpoint", raw.authorization_endpoint.as_deref(), internal)?,
            token: ours("token_endpoint", raw.token_endpoint.as_deref())?,
            jwks: ours("jwks_uri", raw.jwks_uri.as_deref())?,
            userinfo: ours("userinfo_endpoint", raw.userinfo_endpoint.as_deref())?,
            end_session: place("end_session_endpoint", raw.end_session_endpoint.as_deref(), internal)?,
            issuer: raw.issuer,
            sends_iss: raw.authorization_response_iss_parameter_supported,
            backchannel_logout: raw.backchannel_logout_supported,
            backchannel_logout_session: raw.backchannel_logout_session_supported,
            scopes: raw.scopes_supported,
            code_challenge_methods: raw.code_challenge_methods_supported,
            token_auth_methods: raw.token_endpoint_auth_methods_supported,
        })
    }
}

fn place(name: &'static str, text: Option<&str>, internal: Option<&Url>) -> Result<Option<Url>, MetadataError> {
    // Kubernetes has the URN `urn:kubernetes:programmatic_authorization` as its authorization endpoint: browsers cannot
    // sign in.
    let Some(text) = text.filter(|text| !text.starts_with("urn:")) else { return Ok(None) };
    let url = Url::parse(text).map_err(|_| MetadataError::Unsafe(name))?;
    let plain = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
    if plain && is_safe(&url, internal) { Ok(Some(url)) } else { Err(MetadataError::Unsafe(name)) }
}

#[cfg(test)]
mod tests;
