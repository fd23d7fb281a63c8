//! The assets that can be rebuilt from what crossed the wire, over HTTP and over LLUDP.

use std::collections::HashMap;

use bytes::Bytes;
use uuid::Uuid;

use super::{Assembly, Download, Role, ScriptedExchange};
use crate::asset::AssetKind;
use crate::asset::validate::validate;

/// The complete, valid assets of a capture.
#[derive(Debug, Default)]
pub(crate) struct Assets(HashMap<(AssetKind, Uuid), Bytes>);

impl Assets {
    /// The whole asset.
    pub(crate) fn get(&self, asset: &(AssetKind, Uuid)) -> Option<&Bytes> {
        self.0.get(asset)
    }

    #[cfg(test)]
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&(AssetKind, Uuid), &Bytes)> {
        self.0.iter()
    }

    pub(super) fn rebuild(exchanges: &[ScriptedExchange], downloads: &[Download]) -> Self {
        let mut parts: HashMap<(AssetKind, Uuid), Assembly> = HashMap::new();
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
                parts.entry(asset).or_default().add(total, first, &response.body);
            }
        }
        let whole_http = parts.into_iter().filter_map(|(asset, assembly)| Some((asset, assembly.whole()?)));
        let whole_udp =
            downloads.iter().filter_map(|download| Some((download.asset?, download.captured_whole()?)));
        let mut assets = Self::default();
        for ((kind, id), body) in whole_http.chain(whole_udp) {
            if validate(kind, &body).is_ok() {
                assets.0.entry((kind, id)).or_insert(body);
            }
        }
        assets
    }
}

/// `bytes first-last/total` as numbers.
pub(crate) fn content_range(value: &str) -> Option<(usize, usize, usize)> {
    let (range, total) = value.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, total) = (first.parse().ok()?, last.parse().ok()?, total.parse().ok()?);
    (first <= last && last < total).then_some((first, last, total))
}
