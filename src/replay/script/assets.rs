//! The assets that can be rebuilt from what crossed the wire, over HTTP and over LLUDP.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;
use uuid::Uuid;

use super::{Assembly, Download, Role, ScriptedExchange, authority_of};
use crate::asset::AssetKind;
use crate::asset::policy::is_client_bake;
use crate::asset::validate::validate;

/// The complete assets of a capture.
#[derive(Debug, Default)]
pub(crate) struct Assets {
    /// Valid, and for everybody.
    shareable: HashMap<(AssetKind, Uuid), Bytes>,
    /// Textures that a viewer baked: a grid has them, a proxy does not keep them.
    bakes: HashMap<(AssetKind, Uuid), Bytes>,
    /// Shareable assets and hosts that delivered all of them over HTTP.
    whole_at: HashSet<((AssetKind, Uuid), String)>,
}

impl Assets {
    /// The whole asset, when it is one that counts.
    pub(crate) fn get(&self, asset: &(AssetKind, Uuid)) -> Option<&Bytes> {
        self.shareable.get(asset)
    }

    /// The whole asset as the grid has it.
    pub(crate) fn held_by_grid(&self, asset: &(AssetKind, Uuid)) -> Option<&Bytes> {
        self.get(asset).or_else(|| self.bakes.get(asset))
    }

    /// Whether this host delivered the whole asset; what several delivered between them is not
    /// put together by a proxy.
    pub(crate) fn is_whole_at(&self, asset: &(AssetKind, Uuid), host: &str) -> bool {
        self.whole_at.contains(&(*asset, host.to_owned()))
    }

    #[cfg(test)]
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&(AssetKind, Uuid), &Bytes)> {
        self.shareable.iter()
    }

    pub(super) fn rebuild(exchanges: &[ScriptedExchange], downloads: &[Download]) -> Self {
        let mut parts: BTreeMap<((AssetKind, Uuid), String), Assembly> = BTreeMap::new();
        let mut merged: HashMap<(AssetKind, Uuid), Assembly> = HashMap::new();
        for scripted in exchanges {
            let (Role::Asset(Some(asset)), Some(reply)) = (scripted.role, &scripted.exchange.reply) else {
                continue;
            };
            if scripted.exchange.request.method != "GET" {
                continue;
            }
            let response = &reply.response;
            let piece = match response.status {
                200 => Some((0, response.body.len())),
                206 => response
                    .headers
                    .get("content-range")
                    .and_then(content_range)
                    .map(|(first, _, total)| (first, total)),
                _ => None,
            };
            if let Some((first, total)) = piece {
                let host = host_of(&authority_of(&scripted.exchange)).to_owned();
                parts.entry((asset, host)).or_default().add(total, first, &response.body);
                merged.entry(asset).or_default().add(total, first, &response.body);
            }
        }
        let mut whole_http = Vec::new();
        let mut assets = Self::default();
        for ((asset, host), assembly) in parts {
            let Some(body) = assembly.whole() else { continue };
            whole_http.push((asset, body));
            assets.whole_at.insert((asset, host));
        }
        let whole_merged =
            merged.into_iter().filter_map(|(asset, assembly)| Some((asset, assembly.whole()?)));
        let whole_udp =
            downloads.iter().filter_map(|download| Some((download.asset?, download.captured_whole()?)));
        for ((kind, id), body) in whole_http.into_iter().chain(whole_udp).chain(whole_merged) {
            if validate(kind, &body).is_ok() {
                let is_bake = kind == AssetKind::Texture && is_client_bake(&body);
                let held = if is_bake { &mut assets.bakes } else { &mut assets.shareable };
                held.entry((kind, id)).or_insert(body);
            }
        }
        assets
    }
}

/// The host of an authority.
pub(crate) fn host_of(authority: &str) -> &str {
    let ends_in_port = authority.rsplit(']').next().is_some_and(|end| end.contains(':'));
    let host = authority.rsplit_once(':').filter(|_| ends_in_port);
    host.map_or(authority, |(host, _)| host)
}

/// `bytes first-last/total` as numbers.
pub(crate) fn content_range(value: &str) -> Option<(usize, usize, usize)> {
    let (range, total) = value.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, total) = (first.parse().ok()?, last.parse().ok()?, total.parse().ok()?);
    (first <= last && last < total).then_some((first, last, total))
}
