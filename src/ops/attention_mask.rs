//! The attention mask of a batch, and the tiles that it leaves to compute.
//!
//! Query i sees key j when `j <= i && i < end[j] && position[i] - position[j] < window`, with i and j slots of the
//! token tree. From it follow, once per batch and for all layers, the ranges of keys that a tile of queries can see
//! and the ranges of queries that see a tile of keys: cost follows the visible area.

use std::ops::Range;

use crate::data::tree::TokenTree;

/// Most rows of a query tile, and keys of a key tile.
const TILE: usize = 32;
/// Ranges closer than this are computed as one: a few masked scores cost less than another matrix product.
const GAP: usize = 16;

/// A tile of queries or keys, and the ranges of the other side that it needs.
#[derive(Clone, Debug, PartialEq)]
pub struct Tile {
    /// Rows of queries, or slots of keys.
    pub own: Range<usize>,
    /// Slots of keys, or rows of queries.
    pub other: Vec<Range<usize>>,
}

/// Which keys each query of a batch sees.
#[derive(Clone, Debug)]
pub struct AttentionMask {
    slots: Vec<u32>,
    positions: Vec<u32>,
    end: Vec<u32>,
    key_positions: Vec<u32>,
    window: u32,
    /// Every row, in tiles of neighbouring slots.
    pub query_tiles: Vec<Tile>,
    /// Every slot, in tiles: for the backward of keys and values. Empty unless rows are slots.
    pub key_tiles: Vec<Tile>,
}

impl AttentionMask {
    /// The mask of all rows of a tree over themselves. `window` None: no limit.
    pub fn new(tree: &TokenTree, window: Option<usize>) -> Self {
        Self::of_queries(tree, &tree.slots, &tree.positions, window)
    }

    /// The mask of some queries (slot and position each, slots ascending) over the tree's slots.
    pub fn of_queries(tree: &TokenTree, slots: &[u32], positions: &[u32], window: Option<usize>) -> Self {
        let mut mask = Self {
            slots: slots.to_vec(),
            positions: positions.to_vec(),
            end: tree.end.clone(),
            key_positions: tree.slot_positions.clone(),
            window: window.map_or(u32::MAX, |w| w.min(u32::MAX as usize) as u32),
            query_tiles: Vec::new(),
            key_tiles: Vec::new(),
        };
        mask.query_tiles = mask.tiles_of_queries();
        if slots.len() == mask.end.len() {
            mask.key_tiles = mask.tiles_of_keys();
        }
        mask
    }

    /// Number of slots S.
    pub fn num_slots(&self) -> usize {
        self.end.len()
    }

    /// Number of queries.
    pub fn num_queries(&self) -> usize {
        self.slots.len()
    }

    /// Whether the query of row `row` sees the key in slot `j`.
    #[inline(always)]
    pub fn sees(&self, row: usize, j: usize) -> bool {
        let i = self.slots[row];
        j as u32 <= i && i < self.end[j] && self.positions[row].wrapping_sub(self.key_positions[j]) < self.window
    }

    fn tiles_of_queries(&self) -> Vec<Tile> {
        let mut tiles = Vec::new();
        let mut start = 0;
        for row in 1..=self.slots.len() {
            let apart = row == self.slots.len() || self.slots[row] != self.slots[row - 1] + 1;
            if apart || row - start == TILE {
                let last = self.slots[row - 1] as usize;
                let other = ranges(0..last + 1, |j| (start..row).any(|r| self.sees(r, j)));
                tiles.push(Tile { own: start..row, other });
                start = row;
            }
        }
        tiles
    }

    fn tiles_of_keys(&self) -> Vec<Tile> {
        let starts = (0..self.end.len()).step_by(TILE);
        let tile = |start: usize| {
            let own = start..(start + TILE).min(self.end.len());
            let other = ranges(start..self.slots.len(), |r| own.clone().any(|j| self.sees(r, j)));
            Tile { own, other }
        };
        starts.map(tile).collect()
    }
}

/// The members of `domain` for which `wanted` holds, as ranges; small gaps are bridged.
fn ranges(domain: Range<usize>, wanted: impl Fn(usize) -> bool) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for x in domain.filter(|&x| wanted(x)) {
        match ranges.last_mut() {
            Some(last) if x - last.end <= GAP => last.end = x + 1,
            _ => ranges.push(x..x + 1),
        }
    }
    ranges
}
