//! An address that is allowed has the host that another reader finds in it, and that host is on the list.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mlflow_auth_proxy::mlflow::ProviderHosts;

fuzz_target!(|input: &str| {
    let hosts = ProviderHosts::public();
    if hosts.check(input).is_ok() {
        assert_eq!(input.get(..8).map(str::to_ascii_lowercase).as_deref(), Some("https://"), "{input}");
        let authority = naive(input);
        assert!(authority.ends_with(".com") || authority.ends_with(".ai") || authority.ends_with(".xyz"), "{input}");
        assert!(hosts.check_public(input).is_ok(), "{input}");
    }
    if hosts.check_public(input).is_ok() {
        let authority = naive(input);
        for local in ["localhost", "127.", "10.", "192.168.", "169.254.", "[::1]", "0.0.0.0"] {
            assert!(!authority.starts_with(local) || authority.ends_with(|c: char| c.is_ascii_alphabetic()), "{input}");
        }
        assert!(!authority.contains('@') && !input.contains(['\\', '%', '#', '?']), "{input}");
    }
});

/// The host as the simplest of readers has it: all between the slashes, without the port.
fn naive(url: &str) -> String {
    let rest = url.split_once("://").expect("a scheme").1;
    let authority = rest.split('/').next().unwrap_or_default().to_ascii_lowercase();
    authority.strip_suffix(":443").map_or(authority.clone(), str::to_owned)
}
