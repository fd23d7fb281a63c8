//! Directors as processes, whom they name according to `dig`, and somebody who takes their alerts.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::client::get;

/// A running `rezcache director`; killed when dropped.
pub(crate) struct DirectorProcess {
    process: Child,
    /// Where DNS is answered.
    pub(crate) dns: SocketAddr,
    /// Where the status page is.
    pub(crate) status: SocketAddr,
}

impl DirectorProcess {
    /// Starts the program with this configuration, its data in `folder`, and its log in `log` there.
    pub(crate) fn start(folder: &Path, config: &str, settings: &[(String, String)]) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let (file, log) = (folder.join("director.toml"), folder.join("log"));
        std::fs::write(&file, config).unwrap();
        let mut process = Command::new(env!("CARGO_BIN_EXE_rezcache"))
            .args(["director", "--log-format", "json", "--config"])
            .arg(&file)
            .arg("--data-dir")
            .arg(folder)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", "/nonexistent")
            .envs(settings.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::options().create(true).append(true).open(&log).unwrap())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let Ok(ready) = serde_json::from_str::<Value>(&line) else {
            let _ = process.kill();
            let _ = process.wait();
            panic!("the director did not start: {}", std::fs::read_to_string(&log).unwrap());
        };
        let address = |name: &str| ready[name].as_str().unwrap().parse().unwrap();
        Self { dns: address("dns"), status: address("status"), process }
    }

    /// SIGKILL: no handler runs, nothing is given up.
    pub(crate) fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Sends a signal, such as `-STOP`.
    pub(crate) fn signal(&self, signal: &str) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }

    /// SIGTERM, as a service manager does; the exit status.
    pub(crate) fn terminate(mut self) -> Option<i32> {
        self.signal("-TERM");
        self.process.wait().unwrap().code()
    }

    /// `/v1/status`.
    pub(crate) async fn picture(&self) -> Value {
        let answer = get(self.status, "/v1/status", &[]).await;
        serde_json::from_slice(&answer.body).unwrap_or_else(|_| panic!("{}", answer.text()))
    }

    /// The IPv4 addresses that it names for a zone.
    pub(crate) async fn named(&self, zone: &str) -> BTreeSet<String> {
        named(self.dns, zone).await
    }

    /// Waits until it names exactly these; how long that took.
    pub(crate) async fn until_named(&self, zone: &str, hosts: &[&str], limit: Duration) -> Duration {
        let wanted: BTreeSet<_> = hosts.iter().map(ToString::to_string).collect();
        let began = Instant::now();
        loop {
            let names = self.named(zone).await;
            if names == wanted {
                return began.elapsed();
            }
            assert!(began.elapsed() < limit, "{names:?} is named, not {wanted:?}");
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    /// Waits until `/v1/status` is as wanted.
    pub(crate) async fn until(&self, what: &str, limit: Duration, wanted: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        loop {
            let picture = self.picture().await;
            if wanted(&picture) {
                return picture;
            }
            assert!(began.elapsed() < limit, "not {what} in time: {picture:#}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Drop for DirectorProcess {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The IPv4 addresses of a name, as `dig` reads them from a name server.
pub(crate) async fn named(at: SocketAddr, zone: &str) -> BTreeSet<String> {
    let mut command = Command::new("dig");
    command.args([format!("@{}", at.ip()), "-p".into(), at.port().to_string()]);
    command.args(["+short", "+tries=1", "+timeout=3", zone, "A"]);
    let output =
        tokio::task::spawn_blocking(move || command.output().expect("dig is installed")).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stdout).unwrap().lines().map(ToOwned::to_owned).collect()
}

/// An address that takes alerts as JSON.
pub(crate) struct Webhook {
    /// What the director is told.
    pub(crate) url: String,
    taken: Arc<Mutex<Vec<Value>>>,
}

impl Webhook {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hooks/secret-of-a-test", listener.local_addr().unwrap());
        let taken = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&taken);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let all = Arc::clone(&all);
                tokio::spawn(async move {
                    let mut bytes = Vec::new();
                    let mut buffer = [0; 4096];
                    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                        bytes.extend_from_slice(&buffer[..length]);
                        let Some(body) = super::find(&bytes, b"\r\n\r\n") else { continue };
                        if let Ok(message) = serde_json::from_slice::<Value>(&bytes[body + 4..]) {
                            all.lock().unwrap().push(message);
                            let answer = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
                            let _ = stream.write_all(answer).await;
                            return;
                        }
                    }
                });
            }
        });
        Self { url, taken }
    }

    /// Each notice of all messages: its key and what has become of it.
    pub(crate) fn notices(&self) -> Vec<(String, String)> {
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let messages = self.taken.lock().unwrap();
        let notices =
            messages.iter().flat_map(|message| message["notices"].as_array().cloned().unwrap_or_default());
        notices.map(|notice| (word(&notice["key"]), word(&notice["what"]))).collect()
    }

    /// Waits for a notice.
    pub(crate) async fn until(&self, key: &str, what: &str, limit: Duration) {
        let began = Instant::now();
        while !self.notices().contains(&(key.to_owned(), what.to_owned())) {
            assert!(began.elapsed() < limit, "no {key} {what} in {:?}", self.notices());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// A port that is free on all of these addresses.
pub(crate) fn free_port(hosts: &[&str]) -> u16 {
    loop {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        // Below the range from which the system takes ports for connections, so that none of them gets in between.
        let port = 20_000 + port % 10_000;
        if hosts.iter().all(|host| std::net::TcpListener::bind((*host, port)).is_ok()) {
            return port;
        }
    }
}

/// The processes that serve at an address, whoever has started them.
pub(crate) fn nodes_at(address: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(words) = std::fs::read_to_string(entry.path().join("cmdline")) else { continue };
        let words: Vec<_> = words.split('\0').collect();
        if words.contains(&"serve") && words.iter().any(|word| word.starts_with(address)) {
            found.push(entry.file_name().into_string().unwrap());
        }
    }
    found
}

pub(crate) fn kill_node_at(host: &str, port: u16) {
    let nodes = nodes_at(&format!("{host}:{port}"));
    assert_eq!(nodes.len(), 1, "{nodes:?}");
    assert!(Command::new("kill").args(["-KILL", &nodes[0]]).status().unwrap().success());
}

/// Nodes that directors have opened outlive them, as they should; not this test.
pub(crate) struct Orphans(pub(crate) u16);

impl Drop for Orphans {
    fn drop(&mut self) {
        for host in 2..=8 {
            for node in nodes_at(&format!("127.0.0.{host}:{}", self.0)) {
                let _ = Command::new("kill").args(["-KILL", &node]).status();
            }
        }
    }
}
