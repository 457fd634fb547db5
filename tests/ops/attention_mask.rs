//! The mask: tiles that leave nothing visible out, and little else in.

use engine::batch::inputs::{DeviceArray, Inputs};
use engine::batch::tree::TokenTree;

use crate::altered::with_tile;
use crate::lists::attention::Attention;
use crate::lists::trees::{Shape, fill_reserved, tree};

const SHAPES: [Shape; 5] = [Shape::Row, Shape::Rows(9), Shape::Comb, Shape::Random(1), Shape::Random(2)];

/// Pairs of tiles in the lists of a mask, those of the queries' lists and those of the keys'; in their order.
struct Listed {
    by_query: Vec<(usize, usize)>,
    by_key: Vec<(usize, usize)>,
}

/// What attention lists on a device of tiles of `tile` rows and slots.
fn listed(attention: &Attention, tile: usize) -> Listed {
    let inputs = Inputs::new(&with_tile(engine::host::device(), tile), false);
    let mask = attention.mask(&inputs);
    inputs.send().unwrap();
    let queries = attention.slots.len().div_ceil(if attention.decoding { 1 } else { tile });
    let keys = attention.tree.end.len().div_ceil(tile);
    let by_query = pairs(&mask.key_starts, &mask.key_tiles, queries);
    let by_key = pairs(&mask.query_starts, &mask.query_tiles, keys).into_iter().map(|(key, query)| (query, key));
    Listed { by_query, by_key: by_key.collect() }
}

/// (owner, entry) of each entry of the lists of some owners.
fn pairs(starts: &DeviceArray, entries: &DeviceArray, owners: usize) -> Vec<(usize, usize)> {
    let array = |array: &DeviceArray, len: usize| -> Vec<usize> {
        let address = array.address().unwrap();
        // SAFETY: sent to the host's memory, with as many words as asked for.
        unsafe { std::slice::from_raw_parts(address, len) }.iter().map(|&word| word as usize).collect()
    };
    let starts = array(starts, owners + 1);
    let entries = array(entries, starts[owners]);
    (0..owners).flat_map(|owner| entries[starts[owner]..starts[owner + 1]].iter().map(move |&e| (owner, e))).collect()
}

fn of(tree: TokenTree, window: Option<usize>) -> Attention {
    Attention::of(tree, (1, 1, 1), window, 1.0)
}

#[test]
fn every_visible_pair_lies_in_a_listed_tile() {
    for shape in SHAPES {
        for (n, window) in [(1, None), (17, Some(1)), (113, None), (113, Some(5)), (203, Some(40)), (203, Some(300))] {
            for tile in [8, 32, 64] {
                let attention = of(tree(shape, n), window);
                let listed = listed(&attention, tile);
                for (i, j) in (0..n).flat_map(|i| (0..=i).map(move |j| (i, j))).filter(|&(i, j)| attention.sees(i, j)) {
                    let pair = (i / tile, j / tile);
                    assert!(listed.by_query.contains(&pair), "{shape:?}, N {n}, {window:?}, tiles of {tile}: {i}, {j}");
                }
            }
        }
    }
}

#[test]
fn both_lists_hold_the_same_pairs_in_ascending_order_once_each() {
    for shape in SHAPES {
        for (n, window, tile) in [(1, None, 8), (113, Some(5), 8), (203, Some(40), 32), (203, None, 64)] {
            let Listed { by_query, mut by_key } = listed(&of(tree(shape, n), window), tile);
            let name = format!("{shape:?}, N {n}, window {window:?}, tiles of {tile}");
            assert!(by_query.is_sorted_by(|a, b| a < b), "{name}");
            assert!(by_key.is_sorted_by(|a, b| (a.1, a.0) < (b.1, b.0)), "{name}");
            by_key.sort();
            assert_eq!(by_query, by_key, "{name}");
        }
    }
}

#[test]
fn rows_that_share_nothing_are_not_computed_against_each_other() {
    // Per row of 64: two tiles of 32, one sees one tile of keys and one two.
    assert_eq!(listed(&of(tree(Shape::Rows(64), 64 * 8), None), 32).by_query.len(), 8 * 3);
}

#[test]
fn tiles_beyond_the_window_are_left_out() {
    let n = 203_usize;
    let listed = listed(&of(tree(Shape::Row, n), Some(8)), 8);
    // Its own tile and the one before.
    assert_eq!(listed.by_query.len(), 2 * n.div_ceil(8) - 1);
}

#[test]
fn queries_decoded_together_are_not_computed_against_each_other_s_prompts() {
    let prompts: Vec<Vec<u32>> = (0..3).map(|p| (0..64).map(|t| 100 * p + t).collect()).collect();
    let mut tree = TokenTree::with_reserve(&prompts.iter().map(|p| &p[..]).collect::<Vec<_>>(), 20);
    for example in 0..3 {
        fill_reserved(&mut tree, example, 0, 64);
    }
    let attention = Attention::decoding(tree, &[1; 3], (1, 1, 1), None);
    // Prompts begin at slots 0, 84 and 168: each has 65 slots in three tiles of 32.
    let expected = [(0, 0), (0, 1), (0, 2), (1, 2), (1, 3), (1, 4), (2, 5), (2, 6), (2, 7)];
    assert_eq!(listed(&attention, 32).by_query, expected);
}

#[test]
fn a_free_slot_is_seen_by_nobody_and_its_tile_is_left_out() {
    let prompts: [&[u32]; 2] = [&[2, 5, 6], &[2, 5]];
    let mut tree = TokenTree::with_reserve(&prompts, 30);
    fill_reserved(&mut tree, 1, 0, 2);
    fill_reserved(&mut tree, 0, 0, 3);
    let attention = Attention::decoding(tree.clone(), &[1, 1], (1, 1, 1), None);
    // The second prompt ends first, in slot 1: its reserve is slots 2 to 31. The first goes on in slot 32.
    for (row, example) in [(0, 1), (1, 0)] {
        let seen: Vec<u32> = (0..tree.end.len() as u32).filter(|&j| attention.sees(row, j as usize)).collect();
        let mut expected = tree.slots[..prompts[example].len()].to_vec();
        expected.push(tree.reserved[example]);
        assert_eq!(seen, expected);
    }
    // Slots 3 to 31 are free: tiles 1 to 3.
    assert_eq!(listed(&attention, 8).by_query, [(0, 0), (1, 0), (1, 4)]);
}

#[test]
fn whatever_decoded_rows_see_their_lists_have_the_same_room() {
    let tile = 8;
    let words = |slots: [u32; 3]| {
        let inputs = Inputs::new(&with_tile(engine::host::device(), tile), true);
        let mut attention = of(tree(Shape::Row, 3 * tile), None);
        (attention.positions, attention.slots) = (slots.to_vec(), slots.to_vec());
        attention.decoding = true;
        attention.mask(&inputs);
        inputs.len()
    };
    // As many rows as tiles of keys: each sees the first tile alone, or all three.
    assert_eq!(words([0, 1, 2]), words([21, 22, 23]));
}
