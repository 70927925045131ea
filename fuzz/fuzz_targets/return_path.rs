//! Where somebody goes after signing in is a path of the same origin, read letter by letter and by the parser of browsers.
#![no_main]

use http::HeaderValue;
use libfuzzer_sys::fuzz_target;
use mlflow_auth_proxy::http::ReturnPath;
use url::Url;

fuzz_target!(|input: &[u8]| {
    let Ok(text) = str::from_utf8(input) else { return };
    assert_eq!(ReturnPath::parse_or("/", text), ReturnPath::parse(text).unwrap_or_else(home));
    let Some(path) = ReturnPath::parse(text) else { return };
    let written = path.as_str();
    assert!(written.starts_with('/') && !written.starts_with("//") && !written.contains('\\'), "{written:?}");
    HeaderValue::from_str(written).expect("it can be written as a header");
    assert_eq!(ReturnPath::parse(written).as_ref(), Some(&path), "read again");
    for base in ["https://mlflow.example.com", "http://localhost:5000/auth/callback/keycloak?code=c&state=s#f"] {
        let base = Url::parse(base).expect("a URL");
        let reached = base.join(written).expect("a path can be reached");
        assert_eq!(reached.origin(), base.origin(), "{written:?}");
        assert!(reached.username().is_empty() && reached.password().is_none(), "{written:?}");
        assert!(!["/auth/login", "/auth/callback", "/auth/logout"].contains(&reached.path()), "{written:?}");
    }
});

fn home() -> ReturnPath {
    ReturnPath::parse("/").expect("a path")
}
