//! What befalls circuits while assets are on their way: teleports, ends, and numberings begun anew.

use std::time::Duration;

use super::peer::{Habits, Peer};
use super::simulator::Simulator;
use super::viewer::Viewer;
use super::{CHATTER, Dice, Event, Stop, World};
use crate::lludp::assets::TransferRequest;
use crate::lludp::circuit::{CloseCircuit, DisableSimulator};
use crate::lludp::{MessageBody, MessageNumber};
use crate::session::Route;
use crate::session::tests::{VIEWER, use_circuit_code};

/// What befalls the first circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scene {
    Calm,
    /// One end closes it; later the viewer opens it anew, and both count anew.
    ClosedBySimulator,
    ClosedByViewer,
    /// The viewer goes to the second region and asks there for what it has not got.
    Teleport,
    /// Both ends fall silent and count anew, without a goodbye.
    BothCountAnew,
    /// The viewer alone counts anew.
    ViewerCountsAnew,
    /// The simulator counts anew, and the viewer goes on.
    SimulatorCountsAnew,
}

/// A scene on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Script {
    pub(super) scene: Scene,
    begins: Duration,
    ends: Duration,
    done: u8,
}

impl Script {
    pub(super) fn new(dice: &mut Dice) -> Self {
        let scene = match dice.below(10) {
            0 => Scene::ClosedBySimulator,
            1 => Scene::ClosedByViewer,
            2 | 3 => Scene::Teleport,
            4 => Scene::BothCountAnew,
            5 => Scene::ViewerCountsAnew,
            6 => Scene::SimulatorCountsAnew,
            _ => Scene::Calm,
        };
        let begins = Duration::from_millis(5000 + dice.below(15_000) as u64);
        let ends = begins + Duration::from_millis(1500 + dice.below(5000) as u64);
        Self { scene, begins, ends, done: 0 }
    }

    /// A number the viewer's packets begin with, if the scene demands it.
    pub(super) fn viewer_first(&self) -> Option<u32> {
        matches!(self.scene, Scene::BothCountAnew | Scene::ViewerCountsAnew).then_some(1)
    }

    /// And the simulator's. Numbers of before and after must not meet: a viewer that goes on takes
    /// the later for copies of the earlier, with or without a session between.
    pub(super) fn simulator_first(&self) -> Option<u32> {
        matches!(self.scene, Scene::SimulatorCountsAnew).then_some(70_000)
    }
}

impl World {
    /// Does what the script says for now.
    pub(super) fn follow_script(&mut self) {
        let Script { scene, begins, ends, done } = self.script;
        if scene == Scene::Calm {
            return;
        }
        if done == 0 && self.now >= begins {
            self.script.done = 1;
            self.begin(scene);
        } else if done == 1 && self.now >= ends {
            self.script.done = 2;
            self.end(scene);
        }
    }

    fn begin(&mut self, scene: Scene) {
        let now = self.now;
        match scene {
            Scene::Calm => {}
            Scene::ClosedBySimulator => self.disable_first(),
            Scene::ClosedByViewer => {
                let mut body = Vec::new();
                CloseCircuit {}.encode(&mut body);
                let number = MessageNumber::CLOSE_CIRCUIT;
                let datagram = self.circuits[0].viewer_end.send(now, number, &body, false, None);
                let name = self.fresh_name();
                self.at(Duration::ZERO, Event::Arrives(Stop::SessionFromViewer, 0, name, datagram));
                self.shut(0);
            }
            Scene::Teleport => {
                let next = &mut self.circuits[1];
                (next.viewer_open, next.simulator_open) = (true, true);
                self.open(1);
            }
            Scene::BothCountAnew | Scene::ViewerCountsAnew => self.shut(0),
            Scene::SimulatorCountsAnew => self.circuits[0].simulator_open = false,
        }
    }

    fn end(&mut self, scene: Scene) {
        let habits = self.habits;
        match scene {
            Scene::Calm => {}
            Scene::ClosedBySimulator | Scene::ClosedByViewer => {
                let here = &mut self.circuits[0];
                assert!(here.viewer.faults.is_empty(), "{:?}", here.viewer.faults);
                here.viewer = Viewer::default();
                self.new_viewer_end(habits.0);
                self.new_simulator_end(habits.1);
                self.reopen();
            }
            Scene::Teleport => {
                self.disable_first();
                self.ask_in_the_next();
            }
            Scene::BothCountAnew => {
                self.new_viewer_end(habits.0);
                self.new_simulator_end(habits.1);
                self.reopen();
                self.simulator_speaks_first();
            }
            Scene::ViewerCountsAnew => {
                self.new_viewer_end(habits.0);
                self.circuits[0].simulator_since = self.fresh_name();
                self.circuits[0].simulator_end.other_end_is_new();
                self.circuits[0].simulator_end.forget_acks();
                self.reopen();
            }
            Scene::SimulatorCountsAnew => {
                self.new_simulator_end(habits.1);
                self.circuits[0].viewer_end.other_end_is_new();
                self.reopen();
                self.simulator_speaks_first();
            }
        }
    }

    fn shut(&mut self, circuit: usize) {
        let here = &mut self.circuits[circuit];
        (here.viewer_open, here.simulator_open) = (false, false);
    }

    /// Whoever closes a circuit has no more to say: this one arrives.
    fn disable_first(&mut self) {
        let mut body = Vec::new();
        DisableSimulator {}.encode(&mut body);
        let number = MessageNumber::DISABLE_SIMULATOR;
        let datagram = self.circuits[0].simulator_end.send(self.now, number, &body, true, None);
        let name = self.fresh_name();
        self.at(Duration::ZERO, Event::Arrives(Stop::SessionFromSimulator, 0, name, datagram));
        self.shut(0);
    }

    fn new_viewer_end(&mut self, habits: Habits) {
        self.circuits[0].viewer_since = self.fresh_name();
        self.circuits[0].viewer_end = Peer::new(habits, 1);
        self.forget_promises();
    }

    fn new_simulator_end(&mut self, habits: Habits) {
        self.circuits[0].simulator_since = self.fresh_name();
        let here = &mut self.circuits[0];
        here.simulator_end = Peer::new(habits, 1);
        here.simulator = Simulator::new(here.simulator.large_pieces);
        self.forget_promises();
    }

    /// What one end had not taken in when the other forgot is nobody's promise any more.
    fn forget_promises(&mut self) {
        let here = &mut self.circuits[0];
        here.to_viewer.clear();
        here.to_simulator.clear();
        here.private.clear();
        here.viewer.textures.values_mut().for_each(|texture| texture.may_come_again());
    }

    /// On a loopback address the opening comes; before it a simulator hears nothing.
    fn reopen(&mut self) {
        let here = &mut self.circuits[0];
        (here.viewer_open, here.simulator_open) = (true, true);
        let opening = use_circuit_code();
        let number = MessageNumber::USE_CIRCUIT_CODE;
        let datagram = here.viewer_end.send(self.now, number, &opening[10..], true, None);
        let endpoint = here.endpoint;
        let route = self.session.from_viewer(self.clock(), endpoint, VIEWER.into(), &datagram).0;
        let passed = match route {
            Route::Forward(to) if to == endpoint.into() => datagram,
            Route::Replace(to, replaced) if to == endpoint.into() => replaced,
            other => panic!("an opening went {other:?}"),
        };
        let name = self.fresh_name();
        self.simulator_hears(0, name, &passed);
        self.drain();
    }

    /// A simulator answers an opening at once. What the session sends before that answer still has
    /// numbers of the old count, which the viewer may meet again later.
    fn simulator_speaks_first(&mut self) {
        let id = self.dice.roll();
        let here = &mut self.circuits[0];
        here.to_viewer.insert(id);
        let datagram = here.simulator_end.send(self.now, CHATTER, &id.to_le_bytes(), true, Some(id));
        let name = self.fresh_name();
        self.happen(Event::Arrives(Stop::SessionFromSimulator, 0, name, datagram));
    }

    /// Textures are asked for from where they were left, transfers from their beginning.
    fn ask_in_the_next(&mut self) {
        let now = self.now;
        let [first, next] = &mut self.circuits[..] else { panic!("a teleport goes somewhere") };
        let mut images = Vec::new();
        let mut ids: Vec<_> = first.viewer.textures.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            if first.viewer.textures[&id].is_wanted() && !next.viewer.textures.contains_key(&id) {
                let texture = first.viewer.textures.remove(&id).unwrap();
                next.viewer.textures.insert(id, texture);
                images.push(next.viewer.want(now, id, 0, 100.0));
            }
        }
        let wanted = first.viewer.transfers.iter().filter(|(_, transfer)| transfer.is_wanted());
        let mut assets: Vec<_> = wanted.map(|(_, transfer)| transfer.asset).collect();
        assets.sort_unstable();
        for images in images.chunks(8) {
            self.request(1, images);
        }
        for asset in assets {
            self.transfer(1, asset, TransferRequest::SOURCE_ASSET);
        }
    }
}
