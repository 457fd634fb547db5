//! The attention mask of a batch, and the tiles that it leaves to compute.
//!
//! Query i sees key j when `j <= i && i < end[j] && position[i] - position[j] < window`, with i and j slots of the
//! token tree. From it follow, once per batch and for all layers of a kind, which tiles of keys a tile of queries can see, and
//! the same the other way round: cost follows the visible area. How large a tile is, the device says.

use std::ops::Range;
use std::rc::Rc;

use super::inputs::{DeviceArray, Inputs};
use super::tree::{Rows, TokenTree};

/// Where the rows of a batch lie and what the slots of its tree hold, on the device: the same for all kinds of layers.
#[derive(Clone)]
pub struct Placement {
    /// (N)
    pub slots: DeviceArray,
    /// (N)
    pub positions: DeviceArray,
    /// (S)
    pub end: DeviceArray,
    /// (S)
    pub key_positions: DeviceArray,
}

impl Placement {
    pub fn new(inputs: &Rc<Inputs>, tree: &TokenTree, rows: Rows<'_>) -> Self {
        let all = |values: &[u32]| inputs.push(values, values.len(), 0);
        let (slots, positions) = (all(rows.slots), all(rows.positions));
        Self { slots, positions, end: all(&tree.end), key_positions: all(&tree.slot_positions) }
    }
}

/// Who sees whom in the layers of one kind: see `engine_attention` in kernels/engine.h.
pub struct AttentionMask {
    pub placement: Placement,
    pub key_starts: DeviceArray,
    pub key_tiles: DeviceArray,
    pub query_starts: DeviceArray,
    pub query_tiles: DeviceArray,
    /// (N) where rows are decoded: zeros, in which kernels count, and which they leave zeros
    pub arrived: Option<DeviceArray>,
    /// u32::MAX: no limit
    pub window: u32,
    /// Tiles in the list of keys.
    pub num_tiles: usize,
    /// Slots of the tiles that are in it, each once.
    pub listed_slots: usize,
    /// N
    pub num_rows: usize,
    /// S
    pub num_slots: usize,
    /// Whether the rows continue prompts, one each: they lie far apart, so that each is a tile of its own.
    pub decoding: bool,
}

impl AttentionMask {
    /// The mask of some rows (slots ascending) over the slots of a tree. `window` None: no limit.
    pub fn new(
        inputs: &Rc<Inputs>,
        tree: &TokenTree,
        rows: Rows<'_>,
        placement: &Placement,
        window: Option<usize>,
        decoding: bool,
    ) -> Self {
        let tile = inputs.device().driver().attention_tile();
        let window = window.map_or(u32::MAX, |w| w.min(u32::MAX as usize) as u32);
        let (num_rows, num_slots) = (rows.slots.len(), tree.end.len());
        let tile_rows = if decoding { 1 } else { tile };
        let pairs = visible_tiles(tree, rows, window, (tile_rows, tile));
        let (queries, keys) = (num_rows.div_ceil(tile_rows), num_slots.div_ceil(tile));
        // Keys come before their queries: about half of all pairs, where rows are slots.
        let rows_are_slots = num_rows == num_slots && !decoding;
        let bound = if rows_are_slots { queries * (queries + 1) / 2 } else { queries * keys };
        let by_query = Lists::new(queries, pairs.iter().copied());
        let by_key = Lists::new(keys, pairs.iter().map(|&(query, key)| (key, query)));
        let listed = by_key.starts.windows(2).filter(|bounds| bounds[0] < bounds[1]).count();
        Self {
            placement: placement.clone(),
            key_starts: inputs.push(&by_query.starts, queries + 1, 0),
            key_tiles: inputs.push(&by_query.others, bound, 0),
            query_starts: inputs.push(&by_key.starts, keys + 1, 0),
            query_tiles: inputs.push(&by_key.others, bound, 0),
            arrived: decoding.then(|| inputs.push(&vec![0; num_rows], num_rows, 0)),
            window,
            num_tiles: pairs.len(),
            listed_slots: (listed * tile).min(num_slots),
            num_rows,
            num_slots,
            decoding,
        }
    }
}

/// What the keys of a tile have in common.
struct KeyTile {
    start: u32,
    last_end: u32,
    last_position: u32,
}

impl KeyTile {
    fn new(tree: &TokenTree, slots: Range<usize>) -> Self {
        // A slot that holds nothing says nothing.
        let filled = || slots.clone().filter(|&j| tree.end[j] > 0);
        Self {
            start: slots.start as u32,
            last_end: filled().map(|j| tree.end[j]).max().unwrap_or(0),
            last_position: filled().map(|j| tree.slot_positions[j]).max().unwrap_or(0),
        }
    }
}

/// Pairs (tile of queries, tile of keys) of which some query may see some key, ascending. By the extremes of each tile
/// alone: a pair too many costs time, none is missing.
fn visible_tiles(
    tree: &TokenTree,
    rows: Rows<'_>,
    window: u32,
    (tile_rows, tile_slots): (usize, usize),
) -> Vec<(u32, u32)> {
    let slots = tree.end.len();
    let tile = |start: usize| KeyTile::new(tree, start..(start + tile_slots).min(slots));
    let keys: Vec<KeyTile> = (0..slots).step_by(tile_slots).map(tile).collect();
    let mut pairs = Vec::new();
    for (query, (slots, positions)) in rows.slots.chunks(tile_rows).zip(rows.positions.chunks(tile_rows)).enumerate() {
        let (first, last) = (slots[0], slots[slots.len() - 1]);
        let position = positions.iter().min().copied().unwrap_or(0);
        let seen = |tile: &KeyTile| {
            tile.start <= last && first < tile.last_end && position.saturating_sub(tile.last_position) < window
        };
        pairs.extend(keys.iter().enumerate().filter(|(_, tile)| seen(tile)).map(|(key, _)| (query as u32, key as u32)));
    }
    pairs
}

/// For each of some owners the tiles that belong to it: those of owner i are `others[starts[i] .. starts[i + 1]]`.
struct Lists {
    starts: Vec<u32>,
    others: Vec<u32>,
}

impl Lists {
    /// From pairs (owner, other), which keep their order within an owner.
    fn new(owners: usize, pairs: impl Iterator<Item = (u32, u32)>) -> Self {
        let mut lists = vec![Vec::new(); owners];
        pairs.for_each(|(owner, other)| lists[owner as usize].push(other));
        let mut starts = vec![0];
        starts.extend(lists.iter().scan(0, |end, list| {
            *end += list.len() as u32;
            Some(*end)
        }));
        Self { starts, others: lists.concat() }
    }
}
