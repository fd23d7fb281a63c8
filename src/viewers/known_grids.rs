//! Grids that need no address typed.

/// A grid that many know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownGrid {
    /// The word that flags take for it, and its name in our addresses.
    pub word: &'static str,
    /// What people call it.
    pub label: &'static str,
    /// Its login address.
    pub login: &'static str,
}

/// In the order of the question.
pub const KNOWN_GRIDS: [KnownGrid; 6] = [
    KnownGrid {
        word: "agni",
        label: "Second Life",
        login: "https://login.agni.lindenlab.com/cgi-bin/login.cgi",
    },
    KnownGrid { word: "osgrid", label: "OSgrid", login: "http://login.osgrid.org/" },
    KnownGrid { word: "kitely", label: "Kitely", login: "https://grid.kitely.com:8002/" },
    KnownGrid {
        word: "wolfterritories",
        label: "Wolf Territories Grid",
        login: "http://grid.wolfterritories.org:8002/",
    },
    KnownGrid { word: "local", label: "A grid on this machine", login: "http://127.0.0.1:9000/" },
    KnownGrid {
        word: "aditi",
        label: "Second Life Beta",
        login: "https://login.aditi.lindenlab.com/cgi-bin/login.cgi",
    },
];

/// The grid that a word stands for.
#[must_use]
pub fn by_word(word: &str) -> Option<&'static KnownGrid> {
    let lower = word.to_ascii_lowercase();
    let word = match lower.as_str() {
        "secondlife" | "second life" | "sl" => "agni",
        other => other,
    };
    KNOWN_GRIDS.iter().find(|grid| grid.word == word)
}
