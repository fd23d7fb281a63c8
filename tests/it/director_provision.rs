//! Nodes opened and closed for real: processes of this host, also those of a director that is no more, and programs
//! of the operator's.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rezcache::director::provision::{
    CommandConfig, CommandProvisioner, ProcessProvisioner, ProvisionError, Provisioner,
};
use rezcache::fleet::array::NodeSpec;

use crate::support::within;

fn free(host: u8) -> SocketAddr {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    SocketAddr::from(([127, 0, 0, host], listener.local_addr().unwrap().port()))
}

struct Processes {
    folder: tempfile::TempDir,
    addresses: Vec<SocketAddr>,
}

impl Processes {
    fn new(addresses: Vec<SocketAddr>) -> Self {
        Self { folder: tempfile::tempdir().unwrap(), addresses }
    }

    fn options(&self) -> Vec<String> {
        let store = format!("file://{}", self.folder.path().join("store").display());
        let own = self.folder.path().join("data").display().to_string();
        ["--store", &store, "--data-dir", &own].map(ToOwned::to_owned).to_vec()
    }

    fn logs(&self) -> PathBuf {
        self.folder.path().join("logs")
    }

    fn provisioner(&self, options: Vec<String>) -> ProcessProvisioner {
        let program = PathBuf::from(env!("CARGO_BIN_EXE_rezcache"));
        ProcessProvisioner::new(program, options, self.addresses.clone(), self.logs())
    }
}

fn pid(node: &NodeSpec) -> u32 {
    node.handle.strip_prefix("process ").unwrap().parse().unwrap()
}

/// Whether a process is there and not only remembered.
fn runs(pid: u32) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

/// Ends what a test leaves behind, by its number.
struct Ends(u32);

impl Drop for Ends {
    fn drop(&mut self) {
        if runs(self.0) {
            let _ = Command::new("kill").args(["-KILL", &self.0.to_string()]).status();
        }
    }
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_director_closes_a_node_of_an_earlier_one_and_nothing_else() {
    let stage = Processes::new(vec![free(31), free(32)]);
    let first = stage.provisioner(stage.options());
    let otter = within(first.open("otter".into(), Vec::new())).await.unwrap();
    let lynx = within(first.open("lynx".into(), Vec::new())).await.unwrap();
    let _ends = (Ends(pid(&otter)), Ends(pid(&lynx)));
    assert_ne!(otter.url, lynx.url);
    assert!(matches!(within(first.open("heron".into(), Vec::new())).await, Err(ProvisionError::NoRoom)));
    drop(first);
    assert!(runs(pid(&otter)) && runs(pid(&lynx)), "nodes outlive their director");

    let second = stage.provisioner(stage.options());
    // The addresses are not free for it either.
    assert!(matches!(within(second.open("heron".into(), Vec::new())).await, Err(ProvisionError::NoRoom)));
    // A number that belongs to somebody else by now, or a node of another address: left alone.
    let mut stranger = Command::new("sleep").arg("600").stdout(Stdio::null()).spawn().unwrap();
    for handle in
        [format!("process {}", stranger.id()), lynx.handle.clone(), "process 1".into(), "i-7".into()]
    {
        within(second.close(NodeSpec { handle, ..otter.clone() })).await.unwrap();
    }
    assert!(stranger.try_wait().unwrap().is_none() && runs(pid(&otter)) && runs(pid(&lynx)));
    stranger.kill().unwrap();
    stranger.wait().unwrap();

    let began = Instant::now();
    within(second.close(otter.clone())).await.unwrap();
    assert!(!runs(pid(&otter)) && runs(pid(&lynx)));
    assert!(began.elapsed() >= Duration::from_secs(9), "it was given time to end by itself");
    within(second.close(otter)).await.unwrap();
    let again = within(second.open("heron".into(), Vec::new())).await.unwrap();
    let _ends = Ends(pid(&again));
    // Its own it closes as well, and by then it is gone and not a zombie.
    within(second.close(again.clone())).await.unwrap();
    assert!(!Path::new(&format!("/proc/{}", pid(&again))).exists());
    // An address that is a member's stays its own though nobody answers there.
    let taken = vec![again.url];
    assert!(matches!(within(second.open("crane".into(), taken)).await, Err(ProvisionError::NoRoom)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_cannot_start_says_why_at_once() {
    let stage = Processes::new(vec![free(33)]);
    for (options, wanted) in [
        (vec!["--no-such-option".to_owned()], "--help"),
        (vec!["--store".into(), "ftp://x".into()], "ftp://x"),
    ] {
        let provisioner = stage.provisioner(options);
        // Its name is an old one, whose log says other things.
        std::fs::create_dir_all(stage.logs()).unwrap();
        std::fs::write(stage.logs().join("otter.log"), "an old complaint\n").unwrap();
        let began = Instant::now();
        let error = within(provisioner.open("otter".into(), Vec::new())).await.unwrap_err().to_string();
        assert!(error.contains(wanted) && !error.contains("old complaint"), "{error}");
        assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
        // Its address is free again.
        assert!(!matches!(
            within(provisioner.open("lynx".into(), Vec::new())).await,
            Err(ProvisionError::NoRoom)
        ));
    }
    let program = PathBuf::from("/nonexistent/rezcache");
    let missing = ProcessProvisioner::new(program, Vec::new(), stage.addresses.clone(), stage.logs());
    assert!(matches!(
        within(missing.open("otter".into(), Vec::new())).await,
        Err(ProvisionError::Run { .. })
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nodes_that_are_opened_at_once_get_addresses_of_their_own() {
    let stage = Processes::new(vec![free(34), free(35), free(36)]);
    let provisioner = stage.provisioner(stage.options());
    let names = ["otter", "lynx", "heron", "emu"];
    let opened =
        within(futures_util::future::join_all(names.map(|name| provisioner.open(name.into(), Vec::new()))))
            .await;
    let nodes: Vec<_> = opened.into_iter().filter_map(Result::ok).collect();
    let _ends: Vec<_> = nodes.iter().map(|node| Ends(pid(node))).collect();
    let urls: std::collections::BTreeSet<_> = nodes.iter().map(|node| node.url.clone()).collect();
    assert_eq!((nodes.len(), urls.len()), (3, 3), "and the fourth found no room");
}

/// Writes a script into a folder of its own.
fn script(folder: &Path, name: &str, text: &str) -> String {
    use std::os::unix::fs::PermissionsExt as _;
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_get_name_and_handle_in_words_and_environment() {
    let folder = tempfile::tempdir().unwrap();
    let open = script(
        folder.path(),
        "open",
        "#!/bin/sh\n[ \"$1 $2\" = \"--zone $NODE_NAME\" ] || exit 1\n[ -z \"${NODE_HANDLE-}\" ] || exit 2\n\
         echo starting a machine\necho\necho 'https://192.0.2.7:8443 i-77 192.0.2.7 2001:db8::7'\necho\n",
    );
    let close = script(
        folder.path(),
        "close",
        "#!/bin/sh\n[ \"$1 $2\" = \"$NODE_NAME $NODE_HANDLE\" ] && [ \"$NODE_URL\" = https://192.0.2.7:8443 ] \
         && exit\necho \"no such machine: $2\" >&2\nexit 1\n",
    );
    let programs = CommandProvisioner::with(CommandConfig {
        open: vec![open, "--zone".into()],
        close: vec![close.clone()],
        patience: Duration::from_secs(20),
    });
    let node = within(programs.open("otter".into(), Vec::new())).await.unwrap();
    assert_eq!((node.url.as_str(), node.handle.as_str()), ("https://192.0.2.7:8443", "i-77"));
    assert_eq!(node.addresses.len(), 2);
    within(programs.close(node.clone())).await.unwrap();
    let elsewhere = NodeSpec { url: "https://192.0.2.8:8443".into(), ..node };
    let error = within(programs.close(elsewhere)).await.unwrap_err().to_string();
    assert_eq!(error, format!("{close} failed: no such machine: i-77"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_hangs_is_ended_with_all_it_has_started() {
    let folder = tempfile::tempdir().unwrap();
    let number = folder.path().join("number");
    let hangs = format!("#!/bin/sh\nsleep 600 &\necho $! > {}\nwait\n", number.display());
    let words = vec![script(folder.path(), "hangs", &hangs)];
    let patience = Duration::from_millis(1500);
    let programs =
        CommandProvisioner::with(CommandConfig { open: words.clone(), close: words.clone(), patience });
    let error = within(programs.open("otter".into(), Vec::new())).await.unwrap_err();
    assert!(matches!(error, ProvisionError::Slow(_)), "{error}");
    let child: u32 = std::fs::read_to_string(&number).unwrap().trim().parse().unwrap();
    let _ends = Ends(child);
    within(async {
        while runs(child) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;

    // One that has done its work and leaves somebody behind who holds its pipes is not waited for.
    let leaves = "#!/bin/sh\nsleep 600 &\necho $! >&2\necho https://192.0.2.7:8443 i-$! 192.0.2.7\n";
    let words = vec![script(folder.path(), "leaves", leaves)];
    let programs = CommandProvisioner::with(CommandConfig {
        open: words.clone(),
        close: words,
        patience: Duration::from_secs(25),
    });
    let node = within(programs.open("otter".into(), Vec::new())).await.unwrap();
    let _ends = Ends(node.handle.strip_prefix("i-").unwrap().parse().unwrap());
}

/// The example that is shipped, with somebody who plays the cloud.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shipped_example_opens_and_closes() {
    let folder = tempfile::tempdir().unwrap();
    let cloud = "#!/bin/sh\ncd \"$CLOUD\" || exit 9\ncase \"$1 $2\" in\n\
        'server create') shift 2; while [ $# -gt 0 ]; do [ \"$1\" = --name ] && name=$2; shift; done\n\
          [ -e full ] && { echo 'resource_limit_exceeded' >&2; exit 1; }\n\
          echo 4711 > \"$name\"; echo created ;;\n\
        'server describe') [ -e \"$3\" ] || [ \"$(cat rezcache-* 2>/dev/null)\" = \"$3\" ] || exit 1; cat rezcache-* ;;\n\
        'server ip') echo 192.0.2.44 ;;\n\
        'server delete') rm rezcache-*; echo \"$3\" >> deleted ;;\nesac\n";
    script(folder.path(), "hcloud", cloud);
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/examples/provision-hcloud");
    let words = ["env".into(), format!("PATH={path}"), format!("CLOUD={}", folder.path().display())];
    let programs =
        CommandProvisioner::new(words.into_iter().chain([example.display().to_string()]).collect());
    let node = within(programs.open("otter".into(), Vec::new())).await.unwrap();
    assert_eq!((node.url.as_str(), node.handle.as_str()), ("https://192.0.2.44:8443", "4711"));
    assert_eq!(
        within(programs.open("otter".into(), Vec::new())).await.unwrap(),
        node,
        "asked twice, it is the same"
    );
    within(programs.close(node.clone())).await.unwrap();
    within(programs.close(node)).await.unwrap();
    assert_eq!(std::fs::read_to_string(folder.path().join("deleted")).unwrap(), "4711\n", "once");
    std::fs::write(folder.path().join("full"), "").unwrap();
    let error = within(programs.open("lynx".into(), Vec::new())).await.unwrap_err().to_string();
    assert_eq!(error, "env failed: resource_limit_exceeded");
}
