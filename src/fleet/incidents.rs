//! Incidents: what people are told went wrong, with updates, and what becomes of the list of them when somebody opens,
//! updates or closes one. Pure: records in, records out; whoever calls keeps them in one transaction.
//!
//! Operators write them by hand; programs report a trouble under a key, which stays the same from its beginning to its
//! end; and the leading director reports what it finds itself. Texts are public: control characters are removed, and
//! what programs say loses what looks like an address.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::notices::Severity;

/// The most incidents kept; closed ones make room, the oldest first.
pub const MAX_INCIDENTS: usize = 256;
/// The most updates of one; the first ones and the last ones stay.
pub const MAX_UPDATES: usize = 64;
/// Characters of a title.
pub const MAX_TITLE: usize = 160;
/// Characters of an update.
pub const MAX_TEXT: usize = 2000;
/// Members named as affected.
pub const MAX_AFFECTED: usize = 32;
/// Characters of a name or a key.
pub const MAX_NAME: usize = 80;
/// Closed ones are forgotten after so long.
pub const KEPT: u64 = 90 * 86_400;
/// What comes again within this time after its end goes on in the same incident.
const REOPENS: u64 = 1800;

/// Who wrote something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Author {
    /// A person.
    Operator,
    /// A program that has the catalog.
    Program,
    /// The directors themselves, whose own notices operators have got.
    Director,
}

/// What was said at a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Update {
    /// When; seconds since 1970.
    pub at: u64,
    /// By whom.
    pub by: Author,
    /// In words.
    pub text: String,
}

/// How far operators were told of an incident.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Told {
    /// They were not.
    #[default]
    Nothing,
    /// That it has begun.
    Opened,
    /// That it is over.
    Closed,
}

/// One incident.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incident {
    /// What operators call it by: a number.
    pub id: u32,
    /// What it is about, for programs.
    #[serde(default)]
    pub key: Option<String>,
    /// In a few words.
    pub title: String,
    /// How bad it is.
    pub severity: Severity,
    /// The members it is about.
    #[serde(default)]
    pub affected: Vec<String>,
    /// When it began; seconds since 1970.
    pub opened: u64,
    /// When it ended.
    #[serde(default)]
    pub closed: Option<u64>,
    /// Who opened it.
    pub by: Author,
    /// What was said, the oldest first.
    #[serde(default)]
    pub updates: Vec<Update>,
    /// How far operators were told.
    #[serde(default)]
    pub told: Told,
}

/// Why an incident was not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IncidentRefused {
    /// There is none with this number.
    #[error("there is no incident {0}; `rezcache director incident list` shows those there are")]
    Unknown(u32),
    /// It is over.
    #[error("incident {0} is closed; open a new one")]
    Closed(u32),
    /// As many are open as are kept.
    #[error("{MAX_INCIDENTS} incidents are open; close some first")]
    Full,
    /// Nothing was said.
    #[error("a title or a text is empty")]
    Empty,
}

/// What an operator opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewIncident {
    /// In a few words.
    pub title: String,
    /// How bad it is.
    pub severity: Severity,
    /// The members it is about.
    pub affected: Vec<String>,
    /// The first update; may be empty.
    pub text: String,
}

/// What a program or a director reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What it is about; the same from its beginning to its end.
    pub key: String,
    /// How bad it is.
    pub severity: Severity,
    /// In words for the public.
    pub text: String,
    /// The members it is about.
    pub affected: Vec<String>,
    /// Who reports.
    pub by: Author,
}

/// All incidents there are, as one transaction sees them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Incidents {
    all: Vec<Incident>,
}

impl Incidents {
    /// These incidents.
    #[must_use]
    pub fn new(mut all: Vec<Incident>) -> Self {
        for incident in &mut all {
            incident.bound();
        }
        all.sort_by_key(|incident| (incident.opened, incident.id));
        Self { all }
    }

    /// All, the oldest first.
    #[must_use]
    pub fn all(&self) -> &[Incident] {
        &self.all
    }

    /// An operator opens one; what it has become.
    ///
    /// # Errors
    /// When there is no room, or no title.
    pub fn open(&mut self, at: u64, new: NewIncident) -> Result<Incident, IncidentRefused> {
        let title = one_line(&new.title, MAX_TITLE);
        if title.is_empty() {
            return Err(IncidentRefused::Empty);
        }
        let incident = Incident {
            id: self.next_id(),
            key: None,
            title,
            severity: new.severity,
            affected: names(new.affected),
            opened: at,
            closed: None,
            by: Author::Operator,
            updates: said(at, Author::Operator, &new.text),
            told: Told::Nothing,
        };
        self.add(at, incident)
    }

    /// An operator adds to one.
    ///
    /// # Errors
    /// When it is not there, over, or nothing is said.
    pub fn update(&mut self, at: u64, id: u32, text: &str) -> Result<Incident, IncidentRefused> {
        let incident = self.of_id(id)?;
        if incident.closed.is_some() {
            return Err(IncidentRefused::Closed(id));
        }
        let mut news = said(at, Author::Operator, text);
        if news.is_empty() {
            return Err(IncidentRefused::Empty);
        }
        incident.updates.append(&mut news);
        incident.bound();
        Ok(incident.clone())
    }

    /// An operator closes one; an empty text says no more than that.
    ///
    /// # Errors
    /// When it is not there, or over already.
    pub fn close(&mut self, at: u64, id: u32, text: &str) -> Result<Incident, IncidentRefused> {
        let incident = self.of_id(id)?;
        if incident.closed.is_some() {
            return Err(IncidentRefused::Closed(id));
        }
        incident.updates.append(&mut said(at, Author::Operator, text));
        incident.closed = Some(at.max(incident.opened));
        incident.bound();
        Ok(incident.clone())
    }

    /// A program reports a trouble. What is open under its key goes on: said again in the same words, nothing changes;
    /// in others, they become an update. What ended a moment ago opens again. Whether it is news that it is open.
    ///
    /// # Errors
    /// When there is no room, or nothing is said.
    pub fn report(&mut self, at: u64, report: Report) -> Result<(Incident, bool), IncidentRefused> {
        let (key, title) = (one_line(&report.key, MAX_NAME), one_line(&public(&report.text), MAX_TITLE));
        if key.is_empty() || title.is_empty() {
            return Err(IncidentRefused::Empty);
        }
        let text = public(&report.text);
        let known = self.all.iter_mut().rev().find(|incident| {
            incident.key.as_ref() == Some(&key)
                && incident.closed.is_none_or(|closed| at < closed.saturating_add(REOPENS))
        });
        if let Some(incident) = known {
            let opened_again = incident.closed.take().is_some();
            incident.severity = incident.severity.max(report.severity);
            let last = incident.updates.last().map(|update| update.text.as_str());
            if opened_again || last.unwrap_or(&incident.title) != several_lines(&text, MAX_TEXT) {
                incident.updates.append(&mut said(at, report.by, &text));
            }
            if opened_again {
                incident.told = if report.by == Author::Director { Told::Opened } else { Told::Nothing };
            }
            incident.bound();
            return Ok((incident.clone(), opened_again));
        }
        let longer = text.chars().count() > MAX_TITLE || text.contains('\n');
        let incident = Incident {
            id: self.next_id(),
            key: Some(key),
            title,
            severity: report.severity,
            affected: names(report.affected),
            opened: at,
            closed: None,
            by: report.by,
            updates: if longer { said(at, report.by, &text) } else { Vec::new() },
            told: if report.by == Author::Director { Told::Opened } else { Told::Nothing },
        };
        self.add(at, incident).map(|incident| (incident, true))
    }

    /// A program's trouble is over. What is not open stays as it is.
    pub fn resolve(&mut self, at: u64, key: &str, text: &str, by: Author) -> Option<Incident> {
        let key = one_line(key, MAX_NAME);
        let open =
            |incident: &&mut Incident| incident.key.as_ref() == Some(&key) && incident.closed.is_none();
        let incident = self.all.iter_mut().rev().find(open)?;
        incident.updates.append(&mut said(at, by, &public(text)));
        incident.closed = Some(at.max(incident.opened));
        if by == Author::Director {
            incident.told = Told::Closed;
        }
        incident.bound();
        Some(incident.clone())
    }

    /// What operators have not been told yet, of what others have opened and closed. It counts as told from now on. One
    /// that came and went untold is told of as over, so that nobody wonders about the page.
    pub fn to_tell(&mut self) -> Vec<Incident> {
        let mut news = Vec::new();
        for incident in &mut self.all {
            let state = if incident.closed.is_some() { Told::Closed } else { Told::Opened };
            if incident.told != state {
                incident.told = state;
                news.push(incident.clone());
            }
        }
        news
    }

    /// Whether [`Self::to_tell`] would find something.
    #[must_use]
    pub fn has_untold(&self) -> bool {
        self.all.iter().any(|incident| match incident.closed {
            Some(_) => incident.told != Told::Closed,
            None => incident.told != Told::Opened,
        })
    }

    fn of_id(&mut self, id: u32) -> Result<&mut Incident, IncidentRefused> {
        self.all.iter_mut().find(|incident| incident.id == id).ok_or(IncidentRefused::Unknown(id))
    }

    fn next_id(&self) -> u32 {
        self.all.iter().map(|incident| incident.id).max().unwrap_or(0).saturating_add(1)
    }

    fn add(&mut self, at: u64, incident: Incident) -> Result<Incident, IncidentRefused> {
        self.all.retain(|known| known.closed.is_none_or(|closed| closed.saturating_add(KEPT) > at));
        while self.all.len() >= MAX_INCIDENTS {
            let oldest = self.all.iter().position(|known| known.closed.is_some());
            self.all.remove(oldest.ok_or(IncidentRefused::Full)?);
        }
        self.all.push(incident.clone());
        Ok(incident)
    }
}

impl Incident {
    /// Whatever the record said, no more than may be kept and shown.
    fn bound(&mut self) {
        self.title = one_line(&self.title, MAX_TITLE);
        self.affected = names(std::mem::take(&mut self.affected));
        while self.updates.len() > MAX_UPDATES {
            self.updates.remove(MAX_UPDATES / 2);
        }
        for update in &mut self.updates {
            update.text = several_lines(&update.text, MAX_TEXT);
        }
    }
}

fn said(at: u64, by: Author, text: &str) -> Vec<Update> {
    let text = several_lines(text, MAX_TEXT);
    if text.is_empty() { Vec::new() } else { vec![Update { at, by, text }] }
}

fn names(all: Vec<String>) -> Vec<String> {
    let named = all.into_iter().take(MAX_AFFECTED).map(|name| one_line(&name, MAX_NAME));
    named.filter(|name| !name.is_empty()).collect()
}

/// Characters that show as something else than themselves: controls, and those that turn the direction of text or hide
/// in it.
fn is_shown(c: char) -> bool {
    !(c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'))
}

/// A text of one line without characters that do not show, at most so long.
#[must_use]
pub fn one_line(text: &str, most: usize) -> String {
    let words: Vec<_> = text.split_whitespace().collect();
    words.join(" ").chars().filter(|c| is_shown(*c)).take(most).collect::<String>().trim().to_owned()
}

fn several_lines(text: &str, most: usize) -> String {
    let text: String = text.chars().filter(|c| *c == '\n' || is_shown(*c)).take(most).collect();
    text.trim().to_owned()
}

/// What programs say, without what may be an address, a URL or a token: the page is public.
#[must_use]
pub fn public(text: &str) -> String {
    let word = |word: &str| {
        let bare = word.trim_matches(|c: char| !c.is_alphanumeric() && c != ':' && c != '/');
        let bare = bare.trim_end_matches([':', ',', '.']);
        let unbracketed = word.trim_matches(|c: char| "()[]<>\"'`,;.".contains(c)).trim_end_matches(':');
        let address = [bare, unbracketed].iter().any(|it| {
            it.parse::<IpAddr>().is_ok()
                || it.parse::<SocketAddr>().is_ok()
                || it.rsplit_once(':').is_some_and(|(host, port)| {
                    host.contains('.') && !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit())
                })
        }) || word.contains("://")
            || word.contains('@')
            || word.contains("]:");
        let token = bare.len() >= 24 && bare.bytes().any(|byte| byte.is_ascii_digit());
        let path = bare.starts_with('/') && bare.len() > 1;
        if address || token || path { "…".to_owned() } else { word.to_owned() }
    };
    text.lines()
        .map(|line| line.split_whitespace().map(word).collect::<Vec<_>>().join(" "))
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
#[path = "incidents/tests.rs"]
mod tests;
