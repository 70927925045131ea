//! A path has one spelling: what is sent is read again as what was matched, by us and by the parser that browsers have.
#![no_main]

use http::uri::PathAndQuery;
use libfuzzer_sys::fuzz_target;
use mlflow_auth_proxy::http::CanonicalPath;
use url::Url;

fuzz_target!(|input: &[u8]| {
    let Ok(target) = PathAndQuery::try_from(input) else { return };
    for path in [CanonicalPath::parse(&target), CanonicalPath::parse_names(&target)].into_iter().flatten() {
        check(&path);
    }
});

fn check(path: &CanonicalPath) {
    let (decoded, sent) = (path.decoded(), path.encoded());
    assert!(decoded.starts_with('/') && !decoded.contains("//") && !decoded.contains('\\'), "{decoded:?}");
    assert!(!decoded.contains(char::is_control), "{decoded:?}");
    assert!(!decoded.split('/').any(|segment| matches!(segment, "." | "..")), "{decoded:?}");

    let target: PathAndQuery = sent.parse().expect("what is sent is a target");
    let again = CanonicalPath::parse(&target).expect("what is sent is canonical");
    assert_eq!((again.decoded(), again.encoded()), (decoded, sent.clone()));
    let again = CanonicalPath::from_decoded(decoded.to_owned()).expect("what was matched is decoded");
    assert_eq!(again.decoded(), decoded);

    let url = Url::parse(&format!("http://mlflow.invalid{sent}")).expect("what is sent is a URL's path");
    assert_eq!((url.path(), url.query(), url.fragment()), (&*sent, None, None));
}
