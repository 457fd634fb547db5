//! Who sees whom in attention: the ranges of keys that a tile of queries looks at, and the mask within them.

use std::ops::Range;

use super::launcher::elements;
use super::simd::vectorized;
use crate::device::bindings::{ENGINE_HOST_ATTENTION_TILE, engine_attention};

/// Keys of a tile.
pub(super) const TILE: usize = ENGINE_HOST_ATTENTION_TILE as usize;

/// Some queries, and the ranges of keys that they need.
pub(super) struct Tile {
    /// Rows
    pub own: Range<usize>,
    /// Slots
    pub other: Vec<Range<usize>>,
}

impl Tile {
    /// Number of keys.
    pub fn width(&self) -> usize {
        self.other.iter().map(|range| range.len()).sum()
    }

    /// Without the keys before slot `first`.
    pub fn after(&self, first: usize) -> Self {
        let ranges = self.other.iter().map(|range| range.start.max(first)..range.end);
        Self { own: self.own.clone(), other: ranges.filter(|range| !range.is_empty()).collect() }
    }

    /// Slots of all keys.
    pub fn keys(&self) -> impl Iterator<Item = usize> {
        self.other.iter().flat_map(Range::clone)
    }
}

/// # Safety
/// The arrays are there as kernels/engine.h says; a tile of queries is `tile_rows` rows.
pub(super) unsafe fn query_tiles(attention: &engine_attention, tile_rows: usize) -> Vec<Tile> {
    let (n, s) = (attention.n as usize, attention.s as usize);
    // SAFETY: the caller's promise.
    let slots = unsafe { elements::<u32>(attention.slots.cast(), n) };
    // SAFETY: as above.
    let end = unsafe { elements::<u32>(attention.end.cast(), s) };
    // SAFETY: as above.
    let lists = unsafe { lists(attention.key_starts, attention.key_tiles, n.div_ceil(tile_rows)) };
    let tile = |(t, tiles): (usize, &[u32])| {
        let own = t * tile_rows..((t + 1) * tile_rows).min(n);
        // Slots ascend, and nobody sees what comes after it. A slot that holds nothing may hold NaN.
        let last = s.min(slots[own.end - 1] as usize + 1);
        let other = ranges(tiles, 0..last).into_iter().flat_map(|range| held(range, end)).collect();
        Tile { own, other }
    };
    lists.into_iter().enumerate().map(tile).collect()
}

/// # Safety
/// `starts` are `owners` + 1, and `tiles` as many as the last of them says.
unsafe fn lists<'a>(starts: *const u32, tiles: *const u32, owners: usize) -> Vec<&'a [u32]> {
    // SAFETY: the caller's promise.
    let starts = unsafe { elements::<u32>(starts.cast(), owners + 1) };
    // SAFETY: as above.
    let tiles = unsafe { elements::<u32>(tiles.cast(), starts[owners] as usize) };
    starts.windows(2).map(|bounds| &tiles[bounds[0] as usize..bounds[1] as usize]).collect()
}

/// Ascending tiles as ranges within `bounds`; neighbours join.
fn ranges(tiles: &[u32], bounds: Range<usize>) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for &tile in tiles {
        let range = (tile as usize * TILE).max(bounds.start)..((tile as usize + 1) * TILE).min(bounds.end);
        match ranges.last_mut() {
            _ if range.is_empty() => {}
            Some(last) if last.end == range.start => last.end = range.end,
            _ => ranges.push(range),
        }
    }
    ranges
}

/// The parts of a range of slots that hold something.
fn held(range: Range<usize>, end: &[u32]) -> Vec<Range<usize>> {
    let first = range.start;
    let runs = end[range].chunk_by(|a, b| (*a == 0) == (*b == 0));
    let runs = runs.scan(first, |at, run| {
        let slots = *at..*at + run.len();
        *at = slots.end;
        Some((slots, run[0] > 0))
    });
    runs.filter(|(_, holds)| *holds).map(|(slots, _)| slots).collect()
}

/// Who sees whom.
pub(super) struct Mask<'a> {
    slots: &'a [u32],
    positions: &'a [u32],
    end: &'a [u32],
    key_positions: &'a [u32],
    window: u32,
}

impl<'a> Mask<'a> {
    /// # Safety
    /// The arrays are there as kernels/engine.h says.
    pub unsafe fn new(attention: &engine_attention) -> Self {
        let (n, s) = (attention.n as usize, attention.s as usize);
        // SAFETY: the caller's promise.
        unsafe {
            Self {
                slots: elements(attention.slots.cast(), n),
                positions: elements(attention.positions.cast(), n),
                end: elements(attention.end.cast(), s),
                key_positions: elements(attention.key_positions.cast(), s),
                window: attention.window,
            }
        }
    }

    /// (rows of the tile, keys of the tile): not 0 where the row sees the key.
    pub fn of_tile(&self, tile: &Tile) -> Vec<u32> {
        let width = tile.width();
        let mut visible = vec![0; tile.own.len() * width];
        vectorized!({
            for (visible, row) in visible.chunks_exact_mut(width).zip(tile.own.clone()) {
                let (i, position) = (self.slots[row], self.positions[row]);
                let mut rest = visible;
                for range in &tile.other {
                    let (visible, after) = rest.split_at_mut(range.len());
                    rest = after;
                    let keys = self.end[range.clone()].iter().zip(&self.key_positions[range.clone()]);
                    for ((visible, (&end, &key_position)), j) in visible.iter_mut().zip(keys).zip(range.start as u32..)
                    {
                        let is_near = position.wrapping_sub(key_position) < self.window;
                        *visible = u32::from(j <= i) & u32::from(i < end) & u32::from(is_near);
                    }
                }
            }
        });
        visible
    }
}
