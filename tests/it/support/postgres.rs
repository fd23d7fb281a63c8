//! Real PostgreSQL servers, started by the tests that need them.
//!
//! `REZCACHE_POSTGRES` names the folder of PostgreSQL's programs; tests/run sets it. Without, the usual
//! places are looked through, and where there is nothing a test says so and passes, unless
//! `REZCACHE_REQUIRE_INTEROP=1`.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

use tempfile::TempDir;

/// One server with its data; stopped and removed when dropped, or when this process ends in any way.
pub(crate) struct Server {
    folder: PathBuf,
    port: u16,
    /// Keeps the folder of the server, unless this is a standby in the primary's.
    _kept: Option<TempDir>,
    guard: Option<Child>,
}

fn programs() -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os("REZCACHE_POSTGRES") {
        return Some(folder.into());
    }
    assert!(
        std::env::var_os("REZCACHE_REQUIRE_INTEROP").is_none_or(|value| value != "1"),
        "REZCACHE_REQUIRE_INTEROP=1, but REZCACHE_POSTGRES names no folder with PostgreSQL's programs"
    );
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let found = versions.flatten().map(|version| version.path().join("bin"));
    found.filter(|folder| folder.join("initdb").exists()).max()
}

/// PostgreSQL refuses to run as root.
fn command(program: &Path) -> Command {
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|me| {
        use std::os::unix::fs::MetadataExt as _;
        me.uid() == 0
    });
    let mut command = if is_root {
        let mut command = Command::new("runuser");
        command.args(["-u", "postgres", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.current_dir("/").stdin(Stdio::null());
    command
}

fn run(program: &str, arguments: &[&str]) {
    let program = programs().expect("looked for before").join(program);
    let output = command(&program).args(arguments).stdout(Stdio::null()).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{} {arguments:?}: {told}", program.display());
}

/// One that no connection is given by the system, so that it is free again after a stop.
fn port() -> u16 {
    loop {
        let port = 20_000 + rand::random::<u16>() % 12_000;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

#[expect(clippy::print_stderr, reason = "a test that proves nothing must say so")]
fn is_there() -> bool {
    let there = programs().is_some();
    if !there {
        eprintln!("no PostgreSQL here: nothing was tested (set REZCACHE_POSTGRES)");
    }
    there
}

impl Server {
    /// The one that all tests share which do not stop it.
    pub(crate) fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<Server>> = OnceLock::new();
        SHARED.get_or_init(Self::start).as_ref()
    }

    /// A new one. Its certificate is for `localhost`, by the authority in [`Server::authority`]; only the
    /// database `locked` asks for a password.
    pub(crate) fn start() -> Option<Self> {
        if !is_there() {
            return None;
        }
        let kept = tempfile::Builder::new()
            .prefix("rezcache-postgres-")
            .permissions(std::fs::Permissions::from_mode(0o777))
            .tempdir()
            .unwrap();
        std::fs::set_permissions(kept.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let folder = kept.path().join("a");
        let data = folder.to_str().unwrap();
        run("initdb", &["-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "-N"]);
        let port = port();
        let sockets = kept.path().display();
        // What is not synced survives all but a crash of the machine.
        let mut settings = format!(
            "listen_addresses='127.0.0.1'\nport={port}\nunix_socket_directories='{sockets}'\nfsync=off\n\
             wal_level=replica\nmax_wal_senders=5\nhot_standby=on\nmax_connections=200\nssl=on\n"
        );
        settings.push_str("ssl_cert_file='server.crt'\nssl_key_file='server.key'\n");
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let hosts = "host locked all 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n\
                     host replication all 127.0.0.1/32 trust\nlocal all all trust\n";
        write(&folder.join("postgresql.auto.conf"), &settings);
        write(&folder.join("pg_hba.conf"), hosts);
        write(&folder.join("server.crt"), &made.cert.pem());
        write(&folder.join("server.key"), &made.signing_key.serialize_pem());
        std::fs::write(kept.path().join("authority.pem"), made.cert.pem()).unwrap();
        let mut server = Self { folder, port, _kept: Some(kept), guard: None };
        server.guard();
        server.resume();
        Some(server)
    }

    /// A streaming standby of this one.
    pub(crate) fn standby(&self) -> Self {
        let folder = self.folder.with_file_name("b");
        let (data, from) = (folder.to_str().unwrap(), self.port.to_string());
        let to = ["-h", "127.0.0.1", "-p", &from, "-U", "postgres", "-D", data];
        run("pg_basebackup", &[&to[..], &["-R", "-X", "stream", "-c", "fast"]].concat());
        let port = port();
        append(&folder.join("postgresql.auto.conf"), &format!("port={port}\n"));
        let mut server = Self { folder, port, _kept: None, guard: None };
        server.guard();
        server.resume();
        server
    }

    /// Ends the server when this process ends, however it does: whoever holds the pipe's other end waits
    /// for that.
    fn guard(&mut self) {
        let stop = command(&programs().expect("looked for before").join("pg_ctl"));
        let script = "trap '' INT TERM HUP; cat >/dev/null; folder=$1; shift; \"$@\"; rm -rf \"$folder\"";
        let all = self._kept.as_ref().map_or(&*self.folder, TempDir::path);
        let guard = Command::new("/bin/sh")
            .current_dir("/")
            .args(["-c", script, "sh"])
            .arg(all)
            .arg(stop.get_program())
            .args(stop.get_args())
            .arg("-D")
            .arg(&self.folder)
            .args(["-m", "immediate", "stop"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.guard = Some(guard);
    }

    /// Starts it (again).
    pub(crate) fn resume(&self) {
        let log = self.folder.with_extension("log");
        let (data, log) = (self.folder.to_str().unwrap(), log.to_str().unwrap());
        run("pg_ctl", &["-D", data, "-l", log, "-w", "start"]);
    }

    /// Stops it as an administrator does: clients are cut off.
    pub(crate) fn stop(&self) {
        run("pg_ctl", &["-D", self.folder.to_str().unwrap(), "-m", "fast", "-w", "stop"]);
    }

    /// Makes a standby take writes.
    pub(crate) fn promote(&self) {
        run("pg_ctl", &["-D", self.folder.to_str().unwrap(), "-w", "promote"]);
    }

    /// Runs SQL in a database; what it prints, one row a line.
    pub(crate) fn sql(&self, database: &str, sql: &str) -> String {
        let program = programs().expect("looked for before").join("psql");
        let port = self.port.to_string();
        let output = Command::new(program)
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", &port])
            .args(["-U", "postgres", "-d", database, "-c", sql])
            .output()
            .unwrap();
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// A new, empty database.
    pub(crate) fn database(&self) -> String {
        // One after the other: each is copied from a template that nobody else may use meanwhile.
        static ONE: Mutex<u32> = Mutex::new(0);
        let mut number = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        *number += 1;
        let name = format!("test{number}");
        self.sql("postgres", &format!("create database {name}"));
        name
    }

    /// `HOST:PORT`
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://postgres@{}/{database}", self.address())
    }

    /// The certificate by which the server's is verified.
    pub(crate) fn authority(&self) -> PathBuf {
        self.folder.with_file_name("authority.pem")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut guard) = self.guard.take() {
            drop(guard.stdin.take());
            let _ = guard.wait();
        }
    }
}

/// Writes a file that belongs to the server.
fn write(path: &Path, text: &str) {
    feed("cat >\"$1\" && chmod 600 \"$1\"", path, text);
}

fn append(path: &Path, text: &str) {
    feed("cat >>\"$1\"", path, text);
}

fn feed(script: &str, path: &Path, text: &str) {
    use std::io::Write as _;
    let mut child = command(Path::new("/bin/sh"))
        .args(["-c", script, "sh"])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}
