//! A system that gives no QUIC endpoint, as some containers and some Windows do: everything goes on over HTTPS.
//!
//! The programs run with a library before the system's own that refuses the socket option without which a
//! QUIC endpoint is not made, and other sockets are.
#![cfg(target_os = "linux")]

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::process::NodeProcess;

const REFUSER: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

int setsockopt(int socket, int level, int name, const void *value, socklen_t length)
{
    static int (*real)(int, int, int, const void *, socklen_t);
    if (level == IPPROTO_IP && name == IP_PKTINFO) {
        FILE *refused = fopen(getenv("REFUSED"), "a");
        if (refused) {
            fputs("refused\n", refused);
            fclose(refused);
        }
        errno = EOPNOTSUPP;
        return -1;
    }
    if (!real)
        real = (int (*)(int, int, int, const void *, socklen_t))dlsym(RTLD_NEXT, "setsockopt");
    return real(socket, level, name, value, length);
}
"#;

/// The library, and the file that says how often it has refused.
struct Refuser {
    library: PathBuf,
    refused: PathBuf,
}

impl Refuser {
    fn build(folder: &Path) -> Self {
        let (source, library) = (folder.join("refuser.c"), folder.join("refuser.so"));
        std::fs::write(&source, REFUSER).unwrap();
        let compiler = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status();
        assert!(compiler.unwrap().success());
        Self { library, refused: folder.join("refused") }
    }

    fn environment(&self) -> [(&str, &str); 2] {
        [("LD_PRELOAD", self.library.to_str().unwrap()), ("REFUSED", self.refused.to_str().unwrap())]
    }

    fn times(&self) -> usize {
        std::fs::read_to_string(&self.refused).map_or(0, |text| text.lines().count())
    }
}

/// Replays a capture with a service; who served its assets.
fn replayed(node: &NodeProcess, environment: &[(&str, &str)]) -> Value {
    let capture = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/sessions/hippo-http.pcap");
    let output = Command::new(env!("CARGO_BIN_EXE_rezcache"))
        .args(["replay", "--json", "--passes", "1", capture, "--cache-server"])
        .arg(format!("https://{}#pin={}", node.at, node.pin))
        .env_clear()
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.status.success(), "{report:#}");
    report["captures"][0]["passes"][0]["served"].clone()
}

#[test]
fn a_node_without_quic_serves_over_https_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let refuser = Refuser::build(folder.path());
    let node = NodeProcess::start_with(folder.path(), &[], &refuser.environment());
    assert!(refuser.times() > 0);
    let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
    assert!(log.contains("only HTTPS is served"), "{log}");
    // Whoever comes has QUIC, and finds nobody there who speaks it.
    let first = replayed(&node, &[]);
    assert!(first["service"] == 0 && first["grid"].as_u64() > Some(0), "{first}");
    let second = replayed(&node, &[]);
    assert!(second["service"].as_u64() > Some(0) && second["grid"] == 0, "{second}");
}

#[test]
fn a_proxy_without_quic_uses_a_node_over_https() {
    let folder = tempfile::tempdir().unwrap();
    let refuser = Refuser::build(folder.path());
    let node = NodeProcess::start(folder.path(), None);
    let first = replayed(&node, &refuser.environment());
    assert!(first["service"] == 0 && first["grid"].as_u64() > Some(0), "{first}");
    assert!(refuser.times() > 0, "the proxy has not even tried QUIC");
    let second = replayed(&node, &refuser.environment());
    assert!(second["service"].as_u64() > Some(0) && second["grid"] == 0, "{second}");
}
