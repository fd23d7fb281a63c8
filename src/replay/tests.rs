//! The stand-ins against each other, without a proxy: what fails here is their own fault.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

use super::{ReplayError, ReplayOptions, Report, run, run_direct};

fn capture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/sessions").join(name)
}

async fn direct(name: &str) -> Report {
    let options = ReplayOptions { passes: 1, ..ReplayOptions::new(vec![capture(name)]) };
    let report = run_direct(options).await.unwrap();
    assert!(report.is_ok(), "{name}: {:#?}", report.captures);
    report
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stand_ins_replay_a_teleport_to_each_other() {
    let report = direct("hippo-teleport.pcap").await;
    let pass = &report.captures[0].passes[0];
    assert_eq!(pass.requests.http.texture, 10);
    assert_eq!((pass.requests.http.sound, pass.requests.http.animation), (2, 2));
    assert_eq!(pass.served.grid, 14);
    assert_eq!(pass.bytes.to_viewer, 724_451);
    assert_eq!(pass.bytes.from_grid, 724_451);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stand_ins_download_over_lludp_though_the_captured_line_lost_packets() {
    let report = direct("lossy-hippo-udp.pcap").await;
    let pass = &report.captures[0].passes[0];
    assert_eq!(pass.requests.udp.texture, 6);
    assert_eq!(pass.requests.udp.sound + pass.requests.udp.animation, 8);
    assert_eq!(pass.served.grid, pass.requests.total());
}

#[tokio::test]
async fn a_folder_without_captures_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let options = ReplayOptions::new(vec![folder.path().to_owned()]);
    assert!(matches!(run_direct(options).await, Err(ReplayError::NoCaptures { .. })));
    let options = ReplayOptions::new(vec![folder.path().join("none.pcap")]);
    assert!(matches!(run_direct(options).await, Err(ReplayError::Io { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn captures_of_one_name_are_saved_apart_and_ranges_are_put_together() {
    let folder = tempfile::tempdir().unwrap();
    let mut captures = Vec::new();
    for name in ["a", "b"] {
        let copy = folder.path().join(name).join("s.pcap");
        std::fs::create_dir(copy.parent().unwrap()).unwrap();
        std::fs::copy(capture("hippo-ranges.pcap"), &copy).unwrap();
        captures.push(copy);
    }
    let packets = super::pcap::read(&captures[0]).unwrap();
    let script = super::script::Script::new(&packets).unwrap();
    let save = folder.path().join("saved");
    let options = ReplayOptions { passes: 1, save: Some(save.clone()), ..ReplayOptions::new(captures) };
    assert!(run_direct(options).await.unwrap().is_ok());
    for name in ["s", "s-2"] {
        let saved = save.join(name).join("1");
        assert!(std::fs::read_dir(&saved).unwrap().count() > 0);
        for ((_, id), body) in script.assets.iter() {
            assert_eq!(std::fs::read(saved.join(id.to_string())).unwrap(), *body, "{name}");
        }
    }
}

#[tokio::test]
async fn an_unreadable_capture_is_reported_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("bad.pcap"), b"GIF89a").unwrap();
    let report = run_direct(ReplayOptions::new(vec![folder.path().to_owned()])).await.unwrap();
    assert!(!report.is_ok());
    assert!(
        report.captures[0].errors[0].contains("save the capture again"),
        "{:?}",
        report.captures[0].errors
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_logins_of_one_capture_are_two_sessions() {
    let report = direct("two-residents.pcap").await;
    let pass = &report.captures[0].passes[0];
    assert_eq!((pass.requests.http.texture, pass.requests.udp.texture, pass.requests.udp.sound), (10, 10, 3));
    assert_eq!(pass.served.grid, pass.requests.total());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_capture_replays_through_the_proxy_and_the_second_time_from_the_store() {
    let report = run(ReplayOptions::new(vec![capture("")]), |_| ()).await.unwrap();
    assert_eq!(report.captures.len(), 13);
    assert!(report.is_ok(), "{report}");
    for capture in &report.captures {
        for pass in &capture.passes {
            let served = &pass.served;
            let sum = served.memory + served.disk + served.service + served.grid + served.joined;
            assert_eq!(sum, pass.requests.total(), "{} pass {}", capture.file, pass.pass);
        }
    }
}

/// A capture is a file from anywhere: whatever it holds, reading it ends, and without a panic.
#[test]
fn no_cut_or_changed_capture_breaks_the_reader() {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};
    let cases = if std::env::var_os("REZCACHE_LONG").is_some() { 20_000 } else { 300 };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("changed.pcap");
    let seed = 20_261_122;
    let mut random = StdRng::seed_from_u64(seed);
    for name in ["hippo-idle.pcap", "hippo-ranges.pcap"] {
        let original = std::fs::read(capture(name)).unwrap();
        let mut read_some = 0;
        for case in 0..cases {
            let mut bytes = original.clone();
            if case % 3 == 0 {
                bytes.truncate(random.random_range(0..bytes.len()));
            }
            for _ in 0..random.random_range(1..40) {
                if bytes.is_empty() {
                    break;
                }
                let at = random.random_range(0..bytes.len());
                bytes[at] = random.random();
            }
            std::fs::write(&file, &bytes).unwrap();
            let outcome = std::panic::catch_unwind(|| {
                super::pcap::read(&file).map(|packets| super::script::Script::new(&packets).is_some())
            });
            match outcome {
                Ok(read) => read_some += usize::from(read.is_ok_and(|found| found)),
                Err(_) => panic!("{name}: case {case} of seed {seed} panicked"),
            }
        }
        assert!(read_some > 0, "{name}: every changed capture was refused; nothing was tested");
    }
}
