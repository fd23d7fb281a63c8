//! What is wrong on this computer: folders, ports, files, and the running proxy.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};

use rezcache::checks::Outcome::{Failed, Ok, Skipped, Warning};
use rezcache::node::Node;

use super::{Desk, everything, run, unused};
use crate::service::config;
use crate::support::fake_grid::{FakeGrid, Reply};

/// The real proxy; killed when dropped.
struct Running(Child);

impl Running {
    fn start(options: &[String]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_rezcache"))
            .args(["proxy", "--log-format", "json"])
            .args(options)
            .env_clear()
            .env("HOME", "/nonexistent")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let mut running = Self(child);
        if !line.starts_with('{') {
            let mut said = String::new();
            running.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            panic!("the proxy did not start: {line}{said}");
        }
        running
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_proxy_with_all_it_needs_is_found_healthy() {
    let desk = Desk::new().await;
    let node = Node::start(config(desk.folder.path())).await.unwrap();
    let service = format!("https://{}#pin={}", node.address(), node.pin().unwrap());
    let (listen, control) = (unused().await.to_string(), unused().await.to_string());
    let more = ["--listen", &listen, "--control", &control, "--cache-server", &service];
    let options = desk.changed(&["--listen", "--control"], &more);
    let running = Running::start(&[&options[..], &["--upload".to_owned(), "no".to_owned()]].concat());

    let before = everything(&desk.data());
    let found = run(&[], options.clone(), &[]).await;
    found.is_fine();
    for check in &found.report.checks {
        assert_eq!(check.outcome, Ok, "{check:?}");
    }
    assert_eq!(everything(&desk.data()), before, "nothing is left behind");

    // Somebody else's data folder: the lock is held, and nobody answers where he should.
    let elsewhere = unused().await.to_string();
    let found = desk.doctor(&["--control"], &["--control", &elsewhere]).await;
    found.blames("data_dir_use", Warning, "Another rezcache uses the data folder", "--data-dir");
    drop(running);
    // A proxy that is gone leaves nothing wrong.
    let found = run(&[], options, &[]).await;
    found.is_fine();
    assert_eq!((found.check("page").outcome, found.check("port").outcome), (Skipped, Ok));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_proxy_looks_at_itself() {
    let setup = crate::support::Setup::start().await;
    let results = setup.proxy.self_test().await;
    let faults: Vec<_> = results.iter().filter(|check| check.outcome >= Warning).collect();
    // The grid of that set-up says nothing of itself.
    assert!(faults.iter().all(|check| check.name.starts_with("grid_")), "{faults:?}");
    let outcome = |name: &str| results.iter().find(|check| check.name == name).unwrap().outcome;
    assert_eq!([outcome("port"), outcome("login"), outcome("data_dir_use")], [Ok, Ok, Ok]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_remembered_port_that_another_program_took() {
    let desk = Desk::new().await;
    let thief = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (at, place) = (thief.local_addr().unwrap(), format!("{}/", desk.grid.at));
    std::fs::create_dir(desk.data()).unwrap();
    let ports = serde_json::json!({ "version": 1, "ports": { at.to_string(): { place: at.port() } } });
    std::fs::write(desk.data().join("ports.json"), ports.to_string()).unwrap();
    let at = at.to_string();
    let found = desk.doctor(&["--listen"], &["--listen", &at]).await;
    found.blames("port", Failed, &format!("listens at {at}"), "saved passwords under this address");
    if cfg!(target_os = "linux") {
        assert!(found.check("port").seen.contains(&format!("process {}", std::process::id())));
    }
    // A new grid's port is another matter.
    std::fs::remove_file(desk.data().join("ports.json")).unwrap();
    let found = desk.doctor(&["--listen"], &["--listen", &at]).await;
    found.blames("port", Failed, &format!("listens at {at}"), "choose another address with --listen");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_port_where_something_else_answers() {
    let desk = Desk::new().await;
    let at = desk.grid.at.to_string();
    let elsewhere = format!("{}/", "http://nowhere.invalid");
    let found = desk.doctor(&["--control", "--grid"], &["--control", &at, "--grid", &elsewhere]).await;
    found.says("page", Failed, "Another program answers", "--control");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_of_another_version() {
    let desk = Desk::new().await;
    let old = FakeGrid::start().await;
    old.on("/status.json", |_| Reply::ok("application/json", "{\"version\":\"0.0.7\",\"uptime_s\":5}"));
    let at = old.at.to_string();
    let found = desk.doctor(&["--control"], &["--control", &at]).await;
    found.says("page", Warning, "version 0.0.7", "start it again");
    assert_eq!(found.code, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_files_of_ours() {
    let desk = Desk::new().await;
    std::fs::create_dir(desk.data()).unwrap();
    std::fs::write(desk.data().join("ports.json"), "{\"version\":1,").unwrap();
    let found = desk.doctor(&[], &[]).await;
    found.blames("ports", Failed, "ports.json is damaged", "delete it");
    std::fs::remove_file(desk.data().join("ports.json")).unwrap();

    let config = desk.folder.path().join("rezcache.toml");
    std::fs::write(&config, "[proxy]\nlisten = \"nowhere\"\ncach_size = 1\n").unwrap();
    let found = run(&[], vec!["--config".into(), config.to_str().unwrap().into()], &[]).await;
    assert_eq!(found.faults(), [("configuration", Failed), ("configuration", Failed)], "{}", found.text);
    found.says("configuration", Failed, "rezcache.toml:", "rezcache check-config");
    assert_eq!(found.code, Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_damaged_or_in_the_way() {
    let desk = Desk::new().await;
    let shard = desk.data().join("assets/00");
    std::fs::create_dir_all(&shard).unwrap();
    std::fs::write(shard.join(format!("{}.a", "0".repeat(32))), "rezstore, but then rubbish").unwrap();
    let found = desk.doctor(&[], &[]).await;
    found.blames("store", Failed, "1 are damaged", "Have the disk checked");
    std::fs::remove_dir_all(desk.data().join("assets")).unwrap();
    std::fs::write(desk.data().join("assets"), "in the way").unwrap();
    let found = desk.doctor(&[], &[]).await;
    found.says("store", Failed, "is in the way", "move");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_beyond_its_limit() {
    let desk = Desk::new().await;
    let shard = desk.data().join("assets/01");
    std::fs::create_dir_all(&shard).unwrap();
    let file = std::fs::File::create(shard.join(format!("01{}.01020304.part", "0".repeat(30)))).unwrap();
    file.set_len(80 << 20).unwrap();
    let found = desk.doctor(&[], &[]).await;
    found.blames("store", Warning, "more than the 64.0 MiB it may", "Start the proxy");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_folder_that_is_a_file() {
    let desk = Desk::new().await;
    std::fs::write(desk.data(), "").unwrap();
    let found = desk.doctor(&[], &[]).await;
    found.blames("data_dir", Failed, "is no folder", "--data-dir");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_takes_nothing_more() {
    let desk = Desk::new().await;
    std::fs::create_dir(desk.data()).unwrap();
    // The signal that comes with the limit would end the program; without it the write fails.
    let full = ["sh", "-c", "trap '' XFSZ; ulimit -f 0; exec \"$0\" \"$@\" | cat"];
    let found = run(&full, desk.options(), &[]).await;
    assert_eq!(found.faults(), [("data_dir", Failed)], "{}", found.text);
    found.says("data_dir", Failed, "is full", "Delete something");
    assert_eq!(everything(&desk.data()), Vec::<std::path::PathBuf>::new(), "half a file was left");
}

/// A shell that mounts a file system over its first argument, seen by nobody else, and becomes the program
/// in the others. `None` where that is not possible.
fn mounted(options: &'static str, at: &str) -> Option<Vec<String>> {
    let script = format!("mount -t tmpfs -o {options} none \"$0\" && exec \"$@\"");
    let words: Vec<String> = ["unshare", "-rm", "sh", "-c", &script, at].map(str::to_owned).into();
    let run = Command::new(&words[0]).args(&words[1..]).arg("true").stderr(Stdio::null()).status();
    run.is_ok_and(|status| status.success()).then_some(words)
}

#[expect(clippy::print_stdout, reason = "a test that proves nothing must say so")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_disk_and_a_tiny_one() {
    let desk = Desk::new().await;
    std::fs::create_dir(desk.data()).unwrap();
    let at = desk.data().to_str().unwrap().to_owned();
    for (mount, name, seen, advice) in [
        ("ro", "data_dir", "is read-only", "Make the disk writable"),
        ("size=1m", "disk_space", "all but full", "Delete something on that disk"),
    ] {
        let Some(wrapper) = mounted(mount, &at) else {
            println!("no file system can be mounted here");
            return;
        };
        let wrapper: Vec<&str> = wrapper.iter().map(String::as_str).collect();
        let found = run(&wrapper, desk.options(), &[]).await;
        found.says(name, Failed, seen, advice);
        assert_eq!(found.code, Some(1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_web_proxy_in_the_environment_is_noted_and_its_password_is_not() {
    let desk = Desk::new().await;
    let proxy = ("HTTP_PROXY", "http://me:hunter2@proxy.example:3128/");
    let found = run(&[], desk.options(), &[proxy]).await;
    found.blames("proxy_variables", Warning, "HTTP_PROXY", "no_proxy");
    assert!(!found.text.contains("hunter2"));
    run(&[], desk.options(), &[proxy, ("no_proxy", "127.0.0.1")]).await.is_fine();
}
