//! With what a viewer of each kind is started, for each kind of grid.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use super::grid_file::GridEntry;
use super::kind::{Kind, Way};

/// The grid that a viewer is to reach, as it is served by us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// What the user calls it.
    pub name: String,
    /// Our address for it, with a slash at its end.
    pub login: String,
    /// A key for grid files that no built-in grid has.
    pub key: String,
    /// Whether Linden Lab runs it: then only assets go through us.
    pub is_second_life: bool,
    /// What `VIEWERASSET` is to be, where the asset host is known.
    pub asset_address: Option<String>,
}

/// How to start it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What follows the program's name.
    pub arguments: Vec<OsString>,
    /// What is added to the environment.
    pub environment: Vec<(&'static str, String)>,
    /// What has to be in a file of its user settings, by the file's name.
    pub grid_file: Option<(&'static str, GridEntry)>,
    /// Whether anything of it goes through us.
    pub through_us: bool,
    /// One line for the user.
    pub said: String,
}

/// Decides how to start `program` with `words` of the user's for this grid.
#[must_use]
pub fn plan(kind: Kind, grid: &Target, program: &Path, words: &[OsString]) -> Plan {
    let mut plan = Plan {
        arguments: words.to_vec(),
        environment: Vec::new(),
        grid_file: None,
        through_us: true,
        said: String::new(),
    };
    let label = kind.label();
    if grid.is_second_life {
        let Some(address) = &grid.asset_address else {
            plan.through_us = false;
            plan.said = format!(
                "{label} is started as always: for {} rezcache needs the address of its asset host (--asset-host {}=URL)",
                grid.name, grid.name
            );
            return plan;
        };
        plan.environment.push(("VIEWERASSET", address.clone()));
        plan.said = if kind.honours_asset_address() {
            format!(
                "{label} gets its textures, meshes and sounds through rezcache; the login goes directly to {}",
                grid.name
            )
        } else {
            format!(
                "{label} logs in to {} directly; it may be too old to get its assets through rezcache",
                grid.name
            )
        };
        return plan;
    }
    if let Some(theirs) = words.iter().find_map(|word| grid_switch(word)) {
        plan.through_us = false;
        plan.said = format!(
            "you have given {label} {theirs} yourself, so rezcache adds nothing; to go through rezcache leave it out, or make it lead to {}",
            grid.login
        );
        return plan;
    }
    let (switch, value) = match kind.way() {
        Way::GridAddress => ("--grid", grid.login.clone()),
        Way::LoginUri => ("--loginuri", grid.login.clone()),
        Way::GridFile(file) => {
            let entry = GridEntry {
                key: grid.key.clone(),
                label: format!("{} via rezcache", grid.name),
                login: grid.login.clone(),
            };
            plan.grid_file = Some((file, entry));
            ("--grid", grid.key.clone())
        }
    };
    plan.said = format!("{label} goes to {} through rezcache ({switch} {value})", grid.name);
    // Viewers take a place to go to as their last word, so ours come first.
    let place = after_launcher(program, words);
    plan.arguments.splice(place..place, [OsString::from(switch), OsString::from(value)]);
    plan
}

/// The switch, if a word is one that says which grid to go to.
fn grid_switch(word: &OsStr) -> Option<&'static str> {
    let word = word.to_str()?;
    let bare = word.strip_prefix("--").or_else(|| word.strip_prefix('-'))?;
    match bare.split('=').next()? {
        "grid" => Some("--grid"),
        "loginuri" => Some("--loginuri"),
        _ => None,
    }
}

/// Where the viewer's own words begin, when it is started by another program such as `wine`.
fn after_launcher(program: &Path, words: &[OsString]) -> usize {
    if kind_of(program.as_os_str()).is_some() {
        return 0;
    }
    let first_switch = words.iter().position(|word| word.to_string_lossy().starts_with('-'));
    let before = words.get(..first_switch.unwrap_or(words.len())).unwrap_or_default();
    before.iter().position(|word| kind_of(word).is_some()).map_or(0, |place| place + 1)
}

/// The kind of a program by its path, which may be written for another system than this one.
fn kind_of(word: &OsStr) -> Option<Kind> {
    let text = word.to_string_lossy();
    let name = text.trim_end_matches(['/', '\\']).rsplit(['/', '\\']).next()?;
    Kind::of_file_name(name)
}

impl Kind {
    /// The kind of viewer that a command line starts: by its program, or by the first word of that program
    /// that is a viewer's.
    #[must_use]
    pub fn of_command(program: &Path, words: &[OsString]) -> Option<Self> {
        kind_of(program.as_os_str()).or_else(|| {
            let place = after_launcher(program, words).checked_sub(1)?;
            kind_of(words.get(place)?)
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const LOGIN: &str = "http://127.0.0.1:9080/";

    fn words(list: &[&str]) -> Vec<OsString> {
        list.iter().map(OsString::from).collect()
    }

    fn open_simulator() -> Target {
        Target {
            name: "osgrid".into(),
            login: LOGIN.into(),
            key: "rezcache-osgrid".into(),
            is_second_life: false,
            asset_address: None,
        }
    }

    fn second_life(asset_address: Option<&str>) -> Target {
        Target {
            name: "agni".into(),
            is_second_life: true,
            asset_address: asset_address.map(str::to_owned),
            ..open_simulator()
        }
    }

    fn planned(kind: Kind, grid: &Target, list: &[&str]) -> Plan {
        plan(kind, grid, Path::new("/opt/x"), &words(list))
    }

    #[test]
    fn each_kind_is_told_of_an_opensimulator_grid_in_its_own_way() {
        for (kind, expected) in [
            (Kind::Firestorm, ["--grid", LOGIN]),
            (Kind::Official, ["--grid", "rezcache-osgrid"]),
            (Kind::Alchemy, ["--grid", "rezcache-osgrid"]),
            (Kind::CoolVl, ["--loginuri", LOGIN]),
            (Kind::Singularity, ["--loginuri", LOGIN]),
            (Kind::Kokua, ["--loginuri", LOGIN]),
            (Kind::Radegast, ["--loginuri", LOGIN]),
            (Kind::Other, ["--loginuri", LOGIN]),
        ] {
            let plan = planned(kind, &open_simulator(), &["--autologin", "secondlife://Here/1/2/3"]);
            let all = [&expected[..], &["--autologin", "secondlife://Here/1/2/3"]].concat();
            assert_eq!(plan.arguments, words(&all), "{kind}");
            assert!(plan.environment.is_empty() && plan.through_us, "{kind}");
            let file = plan.grid_file.map(|(file, entry)| (file, entry.login));
            let needed = match kind {
                Kind::Official => Some("grids.xml"),
                Kind::Alchemy => Some("grids_user.xml"),
                _ => None,
            };
            assert_eq!(file, needed.map(|file| (file, LOGIN.to_owned())), "{kind}");
            assert!(plan.said.contains(expected[0]), "{}", plan.said);
        }
    }

    #[test]
    fn for_second_life_only_assets_come_to_us() {
        let address = "http://127.0.0.1:9080/asset/0123/agni";
        for kind in Kind::NAMED {
            let plan = planned(kind, &second_life(Some(address)), &["--autologin"]);
            assert_eq!(plan.arguments, words(&["--autologin"]));
            assert_eq!(plan.environment, [("VIEWERASSET", address.to_owned())]);
            assert_eq!(plan.grid_file, None);
            assert!(!plan.said.contains("0123"), "the token is not shown");
        }
        let plan = planned(Kind::Official, &second_life(None), &[]);
        assert!(
            !plan.through_us && plan.environment.is_empty() && plan.said.contains("--asset-host agni=URL")
        );
    }

    #[test]
    fn the_user_s_own_switch_stays_alone() {
        for theirs in ["--grid", "--loginuri", "-grid", "--loginuri=http://grid.example/"] {
            for kind in Kind::NAMED {
                let plan = planned(kind, &open_simulator(), &["--x", theirs, "somewhere"]);
                assert_eq!(plan.arguments, words(&["--x", theirs, "somewhere"]));
                assert!(!plan.through_us && plan.grid_file.is_none(), "{kind}");
                assert!(plan.said.contains("yourself"), "{}", plan.said);
            }
        }
        assert!(planned(Kind::Other, &open_simulator(), &["--gridlines"]).through_us);
    }

    #[test]
    fn a_viewer_within_another_program_gets_the_words_itself() {
        let list = words(&["C:\\Programs\\Firestorm-Releasex64.exe", "--autologin"]);
        let wine = Path::new("/usr/bin/wine");
        assert_eq!(Kind::of_command(wine, &list), Some(Kind::Firestorm));
        let plan = plan(Kind::Firestorm, &open_simulator(), wine, &list);
        let expected = ["C:\\Programs\\Firestorm-Releasex64.exe", "--grid", LOGIN, "--autologin"];
        assert_eq!(plan.arguments, words(&expected));
        assert_eq!(Kind::of_command(wine, &words(&["--x", "firestorm"])), None);
        assert_eq!(Kind::of_command(Path::new("/opt/kokua"), &[]), Some(Kind::Kokua));
    }
}
