//! What a provider says of itself leads to https or to this machine, and nothing of it is another issuer's.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use mlflow_auth_proxy::config::{Endpoint, is_loopback};
use mlflow_auth_proxy::oidc::Metadata;
use mlflow_auth_proxy_fuzz::{ISSUER, issuer};
use url::Url;

const INTERNAL: &str = "http://keycloak.svc:8080";

static PUBLIC: LazyLock<Endpoint> = LazyLock::new(|| issuer().endpoint);
static WITHIN: LazyLock<Endpoint> =
    LazyLock::new(|| Endpoint { internal_url: Some(INTERNAL.parse().expect("a URL")), ..issuer().endpoint });

fuzz_target!(|input: &[u8]| {
    for endpoint in [&*PUBLIC, &*WITHIN] {
        let Ok(metadata) = Metadata::parse(input, endpoint) else { continue };
        assert_eq!(metadata.issuer, ISSUER);
        let ours = [&metadata.token, &metadata.jwks, &metadata.userinfo];
        let browsers = [&metadata.authorization, &metadata.end_session];
        let internal = endpoint.internal_url.as_ref();
        for url in ours.into_iter().chain(browsers).flatten() {
            assert!(is_safe(url, internal), "{url}");
        }
        for url in ours.into_iter().flatten() {
            assert!(internal.is_none_or(|internal| internal.origin() == url.origin()), "{url}");
        }
    }
});

fn is_safe(url: &Url, internal: Option<&Url>) -> bool {
    let plain = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
    let inside = internal.is_some_and(|internal| internal.origin() == url.origin());
    plain && url.has_host() && (url.scheme() == "https" || url.scheme() == "http" && (is_loopback(url) || inside))
}
