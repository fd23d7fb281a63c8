//! Which viewer and which grid: said on the command line, else remembered, else asked for.

use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::bail;

use super::ask::{Answer, Question};
use super::machine::{self, Disk};
use super::memory::{Memory, RememberedViewer};
use crate::config::ports::place;
use crate::config::{Flags, Problems, ProxySettings, Settings};
use crate::viewers::known_grids::{self, KNOWN_GRIDS};
use crate::viewers::{
    Folders as _, Installed, Kind, Machine, grid_file, program_of_bundle, settings_folders,
};

/// More of a viewer's own list would make the question unreadable.
const MAX_LISTED: usize = 8;
const GRID_FILES: [&str; 3] = ["grids.xml", "grids.user.xml", "grids_user.xml"];

/// What is to be started.
#[derive(Clone, Debug)]
pub(super) struct Viewer {
    pub(super) kind: Kind,
    pub(super) program: PathBuf,
    /// The user's own words for it.
    pub(super) words: Vec<OsString>,
}

/// What has been settled, and how.
pub(super) struct Chosen {
    pub(super) viewer: Viewer,
    /// With the viewer's grid first.
    pub(super) proxy: ProxySettings,
    /// To be kept, when something was asked.
    pub(super) memory: Option<Memory>,
}

/// Where to look for what the user wants.
pub(super) struct Choosing<'a> {
    pub(super) settings: &'a Settings,
    pub(super) flags: &'a Flags,
    /// What follows `--`.
    pub(super) command: &'a [OsString],
    /// Whether what is remembered does not count.
    pub(super) ask: bool,
}

/// Nobody is there to be asked.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct NobodyToAsk(String);

impl Choosing<'_> {
    /// Settles it.
    pub(super) fn choose(&self) -> anyhow::Result<Chosen> {
        let machine = machine::here();
        let mut memory = Memory::load(&self.settings.data_dir);
        let before = memory.clone();
        let file = self.file_grids()?;
        let (viewer, asked_viewer) = self.viewer(&machine, &memory)?;
        if asked_viewer {
            memory.viewer = Some(RememberedViewer::new(viewer.kind, &viewer.program));
        }
        let (grids, asked_grid) = self.grids(&machine, &memory, &file, viewer.kind)?;
        if asked_grid {
            memory.grid = grids.first().cloned();
        }
        let proxy = self.with_grids(grids)?;
        let changed = (asked_viewer || asked_grid) && memory != before;
        Ok(Chosen { viewer, proxy, memory: changed.then_some(memory) })
    }

    fn viewer(&self, machine: &Machine, memory: &Memory) -> anyhow::Result<(Viewer, bool)> {
        let run = &self.settings.run;
        let kind_of = |program: &Path, words: &[OsString]| {
            run.viewer_kind.or_else(|| Kind::of_command(program, words)).unwrap_or(Kind::Other)
        };
        if let [program, words @ ..] = self.command {
            let program = unbundled(PathBuf::from(program));
            let kind = kind_of(&program, words);
            return Ok((Viewer { kind, program, words: words.to_vec() }, false));
        }
        let viewer = |kind: Kind, program: PathBuf| Viewer {
            kind: run.viewer_kind.unwrap_or(kind),
            program,
            words: Vec::new(),
        };
        if let Some(named) = &run.viewer {
            let found = named_viewer(named, machine)?;
            let (program, kind) = match found {
                Some(installed) => (installed.program, installed.kind),
                None => {
                    let program = unbundled(PathBuf::from(named));
                    let kind = kind_of(&program, &[]);
                    (program, kind)
                }
            };
            return Ok((viewer(kind, program), false));
        }
        if let Some(remembered) = memory.viewer.as_ref().filter(|_| !self.ask) {
            if remembered.program.exists() {
                return Ok((viewer(remembered.kind(), remembered.program.clone()), false));
            }
            say(&format!("{} is not there any more", remembered.program.display()));
        }
        let installed = machine.viewers(&Disk);
        if !somebody_is_there() {
            let found: Vec<_> = installed.iter().map(|viewer| viewer.kind.word()).collect();
            let first = found.first().copied().unwrap_or("firestorm");
            let found = if found.is_empty() { String::from("none") } else { found.join(", ") };
            return Err(NobodyToAsk(format!(
                "which viewer? Type for example\n  rezcache run --viewer {first} --grid osgrid\n  rezcache run --grid osgrid -- /path/to/viewer\n\
                 or start `rezcache run` at a terminal, where it asks. Viewers found: {found}"
            ))
            .into());
        }
        let items: Vec<_> = installed.iter().map(described).collect();
        let question = Question {
            asked: "Which viewer shall rezcache start?",
            items: &items,
            other: "another one: type the path of its program",
            type_it: "Path of the viewer's program:",
        };
        let check = |typed: &str| {
            let there = Path::new(typed).exists();
            if there { Ok(()) } else { Err(format!("there is no file {typed}")) }
        };
        match question.put(&mut io::stdin().lock(), &mut io::stderr().lock(), check) {
            Some(Answer::Item(index)) => {
                let Some(installed) = installed.get(index) else { bail!("no such viewer") };
                Ok((viewer(installed.kind, installed.program.clone()), true))
            }
            Some(Answer::Typed(path)) => {
                let program = unbundled(std::path::absolute(path)?);
                let kind = kind_of(&program, &[]);
                Ok((viewer(kind, program), true))
            }
            None => Err(NobodyToAsk("nothing was chosen".into()).into()),
        }
    }

    /// The grids to serve, the viewer's first, as `--grid` takes them.
    fn grids(
        &self,
        machine: &Machine,
        memory: &Memory,
        file: &ProxySettings,
        kind: Kind,
    ) -> anyhow::Result<(Vec<String>, bool)> {
        let configured: Vec<String> =
            file.grids.iter().map(|grid| format!("{}={}", grid.name, grid.uri)).collect();
        let by_name = |text: &String| {
            let known = file.grids.iter().position(|grid| grid.name == *text);
            known.and_then(|index| configured.get(index)).cloned().unwrap_or_else(|| text.clone())
        };
        let flags: Vec<String> =
            self.flags.proxy.grids.iter().filter(|text| !text.is_empty()).cloned().collect();
        if !flags.is_empty() {
            return Ok((flags.iter().map(by_name).collect(), false));
        }
        let with_configured = |first: String| -> anyhow::Result<Vec<String>> {
            let chosen = self.with_grids(vec![first.clone()])?;
            let Some(chosen) = chosen.grids.first() else { bail!("{first} is no grid") };
            let others = file
                .grids
                .iter()
                .zip(&configured)
                .filter(|(grid, _)| place(&grid.uri) != place(&chosen.uri) && grid.name != chosen.name);
            Ok(std::iter::once(first).chain(others.map(|(_, text)| text.clone())).collect())
        };
        if !self.ask {
            if let Some(remembered) = &memory.grid {
                return Ok((with_configured(remembered.clone())?, false));
            }
            if let [only] = &configured[..] {
                return Ok((vec![only.clone()], false));
            }
        }
        if !somebody_is_there() {
            return Err(NobodyToAsk(
                "which grid? Type for example\n  rezcache run --grid osgrid\n  rezcache run --grid secondlife\n  \
                 rezcache run --grid http://login.grid.example:8002/\nor start `rezcache run` at a terminal, where it asks"
                    .into(),
            )
            .into());
        }
        let offered = self.offered(machine, memory, file, &configured, kind);
        let items: Vec<_> = offered.iter().map(|(label, text)| item(label, text)).collect();
        let question = Question {
            asked: "Which grid do you go to?",
            items: &items,
            other: "another one: type its login address",
            type_it: "Login address of the grid:",
        };
        let check = |typed: &str| match self.with_grids(vec![typed.to_owned()]) {
            Ok(_) => Ok(()),
            Err(problems) => Err(problems.lines().collect::<Vec<_>>().join("\n")),
        };
        let text = match question.put(&mut io::stdin().lock(), &mut io::stderr().lock(), check) {
            Some(Answer::Item(index)) => offered.get(index).map(|(_, text)| text.clone()),
            Some(Answer::Typed(text)) => Some(text),
            None => None,
        };
        match text {
            Some(text) => Ok((with_configured(text)?, true)),
            None => Err(NobodyToAsk("nothing was chosen".into()).into()),
        }
    }

    /// What the question lists, each place once: a label, and what `--grid` takes.
    fn offered(
        &self,
        machine: &Machine,
        memory: &Memory,
        file: &ProxySettings,
        configured: &[String],
        kind: Kind,
    ) -> Vec<(String, String)> {
        let mut all: Vec<(String, String)> =
            file.grids.iter().zip(configured).map(|(grid, text)| (grid.name.clone(), text.clone())).collect();
        all.extend(memory.grid.iter().map(|grid| ("as before".to_owned(), grid.clone())));
        all.extend(KNOWN_GRIDS.map(|grid| (grid.label.to_owned(), format!("{}={}", grid.word, grid.login))));
        let mut viewers_own = Vec::new();
        for folder in settings_folders(machine, &Disk, kind) {
            for name in GRID_FILES {
                let text = Disk.read(&folder.join("user_settings").join(name)).unwrap_or_default();
                viewers_own.extend(grid_file::listed(text.as_bytes()));
            }
        }
        all.extend(viewers_own.into_iter().take(MAX_LISTED));
        let mut places = std::collections::BTreeSet::new();
        all.retain(|(_, text)| {
            let grid =
                self.with_grids(vec![text.clone()]).ok().and_then(|proxy| proxy.grids.into_iter().next());
            grid.is_some_and(|grid| places.insert(place(&grid.uri)))
        });
        all
    }

    /// What the file alone says of grids.
    fn file_grids(&self) -> Result<ProxySettings, Problems> {
        let mut flags = self.flags.clone();
        let proxy = &mut flags.proxy;
        for list in [
            &mut proxy.grids,
            &mut proxy.grid_allow,
            &mut proxy.ca_file,
            &mut proxy.asset_host,
            &mut proxy.central,
        ] {
            list.clear();
        }
        Settings::load(&flags).map(|settings| settings.proxy)
    }

    /// The settings for exactly these grids. What flags say of others does not count.
    fn with_grids(&self, grids: Vec<String>) -> Result<ProxySettings, Problems> {
        let mut flags = self.flags.clone();
        if flags.proxy.grids.is_empty() {
            let named = |text: &String| {
                let name = text.split('=').next().unwrap_or_default();
                grids.iter().any(|grid| grid.split('=').next() == Some(name))
            };
            let proxy = &mut flags.proxy;
            for list in [&mut proxy.grid_allow, &mut proxy.ca_file, &mut proxy.asset_host, &mut proxy.central]
            {
                list.retain(named);
            }
        }
        flags.proxy.grids = grids;
        Settings::load(&flags).map(|settings| settings.proxy)
    }
}

/// Puts the addresses of known grids in place of their names.
pub(in crate::cli) fn spell_out(grids: &mut [String]) {
    for text in grids {
        if let Some(grid) = known_grids::by_word(text) {
            *text = format!("{}={}", grid.word, grid.login);
        }
    }
}

/// The installed viewer that is meant. `None`: it is a program of its own.
fn named_viewer(named: &str, machine: &Machine) -> anyhow::Result<Option<Installed>> {
    if named.contains(['/', '\\']) {
        return Ok(None);
    }
    let installed = machine.viewers(&Disk);
    let lower = named.to_ascii_lowercase();
    let by_name = |viewer: &&Installed| viewer.name.to_ascii_lowercase() == lower;
    let kind = named.parse::<Kind>().ok().filter(|kind| *kind != Kind::Other);
    let found =
        installed.iter().find(by_name).or_else(|| installed.iter().find(|viewer| Some(viewer.kind) == kind));
    match (found, kind) {
        (Some(found), _) => Ok(Some(found.clone())),
        (None, Some(kind)) => bail!(
            "{} was not found where viewers are usually installed; name its program: rezcache run -- /path/to/viewer",
            kind.label()
        ),
        (None, None) => Ok(None),
    }
}

/// The program of a macOS application.
fn unbundled(program: PathBuf) -> PathBuf {
    let is_bundle = program.extension().is_some_and(|ending| ending == "app") && program.is_dir();
    if is_bundle { program_of_bundle(&Disk, &program).unwrap_or(program) } else { program }
}

fn described(viewer: &Installed) -> String {
    format!("{} ({})", viewer.kind.label(), viewer.program.display())
}

fn item(label: &str, text: &str) -> String {
    let url = text.split_once('=').map_or(text, |(_, url)| url);
    let label: String = label.chars().filter(|c| !c.is_control()).take(40).collect();
    format!("{label:<24} {url}")
}

/// Whether there is somebody to ask.
pub(super) fn somebody_is_there() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// One line for the user. The viewer has the same terminal, so it says who speaks.
pub(super) fn say(line: &str) {
    // The viewer runs even if nobody reads this.
    let _ = writeln!(io::stderr(), "rezcache: {line}");
}
