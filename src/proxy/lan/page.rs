//! The part of the page about shared caches at home: which were joined, which others are in the network, and
//! where to paste a join line. The line itself, which is a secret, is nowhere on it.

use std::fmt::Write as _;

use super::Lan;

/// The section, with a form where anybody `joins` here. Its form posts to `/join` by script, with the token of the page's address.
pub(crate) fn section(html: &mut String, lan: &Lan, joins: bool, nonce: &str) {
    let view = lan.view();
    html.push_str("<h2>Shared caches at home</h2>\n");
    if !view.joined.is_empty() {
        html.push_str("<table><tbody>\n");
        for server in &view.joined {
            let state = match (server.used, server.writes) {
                (true, true) => "in use",
                (true, false) => "in use, for reading",
                (false, _) => "joined; not in use now",
            };
            let _ = writeln!(
                html,
                "<tr><th scope=\"row\"><code>{}</code> ({})</th><td>{state}</td></tr>",
                server.address, server.name
            );
        }
        html.push_str("</tbody></table>\n");
    }
    for server in &view.unknown {
        let _ = writeln!(
            html,
            "<p>In your network there is a shared cache that you have not joined, at <code>{}</code> ({}). If you \
             know whose it is, ask for its join line, and paste it here.</p>",
            server.address,
            server.pin.short()
        );
    }
    if !joins {
        return;
    }
    let when = if lan.is_auto() {
        ""
    } else {
        " It is used when rezcache is started with <code>--cache-server auto</code>."
    };
    let _ = writeln!(
        html,
        "<p><label for=\"join-line\">Join line of a shared cache, from the person who runs it:</label><br>\
         <input id=\"join-line\" type=\"password\" autocomplete=\"off\" size=\"40\" maxlength=\"8192\"></p>\n\
         <p><label><input id=\"join-upload\" type=\"checkbox\"> Also give it what the grid sends me of public \
         assets, so that others here get it from there</label></p>\n\
         <p><button type=\"button\" id=\"join\" disabled>Join</button> The button needs the address that rezcache \
         printed when it started.{when}</p>\n<p id=\"join-answer\" role=\"status\"></p>\n\
         <script nonce=\"{nonce}\">{SCRIPT}</script>"
    );
}

const SCRIPT: &str = "{\
const token=location.hash.slice(1),id=name=>document.getElementById(name),button=id('join');\
button.disabled=!token;\
button.onclick=async()=>{\
const upload=id('join-upload').checked?'yes':'no';\
const answer=await fetch('/join?upload='+upload,{method:'POST',body:id('join-line').value,\
headers:{Authorization:'Bearer '+token}});\
id('join-line').value='';\
id('join-answer').textContent=await answer.text()}}";
