//! The join line: all that a proxy needs to use the shared cache of a home or a classroom, in one line
//! that people copy and paste.
//!
//! ```text
//!  rezcache://192.168.1.5:8443/#pin=sha256:<64 hexadecimal digits>&token=<token>
//! ```
//! The host is an address of a private network: certificates of such servers are checked by their pin,
//! never by a name. Everything behind the `#` but the two named parts is left for later versions.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use super::{MAX_TOKEN_BYTES, unverified_subject};
use crate::redact::Redacted;

/// What a join line begins with.
pub const SCHEME: &str = "rezcache://";
/// Longer than any join line.
pub const MAX_JOIN_LINE_BYTES: usize = MAX_TOKEN_BYTES + 512;

/// A join line, read. Its text is a secret: [`JoinLine::reveal`] is the only way to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinLine {
    /// Where the server was when the line was made.
    pub address: SocketAddr,
    /// The public key by which it is recognised, wherever it is.
    pub pin: Pin,
    /// What lets a proxy in.
    pub token: Redacted<String>,
}

/// `sha256:` and the hash of a public key in 64 lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pin(String);

/// Why a text is no join line. Never repeats it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinLineError {
    /// Something else.
    #[error("this is no join line; it begins with rezcache:// and is printed by `rezcache serve --lan`")]
    Form,
    /// Not all of it was copied, or more than that.
    #[error("the join line is not whole; copy all of it, from rezcache:// to its end")]
    Broken,
    /// Not an address at home.
    #[error("the join line leads out of your own network; join lines are for servers at home only")]
    Public,
}

impl Pin {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first eight digits, for people.
    #[must_use]
    pub fn short(&self) -> &str {
        self.0.get(7..15).unwrap_or_default()
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Pin {
    type Err = JoinLineError;

    fn from_str(text: &str) -> Result<Self, JoinLineError> {
        let digits = text.strip_prefix("sha256:").ok_or(JoinLineError::Broken)?;
        if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(JoinLineError::Broken);
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

impl JoinLine {
    /// The line itself, for whoever is to join.
    #[must_use]
    pub fn reveal(&self) -> String {
        format!("{SCHEME}{}/#pin={}&token={}", self.address, self.pin, self.token.reveal())
    }
}

impl FromStr for JoinLine {
    type Err = JoinLineError;

    /// Reads a line as people paste it: broken by a mail program, in quotes, with blanks around.
    fn from_str(text: &str) -> Result<Self, JoinLineError> {
        if text.len() > 2 * MAX_JOIN_LINE_BYTES {
            return Err(JoinLineError::Form);
        }
        let line: String = text
            .chars()
            .filter(|c| !c.is_whitespace() && !matches!(c, '"' | '\'' | '<' | '>' | '`'))
            .collect();
        if line.len() > MAX_JOIN_LINE_BYTES || !line.is_ascii() {
            return Err(JoinLineError::Form);
        }
        let (scheme, rest) = line.split_at_checked(SCHEME.len()).ok_or(JoinLineError::Form)?;
        if !scheme.eq_ignore_ascii_case(SCHEME) {
            return Err(JoinLineError::Form);
        }
        let (authority, fragment) = rest.split_once('#').ok_or(JoinLineError::Broken)?;
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        let address: SocketAddr = authority.parse().map_err(|_| JoinLineError::Broken)?;
        if address.port() == 0 {
            return Err(JoinLineError::Broken);
        }
        if !is_home(address.ip()) {
            return Err(JoinLineError::Public);
        }
        let (mut pin, mut token) = (None, None);
        for part in fragment.split('&') {
            let (name, value) = part.split_once('=').ok_or(JoinLineError::Broken)?;
            let twice = match name {
                "pin" => pin.replace(value.parse::<Pin>()?).is_some(),
                "token" => token.replace(value).is_some(),
                _ => false,
            };
            if twice {
                return Err(JoinLineError::Broken);
            }
        }
        let (Some(pin), Some(token)) = (pin, token) else { return Err(JoinLineError::Broken) };
        if token.len() > MAX_TOKEN_BYTES || !is_token(token) {
            return Err(JoinLineError::Broken);
        }
        Ok(Self { address, pin, token: Redacted::new(token.to_owned()) })
    }
}

/// Whether a text has the form of a token: three parts in base64url, of which the second names a subject.
fn is_token(text: &str) -> bool {
    let letters = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    letters && text.split('.').count() == 3 && unverified_subject(text).is_some()
}

/// Whether an address can be that of a server at home: of a private network, or of this very machine.
/// IPv6 addresses that hold on one link only need the name of an interface, which no line can know.
#[must_use]
pub fn is_home(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_private() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.to_ipv4_mapped().is_none() && (v6.is_loopback() || v6.is_unique_local()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;
    use crate::token::{Budgets, Claims, Rights, SigningKey, sign};

    fn token() -> String {
        let key = SigningKey::from_seed(&[7; 32]).unwrap();
        let claims = Claims {
            id: "id".into(),
            subject: "join".into(),
            tenant: "household".into(),
            audience: "rezcache".into(),
            grids: None,
            rights: Rights { read: true, write: true, ..Rights::default() },
            issued_at: 1,
            expires: 2,
            budgets: Budgets::default(),
        };
        sign(&key, &claims)
    }

    fn home() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            any::<[u8; 3]>().prop_map(|[a, b, c]| IpAddr::from([10, a, b, c])),
            any::<[u8; 2]>().prop_map(|[a, b]| IpAddr::from([192, 168, a, b])),
            any::<[u16; 7]>().prop_map(|[a, b, c, d, e, f, g]| IpAddr::from([0xfd00, a, b, c, d, e, f, g])),
        ]
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_again(ip in home(), port in 1u16.., hash in any::<[u8; 32]>(), wrap in 1usize..100) {
            let digits: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
            let pin = format!("sha256:{digits}").parse().unwrap();
            let line = JoinLine { address: (ip, port).into(), pin, token: Redacted::new(token()) };
            let text = line.reveal();
            prop_assert!(text.parse::<JoinLine>().is_ok_and(|read| read == line));
            let wrapped: Vec<String> =
                text.as_bytes().chunks(wrap).map(|piece| String::from_utf8_lossy(piece).into_owned()).collect();
            let pasted = format!(" '{}'\n", wrapped.join("\r\n "));
            prop_assert!(pasted.parse::<JoinLine>().is_ok_and(|read| read == line), "{}", pasted);
            let shown = format!("{line:?}");
            prop_assert!(!shown.contains(line.token.reveal().as_str()));
        }

        #[test]
        fn whatever_is_pasted_is_no_panic(text in ".{0,300}", cut in 0usize..400) {
            let _ = text.parse::<JoinLine>();
            let _ = format!("rezcache://{text}").parse::<JoinLine>();
            let pin = "ab".repeat(32);
            let whole = format!("rezcache://10.0.0.1:1/#pin=sha256:{pin}&token={}", token());
            let part = whole.get(..cut.min(whole.len() - 1)).unwrap();
            prop_assert!(part.parse::<JoinLine>().is_err() || part.len() + 86 >= whole.len(), "{}", part);
        }
    }

    #[test]
    fn hostile_lines_are_refused_and_never_repeated() {
        let (pin, token) = (format!("sha256:{}", "ab".repeat(32)), token());
        let good = format!("rezcache://192.168.1.5:8443/#pin={pin}&token={token}");
        assert!(good.parse::<JoinLine>().is_ok());
        assert!(format!("{good}&later=1").parse::<JoinLine>().is_ok());
        assert!(good.replace("rezcache", "RezCache").parse::<JoinLine>().is_ok());
        let long = format!("{good}&x={}", "y".repeat(9000));
        for (wrong, why) in [
            (String::new(), JoinLineError::Form),
            (good.replace("rezcache", "https"), JoinLineError::Form),
            (good.replace("192.168.1.5", "203.0.113.5"), JoinLineError::Public),
            (good.replace("192.168.1.5", "[2001:db8::1]"), JoinLineError::Public),
            (good.replace("192.168.1.5", "[::ffff:192.168.1.5]"), JoinLineError::Public),
            (good.replace("192.168.1.5", "[fe80::1]"), JoinLineError::Public),
            (good.replace("192.168.1.5", "0.0.0.0"), JoinLineError::Public),
            (good.replace("192.168.1.5", "224.0.0.251"), JoinLineError::Public),
            (good.replace("192.168.1.5", "box.local"), JoinLineError::Broken),
            (good.replace("192.168.1.5", "user:pass@192.168.1.5"), JoinLineError::Broken),
            (good.replace(":8443", ""), JoinLineError::Broken),
            (good.replace(":8443", ":0"), JoinLineError::Broken),
            (good.replace(":8443", ":99999"), JoinLineError::Broken),
            (good.replace('#', "?"), JoinLineError::Broken),
            (good.replace("/#", "/path#"), JoinLineError::Broken),
            (good.replace("sha256:ab", "sha256:a"), JoinLineError::Broken),
            (good.replace("sha256:ab", "sha256:zz"), JoinLineError::Broken),
            (format!("{good}&pin={pin}"), JoinLineError::Broken),
            (format!("{good}&token={token}"), JoinLineError::Broken),
            (good.replace(&token, "hunter2"), JoinLineError::Broken),
            (good.replace(&token, ""), JoinLineError::Broken),
            (good.replace("&token", "&notoken"), JoinLineError::Broken),
            (good.replace('.', "．"), JoinLineError::Form),
            (long, JoinLineError::Form),
            ("rezcache://".repeat(100_000), JoinLineError::Form),
        ] {
            let refused = wrong.parse::<JoinLine>().unwrap_err();
            assert_eq!(refused, why, "{wrong}");
            assert!(!refused.to_string().contains(&token));
        }
    }
}
