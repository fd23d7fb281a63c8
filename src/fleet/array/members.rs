//! Who the members are, and what is known of them before the board was read.

use std::time::Instant;

use super::{Array, Command, NodeFact, NodeSpec};

/// How far the closing of a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closing {
    /// Its provisioner is to be asked.
    Waits,
    /// It is being asked.
    Runs,
    /// It says that the node is closed.
    Done,
}

impl Array {
    /// What was written of opened nodes when the board was last read, perhaps before this director started.
    pub fn remember(&mut self, now: Instant, facts: &[NodeFact]) {
        if !self.read {
            self.remembers = true;
            self.learn(now, facts, false);
        }
    }

    /// What became of the closing of a node; whether it is to be forgotten now. One that could not be closed is tried
    /// again.
    pub fn closed(&mut self, name: &str, done: bool) -> bool {
        if let Some((_, closing)) = self.closing.get_mut(name) {
            *closing = if done { Closing::Done } else { Closing::Waits };
        }
        done
    }

    /// Whether it is known that this node is to be closed.
    pub(super) fn is_closing(&self, spec: &NodeSpec) -> bool {
        self.closing.get(&spec.name).is_some_and(|(known, _)| known.handle == spec.handle)
    }

    /// What the board says of nodes that are no members any more.
    pub(super) fn departed(&mut self, facts: &[NodeFact]) {
        for fact in facts.iter().filter(|fact| fact.closing) {
            let known = || (fact.spec.clone(), Closing::Waits);
            self.closing.entry(fact.spec.name.clone()).or_insert_with(known);
        }
        // What was written may not have arrived yet while it is being closed.
        let held = |name: &str| facts.iter().any(|fact| fact.spec.name == name);
        self.closing.retain(|name, (_, closing)| *closing == Closing::Runs || held(name));
    }

    /// What nobody has brought to its end.
    pub(super) fn finish(&mut self, commands: &mut Vec<Command>) {
        for (spec, closing) in self.closing.values_mut().filter(|(_, closing)| *closing == Closing::Waits) {
            *closing = Closing::Runs;
            commands.push(Command::Finish(spec.clone()));
        }
        commands.extend(self.wrong.drain(..).map(Command::Write));
    }

    /// Where the members are, and those that are being closed.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        let closing = self.closing.values().map(|(spec, _)| spec);
        self.nodes.values().map(|node| &node.spec).chain(closing).map(|spec| spec.url.clone()).collect()
    }

    /// Whether a name is that of a node that is being closed.
    #[must_use]
    pub fn is_leaving_name(&self, name: &str) -> bool {
        self.closing.contains_key(name)
    }

    /// Whether the provisioner's node of this handle is a member.
    #[must_use]
    pub fn has(&self, handle: &str) -> bool {
        self.nodes.values().any(|node| node.spec.handle == handle)
    }
}
