use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, header};
use proptest::prelude::*;

use super::*;

fn path(raw: &str) -> Result<CanonicalPath, PathError> {
    CanonicalPath::parse(&raw.parse::<PathAndQuery>().expect("a target hyper would accept"))
}

#[track_caller]
fn refused(raw: &str, because: PathError) {
    assert_eq!(path(raw).map(|p| p.decoded().to_owned()), Err(because), "{raw}");
}

#[track_caller]
fn accepted(raw: &str, decoded: &str, sent: &str) {
    let path = path(raw).unwrap_or_else(|error| panic!("{raw}: {error}"));
    assert_eq!((path.decoded(), &*path.encoded()), (decoded, sent), "{raw}");
}

#[test]
fn a_path_has_one_spelling() {
    accepted("/", "/", "/");
    accepted("/api/2.0/mlflow/runs/get?x=%2F", "/api/2.0/mlflow/runs/get", "/api/2.0/mlflow/runs/get");
    accepted("/%61pi/2.0/%6dlflow", "/api/2.0/mlflow", "/api/2.0/mlflow");
    accepted("/a%20b", "/a b", "/a%20b");
    accepted("/caf%C3%A9", "/café", "/caf%C3%A9");
    accepted("/a%3Bb", "/a;b", "/a%3Bb");
    accepted("/a:b@c", "/a:b@c", "/a%3Ab%40c");
    accepted("/a%252e", "/a%2e", "/a%252e");
}

#[test]
fn a_path_that_could_be_read_in_two_ways_is_refused() {
    for raw in ["//api", "/api//x", "/a//", "//"] {
        refused(raw, PathError::EmptySegment);
    }
    for raw in ["/..", "/.", "/a/../b", "/a/./b", "/a/..", "/a/%2e%2e/b", "/%2E/b", "/a/.%2e"] {
        refused(raw, PathError::DotSegment);
    }
    for raw in ["/a%2fb", "/a%2Fb", "/a%5cb", "/a%5Cb", "/a%00", "/a%0ab", "/%7f"] {
        refused(raw, PathError::EncodedSeparator);
    }
    for raw in ["/a;b=c", "/api;x/y"] {
        refused(raw, PathError::ForbiddenCharacter);
    }
    for raw in ["/%ff", "/%c0%ae", "/%ed%a0%80"] {
        refused(raw, PathError::NotText);
    }
}

proptest! {
    /// What is sent decodes to what was matched, and nothing about it can be read as another path.
    #[test]
    fn what_is_sent_is_what_was_matched(raw in "/[ -~]{0,40}") {
        let Ok(target) = raw.parse::<PathAndQuery>() else { return Ok(()) };
        let Ok(path) = CanonicalPath::parse(&target) else { return Ok(()) };
        let sent = path.encoded().into_owned();
        let again = CanonicalPath::parse(&sent.parse::<PathAndQuery>().expect("canonical")).expect("canonical");
        prop_assert_eq!(again.decoded(), path.decoded());
        prop_assert_eq!(&*again.encoded(), &*sent);
        prop_assert!(!sent.contains("//") && !sent.contains("/../") && !sent.contains(';') && !sent.contains('\\'));
        prop_assert!(!path.decoded().split('/').any(|segment| segment == "." || segment == ".."));
    }

    #[test]
    fn any_percent_encoding_is_refused_or_stable(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
        let raw: String = std::iter::once("/".to_owned()).chain(bytes.iter().map(|b| format!("%{b:02x}"))).collect();
        if let Ok(path) = path(&raw) {
            prop_assert!(!path.decoded().contains(char::is_control));
            prop_assert_eq!(path.decoded().matches('/').count(), 1);
        }
    }

    #[test]
    fn a_query_survives_being_rebuilt(text in "[ -~]{0,60}") {
        let Ok(query) = Query::parse(&text) else { return Ok(()) };
        prop_assert_eq!(Query::parse(&query.encoded()).expect("canonical"), query);
    }

    /// WSGI folds `-`, `_` and letter case together: nothing that folds to a protected name may pass under another.
    #[test]
    fn no_spelling_of_a_protected_header_passes(
        name in prop::sample::select(vec!["authorization", "cookie", "origin", "forwarded", "x-forwarded-for",
            "x-forwarded-host", "x-forwarded-user", "x-real-ip", "remote-user", "x-mlflow-guardrail-bypass", "proxy-authorization"]),
        separators in proptest::collection::vec(prop::sample::select(vec!['-', '_', '.']), 8),
    ) {
        let mut separators = separators.into_iter();
        let spelled: String = name.chars().map(|c| if c == '-' { separators.next().unwrap_or('-') } else { c }).collect();
        let mut headers = HeaderMap::new();
        headers.insert(http::HeaderName::try_from(&spelled).expect("a name"), HeaderValue::from_static("evil"));
        let sent = to_upstream(headers, &HeaderValue::from_static("up:1"), [10, 0, 0, 1].into());
        prop_assert!(sent.values().all(|value| value != "evil"), "{}", spelled);
        prop_assert_eq!(sent.get_all("x-forwarded-for").iter().count(), 1);
        prop_assert_eq!(sent.get("host").map(HeaderValue::as_bytes), Some(&b"up:1"[..]));
    }
}

#[test]
fn a_query_reads_as_mlflow_reads_it() {
    let query = Query::parse("a=1&b=x+y&b=%7a&c&d=e=f;g").expect("a query");
    assert_eq!(query.only("a"), Ok(Some("1")));
    assert_eq!(query.only("b"), Err(Repeated));
    assert_eq!(query.all("b").collect::<Vec<_>>(), ["x y", "z"]);
    assert_eq!(query.only("c"), Ok(Some("")));
    assert_eq!(query.only("d"), Ok(Some("e=f;g")));
    assert_eq!(query.only("A"), Ok(None));
    assert_eq!(query.encoded(), "a=1&b=x%20y&b=z&c=&d=e%3Df%3Bg");
    assert_eq!(Query::parse("a=%ff"), Err(QueryError::NotText));
    assert_eq!(Query::parse("a=%00"), Err(QueryError::Nul));
}

fn head(method: &str, headers: &[(&'static str, &'static str)]) -> Result<(), HeadError> {
    let mut request = Request::new(());
    *request.method_mut() = method.parse().expect("a method");
    *request.uri_mut() = "/x".parse().expect("a target");
    for (name, value) in headers {
        request.headers_mut().append(*name, HeaderValue::from_static(value));
    }
    check(&mut request.into_parts().0, false)
}

#[test]
fn a_head_that_two_servers_read_differently_is_refused() {
    let host = ("host", "proxy");
    assert_eq!(head("GET", &[host]), Ok(()));
    assert_eq!(head("GET", &[]), Err(HeadError::Host));
    assert_eq!(head("GET", &[host, host]), Err(HeadError::Host));
    assert!(matches!(head("TRACE", &[host]), Err(HeadError::Method(_))));
    assert!(matches!(head("get", &[host]), Err(HeadError::Method(_))));
    assert!(matches!(head("CONNECT", &[host]), Err(HeadError::Method(_))));
    for name in ["x_forwarded_for", "content.type", "x-mlflow_workspace", "transfer_encoding", "sec_fetch.site"] {
        assert!(matches!(head("GET", &[host, (name, "1")]), Err(HeadError::LookAlikeName(_))), "{name}");
    }
    for name in ["authorization", "content-type", "origin", "content-encoding"] {
        assert!(matches!(head("POST", &[host, (name, "1"), (name, "1")]), Err(HeadError::Repeated(_))), "{name}");
    }
    for value in ["close, x-forwarded-for", "authorization", "keep-alive,cookie", "a b", "x-a, host"] {
        assert_eq!(head("GET", &[host, ("connection", value)]), Err(HeadError::Nomination), "{value}");
    }
    assert_eq!(head("GET", &[host, ("connection", "Upgrade, HTTP2-Settings"), ("upgrade", "h2c")]), Ok(()));
    assert_eq!(head("GET", &[host, ("connection", "upgrade"), ("upgrade", "websocket")]), Err(HeadError::Upgrade));
    assert_eq!(head("POST", &[host, ("transfer-encoding", "identity, chunked")]), Err(HeadError::Framing));
    assert_eq!(
        head("POST", &[host, ("transfer-encoding", "chunked"), ("content-length", "3")]),
        Err(HeadError::Framing)
    );
}

#[test]
fn a_header_of_no_use_is_removed() {
    let mut request = Request::new(());
    *request.uri_mut() = "/x".parse().expect("a target");
    for (name, value) in [
        ("host", "proxy"),
        ("accept", "a"),
        ("x_request_id", "b"),
        ("remote.user", "c"),
        ("x-user", "d"),
        ("connection", "close, X-User, x-absent"),
    ] {
        request.headers_mut().append(name, HeaderValue::from_static(value));
    }
    let (mut head, ()) = request.into_parts();
    assert_eq!(check(&mut head, false), Ok(()));
    let mut left: Vec<_> = head.headers.keys().map(|name| name.as_str().to_owned()).collect();
    left.sort();
    assert_eq!(left, ["accept", "connection", "host"]);
}

#[test]
fn where_names_are_encoded_a_slash_in_them_is_a_slash() {
    let names = |raw: &str| {
        let path = CanonicalPath::parse_names(&raw.parse::<PathAndQuery>().expect("a target hyper would accept"))?;
        Ok((path.decoded().to_owned(), path.encoded().into_owned()))
    };
    let one = |path: &str| Ok((path.to_owned(), path.to_owned()));
    assert_eq!(names("/s/com.example%2Ftool"), one("/s/com.example/tool"));
    assert_eq!(names("/s/com.example%2ftool/tags"), one("/s/com.example/tool/tags"));
    assert_eq!(names("/s/com.example/tool"), one("/s/com.example/tool"));
    assert_eq!(names("/s/a%2F%2Fb"), Err(PathError::EmptySegment));
    assert_eq!(names("/s/a%2F..%2Fb"), Err(PathError::DotSegment));
    assert_eq!(names("/s/a%5Cb"), Err(PathError::EncodedSeparator));
    assert_eq!(names("/s/a%2F%00"), Err(PathError::EncodedSeparator));
}

#[test]
fn a_request_without_meaning_for_a_body_has_none() {
    let mut request = Request::new(());
    *request.uri_mut() = "/x".parse().expect("a target");
    request.headers_mut().insert(header::HOST, HeaderValue::from_static("proxy"));
    let (mut head, ()) = request.into_parts();
    for method in [Method::HEAD, Method::OPTIONS] {
        head.method = method.clone();
        assert_eq!(check(&mut head, true), Err(HeadError::UnexpectedBody(method)));
    }
    for method in [Method::GET, Method::POST] {
        head.method = method;
        assert_eq!(check(&mut head, true), Ok(()));
    }
}

#[test]
fn a_host_is_plain_in_both_versions_of_http() {
    let second = |authority: &str| {
        let request = Request::builder().version(http::Version::HTTP_2).uri(format!("https://{authority}/x"));
        let (mut head, ()) = request.body(()).expect("a request").into_parts();
        check(&mut head, false)
    };
    assert_eq!(second("proxy.example:8443"), Ok(()));
    assert_eq!(second("[::1]:8443"), Ok(()));
    for hostile in ["a$(id)", "a;b", "a'b", "a&b", "a=b"] {
        assert_eq!(second(hostile), Err(HeadError::BadHost), "{hostile}");
    }
}

#[test]
fn only_trusted_proxies_may_say_who_the_client_is() {
    let trusted = ["10.0.0.0/8".parse().expect("a net"), "::1/128".parse().expect("a net")];
    let seen = |peer: &str, forwarded: &[&'static str]| {
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append("x-forwarded-for", HeaderValue::from_static(value));
        }
        client_address(&headers, peer.parse().expect("an address"), &trusted).to_string()
    };
    assert_eq!(seen("192.0.2.1", &["1.1.1.1"]), "192.0.2.1", "an untrusted peer speaks for itself");
    assert_eq!(seen("10.0.0.1", &["1.1.1.1"]), "1.1.1.1");
    assert_eq!(seen("10.0.0.1", &["6.6.6.6, 1.1.1.1, 10.0.0.2"]), "1.1.1.1", "the rightmost that is not ours");
    assert_eq!(seen("10.0.0.1", &["6.6.6.6", "1.1.1.1"]), "1.1.1.1");
    assert_eq!(seen("10.0.0.1", &["1.1.1.1, garbage"]), "10.0.0.1", "what cannot be read ends the chain");
    assert_eq!(seen("10.0.0.1", &[""]), "10.0.0.1");
    assert_eq!(seen("10.0.0.1", &["[2001:db8::1]:443"]), "2001:db8::1");
    assert_eq!(seen("10.0.0.1", &["1.1.1.1:80"]), "1.1.1.1");
    assert_eq!(seen("::ffff:10.0.0.1", &["1.1.1.1"]), "1.1.1.1", "IPv4 in IPv6 clothes");
    let nobody = client_address(&HeaderMap::new(), [10, 0, 0, 1].into(), &[]);
    assert_eq!(nobody.to_string(), "10.0.0.1");
}

#[test]
fn mlflows_answer_loses_what_concerns_only_our_connection() {
    let upstream: http::uri::Authority = "127.0.0.1:5000".parse().expect("an authority");
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("connection", "keep-alive"),
        ("server", "uvicorn"),
        ("date", "now"),
        ("content-type", "text/plain"),
        ("content-disposition", "attachment"),
        ("location", "http://127.0.0.1:5000/a?b=c"),
    ] {
        headers.append(name, HeaderValue::from_static(value));
    }
    from_upstream(&mut headers, &upstream);
    let mut names: Vec<&str> = headers.keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["content-disposition", "content-type", "location"]);
    assert_eq!(headers["location"], "/a?b=c");
}

#[test]
fn a_cause_is_one_short_line() {
    #[derive(Debug, thiserror::Error)]
    #[error("client error (Connect)")]
    struct Outer(#[source] std::io::Error);
    assert_eq!(cause(&Outer(std::io::Error::other("Connection refused"))), "Connection refused");
    let long = cause(&std::io::Error::other(format!("name \r\n\u{1b}[31m{}", "x".repeat(10_000))));
    assert!(long.starts_with("name [31mxx") && long.chars().count() == 300, "{long}");
}
