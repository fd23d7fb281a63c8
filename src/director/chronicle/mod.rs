//! What directors remember and tell each other about what happens: incidents, days of history, who of them is there;
//! and what this one keeps for the operators' plots. It decides what is to be written; [`keeping`] writes and reads it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

mod directors;
mod keeping;

pub use directors::DirectorView;
use directors::Directors;
pub(super) use keeping::{Keeper, Write};

use crate::catalog::Fact;
use crate::fleet::array::{Array, MemberView, StorageView};
use crate::fleet::history::{DAY, DAYS, Day, History, Lately, State};
use crate::fleet::incidents::{Author, Incident, Incidents, MAX_NAME, Report, one_line};
use crate::fleet::notices::{Notice, Severity, What};
use crate::fleet::series::{Sample, Series, WHOLE};

/// How often a look is taken.
const LOOK: Duration = Duration::from_secs(1);
/// How often the history is written down.
const WRITTEN_EVERY: Duration = Duration::from_secs(30);
/// How often what is old is forgotten.
const FORGOTTEN_EVERY: Duration = Duration::from_secs(3600);
/// For so long a director must have led before it says of a trouble that it never saw that it is over.
const SURE: Duration = Duration::from_secs(10);
/// The member names of what lies behind the nodes.
pub(super) const STORE: &str = "storage/store";
pub(super) const CATALOG: &str = "storage/catalog";

/// The name of a node in the history.
pub(super) fn node_member(name: &str) -> String {
    format!("nodes/{}", one_line(name, MAX_NAME))
}

/// The name of a director in the history.
pub(super) fn director_member(name: &str) -> String {
    format!("directors/{}", one_line(name, MAX_NAME))
}

/// What grows, shared with the status page.
#[derive(Debug, Default)]
pub(super) struct Books {
    history: Mutex<History>,
    series: Mutex<Series>,
}

impl Books {
    /// The last 90 days of a member.
    pub(super) fn days(&self, wall: u64, member: &str) -> Vec<(u64, Option<Day>)> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner).days(wall, member, DAYS)
    }

    /// Looks at the series.
    pub(super) fn series<T>(&self, look: impl FnOnce(&Series) -> T) -> T {
        look(&self.series.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What was read from the board beside nodes and marks.
#[derive(Debug, Default)]
pub(super) struct Read {
    incidents: Incidents,
    directors: Vec<Fact>,
    /// Not read each time.
    history: Option<Vec<(String, Day)>>,
}

/// See the module.
pub(super) struct Chronicle {
    books: Arc<Books>,
    lately: Lately,
    directors: Directors,
    incidents: Arc<Vec<Incident>>,
    untold: bool,
    /// When each member became as it is, by the wall clock, as it was first computed.
    since: BTreeMap<String, u64>,
    /// Troubles that this director has told of itself.
    told: BTreeSet<String>,
    leading_since: Option<Instant>,
    /// Whether the history is as the last leader left it.
    history_read: bool,
    counting: bool,
    looked: Option<Instant>,
    written: Option<Instant>,
    forgotten: Option<Instant>,
}

impl Chronicle {
    pub(super) fn new(name: &str, started: u64, beat: Duration) -> Self {
        Self {
            books: Arc::default(),
            lately: Lately::default(),
            directors: Directors::new(name, started, beat),
            incidents: Arc::default(),
            untold: false,
            since: BTreeMap::new(),
            told: BTreeSet::new(),
            leading_since: None,
            history_read: false,
            counting: false,
            looked: None,
            written: None,
            forgotten: None,
        }
    }

    pub(super) fn books(&self) -> Arc<Books> {
        Arc::clone(&self.books)
    }

    pub(super) fn incidents(&self) -> Arc<Vec<Incident>> {
        Arc::clone(&self.incidents)
    }

    pub(super) fn directors(&self, now: Instant, catalog: bool) -> Vec<DirectorView> {
        self.directors.views(now, catalog)
    }

    /// Since when a member is as it is, by the wall clock. Seconds since are cut, and clocks drift: what was said once
    /// stays until it is certainly something else.
    pub(super) fn since(&mut self, member: &str, wall: u64, since_s: u64) -> u64 {
        let since = wall.saturating_sub(since_s);
        if self.since.len() > 2048 {
            self.since.clear();
        }
        let known = self.since.entry(member.to_owned()).or_insert(since);
        if known.abs_diff(since) > 5 {
            *known = since;
        }
        *known
    }

    /// Takes in what was read; what is to be written since.
    pub(super) fn board(&mut self, now: Instant, wall: u64, read: Read, array: &Array) -> Vec<Write> {
        self.directors.read(now, wall, &read.directors);
        if *self.incidents != read.incidents.all() {
            self.incidents = Arc::new(read.incidents.all().to_vec());
        }
        self.untold = read.incidents.has_untold();
        if let Some(days) = read.history {
            let mut history = self.books.history.lock().unwrap_or_else(PoisonError::into_inner);
            for (name, day) in days {
                history.read(&name, day);
            }
            self.history_read = true;
        }
        // What is over here is news when it comes again, whoever has told of its end.
        let known: BTreeSet<&str> = array.known_troubles().map(|(key, ..)| key).collect();
        self.told.retain(|key| known.contains(key.as_str()));
        if array.is_leading() { self.reconcile(now, array) } else { Vec::new() }
    }

    /// What a leader that has just come, or a write that was lost, has left open: troubles that operators know of and
    /// no incident tells, incidents of ours that are over.
    fn reconcile(&mut self, now: Instant, array: &Array) -> Vec<Write> {
        let mut writes = Vec::new();
        if self.untold {
            writes.push(Write::Tell);
        }
        let open = |incident: &&Incident| incident.closed.is_none() && incident.by == Author::Director;
        let keys: BTreeSet<&str> =
            self.incidents.iter().filter(open).filter_map(|incident| incident.key.as_deref()).collect();
        for (key, severity, text) in array.known_troubles() {
            if !keys.contains(key)
                && let Some(report) = report(key, severity, text)
            {
                writes.push(Write::Report { report, tell: !self.told.contains(key) });
            }
        }
        let led = self.leading_since.map_or(Duration::ZERO, |since| now.duration_since(since));
        // Every director sees nodes; what only the leader finds takes it a while to find again.
        let sure = |key: &str| led >= if key.starts_with("node ") { SURE } else { SURE * 60 };
        for key in keys.into_iter().filter(|key| sure(key) && array.is_over(key)) {
            let text = key
                .strip_prefix("node ")
                .map_or_else(|| "It is over".into(), |name| format!("{name} is back"));
            writes.push(Write::Resolve { key: key.to_owned(), text, tell: true });
        }
        writes
    }

    /// What of these operators have not been told. Who begins to tell repeats what has changed lately, since the one
    /// before may have died before it could; what that one has written of it, it has told.
    pub(super) fn news(&self, notices: Vec<Notice>) -> Vec<Notice> {
        let last =
            |key: &str| self.incidents.iter().rev().find(|incident| incident.key.as_deref() == Some(key));
        let is_news = |notice: &Notice| match (notice.what, last(&notice.key)) {
            _ if self.told.contains(&notice.key) => true,
            (What::Raised, Some(incident)) => {
                incident.closed.is_some() || incident.severity < notice.severity
            }
            (What::Cleared, Some(incident)) => incident.closed.is_none(),
            _ => true,
        };
        notices.into_iter().filter(is_news).collect()
    }

    /// Operators are being told of this; the public is told of the same.
    pub(super) fn told(&mut self, notices: &[Notice]) -> Vec<Write> {
        let mut writes = Vec::new();
        for notice in notices {
            match notice.what {
                What::Raised | What::Flapping => {
                    self.told.insert(notice.key.clone());
                    let text = match (notice.what, notice.key.strip_prefix("node ")) {
                        (What::Flapping, Some(name)) => format!("{name} comes and goes"),
                        (What::Flapping, None) => format!("{}; it comes and goes", notice.text),
                        _ => notice.text.clone(),
                    };
                    let report = report(&notice.key, notice.severity, &text);
                    writes.extend(report.map(|report| Write::Report { report, tell: false }));
                }
                What::Cleared => {
                    self.told.remove(&notice.key);
                    let (key, text) = (notice.key.clone(), public_text(&notice.key, &notice.text));
                    writes.extend(text.map(|text| Write::Resolve { key, text, tell: false }));
                }
                What::Reminder => {}
            }
        }
        writes
    }

    /// Once a second: how everything is, for history and plots; what is to be written.
    pub(super) fn tick(&mut self, now: Instant, wall: u64, array: &Array, catalog: bool) -> Vec<Write> {
        if self.looked.is_some_and(|looked| now.duration_since(looked) < LOOK) {
            return Vec::new();
        }
        self.looked = Some(now);
        let members = array.members(now);
        self.plot(wall, &members);
        let states = self.states(now, &members, &array.storage_view(), catalog);
        for (member, state) in &states {
            self.lately.note(wall, member, *state);
        }
        if !array.is_leading() {
            self.leading_since = None;
            (self.history_read, self.counting) = (false, false);
            return Vec::new();
        }
        self.leading_since.get_or_insert(now);
        if !self.history_read {
            return Vec::new();
        }
        self.count(now, wall, &states)
    }

    fn count(&mut self, now: Instant, wall: u64, states: &[(String, State)]) -> Vec<Write> {
        let begins = !std::mem::replace(&mut self.counting, true);
        let mut history = self.books.history.lock().unwrap_or_else(PoisonError::into_inner);
        for (member, state) in states {
            // A leader that has just come knows what it saw while it only looked.
            if begins {
                history.catch_up(member, &self.lately);
            }
            history.observe(wall, member, *state);
        }
        let due = |last: Option<Instant>, every| last.is_none_or(|at| now.duration_since(at) >= every);
        let mut writes = Vec::new();
        if due(self.written, WRITTEN_EVERY) {
            self.written = Some(now);
            let days = history.to_write(wall, states.iter().map(|(member, _)| member.as_str()));
            writes.push(Write::Days(days));
        }
        if due(self.forgotten, FORGOTTEN_EVERY) {
            self.forgotten = Some(now);
            writes.push(Write::Forget {
                days_before: wall.saturating_sub(DAYS * DAY),
                directors_before: wall.saturating_sub(DAY),
            });
        }
        writes
    }

    fn states(
        &self,
        now: Instant,
        members: &[MemberView],
        storage: &StorageView,
        catalog: bool,
    ) -> Vec<(String, State)> {
        let nodes = members.iter().map(|member| (node_member(&member.name), member.state));
        let directors = self.directors.views(now, catalog).into_iter();
        let directors = directors.map(|director| (director_member(&director.name), director.state));
        let storage =
            [(STORE.to_owned(), storage.store), (CATALOG.to_owned(), catalog_state(storage, catalog))];
        nodes.chain(directors).chain(storage).collect()
    }

    #[allow(clippy::cast_possible_truncation)]
    fn plot(&mut self, wall: u64, members: &[MemberView]) {
        let mut series = self.books.series.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut whole, mut reads) = (Sample::default(), 0.0);
        let mut hits = 0.0;
        for member in members {
            let there = matches!(member.state, State::Healthy | State::Amber);
            let sample = Sample {
                load: member.load as f32,
                requests_per_s: member.requests_per_s as f32,
                hit_ratio: member.hit_ratio.map(|ratio| ratio as f32),
                connections: u16::try_from(member.connections).map_or(f32::from(u16::MAX), f32::from),
                nodes: if there { 1.0 } else { 0.0 },
            };
            series.tell(wall, &member.name, &sample);
            whole.load += if there { sample.load } else { 0.0 };
            whole.requests_per_s += sample.requests_per_s;
            whole.connections += sample.connections;
            whole.nodes += sample.nodes;
            if let Some(ratio) = sample.hit_ratio {
                // Weighed by how much each is asked.
                let weight = sample.requests_per_s.max(0.001);
                hits += ratio * weight;
                reads += weight;
            }
        }
        whole.load /= whole.nodes.max(1.0);
        whole.hit_ratio = (reads > 0.0).then(|| hits / reads);
        series.tell(wall, WHOLE, &whole);
    }
}

/// The catalog, as this director and the nodes find it.
pub(super) const fn catalog_state(storage: &StorageView, catalog: bool) -> State {
    match (storage.catalog, catalog) {
        (State::Lost, _) | (State::Unknown, false) => State::Lost,
        (State::Amber, _) | (_, false) => State::Amber,
        _ => State::Healthy,
    }
}

/// What the public is told of a trouble that operators are told of; `None` when it does not concern the public.
fn report(key: &str, severity: Severity, text: &str) -> Option<Report> {
    let affected = key.strip_prefix("node ").map(ToOwned::to_owned).into_iter().collect();
    let text = public_text(key, text)?;
    Some(Report { key: key.to_owned(), severity, text, affected, by: Author::Director })
}

/// What operators are told may name what went wrong in the words of a cloud or a system; the public learns what it
/// means, and nothing of what only costs or may come to be.
fn public_text(key: &str, text: &str) -> Option<String> {
    let (kind, _) = key.split_once(' ').unwrap_or((key, ""));
    match kind {
        "report" | "certificate" | "closing" | "blind" => None,
        "opening" if text.contains("could not") => Some("A further node could not be opened".into()),
        "opening" => Some("Nodes can be opened again".into()),
        _ => Some(crate::fleet::incidents::public(without_cause(key, text))),
    }
}

/// Why a node does not answer is for the operators alone.
pub(super) fn without_cause<'a>(key: &str, text: &'a str) -> &'a str {
    match text.split_once(": ") {
        Some((what, _)) if key.starts_with("node ") => what,
        _ => text,
    }
}

#[cfg(test)]
mod tests;
