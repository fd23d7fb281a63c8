//! The page of the control port: is it working, and the numbers. Plain HTML, whole from the server,
//! without a script but for the button that pauses uploads.

use std::fmt::Write as _;
use std::net::SocketAddr;

use super::lan::{self, Lan};
use crate::asset::AssetSource;
use crate::support::status::{Assets, Status, human_bytes, percent};

const STYLE: &str = "\
:root{color-scheme:light dark}\
body{font:1rem/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}\
p.state{font-size:1.15rem;border-left:.3rem solid #2e7d32;padding-left:.8rem}\
p.trouble{border-left-color:#c62828}\
table{border-collapse:collapse;width:100%}\
th,td{padding:.25rem .6rem;text-align:right;border-bottom:1px solid #8886}\
th:first-child,td:first-child{text-align:left}\
caption{text-align:left;padding:.25rem 0}";

/// The whole page. `nonce` is the one that the response's policy allows for our style.
pub(super) fn render(
    status: &Status,
    grids: &[(String, SocketAddr)],
    uploads: bool,
    (lan, joins): (&Lan, bool),
    nonce: &str,
) -> String {
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>rezcache</title>\
         <style nonce=\"{nonce}\">{STYLE}</style></head>\n<body><main>\n<h1>rezcache {}</h1>\n\
         <p class=\"state\">{}</p>\n",
        escape(&status.version),
        escape(&status.sentence()),
    );
    if status.store.write_failures > 0 {
        let _ = writeln!(
            html,
            "<p class=\"state trouble\">The store could not take {} assets. Viewers are not affected, but these \
             come from the grid again: is the disk full?</p>",
            status.store.write_failures
        );
    }
    if let Some(sentence) = status.service_sentence() {
        let trouble = status.service.as_ref().is_some_and(|service| service.state != "working");
        let class = if trouble { "state trouble" } else { "state" };
        let _ = writeln!(html, "<p class=\"{class}\">Shared cache: {}</p>", escape(&sentence));
    }
    assets(&mut html, status);
    numbers(&mut html, status);
    if uploads {
        actions(&mut html, status, nonce);
    }
    lan::page::section(&mut html, lan, joins, nonce);
    ports(&mut html, grids);
    html.push_str(
        "<p>For scripts: <a href=\"/status.json\">status.json</a>, <a href=\"/metrics\">metrics</a>. \
         The numbers are of the moment this page was loaded.</p>\n</main></body></html>\n",
    );
    html
}

fn assets(html: &mut String, status: &Status) {
    html.push_str(
        "<h2>Assets</h2>\n<table><caption>Requests over HTTP, by who delivered the bytes</caption>\n\
         <thead><tr><th scope=\"col\">Kind</th><th scope=\"col\">Hit rate</th>",
    );
    for source in AssetSource::ALL {
        let _ = write!(html, "<th scope=\"col\">{}</th>", source.name());
    }
    html.push_str("<th scope=\"col\">Saved</th></tr></thead><tbody>\n");
    let rows = status.by_kind.iter().map(|(kind, assets)| (kind.name(), assets));
    for (name, assets) in rows.chain([("all", &status.assets)]) {
        row(html, name, assets);
    }
    html.push_str("</tbody></table>\n");
}

fn row(html: &mut String, name: &str, assets: &Assets) {
    let rate = assets.hit_rate.map_or_else(|| "–".into(), percent);
    let _ = write!(html, "<tr><th scope=\"row\">{name}</th><td>{rate}</td>");
    for source in AssetSource::ALL {
        let requests = assets.served.get(&source).map_or(0, |served| served.requests);
        let _ = write!(html, "<td>{requests}</td>");
    }
    let _ = writeln!(html, "<td>{}</td></tr>", human_bytes(assets.bytes_saved));
}

fn numbers(html: &mut String, status: &Status) {
    html.push_str("<h2>Now</h2>\n<table><tbody>\n");
    let datagrams = &status.datagrams;
    for (name, value) in [
        ("Running for", uptime(status.uptime_s)),
        ("Logins in progress", status.sessions.open.to_string()),
        ("Requests in flight", status.requests_in_flight.to_string()),
        ("Store", format!("{} assets, {}", status.store.objects, human_bytes(status.store.bytes))),
        (
            "Uploads waiting",
            format!("{} assets, {}", status.uploads.waiting, human_bytes(status.uploads.waiting_bytes)),
        ),
        ("Uploaded", format!("{} assets, {}", status.uploads.sent, human_bytes(status.uploads.bytes))),
        ("Datagrams forwarded", datagrams.forwarded.to_string()),
        ("Datagrams malformed", datagrams.malformed.to_string()),
        ("Datagrams dropped", datagrams.dropped.to_string()),
    ] {
        let _ = writeln!(html, "<tr><th scope=\"row\">{name}</th><td>{value}</td></tr>");
    }
    html.push_str("</tbody></table>\n");
}

/// The buttons work only on a page that was opened with the token, which the server never sees in the
/// page's address.
const SCRIPT: &str = "\
const token=location.hash.slice(1);\
for(const button of document.querySelectorAll('button[data-post]')){\
button.disabled=!token;\
button.onclick=async()=>{\
const answer=await fetch(button.dataset.post,{method:'POST',headers:{Authorization:'Bearer '+token}});\
if(answer.ok)location.reload();else alert(await answer.text())}}";

fn actions(html: &mut String, status: &Status, nonce: &str) {
    let uploads = &status.uploads;
    let cap = match uploads.limit {
        0 => "without a limit".to_owned(),
        limit => format!("at most {}/s", human_bytes(limit)),
    };
    let (state, action, word) = if uploads.paused {
        ("paused", "/uploads/resume", "Go on uploading")
    } else {
        ("running", "/uploads/pause", "Pause uploads")
    };
    let _ = writeln!(
        html,
        "<h2>Uploads</h2>\n<p>Public assets that the grid sends are shared with the cache server. It is {state}, \
         {cap}; {} assets ({}) wait.</p>\n<p><button type=\"button\" disabled data-post=\"{action}\">{word}\
         </button> The button needs the address that rezcache printed when it started.</p>\n\
         <script nonce=\"{nonce}\">{SCRIPT}</script>",
        uploads.waiting,
        human_bytes(uploads.waiting_bytes),
    );
}

fn ports(html: &mut String, grids: &[(String, SocketAddr)]) {
    html.push_str("<h2>Grids</h2>\n<table><tbody>\n");
    for (name, address) in grids {
        let _ = writeln!(
            html,
            "<tr><th scope=\"row\">{}</th><td><code>http://{address}/</code></td></tr>",
            escape(name)
        );
    }
    html.push_str("</tbody></table>\n");
}

/// `3 d 4 h`, `4 h 5 min`, `5 min 6 s`: the two largest units.
pub(super) fn uptime(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// Text that may stand between tags and in quoted attributes.
fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            _ => safe.push(c),
        }
    }
    safe
}
