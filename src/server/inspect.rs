//! Verifies that each request head on an HTTP/1 connection has only one interpretation.
//!
//! Pure: takes bytes and returns how many of them may pass. hyper silently drops Content-Length when
//! Transfer-Encoding is present, and accepts a bare LF as a line end. Heads are therefore vetted before hyper, and
//! only complete ones pass.

use std::mem::MaybeUninit;

use memchr::memchr_iter;

use super::EdgeRefusal;
use super::chunked::Chunked;

/// State of one connection, which alternates between heads and bodies.
#[derive(Debug)]
pub(super) struct Inspector {
    max_head_bytes: usize,
    max_headers: usize,
    /// Position in the stream.
    place: Place,
    /// Number of heads that have passed.
    heads: u64,
    /// For an incomplete head: number of bytes in which no end was found.
    scanned: usize,
    /// For an incomplete head: the length at which it is checked for early mistakes again.
    next_try: usize,
}

/// The next part of the stream.
#[derive(Clone, Copy, Debug)]
enum Place {
    Head,
    /// The remaining bytes of a body with Content-Length.
    Sized(u64),
    Chunked(Chunked),
}

/// The result of an inspection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Seen {
    /// Number of bytes that may be passed to hyper now.
    pub(super) pass: usize,
    pub(super) then: Then,
}

/// Treatment of the bytes after those that may pass.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Then {
    /// The bytes, of which there may be none, have to be inspected again together with those that follow.
    Go,
    /// The head is refused. Nothing after it may be inspected.
    Refuse(EdgeRefusal),
    /// The body is broken. Nothing after it may be inspected.
    Break,
}

impl Inspector {
    pub(super) const fn new(max_head_bytes: usize, max_headers: usize) -> Self {
        Self { max_head_bytes, max_headers, place: Place::Head, heads: 0, scanned: 0, next_try: 0 }
    }

    /// Returns the number of heads that have passed.
    pub(super) const fn heads(&self) -> u64 {
        self.heads
    }

    /// Returns true if the body of the latest head is incomplete.
    pub(super) const fn in_body(&self) -> bool {
        !matches!(self.place, Place::Head)
    }

    /// Inspects the bytes that follow those that have passed.
    pub(super) fn inspect(&mut self, bytes: &[u8]) -> Seen {
        let mut pass = 0;
        loop {
            let rest = bytes.get(pass..).unwrap_or_default();
            if rest.is_empty() {
                return Seen { pass, then: Then::Go };
            }
            let used = match &mut self.place {
                Place::Head => match self.head(rest) {
                    Ok(Some(used)) => used,
                    Ok(None) => return Seen { pass, then: Then::Go },
                    Err(refusal) => return Seen { pass, then: Then::Refuse(refusal) },
                },
                Place::Sized(left) => {
                    let take = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    *left = left.saturating_sub(take as u64);
                    if *left == 0 {
                        self.place = Place::Head;
                    }
                    take
                }
                Place::Chunked(chunked) => match chunked.advance(rest) {
                    Ok(used) => {
                        if *chunked == Chunked::End {
                            self.place = Place::Head;
                        }
                        used
                    }
                    Err((used, _)) => return Seen { pass: pass + used, then: Then::Break },
                },
            };
            pass += used;
        }
    }

    /// Inspects one head at the start of `bytes`. Returns its length when it is complete and valid, `None` when it is
    /// incomplete.
    fn head(&mut self, bytes: &[u8]) -> Result<Option<usize>, EdgeRefusal> {
        let end = self.end_of_head(bytes)?;
        if end.unwrap_or(bytes.len()) > self.max_head_bytes {
            return Err(EdgeRefusal::TooLarge);
        }
        match end {
            Some(end) => {
                self.place = parse(bytes.get(..end).unwrap_or_default(), self.max_headers)?;
                self.heads += 1;
                self.scanned = 0;
                self.next_try = 0;
                Ok(Some(end))
            }
            None => {
                // Bytes that cannot become a valid head, such as TLS on a plain port, are refused at once instead of
                // after the timeout. The check runs at doubling lengths, so that a head that arrives in small pieces
                // is parsed only a few times.
                if bytes.len() >= self.next_try {
                    self.next_try = bytes.len().saturating_mul(2);
                    early_mistakes(bytes, self.max_headers)?;
                }
                Ok(None)
            }
        }
    }

    /// Returns the length of the head, including its empty line. Each byte is scanned once, however the bytes arrive.
    fn end_of_head(&mut self, bytes: &[u8]) -> Result<Option<usize>, EdgeRefusal> {
        // RFC 9112 §2.2: an empty line before the request line is to be ignored. Up to two are accepted.
        let blank = bytes.iter().take(BLANK_BYTES).take_while(|&&byte| byte == b'\r' || byte == b'\n').count();
        let from = self.scanned.max(blank);
        if blank == BLANK_BYTES {
            return Err(EdgeRefusal::Malformed);
        }
        if bytes.get(..blank).is_some_and(bare_line_feed) {
            return Err(EdgeRefusal::BareLineFeed);
        }
        let tail = bytes.get(from..).unwrap_or_default();
        for found in memchr_iter(b'\n', tail) {
            let at = from + found;
            if at.checked_sub(1).and_then(|before| bytes.get(before)) != Some(&b'\r') {
                return Err(EdgeRefusal::BareLineFeed);
            }
            match bytes.get(at + 1..).unwrap_or_default() {
                [] | [b'\r'] => {
                    self.scanned = at; // incomplete: this line end is inspected again
                    return Ok(None);
                }
                [b'\r', b'\n', ..] => return Ok(Some(at + 3)),
                _ => {}
            }
        }
        self.scanned = bytes.len().max(blank);
        if tail.is_empty() {
            self.scanned = 0; // only blank lines so far
        }
        Ok(None)
    }
}

/// Returns true if an LF is not preceded by CR.
fn bare_line_feed(bytes: &[u8]) -> bool {
    bytes.first() == Some(&b'\n') || bytes.windows(2).any(|pair| matches!(pair, [before, b'\n'] if *before != b'\r'))
}

/// Refuses an incomplete head that cannot become valid.
fn early_mistakes(bytes: &[u8], max_headers: usize) -> Result<(), EdgeRefusal> {
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS];
    let headers = headers.get_mut(..max_headers.min(HEADERS)).unwrap_or_default();
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(bytes, headers) {
        Ok(_) => Ok(()),
        Err(error) => Err(refusal_of(error)),
    }
}

/// Vets a complete head and returns the kind of body that follows.
fn parse(head: &[u8], max_headers: usize) -> Result<Place, EdgeRefusal> {
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS];
    let headers = headers.get_mut(..max_headers.min(HEADERS)).unwrap_or_default();
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(head, headers) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Ok(_) => return Err(EdgeRefusal::Malformed),
        Err(error) => return Err(refusal_of(error)),
    }
    if request.method == Some("CONNECT") {
        return Err(EdgeRefusal::Connect);
    }
    framing(request.headers, request.version == Some(1))
}

/// Determines the body by RFC 9112 §6, without its leniency.
fn framing(headers: &[httparse::Header<'_>], is_http_11: bool) -> Result<Place, EdgeRefusal> {
    let mut length = None;
    let mut chunked = false;
    for header in headers {
        // Comparing the length first leaves three comparisons for most headers.
        match header.name.len() {
            // RFC 9110 §8.6 permits a list of equal lengths. Servers differ in reading it, so only one plain number
            // passes.
            14 if header.name.eq_ignore_ascii_case("content-length") => {
                let number = decimal(header.value).ok_or(EdgeRefusal::ContentLength)?;
                if length.replace(number).is_some() {
                    return Err(EdgeRefusal::ContentLength);
                }
            }
            // RFC 9112 §6.1: HTTP/1.0 has no chunked bodies. Servers differ in reading lists of encodings, so one
            // value passes.
            17 if header.name.eq_ignore_ascii_case("transfer-encoding") => {
                if chunked || !is_http_11 || !header.value.eq_ignore_ascii_case(b"chunked") {
                    return Err(EdgeRefusal::TransferEncoding);
                }
                chunked = true;
            }
            // `h2c` is an offer that a server is free to ignore (RFC 9110 §7.8).
            7 if header.name.eq_ignore_ascii_case("upgrade") && !header.value.eq_ignore_ascii_case(b"h2c") => {
                return Err(EdgeRefusal::Upgrade);
            }
            _ => {}
        }
    }
    match (length, chunked) {
        (Some(_), true) => Err(EdgeRefusal::LengthAndEncoding),
        (None, true) => Ok(Place::Chunked(Chunked::default())),
        (Some(length), false) if length > 0 => Ok(Place::Sized(length)),
        (_, false) => Ok(Place::Head),
    }
}

/// Parses at most 18 digits: no sign, no space, no list.
fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 18 {
        return None;
    }
    value.iter().try_fold(0_u64, |number, &byte| {
        let digit = char::from(byte).to_digit(10)?;
        number.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

fn refusal_of(error: httparse::Error) -> EdgeRefusal {
    match error {
        httparse::Error::TooManyHeaders => EdgeRefusal::TooManyHeaders,
        httparse::Error::HeaderName
        | httparse::Error::HeaderValue
        | httparse::Error::NewLine
        | httparse::Error::Status
        | httparse::Error::Token
        | httparse::Error::Version => EdgeRefusal::Malformed,
    }
}

/// Maximum number of headers: 8 KiB of uninitialised stack. A larger `max_headers` has no effect.
pub(super) const HEADERS: usize = 256;
/// One byte more than two empty lines.
const BLANK_BYTES: usize = 5;

#[cfg(test)]
mod tests;
