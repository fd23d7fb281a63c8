//! Textures known to be bakes of avatars, which are nobody else's. The last ones seen are remembered.

use std::collections::{HashSet, VecDeque};

use crate::asset::AssetId;
use crate::grid::GridId;

/// Baked textures remembered; the oldest are forgotten first.
pub const MAX_BAKED: usize = 16_384;

/// See the module's documentation.
#[derive(Clone, Debug, Default)]
pub struct Baked {
    known: HashSet<(GridId, AssetId)>,
    order: VecDeque<(GridId, AssetId)>,
}

impl Baked {
    /// Remembers one.
    pub fn note(&mut self, grid: &GridId, id: AssetId) {
        let name = (grid.clone(), id);
        if self.known.insert(name.clone()) {
            self.order.push_back(name);
            if self.order.len() > MAX_BAKED
                && let Some(oldest) = self.order.pop_front()
            {
                self.known.remove(&oldest);
            }
        }
    }

    /// Whether it is one.
    #[must_use]
    pub fn contains(&self, grid: &GridId, id: AssetId) -> bool {
        self.known.contains(&(grid.clone(), id))
    }

    /// Those of one grid.
    #[must_use]
    pub fn of(&self, grid: &GridId) -> Vec<AssetId> {
        self.order.iter().filter(|(of, _)| of == grid).map(|(_, id)| *id).collect()
    }

    /// All of them, the oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &(GridId, AssetId)> {
        self.order.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_are_remembered_and_not_without_bound() {
        let (one, two) = (GridId::new("one.example"), GridId::new("two.example"));
        let id = |number: usize| AssetId(uuid::Uuid::from_u128(number as u128));
        let mut baked = Baked::default();
        for number in 0..MAX_BAKED + 2 {
            baked.note(&one, id(number));
            baked.note(&one, id(number));
        }
        assert_eq!(baked.iter().count(), MAX_BAKED);
        assert!(!baked.contains(&one, id(1)) && baked.contains(&one, id(2)) && !baked.contains(&two, id(2)));
        baked.note(&two, id(7));
        assert_eq!((baked.of(&two), baked.of(&one).len()), (vec![id(7)], MAX_BAKED - 1));
    }
}
