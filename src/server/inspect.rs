//! Is every request head on this HTTP/1 connection one that nobody can read in two ways?
//!
//! Pure: bytes in, "so many may pass" out. hyper drops Content-Length silently when Transfer-Encoding is there too, and
//! takes bare LF for a line end; so heads are vetted here, before hyper, and only whole ones pass.

use std::mem::MaybeUninit;

use memchr::memchr_iter;

use super::EdgeRefusal;
use super::chunked::Chunked;

/// Follows one connection: head, body, head, body...
#[derive(Debug)]
pub(super) struct Inspector {
    max_head_bytes: usize,
    max_headers: usize,
    /// Where we are in the stream.
    place: Place,
    /// Heads that passed so far.
    heads: u64,
    /// Of an unfinished head: bytes in which no end was found.
    scanned: usize,
    /// Of an unfinished head: how long it must be before it is tried for early mistakes again.
    next_try: usize,
}

/// What comes next in the stream.
#[derive(Clone, Copy, Debug)]
enum Place {
    Head,
    /// So many bytes of body.
    Sized(u64),
    Chunked(Chunked),
}

/// What became of some bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Seen {
    /// So many may go to hyper now.
    pub(super) pass: usize,
    pub(super) then: Then,
}

/// What to do with the bytes behind those that may pass.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Then {
    /// Offer them again with more behind them; there may be none.
    Go,
    /// A head that is refused. Nothing after it may be looked at.
    Refuse(EdgeRefusal),
    /// A body that is broken. Nothing after it may be looked at.
    Break,
}

impl Inspector {
    pub(super) const fn new(max_head_bytes: usize, max_headers: usize) -> Self {
        Self { max_head_bytes, max_headers, place: Place::Head, heads: 0, scanned: 0, next_try: 0 }
    }

    /// Heads that passed so far.
    pub(super) const fn heads(&self) -> u64 {
        self.heads
    }

    /// Whether the body of the latest head is still coming.
    pub(super) const fn in_body(&self) -> bool {
        !matches!(self.place, Place::Head)
    }

    /// Looks at the bytes that follow those that passed.
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

    /// One head at the start of `bytes`: its length when it is whole and good, `None` when its end has not come yet.
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
                // What can no longer become a head is told at once (TLS on a plain port would wait for the timeout),
                // at doubling lengths, so that a head which drips in costs no more than a few parses.
                if bytes.len() >= self.next_try {
                    self.next_try = bytes.len().saturating_mul(2);
                    early_mistakes(bytes, self.max_headers)?;
                }
                Ok(None)
            }
        }
    }

    /// The length of the head, its empty line included. Looks at each byte once, however they arrive.
    fn end_of_head(&mut self, bytes: &[u8]) -> Result<Option<usize>, EdgeRefusal> {
        // RFC 9112 §2.2: an empty line before the request line is to be ignored. Two of them; more is nonsense.
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
                    self.scanned = at; // cannot tell yet: look at this line end again
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

/// Whether some LF follows anything but CR.
fn bare_line_feed(bytes: &[u8]) -> bool {
    bytes.first() == Some(&b'\n') || bytes.windows(2).any(|pair| matches!(pair, [before, b'\n'] if *before != b'\r'))
}

/// What can be said of a head whose end has not come.
fn early_mistakes(bytes: &[u8], max_headers: usize) -> Result<(), EdgeRefusal> {
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS];
    let headers = headers.get_mut(..max_headers.min(HEADERS)).unwrap_or_default();
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(bytes, headers) {
        Ok(_) => Ok(()),
        Err(error) => Err(refusal_of(error)),
    }
}

/// Vets a whole head and says what body follows it.
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

/// The rules of RFC 9112 §6, without the leniency.
fn framing(headers: &[httparse::Header<'_>], is_http_11: bool) -> Result<Place, EdgeRefusal> {
    let mut length = None;
    let mut chunked = false;
    for header in headers {
        // By length first: three comparisons for most headers.
        match header.name.len() {
            14 if header.name.eq_ignore_ascii_case("content-length") => {
                let number = decimal(header.value).ok_or(EdgeRefusal::ContentLength)?;
                if length.replace(number).is_some() {
                    return Err(EdgeRefusal::ContentLength);
                }
            }
            17 if header.name.eq_ignore_ascii_case("transfer-encoding") => {
                if chunked || !is_http_11 || !header.value.eq_ignore_ascii_case(b"chunked") {
                    return Err(EdgeRefusal::TransferEncoding);
                }
                chunked = true;
            }
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

/// At most 18 digits and nothing else: no sign, no space, no list.
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

/// Room for headers on the stack: 8 KiB, uninitialised. `max_headers` beyond it has no effect.
pub(super) const HEADERS: usize = 256;
/// Two empty lines are four bytes.
const BLANK_BYTES: usize = 5;

#[cfg(test)]
mod tests;
