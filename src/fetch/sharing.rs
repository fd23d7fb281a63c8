//! Which grids' assets may be asked of, and told to, which service.

use std::net::{IpAddr, Ipv6Addr};

use crate::grid::GridId;

/// Whether a service at this host may hear of a grid's assets: what lies in somebody's home is shared
/// with services there only.
#[must_use]
pub fn may_share(grid: &GridId, service_host: &str) -> bool {
    !is_private_host(host_of(grid.as_str())) || is_private_host(service_host)
}

/// The host of `host`, `host:port` or `[v6]:port`.
fn host_of(authority: &str) -> &str {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split(']').next().unwrap_or_default();
    }
    match authority.rsplit_once(':') {
        // More than one colon and no brackets: an address of its own.
        Some((host, port)) if !host.contains(':') && port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    }
}

/// Whether a host names this machine or a private network: by address, `localhost` or `.local`. A name
/// that only resolves to such an address counts as public: what it resolves to tomorrow is not known.
#[must_use]
pub fn is_private_host(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']).trim_end_matches('.').to_ascii_lowercase();
    match host.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
        Ok(IpAddr::V4(v4)) => v4.is_loopback() || v4.is_private() || v4.is_link_local(),
        Ok(IpAddr::V6(v6)) => v6 == Ipv6Addr::LOCALHOST || v6.is_unique_local() || v6.is_unicast_link_local(),
        Err(_) => {
            host == "localhost"
                || [".local", ".localhost", ".lan", ".home.arpa"].iter().any(|end| host.ends_with(end))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grid_at_home_is_shared_at_home_only() {
        let private =
            ["127.0.0.1:9000", "192.168.1.5:8002", "[fd00::1]:80", "grid.local:8002", "localhost:9000"];
        for grid in private {
            assert!(!may_share(&GridId::new(grid), "cache.example.org"), "{grid}");
            assert!(!may_share(&GridId::new(grid), "203.0.113.7"), "{grid}");
            for service in ["127.0.0.1", "10.0.0.2", "::1", "box.local", "localhost"] {
                assert!(may_share(&GridId::new(grid), service), "{grid} {service}");
            }
        }
        for grid in ["agni", "login.osgrid.org", "203.0.113.5:8002", "local", "notlocal.example:80"] {
            assert!(may_share(&GridId::new(grid), "cache.example.org"), "{grid}");
            assert!(may_share(&GridId::new(grid), "127.0.0.1"), "{grid}");
        }
    }
}
