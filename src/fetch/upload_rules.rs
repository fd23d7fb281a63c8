//! What may be uploaded at all. Decided when an asset has been learnt, before it is queued; whether the
//! service may hear of it is asked again when it is sent.

use super::sharing::{is_private_host, may_share};
use crate::asset::validate::Valid;
use crate::grid::GridId;

/// Where an asset comes from and where it would go.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    /// Whose name it has.
    pub grid: &'a GridId,
    /// The grid's host turned out to be in a private network, whatever it is called.
    pub grid_resolved_private: bool,
    /// The grid's owner lets its assets be shared.
    pub owner_shares: bool,
    /// It came through a login, so that the grid's own word says where it came from; otherwise from an
    /// asset host that the user named.
    pub by_login: bool,
    /// Every byte came from the grid since this proxy started: none from the service, none held from
    /// an earlier run.
    pub heard_now: bool,
    /// The service's host.
    pub service: &'a str,
    /// The service has not been proven to give wrong bytes.
    pub trusted: bool,
}

/// Why an asset is not uploaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NotUploaded {
    /// Bytes of it came from the service, or were held from an earlier run.
    NotHeardNow,
    /// The grid's owner has opted out.
    OwnerDeclines,
    /// The grid is at home and the service is not.
    PrivateGrid,
    /// No login on a grid where anybody may name an asset host.
    WithoutLogin,
    /// It may have been cut short: its end is not where its format says.
    InexactEnd,
    /// A bake of somebody's avatar, or a format that others are not given.
    NotShareable,
    /// Its id has appeared in a baked slot of an avatar.
    Baked,
    /// The service was proven to give wrong bytes.
    Distrusted,
}

impl NotUploaded {
    /// Every reason, in the order of reports.
    pub const ALL: [Self; 8] = [
        Self::NotHeardNow,
        Self::OwnerDeclines,
        Self::PrivateGrid,
        Self::WithoutLogin,
        Self::InexactEnd,
        Self::NotShareable,
        Self::Baked,
        Self::Distrusted,
    ];
}

/// Whether an asset that was found valid may be uploaded.
///
/// # Errors
/// Why not.
pub fn may_upload(valid: Valid, around: Circumstances<'_>) -> Result<(), NotUploaded> {
    if !around.trusted {
        Err(NotUploaded::Distrusted)
    } else if !around.heard_now {
        Err(NotUploaded::NotHeardNow)
    } else if !around.owner_shares {
        Err(NotUploaded::OwnerDeclines)
    } else if !may_hear(around.grid, around.grid_resolved_private, around.service) {
        Err(NotUploaded::PrivateGrid)
    } else if !around.by_login && !around.grid.is_second_life() {
        Err(NotUploaded::WithoutLogin)
    } else if !valid.is_shareable() {
        Err(NotUploaded::NotShareable)
    } else if !valid.exact_end {
        Err(NotUploaded::InexactEnd)
    } else {
        Ok(())
    }
}

/// Whether a service at this host may hear of a grid's assets, `resolved_private` telling that the
/// grid's host turned out to be in a private network, whatever it is called.
#[must_use]
pub fn may_hear(grid: &GridId, resolved_private: bool, service: &str) -> bool {
    may_share(grid, service) && (!resolved_private || is_private_host(service))
}

#[cfg(test)]
mod tests {
    use super::{Circumstances, NotUploaded, may_upload};
    use crate::asset::validate::{Note, Valid};
    use crate::grid::GridId;

    fn judged(grid: &str, change: impl FnOnce(&mut Circumstances<'_>)) -> Result<(), NotUploaded> {
        let grid = GridId::new(grid);
        let mut around = Circumstances {
            grid: &grid,
            grid_resolved_private: false,
            owner_shares: true,
            by_login: true,
            heard_now: true,
            service: "cache.example.org",
            trusted: true,
        };
        change(&mut around);
        may_upload(Valid::EXACT, around)
    }

    #[test]
    fn public_assets_of_a_public_grid_may_be_uploaded() {
        assert_eq!(judged("login.osgrid.org", |_| {}), Ok(()));
        assert_eq!(judged("agni", |_| {}), Ok(()));
    }

    #[test]
    fn a_grid_at_home_is_shared_at_home_only() {
        for grid in ["127.0.0.1:9000", "192.168.0.9:8002", "grid.local"] {
            assert_eq!(judged(grid, |_| {}), Err(NotUploaded::PrivateGrid), "{grid}");
            assert_eq!(judged(grid, |around| around.service = "127.0.0.1"), Ok(()), "{grid}");
            assert_eq!(judged(grid, |around| around.service = "cache.local"), Ok(()), "{grid}");
        }
        let by_address = judged("grid.example.org", |around| around.grid_resolved_private = true);
        assert_eq!(by_address, Err(NotUploaded::PrivateGrid));
        // A public grid may be shared with a service at home.
        assert_eq!(judged("login.osgrid.org", |around| around.service = "10.0.0.2"), Ok(()));
    }

    #[test]
    fn without_a_login_only_second_life_is_believed() {
        assert_eq!(
            judged("login.osgrid.org", |around| around.by_login = false),
            Err(NotUploaded::WithoutLogin)
        );
        assert_eq!(judged("agni", |around| around.by_login = false), Ok(()));
    }

    #[test]
    fn what_came_from_the_service_and_what_the_owner_keeps_stays() {
        assert_eq!(judged("agni", |around| around.heard_now = false), Err(NotUploaded::NotHeardNow));
        assert_eq!(judged("agni", |around| around.owner_shares = false), Err(NotUploaded::OwnerDeclines));
        assert_eq!(judged("agni", |around| around.trusted = false), Err(NotUploaded::Distrusted));
    }

    #[test]
    fn bodies_that_may_be_cut_or_are_bakes_stay() {
        let grid = GridId::new("agni");
        let around = Circumstances {
            grid: &grid,
            grid_resolved_private: false,
            owner_shares: true,
            by_login: true,
            heard_now: true,
            service: "cache.example.org",
            trusted: true,
        };
        let with = |valid| may_upload(valid, around);
        assert_eq!(with(Valid::EXACT.inexact(Note::NoEndMarker)), Err(NotUploaded::InexactEnd));
        assert_eq!(with(Valid::EXACT.noting(Note::ClientBake)), Err(NotUploaded::NotShareable));
        assert_eq!(with(Valid::EXACT.noting(Note::Wave)), Err(NotUploaded::NotShareable));
    }
}
