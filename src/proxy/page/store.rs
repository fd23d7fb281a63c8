//! The part of the page about the store, where its size is changed and it is cleared.

use std::fmt::Write as _;

use super::sections::button;
use super::text::number;
use super::view::View;
use crate::support::status::human_bytes;

/// How full it is, its size, and what clears it.
pub(super) fn render(view: &View) -> String {
    let store = &view.store;
    let mut html = String::new();
    if store.disk_limit == 0 {
        html.push_str(
            "<p>The store on disk cannot be used; assets are kept in memory until rezcache ends.</p>",
        );
    } else {
        let share = store.disk_bytes as f64 / store.disk_limit.max(1) as f64;
        let _ = write!(
            html,
            "<p>{} assets, {} of {} on disk{}; {} in memory.</p><progress max=\"100\" value=\"{:.0}\" \
             aria-label=\"How full the store is\"></progress>",
            number(store.disk_objects),
            human_bytes(store.disk_bytes),
            human_bytes(store.disk_limit),
            if store.scanning { " (still being counted)" } else { "" },
            human_bytes(store.memory_bytes),
            (share * 100.0).min(100.0),
        );
        let remembered = if view.size_fixed {
            "--cache-size, its environment variable or the configuration file says how large it is; a change here \
             holds until rezcache is started again."
        } else {
            "A change takes effect at once and is remembered. --cache-size and the configuration file go before \
             what is set here."
        };
        if view.actions {
            let mib = store.disk_limit >> 20;
            let _ = write!(
                html,
                "<p class=\"field\"><label for=\"size\">Size in MiB (1024 MiB are 1 GiB)</label> <input id=\"size\" \
                 name=\"mebibytes\" form=\"actions\" inputmode=\"numeric\" size=\"9\" maxlength=\"9\" \
                 value=\"{mib}\">{}</p>",
                button(view, "/store/size", "Change the size")
            );
        }
        let _ = write!(html, "<p class=\"quiet\">{remembered}</p>");
    }
    if view.actions {
        let _ = write!(
            html,
            "<p class=\"field\"><input type=\"checkbox\" id=\"sure\" name=\"sure\" value=\"yes\" form=\"actions\"> \
             <label for=\"sure\">Yes, remove all assets, and forget the regions and their pins</label>{}</p>",
            button(view, "/store/clear", "Clear the store")
        );
    }
    html
}
