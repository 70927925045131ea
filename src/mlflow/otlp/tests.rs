use std::io::Write;
use std::sync::LazyLock;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use proptest::prelude::*;

use super::{JSON, OtlpError, PROTOBUF, Spans, StatusCode, Unknown};
use crate::mlflow::Table;

const LIMIT: usize = 1 << 20;
const ID: [u8; 16] = *b"0123456789abcdef";
const STORED: &str = "tr-30313233343536373839616263646566";

/// One field of protobuf with bytes in it.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![(number << 3) | 2];
    prost::encoding::encode_varint(bytes.len() as u64, &mut out);
    out.extend(bytes);
    out
}

fn span(parts: &[Vec<u8>]) -> Vec<u8> {
    let mut fields = [field(1, &ID), field(2, b"span-001")].concat();
    fields.extend(parts.concat());
    fields
}

fn export(span: &[u8]) -> Vec<u8> {
    field(1, &field(2, &field(2, span)))
}

fn read(content_type: Option<&str>, encoding: Option<&str>, raw: &[u8], limit: usize) -> Result<Spans, OtlpError> {
    read_counting(content_type, encoding, raw, limit).map(|(spans, _)| spans)
}

/// The spans, and the unknown fields that were removed.
fn read_counting(
    content_type: Option<&str>,
    encoding: Option<&str>,
    raw: &[u8],
    limit: usize,
) -> Result<(Spans, Unknown), OtlpError> {
    static TABLE: LazyLock<Table> = LazyLock::new(|| Table::built_in().expect("the built-in table"));
    let mut unknown = Unknown::default();
    let spans = super::read(TABLE.schema(), content_type, encoding, raw, limit, &mut unknown)?;
    Ok((spans, unknown))
}

fn protobuf(body: &[u8]) -> Result<Spans, OtlpError> {
    read(Some(PROTOBUF), None, body, LIMIT)
}

fn json(body: &str) -> Result<Spans, OtlpError> {
    read(Some("application/json; charset=utf-8"), None, body.as_bytes(), LIMIT)
}

fn json_span(span: &str) -> String {
    format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{span}]}}]}}]}}"#)
}

fn ids(found: &Spans) -> Vec<&str> {
    found.traces.iter().map(String::as_str).collect()
}

#[test]
fn a_span_goes_to_the_trace_that_mlflow_stores_it_under() {
    let body = export(&span(&[]));
    let found = protobuf(&body).expect("spans");
    assert_eq!((ids(&found), found.spans, found.content_type), (vec![STORED], 1, PROTOBUF));
    assert_eq!(found.body, body);
    for (id, stored) in [
        (&[1][..], "tr-00000000000000000000000000000001"),
        (&[0, 0, 0xab, 0xcd], "tr-0000000000000000000000000000abcd"),
        (&[0; 16], "tr-00000000000000000000000000000000"),
    ] {
        // The last of a repeated scalar counts.
        assert_eq!(ids(&protobuf(&export(&span(&[field(1, id)]))).expect("spans")), vec![stored]);
    }
    let found = json(&json_span(r#"{"traceId":"5B8EFFF798038103D269B633813FC60C","spanId":"eee19b7ec3c1b174"}"#));
    let found = found.expect("spans");
    assert_eq!(ids(&found), vec!["tr-5b8efff798038103d269b633813fc60c"]);
    assert!(String::from_utf8_lossy(&found.body).contains("5b8efff798038103d269b633813fc60c"));
    assert_eq!(found.content_type, JSON);
}

#[test]
fn every_span_counts_however_the_messages_are_split() {
    let other = [field(1, &[7; 16]), field(2, &[1; 8])].concat();
    let scopes = [field(2, &field(2, &span(&[]))), field(2, &field(2, &other))].concat();
    let body = [field(1, &scopes), field(1, b""), export(&other)].concat();
    let found = protobuf(&body).expect("spans");
    assert_eq!((found.spans, found.traces.len()), (3, 2));
    // Unknown fields and groups are removed: field 33 as a varint, field 34 as a group with a varint in it.
    let unknown = [&span(&[])[..], &[0x88, 0x02, 0x01, 0x93, 0x02, 0x08, 0x01, 0x94, 0x02]].concat();
    let (found, removed) = read_counting(Some(PROTOBUF), None, &export(&unknown), LIMIT).expect("spans");
    assert_eq!((ids(&found), &found.body), (vec![STORED], &export(&span(&[]))));
    assert_eq!(
        (removed.count(), removed.names()),
        (2, &["protobuf field 33", "protobuf field 34"].map(str::to_owned)[..])
    );
    // Varints longer than they need be: the tag of a span's id, the length of a message.
    let long_tag = [&[0x8a, 0x80, 0x00, 16][..], &ID, &field(2, b"span-001")].concat();
    assert_eq!(ids(&protobuf(&export(&long_tag)).expect("spans")), vec![STORED]);
    // MLflow passes a known field of another wire type over; here it is refused.
    assert_eq!(protobuf(&export(&[&span(&[])[..], &[0x08, 0x01]].concat())), Err(OtlpError::Format));
}

#[test]
fn what_mlflow_would_not_take_is_refused_as_it_refuses() {
    for (body, error) in [
        (Vec::new(), OtlpError::NoSpans),
        (b"\xff\xff\xff".to_vec(), OtlpError::Format),
        (export(&[0x73, 0x08, 0x01]), OtlpError::Format),
        (export(&span(&[field(9, &field(1, b"\xff"))])), OtlpError::Format),
        (export(&span(&[field(1, b"")])), OtlpError::Span),
        (export(&span(&[field(2, b"")])), OtlpError::Span),
        (export(&field(1, &ID)), OtlpError::Span),
        (export(&span(&[field(1, &[0; 17])])), OtlpError::Span),
        (export(&span(&[field(4, &[0; 9])])), OtlpError::Span),
    ] {
        assert_eq!(protobuf(&body), Err(error), "{body:?}");
    }
    for (body, error) in [
        ("{}".to_owned(), OtlpError::NoSpans),
        (r#"{"resourceSpans":[]}"#.to_owned(), OtlpError::NoSpans),
        (r#"{"resourceSpans":null}"#.to_owned(), OtlpError::NoSpans),
        (r#"{"resource_spans":[{"scope_spans":[{"spans":[{}]}]}]}"#.to_owned(), OtlpError::NoSpans),
        (r#"{"resourceSpans":[null]}"#.to_owned(), OtlpError::Format),
        (r#"{"resourceSpans":[{}],"resourceSpans":[]}"#.to_owned(), OtlpError::Format),
        ("[]".to_owned(), OtlpError::Format),
        (json_span("{}"), OtlpError::Span),
        (json_span(r#"{"traceId":"","spanId":"01"}"#), OtlpError::Span),
        (json_span(r#"{"traceId":"0","spanId":"01"}"#), OtlpError::Format),
        (json_span(r#"{"traceId":"01 02","spanId":"01"}"#), OtlpError::Format),
        (json_span(r#"{"traceId":"AAAAAAAAAAAAAAAAAAAAAA==","spanId":"01"}"#), OtlpError::Format),
        (json_span(r#"{"traceId":1,"spanId":"01"}"#), OtlpError::Format),
        (json_span(r#"{"trace_id":"01","spanId":"01"}"#), OtlpError::Span),
    ] {
        assert_eq!(json(&body), Err(error), "{body}");
    }
    for content_type in [None, Some(""), Some("text/plain"), Some("Application/JSON"), Some("application/protobuf")] {
        let found = read(content_type, None, b"", LIMIT);
        assert!(matches!(found, Err(OtlpError::ContentType(_))), "{content_type:?}");
    }
    assert_eq!(OtlpError::Span.status(), StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(OtlpError::Format.status(), StatusCode::BAD_REQUEST);
}

#[test]
fn unknown_members_of_a_span_in_json_are_removed() {
    let odd =
        json_span(r#"{"traceId":"01","traceId\u0000":"02","trace_id":"03","spanId":"01","name":"n","x":{"y":1}}"#);
    let (found, removed) = read_counting(Some(JSON), None, odd.as_bytes(), LIMIT).expect("spans");
    assert_eq!(ids(&found), vec!["tr-00000000000000000000000000000001"]);
    let plain = json_span(r#"{"traceId":"01","spanId":"01","name":"n"}"#);
    assert_eq!(String::from_utf8_lossy(&found.body), plain);
    assert_eq!((removed.count(), removed.names()), (3, &["traceId", "trace_id", "x"].map(str::to_owned)[..]));
}

#[test]
fn attribute_keys_hold_no_control_characters() {
    let key = "team\u{0}x";
    let attribute = field(9, &field(1, key.as_bytes()));
    assert_eq!(protobuf(&export(&span(&[attribute]))), Err(OtlpError::Format));
    let span = r#"{"traceId":"01","spanId":"01","attributes":[{"key":"team\u0000x"}]}"#;
    assert_eq!(json(&json_span(span)), Err(OtlpError::Format));
}

#[test]
fn a_span_does_not_set_mlflows_own_tags() {
    for key in
        ["mlflow.traceTag.mlflow.artifactLocation", "mlflow.traceTag.MLflow.user", "mlflow.traceTag.mlflow.trace.x"]
    {
        let attribute = field(9, &field(1, key.as_bytes()));
        assert!(matches!(protobuf(&export(&span(&[attribute]))), Err(OtlpError::ReservedTag(_))), "{key}");
        let attribute = format!(r#"{{"traceId":"01","spanId":"01","attributes":[{{"key":"{key}"}}]}}"#);
        assert!(matches!(json(&json_span(&attribute)), Err(OtlpError::ReservedTag(_))), "{key}");
    }
    for key in ["mlflow.traceTag.team", "mlflow.traceTag.mlflow.traceName", "mlflow.spanInputs", "x"] {
        assert!(protobuf(&export(&span(&[field(9, &field(1, key.as_bytes()))]))).is_ok(), "{key}");
    }
}

#[test]
fn packed_bodies_are_unpacked_within_the_limit() {
    let body = export(&span(&[]));
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&body).expect("memory");
    let gzip = gzip.finish().expect("memory");
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
    zlib.write_all(&body).expect("memory");
    let zlib = zlib.finish().expect("memory");
    let mut deflate = DeflateEncoder::new(Vec::new(), Compression::fast());
    deflate.write_all(&body).expect("memory");
    let deflate = deflate.finish().expect("memory");
    for (encoding, packed) in [("gzip", &gzip), ("GZIP", &gzip), ("deflate", &zlib), ("deflate", &deflate)] {
        let found = read(Some(PROTOBUF), Some(encoding), packed, LIMIT).expect("spans");
        assert_eq!(found.body, body, "{encoding}");
        let short = &packed[..packed.len() - 3];
        assert!(read(Some(PROTOBUF), Some(encoding), short, LIMIT).is_err(), "{encoding}");
    }
    assert_eq!(read(Some(PROTOBUF), Some("gzip"), &body, LIMIT), Err(OtlpError::Corrupt("gzip")));
    assert_eq!(read(Some(PROTOBUF), Some("deflate"), b"\xff\xff", LIMIT), Err(OtlpError::Corrupt("deflate")));
    assert_eq!(read(Some(PROTOBUF), Some("br"), &body, LIMIT), Err(OtlpError::Encoding("br".to_owned())));

    let zeros = vec![0; 4 * LIMIT];
    // As large as allowed, and made for that.
    let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
    bomb.write_all(zeros.get(..LIMIT).expect("zeros")).expect("memory");
    let bomb = bomb.finish().expect("memory");
    assert_eq!(read(Some(PROTOBUF), Some("gzip"), &bomb, LIMIT), Err(OtlpError::Ratio));
    assert_eq!(read(Some(PROTOBUF), Some("gzip"), &bomb, 2 * bomb.len()), Err(OtlpError::TooLarge(2 * bomb.len())));
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    gzip.write_all(&zeros).expect("memory");
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::best());
    zlib.write_all(&zeros).expect("memory");
    for (encoding, packed) in [("gzip", gzip.finish().expect("memory")), ("deflate", zlib.finish().expect("memory"))] {
        assert_eq!(read(Some(PROTOBUF), Some(encoding), &packed, LIMIT), Err(OtlpError::Ratio), "{encoding}");
    }
    assert_eq!(protobuf(&zeros), Err(OtlpError::TooLarge(LIMIT)));
}

#[test]
fn there_is_an_end_to_traces() {
    let one = |n: u32| field(2, &[field(1, &n.to_be_bytes()), field(2, &[1])].concat());
    let many: Vec<u8> = (0..1001).flat_map(one).collect();
    assert_eq!(protobuf(&field(1, &field(2, &many))), Err(OtlpError::TooManyTraces));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), how in 0..4_usize) {
        let _ = protobuf(&bytes);
        let _ = protobuf(&export(&bytes));
        let _ = read(Some(JSON), ["", "gzip", "deflate", "x"].get(how).copied(), &bytes, LIMIT);
    }
}

/// A span with one attribute whose value is these fields of protobuf's `AnyValue`.
fn with_value(key: &str, values: &[Vec<u8>]) -> Vec<u8> {
    let values: Vec<u8> = values.iter().flat_map(|value| field(2, value)).collect();
    export(&span(&[field(9, &[field(1, key.as_bytes()), values].concat())]))
}

#[test]
fn a_provider_in_a_span_leads_nowhere_else() {
    for key in ["mlflow.llm.provider", "gen_ai.provider.name", "gen_ai.system", "llm.provider"] {
        for name in ["openai", "aws.bedrock", "Azure OpenAI", "az.ai.inference", "\"openai\""] {
            assert!(protobuf(&with_value(key, &[field(1, name.as_bytes())])).is_ok(), "{key} {name}");
            let quoted = serde_json::to_string(name).unwrap();
            let attribute = format!(r#"{{"key":"{key}","value":{{"stringValue":{quoted}}}}}"#);
            let body = format!(
                r#"{{"traceId":"0af7651916cd43dd8448eb211c80319c","spanId":"b7ad6b7169203331","attributes":[{attribute}]}}"#
            );
            assert!(json(&json_span(&body)).is_ok(), "{key} {name}");
        }
        for name in ["../x", "a/b", "a?b", "a#b", "a%2fb", "a\\b", "\"\\u002e\"", "a\nb"] {
            let refused = protobuf(&with_value(key, &[field(1, name.as_bytes())]));
            assert!(matches!(refused, Err(OtlpError::Provider(_))), "{key} {name}");
            // protobuf merges a message that comes twice.
            let merged = protobuf(&with_value(key, &[field(1, name.as_bytes()), Vec::new()]));
            assert!(matches!(merged, Err(OtlpError::Provider(_))), "{key} {name}");
            let quoted = serde_json::to_string(name).unwrap();
            let attribute = format!(r#"{{"key":"{key}","value":{{"stringValue":{quoted}}}}}"#);
            let body = format!(
                r#"{{"traceId":"0af7651916cd43dd8448eb211c80319c","spanId":"b7ad6b7169203331","attributes":[{attribute}]}}"#
            );
            assert!(matches!(json(&json_span(&body)), Err(OtlpError::Provider(_))), "{key} {name}");
        }
        for nested in [5, 6, 7] {
            let refused = protobuf(&with_value(key, &[field(nested, b"")]));
            assert!(matches!(refused, Err(OtlpError::Provider(_))), "{key} {nested}");
        }
    }
    assert!(protobuf(&with_value("gen_ai.request.model", &[field(1, b"org/model")])).is_ok());
}
