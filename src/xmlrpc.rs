//! XML-RPC, as far as a login needs it: the members of a reply's outermost struct, and the name of
//! a called method. Nothing is built of what is not asked for: a reply can be tens of megabytes of
//! inventory.

use std::borrow::Cow;

use crate::xml::{Pull, TextPlace, Token, XmlError, content_place, empty_place};

/// How a member's value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueKind {
    /// `<value>text</value>` or `<value/>`: a string by definition.
    Bare,
    /// `<string>`.
    String,
    /// `<int>`, `<i4>` or `<i8>`.
    Integer,
    /// `<boolean>`, written 0 or 1.
    Boolean,
    /// Any other element that holds text.
    Other,
    /// `<struct>` or `<array>`: without a text of its own.
    Nested,
}

/// One member of the outermost struct.
#[derive(Clone)]
pub struct Member<'a> {
    body: &'a [u8],
    name: Cow<'a, str>,
    kind: ValueKind,
    place: TextPlace,
}

impl<'a> Member<'a> {
    /// How the value is written.
    #[must_use]
    pub fn kind(&self) -> ValueKind {
        self.kind
    }

    /// The value's text, decoded. `None` for structs, arrays, and what is not UTF-8.
    #[must_use]
    pub fn text(&self) -> Option<Cow<'a, str>> {
        if self.kind == ValueKind::Nested { None } else { self.place.text(self.body) }
    }

    /// Where the value's text stands. `None` for structs and arrays.
    #[must_use]
    pub fn place(&self) -> Option<&TextPlace> {
        (self.kind != ValueKind::Nested).then_some(&self.place)
    }
}

/// A reply, read for some members of its outermost struct.
pub struct MethodResponse<'a> {
    members: Vec<Member<'a>>,
    is_fault: bool,
}

/// The way to a member: `methodResponse/params/param/value/struct/member`.
const MEMBER_PATH: [&[u8]; 6] = [b"methodResponse", b"params", b"param", b"value", b"struct", b"member"];

impl<'a> MethodResponse<'a> {
    /// Finds the wanted members, whatever their order. Members of the same name deeper inside are
    /// not theirs; of two with one name the last counts, as for a viewer filling a map.
    ///
    /// Linear in the body's length; memory does not grow with it.
    ///
    /// # Errors
    /// When the body is not well-formed, nests too deep, or is no `methodResponse`.
    pub fn read(body: &'a [u8], wanted: &[&str]) -> Result<Self, XmlError> {
        let mut pull = Pull::new(body)?;
        let mut response = Self { members: Vec::new(), is_fault: false };
        let mut matched = 0;
        let mut rooted = false;
        loop {
            match pull.next()? {
                Token::Open { name, .. } => {
                    let level = pull.depth() - 1;
                    rooted |= level == 0;
                    if level == 0 && Some(name) != MEMBER_PATH.first().copied() {
                        return Err(XmlError::WrongDocument);
                    }
                    if level == matched && MEMBER_PATH.get(level) == Some(&name) {
                        matched += 1;
                        if matched == MEMBER_PATH.len() {
                            response.member(&mut pull, body, wanted)?;
                            matched -= 1;
                        }
                    } else {
                        response.is_fault |= level == 1 && name == b"fault";
                        pull.skip()?;
                    }
                }
                Token::Close { .. } => matched = matched.min(pull.depth()),
                Token::Empty { .. } => {}
                Token::End if !rooted => return Err(XmlError::WrongDocument),
                Token::End => return Ok(response),
            }
        }
    }

    /// A member that was asked for and found.
    #[must_use]
    pub fn member_named(&self, name: &str) -> Option<&Member<'a>> {
        self.members.iter().find(|member| member.name == name)
    }

    /// The text of a member that was asked for and found.
    #[must_use]
    pub fn text_of(&self, name: &str) -> Option<Cow<'a, str>> {
        self.member_named(name)?.text()
    }

    /// Whether the reply is a `fault` and so has no members.
    #[must_use]
    pub fn is_fault(&self) -> bool {
        self.is_fault
    }

    /// From the `Open` of a `member` to its `Close`.
    fn member(&mut self, pull: &mut Pull<'a>, body: &'a [u8], wanted: &[&str]) -> Result<(), XmlError> {
        let mut name = None;
        let mut value = None;
        loop {
            match pull.next()? {
                Token::Open { name: b"name", span } => {
                    name = pull.text(&span)?.and_then(|place| place.text(body));
                }
                Token::Open { name: b"value", span } => value = Some(read_value(pull, &span)?),
                Token::Empty { name: b"value", span } => {
                    value = Some((ValueKind::Bare, empty_place(b"value", &span)));
                }
                Token::Open { .. } => {
                    pull.skip()?;
                }
                Token::Empty { .. } => {}
                Token::Close { .. } => break,
                Token::End => return Err(XmlError::Truncated),
            }
        }
        let (Some(name), Some((kind, place))) = (name, value) else { return Ok(()) };
        if wanted.contains(&name.as_ref()) {
            self.members.retain(|member| member.name != name);
            self.members.push(Member { body, name, kind, place });
        }
        Ok(())
    }
}

/// From the `Open` of a `value` to its `Close`.
fn read_value(
    pull: &mut Pull<'_>,
    open: &std::ops::Range<usize>,
) -> Result<(ValueKind, TextPlace), XmlError> {
    let mut value = None;
    loop {
        match pull.next()? {
            Token::Open { name, span } => {
                let place = pull.text(&span)?;
                value = Some(match place {
                    Some(place) => (kind_of(name), place),
                    None => (ValueKind::Nested, content_place(&span, &span)),
                });
            }
            Token::Empty { name, span } => value = Some((kind_of(name), empty_place(name, &span))),
            Token::Close { span } => {
                return Ok(value.unwrap_or_else(|| (ValueKind::Bare, content_place(open, &span))));
            }
            Token::End => return Err(XmlError::Truncated),
        }
    }
}

fn kind_of(element: &[u8]) -> ValueKind {
    match element {
        b"string" => ValueKind::String,
        b"int" | b"i4" | b"i8" => ValueKind::Integer,
        b"boolean" => ValueKind::Boolean,
        b"struct" | b"array" => ValueKind::Nested,
        _ => ValueKind::Other,
    }
}

/// A call, read no further than its method's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MethodCall {
    /// The method's name, trimmed.
    pub method: String,
}

impl MethodCall {
    /// A method name longer than this is nobody's.
    const MAX_METHOD_BYTES: usize = 256;

    /// Reads the start of a call. `None` when the body is not one.
    #[must_use]
    pub fn read(body: &[u8]) -> Option<Self> {
        let mut pull = Pull::new(body).ok()?;
        let Token::Open { name: b"methodCall", .. } = pull.next().ok()? else { return None };
        loop {
            match pull.next().ok()? {
                Token::Open { name: b"methodName", span } => {
                    let place = pull.text(&span).ok()??;
                    let method = place.text(body)?.trim().to_owned();
                    let usable = !method.is_empty() && method.len() <= Self::MAX_METHOD_BYTES;
                    return usable.then_some(Self { method });
                }
                Token::Open { .. } => {
                    pull.skip().ok()?;
                }
                Token::Empty { .. } => {}
                Token::Close { .. } | Token::End => return None,
            }
        }
    }

    /// Whether this is the call by which every viewer logs in.
    /// Source: viewer, newview/llxmlrpctransaction.cpp.
    #[must_use]
    pub fn is_login_to_simulator(&self) -> bool {
        self.method == "login_to_simulator"
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    const NESTED_FIRST: &[u8] = br#"<?xml version="1.0"?>
<!-- the skeleton has its own names -->
<methodResponse><params><param><value><struct>
 <member><name>inventory-skeleton</name><value><array><data><value><struct>
   <member><name>sim_ip</name><value><string>6.6.6.6</string></value></member>
 </struct></value></data></array></value></member>
 <member><value><i4>9000</i4></value><name>sim_port</name></member>
 <member><name>sim_ip</name><value> <string>203.0.113.5</string> </value></member>
 <member><name>seed_capability</name><value>http://a/?b&amp;c</value></member>
 <member><name>empty</name><value/></member>
 <member><name>empty_string</name><value><string /></value></member>
</struct></value></param></params></methodResponse>"#;

    #[test]
    fn members_are_found_at_the_right_depth_in_any_order() {
        let wanted = ["sim_ip", "sim_port", "seed_capability", "empty", "empty_string", "absent"];
        let reply = MethodResponse::read(NESTED_FIRST, &wanted).unwrap();
        let shape = |name| reply.member_named(name).map(|m| (m.kind(), m.text().unwrap().into_owned()));
        assert_eq!(shape("sim_ip"), Some((ValueKind::String, "203.0.113.5".into())));
        assert_eq!(shape("sim_port"), Some((ValueKind::Integer, "9000".into())));
        assert_eq!(shape("seed_capability"), Some((ValueKind::Bare, "http://a/?b&c".into())));
        assert_eq!(shape("empty"), Some((ValueKind::Bare, String::new())));
        assert_eq!(shape("empty_string"), Some((ValueKind::String, String::new())));
        assert_eq!(shape("absent"), None);
    }

    #[test]
    fn a_struct_has_no_text_and_of_two_members_the_last_counts() {
        let body = b"<methodResponse><params><param><value><struct>\
            <member><name>a</name><value>1</value></member>\
            <member><name>a</name><value>2</value></member>\
            <member><name>b</name><value><struct></struct></value></member>\
            </struct></value></param></params></methodResponse>";
        let reply = MethodResponse::read(body, &["a", "b"]).unwrap();
        assert_eq!(reply.text_of("a").unwrap(), "2");
        assert_eq!(reply.member_named("b").unwrap().kind(), ValueKind::Nested);
        assert_eq!(reply.text_of("b"), None);
    }

    #[test]
    fn faults_and_other_documents_are_told_apart() {
        let fault = b"<methodResponse><fault><value/></fault></methodResponse>";
        assert!(MethodResponse::read(fault, &["login"]).unwrap().is_fault());
        assert_eq!(MethodResponse::read(b"<html></html>", &[]).err(), Some(XmlError::WrongDocument));
        assert_eq!(MethodResponse::read(b"", &[]).err(), Some(XmlError::WrongDocument));
        assert!(MethodResponse::read(b"Service Unavailable", &["login"]).is_err());
    }

    #[test]
    fn a_call_is_known_by_its_method() {
        let call = |body: &str| MethodCall::read(body.as_bytes());
        let login = "<?xml version=\"1.0\"?><methodCall><methodName>login_to_simulator</methodName><params>";
        assert!(call(login).unwrap().is_login_to_simulator());
        let other = call("<methodCall> <methodName> get_grid_info </methodName></methodCall>").unwrap();
        assert_eq!(other.method, "get_grid_info");
        assert!(!other.is_login_to_simulator());
        assert_eq!(call("<methodCall></methodCall>"), None);
        assert_eq!(call("<llsd><map/></llsd>"), None);
    }
}
