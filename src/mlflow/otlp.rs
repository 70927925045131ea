//! What `POST /v1/traces` carries: spans in OpenTelemetry's protocol, and which traces of MLflow they go to.
//!
//! Pure. [`read`] unpacks the body once, within a limit, and gives the bytes to forward: what was read is what is sent.
//!
//! What matters in a span (`mlflow.server.otel_api`, `Span.from_otel_proto`, `SqlAlchemyStore.log_spans`):
//! - `trace_id`: MLflow stores the span under `tr-` and the number in 32 hex digits. If that trace exists, the span goes
//!   there, whatever experiment the header names. So every id must be checked: [`Spans::traces`].
//! - attributes `mlflow.traceTag.X` of a root span become the trace's tag `X`. MLflow's SDK sends its own tags another
//!   way; here they would say where artifacts and payloads lie, or who the author is. They are refused, wherever they
//!   stand, but for the trace's name.
//!
//! What does not: `mlflow.traceRequestId` is overwritten, `mlflow.experimentId` is not read, attributes of the resource
//! that start with `mlflow.` are skipped, links and `mlflow.gateway.linkedTraceId` are kept as text and not followed,
//! `user.id` and `session.id` are about the traced application.
//!
//! The header that links the traces to a run is the pipeline's.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::io::Read;

use flate2::{Decompress, FlushDecompress, Status};
use http::StatusCode;
use prost::Message;

use super::locate::member;
use super::{Json, Schema, Unknown};

mod wire;

/// What one export carries.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Spans {
    /// The traces that are written to, by the ids that MLflow gives them.
    pub traces: BTreeSet<String>,
    pub spans: usize,
    /// What is sent, without `Content-Encoding`.
    pub body: Vec<u8>,
    pub content_type: &'static str,
}

/// Why an export is not accepted, worded as MLflow does.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum OtlpError {
    #[error("Invalid Content-Type: {0}. Expected: application/x-protobuf or application/json")]
    ContentType(String),
    #[error("Unsupported Content-Encoding: {0}")]
    Encoding(String),
    #[error("Failed to decompress {0} payload")]
    Corrupt(&'static str),
    #[error("The request body is larger than {0} bytes.")]
    TooLarge(usize),
    #[error("Invalid OpenTelemetry format")]
    Format,
    #[error("Invalid OpenTelemetry format - no spans found")]
    NoSpans,
    #[error("Cannot convert OpenTelemetry span to MLflow span")]
    Span,
    #[error("The trace tag `{0}` cannot be set through a span.")]
    ReservedTag(String),
    #[error("The request has spans of more than {MAX_TRACES} traces. Send it in parts.")]
    TooManyTraces,
}

impl OtlpError {
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Span => StatusCode::UNPROCESSABLE_ENTITY,
            Self::ContentType(_)
            | Self::Encoding(_)
            | Self::Corrupt(_)
            | Self::Format
            | Self::NoSpans
            | Self::ReservedTag(_)
            | Self::TooManyTraces => StatusCode::BAD_REQUEST,
        }
    }
}

/// Each takes a look-up.
const MAX_TRACES: usize = 1000;

const PROTOBUF: &str = "application/x-protobuf";
const JSON: &str = "application/json";

/// Reads an export, and leaves the fields that OTLP has. `limit` holds for the body as it came and as it is unpacked.
///
/// # Errors
/// See [`OtlpError`].
pub fn read(
    schema: &Schema,
    content_type: Option<&str>,
    encoding: Option<&str>,
    raw: &[u8],
    limit: usize,
    unknown: &mut Unknown,
) -> Result<Spans, OtlpError> {
    let media_type = content_type.and_then(|text| text.split(';').next()).map(str::trim);
    let content_type = match media_type {
        Some(PROTOBUF) => PROTOBUF,
        Some(JSON) => JSON,
        _ => return Err(OtlpError::ContentType(shown(content_type.unwrap_or("None")))),
    };
    let body = unpack(encoding.unwrap_or_default(), raw, limit)?;
    let mut found = Found::default();
    let body = if content_type == JSON {
        let mut json = Json::parse_object(&body).map_err(|_| OtlpError::Format)?;
        schema.rebuild_body(schema.spans(), &mut json, unknown).map_err(|_| OtlpError::Format)?;
        read_json(&mut json, &mut found)?;
        json.to_bytes()
    } else {
        let body = wire::keep_known(body, unknown)?;
        read_protobuf(&body, &mut found)?;
        body
    };
    Ok(Spans { traces: found.traces, spans: found.spans, body, content_type })
}

fn unpack(encoding: &str, raw: &[u8], limit: usize) -> Result<Vec<u8>, OtlpError> {
    if raw.len() > limit {
        return Err(OtlpError::TooLarge(limit));
    }
    match encoding.to_ascii_lowercase().as_str() {
        "" => Ok(raw.to_vec()),
        "gzip" => {
            let mut out = Vec::new();
            let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
            let reader = flate2::read::MultiGzDecoder::new(raw);
            reader.take(most).read_to_end(&mut out).map_err(|_| OtlpError::Corrupt("gzip"))?;
            if out.len() > limit { Err(OtlpError::TooLarge(limit)) } else { Ok(out) }
        }
        // Some clients leave the zlib header out.
        "deflate" => match inflate(Decompress::new(true), raw, limit) {
            Err(OtlpError::Corrupt(_)) => inflate(Decompress::new(false), raw, limit),
            done => done,
        },
        other => Err(OtlpError::Encoding(shown(other))),
    }
}

/// One whole stream; the reader of `flate2` would take the beginning of one for all of it.
fn inflate(mut stream: Decompress, raw: &[u8], limit: usize) -> Result<Vec<u8>, OtlpError> {
    const CHUNK: usize = 64 * 1024;
    let corrupt = OtlpError::Corrupt("deflate");
    let mut out = Vec::new();
    loop {
        out.reserve(CHUNK);
        let before = (stream.total_in(), stream.total_out());
        let read = usize::try_from(stream.total_in()).unwrap_or(usize::MAX);
        let rest = raw.get(read..).unwrap_or_default();
        let status = stream.decompress_vec(rest, &mut out, FlushDecompress::None).map_err(|_| corrupt.clone())?;
        if out.len() > limit {
            return Err(OtlpError::TooLarge(limit));
        }
        match status {
            Status::StreamEnd => return Ok(out),
            Status::Ok | Status::BufError if before == (stream.total_in(), stream.total_out()) => return Err(corrupt),
            Status::Ok | Status::BufError => {}
        }
    }
}

#[derive(Default)]
struct Found {
    traces: BTreeSet<String>,
    spans: usize,
}

impl Found {
    /// MLflow reads the bytes as one number and writes it in 32 digits. Longer ids than the protocol's are refused.
    fn span(&mut self, trace_id: &[u8], span_id: &[u8], parent_id: &[u8]) -> Result<(), OtlpError> {
        if trace_id.is_empty() || trace_id.len() > 16 || span_id.is_empty() || span_id.len() > 8 || parent_id.len() > 8
        {
            return Err(OtlpError::Span);
        }
        let number = trace_id.iter().fold(0_u128, |number, byte| (number << 8) | u128::from(*byte));
        self.traces.insert(format!("tr-{number:032x}"));
        self.spans += 1;
        if self.traces.len() > MAX_TRACES { Err(OtlpError::TooManyTraces) } else { Ok(()) }
    }
}

/// Some databases compare keys without case.
fn check_attribute(key: &str) -> Result<(), OtlpError> {
    if key.contains(char::is_control) {
        return Err(OtlpError::Format);
    }
    let Some(tag) = key.strip_prefix("mlflow.traceTag.") else { return Ok(()) };
    let reserved = tag.to_ascii_lowercase().starts_with("mlflow.") && tag != "mlflow.traceName";
    if reserved { Err(OtlpError::ReservedTag(shown(tag))) } else { Ok(()) }
}

// The few fields of opentelemetry/proto/trace/v1/trace.proto that matter here.

#[derive(Clone, PartialEq, Message)]
struct Export {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Clone, PartialEq, Message)]
struct Span {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<Attribute>,
}

#[derive(Clone, PartialEq, Message)]
struct Attribute {
    #[prost(string, tag = "1")]
    key: String,
}

fn read_protobuf(body: &[u8], found: &mut Found) -> Result<(), OtlpError> {
    let export = Export::decode(body).map_err(|_| OtlpError::Format)?;
    if export.resource_spans.is_empty() {
        return Err(OtlpError::NoSpans);
    }
    let scopes = export.resource_spans.iter().flat_map(|resource| &resource.scope_spans);
    for span in scopes.flat_map(|scope| &scope.spans) {
        found.span(&span.trace_id, &span.span_id, &span.parent_span_id)?;
        for attribute in &span.attributes {
            check_attribute(&attribute.key)?;
        }
    }
    Ok(())
}

/// In JSON the ids are hex. The schema has left lowerCamelCase names, which are the only ones that MLflow decodes.
fn read_json(export: &mut Json<'_>, found: &mut Found) -> Result<(), OtlpError> {
    let resources = list(export, "resourceSpans")?;
    if resources.is_empty() {
        return Err(OtlpError::NoSpans);
    }
    for resource in resources {
        for scope in list(resource, "scopeSpans")? {
            for span in list(scope, "spans")? {
                read_json_span(span, found)?;
            }
        }
    }
    Ok(())
}

fn read_json_span(span: &mut Json<'_>, found: &mut Found) -> Result<(), OtlpError> {
    let trace_id = hex_id(span, "traceId")?;
    let span_id = hex_id(span, "spanId")?;
    let parent_id = hex_id(span, "parentSpanId")?;
    found.span(&trace_id, &span_id, &parent_id)?;
    for attribute in list(span, "attributes")? {
        attribute.text("key").map_or(Ok(()), check_attribute)?;
    }
    Ok(())
}

/// A list of objects; empty when absent.
fn list<'j, 'b>(object: &'j mut Json<'b>, name: &str) -> Result<&'j mut [Json<'b>], OtlpError> {
    match member(object, name) {
        None => Ok(&mut []),
        Some(Json::Array(items)) => Ok(items),
        Some(_) => Err(OtlpError::Format),
    }
}

/// The bytes of an id, empty when absent; leaves it in lower case.
fn hex_id(span: &mut Json<'_>, name: &str) -> Result<Vec<u8>, OtlpError> {
    let Some(text) = span.text(name).map(str::to_ascii_lowercase) else { return Ok(Vec::new()) };
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let digits: Vec<u8> = text.as_bytes().iter().map(digit).collect::<Option<_>>().ok_or(OtlpError::Format)?;
    let (pairs, []) = digits.as_chunks::<2>() else { return Err(OtlpError::Format) };
    let bytes = pairs.iter().map(|[high, low]| (high << 4) | low).collect();
    span.set(name, Json::String(Cow::Owned(text)));
    Ok(bytes)
}

fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(64).collect()
}

#[cfg(test)]
mod tests;
