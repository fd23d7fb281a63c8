//! Several starts on one data directory share one proxy.

use std::io::{Read as _, Write as _};

use serde_json::Value;

use super::{Home, ask, port_of, until};

const GRID: &str = "home=http://127.0.0.1:9/";

#[test]
fn of_two_at_once_one_owns_the_proxy_and_stays_for_the_other() {
    let home = Home::new();
    let viewer = home.viewer("firestorm/firestorm");
    let words = ["--grid", GRID, "--", viewer.as_str()];
    let both = [home.start("a", &words), home.start("b", &words)];
    let started = home.until_started(2);
    assert_eq!(port_of(&started[0]), port_of(&started[1]));
    let state = home.state();
    assert_eq!((&state["leases"], state["grids"].as_array().unwrap().len()), (&Value::from(1), 1), "{state}");

    // Whichever owns it: while one viewer is left it serves.
    let [first, second] = both;
    first.let_go();
    until("the first viewer's end", || {
        let children = format!("/proc/{0}/task/{0}/children", first.process.as_ref().unwrap().id());
        std::fs::read_to_string(children).map_or(Some(()), |list| list.trim().is_empty().then_some(()))
    });
    assert_eq!(ask(port_of(&started[0]), "GET /rezcache/status.json", &[], "").0, 200);
    let control = home.control();
    second.let_go();
    for running in [first, second] {
        let ended = running.ended();
        assert_eq!(ended.code, Some(0), "{}", ended.said);
    }
    assert!(std::net::TcpStream::connect(control).is_err(), "it still runs");
    assert!(!home.data().join("running.json").exists());
}

#[test]
fn another_grid_is_served_by_the_running_proxy_and_keeps_its_port() {
    let home = Home::new();
    let viewer = home.viewer("firestorm/firestorm");
    // A number of ports that nothing else uses, so that they are remembered.
    let ports = ["--listen", "127.8.8.1:9080", "--control", "127.8.8.1:9079"];
    let first = home.start("a", &[&ports[..], &["--grid", GRID, "--", &viewer]].concat());
    home.until_started(1);
    let other = [&ports[..], &["--grid", "other=http://127.0.0.1:10/", "--", &viewer, "second"]].concat();
    let second = home.start("b", &other);
    let started = home.until_started(2);
    let of = |last: &str| port_of(started.iter().find(|s| s.words.last().unwrap() == last).unwrap());
    let port = of("second");
    assert_ne!(port, "127.8.8.1:9080".parse().unwrap());
    let state = home.state();
    assert_eq!(state["grids"][1]["name"], "other", "{state}");
    assert_eq!(ask(port, "GET /rezcache/status.json", &[], "").0, 200);
    first.let_go();
    second.let_go();
    for running in [first, second] {
        assert_eq!(running.ended().code, Some(0));
    }
    // The next start, which owns the proxy itself, gives the grid the port it had.
    home.forget();
    assert_eq!(home.run(&other).code, Some(0));
    assert_eq!(port_of(&home.only()), port);
}

#[test]
fn a_proxy_that_was_started_alone_is_joined_and_stays() {
    let home = Home::new();
    let mut proxy = home.command(&["proxy", "--grid", GRID]).spawn().unwrap();
    let control = home.control();
    let ended = home.run(&["--grid", GRID, "--", &home.viewer("firestorm/firestorm")]);
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    assert_eq!(port_of(&home.only()).to_string(), home.state()["grids"][0]["listen"]);
    assert!(ended.said.contains(&format!("http://{control}/")), "{}", ended.said);
    assert_eq!(home.state()["leases"], 0);

    let another = super::ended(home.command(&["proxy", "--grid", GRID]).spawn().unwrap());
    assert_eq!(another.code, Some(1));
    assert!(another.said.contains("another rezcache is running on"), "{}", another.said);
    proxy.kill().unwrap();
    proxy.wait().unwrap();
}

#[test]
fn a_proxy_that_nobody_can_ask_is_done_without() {
    let home = Home::new();
    let viewer = home.viewer("firestorm/firestorm");
    let first = home.start("a", &["--control", "off", "--grid", GRID, "--", &viewer]);
    home.until_started(1);
    let ended = home.run(&["--grid", GRID, "--", &viewer, "--autologin"]);
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    assert!(ended.said.contains("without a control port"), "{}", ended.said);
    assert!(home.started().iter().any(|started| started.words == ["--autologin"]));
    first.let_go();
    first.ended();
}

#[test]
fn when_the_owner_dies_the_other_takes_its_place_on_the_same_port() {
    let home = Home::new();
    let viewer = home.viewer("firestorm/firestorm");
    let words = ["--listen", "127.8.8.2:9080", "--control", "127.8.8.2:9079", "--grid", GRID, "--", &viewer];
    let owner = home.start("a", &words);
    home.until_started(1);
    let other = home.start("b", &words);
    home.until_started(2);
    assert_eq!(home.state()["leases"], 1);
    owner.signal("-KILL");
    drop(owner);
    until("another proxy", || {
        let mut stream = std::net::TcpStream::connect("127.8.8.2:9080").ok()?;
        stream
            .write_all(
                b"GET /rezcache/status.json HTTP/1.1\r\nHost: 127.8.8.2:9080\r\nConnection: close\r\n\r\n",
            )
            .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.starts_with("HTTP/1.1 200").then_some(())
    });
    other.let_go();
    let ended = other.ended();
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    assert!(ended.said.contains("another takes its place"), "{}", ended.said);
}

#[test]
fn nobody_without_the_token_and_no_web_page_is_told_or_obeyed() {
    let home = Home::new();
    let running = home.start("a", &["--grid", GRID, "--", &home.viewer("firestorm/firestorm")]);
    home.until_started(1);
    let control = home.control();
    let bearer = format!("Authorization: Bearer {}", home.token());
    let wanted = r#"{"name":"x","url":"http://127.0.0.1:11/","listen":"127.0.0.1:0"}"#;
    for (line, headers, body, status) in [
        ("GET /run/state", vec![], "", 401),
        ("GET /run/state", vec!["Authorization: Bearer 0123456789abcdef0123456789abcdef"], "", 401),
        ("POST /run/grids", vec![], wanted, 401),
        ("POST /run/lease", vec!["Upgrade: rezcache-lease"], "", 401),
        ("GET /run/state", vec![&*bearer, "Origin: http://evil.example"], "", 403),
        ("POST /run/grids", vec![&*bearer, "Sec-Fetch-Site: cross-site"], wanted, 403),
        ("GET /run/state", vec![&*bearer, "Host: rebound.example"], "", 403),
        ("POST /run/state", vec![&*bearer], "", 405),
        ("GET /run/grids", vec![&*bearer], "", 405),
        ("POST /run/lease", vec![&*bearer], "", 426),
        ("POST /run/fly", vec![&*bearer], "", 404),
        ("POST /run/grids", vec![&*bearer], "{", 400),
        (
            "POST /run/grids",
            vec![&*bearer],
            r#"{"name":"x","url":"file:///etc","listen":"127.0.0.1:0"}"#,
            400,
        ),
        (
            "POST /run/grids",
            vec![&*bearer],
            r#"{"name":"x","url":"http://a.example/","listen":"0.0.0.0:0"}"#,
            400,
        ),
        (
            "POST /run/grids",
            vec![&*bearer],
            r#"{"name":"a/b","url":"http://a.example/","listen":"127.0.0.1:0"}"#,
            400,
        ),
    ] {
        assert_eq!(ask(control, line, &headers, body).0, status, "{line} {headers:?} {body}");
    }
    // Whether the answer still comes, when so much is not read, is up to the system.
    let large = "x".repeat(1 << 20);
    let mut stream = std::net::TcpStream::connect(control).unwrap();
    let head = format!(
        "POST /run/grids HTTP/1.1\r\nHost: {control}\r\n{bearer}\r\nContent-Length: {}\r\n\r\n",
        large.len()
    );
    let mut answer = String::new();
    if stream.write_all((head + &large).as_bytes()).is_ok() && stream.read_to_string(&mut answer).is_ok() {
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    }
    assert_eq!(home.state()["grids"].as_array().unwrap().len(), 1);
    // One that is served already stays where it is; another one of its name gets a name of its own.
    let again = r#"{"name":"y","url":"http://127.0.0.1:9/","listen":"127.0.0.1:0"}"#;
    let served: Value = serde_json::from_str(&ask(control, "POST /run/grids", &[&bearer], again).1).unwrap();
    assert_eq!(served, home.state()["grids"][0]);
    let twin = r#"{"name":"home","url":"http://127.0.0.1:12/","listen":"127.0.0.1:0"}"#;
    let served: Value = serde_json::from_str(&ask(control, "POST /run/grids", &[&bearer], twin).1).unwrap();
    assert_eq!(served["name"], "home-2");
    // The numbers that anybody may read say nothing of grids.
    assert!(!ask(control, "GET /status.json", &[], "").1.contains("127.0.0.1:12"));
    running.let_go();
    assert_eq!(running.ended().code, Some(0));
}
