//! The part of the page about shared caches at home: which were joined, which others are in the network, and
//! where to paste a join line. The line itself, which is a secret, is nowhere on it.

use std::fmt::Write as _;

use super::sections::button;
use super::text::escape;
use super::view::View;

/// The part; `None` where nothing can be joined.
pub(super) fn render(view: &View) -> Option<String> {
    let (home, auto) = view.home.as_ref()?;
    let mut html = String::new();
    if !home.joined.is_empty() {
        html.push_str(
            "<table><thead><tr><th scope=\"col\">Server</th><th scope=\"col\">State</th></tr></thead><tbody>",
        );
        for server in &home.joined {
            let state = match (server.used, server.writes) {
                (true, true) => "in use",
                (true, false) => "in use, for reading",
                (false, _) => "joined; not in use now",
            };
            let (address, name) = (server.address, escape(&server.name.to_string()));
            let _ = write!(html, "<tr><th scope=\"row\">{address} ({name})</th><td>{state}</td></tr>");
        }
        html.push_str("</tbody></table>");
    }
    for server in &home.unknown {
        let _ = write!(
            html,
            "<p>In your network there is a shared cache that you have not joined, at {} ({}). If you know whose it \
             is, ask for its join line.</p>",
            server.address,
            escape(server.pin.short()),
        );
    }
    if html.is_empty() {
        html.push_str(
            "<p>None was joined. One computer that stays on can serve all of a household or a classroom.</p>",
        );
    }
    if view.actions {
        let when = if *auto { "" } else { " It is used when rezcache is started with --cache-server auto." };
        let _ = write!(
            html,
            "<p class=\"field\"><label for=\"join-line\">Join line, from the person who runs it</label> \
             <input id=\"join-line\" name=\"line\" form=\"actions\" type=\"password\" autocomplete=\"off\" size=\"24\" \
             maxlength=\"8192\" value=\"\">{}</p>\
             <p class=\"field\"><label><input name=\"upload\" value=\"yes\" form=\"actions\" type=\"checkbox\"> Also give it \
             what the grid sends me of public assets, so that others here get it from there</label></p>\
             <p class=\"note\">The line is a secret.{when}</p>",
            button(view, "/join", "Join")
        );
    }
    Some(html)
}
