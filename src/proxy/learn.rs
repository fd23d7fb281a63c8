//! What is kept of the bytes that came from the grid: complete valid assets, and parts of what is
//! known to be one.

use bytes::Bytes;

use super::grid_port::{GridPort, Sharing};
use super::uploads;
use crate::asset::validate::Valid;
use crate::asset::{Asset, AssetKey, Digest, policy, validate};
use crate::cache::Scope;
use crate::fetch::upload_rules::{Circumstances, may_upload};
use crate::support::metrics::Counter;

/// What a request is about, as far as a fetch needs to know.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) key: AssetKey,
    pub(super) scope: Scope,
    /// The grid's owner lets it be shared, so the service may be asked for it and told of it.
    pub(super) shared: bool,
    /// The store holds the asset's first bytes, and they are of its kind.
    pub(super) beginning_held: bool,
    /// It was asked for through a login, not through `VIEWERASSET`.
    pub(super) by_login: bool,
}

/// Since when the bytes of an asset are here.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// The grid has sent all of them since this proxy started.
    Now,
    /// Some of them may have been held since an earlier run.
    Earlier,
}

impl Target {
    /// What a fetch of it is found by while in flight.
    pub(super) fn table_key(&self) -> (AssetKey, String) {
        (self.key.clone(), self.scope.origin.as_str().to_owned())
    }
}

/// Keeps bytes of an asset, from `first` on, if they may be kept.
pub(super) fn learn(grid: &GridPort, target: &Target, first: u64, total: Option<u64>, bytes: Bytes) {
    let Some(total) = total.filter(|total| *total <= target.key.kind.max_bytes()) else { return };
    let whole = first == 0 && bytes.len() as u64 == total;
    // Grids serve notecards and scripts under any name. What is not known to be of a public kind is not
    // kept, not even in part.
    let is_of_kind = match first {
        0 => policy::content_matches_kind(target.key.kind, &bytes),
        _ => target.beginning_held,
    };
    if !is_of_kind {
        if first == 0 {
            grid.shared.metrics.count(Counter::AssetsInvalid);
        }
        return;
    }
    if whole {
        keep(grid, target, bytes, Heard::Now);
        return;
    }
    let cache = &grid.shared.cache;
    if let Some(whole) = cache.add_partial(&target.key, &target.scope, total, &[(first, bytes)]) {
        let fresh = cache.parts_are_fresh(&target.key, &target.scope);
        keep(grid, target, whole, if fresh { Heard::Now } else { Heard::Earlier });
    }
}

/// Keeps a body whose every byte came from the grid, if it is a valid asset that is worth keeping.
pub(super) fn keep(grid: &GridPort, target: &Target, whole: Bytes, heard: Heard) -> Option<Asset> {
    let cache = &grid.shared.cache;
    let valid = validate::validate(target.key.kind, &whole).ok();
    if valid.is_none() {
        grid.shared.metrics.count(Counter::AssetsInvalid);
    }
    // Baked avatar textures change with every outfit and are nobody else's: not worth keeping.
    let Some(valid) = valid.filter(|_| !policy::is_client_bake(&whole)) else {
        cache.drop_partial(&target.key, &target.scope);
        return None;
    };
    let asset = Asset { digest: Digest::of(&whole), bytes: whole };
    if let Some(service) = grid.shared.service.tier() {
        service.grid_says(target, asset.digest);
    }
    cache.put(target.key.clone(), &target.scope, asset.clone());
    grid.arrivals.announce(target, &asset);
    upload(grid, target, valid, heard, &asset);
    Some(asset)
}

/// Gives an asset that has just been kept to the upload queue, if it may be uploaded.
fn upload(grid: &GridPort, target: &Target, valid: Valid, heard: Heard, asset: &Asset) {
    let Some(uploads) = grid.shared.service.uploads() else { return };
    let host = uploads.service_host();
    let around = Circumstances {
        grid: &target.key.grid,
        grid_resolved_private: grid.reach.is_private(),
        owner_shares: grid.identity().sharing == Sharing::Share,
        by_login: target.by_login,
        heard_now: heard == Heard::Now,
        service: &host,
        trusted: uploads.is_trusted(),
    };
    match may_upload(valid, around) {
        Ok(()) => {
            uploads.offer(&target.key, &target.scope, asset, around.grid_resolved_private);
            // The grid's owner may have been heard since, and what was queued been taken back already.
            if grid.identity().sharing != Sharing::Share {
                uploads.withdraw(&target.key.grid);
            }
        }
        Err(reason) => grid.shared.metrics.count(uploads::refused(reason)),
    }
}
