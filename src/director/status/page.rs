//! The public page: whole from the server, readable without JavaScript. Its parts are rendered one by one, so that the
//! script can put those that have changed. Every text that comes from outside is escaped where it is written.

use std::fmt::Write as _;

use super::bars;
use super::view::{Group, IncidentView, Look, Member, View};
use crate::fleet::incidents::Author;
use crate::fleet::notices::Severity;
use crate::support::page_text::{clock, counted, date, escape, moment};

/// A part of the page by its id.
pub(super) type Part = (String, String);

/// The parts that change, by their ids.
pub(super) fn parts(view: &View) -> Vec<Part> {
    let mut parts = vec![
        ("title".to_owned(), title(view)),
        ("mark".to_owned(), mark(view.level.look(), "whole")),
        ("sentence".to_owned(), escape(&view.sentence)),
        ("incidents".to_owned(), incidents(view, true)),
        ("past".to_owned(), incidents(view, false)),
        ("updated".to_owned(), updated(view)),
    ];
    parts.extend(view.groups.iter().map(|group| (format!("group-{}", group.id), members(group, view.at))));
    parts
}

fn title(view: &View) -> String {
    escape(&format!("{} – {}", view.level.words(), view.service))
}

fn updated(view: &View) -> String {
    let at = view.at;
    format!("Last updated {}, {}:{:02} UTC", date(at), clock(at), at % 60)
}

/// The whole page.
pub(super) fn render(view: &View) -> String {
    let parts: std::collections::BTreeMap<_, _> = parts(view).into_iter().collect();
    let part = |id: &str| parts.get(id).map_or("", String::as_str);
    let mut html = head(part("title"), true);
    let _ = write!(
        html,
        "<header><h1>{}</h1><p class=\"quiet\">The shared cache of textures, meshes, sounds and animations: how it is \
         now</p></header>\n<main>\n<div class=\"verdict\"><span id=\"mark\">{}</span><p id=\"sentence\" role=\"status\" \
         aria-live=\"polite\">{}</p></div>\n<div id=\"incidents\">{}</div>\n<div class=\"groups\">\n",
        escape(&view.service),
        part("mark"),
        part("sentence"),
        part("incidents"),
    );
    for group in &view.groups {
        let _ = writeln!(
            html,
            "<section class=\"group\" aria-labelledby=\"about-{0}\"><h2 id=\"about-{0}\">{1}</h2><div \
             id=\"group-{0}\">{2}</div></section>",
            group.id,
            group.title,
            part(&format!("group-{}", group.id))
        );
    }
    let _ = write!(
        html,
        "</div>\n<section aria-labelledby=\"about-past\"><h2 id=\"about-past\">Past incidents</h2><div \
         id=\"past\">{}</div></section>\n<section aria-labelledby=\"about-signs\"><h2 id=\"about-signs\">What the signs \
         mean</h2>{}</section>\n</main>\n<footer><p class=\"quiet\"><span id=\"updated\">{}</span>, as the director {} \
         sees it. <span id=\"line\" role=\"status\"></span></p><noscript><p class=\"quiet\">Without JavaScript this \
         page loads itself again every 30 seconds.</p></noscript><p class=\"quiet\">For programs: <a \
         href=\"/v1/status\">status as JSON</a>. For operators: <a href=\"/monitoring\">monitoring</a>, <a \
         href=\"/metrics\">metrics</a>.</p></footer>\n{}",
        part("past"),
        signs(),
        part("updated"),
        escape(&view.director),
        foot("/events"),
    );
    html
}

/// The beginning of each page; `again` has browsers without JavaScript load it again.
pub(super) fn head(title: &str, again: bool) -> String {
    let again = if again { "<noscript><meta http-equiv=\"refresh\" content=\"30\"></noscript>" } else { "" };
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\"><meta name=\"color-scheme\" content=\"light dark\"><meta \
         name=\"robots\" content=\"noarchive\">{again}<title>{title}</title><link rel=\"icon\" href=\"/icon.svg\" \
         type=\"image/svg+xml\"><link rel=\"stylesheet\" href=\"{}\"></head>\n<body>\n",
        super::files::STYLE_PATH.as_str(),
    )
}

/// The end of each page; `live` is where its script gets what changes.
pub(super) fn foot(live: &str) -> String {
    format!(
        "<script src=\"{}\" data-live=\"{}\"></script>\n</body></html>\n",
        super::files::SCRIPT_PATH.as_str(),
        escape(live)
    )
}

/// A page that says what is not there.
pub(super) fn trouble(title: &str, sentence: &str) -> String {
    format!(
        "{}<header><h1>{title}</h1></header>\n<main><section><p>{}</p><p><a href=\"/\">To the status \
         page</a></p></section></main>\n</body></html>\n",
        head(title, false),
        escape(sentence)
    )
}

/// The sign of a look: a shape of its own, so that nobody has to tell colours apart.
pub(super) fn mark(look: Look, class: &str) -> String {
    let shape = match look {
        Look::Works => "<circle cx=\"8\" cy=\"8\" r=\"7\"/><path class=\"in\" d=\"M4.5 8.2l2.4 2.5 4.6-5\"/>",
        Look::Impaired => "<path d=\"M8 .8 15.6 15H.4z\"/><path class=\"in\" d=\"M8 5.6v4.2M8 12v.9\"/>",
        Look::Down => {
            "<path d=\"M5 1h6l4 4v6l-4 4H5l-4-4V5z\"/><path class=\"in\" d=\"M5.2 5.2l5.6 5.6m0-5.6-5.6 5.6\"/>"
        }
        Look::Maintenance => {
            "<path d=\"M8 .5 15.5 8 8 15.5.5 8z\"/><path class=\"in\" d=\"M6.3 5.5v5m3.4-5v5\"/>"
        }
        Look::Starting => {
            "<path d=\"M8 .5 15.5 8 8 15.5.5 8z\"/><path class=\"in\" d=\"M8 11V5.4M5.6 7.6 8 5.2l2.4 2.4\"/>"
        }
        Look::Leaving => {
            "<path d=\"M8 .5 15.5 8 8 15.5.5 8z\"/><path class=\"in\" d=\"M8 5v5.6M5.6 8.4 8 10.8l2.4-2.4\"/>"
        }
        Look::Unknown => "<circle class=\"ring\" cx=\"8\" cy=\"8\" r=\"6.2\"/>",
    };
    format!(
        "<svg class=\"sign {} {class}\" viewBox=\"0 0 16 16\" aria-hidden=\"true\">{shape}</svg>",
        look.name()
    )
}

fn signs() -> String {
    let mut html = String::from("<ul class=\"signs\">");
    for look in Look::ALL {
        let _ = write!(html, "<li>{} {}</li>", mark(look, "small"), look.words());
    }
    html.push_str(
        "</ul><p class=\"quiet\">The bars are the last 90 days, from left to right. A full bar is a day without trouble; \
         a shorter one a day on which something was impaired, and the shortest a day on which it did not answer for a \
         while.</p>",
    );
    html
}

fn members(group: &Group, now: u64) -> String {
    if group.members.is_empty() {
        return "<p class=\"quiet\">There is none yet.</p>".into();
    }
    let mut html = String::from("<ul class=\"members\">");
    for member in &group.members {
        one(&mut html, group, member, now);
    }
    html.push_str("</ul>");
    html
}

fn one(html: &mut String, group: &Group, member: &Member, now: u64) {
    let name = escape(&member.name);
    let _ = write!(
        html,
        "<li class=\"member {}\" data-member=\"{name}\"><div class=\"who\">{}<h3>{name}</h3><span class=\"state\">{}</span></div>",
        member.state.name(),
        mark(member.state, "dot"),
        member.state.words(),
    );
    if let Some(planned) = &member.maintenance {
        let reason =
            if planned.reason.is_empty() { String::new() } else { format!(": {}", escape(&planned.reason)) };
        let until = if planned.until > now.saturating_add(10 * 365 * 86_400) {
            "until further notice".into()
        } else {
            format!("until {}", moment(planned.until, now))
        };
        let _ = write!(html, "<p class=\"planned\">Planned {until}{reason}</p>");
    }
    if let Some(note) = member.note {
        let _ = write!(html, "<p>{note}</p>");
    }
    let mut facts = Vec::new();
    if let Some(since) = member.since {
        let verb = if member.state == Look::Down { "away since" } else { "since" };
        facts.push(format!("{verb} {}", moment(since, now)));
    }
    if let Some(uptime) = member.uptime_s {
        facts.push(format!("up {}", spell(uptime)));
    }
    if let Some(rate) = member.requests_per_s {
        facts.push(rate_of(rate));
    }
    if !facts.is_empty() {
        let mut line = facts.join(" · ");
        if let Some(first) = line.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        let _ = write!(html, "<p class=\"facts\">{line}</p>");
    }
    if let Some(load) = member.load {
        let percent = (load * 100.0).round().clamp(0.0, 150.0);
        let busy = if load >= 0.85 { " busy" } else { "" };
        let _ = write!(
            html,
            "<p class=\"load\"><span>Load {percent:.0} %</span><svg class=\"gauge{busy}\" viewBox=\"0 0 100 6\" \
             preserveAspectRatio=\"none\" aria-hidden=\"true\"><rect class=\"all\" width=\"100\" height=\"6\"/><rect \
             class=\"part\" width=\"{:.0}\" height=\"6\"/></svg></p>",
            percent.min(100.0)
        );
    }
    bars::render(html, group.id, member, now);
    html.push_str("</li>");
}

fn rate_of(rate: f64) -> String {
    match rate {
        rate if rate < 0.05 => "no requests now".into(),
        rate if rate < 10.0 => format!("{rate:.1} requests/s"),
        rate => format!("{rate:.0} requests/s"),
    }
}

/// A span without seconds, which would change all the time.
pub(super) fn spell(seconds: u64) -> String {
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60) {
        (0, 0, 0) => "for less than a minute".into(),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

fn incidents(view: &View, open: bool) -> String {
    let all: Vec<_> = view.incidents.iter().filter(|incident| incident.closed.is_none() == open).collect();
    if all.is_empty() {
        return if open {
            String::new()
        } else {
            "<p class=\"quiet\">There was none in the last 14 days.</p>".into()
        };
    }
    let mut html = String::new();
    if open {
        html.push_str("<section class=\"incidents\" aria-labelledby=\"about-open\"><h2 id=\"about-open\">What is going on</h2>");
    }
    for incident in all {
        article(&mut html, incident, view.at);
    }
    if open {
        html.push_str("</section>");
    }
    html
}

fn article(html: &mut String, incident: &IncidentView, now: u64) {
    let (class, severity) = match incident.severity {
        Severity::Critical => ("critical", "Serious"),
        Severity::Warning => ("warning", "Minor"),
    };
    let when = match incident.closed {
        None => format!("since {}", moment(incident.opened, now)),
        Some(closed) => format!(
            "{} to {}, {}: over",
            moment(incident.opened, now),
            moment(closed, now),
            spell(closed.saturating_sub(incident.opened))
        ),
    };
    let look = match (incident.closed, incident.severity) {
        (Some(_), _) => Look::Works,
        (None, Severity::Critical) => Look::Down,
        (None, Severity::Warning) => Look::Impaired,
    };
    let state = if incident.closed.is_some() { "closed" } else { "open" };
    let _ = write!(
        html,
        "<article class=\"incident {class} {state}\" aria-labelledby=\"incident-{0}\"><h3 id=\"incident-{0}\">{1}{2}</h3><p \
         class=\"quiet\">{severity}, {when}",
        incident.id,
        mark(look, "dot"),
        escape(&incident.title),
    );
    if !incident.affected.is_empty() {
        let _ = write!(html, "; about {}", escape(&incident.affected.join(", ")));
    }
    html.push_str("</p>");
    // The newest first: that is what people come for.
    let (first, more) = (incident.updates.iter().rev().take(3), incident.updates.iter().rev().skip(3));
    updates(html, first, now);
    let count = more.clone().count();
    if count > 0 {
        let _ = write!(
            html,
            "<details id=\"more-{}\"><summary>{}</summary>",
            incident.id,
            counted(count as u64, "earlier update")
        );
        updates(html, more, now);
        html.push_str("</details>");
    }
    html.push_str("</article>");
}

fn updates<'a>(html: &mut String, all: impl Iterator<Item = &'a crate::fleet::incidents::Update>, now: u64) {
    let mut begun = false;
    for update in all {
        if !std::mem::replace(&mut begun, true) {
            html.push_str("<ul class=\"updates\">");
        }
        let by = match update.by {
            Author::Operator => "an operator",
            Author::Program | Author::Director => "found automatically",
        };
        let _ = write!(
            html,
            "<li><p class=\"text\">{}</p><p class=\"quiet\">{}, {by}</p></li>",
            escape(&update.text),
            moment(update.at, now)
        );
    }
    if begun {
        html.push_str("</ul>");
    }
}
