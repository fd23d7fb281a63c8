//! Where systems install viewers and keep their settings.
//!
//! Installed programs are known by the names of their folders and files; a settings folder by
//! `user_settings/settings.xml`, which every viewer writes when it runs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::kind::Kind;

/// A system, as far as it has rules of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum System {
    /// Windows.
    Windows,
    /// macOS.
    MacOs,
    /// Linux, and what is like it.
    Linux,
}

/// What lies in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Whether it is a folder.
    pub is_folder: bool,
}

/// Looks into folders.
pub trait Folders {
    /// What lies in a folder; nothing when it cannot be read.
    fn list(&self, folder: &Path) -> Vec<Entry>;
    /// The beginning of a text file.
    fn read(&self, file: &Path) -> Option<String>;
}

/// A machine to look at.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Which rules hold.
    pub system: System,
    /// The environment variables that name folders; names as they are written on that system.
    pub environment: BTreeMap<String, String>,
}

/// A viewer that was found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Installed {
    /// Its kind.
    pub kind: Kind,
    /// What to start.
    pub program: PathBuf,
    /// What its folder or file is called, which tells two of a kind apart.
    pub name: String,
}

/// The names of the program itself, lower case, best first.
const fn program_names(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Firestorm => &["firestorm", "firestorm-releasex64", "firestormos-releasex64", "firestorm-bin"],
        Kind::Official => &["secondlifeviewer", "secondlife", "second life viewer", "sl_launcher"],
        Kind::Alchemy => &["alchemyviewer", "alchemy", "alchemy viewer"],
        Kind::CoolVl => &["coolvlviewer", "cool_vl_viewer", "cool vl viewer"],
        Kind::Singularity => &["singularityviewer", "singularity"],
        Kind::Kokua => &["kokua", "kokuaviewer"],
        Kind::Radegast => &["radegast"],
        Kind::Other => &[],
    }
}

impl Machine {
    fn variable(&self, name: &str) -> Option<PathBuf> {
        self.environment.get(name).filter(|value| !value.is_empty()).map(PathBuf::from)
    }

    /// Every viewer that is found, those of one kind together.
    #[must_use]
    pub fn viewers(&self, folders: &dyn Folders) -> Vec<Installed> {
        let mut found = BTreeSet::new();
        match self.system {
            System::Windows => self.on_windows(folders, &mut found),
            System::MacOs => self.on_macos(folders, &mut found),
            System::Linux => self.on_linux(folders, &mut found),
        }
        let mut programs = BTreeSet::new();
        found.into_iter().filter(|viewer| programs.insert(viewer.program.clone())).collect()
    }

    fn on_windows(&self, folders: &dyn Folders, found: &mut BTreeSet<Installed>) {
        let mut bases = Vec::new();
        for name in ["ProgramFiles", "ProgramW6432", "ProgramFiles(x86)", "LOCALAPPDATA"] {
            bases.extend(self.variable(name));
        }
        bases.extend(self.variable("LOCALAPPDATA").map(|folder| folder.join("Programs")));
        for base in bases {
            for (kind, folder, name) in viewers_folders(folders, &base) {
                let programs = files(folders, &folder);
                let exes = programs.iter().filter_map(|file| Some((file, ending(file, ".exe")?)));
                if let Some(file) = best(kind, exes) {
                    found.insert(Installed { kind, program: folder.join(file), name });
                }
            }
        }
    }

    fn on_macos(&self, folders: &dyn Folders, found: &mut BTreeSet<Installed>) {
        let mut bases = vec![PathBuf::from("/Applications")];
        bases.extend(self.variable("HOME").map(|home| home.join("Applications")));
        for base in bases {
            for (kind, folder, name) in viewers_folders(folders, &base) {
                let Some(bare) = ending(&name, ".app") else { continue };
                if let Some(program) = program_of_bundle(folders, &folder) {
                    found.insert(Installed { kind, program, name: bare.to_owned() });
                }
            }
        }
    }

    fn on_linux(&self, folders: &dyn Folders, found: &mut BTreeSet<Installed>) {
        let home = self.variable("HOME");
        let mut bases: Vec<PathBuf> =
            ["/opt", "/usr/local", "/usr/local/games", "/usr/local/lib"].map(PathBuf::from).into();
        for inner in ["", "opt", "bin", "Applications", "Games", "games", ".local/opt", ".local/share"] {
            bases.extend(home.as_ref().map(|home| home.join(inner)));
        }
        for base in bases {
            for (kind, folder, name) in viewers_folders(folders, &base) {
                let programs = files(folders, &folder);
                // Starters have no ending, or that of the version; libraries and texts have one.
                let starters =
                    programs.iter().filter(|file| !has_text_ending(file)).map(|file| (file, &**file));
                if let Some(file) = best(kind, starters) {
                    found.insert(Installed { kind, program: folder.join(file), name });
                }
            }
            for file in files(folders, &base) {
                if let Some(bare) = ending(&file, ".appimage")
                    && let Some(kind) = Kind::of_file_name(bare)
                {
                    found.insert(Installed { kind, program: base.join(&file), name: bare.to_owned() });
                }
            }
        }
        let path = self.environment.get("PATH").map(String::as_str).unwrap_or_default();
        for folder in path.split(':').filter(|folder| folder.starts_with('/')).take(64) {
            for file in files(folders, Path::new(folder)) {
                if let Some(kind) = on_path(&file) {
                    found.insert(Installed { kind, program: Path::new(folder).join(&file), name: file });
                }
            }
        }
        self.in_menus(folders, home.as_deref(), found);
    }

    /// What desktop files start.
    fn in_menus(&self, folders: &dyn Folders, home: Option<&Path>, found: &mut BTreeSet<Installed>) {
        let own = self.variable("XDG_DATA_HOME").or_else(|| home.map(|home| home.join(".local/share")));
        let mut menus: Vec<PathBuf> = own.iter().map(|folder| folder.join("applications")).collect();
        menus.extend(["/usr/local/share/applications", "/usr/share/applications"].map(PathBuf::from));
        menus.extend(home.map(|home| home.join("Desktop")));
        for menu in menus {
            for file in files(folders, &menu) {
                let Some(name) = ending(&file, ".desktop") else { continue };
                let Some(text) = folders.read(&menu.join(&file)) else { continue };
                let Some(program) = started_by(&text) else { continue };
                let started = program.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                let known = Kind::of_file_name(started).filter(|kind| {
                    *kind != Kind::Singularity || program.parent() != Some(Path::new("/usr/bin"))
                });
                // One that was found by its folder keeps that name.
                if let Some(kind) = known
                    && program.is_absolute()
                    && !found.iter().any(|other| other.program == program)
                {
                    found.insert(Installed { kind, program, name: name.to_owned() });
                }
            }
        }
    }
}

/// The program within a macOS application: the one that a viewer's name begins, else the only one.
#[must_use]
pub fn program_of_bundle(folders: &dyn Folders, bundle: &Path) -> Option<PathBuf> {
    let inside = bundle.join("Contents").join("MacOS");
    let programs = files(folders, &inside);
    let kind = bundle.file_name().and_then(|name| Kind::of_folder_name(name.to_str()?));
    let best = kind.and_then(|kind| best(kind, programs.iter().map(|file| (file, &**file))));
    let only = || if let [only] = &programs[..] { Some(only) } else { None };
    best.or_else(only).map(|file| inside.join(file))
}

/// The settings folders that a kind of viewer may have, best first: those that it has used before all others.
#[must_use]
pub fn settings_folders(machine: &Machine, folders: &dyn Folders, kind: Kind) -> Vec<PathBuf> {
    let (base, names): (Option<PathBuf>, &[&str]) = match machine.system {
        System::Windows => (
            machine.variable("APPDATA"),
            match kind {
                Kind::Firestorm => &["Firestorm_x64", "FirestormOS_x64", "Firestorm", "FirestormOS"],
                Kind::Official => &["SecondLife"],
                Kind::Alchemy => &["Alchemy", "AlchemyNext"],
                Kind::CoolVl => &["CoolVLViewer", "SecondLife"],
                Kind::Singularity => &["SecondLife", "Singularity"],
                Kind::Kokua => &["Kokua", "Kokua64"],
                Kind::Radegast | Kind::Other => &[],
            },
        ),
        System::MacOs => (
            machine.variable("HOME").map(|home| home.join("Library").join("Application Support")),
            match kind {
                Kind::Firestorm => &["Firestorm", "Firestorm_x64", "FirestormOS"],
                Kind::Official => &["SecondLife"],
                Kind::Alchemy => &["Alchemy", "AlchemyNext"],
                Kind::CoolVl => &["CoolVLViewer", "SecondLife"],
                Kind::Singularity => &["SecondLife", "Singularity"],
                Kind::Kokua => &["Kokua"],
                Kind::Radegast | Kind::Other => &[],
            },
        ),
        System::Linux => (
            machine.variable("HOME"),
            match kind {
                Kind::Firestorm => &[".firestorm_x64", ".firestormos_x64", ".firestorm", ".firestormos"],
                Kind::Official => &[".secondlife"],
                Kind::Alchemy => &[".alchemy", ".alchemynext"],
                Kind::CoolVl => &[".secondlife"],
                Kind::Singularity => &[".secondlife", ".singularity"],
                Kind::Kokua => &[".kokua", ".kokua64"],
                Kind::Radegast | Kind::Other => &[],
            },
        ),
    };
    let Some(base) = base else { return Vec::new() };
    let all = names.iter().map(|name| base.join(name));
    let (mut used, rest): (Vec<_>, Vec<_>) = all.partition(|folder| {
        let settings = folder.join("user_settings");
        files(folders, &settings).iter().any(|file| file.eq_ignore_ascii_case("settings.xml"))
    });
    used.extend(rest);
    used
}

/// The folders within `base` that are named after a viewer.
fn viewers_folders(folders: &dyn Folders, base: &Path) -> Vec<(Kind, PathBuf, String)> {
    let entries = folders.list(base).into_iter().filter(|entry| entry.is_folder);
    let named = entries.filter_map(|entry| {
        let kind = Kind::of_folder_name(&entry.name)?;
        Some((kind, base.join(&entry.name), entry.name))
    });
    named.collect()
}

fn files(folders: &dyn Folders, folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        folders.list(folder).into_iter().filter(|entry| !entry.is_folder).map(|entry| entry.name).collect();
    names.sort();
    names
}

/// Of files with their names without ending: the program of this kind.
fn best<'a>(kind: Kind, files: impl Iterator<Item = (&'a String, &'a str)>) -> Option<&'a String> {
    let rank = |bare: &str| {
        let lower = bare.to_ascii_lowercase();
        program_names(kind).iter().position(|name| *name == lower).unwrap_or(usize::MAX)
    };
    let of_kind = files.filter(|(_, bare)| Kind::of_file_name(bare) == Some(kind));
    of_kind.min_by_key(|(file, bare)| (rank(bare), file.len())).map(|(file, _)| file)
}

/// A viewer among the programs that can be started by name. `singularity` alone is a program of another kind.
fn on_path(file: &str) -> Option<Kind> {
    let kind = Kind::of_file_name(file)?;
    let is_its_name = program_names(kind).contains(&&*file.to_ascii_lowercase());
    (is_its_name && file != "singularity").then_some(kind)
}

/// A name without this ending, in whatever case it is written.
fn ending<'a>(name: &'a str, wanted: &str) -> Option<&'a str> {
    let (bare, end) = name.split_at_checked(name.len().checked_sub(wanted.len())?)?;
    end.eq_ignore_ascii_case(wanted).then_some(bare)
}

fn has_text_ending(name: &str) -> bool {
    [
        ".txt",
        ".xml",
        ".png",
        ".desktop",
        ".sh",
        ".so",
        ".bin",
        ".dat",
        ".tar",
        ".xz",
        ".bz2",
        ".zip",
        ".log",
        ".appimage",
    ]
    .iter()
    .any(|end| ending(name, end).is_some())
}

/// The program that a desktop file starts.
/// Source: freedesktop.org, Desktop Entry Specification 1.5, "The Exec key".
fn started_by(text: &str) -> Option<PathBuf> {
    let line = text.lines().find_map(|line| line.strip_prefix("Exec="))?.trim();
    let program = match line.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next()?,
        None => line.split_whitespace().next()?,
    };
    Some(PathBuf::from(program))
}

#[cfg(test)]
#[path = "places/tests.rs"]
mod tests;
