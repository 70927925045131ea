//! Inspecting a body takes at most three times its size, whatever it holds.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on should say so and stop; the settings for tests do not cover their helpers"
)]

use std::io::Write as _;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use http::{HeaderMap, Method};
use mlflow_auth_proxy::config::INSPECTION_COST;
use mlflow_auth_proxy::http::Query;
use mlflow_auth_proxy::mlflow::{
    Found, GraphqlQuery, Input, Json, Table, Unknown, canonical, demands, locate, read_spans, sign,
};
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

const SIZE: usize = 1024 * 1024;
/// Does not grow with the body: tables of the compression, a judge that is rebuilt, a thousand IDs.
const SLACK: usize = 512 * 1024;

/// A body of about [`SIZE`] bytes: `piece` between `start` and `end`, again and again. `#` stands for a number.
fn repeated(start: &str, piece: &str, end: &str) -> Vec<u8> {
    let mut body = String::with_capacity(SIZE + 1024);
    body.push_str(start);
    for number in 0_u64.. {
        if body.len() + piece.len() + end.len() > SIZE {
            break;
        }
        if number > 0 {
            body.push(',');
        }
        body.push_str(&piece.replace('#', &format!("{number:x}")));
    }
    body.push_str(end);
    body.into_bytes()
}

/// The most memory that `inspect` took at one time, in bytes, with the body itself.
fn peak(body: &[u8], inspect: impl FnOnce(Vec<u8>) -> bool) -> (usize, bool) {
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    let held = body.to_vec();
    let accepted = inspect(held);
    (ALLOCATOR.peak_usage().saturating_sub(before), accepted)
}

#[track_caller]
fn check(name: &str, size: usize, (peak, accepted): (usize, bool), expected: bool) {
    assert_eq!(accepted, expected, "{name} is accepted or not");
    let most = size * INSPECTION_COST + SLACK;
    assert!(peak <= most, "{name}: {peak} bytes for a body of {size}, {:.1} times its size", peak as f64 / size as f64);
}

/// What the pipeline does with a JSON body, up to the bytes that are sent.
fn inspect(table: &Table, path: &str, body: Vec<u8>) -> bool {
    let Found::Operation { operation, params } = table.find(&Method::POST, path) else { panic!("{path}") };
    let (mut query, headers) = (Query::default(), HeaderMap::new());
    let rebuilt = table.rebuild(operation, &mut query, Some(&body), &mut Unknown::default());
    drop(body);
    let Ok(Some(text)) = rebuilt else { return false };
    let Ok(mut json) = Json::open(&text) else { return false };
    let input = &mut Input { params: &params, headers: &headers, query: &mut query, body: Some(&mut json) };
    let Ok(found) = locate(operation, input) else { return false };
    if demands(operation, &found.located, Some(&mut json)).is_err() {
        return false;
    }
    operation.author.is_none_or(|author| sign(author, &mut json, "ada").is_ok()) && !json.to_bytes().is_empty()
}

#[test]
fn a_body_takes_three_times_its_size_at_most() {
    let table = Table::built_in().expect("the built-in table");
    json(&table);
    spans(&table);
    other();
}

fn json(table: &Table) {
    let batch = "/api/2.0/mlflow/runs/log-batch";
    let trace = "/api/3.0/mlflow/traces";
    let records = "/api/3.0/mlflow/datasets/d-1/records";
    let evaluate = "/ajax-api/3.0/mlflow/genai/evaluate/invoke";
    let chat = "/gateway/openai/v1/chat/completions";
    let deep = format!("{}{}", "[".repeat(60), "]".repeat(60));
    let info = r#"{"trace":{"trace_info":{"trace_location":{"mlflow_experiment":{"experiment_id":"1"}},"#;
    for (name, path, start, piece, end, accepted) in [
        ("zeros", batch, r#"{"run_id":"r","metrics":["#, "0", "]}", false),
        ("zeros nobody knows", batch, r#"{"run_id":"r","x":["#, "0", "]}", true),
        ("empty objects", batch, r#"{"run_id":"r","metrics":["#, "{}", "]}", true),
        ("empty strings", batch, r#"{"run_id":"r","metrics":["#, "\"\"", "]}", false),
        (
            "metrics",
            batch,
            r#"{"run_id": "r", "metrics": ["#,
            r##"{"key": "loss", "value": 0.5, "step": 7}"##,
            "]}",
            true,
        ),
        ("models of metrics", batch, r#"{"run_id":"r","metrics":["#, r#"{"model_id":"a"}"#, "]}", true),
        ("many models", batch, r#"{"run_id":"r","metrics":["#, r##"{"model_id":"m#"}"##, "]}", false),
        ("parameters", batch, r#"{"run_id":"r","params":["#, r##"{"key":"#","value":"b"}"##, "]}", true),
        ("tags", batch, r#"{"run_id":"r","tags":["#, r##"{"key":"#","value":"b"}"##, "]}", true),
        ("tags of others", batch, r#"{"run_id":"r","tags":["#, r#"{"key":"mlflow.user","value":"b"}"#, "]}", true),
        ("empty tags", batch, r#"{"run_id":"r","tags":["#, "{}", "]}", true),
        ("depth", batch, r#"{"run_id":"r","x":["#, &deep, "]}", false),
        ("keys nobody knows", batch, r#"{"run_id":"r","x":{"#, r##""#":0"##, "}}", true),
        ("escaped keys", batch, r#"{"run_id":"r","x":{"#, r##""\u0061#":0"##, "}}", true),
        ("members nobody knows", batch, r#"{"run_id":"r","#, r##""#":0"##, "}", true),
        ("escapes", batch, r#"{"run_id":"r","params":[{"key":"k","value":""#, r#"\u0041\"\n"#, r#""}]}"#, true),
        ("escapes in a key", batch, r#"{"run_id":"r",""#, r#"\u0041\"\n"#, r#"":0}"#, true),
        ("metadata", trace, &format!("{info}\"trace_metadata\":{{"), r##""#":"""##, "}}}}", false),
        ("tags of a trace", trace, &format!("{info}\"tags\":{{"), r##""#":"""##, "}}}}", false),
        ("assessments", trace, &format!("{info}\"assessments\":["), r#"{"assessment_name":"a"}"#, "]}}}", true),
        ("people's assessments", trace, &format!("{info}\"assessments\":["), r#"{"source":{}}"#, "]}}}", false),
        (
            "records",
            records,
            r#"{"records":"["#,
            r#"{\"inputs\":{\"q\":\"what is this?\",\"more\":[1,2,3,4,5,6,7,8,9,10]},\"tags\":{\"mlflow.user\":\"somebody else altogether\"}}"#,
            r#"]"}"#,
            true,
        ),
        ("empty records", records, r#"{"records":"["#, "{}", r#"]"}"#, false),
        ("numbers in a record", records, r#"{"records":"[{\"inputs\":{\"a\":["#, "0", r#"]}}]"}"#, true),
        ("keys in a record", records, r#"{"records":"[{\"inputs\":{"#, r##"\"#\":0"##, r#"}}]"}"#, true),
        ("no records", records, r#"{"records":"["#, "0", r#"]"}"#, false),
        ("traces", evaluate, r#"{"experiment_id":"1","trace_ids":["#, r#""a""#, "]}", true),
        ("scorers", evaluate, r#"{"experiment_id":"1","serialized_scorers":["#, r#""""#, "]}", false),
        ("a large scorer", evaluate, r#"{"experiment_id":"1","serialized_scorers":["{\"x\":["#, "0", r#"]}"]}"#, false),
        ("messages", chat, r#"{"model":"e","messages":["#, r#"{"role":"user","content":"a"}"#, "]}", true),
        ("tokens", chat, r#"{"model":"e","input":["#, "1", "]}", true),
        ("parameters of a model", chat, r#"{"model":"e","#, r##""#":0"##, "}", false),
    ] {
        let body = repeated(start, piece, end);
        check(name, body.len(), peak(&body, |body| inspect(table, path, body)), accepted);
    }
}

fn spans(table: &Table) {
    let read = |media_type: &'static str, encoding: Option<&'static str>| {
        move |raw: Vec<u8>| {
            let unknown = &mut Unknown::default();
            read_spans(table.schema(), Some(media_type), encoding, &raw, 2 * SIZE, unknown).is_ok()
        }
    };
    let (start, end) = (r#"{"resourceSpans":[{"scopeSpans":[{"spans":["#, "]}]}]}");
    let span =
        r#"{"traceId":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","spanId":"AAAAAAAAAAAAAAAA","attributes":[{"key":"a"}]}"#;
    for (name, piece, accepted) in [("spans", span, true), ("empty spans", "{}", false), ("zeros", "0", false)] {
        let body = repeated(start, piece, end);
        check(name, body.len(), peak(&body, read("application/json", None)), accepted);
    }
    for (name, span, accepted) in [
        ("protobuf", [field(1, &[7; 16]), field(2, &[7; 8]), field(9, &field(1, b"a"))].concat(), true),
        ("empty protobuf", Vec::new(), false),
        // A field that OTLP does not have, so that everything is copied.
        ("unknown protobuf", [field(1, &[7; 16]), field(2, &[7; 8]), field(100, &[])].concat(), true),
    ] {
        let spans = field(2, &span).repeat(SIZE / (span.len() + 4));
        let body = field(1, &field(2, &spans));
        check(name, body.len(), peak(&body, read("application/x-protobuf", None)), accepted);
        let (mut gzip, mut zlib) =
            (GzEncoder::new(Vec::new(), Compression::none()), ZlibEncoder::new(Vec::new(), Compression::none()));
        gzip.write_all(&body).unwrap();
        zlib.write_all(&body).unwrap();
        let (gzip, zlib) = (gzip.finish().unwrap(), zlib.finish().unwrap());
        check(name, gzip.len(), peak(&gzip, read("application/x-protobuf", Some("gzip"))), accepted);
        check(name, zlib.len(), peak(&zlib, read("application/x-protobuf", Some("deflate"))), accepted);
    }
    // Sixteen kilobytes that would be megabytes.
    let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
    bomb.write_all(&vec![0; 2 * SIZE]).unwrap();
    let bomb = bomb.finish().unwrap();
    check("a bomb", bomb.len(), peak(&bomb, read("application/x-protobuf", Some("gzip"))), false);
}

fn other() {
    for (name, start, piece, end, accepted) in [
        (
            "variables",
            r#"{"query":"query($v:Int){test(inputString:$v){output}}","variables":{"v":["#,
            "0",
            "]}}",
            false,
        ),
        ("a long query", r#"{"query":""#, "a", r#""}"#, false),
    ] {
        let body = repeated(start, piece, end);
        check(name, body.len(), peak(&body, |body| GraphqlQuery::parse(&body).is_ok()), accepted);
    }
    let body = repeated(r#"{"x":["#, "0", "]}");
    check("unlisted", body.len(), peak(&body, |body| canonical(&body).is_ok()), true);
}

/// One field of protobuf with bytes in it.
fn field(number: u32, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::encode_key(number, prost::encoding::WireType::LengthDelimited, &mut out);
    prost::encoding::encode_varint(bytes.len() as u64, &mut out);
    out.extend(bytes);
    out
}
