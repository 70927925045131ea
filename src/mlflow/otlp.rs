//! `POST /v1/traces`: spans in OpenTelemetry's protocol, and the MLflow traces to which they belong.
//!
//! Pure. [`read`] decompresses the body once, within a limit, and returns the bytes to forward, so that what was checked is
//! what is sent.
//!
//! Relevant elements of a span (`mlflow.server.otel_api`, `Span.from_otel_proto`, `SqlAlchemyStore.log_spans`):
//! - `trace_id`: MLflow stores the span under `tr-` and the ID in 32 hex digits. If that trace exists, MLflow adds the span to
//!   it, whatever experiment the header specifies. Therefore every ID must be checked: [`Spans::traces`].
//! - attributes `mlflow.traceTag.X` of a root span become the trace's tag `X`. MLflow's SDK sends its own `mlflow.` tags in
//!   another way; here they would set the location of artifacts and payloads, or the author. They are refused on every span,
//!   except for the name of the trace.
//!
//! Irrelevant elements: `mlflow.traceRequestId` is overwritten, `mlflow.experimentId` is not read, resource attributes that
//! start with `mlflow.` are skipped, links and `mlflow.gateway.linkedTraceId` are stored as text and not followed, `user.id`
//! and `session.id` concern the traced application.
//!
//! The pipeline handles the header that links the traces to a run.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::io::Read;

use flate2::{Decompress, FlushDecompress, Status};
use http::StatusCode;

use super::json::{items_of, text_of, value_of};
use super::{Schema, Unknown};

mod wire;

/// The content of one export.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Spans {
    /// IDs of the traces that are written to, in MLflow's form.
    pub traces: BTreeSet<String>,
    pub spans: usize,
    /// The body to send, without `Content-Encoding`.
    pub body: Vec<u8>,
    pub content_type: &'static str,
}

/// The reason why an export is refused. The texts match MLflow's.
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
    #[error("The request body is compressed more than {MAX_RATIO} times. Send it in parts or uncompressed.")]
    Ratio,
    #[error("The attribute `{0}` must be the name of a model provider, without `/`, `\\`, `?`, `#` and `%`.")]
    Provider(String),
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
            Self::TooLarge(_) | Self::Ratio => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Span => StatusCode::UNPROCESSABLE_ENTITY,
            Self::ContentType(_)
            | Self::Encoding(_)
            | Self::Corrupt(_)
            | Self::Format
            | Self::NoSpans
            | Self::Provider(_)
            | Self::ReservedTag(_)
            | Self::TooManyTraces => StatusCode::BAD_REQUEST,
        }
    }
}

/// Each trace requires a look-up.
const MAX_TRACES: usize = 1000;

const PROTOBUF: &str = "application/x-protobuf";
const JSON: &str = "application/json";

/// Reads an export, and keeps only the fields that OTLP defines. `limit` applies to the body both compressed and decompressed.
///
/// # Errors
///
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
    let unpacked = unpack(encoding.unwrap_or_default(), raw, limit)?;
    let mut found = Found::default();
    let body = if content_type == JSON {
        let text = schema.rebuild_body(schema.spans(), &unpacked, &[], unknown).map_err(|_| OtlpError::Format)?;
        // Freed first, because both texts together would exceed the reserved memory.
        drop(unpacked);
        read_json(text, &mut found)?
    } else {
        let body = wire::keep_known(unpacked, unknown)?;
        read_protobuf(&body, &mut found)?;
        body
    };
    Ok(Spans { traces: found.traces, spans: found.spans, body, content_type })
}

/// Returns the decompressed size of an export, without decompressing it into memory.
///
/// # Errors
///
/// The export is larger than `limit`, its compression ratio is suspiciously high, or it cannot be decompressed.
pub fn unpacked_size(encoding: Option<&str>, raw: &[u8], limit: usize) -> Result<usize, OtlpError> {
    measure(encoding.unwrap_or_default(), raw, limit).map(|(_, size)| size)
}

/// Compression format of a body.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Format {
    Plain,
    Gzip,
    Zlib,
    /// Deflate without the zlib header, which some clients omit.
    Bare,
}

fn measure(encoding: &str, raw: &[u8], limit: usize) -> Result<(Format, usize), OtlpError> {
    if raw.len() > limit {
        return Err(OtlpError::TooLarge(limit));
    }
    let most = limit.min(raw.len().saturating_mul(MAX_RATIO).saturating_add(FREE_BYTES));
    let size_as = |format| {
        let mut size = 0_usize;
        let inflated = inflate(format, raw, &mut |piece| {
            size = size.saturating_add(piece.len());
            if size <= most {
                return Ok(());
            }
            Err(if size > limit { OtlpError::TooLarge(limit) } else { OtlpError::Ratio })
        });
        inflated.map(|()| (format, size))
    };
    match encoding.to_ascii_lowercase().as_str() {
        "" => size_as(Format::Plain),
        "gzip" => size_as(Format::Gzip),
        "deflate" => match size_as(Format::Zlib) {
            Err(OtlpError::Corrupt(_)) => size_as(Format::Bare),
            measured => measured,
        },
        other => Err(OtlpError::Encoding(shown(other))),
    }
}

/// Decompresses an export into a buffer that is allocated once.
fn unpack<'r>(encoding: &str, raw: &'r [u8], limit: usize) -> Result<Cow<'r, [u8]>, OtlpError> {
    let (format, size) = measure(encoding, raw, limit)?;
    if format == Format::Plain {
        return Ok(Cow::Borrowed(raw));
    }
    let mut out = Vec::with_capacity(size);
    inflate(format, raw, &mut |piece| {
        out.extend_from_slice(piece);
        Ok(())
    })?;
    Ok(Cow::Owned(out))
}

type Take<'t> = dyn FnMut(&[u8]) -> Result<(), OtlpError> + 't;

/// Passes the decompressed data to `take`, piece by piece.
fn inflate(format: Format, raw: &[u8], take: &mut Take<'_>) -> Result<(), OtlpError> {
    match format {
        Format::Plain => take(raw),
        Format::Gzip => {
            let mut reader = flate2::read::MultiGzDecoder::new(raw);
            let mut piece = vec![0; PIECE_BYTES];
            loop {
                match reader.read(&mut piece) {
                    Ok(0) => return Ok(()),
                    Ok(count) => take(piece.get(..count).unwrap_or_default())?,
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(_) => return Err(OtlpError::Corrupt("gzip")),
                }
            }
        }
        Format::Zlib => inflate_stream(Decompress::new(true), raw, take),
        Format::Bare => inflate_stream(Decompress::new(false), raw, take),
    }
}

/// Decompresses one complete stream. The reader of `flate2` would accept a truncated stream.
fn inflate_stream(mut stream: Decompress, raw: &[u8], take: &mut Take<'_>) -> Result<(), OtlpError> {
    let corrupt = OtlpError::Corrupt("deflate");
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let before = (stream.total_in(), stream.total_out());
        let read = usize::try_from(stream.total_in()).unwrap_or(usize::MAX);
        let rest = raw.get(read..).unwrap_or_default();
        let status = stream.decompress(rest, &mut piece, FlushDecompress::None).map_err(|_| corrupt.clone())?;
        let count = usize::try_from(stream.total_out() - before.1).unwrap_or(usize::MAX);
        take(piece.get(..count).unwrap_or_default())?;
        match status {
            Status::StreamEnd => return Ok(()),
            Status::Ok | Status::BufError if before == (stream.total_in(), stream.total_out()) => return Err(corrupt),
            Status::Ok | Status::BufError => {}
        }
    }
}

const PIECE_BYTES: usize = 64 * 1024;

/// Maximum compression ratio of an export. Spans of one kind repeat themselves, but not that often.
const MAX_RATIO: usize = 100;
/// Decompressed size that is accepted with any ratio, in bytes.
const FREE_BYTES: usize = 256 * 1024;

#[derive(Default)]
struct Found {
    traces: BTreeSet<String>,
    spans: usize,
}

impl Found {
    /// Checks the IDs of a span. MLflow reads the trace ID as a number and writes it in 32 hex digits. IDs longer than the
    /// protocol's are refused.
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

/// Returns true if MLflow takes a model's provider from a span attribute with this key (`mlflow/tracing/otel/translation`,
/// 3.17).
fn names_provider(key: &str) -> bool {
    matches!(key, "mlflow.llm.provider" | "gen_ai.provider.name" | "gen_ai.system" | "llm.provider")
}

/// Checks the name of a provider. MLflow looks up prices by the provider, which becomes part of a path below its model catalog.
/// MLflow may decode the text as JSON first, so a backslash could stand for any character.
fn check_provider(key: &str, provider: &str) -> Result<(), OtlpError> {
    let leads_elsewhere = |letter: char| letter.is_control() || "/\\?#%".contains(letter);
    if provider.contains(leads_elsewhere) { Err(OtlpError::Provider(shown(key))) } else { Ok(()) }
}

/// Refuses attributes that set reserved tags of a trace. Some databases compare keys without case.
fn check_attribute(key: &str) -> Result<(), OtlpError> {
    if key.contains(char::is_control) {
        return Err(OtlpError::Format);
    }
    let Some(tag) = key.strip_prefix("mlflow.traceTag.") else { return Ok(()) };
    let reserved = tag.to_ascii_lowercase().starts_with("mlflow.") && tag != "mlflow.traceName";
    if reserved { Err(OtlpError::ReservedTag(shown(tag))) } else { Ok(()) }
}

/// Reads the relevant fields of `opentelemetry/proto/trace/v1/trace.proto`, one span at a time.
fn read_protobuf(body: &[u8], found: &mut Found) -> Result<(), OtlpError> {
    let mut resources = 0_usize;
    wire::each(body, RESOURCE_SPANS, &mut |resource| {
        resources += 1;
        wire::each(resource, SCOPE_SPANS, &mut |scope| wire::each(scope, SPANS, &mut |span| read_span(span, found)))
    })?;
    if resources == 0 { Err(OtlpError::NoSpans) } else { Ok(()) }
}

fn read_span(span: &[u8], found: &mut Found) -> Result<(), OtlpError> {
    found.span(wire::last(span, TRACE_ID)?, wire::last(span, SPAN_ID)?, wire::last(span, PARENT_SPAN_ID)?)?;
    wire::each(span, ATTRIBUTES, &mut |attribute| {
        let key = std::str::from_utf8(wire::last(attribute, KEY)?).map_err(|_| OtlpError::Format)?;
        check_attribute(key)?;
        if !names_provider(key) {
            return Ok(());
        }
        // A message that occurs twice is merged, so each occurrence counts.
        wire::each(attribute, VALUE, &mut |value| {
            for nested in [ARRAY_VALUE, KEY_VALUE_LIST, BYTES_VALUE] {
                wire::each(value, nested, &mut |_| Err(OtlpError::Provider(shown(key))))?;
            }
            wire::each(value, STRING_VALUE, &mut |text| check_provider(key, &String::from_utf8_lossy(text)))
        })
    })
}

const RESOURCE_SPANS: u32 = 1;
const SCOPE_SPANS: u32 = 2;
const SPANS: u32 = 2;
const TRACE_ID: u32 = 1;
const SPAN_ID: u32 = 2;
const PARENT_SPAN_ID: u32 = 4;
const ATTRIBUTES: u32 = 9;
const KEY: u32 = 1;
const VALUE: u32 = 2;
const STRING_VALUE: u32 = 1;
const ARRAY_VALUE: u32 = 5;
const KEY_VALUE_LIST: u32 = 6;
const BYTES_VALUE: u32 = 7;

/// Reads an export in JSON, where the IDs are hex. The schema has kept lowerCamelCase names only, which are the only ones that
/// MLflow decodes.
///
/// Returns the export with its IDs in lower case.
fn read_json(export: String, found: &mut Found) -> Result<Vec<u8>, OtlpError> {
    // Positions of IDs to convert, which happens after the walk, because the text is borrowed during it.
    let mut ids: Vec<u32> = Vec::new();
    let mut upper = |id: &str| {
        if id.bytes().any(|byte| byte.is_ascii_uppercase()) {
            let place = (id.as_ptr() as usize).saturating_sub(export.as_ptr() as usize);
            ids.push(u32::try_from(place).map_err(|_| OtlpError::Format)?);
        }
        Ok(())
    };
    let mut resources = list(&export, "resourceSpans")?.peekable();
    if resources.peek().is_none() {
        return Err(OtlpError::NoSpans);
    }
    for resource in resources {
        for scope in list(resource, "scopeSpans")? {
            for span in list(scope, "spans")? {
                read_json_span(span, found, &mut upper)?;
            }
        }
    }
    let mut body = export.into_bytes();
    for place in ids {
        let id = body.get_mut(usize::try_from(place).unwrap_or(usize::MAX)..).unwrap_or_default();
        let end = id.iter().position(|byte| *byte == b'"').unwrap_or_default();
        id.get_mut(..end).unwrap_or_default().make_ascii_lowercase();
    }
    Ok(body)
}

fn read_json_span(
    span: &str,
    found: &mut Found,
    upper: &mut impl FnMut(&str) -> Result<(), OtlpError>,
) -> Result<(), OtlpError> {
    let mut id = |name: &str| match value_of(span, name).filter(|value| value.starts_with('"')) {
        Some(token) => {
            upper(token.trim_matches('"'))?;
            hex_id(token.trim_matches('"'))
        }
        None => Ok(Vec::new()),
    };
    found.span(&id("traceId")?, &id("spanId")?, &id("parentSpanId")?)?;
    for attribute in list(span, "attributes")? {
        if let Some(key) = value_of(attribute, "key").filter(|value| value.starts_with('"')) {
            let key = text_of(key).map_err(|_| OtlpError::Format)?;
            check_attribute(&key)?;
            if let Some(value) = value_of(attribute, "value").filter(|_| names_provider(&key)) {
                if ["arrayValue", "kvlistValue", "bytesValue"].iter().any(|nested| value_of(value, nested).is_some()) {
                    return Err(OtlpError::Provider(shown(&key)));
                }
                if let Some(text) = value_of(value, "stringValue").filter(|text| text.starts_with('"')) {
                    check_provider(&key, &text_of(text).map_err(|_| OtlpError::Format)?)?;
                }
            }
        }
    }
    Ok(())
}

/// Returns the items of a list in the canonical text of an object; none if absent.
fn list<'t>(object: &'t str, name: &str) -> Result<impl Iterator<Item = &'t str>, OtlpError> {
    match value_of(object, name) {
        None => Ok(items_of("[]")),
        Some(list) if list.starts_with('[') => Ok(items_of(list)),
        Some(_) => Err(OtlpError::Format),
    }
}

/// Returns the bytes of an ID, of which the protocol allows at most 16.
fn hex_id(text: &str) -> Result<Vec<u8>, OtlpError> {
    if text.len() > MAX_ID_DIGITS {
        return Err(if text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            OtlpError::Span
        } else {
            OtlpError::Format
        });
    }
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let digits: Vec<u8> = text.as_bytes().iter().map(digit).collect::<Option<_>>().ok_or(OtlpError::Format)?;
    let (pairs, []) = digits.as_chunks::<2>() else { return Err(OtlpError::Format) };
    Ok(pairs.iter().map(|[high, low]| (high << 4) | low).collect())
}

const MAX_ID_DIGITS: usize = 64;

fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(64).collect()
}

#[cfg(test)]
mod tests;
