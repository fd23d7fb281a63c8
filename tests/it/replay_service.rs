//! `replay --cache-server`: what one resident's session brought, another's is served by the node.

use std::path::PathBuf;

use rezcache::node::Node;
use rezcache::replay::{self, CaptureReport, ReplayOptions};

use crate::service::{config as node_config, tcp_only};
use crate::uploads::service;

fn capture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/sessions").join(name)
}

async fn replayed(file: &str, service_url: &str) -> CaptureReport {
    let options = ReplayOptions {
        passes: 1,
        service: Some(service(service_url)),
        ..ReplayOptions::new(vec![capture(file)])
    };
    let mut report = replay::run(options, |_| {}).await.unwrap();
    let capture = report.captures.pop().unwrap();
    assert!(capture.ok, "{:#?}", capture.errors);
    capture
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_household_is_served_by_the_node() {
    for file in ["hippo-http.pcap", "hippo-udp.pcap", "nmv-http.pcap"] {
        let folder = tempfile::tempdir().unwrap();
        let node = Node::start(node_config(folder.path())).await.unwrap();
        let url = format!("https://{}#pin={}", node.address(), node.pin().unwrap());
        let first = replayed(file, &url).await.passes.remove(0);
        assert_eq!(first.served.service, 0);
        assert!(first.served.grid > 0);
        let second = replayed(file, &url).await.passes.remove(0);
        // Both have their own data directories: what the second did not ask of the grid the node gave it.
        assert!(second.served.service > 0 && second.bytes.from_service > 0, "{file} {second:?}");
        assert_eq!((second.served.grid, second.bytes.from_grid), (0, 0), "{file} {second:?}");
        // The same where UDP is blocked: over HTTPS.
        let relay = tcp_only(node.address()).await;
        let blocked = format!("https://{relay}#pin={}", node.pin().unwrap());
        let third = replayed(file, &blocked).await.passes.remove(0);
        assert!(third.served.service > 0 && third.bytes.from_service > 0, "{file} {third:?}");
        assert_eq!((third.served.grid, third.bytes.from_grid), (0, 0), "{file} {third:?}");
        node.stop().await;
    }
}
