//! What the status page tells, made of a picture: this is all that leaves the director, and it is public. No address,
//! URL, handle or token is ever copied into it, and no error of a system.

use std::collections::BTreeMap;

use serde::Serialize;

use super::verdict::{self, Level};
use crate::director::chronicle::{self, Books};
use crate::director::config::Picture;
use crate::fleet::array::{Maintenance, MemberView};
use crate::fleet::health::Dot;
use crate::fleet::history::{Day, State};
use crate::fleet::incidents::{Incident, MAX_NAME, MAX_TITLE, Update, one_line};
use crate::fleet::notices::Severity;
use crate::fleet::scaling::Phase;

/// Closed incidents are shown for so long.
const INCIDENTS_SHOWN: u64 = 14 * 86_400;
/// And no more than so many.
const MAX_CLOSED: usize = 30;

/// How a member looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Look {
    /// All is well.
    Works,
    /// It works, and something is wrong.
    Impaired,
    /// It does not work.
    Down,
    /// Away by plan.
    Maintenance,
    /// On its way into the array.
    Starting,
    /// On its way out, by plan.
    Leaving,
    /// Nothing is known of it yet.
    Unknown,
}

impl Look {
    pub(super) const ALL: [Self; 7] = [
        Self::Works,
        Self::Impaired,
        Self::Down,
        Self::Maintenance,
        Self::Starting,
        Self::Leaving,
        Self::Unknown,
    ];

    /// In a word or two, for everybody.
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::Works => "Works",
            Self::Impaired => "Impaired",
            Self::Down => "Does not answer",
            Self::Maintenance => "Planned maintenance",
            Self::Starting => "Starting",
            Self::Leaving => "Leaving, as planned",
            Self::Unknown => "Not known yet",
        }
    }

    /// Its name in classes and labels.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Works => "works",
            Self::Impaired => "impaired",
            Self::Down => "down",
            Self::Maintenance => "maintenance",
            Self::Starting => "starting",
            Self::Leaving => "leaving",
            Self::Unknown => "unknown",
        }
    }

    const fn of(state: State) -> Self {
        match state {
            State::Healthy => Self::Works,
            State::Amber => Self::Impaired,
            State::Lost => Self::Down,
            State::Maintenance => Self::Maintenance,
            State::Unknown => Self::Unknown,
        }
    }
}

/// A planned absence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Planned {
    /// Until when; seconds since 1970.
    pub(super) until: u64,
    /// Why, in the operator's words.
    pub(super) reason: String,
}

/// A day of a member's history.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct DayView {
    /// Its beginning; seconds since 1970.
    pub(super) begins: u64,
    /// Seconds in each state.
    #[serde(flatten)]
    pub(super) day: Day,
}

/// A member.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Member {
    /// Its name.
    pub(super) name: String,
    /// How it looks.
    pub(super) state: Look,
    /// The colour of its dot, whatever is planned.
    pub(super) dot: Dot,
    /// Where a node stands in its life.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) phase: Option<Phase>,
    /// Since when; seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) since: Option<u64>,
    /// For how long its process has been running.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) uptime_s: Option<u64>,
    /// How loaded it is: 1 is all it can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) load: Option<f64>,
    /// Requests in a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) requests_per_s: Option<f64>,
    /// Planned absence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) maintenance: Option<Planned>,
    /// What else there is to say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) note: Option<&'static str>,
    /// The last 90 days of which something is known.
    pub(super) days: Vec<DayView>,
}

/// Members of one kind.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Group {
    /// Its name in addresses and ids.
    pub(super) id: &'static str,
    /// Its name.
    pub(super) title: &'static str,
    /// Who belongs to it.
    pub(super) members: Vec<Member>,
}

/// An incident without what is only for directors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct IncidentView {
    pub(super) id: u32,
    pub(super) title: String,
    pub(super) severity: Severity,
    pub(super) affected: Vec<String>,
    pub(super) opened: u64,
    pub(super) closed: Option<u64>,
    /// The oldest first.
    pub(super) updates: Vec<Update>,
}

/// All that is told.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct View {
    /// The service's name.
    pub(super) service: String,
    /// The director that tells.
    pub(super) director: String,
    /// When this was so; seconds since 1970.
    pub(super) at: u64,
    /// Whether that director acts for all.
    pub(super) leading: bool,
    /// How the whole is.
    pub(super) level: Level,
    /// The same in a sentence.
    pub(super) sentence: String,
    /// The members.
    pub(super) groups: Vec<Group>,
    /// Open ones first, then the closed ones of the last 14 days; of both the newest first.
    pub(super) incidents: Vec<IncidentView>,
}

/// `/v1/status`. Its names are a contract with programs: fields may be added, and none changes its meaning.
#[derive(Serialize)]
struct Json<'a> {
    service: &'a str,
    director: &'a str,
    at: u64,
    leading: bool,
    level: Level,
    sentence: &'a str,
    directors: &'a [Member],
    nodes: &'a [Member],
    storage: &'a [Member],
    incidents: &'a [IncidentView],
}

impl View {
    /// The same for programs.
    pub(super) fn json(&self) -> Vec<u8> {
        let of = |id: &str| {
            self.groups.iter().find(|group| group.id == id).map_or(&[][..], |group| group.members.as_slice())
        };
        let json = Json {
            service: &self.service,
            director: &self.director,
            at: self.at,
            leading: self.leading,
            level: self.level,
            sentence: &self.sentence,
            directors: of("directors"),
            nodes: of("nodes"),
            storage: of("storage"),
            incidents: &self.incidents,
        };
        serde_json::to_vec(&json).unwrap_or_default()
    }

    /// What a picture tells.
    pub(super) fn of(service: &str, director: &str, picture: &Picture, books: &Books) -> Self {
        let groups = vec![nodes(picture, books), directors(picture, books), storage(picture, books)];
        let incidents = incidents(picture);
        let (level, sentence) = verdict::judge(&groups, &incidents, picture.at);
        Self {
            service: one_line(service, 253),
            director: one_line(director, MAX_NAME),
            at: picture.at,
            leading: picture.leading,
            level,
            sentence,
            groups,
            incidents,
        }
    }

    /// How many members look like this.
    pub(super) fn looks(&self) -> BTreeMap<(&'static str, Look), u64> {
        let mut counts = BTreeMap::new();
        for group in &self.groups {
            for member in &group.members {
                *counts.entry((group.id, member.state)).or_default() += 1;
            }
        }
        counts
    }
}

fn days(books: &Books, at: u64, member: &str) -> Vec<DayView> {
    let known = books.days(at, member).into_iter();
    known.filter_map(|(begins, day)| Some(DayView { begins, day: day? })).collect()
}

fn member(books: &Books, at: u64, id: &str, name: &str, state: Look) -> Member {
    Member {
        name: one_line(name, MAX_NAME),
        state,
        dot: match state {
            Look::Works | Look::Maintenance | Look::Leaving => Dot::Green,
            Look::Impaired | Look::Starting | Look::Unknown => Dot::Amber,
            Look::Down => Dot::Red,
        },
        phase: None,
        since: None,
        uptime_s: None,
        load: None,
        requests_per_s: None,
        maintenance: None,
        note: None,
        days: days(books, at, id),
    }
}

fn directors(picture: &Picture, books: &Books) -> Group {
    let view = |one: &crate::director::DirectorView| {
        let id = chronicle::director_member(&one.name);
        let state = Look::of(one.state);
        let running = matches!(state, Look::Works | Look::Impaired);
        let note = match state {
            Look::Impaired if one.own => Some("The catalog does not answer it."),
            Look::Impaired => Some("Nothing was heard of it for a moment."),
            Look::Unknown => Some("Directors hear of each other through the catalog, which does not answer."),
            _ => None,
        };
        Member {
            since: picture.since.get(&id).copied(),
            uptime_s: running.then(|| picture.at.saturating_sub(one.started)),
            note,
            ..member(books, picture.at, &id, &one.name, state)
        }
    };
    Group { id: "directors", title: "Directors", members: picture.directors.iter().map(view).collect() }
}

fn look(node: &MemberView) -> Look {
    match (node.phase, &node.maintenance) {
        (_, Some(_)) => Look::Maintenance,
        (Phase::Starting, _) => Look::Starting,
        (Phase::Leaving | Phase::Draining, _) => Look::Leaving,
        (Phase::Serving, None) => Look::of(node.state),
    }
}

fn nodes(picture: &Picture, books: &Books) -> Group {
    let served = picture.nodes.iter().any(|node| matches!(look(node), Look::Works | Look::Impaired));
    let view = |node: &MemberView| {
        let id = chronicle::node_member(&node.name);
        let state = look(node);
        let serves = matches!(state, Look::Works | Look::Impaired | Look::Leaving);
        let planned =
            |mark: &Maintenance| Planned { until: mark.until, reason: one_line(&mark.reason, MAX_TITLE) };
        let note = match state {
            Look::Impaired if !node.storage => {
                Some("What lies behind it does not answer; it serves what it has in memory.")
            }
            Look::Impaired => Some("It has missed a look; the next one decides."),
            Look::Down if served => Some("The other nodes do its work."),
            _ => None,
        };
        Member {
            dot: node.dot,
            phase: Some(node.phase),
            since: picture.since.get(&id).copied().filter(|_| state != Look::Unknown),
            uptime_s: node.uptime_s,
            load: serves.then_some(node.load),
            requests_per_s: serves.then_some(node.requests_per_s),
            maintenance: node.maintenance.as_ref().map(planned),
            note,
            ..member(books, picture.at, &id, &node.name, state)
        }
    };
    Group { id: "nodes", title: "Nodes", members: picture.nodes.iter().map(view).collect() }
}

fn storage(picture: &Picture, books: &Books) -> Group {
    let store = Member {
        note: match picture.storage.store {
            State::Amber => Some("Some nodes cannot read it."),
            State::Lost => Some("Nodes serve what they have in memory."),
            _ => None,
        },
        ..member(books, picture.at, chronicle::STORE, "store", Look::of(picture.storage.store))
    };
    let state = chronicle::catalog_state(&picture.storage, picture.catalog);
    let catalog = Member {
        note: match state {
            State::Amber => Some("Not everybody can write to it."),
            State::Lost => Some("What is known is served; nothing new is taken in."),
            _ => None,
        },
        ..member(books, picture.at, chronicle::CATALOG, "catalog", Look::of(state))
    };
    Group { id: "storage", title: "Storage", members: vec![store, catalog] }
}

fn incidents(picture: &Picture) -> Vec<IncidentView> {
    let view = |incident: &Incident| IncidentView {
        id: incident.id,
        title: incident.title.clone(),
        severity: incident.severity,
        affected: incident.affected.clone(),
        opened: incident.opened,
        closed: incident.closed,
        updates: incident.updates.clone(),
    };
    let newest_first = || picture.incidents.iter().rev();
    let open = newest_first().filter(|incident| incident.closed.is_none());
    let recent = |incident: &&Incident| {
        incident.closed.is_some_and(|closed| closed.saturating_add(INCIDENTS_SHOWN) > picture.at)
    };
    open.chain(newest_first().filter(recent).take(MAX_CLOSED)).map(view).collect()
}
