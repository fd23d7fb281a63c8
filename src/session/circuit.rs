//! One circuit: who speaks on it, and when it is over.
//!
//! The viewer's endpoint is bound by a `UseCircuitCode` that carries this session's code, session
//! and agent id; from then on only that endpoint is heard. The loopback port that stands for the
//! simulator outlives the circuit: viewers return to a region, and a port reused for another
//! simulator would mix circuits in the viewer, which knows them by address alone.

use std::net::SocketAddr;
use std::time::Instant;

use super::{CIRCUIT_SILENCE, CIRCUIT_SILENCE_PAUSED, CLOSED_LINGER};

/// Which side ended the circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// CloseCircuit from the viewer.
    ByViewer,
    /// CloseCircuit or DisableSimulator from the simulator.
    BySimulator,
}

/// The state of one circuit; closed until a viewer opens it.
#[derive(Debug, Default)]
pub struct Circuit {
    viewer: Option<SocketAddr>,
    last_heard: Option<Instant>,
    closed: Option<(Instant, Closed)>,
    paused: bool,
}

impl Circuit {
    /// The viewer proved itself from this address: a new circuit, or the same one again.
    pub fn open(&mut self, now: Instant, viewer: SocketAddr) {
        *self = Self { viewer: Some(viewer), last_heard: Some(now), closed: None, paused: false };
    }

    /// Where the viewer is, while the circuit is open.
    #[must_use]
    pub const fn viewer(&self) -> Option<SocketAddr> {
        self.viewer
    }

    /// A datagram passed in either direction.
    pub const fn heard(&mut self, now: Instant) {
        self.last_heard = Some(now);
    }

    /// One side said goodbye; stragglers still pass for a while.
    pub fn close(&mut self, now: Instant, by: Closed) {
        self.closed.get_or_insert((now, by));
    }

    /// The viewer announced a long silence, or its end.
    pub const fn pause(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// Forgets the viewer when the circuit was closed long enough ago, or fell silent.
    pub fn expire(&mut self, now: Instant) {
        let past = |since: Instant, limit| now.saturating_duration_since(since) >= limit;
        let silence = if self.paused { CIRCUIT_SILENCE_PAUSED } else { CIRCUIT_SILENCE };
        let closed = self.closed.is_some_and(|(since, _)| past(since, CLOSED_LINGER));
        let silent = self.last_heard.is_some_and(|last| past(last, silence));
        if closed || silent {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{Circuit, Closed};
    use std::time::{Duration, Instant};

    #[test]
    fn a_closed_circuit_lingers_and_then_forgets_its_viewer() {
        let start = Instant::now();
        let viewer = "127.0.0.1:50000".parse().unwrap();
        let mut circuit = Circuit::default();
        assert_eq!(circuit.viewer(), None);
        circuit.open(start, viewer);
        circuit.close(start, Closed::BySimulator);
        circuit.heard(start + Duration::from_secs(29));
        circuit.expire(start + Duration::from_secs(29));
        assert_eq!(circuit.viewer(), Some(viewer));
        circuit.expire(start + Duration::from_secs(30));
        assert_eq!(circuit.viewer(), None);
    }

    #[test]
    fn reopening_forgets_the_goodbye() {
        let start = Instant::now();
        let viewer = "127.0.0.1:50000".parse().unwrap();
        let mut circuit = Circuit::default();
        circuit.open(start, viewer);
        circuit.close(start, Closed::ByViewer);
        circuit.open(start + Duration::from_secs(5), viewer);
        circuit.expire(start + Duration::from_secs(60));
        assert_eq!(circuit.viewer(), Some(viewer));
    }

    #[test]
    fn silence_closes_later_while_the_viewer_is_paused() {
        let start = Instant::now();
        let mut circuit = Circuit::default();
        circuit.open(start, "127.0.0.1:50000".parse().unwrap());
        circuit.pause(true);
        circuit.expire(start + Duration::from_secs(599));
        assert!(circuit.viewer().is_some());
        circuit.pause(false);
        circuit.expire(start + Duration::from_secs(599));
        assert!(circuit.viewer().is_none());
    }
}
