#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;

const NOW: u64 = 1_800_000_000;

fn new(title: &str) -> NewIncident {
    NewIncident { title: title.into(), severity: Severity::Warning, affected: vec![], text: String::new() }
}

fn report(key: &str, text: &str) -> Report {
    let (severity, affected) = (Severity::Critical, vec![]);
    Report { key: key.into(), severity, text: text.into(), affected, by: Author::Program }
}

#[test]
fn an_operator_opens_updates_and_closes_one() {
    let mut incidents = Incidents::default();
    let mut slow = new("Slow\u{202e} in\n the \x07evening");
    slow.affected = vec!["otter".into(), " \n ".into()];
    let opened = incidents.open(NOW, slow).unwrap();
    assert_eq!((opened.id, opened.title.as_str()), (1, "Slow in the evening"));
    assert_eq!(opened.affected, ["otter"]);
    assert_eq!(incidents.open(NOW, new(" \n")), Err(IncidentRefused::Empty));
    assert_eq!(incidents.update(NOW, 1, "\t\n"), Err(IncidentRefused::Empty));
    assert_eq!(incidents.update(NOW, 2, "x"), Err(IncidentRefused::Unknown(2)));
    incidents.update(NOW + 5, 1, "A disk is slow.\nIt is being replaced.\0").unwrap();
    let closed = incidents.close(NOW + 9, 1, "Replaced.").unwrap();
    let texts: Vec<_> = closed.updates.iter().map(|update| (update.at, update.text.as_str())).collect();
    assert_eq!(texts, [(NOW + 5, "A disk is slow.\nIt is being replaced."), (NOW + 9, "Replaced.")]);
    assert_eq!(closed.closed, Some(NOW + 9));
    assert_eq!(incidents.close(NOW + 10, 1, ""), Err(IncidentRefused::Closed(1)));
    assert_eq!(incidents.update(NOW + 10, 1, "more"), Err(IncidentRefused::Closed(1)));
    assert_eq!(incidents.open(NOW + 11, new("Another")).unwrap().id, 2);
}

#[test]
fn a_program_has_one_incident_from_the_beginning_of_a_trouble_to_its_end() {
    let mut incidents = Incidents::default();
    let (first, news) = incidents.report(NOW, report("mirror", "The mirror is behind")).unwrap();
    assert!(news);
    for n in 1..100 {
        let (again, news) = incidents.report(NOW + n, report("mirror", "The mirror is behind")).unwrap();
        assert!(!news && again == first, "said again, it is no news");
    }
    let (worse, news) = incidents.report(NOW + 100, report("mirror", "The mirror is away")).unwrap();
    assert_eq!((news, worse.updates.len()), (false, 1));
    assert!(incidents.resolve(NOW + 200, "dump", "over", Author::Program).is_none());
    let over = incidents.resolve(NOW + 200, "mirror", "The mirror is up to date", Author::Program).unwrap();
    assert_eq!((over.id, over.closed), (first.id, Some(NOW + 200)));
    assert!(incidents.resolve(NOW + 201, "mirror", "again", Author::Program).is_none());
    // A moment later it goes on; a day later it is another.
    let (again, news) = incidents.report(NOW + 300, report("mirror", "The mirror is away")).unwrap();
    assert!(news && again.id == first.id && again.closed.is_none());
    incidents.resolve(NOW + 400, "mirror", "over", Author::Program).unwrap();
    let (other, _) = incidents.report(NOW + 90_000, report("mirror", "The mirror is away")).unwrap();
    assert_ne!(other.id, first.id);
}

#[test]
fn each_change_is_told_once_and_what_directors_say_is_told_by_them() {
    let mut incidents = Incidents::default();
    incidents.open(NOW, new("Slow")).unwrap();
    let own = Report { by: Author::Director, ..report("node otter", "otter does not answer") };
    incidents.report(NOW, own).unwrap();
    assert!(incidents.has_untold());
    assert_eq!(incidents.to_tell().iter().map(|incident| incident.id).collect::<Vec<_>>(), [1]);
    assert!(incidents.to_tell().is_empty() && !incidents.has_untold());
    // What the next leader reads is what was written.
    let mut read: Incidents =
        Incidents::new(serde_json::from_str(&serde_json::to_string(incidents.all()).unwrap()).unwrap());
    assert_eq!(read, incidents);
    assert!(read.to_tell().is_empty());
    read.close(NOW + 1, 1, "").unwrap();
    read.resolve(NOW + 1, "node otter", "otter is back", Author::Director).unwrap();
    assert_eq!(read.to_tell().iter().map(|incident| incident.id).collect::<Vec<_>>(), [1]);
    read.report(NOW + 2, report("dump", "No dump was made")).unwrap();
    read.resolve(NOW + 3, "dump", "It was", Author::Program).unwrap();
    assert_eq!(read.to_tell().len(), 1, "it came and went between two looks");
}

#[test]
fn everything_is_bounded() {
    let mut incidents = Incidents::default();
    let long = "x".repeat(10_000);
    let mut first = new(&long);
    first.affected = vec![long.clone(); 100];
    let first = incidents.open(NOW, first).unwrap();
    assert_eq!((first.title.len(), first.affected.len()), (MAX_TITLE, MAX_AFFECTED));
    for n in 0..200 {
        incidents.update(NOW + n, 1, &format!("{n} {long}")).unwrap();
    }
    let kept = &incidents.all()[0];
    assert_eq!(kept.updates.len(), MAX_UPDATES);
    assert!(kept.updates[0].text.starts_with("0 ") && kept.updates.last().unwrap().text.starts_with("199 "));
    assert!(kept.updates.iter().all(|update| update.text.len() <= MAX_TEXT));
    for n in 1..MAX_INCIDENTS {
        incidents.open(NOW, new(&format!("number {n}"))).unwrap();
    }
    assert_eq!(incidents.open(NOW, new("too many")), Err(IncidentRefused::Full));
    incidents.close(NOW, 7, "").unwrap();
    assert!(incidents.open(NOW, new("room again")).is_ok());
    assert_eq!(incidents.all().len(), MAX_INCIDENTS);
    for id in 8..20 {
        incidents.close(NOW, id, "").unwrap();
    }
    incidents.open(NOW + KEPT, new("three months later")).unwrap();
    assert_eq!(incidents.all().len(), MAX_INCIDENTS - 12 + 1);
}

#[test]
fn what_programs_say_loses_addresses_and_secrets() {
    for (said, shown) in [
        ("the store s3://bucket/a is away", "the store … is away"),
        ("cannot reach 192.0.2.7:8443: refused", "cannot reach … refused"),
        ("cannot reach [2001:db8::1]:53, refused", "cannot reach … refused"),
        ("node at 10.0.0.1 (cache.example.org:8443) failed", "node at … … failed"),
        ("login me:hunter2@db failed", "login … failed"),
        ("open /var/lib/rezcache/key: denied", "open … denied"),
        ("token eyJhbGciOiJFZERTQSIsImtpZCI6IjEifQ is bad", "token … is bad"),
        ("otter does not answer\nsince 14:05", "otter does not answer\nsince 14:05"),
        ("50 % of 3 nodes, i.e. 1.5", "50 % of 3 nodes, i.e. 1.5"),
    ] {
        assert_eq!(public(said), shown);
    }
    let mut incidents = Incidents::default();
    let (incident, _) = incidents.report(NOW, report("mirror", "cannot reach https://x/y?key=z")).unwrap();
    assert_eq!(incident.title, "cannot reach …");
}

#[test]
fn a_hostile_record_is_bounded_when_it_is_read() {
    let text = format!(
        "{{\"id\":1,\"title\":\"{0}\",\"severity\":\"warning\",\"opened\":5,\"by\":\"operator\",\"affected\":[\"{0}\"],\
         \"later\":true}}",
        "\\u0007y".repeat(5000)
    );
    let incidents = Incidents::new(vec![serde_json::from_str(&text).unwrap()]);
    assert_eq!(incidents.all()[0].title, "y".repeat(MAX_TITLE));
    assert_eq!(incidents.all()[0].affected[0].len(), MAX_NAME);
}
