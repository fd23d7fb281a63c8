//! The kinds of viewers, as far as they differ for us.

use std::fmt;
use std::str::FromStr;

/// A family of viewers that is started and set up in one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Firestorm and what is built from it.
    Firestorm,
    /// Linden Lab's own.
    Official,
    /// Alchemy.
    Alchemy,
    /// Cool VL Viewer.
    CoolVl,
    /// Singularity.
    Singularity,
    /// Kokua.
    Kokua,
    /// Radegast, a text viewer.
    Radegast,
    /// Any other program.
    Other,
}

/// How a viewer is told of a login address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// `--grid ADDRESS`; it asks the address who it is.
    GridAddress,
    /// `--grid KEY`, with an entry in this file of its user settings.
    GridFile(&'static str),
    /// `--loginuri ADDRESS`.
    LoginUri,
}

/// Parts of program names that are none of a viewer itself.
const NOT_A_VIEWER: [&str; 10] = [
    "uninst",
    "crash",
    "updater",
    "plugin",
    "voice",
    "setup",
    "install.",
    "installer",
    "webhelper",
    "checker",
];

impl Kind {
    /// All that have a name.
    pub const NAMED: [Self; 7] = [
        Self::Firestorm,
        Self::Official,
        Self::Alchemy,
        Self::CoolVl,
        Self::Singularity,
        Self::Kokua,
        Self::Radegast,
    ];

    /// The word that flags and files use.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Firestorm => "firestorm",
            Self::Official => "secondlife",
            Self::Alchemy => "alchemy",
            Self::CoolVl => "coolvl",
            Self::Singularity => "singularity",
            Self::Kokua => "kokua",
            Self::Radegast => "radegast",
            Self::Other => "other",
        }
    }

    /// What people call it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Firestorm => "Firestorm",
            Self::Official => "Second Life Viewer",
            Self::Alchemy => "Alchemy",
            Self::CoolVl => "Cool VL Viewer",
            Self::Singularity => "Singularity",
            Self::Kokua => "Kokua",
            Self::Radegast => "Radegast",
            Self::Other => "the viewer",
        }
    }

    /// The kind of a program by the last part of its path, with or without its ending.
    #[must_use]
    pub fn of_file_name(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        if NOT_A_VIEWER.iter().any(|part| name.contains(part)) {
            return None;
        }
        Self::of_name(&name)
    }

    /// The kind of a folder of programs by its name.
    pub(super) fn of_folder_name(name: &str) -> Option<Self> {
        Self::of_name(&name.to_ascii_lowercase())
    }

    fn of_name(lower: &str) -> Option<Self> {
        let bare: String = lower.chars().filter(char::is_ascii_alphanumeric).collect();
        // Forks of the official viewer have its name in theirs, so it comes last.
        let marks: [(&str, Self); 8] = [
            ("firestorm", Self::Firestorm),
            ("alchemy", Self::Alchemy),
            ("coolvl", Self::CoolVl),
            ("singularity", Self::Singularity),
            ("kokua", Self::Kokua),
            ("radegast", Self::Radegast),
            ("secondlife", Self::Official),
            ("sllauncher", Self::Official),
        ];
        marks.iter().find(|(mark, _)| bare.contains(mark)).map(|(_, kind)| *kind)
    }

    pub(super) const fn way(self) -> Way {
        match self {
            Self::Firestorm => Way::GridAddress,
            Self::Official => Way::GridFile("grids.xml"),
            Self::Alchemy => Way::GridFile("grids_user.xml"),
            Self::CoolVl | Self::Singularity | Self::Kokua | Self::Radegast | Self::Other => Way::LoginUri,
        }
    }

    /// Whether it is known to take its assets from where the environment variable `VIEWERASSET` says.
    pub(super) const fn honours_asset_address(self) -> bool {
        matches!(self, Self::Firestorm | Self::Official | Self::Alchemy | Self::Kokua)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let lower = text.to_ascii_lowercase();
        let all = Self::NAMED.into_iter().chain([Self::Other]);
        if let Some(kind) = all.clone().find(|kind| kind.word() == lower) {
            return Ok(kind);
        }
        if lower == "official" {
            return Ok(Self::Official);
        }
        let words: Vec<_> = all.map(Self::word).collect();
        Err(format!("{text:?} is no kind of viewer; there are {}", words.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::Kind;

    #[test]
    fn programs_are_known_by_their_names() {
        for (name, kind) in [
            ("Firestorm-Releasex64.exe", Some(Kind::Firestorm)),
            ("FirestormOS-Releasex64.exe", Some(Kind::Firestorm)),
            ("do-not-directly-run-firestorm-bin", Some(Kind::Firestorm)),
            ("firestorm", Some(Kind::Firestorm)),
            ("SecondLifeViewer.exe", Some(Kind::Official)),
            ("Second Life Viewer", Some(Kind::Official)),
            ("SL_Launcher", Some(Kind::Official)),
            ("AlchemyViewer.exe", Some(Kind::Alchemy)),
            ("cool_vl_viewer", Some(Kind::CoolVl)),
            ("CoolVLViewer-x86_64-1.32.2.9", Some(Kind::CoolVl)),
            ("SingularityViewer.exe", Some(Kind::Singularity)),
            ("kokua-bin", Some(Kind::Kokua)),
            ("Radegast.exe", Some(Kind::Radegast)),
            ("uninstall-Firestorm.exe", None),
            ("firestorm-crash-logger", None),
            ("SLPlugin.exe", None),
            ("SLVersionChecker.exe", None),
            ("true", None),
        ] {
            assert_eq!(Kind::of_file_name(name), kind, "{name}");
        }
    }

    #[test]
    fn every_word_is_understood_and_others_teach() {
        for kind in Kind::NAMED {
            assert_eq!(kind.word().parse(), Ok(kind));
        }
        assert_eq!("Official".parse(), Ok(Kind::Official));
        assert!("netscape".parse::<Kind>().unwrap_err().contains("firestorm, secondlife"));
    }
}
