//! The one way in which incidents come about: operators by the command line, programs that have the catalog (a mirror,
//! a maker of dumps), and the directors themselves. Each change is one transaction on the board, so that of two who
//! write at once none is lost.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::catalog::{Board, CatalogError, Fact, FactChange, FactKind};
use crate::fleet::incidents::{Author, Incident, IncidentRefused, Incidents, NewIncident, Report};
use crate::fleet::notices::{Notice, Severity, What};

/// Why an incident could not be changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IncidentError {
    /// It may not be.
    #[error(transparent)]
    Refused(#[from] IncidentRefused),
    /// The catalog does not do it.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

/// All incidents on the board, the oldest first.
///
/// # Errors
/// When the catalog does not answer.
pub async fn list(board: &dyn Board) -> Result<Vec<Incident>, IncidentError> {
    Ok(read(&board.facts(FactKind::Incident).await?).all().to_vec())
}

/// An operator opens one.
///
/// # Errors
/// When it has no title, too many are open, or the catalog does not answer.
pub async fn open(board: &dyn Board, new: NewIncident) -> Result<Incident, IncidentError> {
    change(board, move |incidents| incidents.open(now(), new.clone())).await
}

/// An operator says more of one.
///
/// # Errors
/// When there is none that is open, nothing is said, or the catalog does not answer.
pub async fn update(board: &dyn Board, id: u32, text: String) -> Result<Incident, IncidentError> {
    change(board, move |incidents| incidents.update(now(), id, &text)).await
}

/// An operator closes one; `text` may be empty.
///
/// # Errors
/// When there is none that is open, or the catalog does not answer.
pub async fn close(board: &dyn Board, id: u32, text: String) -> Result<Incident, IncidentError> {
    change(board, move |incidents| incidents.close(now(), id, &text)).await
}

/// A program reports a trouble under a key that stays the same to its end. May be called again and again while it goes
/// on. The leading director tells the operators. `text` is public; what looks like an address is taken out.
///
/// # Errors
/// When too many are open, nothing is said, or the catalog does not answer.
pub async fn report(
    board: &dyn Board,
    key: &str,
    severity: Severity,
    text: &str,
) -> Result<Incident, IncidentError> {
    let (key, text) = (key.to_owned(), text.to_owned());
    let report = Report { key, severity, text, affected: Vec::new(), by: Author::Program };
    reported(board, report).await.map(|(incident, _)| incident)
}

/// A program's trouble is over; of one that is not open nothing is changed.
///
/// # Errors
/// When the catalog does not answer.
pub async fn resolve(board: &dyn Board, key: &str, text: &str) -> Result<Option<Incident>, IncidentError> {
    resolved(board, key.to_owned(), text.to_owned(), Author::Program).await
}

/// Reports, and says whether that opened an incident.
pub(super) async fn reported(board: &dyn Board, report: Report) -> Result<(Incident, bool), IncidentError> {
    change(board, move |incidents| incidents.report(now(), report.clone())).await
}

/// Resolves, for whoever does.
pub(super) async fn resolved(
    board: &dyn Board,
    key: String,
    text: String,
    by: Author,
) -> Result<Option<Incident>, IncidentError> {
    change(board, move |incidents| Ok(incidents.resolve(now(), &key, &text, by))).await
}

/// What operators are to be told of what others wrote; it counts as told from now on, for every director.
pub(super) async fn to_tell(board: &dyn Board) -> Result<Vec<Notice>, IncidentError> {
    let news = change(board, |incidents| Ok(incidents.to_tell())).await?;
    Ok(news.iter().map(notice).collect())
}

fn notice(incident: &Incident) -> Notice {
    let what = if incident.closed.is_some() { What::Cleared } else { What::Raised };
    let last = incident.updates.last().map_or(String::new(), |update| format!(": {}", update.text));
    let text = format!("incident {}: {}{last}", incident.id, incident.title);
    Notice { key: format!("incident {}", incident.id), severity: incident.severity, what, text }
}

/// What is written of incidents; what cannot be read is none.
pub(super) fn read(facts: &[Fact]) -> Incidents {
    Incidents::new(facts.iter().filter_map(|fact| serde_json::from_slice(&fact.record).ok()).collect())
}

fn name(incident: &Incident) -> String {
    format!("{:010}", incident.id)
}

/// Changes them in one transaction; what the change came to.
async fn change<T: Send + 'static>(
    board: &dyn Board,
    mut with: impl FnMut(&mut Incidents) -> Result<T, IncidentRefused> + Send + 'static,
) -> Result<T, IncidentError> {
    let outcome = Arc::new(Mutex::new(None));
    let told = Arc::clone(&outcome);
    let decide = Box::new(move |facts: &[Fact]| {
        let before = read(facts);
        let mut after = before.clone();
        let came_to = with(&mut after);
        let changes = if came_to.is_ok() { changes(&before, &after) } else { Vec::new() };
        *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(came_to);
        changes
    });
    board.change_facts(FactKind::Incident, decide).await?;
    let came_to = outcome.lock().unwrap_or_else(PoisonError::into_inner).take();
    Ok(came_to.ok_or_else(|| CatalogError::Failed("nothing was decided".into()))??)
}

fn changes(before: &Incidents, after: &Incidents) -> Vec<FactChange> {
    let of_id = |all: &Incidents, id: u32| all.all().iter().any(|incident| incident.id == id);
    let gone = before.all().iter().filter(|incident| !of_id(after, incident.id));
    let new = after.all().iter().filter(|incident| !before.all().contains(incident));
    let put = |incident: &Incident| {
        let record = serde_json::to_vec(incident).ok()?;
        Some(FactChange::Put(Fact { name: name(incident), at: incident.opened, record }))
    };
    gone.map(|incident| FactChange::Drop(name(incident))).chain(new.filter_map(put)).collect()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use crate::catalog::SqliteCatalog;

    fn new(title: &str) -> NewIncident {
        let (severity, affected) = (Severity::Warning, Vec::new());
        NewIncident { title: title.into(), severity, affected, text: String::new() }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_operator_and_a_program_at_once_lose_no_word() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("catalog.sqlite");
        let (one, two) = (SqliteCatalog::open(&file).unwrap(), SqliteCatalog::open(&file).unwrap());
        let id = report(&one, "mirror", Severity::Warning, "The mirror is 0 behind").await.unwrap().id;
        let operator = async {
            for n in 0..15 {
                update(&one, id, format!("looked {n} times")).await.unwrap();
            }
        };
        let program = async {
            for n in 1..=15 {
                report(&two, "mirror", Severity::Warning, &format!("The mirror is {n} behind"))
                    .await
                    .unwrap();
            }
        };
        tokio::join!(operator, program);
        let all = list(&two).await.unwrap();
        assert_eq!((all.len(), all[0].updates.len()), (1, 30));
    }

    #[tokio::test]
    async fn what_others_write_is_told_once_whoever_asks() {
        let board = SqliteCatalog::in_memory().unwrap();
        let opened = open(&board, new("Slow")).await.unwrap();
        let told = to_tell(&board).await.unwrap();
        assert_eq!((told.len(), told[0].what, told[0].text.as_str()), (1, What::Raised, "incident 1: Slow"));
        assert!(to_tell(&board).await.unwrap().is_empty());
        update(&board, opened.id, "A disk".into()).await.unwrap();
        assert!(to_tell(&board).await.unwrap().is_empty(), "operators read what operators write");
        close(&board, opened.id, "Replaced".into()).await.unwrap();
        let told = to_tell(&board).await.unwrap();
        assert_eq!((told[0].what, told[0].text.as_str()), (What::Cleared, "incident 1: Slow: Replaced"));
        assert!(matches!(
            update(&board, opened.id, "more".into()).await,
            Err(IncidentError::Refused(IncidentRefused::Closed(1)))
        ));
        assert!(resolve(&board, "mirror", "over").await.unwrap().is_none());
    }
}
