//! Who the members are, and what is known of them before the board was read.

use std::time::Instant;

use super::{Array, NodeFact};

impl Array {
    /// What was written of opened nodes when the board was last read, perhaps before this director started.
    pub fn remember(&mut self, now: Instant, facts: &[NodeFact]) {
        if !self.read {
            self.remembers = true;
            self.learn(now, facts, false);
        }
    }

    /// Where the members are.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        self.nodes.values().map(|node| node.spec.url.clone()).collect()
    }

    /// Whether the provisioner's node of this handle is a member.
    #[must_use]
    pub fn has(&self, handle: &str) -> bool {
        self.nodes.values().any(|node| node.spec.handle == handle)
    }
}
