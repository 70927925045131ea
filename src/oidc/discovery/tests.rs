//! Which descriptions are believed.

use serde_json::{Value, json};

use super::*;

fn endpoint(internal: Option<&str>) -> Endpoint {
    let issuer = "https://sso.example.com/realms/x";
    Endpoint {
        issuer: issuer.to_owned(),
        discovery_url: format!("{issuer}/.well-known/openid-configuration").parse().unwrap(),
        internal_url: internal.map(|url| url.parse().unwrap()),
        jwks_url: None,
        ca: Vec::new(),
        bearer_file: None,
        algorithms: Vec::new(),
    }
}

fn description() -> Value {
    json!({
        "issuer": "https://sso.example.com/realms/x",
        "authorization_endpoint": "https://sso.example.com/realms/x/auth?kc=1",
        "token_endpoint": "https://sso.example.com/realms/x/token",
        "jwks_uri": "https://sso.example.com/realms/x/certs",
        "end_session_endpoint": "https://sso.example.com/realms/x/logout",
    })
}

fn parse(changes: &Value, internal: Option<&str>) -> Result<Metadata, MetadataError> {
    let mut description = description();
    for (name, value) in changes.as_object().unwrap() {
        description[name] = value.clone();
    }
    Metadata::parse(description.to_string().as_bytes(), &endpoint(internal))
}

#[test]
fn a_description_of_another_issuer_is_not_believed() {
    for issuer in ["https://sso.example.com/realms/x/", "https://SSO.example.com/realms/x", "https://evil.example", ""]
    {
        assert!(
            matches!(parse(&json!({ "issuer": issuer }), None), Err(MetadataError::AnotherIssuer { .. })),
            "{issuer}"
        );
    }
    for issuer in [json!(null), json!(5), json!(["https://sso.example.com/realms/x"])] {
        assert!(matches!(parse(&json!({ "issuer": issuer }), None), Err(MetadataError::NotUnderstood(_))), "{issuer}");
    }
}

#[test]
fn endpoints_that_others_could_listen_to_are_refused() {
    for name in ["authorization_endpoint", "token_endpoint", "jwks_uri", "userinfo_endpoint", "end_session_endpoint"] {
        for url in [
            "http://sso.example.com/x",
            "ftp://sso.example.com",
            "file:///etc/passwd",
            "javascript:alert(1)",
            "/x",
            "https://a:b@c/",
            "https://c/#x",
        ] {
            assert!(matches!(parse(&json!({ name: url }), None), Err(MetadataError::Unsafe(_))), "{name} {url}");
        }
        assert!(matches!(parse(&json!({ name: 5 }), None), Err(MetadataError::NotUnderstood(_))), "{name}");
        assert!(parse(&json!({ name: "http://127.0.0.1:8080/x" }), None).is_ok(), "{name}");
    }
}

#[test]
fn with_an_internal_url_we_go_there_and_browsers_do_not() {
    let metadata =
        parse(&json!({ "userinfo_endpoint": "https://sso.example.com/u?v=1" }), Some("http://keycloak.svc:8080"))
            .unwrap();
    assert_eq!(metadata.token.unwrap().as_str(), "http://keycloak.svc:8080/realms/x/token");
    assert_eq!(metadata.jwks.unwrap().as_str(), "http://keycloak.svc:8080/realms/x/certs");
    assert_eq!(metadata.userinfo.unwrap().as_str(), "http://keycloak.svc:8080/u?v=1");
    assert_eq!(metadata.authorization.unwrap().as_str(), "https://sso.example.com/realms/x/auth?kc=1");
    assert_eq!(metadata.end_session.unwrap().as_str(), "https://sso.example.com/realms/x/logout");
    let mut endpoint = endpoint(Some("http://keycloak.svc:8080"));
    assert_eq!(
        endpoint.description_url().as_str(),
        "http://keycloak.svc:8080/realms/x/.well-known/openid-configuration"
    );
    endpoint.discovery_url = "https://elsewhere.example.com/d".parse().unwrap();
    assert_eq!(endpoint.description_url().as_str(), "https://elsewhere.example.com/d");
}

#[test]
fn an_issuer_of_machines_needs_no_endpoints_for_browsers() {
    let text = r#"{"issuer":"https://sso.example.com/realms/x","jwks_uri":"https://sso.example.com/openid/v1/jwks",
                   "authorization_endpoint":"urn:kubernetes:programmatic_authorization"}"#;
    let metadata = Metadata::parse(text.as_bytes(), &endpoint(None)).unwrap();
    assert!(metadata.authorization.is_none() && metadata.token.is_none() && metadata.jwks.is_some());
}
