//! The picture that a simulator sends in place of a texture it does not have, under the id of that
//! texture. What equals it is not learnt: the texture may turn up later.
//!
//! What the picture looks like is asked of the simulator once, when the first texture has come from
//! it; textures wait for the answer before they are learnt.
//! Source: OpenSimulator, OpenSim/Region/ClientStack/Linden/UDP/LLImageManager.cs.

use std::collections::{HashMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::Output;
use crate::asset::{AssetId, AssetKind, Digest, policy};

/// A simulator that has not answered by then has no such picture.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// Bytes of textures that wait; beyond them the oldest are not learnt.
const MAX_WAITING_BYTES: usize = 64 << 20;
/// Hosts kept track of.
const MAX_HOSTS: usize = 256;

/// What the caller has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing.
    Settled,
    /// Look the picture up, and tell [`Placeholders::looked_up`].
    LookUp,
}

#[derive(Debug)]
struct Texture {
    simulator: SocketAddrV4,
    id: AssetId,
    bytes: Bytes,
}

#[derive(Debug)]
enum State {
    Asking { since: Instant, waiting: VecDeque<Texture> },
    Known(Digest),
    Absent,
}

/// What is known of the pictures of all hosts of a session.
#[derive(Debug, Default)]
pub(super) struct Placeholders {
    by_host: HashMap<Ipv4Addr, State>,
    waiting_bytes: usize,
}

fn learned(simulator: SocketAddrV4, kind: AssetKind, id: AssetId, bytes: Bytes) -> Output {
    Output::Learned { kind, id, simulator, bytes }
}

impl Placeholders {
    /// A body has come whole from a simulator: it is learnt, waits, or is refused.
    pub(super) fn judge(
        &mut self,
        now: Instant,
        simulator: SocketAddrV4,
        kind: AssetKind,
        id: AssetId,
        bytes: Bytes,
        outputs: &mut VecDeque<Output>,
    ) -> Verdict {
        if kind != AssetKind::Texture {
            outputs.push_back(learned(simulator, kind, id, bytes));
            return Verdict::Settled;
        }
        if id == policy::MISSING_IMAGE {
            self.known(*simulator.ip(), Digest::of(&bytes), outputs);
            outputs.push_back(learned(simulator, kind, id, bytes));
            return Verdict::Settled;
        }
        let texture = Texture { simulator, id, bytes };
        let has_room = self.by_host.len() < MAX_HOSTS;
        match self.by_host.get_mut(simulator.ip()) {
            Some(State::Asking { waiting, .. }) => {
                self.waiting_bytes += texture.bytes.len();
                waiting.push_back(texture);
                while self.waiting_bytes > MAX_WAITING_BYTES
                    && let Some(oldest) = waiting.pop_front()
                {
                    self.waiting_bytes -= oldest.bytes.len();
                    outputs.push_back(Output::Unlearnt);
                }
                Verdict::Settled
            }
            Some(State::Known(digest)) => {
                let digest = *digest;
                outputs.push_back(judged(texture, Some(digest)));
                Verdict::Settled
            }
            Some(State::Absent) => {
                outputs.push_back(judged(texture, None));
                Verdict::Settled
            }
            None if has_room => {
                self.waiting_bytes += texture.bytes.len();
                let state = State::Asking { since: now, waiting: VecDeque::from([texture]) };
                self.by_host.insert(*simulator.ip(), state);
                Verdict::LookUp
            }
            None => {
                outputs.push_back(Output::Unlearnt);
                Verdict::Settled
            }
        }
    }

    /// The picture was looked for at home. Answers whether the simulator is to be asked for it.
    pub(super) fn looked_up(
        &mut self,
        host: Ipv4Addr,
        digest: Option<Digest>,
        outputs: &mut VecDeque<Output>,
    ) -> bool {
        if let Some(digest) = digest {
            self.known(host, digest, outputs);
        }
        self.is_asking(host)
    }

    /// Whether the simulator is still to say.
    pub(super) fn is_asking(&self, host: Ipv4Addr) -> bool {
        matches!(self.by_host.get(&host), Some(State::Asking { .. }))
    }

    fn known(&mut self, host: Ipv4Addr, digest: Digest, outputs: &mut VecDeque<Output>) {
        if self.by_host.len() < MAX_HOSTS || self.by_host.contains_key(&host) {
            let before = self.by_host.insert(host, State::Known(digest));
            self.settle(before, Some(digest), outputs);
        }
    }

    /// The simulator has no such picture, or does not say.
    pub(super) fn absent(&mut self, simulator: SocketAddrV4, outputs: &mut VecDeque<Output>) {
        if matches!(self.by_host.get(simulator.ip()), Some(State::Asking { .. })) {
            let before = self.by_host.insert(*simulator.ip(), State::Absent);
            self.settle(before, None, outputs);
        }
    }

    /// The simulator can no longer say. Textures of which no two are the same are learnt; the next one
    /// has it asked anew.
    pub(super) fn unanswered(&mut self, simulator: SocketAddrV4, outputs: &mut VecDeque<Output>) {
        if !matches!(self.by_host.get(simulator.ip()), Some(State::Asking { .. })) {
            return;
        }
        let Some(State::Asking { waiting, .. }) = self.by_host.remove(simulator.ip()) else { return };
        let mut copies: HashMap<Digest, u32> = HashMap::new();
        let digests: Vec<Digest> = waiting.iter().map(|texture| Digest::of(&texture.bytes)).collect();
        digests.iter().for_each(|digest| *copies.entry(*digest).or_default() += 1);
        for (texture, digest) in waiting.into_iter().zip(digests) {
            self.waiting_bytes -= texture.bytes.len();
            // What comes under several names may be what stands for missing ones.
            let several = copies.get(&digest).is_some_and(|copies| *copies > 1);
            outputs.push_back(judged(texture, several.then_some(digest)));
        }
    }

    fn settle(&mut self, before: Option<State>, digest: Option<Digest>, outputs: &mut VecDeque<Output>) {
        let Some(State::Asking { waiting, .. }) = before else { return };
        for texture in waiting {
            self.waiting_bytes -= texture.bytes.len();
            outputs.push_back(judged(texture, digest));
        }
    }

    /// Lets time pass. With `all`, nothing is waited for any more.
    pub(super) fn tick(&mut self, now: Instant, all: bool, outputs: &mut VecDeque<Output>) {
        let overdue = |state: &State| match state {
            State::Asking { since, .. } => all || now.saturating_duration_since(*since) >= ANSWER_LIMIT,
            State::Known(_) | State::Absent => false,
        };
        let hosts: Vec<_> =
            self.by_host.iter().filter(|(_, state)| overdue(state)).map(|(host, _)| *host).collect();
        for host in hosts {
            self.unanswered(SocketAddrV4::new(host, 0), outputs);
            self.by_host.insert(host, State::Absent);
        }
    }
}

fn judged(texture: Texture, placeholder: Option<Digest>) -> Output {
    if placeholder.is_some_and(|placeholder| placeholder == Digest::of(&texture.bytes)) {
        return Output::Unlearnt;
    }
    learned(texture.simulator, AssetKind::Texture, texture.id, texture.bytes)
}

#[cfg(test)]
mod tests;
