//! An answer of the service on its way to the viewers of a fetch, and the grid going on where the
//! service breaks off.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderValue, RANGE};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;

use super::{Opened, ServiceTier};
use crate::asset::range::ContentRange;
use crate::asset::{Asset, AssetKind, Digest, policy, validate};
use crate::fetch::Span;
use crate::fetch::service_plan::ServicePlan;
use crate::proxy::fetcher::AssetHead;
use crate::proxy::grid_port::GridPort;
use crate::proxy::learn::{self, Target};
use crate::proxy::upstream::Body;
use crate::proxy::{headers, upstream};
use crate::support::metrics::Counter;
use crate::wire::OriginHash;
use crate::wire::groups::GROUP_BYTES;

/// How long a whole asset may take behind a viewer's back.
const BACKFILL_LIMIT: Duration = Duration::from_secs(120);

/// A request to the grid, as often as it is needed.
pub(in crate::proxy) type MakeRequest<'a> = &'a (dyn Fn() -> Request<Body> + Send + Sync);

/// Where the bytes of a fetch go.
pub(in crate::proxy) trait Sink: Sync {
    /// The next bytes, checked.
    fn push(&self, bytes: Bytes);
}

/// The head of an answer of the service.
pub(in crate::proxy) fn head(kind: AssetKind, opened: &Opened) -> AssetHead {
    let mut response = Response::new(());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind.content_type()));
    AssetHead {
        parts: response.into_parts().0,
        first: opened.found.first,
        length: opened.found.length,
        total: Some(opened.found.total),
        source: crate::asset::AssetSource::Service,
    }
}

impl ServiceTier {
    /// Streams an answer, group by group, each checked. Where the service breaks off or stands still the
    /// grid goes on, and its bytes are checked against the same hashes. `false`: neither could finish it.
    pub(in crate::proxy) async fn stream(
        self: &Arc<Self>,
        grid: &Arc<GridPort>,
        target: &Target,
        mut opened: Box<Opened>,
        request: MakeRequest<'_>,
        sink: &dyn Sink,
    ) -> bool {
        let found = opened.found;
        let mut gathered = vec![opened.first.clone()];
        let mut received = opened.first.len() as u64;
        self.metrics.add(Counter::BytesFromService, received);
        sink.push(opened.first.clone());
        while received < found.length {
            opened.progress.received(Instant::now(), received);
            let group = tokio::time::timeout_at(opened.progress.grid_at().into(), opened.rest.next()).await;
            let Ok(Ok(Some(group))) = group else {
                if group.is_err() {
                    opened.rest.stalled();
                }
                self.broke_off(opened.rest.has_moved());
                let from = found.first + received;
                let rest = self.rest_from_grid(grid, target, &opened, from, request, sink).await;
                let Some(rest) = rest else { return false };
                gathered.extend(rest);
                break;
            };
            received += group.len() as u64;
            self.metrics.add(Counter::BytesFromService, group.len() as u64);
            gathered.push(group.clone());
            sink.push(group);
        }
        if received >= found.length {
            self.update(ServicePlan::delivered);
        }
        if found.first == 0 && found.length == found.total {
            let bytes = match gathered.as_slice() {
                [only] => only.clone(),
                several => Bytes::from(several.concat()),
            };
            self.keep(grid, target, &Asset { digest: found.digest, bytes });
        } else {
            self.backfill(grid, target);
        }
        if self.doubt.is_sampled() {
            self.spot_check(grid, target, found.digest, request);
        }
        true
    }

    /// The groups from `from` on, out of the grid's own answer. `None` when they do not come, or are not
    /// those of the content that the viewer already has the beginning of.
    async fn rest_from_grid(
        &self,
        grid: &Arc<GridPort>,
        target: &Target,
        opened: &Opened,
        from: u64,
        request: MakeRequest<'_>,
        sink: &dyn Sink,
    ) -> Option<Vec<Bytes>> {
        let found = opened.found;
        let groups = opened.rest.groups()?;
        let end = found.first + found.length;
        let range = HeaderValue::from_str(&format!("bytes={from}-{}", end.checked_sub(1)?)).ok()?;
        let make = || {
            let mut request = request();
            request.headers_mut().insert(RANGE, range.clone());
            request
        };
        let sent = grid.upstream.send_idempotent(make);
        let response = tokio::time::timeout(upstream::SILENCE_LIMIT, sent).await.ok()?.ok()?;
        let (parts, mut body) = response.into_parts();
        let mut skip = match parts.status {
            StatusCode::OK => from,
            StatusCode::PARTIAL_CONTENT => {
                let range = ContentRange::parse(parts.headers.get(http::header::CONTENT_RANGE)?.as_bytes())?;
                (range.first == from && range.total.is_none_or(|total| total == found.total)).then_some(0)?
            }
            _ => return None,
        };
        if !headers::is_identity(&parts.headers) {
            return None;
        }
        let mut rest = Vec::new();
        let mut group = BytesMut::new();
        let mut at = from;
        while at < end {
            let frame = tokio::time::timeout(upstream::SILENCE_LIMIT, body.frame()).await.ok()??.ok()?;
            let Ok(bytes) = frame.into_data() else { continue };
            self.metrics.add(Counter::BytesFromGrid, bytes.len() as u64);
            let passed = skip.min(bytes.len() as u64);
            skip -= passed;
            group.extend_from_slice(bytes.get(usize::try_from(passed).ok()?..)?);
            loop {
                let length = usize::try_from((end - at).min(GROUP_BYTES as u64)).ok()?;
                if length == 0 || group.len() < length {
                    break;
                }
                let whole = group.split_to(length).freeze();
                if !groups.check(at / GROUP_BYTES as u64, &whole) {
                    // The grid has something else under this name: the viewer asks again, and gets that.
                    let key = (target.key.clone(), OriginHash::of(&target.key.grid, &target.scope.origin));
                    self.update(|plan| plan.absent(key, Instant::now()));
                    return None;
                }
                at += length as u64;
                rest.push(whole.clone());
                sink.push(whole);
            }
        }
        Some(rest)
    }

    /// Keeps an asset of the service on this machine. It is never attested: only what came from the grid is.
    pub(in crate::proxy) fn keep(&self, grid: &GridPort, target: &Target, asset: &Asset) {
        let valid = validate::validate(target.key.kind, &asset.bytes).is_ok()
            && !policy::is_client_bake(&asset.bytes);
        if !valid {
            self.metrics.count(Counter::ServiceInvalid);
            return;
        }
        if self.doubt.keep(target, asset.clone()) {
            grid.arrivals.announce(target, asset);
        }
    }

    /// Whether this hit over LLUDP is to be left to the grid, and compared with what that sends.
    pub(in crate::proxy) fn is_left_to_grid(&self, target: &Target, digest: Digest) -> bool {
        let sampled = self.doubt.is_sampled();
        if sampled {
            self.metrics.count(Counter::ServiceSpotChecks);
            self.doubt.await_grid(target, digest);
        }
        sampled
    }

    /// Compares a hit with the grid behind the viewer's back.
    fn spot_check(
        self: &Arc<Self>,
        grid: &Arc<GridPort>,
        target: &Target,
        digest: Digest,
        request: MakeRequest<'_>,
    ) {
        let Ok(place) = Arc::clone(&self.checks).try_acquire_owned() else { return };
        let mut request = request();
        request.headers_mut().remove(RANGE);
        let (parts, _) = request.into_parts();
        let (grid, target, tier) = (Arc::clone(grid), target.clone(), Arc::clone(self));
        tokio::spawn(async move {
            tier.metrics.count(Counter::ServiceSpotChecks);
            let make = || Request::from_parts(parts.clone(), upstream::empty());
            let sent = grid.upstream.send_idempotent(make);
            let Ok(Ok(response)) = tokio::time::timeout(upstream::SILENCE_LIMIT, sent).await else { return };
            let _place = place;
            let (parts, mut body) = response.into_parts();
            if parts.status != StatusCode::OK || !headers::is_identity(&parts.headers) {
                return;
            }
            let length: Option<u64> = parts
                .headers
                .get(http::header::CONTENT_LENGTH)
                .and_then(|value| value.to_str().ok()?.trim().parse().ok());
            let Some(length) = length.filter(|length| *length <= target.key.kind.max_bytes()) else { return };
            let mut whole = BytesMut::new();
            while (whole.len() as u64) < length {
                let frame = tokio::time::timeout(upstream::SILENCE_LIMIT, body.frame()).await;
                let Ok(Some(Ok(frame))) = frame else { return };
                if let Ok(bytes) = frame.into_data() {
                    tier.metrics.add(Counter::BytesFromGrid, bytes.len() as u64);
                    whole.extend_from_slice(&bytes);
                }
            }
            if whole.len() as u64 == length {
                // What cannot be an asset of this kind proves nothing about one.
                tier.doubt.await_grid(&target, digest);
                learn::learn(&grid, &target, 0, Some(length), whole.freeze());
            }
        });
    }

    /// Fetches the whole of an asset of which a viewer got a part: its next request finds it here.
    pub(super) fn backfill(self: &Arc<Self>, grid: &Arc<GridPort>, target: &Target) {
        let key = (target.key.clone(), OriginHash::of(&target.key.grid, &target.scope.origin));
        if lock(&self.filling).contains(&key) {
            return;
        }
        let Ok(place) = Arc::clone(&self.backfills).try_acquire_owned() else { return };
        let Some(mut attempt) = self.attempt(grid, target, Span::WHOLE) else { return };
        lock(&self.filling).insert(key.clone());
        let (grid, target, tier) = (Arc::clone(grid), target.clone(), Arc::clone(self));
        tokio::spawn(async move {
            let whole = async { tier.whole(attempt.found().await).await };
            if let Ok(Some(asset)) = tokio::time::timeout(BACKFILL_LIMIT, whole).await {
                tier.keep(&grid, &target, &asset);
            }
            lock(&tier.filling).remove(&key);
            drop(place);
        });
    }

    /// All of an answer.
    pub(in crate::proxy) async fn whole(&self, opened: Option<Box<Opened>>) -> Option<Asset> {
        let mut opened = opened?;
        let found = opened.found;
        if found.first != 0 || found.length != found.total {
            return None;
        }
        let mut bytes = opened.first.clone();
        if (bytes.len() as u64) < found.total {
            let mut whole = BytesMut::from(&bytes[..]);
            while (whole.len() as u64) < found.total {
                let next = tokio::time::timeout(super::PROBE_PATIENCE, opened.rest.next()).await;
                let Ok(Ok(Some(group))) = next else { return None };
                whole.extend_from_slice(&group);
            }
            bytes = whole.freeze();
        }
        self.update(ServicePlan::delivered);
        self.metrics.add(Counter::BytesFromService, bytes.len() as u64);
        Some(Asset { digest: found.digest, bytes })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
