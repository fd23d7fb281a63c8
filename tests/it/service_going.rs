//! A node that goes while its readers still read.

use std::time::Duration;

use rezcache::asset::AssetKind;
use rezcache::node::Node;

use crate::service::{client, client_at, config, key, origin, share, tcp_only, texture};
use crate::support::within;

/// More than is on its way at once.
const SIZE: usize = 12_000_000;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_being_read_is_read_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    for (number, over_quic) in [(1, true), (2, false)] {
        let node = Node::start(config(folder.path())).await.unwrap();
        let reader = match over_quic {
            true => client(&node),
            false => client_at(tcp_only(node.address()).await, node.pin().unwrap()),
        };
        let (bytes, name) = (texture(number, SIZE), key(AssetKind::Texture, number as u128));
        share(&reader, &name, &bytes).await;
        let mut body = reader.read(&name, origin(), None).await.unwrap().unwrap();
        let address = node.address();
        let going = tokio::spawn(node.stop());
        let refused = async {
            while tokio::net::TcpStream::connect(address).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        within(refused).await;
        assert!(!going.is_finished(), "somebody reads");
        let mut got = Vec::new();
        while let Some(part) = body.next().await.unwrap() {
            got.extend_from_slice(&part);
        }
        assert!(got == bytes, "{} of {} bytes", got.len(), bytes.len());
        drop((body, reader));
        within(going).await.unwrap();
    }
}
