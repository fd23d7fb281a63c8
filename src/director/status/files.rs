//! Style, script and icon: files of their own, so that the page's policy need not allow anything inline. Their paths
//! carry a hash of what is in them, so that browsers may keep them.

use std::sync::LazyLock;

pub(super) const STYLE: &str = include_str!("style.css");
pub(super) const SCRIPT: &str = include_str!("script.js");
pub(super) const ICON: &str = "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 16 16\"><rect width=\"16\" \
     height=\"16\" rx=\"4\" fill=\"#0a6b74\"/><path d=\"M4 8.4l2.6 2.7L12 5.4\" fill=\"none\" stroke=\"#fff\" \
     stroke-width=\"2\" stroke-linecap=\"round\" stroke-linejoin=\"round\"/></svg>\n";

pub(super) static STYLE_PATH: LazyLock<String> = LazyLock::new(|| path(STYLE, "css"));
pub(super) static SCRIPT_PATH: LazyLock<String> = LazyLock::new(|| path(SCRIPT, "js"));

fn path(text: &str, kind: &str) -> String {
    let hash = blake3::hash(text.as_bytes()).to_hex();
    format!("/files/{}.{kind}", hash.get(..16).unwrap_or("0"))
}
