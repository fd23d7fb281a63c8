//! The upload queue as a state machine: what waits, what goes next, and what becomes of it.
//!
//! ```text
//!  offer ─► waiting (60 s: is it a bake?) ─► ready ─► sending ─► gone
//!                    ▲                                   │
//!                    └──────── back-off with jitter ◄────┘
//! ```
//!
//! Knows neither files nor sockets nor clocks. Whoever drives it writes down what was queued and what
//! has gone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use super::baked::Baked;
use super::upload_pace::{Dice, doubled};
use crate::asset::{AssetId, AssetKey, AssetKind, Digest};
use crate::grid::{GridId, Origin};

/// Own failures of one asset after which it is given up.
pub const MAX_ATTEMPTS: u32 = 8;
/// "Forbidden" this often in a row is about us, not about the assets.
const FORBIDDEN_LIMIT: u32 = 8;
/// Pauses after one asset's own failure.
const ENTRY_PAUSE: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(1800)];
/// Pauses while the service cannot be reached.
const AWAY_PAUSE: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(300)];
/// The pause when it is busy and does not say for how long, and the longest it may ask for.
const BUSY_PAUSE: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(3600)];
/// The pause when it does not take anything from us.
const SHUT_OUT_PAUSE: Duration = Duration::from_secs(600);
/// How long until the local store is asked again when its disk was busy.
const DISK_PAUSE: Duration = Duration::from_secs(2);
/// How soon viewers' requests are looked at again.
const YIELD_PAUSE: Duration = Duration::from_millis(100);
/// Sizes up to which assets are small, and medium.
const CLASSES: [u64; 2] = [64 << 10, 1 << 20];
/// Every so many picks the oldest goes, whatever its size.
const OLDEST_EVERY: u32 = 4;

/// What an entry is called, here and on disk; later ones are larger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Number(pub u64);

/// An asset to be uploaded. Its bytes are in the local store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub key: AssetKey,
    /// Who delivered it.
    pub origin: Origin,
    /// Whether the grid is one operator's.
    pub central: bool,
    /// Its content.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// When it was queued, in seconds since 1970.
    pub queued: u64,
    /// The grid's host turned out to be in a private network, whatever it is called.
    pub resolved_private: bool,
}

/// The bounds of a queue.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most assets.
    pub entries: usize,
    /// The most bytes of assets.
    pub bytes: u64,
    /// How long one may be in the queue.
    pub age: Duration,
    /// How long each waits first: an asset that turns out to be a bake is dropped meanwhile.
    pub wait: Duration,
    /// The most in the sending at a time.
    pub parallel: usize,
    /// How long viewers' requests may hold uploads back before one goes all the same.
    pub patience: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 100_000,
            bytes: 1 << 30,
            age: Duration::from_secs(7 * 86_400),
            wait: Duration::from_secs(60),
            parallel: 2,
            patience: Duration::from_secs(10),
        }
    }
}

/// Why an entry left the queue without having been uploaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dropped {
    /// Its id has appeared in a baked slot.
    Baked,
    /// The queue was full, and it was the oldest.
    Full,
    /// It has been in the queue for too long.
    Old,
    /// The local store does not have it any more.
    Missing,
    /// The local store has other bytes under its name.
    Changed,
    /// The service has other content under its name.
    Conflict,
    /// The service was told not to have it.
    TakenDown,
    /// The service does not take it.
    Refused,
    /// It failed too often.
    Failed,
    /// The grid's owner has opted out since, or the service is not trusted any more.
    Withdrawn,
    /// It was queued for another service, or the grid is at home and the service is not.
    NotForService,
}

impl Dropped {
    /// Every reason, in the order of reports.
    pub const ALL: [Self; 11] = [
        Self::Baked,
        Self::Full,
        Self::Old,
        Self::Missing,
        Self::Changed,
        Self::Conflict,
        Self::TakenDown,
        Self::Refused,
        Self::Failed,
        Self::Withdrawn,
        Self::NotForService,
    ];
}

/// How sending one entry ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The service has what it wants.
    Done,
    /// Not now; perhaps it says when.
    Busy(Option<Duration>),
    /// No connection, or nobody there who speaks our language.
    Unreachable,
    /// It does not take it. Whether that is about the asset or about us is told by how often.
    Forbidden,
    /// It does not know us.
    Unknown,
    /// It has failed with this one.
    Trouble,
    /// The local store's disk was busy.
    DiskBusy,
    /// It has stopped being wanted.
    Drop(Dropped),
}

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Send this, and say how it ended.
    Send(Number, Entry),
    /// Nothing until then, unless something is told.
    Wait(Instant),
    /// Nothing until something is told.
    Rest,
}

/// What became of an offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Offered {
    /// It is in the queue under this number.
    Queued(Number),
    /// It was there already.
    Known,
    /// It is known to be a bake.
    Baked,
    /// It alone is more than the queue may hold.
    TooLarge,
}

#[derive(Debug)]
struct Held {
    entry: Entry,
    attempts: u32,
    place: Place,
    /// What was said of it while it was being sent: it does not come back.
    doomed: Option<Dropped>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Waiting(Instant),
    Ready,
    Sending,
}

/// The queue.
#[derive(Debug)]
pub struct UploadPlan {
    limits: Limits,
    held: BTreeMap<Number, Held>,
    names: HashMap<AssetKey, Vec<Number>>,
    waiting: BTreeSet<(Instant, Number)>,
    ready: [BTreeSet<Number>; 3],
    sending: usize,
    bytes: u64,
    next_number: u64,
    picks: u32,
    /// The service wants nothing before this.
    shut_until: Option<Instant>,
    failures: u32,
    forbidden: u32,
    /// Since when viewers' requests have held uploads back.
    yielding_since: Option<Instant>,
    paused: bool,
    baked: Baked,
    dice: Dice,
}

impl UploadPlan {
    /// An empty queue.
    #[must_use]
    pub fn new(limits: Limits, dice: Dice) -> Self {
        Self {
            limits,
            held: BTreeMap::new(),
            names: HashMap::new(),
            waiting: BTreeSet::new(),
            ready: Default::default(),
            sending: 0,
            bytes: 0,
            next_number: 1,
            picks: 0,
            shut_until: None,
            failures: 0,
            forbidden: 0,
            yielding_since: None,
            paused: false,
            baked: Baked::default(),
            dice,
        }
    }

    /// Entries and bytes in the queue, those being sent included.
    #[must_use]
    pub fn size(&self) -> (usize, u64) {
        (self.held.len(), self.bytes)
    }

    /// Entries being sent.
    #[must_use]
    pub const fn sending(&self) -> usize {
        self.sending
    }

    /// Everything in the queue, oldest first.
    pub fn entries(&self) -> impl Iterator<Item = (Number, &Entry)> {
        self.held.iter().map(|(number, held)| (*number, &held.entry))
    }

    /// Whether nothing is sent for now.
    #[must_use]
    pub const fn is_paused(&self) -> bool {
        self.paused
    }

    /// Sends nothing more until [`Self::resume`]; what is being sent goes on.
    pub const fn pause(&mut self) {
        self.paused = true;
    }

    /// Goes on.
    pub const fn resume(&mut self) {
        self.paused = false;
    }

    /// Takes an entry in. What had to go for it is added to `gone`.
    pub fn offer(&mut self, entry: Entry, now: Instant, gone: &mut Vec<(Number, Dropped)>) -> Offered {
        if entry.size > self.limits.bytes || self.limits.entries == 0 {
            return Offered::TooLarge;
        }
        if self.is_baked(&entry.key) {
            return Offered::Baked;
        }
        if let Some(known) = self.of_origin(&entry) {
            let same = self.held.get(&known).is_some_and(|held| held.entry.digest == entry.digest);
            if same {
                return Offered::Known;
            }
            // The origin has changed its mind; its last word is the one to attest.
            self.remove(known, Dropped::Changed, gone);
        }
        let number = Number(self.next_number);
        self.insert(number, entry, now);
        self.trim(gone);
        Offered::Queued(number)
    }

    /// Takes in what an earlier run had queued. It waits anew: what was seen in the meantime is unknown.
    pub fn restore(&mut self, number: Number, entry: Entry, now: Instant, gone: &mut Vec<(Number, Dropped)>) {
        if let Some(known) = self.of_origin(&entry) {
            self.remove(known, Dropped::Changed, gone);
        }
        self.insert(number, entry, now);
        self.trim(gone);
    }

    fn insert(&mut self, number: Number, entry: Entry, now: Instant) {
        self.next_number = self.next_number.max(number.0.saturating_add(1));
        let due = now + self.limits.wait;
        self.bytes = self.bytes.saturating_add(entry.size);
        self.names.entry(entry.key.clone()).or_default().push(number);
        self.waiting.insert((due, number));
        self.held.insert(number, Held { entry, attempts: 0, place: Place::Waiting(due), doomed: None });
    }

    fn of_origin(&self, entry: &Entry) -> Option<Number> {
        let numbers = self.names.get(&entry.key)?;
        let is_it = |held: &Held| held.entry.origin == entry.origin && held.doomed.is_none();
        numbers.iter().copied().find(|number| self.held.get(number).is_some_and(is_it))
    }

    /// Drops the oldest until what is left may stay.
    fn trim(&mut self, gone: &mut Vec<(Number, Dropped)>) {
        while self.held.len() > self.limits.entries || self.bytes > self.limits.bytes {
            let oldest = self.held.iter().find(|(_, held)| held.place != Place::Sending);
            let Some(number) = oldest.map(|(number, _)| *number) else { return };
            self.remove(number, Dropped::Full, gone);
        }
    }

    /// These textures are bakes of avatars, and nobody else's.
    pub fn baked(&mut self, grid: &GridId, ids: &[AssetId], gone: &mut Vec<(Number, Dropped)>) {
        for id in ids {
            self.baked.note(grid, *id);
            let key = AssetKey { grid: grid.clone(), kind: AssetKind::Texture, id: *id };
            for number in self.names.get(&key).cloned().unwrap_or_default() {
                self.remove(number, Dropped::Baked, gone);
            }
        }
    }

    /// The grid is called otherwise from now on; what was baked there still is.
    pub fn renamed(&mut self, before: &GridId, now: &GridId, gone: &mut Vec<(Number, Dropped)>) {
        let ids = self.baked.of(before);
        self.baked(now, &ids, gone);
    }

    /// Why an entry that is being sent is not to be sent any more. The sender asks before whatever it
    /// tells the service.
    #[must_use]
    pub fn doom(&self, number: Number) -> Option<Dropped> {
        self.held.get(&number).and_then(|held| held.doomed)
    }

    /// Whether it has been seen as a bake.
    #[must_use]
    pub fn is_baked(&self, key: &AssetKey) -> bool {
        key.kind == AssetKind::Texture && self.baked.contains(&key.grid, key.id)
    }

    /// Drops what has been in the queue for too long. `unix_now` in seconds since 1970.
    pub fn expire(&mut self, unix_now: u64, gone: &mut Vec<(Number, Dropped)>) {
        let born_before = unix_now.saturating_sub(self.limits.age.as_secs());
        loop {
            // Numbers grow with time, unless the clock was set back; then it takes as much longer.
            let oldest = self.held.iter().find(|(_, held)| held.place != Place::Sending);
            match oldest {
                Some((number, held)) if held.entry.queued < born_before => {
                    let number = *number;
                    self.remove(number, Dropped::Old, gone);
                }
                _ => return,
            }
        }
    }

    /// Drops everything, or all of one grid. What is being sent is not sent again.
    pub fn withdraw(&mut self, grid: Option<&GridId>, gone: &mut Vec<(Number, Dropped)>) {
        let meant = |held: &Held| grid.is_none_or(|grid| held.entry.key.grid == *grid);
        let all: Vec<Number> =
            self.held.iter().filter(|(_, held)| meant(held)).map(|(number, _)| *number).collect();
        for number in all {
            self.remove(number, Dropped::Withdrawn, gone);
        }
    }

    /// Removes an entry. One that is being sent is marked, and removed when that has ended.
    fn remove(&mut self, number: Number, reason: Dropped, gone: &mut Vec<(Number, Dropped)>) {
        let Some(held) = self.held.get_mut(&number) else { return };
        match held.place {
            Place::Waiting(due) => drop(self.waiting.remove(&(due, number))),
            Place::Ready => {
                let class = class(held.entry.size);
                if let Some(ready) = self.ready.get_mut(class) {
                    ready.remove(&number);
                }
            }
            Place::Sending => {
                held.doomed.get_or_insert(reason);
                return;
            }
        }
        self.forget(number);
        gone.push((number, reason));
    }

    fn forget(&mut self, number: Number) {
        let Some(held) = self.held.remove(&number) else { return };
        self.bytes = self.bytes.saturating_sub(held.entry.size);
        if let Some(numbers) = self.names.get_mut(&held.entry.key) {
            numbers.retain(|other| *other != number);
            if numbers.is_empty() {
                self.names.remove(&held.entry.key);
            }
        }
    }

    /// What to do now, while viewers have `requests` under way.
    pub fn next(&mut self, now: Instant, requests: usize) -> Next {
        while let Some((due, number)) = self.waiting.first().copied().filter(|(due, _)| *due <= now) {
            self.waiting.remove(&(due, number));
            if let Some(held) = self.held.get_mut(&number) {
                held.place = Place::Ready;
                let class = class(held.entry.size);
                if let Some(ready) = self.ready.get_mut(class) {
                    ready.insert(number);
                }
            }
        }
        if self.paused || self.sending >= self.limits.parallel {
            return Next::Rest;
        }
        if self.ready.iter().all(BTreeSet::is_empty) {
            self.yielding_since = None;
            return self.waiting.first().map_or(Next::Rest, |(due, _)| Next::Wait(*due));
        }
        if let Some(until) = self.shut_until {
            if until > now {
                return Next::Wait(until);
            }
            // One goes first, to see; the others follow when it has come through.
            if self.failures > 0 && self.sending > 0 {
                return Next::Rest;
            }
        }
        if requests > 0 {
            let since = *self.yielding_since.get_or_insert(now);
            if now < since + self.limits.patience {
                return Next::Wait(now + YIELD_PAUSE);
            }
            if self.sending > 0 {
                return Next::Rest;
            }
        }
        self.yielding_since = None;
        self.pick().map_or(Next::Rest, |(number, entry)| Next::Send(number, entry))
    }

    /// Small ones first: they are the most for the least. Now and then the oldest, so that none waits
    /// for ever.
    fn pick(&mut self) -> Option<(Number, Entry)> {
        self.picks = self.picks.wrapping_add(1);
        let firsts = self.ready.iter().filter_map(BTreeSet::first).copied();
        let number =
            if self.picks.is_multiple_of(OLDEST_EVERY) { firsts.min() } else { firsts.take(1).next() }?;
        for ready in &mut self.ready {
            ready.remove(&number);
        }
        let held = self.held.get_mut(&number)?;
        held.place = Place::Sending;
        self.sending += 1;
        Some((number, held.entry.clone()))
    }

    /// Tells how sending ended. What has gone without being uploaded is added to `gone`; returns
    /// whether the entry has left the queue.
    pub fn ended(
        &mut self,
        number: Number,
        outcome: Outcome,
        now: Instant,
        gone: &mut Vec<(Number, Dropped)>,
    ) -> bool {
        let Some(held) = self.held.get_mut(&number).filter(|held| held.place == Place::Sending) else {
            return false;
        };
        self.sending = self.sending.saturating_sub(1);
        match outcome {
            // An answer, whatever it says, shows that the service is there and hears us.
            Outcome::Done
            | Outcome::Trouble
            | Outcome::Drop(Dropped::Conflict | Dropped::TakenDown | Dropped::Refused) => {
                self.failures = 0;
                self.forbidden = 0;
            }
            Outcome::Forbidden => {
                self.failures = 0;
                self.forbidden = self.forbidden.saturating_add(1);
            }
            Outcome::DiskBusy
            | Outcome::Busy(_)
            | Outcome::Unreachable
            | Outcome::Unknown
            | Outcome::Drop(_) => {}
        }
        let due = match outcome {
            Outcome::Done => {
                self.forget(number);
                return true;
            }
            Outcome::Drop(reason) => {
                self.forget(number);
                gone.push((number, reason));
                return true;
            }
            Outcome::Forbidden if self.forbidden < FORBIDDEN_LIMIT => {
                self.forget(number);
                gone.push((number, Dropped::TakenDown));
                return true;
            }
            Outcome::Trouble => {
                held.attempts += 1;
                if held.attempts >= MAX_ATTEMPTS {
                    self.forget(number);
                    gone.push((number, Dropped::Failed));
                    return true;
                }
                now + self.dice.around(doubled(held.attempts, ENTRY_PAUSE[0], ENTRY_PAUSE[1]))
            }
            Outcome::DiskBusy => now + self.dice.around(DISK_PAUSE),
            Outcome::Busy(said) => {
                let pause = said.unwrap_or(BUSY_PAUSE[0]).clamp(Duration::from_millis(100), BUSY_PAUSE[1]);
                // Never sooner than it said.
                let until = now + pause + self.dice.around(pause / 4);
                self.shut(until)
            }
            Outcome::Unreachable => {
                self.failures = self.failures.saturating_add(1);
                let pause = self.dice.around(doubled(self.failures, AWAY_PAUSE[0], AWAY_PAUSE[1]));
                self.shut(now + pause)
            }
            Outcome::Forbidden | Outcome::Unknown => {
                let pause = self.dice.around(SHUT_OUT_PAUSE);
                self.shut(now + pause)
            }
        };
        if let Some(reason) = self.doom(number) {
            self.forget(number);
            gone.push((number, reason));
            return true;
        }
        if let Some(held) = self.held.get_mut(&number) {
            held.place = Place::Waiting(due);
            self.waiting.insert((due, number));
        }
        false
    }

    fn shut(&mut self, until: Instant) -> Instant {
        let until = self.shut_until.map_or(until, |known| known.max(until));
        self.shut_until = Some(until);
        until
    }
}

fn class(size: u64) -> usize {
    CLASSES.iter().filter(|limit| size > **limit).count()
}

#[cfg(test)]
#[path = "upload_plan/tests.rs"]
mod tests;
