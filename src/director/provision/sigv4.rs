//! How requests to AWS are signed. Pure: the time is handed in.
//!
//! Source: AWS, "Signature Version 4 signing process", with its test suite of 2015-08-30.

use std::fmt::Write as _;

use ring::{digest, hmac};

/// Who signs.
#[derive(Clone)]
pub(super) struct Keys {
    pub(super) access: String,
    pub(super) secret: String,
    /// For keys that were lent.
    pub(super) session: Option<String>,
}

/// What is signed: a POST of a form.
pub(super) struct Form<'a> {
    pub(super) host: &'a str,
    pub(super) region: &'a str,
    pub(super) service: &'a str,
    pub(super) body: &'a str,
    /// `20150830T123600Z`.
    pub(super) at: &'a str,
}

/// The headers of a signed form: names in lower case, and values. `host` is not among them.
pub(super) fn headers(keys: &Keys, form: &Form<'_>) -> Vec<(&'static str, String)> {
    let content_type = "application/x-www-form-urlencoded";
    let mut signed = vec![("content-type", content_type.to_owned()), ("host", form.host.to_owned())];
    signed.push(("x-amz-date", form.at.to_owned()));
    if let Some(session) = &keys.session {
        signed.push(("x-amz-security-token", session.clone()));
    }
    let authorization = authorization(keys, form, "POST", &signed, form.body);
    let mut headers: Vec<_> = signed.into_iter().filter(|(name, _)| *name != "host").collect();
    headers.push(("authorization", authorization));
    headers
}

/// The value of `Authorization` for headers that are sorted by name.
fn authorization(
    keys: &Keys,
    form: &Form<'_>,
    method: &str,
    headers: &[(&'static str, String)],
    body: &str,
) -> String {
    let names: Vec<_> = headers.iter().map(|(name, _)| *name).collect();
    let names = names.join(";");
    let mut request = format!("{method}\n/\n\n");
    for (name, value) in headers {
        let _ = writeln!(request, "{name}:{}", value.trim());
    }
    let _ = write!(request, "\n{names}\n{}", hash(body.as_bytes()));
    let date = form.at.get(..8).unwrap_or_default();
    let scope = format!("{date}/{}/{}/aws4_request", form.region, form.service);
    let text = format!("AWS4-HMAC-SHA256\n{}\n{scope}\n{}", form.at, hash(request.as_bytes()));
    let mut key = format!("AWS4{}", keys.secret).into_bytes();
    for part in [date, form.region, form.service, "aws4_request"] {
        key = mac(&key, part.as_bytes());
    }
    let signature = hex(&mac(&key, text.as_bytes()));
    format!(
        "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}",
        keys.access
    )
}

fn mac(key: &[u8], text: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text).as_ref().to_vec()
}

fn hash(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Seconds since 1970 as AWS writes a time.
pub(super) fn stamp(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    format!("{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

/// The date of a day since 1970. Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

/// A value in a form.
pub(super) fn escaped(text: &str) -> String {
    text.bytes().fold(String::new(), |mut escaped, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                escaped.push(char::from(byte))
            }
            other => {
                let _ = write!(escaped, "%{other:02X}");
            }
        }
        escaped
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn keys() -> Keys {
        Keys {
            access: "AKIDEXAMPLE".into(),
            secret: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".into(),
            session: None,
        }
    }

    /// `get-vanilla`, `post-vanilla` and `post-x-www-form-urlencoded` of the published suite.
    #[test]
    fn the_published_vectors_are_met() {
        let form = Form {
            host: "example.amazonaws.com",
            region: "us-east-1",
            service: "service",
            body: "Param1=value1",
            at: "20150830T123600Z",
        };
        let plain = [("host", form.host.to_owned()), ("x-amz-date", form.at.to_owned())];
        let signature = |text: &str| text.rsplit('=').next().unwrap_or_default().to_owned();
        assert_eq!(
            signature(&authorization(&keys(), &form, "GET", &plain, "")),
            "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"
        );
        assert_eq!(
            signature(&authorization(&keys(), &form, "POST", &plain, "")),
            "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"
        );
        let headers = headers(&keys(), &form);
        let (_, value) = headers.last().expect("signed");
        assert_eq!(
            value,
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
             SignedHeaders=content-type;host;x-amz-date, \
             Signature=ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a"
        );
    }

    #[test]
    fn times_are_written_as_calendars_have_them() {
        for (seconds, text) in [
            (0, "19700101T000000Z"),
            (1_440_938_160, "20150830T123600Z"),
            (951_782_399, "20000228T235959Z"),
            (951_782_400, "20000229T000000Z"),
            (4_107_542_400, "21000301T000000Z"),
        ] {
            assert_eq!(stamp(seconds), text);
        }
    }

    #[test]
    fn values_are_escaped() {
        assert_eq!(escaped("a b/ü~"), "a%20b%2F%C3%BC~");
    }
}
