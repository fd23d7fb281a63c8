//! What viewers are started with, and what becomes of their end.

use super::{Home, ask, port_of, until};

/// A grid that nobody needs to reach.
const GRID: &str = "home=http://127.0.0.1:9/";

#[test]
fn each_kind_is_told_of_the_grid_in_its_own_way() {
    for (program, switch) in [
        ("firestorm/firestorm", "--grid"),
        ("CoolVLViewer-1.32/cool_vl_viewer", "--loginuri"),
        ("sing/singularity", "--loginuri"),
        ("kokua/kokua", "--loginuri"),
        ("Radegast/Radegast", "--loginuri"),
        ("mine/my-own-bot", "--loginuri"),
    ] {
        let home = Home::new();
        let ended = home.run(&["--grid", GRID, "--", &home.viewer(program), "--autologin", "a b"]);
        assert_eq!(ended.code, Some(0), "{program}: {}", ended.said);
        let started = home.only();
        let address = port_of(&started);
        let words = [switch, &format!("http://{address}/"), "--autologin", "a b"].map(str::to_owned);
        assert_eq!(started.words, words, "{program}");
        assert_eq!((started.asset_address.as_str(), &*started.leaked), ("", &[][..]), "{program}");
        assert!(
            ended.said.contains(&format!("through rezcache ({switch} http://{address}/)")),
            "{}",
            ended.said
        );
    }
}

#[test]
fn a_kind_that_is_named_counts_more_than_the_program_s_name() {
    let home = Home::new();
    let viewer = home.viewer("x/start");
    home.run(&["--grid", GRID, "--viewer-kind", "firestorm", "--", &viewer]);
    assert_eq!(home.only().words[0], "--grid");
    let wrong = home.run(&["--grid", GRID, "--viewer-kind", "netscape", "--", &viewer]);
    assert_eq!(wrong.code, Some(2));
    assert!(wrong.said.contains("firestorm, secondlife"), "{}", wrong.said);
}

#[test]
fn for_second_life_the_assets_alone_come_to_us() {
    for word in ["secondlife", "agni", "https://login.agni.lindenlab.com/cgi-bin/login.cgi"] {
        let home = Home::new();
        let ended = home.run(&["--grid", word, "--", &home.viewer("firestorm/firestorm"), "--autologin"]);
        assert_eq!(ended.code, Some(0), "{}", ended.said);
        let started = home.only();
        assert_eq!(started.words, ["--autologin"]);
        let token = std::fs::read_to_string(home.data().join("asset-token")).unwrap();
        assert!(started.asset_address.ends_with(&format!("/asset/{token}/agni")), "{started:?}");
        assert!(!ended.said.contains(&token), "a secret is shown: {}", ended.said);
    }
}

#[test]
fn where_assets_cannot_come_to_us_the_viewer_starts_as_always() {
    let home = Home::new();
    let ended = home.run(&["--grid", "aditi", "--", &home.viewer("firestorm/firestorm")]);
    let started = home.only();
    assert_eq!((started.words.len(), started.asset_address.as_str()), (0, ""));
    assert!(ended.said.contains("--asset-host aditi=URL"), "{}", ended.said);
}

#[test]
fn a_switch_of_the_user_s_own_stays_alone() {
    let home = Home::new();
    let viewer = home.viewer("firestorm/firestorm");
    let ended = home.run(&["--grid", GRID, "--", &viewer, "--grid", "agni"]);
    assert_eq!(home.only().words, ["--grid", "agni"]);
    assert!(ended.said.contains("you have given Firestorm --grid yourself"), "{}", ended.said);
}

#[test]
fn the_viewer_s_status_becomes_ours() {
    for (status, code) in [("7", 7), ("0", 0), ("killed", 137)] {
        let home = Home::new();
        let viewer = home.viewer("firestorm/firestorm");
        let mut command = home.command(&["run", "--grid", GRID, "--", &viewer]);
        let ended = super::ended(command.env("STATUS", status).spawn().unwrap());
        assert_eq!(ended.code, Some(code), "{}", ended.said);
    }
}

#[test]
fn the_proxy_runs_while_the_viewer_does_and_ends_with_it() {
    let home = Home::new();
    let viewer = home.viewer("firestorm/firestorm");
    let running = home.start("a", &["--grid", GRID, "--", &viewer]);
    let at = port_of(&home.until_started(1)[0]);
    let control = home.control();
    assert_eq!(ask(at, "GET /rezcache/status.json", &[], "").0, 200);
    running.let_go();
    let ended = running.ended();
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    assert!(ended.said.contains(&format!("http://{control}/\n")), "{}", ended.said);
    for gone in [at, control] {
        assert!(std::net::TcpStream::connect(gone).is_err(), "{gone} still listens");
    }
}

#[test]
fn whoever_ends_us_ends_the_viewer_which_may_still_save() {
    let home = Home::new();
    let viewer = home.viewer("firestorm/firestorm");
    for signal in ["-TERM", "-INT"] {
        let running = home.start("a", &["--grid", GRID, "--", &viewer]);
        home.until_started(1);
        running.signal(signal);
        assert_eq!(running.ended().code, Some(42), "{signal}");
        home.forget();
    }
}

#[test]
fn a_launcher_that_ends_at_once_leaves_time_to_log_in() {
    let home = Home::new();
    let viewer = home.viewer("firestorm/firestorm");
    let mut command = home.command(&["run", "--grid", GRID, "--login-grace", "1h", "--", &viewer]);
    assert_eq!(super::ended(command.spawn().unwrap()).code, Some(2), "an hour is 60m");

    let running = super::Running {
        process: Some(
            home.command(&["run", "--grid", GRID, "--login-grace", "60m", "--", &viewer]).spawn().unwrap(),
        ),
        stay: home.path("none"),
    };
    let at = port_of(&home.until_started(1)[0]);
    // The launcher's process is gone; whoever asks is still served.
    until("the launcher's end", || {
        let children = format!("/proc/{0}/task/{0}/children", running.process.as_ref().unwrap().id());
        std::fs::read_to_string(children).map_or(Some(()), |list| list.trim().is_empty().then_some(()))
    });
    assert_eq!(ask(at, "GET /rezcache/status.json", &[], "").0, 200);
    running.signal("-INT");
    let ended = running.ended();
    assert_eq!(ended.code, Some(0), "{}", ended.said);

    // And with nobody coming it ends by itself.
    let ended = home.run(&["--grid", GRID, "--login-grace", "1s", "--", &viewer]);
    assert_eq!(ended.code, Some(0));
    assert!(ended.said.contains("waiting 1 s for it to log in"), "{}", ended.said);
}

#[test]
fn when_the_proxy_cannot_run_the_viewer_starts_without_it() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    for (case, listen, expected) in [
        ("port", taken.as_str(), "cannot listen on"),
        ("ports.json", "127.0.0.1:0", "ports.json is damaged"),
        ("token", "127.0.0.1:0", "does not hold 32 hexadecimal digits"),
        ("data", "127.0.0.1:0", "cannot make the data directory"),
    ] {
        let home = Home::new();
        match case {
            "ports.json" => drop(home.write("data/ports.json", "{")),
            "data" => drop(home.write("data", "a file")),
            "token" => drop(home.write("data/asset-token", "x")),
            _ => {}
        }
        let viewer = home.viewer("firestorm/firestorm");
        let words = ["--grid", GRID, "--listen", listen, "--", &viewer, "--autologin"];
        let ended = home.run(&words);
        assert_eq!(ended.code, Some(0), "{case}: {}", ended.said);
        assert_eq!(home.only().words, ["--autologin"], "{case}");
        assert!(ended.said.contains(expected), "{case}: {}", ended.said);
        assert!(ended.said.contains("Firestorm starts without rezcache"), "{case}: {}", ended.said);

        home.forget();
        let ended = home.run(&[&["--strict"], &words[..]].concat());
        assert_eq!(ended.code, Some(1), "{case}: {}", ended.said);
        assert_eq!(home.started(), [], "{case}: it was started all the same");
    }
    drop(listener);
}

#[test]
fn a_program_that_is_not_there_is_told() {
    let home = Home::new();
    let ended = home.run(&["--grid", GRID, "--", "/nowhere/firestorm"]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.said.contains("cannot start /nowhere/firestorm"), "{}", ended.said);
}

#[test]
fn a_viewer_is_found_by_its_kind_and_its_name() {
    let home = Home::new();
    home.viewer("Firestorm_64/firestorm");
    for named in ["firestorm", "Firestorm_64", &home.path("Firestorm_64/firestorm").display().to_string()] {
        home.forget();
        let ended = home.run(&["--grid", GRID, "--viewer", named]);
        assert_eq!(ended.code, Some(0), "{named}: {}", ended.said);
        assert_eq!(home.only().words[0], "--grid");
    }
    let ended = home.run(&["--grid", GRID, "--viewer", "kokua"]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.said.contains("Kokua was not found"), "{}", ended.said);
}

#[test]
fn with_nobody_to_ask_it_says_what_to_type() {
    let home = Home::new();
    home.viewer("kokua/kokua");
    let ended = home.run(&[]);
    assert_eq!(ended.code, Some(2));
    assert!(ended.said.contains("rezcache run --viewer kokua --grid osgrid"), "{}", ended.said);
    assert!(ended.said.contains("Viewers found: kokua"), "{}", ended.said);
    let ended = home.run(&["--viewer", "kokua"]);
    assert_eq!(ended.code, Some(2));
    assert!(ended.said.contains("rezcache run --grid secondlife"), "{}", ended.said);
    assert_eq!(home.started(), []);
}

#[test]
fn what_the_file_says_needs_no_question() {
    let home = Home::new();
    home.viewer("kokua/kokua");
    let file = home.write(
        "rezcache.toml",
        "[run]\nviewer = \"kokua\"\n[[grid]]\nname = \"home\"\nurl = \"http://127.0.0.1:9/\"\n",
    );
    let ended = home.run(&["--config", file.to_str().unwrap()]);
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    assert_eq!(home.only().words[0], "--loginuri");
    assert!(ended.said.contains("goes to home"), "{}", ended.said);
    // Two grids: one has to be named, by its name if it has one.
    home.forget();
    let text = std::fs::read_to_string(&file).unwrap()
        + "[[grid]]\nname = \"other\"\nurl = \"http://127.0.0.1:10/\"\n";
    std::fs::write(&file, text).unwrap();
    assert_eq!(home.run(&["--config", file.to_str().unwrap()]).code, Some(2));
    let ended = home.run(&["--config", file.to_str().unwrap(), "--grid", "other"]);
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    assert!(ended.said.contains("goes to other"), "{}", ended.said);
}
