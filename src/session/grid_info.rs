//! `get_grid_info`: how a viewer learns a grid's login address, and the same naming ours.
//!
//! A viewer that is given `host:port` logs in where `login` points, so that one key must lead
//! to us; `gridname` is marked for the reader of the viewer's grid list; all others stay.
//! Source: OpenSimulator, OpenSim/Server/Handlers/Grid/GridInfoServerInConnector.cs; Firestorm,
//! newview/fsgridhandler.cpp.

use serde_json::{Map, Value};

use crate::grid::GridId;
use crate::xml::{Pull, Splices, TextPlace, Token, XmlError, content_place, empty_place, escape};
use crate::xmlrpc::MethodResponse;

/// What is appended to a grid's name.
const MARK: &str = " (rezcache)";

/// The keys that concern us, as the grid wrote them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GridInfo {
    /// The grid's own login URI.
    pub login: Option<String>,
    /// The name for people.
    pub gridname: Option<String>,
    /// The short name.
    pub gridnick: Option<String>,
    /// `OpenSim` on OpenSimulator grids.
    pub platform: Option<String>,
    /// The grid owner's word on sharing its assets: `share`, `local` or `off`.
    pub rezcache: Option<String>,
}

impl GridInfo {
    /// Takes a key's text if it concerns us; of two with one name the last counts.
    fn take(&mut self, key: &str, text: &str) {
        let field = match key {
            "login" => &mut self.login,
            "gridname" => &mut self.gridname,
            "gridnick" => &mut self.gridnick,
            "platform" => &mut self.platform,
            "rezcache" => &mut self.rezcache,
            _ => return,
        };
        let text = text.trim();
        *field = (!text.is_empty()).then(|| text.to_owned());
    }
}

/// A grid info that names our login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GridInfoRewritten {
    /// The changed document.
    pub body: Vec<u8>,
    /// What the original says.
    pub upstream: GridInfo,
}

/// Reads the XML form.
///
/// # Errors
/// When it is not well-formed or its root is not `gridinfo`.
pub fn read_xml(body: &[u8]) -> Result<GridInfo, XmlError> {
    Ok(Document::read(body)?.info(body))
}

/// Puts our login into the XML form, adding the key if it is missing, and marks the name.
///
/// # Errors
/// As [`read_xml`].
pub fn rewrite_xml(body: &[u8], login: &str) -> Result<GridInfoRewritten, XmlError> {
    let document = Document::read(body)?;
    let mut splices = Splices::default();
    let mut has_login = false;
    for (key, place) in &document.keys {
        match *key {
            b"login" => {
                has_login = true;
                splices.text(place, login);
            }
            b"gridname" => mark(body, place, &mut splices),
            _ => {}
        }
    }
    if !has_login {
        let login = escape(login);
        let end = document.root.span();
        if document.root.is_self_closed() {
            splices.raw(end, &format!("><login>{login}</login></gridinfo>"));
        } else {
            splices.raw(end.end..end.end, &format!("<login>{login}</login>"));
        }
    }
    Ok(GridInfoRewritten { body: splices.apply(body), upstream: document.info(body) })
}

/// Appends the mark behind a name's last character, so that the name's own spelling stays.
fn mark(body: &[u8], place: &TextPlace, splices: &mut Splices) {
    let Some(name) = place.text(body).filter(|name| !name.trim_end().ends_with(MARK)) else { return };
    if name.trim().is_empty() {
        splices.text(place, MARK.trim_start());
    } else {
        let end = place.span().start + place.raw(body).trim_ascii_end().len();
        splices.raw(end..end, MARK);
    }
}

/// The XML form: one child element per key.
struct Document<'a> {
    keys: Vec<(&'a [u8], TextPlace)>,
    root: TextPlace,
}

impl<'a> Document<'a> {
    /// More keys than this are nobody's grid info.
    const MAX_KEYS: usize = 10_000;

    fn read(body: &'a [u8]) -> Result<Self, XmlError> {
        let mut pull = Pull::new(body)?;
        let mut keys = Vec::new();
        let open = match pull.next()? {
            Token::Open { name: b"gridinfo", span } => span,
            Token::Empty { name: b"gridinfo", span } => {
                return Ok(Self { keys, root: empty_place(b"gridinfo", &span) });
            }
            _ => return Err(XmlError::WrongDocument),
        };
        loop {
            match pull.next()? {
                Token::Open { name, span } => keys.extend(pull.text(&span)?.map(|place| (name, place))),
                Token::Empty { name, span } => keys.push((name, empty_place(name, &span))),
                Token::Close { span } => return Ok(Self { keys, root: content_place(&open, &span) }),
                Token::End => return Err(XmlError::Truncated),
            }
            if keys.len() > Self::MAX_KEYS {
                return Err(XmlError::TooManyNodes);
            }
        }
    }

    fn info(&self, body: &[u8]) -> GridInfo {
        let mut info = GridInfo::default();
        for (key, place) in &self.keys {
            if let (Ok(key), Some(text)) = (std::str::from_utf8(key), place.text(body)) {
                info.take(key, &text);
            }
        }
        info
    }
}

/// Puts our login into the JSON form (`/json_grid_info`), likewise. `None` when it is no object.
#[must_use]
pub fn rewrite_json(body: &[u8], login: &str) -> Option<GridInfoRewritten> {
    let mut object: Map<String, Value> = serde_json::from_slice(body).ok()?;
    let mut upstream = GridInfo::default();
    for (key, value) in &object {
        if let Value::String(text) = value {
            upstream.take(key, text);
        }
    }
    object.insert("login".to_owned(), Value::from(login));
    if let Some(Value::String(name)) = object.get_mut("gridname")
        && !name.trim_end().ends_with(MARK)
    {
        name.push_str(MARK);
    }
    Some(GridInfoRewritten { body: serde_json::to_vec(&object).ok()?, upstream })
}

/// Puts our login into the reply of the XML-RPC method `get_grid_info`, likewise. `None` when that
/// reply has no `login`.
#[must_use]
pub fn rewrite_xmlrpc(body: &[u8], login: &str) -> Option<GridInfoRewritten> {
    const KEYS: [&str; 5] = ["login", "gridname", "gridnick", "platform", "rezcache"];
    let response = MethodResponse::read(body, &KEYS).ok()?;
    let mut upstream = GridInfo::default();
    for key in KEYS {
        if let Some(text) = response.text_of(key) {
            upstream.take(key, &text);
        }
    }
    let mut splices = Splices::default();
    splices.text(response.member_named("login")?.place()?, login);
    if let Some(place) = response.member_named("gridname").and_then(|member| member.place()) {
        mark(body, place, &mut splices);
    }
    Some(GridInfoRewritten { body: splices.apply(body), upstream })
}

/// The keys for a Second Life grid, which has no such document. The nick is not the grid's own:
/// viewers know that one and would not let it be redefined.
fn second_life(grid: &GridId, login: &str) -> [(&'static str, String); 5] {
    let name = match grid.as_str() {
        "agni" => "Second Life",
        "aditi" => "Second Life Beta",
        other => other,
    };
    [
        ("platform", "SecondLife".to_owned()),
        ("login", login.to_owned()),
        ("gridname", format!("{name}{MARK}")),
        ("gridnick", format!("rezcache-{}", grid.as_str())),
        ("helperuri", "https://secondlife.com/helpers/".to_owned()),
    ]
}

/// The XML form for a Second Life grid, served as `application/xml`.
#[must_use]
pub fn second_life_xml(grid: &GridId, login: &str) -> String {
    let keys = second_life(grid, login).map(|(key, text)| format!("<{key}>{}</{key}>", escape(&text)));
    format!("<?xml version=\"1.0\"?><gridinfo>{}</gridinfo>", keys.concat())
}

/// The JSON form for a Second Life grid.
#[must_use]
pub fn second_life_json(grid: &GridId, login: &str) -> String {
    let keys = second_life(grid, login).map(|(key, text)| (key.to_owned(), Value::from(text)));
    Value::Object(keys.into_iter().collect()).to_string()
}

#[cfg(test)]
mod tests;
