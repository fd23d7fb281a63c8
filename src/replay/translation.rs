//! What a viewer learns from replies: where the captured URLs and simulators are in this replay.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::markup::{self, Text};

/// One session's translations; only what differs from the capture is kept.
#[derive(Debug, Default)]
pub(crate) struct Translation {
    /// Captured URL → received URL, both without scheme.
    urls: HashMap<String, String>,
    simulators: HashMap<SocketAddr, SocketAddr>,
}

impl Translation {
    /// The received form of a captured URL: the longest known beginning is replaced.
    pub(crate) fn url(&self, url: &str) -> Option<String> {
        let known = self.urls.iter().filter_map(|(captured, received)| {
            let suffix = url.strip_prefix(captured.as_str())?;
            let is_whole = suffix.is_empty() || suffix.starts_with(['/', '?']) || captured.ends_with('/');
            is_whole.then_some((captured.len(), received, suffix))
        });
        let (_, received, suffix) = known.max_by_key(|(len, _, _)| *len)?;
        Some(format!("{received}{suffix}"))
    }

    /// The loopback endpoint that stands for a captured simulator.
    pub(crate) fn simulator(&self, simulator: SocketAddr) -> Option<SocketAddr> {
        self.simulators.get(&simulator).copied()
    }

    /// Learns from the texts of a captured reply and of the received one. Returns the keys of those
    /// that differ though nobody should have changed them, or that contradict what was learnt.
    ///
    /// With `through_proxy` everything that a proxy stands in for must have changed: what it leaves
    /// alone would go past it, and nothing would be tested.
    pub(crate) fn learn<'a>(&mut self, pairs: &[(Text<'a>, Text<'a>)], through_proxy: bool) -> Vec<&'a str> {
        let mut wrong = Vec::new();
        let (mut ip, mut port) = (None, None);
        for (captured, received) in pairs {
            let (old, new) = (captured.value(), received.value());
            let good = match captured.key {
                "seed_capability" | "seed-capability" | "SeedCapability" | "EventQueueGet"
                | "ViewerAsset" | "GetTexture" | "GetMesh" | "GetMesh2" | "next_url" => {
                    self.learn_url(&old, &new, through_proxy)
                }
                "sim-ip-and-port" => match (old.parse(), new.parse()) {
                    (Ok(old), Ok(new)) => self.learn_simulator(old, new, through_proxy),
                    _ => old == new,
                },
                "sim_ip" | "IP" | "SimIP" if captured.raw != captured.key => {
                    let parsed = address(&old).zip(address(&new));
                    ip = parsed.or(ip);
                    parsed.is_some() || old == new
                }
                "sim_port" | "Port" | "SimPort" if captured.raw != captured.key => {
                    let parsed = old.parse::<u16>().ok().zip(new.parse::<u16>().ok());
                    port = parsed.or(port);
                    parsed.is_some() || old == new
                }
                _ => captured.raw == received.raw,
            };
            if !good {
                wrong.push(captured.key);
            }
            if let (Some((old_ip, new_ip)), Some((old_port, new_port))) = (ip, port) {
                (ip, port) = (None, None);
                let (old, new) = (SocketAddr::new(old_ip, old_port), SocketAddr::new(new_ip, new_port));
                if !self.learn_simulator(old, new, through_proxy) {
                    wrong.push(captured.key);
                }
            }
        }
        wrong
    }

    fn learn_url(&mut self, old: &str, new: &str, through_proxy: bool) -> bool {
        // Requests over https are not in the capture, but the URL is replaced all the same.
        let captured = markup::bare_url(old);
        if old == new {
            return !through_proxy || captured.is_none();
        }
        let (Some(old), Some(new)) = (captured, new.strip_prefix("http://")) else {
            return false;
        };
        // The viewer drops a region's capabilities when it hears another URL for the same seed.
        let known = self.urls.entry(old).or_insert_with(|| new.to_owned());
        known == new
    }

    fn learn_simulator(&mut self, old: SocketAddr, new: SocketAddr, through_proxy: bool) -> bool {
        if old == new && through_proxy {
            return false;
        }
        if old == new && !self.simulators.contains_key(&old) {
            return true;
        }
        *self.simulators.entry(old).or_insert(new) == new
    }
}

/// An address as dotted text or as four base64 bytes.
fn address(text: &str) -> Option<IpAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let bytes: [u8; 4] = STANDARD.decode(text).ok()?.try_into().ok()?;
    Some(Ipv4Addr::from(bytes).into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::markup::pairs;
    use super::Translation;

    fn learn(translation: &mut Translation, captured: &str, received: &str) -> Vec<String> {
        let pairs = pairs(captured, received).unwrap();
        translation.learn(&pairs, true).into_iter().map(str::to_owned).collect()
    }

    #[test]
    fn what_goes_past_the_proxy_is_wrong() {
        let document = "<key>SimIP</key><binary>ywBxBQ==</binary><key>SimPort</key><integer>9000</integer><key>GetTexture</key><string>http://grid.example/CAPS/1</string>";
        let pairs = pairs(document, document).unwrap();
        assert_eq!(Translation::default().learn(&pairs, true), ["SimPort", "GetTexture"]);
        assert!(Translation::default().learn(&pairs, false).is_empty());
    }

    #[test]
    fn an_https_capability_is_replaced_and_a_default_port_may_be_left_out() {
        let document = |url: &str| format!("<key>ViewerAsset</key><string>{url}</string>");
        let mut translation = Translation::default();
        let wrong = |translation: &mut Translation, url: &str| {
            learn(translation, &document(url), &document("http://127.0.0.1:5/cap/9"))
        };
        assert!(wrong(&mut translation, "https://assets.example/x").is_empty());
        assert!(wrong(&mut Translation::default(), "ftp://assets.example/x") == ["ViewerAsset"]);
        assert!(wrong(&mut translation, "http://Grid.example/CAPS/1").is_empty());
        assert_eq!(translation.url("grid.example:80/CAPS/1?a=b").unwrap(), "127.0.0.1:5/cap/9?a=b");
    }

    #[test]
    fn addresses_and_capabilities_are_learnt_and_everything_else_must_be_equal() {
        let document = |ip: &str, port: u16, seed: &str, size: &str| {
            format!(
                "<key>SimIP</key><binary>{ip}</binary><key>SimPort</key><integer>{port}</integer><key>SeedCapability</key><string>{seed}</string><key>RegionSizeX</key><binary>{size}</binary>"
            )
        };
        let captured = document("ywBxBQ==", 9000, "http://203.0.113.5:9000/CAPS/1/", "AAABAA==");
        let received = document("fwAAAQ==", 4444, "http://127.0.0.1:5/s/9", "AAABAA==");
        let mut translation = Translation::default();
        assert!(learn(&mut translation, &captured, &received).is_empty());
        assert_eq!(
            translation.simulator("203.0.113.5:9000".parse().unwrap()),
            Some("127.0.0.1:4444".parse().unwrap())
        );
        assert_eq!(translation.url("203.0.113.5:9000/CAPS/1/?x=1").unwrap(), "127.0.0.1:5/s/9?x=1");
        assert_eq!(translation.url("203.0.113.5:9000/CAPS/12"), None);
        let changed = document("fwAAAQ==", 4444, "http://127.0.0.1:5/s/9", "AAACAA==");
        assert_eq!(learn(&mut translation, &captured, &changed), ["RegionSizeX"]);
        let unstable = document("fwAAAQ==", 4445, "http://127.0.0.1:5/s/8", "AAABAA==");
        assert_eq!(learn(&mut translation, &captured, &unstable), ["SimPort", "SeedCapability"]);
    }
}
