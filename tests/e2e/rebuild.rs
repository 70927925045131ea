//! Rebuilds requests as the proxy does and prints what it would authorise and send, for `differential_parsers.py`.
//!
//! Reads one JSON object a line: `method`, `path`, `query`, `headers` (object), `body` (base64), and writes one a line:
//! `operation`, then `refused` (the reason), or `sent` (`path`, `query`, `body` in base64, `content_type`), `located`
//! (`thing`, `id`), `demands` (text) and `unknown` (names of removed fields). The calls and their order are those of
//! `pipeline`; the caller may read the experiments that the arguments name, and is called `ada`.
#![expect(clippy::unwrap_used, reason = "a test program: a line that cannot be read or written ends it")]

use std::io::{BufRead as _, Write as _};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use mlflow_auth_proxy::http::{CanonicalPath, Query};
use mlflow_auth_proxy::mlflow::{
    BodyMode, Found, Input, Json, Keep, Located, Narrowed, Operation, Table, Unknown, demands, locate, narrow,
    read_spans, sign,
};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Line {
    method: String,
    path: String,
    #[serde(default)]
    query: String,
    #[serde(default)]
    headers: std::collections::HashMap<String, String>,
    #[serde(default)]
    body: String,
}

fn main() {
    let mine: Vec<String> = std::env::args().skip(1).collect();
    let table = Table::built_in().unwrap();
    let (stdin, stdout) = (std::io::stdin().lock(), std::io::stdout());
    let mut out = std::io::BufWriter::new(stdout.lock());
    for line in stdin.lines() {
        let line = line.unwrap();
        // An empty line asks for what is still held back.
        if line.is_empty() {
            out.flush().unwrap();
            continue;
        }
        let line: Line = serde_json::from_str(&line).unwrap();
        let body = BASE64.decode(&line.body).unwrap();
        let answer = rebuild(&table, &mine, &line, &body).unwrap_or_else(|refused| refused);
        serde_json::to_writer(&mut out, &answer).unwrap();
        out.write_all(b"\n").unwrap();
    }
    out.flush().unwrap();
}

/// The error is an answer too: why the request is refused.
fn rebuild(table: &Table, mine: &[String], line: &Line, body: &[u8]) -> Result<Value, Value> {
    let method = Method::from_bytes(line.method.as_bytes()).map_err(|error| refused("", &error))?;
    let target = line.path.parse().map_err(|error| refused("", &error))?;
    let path = CanonicalPath::parse(&target).map_err(|error| refused("", &error))?;
    let Found::Operation { operation, params } = table.find(&method, path.decoded()) else {
        return Err(json!({ "operation": "", "refused": "no such route" }));
    };
    let mut headers = HeaderMap::new();
    for (name, value) in &line.headers {
        let name = HeaderName::try_from(name).map_err(|error| refused(operation.name, &error))?;
        headers.append(name, HeaderValue::try_from(value).map_err(|error| refused(operation.name, &error))?);
    }
    let mut query = Query::parse(&line.query).map_err(|error| refused(operation.name, &error))?;
    let mut unknown = Unknown::default();
    match operation.send {
        BodyMode::Otlp => return spans(table, operation, &headers, body, &mut unknown),
        BodyMode::Graphql => {
            return Err(json!({ "operation": operation.name, "refused": "GraphQL is rebuilt elsewhere" }));
        }
        BodyMode::Query | BodyMode::Json | BodyMode::Stream => {}
    }
    let is_json = operation.send == BodyMode::Json;
    let body = if is_json && !body.is_empty() { Some(body) } else { None };
    let text =
        table.rebuild(operation, &mut query, body, &mut unknown).map_err(|error| refused(operation.name, &error))?;
    let mut json = text.as_deref().map(Json::open).transpose().map_err(|error| refused(operation.name, &error))?;
    let mut input = Input { params: &params, headers: &headers, query: &mut query, body: json.as_mut() };
    let found = locate(operation, &mut input).map_err(|error| refused(operation.name, &error))?;
    if let Some(missing) = found.missing {
        return Err(json!({ "operation": operation.name, "refused": format!("{missing} is missing") }));
    }
    let demanded =
        demands(operation, &found.located, json.as_mut()).map_err(|error| refused(operation.name, &error))?;
    if let Some(list) = &operation.narrow {
        let keep = |id: &str| Ok(if mine.iter().any(|mine| mine == id) { Keep::Yes } else { Keep::No });
        if narrow(list, &mut query, json.as_mut(), keep).map_err(|error| refused(operation.name, &error))?
            == Narrowed::Nothing
        {
            return Err(json!({ "operation": operation.name, "refused": "nothing is left to search" }));
        }
    }
    if let (Some(author), Some(json)) = (operation.author, json.as_mut()) {
        sign(author, json, "ada").map_err(|error| refused(operation.name, &error))?;
    }
    let body = json.map(|json| json.to_bytes()).unwrap_or_default();
    let demanded: Vec<String> = demanded.iter().map(|demand| format!("{demand:?}")).collect();
    Ok(json!({
        "operation": operation.name,
        "sent": sent(path.decoded(), &query.encoded(), &body, "application/json"),
        "located": things(&found.located),
        "demands": demanded,
        "unknown": unknown.names(),
    }))
}

fn spans(
    table: &Table,
    operation: &Operation,
    headers: &HeaderMap,
    body: &[u8],
    unknown: &mut Unknown,
) -> Result<Value, Value> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let encoding = text("content-encoding");
    let spans = read_spans(table.schema(), text("content-type"), encoding, body, LIMIT, unknown)
        .map_err(|error| refused(operation.name, &error))?;
    let located: Vec<Value> = spans.traces.iter().map(|id| json!({ "thing": "Trace", "id": id })).collect();
    Ok(json!({
        "operation": operation.name,
        "sent": sent("/v1/traces", "", &spans.body, spans.content_type),
        "located": located,
        "demands": [],
        "unknown": unknown.names(),
    }))
}

const LIMIT: usize = 1 << 20;

fn sent(path: &str, query: &str, body: &[u8], content_type: &str) -> Value {
    json!({ "path": path, "query": query, "body": BASE64.encode(body), "content_type": content_type })
}

fn things(located: &[Located]) -> Vec<Value> {
    located.iter().map(|one| json!({ "thing": format!("{:?}", one.thing), "id": one.id })).collect()
}

fn refused(operation: &str, error: &dyn std::fmt::Display) -> Value {
    json!({ "operation": operation, "refused": error.to_string() })
}
