//! The page of the control port: is it working, and the numbers. Plain HTML, whole from the server; it works
//! without JavaScript and in a viewer's built-in browser. A script keeps it up to date and spares pasting
//! the key.
//!
//! Whatever is shown is shown to whoever can reach the port: no ids of people, no tokens, no addresses of
//! the grid's. Names that grids and users chose are escaped where they are written.

use std::fmt::Write as _;

mod home;
mod plot;
mod sections;
mod store;
mod verdict;
pub(super) mod view;

use crate::support::page_text as text;
#[cfg(test)]
pub(super) use text::uptime;
use text::{escape, moment};
use view::View;

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

/// What has just been done, as the page says it after a form was sent without a script.
pub(super) struct Said {
    pub(super) text: &'static str,
}

/// The parts of the page that change, by their ids.
pub(super) fn parts(view: &View) -> Vec<(&'static str, String)> {
    sections::all(view).into_iter().map(|section| (section.id, section.html)).collect()
}

/// The whole page. `nonce` is the one that the response's policy allows for our style and script.
pub(super) fn render(view: &View, said: Option<&Said>, nonce: &str) -> String {
    let mut html = head("rezcache", nonce);
    let _ = write!(
        html,
        "<header><h1>rezcache</h1><p class=\"quiet\">Version {}, running since {}</p></header>\n<main>\n<p id=\"said\" \
         class=\"said\" role=\"status\">{}</p>\n",
        escape(&view.status.version),
        moment(view.started, view.now),
        said.map_or("", |said| said.text),
    );
    for section in sections::all(view) {
        let _ = writeln!(
            html,
            "<section aria-labelledby=\"about-{0}\"><h2 id=\"about-{0}\">{1}</h2><div id=\"{0}\">{2}</div>\
             </section>",
            section.id, section.title, section.html
        );
    }
    if view.actions {
        key(&mut html);
    }
    let _ = write!(
        html,
        "</main>\n<footer><p class=\"quiet\"><span id=\"live\">These are the numbers of when the page was loaded; \
         load it again for newer ones.</span> For scripts: <a href=\"/status.json\">status.json</a>, <a \
         href=\"/regions.json\">regions.json</a>, <a href=\"/metrics\">metrics</a>.</p></footer>\n<script \
         nonce=\"{nonce}\">{SCRIPT}</script>\n</body></html>\n"
    );
    html
}

/// The form that every button belongs to. Its first button, which a press of Enter in any field means, only
/// tries the key.
fn key(html: &mut String) {
    html.push_str(
        "<section aria-labelledby=\"about-key\"><h2 id=\"about-key\">Key for changes</h2>\n<form id=\"actions\" \
         method=\"post\" action=\"/key\" autocomplete=\"off\"><p class=\"when-unlocked\">The buttons on this page \
         work: it was opened with its key.</p><div class=\"when-locked\"><p>Looking is free; the buttons need the \
         key, so that no web page and no other user of this computer can press them. Open the page by the address \
         with <code>#</code> that rezcache printed when it started, or by what <code>rezcache status --address\
         </code> prints, or paste that address or the key (it is in the file <code>control-token</code> in the data \
         directory) here:</p><p class=\"field\"><label for=\"token\">Key</label> <input id=\"token\" name=\"token\" \
         size=\"34\" maxlength=\"200\" spellcheck=\"false\" autocapitalize=\"off\" autocomplete=\"off\"><button \
         type=\"submit\">Try the key</button></p><noscript><p class=\"quiet\">Without JavaScript the key is needed \
         for each change: paste it here, then press the button of what you want.</p></noscript></div></form>\
         </section>\n",
    );
}

/// A page that says what did not work.
pub(super) fn trouble(sentence: &str, nonce: &str) -> String {
    let mut html = head("rezcache: not done", nonce);
    let _ = write!(
        html,
        "<header><h1>rezcache</h1></header>\n<main><section><h2>That was not done</h2><p class=\"verdict bad\">{}</p>\
         <p><a href=\"/\">Back to the page</a></p></section></main>\n</body></html>\n",
        escape(sentence)
    );
    html
}

fn head(title: &str, nonce: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\"><meta name=\"color-scheme\" content=\"light dark\">\
         <title>{title}</title><style nonce=\"{nonce}\">{STYLE}</style></head>\n<body>\n"
    )
}

#[cfg(test)]
mod tests;
