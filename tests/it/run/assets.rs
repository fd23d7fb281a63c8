//! A stand-in for a viewer that logs in, and fetches a texture, through the proxy that started it.

use std::sync::Arc;

use super::Home;
use crate::support::fake_grid::{FakeGrid, Reply};
use crate::support::{Avatar, asset_reply, seed_reply, texture, within};

/// Logs in where `--grid` says, or takes `$VIEWERASSET`; fetches a texture twice and writes down what came.
const FETCHING: &str = r#"#!/usr/bin/env python3
import os, re, sys, urllib.request
record = os.environ["RECORD"]
direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
def post(url, kind, body):
    return direct.open(urllib.request.Request(url, body, {"Content-Type": kind})).read().decode()
base = os.environ.get("VIEWERASSET")
if not base:
    login = sys.argv[sys.argv.index("--grid") + 1]
    info = direct.open(login + "get_grid_info").read().decode()
    login = re.search("<login>(.*?)</login>", info).group(1)
    reply = post(login, "text/xml", b"<?xml version='1.0'?><methodCall><methodName>login_to_simulator</methodName><params/></methodCall>")
    seed = re.search("<name>seed_capability</name><value><string>(.*?)<", reply).group(1)
    granted = post(seed, "application/llsd+xml", b"<llsd><array><string>ViewerAsset</string></array></llsd>")
    base = re.search("<key>ViewerAsset</key><string>(.*?)<", granted).group(1)
for number in (1, 2):
    answer = direct.open(base + sys.argv[-1])
    with open(f"{record}/{number}.tier", "w") as file: file.write(answer.headers["Rezcache"])
    with open(f"{record}/{number}.bytes", "wb") as file: file.write(answer.read())
"#;

async fn fetches(home: &Home, words: Vec<String>) -> String {
    let mut command = home.command(&["run"]);
    command.args(words).env("PATH", std::env::var_os("PATH").unwrap_or_default());
    let process = command.spawn().unwrap();
    let ended = within(tokio::task::spawn_blocking(move || super::ended(process))).await.unwrap();
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    for number in [1, 2] {
        let bytes = std::fs::read(home.path(&format!("record/{number}.bytes"))).unwrap();
        assert!(bytes == *texture().bytes, "other bytes came");
    }
    let tier = |number: u8| std::fs::read_to_string(home.path(&format!("record/{number}.tier"))).unwrap();
    assert!(tier(2).starts_with("hit"), "{}", tier(2));
    tier(1)
}

#[tokio::test]
async fn through_a_login() {
    let home = Home::new();
    let viewer = home.program("firestorm/firestorm", FETCHING);
    let (grid, avatar, bytes) = (FakeGrid::start().await, Avatar::number(3), Arc::clone(&texture().bytes));
    let info = format!("<gridinfo><login>{}</login><gridname>G</gridname></gridinfo>", grid.url("/"));
    grid.on("/get_grid_info", move |_| Reply::ok("application/xml", &info));
    let reply = avatar.login_reply("127.0.0.1", 9, &grid.url(&avatar.seed));
    grid.on("/", move |_| Reply::ok("text/xml", &reply));
    let granted = seed_reply(&[("ViewerAsset", &grid.url("/cap-asset"))]);
    grid.on(&avatar.seed, move |_| Reply::ok("application/llsd+xml", &granted));
    grid.on("/cap-asset/", move |asked| asset_reply(asked, &bytes));

    let words = ["--grid", &grid.url("/"), "--", &viewer, &texture().query].map(str::to_owned);
    assert_eq!(fetches(&home, words.to_vec()).await, "miss");
    assert_eq!(grid.asked("/cap-asset/").len(), 1);
    // The next start has it from the disk.
    assert!(fetches(&home, words.to_vec()).await.starts_with("hit"));
    assert_eq!(grid.asked("/cap-asset/").len(), 1);
}

#[tokio::test]
async fn through_the_asset_address() {
    let home = Home::new();
    let viewer = home.program("sl/secondlife", FETCHING);
    let (host, bytes) = (FakeGrid::start().await, Arc::clone(&texture().bytes));
    host.on("/", move |asked| asset_reply(asked, &bytes));
    let asset_host = format!("agni={}", host.url("/"));
    let words = ["--grid", "secondlife", "--asset-host", &asset_host, "--", &viewer, &texture().query];
    assert_eq!(fetches(&home, words.map(str::to_owned).to_vec()).await, "miss");
    assert_eq!(host.all_asked().len(), 1);
}
