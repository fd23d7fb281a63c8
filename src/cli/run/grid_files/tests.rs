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
        let entry = GridEntry { key: key.into(), label: "x".into(), login: "http://127.0.0.1:9080/".into() };
        put(&self.dir.path().join("data"), &self.file, &entry).unwrap()
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
    assert_eq!(setup.left_over(), Vec::<String>::new());
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
