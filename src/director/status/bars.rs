//! 90 days of a member as bars, with the same in words. How high a bar is says what its colour says.

use std::fmt::Write as _;

use super::page::spell;
use super::view::{DayView, Member};
use crate::fleet::history::{DAY, DAYS, Day};
use crate::support::page_text::{counted, date, escape};

/// Width and height of the plot; a bar has four units, of which one is air.
const HEIGHT: u64 = 28;
/// So many seconds of not answering make a day red; less is a restart, and amber.
const RED: u32 = 120;
/// Days with trouble told in words.
const TOLD: usize = 20;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Works,
    Impaired,
    Down,
    Planned,
    Unknown,
}

fn kind(day: Option<&Day>) -> Kind {
    match day {
        Some(day) if day.lost >= RED => Kind::Down,
        Some(day) if day.lost > 0 || day.amber >= RED => Kind::Impaired,
        Some(day) if day.healthy > 0 || day.amber > 0 => Kind::Works,
        Some(day) if day.maintenance > 0 => Kind::Planned,
        _ => Kind::Unknown,
    }
}

impl Kind {
    const ALL: [(Self, &'static str, u64); 5] = [
        (Self::Works, "works", HEIGHT),
        (Self::Impaired, "impaired", 20),
        (Self::Down, "down", 12),
        (Self::Planned, "maintenance", 8),
        (Self::Unknown, "unknown", 3),
    ];
}

pub(super) fn render(html: &mut String, group: &str, member: &Member, now: u64) {
    let today = now / DAY;
    let first = (today + 1).saturating_sub(DAYS);
    let of = |number: u64| member.days.iter().find(|day| day.begins / DAY == number).map(|day| &day.day);
    let mut paths: Vec<_> = Kind::ALL.iter().map(|_| String::new()).collect();
    for number in first..=today {
        let kind = kind(of(number));
        for ((known, _, height), path) in Kind::ALL.iter().zip(&mut paths) {
            if *known == kind {
                let _ = write!(path, "M{} {}h3v{height}h-3z", (number - first) * 4, HEIGHT - height);
            }
        }
    }
    let all = member.days.iter().fold(Day::default(), |sum, day| sum.plus(&day.day));
    let worked = all.worked().map_or_else(|| "nothing is known yet".into(), share);
    let id = format!("days-{group}-{}", hex(&member.name));
    let troubled: Vec<&DayView> = member
        .days
        .iter()
        .rev()
        .filter(|day| matches!(kind(Some(&day.day)), Kind::Down | Kind::Impaired))
        .collect();
    let known = counted(member.days.len() as u64, "day");
    let with = match troubled.len() {
        0 => "no day with trouble".into(),
        count => format!("{} with trouble", counted(count as u64, "day")),
    };
    let _ = write!(
        html,
        "<div class=\"days\"><svg role=\"img\" aria-labelledby=\"{id}\" viewBox=\"0 0 {} {HEIGHT}\" \
         preserveAspectRatio=\"none\"><title id=\"{id}\">{}, last 90 days: {worked}; {known} known, {with}</title>",
        DAYS * 4 - 1,
        escape(&member.name),
    );
    for ((_, class, _), path) in Kind::ALL.iter().zip(&paths) {
        if !path.is_empty() {
            let _ = write!(html, "<path class=\"{class}\" d=\"{path}\"/>");
        }
    }
    let _ = write!(
        html,
        "</svg><p class=\"axis\"><span aria-hidden=\"true\">90 days ago</span><span>{worked}</span><span \
         aria-hidden=\"true\">today</span></p>"
    );
    if !troubled.is_empty() {
        let _ = write!(html, "<details id=\"told-{id}\"><summary>{with}</summary><ul>");
        for day in troubled.iter().take(TOLD) {
            let _ = write!(html, "<li>{}: {}</li>", date(day.begins), told(&day.day));
        }
        html.push_str("</ul></details>");
    }
    html.push_str("</div>");
}

fn told(day: &Day) -> String {
    let mut parts = Vec::new();
    for (seconds, what) in [
        (day.lost, "did not answer"),
        (day.amber, "impaired"),
        (day.maintenance, "planned maintenance"),
        (day.unknown, "not known"),
    ] {
        if seconds > 0 {
            parts.push(format!(
                "{what} {}",
                if seconds < 60 { format!("{seconds} s") } else { spell(seconds.into()) }
            ));
        }
    }
    parts.join(", ")
}

/// Never rounded up to all.
fn share(worked: f64) -> String {
    let hundredths = (worked * 10_000.0).floor() / 100.0;
    if worked >= 1.0 { "uptime 100 %".into() } else { format!("uptime {hundredths:.2} %") }
}

/// Ids have no spaces, and names may.
fn hex(name: &str) -> String {
    if name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return name.to_owned();
    }
    name.bytes().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
