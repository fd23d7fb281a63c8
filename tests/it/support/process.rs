//! The real program as a child process, to be killed.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::client::get;
use super::within;

/// A running `rezcache proxy` for one grid with an asset host; killed when dropped.
pub(crate) struct ProxyProcess {
    process: Child,
    /// The grid's port.
    pub(crate) at: SocketAddr,
    /// The path that stands for the asset host: `/asset/<token>/<grid>`.
    pub(crate) assets: String,
    control: SocketAddr,
}

impl ProxyProcess {
    /// Starts the program through `wrapper` (a program and its first arguments; may be empty), with
    /// its log in the data directory's neighbour `log`.
    pub(crate) fn start(wrapper: &[&str], data_dir: &Path, host: &str) -> Self {
        let host = format!("grid={host}");
        let mut words = wrapper.to_vec();
        words.push(env!("CARGO_BIN_EXE_rezcache"));
        words.extend([
            "proxy",
            "--log-format",
            "json",
            "--listen",
            "127.0.0.1:0",
            "--control",
            "127.0.0.1:0",
        ]);
        words.extend(["--grid", "grid=http://127.0.0.1:9/cgi-bin/login.cgi", "--asset-host", &host]);
        words.extend(["--data-dir", data_dir.to_str().unwrap()]);
        let log = data_dir.with_file_name("log");
        let mut process = Command::new(words[0])
            .args(&words[1..])
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", "/nonexistent")
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
            panic!("the proxy did not start: {}", std::fs::read_to_string(&log).unwrap());
        };
        let grid = &ready["grids"][0];
        let at: SocketAddr = grid["listen"].as_str().unwrap().parse().unwrap();
        let url = grid["viewerasset"].as_str().unwrap();
        let assets = url.strip_prefix(&format!("http://{at}")).unwrap().to_owned();
        let control = ready["control"].as_str().unwrap().parse().unwrap();
        Self { process, at, assets, control }
    }

    /// SIGKILL: no handler runs, nothing is written any more.
    pub(crate) fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// SIGTERM, as a service manager does; the exit status.
    pub(crate) fn terminate(mut self) -> Option<i32> {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        self.process.wait().unwrap().code()
    }

    pub(crate) async fn status(&self) -> Value {
        let answer = get(self.control, "/status.json", &[]).await;
        serde_json::from_slice(&answer.body).unwrap()
    }

    /// Waits until a number of `/status.json`, named as a JSON pointer, is at least this.
    pub(crate) async fn until(&self, pointer: &str, least: u64) {
        within(async {
            while self.status().await.pointer(pointer).and_then(Value::as_u64).unwrap() < least {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

/// A running `rezcache serve`; killed when dropped.
pub(crate) struct NodeProcess {
    process: Child,
    /// Where both faces listen.
    pub(crate) at: SocketAddr,
    /// How it is recognised.
    pub(crate) pin: String,
}

impl NodeProcess {
    /// Starts the program with its store in `folder`, and its log in `log` there.
    pub(crate) fn start(folder: &Path, catalog: Option<&str>) -> Self {
        Self::start_with(folder, &[], catalog.map(|catalog| ("REZCACHE_CATALOG", catalog)).as_slice())
    }

    /// The same with further options and settings of the environment.
    pub(crate) fn start_with(folder: &Path, options: &[&str], settings: &[(&str, &str)]) -> Self {
        let log = folder.join("log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_rezcache"));
        command.args(["serve", "--log-format", "json", "--data-dir"]).arg(folder);
        if !options.contains(&"--listen") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        command.args(options);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", "/nonexistent").envs(settings.iter().copied());
        let mut process = command
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
            panic!("the node did not start: {}", std::fs::read_to_string(&log).unwrap());
        };
        let at = ready["listening"].as_str().unwrap().parse().unwrap();
        Self { process, at, pin: ready["pin"].as_str().unwrap().to_owned() }
    }

    /// The process's number.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Waits until it ends by itself; its exit status.
    pub(crate) async fn ended(&mut self) -> Option<i32> {
        super::within(async {
            loop {
                if let Some(status) = self.process.try_wait().unwrap() {
                    return status.code();
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        })
        .await
    }

    /// Bytes of memory that the process has, and the most it ever had. `None` where the system does not
    /// tell as Linux does.
    pub(crate) fn memory(&self) -> Option<(u64, u64)> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).ok()?;
        let value = |name: &str| -> Option<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            Some(line.trim_start_matches(':').trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
        };
        Some((value("VmRSS")?, value("VmHWM")?))
    }

    /// SIGKILL: no handler runs, nothing is written any more.
    pub(crate) fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for ProxyProcess {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
