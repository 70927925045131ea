//! Reads the end of a certificate's validity.
//!
//! Parses only the part of X.509 (RFC 5280 §4.1) that leads to `notAfter`; rustls verifies the certificate.

use time::{Date, Month, OffsetDateTime, Time};

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// Returns `notAfter` of a certificate in DER; `None` when it cannot be read.
pub(super) fn not_after(der: &[u8]) -> Option<OffsetDateTime> {
    let (_, certificate, _) = element(der, Some(SEQUENCE))?;
    let (_, to_be_signed, _) = element(certificate, Some(SEQUENCE))?;
    let (tag, _, after) = element(to_be_signed, None)?;
    // The version precedes the serial number, unless it is v1.
    let rest = if tag == VERSION { element(after, None)?.2 } else { after };
    let (_, _, after_algorithm) = element(rest, Some(SEQUENCE))?;
    let (_, _, after_issuer) = element(after_algorithm, Some(SEQUENCE))?;
    let (_, validity, _) = element(after_issuer, Some(SEQUENCE))?;
    let (_, _, after_begin) = element(validity, None)?;
    let (tag, text, _) = element(after_begin, None)?;
    moment(tag, std::str::from_utf8(text).ok()?)
}

/// Returns tag and contents of the first element, and the bytes after it.
fn element(der: &[u8], expected: Option<u8>) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    if expected.is_some_and(|expected| expected != tag) {
        return None;
    }
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
        if bytes.is_empty() || bytes.len() > 4 {
            return None;
        }
        (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
    };
    let (contents, rest) = rest.split_at_checked(length)?;
    Some((tag, contents, rest))
}

/// Parses `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`.
fn moment(tag: u8, text: &str) -> Option<OffsetDateTime> {
    let digits = text.strip_suffix('Z')?;
    let (year, rest) = match tag {
        UTC_TIME => {
            let (year, rest) = digits.split_at_checked(2)?;
            let year: i32 = year.parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        GENERALIZED_TIME => {
            let (year, rest) = digits.split_at_checked(4)?;
            (year.parse().ok()?, rest)
        }
        _ => return None,
    };
    let number = |at: usize| rest.get(at..at + 2).and_then(|two| two.parse::<u8>().ok());
    let date = Date::from_calendar_date(year, Month::try_from(number(0)?).ok()?, number(2)?).ok()?;
    let time = Time::from_hms(number(4)?, number(6)?, number(8)?).ok()?;
    Some(date.with_time(time).assume_utc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_real_certificate_is_read() {
        let mut parameters = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        for (year, expected) in [(2031, "2031-02-03"), (2055, "2055-02-03")] {
            parameters.not_after = rcgen::date_time_ymd(year, 2, 3);
            let certificate = parameters.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
            assert_eq!(not_after(certificate.der()).unwrap().date().to_string(), expected);
        }
    }

    #[test]
    fn what_is_no_certificate_has_no_end() {
        for der in [&b""[..], b"0", b"\x30\x84\xff\xff\xff\xff", b"\x30\x03\x02\x01\x01", &[0x30, 0x80], &[0x30; 64]] {
            assert_eq!(not_after(der), None, "{der:?}");
        }
    }
}
