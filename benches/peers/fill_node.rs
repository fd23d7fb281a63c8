//! Uploads the assets below a folder, `KIND/UUID`, to a node that lets everybody write; prints the header
//! that asks for them as somebody of the same origin.
//!
//!     fill_node http://127.0.0.1:8443 GRID FOLDER
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, clippy::print_stdout)]

use std::path::Path;

use rezcache::asset::{AssetId, AssetKey, AssetKind, Digest};
use rezcache::client::ServiceClient;
use rezcache::grid::{GridId, Origin};
use rezcache::wire::OriginHash;
use rezcache::wire::frame::{Codec, Verdict};

#[tokio::main]
async fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [url, grid, folder] = words.as_slice() else {
        eprintln!("usage: fill_node URL GRID FOLDER");
        std::process::exit(2);
    };
    let client = ServiceClient::new(url.parse().unwrap(), None).unwrap();
    let origin = OriginHash::of(&GridId::new(grid), &Origin::new("sim.example"));
    for kind in AssetKind::ALL {
        let Ok(files) = std::fs::read_dir(Path::new(folder).join(kind.name())) else { continue };
        for file in files {
            let file = file.unwrap();
            let id = AssetId(file.file_name().to_str().unwrap().parse().unwrap());
            let key = AssetKey { grid: GridId::new(grid), kind, id };
            let bytes = bytes::Bytes::from(std::fs::read(file.path()).unwrap());
            let verdict = client.put(&key, Some(origin), Digest::of(&bytes), Codec::Raw, bytes).await;
            assert_eq!(verdict.expect("the node takes it"), Verdict::Published, "{key:?}");
        }
    }
    println!("Rezcache-Origin: {origin}");
}
