//! The attention mask of a batch, and the tiles that it leaves to compute.
//!
//! Query i sees key j when `j <= i && i < end[j] && position[i] - position[j] < window`, with i and j slots of the
//! token tree. From it follow, once per batch and for all layers, the ranges of keys that a tile of queries can see
//! and the ranges of queries that see a tile of keys: cost follows the visible area.

use std::ops::Range;
use std::rc::Rc;

use crate::batch::inputs::{Inputs, Slot};
use crate::batch::tree::TokenTree;
use crate::device::bindings::ENGINE_ATTENTION_TILE;

/// Most rows of a query tile, and keys of a key tile.
const TILE: usize = 32;
/// Rows and slots of a tile of the kernels' lists.
const KERNEL_TILE: usize = ENGINE_ATTENTION_TILE as usize;
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
#[derive(Clone)]
pub struct Visibility {
    slots: Vec<u32>,
    positions: Vec<u32>,
    end: Vec<u32>,
    key_positions: Vec<u32>,
    window: u32,
}

impl Visibility {
    /// Whether the query of row `row` sees the key in slot `j`.
    #[inline(always)]
    pub fn sees(&self, row: usize, j: usize) -> bool {
        let i = self.slots[row];
        j as u32 <= i && i < self.end[j] && self.positions[row].wrapping_sub(self.key_positions[j]) < self.window
    }
}

/// The mask of a batch: who sees whom, and the tiles to compute.
#[derive(Clone)]
pub struct AttentionMask {
    pub visibility: Visibility,
    /// Every row, in tiles of neighbouring slots.
    pub query_tiles: Vec<Tile>,
    /// Every slot, in tiles: for the backward of keys and values. Empty unless rows are slots.
    pub key_tiles: Vec<Tile>,
    /// What the kernels read; None on the CPU, and then the tiles above are empty.
    pub(crate) lists: Option<TileLists>,
}

/// The mask on a device, and the tiles that it leaves: see `engine_attention` in kernels/engine.h.
#[derive(Clone)]
pub(crate) struct TileLists {
    pub slots: Slot,
    pub positions: Slot,
    pub end: Slot,
    pub key_positions: Slot,
    pub key_starts: Slot,
    pub key_tiles: Slot,
    pub query_starts: Slot,
    pub query_tiles: Slot,
    /// Rows of a tile of queries: many, or one in decoding.
    pub rows: usize,
}

impl AttentionMask {
    /// The mask of all rows of a tree over themselves. `window` None: no limit.
    pub fn new(tree: &TokenTree, window: Option<usize>) -> Self {
        Self::of_queries(tree, &tree.slots, &tree.positions, window)
    }

    /// The mask of some queries (slot and position each, slots ascending) over the tree's slots.
    pub fn of_queries(tree: &TokenTree, slots: &[u32], positions: &[u32], window: Option<usize>) -> Self {
        let mut mask = Self::without_tiles(tree, slots, positions, window);
        mask.query_tiles = mask.tiles_of_queries();
        if slots.len() == mask.visibility.end.len() {
            mask.key_tiles = mask.tiles_of_keys();
        }
        mask
    }

    /// The mask for the device of `inputs`. `decoding`: rows lie far apart, each is a tile of its own.
    pub fn for_device(
        inputs: &Rc<Inputs>,
        tree: &TokenTree,
        (slots, positions): (&[u32], &[u32]),
        window: Option<usize>,
        decoding: bool,
    ) -> Self {
        if inputs.device().driver().is_none() {
            return Self::of_queries(tree, slots, positions, window);
        }
        let mut mask = Self::without_tiles(tree, slots, positions, window);
        let rows = if decoding { 1 } else { KERNEL_TILE };
        let tiles = mask.visible_tiles(rows);
        let (queries, keys) = (slots.len().div_ceil(rows), tree.end.len().div_ceil(KERNEL_TILE));
        // Keys come before their queries: about half of all pairs, where rows are slots.
        let bound = if queries == keys { queries * (queries + 1) / 2 } else { queries * keys };
        let (key_starts, key_tiles) = lists(queries, tiles.iter().copied());
        let (query_starts, query_tiles) = lists(keys, tiles.iter().map(|&(q, k)| (k, q)));
        mask.lists = Some(TileLists {
            slots: inputs.push(slots, slots.len(), 0),
            positions: inputs.push(positions, positions.len(), 0),
            end: inputs.push(&tree.end, tree.end.len(), 0),
            key_positions: inputs.push(&tree.slot_positions, tree.end.len(), 0),
            key_starts: inputs.push(&key_starts, queries + 1, 0),
            key_tiles: inputs.push(&key_tiles, bound, 0),
            query_starts: inputs.push(&query_starts, keys + 1, 0),
            query_tiles: inputs.push(&query_tiles, bound, 0),
            rows,
        });
        mask
    }

    fn without_tiles(tree: &TokenTree, slots: &[u32], positions: &[u32], window: Option<usize>) -> Self {
        let visibility = Visibility {
            slots: slots.to_vec(),
            positions: positions.to_vec(),
            end: tree.end.clone(),
            key_positions: tree.slot_positions.clone(),
            window: window.map_or(u32::MAX, |w| w.min(u32::MAX as usize) as u32),
        };
        Self { visibility, query_tiles: Vec::new(), key_tiles: Vec::new(), lists: None }
    }

    /// The window as kernels take it: u32::MAX when there is none.
    pub(crate) fn window(&self) -> u32 {
        self.visibility.window
    }

    /// Pairs (tile of queries, tile of keys) of which some query may see some key, ascending. By the extremes of each
    /// tile alone: a pair too many costs time, none is missing.
    fn visible_tiles(&self, rows: usize) -> Vec<(u32, u32)> {
        let filled = |tile: &Range<usize>| tile.clone().filter(|&j| self.visibility.end[j] > 0);
        let keys: Vec<(u32, u32, u32)> = (0..self.visibility.end.len())
            .step_by(KERNEL_TILE)
            .map(|start| {
                let tile = start..(start + KERNEL_TILE).min(self.visibility.end.len());
                let last_end = filled(&tile).map(|j| self.visibility.end[j]).max().unwrap_or(0);
                let last_position = filled(&tile).map(|j| self.visibility.key_positions[j]).max().unwrap_or(0);
                (start as u32, last_end, last_position)
            })
            .collect();
        let mut pairs = Vec::new();
        for (query, (slots, positions)) in
            self.visibility.slots.chunks(rows).zip(self.visibility.positions.chunks(rows)).enumerate()
        {
            let (first, last) = (slots[0], slots[slots.len() - 1]);
            let position = positions.iter().min().copied().unwrap_or(0);
            for (key, &(start, end, farthest)) in keys.iter().enumerate() {
                if start <= last && first < end && position.saturating_sub(farthest) < self.visibility.window {
                    pairs.push((query as u32, key as u32));
                }
            }
        }
        pairs
    }

    /// Number of slots S.
    pub fn num_slots(&self) -> usize {
        self.visibility.end.len()
    }

    /// Number of queries.
    pub fn num_queries(&self) -> usize {
        self.visibility.slots.len()
    }

    /// Whether the query of row `row` sees the key in slot `j`.
    #[inline(always)]
    pub fn sees(&self, row: usize, j: usize) -> bool {
        self.visibility.sees(row, j)
    }

    fn tiles_of_queries(&self) -> Vec<Tile> {
        let mut tiles = Vec::new();
        let mut start = 0;
        for row in 1..=self.visibility.slots.len() {
            let apart =
                row == self.visibility.slots.len() || self.visibility.slots[row] != self.visibility.slots[row - 1] + 1;
            if apart || row - start == TILE {
                let last = self.visibility.slots[row - 1] as usize;
                let other = ranges(0..last + 1, |j| (start..row).any(|r| self.sees(r, j)));
                tiles.push(Tile { own: start..row, other });
                start = row;
            }
        }
        tiles
    }

    fn tiles_of_keys(&self) -> Vec<Tile> {
        let starts = (0..self.visibility.end.len()).step_by(TILE);
        let tile = |start: usize| {
            let own = start..(start + TILE).min(self.visibility.end.len());
            let other = ranges(start..self.visibility.slots.len(), |r| own.clone().any(|j| self.sees(r, j)));
            Tile { own, other }
        };
        starts.map(tile).collect()
    }
}

/// For each of `owners` where its list begins, and one past the last; and the lists, in the order of the pairs.
fn lists(owners: usize, pairs: impl Iterator<Item = (u32, u32)>) -> (Vec<u32>, Vec<u32>) {
    let mut lists = vec![Vec::new(); owners];
    pairs.for_each(|(owner, other)| lists[owner as usize].push(other));
    let mut starts = vec![0];
    starts.extend(lists.iter().scan(0, |end, list| {
        *end += list.len() as u32;
        Some(*end)
    }));
    (starts, lists.concat())
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
