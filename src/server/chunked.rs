//! Finds the end of a chunked body.
//!
//! Pure. Follows the framing of RFC 9112 §7.1 without buffering. It is at least as strict as hyper's decoder, so that
//! both agree on the first byte of the next head.

/// Position inside a chunked body.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Chunked {
    /// Before the first digit of a size.
    #[default]
    Start,
    Size(u64),
    /// White space after the digits.
    SizeSpace(u64),
    Extension(u64),
    SizeLineFeed(u64),
    Data(u64),
    DataReturn,
    DataLineFeed,
    /// At the start of a trailer line, or of the empty line that ends the body.
    Trailers,
    Trailer,
    TrailerLineFeed,
    EndLineFeed,
    End,
}

/// Invalid chunk framing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Broken;

impl Chunked {
    /// Follows the body through `bytes`, and returns how many of them belong to it. The body is complete when the
    /// state is [`Chunked::End`].
    pub(super) fn advance(&mut self, bytes: &[u8]) -> Result<usize, (usize, Broken)> {
        let mut at = 0;
        while *self != Self::End {
            let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) else { break };
            let used = match *self {
                Self::Data(left) => {
                    let take = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                    let left = left.saturating_sub(take as u64);
                    *self = if left == 0 { Self::DataReturn } else { Self::Data(left) };
                    take
                }
                Self::Trailer => {
                    let end = rest.iter().position(|&byte| byte == b'\r' || byte == b'\n').unwrap_or(rest.len());
                    match rest.get(end) {
                        Some(b'\r') => {
                            *self = Self::TrailerLineFeed;
                            end + 1
                        }
                        Some(_) => return Err((at + end, Broken)),
                        None => end,
                    }
                }
                state => {
                    let byte = rest.first().copied().unwrap_or_default();
                    *self = state.step(byte).ok_or((at, Broken))?;
                    1
                }
            };
            at += used;
        }
        Ok(at)
    }

    /// Returns the state after one byte of framing; `None` when the byte is not allowed there.
    fn step(self, byte: u8) -> Option<Self> {
        Some(match (self, byte) {
            (Self::Start, _) => Self::Size(digit(byte)?),
            (Self::Size(size), b'\r') | (Self::SizeSpace(size), b'\r') | (Self::Extension(size), b'\r') => {
                Self::SizeLineFeed(size)
            }
            (Self::Size(size), b' ' | b'\t') | (Self::SizeSpace(size), b' ' | b'\t') => Self::SizeSpace(size),
            (Self::Size(size), b';') | (Self::SizeSpace(size), b';') => Self::Extension(size),
            (Self::Size(size), _) => Self::Size(size.checked_mul(16)?.checked_add(digit(byte)?)?),
            (Self::Extension(_), b'\n') => return None,
            (Self::Extension(size), _) => Self::Extension(size),
            (Self::SizeLineFeed(0), b'\n') => Self::Trailers,
            (Self::SizeLineFeed(size), b'\n') => Self::Data(size),
            (Self::DataReturn, b'\r') => Self::DataLineFeed,
            (Self::DataLineFeed, b'\n') => Self::Start,
            (Self::Trailers, b'\r') => Self::EndLineFeed,
            (Self::Trailers, b'\n') => return None,
            (Self::Trailers, _) => Self::Trailer,
            (Self::TrailerLineFeed, b'\n') => Self::Trailers,
            (Self::EndLineFeed, b'\n') => Self::End,
            (
                Self::SizeSpace(_)
                | Self::SizeLineFeed(_)
                | Self::DataReturn
                | Self::DataLineFeed
                | Self::TrailerLineFeed
                | Self::EndLineFeed
                | Self::Data(_)
                | Self::Trailer
                | Self::End,
                _,
            ) => return None,
        })
    }
}

fn digit(byte: u8) -> Option<u64> {
    char::from(byte).to_digit(16).map(u64::from)
}
