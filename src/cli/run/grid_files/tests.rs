//! Grid files on a real disk: made, added to, changed by their owners, and brought back.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;

use super::{put, undo};
use crate::viewers::grid_file::GridEntry;

struct Setup {
    dir: tempfile::TempDir,
    file: PathBuf,
}

impl Setup {
    fn with(text: Option<&str>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("data")).unwrap();
        let file = dir.path().join("user_settings/grids.xml");
        if let Some(text) = text {
            fs::create_dir(file.parent().unwrap()).unwrap();
            fs::write(&file, text).unwrap();
        }
        Self { dir, file }
    }

    fn put(&self, key: &str) -> bool {
        self.try_put(key).unwrap()
    }

    fn try_put(&self, key: &str) -> anyhow::Result<bool> {
        let entry = GridEntry { key: key.into(), label: "x".into(), login: "http://127.0.0.1:9080/".into() };
        put(&self.dir.path().join("data"), &self.file, &entry)
    }

    fn undo(&self) -> (Vec<String>, bool) {
        let undone = undo(&self.dir.path().join("data")).unwrap();
        (undone.lines, undone.failed)
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.file).unwrap()
    }

    /// Everything beside the file, and everything that we keep of our own.
    fn left_over(&self) -> Vec<String> {
        let folders = [self.file.parent().unwrap().to_owned(), self.dir.path().join("data")];
        let names = folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap());
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name != "grids.xml" && name != "changes.lock").collect()
    }
}

const OWN: &str =
    "<llsd>\r\n <map><key>home</key><map><key>keyname</key><string>home</string></map>\r\n</map></llsd>";

#[test]
fn a_file_that_was_made_goes() {
    let setup = Setup::with(None);
    assert!(setup.put("rezcache-a") && setup.put("rezcache-b") && !setup.put("rezcache-a"));
    assert!(setup.text().contains("<key>rezcache-b</key>"));
    assert!(!setup.undo().1);
    assert!(!setup.file.exists());
    assert_eq!(setup.left_over(), Vec::<String>::new());
}

#[test]
fn a_file_that_was_there_comes_back_byte_for_byte() {
    let setup = Setup::with(Some(OWN));
    assert!(setup.put("rezcache-a"));
    let backup = setup.file.with_file_name("grids.xml.before-rezcache");
    assert_eq!(fs::read_to_string(&backup).unwrap(), OWN);
    assert!(setup.put("rezcache-b"));
    assert_eq!(fs::read_to_string(&backup).unwrap(), OWN, "the first one stays");
    let (lines, failed) = setup.undo();
    assert!(!failed && lines[0].ends_with("grids.xml: as it was before"), "{lines:?}");
    assert_eq!(setup.text(), OWN);
    assert_eq!(setup.left_over(), Vec::<String>::new());
    // And again from the beginning.
    assert!(setup.put("rezcache-a"));
    setup.undo();
    assert_eq!(setup.text(), OWN);
}

#[test]
fn what_the_user_has_changed_since_stays() {
    let setup = Setup::with(Some(OWN));
    setup.put("rezcache-a");
    let changed = setup.text().replace("<string>home<", "<string>HOME<");
    fs::write(&setup.file, &changed).unwrap();
    setup.put("rezcache-b");
    assert!(!setup.undo().1);
    assert_eq!(setup.text(), OWN.replace("<string>home<", "<string>HOME<"));
    // The old one is not there again, so that nobody but its owner removes it.
    assert_eq!(setup.left_over(), ["grids.xml.before-rezcache"]);
}

#[test]
fn a_grid_that_was_added_to_a_file_of_ours_keeps_it() {
    let setup = Setup::with(None);
    setup.put("rezcache-a");
    fs::write(&setup.file, setup.text().replace("</map></llsd>", "<key>mine</key><map/></map></llsd>"))
        .unwrap();
    assert!(!setup.undo().1);
    assert!(
        setup.text().contains("<key>mine</key>") && !setup.text().contains("rezcache"),
        "{}",
        setup.text()
    );
}

#[test]
fn a_file_that_is_no_list_of_grids_is_not_touched() {
    let setup = Setup::with(Some("<html>"));
    let entry = GridEntry { key: "rezcache-a".into(), label: String::new(), login: String::new() };
    let error = put(&setup.dir.path().join("data"), &setup.file, &entry).unwrap_err();
    assert!(format!("{error:#}").contains("grids.xml is left as it is: "), "{error:#}");
    assert_eq!(setup.text(), "<html>");
    assert_eq!(setup.left_over(), Vec::<String>::new());
}

#[test]
fn a_file_that_cannot_be_read_any_more_is_tried_again() {
    let setup = Setup::with(Some(OWN));
    setup.put("rezcache-a");
    let good = setup.text();
    fs::write(&setup.file, "<llsd><map>").unwrap();
    assert!(setup.undo().1);
    assert_eq!(setup.text(), "<llsd><map>");
    fs::write(&setup.file, good).unwrap();
    assert!(!setup.undo().1);
    assert_eq!(setup.text(), OWN);
}

#[cfg(unix)]
#[test]
fn its_permissions_stay_and_a_link_stays_a_link() {
    use std::os::unix::fs::PermissionsExt as _;
    let setup = Setup::with(Some(OWN));
    let real = setup.dir.path().join("real.xml");
    fs::rename(&setup.file, &real).unwrap();
    fs::set_permissions(&real, fs::Permissions::from_mode(0o644)).unwrap();
    std::os::unix::fs::symlink(&real, &setup.file).unwrap();
    setup.put("rezcache-a");
    assert!(fs::symlink_metadata(&setup.file).unwrap().is_symlink());
    assert_eq!(fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o644);
    setup.undo();
    assert_eq!(fs::read_to_string(&real).unwrap(), OWN);
}

#[test]
fn a_file_that_is_gone_comes_back_from_its_backup() {
    let setup = Setup::with(Some(OWN));
    setup.put("rezcache-a");
    fs::remove_file(&setup.file).unwrap();
    let (lines, failed) = setup.undo();
    assert!(!failed && lines[0].contains("brought back"), "{lines:?}");
    assert_eq!(setup.text(), OWN);
    assert_eq!(setup.left_over(), Vec::<String>::new());
}

#[test]
fn a_file_that_somebody_has_replaced_leaves_the_backup() {
    let setup = Setup::with(Some(OWN));
    setup.put("rezcache-a");
    fs::write(&setup.file, "<llsd><map/></llsd>").unwrap();
    let (lines, failed) = setup.undo();
    assert!(!failed && lines[0].ends_with("grids.xml.before-rezcache"), "{lines:?}");
    assert_eq!(fs::read_to_string(setup.file.with_file_name("grids.xml.before-rezcache")).unwrap(), OWN);
}

#[test]
fn a_read_only_file_is_not_replaced() {
    let setup = Setup::with(Some(OWN));
    let mut permissions = fs::metadata(&setup.file).unwrap().permissions();
    permissions.set_readonly(true);
    fs::set_permissions(&setup.file, permissions).unwrap();
    let error = setup.try_put("rezcache-a").unwrap_err();
    assert!(format!("{error:#}").ends_with("is left as it is: it is read-only"), "{error:#}");
    assert_eq!(setup.text(), OWN);
    assert_eq!(setup.left_over(), Vec::<String>::new());
}

#[cfg(unix)]
#[test]
fn the_backup_is_for_the_same_eyes_as_the_file() {
    use std::os::unix::fs::PermissionsExt as _;
    for mode in [0o600, 0o640] {
        let setup = Setup::with(Some(OWN));
        fs::set_permissions(&setup.file, fs::Permissions::from_mode(mode)).unwrap();
        setup.put("rezcache-a");
        let backup = setup.file.with_file_name("grids.xml.before-rezcache");
        assert_eq!(fs::metadata(&backup).unwrap().permissions().mode() & 0o777, mode);
    }
}

#[cfg(unix)]
#[test]
fn links_that_lead_nowhere_and_pipes_are_left_alone() {
    let setup = Setup::with(None);
    fs::create_dir(setup.file.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink(setup.dir.path().join("nowhere"), &setup.file).unwrap();
    let error = setup.try_put("rezcache-a").unwrap_err();
    assert!(format!("{error:#}").contains("a link that leads nowhere"), "{error:#}");
    assert!(fs::symlink_metadata(&setup.file).unwrap().is_symlink());
    fs::remove_file(&setup.file).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&setup.file).status().unwrap().success());
    let error = setup.try_put("rezcache-a").unwrap_err();
    assert!(format!("{error:#}").contains("is no file"), "{error:#}");
}

#[cfg(unix)]
#[test]
fn a_file_in_a_linked_folder_is_one_file_made_or_found() {
    let setup = Setup::with(None);
    fs::create_dir(setup.dir.path().join("real")).unwrap();
    std::os::unix::fs::symlink(setup.dir.path().join("real"), setup.file.parent().unwrap()).unwrap();
    assert!(setup.put("rezcache-a") && setup.put("rezcache-b"));
    let (lines, failed) = setup.undo();
    assert!(!failed && lines.len() == 1 && lines[0].contains("removed"), "{lines:?}");
    assert!(!setup.file.exists());
    assert_eq!(setup.left_over(), Vec::<String>::new());
}
