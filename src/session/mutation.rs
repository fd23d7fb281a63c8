//! The rules of relaying, each of which tests can break on purpose: a test of numbering that does
//! not notice a broken rule proves nothing.

/// What must hold for every packet that passes, is injected or is kept back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// A sender's number is mapped to the receiver's.
    NumbersAreMapped,
    /// A copy has the number of the first.
    ResentKeepsItsNumber,
    /// Acks name packets by their sender's numbers.
    AcksAreTranslated,
    /// Acks for packets of ours go no further.
    OurAcksAreStripped,
    /// Also when they come again, long after the first.
    OursStayOurs,
    /// Numbers are compared on a circle.
    NumbersGoRound,
    /// A packet that was overtaken keeps the number it would have had.
    LateNumbersStayLow,
    /// A packet of acks that is left empty is not sent.
    EmptyPacketAckIsNotSent,
    /// OldestUnacked is mapped like a packet's number.
    OldestUnackedIsMapped,
    /// And not higher than what of ours is unacknowledged.
    OldestUnackedCoversOurs,
    /// What is not acknowledged of ours is sent again.
    OursAreResent,
    /// And marked as a copy.
    OurCopiesAreMarked,
    /// A reliable packet that we kept is acknowledged to its sender.
    SwallowedIsAcked,
    /// And so is every copy of it.
    SwallowedCopiesAreAcked,
    /// Acks that ride on a packet we kept are delivered all the same.
    RidingAcksAreDelivered,
    /// Copies of an edited packet are edited in the same way.
    EditedCopiesAreEdited,
}

#[cfg(test)]
pub(super) use switch::{broken, with_broken};

/// Outside tests no rule is ever broken.
#[cfg(not(test))]
pub(super) const fn broken(_: Rule) -> bool {
    false
}

#[cfg(test)]
mod switch {
    use super::Rule;
    use std::cell::Cell;

    thread_local! {
        static BROKEN: Cell<Option<Rule>> = const { Cell::new(None) };
    }

    impl Rule {
        /// Every rule.
        pub(in crate::session) const ALL: [Self; 16] = [
            Self::OursStayOurs,
            Self::NumbersGoRound,
            Self::LateNumbersStayLow,
            Self::NumbersAreMapped,
            Self::ResentKeepsItsNumber,
            Self::AcksAreTranslated,
            Self::OurAcksAreStripped,
            Self::EmptyPacketAckIsNotSent,
            Self::OldestUnackedIsMapped,
            Self::OldestUnackedCoversOurs,
            Self::OursAreResent,
            Self::OurCopiesAreMarked,
            Self::SwallowedIsAcked,
            Self::SwallowedCopiesAreAcked,
            Self::RidingAcksAreDelivered,
            Self::EditedCopiesAreEdited,
        ];
    }

    /// Runs `act` with one rule broken on this thread.
    pub(in crate::session) fn with_broken<R>(rule: Rule, act: impl FnOnce() -> R) -> R {
        BROKEN.set(Some(rule));
        let result = act();
        BROKEN.set(None);
        result
    }

    pub(in crate::session) fn broken(rule: Rule) -> bool {
        BROKEN.get() == Some(rule)
    }
}
