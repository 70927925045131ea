//! An artifact path says nothing else after MLflow decoded it once more, and is the same behind the route it is sent to.
#![no_main]

use http::uri::PathAndQuery;
use libfuzzer_sys::fuzz_target;
use mlflow_auth_proxy::http::{CanonicalPath, decode_until_stable};
use mlflow_auth_proxy::mlflow::ArtifactPath;

const ROUTE: &str = "/api/2.0/mlflow-artifacts/artifacts/";

fuzz_target!(|input: &[u8]| {
    let Ok(text) = str::from_utf8(input) else { return };
    let Ok(path) = ArtifactPath::parse(text) else { return };
    let stable = path.as_str();
    assert_eq!(decode_until_stable(stable).as_deref(), Ok(stable));
    assert_eq!(ArtifactPath::parse(stable).as_ref(), Ok(&path));
    assert!(!stable.starts_with('/') && !stable.contains("//") && !stable.contains(['\\', '#', '?']), "{stable:?}");
    assert!(!stable.split('/').any(|segment| matches!(segment, "." | "..")), "{stable:?}");

    let sent = CanonicalPath::from_decoded(format!("{ROUTE}{stable}")).expect("a path below the route");
    let target: PathAndQuery = sent.encoded().parse().expect("what is sent is a target");
    let again = CanonicalPath::parse(&target).expect("what is sent is canonical");
    assert_eq!(again.decoded().strip_prefix(ROUTE), Some(stable));
});
