//! Protobuf encoding of OTLP's trace export, and the removal of unknown fields.
//!
//! Field numbers are those of `opentelemetry/proto/trace/v1/trace.proto`, `common.proto` and `resource.proto`, version 1.9.

use std::borrow::Cow;

use bytes::Buf;
use prost::encoding::{
    DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint, encoded_len_varint, key_len,
    skip_field,
};

use super::super::Unknown;
use super::OtlpError;

/// The fields of a message.
type Fields = &'static [Field];

/// A field that OTLP defines.
struct Field {
    number: u32,
    wire: WireType,
    /// The fields of the nested message, if the field contains one.
    inner: Option<&'static Fields>,
}

const fn varint(number: u32) -> Field {
    Field { number, wire: WireType::Varint, inner: None }
}

const fn fixed32(number: u32) -> Field {
    Field { number, wire: WireType::ThirtyTwoBit, inner: None }
}

const fn fixed64(number: u32) -> Field {
    Field { number, wire: WireType::SixtyFourBit, inner: None }
}

const fn bytes(number: u32) -> Field {
    Field { number, wire: WireType::LengthDelimited, inner: None }
}

const fn message(number: u32, inner: &'static Fields) -> Field {
    Field { number, wire: WireType::LengthDelimited, inner: Some(inner) }
}

static EXPORT: Fields = &[message(1, &RESOURCE_SPANS)];
static RESOURCE_SPANS: Fields = &[message(1, &RESOURCE), message(2, &SCOPE_SPANS), bytes(3)];
static RESOURCE: Fields = &[message(1, &KEY_VALUE), varint(2), message(3, &ENTITY_REF)];
static ENTITY_REF: Fields = &[bytes(1), bytes(2), bytes(3), bytes(4)];
static SCOPE_SPANS: Fields = &[message(1, &SCOPE), message(2, &SPAN), bytes(3)];
static SCOPE: Fields = &[bytes(1), bytes(2), message(3, &KEY_VALUE), varint(4)];
static SPAN: Fields = &[
    bytes(1),
    bytes(2),
    bytes(3),
    bytes(4),
    bytes(5),
    varint(6),
    fixed64(7),
    fixed64(8),
    message(9, &KEY_VALUE),
    varint(10),
    message(11, &EVENT),
    varint(12),
    message(13, &LINK),
    varint(14),
    message(15, &STATUS),
    fixed32(16),
];
static EVENT: Fields = &[fixed64(1), bytes(2), message(3, &KEY_VALUE), varint(4)];
static LINK: Fields = &[bytes(1), bytes(2), bytes(3), message(4, &KEY_VALUE), varint(5), fixed32(6)];
static STATUS: Fields = &[bytes(2), varint(3)];
static KEY_VALUE: Fields = &[bytes(1), message(2, &ANY_VALUE), varint(3)];
static ANY_VALUE: Fields = &[
    bytes(1),
    varint(2),
    varint(3),
    fixed64(4),
    message(5, &ARRAY_VALUE),
    message(6, &KEY_VALUE_LIST),
    bytes(7),
    varint(8),
];
static ARRAY_VALUE: Fields = &[message(1, &ANY_VALUE)];
static KEY_VALUE_LIST: Fields = &[message(1, &KEY_VALUE)];

/// The default limit of protobuf in Python and in prost.
const MAX_DEPTH: usize = 100;

/// Returns an export without the fields that OTLP does not define.
///
/// # Errors
///
/// [`OtlpError::Format`]: the body is not protobuf, nested too deeply, or contains a known field of another wire type.
pub(super) fn keep_known(body: Cow<'_, [u8]>, unknown: &mut Unknown) -> Result<Vec<u8>, OtlpError> {
    if is_known(EXPORT, &body, 0)? {
        return Ok(body.into_owned());
    }
    let mut out = Vec::with_capacity(kept_size(EXPORT, &body)?);
    copy(EXPORT, &body, &mut out, unknown)?;
    Ok(out)
}

/// Returns true if every field is known, at every depth.
fn is_known(fields: Fields, mut bytes: &[u8], depth: usize) -> Result<bool, OtlpError> {
    if depth > MAX_DEPTH {
        return Err(OtlpError::Format);
    }
    let mut all = true;
    while bytes.has_remaining() {
        let (number, wire, known) = next(fields, &mut bytes)?;
        match known.and_then(|known| known.inner) {
            Some(inner) => all &= is_known(inner, delimited(&mut bytes)?, depth + 1)?,
            None => skip(number, wire, &mut bytes)?,
        }
        all &= known.is_some();
    }
    Ok(all)
}

/// Copies the known fields. [`is_known`] has checked the depth.
fn copy(fields: Fields, mut bytes: &[u8], out: &mut Vec<u8>, unknown: &mut Unknown) -> Result<(), OtlpError> {
    while bytes.has_remaining() {
        let (number, wire, known) = next(fields, &mut bytes)?;
        let before = bytes;
        match known {
            None => {
                skip(number, wire, &mut bytes)?;
                unknown.add(&format!("protobuf field {number}"));
            }
            Some(Field { inner: Some(inner), .. }) => {
                let inside = delimited(&mut bytes)?;
                encode_key(number, wire, out);
                encode_varint(u64::try_from(kept_size(inner, inside)?).unwrap_or(u64::MAX), out);
                copy(inner, inside, out, unknown)?;
            }
            Some(Field { inner: None, .. }) => {
                skip(number, wire, &mut bytes)?;
                encode_key(number, wire, out);
                out.extend_from_slice(before.get(..before.len() - bytes.len()).unwrap_or_default());
            }
        }
    }
    Ok(())
}

/// Returns the size of the copy that [`copy`] makes. It is measured first, so that an export is in memory twice at most.
fn kept_size(fields: Fields, mut bytes: &[u8]) -> Result<usize, OtlpError> {
    let mut size = 0;
    while bytes.has_remaining() {
        let (number, wire, known) = next(fields, &mut bytes)?;
        let before = bytes.len();
        match known.map(|known| known.inner) {
            None => skip(number, wire, &mut bytes)?,
            Some(Some(inner)) => {
                let inside = kept_size(inner, delimited(&mut bytes)?)?;
                let length = encoded_len_varint(u64::try_from(inside).unwrap_or(u64::MAX));
                size += key_len(number) + length + inside;
            }
            Some(None) => {
                skip(number, wire, &mut bytes)?;
                size += key_len(number) + before - bytes.len();
            }
        }
    }
    Ok(size)
}

/// Calls `take` with each field of this number, which contains bytes or a message.
pub(super) fn each<'b>(
    mut bytes: &'b [u8],
    wanted: u32,
    take: &mut dyn FnMut(&'b [u8]) -> Result<(), OtlpError>,
) -> Result<(), OtlpError> {
    while bytes.has_remaining() {
        let (number, wire) = decode_key(&mut bytes).map_err(|_| OtlpError::Format)?;
        if number == wanted && wire == WireType::LengthDelimited {
            take(delimited(&mut bytes)?)?;
        } else {
            skip(number, wire, &mut bytes)?;
        }
    }
    Ok(())
}

/// Returns the last field of this number, which takes precedence; empty if absent.
pub(super) fn last(bytes: &[u8], wanted: u32) -> Result<&[u8], OtlpError> {
    let mut last: &[u8] = &[];
    each(bytes, wanted, &mut |value| {
        last = value;
        Ok(())
    })?;
    Ok(last)
}

/// Reads the key of a field.
fn next(fields: Fields, bytes: &mut &[u8]) -> Result<(u32, WireType, Option<&'static Field>), OtlpError> {
    let (number, wire) = decode_key(bytes).map_err(|_| OtlpError::Format)?;
    let known = fields.iter().find(|field| field.number == number);
    // MLflow skips a known field of another wire type. No client writes one.
    if known.is_some_and(|known| known.wire != wire) {
        return Err(OtlpError::Format);
    }
    Ok((number, wire, known))
}

fn delimited<'b>(bytes: &mut &'b [u8]) -> Result<&'b [u8], OtlpError> {
    let length = decode_varint(bytes).map_err(|_| OtlpError::Format)?;
    let length = usize::try_from(length).map_err(|_| OtlpError::Format)?;
    let (inner, rest) = bytes.split_at_checked(length).ok_or(OtlpError::Format)?;
    *bytes = rest;
    Ok(inner)
}

fn skip(number: u32, wire: WireType, bytes: &mut &[u8]) -> Result<(), OtlpError> {
    skip_field(wire, number, bytes, DecodeContext::default()).map_err(|_| OtlpError::Format)
}
