//! The question, at a terminal where somebody types.

use std::io::{Read as _, Write as _};
use std::process::Stdio;

use super::Home;

/// Runs it at a terminal, with these lines typed; what appeared there.
fn at_a_terminal(home: &Home, words: &[&str], typed: &str) -> String {
    let ours = home.command(&[&["run"], words].concat());
    let mut command = std::process::Command::new("python3");
    command
        .args(["-c", "import pty,sys; pty.spawn(sys.argv[1:])"])
        .arg(ours.get_program())
        .args(ours.get_args());
    command.env_clear().envs(ours.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(typed.as_bytes()).unwrap();
    let mut said = String::new();
    // Kept open until it has ended: a terminal that closes would be an answer too.
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    drop(input);
    child.wait().unwrap();
    said
}

const VIEWER: &str = "Which viewer shall rezcache start?";
const GRID: &str = "Which grid do you go to?";

#[test]
fn it_asks_once_and_remembers() {
    let home = Home::new();
    home.viewer("firestorm/firestorm");
    home.viewer("kokua/kokua");
    // The second viewer; the grid on this machine.
    let said = at_a_terminal(&home, &[], "2\n5\n");
    assert!(said.contains(VIEWER) && said.contains("1) Firestorm") && said.contains("2) Kokua"), "{said}");
    assert!(
        said.contains(GRID) && said.contains("1) Second Life") && said.contains("http://login.osgrid.org/"),
        "{said}"
    );
    assert!(said.contains("5) A grid on this machine"), "{said}");
    assert!(said.contains("rezcache run --ask"), "{said}");
    assert_eq!(home.only().words[0], "--loginuri");
    let kept: serde_json::Value =
        serde_json::from_slice(&std::fs::read(home.data().join("run.json")).unwrap()).unwrap();
    assert_eq!((&kept["version"], &kept["viewer"]["kind"]), (&1.into(), &"kokua".into()), "{kept}");

    // Nobody is asked again, at a terminal or not.
    home.forget();
    let said = at_a_terminal(&home, &[], "");
    assert!(!said.contains(VIEWER) && !said.contains(GRID) && said.contains("goes to local"), "{said}");
    home.forget();
    let ended = home.run(&[]);
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    assert_eq!(home.only().words[0], "--loginuri");

    // Unless they want to be.
    home.forget();
    let said = at_a_terminal(&home, &["--ask"], "1\n1\n");
    assert!(said.contains(VIEWER) && said.contains("as before"), "{said}");
    assert_eq!(home.run(&[]).code, Some(0));
}

#[test]
fn a_path_and_an_address_may_be_typed() {
    let home = Home::new();
    let viewer = home.viewer("somewhere/my-viewer");
    let typed = format!("/nowhere/at/all\n{viewer}\n7\nftp://x\nhttp://127.0.0.1:9/\n");
    let said = at_a_terminal(&home, &[], &typed);
    assert!(said.contains("there is no file /nowhere/at/all"), "{said}");
    assert!(said.contains("is not an address such as"), "{said}");
    let started = home.only();
    assert_eq!(started.words[0], "--loginuri", "{said}");
    assert!(said.contains("goes to 127.0.0.1:9 through rezcache"), "{said}");
}

#[test]
fn what_is_said_beforehand_is_not_asked_and_not_remembered() {
    let home = Home::new();
    home.viewer("kokua/kokua");
    let said = at_a_terminal(&home, &["--viewer", "kokua", "--grid", "http://127.0.0.1:9/"], "");
    assert!(!said.contains(VIEWER) && !said.contains(GRID), "{said}");
    assert!(!home.data().join("run.json").exists());
    // One of the two is left.
    home.forget();
    let said = at_a_terminal(&home, &["--viewer", "kokua"], "5\n");
    assert!(!said.contains(VIEWER) && said.contains(GRID), "{said}");
    assert_eq!(home.started().len(), 1);
}

#[test]
fn the_viewer_s_own_grids_are_offered() {
    let home = Home::new();
    home.viewer("firestorm/firestorm");
    let list = "<llsd><map><key>a</key><map><key>gridname</key><string>Club</string><key>loginuri</key><array><string>http://club.example:8002/</string></array></map></map></llsd>";
    home.write(".firestorm_x64/user_settings/grids.user.xml", list);
    home.write(".firestorm_x64/user_settings/settings.xml", "<llsd/>");
    let said = at_a_terminal(&home, &["--viewer", "firestorm"], "5\n");
    assert!(said.contains("7) Club") && said.contains("http://club.example:8002/"), "{said}");
}

#[test]
fn whether_to_share_is_asked_in_the_same_start() {
    let home = Home::new();
    home.viewer("kokua/kokua");
    let words =
        ["--viewer", "kokua", "--grid", "http://127.0.0.1:9/", "--cache-server", "http://127.0.0.1:9"];
    let said = at_a_terminal(&home, &words, "no\n");
    assert!(said.contains("May rezcache share assets with the cache server http://127.0.0.1:9?"), "{said}");
    assert_eq!(
        std::fs::read_to_string(home.data().join("upload-consent")).unwrap(),
        "no http://127.0.0.1:9\n"
    );
    assert_eq!(home.started().len(), 1, "{said}");
}
