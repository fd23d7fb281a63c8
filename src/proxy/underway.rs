//! An asset request over HTTP while it is answered: counted as in flight, watched for its scene, and
//! measured for the waiting it saves.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::grid_port::{AssetRoute, GridPort};
use super::learn::Target;
use crate::asset::{AssetKind, AssetSource};
use crate::fetch::savings;
use crate::scenes::Open;
use crate::support::metrics::{Counter, InFlight};

/// Ends when it is dropped, answered or not.
pub(super) struct Underway {
    grid: Arc<GridPort>,
    since: Instant,
    open: Option<Open>,
    hit: bool,
    _in_flight: InFlight,
}

impl Underway {
    /// A request has come. One that wants no body is no part of a scene.
    pub(super) fn begin(grid: &Arc<GridPort>, route: &AssetRoute, target: &Target, wants_body: bool) -> Self {
        let visitor = route.visitor.filter(|_| wants_body);
        let key = &target.key;
        let chronicle = &grid.shared.chronicle;
        Self {
            since: Instant::now(),
            open: visitor.and_then(|it| chronicle.begun(it, key.kind, key.id, &target.scope.origin)),
            hit: false,
            _in_flight: grid.shared.metrics.request_in_flight(),
            grid: Arc::clone(grid),
        }
    }

    /// So many bytes of body were sent, from this source.
    pub(super) fn served(mut self, kind: AssetKind, source: AssetSource, bytes: u64) {
        let metrics = &self.grid.shared.metrics;
        metrics.asset_served(kind, source, bytes);
        metrics.add(Counter::BytesToViewer, bytes);
        self.hit = matches!(source, AssetSource::Memory | AssetSource::Disk | AssetSource::Service);
        if self.hit
            && let Some(pace) = self.grid.remembered_pace()
        {
            let (saved, lost) = savings::saved(pace.usual(bytes), self.since.elapsed());
            metrics.add(Counter::TimeSavedMs, ms(saved));
            metrics.add(Counter::TimeLostMs, ms(lost));
        }
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        if let Some(open) = self.open.take() {
            self.grid.shared.chronicle.ended(open, self.hit);
        }
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
