//! A head that passes names one host, and nothing of it arrives at MLflow under a name that is ours to fill in.
#![no_main]

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderValue, header};
use libfuzzer_sys::fuzz_target;
use mlflow_auth_proxy::http::{check, client_address, host, to_upstream};
use mlflow_auth_proxy_fuzz::request;

const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
const FORWARDED_FOR: &str = "x-forwarded-for";

fuzz_target!(|input: &[u8]| {
    let Some((mut head, body)) = request(input) else { return };
    if check(&mut head, !body.is_empty()).is_err() {
        return;
    }
    assert_eq!(head.headers.get_all(header::HOST).iter().count(), 1);
    if let Ok(host) = host(&head) {
        assert!(!host.is_empty() && !host.contains(['@', '/']) && host == host.to_ascii_lowercase(), "{host:?}");
    }
    let trusted = ["10.0.0.0/8".parse().expect("a net")];
    let client = client_address(&head.headers, PEER, &trusted);
    assert!(client == PEER || forwarded(&head.headers).contains(&client), "{client}");
    assert_eq!(client_address(&head.headers, PEER, &[]), PEER, "nobody is trusted");

    let sent = to_upstream(head.headers, &HeaderValue::from_static("mlflow:5000"), client);
    for name in sent.keys().map(http::HeaderName::as_str) {
        // As WSGI and others read names.
        let folded = name.replace(['-', '_', '.'], "");
        let ours = name == FORWARDED_FOR || name == "host";
        assert!(ours || !OURS.iter().any(|word| folded.contains(word)), "{name:?}");
    }
    let only = |name: &str| sent.get_all(name).iter().map(HeaderValue::as_bytes).collect::<Vec<_>>();
    assert_eq!(only("host"), [b"mlflow:5000"]);
    assert_eq!(only(FORWARDED_FOR), [client.to_string().as_bytes()]);
});

/// What names of credentials, identity, forwarding and framing have in them.
const OURS: [&str; 12] = [
    "authorization",
    "cookie",
    "origin",
    "forwarded",
    "realip",
    "remote",
    "host",
    "user-id",
    "connection",
    "upgrade",
    "transferencoding",
    "contentlength",
];

/// Every address that the client's side wrote.
fn forwarded(headers: &HeaderMap) -> Vec<IpAddr> {
    let texts = headers.get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok());
    let address = |text: &str| {
        let bare = text.trim().trim_start_matches('[').trim_end_matches(']');
        bare.parse().ok().or_else(|| text.trim().parse::<SocketAddr>().ok().map(|socket| socket.ip()))
    };
    texts.flat_map(|text| text.split(',')).filter_map(address).map(|address: IpAddr| address.to_canonical()).collect()
}
