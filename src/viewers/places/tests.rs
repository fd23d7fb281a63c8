//! The rules of each system, tried on folder trees of this one.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use super::{Entry, Folders, Kind, Machine, System, program_of_bundle, settings_folders};

/// A tree in a temporary folder that stands for a whole machine.
struct Tree(tempfile::TempDir);

impl Tree {
    fn with(files: &[&str]) -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        for file in files {
            tree.write(file, "");
        }
        tree
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.real(Path::new(file));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn real(&self, path: &Path) -> PathBuf {
        self.0.path().join(path.strip_prefix("/").unwrap_or(path))
    }
}

impl Folders for Tree {
    fn list(&self, folder: &Path) -> Vec<Entry> {
        let Ok(entries) = fs::read_dir(self.real(folder)) else { return Vec::new() };
        let entries = entries.map(|entry| entry.unwrap());
        entries
            .map(|entry| Entry {
                name: entry.file_name().into_string().unwrap(),
                is_folder: entry.path().is_dir(),
            })
            .collect()
    }

    fn read(&self, file: &Path) -> Option<String> {
        fs::read_to_string(self.real(file)).ok()
    }
}

fn machine(system: System, environment: &[(&str, &str)]) -> Machine {
    let environment =
        environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Machine { system, environment }
}

fn found(machine: &Machine, tree: &Tree) -> Vec<(Kind, String)> {
    let viewers = machine.viewers(tree);
    viewers.into_iter().map(|viewer| (viewer.kind, viewer.program.to_str().unwrap().to_owned())).collect()
}

fn expected(list: &[(Kind, &str)]) -> Vec<(Kind, String)> {
    list.iter().map(|(kind, program)| (*kind, (*program).to_owned())).collect()
}

#[test]
fn on_windows_program_folders_are_searched() {
    let tree = Tree::with(&[
        "/pf/Firestorm-Releasex64/Firestorm-Releasex64.exe",
        "/pf/Firestorm-Releasex64/uninst.exe",
        "/pf/Firestorm-Releasex64/SLPlugin.exe",
        "/pf/FirestormOS-Releasex64/FirestormOS-Releasex64.exe",
        "/pf/SecondLifeViewer/SecondLifeViewer.exe",
        "/pf/SecondLifeViewer/SLVersionChecker.exe",
        "/pf/SecondLifeViewer/SecondLife Crash Logger.exe",
        "/pf86/CoolVLViewer/CoolVLViewer.exe",
        "/pf86/CoolVLViewer/readme.txt",
        "/pf86/SingularityAlpha/SingularityViewer.exe",
        "/local/Programs/Radegast/Radegast.exe",
        "/local/AlchemyViewer/AlchemyViewer.EXE",
        "/local/Firestorm_x64/cache.dat",
        "/pf/Mozilla Firefox/firefox.exe",
    ]);
    let folders = [("ProgramFiles", "/pf"), ("ProgramFiles(x86)", "/pf86"), ("LOCALAPPDATA", "/local")];
    let machine = machine(System::Windows, &folders);
    let all = [
        (Kind::Firestorm, "/pf/Firestorm-Releasex64/Firestorm-Releasex64.exe"),
        (Kind::Firestorm, "/pf/FirestormOS-Releasex64/FirestormOS-Releasex64.exe"),
        (Kind::Official, "/pf/SecondLifeViewer/SecondLifeViewer.exe"),
        (Kind::Alchemy, "/local/AlchemyViewer/AlchemyViewer.EXE"),
        (Kind::CoolVl, "/pf86/CoolVLViewer/CoolVLViewer.exe"),
        (Kind::Singularity, "/pf86/SingularityAlpha/SingularityViewer.exe"),
        (Kind::Radegast, "/local/Programs/Radegast/Radegast.exe"),
    ];
    assert_eq!(found(&machine, &tree), expected(&all));
}

#[test]
fn on_windows_a_folder_named_twice_counts_once() {
    let tree = Tree::with(&["/pf/Kokua/Kokua.exe"]);
    let machine = machine(System::Windows, &[("ProgramFiles", "/pf"), ("ProgramW6432", "/pf")]);
    assert_eq!(found(&machine, &tree), expected(&[(Kind::Kokua, "/pf/Kokua/Kokua.exe")]));
}

#[test]
fn on_macos_the_program_within_the_application_is_started() {
    let tree = Tree::with(&[
        "/Applications/Firestorm-Releasex64.app/Contents/MacOS/Firestorm",
        "/Applications/Firestorm-Releasex64.app/Contents/MacOS/slplugin",
        "/Applications/Firestorm-Releasex64.app/Contents/Info.plist",
        "/Applications/Second Life Viewer.app/Contents/MacOS/Second Life Viewer",
        "/Applications/Second Life Viewer.app/Contents/MacOS/SL_Launcher",
        "/Applications/Firestorm notes/readme",
        "/Users/me/Applications/Radegast.app/Contents/MacOS/start",
    ]);
    let machine = machine(System::MacOs, &[("HOME", "/Users/me")]);
    let all = [
        (Kind::Firestorm, "/Applications/Firestorm-Releasex64.app/Contents/MacOS/Firestorm"),
        (Kind::Official, "/Applications/Second Life Viewer.app/Contents/MacOS/Second Life Viewer"),
        (Kind::Radegast, "/Users/me/Applications/Radegast.app/Contents/MacOS/start"),
    ];
    assert_eq!(found(&machine, &tree), expected(&all));
    let bundle = Path::new("/Applications/Firestorm-Releasex64.app");
    assert_eq!(program_of_bundle(&tree, bundle).as_deref(), Some(Path::new(all[0].1)));
}

#[test]
fn on_linux_folders_path_and_menus_are_searched() {
    let tree = Tree::with(&[
        "/opt/firestorm-install/firestorm",
        "/opt/firestorm-install/install.sh",
        "/opt/firestorm-install/bin/do-not-directly-run-firestorm-bin",
        "/home/me/Second_Life_7_1_x86_64/secondlife",
        "/home/me/Second_Life_7_1_x86_64/secondlife_icon.png",
        "/home/me/CoolVLViewer-1.32.2/cool_vl_viewer",
        "/home/me/.firestorm_x64/user_settings/settings.xml",
        "/home/me/Applications/Alchemy-7.1-x86_64.AppImage",
        "/usr/bin/kokua",
        "/usr/bin/singularity",
        "/usr/bin/firestorm-helper",
    ]);
    tree.write(
        "/usr/share/applications/radegast.desktop",
        "[Desktop Entry]\nName=R\nExec=\"/srv/my viewers/Radegast\" %u\n",
    );
    tree.write(
        "/usr/share/applications/again.desktop",
        "[Desktop Entry]\nExec=/opt/firestorm-install/firestorm\n",
    );
    tree.write("/usr/share/applications/container.desktop", "Exec=/usr/bin/singularity shell\n");
    tree.write("/home/me/Desktop/bad.desktop", "Exec=firestorm\n");
    let machine = machine(System::Linux, &[("HOME", "/home/me"), ("PATH", "relative:/usr/bin::/nowhere")]);
    let all = [
        (Kind::Firestorm, "/opt/firestorm-install/firestorm"),
        (Kind::Official, "/home/me/Second_Life_7_1_x86_64/secondlife"),
        (Kind::Alchemy, "/home/me/Applications/Alchemy-7.1-x86_64.AppImage"),
        (Kind::CoolVl, "/home/me/CoolVLViewer-1.32.2/cool_vl_viewer"),
        (Kind::Kokua, "/usr/bin/kokua"),
        (Kind::Radegast, "/srv/my viewers/Radegast"),
    ];
    assert_eq!(found(&machine, &tree), expected(&all));
}

#[test]
fn nothing_is_found_on_an_empty_machine() {
    let tree = Tree::with(&[]);
    for system in [System::Windows, System::MacOs, System::Linux] {
        assert_eq!(found(&machine(system, &[]), &tree), []);
        assert_eq!(settings_folders(&machine(system, &[]), &tree, Kind::Official), Vec::<PathBuf>::new());
    }
}

#[test]
fn settings_are_where_the_viewer_has_left_them() {
    for (system, base, kind, names) in [
        (System::Windows, ("APPDATA", "/roaming"), Kind::Firestorm, "/roaming/Firestorm_x64"),
        (System::Windows, ("APPDATA", "/roaming"), Kind::Official, "/roaming/SecondLife"),
        (
            System::MacOs,
            ("HOME", "/Users/me"),
            Kind::Firestorm,
            "/Users/me/Library/Application Support/Firestorm",
        ),
        (
            System::MacOs,
            ("HOME", "/Users/me"),
            Kind::Official,
            "/Users/me/Library/Application Support/SecondLife",
        ),
        (System::Linux, ("HOME", "/home/me"), Kind::Firestorm, "/home/me/.firestorm_x64"),
        (System::Linux, ("HOME", "/home/me"), Kind::Official, "/home/me/.secondlife"),
    ] {
        let machine = machine(system, &[base]);
        let first = |tree: &Tree| settings_folders(&machine, tree, kind).first().cloned().unwrap();
        assert_eq!(first(&Tree::with(&[])), Path::new(names), "{system:?} {kind}");
    }
    // One that was used counts more than the usual one.
    let machine = machine(System::Linux, &[("HOME", "/home/me")]);
    let tree =
        Tree::with(&["/home/me/.firestormos_x64/user_settings/settings.xml", "/home/me/.firestorm_x64/x"]);
    let folders = settings_folders(&machine, &tree, Kind::Firestorm);
    assert_eq!(folders[0], Path::new("/home/me/.firestormos_x64"));
    assert_eq!(folders[1], Path::new("/home/me/.firestorm_x64"));
}
