//! The parts of the page, each rendered for itself, so that only those that changed are sent to whoever has
//! the page open. None of them shows a clock that runs: a part changes when something has happened.

use std::fmt::Write as _;

use super::text::{counted, duration, escape, moment, number};
use super::verdict::verdict;
use super::view::{ChecksView, RegionView, View};
use super::{home, plot, store};
use crate::asset::AssetSource;
use crate::checks::Outcome;
use crate::scenes::{Progress, QUIET, SceneTime};
use crate::support::status::{Assets, human_bytes, percent};

/// A part of the page: its id, its heading, and what it holds.
pub(super) struct Section {
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    pub(super) html: String,
}

/// The parts in their order.
pub(super) fn all(view: &View) -> Vec<Section> {
    let section = |id, title, html| Section { id, title, html };
    let mut sections = vec![
        section("verdict", "Is it working?", sentence(view)),
        section("figures", "In figures", figures(view)),
        section("scene", "Here and now", scene(view)),
        section("plots", "Over time", plot::render(&view.history, view.now)),
        section("regions", "Regions", regions(view)),
        section("assets", "Assets", assets(view)),
        section("sharing", "Shared cache and uploads", sharing(view)),
    ];
    sections.extend(home::render(view).map(|html| section("home", "Shared caches at home", html)));
    sections.push(section("store", "Store on this machine", store::render(view)));
    if !matches!(view.checks, ChecksView::None) {
        sections.push(section("checks", "Self-test", checks(view)));
    }
    sections.push(section("viewers", "Viewers", viewers(view)));
    sections
}

/// A button that does something. All belong to the one form that holds the key.
pub(super) fn button(view: &View, action: &str, label: &str) -> String {
    if !view.actions {
        return String::new();
    }
    format!("<button type=\"submit\" form=\"actions\" formaction=\"{action}\">{}</button>", escape(label))
}

fn button_for(view: &View, action: &str, region: &RegionView, label: &str) -> String {
    if !view.actions {
        return String::new();
    }
    format!(
        "<button type=\"submit\" form=\"actions\" formaction=\"{action}\" name=\"region\" value=\"{}\" \
         aria-label=\"{}: {}\">{}</button>",
        escape(&region.id),
        escape(label),
        escape(&region.name.to_string()),
        escape(label)
    )
}

fn sentence(view: &View) -> String {
    let verdict = verdict(view);
    let mut html = format!(
        "<div class=\"verdict {}\"><p><strong>{}.</strong> {}</p>",
        verdict.level.class(),
        verdict.level.word(),
        escape(&verdict.sentence)
    );
    if let Some(advice) = &verdict.advice {
        let _ = write!(html, "<p>{}</p>", escape(advice));
    }
    html.push_str("</div>");
    for note in &view.notes {
        let _ = write!(html, "<p class=\"note\">{}</p>", escape(note));
    }
    html
}

fn figures(view: &View) -> String {
    let today = &view.today;
    let all = &view.status;
    let net = |saved: u64, lost: u64| saved.saturating_sub(lost);
    let today_rate = (today.requests > 0).then(|| percent(today.hits as f64 / today.requests as f64));
    let tiles = [
        (
            today_rate.unwrap_or_else(|| "–".into()),
            "were answered without the grid today",
            format!("{} in all", all.assets.hit_rate.map_or_else(|| "–".into(), percent)),
        ),
        (
            human_bytes(today.bytes_saved),
            "did not have to come from the grid today",
            format!("{} in all", human_bytes(all.assets.bytes_saved)),
        ),
        (
            duration(net(today.ms_saved, today.ms_lost)),
            "of waiting saved today",
            format!("{} in all", duration(net(all.saved.ms_saved, all.saved.ms_lost))),
        ),
        (
            number(all.requests_in_flight),
            if all.requests_in_flight == 1 { "request under way" } else { "requests under way" },
            format!("{} logged in", counted(all.sessions.open, "avatar")),
        ),
    ];
    let mut html = String::from("<div class=\"tiles\">");
    for (value, what, beside) in tiles {
        let _ = write!(
            html,
            "<div class=\"tile\"><p class=\"value\">{value}</p><p>{what}</p><p class=\"quiet\">{beside}</p></div>"
        );
    }
    html.push_str("</div>");
    html.push_str(
        "<details class=\"how\" id=\"how\"><summary>How this is counted</summary><p>Days are those of UTC. The \
         waiting saved is an estimate: for each hit over HTTP, what the grid usually takes for so many bytes \
         (its median time to the first byte, and its median rate), less what it took here. The times of all \
         requests are added up; a viewer asks for several at once, so a scene is there sooner by less than \
         that. A grid that was never measured counts for nothing, and so does what comes over LLUDP.</p>\
         </details>",
    );
    html
}

fn scene_words(scene: &SceneTime) -> String {
    format!("{}, {}", duration(scene.ms), counted(scene.asked, "request"))
}

fn scene(view: &View) -> String {
    let mut html = String::new();
    if view.here.is_empty() {
        html.push_str("<p class=\"quiet\">Nobody is logged in through rezcache.</p>");
    }
    for (now, name) in &view.here {
        let hits = if now.asked > 0 {
            format!(
                "{} so far, {} answered without the grid",
                counted(now.asked, "request"),
                percent(now.hits as f64 / now.asked as f64)
            )
        } else {
            "nothing has been asked for yet".into()
        };
        let told = match now.progress {
            Progress::Coming if now.asked == 0 => "Arrived; ".to_owned(),
            Progress::Coming => {
                format!("This scene is still coming, {} open; ", counted(now.open, "request"))
            }
            Progress::Complete(took) => {
                let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
                format!("<strong>This scene completed in {}.</strong> ", duration(ms))
            }
            Progress::Unsettled => "This scene has not come to rest in ten minutes; ".to_owned(),
        };
        let known = view.regions.iter().find(|region| region.id == now.region.id());
        let first = known.filter(|region| region.visits > 1).and_then(|region| region.first_scene);
        let first = first
            .map_or_else(String::new, |first| format!(" The first time it took {}.", duration(first.ms)));
        let _ = write!(
            html,
            "<p class=\"here\"><span class=\"place\">{}</span> on {}, since {}<br>{told}{hits}.{first}</p>",
            escape(&name.to_string()),
            escape(now.region.grid.as_str()),
            moment(now.arrived_unix, view.now),
        );
    }
    let before: Vec<_> = view.completed.iter().rev().take(5).collect();
    if !before.is_empty() {
        html.push_str(
            "<div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"The last scenes\"><table><caption>The \
             last scenes</caption><thead><tr><th scope=\"col\">Region</th><th scope=\"col\">Completed \
             in</th><th scope=\"col\">Hit rate</th><th scope=\"col\">Requests</th><th scope=\"col\">Arrived</th>\
             </tr></thead><tbody>",
        );
        for scene in before {
            let ms = u64::try_from(scene.took.as_millis()).unwrap_or(u64::MAX);
            let rate = if scene.asked > 0 { scene.hits as f64 / scene.asked as f64 } else { 0.0 };
            let _ = write!(
                html,
                "<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
                escape(&scene.name.to_string()),
                duration(ms),
                percent(rate),
                number(scene.asked),
                moment(scene.arrived_unix, view.now),
            );
        }
        html.push_str("</tbody></table></div>");
    }
    let _ = write!(
        html,
        "<p class=\"quiet\">A scene is complete when nothing is under way and nothing new was asked for in {} s; \
         its time is from the arrival to the last delivery.</p>",
        QUIET.as_secs()
    );
    html
}

fn regions(view: &View) -> String {
    if view.regions.is_empty() {
        return "<p class=\"quiet\">Regions appear here when they are visited through rezcache. With an asset \
                address alone (VIEWERASSET) rezcache does not see where you are.</p>"
            .into();
    }
    let mut html = String::new();
    if let Some(warm) = &view.prewarm {
        let name = escape(&warm.name.to_string());
        let missing = warm.done.saturating_sub(warm.here + warm.fetched);
        let so_far = format!(
            "{} of {} looked at, {} were here, {} fetched from the shared cache",
            number(warm.done),
            number(warm.total),
            number(warm.here),
            number(warm.fetched)
        );
        let end = match (warm.running, warm.stopped) {
            (true, _) => format!("Warming up {name}: {so_far}. It waits while viewers need the line."),
            (false, true) => format!("Warming up {name} was stopped: {so_far}."),
            (false, false) if warm.done < warm.total => format!("Warming up {name} broke off: {so_far}."),
            (false, false) => {
                let rest = if missing == 0 {
                    "Everything known of it is on this machine.".to_owned()
                } else if warm.has_service {
                    format!(
                        "{} more are neither here nor there; the next visit brings them.",
                        number(missing)
                    )
                } else {
                    format!(
                        "{} more are missing; without a shared cache only a visit brings them.",
                        number(missing)
                    )
                };
                format!("{name} is warmed up: {so_far}. {rest}")
            }
        };
        let stop =
            if warm.running { button(view, "/regions/stop", "Stop warming up") } else { String::new() };
        let _ = write!(html, "<p class=\"note\" id=\"prewarm\">{end} {stop}</p>");
    }
    let store = &view.store;
    if view.regions.iter().any(|region| region.pinned) {
        let wanted: u64 =
            view.regions.iter().filter(|region| region.pinned).map(|region| region.held.1).sum();
        let _ = write!(
            html,
            "<p>Pinned assets take {} of the {} that they may (half of the store).",
            human_bytes(store.pinned_bytes),
            human_bytes(store.pinned_limit)
        );
        // What regions share is counted once in the store, so a small surplus may still fit.
        if wanted > store.pinned_limit && store.pinned_bytes.saturating_mul(10) > store.pinned_limit * 9 {
            html.push_str(
                " <strong>Not everything fits:</strong> what does not is evicted like everything else. Make the \
                 store larger, or release a region.",
            );
        }
        html.push_str("</p>");
    }
    html.push_str("<ul class=\"regions\">");
    for region in &view.regions {
        one_region(&mut html, view, region);
    }
    html.push_str("</ul>");
    if view.more_regions > 0 {
        let _ = write!(
            html,
            "<p class=\"quiet\">{} more are known.</p>",
            counted(view.more_regions as u64, "region")
        );
    }
    html.push_str(
        "<p class=\"quiet\">Pinned: the region's assets are not evicted. Warming up reads what is known of a \
         region into memory, and fetches what is missing from the shared cache, never from the grid. Which \
         regions you visited is kept on this machine only; clearing the store forgets it.</p>",
    );
    html
}

fn one_region(html: &mut String, view: &View, region: &RegionView) {
    let asked = if region.asked == 0 {
        "Nothing was asked for here yet.".to_owned()
    } else {
        format!(
            "{}, {} answered without the grid; {}, {} of them ({}) on disk.",
            counted(region.asked, "request"),
            percent(region.hits as f64 / region.asked as f64),
            counted(region.assets, "different asset"),
            number(region.held.0),
            human_bytes(region.held.1)
        )
    };
    let mut marks = String::new();
    if region.here {
        marks.push_str(" <span class=\"mark\">you are here</span>");
    }
    if region.pinned {
        marks.push_str(" <span class=\"mark\">pinned</span>");
    }
    let scenes = match (region.first_scene, region.last_scene) {
        (Some(first), Some(last)) if first != last => {
            format!(" Last scene: {}; the first one: {}.", scene_words(&last), scene_words(&first))
        }
        (_, Some(last)) => format!(" Scene: {}.", scene_words(&last)),
        _ => String::new(),
    };
    let (x, y) = region.place;
    let _ = write!(
        html,
        "<li><p><span class=\"place\">{}</span>{marks}<br><span class=\"quiet\">{}, at {x}/{y}; known since {}, last \
         entered {}</span></p><p>{asked}{scenes}</p><p class=\"buttons\">{}{}</p></li>",
        escape(&region.name.to_string()),
        escape(&region.grid),
        moment(region.first, view.now),
        moment(region.last, view.now),
        if region.pinned {
            button_for(view, "/regions/unpin", region, "Unpin")
        } else {
            button_for(view, "/regions/pin", region, "Pin")
        },
        button_for(view, "/regions/warm", region, "Warm up"),
    );
}

fn assets(view: &View) -> String {
    let status = &view.status;
    let mut html = String::from(
        "<div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"Requests by kind and tier\"><table>\
         <caption>Requests by kind, and by who delivered the bytes</caption>\n<thead><tr><th scope=\"col\">Kind\
         </th><th scope=\"col\">Hit rate</th>",
    );
    for source in AssetSource::ALL {
        let _ = write!(html, "<th scope=\"col\">{}</th>", source_name(source));
    }
    html.push_str("<th scope=\"col\">Saved</th></tr></thead><tbody>\n");
    let rows = status.by_kind.iter().map(|(kind, assets)| (kind.name(), assets));
    for (name, assets) in rows.chain([("all", &status.assets)]) {
        row(&mut html, name, assets);
    }
    html.push_str("<tr><th scope=\"row\">share</th><td></td>");
    for source in AssetSource::ALL {
        let requests = status.assets.served.get(&source).map_or(0, |served| served.requests);
        let share = (status.assets.requests > 0).then(|| requests as f64 / status.assets.requests as f64);
        let _ = write!(html, "<td>{}</td>", share.map_or_else(|| "–".into(), percent));
    }
    html.push_str(
        "<td></td></tr></tbody></table></div><p class=\"quiet\">Since the first start. Memory, disk and shared \
         cache are hits; “joined” shared the fetch of another request.</p>\n",
    );
    html
}

const fn source_name(source: AssetSource) -> &'static str {
    match source {
        AssetSource::Service => "shared cache",
        other => other.name(),
    }
}

fn row(html: &mut String, name: &str, assets: &Assets) {
    let rate = assets.hit_rate.map_or_else(|| "–".into(), percent);
    let _ = write!(html, "<tr><th scope=\"row\">{name}</th><td>{rate}</td>");
    for source in AssetSource::ALL {
        let requests = assets.served.get(&source).map_or(0, |served| served.requests);
        let _ = write!(html, "<td>{}</td>", number(requests));
    }
    let _ = writeln!(html, "<td>{}</td></tr>", human_bytes(assets.bytes_saved));
}

fn sharing(view: &View) -> String {
    let mut html = String::new();
    match view.status.service_sentence() {
        Some(sentence) => {
            let _ = write!(html, "<p>{}</p>", escape(&sentence));
        }
        None => html.push_str(
            "<p>No shared cache is used. With one, what others have fetched comes from there: start rezcache \
             with --cache-server.</p>",
        ),
    }
    let uploads = &view.status.uploads;
    if !view.uploads {
        html.push_str("<p>Nothing is uploaded.</p>");
        return html;
    }
    let cap = match uploads.limit {
        0 => "without a limit".to_owned(),
        limit => format!("at most {}/s", human_bytes(limit)),
    };
    let state = if uploads.paused { "paused" } else { "running" };
    let _ = write!(
        html,
        "<p>Public assets that the grid sends are shared with it. Uploading is <strong>{state}</strong>, {cap}. \
         {} ({}) wait; {} ({}) were sent, {} were confirmed, {} were not taken and {} dropped.</p>",
        counted(uploads.waiting, "asset"),
        human_bytes(uploads.waiting_bytes),
        counted(uploads.sent, "asset"),
        human_bytes(uploads.bytes),
        number(uploads.attested),
        number(uploads.refused),
        number(uploads.dropped),
    );
    if view.actions {
        let pause = if uploads.paused {
            button(view, "/uploads/resume", "Go on uploading")
        } else {
            button(view, "/uploads/pause", "Pause uploads")
        };
        let _ = write!(
            html,
            "<p class=\"buttons\">{pause}</p><p class=\"field\"><label for=\"limit\">At most, in kilobytes a second \
             (0 is no limit)</label> <input id=\"limit\" name=\"kilobytes_per_second\" form=\"actions\" \
             inputmode=\"numeric\" size=\"7\" maxlength=\"9\" value=\"{}\">{}</p>",
            uploads.limit / 1000,
            button(view, "/uploads/limit", "Set the limit")
        );
    }
    html
}

fn checks(view: &View) -> String {
    let mut html = String::new();
    let (report, running) = match &view.checks {
        ChecksView::None => return html,
        ChecksView::Idle => (None, false),
        ChecksView::Running(before) => (before.as_ref().map(|(report, at)| (report, *at)), true),
        ChecksView::Done(report, at) => (Some((report, *at)), false),
    };
    match report {
        None if !running => html.push_str(
            "<p>It looks at everything that rezcache needs (ports, the grid, the shared cache, clock, disk), and              says what to do where something is missing. It changes nothing.</p>",
        ),
        None => {}
        Some((report, at)) => {
            let _ = write!(
                html,
                "<p><strong>{}</strong> <span class=\"quiet\">Tested at {}.</span></p><ul class=\"checks\">",
                escape(&report.summary),
                moment(at, view.now)
            );
            for check in &report.checks {
                let (class, word) = match check.outcome {
                    Outcome::Ok => ("good", "OK"),
                    Outcome::Warning => ("warning", "Could be better"),
                    Outcome::Failed => ("bad", "Failed"),
                    Outcome::Skipped => ("waiting", "Not tested"),
                };
                let about = check.about.as_ref().map_or_else(String::new, |about| format!("{}: ", escape(about)));
                let advice =
                    check.advice.as_ref().map_or_else(String::new, |it| format!("<br>{}", escape(it)));
                let _ = write!(
                    html,
                    "<li class=\"{class}\"><strong>{word}.</strong> {about}{}{advice}</li>",
                    escape(&check.seen)
                );
            }
            html.push_str("</ul>");
        }
    }
    if running {
        html.push_str("<p class=\"note\">The test is running; its results appear here within a minute.</p>");
    } else {
        let _ = write!(html, "<p class=\"buttons\">{}</p>", button(view, "/self-test", "Run the self-test"));
    }
    html
}

fn viewers(view: &View) -> String {
    let mut html = String::from("<table><tbody>\n");
    for (name, address) in &view.grids {
        let _ = writeln!(
            html,
            "<tr><th scope=\"row\">{}</th><td><code>http://{address}/</code></td></tr>",
            escape(name)
        );
    }
    html.push_str(
        "</tbody></table>\n<p>Firestorm: start it with <code>--grid</code> and the address, or add the address \
         under Preferences, Opensim. Older viewers and text viewers: <code>--loginuri</code> and the address. \
         Other ways are printed when rezcache starts.</p>",
    );
    html
}
