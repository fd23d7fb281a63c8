//! What the directors of an array share: who of them acts for all, and what all of them must know: the nodes that
//! were opened, maintenance, incidents, the history of the status page.

use std::time::Duration;

use super::Answer;

/// The role of who acts for all. What its holder writes carries its term.
pub const ACTING: &str = "scaling";

/// Who acts for all. Times are the catalog's own, so that clocks which differ do no harm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lead {
    /// Who does.
    pub holder: String,
    /// Whether that is who has asked.
    pub held: bool,
    /// Grows with each change of holder. What a holder writes carries it: one that was stopped, and goes on after
    /// another has taken over, is refused.
    pub term: i64,
}

/// What a fact is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FactKind {
    /// A node that a provisioner opened, and where it stands.
    Node = 0,
    /// A node that is away by plan.
    Maintenance = 1,
    /// An incident with its updates.
    Incident = 2,
    /// A day of a member's history.
    History = 3,
    /// A director, for the others.
    Director = 4,
}

/// One fact. The record is the directors' business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// Its name within its kind.
    pub name: String,
    /// When it was written, as the writer says; seconds since 1970.
    pub at: u64,
    /// Opaque bytes.
    pub record: Vec<u8>,
}

/// What becomes of one fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FactChange {
    /// It is written.
    Put(Fact),
    /// The fact of this name is removed.
    Drop(String),
}

/// Decides from all facts of a kind what becomes of them. Called again when the engine has to try again.
pub type DecideFacts = Box<dyn FnMut(&[Fact]) -> Vec<FactChange> + Send>;

/// The board of a catalog.
pub trait Board: Send + Sync {
    /// Takes the lead in a role, or keeps it, for so long from now; or says who has it.
    fn lead(&self, role: String, holder: String, time: Duration) -> Answer<'_, Lead>;
    /// Gives it up, for somebody else to take at once.
    fn give_up(&self, role: String, holder: String) -> Answer<'_, ()>;
    /// Writes a fact, unless a later term has written it, or it is there and a later term acts ([`ACTING`]); whether it
    /// was written. Term 0 is an operator's word. One that is not there is written by whoever knows of it: a machine
    /// that nobody has written of costs for ever.
    fn put_fact(&self, kind: FactKind, fact: Fact, term: i64) -> Answer<'_, bool>;
    /// The facts of a kind in the order of their names.
    fn facts(&self, kind: FactKind) -> Answer<'_, Vec<Fact>>;
    /// Changes facts of a kind by what they are, in one transaction: of two who do so at once, the second sees what the
    /// first has written. Terms are not looked at.
    fn change_facts(&self, kind: FactKind, decide: DecideFacts) -> Answer<'_, ()>;
    /// Removes a fact, unless a later term has written it; whether it was there and is not any more.
    fn drop_fact(&self, kind: FactKind, name: String, term: i64) -> Answer<'_, bool>;
    /// Removes facts of a kind written before a time; how many those were.
    fn forget_facts(&self, kind: FactKind, before: u64) -> Answer<'_, u64>;
}
