//! Reading and writing what [`super::Chronicle`] needs on the board.

use std::time::{Duration, Instant};

use super::Read;
use super::directors::Word;
use crate::catalog::{Board, CatalogError, Fact, FactKind};
use crate::director::incidents::{self, IncidentError};
use crate::fleet::history::Written;
use crate::fleet::incidents::{Author, Report};
use crate::fleet::notices::{Notice, What};

/// How often the history is read by those who only show it.
const HISTORY_EVERY: Duration = Duration::from_secs(20);

/// What is to be written.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::director) enum Write {
    /// An incident is opened or goes on; operators are to be told if it is news.
    Report {
        /// What of it.
        report: Report,
        /// Whether operators have not been told.
        tell: bool,
    },
    /// It is over.
    Resolve {
        /// What it was about.
        key: String,
        /// In words.
        text: String,
        /// Whether operators have not been told.
        tell: bool,
    },
    /// Operators are to be told what others wrote.
    Tell,
    /// Days of the history.
    Days(Vec<Written>),
    /// What is old goes.
    Forget {
        /// Days that began before.
        days_before: u64,
        /// Directors last heard of before.
        directors_before: u64,
    },
}

/// Reads and writes for one director.
pub(in crate::director) struct Keeper {
    name: String,
    started: u64,
    history_read: Option<Instant>,
    led: bool,
}

impl Keeper {
    pub(in crate::director) const fn new(name: String, started: u64) -> Self {
        Self { name, started, history_read: None, led: false }
    }

    /// Says that this director is there, and reads what others have written.
    pub(in crate::director) async fn read(
        &mut self,
        board: &dyn Board,
        wall: u64,
        leading: bool,
    ) -> Result<Read, CatalogError> {
        let record = serde_json::to_vec(&Word { started: self.started }).unwrap_or_default();
        board.put_fact(FactKind::Director, Fact { name: self.name.clone(), at: wall, record }, 0).await?;
        let incidents = incidents::read(&board.facts(FactKind::Incident).await?);
        let directors = board.facts(FactKind::Director).await?;
        // A leader goes on from what the one before has written, and knows better from then on.
        let begins = leading && !self.led;
        let due = self.history_read.is_none_or(|at| at.elapsed() >= HISTORY_EVERY);
        let history = if begins || due {
            let facts = board.facts(FactKind::History).await?;
            self.history_read = Some(Instant::now());
            let read = |fact: Fact| Some((fact.name, serde_json::from_slice(&fact.record).ok()?));
            Some(facts.into_iter().filter_map(read).collect())
        } else {
            None
        };
        self.led = leading;
        Ok(Read { incidents, directors, history })
    }

    /// Writes; what operators are to be told since.
    pub(in crate::director) async fn write(
        &self,
        board: &dyn Board,
        write: Write,
        term: i64,
    ) -> Result<Vec<Notice>, IncidentError> {
        match write {
            Write::Report { report, tell } => {
                let (key, text, severity) = (report.key.clone(), report.text.clone(), report.severity);
                let (_, news) = incidents::reported(board, report).await?;
                let notice = Notice { key, severity, what: What::Raised, text };
                Ok(if news && tell { vec![notice] } else { Vec::new() })
            }
            Write::Resolve { key, text, tell } => {
                let over = incidents::resolved(board, key.clone(), text.clone(), Author::Director).await?;
                let notice = |severity| Notice { key, severity, what: What::Cleared, text };
                Ok(over.filter(|_| tell).map(|incident| notice(incident.severity)).into_iter().collect())
            }
            Write::Tell => incidents::to_tell(board).await,
            Write::Days(days) => {
                for day in days {
                    let record = serde_json::to_vec(&day.day).unwrap_or_default();
                    let fact = Fact { name: day.name, at: day.at, record };
                    // Another leads, and counts itself.
                    if !board.put_fact(FactKind::History, fact, term).await? {
                        break;
                    }
                }
                Ok(Vec::new())
            }
            Write::Forget { days_before, directors_before } => {
                board.forget_facts(FactKind::History, days_before).await?;
                board.forget_facts(FactKind::Director, directors_before).await?;
                Ok(Vec::new())
            }
        }
    }
}
