#![allow(clippy::unwrap_used, clippy::panic)]
use proptest::prelude::*;

use super::*;

const HERE: &str = "cache.example.org:8443";

fn entry(number: u128) -> Entry {
    Entry {
        key: AssetKey {
            grid: GridId::new("grid.example:8002"),
            kind: AssetKind::Mesh,
            id: AssetId(Uuid::from_u128(number)),
        },
        origin: Origin::new("sim.example"),
        central: number.is_multiple_of(2),
        digest: Digest::of(&number.to_be_bytes()),
        size: 1000 + u64::try_from(number).unwrap(),
        queued: 1_700_000_000,
        resolved_private: number.is_multiple_of(3),
    }
}

fn queued(number: u64) -> Change {
    Change::Queued(Number(number), entry(number.into()))
}

fn open(folder: &Path) -> (Journal, Found) {
    Journal::open(folder, HERE, 100_000).unwrap()
}

fn read_here(bytes: &[u8]) -> (Found, usize, bool) {
    let (found, records, whose) = read(bytes, Service::at(HERE));
    (found, records, whose == Whose::Ours)
}

fn numbers(found: &Found) -> Vec<u64> {
    found.entries.iter().map(|(number, _)| number.0).collect()
}

#[test]
fn what_was_written_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let (mut journal, found) = open(folder.path());
    assert_eq!(found, Found::default());
    journal.append(&[queued(1), queued(2), queued(3)]).unwrap();
    journal.append(&[Change::Gone(Number(2))]).unwrap();
    // Nothing is closed in an orderly way: a killed process does not either.
    drop(journal);
    let (mut journal, found) = open(folder.path());
    assert_eq!(found.entries, [(Number(1), entry(1)), (Number(3), entry(3))]);
    assert_eq!(found.corrupt, 0);
    journal.append(&[queued(4), Change::Gone(Number(1))]).unwrap();
    drop(journal);
    assert_eq!(numbers(&open(folder.path()).1), [3, 4]);
}

#[test]
fn version_2_is_read_for_ever() {
    let written: &[u8] = include_bytes!("../../../../fixtures/uploads/queue-v2.bin");
    let (found, records, ours) = read_here(written);
    assert!(ours);
    assert_eq!((found.corrupt, found.elsewhere, records), (0, 0, 4));
    assert_eq!(found.entries, [(Number(1), entry(1)), (Number(3), entry(3))]);
    let mut again = header(Service::at(HERE));
    [queued(1), queued(2), queued(3), Change::Gone(Number(2))]
        .iter()
        .for_each(|change| change.encode(&mut again));
    assert_eq!(again, written, "and written so");
}

/// Opens a copy of a file for a service at this address, and says how many entries were for another.
fn elsewhere(folder: &Path, address: &str, written: &[u8]) -> u64 {
    fs::write(folder.join(FILE_NAME), written).unwrap();
    let (mut journal, found) = Journal::open(folder, address, 100_000).unwrap();
    assert_eq!((found.entries.len(), found.corrupt), (0, 0));
    // What comes now is kept, for this service, and nothing of the other's is left in the file.
    journal.append(&[queued(9)]).unwrap();
    drop(journal);
    let kept = fs::read(folder.join(FILE_NAME)).unwrap();
    let name = AssetId(Uuid::from_u128(1)).0;
    assert!(!kept.windows(16).any(|window| window == name.as_bytes()));
    let (_, again) = Journal::open(folder, address, 100_000).unwrap();
    assert_eq!((numbers(&again), again.corrupt, again.elsewhere), (vec![9], 0, 0));
    found.elsewhere
}

#[test]
fn a_queue_for_another_service_or_for_none_in_particular_is_given_to_nobody() {
    let v1: &[u8] = include_bytes!("../../../../fixtures/uploads/queue-v1.bin");
    let v2: &[u8] = include_bytes!("../../../../fixtures/uploads/queue-v2.bin");
    for (address, written) in [(HERE, v1), ("cache.example.org:8444", v2), ("10.0.0.2:8443", v2)] {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(elsewhere(folder.path(), address, written), 2, "{address}");
        // Nor when the file cannot be replaced by another.
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("queue.new")).unwrap();
        assert_eq!(elsewhere(folder.path(), address, written), 2, "{address}");
    }
}

#[test]
fn a_write_that_never_finished_costs_only_itself() {
    let mut whole = header(Service::at(HERE));
    [queued(1), queued(2)].iter().for_each(|change| change.encode(&mut whole));
    let first_two = whole.len();
    queued(3).encode(&mut whole);
    for cut in first_two + 1..whole.len() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE_NAME), &whole[..cut]).unwrap();
        let (mut journal, found) = open(folder.path());
        assert_eq!((numbers(&found), found.corrupt), (vec![1, 2], 1), "cut at {cut}");
        journal.append(&[queued(4)]).unwrap();
        drop(journal);
        let (_, found) = open(folder.path());
        assert_eq!((numbers(&found), found.corrupt), (vec![1, 2, 4], 0));
    }
}

#[test]
fn a_flipped_bit_costs_one_entry_and_is_counted() {
    let mut whole = header(Service::at(HERE));
    (1..=3).for_each(|number| queued(number).encode(&mut whole));
    for bit in HEADER * 8..whole.len() * 8 {
        let mut damaged = whole.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let (found, _, ours) = read_here(&damaged);
        assert!(ours);
        assert_eq!(found.corrupt, 1, "bit {bit}");
        assert_eq!(found.entries.len(), 2, "bit {bit}");
        assert!(found.entries.iter().all(|(number, read)| *read == entry(number.0.into())));
    }
}

#[test]
fn a_foreign_file_is_set_aside() {
    for foreign in [&b"rezupldq\x03\0later"[..], &b"rezupldq\x02\0cut"[..], b"x", &[0; 5000]] {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE_NAME), foreign).unwrap();
        let (mut journal, found) = open(folder.path());
        assert_eq!((found.entries.len(), found.corrupt), (0, 1));
        assert_eq!(fs::read(folder.path().join("queue.bad")).unwrap(), foreign);
        journal.append(&[queued(1)]).unwrap();
        drop(journal);
        assert_eq!(numbers(&open(folder.path()).1), [1]);
    }
}

/// A file on a full disk: takes so many bytes, then half of the next write.
struct Full {
    file: File,
    room: usize,
}

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(self.room);
        if taken == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.room -= taken;
        self.file.write(&bytes[..taken])
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink for Full {
    fn cut(&mut self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
}

#[test]
fn a_full_disk_leaves_what_was_there_and_takes_more_once_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let (mut journal, _) = open(folder.path());
    journal.append(&[queued(1)]).unwrap();
    let path = folder.path().join(FILE_NAME);
    let file = fs::OpenOptions::new().append(true).open(&path).unwrap();
    journal.set_sink(Box::new(Full { file, room: 200 }));
    let error = journal.append(&[queued(2), queued(3)]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert_eq!(numbers(&read_here(&fs::read(&path).unwrap()).0), [1]);
    // There is room again, and everything is written anew.
    let living = [(Number(1), entry(1)), (Number(3), entry(3))];
    journal.rewrite(living.iter().map(|(number, entry)| (*number, entry))).unwrap();
    journal.append(&[queued(4)]).unwrap();
    drop(journal);
    let (_, found) = open(folder.path());
    assert_eq!((numbers(&found), found.corrupt), (vec![1, 3, 4], 0));
}

#[test]
fn one_process_at_a_time_has_the_queue() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = open(folder.path());
    assert!(matches!(Journal::open(folder.path(), HERE, 10), Err(JournalError::InUse)));
    drop(journal);
    open(folder.path());
}

#[test]
fn the_file_does_not_grow_with_time() {
    let folder = tempfile::tempdir().unwrap();
    let (mut journal, _) = open(folder.path());
    let mut largest = 0;
    for number in 1..20_000 {
        journal.append(&[queued(number), Change::Gone(Number(number))]).unwrap();
        if journal.is_worth_rewriting(1) {
            let last = entry(number.into());
            journal.rewrite(std::iter::once((Number(number), &last))).unwrap();
        }
        largest = largest.max(journal.length);
    }
    assert!(largest < 1 << 20, "{largest}");
    drop(journal);
    let (_, found) = Journal::open(folder.path(), HERE, 10).unwrap();
    assert_eq!(found.corrupt, 0);
}

#[test]
fn more_than_may_be_there_is_left_out_oldest_first() {
    let folder = tempfile::tempdir().unwrap();
    let (mut journal, _) = open(folder.path());
    journal.append(&(1..=5).map(queued).collect::<Vec<_>>()).unwrap();
    drop(journal);
    assert_eq!(numbers(&Journal::open(folder.path(), HERE, 2).unwrap().1), [4, 5]);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(
        noise in prop::collection::vec(any::<u8>(), 0..300),
        marks in prop::collection::vec(0_usize..300, 0..6),
    ) {
        let mut bytes = header(Service::at(HERE));
        bytes.extend_from_slice(&noise);
        for at in marks {
            if let Some(place) = bytes.get_mut(HEADER + at..HEADER + at + 4) {
                place.copy_from_slice(&MARK);
            }
        }
        let (found, _, ours) = read_here(&bytes);
        prop_assert!(ours && found.entries.is_empty());
        let _ = read_here(&noise);
    }
}
