//! The mask: what is visible, and tiles that leave nothing visible out.

use engine::batch::mask::AttentionMask;
use engine::batch::tree::TokenTree;

use crate::trees::{Shape, sees, tree};

const SHAPES: [Shape; 5] = [Shape::Row, Shape::Rows(9), Shape::Comb, Shape::Random(1), Shape::Random(2)];

#[test]
fn a_row_sees_exactly_what_the_definition_says() {
    for shape in SHAPES {
        for (n, window) in [(1, None), (17, Some(1)), (17, Some(17)), (113, None), (113, Some(5)), (203, Some(300))] {
            let tree = tree(shape, n);
            let mask = AttentionMask::new(&tree, window);
            for i in 0..n {
                for j in 0..n {
                    let expected = sees(&tree, i, j, window);
                    assert_eq!(mask.sees(i, j), expected, "{shape:?}, N {n}, window {window:?}: {i} sees {j}");
                }
            }
        }
    }
}

#[test]
fn tiles_cover_every_row_and_every_visible_pair_once() {
    for shape in SHAPES {
        for (n, window) in [(1, None), (113, None), (113, Some(5)), (203, Some(40))] {
            let tree = tree(shape, n);
            let mask = AttentionMask::new(&tree, window);
            for (tiles, by_query) in [(&mask.query_tiles, true), (&mask.key_tiles, false)] {
                let rows: Vec<usize> = tiles.iter().flat_map(|t| t.own.clone()).collect();
                assert!(rows.iter().copied().eq(0..n), "{shape:?}, N {n}: tiles in order");
                let mut covered = vec![0; n * n];
                for tile in tiles.iter() {
                    for own in tile.own.clone() {
                        for other in tile.other.iter().flat_map(|range| range.clone()) {
                            let (i, j) = if by_query { (own, other) } else { (other, own) };
                            covered[i * n + j] += 1;
                        }
                    }
                }
                for (pair, &times) in covered.iter().enumerate() {
                    let visible = sees(&tree, pair / n, pair % n, window);
                    assert!(
                        times == 1 || (times == 0 && !visible),
                        "{shape:?}, N {n}, window {window:?}: {times} times"
                    );
                }
            }
        }
    }
}

#[test]
fn rows_that_share_nothing_are_not_computed_against_each_other() {
    let mask = AttentionMask::new(&tree(Shape::Rows(64), 64 * 8), None);
    let pairs: usize = mask.query_tiles.iter().flat_map(|t| t.other.iter().map(|r| r.len() * t.own.len())).sum();
    // Per row of 64: two tiles of 32, one sees 32 keys and one 64.
    assert_eq!(pairs, 8 * (32 * 32 + 32 * 64));
}

#[test]
fn queries_decoded_together_are_not_computed_against_each_other_s_prompts() {
    let prompts: Vec<Vec<u32>> = (0..3).map(|p| (0..64).map(|t| 100 * p + t).collect()).collect();
    let mut tree = TokenTree::with_reserve(&prompts.iter().map(|p| &p[..]).collect::<Vec<_>>(), 20);
    let slots: Vec<u32> = (0..3).map(|example| tree.fill_reserved(example, 0, 64)).collect();
    let mask = AttentionMask::of_queries(&tree, &slots, &[64; 3], None);
    let pairs: usize = mask.query_tiles.iter().flat_map(|t| t.other.iter().map(|r| r.len() * t.own.len())).sum();
    assert_eq!(pairs, 3 * 65);
}

#[test]
fn a_window_beyond_any_position_is_no_window() {
    let tree = tree(Shape::Comb, 67);
    let all = AttentionMask::new(&tree, None);
    for window in [1 << 31, (1 << 32) - 1, 1 << 32, (1 << 32) + 1, usize::MAX] {
        let mask = AttentionMask::new(&tree, Some(window));
        assert!((0..67 * 67).all(|p| mask.sees(p / 67, p % 67) == all.sees(p / 67, p % 67)), "window {window}");
    }
}

#[test]
fn a_free_slot_is_seen_by_nobody() {
    let prompts: [&[u32]; 2] = [&[2, 5, 6], &[2, 5]];
    let mut tree = TokenTree::with_reserve(&prompts, 3);
    let slot = tree.fill_reserved(1, 0, 2);
    let mask = AttentionMask::of_queries(&tree, &[slot], &[2], None);
    let seen: Vec<u32> = (0..mask.num_slots()).filter(|&j| mask.sees(0, j)).map(|j| j as u32).collect();
    let mut expected = tree.slots[..2].to_vec();
    expected.push(slot);
    assert_eq!(seen, expected);
}
