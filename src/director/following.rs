//! What a director and the others know of one another: the board in the catalog is read once in an interval, the lead is
//! asked for, and what is to be written is written in its order, later where the catalog is away.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::chronicle::{self, Keeper};
use super::config::DirectorConfig;
use super::incidents::IncidentError;
use super::memory::{Memory, Remembered};
use super::run::{Event, wall};
use crate::catalog::{ACTING, Board, CatalogError, Fact, FactKind};
use crate::fleet::array::{Maintenance, NodeFact};

/// What is done once, by one director.
pub(super) const ROLE: &str = ACTING;
/// For how long a director leads without saying so again, in probe intervals.
pub(super) const LEAD_INTERVALS: u32 = 5;
/// Writes that wait; a node's next step is written again when one was lost.
pub(super) const MAX_WRITES: usize = 1024;

/// What is to be written on the board, under a term.
pub(super) enum Write {
    Put(NodeFact, i64),
    Drop(String, i64),
    Chronicle(chronicle::Write, i64),
}

/// What was read from the board.
pub(super) struct Shared {
    pub(super) leading: bool,
    pub(super) term: i64,
    pub(super) until: Instant,
    pub(super) nodes: Vec<NodeFact>,
    pub(super) maintenance: BTreeMap<String, Maintenance>,
    pub(super) chronicle: chronicle::Read,
}

/// Reads the board once per interval, asks for the lead, and writes what is to be written.
pub(super) async fn follow(
    config: DirectorConfig,
    holder: String,
    events: mpsc::Sender<Event>,
    mut writes: mpsc::Receiver<Write>,
    mut memory: Option<Memory>,
) {
    let mut board: Option<Arc<dyn Board>> = None;
    let mut keeper = Keeper::new(config.name.clone(), wall());
    // What could not be written is written when the catalog is back, in its order: a node that nobody has written of
    // is known to nobody after a change of the lead.
    let mut waiting: VecDeque<Write> = VecDeque::new();
    let interval = config.rules.health.interval;
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let write = tokio::select! {
            _ = ticks.tick() => None,
            write = writes.recv() => match write {
                Some(write) => Some(write),
                None => return,
            },
        };
        let is_tick = write.is_none();
        if waiting.len() < MAX_WRITES {
            waiting.extend(write);
        }
        if board.is_none() {
            match config.catalog.open_board().await {
                Ok(opened) => board = Some(opened),
                Err(error) => {
                    let _ = events.send(Event::Board(Err(error))).await;
                    continue;
                }
            }
        }
        let Some(board) = &board else { continue };
        // A server that hangs is one that does not answer.
        let patience = interval * LEAD_INTERVALS;
        while let Some(write) = waiting.front() {
            let done = async {
                match write {
                    Write::Chronicle(write, term) => {
                        keep(board.as_ref(), &keeper, write.clone(), *term, &events).await
                    }
                    write => put(board.as_ref(), write).await,
                }
            };
            if !tokio::time::timeout(patience, done).await.unwrap_or(false) {
                break;
            }
            waiting.pop_front();
        }
        if is_tick {
            let read = read_board(board.as_ref(), &holder, patience, &mut keeper);
            let read = tokio::time::timeout(patience, read).await;
            let read = read.unwrap_or_else(|_| Err(CatalogError::Unavailable("no answer in time".into())));
            let said = read.as_ref().ok().map(|shared| Remembered {
                nodes: shared.nodes.clone(),
                maintenance: shared.maintenance.clone(),
            });
            if events.send(Event::Board(read)).await.is_err() {
                return;
            }
            if let (Some(memory), Some(said)) = (&mut memory, said) {
                memory.keep(said).await;
            }
        }
    }
}

/// The same of incidents and history, which operators may have to be told of.
async fn keep(
    board: &dyn Board,
    keeper: &Keeper,
    write: chronicle::Write,
    term: i64,
    events: &mpsc::Sender<Event>,
) -> bool {
    match keeper.write(board, write, term).await {
        Ok(notices) => {
            if !notices.is_empty() {
                let _ = events.send(Event::Told(notices)).await;
            }
            true
        }
        Err(error) => {
            tracing::warn!(%error, "incidents or history could not be written down");
            !matches!(error, IncidentError::Catalog(CatalogError::Unavailable(_)))
        }
    }
}

/// Whether there is nothing more to do about it.
async fn put(board: &dyn Board, write: &Write) -> bool {
    let written = match write {
        Write::Put(fact, term) => {
            let name = fact.spec.name.clone();
            let record = serde_json::to_vec(fact).unwrap_or_default();
            board.put_fact(FactKind::Node, Fact { name, at: wall(), record }, *term).await
        }
        Write::Drop(name, term) => board.drop_fact(FactKind::Node, name.clone(), *term).await,
        // Written by its keeper.
        Write::Chronicle(..) => Ok(true),
    };
    match written {
        Ok(true) => true,
        Ok(false) => {
            tracing::warn!("another director leads, and has written otherwise");
            true
        }
        Err(error) => {
            tracing::warn!(%error, "what became of a node could not be written down");
            !matches!(error, CatalogError::Unavailable(_))
        }
    }
}

async fn read_board(
    board: &dyn Board,
    name: &str,
    time: Duration,
    keeper: &mut Keeper,
) -> Result<Shared, CatalogError> {
    // Before the call: however long the answer takes, the lead is not believed for longer than it was given.
    let until = Instant::now() + time;
    let lead = board.lead(ROLE.into(), name.to_owned(), time).await?;
    let nodes = board.facts(FactKind::Node).await?;
    let marks = board.facts(FactKind::Maintenance).await?;
    let chronicle = keeper.read(board, wall(), lead.held).await?;
    let read = |fact: &Fact| serde_json::from_slice(&fact.record).ok();
    Ok(Shared {
        leading: lead.held,
        term: lead.term,
        until,
        nodes: nodes.iter().filter_map(|fact| serde_json::from_slice(&fact.record).ok()).collect(),
        maintenance: marks.iter().filter_map(|fact| Some((fact.name.clone(), read(fact)?))).collect(),
        chronicle,
    })
}
