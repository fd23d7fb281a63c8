//! The first sentence of the page: how the whole is, for people who only want to know that.

use serde::Serialize;

use super::view::{Group, IncidentView, Look, Member};
use crate::fleet::notices::Severity;
use crate::support::page_text::moment;

/// How the whole is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// All is well.
    Good,
    /// Something is wrong, and the cache works.
    Impaired,
    /// The cache does not work.
    Down,
    /// Nothing is known yet.
    Unknown,
}

impl Level {
    pub(super) const fn look(self) -> Look {
        match self {
            Self::Good => Look::Works,
            Self::Impaired => Look::Impaired,
            Self::Down => Look::Down,
            Self::Unknown => Look::Unknown,
        }
    }

    /// For the title of the window.
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::Good => "All is well",
            Self::Impaired => "Impaired",
            Self::Down => "Down",
            Self::Unknown => "Looking",
        }
    }
}

/// What goes on when there is no cache.
const GRID: &str = "Viewers get everything from their grid meanwhile.";

/// Judges the whole.
pub(super) fn judge(groups: &[Group], incidents: &[IncidentView], now: u64) -> (Level, String) {
    let of = |id: &str| groups.iter().find(|group| group.id == id).map_or(&[][..], |group| &group.members);
    let (nodes, storage, directors) = (of("nodes"), of("storage"), of("directors"));
    // Who is away by plan is not missing.
    let meant: Vec<&Member> = nodes
        .iter()
        .filter(|node| matches!(node.state, Look::Works | Look::Impaired | Look::Down | Look::Unknown))
        .collect();
    let that = |look: Look| meant.iter().filter(move |node| node.state == look);
    let serving = that(Look::Works).count() + that(Look::Impaired).count();
    let leaving = nodes.iter().filter(|node| node.state == Look::Leaving).count();
    if serving + leaving == 0 {
        if that(Look::Unknown).count() > 0 || nodes.iter().any(|node| node.state == Look::Starting) {
            return (Level::Unknown, "This director has just begun to look.".into());
        }
        return if nodes.iter().any(|node| node.state == Look::Maintenance) && that(Look::Down).count() == 0 {
            (Level::Impaired, format!("The cache is away for planned maintenance. {GRID}"))
        } else {
            (Level::Down, format!("The cache does not answer. {GRID}"))
        };
    }
    let mut wrong = Vec::new();
    let down: Vec<_> = that(Look::Down).map(|node| node.name.as_str()).collect();
    if !down.is_empty() {
        wrong.push(format!("{} not answer; {}", does(&down), others(serving)));
    }
    let state = |name: &str| storage.iter().find(|member| member.name == name).map(|member| member.state);
    match state("store") {
        Some(Look::Down) => wrong.push("its store does not answer, so less is found".into()),
        Some(Look::Impaired) => wrong.push("not every node can read the store".into()),
        _ => {}
    }
    match state("catalog") {
        Some(Look::Down) => wrong.push("its catalog does not answer, so nothing new is taken in".into()),
        Some(Look::Impaired) => wrong.push("its catalog does not answer everybody".into()),
        _ => {}
    }
    if wrong.is_empty() {
        let impaired: Vec<_> = that(Look::Impaired).map(|node| node.name.as_str()).collect();
        if !impaired.is_empty() {
            wrong.push(format!("{} impaired", are(&impaired)));
        }
    }
    let gone: Vec<_> =
        directors.iter().filter(|it| it.state == Look::Down).map(|it| it.name.as_str()).collect();
    if !gone.is_empty() {
        wrong.push(format!("the {} {} not answer", plural("director", gone.len()), does(&gone)));
    }
    // What operators say beside what is seen.
    let told = incidents.iter().filter(|incident| incident.closed.is_none());
    let told: Vec<_> = told.filter(|incident| !is_of(incident, &down)).collect();
    if wrong.is_empty()
        && let Some(worst) = told.iter().max_by_key(|incident| (incident.severity, incident.opened))
    {
        let level = if worst.severity == Severity::Critical { "a serious incident" } else { "an incident" };
        wrong.push(format!("there is {level}: {}", worst.title.trim_end_matches('.')));
    }
    if !wrong.is_empty() {
        return (Level::Impaired, format!("The cache works, but {}.", wrong.join("; ")));
    }
    (Level::Good, format!("All is well.{}", planned(nodes, now)))
}

fn planned(nodes: &[Member], now: u64) -> String {
    let away = nodes.iter().filter(|node| node.state == Look::Maintenance);
    let away: Vec<_> =
        away.filter_map(|node| Some((node.name.as_str(), node.maintenance.as_ref()?))).collect();
    match away.as_slice() {
        [] => String::new(),
        [(name, mark)] => {
            format!(" {name} is away for planned maintenance until {}.", moment(mark.until, now))
        }
        more => {
            let names: Vec<_> = more.iter().map(|(name, _)| *name).collect();
            format!(" {} away for planned maintenance.", are(&names))
        }
    }
}

fn is_of(incident: &IncidentView, names: &[&str]) -> bool {
    !incident.affected.is_empty() && incident.affected.iter().all(|name| names.contains(&name.as_str()))
}

fn plural(word: &str, count: usize) -> String {
    if count == 1 { word.to_owned() } else { format!("{word}s") }
}

fn others(count: usize) -> String {
    if count == 1 {
        "the other node does the work".into()
    } else {
        format!("the other {count} nodes do the work")
    }
}

fn does(names: &[&str]) -> String {
    format!("{} {}", listed(names), if names.len() == 1 { "does" } else { "do" })
}

fn are(names: &[&str]) -> String {
    format!("{} {}", listed(names), if names.len() == 1 { "is" } else { "are" })
}

/// `otter`, `otter and lynx`, `otter, lynx and 3 more`.
fn listed(names: &[&str]) -> String {
    match names {
        [] => "nobody".into(),
        [one] => (*one).to_owned(),
        [one, two] => format!("{one} and {two}"),
        [one, two, three] => format!("{one}, {two} and {three}"),
        [one, two, more @ ..] => format!("{one}, {two} and {} more", more.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{View, member, view};
    use super::*;

    fn said(groups: &View) -> (Level, String) {
        judge(&groups.groups, &groups.incidents, 1_800_000_000)
    }

    #[test]
    fn the_sentence_says_what_is_wrong_and_what_goes_on() {
        let (works, down) = (Look::Works, Look::Down);
        for (nodes, store, catalog, level, sentence) in [
            (&[works, works][..], works, works, Level::Good, "All is well."),
            (
                &[works, down, works],
                works,
                works,
                Level::Impaired,
                "The cache works, but lynx does not answer; the other 2 nodes do the work.",
            ),
            (
                &[down, down, works],
                works,
                works,
                Level::Impaired,
                "The cache works, but otter and lynx do not answer; the other node does the work.",
            ),
            (
                &[down, down],
                works,
                works,
                Level::Down,
                "The cache does not answer. Viewers get everything from their grid meanwhile.",
            ),
            (
                &[],
                Look::Unknown,
                works,
                Level::Down,
                "The cache does not answer. Viewers get everything from their grid meanwhile.",
            ),
            (&[Look::Unknown], works, works, Level::Unknown, "This director has just begun to look."),
            (
                &[Look::Impaired, Look::Impaired],
                down,
                works,
                Level::Impaired,
                "The cache works, but its store does not answer, so less is found.",
            ),
            (
                &[works],
                works,
                down,
                Level::Impaired,
                "The cache works, but its catalog does not answer, so nothing new is taken in.",
            ),
            (
                &[works, Look::Impaired],
                works,
                works,
                Level::Impaired,
                "The cache works, but lynx is impaired.",
            ),
            (&[works, Look::Leaving, Look::Starting], works, works, Level::Good, "All is well."),
            (
                &[works, Look::Maintenance],
                works,
                works,
                Level::Good,
                "All is well. lynx is away for planned maintenance until 08:10 UTC.",
            ),
            (
                &[Look::Maintenance],
                works,
                works,
                Level::Impaired,
                "The cache is away for planned maintenance. Viewers get everything from their grid meanwhile.",
            ),
        ] {
            assert_eq!(said(&view(nodes, store, catalog)), (level, sentence.to_owned()), "{nodes:?}");
        }
    }

    #[test]
    fn what_operators_say_and_lost_directors_are_told() {
        let mut shown = view(&[Look::Works], Look::Works, Look::Works);
        shown.incidents.push(IncidentView {
            id: 1,
            title: "Slow evenings.".into(),
            severity: Severity::Warning,
            affected: vec![],
            opened: 5,
            closed: None,
            updates: vec![],
        });
        let expected = "The cache works, but there is an incident: Slow evenings.";
        assert_eq!(said(&shown), (Level::Impaired, expected.to_owned()));
        for incident in &mut shown.incidents {
            incident.closed = Some(6);
        }
        assert_eq!(said(&shown).0, Level::Good);
        for group in &mut shown.groups {
            if group.id == "directors" {
                group.members.push(member("fox", Look::Down));
            }
        }
        let expected = "The cache works, but the director fox does not answer.";
        assert_eq!(said(&shown), (Level::Impaired, expected.to_owned()));
        assert_eq!(listed(&["a", "b", "c", "d", "e"]), "a, b and 3 more");
    }
}
