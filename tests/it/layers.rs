//! Who may import whom, and what the two lower layers may not touch.
//!
//! The order of the modules is read from the picture in `src/lib.rs`, so that the documentation cannot
//! say anything else than what is held.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What layers 0 and 1 must not name: their callers hand them time and bytes.
const OUTSIDE_WORLD: [&[&str]; 7] = [
    &["tokio"],
    &["Instant", "now"],
    &["SystemTime", "now"],
    &["std", "fs"],
    &["std", "env"],
    &["UdpSocket"],
    &["TcpStream"],
];

#[test]
fn modules_use_only_what_the_picture_allows() {
    let picture = Picture::read(&read(&root().join("src/lib.rs")));
    let mut wrong = Vec::new();
    let mut files = 0;
    for path in sources(&root().join("src")) {
        let place = module_path(&path);
        let Some(module) = place.first() else { continue };
        files += 1;
        wrong.extend(
            picture
                .violations(module, &place, &read(&path))
                .iter()
                .map(|what| format!("{}: {what}", path.strip_prefix(root()).unwrap_or(&path).display())),
        );
    }
    assert!(files > 10, "the sources were not found");
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_module_is_in_the_picture_once() {
    let lib = read(&root().join("src/lib.rs"));
    let picture = Picture::read(&lib);
    let declared: Vec<_> =
        lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    let mut drawn: Vec<_> = picture.rank.keys().map(String::as_str).collect();
    drawn.sort_unstable();
    assert_eq!(declared, drawn);
}

#[test]
fn the_check_finds_what_it_looks_for() {
    let picture = Picture::read("//!  layer 1  top, side   words\n//!  layer 0  low, lowest\n");
    let count = |module: &str, depth: &[&str], text: &str| {
        let place: Vec<_> = depth.iter().map(|&name| name.to_owned()).collect();
        picture.violations(module, &place, text).len()
    };
    let low = |text: &str| count("low", &["low"], text);
    assert_eq!(low("use crate::lowest::X; use crate::low::Y; fn f() { crate::lowest::g() }"), 0);
    assert_eq!(low("use crate::top::X;"), 1, "upward");
    assert_eq!(low("use crate::{lowest::X, side::{self, Y}};"), 1, "upward in a group");
    assert_eq!(low("fn f() { crate::top::g(); }"), 1, "upward without use");
    assert_eq!(low("use super::top::X;"), 1, "upward by super");
    assert_eq!(low("mod tests { use super::*; use super::super::top::X; }"), 1, "by super in a module");
    assert_eq!(low("mod tests { use super::top; }"), 0, "a name of its own");
    assert_eq!(count("low", &["low", "deep"], "use super::top::X;"), 0, "low's own top");
    assert_eq!(count("low", &["low", "deep"], "use super::super::top::X;"), 1);
    assert_eq!(count("lowest", &["lowest"], "use crate::low::X;"), 1, "leftward");
    assert_eq!(count("top", &["top"], "use crate::side::X; use crate::low::Y;"), 0);

    for banned in [
        "use std::fs;",
        "use std::{io, env::var};",
        "fn f() { let now = std::time::Instant::now(); }",
        "fn f() { Instant :: now(); }",
        "use tokio::net as n;",
        "fn f(s: &std::net::UdpSocket) {}",
    ] {
        assert_eq!(low(banned), 1, "{banned}");
    }
    assert_eq!(low("// std::fs\nconst X: &str = \"std::fs\"; /* tokio */ const C: char = '\"'; // tokio"), 0);
    assert_eq!(low("fn f<'a>(x: &'a str) { r#\"tokio\"#; b\"tokio\"; }"), 0);
    assert_eq!(low("#[cfg(test)]\nmod tests { use std::fs; }"), 0, "tests may read fixtures");
    assert_eq!(low("#[cfg(test)]\nmod tests { } use std::fs;"), 1, "but what follows them may not");
}

/// The layers and the order within them.
struct Picture {
    /// Module → (layer, place from the left).
    rank: BTreeMap<String, (usize, usize)>,
}

impl Picture {
    /// Reads lines such as `//!  layer 1  session, fetch   what they are`.
    fn read(lib: &str) -> Self {
        let mut rank = BTreeMap::new();
        for line in lib.lines() {
            let Some(rest) = line.trim_start_matches("//!").trim_start().strip_prefix("layer ") else {
                continue;
            };
            let Some((number, rest)) = rest.split_once("  ") else { continue };
            let Ok(layer) = number.parse() else { continue };
            let names = rest.trim_start().split("  ").next().unwrap_or_default();
            for (place, name) in names.split(',').enumerate() {
                let twice = rank.insert(name.trim().to_owned(), (layer, place));
                assert!(twice.is_none(), "{name} is in the picture twice");
            }
        }
        Self { rank }
    }

    /// What is wrong in a file that belongs to `module` and lies at `place` (the module path).
    fn violations(&self, module: &str, place: &[String], text: &str) -> Vec<String> {
        let Some(&(layer, column)) = self.rank.get(module) else {
            return vec![format!("{module} is not in the picture of src/lib.rs")];
        };
        let is_test_file = place.iter().any(|name| name == "tests");
        let mut wrong = BTreeSet::new();
        for used in paths(text) {
            if let Some(target) = used.top_level(place)
                && let Some(&(other_layer, other_column)) = self.rank.get(target)
                && target != module
                && (other_layer > layer || (other_layer == layer && other_column < column))
            {
                wrong.insert(format!("{module} must not use {target} (layer {layer} and {other_layer})"));
            }
            let names = |banned: &&&[&str]| used.segments.windows(banned.len()).any(|part| part == **banned);
            if layer <= 1
                && !is_test_file
                && !used.in_tests
                && let Some(banned) = OUTSIDE_WORLD.iter().find(names)
            {
                wrong.insert(format!("layer {layer} must not use {}", banned.join("::")));
            }
        }
        wrong.into_iter().collect()
    }
}

/// A path in the code, with `use` groups taken apart.
struct UsedPath {
    segments: Vec<String>,
    /// How many `mod x { … }` of this file are around it.
    depth: usize,
    /// Whether one of them is `#[cfg(test)]`.
    in_tests: bool,
}

impl UsedPath {
    /// The top-level module it leads to, if it says so: by `crate::`, or by enough `super::`.
    fn top_level(&self, place: &[String]) -> Option<&str> {
        let supers = self.segments.iter().take_while(|segment| *segment == "super").count();
        let is_rooted = match self.segments.first()?.as_str() {
            "crate" => return self.segments.get(1).map(String::as_str),
            "super" => supers == place.len() + self.depth,
            _ => false,
        };
        is_rooted.then(|| self.segments.get(supers).map(String::as_str))?
    }
}

/// Every path of a source text, outside comments and literals.
fn paths(text: &str) -> Vec<UsedPath> {
    let tokens = tokens(text);
    let at = |i: usize| tokens.get(i).map_or("", String::as_str);
    let mut found = Vec::new();
    // For each open brace: whether it belongs to a module, and whether that is one of tests.
    let mut open: Vec<(bool, bool)> = Vec::new();
    let mut next_is_module = None;
    let mut i = 0;
    while i < tokens.len() {
        match at(i) {
            "mod" if at(i + 2) == "{" => {
                let attribute = ["#", "[", "cfg", "(", "test", ")", "]"];
                let tests = i >= attribute.len()
                    && attribute.iter().enumerate().all(|(k, token)| at(i - attribute.len() + k) == *token);
                next_is_module = Some(tests);
                i += 2;
                continue;
            }
            "{" => open.push(next_is_module.take().map_or((false, false), |tests| (true, tests))),
            "}" => {
                open.pop();
            }
            token if is_name(token) => {
                let mut segment_lists = Vec::new();
                i = tree(&tokens, i, &[], &mut segment_lists);
                let depth = open.iter().filter(|(module, _)| *module).count();
                let in_tests = open.iter().any(|(_, tests)| *tests);
                found.extend(segment_lists.into_iter().map(|segments| UsedPath {
                    segments,
                    depth,
                    in_tests,
                }));
                continue;
            }
            _ => {}
        }
        i += 1;
    }
    found
}

/// Reads `a::b::{c, d::e}` from `i` on; adds each path that it stands for; returns where it ends.
fn tree(tokens: &[String], mut i: usize, prefix: &[String], found: &mut Vec<Vec<String>>) -> usize {
    let at = |i: usize| tokens.get(i).map_or("", String::as_str);
    let mut segments = prefix.to_vec();
    while is_name(at(i)) {
        segments.push(at(i).to_owned());
        i += 1;
        if at(i) != "::" {
            break;
        }
        i += 1;
        if at(i) == "{" {
            i += 1;
            while !matches!(at(i), "}" | "") {
                // Between the names are commas and stars.
                i = if is_name(at(i)) { tree(tokens, i, &segments, found) } else { i + 1 };
            }
            return i + 1;
        }
    }
    found.push(segments);
    i
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Names, `::`, and single other characters; comments and literals are left out.
fn tokens(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let mut tokens = Vec::new();
    let mut i = 0;
    while i < chars.len() {
        match at(i) {
            '/' if at(i + 1) == '/' => {
                while i < chars.len() && at(i) != '\n' {
                    i += 1;
                }
            }
            '/' if at(i + 1) == '*' => {
                while i < chars.len() && !(at(i) == '*' && at(i + 1) == '/') {
                    i += 1;
                }
                i += 2;
            }
            '"' => i = after_string(&chars, i),
            'r' | 'b' | 'c' if raw_hashes(&chars, i).is_some() => {
                let (start, hashes) = raw_hashes(&chars, i).unwrap_or_default();
                let end: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
                i = start + 1;
                while i < chars.len() && !chars[i..].starts_with(&end) {
                    i += 1;
                }
                i += end.len();
            }
            // A character literal, unless it is a lifetime.
            '\'' if at(i + 1) == '\\' || at(i + 2) == '\'' => {
                i += if at(i + 1) == '\\' { 3 } else { 2 };
                while i < chars.len() && at(i) != '\'' {
                    i += 1;
                }
                i += 1;
            }
            ':' if at(i + 1) == ':' => {
                tokens.push("::".into());
                i += 2;
            }
            c if c.is_alphanumeric() || c == '_' => {
                let start = i;
                while at(i).is_alphanumeric() || at(i) == '_' {
                    i += 1;
                }
                tokens.push(chars[start..i].iter().collect());
            }
            c => {
                if !c.is_whitespace() {
                    tokens.push(c.to_string());
                }
                i += 1;
            }
        }
    }
    tokens
}

/// For `r"`, `r#"`, `br"` …: where the quote is and how many `#` it has.
fn raw_hashes(chars: &[char], i: usize) -> Option<(usize, usize)> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    if i > 0 && is_word(chars[i - 1]) {
        return None;
    }
    let r = if chars[i] == 'r' { i } else { i + 1 };
    if chars.get(r) != Some(&'r') {
        return None;
    }
    let hashes = chars[r + 1..].iter().take_while(|c| **c == '#').count();
    (chars.get(r + 1 + hashes) == Some(&'"')).then_some((r + 1 + hashes, hashes))
}

fn after_string(chars: &[char], mut i: usize) -> usize {
    i += 1;
    while i < chars.len() && chars[i] != '"' {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    i + 1
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() {
            found.extend(sources(&entry));
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            found.push(entry);
        }
    }
    found.sort();
    found
}

/// `src/proxy/udp.rs` → `[proxy, udp]`; empty for `lib.rs` and `main.rs`.
fn module_path(path: &Path) -> Vec<String> {
    let inside = path.strip_prefix(root().join("src")).expect("a source").with_extension("");
    let mut names: Vec<_> = inside.iter().map(|name| name.to_string_lossy().into_owned()).collect();
    if names.last().is_some_and(|name| matches!(name.as_str(), "mod" | "lib" | "main")) {
        names.pop();
    }
    names
}
