//! The format of blobs at rest against a second implementation, written in Python from its description:
//! each opens what the other sealed.

use std::io::Write as _;
use std::process::{Command, Stdio};

use rezcache::store::keys::KeyRing;
use rezcache::store::sealed::{self, Hashed};

use crate::service::tools;

const SALT: [u8; 32] = [9; 32];

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What the Python implementation makes of `input`; `None` when it refuses.
fn python(what: &str, parameter: &[u8], input: &[u8]) -> Option<Vec<u8>> {
    let mut child = Command::new(tools().join("python"))
        .args(["tests/interop/seal_blob.py", what, &hex(&[3; 32]), &hex(&[4; 32]), &hex(parameter)])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_vec());
    let writing = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    writing.join().unwrap().unwrap();
    output.status.success().then_some(output.stdout)
}

#[test]
fn two_implementations_seal_alike() {
    let ring = KeyRing::new([3; 32], [4; 32]);
    for length in [0, 1, 2000, 65_535, 65_536, 65_537, 131_072, 140_000] {
        let plain: Vec<u8> = (0..length).map(|n| u8::try_from(n * 31 % 251).unwrap()).collect();
        let hashed = Hashed::of(&plain);
        let name = ring.blob_name(hashed.digest);
        let ours = sealed::seal(&ring, &name, &hashed, &plain, false, SALT).unwrap();
        assert!(python("seal", &SALT, &plain).unwrap() == ours, "{length}");
        assert!(python("open", &name.0, &ours).unwrap() == plain, "{length}");
        let mut damaged = ours.clone();
        *damaged.last_mut().unwrap() ^= 1;
        assert_eq!(python("open", &name.0, &damaged), None, "{length}");
    }
}
