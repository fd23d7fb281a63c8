//! The few fields of a certificate that rustls does not show.
//!
//! ```text
//! Certificate  SEQUENCE { SEQUENCE { [0] version, serial, algorithm, issuer, validity, subject,
//!                                    key, [1], [2], [3] { SEQUENCE OF extension } } … }
//! subject      SEQUENCE OF SET OF SEQUENCE { OID, text }
//! extension    SEQUENCE { OID, [BOOLEAN], OCTET STRING }
//! ```
//! Source: RFC 5280, section 4.1.

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const INTEGER: u8 = 0x02;
const OID: u8 = 0x06;
const VERSION: u8 = 0xA0;
const EXTENSIONS: u8 = 0xA3;
/// UTF8String, PrintableString and IA5String: those of which ASCII is ASCII.
const TEXTS: [u8; 3] = [0x0C, 0x13, 0x16];
/// 2.5.4.3
const COMMON_NAME: [u8; 3] = [0x55, 4, 3];
/// 2.5.29.17
const SUBJECT_ALT_NAME: [u8; 3] = [0x55, 0x1D, 17];

/// The subject's common name, when there is exactly one and the certificate has no subjectAltName.
/// `None` also for whatever is not understood.
pub(super) fn lone_common_name(certificate: &[u8]) -> Option<&str> {
    let mut fields = Elements(Elements(Elements(certificate).expect(SEQUENCE)?).expect(SEQUENCE)?);
    if fields.0.first() == Some(&VERSION) {
        fields.expect(VERSION)?;
    }
    fields.expect(INTEGER)?;
    for _algorithm_issuer_validity in 0..3 {
        fields.expect(SEQUENCE)?;
    }
    let subject = fields.expect(SEQUENCE)?;
    let _key = fields.expect(SEQUENCE)?;
    while !fields.0.is_empty() {
        let (tag, content) = fields.next()?;
        if tag == EXTENSIONS && has_alternative_names(content)? {
            return None;
        }
    }
    common_name(subject)
}

fn has_alternative_names(extensions: &[u8]) -> Option<bool> {
    let mut extensions = Elements(Elements(extensions).expect(SEQUENCE)?);
    let mut found = false;
    while !extensions.0.is_empty() {
        found |= Elements(extensions.expect(SEQUENCE)?).expect(OID)? == SUBJECT_ALT_NAME;
    }
    Some(found)
}

fn common_name(subject: &[u8]) -> Option<&str> {
    let mut sets = Elements(subject);
    let mut found = None;
    while !sets.0.is_empty() {
        let mut attributes = Elements(sets.expect(SET)?);
        while !attributes.0.is_empty() {
            let mut attribute = Elements(attributes.expect(SEQUENCE)?);
            if attribute.expect(OID)? != COMMON_NAME {
                continue;
            }
            let (tag, text) = attribute.next()?;
            // Which of several would be meant is not ours to say.
            if found.is_some() || !TEXTS.contains(&tag) || !text.is_ascii() {
                return None;
            }
            found = Some(std::str::from_utf8(text).ok()?);
        }
    }
    found
}

/// DER elements one after the other.
struct Elements<'a>(&'a [u8]);

impl<'a> Elements<'a> {
    /// The next element's tag and content.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&[tag, first], rest) = self.0.split_first_chunk::<2>()?;
        // Tag numbers of more than one byte occur nowhere here.
        if tag & 0x1F == 0x1F {
            return None;
        }
        let (length, rest) = match first {
            0..=0x7F => (usize::from(first), rest),
            // Three bytes of length are more than any handshake carries.
            0x81..=0x83 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first - 0x80))?;
                (bytes.iter().fold(0, |length, &byte| length << 8 | usize::from(byte)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    /// The content of the next element, which must have this tag.
    fn expect(&mut self, wanted: u8) -> Option<&'a [u8]> {
        let (tag, content) = self.next()?;
        (tag == wanted).then_some(content)
    }
}
