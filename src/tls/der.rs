//! The validity period and the names of a certificate, read from its DER. rustls checks the validity period in
//! handshakes only and exposes it nowhere, and reads no wildcards of a single label.

use chrono::NaiveDate;

use crate::engine::Timestamp;

const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
/// The optional version and the optional extensions of a certificate.
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
/// Kinds of names in the extension.
const DNS_NAME: u8 = 0x82;
const URI: u8 = 0x86;
/// 2.5.29.17
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];

/// Period in which a certificate is valid, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) not_before: Timestamp,
    pub(super) not_after: Timestamp,
}

/// The validity period of `certificate`; `None` if it is malformed.
pub(super) fn validity(certificate: &[u8]) -> Option<Validity> {
    let mut validity = Der(from_validity(certificate)?.expect(SEQUENCE)?);
    Some(Validity { not_before: validity.time()?, not_after: validity.time()? })
}

/// DNS names and URIs in a certificate.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Names<'a> {
    pub(super) dns: Vec<&'a str>,
    pub(super) uris: Vec<&'a str>,
}

/// The names in the subject alternative name extension of `certificate`, none without it; `None` if it is malformed.
pub(super) fn names(certificate: &[u8]) -> Option<Names<'_>> {
    let mut fields = from_validity(certificate)?;
    let mut names = Names::default();
    let extensions = loop {
        match fields.next() {
            Some((EXTENSIONS, content)) => break Der(content).expect(SEQUENCE)?,
            Some(_) => {}
            None => return Some(names),
        }
    };
    let mut extensions = Der(extensions);
    while !extensions.0.is_empty() {
        let mut extension = Der(extensions.expect(SEQUENCE)?);
        if extension.expect(OBJECT_IDENTIFIER)? != SUBJECT_ALT_NAME {
            continue;
        }
        if extension.0.first() == Some(&BOOLEAN) {
            extension.expect(BOOLEAN)?;
        }
        let mut found = Der(Der(extension.expect(OCTET_STRING)?).expect(SEQUENCE)?);
        while !found.0.is_empty() {
            match found.next()? {
                (DNS_NAME, name) => names.dns.push(str::from_utf8(name).ok()?),
                (URI, name) => names.uris.push(str::from_utf8(name).ok()?),
                _ => {}
            }
        }
    }
    Some(names)
}

/// The fields of `certificate` from its validity period on.
fn from_validity(certificate: &[u8]) -> Option<Der<'_>> {
    let mut signed = Der(Der(certificate).expect(SEQUENCE)?);
    let mut fields = Der(signed.expect(SEQUENCE)?);
    if fields.0.first() == Some(&VERSION) {
        fields.expect(VERSION)?;
    }
    // Serial number, signature algorithm, issuer.
    fields.expect(INTEGER)?;
    fields.expect(SEQUENCE)?;
    fields.expect(SEQUENCE)?;
    Some(fields)
}

/// Elements that have not been read.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The content of the next element, whose tag must be `tag`.
    fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        let (found, content) = self.next()?;
        (found == tag).then_some(content)
    }

    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, mut rest) = rest.split_first()?;
        let mut length = usize::from(first);
        if first >= 0x80 {
            let digits;
            (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            if digits.len() > 4 {
                return None;
            }
            length = digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit));
        }
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    /// A time in the form that RFC 5280 asks for: in UTC, with seconds. One before 1970 is 1970.
    fn time(&mut self) -> Option<Timestamp> {
        let (tag, text) = self.next()?;
        let (year, rest) = match tag {
            UTC_TIME => {
                let (year, rest) = text.split_at_checked(2)?;
                let year = number(year)?;
                (if year < 50 { 2000 + year } else { 1900 + year }, rest)
            }
            GENERALIZED_TIME => {
                let (year, rest) = text.split_at_checked(4)?;
                (number(year)?, rest)
            }
            _ => return None,
        };
        let [month, day, hour, minute, second] = rest.strip_suffix(b"Z")?.as_chunks::<2>().0 else {
            return None;
        };
        let day = NaiveDate::from_ymd_opt(i32::try_from(year).ok()?, number(month)?, number(day)?)?;
        let time = day.and_hms_opt(number(hour)?, number(minute)?, number(second)?)?;
        Some(Timestamp::from_secs(u64::try_from(time.and_utc().timestamp()).unwrap_or_default()))
    }
}

fn number(digits: &[u8]) -> Option<u32> {
    digits
        .iter()
        .try_fold(0, |number, digit| digit.is_ascii_digit().then(|| number * 10 + u32::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, SanType, date_time_ymd};

    use super::*;

    fn der(from: (i32, u8, u8), until: (i32, u8, u8)) -> Vec<u8> {
        let mut params = CertificateParams::new(["a.example".to_owned()]).unwrap();
        params.not_before = date_time_ymd(from.0, from.1, from.2);
        params.not_after = date_time_ymd(until.0, until.1, until.2);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn the_validity_period_is_read_in_both_forms_of_time() {
        for (from, until, expected) in [
            ((2026, 11, 27), (2049, 12, 31), (1_795_737_600, 2_524_521_600)),
            ((1970, 1, 1), (2050, 1, 1), (0, 2_524_608_000)),
            ((1960, 1, 1), (4096, 1, 1), (0, 67_090_118_400)),
        ] {
            let found = validity(&der(from, until)).unwrap();
            assert_eq!((found.not_before.as_secs(), found.not_after.as_secs()), expected, "{from:?}");
        }
    }

    #[test]
    fn names_are_those_of_the_extension() {
        let mut params = CertificateParams::new(["a.example".to_owned(), "*.b".to_owned()]).unwrap();
        params.subject_alt_names.push(SanType::URI("spiffe://a/b".try_into().unwrap()));
        params.subject_alt_names.push(SanType::IpAddress([192, 0, 2, 1].into()));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let expected = Names { dns: vec!["a.example", "*.b"], uris: vec!["spiffe://a/b"] };
        assert_eq!(names(certificate.der()), Some(expected));

        let nameless = CertificateParams::default().self_signed(&KeyPair::generate().unwrap()).unwrap();
        assert_eq!(names(nameless.der()), Some(Names::default()));
    }

    proptest! {
        #[test]
        fn malformed_certificates_have_neither(at in 0..400_usize, byte in any::<u8>(), cut in 0..300_usize) {
            let mut certificate = der((2026, 11, 27), (2049, 12, 31));
            if let Some(found) = certificate.get_mut(at) {
                *found = byte;
            }
            validity(&certificate);
            names(&certificate);
            certificate.truncate(cut);
            prop_assert_eq!((validity(&certificate), names(&certificate)), (None, None));
        }
    }
}
