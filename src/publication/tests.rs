#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]
use proptest::prelude::*;

use super::{
    Attestation, Count, Policy, Reader, Record, Served, Tag, Verdict, answer, attest, body_arrived, distrust,
};
use crate::asset::Digest;

const PUBLIC: Policy = Policy { publish: true, confirmations: 2, central: false };
const NOW: u64 = 1_000_000;

fn tag(number: u32) -> Tag {
    let mut tag = [0; 16];
    tag[..4].copy_from_slice(&number.to_be_bytes());
    tag
}

fn content(number: u8) -> Digest {
    Digest([number; 32])
}

/// Principal `who`, of its own network and tenant, says what `origin` delivered.
fn word(who: u32, origin: u32) -> Attestation {
    Attestation {
        attester: tag(who),
        network: tag(1000 + who),
        ipv6: false,
        tenant: tag(0),
        origin: Some(tag(2000 + origin)),
        at: NOW,
        counts_from: NOW,
        trusted: false,
        vouch: false,
        asset_host: false,
        unproven: None,
    }
}

fn at(origin: u32) -> Reader {
    Reader { trusted_tenant: None, origin: Some(tag(2000 + origin)) }
}

/// Attests and uploads as a proxy does.
fn say(record: &mut Record, digest: u8, attestation: Attestation, policy: Policy) -> Verdict {
    match attest(record, content(digest), attestation, policy, NOW) {
        Verdict::Waiting { want_body: true } => {
            body_arrived(record, content(digest), u64::from(digest), |_, _| true, policy, NOW)
        }
        other => other,
    }
}

fn served(record: &Record, reader: Reader) -> Option<u8> {
    answer(record, reader, PUBLIC, NOW).map(|Served { digest, .. }| digest.0[0])
}

#[test]
fn two_strangers_publish_where_they_were() {
    let mut record = Record::default();
    assert_eq!(
        attest(&mut record, content(1), word(1, 1), PUBLIC, NOW),
        Verdict::Waiting { want_body: false }
    );
    assert_eq!(
        attest(&mut record, content(1), word(1, 1), PUBLIC, NOW),
        Verdict::Waiting { want_body: false }
    );
    assert_eq!(served(&record, at(1)), None);
    assert_eq!(
        attest(&mut record, content(1), word(2, 1), PUBLIC, NOW),
        Verdict::Waiting { want_body: true }
    );
    assert_eq!(served(&record, at(1)), None, "nothing without a body");
    assert_eq!(body_arrived(&mut record, content(1), 7, |_, _| true, PUBLIC, NOW), Verdict::Published);
    assert_eq!(
        answer(&record, at(1), PUBLIC, NOW),
        Some(Served { digest: content(1), size: 7, verify: false })
    );
    assert_eq!(served(&record, at(2)), None, "another region");
    assert_eq!(served(&record, Reader::default()), None, "nobody knows from where");
    assert_eq!(attest(&mut record, content(1), word(2, 1), PUBLIC, NOW), Verdict::Known);
    // A second origin makes it the grid's, once as many have been there.
    assert_eq!(
        attest(&mut record, content(1), word(3, 2), PUBLIC, NOW),
        Verdict::Waiting { want_body: false }
    );
    assert_eq!((served(&record, at(2)), served(&record, Reader::default())), (None, None));
    assert_eq!(attest(&mut record, content(1), word(4, 2), PUBLIC, NOW), Verdict::Published);
    assert_eq!((served(&record, at(9)), served(&record, Reader::default())), (Some(1), Some(1)));
    let unlisted = Policy { publish: false, ..PUBLIC };
    assert_eq!(answer(&record, at(1), unlisted, NOW), None, "a grid that is not in the operator's list");
}

#[test]
fn one_network_or_one_principal_is_one_voice() {
    let mut record = Record::default();
    for who in 1..20 {
        let same_network = Attestation { network: tag(7), ..word(who, who) };
        say(&mut record, 1, same_network, PUBLIC);
        say(&mut record, 1, Attestation { attester: tag(99), ..word(who, who) }, PUBLIC);
    }
    let lone = |attestation: Attestation| {
        let mut record = Record::default();
        for who in 1..20 {
            say(&mut record, 1, Attestation { origin: word(who, who).origin, ..attestation.clone() }, PUBLIC);
        }
        served(&record, at(1))
    };
    assert_eq!(lone(word(1, 1)), None);
}

#[test]
fn a_household_of_two_protocols_is_one_voice() {
    let mut record = Record::default();
    let six = |who| Attestation { ipv6: true, ..word(who, 1) };
    say(&mut record, 1, word(1, 1), PUBLIC);
    say(&mut record, 1, six(2), PUBLIC);
    assert_eq!(served(&record, at(1)), None, "one of IPv4 and one of IPv6 may be the same house");
    say(&mut record, 1, six(3), PUBLIC);
    assert_eq!(served(&record, at(1)), Some(1));
    assert_eq!(Record::decode(&record.encode()), Some(record));
}

#[test]
fn a_liar_and_one_honest_visitor_are_not_the_grid() {
    let mut record = Record::default();
    // Whoever lies may call the origin anything.
    for origin in 10..14 {
        say(&mut record, 1, word(66, origin), PUBLIC);
    }
    say(&mut record, 1, word(1, 1), PUBLIC);
    for reader in [Reader::default(), at(1), at(10), at(99)] {
        assert_eq!(served(&record, reader), None);
    }
}

#[test]
fn a_trusted_tenant_serves_itself_at_once_and_nobody_else() {
    let mut record = Record::default();
    let own = Attestation { trusted: true, tenant: tag(5), ..word(1, 1) };
    assert_eq!(say(&mut record, 1, own, PUBLIC), Verdict::Published);
    let member = Reader { trusted_tenant: Some(tag(5)), ..at(1) };
    assert_eq!(served(&record, member), Some(1));
    assert_eq!(answer(&record, member, Policy { publish: false, ..PUBLIC }, NOW).unwrap().digest, content(1));
    assert_eq!(served(&record, Reader { trusted_tenant: Some(tag(6)), ..at(1) }), None);
    assert_eq!(served(&record, at(1)), None);
}

#[test]
fn vouching_and_asset_hosts_and_central_grids_reach_the_whole_grid() {
    let mut record = Record::default();
    assert_eq!(say(&mut record, 1, Attestation { vouch: true, ..word(1, 1) }, PUBLIC), Verdict::Published);
    assert_eq!(served(&record, at(9)), Some(1));

    let mut record = Record::default();
    for who in 1..=2 {
        say(&mut record, 1, Attestation { asset_host: true, ..word(who, 1) }, PUBLIC);
    }
    assert_eq!(served(&record, at(9)), Some(1));

    let mut record = Record::default();
    let central = Policy { central: true, ..PUBLIC };
    for who in 1..=2 {
        say(&mut record, 1, word(who, 1), central);
    }
    assert_eq!(answer(&record, at(9), central, NOW).unwrap().digest, content(1));
}

#[test]
fn a_lie_of_one_changes_nothing_however_often_it_is_told() {
    let mut record = Record::default();
    say(&mut record, 1, word(1, 1), PUBLIC);
    say(&mut record, 1, word(2, 1), PUBLIC);
    for lie in 0..10_000u32 {
        let verdict = say(&mut record, 2 + (lie % 200) as u8, word(66, 1), PUBLIC);
        assert_ne!(verdict, Verdict::Published);
        assert_eq!(served(&record, at(1)), Some(1));
        assert!(record.encode().len() < 32 << 10);
    }
    let now = answer(&record, at(1), PUBLIC, NOW).unwrap();
    assert!(now.verify, "readers are asked to look for themselves");
    let asked = |record: &Record| answer(record, at(1), PUBLIC, NOW).unwrap().verify;
    // Whoever made the conflict, or made up a proof, or has just come, does not settle it.
    let made_up = Attestation { unproven: Some(([1; 32], [2; 32])), ..word(70, 1) };
    for unsettling in [made_up, Attestation { counts_from: NOW + 1, ..word(71, 1) }, word(1, 1), word(1, 2)] {
        attest(&mut record, content(1), unsettling, PUBLIC, NOW);
        assert!(asked(&record));
    }
    for origin in 3..20 {
        attest(&mut record, content(1), word(2, origin), PUBLIC, NOW);
        assert!(asked(&record), "nor one who was heard before, through whatever origin");
    }
    record.contents.truncate(1);
    attest(&mut record, content(1), word(3, 1), PUBLIC, NOW);
    assert!(!asked(&record), "one who has looked does");
}

#[test]
fn a_few_of_one_origin_do_not_outvote_the_grid_unnoticed() {
    let mut record = Record::default();
    for who in 1..10 {
        say(&mut record, 1, word(who, 1 + who % 2), PUBLIC);
    }
    for liar in 50..52 {
        say(&mut record, 9, word(liar, 7), PUBLIC);
    }
    record.conflicts = 0;
    let told = answer(&record, at(7), PUBLIC, NOW).unwrap();
    assert_eq!((told.digest, told.verify), (content(9), true), "the grid decides");
    let told = answer(&record, at(1), PUBLIC, NOW).unwrap();
    assert_eq!((told.digest, told.verify), (content(1), false));
    // Of a grid of one operator an origin says nothing of its own.
    let central = Policy { central: true, ..PUBLIC };
    assert_eq!(answer(&record, at(7), central, NOW).unwrap().digest, content(1));
}

/// What proves nothing, of principals from as many networks.
fn garbage(who: u32, origin: u32) -> Attestation {
    Attestation { unproven: Some(([1; 32], [2; 32])), ..word(who, origin) }
}

#[test]
fn strangers_lock_nobody_out_with_digests_of_nothing() {
    let locked = || {
        let mut record = Record::default();
        for digest in 10..14u8 {
            for who in 0..4 {
                let who = u32::from(digest) * 10 + who;
                attest(&mut record, content(digest), garbage(who, who), PUBLIC, NOW);
            }
        }
        assert_eq!(record.contents.len(), 4);
        record
    };
    let mut record = locked();
    assert_eq!(say(&mut record, 1, Attestation { vouch: true, ..word(1, 1) }, PUBLIC), Verdict::Published);
    let mut record = locked();
    let own = Attestation { trusted: true, tenant: tag(5), ..word(1, 1) };
    assert_eq!(say(&mut record, 1, own, PUBLIC), Verdict::Published);
    let mut record = locked();
    say(&mut record, 1, word(1, 1), PUBLIC);
    assert_eq!(say(&mut record, 1, word(2, 1), PUBLIC), Verdict::Published);
    for lie in 20..200u8 {
        attest(&mut record, content(lie), garbage(lie.into(), 1), PUBLIC, NOW);
        assert_eq!(served(&record, at(1)), Some(1), "what is served makes no room");
    }
    assert!(record.contents.len() <= 4);

    // Bodies of newcomers that nobody is served yet give way too, and even lies that are served to a
    // vouching principal.
    let mut record = Record::default();
    for digest in 10..14u8 {
        for who in 0..2 {
            let who = u32::from(digest) * 10 + who;
            say(&mut record, digest, word(who, digest.into()), PUBLIC);
        }
        assert_eq!(served(&record, at(digest.into())), Some(digest));
    }
    assert_eq!(say(&mut record, 1, word(1, 1), PUBLIC), Verdict::Conflict);
    assert_eq!(say(&mut record, 1, Attestation { vouch: true, ..word(1, 1) }, PUBLIC), Verdict::Published);
    assert_eq!(served(&record, at(1)), Some(1));
}

#[test]
fn one_liar_drives_out_only_its_own_claims() {
    let mut record = Record::default();
    attest(&mut record, content(1), garbage(1, 1), PUBLIC, NOW);
    for lie in 2..100u8 {
        attest(&mut record, content(lie), garbage(66, lie.into()), PUBLIC, NOW + u64::from(lie));
    }
    assert!(record.contents.iter().any(|known| known.digest == content(1)));
}

#[test]
fn what_waits_for_its_body_too_long_is_forgotten() {
    let mut record = Record::default();
    attest(&mut record, content(9), garbage(1, 1), PUBLIC, NOW);
    attest(&mut record, content(1), word(2, 1), PUBLIC, NOW + super::WAITING_SECONDS - 1);
    assert_eq!(record.contents.len(), 2);
    attest(&mut record, content(1), word(3, 1), PUBLIC, NOW + super::WAITING_SECONDS);
    assert_eq!(record.contents.iter().map(|known| known.digest).collect::<Vec<_>>(), [content(1)]);
}

#[test]
fn places_taken_by_strangers_are_given_to_those_who_weigh_more() {
    let crowded = |unproven: bool| {
        let mut record = Record::default();
        for who in 0..8 {
            for origin in 0..4 {
                let made_up = unproven.then_some(([1; 32], [2; 32]));
                let said = Attestation { network: tag(7), unproven: made_up, ..word(who + 50, origin + 50) };
                attest(&mut record, content(1), said, PUBLIC, NOW);
            }
        }
        assert_eq!(record.contents[0].attestations.len(), 32);
        record
    };
    for unproven in [false, true] {
        let mut record = crowded(unproven);
        let own = Attestation { trusted: true, tenant: tag(5), ..word(1, 1) };
        assert_eq!(say(&mut record, 1, own, PUBLIC), Verdict::Published);
        let mut record = crowded(unproven);
        assert_eq!(
            say(&mut record, 1, Attestation { vouch: true, ..word(1, 1) }, PUBLIC),
            Verdict::Published
        );
        // Of one network one is enough; another network is heard.
        let mut record = crowded(unproven);
        let verdict = attest(&mut record, content(1), word(1, 1), PUBLIC, NOW);
        assert_eq!(verdict, Verdict::Waiting { want_body: true });
        body_arrived(&mut record, content(1), 7, |_, _| false, PUBLIC, NOW);
        attest(&mut record, content(1), word(2, 1), PUBLIC, NOW);
        assert_eq!(served(&record, at(1)), Some(1));
        assert!(record.contents[0].attestations.len() <= 32);
    }
}

#[test]
fn a_quorum_of_liars_is_corrected_by_honest_readers_or_the_operator() {
    let mut record = Record::default();
    for liar in 1..=2 {
        say(&mut record, 9, word(liar, 1), PUBLIC);
    }
    assert_eq!(served(&record, at(1)), Some(9), "two principals of two networks");
    say(&mut record, 1, word(10, 1), PUBLIC);
    assert!(answer(&record, at(1), PUBLIC, NOW).unwrap().verify);
    assert!(!super::is_disputed(&record, PUBLIC, NOW));
    say(&mut record, 1, word(11, 1), PUBLIC);
    assert_eq!(served(&record, at(1)), None, "disputed");
    assert!(super::is_disputed(&record, PUBLIC, NOW));
    for honest in 12..=14 {
        say(&mut record, 1, word(honest, 1), PUBLIC);
    }
    assert_eq!(served(&record, at(1)), Some(1), "five against two");
    assert!(!super::is_disputed(&record, PUBLIC, NOW));

    let mut record = Record::default();
    for liar in 1..=2 {
        say(&mut record, 9, word(liar, 1), PUBLIC);
    }
    assert!(distrust(&mut record, &|attestation| attestation.attester == tag(1)));
    assert_eq!(served(&record, at(1)), None);
    assert!(!distrust(&mut record, &|attestation| attestation.attester == tag(1)));
}

#[test]
fn a_region_lies_to_its_own_visitors_only() {
    let mut record = Record::default();
    say(&mut record, 1, word(1, 1), PUBLIC);
    say(&mut record, 1, word(2, 1), PUBLIC);
    for liar in 10..30 {
        say(&mut record, 9, word(liar, 2), PUBLIC);
        assert_eq!(served(&record, at(1)), Some(1));
    }
    assert_eq!(served(&record, at(2)), Some(9), "their own region is theirs");
    // With a second region of their own they reach the grid, but still not region 1.
    for liar in 40..60 {
        say(&mut record, 9, word(liar, 3), PUBLIC);
        assert_eq!(served(&record, at(1)), Some(1));
    }
}

#[test]
fn whoever_cannot_prove_possession_has_said_nothing() {
    let mut record = Record::default();
    let unproven = |who: u32| Attestation { unproven: Some(([who as u8; 32], [0; 32])), ..word(who, 1) };
    attest(&mut record, content(1), unproven(1), PUBLIC, NOW);
    attest(&mut record, content(1), unproven(2), PUBLIC, NOW);
    let verdict = body_arrived(&mut record, content(1), 5, |key, _| key[0] == 2, PUBLIC, NOW);
    assert_eq!(verdict, Verdict::Waiting { want_body: false });
    assert_eq!(served(&record, at(1)), None);
    assert_eq!(say(&mut record, 1, word(3, 1), PUBLIC), Verdict::Published);
}

#[test]
fn enrolled_principals_count_after_a_day() {
    let mut record = Record::default();
    let fresh = |who| Attestation { counts_from: NOW + 86_400, ..word(who, 1) };
    say(&mut record, 1, fresh(1), PUBLIC);
    say(&mut record, 1, fresh(2), PUBLIC);
    assert_eq!(served(&record, at(1)), None);
    assert!(answer(&record, at(1), PUBLIC, NOW + 86_400).is_some());
}

#[test]
fn what_was_taken_down_stays_down() {
    let mut record = Record::default();
    say(&mut record, 1, Attestation { vouch: true, ..word(1, 1) }, PUBLIC);
    record.taken_down = true;
    assert_eq!(served(&record, at(1)), None);
    assert_eq!(say(&mut record, 1, word(2, 1), PUBLIC), Verdict::TakenDown);
}

fn attestations() -> impl Strategy<Value = (u8, Attestation)> {
    (1u8..6, 0u32..40, 0u32..4, any::<[bool; 4]>()).prop_map(|(digest, who, origin, [a, b, c, d])| {
        let attestation = Attestation {
            trusted: a && b,
            tenant: tag(who % 3),
            asset_host: b && c,
            unproven: d.then_some(([1; 32], [2; 32])),
            ipv6: who % 2 == 0,
            ..word(who, origin)
        };
        (digest, attestation)
    })
}

proptest! {
    #[test]
    fn records_are_read_as_they_are_written(words in prop::collection::vec(attestations(), 0..80), at in any::<prop::sample::Index>()) {
        let mut record = Record::default();
        for (digest, attestation) in words {
            say(&mut record, digest, attestation, PUBLIC);
        }
        let bytes = record.encode();
        prop_assert_eq!(Record::decode(&bytes), Some(record));
        prop_assert_eq!(Record::decode(&bytes[..at.index(bytes.len())]), None);
    }

    #[test]
    fn anything_may_stand_in_a_catalog(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut bytes = bytes;
        if let Some(first) = bytes.first_mut() {
            *first = 1;
        }
        let _ = Record::decode(&bytes);
    }

    /// Whatever others say through other origins: with a quorum of its own a region keeps its word.
    #[test]
    fn other_regions_never_change_an_answer(words in prop::collection::vec(attestations(), 0..120)) {
        let mut record = Record::default();
        say(&mut record, 1, word(100, 50), PUBLIC);
        say(&mut record, 1, word(101, 50), PUBLIC);
        for (digest, attestation) in words {
            say(&mut record, digest, attestation, PUBLIC);
            prop_assert_eq!(served(&record, at(50)), Some(1));
        }
    }

    /// A single principal, from wherever, through any origins: no stranger is ever served.
    #[test]
    fn a_single_principal_publishes_nothing(words in prop::collection::vec(attestations(), 0..60)) {
        let mut record = Record::default();
        for (digest, attestation) in words {
            let lone = Attestation { attester: tag(1), trusted: false, ..attestation };
            say(&mut record, digest, lone, PUBLIC);
            for origin in 0..4 {
                prop_assert_eq!(served(&record, at(origin)), None);
            }
        }
    }
}

#[test]
fn a_record_of_version_1_is_still_read() {
    let bytes = include_bytes!("../../fixtures/service/record-v1.bin");
    let record = Record::decode(bytes).unwrap();
    assert_eq!((record.taken_down, record.conflicts, record.contents.len()), (false, 2, 2));
    let [known, claimed] = record.contents.as_slice() else { panic!() };
    assert_eq!((known.digest, known.size, known.stored, known.published), (content(1), 7, true, 0));
    assert_eq!(known.attestations[0], word(1, 1));
    assert_eq!(known.attestations[1], Attestation { counts_from: NOW + 86_400, ..word(2, 1) });
    assert_eq!(claimed.attestations[0].unproven, Some(([5; 32], [6; 32])));
    assert!(claimed.attestations[0].trusted && claimed.attestations[0].origin.is_none());
    assert_eq!(Record::decode(&record.encode()).unwrap(), record);
    assert_eq!(record.encode()[0], 3, "written anew in the version of now");
    for at in 0..bytes.len() {
        assert_eq!(Record::decode(&bytes[..at]), None, "{at}");
    }
}

#[test]
fn a_record_of_version_2_is_still_read() {
    let bytes = include_bytes!("../../fixtures/service/record-v2.bin");
    let record = Record::decode(bytes).unwrap();
    let [known] = record.contents.as_slice() else { panic!() };
    assert_eq!((known.digest, known.size, known.stored), (content(1), 7, true));
    assert_eq!((known.published, known.voices), (NOW, 2));
    let count = Count { tenant: None, origin: Some(tag(2001)), voices: 2, vouch: false, asset_host: true };
    assert_eq!((known.counts.as_slice(), known.attestations.as_slice()), (&[count][..], &[word(3, 1)][..]));
    assert_eq!(Record::decode(&record.encode()).as_ref(), Some(&record));
    for at in 0..bytes.len() {
        assert_eq!(Record::decode(&bytes[..at]), None, "{at}");
    }
    // What that version could not say, it did not say.
    let mut bytes = bytes.to_vec();
    *bytes.last_mut().unwrap() |= 16;
    assert_eq!(Record::decode(&bytes), None);
}

#[test]
fn thirty_days_after_publication_nobody_is_named_and_the_same_is_served() {
    let month = super::KEPT_SECONDS;
    let mut record = Record::default();
    for (who, origin) in [(1, 1), (2, 1), (3, 2), (1, 2)] {
        say(&mut record, 1, word(who, origin), PUBLIC);
    }
    let trusted = Attestation { trusted: true, tenant: tag(77), ..word(9, 3) };
    say(&mut record, 1, trusted, PUBLIC);
    let waiting = Attestation { unproven: Some(([1; 32], [2; 32])), ..word(8, 1) };
    record.contents[0].attestations.push(waiting.clone());
    let mut readers = vec![Reader::default(), at(1), at(2), at(3), at(4)];
    readers.push(Reader { trusted_tenant: Some(tag(77)), origin: None });
    readers.push(Reader { trusted_tenant: Some(tag(78)), ..at(4) });
    let before: Vec<_> = readers.iter().map(|reader| answer(&record, *reader, PUBLIC, NOW)).collect();
    assert!(!super::fade(&mut record, PUBLIC, NOW + month - 1), "not yet");
    assert!(super::fade(&mut record, PUBLIC, NOW + month));
    assert!(!super::fade(&mut record, PUBLIC, NOW + month), "once");
    assert_eq!(record.contents[0].attestations, [waiting], "what is not proven counts for nothing");
    let bytes = record.encode();
    for who in [1, 2, 3, 9, 1001, 1002, 1003, 1009] {
        assert!(!bytes.windows(16).any(|window| window == tag(who)), "{who}");
    }
    let after: Vec<_> = readers.iter().map(|reader| answer(&record, *reader, PUBLIC, NOW + month)).collect();
    assert_eq!(before, after);
    assert_eq!(record.contents[0].voices, 4);
    assert_eq!(Record::decode(&bytes), Some(record.clone()));

    // Who is counted already and says it again adds nothing; liars are not helped.
    assert_eq!(say(&mut record, 1, word(1, 1), PUBLIC), Verdict::Waiting { want_body: false });
    for who in 20..22 {
        say(&mut record, 2, word(who, 1), PUBLIC);
    }
    assert_eq!(served(&record, at(1)), None, "disputed, as before");
    // What is known of them by tenant and origin can still be struck out.
    assert!(distrust(&mut record, &|said| said.origin == Some(tag(2001))));
    assert_eq!(served(&record, at(2)), Some(1), "it stands through another origin, and the lie is gone");
    assert_eq!(served(&record, at(1)), None, "of one origin it is not known any more");
}

#[test]
fn what_time_alone_publishes_is_noticed() {
    let mut record = Record::default();
    let later = |who| Attestation { counts_from: NOW + 86_400, ..word(who, 1) };
    say(&mut record, 1, later(1), PUBLIC);
    say(&mut record, 1, later(2), PUBLIC);
    assert_eq!((served(&record, at(1)), record.contents[0].published), (None, 0));
    assert!(super::fade(&mut record, PUBLIC, NOW + 86_400));
    assert_eq!(record.contents[0].published, NOW + 86_400);
    assert!(answer(&record, at(1), PUBLIC, NOW + 86_400).is_some());
}

#[test]
fn one_principal_takes_no_more_than_its_places() {
    let mut record = Record::default();
    for origin in 0..100 {
        say(&mut record, 1, word(1, origin), PUBLIC);
    }
    assert_eq!(record.contents[0].attestations.len(), 4);
    say(&mut record, 1, word(2, 200), PUBLIC);
    say(&mut record, 1, word(3, 200), PUBLIC);
    assert_eq!(served(&record, at(200)), Some(1), "others are heard");
}
