//! The official viewer's and Alchemy's grid files, as `run` and `run --undo` leave them.

use super::{Home, port_of};

const GRID: &str = "home=http://127.0.0.1:9/";
const OWN: &str = "<?xml version=\"1.0\" ?>\r\n<llsd><map>\r\n<!-- mine --><key>mine</key><map><key>keyname</key><string>mine</string><key>unknown</key><integer>7</integer></map>\r\n</map></llsd>\r\n";

fn go(home: &Home, program: &str) -> String {
    home.forget();
    let ended = home.run(&["--grid", GRID, "--", &home.viewer(program)]);
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    let words = home.only().words;
    assert_eq!(words, ["--grid", "rezcache-home"]);
    ended.said
}

fn undo(home: &Home) -> String {
    let ended = home.run(&["--undo"]);
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    ended.said
}

#[test]
fn a_file_is_made_and_goes_again() {
    for (program, file) in [
        ("sl/secondlife", ".secondlife/user_settings/grids.xml"),
        ("alchemy/alchemy", ".alchemy/user_settings/grids_user.xml"),
    ] {
        let home = Home::new();
        assert!(go(&home, program).contains("rezcache run --undo"));
        let text = std::fs::read_to_string(home.path(file)).unwrap();
        assert!(text.contains("<key>rezcache-home</key>") && text.contains("http://127.0.0.1:"), "{text}");
        assert!(undo(&home).contains("removed"));
        assert!(!home.path(file).exists());
        assert!(undo(&home).contains("nothing to undo"));
    }
}

#[test]
fn what_was_there_comes_back() {
    let home = Home::new();
    home.write(".secondlife/user_settings/settings.xml", "<llsd/>");
    let file = home.write(".secondlife/user_settings/grids.xml", OWN);
    // The port is another one each time here, so that the entry has to follow.
    go(&home, "sl/secondlife");
    go(&home, "sl/secondlife");
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(text.matches("<key>rezcache-home</key>").count(), 1, "{text}");
    assert!(text.starts_with(OWN.strip_suffix("</map></llsd>\r\n").unwrap()), "{text}");
    assert!(undo(&home).contains("as it was before"));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), OWN);
}

#[test]
fn what_the_user_changes_later_stays() {
    let home = Home::new();
    let file = home.write(".secondlife/user_settings/grids.xml", OWN);
    go(&home, "sl/secondlife");
    let changed = std::fs::read_to_string(&file).unwrap().replace("<integer>7<", "<integer>8<");
    std::fs::write(&file, changed).unwrap();
    assert!(undo(&home).contains("your own changes stay"));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), OWN.replace("<integer>7<", "<integer>8<"));
}

#[test]
fn a_file_that_is_something_else_is_left_and_the_viewer_starts() {
    let home = Home::new();
    let file = home.write(".secondlife/user_settings/grids.xml", "not a list");
    let viewer = home.viewer("sl/secondlife");
    let ended = home.run(&["--grid", GRID, "--", &viewer, "--autologin"]);
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    assert_eq!(home.only().words, ["--autologin"]);
    assert!(ended.said.contains("grids.xml is left as it is"), "{}", ended.said);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "not a list");
    home.forget();
    assert_eq!(home.run(&["--strict", "--grid", GRID, "--", &viewer]).code, Some(1));
    assert_eq!(home.started(), []);
}

#[test]
fn the_entry_leads_to_the_port_of_the_grid() {
    let home = Home::new();
    let running = home.start("a", &["--grid", GRID, "--", &home.viewer("sl/secondlife")]);
    home.until_started(1);
    let text = std::fs::read_to_string(home.path(".secondlife/user_settings/grids.xml")).unwrap();
    let login = text.split("<key>login_uri</key><array><string>").nth(1).unwrap().split('<').next().unwrap();
    let started = super::Started { words: vec![login.to_owned()], ..home.only() };
    assert_eq!(home.state()["grids"][0]["listen"], port_of(&started).to_string());
    running.let_go();
    assert_eq!(running.ended().code, Some(0));
}
