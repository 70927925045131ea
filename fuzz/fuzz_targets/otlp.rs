//! An export is sent as it was read, writes to the traces that were found in it and no others, and unpacks within its limit.
//!
//! The input is a line with content type and encoding, `application/json|gzip`, and the body. A body that is not packed is
//! packed here, too, because fuzzers are bad at that.
#![no_main]

use std::collections::BTreeSet;
use std::io::Write as _;
use std::sync::LazyLock;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use libfuzzer_sys::fuzz_target;
use mlflow_auth_proxy::mlflow::{OtlpError, Spans, Table, Unknown};
use serde_json::Value;

const LIMIT: usize = 64 * 1024;

static TABLE: LazyLock<Table> = LazyLock::new(|| Table::built_in().expect("the table this program is built with"));

fn read_spans(kind: Option<&str>, encoding: Option<&str>, body: &[u8], limit: usize) -> Result<Spans, OtlpError> {
    let mut unknown = Unknown::default();
    mlflow_auth_proxy::mlflow::read_spans(TABLE.schema(), kind, encoding, body, limit, &mut unknown)
}

fuzz_target!(|input: &[u8]| {
    let end = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
    let (line, body) = (&input[..end], input.get(end + 1..).unwrap_or_default());
    let Ok(line) = str::from_utf8(line) else { return };
    let (content_type, encoding) = line.split_once('|').map_or((line, None), |(kind, how)| (kind, Some(how)));
    let found = read_spans(Some(content_type), encoding, body, LIMIT);
    if let Ok(spans) = &found {
        check(spans);
    }
    if encoding.is_none() && body.len() <= LIMIT {
        // One of three: each takes longer than all the rest.
        let (encoding, packed) = match body.len() % 3 {
            0 => ("gzip", gzip(body)),
            1 => ("deflate", zlib(body)),
            _ => ("DEFLATE", deflate(body)),
        };
        // What cannot be packed smaller may be too large.
        let unpacked = (packed.len() <= LIMIT).then(|| read_spans(Some(content_type), Some(encoding), &packed, LIMIT));
        assert!(unpacked.is_none_or(|unpacked| unpacked == found), "{encoding}");
    }
});

fn check(spans: &Spans) {
    // The ids of JSON are written anew, in as many letters.
    assert!(spans.body.len() <= 8 * LIMIT);
    assert!(spans.traces.len() <= spans.spans);
    for trace in &spans.traces {
        let digits = trace.strip_prefix("tr-").expect("as MLflow calls them");
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        assert!(digits.len() == 32 && digits.bytes().all(hex), "{trace}");
    }
    let mut unknown = Unknown::default();
    let again = mlflow_auth_proxy::mlflow::read_spans(
        TABLE.schema(),
        Some(spans.content_type),
        None,
        &spans.body,
        8 * LIMIT,
        &mut unknown,
    );
    assert_eq!(again.as_ref(), Ok(spans), "read again");
    assert_eq!(unknown.count(), 0, "an unknown field was left");
    if let Ok(json) = serde_json::from_slice::<Value>(&spans.body)
        && spans.content_type == "application/json"
    {
        assert_eq!(traces(&json), spans.traces);
    }
}

/// The same by a reader that knows nothing but the names.
fn traces(json: &Value) -> BTreeSet<String> {
    let list = |value: &Value, name: &str| value[name].as_array().cloned().unwrap_or_default();
    let resources = list(json, "resourceSpans").into_iter();
    let scopes = resources.flat_map(|resource| list(&resource, "scopeSpans"));
    let spans = scopes.flat_map(|scope| list(&scope, "spans"));
    spans.map(|span| format!("tr-{:0>32}", span["traceId"].as_str().expect("an id"))).collect()
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(body).and_then(|()| packed.finish()).expect("memory")
}

fn zlib(body: &[u8]) -> Vec<u8> {
    let mut packed = ZlibEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(body).and_then(|()| packed.finish()).expect("memory")
}

fn deflate(body: &[u8]) -> Vec<u8> {
    let mut packed = DeflateEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(body).and_then(|()| packed.finish()).expect("memory")
}
