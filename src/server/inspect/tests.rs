use proptest::prelude::*;

use super::*;

const MAX_HEAD: usize = 1024;
const MAX_HEADERS: usize = 16;

/// What became of a whole stream.
#[derive(Debug, PartialEq)]
struct Verdict {
    heads: u64,
    passed: usize,
    then: Then,
}

/// Feeds a stream in pieces, offering again what did not pass, as the guard does.
fn feed<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Verdict {
    let mut inspector = Inspector::new(MAX_HEAD, MAX_HEADERS);
    let (mut held, mut passed) = (Vec::new(), 0);
    for piece in pieces {
        held.extend_from_slice(piece);
        let seen = inspector.inspect(&held);
        assert!(seen.pass <= held.len());
        passed += seen.pass;
        held.drain(..seen.pass);
        if seen.then != Then::Go {
            return Verdict { heads: inspector.heads(), passed, then: seen.then };
        }
    }
    Verdict { heads: inspector.heads(), passed, then: Then::Go }
}

#[track_caller]
fn refused(stream: &str, why: EdgeRefusal) {
    let verdict = feed([stream.as_bytes()]);
    assert_eq!(verdict, Verdict { heads: 0, passed: 0, then: Then::Refuse(why) }, "{stream:?}");
    let behind_a_good_one = format!("GET /first HTTP/1.1\r\nhost: a\r\n\r\n{stream}");
    let verdict = feed([behind_a_good_one.as_bytes()]);
    assert_eq!(verdict, Verdict { heads: 1, passed: 32, then: Then::Refuse(why) }, "{stream:?} as the second");
}

#[track_caller]
fn passes(stream: &str, heads: u64) {
    let verdict = feed([stream.as_bytes()]);
    assert_eq!(verdict, Verdict { heads, passed: stream.len(), then: Then::Go }, "{stream:?}");
}

#[test]
fn what_can_be_read_in_two_ways_is_refused() {
    use EdgeRefusal::{BareLineFeed, Connect, ContentLength, LengthAndEncoding, Malformed, TransferEncoding, Upgrade};
    refused("POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", LengthAndEncoding);
    refused("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\nCONTENT-LENGTH: 3\r\n\r\n", LengthAndEncoding);
    refused("POST / HTTP/1.1\r\nTransfer-Encoding: identity, chunked\r\n\r\n", TransferEncoding);
    refused("POST / HTTP/1.1\r\nTransfer-Encoding: chunked, identity\r\n\r\n", TransferEncoding);
    refused("POST / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n", TransferEncoding);
    refused("POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", TransferEncoding);
    refused("POST / HTTP/1.1\r\nTransfer-Encoding:\r\n\r\n", TransferEncoding);
    refused("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", TransferEncoding);
    refused("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", TransferEncoding);
    refused("POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n", ContentLength);
    refused("POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n", ContentLength);
    refused("POST / HTTP/1.1\r\nContent-Length: 3, 3\r\n\r\n", ContentLength);
    refused("POST / HTTP/1.1\r\nContent-Length: +3\r\n\r\n", ContentLength);
    refused("POST / HTTP/1.1\r\nContent-Length: 0x3\r\n\r\n", ContentLength);
    refused("POST / HTTP/1.1\r\nContent-Length: \r\n\r\n", ContentLength);
    refused("POST / HTTP/1.1\r\nContent-Length: 9999999999999999999\r\n\r\n", ContentLength);
    refused("GET / HTTP/1.1\nHost: a\n\n", BareLineFeed);
    refused("GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", BareLineFeed);
    refused("GET / HTTP/1.1\r\nHost: a\r\n\n", BareLineFeed);
    refused("GET / HTTP/1.1\r\nA: b\r\n folded\r\n\r\n", Malformed);
    refused("GET / HTTP/1.1\r\nA : b\r\n\r\n", Malformed);
    refused("GET / HTTP/1.1\r\nA: b\0c\r\n\r\n", Malformed);
    refused("GET / HTTP/1.1\r\nA: b\rc\r\n\r\n", Malformed);
    refused("GET / HTTP/1.1\r\n: b\r\n\r\n", Malformed);
    refused("GET /a b HTTP/1.1\r\n\r\n", Malformed);
    refused("GET / HTTP/2.0\r\n\r\n", Malformed);
    refused("GET /\r\n\r\n", Malformed);
    refused("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", Connect);
    refused("GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", Upgrade);
}

#[test]
fn nonsense_is_refused_before_its_end() {
    refused("\x16\x03\x01\x02\0\x01\0\x01\x7c\x03\x03", EdgeRefusal::Malformed);
    refused("\r\n\r\n\r\n", EdgeRefusal::Malformed);
}

#[test]
fn limits_hold() {
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(MAX_HEAD));
    refused(&long, EdgeRefusal::TooLarge);
    refused(long.get(..=MAX_HEAD).unwrap(), EdgeRefusal::TooLarge);
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(MAX_HEADERS + 1));
    refused(&many, EdgeRefusal::TooManyHeaders);
    passes(&format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(MAX_HEADERS)), 1);
    passes(&format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(MAX_HEAD - 18)), 1);
}

#[test]
fn good_pipelines_pass_untouched() {
    passes("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTTP/1.0\r\n\r\n", 2);
    passes("\r\nGET / HTTP/1.1\r\n\r\n\r\nGET /b HTTP/1.1\r\n\r\n", 2);
    passes("POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcPOST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 2);
    passes("GET / HTTP/1.1\r\nConnection: upgrade, http2-settings\r\nUpgrade: h2c\r\n\r\n", 1);
    let chunked = "POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n";
    passes(&format!("{chunked}3\r\nabc\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n"), 2);
    passes(&format!("{chunked}00A ;x=\"y\"\r\n0123456789\r\n0\r\nT: v\r\nU: w\r\n\r\nGET / HTTP/1.1\r\n\r\n"), 2);
    passes(&format!("{chunked}0\r\n\r\n"), 1);
}

#[test]
fn broken_chunks_end_the_stream() {
    let head = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (body, good) in [
        ("x\r\n", 0),
        ("-1\r\n", 0),
        ("3\nabc", 1),
        ("3;a\nabc", 3),
        ("3\r\nabcd", 6),
        ("3\r\nabc\n", 6),
        ("11111111111111111\r\n", 16),
        ("0\r\n\n", 3),
        ("0\r\nT: v\n\r\n", 7),
        ("0\r\n\rX", 4),
    ] {
        let verdict = feed([format!("{head}{body}GET / HTTP/1.1\r\n\r\n").as_bytes()]);
        let expected = Verdict { heads: 1, passed: head.len() + good, then: Then::Break };
        assert_eq!(verdict, expected, "{body:?}");
    }
}

/// The bytes of a trailer before the mistake had passed when they came alone, and had not when all came at once.
#[test]
fn a_broken_trailer_ends_the_stream_where_it_is_broken() {
    let head = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    let stream = format!("{head}0\r\nT: v\n\r\n");
    let expected = Verdict { heads: 1, passed: head.len() + "0\r\nT: v".len(), then: Then::Break };
    assert_eq!(feed(stream.as_bytes().chunks(1)), expected);
    assert_eq!(feed([stream.as_bytes()]), expected);
}

/// Pieces of streams, good and bad.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(vec![
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
        "\r\n",
        "\n",
        "\r",
        "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nabcde",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nT: u\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\n\r\n",
        "GET / HTTP/1.1\n\n",
        "GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
        "CONNECT a HTTP/1.1\r\n\r\n",
        "GET /",
        "A: b\r\n",
        "\0",
    ]);
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat().into_bytes())
}

/// The reason may differ when a head has several faults: the first one seen counts. And a head that is not whole may
/// be known to be bad, or not yet.
fn agree(one: Then, other: Then) -> bool {
    one == Then::Go || other == Then::Go || std::mem::discriminant(&one) == std::mem::discriminant(&other)
}

proptest! {
    #[test]
    fn it_does_not_matter_how_bytes_arrive(stream in stream(), cuts in prop::collection::vec(1_usize..40, 0..60)) {
        let whole = feed([stream.as_slice()]);
        let mut pieces = Vec::new();
        let mut rest = stream.as_slice();
        for cut in cuts {
            let (piece, behind) = rest.split_at(cut.min(rest.len()));
            pieces.push(piece);
            rest = behind;
        }
        pieces.push(rest);
        let cut = feed(pieces);
        prop_assert_eq!((whole.heads, whole.passed), (cut.heads, cut.passed));
        prop_assert!(agree(whole.then, cut.then));
        let bytes = feed(stream.chunks(1));
        prop_assert_eq!((whole.heads, whole.passed), (bytes.heads, bytes.passed));
        prop_assert!(agree(whole.then, bytes.then));
    }

    #[test]
    fn no_bytes_make_it_panic(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..20)) {
        feed(pieces.iter().map(Vec::as_slice));
    }

    #[test]
    fn no_chunks_make_it_panic(body in "[0-9a-f;\r\n xT:]{0,60}") {
        let stream = format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        feed([stream.as_bytes()]);
    }
}

/// Not a benchmark: a bound that only a blunder breaks.
#[test]
fn a_usual_head_costs_little() {
    let head = format!(
        "POST /api/2.0/mlflow/runs/log-metric HTTP/1.1\r\nHost: mlflow.example.com\r\nUser-Agent: mlflow/3.17\r\n\
         Accept: */*\r\nAccept-Encoding: gzip\r\nAuthorization: Bearer {}\r\nContent-Length: 0\r\n\r\n",
        "x".repeat(60)
    );
    let mut inspector = Inspector::new(32 * 1024, 100);
    let watch = crate::clock::Stopwatch::start();
    for _ in 0..1000 {
        assert_eq!(inspector.inspect(head.as_bytes()).pass, head.len());
    }
    assert!(watch.elapsed() < std::time::Duration::from_secs(2), "{:?} for 1000 heads", watch.elapsed());
}
